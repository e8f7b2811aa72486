"""What may be asked of the engine, from any thread, and what it answers."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from nova_netagent.engine.inspection import Inspection
from nova_netagent.events import Event
from nova_netagent.history import History
from nova_netagent.model import Key, Object
from nova_netagent.status import Status, View

T = TypeVar("T")


class NotApplied(Exception):
    """A change is on disk, and the kernel could not be made to agree yet: it will be retried."""


@dataclass(frozen=True)
class Answer:
    """What became of a change."""

    change: Literal["created", "updated", "unchanged", "deleted", "missing"]
    status: Status | None = None
    object: Object | None = None
    """The object of a Put, as it is stored."""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    kept: Mapping[Key, str] = field(default_factory=dict)
    """Of a Replace the objects that are newer here and stayed as they are, each with why."""


@dataclass
class Change:
    """A request to change the desired state.

    :ivar wait: answer when the kernel has it; otherwise as soon as it is on disk.
    :ivar source: who asks, for the metrics: ``api`` or ``rpc``.
    """

    event: Event
    wait: bool = True
    source: str = "api"
    arrived: float = field(default_factory=time.monotonic)
    answer: "Future[Answer]" = field(default_factory=Future)


class Informant(Protocol):
    """What the engine is for whoever looks."""

    view: View
    history: History

    def inspect(self) -> Inspection:
        """What is known now, for questions that change nothing."""

    def resync(self) -> list[str]:
        """Read everything back and repair it; the repairs, a line each."""


@dataclass
class Look(Generic[T]):
    """A request to run something in the engine's thread, with the engine: a plan, a resync, a read.

    :ivar meanwhile: do so also while changes that came before wait for a pause between commits to end: for
        those who have the answers to their own.
    """

    ask: Callable[[Informant], T]
    meanwhile: bool = field(default=False, kw_only=True)
    answer: "Future[T]" = field(default_factory=Future)

    def resolve(self, engine: Informant) -> None:
        """Ask, and hand on what comes of it, an error as well."""
        try:
            self.answer.set_result(self.ask(engine))
        except Exception as error:
            self.answer.set_exception(error)


class Wake:
    """Links changed, a server ended, or the engine is to stop."""


Request = Change | Look[Any] | Wake
