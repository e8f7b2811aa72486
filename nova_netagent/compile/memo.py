"""Remember what was compiled, by the identity of what it was compiled from.

The model is frozen, so an object that is the same object gives the same result: a change
costs what it touches, not what the host holds.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from itertools import compress, islice, zip_longest
from operator import eq, is_, itemgetter, ne
from typing import Any, Generic, NamedTuple, TypeVar, cast

from msgspec import Struct

from nova_netagent.model.lineage import changed, follow, ordered, same_order

_FEW = 8
"""What is more than an eighth is sorted anew."""

S = TypeVar("S")
T = TypeVar("T")


class Memo:
    """Results by key, each valid while its dependencies are the same objects."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[tuple[object, ...], Any]] = {}
        self._used: dict[Hashable, tuple[tuple[object, ...], Any]] = {}
        self._parts: dict[str, Memo] = {}
        self._touched: dict[str, Memo] = {}

    def part(self, name: str) -> "Memo":
        """A memo for what goes into one result of this one: a compilation that does not ask for it keeps it all."""
        found = self._parts.setdefault(name, Memo())
        self._touched[name] = found
        return found

    def get(self, key: Hashable, depends_on: tuple[object, ...], make: Callable[[], T]) -> T:
        """The remembered result, or a new one where a dependency is another object.

        Strings and numbers are compared by value, everything else by identity.
        """
        known = self._used.get(key) or self._known.get(key)
        if known is None or not _same(known[0], depends_on):
            known = (depends_on, make())
        self._used[key] = known
        return cast("T", known[1])

    def each(
        self,
        key: Hashable,
        sources: Mapping[str, S],
        depends_on: tuple[object, ...],
        make: Callable[[str, S, T | None], T],
        narrowed: Callable[[str, S], tuple[object, ...]] | None = None,
        concerned: Callable[[tuple[object, ...]], Iterable[str] | None] | None = None,
    ) -> Mapping[str, T]:
        """One result for each source, in their order; the very mapping of last time where it is the same.

        A result is kept as long as its source is the same object and what they all depend on is.

        :param make: makes a result of an id and a source, and is given the one of last time;
            one that is equal to it is not taken.
        :param narrowed: what of ``depends_on`` one of them really depends on: asked when that changed.
        :param concerned: with ``narrowed``: who alone may depend on another thing now, by what they all
            depended on last time; ``None``: anybody.
        """
        known = self._used.get(key) or self._known.get(key)
        last: _Each = known[1] if known is not None else _NOTHING
        same = known is not None and _same(known[0], depends_on)
        if same and sources is last.sources:
            self._used[key] = (depends_on, last)
            return last.results
        if not last.sources:  # a cold start: nothing is to be looked up
            results = follow(last.results, {id_: make(id_, source, None) for id_, source in sources.items()})
            new = {} if narrowed is None else {id_: narrowed(id_, source) for id_, source in sources.items()}
            self._used[key] = (depends_on, _Each(sources, results, new))
            return results
        others = changed(last.sources, sources)
        some = () if same else concerned(known[0]) if concerned is not None and known is not None else None
        made: dict[str, Any] = {}
        narrow: dict[str, tuple[object, ...]] = {}
        for id_ in sources if some is None else dict.fromkeys((*others, *some)):
            if id_ not in sources:
                continue
            source, kept = sources[id_], last.results.get(id_)
            is_kept = kept is not None and last.sources.get(id_) is source
            if narrowed is not None:
                narrow[id_] = now = narrowed(id_, source)
                is_kept = is_kept and _same(last.narrow[id_], now)
            elif not same:
                is_kept = False
            if not is_kept:
                result = make(id_, source, kept)
                if kept is None or result != kept:
                    made[id_] = result
        gone = [id_ for id_ in others if id_ not in sources and id_ in last.results]
        results = follow(last.results, made, gone)
        if not same_order(last.sources, sources) and list(results) != list(sources):
            results = ordered(results, {id_: results[id_] for id_ in sources})
        if narrowed is not None:
            narrow = {**last.narrow, **narrow}
            for id_ in gone:
                del narrow[id_]
        self._used[key] = (depends_on, _Each(sources, results, narrow))
        return results

    def merged(self, key: Hashable, parts: Sequence[Mapping[Any, T]], name: Callable[[T], str]) -> Mapping[str, T]:
        """The values of several mappings by names of their own, of which no two are alike.

        The very mapping of last time where it is the same; otherwise made from it.
        """
        last = self._before(key, _NOT_MERGED)
        put: dict[str, Any] = {}
        gone: dict[str, None] = {}
        for before, after in zip_longest(last.parts, parts, fillvalue=_NONE):
            for id_ in changed(before, after):
                if id_ in before:
                    gone[name(before[id_])] = None
                if id_ in after:
                    put[name(after[id_])] = after[id_]
        whole = follow(last.whole, put, [each for each in gone if each not in put])
        self._used[key] = ((), _Merged(tuple(parts), whole))
        return whole

    def picked(self, key: Hashable, source: Mapping[str, S], ids: frozenset[str]) -> Mapping[str, S]:
        """The part of a mapping that these keys have, all of which it has; made from that of last time."""
        last = self._before(key, _NOT_PICKED)
        put = {id_: source[id_] for id_ in changed(last.source, source) if id_ in ids}
        gone: Iterable[str] = ()
        if ids is not last.ids:
            put |= {id_: source[id_] for id_ in ids - last.ids}
            gone = last.ids - ids
        part = follow(last.part, put, gone)
        self._used[key] = ((), _Picked(source, ids, part))
        return part

    def paired(self, key: Hashable, left: Mapping[str, S], right: Mapping[str, T]) -> Mapping[str, tuple[S, T | None]]:
        """What two mappings have for each key of the first; made from what they had last time."""
        last = self._before(key, _NOT_PAIRED)
        others = {*changed(last.left, left), *changed(last.right, right)}
        put = {id_: (left[id_], right.get(id_)) for id_ in others if id_ in left}
        pairs = follow(last.pairs, put, [id_ for id_ in others if id_ in last.left and id_ not in left])
        if not same_order(last.left, left) and list(pairs) != list(left):
            pairs = ordered(pairs, {id_: pairs[id_] for id_ in left})
        self._used[key] = ((), _Paired(left, right, pairs))
        return pairs

    def index(
        self, key: Hashable, source: Mapping[str, S], names: Callable[[str, S], Iterable[str]]
    ) -> Mapping[str, Collection[str]]:
        """By name the keys of those of a mapping that name it, however often; that of last time, brought up to date."""
        before, index = self._before(key, _Indexed({}, {}))
        for id_ in changed(before, source):
            for name in dict.fromkeys(names(id_, before[id_])) if id_ in before else ():
                del index[name][id_]
                if not index[name]:
                    del index[name]
            for name in names(id_, source[id_]) if id_ in source else ():
                index.setdefault(name, {})[id_] = None
        self._used[key] = ((), _Indexed(source, index))
        return index

    def in_order(
        self, key: Hashable, source: Mapping[str, S], items: Callable[[S], Sequence[T]], order: Callable[[T], Any]
    ) -> "InOrder[T]":
        """What the values of a mapping have, in order; made from that of last time.

        :param order: by which they are sorted.
        """
        before, last = self._before(key, _NOT_IN_ORDER)
        others = changed(before, source)
        found = last
        if len(others) * _FEW > len(source):
            found = _of_rows([row for id_, value in source.items() for row in _rows(id_, items(value), order)])
        elif others:
            gone = [row for id_ in others if id_ in before for row in _rows(id_, items(before[id_]), order)]
            come = [row for id_ in others if id_ in source for row in _rows(id_, items(source[id_]), order)]
            found = last.followed(gone, come) if gone or come else last
        self._used[key] = ((), (source, found))
        return found

    def joined(self, key: Hashable, parts: Sequence["InOrder[T]"]) -> "InOrder[T]":
        """What several have in order, as one; of equal order by their turn. Made from that of last time."""
        before, last = self._before(key, _NOT_JOINED)
        if len(before) == len(parts) and all(map(is_, before, parts)):
            found = last
        elif len(before) == len(parts) and all(map(_is_next, before, parts)):
            others = [(str(turn), part.since) for turn, part in enumerate(parts) if part is not before[turn]]
            gone = [_turned(row, turn) for turn, since in others if since is not None for row in since.gone]
            come = [_turned(row, turn) for turn, since in others if since is not None for row in since.come]
            found = last.followed(gone, come)
        else:
            rows = [
                _turned(row, str(turn))
                for turn, part in enumerate(parts)
                for row in zip(part.places, part.items, strict=True)
            ]
            found = _of_rows(rows)
        self._used[key] = ((), (tuple(parts), found))
        return found

    def keys(self, key: Hashable, source: Mapping[str, object]) -> frozenset[str]:
        """The keys of a mapping: the same object as long as they are the same."""
        before, keys = self._before(key, _NO_KEYS)
        if any((id_ in before) != (id_ in source) for id_ in changed(before, source)):
            keys = frozenset(source)
        self._used[key] = ((), (source, keys))
        return keys

    def _before(self, key: Hashable, nothing: T) -> T:
        """What was remembered under a key, of this compilation or the last."""
        known = self._used.get(key) or self._known.get(key)
        return nothing if known is None else cast("T", known[1])

    def last(self, key: Hashable) -> Any:
        """The result of last time, whatever it depended on; ``None`` where there is none."""
        known = self._known.get(key)
        return None if known is None else known[1]

    def intern(self, key: Hashable, value: T) -> T:
        """The object of last time where it is equal, so that its dependants stay valid."""
        known = self._known.get(key)
        if known is not None and known[1] == value:
            value = known[1]
        self._used[key] = ((), value)
        return value

    def forget_unused(self) -> None:
        """End a compilation: what it did not ask for is forgotten."""
        self._known, self._used = self._used, {}
        for part in self._touched.values():
            part.forget_unused()
        self._touched.clear()


class _Each(NamedTuple):
    """What is remembered of many results."""

    sources: Mapping[str, Any]
    results: Mapping[str, Any]
    narrow: dict[str, tuple[object, ...]]


class _Merged(NamedTuple):
    """What is remembered of mappings that became one."""

    parts: tuple[Mapping[Any, Any], ...]
    whole: Mapping[str, Any]


class _Picked(NamedTuple):
    """What is remembered of a part of a mapping."""

    source: Mapping[str, Any]
    ids: frozenset[str]
    part: Mapping[str, Any]


Place = tuple[Any, str, int]
"""The order of an item, the key of the value that has it, its place in the value."""


class Since(NamedTuple, Generic[T]):
    """What is other in a list than in one that was before it."""

    before: Sequence[T]
    """The very list."""
    gone: Sequence[tuple[Place, T]]
    come: Sequence[tuple[Place, T]]

    @property
    def others(self) -> Sequence[T]:
        """What came and what went; some of it may have stayed."""
        return [item for _, item in (*self.gone, *self.come)]


class InOrder(Struct, Generic[T], gc=False):
    """What the values of a mapping have, in order; of equal order by key and place in the value."""

    places: list[Place]
    items: list[T]
    twins: int = 0
    """How many are of the same order as the one before them."""
    since: Since[T] | None = None
    """What is other than last time, where that is known."""

    def orders(self) -> Iterable[Any]:
        """The order of each."""
        return map(_ORDER, self.places)

    def by_key(self) -> list[T]:
        """The same by key, and by place in the value."""
        keys = sorted(range(len(self.places)), key=lambda at: self.places[at][1:])
        return [self.items[at] for at in keys]

    def distinct(self) -> list[T]:
        """Of those of equal order the first; they are neighbours. The very list where there are none."""
        if not self.twins:
            return self.items
        orders = list(self.orders())
        return list(compress(self.items, map(ne, orders, (None, *orders))))

    def beginning(self, *first: object) -> "InOrder[T]":
        """Those whose order is a tuple that begins so."""
        low = bisect_left(self.places, (first,))
        high = bisect_right(self.places, first, low, key=lambda place: place[0][: len(first)])
        return InOrder(self.places[low:high], self.items[low:high], self.twins)

    def followed(self, gone: Sequence[tuple[Place, T]], come: Sequence[tuple[Place, T]]) -> "InOrder[T]":
        """Another one, without some and with others."""
        found = InOrder(self.places.copy(), self.items.copy(), self.twins, Since(self.items, gone, come))
        for place, _ in gone:
            found.remove(place)
        for place, item in come:
            found.insert(place, item)
        return found

    def insert(self, place: Place, item: T) -> None:
        """Put one more where it belongs."""
        at = bisect_left(self.places, place)
        self.twins += self._has_twin(place[0], at)
        self.places.insert(at, place)
        self.items.insert(at, item)

    def remove(self, place: Place) -> None:
        """Take the one of this place out."""
        at = bisect_left(self.places, place)
        del self.places[at], self.items[at]
        self.twins -= self._has_twin(place[0], at)

    def _has_twin(self, order: Any, at: int) -> bool:
        """Whether one beside this place is of that order."""
        return any(each[0] == order for each in self.places[max(at - 1, 0) : at + 1])


def _rows(id_: str, items: Sequence[T], order: Callable[[T], Any]) -> list[tuple[Place, T]]:
    """The items of one value, each with its place."""
    return [((order(item), id_, at), item) for at, item in enumerate(items)]


def _of_rows(rows: list[tuple[Place, T]]) -> InOrder[T]:
    rows.sort(key=_PLACE)
    found = InOrder([place for place, _ in rows], [item for _, item in rows])
    found.twins = sum(map(eq, found.orders(), islice(found.orders(), 1, None)))
    return found


def _turned(row: tuple[Place, T], turn: str) -> tuple[Place, T]:
    """A row among those of others, whose turn is another."""
    (order, id_, at), item = row
    return (order, turn + id_, at), item


def _is_next(before: InOrder[Any], after: InOrder[Any]) -> bool:
    """Whether what is other between two is known."""
    return after is before or (after.since is not None and after.since.before is before.items)


class _Indexed(NamedTuple):
    """A mapping, and who of it names what: edited, never copied."""

    source: Mapping[str, Any]
    by_name: dict[str, dict[str, None]]


class _Paired(NamedTuple):
    """What is remembered of two mappings that were laid side by side."""

    left: Mapping[str, Any]
    right: Mapping[str, Any]
    pairs: Mapping[str, tuple[Any, Any]]


_NONE: Mapping[Any, Any] = {}
_NO_KEYS: tuple[Mapping[str, object], frozenset[str]] = ({}, frozenset())
_NOTHING = _Each({}, {}, {})
_NOT_IN_ORDER: tuple[Mapping[str, Any], InOrder[Any]] = ({}, InOrder([], []))
_NOT_JOINED: tuple[tuple[InOrder[Any], ...], InOrder[Any]] = ((), InOrder([], []))
_ORDER = itemgetter(0)
_PLACE = itemgetter(0)
_NOT_MERGED = _Merged((), {})
_NOT_PICKED = _Picked({}, frozenset(), {})
_NOT_PAIRED = _Paired({}, {}, {})


def _same(known: tuple[object, ...], given: tuple[object, ...]) -> bool:
    if len(known) != len(given):
        return False
    if all(map(is_, known, given)):
        return True
    # A plain loop: this runs some thousand times for a change, and a generator costs twice as much.
    for a, b in zip(known, given, strict=True):
        if a is not b and not (isinstance(a, str | int) and a == b):
            return False
    return True
