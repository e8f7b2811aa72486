"""What a rule of somebody's in nf_tables asks and does, to be looked at when there is a packet."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from nova_netagent.explain.foreign import fields
from nova_netagent.explain.foreign.fields import Around, NoMatchError
from nova_netagent.netfilter.packet import ALL_OF_A_MARK, Packet
from nova_netagent.netfilter.rule import ACCEPT, DROP, RETURN, Jump, Opaque, SetMark, Target

Judge = Callable[[Packet, Around], bool | None]
"""Whether a test holds; ``None`` when that cannot be told from a packet."""
Act = Callable[[Packet, Around], "Target | bool | None"]
"""What is done: a target, ``False`` where a map has nothing for the packet, ``None`` when it cannot be told."""
NOTHING = Opaque("", 0, b"")
UNKNOWN = Opaque("?", 0, b"")
"""Another program decides."""


@dataclass
class Decoded:
    """A rule: its tests, what it does, and its words."""

    tests: list[Judge] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    act: Act | None = None
    mark: fields.Read | None = None
    """The mark that it gives, in the host's byte order."""
    untracks: bool = False
    rewrites: bool = False
    """It changes what others ask of the packet."""

    @property
    def text(self) -> str:
        """As nft(8) would write it, or nearly; what is left of a rule without words is that it counts."""
        said = (word for word, then in pairwise([*self.words, ""]) if word and not _implied(word, then))
        return " ".join(said) or "counter"

    def holds(self, packet: Packet, around: Around) -> bool | None:
        """Whether all tests hold; what fails decides, whatever cannot be told besides."""
        found: bool | None = True
        for each in self.tests:
            held = _ask(each, packet, around)
            if held is False:
                return False
            found = None if held is None else found
        return found

    def target(self, packet: Packet, around: Around) -> Target | bool | None:
        """What it does to a packet for which its tests hold; as ``Act``."""
        if self.rewrites:
            return None
        if self.act is not None:
            return self.act(packet, around)
        mark = None if self.mark is None else self.mark(packet, around)
        return NOTHING if mark is None else SetMark(number(mark), ALL_OF_A_MARK)

    def changed(self, packet: Packet, around: Around) -> Packet:
        """The packet with the mark that it is given, beside a verdict or without one; and untracked."""
        if self.untracks and not around.tracked:
            packet = packet.untracked()
        if self.mark is None:
            return packet
        mark = self.mark(packet, around)
        return packet.marked_by_nobody_knows() if mark is None else packet.marked(number(mark), ALL_OF_A_MARK)


def _implied(word: str, then: str) -> bool:
    """Whether nft(8) leaves a test out, as the one behind it says the same."""
    head, _, value = word.rpartition(" ")
    implies = {"ipv4": "ip", "ipv6": "ip6"}.get(value, value)
    return head in ("meta l4proto", "meta nfproto") and then.startswith((f"{implies} ", "meta l4proto"))


def _ask(test: Judge, packet: Packet, around: Around) -> bool | None:
    try:
        return test(packet, around)
    except NoMatchError:
        return False


def target_of(code: int, chain: str | None) -> Target | None:
    """A verdict of nf_tables as a target; ``None`` for a queue, of which nobody knows here what it decides."""
    match code:
        case 0:
            return DROP
        case 1:
            return ACCEPT
        case -5:
            return RETURN
        case -3 | -4 if chain is not None:
            return Jump(chain, code == -4)
        case -1:
            return NOTHING
    return None  # a queue


def number(value: bytes) -> int:
    """A register's four bytes, as the host has numbers."""
    return int.from_bytes(value[:4], fields.HOST)
