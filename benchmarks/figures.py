"""Figures: what was measured, beside what, and how it reads."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One row: ours and the other's, medians of so many runs in turn."""

    size: int
    """How many instances."""
    groups: str
    """``private``: one for each instance; ``shared``: by twenty, or as said."""
    row: str
    ours: float
    unit: str = "ms"
    against: str = ""
    other: float | None = None
    runs: int = 1
    bar: float | None = None
    """What the ratio must not exceed."""

    @property
    def ratio(self) -> float | None:
        """Ours by the other's."""
        return None if not self.other else self.ours / self.other

    @property
    def met(self) -> str:
        """Whether the bar is met."""
        if self.bar is None or self.ratio is None:
            return ""
        return f"{'yes' if self.ratio <= self.bar else 'no'} ({self.bar:.3g})"

    def beside(self, against: str, other: float, runs: int, bar: float | None = None) -> "Figure":
        """The same of ours beside something else."""
        return replace(self, against=against, other=other, runs=runs, bar=bar)

    def line(self) -> str:
        """The row for a terminal."""
        other = "" if self.other is None else f"{self.other:10.2f}  {self.against}"
        return f"{self.size:6} {self.groups:8} {self.row:44} {self.ours:10.2f} {_ratio(self):>7} {other} {self.met}"

    def cells(self) -> tuple[str, ...]:
        """The row for a table."""
        ours = f"{_number(self.ours)} {self.unit}".strip()
        other = "" if self.other is None else f"{_number(self.other)} {self.unit}".strip()
        return str(self.size), self.groups, self.row, ours, _ratio(self), other, self.against, self.met

    def plain(self) -> dict[str, Any]:
        """The row for a machine."""
        return {**asdict(self), "ratio": self.ratio}


TITLES = ("instances", "groups", "what", "ours", "ratio", "other", "against", "bar met")


def markdown(figures: Iterable[Figure]) -> str:
    """A table."""
    rows = [TITLES, ("--:", "---", "---", "--:", "--:", "--:", "---", "---"), *(each.cells() for each in figures)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def timed(function: Callable[[], object]) -> float:
    """Milliseconds that a call takes."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


def median(functions: Iterable[Callable[[], object]]) -> float:
    """The median of the milliseconds that calls take."""
    return statistics.median(timed(each) for each in functions)


def in_turn(ours: Sequence[Callable[[], object]], other: Sequence[Callable[[], object]]) -> tuple[float, float]:
    """The medians of two things done in turn, so that a busy machine is busy for both."""
    measured = [(timed(a), timed(b)) for a, b in zip(ours, other, strict=True)]
    return statistics.median(a for a, _ in measured), statistics.median(b for _, b in measured)


def _ratio(figure: Figure) -> str:
    if figure.ratio is None:
        return ""
    return f"{figure.ratio:.2f}" if figure.ratio >= 0.1 else f"{figure.ratio:.4f}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
