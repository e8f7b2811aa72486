"""Addresses on the way: floating IPs, the metadata service, SNAT of the fixed range and what is exempt."""

from typing import Any

import pytest

from nova_netagent.model import AllowedAddressPair, Object
from nova_netagent.model.protocols import TCP, UDP
from nova_netagent.netfilter.rule import Family
from nova_netagent.testing import (
    group_id,
    instance_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_rule,
    make_vif,
)
from tests.unit.compile.world import MY_IP, OUTSIDE, End, World, behind, host, make_settings, vm

APART = make_settings(allow_same_net_traffic=False)
OPEN = make_group(1, make_rule(1), make_rule(2, ethertype="IPv6"))
FLOATING, SECOND = "198.51.100.1", "198.51.100.2"
METADATA = "169.254.169.254"


def floating_world(*extra: Object, **fields: Any) -> World:
    """Instance 1 has a floating IP, instance 2 on its network and 3 on another have none."""
    return World(
        make_network(1),
        make_network(2),
        OPEN,
        make_instance(1, (1,)),
        make_instance(2, (1,)),
        make_instance(3, (1,), network=2),
        make_floating_ip(1, **fields),
        *extra,
    )


# --- floating IPs


def test_a_floating_ip_leads_to_its_instance_from_outside() -> None:
    journey = floating_world().send(OUTSIDE, vm(1), TCP, 22, to=FLOATING)
    assert journey.passed
    assert (journey.packet.destination, journey.packet.source) == (vm(1).ipv4, OUTSIDE.ipv4)
    assert journey.packet.out_interface == "br1"


def test_a_pair_of_everything_leads_no_floating_ip_of_another_network_away() -> None:
    """Its instance is on another host; who routes here for everybody is judged for himself alone."""
    everything = make_vif(5, allowed_address_pairs=(AllowedAddressPair(ip_address="10.0.0.0/8"),))
    world = World(
        make_network(1),
        make_network(2),
        make_instance(5, vifs=(everything,)),
        make_floating_ip(1, fixed_ip_address=behind(2).ipv4),
        make_floating_ip(2, fixed_ip_address="10.1.0.99"),
        settings=APART,
    )
    assert world.passes(OUTSIDE, behind(2), TCP, 22, to=FLOATING)
    assert world.passes(host(), behind(2), TCP, 22, to=FLOATING)
    assert not world.passes(host(), vm(5), TCP, 22, to=SECOND)


def test_the_groups_judge_by_the_fixed_ip_and_the_true_source() -> None:
    group = make_group(
        1, make_rule(1, protocol="tcp", port_range_min=22, port_range_max=22, remote_ip_prefix="192.0.2.99")
    )
    world = World(make_network(1), group, make_instance(1, (1,)), make_floating_ip(1))
    assert world.passes(OUTSIDE, vm(1), TCP, 22, to=FLOATING)
    assert not world.passes(OUTSIDE, vm(1), TCP, 23, to=FLOATING)
    assert not world.passes(OUTSIDE, vm(1), TCP, 22, to=FLOATING, from_address="192.0.2.98")


def test_an_instance_with_a_floating_ip_shows_it_outside() -> None:
    world = floating_world()
    assert world.send(vm(1), OUTSIDE).packet.source == FLOATING
    assert world.send(vm(2), OUTSIDE).packet.source == MY_IP


@pytest.mark.parametrize("caller", [vm(2), vm(3, 2)], ids=("same network", "other network"))
def test_a_floating_ip_leads_to_its_instance_from_other_instances(caller: End) -> None:
    journey = floating_world().send(caller, vm(1), TCP, 22, to=FLOATING)
    assert journey.passed
    assert journey.packet.destination == vm(1).ipv4


def test_an_instance_shows_its_floating_ip_to_another_that_it_calls_by_its_own() -> None:
    """nova, bug 1178745."""
    world = floating_world(make_floating_ip(2, instance=2))
    journey = world.send(vm(1), vm(2), to=SECOND)
    assert journey.passed
    assert (journey.packet.source, journey.packet.destination) == (FLOATING, vm(2).ipv4)
    direct = world.send(vm(1), vm(2))
    assert direct.packet.source == vm(1).ipv4


def test_an_instance_reaches_itself_by_its_floating_ip() -> None:
    journey = floating_world().send(vm(1), vm(1), to=FLOATING)
    assert journey.passed
    assert (journey.packet.source, journey.packet.destination) == (FLOATING, vm(1).ipv4)


def test_the_host_reaches_an_instance_by_its_floating_ip() -> None:
    journey = floating_world().send(host(), vm(1), to=FLOATING)
    assert journey.passed
    assert (journey.packet.destination, journey.packet.out_interface) == (vm(1).ipv4, "br1")


def test_the_host_is_judged_by_the_groups_also_when_it_calls_a_floating_ip() -> None:
    """filter OUTPUT is shown the link that led to the floating IP (lo, where it is bound), and not the bridge."""
    world = World(make_network(1), make_instance(1), make_floating_ip(1), settings=APART)
    journey = world.send(host(), vm(1), to=FLOATING)
    assert not journey.passed
    assert journey.chains[-1] == "nova-netagent-sg-fallback"
    elsewhere = World(make_network(1), make_instance(1), make_floating_ip(1, interface="eth9"), settings=APART)
    assert not elsewhere.passes(host(), vm(1), to=FLOATING)


def test_a_bridge_as_public_interface_translates_what_is_routed_out_by_it() -> None:
    """nova's flat networks: the bridge is the way out, and frames between its ports keep their source."""
    settings = make_settings(public_interface="br1")
    items = (
        make_network(1, bridge_interface="eth1"),
        make_network(2),
        make_instance(1),
        make_instance(2, network=2),
        make_instance(3, network=2),
        make_floating_ip(1, 1),
        make_floating_ip(2, 2, 2),
    )
    world = World(*items, settings=settings)
    world.add_route("198.18.0.0/24", "br1")
    far = "198.18.0.5"
    assert world.send(vm(2, 2), behind(), to=far).packet.source == SECOND
    assert world.send(vm(3, 2), behind(), to=far).packet.source == MY_IP
    assert world.send(vm(1), behind(), to=far, multicast=True).packet.source == vm(1).ipv4


def test_a_floating_ip_shows_also_where_somebody_else_is_the_gateway() -> None:
    """The frame goes to his MAC and is only bridged here; nova had an ebtables rule to have it routed."""
    network = make_network(1, gateway="10.1.0.254", dhcp_server="10.1.0.1", bridge_interface="eth1")
    world = World(network, make_instance(1), make_floating_ip(1), settings=make_settings(public_interface="br1"))
    assert world.send(vm(1), behind(), to="198.18.0.5", multicast=True).packet.source == FLOATING


@pytest.mark.parametrize("interface", [None, "eth0", "eth5"])
def test_the_interface_of_a_floating_ip_is_where_it_shows(interface: str | None) -> None:
    world = World(
        make_network(1),
        make_instance(1),
        make_instance(2),
        make_floating_ip(1, interface=interface),
        settings=make_settings(public_interface=None, routing_source_ip=None),
    )
    world.add_route("198.18.0.0/24", "eth5")
    far = End("eth5", "198.18.0.5", "")
    shown = {
        "eth0": (world.send(vm(1), OUTSIDE).packet.source, "eth0"),
        "eth5": (world.send(vm(1), far).packet.source, "eth5"),
    }
    for device, (source, _) in shown.items():
        assert source == (FLOATING if interface in (None, device) else vm(1).ipv4)
    # What is only bridged keeps its source in any case.
    assert world.send(vm(1), vm(2)).packet.source == vm(1).ipv4


def test_of_two_floating_ips_the_numerically_lower_is_the_source() -> None:
    """Not the lower as text: 198.51.100.9 is below 198.51.100.10."""
    for numbers in ((9, 10), (10, 9)):
        world = World(make_network(1), OPEN, make_instance(1, (1,)), *(make_floating_ip(n) for n in numbers))
        assert world.send(vm(1), OUTSIDE).packet.source == "198.51.100.9"
        for number in numbers:
            assert world.send(OUTSIDE, vm(1), to=f"198.51.100.{number}").packet.destination == vm(1).ipv4


def test_a_floating_ip_of_an_instance_on_another_host() -> None:
    """It is installed when a network here holds the fixed IP."""
    world = World(make_network(1, bridge_interface="eth1"), make_floating_ip(1, fixed_ip_address="10.1.0.200"))
    journey = world.send(OUTSIDE, behind(), to=FLOATING)
    assert journey.passed
    assert journey.packet.destination == behind().ipv4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fixed_ip_address": "10.7.0.2"}, "waits for a network that holds 10.7.0.2"),
        ({"instance_id": instance_id(2)}, f"waits for instance {instance_id(2)} with fixed IP 10.1.0.2"),
        ({"instance_id": instance_id(8)}, f"waits for instance {instance_id(8)} with fixed IP 10.1.0.2"),
    ],
)
def test_a_floating_ip_waits_for_what_it_refers_to(fields: dict[str, Any], message: str) -> None:
    floating = make_floating_ip(1, **fields)
    world = World(make_network(1), OPEN, make_instance(1, (1,)), make_instance(2), floating)
    assert world.problems(floating) == [("pending", message)]
    assert world.send(OUTSIDE, vm(1), to=FLOATING).packet.destination == FLOATING
    assert world.send(vm(1), OUTSIDE).packet.source == MY_IP


@pytest.mark.parametrize("address", ["10.1.0.1", "10.2.0.254"])
def test_a_gateways_address_is_no_floating_ip(address: str) -> None:
    floating = make_floating_ip(1, id=address)
    world = World(make_network(1), make_network(2, dhcp_server="10.2.0.254"), make_instance(1), floating)
    assert [kind for kind, _ in world.problems(floating)] == ["error"]
    assert world.chain("PREROUTING", "nat") == [
        f"-d {METADATA}/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination {MY_IP}:8775"
    ]


@pytest.mark.parametrize("gateway", ["10.1.0.1", None])
@pytest.mark.parametrize(("cidr", "error"), [("10.1.0.0/24", True), ("10.1.0.0/16", False), ("10.1.0.254/31", False)])
def test_the_last_address_of_a_network_is_no_floating_ip(cidr: str, error: bool, gateway: str | None) -> None:
    """Led to one instance, what is sent to all of the network would reach nobody else."""
    floating = make_floating_ip(1, id="10.1.0.255", network=2)
    gateway = gateway and f"10.1.0.{254 if cidr.endswith('31') else 1}"
    world = World(make_network(1, cidr=cidr, gateway=gateway), make_network(2), make_instance(1, network=2), floating)
    assert [kind for kind, _ in world.problems(floating)] == ["error"] * error
    assert any("10.1.0.255" in rule for rule in world.chain("PREROUTING", "nat")) is not error


def test_the_metadata_address_is_no_floating_ip() -> None:
    """CONTRACT: an address the host already has is ``error``; this one is on lo."""
    floating = make_floating_ip(1, id=METADATA)
    world = World(make_network(1), make_instance(1), floating)
    assert [kind for kind, _ in world.problems(floating)] == ["error"]


def test_replies_to_a_floating_ip_are_left_to_connection_tracking() -> None:
    """The nat table sees only the first packet of a flow."""
    journey = floating_world().send(vm(1), OUTSIDE, state="ESTABLISHED")
    assert journey.passed
    assert "nat" not in [hop.table for hop in journey.hops]


def test_egress_to_a_floating_ip_is_judged_by_the_address_that_was_used() -> None:
    """As in neutron, where the router comes after the filter."""
    group = make_group(2, make_rule(9, direction="egress", remote_ip_prefix="198.51.100.0/24"))
    world = floating_world(group, make_instance(4, (1, 2)))
    assert world.passes(vm(4), vm(1), to=FLOATING)
    assert not world.passes(vm(4), vm(1))


def test_a_members_address_is_its_fixed_ip_also_by_way_of_a_floating_ip() -> None:
    group = make_group(2, make_rule(9, remote_group_id=group_id(3)))
    world = World(
        make_network(1),
        make_network(2),
        group,
        make_group(3, make_rule(8)),
        make_instance(1, (2,)),
        make_instance(2, (3,), network=2),
        make_instance(3, network=2),
        make_floating_ip(1),
        make_floating_ip(2, 2, 2),
    )
    assert world.passes(vm(2, 2), vm(1), to=FLOATING)
    assert not world.passes(vm(3, 2), vm(1), to=FLOATING)


# --- the metadata service


def test_the_metadata_address_leads_to_the_service_here() -> None:
    world = World(make_network(1), make_instance(1))
    journey = world.send(vm(1), host(), TCP, 80, to=METADATA)
    assert journey.passed
    assert (journey.packet.destination, journey.packet.destination_port) == (MY_IP, 8775)
    assert journey.hops[-2].walk.decided_by is not None  # let in by a rule of ours in INPUT


def test_the_metadata_address_leads_to_the_service_elsewhere_and_the_instance_is_known_by_its_address() -> None:
    settings = make_settings(metadata_host="203.0.113.9", metadata_port=8000)
    world = World(make_network(1), make_instance(1), make_floating_ip(1), settings=settings)
    journey = world.send(vm(1), host(), TCP, 80, to=METADATA)
    assert journey.passed
    assert (journey.packet.destination, journey.packet.destination_port) == ("203.0.113.9", 8000)
    assert journey.packet.source == vm(1).ipv4


def test_the_exemption_of_the_metadata_service_is_its_address_protocol_and_port_only() -> None:
    settings = make_settings(metadata_host="203.0.113.9", metadata_port=8000)
    for extra, source in (((), MY_IP), ((make_floating_ip(1),), FLOATING)):
        world = World(make_network(1), make_instance(1), *extra, settings=settings)
        assert world.send(vm(1), OUTSIDE, TCP, 8000, to="203.0.113.9").packet.source == vm(1).ipv4
        for protocol, port, to in ((TCP, 80, "203.0.113.9"), (UDP, 8000, "203.0.113.9"), (TCP, 8000, "203.0.113.8")):
            assert world.send(vm(1), OUTSIDE, protocol, port, to=to).packet.source == source


def test_a_metadata_service_on_loopback_is_reached_by_redirect() -> None:
    world = World(make_network(1), make_instance(1), settings=make_settings(metadata_host="127.0.0.1"))
    journey = world.send(vm(1), host(), TCP, 80, to=METADATA)
    assert journey.passed
    assert journey.hops[-2].hook == "INPUT"
    assert journey.packet.destination_port == 8775
    assert journey.hops[-2].walk.decided_by is not None
    assert world.chain("POSTROUTING", "nat") == ["-s 10.0.0.0/8 -d 10.0.0.0/8 -m conntrack ! --ctstate DNAT -j ACCEPT"]


@pytest.mark.parametrize(("port", "protocol"), [(81, TCP), (80, UDP), (443, TCP)])
def test_only_the_metadata_port_is_led_away(port: int, protocol: int) -> None:
    world = World(make_network(1), make_instance(1))
    assert world.send(vm(1), host(), protocol, port, to=METADATA).packet.destination == METADATA


def test_without_a_metadata_host_there_is_no_way_to_it() -> None:
    world = World(make_network(1), settings=make_settings(metadata_host=None))
    assert world.chain("PREROUTING", "nat") == []
    assert not [each for each in world.compiled.links.addresses if each.interface == "lo"]


def test_a_bridged_metadata_request_is_taken_out_of_the_bridge() -> None:
    """Where somebody else is the gateway the frame is his; DNAT makes it the host's."""
    world = World(
        make_network(1, gateway="10.1.0.254", dhcp_server="10.1.0.1", bridge_interface="eth1"), make_instance(1)
    )
    journey = world.send(vm(1), behind(), TCP, 80, to=METADATA, multicast=True)
    assert journey.passed
    assert journey.hops[-2].hook == "INPUT"


# --- SNAT of the fixed range


def test_the_fixed_range_is_translated_outside() -> None:
    world = World(make_network(1), make_network(2), OPEN, make_instance(1, (1,)), make_instance(2, (1,), network=2))
    assert world.send(vm(1), OUTSIDE).packet.source == MY_IP
    assert world.send(vm(1), vm(2, 2)).packet.source == vm(1).ipv4
    assert world.send(OUTSIDE, vm(1)).packet.source == OUTSIDE.ipv4
    assert world.send(vm(1), OUTSIDE, family=6).packet.source == vm(1).ipv6


def test_only_what_goes_out_by_the_public_interface_is_translated() -> None:
    world = World(make_network(1), make_instance(1))
    world.add_route("198.18.0.0/24", "eth5")
    assert world.send(vm(1), End("eth5", "198.18.0.5", "")).packet.source == vm(1).ipv4
    anywhere = World(make_network(1), make_instance(1), settings=make_settings(public_interface=None))
    anywhere.add_route("198.18.0.0/24", "eth5")
    assert anywhere.send(vm(1), End("eth5", "198.18.0.5", "")).packet.source == MY_IP


def test_what_is_outside_the_fixed_range_is_not_translated() -> None:
    settings = make_settings(fixed_range=("10.2.0.0/16",))
    world = World(make_network(1), make_network(2), make_instance(1), make_instance(2, network=2), settings=settings)
    assert world.send(vm(1), OUTSIDE).packet.source == vm(1).ipv4
    assert world.send(vm(2, 2), OUTSIDE).packet.source == MY_IP


@pytest.mark.parametrize("settings", [{"routing_source_ip": None}, {"routing_source_ip": ""}, {"fixed_range": ()}])
def test_without_a_range_or_a_source_nothing_is_translated(settings: dict[str, object]) -> None:
    world = World(make_network(1), make_instance(1), settings=make_settings(**settings))
    assert world.send(vm(1), OUTSIDE).packet.source == vm(1).ipv4


def test_dmz_is_reached_without_translation() -> None:
    settings = make_settings(dmz_cidr=("192.0.2.96/27", "198.18.0.0/15"))
    world = World(make_network(1), make_instance(1), settings=settings)
    assert world.send(vm(1), OUTSIDE).packet.source == vm(1).ipv4
    assert world.send(vm(1), OUTSIDE, to="192.0.2.95").packet.source == MY_IP


def test_ranges_are_not_translated_towards_each_other() -> None:
    settings = make_settings(fixed_range=("10.1.0.0/16", "10.2.0.0/16"), public_interface=None)
    world = World(
        make_network(1),
        make_network(2),
        OPEN,
        make_instance(1, (1,)),
        make_instance(2, (1,), network=2),
        settings=settings,
    )
    assert world.send(vm(1), vm(2, 2)).packet.source == vm(1).ipv4
    assert world.send(vm(2, 2), vm(1)).packet.source == vm(2, 2).ipv4
    assert world.send(vm(1), OUTSIDE).packet.source == MY_IP


@pytest.mark.parametrize("public_interface", [None, "eth0"])
def test_what_is_only_bridged_keeps_its_source(public_interface: str | None) -> None:
    """A neighbour's mDNS, a broadcast, a stranger behind the uplink."""
    settings = make_settings(public_interface=public_interface)
    world = World(make_network(1, bridge_interface="eth1"), make_instance(1), make_instance(2), settings=settings)
    for to in ("224.0.0.251", "255.255.255.255", "172.16.0.9"):
        journey = world.send(vm(1), behind(), UDP, 5353, to=to, multicast=True)
        assert journey.passed
        assert journey.packet.source == vm(1).ipv4


# --- a gateway that is somebody else's


def external(**settings: object) -> World:
    network = make_network(1, gateway="10.1.0.254", dhcp_server="10.1.0.1", bridge_interface="eth1")
    return World(
        network,
        make_network(2),
        OPEN,
        make_instance(1, (1,)),
        make_instance(2, network=2),
        settings=make_settings(**settings),
    )


def test_a_network_with_an_external_gateway_is_not_translated() -> None:
    world = external()
    assert world.send(vm(1), OUTSIDE).packet.source == vm(1).ipv4
    assert world.send(vm(2, 2), OUTSIDE).packet.source == MY_IP


def test_but_for_the_forced_ranges() -> None:
    world = external(force_snat_range=("192.0.2.96/27",))
    assert world.send(vm(1), OUTSIDE).packet.source == MY_IP
    assert world.send(vm(1), OUTSIDE, to="203.0.113.5").packet.source == vm(1).ipv4
    # The frame is addressed to the other gateway, and only bridged here.
    for to, source in ((OUTSIDE.ipv4, MY_IP), ("203.0.113.5", vm(1).ipv4)):
        assert world.send(vm(1), behind(), to=to, multicast=True).packet.source == source


def test_a_floating_ip_wins_over_the_forced_range() -> None:
    network = make_network(1, gateway="10.1.0.254", dhcp_server="10.1.0.1")
    world = World(
        network, make_instance(1), make_floating_ip(1), settings=make_settings(force_snat_range=("192.0.2.96/27",))
    )
    assert world.send(vm(1), OUTSIDE).packet.source == FLOATING


@pytest.mark.parametrize("fixed_range", ["10.0.0.0/8", "10.1.0.0/24", "10.1.0.0/25"])
def test_the_exemption_holds_for_whatever_part_of_the_network_is_fixed_range(fixed_range: str) -> None:
    assert external(fixed_range=(fixed_range,)).send(vm(1), OUTSIDE).packet.source == vm(1).ipv4
    forced = external(fixed_range=(fixed_range,), force_snat_range=("192.0.2.96/27",))
    assert forced.send(vm(1), OUTSIDE).packet.source == MY_IP


def test_forced_ranges_change_nothing_for_a_network_that_is_routed_here() -> None:
    world = World(make_network(1), make_instance(1), settings=make_settings(force_snat_range=("203.0.113.0/24",)))
    assert world.send(vm(1), OUTSIDE).packet.source == MY_IP


# --- IPv6 has no NAT of ours


def test_ipv6_is_never_translated(family: Family) -> None:
    world = World(make_network(1), OPEN, make_instance(1, (1,)), make_floating_ip(1))
    expected = FLOATING if family == 4 else vm(1).ipv6
    assert world.send(vm(1), OUTSIDE, family=family).packet.source == expected
    names = world.chains("nat", 6)
    assert names == ["OUTPUT", "POSTROUTING", "PREROUTING", "float-snat", "snat"]
    assert [world.chain(name, "nat", 6) for name in names] == [[], [], [], [], ["-j nova-netagent-float-snat"]]
