"""Matches as bytes: what stands between an entry's header and its target.

Each is exactly what libxtables makes of the same options, so that a rule reads back
equal. Sources: linux/netfilter/xt_*.h and the extensions of iptables 1.8.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from struct import Struct, error

from nova_netagent.backend.iptables.layout import EXTENSION, decoded_name, encoded_name, extension
from nova_netagent.netfilter.rule import (
    Comment,
    Conntrack,
    Directions,
    Family,
    Icmp,
    InSet,
    Limit,
    LocalAddress,
    MacSource,
    Mark,
    Match,
    MultiPort,
    Opaque,
    Physdev,
    PortRange,
    Ports,
    TcpSyn,
)

SetIndex = Callable[[str], int]
SetName = Callable[[int], str | None]

MAX_COMMENT = 255

_TCP = Struct("=HHHHBBBB")
_UDP = Struct("=HHHHB")
_MULTIPORT = Struct("=BB30s15sB")
_ICMP = Struct("=BBBB")
_CONNTRACK = Struct("=128x8xHHHHHHHHH8x")
_PHYSDEV = Struct("=16s16s16s16sBB")
_SET = Struct("=HBB4x16x16xI4x")
_MAC = Struct("=6s2xi")
_MARK = Struct("=IIB")
_ADDRTYPE = Struct("=HHI")

# Those that thousands of rules have, each with a name or an address of its own: said whole.
_PHYSDEV_MATCH, _PHYSDEV_HEAD = Struct(f"=32s{_PHYSDEV.format[1:]}6x"), EXTENSION.pack(104, b"physdev", 0)
_MAC_MATCH, _MAC_HEAD = Struct(f"=32s{_MAC.format[1:]}4x"), EXTENSION.pack(48, b"mac", 0)

_ANY_PORT = (0, 65535)
_MULTIPORT_FLAGS = {"source": 0, "destination": 1}
_ICMP_ANY = 255
_STATE_BITS = {
    "INVALID": 0x01,
    "ESTABLISHED": 0x02,
    "RELATED": 0x04,
    "NEW": 0x08,
    "SNAT": 0x40,
    "DNAT": 0x80,
    "UNTRACKED": 0x100,
}
_CONNTRACK_STATE = 0x01
_NO_NAME = (b"", b"")
_PHYSDEV_IN, _PHYSDEV_OUT, _PHYSDEV_BRIDGED = 0x01, 0x02, 0x04
_MASKS = tuple(b"\xff" * length for length in range(17))
_SET_REVISION = 4
_SET_HEAD = EXTENSION.pack(EXTENSION.size + _SET.size, b"set", _SET_REVISION)
_SET_DIRECTIONS: Mapping[tuple[int, int], Directions] = {
    (1, 0b0010): "src", (1, 0b0000): "dst", (3, 0b0110): "src,src,dst", (3, 0b1000): "dst,dst,src",
}  # fmt: skip
"""By the number of dimensions and the bits of those that are the source's (linux/netfilter/ipset/ip_set.h)."""
_SET_BYTES = {direction: numbers for numbers, direction in _SET_DIRECTIONS.items()}
_TCP_FLAGS, _TCP_SYN, _TCP_FLAGS_INVERTED = 0x17, 0x02, 0x04
"""FIN, SYN, RST and ACK are looked at; SYN alone is set; XT_TCP_INV_FLAGS."""
_ADDRTYPE_LOCAL = 0x04
_LIMIT = Struct("=II32s")
_LIMIT_SCALE = 10_000
AUTHENTICATED = extension(b"ah", 0, Struct("=IIIBB").pack(0, 0xFFFFFFFF, 0, 0, 0))
"""``-m ah`` of ip6tables: with an authentication header, whatever its index."""


@lru_cache(8192)
def interface(name: str) -> tuple[bytes, bytes]:
    """An interface's name and mask, to be filled up to 16 bytes; a trailing ``+`` makes the name a prefix.

    :raises ValueError: for a name that the kernel has no room for.
    """
    raw = encoded_name(name)
    if not 1 <= len(raw) <= 15 or b"\0" in raw:
        raise ValueError(f"{name!r} is not an interface name")
    compared = len(raw) - 1 if raw.endswith(b"+") else len(raw) + 1
    return raw, _MASKS[compared]


def encode_match(match: Match, family: Family) -> bytes:
    """Any match but ``InSet``, whose bytes depend on the kernel.

    :raises ValueError: for a value that the kernel would take for another one.
    """
    if type(match) is Physdev:
        return _encode_physdev(match)
    if type(match) is MacSource:
        return _MAC_MATCH.pack(_MAC_HEAD, bytes.fromhex(match.address.replace(":", "")), match.inverted)
    return _encode_common(match, family)


@lru_cache(16384)
def _encode_common(match: Match, family: Family) -> bytes:
    """Those that many rules have alike."""
    match match:
        case Ports(protocol, source, destination):
            return _encode_ports(protocol, source or _ANY_PORT, destination or _ANY_PORT)
        case MultiPort(direction, ports):
            return _encode_multiport(_MULTIPORT_FLAGS[direction], ports)
        case Icmp(type_, code):
            return _encode_icmp(type_, code, family)
        case Conntrack(states, inverted):
            mask = sum(_STATE_BITS[state] for state in states)
            data = _CONNTRACK.pack(0, 0, 0, 0, 0, _CONNTRACK_STATE, inverted, mask, 0)
            return extension(b"conntrack", 3, data)
        case TcpSyn(inverted):
            flags = _TCP_FLAGS_INVERTED if inverted else 0
            return extension(b"tcp", 0, _TCP.pack(*_ANY_PORT, *_ANY_PORT, 0, _TCP_FLAGS, _TCP_SYN, flags))
        case Mark(value, mask):
            return extension(b"mark", 1, _MARK.pack(value, mask, 0))
        case Limit(rate, burst):
            return extension(b"limit", 0, _LIMIT.pack(_limit_period(rate), burst, b""))
        case LocalAddress():
            return extension(b"addrtype", 1, _ADDRTYPE.pack(0, _ADDRTYPE_LOCAL, 0))
        case Comment(text):
            return _encode_comment(text)
        case Opaque(name, revision, data):
            return extension(encoded_name(name), revision, data)
    raise ValueError(f"{match!r} has no bytes of its own")


@lru_cache(4096)
def encode_set(index: int, direction: Directions) -> bytes:
    """``-m set`` for the set that has this index in the kernel now."""
    return extension(b"set", _SET_REVISION, _SET.pack(index, *_SET_BYTES[direction], 0))


def _encode_ports(protocol: str, source: PortRange, destination: PortRange) -> bytes:
    if protocol == "tcp":
        return extension(b"tcp", 0, _TCP.pack(*source, *destination, 0, 0, 0, 0))
    return extension(b"udp", 0, _UDP.pack(*source, *destination, 0))


def _encode_multiport(flags: int, ports: PortRange) -> bytes:
    listed = ports[:1] if ports[0] == ports[1] else ports
    numbers = Struct(f"={len(listed)}H").pack(*listed)
    opens_range = b"\x01" if len(listed) == 2 else b""
    return extension(b"multiport", 1, _MULTIPORT.pack(flags, len(listed), numbers, opens_range, 0))


def _encode_icmp(type_: int, code: int | None, family: Family) -> bytes:
    if family == 4 and type_ == _ICMP_ANY:
        # net/ipv4/netfilter/ip_tables.c, icmp_type_code_match(): 0xFF is every type.
        raise ValueError("ICMP type 255 cannot be matched: the kernel takes it for any type")
    low, high = (0, 255) if code is None else (code, code)
    return extension(b"icmp" if family == 4 else b"icmp6", 0, _ICMP.pack(type_, low, high, 0))


def _encode_physdev(match: Physdev) -> bytes:
    flags = inverted = 0
    incoming = outgoing = _NO_NAME
    if match.incoming is not None:
        incoming = interface(match.incoming)
        flags |= _PHYSDEV_IN
    if match.outgoing is not None:
        outgoing = interface(match.outgoing)
        flags |= _PHYSDEV_OUT
    if match.bridged is not None:
        flags |= _PHYSDEV_BRIDGED
        inverted = 0 if match.bridged else _PHYSDEV_BRIDGED
    return _PHYSDEV_MATCH.pack(_PHYSDEV_HEAD, *incoming, *outgoing, inverted, flags)


def _encode_comment(text: str) -> bytes:
    raw = encoded_name(text)
    if len(raw) > MAX_COMMENT or b"\0" in raw:
        raise ValueError(f"a comment has at most {MAX_COMMENT} bytes, none of them zero: {text!r}")
    return extension(b"comment", 0, raw.ljust(MAX_COMMENT + 1, b"\0"))


def decode_matches(data: bytes, family: Family, set_name: SetName) -> Iterator[Match]:
    """The matches of an entry; ``Opaque`` for what our values cannot say."""
    return (_decode(whole, family, set_name) for whole in _each(data))


def _each(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = EXTENSION.unpack_from(data, at)[0]
        yield data[at : at + size]
        at += size


def match_set_indexes(data: bytes) -> Iterator[int]:
    """The indexes of the sets that matches of ours refer to."""
    return (_SET.unpack_from(whole, EXTENSION.size)[0] for whole in _each(data) if whole.startswith(_SET_HEAD))


def _decode(whole: bytes, family: Family, set_name: SetName) -> Match:
    return _decode_set(whole, set_name) if whole.startswith(_SET_HEAD) else _decode_other(whole, family)


@lru_cache(16384)
def _decode_other(whole: bytes, family: Family) -> Match:
    _size, raw_name, revision = EXTENSION.unpack_from(whole)
    name, data = decoded_name(raw_name), whole[EXTENSION.size :]
    decoder = _DECODERS.get((name, revision))
    if decoder is not None:
        try:
            match = decoder(data)
            if encode_match(match, family) == whole:
                return match
        except (ArithmeticError, ValueError, KeyError, error):
            pass
    return Opaque(name, revision, data)


def _decode_set(whole: bytes, set_name: SetName) -> Match:
    index, dimensions, flags, _counters = _SET.unpack_from(whole, EXTENSION.size)
    direction = _SET_DIRECTIONS.get((dimensions, flags))
    if direction is not None and encode_set(index, direction) == whole:
        name = set_name(index)
        if name is not None:
            return InSet(name, direction)
    return Opaque("set", _SET_REVISION, whole[EXTENSION.size :])


def _range(low: int, high: int) -> PortRange | None:
    return None if (low, high) == _ANY_PORT else (low, high)


def _decode_tcp(data: bytes) -> Match:
    source_low, source_high, low, high, _option, looked_at, _set, inverted = _TCP.unpack_from(data)
    if looked_at:
        return TcpSyn(inverted=bool(inverted))
    return Ports("tcp", _range(source_low, source_high), _range(low, high))


def _decode_udp(data: bytes) -> Match:
    source_low, source_high, low, high, _inverted = _UDP.unpack_from(data)
    return Ports("udp", _range(source_low, source_high), _range(low, high))


def _decode_multiport(data: bytes) -> Match:
    flags, count, numbers, *_rest = _MULTIPORT.unpack_from(data)
    low, high = Struct("=HH").unpack_from(numbers)
    return MultiPort("destination" if flags else "source", (low, high if count == 2 else low))


def _decode_icmp(data: bytes) -> Match:
    type_, low, high, _inverted = _ICMP.unpack_from(data)
    return Icmp(type_, None if (low, high) == (0, 255) else low)


def _decode_conntrack(data: bytes) -> Match:
    *_rest, inverted, mask, _status = _CONNTRACK.unpack_from(data)
    return Conntrack(frozenset(name for name, bit in _STATE_BITS.items() if mask & bit), inverted=bool(inverted))


def _decode_physdev(data: bytes) -> Match:
    incoming, _mask, outgoing, _mask, inverted, flags = _PHYSDEV.unpack_from(data)
    return Physdev(
        decoded_name(incoming) if flags & _PHYSDEV_IN else None,
        decoded_name(outgoing) if flags & _PHYSDEV_OUT else None,
        not inverted & _PHYSDEV_BRIDGED if flags & _PHYSDEV_BRIDGED else None,
    )


def _decode_mac(data: bytes) -> Match:
    address, inverted = _MAC.unpack_from(data)
    return MacSource(address.hex(":"), inverted=bool(inverted))


def _decode_mark(data: bytes) -> Match:
    value, mask, _inverted = _MARK.unpack_from(data)
    return Mark(value, mask)


def _decode_addrtype(_data: bytes) -> Match:
    return LocalAddress()


def _limit_period(rate: int) -> int:
    """The time between two packets, in XT_LIMIT_SCALE's parts of a second."""
    if not 1 <= rate <= _LIMIT_SCALE or _LIMIT_SCALE % rate:
        raise ValueError(f"{rate} packets a second are no whole part of {_LIMIT_SCALE}")
    return _LIMIT_SCALE // rate


def _decode_limit(data: bytes) -> Match:
    period, burst, _ = _LIMIT.unpack_from(data)
    return Limit(_LIMIT_SCALE // period, burst)


def _decode_comment(data: bytes) -> Match:
    return Comment(decoded_name(data))


_DECODERS: dict[tuple[str, int], Callable[[bytes], Match]] = {
    ("tcp", 0): _decode_tcp,
    ("udp", 0): _decode_udp,
    ("multiport", 1): _decode_multiport,
    ("icmp", 0): _decode_icmp,
    ("icmp6", 0): _decode_icmp,
    ("conntrack", 3): _decode_conntrack,
    ("physdev", 0): _decode_physdev,
    ("mac", 0): _decode_mac,
    ("mark", 1): _decode_mark,
    ("addrtype", 1): _decode_addrtype,
    ("comment", 0): _decode_comment,
    ("limit", 0): _decode_limit,
}
