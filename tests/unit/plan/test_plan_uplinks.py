"""Uplinks and VLANs: what the host has by them goes to the bridge with them, and comes back."""

from typing import Any

import pytest
from msgspec.structs import replace

from nova_netagent.compile.links import Address, Bridge, Links, Vlan
from nova_netagent.plan.links import (
    FORWARD_IPV6,
    ActualLinks,
    Join,
    Link,
    LinkPlan,
    Made,
    NewMac,
    Release,
    plan_links,
    plan_removal,
    questions,
    uplink_problems,
)

NOTHING = Links(bridges={}, ports={}, addresses=(), forward=frozenset(), filter_bridges=False)
FLAT = replace(NOTHING, bridges={"br1": Bridge("br1", None, "eth1")}, uplinks={"eth1": "br1"})
VLAN = Vlan("vlan7", "eth1", 7, 1400)
TAGGED = replace(
    NOTHING, bridges={"br7": Bridge("br7", 1400, "vlan7")}, uplinks={"vlan7": "br7"}, vlans={"vlan7": VLAN}
)
RA = "net/ipv6/conf/eth1/accept_ra"
MAC = "02:00:00:00:00:01"


def link(name: str, master: str | None = None, kind: str | None = None, **fields: Any) -> Link:
    usual: dict[str, Any] = {"index": 1, "up": True, "mtu": 1500, "mac": MAC}
    return Link(name=name, kind=kind, master=master, **(usual | fields))


def bridge(name: str, **fields: Any) -> Link:
    return link(name, kind="bridge", **fields)


def vlan(**fields: Any) -> Link:
    usual: dict[str, Any] = {"kind": "vlan", "parent": "eth1", "vlan": 7, "mtu": 1400}
    return link("vlan7", **(usual | fields))


def host(*links: Link, addresses: tuple[tuple[str, str], ...] = (), addressed: tuple[str, ...] = ()) -> ActualLinks:
    return ActualLinks({each.name: each for each in links}, frozenset(addresses), frozenset(addressed))


def plan(
    desired: Links,
    actual: ActualLinks,
    made: dict[Made, str] | None = None,
    sysctls: dict[str, str] | None = None,
    held: dict[str, str] | None = None,
) -> LinkPlan:
    return plan_links(desired, actual, made or {}, sysctls or {}, held)


MADE: dict[Made, str] = {("bridge", "br1"): "", ("uplink", "eth1 br1"): ""}
DONE = host(link("eth1", "br1"), bridge("br1"))
TAGGED_MADE: dict[Made, str] = {
    ("vlan", "vlan7"): "",
    ("bridge", "br7"): "",
    ("uplink", "vlan7 br7"): "",
    ("mtu", "vlan7"): "",
    ("mtu", "br7"): "",
}
TAGGED_DONE = host(link("eth1"), vlan(master="br7"), bridge("br7", mtu=1400))

# --- joining


def test_an_uplink_is_noted_and_joined_and_gives_the_bridge_its_mac() -> None:
    found = plan(FLAT, host(link("eth1")))
    assert found.make == MADE
    assert found.add_bridges == (Bridge("br1", None, "eth1"),)
    assert found.join == (Join("eth1", "br1", accept_ra=False),)
    assert not plan(FLAT, DONE, MADE)


def test_an_uplink_that_is_not_there_is_waited_for_and_told_of() -> None:
    found = plan(FLAT, host())
    assert (found.make, found.join) == ({("bridge", "br1"): ""}, ())
    assert found.add_bridges == (Bridge("br1", None),)
    assert uplink_problems(FLAT, host()) == {"eth1": "there is no such interface"}
    assert uplink_problems(FLAT, DONE) == {}
    late = host(link("eth1", mac="02:00:00:00:00:09"), bridge("br1"))
    found = plan(FLAT, late, {("bridge", "br1"): ""})
    assert (found.set_mac, len(found.join)) == ({"br1": NewMac("02:00:00:00:00:09")}, 1)


@pytest.mark.parametrize("announce", [True, False])
def test_a_new_mac_is_told_to_the_neighbours_of_addresses_that_are_announced(announce: bool) -> None:
    gateway = Address("br1", "10.1.0.1/24", False, announce, None)
    elsewhere = Address("eth0", "198.51.100.1/32", False, True, None)
    actual = host(link("eth1", "br1"), bridge("br1", mac="02:00:00:00:00:09"))
    found = plan(replace(FLAT, addresses=(gateway, elsewhere)), actual, MADE)
    assert found.set_mac == {"br1": NewMac(MAC, ("10.1.0.1/24",) if announce else ())}


def test_a_port_of_another_bridge_is_not_stolen() -> None:
    taken = host(link("eth1", "br9"), bridge("br9"), bridge("br1", mac="02:00:00:00:00:02"))
    for made in ({}, MADE):
        assert not plan(FLAT, taken, made)
    assert uplink_problems(FLAT, taken) == {"eth1": "it is a port of br9 already"}


def test_what_only_has_the_name_of_a_bridge_gets_no_uplink_and_holds_no_other_up() -> None:
    desired = replace(
        FLAT,
        bridges={**FLAT.bridges, "br2": Bridge("br2", None, "eth2")},
        uplinks={"eth1": "br1", "eth2": "br2"},
    )
    found = plan(desired, host(link("eth1"), link("eth2"), link("br1", kind="dummy")))
    assert found.join == (Join("eth2", "br2", accept_ra=False),)
    assert ("uplink", "eth1 br1") not in found.make


def test_a_port_of_its_bridge_that_was_there_is_used_and_left() -> None:
    actual = host(
        link("eth1", "br1", up=False, mac="02:00:00:00:00:09"),
        bridge("br1"),
        addresses=(("eth1", "192.0.2.7/24"),),
        addressed=("eth1",),
    )
    assert not plan(FLAT, actual)
    assert not plan(NOTHING, actual)
    assert plan(FLAT, actual).make == {}


def test_an_uplink_of_ours_that_holds_something_gives_it_to_the_bridge() -> None:
    """Killed in the middle of it, or a DHCP client that renewed its lease, or somebody's route."""
    again = Join("eth1", "br1", accept_ra=False)
    assert plan(FLAT, replace(DONE, addressed=frozenset({"eth1"})), MADE).join == (again,)
    assert plan(FLAT, DONE, MADE, held={"eth1": "route:x"}).join == (again,)
    assert plan(FLAT, DONE, MADE, held={"eth1": ""}).join == ()


def test_what_a_bridge_of_somebody_elses_had_is_noted() -> None:
    actual = host(link("eth1"), bridge("br1"))
    assert questions(FLAT, actual, {}, forwarding=False).held == ("br1",)
    found = plan(FLAT, actual, held={"br1": "192.0.2.7/24 abc"})
    assert found.make == {("uplink", "eth1 br1"): "192.0.2.7/24 abc"}
    assert questions(FLAT, actual, MADE, forwarding=False).held == ()
    assert questions(FLAT, DONE, {}, forwarding=False).held == ()


def test_routes_are_looked_for_only_where_it_is_asked() -> None:
    assert questions(FLAT, DONE, MADE, forwarding=False).held == ()
    assert questions(FLAT, DONE, MADE, forwarding=False, closely=True).held == ("eth1",)
    assert questions(FLAT, DONE, {}, forwarding=False, closely=True).held == ()


def test_an_address_that_comes_with_the_uplink_is_the_hosts_own() -> None:
    gateway = Address("br1", "10.1.0.1/24", False, True, None)
    desired = replace(FLAT, addresses=(gateway,))
    actual = host(link("eth1"), addresses=(("eth1", "10.1.0.1/24"),), addressed=("eth1",))
    found = plan(desired, actual)
    assert (found.add_addresses, found.make) == ((), MADE)
    noted: dict[Made, str] = {("address", "eth1 10.1.0.1/24"): ""}
    found = plan(desired, actual, noted)
    assert found.add_addresses == (gateway,), "one of ours is taken away and given anew"
    assert found.remove_addresses == (("eth1", "10.1.0.1/24"),)


@pytest.mark.parametrize(
    ("sysctls", "heard"),
    [
        ({RA: "0"}, False),
        ({RA: "1"}, True),
        ({RA: "2"}, True),
        ({RA: "1", FORWARD_IPV6: "1"}, False),
        ({RA: "2", FORWARD_IPV6: "1"}, True),
        ({}, False),
    ],
)
def test_a_bridge_of_ours_hears_the_routers_that_its_uplink_heard(sysctls: dict[str, str], heard: bool) -> None:
    (join,) = plan(FLAT, host(link("eth1")), sysctls=sysctls).join
    assert join.accept_ra is heard
    (join,) = plan(FLAT, host(link("eth1"), bridge("br1")), sysctls=sysctls).join
    assert not join.accept_ra, "a bridge of somebody else's is theirs to set"
    assert {RA, FORWARD_IPV6} <= set(questions(FLAT, host(link("eth1")), {}, forwarding=False).sysctls)


# --- drift


@pytest.mark.parametrize(
    ("actual", "again"),
    [
        (host(link("eth1")), {("bridge", "br1"), ("uplink", "eth1 br1")}),
        (host(link("eth1"), bridge("br1")), {("uplink", "eth1 br1")}),
        (host(link("eth1", "br1", up=False), bridge("br1")), {("uplink", "eth1 br1")}),
        (host(link("eth1", "br1"), bridge("br1", up=False)), {("bridge", "br1")}),
        (host(link("eth1", "br1"), bridge("br1", mac="02:00:00:00:00:09")), {("bridge", "br1")}),
    ],
    ids=["bridge deleted", "uplink taken out", "uplink down", "bridge down", "another MAC"],
)
def test_what_somebody_undid_is_done_again(actual: ActualLinks, again: set[Made]) -> None:
    found = plan(FLAT, actual, MADE)
    assert found
    assert set(found.again) == again
    assert found.make == {}


# --- releasing


def test_an_uplink_is_released_before_its_bridge_goes() -> None:
    found = plan(NOTHING, DONE, MADE)
    assert found.release == (Release("eth1", "br1", ()),)
    assert found.remove_bridges == ("br1",)
    assert set(found.forget) == set(MADE)


def test_a_bridge_keeps_what_it_had_and_what_we_gave_it() -> None:
    made: dict[Made, str] = {
        ("uplink", "eth1 br1"): "192.0.2.7/24 abc",
        ("address", "br1 10.1.0.1/24"): "",
        ("address", "eth0 10.1.0.2/32"): "",
    }
    found = plan(NOTHING, DONE, made)
    assert found.release == (Release("eth1", "br1", ("192.0.2.7/24", "abc", "10.1.0.1/24")),)
    assert found.remove_bridges == ()


def test_a_bridge_of_ours_that_stays_hears_no_routers_any_more() -> None:
    alone = replace(NOTHING, bridges={"br1": Bridge("br1", None)})
    assert plan(alone, DONE, MADE).release == (Release("eth1", "br1", (), deafen=True),)
    theirs = {thing: note for thing, note in MADE.items() if thing != ("bridge", "br1")}
    assert plan(alone, DONE, theirs).release == (Release("eth1", "br1", ()),)


def test_an_uplink_that_somebody_took_gets_back_what_its_bridge_holds() -> None:
    assert plan(NOTHING, host(link("eth1", "br9"), bridge("br9"), bridge("br1")), MADE).release == (
        Release("eth1", "br1", ()),
    )


def test_what_is_gone_is_not_released() -> None:
    for actual in (host(link("eth1")), host(bridge("br1"))):
        assert plan(NOTHING, actual, {("uplink", "eth1 br1"): ""}).release == ()


def test_what_a_bridge_held_comes_back_without_it_unless_somebody_took_the_uplink() -> None:
    held: dict[Made, str] = {**MADE, ("held", "br1"): "192.0.2.7/24"}
    assert plan(NOTHING, host(link("eth1")), held).release == (Release("eth1", "br1", ()),)
    assert plan(NOTHING, host(link("eth1", "br9"), bridge("br9")), held).release == ()


def test_an_uplink_of_another_name_is_known_by_its_mac_on_a_bridge_of_ours_only() -> None:
    """One of somebody else's has the MAC of whichever port of theirs."""
    renamed = host(link("eth5", "br1"), bridge("br1"))
    assert plan(NOTHING, renamed, MADE).release == (Release("eth5", "br1", ()),)
    assert plan(NOTHING, renamed, {("uplink", "eth1 br1"): ""}).release == ()
    assert plan(NOTHING, renamed, {**MADE, ("port", "eth5"): ""}).release == (), "a tap of ours is no uplink"


def test_an_uplink_moves_from_one_bridge_of_ours_to_another() -> None:
    desired = replace(NOTHING, bridges={"br2": Bridge("br2", None, "eth1")}, uplinks={"eth1": "br2"})
    found = plan(desired, DONE, MADE)
    assert found.release == (Release("eth1", "br1", ()),)
    assert found.join == (Join("eth1", "br2", accept_ra=False),)
    assert found.remove_bridges == ("br1",)
    assert set(found.make) == {("bridge", "br2"), ("uplink", "eth1 br2")}


def test_cleanup_gives_everything_back() -> None:
    found = plan_removal(TAGGED_DONE, TAGGED_MADE, {})
    assert found.release == (Release("vlan7", "br7", ()),)
    assert (found.remove_bridges, found.remove_vlans) == (("br7",), ("vlan7",))
    assert set(found.forget) == set(TAGGED_MADE)


# --- VLANs


def test_a_vlan_is_made_and_joined() -> None:
    found = plan(TAGGED, host(link("eth1")))
    assert found.add_vlans == (VLAN,)
    assert found.join == (Join("vlan7", "br7", accept_ra=False),)
    assert found.add_bridges == (Bridge("br7", 1400, "vlan7"),)
    assert found.make == TAGGED_MADE
    assert not plan(TAGGED, TAGGED_DONE, TAGGED_MADE)


def test_a_vlan_waits_for_what_carries_it() -> None:
    found = plan(TAGGED, host())
    assert (found.add_vlans, found.join, found.make) == ((), (), {("bridge", "br7"): "", ("mtu", "br7"): ""})
    assert uplink_problems(TAGGED, host()) == {"eth1": "there is no such interface"}


@pytest.mark.parametrize("wrong", [{"vlan": 8}, {"parent": "eth2"}, {"kind": "veth", "parent": None, "vlan": None}])
def test_a_link_that_only_has_the_name_of_a_vlan_is_left_alone(wrong: dict[str, Any]) -> None:
    actual = host(link("eth1"), vlan(**wrong), bridge("br7", mtu=1400))
    assert not plan(TAGGED, actual, {("bridge", "br7"): ""})
    assert uplink_problems(TAGGED, actual) == {"vlan7": "there is a link of this name that is not VLAN 7 of eth1"}


def test_a_vlan_that_was_there_is_joined_and_left() -> None:
    found = plan(TAGGED, host(link("eth1"), vlan(mtu=1500), bridge("br7", mtu=1400)), {("bridge", "br7"): ""})
    assert (found.add_vlans, found.set_mtu) == ((), {})
    made: dict[Made, str] = {("bridge", "br7"): "", ("uplink", "vlan7 br7"): "", ("mtu", "br7"): ""}
    assert found.make == {("uplink", "vlan7 br7"): "", ("mtu", "br7"): ""}
    found = plan(NOTHING, TAGGED_DONE, made)
    assert (found.release, found.remove_vlans) == ((Release("vlan7", "br7", ()),), ())


def test_a_vlan_of_ours_keeps_its_mtu_and_what_carries_it_is_up() -> None:
    actual = host(link("eth1", up=False), vlan(master="br7", mtu=1500, up=False), bridge("br7", mtu=1400))
    found = plan(TAGGED, actual, TAGGED_MADE)
    assert found.set_mtu == {"vlan7": 1400}
    assert found.set_up == ("eth1", "vlan7")


@pytest.mark.parametrize("vlan_mtu", [1400, None], ids=["there", "made anew"])
def test_a_vlan_of_ours_that_is_given_no_mtu_any_more_has_that_of_what_carries_it(vlan_mtu: int | None) -> None:
    plain = replace(TAGGED, bridges={"br7": Bridge("br7", None, "vlan7")}, vlans={"vlan7": replace(VLAN, mtu=None)})
    there = () if vlan_mtu is None else (vlan(master="br7", mtu=vlan_mtu),)
    found = plan(plain, host(link("eth1", mtu=9000), bridge("br7", mtu=1400), *there), TAGGED_MADE)
    assert found.set_mtu == {**({"vlan7": 9000} if there else {}), "br7": 9000}
    done = host(link("eth1", mtu=9000), vlan(master="br7", mtu=9000), bridge("br7", mtu=9000))
    assert not plan(plain, done, TAGGED_MADE)


def test_the_plan_reads_in_the_order_in_which_it_is_carried_out() -> None:
    made: dict[Made, str] = {**MADE, ("vlan", "vlan9"): "", ("bridge", "br7"): ""}
    actual = host(
        link("eth1", "br1"),
        link("vlan9", kind="vlan"),
        bridge("br1"),
        bridge("br7", mac="02:00:00:00:00:09", up=False),
    )
    desired = replace(TAGGED, vlans={"vlan7": replace(VLAN, mtu=None)})
    actual = replace(actual, links={**actual.links, "vlan7": vlan()})
    assert list(plan(desired, actual, made).lines()) == [
        "link: - uplink eth1 of br1",
        f"link: br7 mac {MAC}",
        "link: br7 mtu 1400",
        "link: br7 up",
        "link: + uplink vlan7 of br7",
        "link: - bridge br1",
        "link: - vlan vlan9",
    ]
    assert "link: + vlan vlan7 on eth1" in list(plan(desired, host(link("eth1"))).lines())


@pytest.mark.parametrize(
    ("now", "others", "remade"),
    [
        ({"parent": "eth2"}, (), True),
        ({"parent": "eth2", "master": None}, (), False),
        ({"parent": "eth2", "vlan": 77}, (), False),
        ({"parent": "eth2"}, (link("eth1.7", kind="vlan", parent="eth1", vlan=7),), False),
        ({"parent": None}, (), True),
    ],
)
def test_a_vlan_of_ours_moves_if_it_can_be_had_where_it_should_be(
    now: dict[str, Any], others: tuple[Link, ...], remade: bool
) -> None:
    standing = vlan(**{"master": "br7", **now})
    actual = host(link("eth1"), link("eth2"), standing, bridge("br7", mtu=1400), *others)
    found = plan(TAGGED, actual, TAGGED_MADE)
    assert (found.remake_vlans, found.add_vlans) == ((("vlan7",), (VLAN,)) if remade else ((), ()))
    gone = host(link("eth2"), standing, bridge("br7", mtu=1400))
    assert plan(TAGGED, gone, TAGGED_MADE).remake_vlans == ()
