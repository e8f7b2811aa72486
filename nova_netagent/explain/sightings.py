"""Which packet met which rules, from what the kernel told of them, rule by rule.

nf_tables and the legacy tables tell of the same packet apart from each other. What is the same in
both is what translation does not change: the identification or flow label, and what follows the
ports. What is told of the same bytes again begins anew where it comes to an earlier hook.
"""

import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nova_netagent.backend.nflog import Logged
from nova_netagent.backend.nft.objects import Family as NftFamily
from nova_netagent.backend.trace import Met, Traced
from nova_netagent.model import protocols
from nova_netagent.netfilter.packet import Packet

_PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0}
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


@dataclass(frozen=True)
class _Head:
    packet: Packet
    same: tuple[object, ...]
    """What is the same wherever the packet is seen."""


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
        self._beside: dict[int, _Head] = {}
        """Of passages below IP, whose packet it is."""

    def traced(self, event: Traced) -> None:
        """A rule of nf_tables."""
        if event.header:
            self._under_way.pop(event.number, None)
            head = _head(event.header)
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

    def _lost_beside(self, head: _Head, passage: Passage) -> None:
        """A packet that was refused below IP, where frames are judged: at whatever hook, it is the end."""
        last = self._last.get(("nft", head.same)) or self._last.get(("legacy", head.same))
        if last is not None:
            end = Passage(last.passage.hook, _AT_LAST, head.packet, passage.place, passage.links, passage.rules)
            self._packets[(last.count, *head.same)].passages.append(end)

    def logged(self, event: Logged) -> None:
        """A rule of a legacy table."""
        head = _head(event.packet)
        where = legacy_place(event)
        if head is None or where is None:
            return
        table, chain, number = where
        nat = -100 if event.hook in (0, _OUTPUT) else 100
        priority = _PRIORITIES.get(table, nat)
        last = self._last.get(("legacy", head.same))
        if last is not None and (last.passage.hook, last.passage.place) == (event.hook, table):
            before = last.passage.rules[-1]
            known = legacy_place(before) if isinstance(before, Logged) else None
            if known is not None and not (known[1] == chain and number <= known[2]):
                last.passage.rules.append(event)
                return
        links = event.physin or event.indev, event.physout or event.outdev
        passage = Passage(event.hook, priority, head.packet, table, links, [event])
        self._enter("legacy", head, passage)

    def found(self) -> list[Sighting]:
        """The packets, the passages of each in their order."""
        for each in self._packets.values():
            hooks = _IS_SENT if any(one.hook == _OUTPUT for one in each.passages) else _COMES
            each.passages.sort(key=lambda one: (hooks.index(one.hook), one.priority))
        return list(self._packets.values())

    def _enter(self, source: str, head: _Head, passage: Passage) -> None:
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


def _head(data: bytes) -> _Head | None:
    """A packet by its headers; ``None`` for what is cut too short."""
    if len(data) < 20:
        return None
    if data[0] >> 4 == 4:
        size, protocol = (data[0] & 0xF) * 4, data[9]
        ends = socket.inet_ntop(socket.AF_INET, data[12:16]), socket.inet_ntop(socket.AF_INET, data[16:20])
        mark = data[4:6]
    elif len(data) >= 40:
        size, protocol = 40, data[6]
        ends = socket.inet_ntop(socket.AF_INET6, data[8:24]), socket.inet_ntop(socket.AF_INET6, data[24:40])
        mark = data[1:4]
    else:
        return None
    return _with_transport(ends, protocol, mark, data[size : size + 20])


def _with_transport(ends: tuple[str, str], protocol: int, mark: bytes, transport: bytes) -> _Head:
    source_port = destination_port = icmp = None
    rest: Sequence[bytes] = (transport,)
    opens = True
    if protocol in protocols.WITH_PORTS and len(transport) >= 8:
        source_port, destination_port = int.from_bytes(transport[:2], "big"), int.from_bytes(transport[2:4], "big")
        rest = (transport[4:6], transport[8:]) if protocol != protocols.TCP else (transport[4:16], transport[18:])
        opens = protocol != protocols.TCP or len(transport) < 14 or transport[13] & 0x17 == 0x02
    elif protocol in protocols.WITH_TYPES and len(transport) >= 4:
        icmp = transport[0], transport[1]
        rest = (transport[:2], transport[6:])
    packet = Packet(*ends, protocol, source_port, destination_port, icmp, opens=opens)
    return _Head(packet, (protocol, mark, *rest))
