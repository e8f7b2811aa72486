"""The rows of one scene."""

from collections.abc import Callable
from typing import Any

from benchmarks.figures import Figure
from benchmarks.scene import Scene


class Rows:
    """Figures of one scene, noted as they come, and found again by their names.

    :param kind: which packet filter they are of, where that is not the first one.
    :param beside: the same with the first one: what has nothing else beside it is beside these.
    """

    def __init__(
        self, what: Scene, runs: int, note: Callable[[Figure], None], kind: str = "", beside: "Rows | None" = None
    ) -> None:
        self.runs = runs
        self._scene = what
        self._note = note
        self._prefix = f"{kind}: " if kind else ""
        self._beside = beside
        self._found: dict[str, Figure] = {}

    def add(self, row: str, ours: float, against: str = "", other: float | None = None, **rest: Any) -> None:
        """One figure more."""
        same = self.same(row) if other is None else None
        if same is not None:
            against, other = "the iptables backend", same.ours
        rest = {"runs": self.runs} | rest
        figure = Figure(
            self._scene.size, self._scene.groups, self._prefix + row, ours, against=against, other=other, **rest
        )
        self._found[row] = figure
        self._note(figure)

    def find(self, row: str) -> Figure | None:
        """The last figure of this name."""
        return self._found.get(row)

    def same(self, row: str) -> Figure | None:
        """The last figure of this name with the first packet filter, if these are of another one."""
        return None if self._beside is None else self._beside.find(row)
