"""The agent, as its API sees it: what the daemon hands in."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from nova_netagent.metrics import Metrics
from nova_netagent.settings import ApiSettings
from nova_netagent.status import Connection, View

T = TypeVar("T")


class Asks(Protocol[T]):
    """A request of the engine's: a Change or a Look."""

    @property
    def answer(self) -> "Future[T]":
        """Where the engine puts what became of it."""


class Submit(Protocol):
    """Give the engine a request, wait for its answer, and return or raise it."""

    def __call__(self, request: Asks[T], /) -> T:
        """Raises what the engine raises, and ``Unanswered`` when there is no engine any more."""


class Offload(Protocol):
    """Run something that takes long where it keeps nobody waiting, and wait for its result."""

    def __call__(self, function: Callable[[], T], /) -> T:
        """Raises what the function raises."""


class Apart(Protocol):
    """Run something that takes its time, as watching does, and wait for its result."""

    def __call__(self, function: Callable[[Callable[[], bool]], T], /) -> T:
        """The function is given what tells whether to leave off. Raises what the function raises."""


class Unanswered(Exception):
    """The engine ended before it answered; a change may or may not be on disk."""


@dataclass(frozen=True)
class About:
    """What the agent is, apart from how it does.

    :ivar backend: ``iptables`` or ``nftables``; ``None`` until it is open.
    :ivar see_with: the command with which an operator sees our rules.
    :ivar started: when the agent started, in seconds since the epoch.
    :ivar uptime: for how many seconds it has run, however the clock was set meanwhile.
    """

    host: str
    version: str
    started: float
    uptime: float
    backend: str | None = None
    see_with: str | None = None


def to_its_end(function: Callable[[Callable[[], bool]], T], /) -> T:
    """The plainest way to run something that takes its time."""
    return function(lambda: False)


def at_once(function: Callable[[], T], /) -> T:
    """The plainest way to run something: here and now."""
    return function()


@dataclass(frozen=True)
class Agent:
    """What the API speaks for.

    :ivar submit: as ``Submit`` says; called from many requests at a time.
    :ivar view: what the engine last published.
    :ivar live: whether the engine's loop turns, and if not why.
    :ivar about: asked for each answer, as the backend is known only once it is open.
    :ivar offload: for bodies of many megabytes.
    :ivar apart: for what watches for a while.
    :ivar rpc: how RPC does; ``None`` where it is off.
    """

    submit: Submit
    view: Callable[[], View]
    live: Callable[[], tuple[bool, str]]
    about: Callable[[], About]
    metrics: Metrics
    settings: ApiSettings = field(default_factory=ApiSettings)
    offload: Offload = at_once
    apart: Apart = to_its_end
    rpc: Callable[[], Connection | None] = lambda: None
