"""What an expression loads, in nft(8)'s words. Source: nftables' src/proto.c, src/meta.c, src/ct.c, src/fib.c."""

from collections.abc import Callable, Mapping
from functools import partial

from msgspec import Struct

from nova_netagent.backend.nft.expressions import Base, Ct, Meta
from nova_netagent.backend.nft.objects import Family
from nova_netagent.backend.nft.script import values

_ADDRESSES = {
    Family.IP: ("ip", {12: "saddr", 16: "daddr"}, 4),
    Family.IP6: ("ip6", {8: "saddr", 24: "daddr"}, 16),
}
_PORTS = {0: "sport", 2: "dport"}
PORTED: Mapping[int, str] = {6: "tcp", 17: "udp", 33: "dccp", 132: "sctp", 136: "udplite"}
"""The protocols whose ports nft(8) knows by name."""
ICMP: Mapping[int, str] = {1: "icmp", 58: "icmpv6"}


class Field(Struct, frozen=True):
    """Something of a packet that is in a register."""

    text: str
    words: Callable[[bytes], str]
    """What a value of it is called."""
    address: int = 0
    """Bytes of it, if it is an address: the first ones can be compared alone, as a prefix."""
    any_of: bool = False
    """Whether rules ask if any bit of a mask is set."""
    within: str | None = None
    """The protocol that its words ask for by themselves."""
    mask: bytes | None = None
    """Only these bits of it."""
    flip: bytes = b""
    """These bits of it were turned over after that."""


META: Mapping[int, Field] = {
    Meta.MARK: Field("meta mark", values.mark),
    Meta.IIFNAME: Field("iifname", values.interface),
    Meta.OIFNAME: Field("oifname", values.interface),
    Meta.IIFTYPE: Field("meta iiftype", values.link_type),
    Meta.L4PROTO: Field("meta l4proto", values.protocol),
}
CT: Mapping[int, Field] = {
    Ct.STATE: Field("ct state", values.states, any_of=True),
    Ct.STATUS: Field("ct status", values.statuses, any_of=True),
}
DESTINATION_TYPE = Field("fib daddr type", values.address_type)


def payload(base: int, offset: int, length: int, family: Family, protocol: int | None) -> Field | None:
    """Bytes of a header; ``None`` for what no rule of ours looks at.

    :param protocol: the transport protocol, where the rule asked for one.
    """
    match base:
        case Base.NETWORK:
            name, sides, size = _ADDRESSES.get(family, ("", {}, 0))
            side = sides.get(offset)
            return None if side is None or length > size else Field(f"{name} {side}", values.address, size)
        case Base.LINK if (offset, length) == (6, 6):
            return Field("ether saddr", values.mac, within=values.ETHERNET)
        case Base.TRANSPORT if protocol is not None and protocol in ICMP and offset == 0 and length <= 2:
            name = ICMP[protocol]
            return Field(f"{name} type", partial(values.icmp, name), within=name)
        case Base.TRANSPORT if (offset, length) == (13, 1) and protocol == 6:
            return Field("tcp flags", values.tcp_flags, within="tcp")
        case Base.TRANSPORT if offset in _PORTS and length == 2:
            side, within = _PORTS[offset], None if protocol is None else PORTED.get(protocol)
            return Field(f"{within or 'th'} {side}", values.number, within=within)
    return None
