"""When the engine does what nobody asks for, by time.monotonic()."""

import math
import time
from collections.abc import Callable

from nova_netagent.backend import BackendError

RETRY_FIRST, RETRY_MOST = 0.5, 30.0
"""Seconds to the first retry after a failure, doubled up to the most."""
MEDDLING_SECONDS = 2.0
"""How long whoever changes our rules is left alone, where the kernel tells of it at once."""
LOOK_SECONDS = 0.5
"""How often the kernel is asked for that at most: each change would ask once more."""


class Schedule:
    """Retries, resyncs, and the pause between commits. Engine thread only; it begins with a resync that is over.

    :param meddled: whether others changed what is ours since it was asked last; see ``Host.meddled``.
    :ivar verified: when everything was read back.
    :ivar committed: when the last changes were committed.
    :ivar retry: when what failed is tried again; ``None``: nothing failed.
    :ivar delay: how many seconds it waits for that; 0 before the first failure.
    """

    def __init__(self, meddled: Callable[[], bool]) -> None:
        self.verified = time.monotonic()
        self.committed = -math.inf
        self.retry: float | None = None
        self.delay = 0.0
        self._meddled = meddled
        self._meddled_at: float | None = None
        self._looked = -math.inf  # not 0: time.monotonic() may count from a boot moments ago
        self._pending_since: float | None = None

    def retry_later(self) -> None:
        """Something failed, once more perhaps: each time it waits longer."""
        self.delay = min(max(RETRY_FIRST, self.delay * 2), RETRY_MOST)
        self.retry = time.monotonic() + self.delay

    def retry_no_more(self) -> None:
        """Nothing is left to be tried again."""
        self.delay, self.retry = 0.0, None

    def wait(self, pending: bool) -> None:
        """Note whether something that was asked for is not in the kernel; since when is known from the first time."""
        self._pending_since = (self._pending_since or time.monotonic()) if pending else None

    @property
    def pending(self) -> float:
        """For how many seconds something has not been in the kernel."""
        return 0.0 if self._pending_since is None else time.monotonic() - self._pending_since

    def reads_back(self) -> None:
        """Everything is about to be read: whatever others did, it is seen; what they do meanwhile is told later."""
        self._meddled_at = None
        try:
            self._meddled()
        except BackendError:
            return  # what is read next will say so

    def sees_meddling(self, now: float) -> bool:
        """Whether somebody changed our rules or frames, as far as the kernel tells, and has had time to finish."""
        if now >= self._looked + LOOK_SECONDS:
            self._looked = now
            try:
                if self._meddled() and self._meddled_at is None:
                    self._meddled_at = now
            except BackendError:
                return False  # what asks next will say so
        return self._meddled_at is not None and now >= self._meddled_at + MEDDLING_SECONDS
