"""Walk a packet through chains: the kernel's verdict without the kernel.

Used by tests as the third witness beside both kernels, and by ``explain``. The walk
refuses (``CannotTell``) what it does not understand, instead of guessing.
Source of the semantics: net/ipv4/netfilter/ip_tables.c, ipt_do_table().
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from struct import Struct
from sys import byteorder

from nova_netagent.model import values
from nova_netagent.netfilter.rule import (
    ChecksumFill,
    Comment,
    Conntrack,
    Directions,
    Dnat,
    Family,
    Icmp,
    InSet,
    IpSet,
    Jump,
    Limit,
    LocalAddress,
    Log,
    MacSource,
    Mark,
    Match,
    MultiPort,
    Opaque,
    Physdev,
    PortRange,
    Ports,
    Redirect,
    Reject,
    Rule,
    SetMark,
    Snat,
    Table,
    TcpSyn,
    Verdict,
    Zone,
)

PASSING = frozenset(
    {"", "AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "CT", "DSCP", "ECN", "HL", "IDLETIMER", "LED"}
    | {"LOG", "NFLOG", "NOTRACK", "RATEEST", "SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL"}
    | {"ULOG"}
)
"""Targets of somebody else's after which the walk goes on; the empty one is that of a rule that only counts."""


ALL_OF_A_MARK = 0xFFFFFFFF
_CONNMARK = Struct("=III")
_RESTORE, _NOTRACK = 2, 1


class CannotTell(Exception):
    """The walk met a match or a target that it does not know.

    :ivar steps: the rules that matched until then, with that of the target.
    """

    steps: "tuple[Step, ...]" = ()


@dataclass(frozen=True)
class Packet:
    """A packet and what the kernel knows of it at one hook.

    ``icmp`` is type and code; ``states`` are connection-tracking states as ``--ctstate``
    has them; ``physdev_out`` is set for bridged frames only, as in the kernel.
    """

    source: str
    destination: str
    protocol: int
    source_port: int | None = None
    destination_port: int | None = None
    icmp: tuple[int, int] | None = None
    in_interface: str | None = None
    out_interface: str | None = None
    physdev_in: str | None = None
    physdev_out: str | None = None
    mac_source: str | None = None
    states: frozenset[str] = frozenset({"NEW"})
    mark: int = 0
    mark_known: int = ALL_OF_A_MARK
    """The bits of the mark that can be told; the others are 0 in ``mark``."""
    to_local_address: bool = False
    opens: bool = True
    """Of a TCP segment: whether it opens a connection (SYN and nothing else)."""

    @property
    def family(self) -> Family:
        """4 or 6, by the source address."""
        return 6 if ":" in self.source else 4

    def marked(self, value: int, mask: int) -> "Packet":
        """The packet with another mark, as ``SetMark`` has it."""
        known = self.mark_known | mask
        return replace(self, mark=((self.mark & ~mask) ^ value) & known, mark_known=known)

    def marked_by_nobody_knows(self, mask: int = ALL_OF_A_MARK) -> "Packet":
        """The packet with other bits of its mark than can be told."""
        return replace(self, mark=self.mark & ~mask, mark_known=self.mark_known & ~mask)

    def untracked(self) -> "Packet":
        """The packet, of which connection tracking shall not know."""
        return replace(self, states=frozenset({"UNTRACKED"}))

    def has_mark(self, value: int, mask: int) -> bool | None:
        """Whether its mark has some bits; ``None`` when that cannot be told."""
        if (self.mark & mask ^ value) & (self.mark_known | ~mask):
            return False
        return None if mask & ~self.mark_known else True


@dataclass(frozen=True)
class Step:
    """A rule that matched, and where it stands."""

    chain: str
    index: int
    rule: Rule


Judge = Callable[[Step, Packet], bool]
"""Whether a rule applies to a packet, and where it stands."""


@dataclass(frozen=True)
class Walk:
    """How a walk ended."""

    verdict: str
    """``ACCEPT``, ``DROP`` or ``REJECT``; the policy (``ACCEPT`` unless given) where no rule decided."""
    packet: Packet
    """The packet afterwards: rewritten by NAT, marked."""
    steps: tuple[Step, ...] = field(default=())

    @property
    def decided_by(self) -> Step | None:
        """The rule that gave the verdict; ``None`` when the policy did."""
        if not self.steps:
            return None
        last = self.steps[-1]
        match last.rule.target:
            case Verdict("RETURN"):
                return None
            case Verdict() | Dnat() | Snat() | Redirect() | Reject() | Opaque("REJECT" | "MASQUERADE" | "SNAT"):
                return last
        return None


def chains_of(table: Table) -> Mapping[str, Sequence[Rule]]:
    """A table's chains with our hooks in place, as if nobody else had any rule."""
    chains: dict[str, Sequence[Rule]] = {name: chain.rules for name, chain in table.chains.items()}
    for hook in table.hooks:
        chains[hook.chain] = hook.rules
    return chains


def walk(
    chains: Mapping[str, Sequence[Rule]],
    start: str,
    packet: Packet,
    sets: Mapping[str, IpSet],
    policy: str = "ACCEPT",
    judge: "Judge | None" = None,
) -> Walk:
    """Walk a packet from a built-in chain to its verdict.

    :param judge: says whether a rule applies; by default ``matches``.
    :raises CannotTell: on a match or target that is not understood, or a missing chain.
    """
    steps: list[Step] = []
    stack: list[tuple[str, int]] = []
    chain, index = start, 0
    while True:
        rules = chains.get(chain)
        if rules is None:
            if chain == start:
                return Walk(policy, packet, tuple(steps))
            raise CannotTell(f"there is no chain {chain}")
        if index >= len(rules):
            if not stack:
                return Walk(policy, packet, tuple(steps))
            chain, index = stack.pop()
            continue
        rule = rules[index]
        if not (matches(rule, packet, sets) if judge is None else judge(Step(chain, index, rule), packet)):
            index += 1
            continue
        steps.append(Step(chain, index, rule))
        index += 1
        match rule.target:
            case Verdict("RETURN"):
                if not stack:
                    return Walk(policy, packet, tuple(steps))
                chain, index = stack.pop()
            case Verdict(name):
                return Walk(name, packet, tuple(steps))
            case Reject():
                return Walk("REJECT", packet, tuple(steps))
            case Jump(target, goto):
                if not goto:
                    stack.append((chain, index))
                chain, index = target, 0
            case Dnat(address, port):
                changed = replace(
                    packet,
                    destination=address,
                    destination_port=packet.destination_port if port is None else port,
                    states=packet.states | {"DNAT"},
                )
                return Walk("ACCEPT", changed, tuple(steps))
            case Redirect(port):
                changed = replace(packet, destination_port=port, to_local_address=True, states=packet.states | {"DNAT"})
                return Walk("ACCEPT", changed, tuple(steps))
            case Snat(address):
                return Walk("ACCEPT", replace(packet, source=address), tuple(steps))
            case SetMark(value, mask):
                packet = packet.marked(value, mask)
            case ChecksumFill() | Zone() | Log():
                pass
            case Opaque("CONNMARK"):
                packet = packet.marked_by_nobody_knows(_restored(rule.target))
            case Opaque("NOTRACK") | Opaque("CT") if _untracks(rule.target):
                packet = packet.untracked()
            case Opaque(name) if name in PASSING:
                pass
            case Opaque("REJECT"):
                return Walk("REJECT", packet, tuple(steps))
            case Opaque("MASQUERADE" | "SNAT"):
                # As whom it is sent is seen nowhere afterwards: the nat table is the last that it meets.
                return Walk("ACCEPT", packet, tuple(steps))
            case Opaque(name):
                unknown = CannotTell(f"the target {name} in {chain} is not known")
                unknown.steps = tuple(steps)
                raise unknown


def _restored(connmark: Opaque) -> int:
    """The bits that iptables' CONNMARK takes from the connection's mark, which no packet tells (xt_connmark.h)."""
    mode = connmark.data[14 if connmark.revision > 1 else 12 :][:1]
    if mode != bytes([_RESTORE]):
        return 0
    _, of_connection, of_packet = _CONNMARK.unpack_from(connmark.data)
    return int(of_connection | of_packet)


def _untracks(target: Opaque) -> bool:
    """Whether iptables' CT keeps connection tracking from a packet (xt_CT.h)."""
    return target.name == "NOTRACK" or bool(target.data and target.data[0 if byteorder == "little" else 1] & _NOTRACK)


def matches(rule: Rule, packet: Packet, sets: Mapping[str, IpSet]) -> bool:
    """Whether a rule applies to a packet."""
    header = (
        ("source", _in_prefix(packet.source, rule.source)),
        ("destination", _in_prefix(packet.destination, rule.destination)),
        ("in_interface", _is_interface(packet.in_interface, rule.in_interface)),
        ("out_interface", _is_interface(packet.out_interface, rule.out_interface)),
        ("protocol", None if rule.protocol is None else rule.protocol == packet.protocol),
    )
    for name, found in header:
        if found is not None and found == (name in rule.inverted):
            return False
    return all(_match(each, packet, sets) for each in rule.matches)


def _in_prefix(address: str, wanted: str | None) -> bool | None:
    if wanted is None:
        return None
    return values.prefix(wanted).contains(values.prefix(address))


def _is_interface(name: str | None, wanted: str | None) -> bool | None:
    if wanted is None:
        return None
    if name is None:
        return False
    return name.startswith(wanted[:-1]) if wanted.endswith("+") else name == wanted


def _in_range(port: int | None, wanted: PortRange | None) -> bool:
    if wanted is None:
        return True
    return port is not None and wanted[0] <= port <= wanted[1]


def _match(match: Match, packet: Packet, sets: Mapping[str, IpSet]) -> bool:
    match match:
        case Ports(_, source, destination):
            return _in_range(packet.source_port, source) and _in_range(packet.destination_port, destination)
        case MultiPort(direction, ports):
            return _in_range(packet.source_port if direction == "source" else packet.destination_port, ports)
        case Icmp(type_, code):
            return packet.icmp is not None and packet.icmp[0] == type_ and code in (None, packet.icmp[1])
        case Conntrack(states, inverted):
            return bool(states & packet.states) != inverted
        case Physdev(incoming, outgoing, bridged):
            wanted = (
                _is_interface(packet.physdev_in, incoming),
                _is_interface(packet.physdev_out, outgoing),
                None if bridged is None else bridged == (packet.physdev_out is not None),
            )
            return all(found is not False for found in wanted)
        case InSet(name, direction):
            members = sets.get(name)
            if members is None:
                raise CannotTell(f"there is no set {name}")
            return _in_set(packet, direction, members)
        case TcpSyn(inverted):
            return packet.opens != inverted
        case MacSource(address, inverted):
            # A packet without an Ethernet header matches neither way (xt_mac.c, mac_mt).
            return packet.mac_source is not None and (packet.mac_source == address) != inverted
        case Mark(value, mask):
            has = packet.has_mark(value, mask)
            if has is None:
                raise CannotTell("its mark cannot be told")
            return has
        case LocalAddress():
            return packet.to_local_address
        case Comment() | Limit():
            return True  # of a limit: as long as it lets anything on
        case Opaque(name):
            raise CannotTell(f"the match {name} is not known")


def _in_set(packet: Packet, direction: Directions, members: IpSet) -> bool:
    ends = (packet.source, packet.source_port), (packet.destination, packet.destination_port)
    here, there = ends if direction.startswith("src") else ends[::-1]
    if members.type == "hash:ip,port,ip":
        return f"{here[0]},tcp:{here[1]},{there[0]}" in members.members
    wanted = values.prefix(here[0])
    return any(values.prefix(member).contains(wanted) for member in members.members)
