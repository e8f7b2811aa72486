"""Links, addresses and sysctls: only what we made is ever taken away."""

from typing import Any

import pytest
from msgspec.structs import replace

from nova_netagent.compile.links import Address, Bridge, Links
from nova_netagent.plan.links import (
    ActualLinks,
    Link,
    LinkPlan,
    Made,
    not_bridges,
    plan_links,
    plan_removal,
    questions,
    sysctls_of,
)

NOTHING = Links(bridges={}, ports={}, addresses=(), forward=frozenset(), filter_bridges=False)
GATEWAY = Address("br1", "10.1.0.1/24", False, True, ("networks", "n"))
FLOATING = Address("eth0", "198.51.100.1/32", False, True, ("floating_ips", "198.51.100.1"))
CALL4, CALL6 = "net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"
FORWARD4, FORWARD6 = "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"


def wanted(**fields: Any) -> Links:
    """A bridge with a tap and a gateway's address, unless said otherwise."""
    base: dict[str, Any] = {
        "bridges": {"br1": Bridge("br1", None)},
        "ports": {"tap1": "br1"},
        "addresses": (GATEWAY,),
        "forward": frozenset(),
        "filter_bridges": False,
    }
    return Links(**(base | fields))


def link(name: str, master: str | None = None, kind: str | None = None, up: bool = True, mtu: int = 1500) -> Link:
    return Link(1, name, kind, master, up, mtu, "02:00:00:00:00:01")


def host(*links: Link, addresses: tuple[tuple[str, str], ...] = ()) -> ActualLinks:
    return ActualLinks({each.name: each for each in links}, frozenset(addresses))


BARE = host(link("lo"), link("eth0"), link("tap1"))
DONE = host(
    link("lo"), link("eth0"), link("tap1", "br1"), link("br1", kind="bridge"), addresses=(("br1", "10.1.0.1/24"),)
)
MADE: dict[Made, str] = {("bridge", "br1"): "", ("address", "br1 10.1.0.1/24"): "", ("port", "tap1"): ""}


def plan(
    desired: Links, actual: ActualLinks, made: dict[Made, str] | None = None, sysctls: dict[str, str] | None = None
) -> LinkPlan:
    return plan_links(desired, actual, made or {}, sysctls or {})


# --- making


def test_everything_is_made_and_noted_first() -> None:
    found = plan(wanted(), BARE)
    assert found.make == MADE
    assert found.add_bridges == (Bridge("br1", None),)
    assert found.add_addresses == (GATEWAY,)
    assert found.add_ports == {"tap1": "br1"}
    assert found.set_up == ()
    assert found.forget == ()
    assert found


def test_what_is_right_needs_no_edit() -> None:
    found = plan(wanted(), DONE, MADE)
    assert not found
    assert (found.make, found.forget, list(found.lines())) == ({}, (), [])


def test_a_tap_that_is_not_there_is_waited_for() -> None:
    found = plan(wanted(), host(link("lo"), link("eth0")))
    assert found.add_ports == {}
    assert ("port", "tap1") not in found.make


def test_a_tap_that_comes_back_is_joined_again() -> None:
    actual = host(link("tap1"), link("br1", kind="bridge"), addresses=(("br1", "10.1.0.1/24"),))
    found = plan(wanted(), actual, MADE)
    assert found.add_ports == {"tap1": "br1"}
    assert found.make == {}


def test_a_port_of_another_bridge_is_moved() -> None:
    actual = host(link("tap1", "br9"), link("br1", kind="bridge"), addresses=(("br1", "10.1.0.1/24"),))
    assert plan(wanted(), actual, MADE).add_ports == {"tap1": "br1"}


def test_a_tap_that_the_hypervisor_joined_already_is_ours_to_take_off() -> None:
    """A tap is on the bridge only while a described vif names it."""
    assert plan(wanted(), DONE).make == {("port", "tap1"): ""}


def test_an_address_waits_for_its_interface() -> None:
    found = plan(wanted(addresses=(GATEWAY, FLOATING)), host(link("lo"), link("tap1")))
    assert found.add_addresses == (GATEWAY,)
    assert ("address", "eth0 198.51.100.1/32") not in found.make


def test_an_address_that_is_there_is_not_ours() -> None:
    actual = host(link("eth0"), addresses=(("eth0", "198.51.100.1/32"),))
    desired = wanted(bridges={}, ports={}, addresses=(FLOATING,))
    assert not plan(desired, actual)
    assert plan(desired, actual).make == {}
    assert not plan(NOTHING, actual, plan(desired, actual).make)  # type: ignore[arg-type]


def test_an_address_that_is_asked_for_twice_is_made_once() -> None:
    again = Address("br1", "10.1.0.1/24", False, False, ("networks", "other"))
    assert len(plan(wanted(addresses=(GATEWAY, again)), BARE).add_addresses) == 1


def test_an_address_on_another_interface_is_another() -> None:
    actual = host(link("eth0"), link("eth1"), addresses=(("eth1", "198.51.100.1/32"),))
    assert plan(wanted(bridges={}, ports={}, addresses=(FLOATING,)), actual).add_addresses == (FLOATING,)


def test_a_lost_address_is_given_again_and_was_noted_already() -> None:
    actual = host(link("tap1", "br1"), link("br1", kind="bridge"))
    found = plan(wanted(), actual, MADE)
    assert found.add_addresses == (GATEWAY,)
    assert found.make == {}


@pytest.mark.parametrize(
    ("made", "now", "mtu", "expected"),
    [
        (True, 1500, 1400, {"br1": 1400}),
        (True, 1400, 1400, {}),
        (True, 1500, None, {}),
        (False, 1500, 1400, {}),
    ],
)
def test_the_mtu_of_a_bridge_is_ours_where_the_bridge_is(
    made: bool, now: int, mtu: int | None, expected: dict[str, int]
) -> None:
    actual = host(link("br1", kind="bridge", mtu=now))
    desired = wanted(bridges={"br1": Bridge("br1", mtu)}, ports={}, addresses=())
    assert plan(desired, actual, {("bridge", "br1"): ""} if made else {}).set_mtu == expected


def test_that_an_mtu_is_ours_is_noted_with_the_link() -> None:
    desired = wanted(bridges={"br1": Bridge("br1", 1400)}, ports={}, addresses=())
    noted: dict[Made, str] = {("bridge", "br1"): "", ("mtu", "br1"): ""}
    assert plan(desired, BARE).make == noted
    there = host(link("br1", kind="bridge", mtu=1400))
    assert plan(desired, there, {("bridge", "br1"): ""}).make == {("mtu", "br1"): ""}, "an older agent's"
    assert plan(desired, there).make == {}, "somebody else's bridge"
    assert set(plan(NOTHING, there, noted).forget) == set(noted)


@pytest.mark.parametrize(
    ("ports", "mtu"),
    [
        ((), 1500),
        ((link("tap1", "br1", mtu=9000),), 9000),
        ((link("tap1", "br1", mtu=9000), link("other", "br1", mtu=1400)), 1400),
        ((link("tap1", mtu=1450), link("other", "br9", mtu=1400)), 1450),
        ((link("tap2", "br1", mtu=1300),), 1500),
    ],
    ids=["none", "one", "the smallest", "one that comes", "one that goes"],
)
def test_an_mtu_of_ours_that_nobody_asks_for_follows_the_ports(ports: tuple[Link, ...], mtu: int) -> None:
    noted: dict[Made, str] = {("bridge", "br1"): "", ("mtu", "br1"): "", ("port", "tap2"): ""}
    found = plan(wanted(addresses=()), host(link("br1", kind="bridge", mtu=1234), *ports), noted)
    assert found.set_mtu == {"br1": mtu}
    assert found.forget == (("port", "tap2"),)
    assert plan(wanted(addresses=()), host(link("br1", kind="bridge", mtu=mtu), *ports), noted).set_mtu == {}
    del noted["mtu", "br1"]
    assert plan(wanted(addresses=()), host(link("br1", kind="bridge", mtu=1234), *ports), noted).set_mtu == {}


def test_what_is_down_is_brought_up() -> None:
    actual = host(link("tap1", "br1", up=False), link("br1", kind="bridge", up=False), link("eth0", up=False))
    assert plan(wanted(), actual, MADE).set_up == ("br1", "tap1")


@pytest.mark.parametrize(("hairpin", "joined"), [(True, True), (None, True), (False, False)])
def test_a_port_that_sends_nothing_back_is_joined_anew(hairpin: bool | None, joined: bool) -> None:
    """An instance reaches its own floating IP only by hairpin mode; not known is not wrong."""
    tap = replace(link("tap1", "br1"), hairpin=hairpin)
    actual = host(tap, link("br1", kind="bridge"), addresses=(("br1", "10.1.0.1/24"),))
    assert plan(wanted(), actual, MADE).add_ports == ({} if joined else {"tap1": "br1"})


def test_a_link_that_only_has_the_name_of_a_bridge_is_left_alone() -> None:
    actual = host(link("tap1"), link("br1", kind="veth", up=False))
    found = plan(wanted(), actual)
    assert (found.add_bridges, found.add_addresses, found.add_ports) == ((), (), {})
    assert found.set_up == ()
    assert list(not_bridges(wanted().bridges, actual)) == ["br1"]
    assert list(not_bridges(wanted().bridges, DONE)) == []
    assert plan(NOTHING, actual, {("bridge", "br1"): ""}).remove_bridges == ()


def test_what_somebody_undid_is_told_from_what_is_new() -> None:
    assert plan(wanted(), BARE).again == ()
    assert set(plan(wanted(), BARE, MADE).again) == set(MADE)
    down = host(link("tap1", "br1", up=False), link("br1", kind="bridge"), addresses=(("br1", "10.1.0.1/24"),))
    assert plan(wanted(), down, MADE).again == (("port", "tap1"),)
    assert plan(wanted(), DONE, MADE).again == ()


def test_routes_are_asked_for_of_addresses_that_we_made_and_that_have_a_network() -> None:
    actual = replace(DONE, addresses=DONE.addresses | {("br1", "10.1.0.9/24"), ("eth0", FLOATING.cidr)})
    theirs = Address("br1", "10.1.0.9/24", False, True, None)
    desired = wanted(addresses=(GATEWAY, FLOATING, theirs))
    made: dict[Made, str] = {**MADE, ("address", f"eth0 {FLOATING.cidr}"): ""}
    assert questions(desired, actual, made, forwarding=False, closely=True).led == (("br1", "10.1.0.1/24"),)
    assert questions(desired, actual, made, forwarding=False).led == ()


# --- taking away


def test_what_was_made_and_is_not_wanted_goes() -> None:
    found = plan(NOTHING, DONE, MADE)
    assert found.remove_ports == ("tap1",)
    assert found.remove_addresses == (("br1", "10.1.0.1/24"),)
    assert found.remove_bridges == ("br1",)
    assert set(found.forget) == set(MADE)
    assert found.make == {}


def test_what_was_not_made_by_us_stays() -> None:
    """A bridge it found stays, and an address that the host had."""
    found = plan(NOTHING, DONE)
    assert not found
    assert found.forget == ()


def test_what_is_gone_already_is_only_forgotten() -> None:
    found = plan(NOTHING, host(link("lo"), link("tap1")), MADE)
    assert not found
    assert set(found.forget) == set(MADE)


@pytest.mark.parametrize("kind", ["bridge", "vlan"])
def test_what_only_has_the_name_of_what_was_made_stays(kind: str) -> None:
    found = plan(NOTHING, host(link("other", kind="dummy")), {(kind, "other"): ""})
    assert not found
    assert found.forget == ((kind, "other"),)


def test_an_address_with_words_in_its_note_is_read_back() -> None:
    actual = host(link("eth0"), addresses=(("eth0", "fd00::1/64"),))
    assert plan(NOTHING, actual, {("address", "eth0 fd00::1/64"): ""}).remove_addresses == (("eth0", "fd00::1/64"),)


def test_a_changed_network_gives_up_the_old_and_gets_the_new() -> None:
    new = Address("br2", "10.1.0.1/24", False, True, ("networks", "n"))
    desired = wanted(bridges={"br2": Bridge("br2", None)}, ports={"tap1": "br2"}, addresses=(new,))
    found = plan(desired, DONE, MADE)
    assert found.add_bridges == (Bridge("br2", None),)
    assert found.add_ports == {"tap1": "br2"}
    assert found.remove_addresses == (("br1", "10.1.0.1/24"),)
    assert found.remove_bridges == ("br1",)
    assert found.remove_ports == ()
    assert set(found.forget) == {("bridge", "br1"), ("address", "br1 10.1.0.1/24")}


# --- sysctls


def forwarding(*families: int, filter_bridges: bool = True) -> Links:
    return wanted(forward=frozenset(families), filter_bridges=filter_bridges)


def test_which_sysctls_are_wanted() -> None:
    assert sysctls_of(NOTHING, BARE, {}) == ({}, {})
    assert sysctls_of(forwarding(), BARE, {}) == ({CALL4: "1", CALL6: "1"}, {})
    assert sysctls_of(forwarding(4, filter_bridges=False), BARE, {}) == ({}, {FORWARD4: "1"})
    before, after = sysctls_of(forwarding(4, 6), BARE, {})
    assert list(after) == [FORWARD4, FORWARD6]
    assert before == {CALL4: "1", CALL6: "1", "net/ipv6/conf/eth0/accept_ra": "2"}


def listeners(desired: Links, actual: ActualLinks, made: dict[Made, str]) -> set[str]:
    before, _ = sysctls_of(desired, actual, made)
    assert set(before.values()) == {"2"}
    return {name.split("/")[3] for name in before}


def test_links_of_ours_and_ports_accept_no_router_advertisements() -> None:
    desired = forwarding(6, filter_bridges=False)
    actual = host(link("lo"), link("eth0"), link("eth1", "br5"), link("br1"), link("tap1"), link("wlan0"))
    assert listeners(desired, actual, {("bridge", "br1"): ""}) == {"eth0", "wlan0"}


def test_a_bridge_of_the_hosts_own_and_an_uplink_go_on_accepting_them() -> None:
    """The host may have its default route by a bridge; and an uplink's bridge listens as the uplink did."""
    desired = replace(forwarding(6, filter_bridges=False), uplinks={"eth1": "br1"})
    actual = host(link("lo"), link("eth0"), link("eth1", "br1"), link("br1", kind="bridge"), link("tap1"))
    assert listeners(desired, actual, {}) == {"eth0", "eth1", "br1"}


@pytest.mark.parametrize(("present", "changed"), [("0", False), ("1", True), ("2", False)])
def test_only_links_that_accept_advertisements_go_on_accepting_them(present: str, changed: bool) -> None:
    name = "net/ipv6/conf/eth0/accept_ra"
    found = plan(forwarding(6, filter_bridges=False), BARE, {}, {name: present, FORWARD6: "0"})
    assert found.sysctls_before == ({name: "2"} if changed else {})
    assert (("sysctl", name) in found.make) is changed


@pytest.mark.parametrize("noted", [False, True])
def test_a_host_that_forwards_already_is_made_to_listen_only_where_it_was(noted: bool) -> None:
    name = "net/ipv6/conf/eth0/accept_ra"
    made = {("sysctl", name): "1"} if noted else {}
    found = plan(forwarding(6, filter_bridges=False), BARE, made, {name: "1", FORWARD6: "1"})
    assert found.sysctls_before == ({name: "2"} if noted else {})


def test_a_link_that_comes_when_the_host_forwards_never_accepted_any() -> None:
    """It may be the tap of an instance, which must not be believed to be a router."""
    name = "net/ipv6/conf/eth0/accept_ra"
    desired = wanted(bridges={}, ports={}, addresses=(), forward=frozenset({6}))
    assert not plan(desired, BARE, {}, {name: "1", FORWARD6: "1"})
    # One that was made to accept them is made to again, and by its note only.
    noted: dict[Made, str] = {("sysctl", name): "1"}
    found = plan(desired, BARE, noted, {name: "1", FORWARD6: "1"})
    assert found.sysctls_before == {name: "2"}
    assert found.again == (("sysctl", name),)
    assert not plan(NOTHING, host(link("lo")), noted, {name: "1", FORWARD6: "1"})


def test_sysctls_that_are_right_or_that_the_host_has_not_are_left() -> None:
    found = plan(forwarding(4, 6), DONE, MADE, {CALL4: "1", FORWARD4: "0"})
    assert found.sysctls_before == {}
    assert found.sysctls_after == {FORWARD4: "1"}
    assert found.make == {("sysctl", FORWARD4): "0"}


def test_what_was_found_first_stays_noted() -> None:
    made: dict[Made, str] = {**MADE, ("sysctl", FORWARD4): "0"}
    found = plan(forwarding(4), DONE, made, {FORWARD4: "somebody's"})
    assert found.sysctls_after == {FORWARD4: "1"}
    assert found.make == {}


def test_a_sysctl_is_not_taken_back_while_the_agent_lives() -> None:
    """Somebody else may rely on it meanwhile; cleanup restores what was found."""
    made: dict[Made, str] = {("sysctl", FORWARD4): "0"}
    found = plan(NOTHING, host(link("lo")), made, {FORWARD4: "1"})
    assert not found
    assert found.forget == ()


# --- cleanup


def test_cleanup_takes_back_everything_that_was_made() -> None:
    made: dict[Made, str] = {**MADE, ("sysctl", FORWARD4): "0", ("sysctl", CALL4): "1", ("sysctl", CALL6): "0"}
    found = plan_removal(DONE, made, {FORWARD4: "1", CALL4: "1"})
    assert found.remove_ports == ("tap1",)
    assert found.remove_addresses == (("br1", "10.1.0.1/24"),)
    assert found.remove_bridges == ("br1",)
    assert found.sysctls_after == {FORWARD4: "0"}
    assert found.sysctls_before == {}
    assert set(found.forget) == set(made)
    assert (found.make, found.add_bridges, found.add_ports, found.add_addresses, found.set_up) == ({}, (), {}, (), ())


def test_cleanup_of_nothing_is_nothing() -> None:
    assert not plan_removal(DONE, {}, {})


# --- for people


def test_a_plan_reads_in_the_order_in_which_it_is_carried_out() -> None:
    actual = host(
        link("eth0"), link("tap1", up=False), link("tap9", "br9"), link("br9", kind="bridge"),
        link("br2", kind="bridge", mtu=1500, up=False),
        addresses=(("eth0", "198.51.100.9/32"),),
    )  # fmt: skip
    made: dict[Made, str] = {
        ("port", "tap9"): "", ("bridge", "br9"): "", ("address", "eth0 198.51.100.9/32"): "", ("bridge", "br2"): "",
    }  # fmt: skip
    desired = wanted(
        bridges={"br1": Bridge("br1", None), "br2": Bridge("br2", 1400)}, forward=frozenset({4}), filter_bridges=True
    )
    found = plan(desired, actual, made, {CALL4: "0", FORWARD4: "0"})
    assert list(found.lines()) == [
        "link: - port tap9",
        "address: - 198.51.100.9/32 on eth0",
        f"sysctl: {CALL4} = 1",
        "link: + bridge br1",
        "link: br2 mtu 1400",
        "link: br2 up",
        "link: tap1 up",
        "address: + 10.1.0.1/24 on br1",
        "link: + port tap1 on br1",
        f"sysctl: {FORWARD4} = 1",
        "link: - bridge br9",
    ]
