"""What may be asked of the engine, from any thread, and what it answers."""

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from nova_netagent.events import Event
from nova_netagent.status import Status


class NotApplied(Exception):
    """A change is on disk, and the kernel could not be made to agree yet: it will be retried."""


@dataclass(frozen=True)
class Answer:
    """What became of a change."""

    change: Literal["created", "updated", "unchanged", "deleted", "missing"]
    status: Status | None = None
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


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


class Wake:
    """Links changed, a server ended, or the engine is to stop."""
