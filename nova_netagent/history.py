"""The last plans and what came of them: the first thing to look at when something is not as it was."""

from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import Literal

from msgspec import Struct

LENGTH = 50
"""So many plans are remembered."""
MOST_LINES = 40
"""So many edits of each are told."""

_MUCH = 1000
"""From so many edits on a plan is not kept for its first lines: a cold start's is as large as the rules."""

Why = Literal["start", "change", "resync", "retry", "links"]


class Attempt(Struct, frozen=True):
    """One attempt to make the kernel agree, as it is told."""

    at: str
    """When it ended, in UTC."""
    why: Why
    result: Literal["done", "failed"]
    message: str
    """Why it failed."""
    edits: int
    seconds: float
    plan: tuple[str, ...]
    """The first of its edits, a line each."""


class _Kept(Struct):
    at: float
    why: Why
    message: str
    edits: int
    seconds: float
    lines: Callable[[], Iterable[str]]


class History:
    """A ring of attempts. Lines are written only when somebody asks, as long as their plan is small."""

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque(maxlen=LENGTH)

    def done(self, at: float, why: Why, edits: int, seconds: float, lines: Callable[[], Iterable[str]]) -> None:
        """Remember an attempt that edited something."""
        if edits > _MUCH:
            first = tuple(islice(lines(), MOST_LINES))
            self._kept.append(_Kept(at, why, "", edits, seconds, lambda: first))
        elif edits:
            self._kept.append(_Kept(at, why, "", edits, seconds, lines))

    def failed(self, at: float, why: Why, message: str, seconds: float) -> None:
        """Remember one that failed; the same failure again and again is remembered once, as it was last."""
        if self._kept and self._kept[-1].message == message:
            self._kept.pop()
        self._kept.append(_Kept(at, why, message, 0, seconds, tuple))

    def told(self) -> list[Attempt]:
        """All of them, the newest first."""
        return [
            Attempt(
                at=datetime.fromtimestamp(each.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                why=each.why,
                result="failed" if each.message else "done",
                message=each.message,
                edits=each.edits,
                seconds=round(each.seconds, 4),
                plan=tuple(islice(each.lines(), MOST_LINES)),
            )
            for each in reversed(self._kept)
        ]
