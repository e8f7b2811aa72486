"""Values in nft(8)'s words. Source: nftables' src/datatype.c, src/ct.c, src/proto.c, src/fib.c."""

import sys
from collections.abc import Mapping

from nova_netagent.model import values
from nova_netagent.netfilter.text import protocol_text

ETHERNET = "ether"
_STATES = {1: "invalid", 8: "new", 2: "established", 4: "related", 64: "untracked"}
_STATUSES = {1: "expected", 2: "seen-reply", 4: "assured", 8: "confirmed", 16: "snat", 32: "dnat", 512: "dying"}
_TCP_FLAGS = {1: "fin", 2: "syn", 4: "rst", 8: "psh", 16: "ack", 32: "urg", 64: "ecn", 128: "cwr"}
_ICMP_TYPES = {
    "icmp": {
        0: "echo-reply", 3: "destination-unreachable", 4: "source-quench", 5: "redirect", 8: "echo-request",
        9: "router-advertisement", 10: "router-solicitation", 11: "time-exceeded", 12: "parameter-problem",
        13: "timestamp-request", 14: "timestamp-reply", 15: "info-request", 16: "info-reply",
        17: "address-mask-request", 18: "address-mask-reply",
    },
    "icmpv6": {
        1: "destination-unreachable", 2: "packet-too-big", 3: "time-exceeded", 4: "parameter-problem",
        128: "echo-request", 129: "echo-reply", 130: "mld-listener-query", 131: "mld-listener-report",
        132: "mld-listener-done", 133: "nd-router-solicit", 134: "nd-router-advert", 135: "nd-neighbor-solicit",
        136: "nd-neighbor-advert", 137: "nd-redirect", 138: "router-renumbering", 141: "ind-neighbor-solicit",
        142: "ind-neighbor-advert", 143: "mld2-listener-report",
    },
}  # fmt: skip
_ADDRESS_TYPES = {1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole"}


def address(value: bytes) -> str:
    """An address of either family."""
    return values.unpacked(value)


def addresses(low: bytes, high: bytes) -> str:
    """The addresses from one to another, ends included: one, a prefix or a range."""
    first, last, bits = int.from_bytes(low, "big"), int.from_bytes(high, "big"), len(low) * 8
    free = (first ^ last).bit_length()
    if not free:
        return address(low)
    if first & ((1 << free) - 1) or last & ((1 << free) - 1) != (1 << free) - 1:
        return f"{address(low)}-{address(high)}"
    return f"{address(low)}/{bits - free}"


def number(value: bytes) -> str:
    """A number in network byte order, as a port."""
    return str(int.from_bytes(value, "big"))


def protocol(value: bytes) -> str:
    """A transport protocol."""
    return protocol_text(value[0])


def mac(value: bytes) -> str:
    """An Ethernet address."""
    return value.hex(":")


def interface(value: bytes) -> str:
    """An interface's name; one that does not end is the beginning of many."""
    name, end, _ = value.partition(b"\0")
    return f'"{name.decode(errors="surrogateescape")}{"" if end or len(value) == 16 else "*"}"'


def native(value: bytes) -> str:
    """A number in the host's byte order, as a zone."""
    return str(int.from_bytes(value, sys.byteorder))


def link_type(value: bytes) -> str:
    """What kind of link it is, in the host's byte order (linux/if_arp.h)."""
    return ETHERNET if native(value) == "1" else native(value)


def mark(value: bytes) -> str:
    """A mark, in the host's byte order."""
    return f"{int.from_bytes(value, sys.byteorder):#010x}"


def icmp(protocol: str, value: bytes) -> str:
    """A type of ICMP or ICMPv6, and perhaps a code of it."""
    type_ = _ICMP_TYPES[protocol].get(value[0], str(value[0]))
    return type_ if len(value) == 1 else f"{type_} {protocol} code {value[1]}"


def states(value: bytes) -> str:
    """States of a connection, in the host's byte order."""
    return _flags(int.from_bytes(value, sys.byteorder), _STATES)


def statuses(value: bytes) -> str:
    """What else is known of a connection, in the host's byte order."""
    return _flags(int.from_bytes(value, sys.byteorder), _STATUSES)


def tcp_flags(value: bytes) -> str:
    """Flags of TCP."""
    return _flags(value[0], _TCP_FLAGS)


def address_type(value: bytes) -> str:
    """Of which type an address is, in the host's byte order (linux/rtnetlink.h)."""
    return _ADDRESS_TYPES.get(int.from_bytes(value, sys.byteorder), native(value))


def seconds(value: int) -> str:
    """A time: ``5d``, ``1h30m``."""
    words = ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if value >= size:
            words += f"{value // size}{unit}"
            value %= size
    return words


def _flags(bits: int, names: Mapping[int, str]) -> str:
    return ",".join(name for bit, name in names.items() if bits & bit)
