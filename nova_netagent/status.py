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


class Connection(Struct, frozen=True):
    """How the agent does with the broker of its RPC."""

    connected: bool
    changed_at: float
    """Since when it is so, in seconds since the epoch."""
    synced_at: float | None = None
    """When a controller last described the whole state."""
    failure: str = ""
    """What is wrong, when something is."""


class View(Struct, frozen=True):
    """What the engine last published. Immutable: any thread may read it."""

    state: DesiredState = DesiredState()
    troubles: Mapping[Key, tuple[State, str]] = {}
    """The objects that are not done, and why."""
    unapplied: frozenset[Key] = frozenset()
    """The objects whose last change is on disk and not in force in the kernel yet."""
    failure: str = ""
    """Why the kernel does not have the state, when it does not."""
    left: str = ""
    """Why rules of ours are still where they should not be, when they are: what these refuse does not pass."""
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
            state, message = "pending", self.failure or self.left or "on its way to the kernel"
        return Status(state, entry.reported_revision, message)

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """How many objects of each kind are in each state."""
        found: dict[str, Counter[str]] = {}
        for key, _ in self.state.all_entries():
            status = self.status(key)
            assert status is not None
            found.setdefault(key[0], Counter())[status.state] += 1
        return found
