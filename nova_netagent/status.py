"""How each object fares, and how the agent does: what the engine publishes for others to read."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from nova_netagent.model import DesiredState, Key

State = Literal["done", "pending", "error"]


class Status(Struct, frozen=True):
    """How one object fares."""

    state: State
    revision: int
    """The sender's revision of the object, or how often it changed here where the sender does not count."""
    message: str = ""


class View(Struct, frozen=True):
    """What the engine last published. Immutable: any thread may read it."""

    state: DesiredState = DesiredState()
    troubles: Mapping[Key, tuple[State, str]] = {}
    """The objects that are not done, and why."""
    unapplied: frozenset[Key] = frozenset()
    """The objects whose last change is on disk and not in the kernel yet."""
    failure: str = ""
    """Why the kernel does not have the state, when it does not."""
    revocation_failure: str = ""
    """Why flows that are no longer allowed could not be cut yet, when they could not."""
    ready: bool = False
    """The stored state has been in the kernel once."""
    warnings: tuple[str, ...] = ()
    """What this kernel cannot do, and what that means."""
    applied_at: float | None = None
    """When the kernel last was as desired, in seconds since the epoch."""
    verified_at: float | None = None
    """When the agent last read all of it back."""

    def status(self, key: Key) -> Status | None:
        """How an object fares; ``None`` where there is no such object."""
        entry = self.state.entries(key[0]).get(key[1])
        if entry is None:
            return None
        state, message = self.troubles.get(key, ("done", ""))
        if state == "done" and key in self.unapplied:
            state, message = "pending", self.failure or "on its way to the kernel"
        return Status(state, entry.reported_revision, message)

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """How many objects of each kind are in each state."""
        found: dict[str, Counter[str]] = {}
        for key, _ in self.state.all_entries():
            status = self.status(key)
            assert status is not None
            found.setdefault(key[0], Counter())[status.state] += 1
        return found
