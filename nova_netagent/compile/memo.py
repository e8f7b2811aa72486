"""Remember what was compiled, by the identity of what it was compiled from.

The model is frozen, so an object that is the same object gives the same result: a change
costs what it touches, not what the host holds.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

S = TypeVar("S")
T = TypeVar("T")


class Memo:
    """Results by key, each valid while its dependencies are the same objects."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[tuple[object, ...], Any]] = {}
        self._used: dict[Hashable, tuple[tuple[object, ...], Any]] = {}
        self._parts: dict[str, Memo] = {}
        self._touched: list[Memo] = []

    def part(self, name: str) -> "Memo":
        """A memo for what goes into one result of this one: a compilation that does not ask for it keeps it all."""
        found = self._parts.setdefault(name, Memo())
        self._touched.append(found)
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
    ) -> Mapping[str, T]:
        """One result for each source, in their order; the very mapping of last time where it is the same.

        A result is kept as long as its source is the same object and what they all depend on is.

        :param make: makes a result of an id and a source, and is given the one of last time;
            one that is equal to it is not taken.
        :param narrowed: what of ``depends_on`` one of them really depends on: asked when that changed.
        """
        known = self._used.get(key) or self._known.get(key)
        last: _Each = known[1] if known is not None else _NOTHING
        same = known is not None and _same(known[0], depends_on)
        if same and sources is last.sources:
            self._used[key] = (depends_on, last)
            return last.results
        results: dict[str, Any] = {}
        narrow: dict[str, tuple[object, ...]] = {}
        other = len(sources) != len(last.results)
        before, old, old_narrow = last.sources, last.results, last.narrow
        for id_, source in sources.items():
            kept = old.get(id_)
            is_kept = kept is not None and before.get(id_) is source
            if narrowed is not None:
                if is_kept and same:
                    narrow[id_] = old_narrow[id_]
                else:
                    narrow[id_] = now = narrowed(id_, source)
                    is_kept = is_kept and _same(old_narrow[id_], now)
            elif not same:
                is_kept = False
            if is_kept:
                results[id_] = kept
                continue
            made = make(id_, source, kept)
            if kept is not None and made == kept:
                made = kept
            results[id_] = made
            other = other or made is not kept
        if not other and list(results) == list(old):
            results = old
        self._used[key] = (depends_on, _Each(sources, results, narrow))
        return results

    def last(self, key: Hashable) -> Any:
        """The result of last time, whatever it depended on; ``None`` where there is none."""
        known = self._known.get(key)
        return None if known is None else known[1]

    def keep(self, keys: Iterable[Hashable]) -> None:
        """Do not forget these, although nobody asked for them: what they are part of was taken whole."""
        for key in keys:
            if key not in self._used and key in self._known:
                self._used[key] = self._known[key]

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
        for part in self._touched:
            part.forget_unused()
        self._touched.clear()


class _Each(NamedTuple):
    """What is remembered of many results."""

    sources: Mapping[str, Any]
    results: dict[str, Any]
    narrow: dict[str, tuple[object, ...]]


_NOTHING = _Each({}, {}, {})


def _same(known: tuple[object, ...], given: tuple[object, ...]) -> bool:
    if len(known) != len(given):
        return False
    if known == ():
        return True
    # A plain loop: this runs some thousand times for a change, and a generator costs twice as much.
    for a, b in zip(known, given, strict=True):
        if a is not b and not (isinstance(a, str | int) and a == b):
            return False
    return True
