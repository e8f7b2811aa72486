"""A commit beside the thread that prepares the next one: the kernel's part of it needs no interpreter."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

_TURN = 0.001
"""Seconds. The kernel waits while a thread whose commit is over waits for the interpreter to begin the next one."""


class Beside:
    """One thread, which is there from the first time that it is needed."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None

    def start(self, work: Callable[[], None], after: Future[None] | None = None) -> Future[None]:
        """Begin a piece of work, or leave it to be done in its turn; what it raises is its result.

        :param after: the work that was given before: where it failed, this fails alike.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "commit")
        begun = Event()

        def run() -> None:
            begun.set()
            if after is not None:
                after.result()
            work()

        is_idle = after is None or after.done()
        done = self._thread.submit(run)
        if is_idle:
            # Who waits hands the interpreter over now. It would be taken only after the switch interval of 5 ms.
            begun.wait()
        return done

    def close(self) -> None:
        """End the thread, when its work is done."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


@contextmanager
def in_turns() -> Iterator[None]:
    """Who computes hands the interpreter over soon to who waits for it: usually that takes 5 ms."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(min(usual, _TURN))
    try:
        yield
    finally:
        sys.setswitchinterval(usual)
