"""What can be done of a state: references, claims, and whose fault it is."""

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from nova_netagent.compile import Compiler
from nova_netagent.events import Delete, Put, fold
from nova_netagent.model import DesiredState, Object
from nova_netagent.netfilter.rule import DROP, Chain, Rule
from nova_netagent.testing import (
    group_id,
    instance_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    make_vif,
    network_id,
    vif_id,
)
from tests.unit.compile.world import OUTSIDE, World, make_settings, vm


def errors(world: World, item: Object) -> list[str]:
    """What is wrong with an object; nothing of it is merely pending."""
    problems = world.problems(item)
    assert all(kind == "error" for kind, _ in problems)
    return [message for _, message in problems]


def pending(world: World, item: Object) -> list[str]:
    """What an object waits for; nothing of it is in error."""
    problems = world.problems(item)
    assert all(kind == "pending" for kind, _ in problems)
    return [message for _, message in problems]


# --- networks that overlap

OVERLAPS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"cidr": "10.1.0.0/24", "gateway": "10.1.0.7"}),
    ({}, {"cidr": "10.1.0.128/25", "gateway": "10.1.0.129"}),
    ({}, {"cidr": "10.0.0.0/8", "gateway": "10.255.0.1"}),
    ({}, {"cidr_v6": "fd00:1::/48", "gateway_v6": "fd00:1:0:9::1"}),
    ({}, {"cidr_v6": "fd00:1::/64", "gateway_v6": "fe80::1"}),
    ({"gateway": "10.1.0.254", "dhcp_server": "10.1.0.1"}, {"cidr": "10.1.0.0/24", "gateway": "10.1.0.1"}),
]


@pytest.mark.parametrize(("first", "second"), OVERLAPS)
def test_of_two_routed_networks_that_overlap_the_second_is_in_error_and_names_the_first(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    for numbers in ((1, 2), (2, 1)):
        older = make_network(numbers[0], **({"cidr": "10.1.0.0/24", "gateway": "10.1.0.1"} | _v6(1) | first))
        younger = make_network(numbers[1], **({"cidr": "10.2.0.0/24", "gateway": "10.2.0.1"} | _v6(2) | second))
        world = World(older, younger)
        assert world.problems(older) == []
        (message,) = errors(world, younger)
        assert older.id in message
        assert older.label in message
        assert younger.bridge not in "".join(world.chain("FORWARD"))


def _v6(number: int) -> dict[str, str]:
    return {"cidr_v6": f"fd00:{number}::/64", "gateway_v6": f"fd00:{number}::1"}


@pytest.mark.parametrize(
    "fields",
    [
        {"cidr": "10.1.0.0/24", "gateway": None, "cidr_v6": None, "gateway_v6": None},
        {"cidr": "10.1.1.0/24", "gateway": "10.1.1.1"},
        {"cidr": "10.2.0.0/24", "gateway": "10.2.0.1", "cidr_v6": "fd00:1::/64", "gateway_v6": None},
    ],
)
def test_what_is_not_routed_here_or_not_the_same_overlaps_nothing(fields: dict[str, Any]) -> None:
    world = World(make_network(1), make_network(2, **fields))
    assert not world.compiled.problems


def test_the_second_network_works_when_the_first_is_gone() -> None:
    settings = make_settings()
    compiler = Compiler(settings)
    first, second = make_network(1), make_network(2, cidr="10.1.0.0/16", gateway="10.1.9.9")
    state = DesiredState()
    for item in (first, second):
        state = fold(state, Put(item), 0.0)
    assert set(compiler.compile(state).problems) == {("networks", second.id)}
    state = fold(state, Delete("networks", first.id), 0.0)
    compiled = compiler.compile(state)
    assert compiled.problems == {}
    assert compiled.links.bridges.keys() == {"br2"}


def test_a_third_network_is_judged_by_those_that_work() -> None:
    """The second does not count: it is in error itself."""
    world = World(
        make_network(1, cidr_v6=None, gateway_v6=None),
        make_network(2, cidr="10.0.0.0/8", gateway="10.9.9.9", cidr_v6=None, gateway_v6=None),
        make_network(3, cidr_v6=None, gateway_v6=None),
    )
    assert set(world.compiled.problems) == {("networks", network_id(2))}


def test_an_update_of_the_older_network_keeps_its_range() -> None:
    older, younger = make_network(1), make_network(2, cidr="10.1.0.0/16", gateway="10.1.9.9")
    world = World(older, younger, make_network(1, label="renamed", mtu=1400))
    assert set(world.compiled.problems) == {("networks", younger.id)}


def test_a_network_that_gets_a_second_range_keeps_the_first() -> None:
    """docs/decisions/0005: an update that keeps a claim keeps its age; an update that adds one is young in it."""
    bare = {"cidr_v6": None, "gateway_v6": None}
    older, younger = make_network(1, **bare), make_network(2, cidr="10.1.0.0/16", gateway="10.1.9.9", **bare)
    world = World(older, younger, make_network(1))
    assert set(world.compiled.problems) == {("networks", younger.id)}


# --- addresses, devices and vifs that two claim


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1)])
def test_the_older_keeps_a_fixed_ip(numbers: tuple[int, int]) -> None:
    older = make_instance(numbers[0], vifs=(make_vif(numbers[0], fixed_ips=("10.1.0.9", "10.1.0.20")),))
    younger = make_instance(numbers[1], vifs=(make_vif(numbers[1], fixed_ips=("10.1.0.9", "10.1.0.30")),))
    world = World(make_network(1), older, younger)
    assert world.problems(older) == []
    assert errors(world, younger) == [f"vif {younger.vifs[0].id}: fixed IP 10.1.0.9 is instance {older.id}'s already"]
    taps = (older.vifs[0].device, younger.vifs[0].device)
    assert [f"-d 10.1.0.9/32 -o br1 -j nova-netagent-inst-{older.id[:8]}"] == [
        rule for rule in world.chain("local") if "10.1.0.9/" in rule
    ]
    assert f"-d 10.1.0.30/32 -o br1 -j nova-netagent-inst-{younger.id[:8]}" in world.chain("local")
    assert world.compiled.links.ports.keys() == set(taps)


def test_an_address_may_be_had_once_on_each_network() -> None:
    unrouted = {"cidr": "10.1.0.0/24", "gateway": None, "cidr_v6": None, "gateway_v6": None}
    world = World(
        make_network(1),
        make_network(2, **unrouted),
        make_instance(1),
        make_instance(2, vifs=(make_vif(2, 2, fixed_ips=("10.1.0.2",)),)),
    )
    assert not world.compiled.problems


def test_the_younger_gets_the_address_when_the_older_lets_go() -> None:
    older, younger = make_instance(1), make_instance(2, vifs=(make_vif(2, fixed_ips=("10.1.0.2",)),))
    moved = make_instance(1, vifs=(make_vif(1, fixed_ips=("10.1.0.99",)),))
    assert World(make_network(1), older, younger).problems(younger)
    assert not World(make_network(1), older, younger, moved).compiled.problems


def test_an_update_keeps_the_age_of_what_it_keeps_and_is_young_in_what_it_adds() -> None:
    first = make_instance(1, vifs=(make_vif(1, fixed_ips=("10.1.0.50",)),))
    second = make_instance(2, vifs=(make_vif(2, fixed_ips=("10.1.0.60",)),))
    both = make_instance(1, vifs=(make_vif(1, fixed_ips=("10.1.0.50", "10.1.0.60")),))
    greedy = make_instance(2, vifs=(make_vif(2, fixed_ips=("10.1.0.60", "10.1.0.50")),))
    world = World(make_network(1), first, second, both, greedy)
    assert errors(world, both) == [f"vif {vif_id(1)}: fixed IP 10.1.0.60 is instance {instance_id(2)}'s already"]
    assert errors(world, greedy) == [f"vif {vif_id(2)}: fixed IP 10.1.0.50 is instance {instance_id(1)}'s already"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"devname": "tap1"}, f"vif {vif_id(2)}: device tap1 is instance {instance_id(1)}'s already"),
        ({"id": vif_id(1)}, f"vif {vif_id(1)}: vif {vif_id(1)} is instance {instance_id(1)}'s already"),
    ],
)
def test_the_older_keeps_its_device_and_its_vif(fields: dict[str, Any], message: str) -> None:
    younger = make_instance(2, vifs=(make_vif(2, **fields), make_vif(3)))
    world = World(make_network(1), make_instance(1), younger)
    assert errors(world, younger) == [message]
    assert world.compiled.links.ports == {"tap1": "br1", "tap3": "br1"}
    assert world.passes(vm(1), OUTSIDE)
    assert world.passes(vm(3), OUTSIDE)
    assert "10.1.0.3/32" not in "".join(world.chain("local"))


@pytest.mark.parametrize(
    ("network", "device"),
    [
        ({"bridge_interface": "eth1"}, "eth1"),
        ({}, "br1"),
        ({}, "eth0"),
        ({"bridge_interface": "eth1", "vlan": 100}, "vlan100"),
    ],
)
def test_a_vif_cannot_have_an_interface_of_the_hosts_own_for_its_tap(network: dict[str, Any], device: str) -> None:
    instance = make_instance(1, vifs=(make_vif(1, devname=device),))
    world = World(make_network(1, **network), instance)
    assert errors(world, instance) == [f"vif {vif_id(1)}: {device} is an interface of the host's own"]
    assert world.compiled.links.ports == {}


NAME_A_TAP: list[Object] = [make_floating_ip(1, interface="tap1"), make_network(2, bridge_interface="tap1")]


@pytest.mark.parametrize("wrong", NAME_A_TAP, ids=["floating IP", "network"])
def test_an_object_that_names_an_older_vifs_tap_is_in_error_and_does_not_take_it_off(wrong: Object) -> None:
    """Law 5: one object's error touches no other; of two that claim a thing the older keeps it."""
    instance = make_instance(1)
    world = World(make_network(1), instance, wrong)
    assert world.problems(instance) == []
    assert errors(world, wrong) == [f"tap1 is the tap of instance {instance.id} already"]
    assert world.compiled.links.ports == {"tap1": "br1"}
    assert "198.51.100.1" not in "".join(each.cidr for each in world.compiled.links.addresses)


@pytest.mark.parametrize("older", NAME_A_TAP, ids=["floating IP", "network"])
def test_a_vif_that_is_younger_than_who_names_its_tap_is_in_error_until_that_goes(older: Object) -> None:
    instance = make_instance(1)
    again = make_instance(1, hostname="renamed")
    world = World(make_network(1), older, instance, again)
    assert errors(world, instance) == [f"vif {vif_id(1)}: tap1 is an interface of the host's own"]
    assert world.compiled.links.ports == {}
    state = fold(world.state, Delete(older.KIND, older.id), 0.0)
    assert not Compiler(make_settings()).compile(state).problems


def test_what_the_operator_configured_is_the_hosts_however_old_the_vif_is() -> None:
    instance, floating = make_instance(1), make_floating_ip(1, interface="tap1")
    world = World(make_network(1), instance, floating, settings=make_settings(public_interface="tap1"))
    assert errors(world, instance) == [f"vif {vif_id(1)}: tap1 is an interface of the host's own"]
    assert world.problems(floating) == []


def test_a_range_that_nobody_else_has_is_routed_beside_a_network_that_names_a_tap() -> None:
    """A network in error over its interface is not there: what overlaps it works."""
    wrong, overlapping = NAME_A_TAP[1], make_network(3, cidr="10.2.0.0/24", gateway="10.2.0.1")
    world = World(make_network(1), make_instance(1), wrong, overlapping)
    assert set(world.compiled.problems) == {(wrong.KIND, wrong.id)}


# --- references


def test_a_vif_waits_for_its_network_and_the_others_do_not() -> None:
    instance = make_instance(1, vifs=(make_vif(1), make_vif(2, 7)))
    world = World(make_network(1), instance)
    assert pending(world, instance) == [f"vif {vif_id(2)} waits for network {network_id(7)}"]
    assert world.compiled.links.ports == {"tap1": "br1"}


def test_a_vif_of_a_network_in_error_waits_too() -> None:
    instance = make_instance(1, network=2)
    world = World(make_network(1), make_network(2, cidr="10.1.0.0/16", gateway="10.1.9.9"), instance)
    assert pending(world, instance) == [f"vif {vif_id(1)} waits for network {network_id(2)}"]


@pytest.mark.parametrize("address", ["10.2.0.2", "fd00:2::2", "192.0.2.1"])
def test_a_fixed_ip_outside_its_network_is_in_error_and_the_others_work(address: str) -> None:
    instance = make_instance(1, (1,), vifs=(make_vif(1, fixed_ips=("10.1.0.2", address)),))
    world = World(make_network(1), make_group(1, make_rule(1)), instance)
    assert errors(world, instance) == [f"vif {vif_id(1)}: fixed IP {address} is outside network {network_id(1)}"]
    assert world.passes(OUTSIDE, vm(1))
    assert not world.passes(vm(1), OUTSIDE, family=6 if ":" in address else 4, from_address=address)


def test_a_fixed_ip_of_a_family_that_its_network_has_not_is_in_error() -> None:
    instance = make_instance(1)
    world = World(make_network(1, cidr_v6=None, gateway_v6=None), instance)
    assert errors(world, instance) == [f"vif {vif_id(1)}: fixed IP fd00:1::2 is outside network {network_id(1)}"]


@pytest.mark.parametrize("address", ["10.1.0.9", "fd00:1::1"])
def test_a_fixed_ip_that_is_the_hosts_own_is_in_error_and_the_others_work(address: str) -> None:
    """Its instance could answer ARP for it, and have the whole network's packets."""
    instance = make_instance(1, (1,), vifs=(make_vif(1, fixed_ips=("10.1.0.2", address)),))
    world = World(make_network(1, dhcp_server="10.1.0.9"), make_group(1, make_rule(1)), instance)
    assert errors(world, instance) == [
        f"vif {vif_id(1)}: fixed IP {address} is the host's own on network {network_id(1)}"
    ]
    assert world.passes(OUTSIDE, vm(1))
    assert not world.passes(vm(1), OUTSIDE, family=6 if ":" in address else 4, from_address=address)


@pytest.mark.parametrize("address", ["10.1.0.0", "10.1.0.255"])
def test_a_fixed_ip_that_no_host_can_have_is_in_error_and_the_others_work(address: str) -> None:
    """The whole network's broadcasts would be answered in its name."""
    instance = make_instance(1, (1,), vifs=(make_vif(1, fixed_ips=("10.1.0.2", address)),))
    world = World(make_network(1), make_group(1, make_rule(1)), instance)
    assert errors(world, instance) == [
        f"vif {vif_id(1)}: fixed IP {address} is the first or the last address of network {network_id(1)}:"
        " no host can have it"
    ]
    assert world.passes(OUTSIDE, vm(1))
    assert not world.passes(vm(1), OUTSIDE, from_address=address)


def test_a_fixed_ip_that_every_router_answers_for_is_in_error_and_the_others_work() -> None:
    instance = make_instance(1, (1,), vifs=(make_vif(1, fixed_ips=("10.1.0.2", "fd00:1::")),))
    world = World(make_network(1), make_group(1, make_rule(1)), instance)
    assert errors(world, instance) == [
        f"vif {vif_id(1)}: fixed IP fd00:1:: is the first address of network {network_id(1)}:"
        " its routers take what is sent there"
    ]
    assert world.passes(OUTSIDE, vm(1))
    assert not world.passes(vm(1), OUTSIDE, family=6, from_address="fd00:1::")


@pytest.mark.parametrize("fields", [{"gateway_v6": None}, {"cidr_v6": "fd00:1::/127"}])
def test_where_no_router_has_it_an_instance_may(fields: dict[str, Any]) -> None:
    instance = make_instance(1, vifs=(make_vif(1, fixed_ips=("fd00:1::",)),))
    assert errors(World(make_network(1, **fields), instance), instance) == []


@pytest.mark.parametrize(("cidr", "address"), [("10.1.0.0/16", "10.1.0.255"), ("10.1.0.2/31", "10.1.0.2")])
def test_what_looks_like_it_may_be_had(cidr: str, address: str) -> None:
    instance = make_instance(1, vifs=(make_vif(1, fixed_ips=(address,)),))
    world = World(make_network(1, cidr=cidr, gateway=None), instance)
    assert errors(world, instance) == []


def test_an_instance_may_be_the_gateway_where_the_host_is_not() -> None:
    instance = make_instance(1, vifs=(make_vif(1, fixed_ips=("10.1.0.1",)),))
    world = World(make_network(1, dhcp_server="10.1.0.9"), instance)
    assert errors(world, instance) == []


def test_everything_that_is_wrong_is_named() -> None:
    instance = make_instance(1, (7,), vifs=(make_vif(1, fixed_ips=("10.2.0.2",)), make_vif(2, 9)))
    world = World(make_network(1), instance)
    assert world.problems(instance) == [
        ("error", f"vif {vif_id(1)}: fixed IP 10.2.0.2 is outside network {network_id(1)}"),
        ("pending", f"vif {vif_id(1)} waits for security group {group_id(7)}"),
        ("pending", f"vif {vif_id(2)} waits for network {network_id(9)}"),
        ("pending", f"vif {vif_id(2)} waits for security group {group_id(7)}"),
    ]


def test_a_floating_ip_waits_for_its_instance_also_when_that_is_pending() -> None:
    floating = make_floating_ip(1, instance_id=instance_id(1))
    assert pending(World(make_instance(1), floating), floating)
    assert not World(make_network(1), make_instance(1), floating).compiled.problems


def test_a_fixed_ip_that_is_here_is_no_floating_ip_whoever_came_first() -> None:
    floating = make_floating_ip(1, id="10.1.0.3")
    why = f"10.1.0.3 is a fixed IP of instance {instance_id(2)} on network {network_id(1)}"
    for order in ((make_instance(2), floating), (floating, make_instance(2))):
        world = World(make_network(1), make_instance(1), *order)
        assert errors(world, floating) == [why]
        assert world.problems(make_instance(2)) == []
    assert World(make_network(1), make_instance(1), floating).problems(floating) == []


def test_a_fixed_ip_of_a_network_that_the_host_does_not_route_may_be_a_floating_ip() -> None:
    isolated = make_network(2, cidr="203.0.113.0/24", gateway=None)
    instance = make_instance(2, vifs=(make_vif(2, 2, fixed_ips=("203.0.113.9",)),))
    floating = make_floating_ip(1, id="203.0.113.9")
    world = World(make_network(1), isolated, make_instance(1), instance, floating)
    assert world.problems(floating) == []


# --- what the kernel refused


REFUSED: list[Object] = [
    make_network(1),
    make_group(1, make_rule(1)),
    make_instance(1, (1,)),
    make_floating_ip(1),
    make_provider_rule(1),
]


def _but(chains: Mapping[str, Chain], apart: Collection[str]) -> Mapping[str, Chain]:
    return {name: each for name, each in chains.items() if name not in apart}


@pytest.mark.parametrize("refused", REFUSED, ids=lambda item: item.KIND)
def test_what_was_refused_passes_nothing_and_the_others_are_as_without_it(refused: Object) -> None:
    items = [
        *REFUSED,
        make_network(2),
        make_instance(2, network=2),
        make_group(2, make_rule(2, remote_group_id=group_id(1))),
    ]
    state, without = DesiredState(), DesiredState()
    for item in items:
        state = fold(state, Put(item), 0.0)
        if item is not refused:
            without = fold(without, Put(item), 0.0)
    key = (refused.KIND, refused.id)
    compiled = Compiler(make_settings()).compile(state, {key: "the kernel said no"})
    other = Compiler(make_settings()).compile(without)
    assert compiled.problems[key][0] == ("error", "the kernel said no")
    if refused.KIND == "instances":  # it has a chain, which lets nothing through, and is not heard elsewhere
        chain, anywhere = "nova-netagent-inst-a0000001", "nova-netagent-PREROUTING"
        for id_, table in compiled.ruleset.tables.items():
            apart = (chain, anywhere) if id_.name == "raw" else (chain,)
            known = other.ruleset.tables[id_].chains
            assert _but(table.chains, apart) == _but(known, apart)
            if id_.name == "raw":
                shut = Rule(DROP, in_interface="tap1", origin=("instances", refused.id, "pending"))
                assert table.chains[anywhere].rules == (shut, *known[anywhere].rules)
            if chain in table.chains:
                assert [rule.target for rule in table.chains[chain].rules] == [
                    rule.target for rule in table.chains[chain].rules if "fallback" in str(rule.target)
                ]
    else:
        assert compiled.ruleset == other.ruleset
    assert compiled.links.ports == other.links.ports
    assert compiled.links.addresses == other.links.addresses


def test_a_pending_instance_has_a_chain_that_lets_nothing_through() -> None:
    world = World(make_instance(1), make_instance(2, vifs=()))
    for name in ("inst-a0000001", "inst-a0000002"):
        assert world.chain(name) == ["-j nova-netagent-sg-fallback"]
    assert world.chain("local") == []
