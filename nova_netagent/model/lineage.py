"""Mappings that know what they were made from: what changed between two of them is told without a search.

The state, and what is compiled from it, are mappings of a thousand things of which a change
concerns one. Each version of such a mapping is another object, as they are frozen; all versions
of a line share one log of the keys that changed. Two mappings that are not of a line are compared.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import compress, filterfalse, repeat
from operator import is_not
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

_ABSENT = object()
_SHORTEST = 1000
"""So many keys a log may always have; from twice the mapping's own on a search is no longer."""


class _Version(dict[K, V]):
    """One version of a mapping; nobody edits it."""

    __slots__ = ("at", "log", "order")

    def __init__(self, content: Mapping[K, V], log: list[K]) -> None:
        super().__init__(content)
        self.log = log
        self.at = len(log)
        """How much of the log was written for this version and those before it."""
        self.order: object = object()
        """The same object in versions that have the same keys in the same order."""


class _Beside(Mapping[K, V]):
    """A version with keys besides, of which its log says nothing."""

    __slots__ = ("at", "log", "others", "version")

    def __init__(self, version: _Version[K, V], others: Mapping[K, V]) -> None:
        self.version = version
        self.others = others
        self.log = version.log
        self.at = version.at

    def __getitem__(self, key: K) -> V:
        return self.others[key] if key in self.others else self.version[key]

    def __contains__(self, key: object) -> bool:
        return key in self.version or key in self.others

    def __iter__(self) -> Iterator[K]:
        yield from self.version
        yield from filterfalse(self.version.__contains__, self.others)

    def __len__(self) -> int:
        return len(self.version) + sum(key not in self.version for key in self.others)


def follow(before: Mapping[K, V], put: Mapping[K, V], gone: Iterable[K] = ()) -> Mapping[K, V]:
    """The next version of a mapping; the same object where nothing is put and nothing goes.

    One thread makes all versions of a line.

    :param put: the values by their keys, new ones at the end.
    :param gone: keys that go; all of them are there.
    """
    gone = tuple(gone)
    if not put and not gone:
        return before
    after = _Version(before, _log(before))
    for key in gone:
        del after[key]
    after.update(put)
    after.log += (*put, *gone)
    after.at = len(after.log)
    if isinstance(before, _Version) and not gone and len(after) == len(before):
        after.order = before.order
    return after


def beside(version: Mapping[K, V], others: Mapping[K, V]) -> Mapping[K, V]:
    """A version of a mapping with keys besides that are none of its line's; nothing is copied."""
    if isinstance(version, _Beside):
        return _Beside(version.version, {**version.others, **others})
    return _Beside(version if isinstance(version, _Version) else _Version(version, []), others)


def ordered(before: Mapping[K, V], after: Mapping[K, V]) -> Mapping[K, V]:
    """The next version of a mapping, whole and in an order of its own; the same object where it is the same."""
    keys = changed(before, after)
    if not keys and list(before) == list(after):
        return before
    made = _Version(after, _log(before))
    made.log += keys
    made.at = len(made.log)
    return made


def changed(before: Mapping[K, V], after: Mapping[K, V]) -> Collection[K]:
    """The keys that have another object in one mapping than in the other, or are in one alone."""
    if before is after:
        return ()
    if isinstance(before, _Version | _Beside) and isinstance(after, _Version | _Beside) and before.log is after.log:
        low, high = sorted((before.at, after.at))
        keys = dict.fromkeys((*after.log[low:high], *_others(before), *_others(after)))
        return [key for key in keys if before.get(key, _ABSENT) is not after.get(key, _ABSENT)]
    known = map(before.get, after, repeat(_ABSENT))
    found = list(compress(after, map(is_not, known, after.values())))
    if len(before) - len(after) + len(found):  # else every key of the one is one of the other
        found += filterfalse(after.__contains__, before)
    return found


def same_order(before: Mapping[K, V], after: Mapping[K, V]) -> bool:
    """Whether two mappings are known to have the same keys in the same order; it is not looked."""
    if before is after:
        return True
    return isinstance(before, _Version) and isinstance(after, _Version) and before.order is after.order


def _others(mapping: Mapping[K, V]) -> Iterable[K]:
    return mapping.others if isinstance(mapping, _Beside) else ()


def _log(before: Mapping[K, V]) -> list[K]:
    """The log for what comes after a mapping: its own, unless another version came after it already."""
    if not isinstance(before, _Version):
        return []
    if before.at == len(before.log) < 2 * len(before) + _SHORTEST:
        return before.log
    return []
