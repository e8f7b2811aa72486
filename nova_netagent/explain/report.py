"""What is answered: a packet's way through the host, and why it ended as it did."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

Outcome = Literal["ACCEPT", "DROP", "REJECT", "NO ROUTE", "UNKNOWN"]


class Holder(Struct, frozen=True):
    """Whose a rule is."""

    ours: bool
    text: str
    """For a person: ``security group web: ingress tcp 443 from 10.0.0.0/8 (rule …)``, ``foreign, probably docker``."""
    kind: str | None = None
    """The kind of the object that the rule is there for."""
    id: str | None = None
    part: str | None = None
    """Which part of it: a group's rule's id, or a purpose."""
    name: str | None = None


class MetRule(Struct, frozen=True):
    """A rule that the packet matches, where it stands, and what it does."""

    family: Literal[4, 6]
    table: str
    hook: str
    chain: str
    number: int
    """Its place in the chain, from 1 on; 0 is the policy of a built-in chain."""
    rule: str
    effect: str
    """What it does to the packet: ``ACCEPT``, ``-> CHAIN``, ``DNAT to 10.0.0.3``, ``goes on``."""
    packets: int | None
    """That it matched so far; null where it is not counted alone."""
    bytes: int | None
    owner: Holder
    together: int | None = None
    """The packets that it matched or another rule that stands in a set or map of the kernel with it."""


class Doubt(Struct, frozen=True):
    """A foreign rule of which a packet alone does not tell whether it applies."""

    rule: MetRule
    verdict: Outcome
    """What would become of the packet if it did; the explanation takes it that it does not."""


class ObjectChange(Struct, frozen=True):
    """A change of one object that is part of what would let the packet through."""

    kind: str
    id: str
    text: str
    body: Mapping[str, Any]
    """The whole object as it would have to be described."""
    also: str = ""
    """Who else gets it."""


class Proposal(Struct, frozen=True):
    """The smallest change that would let the packet through: each was tried on a copy of the state."""

    changes: Sequence[ObjectChange]
    works: bool
    """Whether the packet gets through with it."""
    text: str
    """What else is to be done, or why nothing that is described would help."""


class PacketAt(Struct, frozen=True):
    """A packet, and where it is."""

    src: str
    dst: str
    proto: str
    device: str | None
    holder: str
    """Who sends or gets it, as far as it is known here."""


class TracedPacket(Struct, frozen=True):
    """A real packet, and the rules that it met, as the kernel told them."""

    src: str
    dst: str
    """As it came."""
    left_src: str
    left_dst: str
    """As it was last seen."""
    in_dev: str | None
    out_dev: str | None
    verdict: Outcome
    """``UNKNOWN``: no rule refused it, and it was not seen to leave."""
    rules: Sequence[MetRule]


class Trace(Struct, frozen=True):
    """What became of real packets while they were watched."""

    seconds: int
    packets: Sequence[TracedPacket]
    more: int = 0
    """So many were watched besides."""
    notes: Sequence[str] = ()
    """What was not seen, and why."""


class Explanation(Struct, frozen=True):
    """What becomes of a packet here, and why."""

    verdict: Outcome
    reason: str
    certain: bool
    """False when another program decides, or a rule that cannot be judged from the packet alone could do it."""
    way: Literal["bridged", "routed", "to the host", "from the host"]
    state: str
    sent: PacketAt
    left: PacketAt
    """As it leaves the host, or was when it was refused."""
    rules: Sequence[MetRule]
    refused_by: MetRule | None = None
    doubts: Sequence[Doubt] = ()
    notes: Sequence[str] = ()
    proposal: Proposal | None = None
    trace: Trace | None = None
    """The packets of its kind that were watched, if that was asked for."""
