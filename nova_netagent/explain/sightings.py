"""Which packet met which rules, from what the kernel told of them, rule by rule.

nf_tables and the legacy tables tell of the same packet apart from each other. What is the same in
both is what translation does not change: the identification or flow label, and what follows the
ports. What is told of the same bytes again begins anew where it comes to an earlier hook.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nova_netagent.backend.nflog import Logged
from nova_netagent.backend.nft.objects import Family as NftFamily
from nova_netagent.backend.trace import Met, Traced
from nova_netagent.netfilter.headers import Head, head_of
from nova_netagent.netfilter.hooks import HOOKS, priority
from nova_netagent.netfilter.packet import Packet

_INPUT, _OUTPUT, _POSTROUTING = 1, 3, 4
ENDS = (_INPUT, _POSTROUTING)
"""The hooks after which a packet has passed."""
_COMES, _IS_SENT = (0, 1, 2, 4, 3), (3, 4, 0, 1, 2)
"""The order in which a packet meets the hooks, and one of the host's own, which may come back by ``lo``."""

_IP = frozenset({NftFamily.IP, NftFamily.IP6, NftFamily.INET})
_DROP = 0
_AT_LAST = 1 << 31

Bases = Mapping[tuple[NftFamily, str, str], tuple[int, int]]
"""Hook and priority of each base chain of nf_tables, by family, table and name."""


@dataclass
class Passage:
    """A packet in one table at one hook."""

    hook: int
    priority: int
    packet: Packet
    place: object
    """Which table, or base chain of nf_tables."""
    links: tuple[int, int]
    """The numbers of those by which it came and goes, as they are seen there."""
    rules: list[Met] = field(default_factory=list)


@dataclass
class Sighting:
    """A packet, and all of its passages, in order."""

    passages: list[Passage] = field(default_factory=list)


@dataclass(frozen=True)
class _Last:
    """Where a packet was last seen, how many of the same bytes were before it, and whether the host sent it."""

    count: int
    passage: Passage
    is_sent: bool


def sightings(events: Iterable[Met], bases: Bases) -> list[Sighting]:
    """Every packet that was told of, in the order in which they came."""
    gathered = _Gathered(bases)
    for each in events:
        if isinstance(each, Traced):
            gathered.traced(each)
        else:
            gathered.logged(each)
    return gathered.found()


class _Gathered:
    def __init__(self, bases: Bases) -> None:
        self._bases = bases
        self._packets: dict[tuple[object, ...], Sighting] = {}
        self._last: dict[tuple[str, tuple[object, ...]], _Last] = {}
        """By source and packet."""
        self._under_way: dict[int, Passage] = {}
        self._beside: dict[int, Head] = {}
        """Of passages below IP, whose packet it is."""

    def traced(self, event: Traced) -> None:
        """A rule of nf_tables."""
        if event.header:
            self._under_way.pop(event.number, None)
            head = head_of(event.header)
            base = self._bases.get((event.table.family, event.table.name, event.chain))
            if head is None or base is None:
                return
            place = (event.table, event.chain)
            passage = Passage(*base, head.packet, place, (event.indev, event.outdev))
            if event.table.family in _IP:
                self._enter("nft", head, passage)
            else:
                self._beside[id(passage)] = head
            self._under_way[event.number] = passage
        if event.number in self._under_way:
            passage = self._under_way[event.number]
            passage.rules.append(event)
            if id(passage) in self._beside and event.verdict[0] == _DROP:
                self._lost_beside(self._beside.pop(id(passage)), passage)

    def _lost_beside(self, head: Head, passage: Passage) -> None:
        """A packet that was refused below IP, where frames are judged: at whatever hook, it is the end."""
        last = self._last.get(("nft", head.same)) or self._last.get(("legacy", head.same))
        if last is not None:
            end = Passage(last.passage.hook, _AT_LAST, head.packet, passage.place, passage.links, passage.rules)
            self._packets[(last.count, *head.same)].passages.append(end)

    def logged(self, event: Logged) -> None:
        """A rule of a legacy table."""
        head = head_of(event.packet)
        where = legacy_place(event)
        if head is None or where is None:
            return
        table, chain, number = where
        last = self._last.get(("legacy", head.same))
        if last is not None and (last.passage.hook, last.passage.place) == (event.hook, table):
            before = last.passage.rules[-1]
            known = legacy_place(before) if isinstance(before, Logged) else None
            if known is not None and not (known[1] == chain and number <= known[2]):
                last.passage.rules.append(event)
                return
        links = event.physin or event.indev, event.physout or event.outdev
        passage = Passage(event.hook, priority(table, HOOKS[event.hook]), head.packet, table, links, [event])
        self._enter("legacy", head, passage)

    def found(self) -> list[Sighting]:
        """The packets, the passages of each in their order."""
        for each in self._packets.values():
            hooks = _IS_SENT if any(one.hook == _OUTPUT for one in each.passages) else _COMES
            each.passages.sort(key=lambda one: (one.priority == _AT_LAST, hooks.index(one.hook), one.priority))
        return list(self._packets.values())

    def _enter(self, source: str, head: Head, passage: Passage) -> None:
        last = self._last.get((source, head.same))
        if last is None:
            now = _Last(0, passage, passage.hook == _OUTPUT)
        elif _follows(last, passage):
            now = _Last(last.count, passage, last.is_sent)
        else:
            now = _Last(last.count + 1, passage, passage.hook == _OUTPUT)
        self._last[source, head.same] = now
        self._packets.setdefault((now.count, *head.same), Sighting()).passages.append(passage)


def _follows(last: _Last, now: Passage) -> bool:
    """Whether a packet that was there can come to here."""
    before, hooks = last.passage, _IS_SENT if last.is_sent else _COMES
    if before.hook == now.hook:
        return now.priority > before.priority or (now.priority == before.priority and now.place != before.place)
    return hooks.index(now.hook) > hooks.index(before.hook)


def legacy_place(event: Logged) -> tuple[str, str, int] | None:
    """Table, chain and number of ``TRACE: filter:FORWARD:rule:3``."""
    words = event.prefix.removeprefix("TRACE: ").strip().split(":")
    if len(words) < 4 or not words[-1].strip().isdigit():
        return None
    return words[0], ":".join(words[1:-2]), int(words[-1])
