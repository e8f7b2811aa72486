"""What a packet is, told from the bytes of its headers."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from nova_netagent.model import protocols
from nova_netagent.netfilter.packet import Packet


@dataclass(frozen=True)
class Head:
    """A packet by its headers."""

    packet: Packet
    same: tuple[object, ...]
    """What is the same wherever the packet is seen, translated or not."""


_OPTIONS = frozenset({0, 43, 60})
"""Hop-by-hop options, routing and destination options: what is asked about stands behind them (RFC 8200)."""


def _after_options(data: bytes) -> tuple[int, int]:
    """Of an IPv6 packet where its transport header begins, as far as that is there, and its protocol."""
    at, protocol = 40, data[6]
    while protocol in _OPTIONS and at + 2 <= len(data):
        at, protocol = at + (data[at + 1] + 1) * 8, data[at]
    return at, protocol


def head_of(data: bytes) -> Head | None:
    """A packet by its headers; ``None`` for what is cut too short."""
    if len(data) < 20:
        return None
    if data[0] >> 4 == 4:
        size, protocol = (data[0] & 0xF) * 4, data[9]
        ends = str(IPv4Address(data[12:16])), str(IPv4Address(data[16:20]))
        mark = data[4:6]
    elif len(data) >= 40:
        size, protocol = _after_options(data)
        ends = str(IPv6Address(data[8:24])), str(IPv6Address(data[24:40]))
        mark = data[1:4]
    else:
        return None
    return _with_transport(ends, protocol, mark, data[size : size + 20])


def _with_transport(ends: tuple[str, str], protocol: int, mark: bytes, transport: bytes) -> Head:
    source_port = destination_port = icmp = None
    rest: Sequence[bytes] = (transport,)
    opens = True
    if protocol in protocols.WITH_PORTS and len(transport) >= 8:
        source_port, destination_port = int.from_bytes(transport[:2], "big"), int.from_bytes(transport[2:4], "big")
        rest = (transport[4:6], transport[8:]) if protocol != protocols.TCP else (transport[4:16], transport[18:])
        opens = protocol != protocols.TCP or len(transport) < 14 or transport[13] & 0x17 == 0x02
    elif protocol in protocols.WITH_TYPES and len(transport) >= 4:
        icmp = transport[0], transport[1]
        rest = (transport[:2], transport[6:])
    packet = Packet(*ends, protocol, source_port, destination_port, icmp, opens=opens)
    return Head(packet, (protocol, mark, *rest))
