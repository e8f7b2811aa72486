"""Say when a process ends: one small thread that waits for all of them."""

import os
import select
import threading
from collections.abc import Callable


class Watch:
    """Calls ``on_end``, from its own thread, once for each descriptor of a process that ended."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="dhcp", daemon=True)
        self._thread.start()

    def add(self, pidfd: int) -> None:
        """Watch a process, by its descriptor; to close that is to end it."""
        self._epoll.register(pidfd, select.EPOLLIN | select.EPOLLONESHOT)

    def close(self) -> None:
        """Call no more."""
        self._closed = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._epoll.close()
        os.close(self._wake)

    def _run(self) -> None:
        while not self._closed:
            self._epoll.poll()
            if not self._closed:
                self._on_end()
