"""A commit beside the thread that prepares the next one: the kernel's part of it needs no interpreter."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event


class Beside:
    """One thread, which is there from the first time that it is needed."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None

    def start(self, work: Callable[[], None]) -> Future[None]:
        """Begin a piece of work, and come back when it has begun; what it raises is its result."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "commit")
        begun = Event()

        def run() -> None:
            begun.set()
            work()

        done = self._thread.submit(run)
        # Who waits hands the interpreter over now. It would be taken only after the switch interval of 5 ms.
        begun.wait()
        return done

    def close(self) -> None:
        """End the thread, when its work is done."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
