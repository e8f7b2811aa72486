"""Rules, chains, tables and sets, as values.

A rule is what the kernel will hold, not a command: two equal rules are one rule. The
words are iptables(8)'s own, and every value is canonical (a prefix carries its length,
host bits are zero), so that text and bytes can be compared.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

Family = Literal[4, 6]
FAMILIES: tuple[Family, Family] = (4, 6)

Origin = tuple[str, str, str]
"""Why a rule is there: a kind, an object's id, and a part of it (a rule's id, a purpose)."""

PortRange = tuple[int, int]


class Ports(Struct, frozen=True, gc=False):
    """``-m tcp`` or ``-m udp``: source and destination port ranges, ends included."""

    protocol: Literal["tcp", "udp"]
    source: PortRange | None = None
    destination: PortRange | None = None


class MultiPort(Struct, frozen=True, gc=False):
    """``-m multiport``: one port range, for the protocols that have no match of their own here."""

    direction: Literal["source", "destination"]
    ports: PortRange


class Icmp(Struct, frozen=True, gc=False):
    """``-m icmp`` or ``-m icmp6``, by the rule's family: a type and perhaps a code."""

    type: int
    code: int | None = None


class Conntrack(Struct, frozen=True, gc=False):
    """``-m conntrack --ctstate``: any of the states, or with ``inverted`` none of them."""

    states: frozenset[str]
    inverted: bool = False


class Physdev(Struct, frozen=True, gc=False):
    """``-m physdev``: the bridge port a frame came in by, goes out by, or that it is bridged.

    ``incoming`` and ``outgoing`` are names; one that ends in ``+`` is a prefix.
    """

    incoming: str | None = None
    outgoing: str | None = None
    bridged: bool | None = None


Directions = Literal["src", "dst", "src,src,dst", "dst,dst,src"]
"""Which of a packet's addresses and ports a set is asked about, dimension by dimension."""


class InSet(Struct, frozen=True, gc=False):
    """``-m set --match-set NAME DIRECTIONS``: the address, or address, port and peer, is in an ipset."""

    name: str
    direction: Directions


class TcpSyn(Struct, frozen=True, gc=False):
    """``-m tcp --syn``: a segment that opens a connection, or with ``inverted`` every other segment."""

    inverted: bool = False


class MacSource(Struct, frozen=True, gc=False):
    """``-m mac --mac-source``, or with ``inverted`` every other address."""

    address: str
    inverted: bool = False


class Mark(Struct, frozen=True, gc=False):
    """``-m mark --mark VALUE/MASK``."""

    value: int
    mask: int


class LocalAddress(Struct, frozen=True, gc=False):
    """``-m addrtype --dst-type LOCAL``: the destination is an address of this host."""


class Comment(Struct, frozen=True, gc=False):
    """``-m comment``: at most 255 bytes, matches everything."""

    text: str


class Limit(Struct, frozen=True, gc=False):
    """``-m limit``: so many packets a second, and at once at most ``burst``; the others do not match."""

    rate: int
    burst: int


class Opaque(Struct, frozen=True, gc=False):
    """A match or target that is not ours, kept as the kernel gave it."""

    name: str
    revision: int
    data: bytes


Match = (
    Ports
    | MultiPort
    | Icmp
    | Conntrack
    | Physdev
    | InSet
    | TcpSyn
    | MacSource
    | Mark
    | LocalAddress
    | Comment
    | Limit
    | Opaque
)


class Verdict(Struct, frozen=True, gc=False):
    """``-j ACCEPT``, ``DROP`` or ``RETURN``."""

    name: Literal["ACCEPT", "DROP", "RETURN"]


class Jump(Struct, frozen=True, gc=False):
    """``-j CHAIN``, or with ``goto`` ``-g CHAIN``: a return from it skips the rest of this chain."""

    chain: str
    goto: bool = False


class Dnat(Struct, frozen=True, gc=False):
    """``-j DNAT --to-destination ADDRESS[:PORT]``."""

    address: str
    port: int | None = None


class Snat(Struct, frozen=True, gc=False):
    """``-j SNAT --to-source ADDRESS``."""

    address: str


class Redirect(Struct, frozen=True, gc=False):
    """``-j REDIRECT --to-ports PORT``."""

    port: int


class SetMark(Struct, frozen=True, gc=False):
    """``-j MARK --set-xmark VALUE/MASK``: not a verdict, the walk goes on."""

    value: int
    mask: int


class Zone(Struct, frozen=True, gc=False):
    """``-j CT --zone NUMBER``: the flow belongs to this zone of connection tracking; not a verdict."""

    number: int


class ChecksumFill(Struct, frozen=True, gc=False):
    """``-j CHECKSUM --checksum-fill``: not a verdict."""


class Log(Struct, frozen=True, gc=False):
    """``-j NFLOG --nflog-prefix PREFIX --nflog-group GROUP``: told to a program; not a verdict."""

    group: int
    prefix: str


class Reject(Struct, frozen=True, gc=False):
    """``-j REJECT`` with the family's port-unreachable."""


Target = Verdict | Jump | Dnat | Snat | Redirect | SetMark | Zone | ChecksumFill | Log | Reject | Opaque

ACCEPT = Verdict("ACCEPT")
DROP = Verdict("DROP")
RETURN = Verdict("RETURN")


class Rule(Struct, frozen=True, cache_hash=True, gc=False):
    """One rule of a chain of either family.

    ``source`` and ``destination`` are prefixes in canonical text; ``protocol`` is a number;
    ``inverted`` names those of the five header fields that must *not* match. ``origin``
    says why the rule is there, unless its chain does; the kernel does not keep it.
    """

    target: Target
    source: str | None = None
    destination: str | None = None
    in_interface: str | None = None
    out_interface: str | None = None
    protocol: int | None = None
    matches: tuple[Match, ...] = ()
    inverted: frozenset[str] = frozenset()
    origin: Origin | None = None


class Chain(Struct, frozen=True, gc=False):
    """A chain of our own: its name and its rules, in order."""

    name: str
    rules: tuple[Rule, ...]
    about: tuple[str, str] | None = None
    """The kind and id of the object for which the rules are there that do not say it themselves: equal
    rules of thousands of chains are one object."""
    parts: tuple[str, ...] = ()
    """With ``about`` the third word of the origin of each rule."""

    @property
    def explained(self) -> tuple[Rule, ...]:
        """The rules, each with its origin."""
        if self.about is None:
            return self.rules
        kind, id_ = self.about
        return tuple(
            rule if rule.origin is not None else replace(rule, origin=(kind, id_, part))
            for rule, part in zip(self.rules, self.parts, strict=True)
        )

    def origins(self) -> Iterator[Origin | None]:
        """Why each rule is there."""
        if self.about is None:
            return (rule.origin for rule in self.rules)
        kind, id_ = self.about
        return (rule.origin or (kind, id_, part) for rule, part in zip(self.rules, self.parts, strict=True))


class Hook(Struct, frozen=True, gc=False):
    """Our rules in a chain that is not ours alone, which stand together and in this order.

    ``shared`` marks a user-defined chain that other nova-style agents use too (it exists
    while anybody has a rule in it); otherwise the chain is a built-in one.
    """

    chain: str
    rules: tuple[Rule, ...]
    shared: bool = False


class TableId(Struct, frozen=True, gc=False, order=True):
    """A table of a family: ``TableId(4, "filter")``."""

    family: Family
    name: str

    def __str__(self) -> str:
        return f"IPv{self.family} {self.name}"


class Table(Struct, frozen=True, gc=False):
    """What one table must hold of ours."""

    id: TableId
    chains: Mapping[str, Chain]
    hooks: tuple[Hook, ...]


CUT_SECONDS = 432_000
"""How long the ends of a flow that was cut are remembered: as long as connection tracking itself
remembers an idle TCP connection (nf_conntrack_tcp_timeout_established)."""

CUT_FLOWS = 1 << 16
"""How many of them are, at most, in a set; after that a new one drives out another."""

SetType = Literal["hash:net", "hash:ip,port,ip"]


class IpSet(Struct, frozen=True, gc=False):
    """A set of one family: prefixes, or ends of flows as ``ADDRESS,tcp:PORT,PEER``.

    The ends of flows are noted as they are cut and forgotten after a while: no state says who
    they are, so such a set is always described, and read, as an empty one.
    """

    name: str
    family: Family
    members: frozenset[str]
    origin: Origin | None = None
    type: SetType = "hash:net"


class Ruleset(Struct, frozen=True, gc=False):
    """Everything of ours that the packet filter must hold."""

    tables: Mapping[TableId, Table]
    sets: Mapping[str, IpSet]
