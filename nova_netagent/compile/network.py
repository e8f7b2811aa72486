"""What a network needs of the host: forwarding, DHCP and DNS let in, checksums filled, what its vifs hear."""

from collections.abc import Iterator, Sequence
from typing import Literal

from nova_netagent.compile import ingress
from nova_netagent.compile.parts import Placed, Scope
from nova_netagent.model import Network
from nova_netagent.model.protocols import ICMPV6, TCP, UDP
from nova_netagent.netfilter.rule import (
    ACCEPT,
    ChecksumFill,
    Family,
    Icmp,
    Physdev,
    Ports,
    Rule,
)

BRIDGED = Physdev(bridged=True)
ND_TO_HOST = (133, 135, 136)
"""Router solicitation, neighbour solicitation and advertisement (RFC 4861)."""
# nova lets TCP in on port 67 too; harmless, and its operators look for the rule.
_SERVED: dict[Family, tuple[tuple[int, tuple[int, ...]], ...]] = {
    4: ((UDP, (67, 53)), (TCP, (67, 53))),
    6: ((UDP, (547, 53)), (TCP, (53,))),
}
_DISCOVER = Rule(
    ACCEPT,
    source="0.0.0.0/32",
    destination="255.255.255.255/32",
    protocol=UDP,
    matches=(Ports("udp", source=(68, 68), destination=(67, 67)),),
    origin=("networks", "", "DHCP"),
)


def place(scope: Scope, placed: Placed) -> None:
    """Fill W-INPUT, W-FORWARD and mangle's W-POSTROUTING, bridge by bridge, and each network's W-net-ID.

    Several networks may be on one bridge: it is open for what any of them needs.
    """
    networks = scope.networks
    if any(each.serves_dhcp for each in networks):
        placed.add(4, "filter", scope.chain("INPUT"), _DISCOVER)
        placed.add(4, "filter", scope.chain("FORWARD"), _DISCOVER)
    for family in scope.families:
        for each in networks:
            placed.add(family, "filter", ingress.network_chain(each.id, scope), *ingress.heard(each, family, scope))
        # A network that is routed speaks for its bridge before one that is not.
        speakers: dict[str, Network] = {}
        served: dict[str, Network] = {}
        for each in sorted(networks, key=lambda network: not network.routed(family)):
            speakers.setdefault(each.bridge, each)
            if each.serves_dhcp if family == 4 else each.routed(6):
                served.setdefault(each.bridge, each)
        for each in served.values():
            placed.add(family, "filter", scope.chain("INPUT"), *_input(each, family))
            placed.add(family, "mangle", scope.chain("POSTROUTING"), _checksum(each, family))
        # The closed ones first: an open bridge's "-o" would let in what a closed one sends.
        for each in sorted(speakers.values(), key=lambda network: network.routed(family)):
            placed.add(family, "filter", scope.chain("FORWARD"), *_forward(each, family, scope))


def _input(each: Network, family: Family) -> Iterator[Rule]:
    """Let an instance reach the host's DHCP and DNS, whatever the policy of INPUT."""
    if family == 6:
        for type_ in ND_TO_HOST:
            yield _from_bridge(each, ICMPV6, Icmp(type_), "neighbour discovery")
    for protocol, ports in _SERVED[family]:
        for port in ports:
            name: Literal["tcp", "udp"] = "udp" if protocol == UDP else "tcp"
            yield _from_bridge(each, protocol, Ports(name, destination=(port, port)), "DHCP and DNS")


def _from_bridge(each: Network, protocol: int, match: Ports | Icmp, purpose: str) -> Rule:
    origin = ("networks", each.id, purpose)
    return Rule(ACCEPT, in_interface=each.bridge, protocol=protocol, matches=(match,), origin=origin)


def _forward(each: Network, family: Family, scope: Scope) -> Iterator[Rule]:
    """What may be forwarded from and to the bridge, as nova's get_gateway_rules had it.

    nova's DROP for a network without a gateway also hit frames that are only bridged; it
    meant what is routed.
    """
    bridge, origin = each.bridge, ("networks", each.id, "forward")
    allowed: Sequence[str] = scope.settings.network.forward_bridge_interface
    if not each.routed(family):
        yield Rule(ACCEPT, in_interface=bridge, matches=(BRIDGED,), origin=origin)
        yield Rule(scope.drop, in_interface=bridge, origin=origin)
        yield Rule(scope.drop, out_interface=bridge, origin=origin)
        return
    if "all" in allowed:
        yield Rule(ACCEPT, in_interface=bridge, origin=origin)
        yield Rule(ACCEPT, out_interface=bridge, origin=origin)
        return
    for interface in allowed:
        yield Rule(ACCEPT, in_interface=bridge, out_interface=interface, origin=origin)
        yield Rule(ACCEPT, in_interface=interface, out_interface=bridge, origin=origin)
    yield Rule(ACCEPT, in_interface=bridge, out_interface=bridge, origin=origin)
    yield Rule(scope.drop, in_interface=bridge, origin=origin)
    yield Rule(scope.drop, out_interface=bridge, origin=origin)


def _checksum(each: Network, family: Family) -> Rule:
    """DHCP answers get a checksum: vhost-net leaves it empty (nova, bug 1029430)."""
    port = 68 if family == 4 else 546
    return Rule(
        ChecksumFill(),
        out_interface=each.bridge,
        protocol=UDP,
        matches=(Ports("udp", destination=(port, port)),),
        origin=("networks", each.id, "DHCP"),
    )
