"""What an attempt to make the kernel agree did."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Plan(Protocol):
    """Edits of one kind."""

    def __bool__(self) -> bool: ...

    def lines(self) -> Iterator[str]:
        """The plan for people, an edit a line."""


class Drift(NamedTuple):
    """Edits of a table that undo what somebody else did."""

    edits: Counter[str]
    lines: Callable[[], Iterable[str]]


@dataclass
class Outcome:
    """What an attempt did."""

    edits: Counter[str] = field(default_factory=Counter)
    plans: list[Callable[[], Iterable[str]]] = field(default_factory=list)
    """What was carried out, each to be read by people when somebody asks."""
    drift: list[Drift] = field(default_factory=list)
    """Those of the edits that undo what somebody else did to chains that were right."""
    drifted: bool = False
    """Whether there was any of that to undo: the kernel may have done what it told to have failed."""
    forgotten: bool = False
    """Whether a set of the ends of flows that were cut had to be made, which holds none."""
    link_failures: dict[str, str] = field(default_factory=dict)
    """By the link concerned, why its edits failed."""
    links_again: int = 0
    """How many links, addresses and sysctls had been made before, and undone by somebody."""

    def __bool__(self) -> bool:
        return bool(self.edits)

    def add(self, part: "Outcome") -> None:
        """What a part of the attempt did to the rules."""
        self.edits += part.edits
        self.plans += part.plans
        self.drift += part.drift
        self.drifted |= part.drifted
        self.forgotten |= part.forgotten

    def note(self, kind: str, plan: Plan) -> None:
        """A plan was carried out, if there was anything in it."""
        if plan:
            self.edits[kind] += 1
            self.plans.append(plan.lines)

    def note_lines(self, kind: str, lines: list[str]) -> None:
        """Edits were made, if there are any lines of them."""
        if lines:
            self.edits[kind] += 1
            self.plans.append(lambda: lines)

    @property
    def rules(self) -> bool:
        """Whether rules or sets were edited."""
        return bool(self.edits.keys() & {"insert", "delete", "addchain", "removechain", "set"})

    def lines(self) -> Iterator[str]:
        """What was done, an edit a line."""
        return (line for plan in self.plans for line in plan())
