"""Remember what was compiled, by the identity of what it was compiled from.

The model is frozen, so an object that is the same object gives the same result: a change
costs what it touches, not what the host holds.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Memo:
    """Results by key, each valid while its dependencies are the same objects."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[tuple[object, ...], Any]] = {}
        self._used: dict[Hashable, tuple[tuple[object, ...], Any]] = {}

    def get(self, key: Hashable, depends_on: tuple[object, ...], make: Callable[[], T]) -> T:
        """The remembered result, or a new one where a dependency is another object.

        Strings and numbers are compared by value, everything else by identity.
        """
        known = self._used.get(key) or self._known.get(key)
        if known is None or not _same(known[0], depends_on):
            known = (depends_on, make())
        self._used[key] = known
        return cast("T", known[1])

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


def _same(known: tuple[object, ...], given: tuple[object, ...]) -> bool:
    if len(known) != len(given):
        return False
    # A plain loop: this runs some thousand times for a change, and a generator costs twice as much.
    for a, b in zip(known, given, strict=True):
        if a is not b and not (isinstance(a, str | int) and a == b):
            return False
    return True
