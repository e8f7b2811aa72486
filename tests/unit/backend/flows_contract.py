"""What every connection-tracking table does, the kernel's and the fake alike."""

from collections.abc import Iterable
from typing import Protocol

import pytest
from msgspec.structs import replace

from nova_netagent.backend.conntrack import FlowTable
from nova_netagent.model import values
from nova_netagent.netfilter.flow import Addresses, Flow, Side
from nova_netagent.netfilter.rule import Family

TCP, UDP, ICMP, ICMPV6, GRE = 6, 17, 1, 58, 47
EVERYBODY = Addresses(everybody=True)
ONE = {4: "10.1.0.2", 6: "fd00:1::2"}
OTHER = {4: "10.1.0.3", 6: "fd00:1::3"}
OUTSIDE = {4: "203.0.113.7", 6: "2001:db8::7"}


class World(Protocol):
    """A table, and what traffic does to it."""

    table: FlowTable

    def track(self, *flows: Flow) -> None:
        """Have flows be there."""


def flow(source: str, destination: str, port: int = 80, protocol: int = TCP, **fields: object) -> Flow:
    """A flow without NAT."""
    sides = Side(source, destination, 40000, port), Side(destination, source, port, 40000)
    family: Family = 6 if ":" in source else 4
    given = {"original": sides[0], "reply": sides[1]} | fields
    return Flow(family=family, protocol=protocol, **given)  # type: ignore[arg-type]


def of(*addresses: str) -> Addresses:
    return Addresses(frozenset(addresses))


def seen(found: Iterable[Flow]) -> set[Flow]:
    """Without what only the kernel knows of them."""
    return {replace(each, handle=b"", status=0) for each in found}


class FlowTableContract:
    """The tests; a subclass has a fixture ``world``."""

    @pytest.mark.parametrize("family", [4, 6])
    def test_flows_are_found_by_any_address_of_either_direction(self, world: World, family: Family) -> None:
        inward, outward = flow(OUTSIDE[family], ONE[family]), flow(ONE[family], OUTSIDE[family], 81)
        translated = flow(OUTSIDE[family], OTHER[family], 82, reply=Side(ONE[family], OUTSIDE[family], 8082, 40000))
        beside = flow(OUTSIDE[family], OTHER[family], 83)
        world.track(inward, outward, translated, beside)
        assert seen(world.table.flows(of(ONE[family]))) == {inward, outward, translated}
        assert seen(world.table.flows(of(OTHER[family]))) == {translated, beside}
        assert world.table.flows(of("192.0.2.250", "2001:db8::fa")) == []
        assert world.table.flows(Addresses()) == []

    def test_many_addresses_and_prefixes(self, world: World) -> None:
        flows = [flow(OUTSIDE[4], f"10.1.{n}.2") for n in range(20)]
        six = flow(OUTSIDE[6], ONE[6])
        world.track(*flows, six)
        assert seen(world.table.flows(of(*(f"10.1.{n}.2" for n in range(18))))) == set(flows[:18])
        half = Addresses(prefixes=(values.prefix("10.1.0.0/21"), values.prefix("fd00:1::/64")))
        assert seen(world.table.flows(half)) == {*flows[:8], six}
        assert seen(world.table.flows(EVERYBODY)) == {*flows, six}

    @pytest.mark.parametrize(
        "item",
        [
            flow(OUTSIDE[4], ONE[4], 53, UDP),
            flow(OUTSIDE[6], ONE[6], 53, UDP),
            flow("", "", protocol=ICMP, original=Side(OUTSIDE[4], ONE[4], icmp=(8, 0)),
                 reply=Side(ONE[4], OUTSIDE[4], icmp=(0, 0))),
            flow(":", "", protocol=ICMPV6, original=Side(OUTSIDE[6], ONE[6], icmp=(128, 0)),
                 reply=Side(ONE[6], OUTSIDE[6], icmp=(129, 0))),
            flow("", "", protocol=200, original=Side(OUTSIDE[4], ONE[4]), reply=Side(ONE[4], OUTSIDE[4])),
            flow(OUTSIDE[4], ONE[4], zone=4711),
            flow(OUTSIDE[4], ONE[4], picked_up=True),
        ],
        ids=["UDP", "UDP over IPv6", "ICMP", "ICMPv6", "without ports", "in a zone", "picked up"],
    )  # fmt: skip
    def test_what_is_told_of_a_flow(self, world: World, item: Flow) -> None:
        world.track(item)
        found = world.table.flows(of(ONE[item.family]))
        assert seen(found) == {item}
        assert world.table.delete(found) == 1
        assert world.table.flows(EVERYBODY) == []

    def test_chosen_flows_are_deleted_and_no_others(self, world: World) -> None:
        flows = [flow(OUTSIDE[4], ONE[4], port) for port in range(1, 701)]
        twin = replace(flows[0], zone=7)
        world.track(*flows, twin)
        found = world.table.flows(of(ONE[4]))
        wanted = [each for each in found if each.zone == 0 and each.original.destination_port != 700]
        assert world.table.delete(wanted) == 699
        assert world.table.delete(wanted) == 0
        assert seen(world.table.flows(EVERYBODY)) == {flows[-1], twin}
        assert world.table.delete([]) == 0
