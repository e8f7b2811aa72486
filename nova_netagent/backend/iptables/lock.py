"""The lock that iptables(8) takes with ``-w``: flock(2) on /run/xtables.lock."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nova_netagent.backend import Unavailable

DEFAULT_PATH = "/run/xtables.lock"

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02


class XtablesLock:
    """The lock, to be held from the read of a table to its commit.

    :param timeout: seconds to wait for others.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.waited = 0.0
        """Seconds that the last acquisition took."""
        self.turn = 0
        """Counts the acquisitions: what was read in this one is still so."""
        self._held = False

    @property
    def held(self) -> bool:
        """Whether we hold it."""
        return self._held

    @property
    def path(self) -> str:
        """The lock file: ``XTABLES_LOCKFILE`` from the environment, as iptables has it."""
        return os.environ.get("XTABLES_LOCKFILE") or DEFAULT_PATH

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock; does nothing when it is held already.

        :raises Unavailable: on time-out, naming who holds it; or when the file cannot be opened.
        """
        if self._held:
            yield
            return
        descriptor = _open(self.path)
        try:
            self._acquire(descriptor)
            self._held = True
            self.turn += 1
            yield
        finally:
            self._held = False
            os.close(descriptor)

    def _acquire(self, descriptor: int) -> None:
        began = time.monotonic()
        pause = _FIRST_PAUSE
        while not _try(descriptor):
            self.waited = time.monotonic() - began
            if self.waited >= self.timeout:
                raise Unavailable(
                    f"the lock {self.path} was not free within {self.timeout:g} s{_holder_text(descriptor)}"
                )
            time.sleep(min(pause, self.timeout - self.waited))
            pause = min(pause * 2, _LONGEST_PAUSE)
        self.waited = time.monotonic() - began


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise Unavailable(f"cannot open the lock {path}: {e.strerror}") from e


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        raise Unavailable(f"cannot lock: {e.strerror}") from e
    return True


def _holder_text(descriptor: int) -> str:
    holders = list(_holders(descriptor))
    return f": held by {', '.join(holders)}" if holders else ""


def _holders(descriptor: int) -> Iterator[str]:
    """Who holds a file's lock, as far as proc(5) tells."""
    status = os.fstat(descriptor)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # A process that waits has an arrow before its words, and so no number in this place.
        words = line.split()
        if file in words and (pid := words[4]).isdigit() and pid != "0":
            yield f"{_command(pid)} (pid {pid})"


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "a process"
