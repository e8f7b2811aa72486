"""A tracked flow, as a value."""

from msgspec import Struct

from nova_netagent.model.values import Prefix
from nova_netagent.netfilter.rule import Family

EXPECTED, SEEN_REPLY = 1 << 0, 1 << 1
"""IPS_EXPECTED: another flow announced it. IPS_SEEN_REPLY: there were packets in both directions."""


def family_of(end: str) -> Family:
    """The family of an end of a flow, as it is noted when it was cut: ``ADDRESS,tcp:PORT,PEER``."""
    return 6 if ":" in end.partition(",")[0] else 4


class Side(Struct, frozen=True):
    """One direction of a flow, as its packets look on the way in."""

    source: str
    destination: str
    source_port: int | None = None
    destination_port: int | None = None
    icmp: tuple[int, int] | None = None
    """Type and code."""


class Flow(Struct, frozen=True):
    """A tracked flow: how its first packet looked, and how replies to it look (NAT in between)."""

    family: Family
    protocol: int
    original: Side
    reply: Side
    status: int = 0
    zone: int = 0
    picked_up: bool = False
    """Of TCP: its first packet here was none that opens a connection, and may have been the server's."""
    handle: bytes = b""
    """What names the flow to the kernel: its original tuple, zone and id as netlink attributes."""

    @property
    def addresses(self) -> tuple[str, str, str, str]:
        """Everybody's, before and after NAT."""
        return (self.original.source, self.original.destination, self.reply.source, self.reply.destination)


class Addresses(Struct, frozen=True):
    """Whose flows are asked for: those of single addresses and of prefixes, or everybody's."""

    single: frozenset[str] = frozenset()
    prefixes: tuple[Prefix, ...] = ()
    everybody: bool = False

    def __bool__(self) -> bool:
        return bool(self.single or self.prefixes or self.everybody)
