"""Say when links change: one small thread that waits for the kernel's notices and reads none."""

import select
import threading
from collections.abc import Callable


class Watch:
    """Calls ``on_change``, from its own thread, once when a socket has something to read.

    It calls again only after ``rearm``: whoever reads the socket says that it was read.
    """

    def __init__(self, fileno: int, on_change: Callable[[], None]) -> None:
        self._fileno = fileno
        self._on_change = on_change
        self._epoll = select.epoll()
        self._epoll.register(fileno, select.EPOLLIN | select.EPOLLONESHOT)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="links", daemon=True)
        self._thread.start()

    def rearm(self) -> None:
        """The socket was read: call again when there is more."""
        self._epoll.modify(self._fileno, select.EPOLLIN | select.EPOLLONESHOT)

    def close(self) -> None:
        """Call no more. The socket is open until then."""
        self._closed = True
        self._epoll.modify(self._fileno, select.EPOLLOUT)  # wakes the thread: a socket can always be written to
        self._thread.join()
        self._epoll.close()

    def _run(self) -> None:
        while not self._closed:
            self._epoll.poll()
            if not self._closed:
                self._on_change()
