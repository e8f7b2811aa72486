"""What of a packet a rule of nf_tables can load into its registers, and how nft(8) calls it.

Sources: net/netfilter/nft_meta.c, nft_payload.c, nft_ct.c, nft_fib_inet.c; the layouts of the headers.
"""

import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from nova_netagent.model import protocols, values
from nova_netagent.netfilter.foreign import Surroundings, address_type, cast_in_frame
from nova_netagent.netfilter.hooks import FRAME_HOOKS
from nova_netagent.netfilter.packet import ALL_OF_A_MARK, Packet

HOST = sys.byteorder
_SYN, _ACK = 0x02, 0x10
_CT_STATES = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}
_LINK, _NETWORK, _TRANSPORT = 0, 1, 2
_BASES = {_LINK: "ll", _NETWORK: "nh", _TRANSPORT: "th"}
_BY_SOURCE, _BY_DESTINATION, _BY_MARK, _BY_INTERFACE = 1, 2, 4, 8
_PRESENT = 0x20
_INDEX, _NAME, _TYPE = 1, 2, 3
"""What is asked of the routing (``enum nft_fib_result``)."""
_ARP_OPERATION = (6, 2)
_ETHERNET = 1
"""``ARPHRD_ETHER`` (linux/if_arp.h)."""
_ROUTE_TYPES = {"unicast": 1, "local": 2, "broadcast": 3, "multicast": 5}


class NoMatchError(Exception):
    """The packet has no such header: the rule ends."""


@dataclass(frozen=True)
class Around:
    """What a rule may ask beside what is in the packet.

    :ivar tracked: whether connection tracking has seen the packet yet; ``None``: that cannot be told.
    :ivar nfproto: what the hook calls its family, where that is not the packet's.
    :ivar arp: the operation, where it is not the packet that is met but the ARP without which it is not sent.
    """

    hook: str
    surroundings: Surroundings
    tracked: bool | None = True
    nfproto: int | None = None
    arp: int | None = None

    @property
    def frames(self) -> bool:
        """Whether frames are met here, below IP."""
        return self.hook in FRAME_HOOKS


Read = Callable[[Packet, Around], bytes | None]
"""What is loaded, as the kernel would; ``None`` when that cannot be told."""


@dataclass(frozen=True)
class Field:
    """Something that can be loaded.

    :ivar kind: how its values are written.
    """

    text: str
    kind: str
    size: int
    read: Read


def unknown(text: str, size: int = 4) -> Field:
    """What a packet does not tell."""
    return Field(text, "hex", size, lambda packet, around: None)


# --- what is known besides the packet's bytes


def _name(name: str | None) -> bytes:
    return (name or "").encode().ljust(16, b"\0")


def _index(name: str | None, around: Around) -> bytes | None:
    if name is None:
        return bytes(4)
    found = around.surroundings.index_of(name)
    return None if found is None else found.to_bytes(4, HOST)


def _came_by(packet: Packet, around: Around) -> tuple[str | None] | None:
    """The link that it came by; after routing the kernel may know it still, and our packet does not."""
    return None if around.hook == "POSTROUTING" and packet.in_interface is None else (packet.in_interface,)


def _in_name(packet: Packet, around: Around) -> bytes | None:
    found = _came_by(packet, around)
    return None if found is None else _name(found[0])


def _in_index(packet: Packet, around: Around) -> bytes | None:
    found = _came_by(packet, around)
    return None if found is None else _index(found[0], around)


def _packet_type(packet: Packet, around: Around) -> bytes | None:
    found = cast_in_frame(packet, around.surroundings)
    if around.frames and found == "unicast":
        return None  # for whom the frame is its MAC tells
    return bytes([("unicast", "broadcast", "multicast").index(found)])


def _family(packet: Packet, around: Around) -> bytes:
    return bytes([around.nfproto or (10 if packet.family == 6 else 2)])


def _bridge(of: Callable[[Packet], str | None]) -> Read:
    def read(packet: Packet, around: Around) -> bytes | None:
        name = of(packet)
        bridge = None if name is None else around.surroundings.bridge_of(name)
        if bridge is None:
            raise NoMatchError
        return _name(bridge)

    return read


def _ether_type(packet: Packet, around: Around) -> bytes:
    if around.arp is not None:
        return b"\x08\x06"
    return b"\x86\xdd" if packet.family == 6 else b"\x08\x00"


def _transported(packet: Packet, around: Around) -> bytes:
    if around.arp is not None:
        raise NoMatchError
    return bytes([packet.protocol])


def _link_type(of: Callable[[Packet], str | None]) -> Read:
    """Of ports of bridges it is known: those are of Ethernet."""

    def read(packet: Packet, around: Around) -> bytes | None:
        name = of(packet)
        if name is None:
            raise NoMatchError
        return _ETHERNET.to_bytes(2, HOST) if around.surroundings.bridge_of(name) is not None else None

    return read


def _mark(packet: Packet, around: Around) -> bytes | None:
    return packet.mark.to_bytes(4, HOST) if packet.mark_known == ALL_OF_A_MARK else None


_META: Mapping[int, Field] = {
    1: Field("meta protocol", "hex", 2, _ether_type),
    3: Field("meta mark", "mark", 4, _mark),
    4: Field("iif", "index", 4, _in_index),
    5: Field("oif", "index", 4, lambda packet, around: _index(packet.out_interface, around)),
    6: Field("iifname", "name", 16, _in_name),
    7: Field("oifname", "name", 16, lambda packet, _: _name(packet.out_interface)),
    8: Field("iiftype", "hex", 2, _link_type(lambda packet: packet.in_interface)),
    9: Field("oiftype", "hex", 2, _link_type(lambda packet: packet.out_interface)),
    15: Field("meta nfproto", "nfproto", 1, _family),
    16: Field("meta l4proto", "protocol", 1, _transported),
    17: Field("meta ibrname", "name", 16, _bridge(lambda packet: packet.in_interface)),
    18: Field("meta obrname", "name", 16, _bridge(lambda packet: packet.out_interface)),
    19: Field("meta pkttype", "pkttype", 1, _packet_type),
}


def meta(key: int) -> Field:
    """What ``meta`` loads."""
    return _META.get(key) or unknown(f"meta key {key}")


def _state(packet: Packet, around: Around) -> bytes | None:
    if around.tracked is None:
        return None
    if not around.tracked:
        return _CT_STATES["INVALID"].to_bytes(4, HOST)
    return sum(bit for name, bit in _CT_STATES.items() if name in packet.states).to_bytes(4, HOST)


def _direction(packet: Packet, around: Around) -> bytes | None:
    if around.tracked is None:
        return None
    if not around.tracked:
        raise NoMatchError
    return b"\0" if "NEW" in packet.states else None


def _status(packet: Packet, around: Around) -> bytes | None:
    if around.tracked is None:
        return None
    if not around.tracked:
        raise NoMatchError
    # Of a flow that is new only its translation is known: the other bits come with its answer.
    return (0x20 if "DNAT" in packet.states else 0).to_bytes(4, HOST) if "NEW" in packet.states else None


_CT: Mapping[int, Field] = {
    0: Field("ct state", "ctstate", 4, _state),
    1: Field("ct direction", "hex", 1, _direction),
    2: Field("ct status", "ctstatus", 4, _status),
    3: unknown("ct mark"),
}


def ct(key: int) -> Field:
    """What ``ct`` loads."""
    return _CT.get(key) or unknown(f"ct key {key}")


def fib(flags: int, result: int) -> Field:
    """What ``fib`` asks the routing."""
    asked = ("saddr", 0) if flags & _BY_SOURCE else ("daddr", 1)
    text = f"fib {asked[0]}{' . iif' if flags & _BY_INTERFACE else ''}"

    def address(packet: Packet) -> str:
        return packet.source if flags & _BY_SOURCE else packet.destination

    def kind(packet: Packet, around: Around) -> bytes | None:
        if flags & ~(_BY_SOURCE | _BY_DESTINATION):
            return None
        return _ROUTE_TYPES[address_type(address(packet), around.surroundings)].to_bytes(4, HOST)

    def way(packet: Packet, around: Around) -> str | None:
        """The link by which the address is reached: not one of the host's own, and only the one that it came by."""
        asked = address(packet)
        back = None if around.surroundings.is_local(asked) else around.surroundings.leads_to(asked)
        return None if flags & _BY_INTERFACE and back != packet.in_interface else back

    def told(packet: Packet, around: Around) -> bytes | None:
        depends = flags & ~(_BY_SOURCE | _BY_DESTINATION | _BY_MARK | _BY_INTERFACE | _PRESENT)
        if depends or (flags & _BY_MARK and (packet.mark or packet.mark_known != ALL_OF_A_MARK)):
            return None
        found = way(packet, around)
        if flags & _PRESENT:
            return (1 if found else 0).to_bytes(4, HOST)
        return _name(found) if result == _NAME else _index(found, around)

    if result == _TYPE:
        return Field(f"{text} type", "fibtype", 4, kind)
    if flags & _PRESENT:
        return Field(f"{text} check", "exists", 4, told)
    return Field(f"{text} oifname", "name", 16, told) if result == _NAME else Field(f"{text} oif", "index", 4, told)


# --- headers


def payload(base: int, offset: int, size: int, family: int) -> Field:
    """What ``payload`` loads, from a table of which it is known or not (0) whose addresses it sees."""
    if base == _TRANSPORT:
        found = _transport(offset, size)
        return replace(found, read=_of_ip(found.read, no_match=True))
    if base == _NETWORK:
        found = _network(offset, size, family)
        return replace(found, read=_of_ip(found.read, (offset, size)))
    if base == _LINK and (offset, size) == (6, 6):
        return Field("ether saddr", "ether", 6, _source_mac)
    if base == _LINK and (offset, size) == (0, 6):
        return replace(unknown("ether daddr", 6), kind="ether")
    if base == _LINK and (offset, size) == (12, 2):
        return replace(_META[1], text="ether type")
    return unknown(f"@{_BASES.get(base, base)},{offset * 8},{size * 8}", size)


def _of_ip(read: Read, place: tuple[int, int] = (0, 0), *, no_match: bool = False) -> Read:
    """What an IP packet's header holds; of ARP only the operation is known, and it carries nothing."""

    def asked(packet: Packet, around: Around) -> bytes | None:
        if around.arp is None:
            return read(packet, around)
        if no_match:
            raise NoMatchError
        return around.arp.to_bytes(2, "big") if place == _ARP_OPERATION else None

    return asked


def _source_mac(packet: Packet, around: Around) -> bytes | None:
    return None if packet.mac_source is None else bytes.fromhex(packet.mac_source.replace(":", ""))


_ADDRESSES = {4: ((12, 4, "ip saddr"), (16, 4, "ip daddr")), 6: ((8, 16, "ip6 saddr"), (24, 16, "ip6 daddr"))}
_PROTOCOLS = {4: 9, 6: 6}


def _network(offset: int, size: int, family: int) -> Field:
    for known in (4, 6) if family == 0 else (family,):
        for number, (at, length, text) in enumerate(_ADDRESSES[known]):
            if at <= offset and offset + size <= at + length and (offset == at or family):
                whole = size == length
                return Field(
                    text, f"ip{known}" if whole else f"ip{known}/", size, _address(known, number, offset - at, size)
                )
        if (offset, size) == (_PROTOCOLS[known], 1):
            text = "ip protocol" if known == 4 else "ip6 nexthdr"
            return Field(text, "protocol", 1, _protocol(known))
    return unknown(f"@network,{offset * 8},{size * 8}", size)


def _address(family: int, number: int, at: int, size: int) -> Read:
    def read(packet: Packet, around: Around) -> bytes | None:
        if packet.family != family:
            return None
        return values.packed((packet.source, packet.destination)[number])[at : at + size]

    return read


def _protocol(family: int) -> Read:
    return lambda packet, around: bytes([packet.protocol]) if packet.family == family else None


def _transport(offset: int, size: int) -> Field:
    match offset, size:
        case 0, 2:
            return Field("sport", "port", 2, lambda packet, _: _port(packet, packet.source_port))
        case 2, 2:
            return Field("dport", "port", 2, lambda packet, _: _port(packet, packet.destination_port))
        case 0, 1:
            return Field("icmp type", "number", 1, lambda packet, _: _icmp(packet, 0))
        case 1, 1:
            return Field("icmp code", "number", 1, lambda packet, _: _icmp(packet, 1))
        case 13, 1:
            return Field("tcp flags", "hex", 1, _flags)
    return unknown(f"@transport,{offset * 8},{size * 8}", size)


def _port(packet: Packet, port: int | None) -> bytes | None:
    if port is None:
        if packet.protocol in protocols.WITH_PORTS:
            raise NoMatchError  # it was not given
        return None
    return port.to_bytes(2, "big")


def _icmp(packet: Packet, at: int) -> bytes | None:
    return None if packet.icmp is None else bytes([packet.icmp[at]])


def _flags(packet: Packet, around: Around) -> bytes | None:
    if packet.protocol != protocols.TCP:
        return None
    return bytes([_SYN if packet.opens else _ACK])


# --- how values are written


def value_text(kind: str, value: bytes) -> str:
    """A value as nft(8) writes it, as far as that is simple."""
    match kind:
        case "ip4" if len(value) == 4:
            return socket.inet_ntop(socket.AF_INET, value)
        case "ip6" if len(value) == 16:
            return socket.inet_ntop(socket.AF_INET6, value)
        case "ip4/" | "ip6/":
            return prefix_text(kind, value, len(value) * 8)
        case "port" | "number":
            return str(int.from_bytes(value, "big"))
        case "name":
            return f'"{value.rstrip(bytes(1)).decode(errors="replace")}{"" if value.endswith(bytes(1)) else "*"}"'
        case "protocol":
            return protocols.name(value[0])
        case "nfproto":
            return {2: "ipv4", 10: "ipv6"}.get(value[0], str(value[0]))
        case "ctstate":
            return _bits(int.from_bytes(value, HOST), {bit: name.lower() for name, bit in _CT_STATES.items()})
        case "ctstatus":
            return _bits(int.from_bytes(value, HOST), {0x10: "snat", 0x20: "dnat"})
        case "mark":
            return f"{int.from_bytes(value, 'little'):#x}"
        case "index":
            return str(int.from_bytes(value, HOST))
        case "fibtype":
            number = int.from_bytes(value, HOST)
            return next((name for name, known in _ROUTE_TYPES.items() if known == number), str(number))
        case "exists":
            return "exists" if any(value) else "missing"
        case "pkttype":
            return {0: "host", 1: "broadcast", 2: "multicast"}.get(value[0], str(value[0]))
        case "ether":
            return value.hex(":")
    return f"0x{value.hex()}"


def prefix_text(kind: str, value: bytes, length: int) -> str:
    """An address of which only the first bits count."""
    family, size = (socket.AF_INET, 4) if kind.startswith("ip4") else (socket.AF_INET6, 16)
    return f"{socket.inet_ntop(family, value.ljust(size, bytes(1)))}/{length}"


def _bits(number: int, names: Mapping[int, str]) -> str:
    rest = number & ~sum(names)
    return ",".join([name for bit, name in names.items() if number & bit] + ([f"{rest:#x}"] if rest else [])) or "0"
