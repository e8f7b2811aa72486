"""What rules of other programs say, as far as their matches are common ones.

Only what decides is read here: each match is what the kernel compares (linux/netfilter/xt_*.h),
and the answer is yes, no, or that it cannot be told from a packet alone.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from struct import Struct, error

from nova_netagent.model import values
from nova_netagent.netfilter.packet import Packet
from nova_netagent.netfilter.rule import Opaque

_TCP = Struct("=HHHHBBBB")
_UDP = Struct("=HHHHB")
_ICMP = Struct("=BBBB")
_MULTIPORT = Struct("=BB15H15BB")
_MARK = Struct("=IIB")
_ADDRTYPE = Struct("=HHI")
_CONNTRACK = Struct("=128x8xHHHHHHHHH8x")
_PKTTYPE = Struct("=ii")
_IPRANGE = Struct("=16s16s16s16sB")
_REJECT = Struct("=I")

_SYN, _ACK = 0x02, 0x10
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")
_UNICAST, _LOCAL, _BROADCAST, _MULTICAST = 1 << 1, 1 << 2, 1 << 3, 1 << 5
_ADDRESS_TYPES = {_UNICAST: "UNICAST", _LOCAL: "LOCAL", _BROADCAST: "BROADCAST", _MULTICAST: "MULTICAST"}
_OF_ONE_LINK = 0x0C
"""Of addrtype's flags those by which only the addresses of the packet's own link are local."""
_STATE_BITS = {0x01: "INVALID", 0x02: "ESTABLISHED", 0x04: "RELATED", 0x08: "NEW", 0x40: "SNAT", 0x80: "DNAT"}
_STATE_BITS |= {0x100: "UNTRACKED"}
_PACKET_TYPES = ("unicast", "broadcast", "multicast")
_REJECTS = {
    4: (
        *("icmp-net-unreachable", "icmp-host-unreachable", "icmp-proto-unreachable", "icmp-port-unreachable"),
        *("icmp-echo-reply", "icmp-net-prohibited", "icmp-host-prohibited", "tcp-reset", "icmp-admin-prohibited"),
    ),
    6: (
        *("icmp6-no-route", "icmp6-adm-prohibited", "icmp6-not-neighbour", "icmp6-addr-unreachable"),
        *("icmp6-port-unreachable", "icmp6-echo-reply", "tcp-reset"),
    ),
}


@dataclass(frozen=True)
class Surroundings:
    """What the host knows of a packet beside what is in it."""

    is_local: Callable[[str], bool]
    """Whether an address is the host's own."""
    leads_to: Callable[[str], str | None]
    """The interface by which the host would answer an address."""
    index_of: Callable[[str], int | None] = lambda name: None
    """The number of a link."""
    bridge_of: Callable[[str], str | None] = lambda name: None
    """The bridge that a link is a port of."""
    broadcast_on: Callable[[str], str | None] = lambda address: None
    """The link for all of whose network an address is."""


def applies(match: Opaque, packet: Packet, around: Surroundings) -> bool | None:
    """Whether a match of somebody else's holds for a packet; ``None`` when that cannot be told."""
    judge = _JUDGES.get(match.name)
    try:
        return None if judge is None else judge(match, packet, around)
    except (error, IndexError, ValueError):
        return None


def match_text(match: Opaque) -> str | None:
    """A match as iptables-save has it; ``None`` for those that are not read here."""
    write = _TEXTS.get(match.name)
    try:
        return None if write is None else write(match)
    except (error, IndexError, ValueError):
        return None


def target_text(target: Opaque, family: int) -> str:
    """A target as iptables-save has it, as far as it says what becomes of a packet."""
    match target.name:
        case "":
            return ""
        case "REJECT" if len(target.data) >= _REJECT.size:
            number = _REJECT.unpack_from(target.data)[0]
            kinds = _REJECTS[family]
            return f"-j REJECT --reject-with {kinds[number]}" if number < len(kinds) else "-j REJECT"
        case "MASQUERADE":
            return "-j MASQUERADE"
    return f"-j {target.name} (revision {target.revision}, not ours)"


_PROGRAMS: tuple[tuple[str, str], ...] = (
    ("DOCKER", "docker"),
    ("LIBVIRT_", "libvirt"),
    ("ufw-", "ufw"),
    ("ufw6-", "ufw"),
    ("KUBE-", "kube-proxy"),
    ("cali", "calico"),
    ("f2b-", "fail2ban"),
    ("fail2ban-", "fail2ban"),
    ("neutron-", "neutron"),
    ("nova-", "another nova-style agent"),
    ("CNI-", "a CNI plugin"),
    ("FLANNEL-", "flannel"),
    ("NETAVARK", "podman"),
    ("netavark", "podman"),
    ("docker", "docker"),
    ("firewalld", "firewalld"),
    ("libvirt_", "libvirt"),
    ("kube-proxy", "kube-proxy"),
)
_FIREWALLD = ("_ZONES", "_public", "_direct", "_POLICIES", "_POLICIES_pre", "_POLICIES_post", "_ZONES_SOURCE")


def program_of(*chains: str) -> str | None:
    """Whose a foreign rule probably is, by the names of the chain it stands in or jumps to, or of its table."""
    for chain in chains:
        for start, name in _PROGRAMS:
            if chain.startswith(start):
                return name
        if chain.endswith(_FIREWALLD):
            return "firewalld"
    return None


# --- whether they hold


def _tcp(match: Opaque, packet: Packet, around: Surroundings) -> bool | None:
    low, high, first, last, option, mask, wanted, inverted = _TCP.unpack_from(match.data)
    if option:
        return None
    flags = _SYN if packet.states & {"NEW", "INVALID"} else _ACK
    checks = (
        _in(packet.source_port, low, high) != bool(inverted & 0x01),
        _in(packet.destination_port, first, last) != bool(inverted & 0x02),
        not mask or (flags & mask == wanted) != bool(inverted & 0x04),
    )
    return all(checks)


def _udp(match: Opaque, packet: Packet, around: Surroundings) -> bool | None:
    low, high, first, last, inverted = _UDP.unpack_from(match.data)
    source = _in(packet.source_port, low, high) != bool(inverted & 0x01)
    return source and _in(packet.destination_port, first, last) != bool(inverted & 0x02)


def _icmp(match: Opaque, packet: Packet, around: Surroundings) -> bool | None:
    type_, low, high, inverted = _ICMP.unpack_from(match.data)
    if packet.icmp is None:
        return False
    any_type = type_ == 0xFF and match.name == "icmp"
    found = any_type or (packet.icmp[0] == type_ and low <= packet.icmp[1] <= high)
    return found != bool(inverted)


def _multiport(match: Opaque, packet: Packet, around: Surroundings) -> bool | None:
    side, _, inverted = _multiport_head(match)
    asked = {0: (packet.source_port,), 1: (packet.destination_port,), 2: (packet.source_port, packet.destination_port)}
    ranges = list(_port_ranges(match))
    return any(_in(port, low, high) for port in asked[side] for low, high in ranges) != bool(inverted)


def _multiport_head(match: Opaque) -> tuple[int, int, int]:
    fields = _MULTIPORT.unpack_from(match.data)
    return fields[0], fields[1], fields[-1]


def _port_ranges(match: Opaque) -> Iterator[tuple[int, int]]:
    fields = _MULTIPORT.unpack_from(match.data)
    count, ports, opens = fields[1], fields[2:17], fields[17:32]
    at = 0
    while at < count:
        yield (ports[at], ports[at + 1]) if opens[at] else (ports[at], ports[at])
        at += 2 if opens[at] else 1


def _mark(match: Opaque, packet: Packet, around: Surroundings) -> bool | None:
    value, mask, inverted = _MARK.unpack_from(match.data)
    has = packet.has_mark(value, mask)
    return None if has is None else has != bool(inverted)


def _addrtype(match: Opaque, packet: Packet, around: Surroundings) -> bool | None:
    if match.revision == 0:
        source, destination, invert_source, invert_destination = Struct("=HHII").unpack_from(match.data)
        inverted = (1 if invert_source else 0) | (2 if invert_destination else 0)
    else:
        source, destination, inverted = _ADDRTYPE.unpack_from(match.data)
    if inverted & _OF_ONE_LINK:
        return None
    sides = ((source, packet.source, inverted & 1), (destination, packet.destination, inverted & 2))
    return all(bool(mask & _type_bit(address, around)) != bool(invert) for mask, address, invert in sides if mask)


def _type_bit(address: str, around: Surroundings) -> int:
    kind = address_type(address, around)
    return next(bit for bit, name in _ADDRESS_TYPES.items() if name.lower() == kind)


def address_type(address: str, around: Surroundings) -> str:
    """``unicast``, ``local``, ``broadcast`` or ``multicast``, as the host's routing has it."""
    kind = cast(address)
    if kind != "unicast":
        return kind
    if around.is_local(address):
        return "local"
    return "unicast" if around.broadcast_on(address) is None else "broadcast"


def _conntrack(match: Opaque, packet: Packet, around: Surroundings) -> bool | None:
    *_, flags, inverted, mask, _status = _CONNTRACK.unpack_from(match.data)
    if flags != 1:
        return None
    states = {name for bit, name in _STATE_BITS.items() if mask & bit}
    return bool(states & packet.states) != bool(inverted & 1)


def _pkttype(match: Opaque, packet: Packet, around: Surroundings) -> bool | None:
    kind, inverted = _PKTTYPE.unpack_from(match.data)
    return bool(_PACKET_TYPES.index(cast_in_frame(packet, around)) == kind) != bool(inverted)


def cast_in_frame(packet: Packet, around: Surroundings) -> str:
    """``unicast``, ``broadcast`` or ``multicast``, as the frame is sent: to all, where its address is all of theirs."""
    link = around.broadcast_on(packet.destination)
    came_by = packet.in_interface
    if link is not None and came_by is not None and link in (came_by, around.bridge_of(came_by)):
        return "broadcast"
    return cast(packet.destination)


def _iprange(match: Opaque, packet: Packet, around: Surroundings) -> bool | None:
    *ends, flags = _IPRANGE.unpack_from(match.data)
    sides = ((packet.source, ends[0], ends[1], 0x01, 0x10), (packet.destination, ends[2], ends[3], 0x02, 0x20))
    for address, low, high, asked, inverted in sides:
        known = values.prefix(address)
        size = values.FAMILY_BITS[known.family] // 8
        between = int.from_bytes(low[:size], "big") <= known.value <= int.from_bytes(high[:size], "big")
        if flags & asked and between == bool(flags & inverted):
            return False
    return True


def _rpfilter(match: Opaque, packet: Packet, around: Surroundings) -> bool | None:
    flags = match.data[0]
    back = around.leads_to(packet.source)
    found = back is not None and (bool(flags & 0x01) or back == packet.in_interface)
    found = found or (cast(packet.source) == "unicast" and packet.source in ("0.0.0.0", "::"))
    return found != bool(flags & 0x08)


def _in(port: int | None, low: int, high: int) -> bool:
    if (low, high) == (0, 0xFFFF):
        return True
    return port is not None and low <= port <= high


def cast(address: str) -> str:
    """``unicast``, ``broadcast`` or ``multicast``, by the address alone."""
    known = values.prefix(address)
    if address == "255.255.255.255":
        return "broadcast"
    first = known.value >> (28 if known.family == 4 else 120)
    return "multicast" if first == (0xE if known.family == 4 else 0xFF) else "unicast"


_JUDGES: Mapping[str, Callable[[Opaque, Packet, Surroundings], bool | None]] = {
    "tcp": _tcp,
    "udp": _udp,
    "icmp": _icmp,
    "icmp6": _icmp,
    "multiport": _multiport,
    "mark": _mark,
    "addrtype": _addrtype,
    "conntrack": _conntrack,
    "pkttype": _pkttype,
    "iprange": _iprange,
    "rpfilter": _rpfilter,
}


# --- how they are written


def _ports_text(name: str, low: int, high: int, inverted: bool) -> str:
    if (low, high) == (0, 0xFFFF):
        return ""
    shown = str(low) if low == high else f"{low}:{high}"
    return f"{' !' if inverted else ''} --{name} {shown}"


def _tcp_text(match: Opaque) -> str:
    low, high, first, last, _option, mask, wanted, inverted = _TCP.unpack_from(match.data)
    text = "-m tcp" + _ports_text("sport", low, high, bool(inverted & 1))
    text += _ports_text("dport", first, last, bool(inverted & 2))
    if mask:
        text += f"{' !' if inverted & 4 else ''} --tcp-flags {_flags_text(mask)} {_flags_text(wanted)}"
    return text


def _flags_text(flags: int) -> str:
    return ",".join(name for n, name in enumerate(_FLAGS) if flags & 1 << n) or "NONE"


def _udp_text(match: Opaque) -> str:
    low, high, first, last, inverted = _UDP.unpack_from(match.data)
    return (
        "-m udp"
        + _ports_text("sport", low, high, bool(inverted & 1))
        + _ports_text("dport", first, last, bool(inverted & 2))
    )


def _multiport_text(match: Opaque) -> str:
    side, _, inverted = _multiport_head(match)
    listed = ",".join(str(low) if low == high else f"{low}:{high}" for low, high in _port_ranges(match))
    return f"-m multiport{' !' if inverted else ''} --{('sports', 'dports', 'ports')[side]} {listed}"


def _mark_text(match: Opaque) -> str:
    value, mask, inverted = _MARK.unpack_from(match.data)
    return f"-m mark{' !' if inverted else ''} --mark {value:#x}/{mask:#x}"


def _addrtype_text(match: Opaque) -> str:
    source, destination, inverted = _ADDRTYPE.unpack_from(match.data)
    text = "-m addrtype"
    for mask, name, invert in ((source, "src", inverted & 1), (destination, "dst", inverted & 2)):
        if mask:
            listed = ",".join(kind for bit, kind in _ADDRESS_TYPES.items() if mask & bit)
            text += f"{' !' if invert else ''} --{name}-type {listed}"
    return text


def _rpfilter_text(match: Opaque) -> str:
    names = ((1, "loose"), (2, "validmark"), (4, "accept-local"), (8, "invert"))
    return "-m rpfilter" + "".join(f" --{name}" for bit, name in names if match.data[0] & bit)


_TEXTS: Mapping[str, Callable[[Opaque], str]] = {
    "tcp": _tcp_text,
    "udp": _udp_text,
    "multiport": _multiport_text,
    "mark": _mark_text,
    "addrtype": _addrtype_text,
    "rpfilter": _rpfilter_text,
}
