"""What a rule asks of a packet, as expressions: each piece loads what it needs and leaves nothing behind.

Sources: libnftnl and nft(8) for the ways in which nft itself says the same;
linux/netfilter/xt_physdev.h.
"""

import socket
import sys
from functools import lru_cache

from nova_netagent.backend import RuleRefused
from nova_netagent.backend.nft import expressions
from nova_netagent.backend.nft.expressions import Base, Compare, Ct, Expression, Meta
from nova_netagent.netfilter.rule import (
    Comment,
    Conntrack,
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

_PROTOCOLS = {"tcp": 6, "udp": 17}
_ICMP: dict[Family, int] = {4: 1, 6: 58}
_WITH_PORTS = {6, 17, 33, 132, 136}
_STATES = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}
_STATUSES = {"SNAT": 16, "DNAT": 32}
_LOCAL = 2
_LOOKED_AT, _SYN = 0x17, 0x02
"""FIN, SYN, RST and ACK; of these SYN alone is set."""
_ETHERNET = 1
_NAME_SIZE = 16
_ANY_NAME = bytes(2 * _NAME_SIZE)
_PHYSDEV_IN, _PHYSDEV_OUT, _PHYSDEV_BRIDGED = 1, 2, 4
_OFFSETS: dict[tuple[Family, str], int] = {
    (4, "source"): 12,
    (4, "destination"): 16,
    (6, "source"): 8,
    (6, "destination"): 24,
}
ADDRESS_SIZE: dict[Family, int] = {4: 4, 6: 16}
SOCKET_FAMILY: dict[Family, int] = {4: socket.AF_INET, 6: socket.AF_INET6}


def address(family: Family, side: str, length: int | None = None, register: int = 0) -> Expression:
    """Load the source or destination address, or so many bytes of it."""
    return expressions.payload(Base.NETWORK, _OFFSETS[family, side], length or ADDRESS_SIZE[family], register)


@lru_cache(1 << 12)
def prefix(family: Family, side: str, text: str, inverted: bool) -> bytes:
    """The address is in a prefix."""
    base, _, bits = text.partition("/")
    size, length = ADDRESS_SIZE[family], int(bits)
    value = socket.inet_pton(SOCKET_FAMILY[family], base)
    operation = _comparison(inverted)
    if length and length % 8 == 0:
        whole = length // 8
        return _loaded(family, side, whole) + expressions.encoded_compare(operation, value[:whole])
    masked = expressions.mask(net_mask(family, length))
    return expressions.encode((address(family, side), masked, expressions.compare(operation, value[:size])))


@lru_cache(256)
def _loaded(family: Family, side: str, length: int) -> bytes:
    return expressions.encode((address(family, side, length),))


def net_mask(family: Family, length: int) -> bytes:
    """The first bits of an address."""
    bits = ADDRESS_SIZE[family] * 8
    return ((1 << bits) - (1 << (bits - length))).to_bytes(bits // 8, "big")


@lru_cache(4096)
def interface(key: Meta, name: str, inverted: bool) -> bytes:
    """The interface has this name, or one that begins so."""
    wanted = name[:-1].encode() if name.endswith("+") else name.encode().ljust(_NAME_SIZE, b"\0")
    if not wanted:
        return b""
    return expressions.encode((expressions.meta(key), expressions.compare(_comparison(inverted), wanted)))


@lru_cache(512)
def protocol(number: int, inverted: bool) -> bytes:
    """The transport protocol.

    :raises RuleRefused: there is no such protocol.
    """
    if not 1 <= number <= 255:
        raise RuleRefused(f"there is no protocol {number}")
    compared = expressions.compare(_comparison(inverted), bytes((number,)))
    return expressions.encode((expressions.meta(Meta.L4PROTO), compared))


def match(each: Match, family: Family, protocol_: int | None) -> bytes:
    """One match.

    :param protocol_: of which the rule already is.
    :raises RuleRefused: it cannot be said, or would mean something else.
    """
    if isinstance(each, Physdev):
        return _physdev(each)
    if isinstance(each, MacSource):
        return _mac_source(each)
    return _common(each, family, protocol_)


@lru_cache(1 << 12)
def _common(each: Match, family: Family, protocol_: int | None) -> bytes:
    """What many rules have in common, unlike a device or a MAC."""
    return expressions.encode(_match(each, family, protocol_))


def conntrack(states: frozenset[str], inverted: bool) -> tuple[Expression, ...]:
    """The connection has one of these states.

    :raises RuleRefused: a state and a translation in one question.
    """
    if states <= _STATES.keys():
        key, bits = Ct.STATE, sum(_STATES[each] for each in states)
    elif states <= _STATUSES.keys() and not inverted:
        key, bits = Ct.STATUS, sum(_STATUSES[each] for each in states)
    elif states <= _STATUSES.keys():
        # Who has no connection is not translated either; but where that is asked, in nat, everybody has one.
        key, bits = Ct.STATUS, sum(_STATUSES[each] for each in states)
    else:
        raise RuleRefused(f"nftables cannot ask for {', '.join(sorted(states))} at once")
    operation = Compare.EQUAL if inverted else Compare.NOT_EQUAL
    nothing = bytes(4)
    return expressions.ct(key), expressions.mask(_native(bits)), expressions.compare(operation, nothing)


def _match(each: Match, family: Family, protocol_: int | None) -> tuple[Expression, ...]:
    match each:
        case Ports(name, source, destination):
            if protocol_ != _PROTOCOLS[name]:
                raise RuleRefused(f"ports of {name} in a rule that is not of {name}")
            return (*_ports(0, source), *_ports(2, destination))
        case MultiPort(direction, ports):
            if protocol_ not in _WITH_PORTS:
                raise RuleRefused("ports of a protocol that has none")
            return _ports(0 if direction == "source" else 2, ports)
        case Icmp(type_, code):
            if protocol_ != _ICMP[family]:
                raise RuleRefused("an ICMP type in a rule that is not of ICMP")
            if type_ == 255 and family == 4:
                raise RuleRefused("ICMP type 255 means any to iptables")
            wanted = bytes((type_,)) if code is None else bytes((type_, code))
            loaded = expressions.payload(Base.TRANSPORT, 0, len(wanted))
            return loaded, expressions.compare(Compare.EQUAL, wanted)
        case Conntrack(states, inverted):
            return conntrack(states, inverted)
        case InSet(name, direction):
            here, there = ("source", "destination") if direction.startswith("src") else ("destination", "source")
            if "," not in direction:
                return address(family, here), expressions.lookup(name)
            width = ADDRESS_SIZE[family] // 4
            port = expressions.payload(Base.TRANSPORT, 0 if here == "source" else 2, 2, width)
            return address(family, here), port, address(family, there, register=width + 1), expressions.lookup(name)
        case TcpSyn(inverted):
            if protocol_ != _PROTOCOLS["tcp"]:
                raise RuleRefused("TCP's flags in a rule that is not of TCP")
            looked_at = expressions.mask(bytes((_LOOKED_AT,)))
            compared = expressions.compare(_comparison(inverted), bytes((_SYN,)))
            return expressions.payload(Base.TRANSPORT, 13, 1), looked_at, compared
        case Mark(value, bits):
            masked = expressions.mask(_native(bits))
            return expressions.meta(Meta.MARK), masked, expressions.compare(Compare.EQUAL, _native(value))
        case Limit(rate, burst):
            return (expressions.limit(rate, burst),)
        case LocalAddress():
            return expressions.destination_type(), expressions.compare(Compare.EQUAL, _native(_LOCAL))
        case Comment(text):
            if len(text.encode()) > 255:
                raise RuleRefused("a comment of more than 255 bytes")
            return ()
        case MacSource() | Physdev() | Opaque():
            raise RuleRefused(f"the match {each} is not ours")


def _ports(offset: int, ports: PortRange | None) -> tuple[Expression, ...]:
    if ports is None:
        return ()
    loaded = expressions.payload(Base.TRANSPORT, offset, 2)
    low, high = (port.to_bytes(2, "big") for port in ports)
    if low == high:
        return loaded, expressions.compare(Compare.EQUAL, low)
    return loaded, expressions.compare(Compare.AT_LEAST, low), expressions.compare(Compare.AT_MOST, high)


@lru_cache(1 << 13)
def _mac_source(each: MacSource) -> bytes:
    """The frame is from a MAC; whatever is of no Ethernet is from none."""
    wanted = bytes.fromhex(each.address.replace(":", ""))
    return _ETHERNET_SOURCE + expressions.encoded_compare(_comparison(each.inverted), wanted)


@lru_cache(1 << 13)
def _physdev(each: Physdev) -> bytes:
    """The match of iptables: nf_tables itself knows bridge ports in the bridge family only."""
    asked = inverted = 0
    if each.incoming is not None:
        asked |= _PHYSDEV_IN
    if each.outgoing is not None:
        asked |= _PHYSDEV_OUT
    if each.bridged is not None:
        asked |= _PHYSDEV_BRIDGED
        inverted = 0 if each.bridged else _PHYSDEV_BRIDGED
    names = _pattern(each.incoming) + _pattern(each.outgoing)
    return expressions.encoded_match("physdev", 0, names + bytes((inverted, asked)) + bytes(6))


def _pattern(name: str | None) -> bytes:
    """An interface name and its mask; a whole name is compared with the zero that ends it."""
    if name is None:
        return _ANY_NAME
    text = name.removesuffix("+").encode()
    compared = len(text) + (0 if name.endswith("+") else 1)
    return text.ljust(_NAME_SIZE, b"\0") + (b"\xff" * compared).ljust(_NAME_SIZE, b"\0")


_ETHERNET_SOURCE = expressions.encode(
    (
        expressions.meta(Meta.IIFTYPE),
        expressions.compare(Compare.EQUAL, _ETHERNET.to_bytes(2, sys.byteorder)),
        expressions.payload(Base.LINK, 6, 6),
    )
)


def _comparison(inverted: bool) -> Compare:
    return Compare.NOT_EQUAL if inverted else Compare.EQUAL


def _native(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)
