"""The engine's inbox: requests come in from any thread and are taken out by one."""

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from nova_netagent.engine.requests import Change, Look, Request, Wake

COMING_SECONDS, STALLED_SECONDS = 0.25, 0.01
"""How long, in all and for the next one, callers are waited for who have begun to ask."""
STALLED_PART, CROWD_PART = 3, 20
"""Which part of a commit who has begun to ask is waited for at least, and the next of a crowd at most."""
SHARING = 16
"""So often it is looked, before a commit, whether changes came while others were saved."""
TURN_SECONDS = 1.0
"""How long it is waited at most: whoever takes shows by it that it lives."""


class Inbox:
    """Requests in the order in which they came; a change may be served before a question that came first, and
    in a pause between commits a question that can be, before a change.

    :param coming: whether there are callers who have begun to ask, and are not here yet.
    """

    def __init__(self, coming: Callable[[], bool] = lambda: False) -> None:
        self.coming = coming
        self._queue: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._put_off: list[Look[Any] | Wake] = []
        """What was taken from the queue and is not served yet."""
        self._held: list[Change | Look[Any]] = []
        """What waits for a pause between commits to end."""

    def __bool__(self) -> bool:
        return bool(self._put_off or self._held) or not self._queue.empty()

    def put(self, request: Request) -> None:
        """Queue a request. For any thread."""
        self._queue.put(request)

    def take(self, due: float, not_before: float) -> list[Request]:
        """Wait for requests, or until something is due; then all that there are.

        :param due: when something else is to be done, by time.monotonic().
        :param not_before: changes that come until then are taken together, by time.monotonic().
        """
        taken: list[Request] = [*self._put_off]
        self._put_off = []
        if taken:
            return taken
        now = time.monotonic()
        if now < not_before:
            return self._take_meanwhile(min(now + TURN_SECONDS, due, not_before))
        taken, self._held = [*self._held], []
        try:
            if not taken:
                taken.append(self._queue.get(timeout=max(0.0, min(TURN_SECONDS, due - now))))
            while True:
                taken.append(self._queue.get_nowait())
        except queue.Empty:
            return taken

    def _take_meanwhile(self, until: float) -> list[Request]:
        """What a pause between commits does not hold: neither changes nor who is to see those that came before."""
        taken: list[Request] = []
        with suppress(queue.Empty):
            while True:
                request = self._queue.get(timeout=0.0 if taken else max(0.0, until - time.monotonic()))
                if isinstance(request, Change) or (self._held and isinstance(request, Look) and not request.meanwhile):
                    self._held.append(request)
                else:
                    taken.append(request)
        return taken

    def sharing(self, first: list[Change], commit: float = 0.0) -> Iterator[list[Change]]:
        """The changes that share a commit, as they are to be saved; the commit takes much longer.

        The first ones, and then those that came or began to come while the ones before were saved. Who
        comes with others is mostly one of a crowd, whose next one is waited for a moment.

        :param commit: how long the commit may take, in seconds: who comes after it has begun waits for another.
        """
        until, many = time.monotonic() + COMING_SECONDS, 0
        for number in range(SHARING + 1):
            here = self.changes_here() if number else first
            others, until = self.changes_to_come(until, max(STALLED_SECONDS, commit / STALLED_PART))
            if not here and not others and many > 1 and time.monotonic() < until:
                here = self._next(commit / CROWD_PART)
            if not here and not others:
                return
            many += len(here) + len(others)
            yield [*here, *others]

    def changes_here(self) -> list[Change]:
        """The changes that wait to be taken; other requests are put off."""
        found: list[Change] = []
        while not self._queue.empty():
            self._sort_out(self._queue.get_nowait(), found)
        return found

    def _next(self, seconds: float) -> list[Change]:
        """The change that comes next, if it comes so soon."""
        found: list[Change] = []
        with suppress(queue.Empty):
            self._sort_out(self._queue.get(timeout=seconds), found)
        return found

    def changes_to_come(self, until: float, stalled: float = STALLED_SECONDS) -> tuple[list[Change], float]:
        """The changes of those who have begun to ask: all of them together take hardly longer than one.

        :param until: when nobody is waited for any more, by time.monotonic().
        :param stalled: how long the next one is waited for.
        :return: the changes, and until when to wait next time: no longer where somebody stalls.
        """
        found: list[Change] = []
        while (left := until - time.monotonic()) > 0 and self.coming():
            try:
                self._sort_out(self._queue.get(timeout=min(stalled, left)), found)
            except queue.Empty:
                return found, 0.0
        return found, until

    def _sort_out(self, request: Request, changes: list[Change]) -> None:
        if isinstance(request, Change):
            changes.append(request)
        else:
            self._put_off.append(request)
