"""Two networks that this host only bridges may have the same range: their flows are told apart by zone.

The addresses of a network that this host routes are nobody else's here (resolve/networks.py), and its flows
go through NAT: it has no zone. What is for the host itself has none either, as the answer leaves
by no bridge port and would not be known for one.
"""

from collections.abc import Mapping

from nova_netagent.compile.parts import Placed, Scope
from nova_netagent.compile.resolve import Resolved
from nova_netagent.netfilter.owner import digest
from nova_netagent.netfilter.rule import RETURN, Family, Jump, LocalAddress, Rule, Zone

_NUMBERS = 0xFFFF


def zones(resolved: Resolved, family: Family) -> Mapping[str, int]:
    """The zone of each bridge that has one: of the bridges on which this host routes no network of the family."""
    found = [each for each in resolved.networks.values() if each.range(family) is not None]
    routed = {each.bridge for each in found if each.routed(family)}
    numbers: dict[str, int] = {}
    for bridge in sorted({each.bridge for each in found} - routed):
        text = digest(bridge)
        while _number(text) in numbers.values():
            text = digest(text)
        numbers[bridge] = _number(text)
    return numbers


def _number(text: str) -> int:
    return int(text[:8], 16) % _NUMBERS + 1


def place(scope: Scope, placed: Placed) -> None:
    """W-zones in raw, after senders have proved who they are."""
    for family in scope.families:
        numbers = zones(scope.resolved, family)
        if not numbers:
            continue
        chain = scope.chain("zones")
        placed.add(family, "raw", chain, Rule(RETURN, matches=(LocalAddress(),), origin=("networks", "", "zones")))
        for bridge, number in numbers.items():
            origin = ("networks", "", "zones")
            placed.add(family, "raw", chain, Rule(Zone(number), in_interface=bridge, origin=origin))
            placed.add(family, "raw", scope.chain("PREROUTING"), Rule(Jump(chain), in_interface=bridge, origin=origin))
