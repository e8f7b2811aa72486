"""What a state asks of the frames."""

import pytest

from nova_netagent.compile import ALL_TABLES, Compiler
from nova_netagent.compile.frames import BridgePorts
from nova_netagent.model import AllowedAddressPair, values
from nova_netagent.netfilter.frames import Closed, Frames, Isolated, Redirected, Secured
from nova_netagent.testing import instance_id, make_floating_ip, make_instance, make_network, make_vif, network_id
from tests.unit.compile.world import World, make_settings, state_of

MAC = make_vif(1).address
UNMANAGED = make_settings(manage_links=False)


def frames(*objects: object, **options: object) -> Frames:
    return World(*objects, settings=make_settings(**options)).compiled.frames.frames  # type: ignore[arg-type]


def bridges(*objects: object, **options: object) -> dict[str, BridgePorts]:
    return dict(World(*objects, settings=make_settings(**options)).compiled.frames.bridges)  # type: ignore[arg-type]


def own(*more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """What instance 1 may claim, with more."""
    return (("10.1.0.2/32", MAC), *more)


# --- vifs


def test_nothing_is_asked_where_nothing_is_described() -> None:
    assert frames() == Frames()
    assert bridges() == {}


def test_a_vif_sends_as_its_addresses_its_mac_and_its_link_local_address() -> None:
    (vif,) = frames(make_network(1), make_instance(1)).secured
    assert vif.device == "tap1"
    assert vif.mac == MAC
    assert set(vif.addresses) == {
        ("10.1.0.2/32", MAC),
        ("fd00:1::2/128", MAC),
        (values.host(values.link_local(MAC)), MAC),
    }
    assert vif.origin == ("instances", instance_id(1), "")


def test_its_pairs_go_with_their_macs() -> None:
    pairs = (
        AllowedAddressPair(ip_address="10.1.0.128/25"),
        AllowedAddressPair(ip_address="10.1.0.9", mac_address="00:00:5e:00:01:01"),
        AllowedAddressPair(ip_address="fd00:1::/80"),
    )
    (vif,) = frames(make_network(1), make_instance(1, vifs=(make_vif(1, allowed_address_pairs=pairs),))).secured
    wanted = {("10.1.0.128/25", MAC), ("10.1.0.9/32", "00:00:5e:00:01:01"), ("fd00:1::/80", MAC)}
    assert wanted <= set(vif.addresses)
    assert vif.macs == (MAC, "00:00:5e:00:01:01")


def test_an_address_in_error_is_not_claimed() -> None:
    wrong = make_instance(1, vifs=(make_vif(1, fixed_ips=("10.1.0.2", "10.7.0.2")),))
    (vif,) = frames(make_network(1), wrong).secured
    assert {prefix for prefix, _ in vif.addresses} == {"10.1.0.2/32", values.host(values.link_local(MAC))}


def test_without_port_security_nothing_is_said_of_a_vif() -> None:
    free = make_instance(1, vifs=(make_vif(1, port_security_enabled=False),))
    assert frames(make_network(1), free).secured == ()
    assert bridges(make_network(1), free)["br1"].known == {"tap1"}


def test_of_two_vifs_of_one_device_the_older_one_holds_it() -> None:
    first, second = make_instance(1), make_instance(2, vifs=(make_vif(2, devname="tap1"),))
    (vif,) = frames(make_network(1), first, second).secured
    assert vif.mac == MAC


def test_a_vif_that_waits_is_no_port_and_closed_where_ports_are_not_ours() -> None:
    assert frames(make_instance(1)) == Frames()
    assert frames(make_instance(1), manage_links=False).closed == (
        Closed("tap1", ("instances", instance_id(1), "pending")),
    )
    assert frames(make_network(1), make_instance(1), manage_links=False).closed == ()


def test_an_error_of_one_vif_leaves_the_other() -> None:
    two = make_instance(1, vifs=(make_vif(1), make_vif(2, network=5, fixed_ips=())))
    assert [each.device for each in frames(make_network(1), two).secured] == ["tap1"]


# --- ports


def test_the_ports_of_a_bridge_are_its_vifs_and_its_uplink() -> None:
    found = bridges(make_network(1, bridge_interface="eth1"), make_network(2), make_instance(1), make_instance(3))
    assert found == {
        "br1": BridgePorts(frozenset({"eth1", "tap1", "tap3"}), frozenset()),
        "br2": BridgePorts(frozenset(), frozenset()),
    }


def test_networks_that_share_a_bridge_share_its_ports() -> None:
    both = (make_network(1), make_network(2, bridge="br1", bridge_interface="eth2"))
    assert bridges(*both, make_instance(1), make_instance(3, network=2)) == {
        "br1": BridgePorts(frozenset({"eth2", "tap1", "tap3"}), frozenset())
    }


def test_where_ports_are_not_ours_none_is_nobodys() -> None:
    assert bridges(make_network(1), make_instance(1), manage_links=False) == {}


def test_hairpins_are_those_ports_that_we_join() -> None:
    objects = (make_network(1), make_instance(1), make_instance(2, vifs=(make_vif(2, network=7, fixed_ips=()),)))
    assert frames(*objects).hairpins == ("tap1",)
    assert frames(*objects, manage_links=False).hairpins == ()


# --- a shared address


@pytest.mark.parametrize(
    ("fields", "options", "isolated"),
    [
        ({"bridge_interface": "eth1"}, {}, False),
        ({"bridge_interface": "eth1", "share_address": True}, {}, True),
        ({"bridge_interface": "eth1"}, {"share_dhcp_address": True}, True),
        ({"share_address": True}, {}, False),
        ({"share_address": True}, {"flat_interface": "eth1"}, True),
        ({"bridge_interface": "eth1", "share_address": True, "cidr": None, "gateway": None}, {}, False),
    ],
    ids=["not shared", "the network's", "the host's", "no uplink", "flat_interface", "no server"],
)
def test_when_an_address_stays_on_its_side_of_the_uplink(
    fields: dict[str, object], options: dict[str, object], isolated: bool
) -> None:
    found = frames(make_network(1, **fields), **options).isolated
    wanted = Isolated("eth1", "10.1.0.1", ("networks", network_id(1), "shared address"))
    assert found == ((wanted,) if isolated else ())


def test_the_shared_address_is_the_servers() -> None:
    network = make_network(1, bridge_interface="eth1", share_address=True, gateway="10.1.0.254", dhcp_server="10.1.0.5")
    assert [each.address for each in frames(network).isolated] == ["10.1.0.5"]


# --- a gateway elsewhere

EXTERNAL = make_network(1, gateway="10.1.0.254", dhcp_server="10.1.0.1")


def test_what_is_redirected_where_the_gateway_is_elsewhere() -> None:
    found = frames(EXTERNAL, make_instance(1), make_floating_ip(1), force_snat_range=("192.0.2.0/24",)).redirected
    assert found == (
        Redirected("10.1.0.0/24", "192.0.2.0/24", origin=("networks", network_id(1), "forced SNAT")),
        Redirected("10.1.0.0/24", "169.254.169.254/32", origin=("networks", network_id(1), "metadata")),
        Redirected("10.1.0.2/32", "10.1.0.0/24", inverted=True, origin=("floating_ips", "198.51.100.1", "")),
    )
    assert bridges(EXTERNAL, make_instance(1)) == {"br1": BridgePorts(frozenset({"tap1"}), frozenset({"tap1"}))}


def test_nothing_is_redirected_where_this_host_is_the_gateway() -> None:
    found = frames(make_network(1), make_instance(1), make_floating_ip(1), force_snat_range=("192.0.2.0/24",))
    assert found.redirected == ()
    assert bridges(make_network(1), make_instance(1))["br1"].redirecting == frozenset()


def test_without_a_metadata_service_nothing_is_led_to_it() -> None:
    assert frames(EXTERNAL, make_instance(1), metadata_host=None).redirected == ()


def test_a_floating_ip_of_another_hosts_instance_is_redirected_there() -> None:
    elsewhere = make_floating_ip(1, instance=7)
    origins = {each.origin[0] for each in frames(EXTERNAL, make_instance(1), elsewhere).redirected if each.origin}
    assert origins == {"networks"}


@pytest.mark.parametrize("pair", ["10.1.0.100", "10.1.0.96/28", "0.0.0.0/0"])
def test_a_floating_ip_of_an_allowed_pair_is_redirected(pair: str) -> None:
    vif = make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address=pair),))
    shared = make_floating_ip(1, fixed_ip_address="10.1.0.100")
    found = frames(EXTERNAL, make_instance(1, vifs=(vif,)), shared, metadata_host=None).redirected
    assert found == (
        Redirected("10.1.0.100/32", "10.1.0.0/24", inverted=True, origin=("floating_ips", "198.51.100.1", "")),
    )


def test_who_waits_for_his_network_holds_up_nobodys_floating_ip() -> None:
    waiting = make_instance(2, vifs=(make_vif(2, network=3, fixed_ips=("10.3.0.3",)),))
    found = frames(EXTERNAL, make_instance(1), waiting, make_floating_ip(1), metadata_host=None).redirected
    assert [each.origin for each in found] == [("floating_ips", "198.51.100.1", "")]


@pytest.mark.parametrize("pair", ["10.2.0.100", "10.2.0.96/28", "0.0.0.0/0", "10.1.0.100", "::/0"])
def test_whose_pair_has_no_part_in_it_redirects_nothing(pair: str) -> None:
    """The address is of a network whose gateway is here, or the pair is another's."""
    vif = make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address=pair),))
    shared = make_floating_ip(1, fixed_ip_address="10.2.0.100")
    objects = (EXTERNAL, make_network(2), make_instance(1, vifs=(vif,)), shared)
    assert frames(*objects, metadata_host=None).redirected == ()


def test_the_uplink_redirects_nothing() -> None:
    """What a far instance sends to its gateway is its own host's to translate."""
    network = make_network(1, gateway="10.1.0.254", dhcp_server="10.1.0.1", bridge_interface="eth1")
    assert bridges(network, make_instance(1))["br1"].redirecting == {"tap1"}


# --- memory


def test_what_did_not_change_is_the_same_object() -> None:
    compiler = Compiler(make_settings(), ALL_TABLES)
    one = compiler.compile(state_of(make_network(1), make_instance(1), make_instance(2)))
    state = state_of(make_network(1), make_instance(1), make_instance(2))
    before = {each.device: each for each in one.frames.frames.secured}
    after = {each.device: each for each in compiler.compile(state).frames.frames.secured}
    assert before == after
    again = {each.device: each for each in compiler.compile(state).frames.frames.secured}
    assert all(after[device] is again[device] for device in after)


def test_the_order_of_events_does_not_matter() -> None:
    objects = [make_network(1), make_network(2, share_address=True, bridge_interface="eth2"), make_instance(1)]
    objects += [make_instance(2, network=2)]
    forth, back = frames(*objects), frames(*reversed(objects))
    assert set(forth.secured) == set(back.secured)
    assert (forth.isolated, forth.redirected) == (back.isolated, back.redirected)


def test_a_secured_vif_is_hashable() -> None:
    """The layout remembers what became of each."""
    (vif,) = frames(make_network(1), make_instance(1)).secured
    assert isinstance(vif, Secured)
    assert hash(vif) == hash(frames(make_network(1), make_instance(1)).secured[0])
