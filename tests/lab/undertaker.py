"""Started beside pytest: when that has gone, however it went, kills what it left in its namespaces.

Reads ``+INODE`` and ``-INODE`` lines; at the end of input every process whose network namespace
is one of those still named is killed. A namespace lives as long as a process in it, and a daemon
under test would otherwise run for ever after a pytest that was killed or crashed.
"""

import os
import signal
import sys
import time


def inodes_named_at_the_end() -> set[int]:
    """Read the lines until pytest is gone."""
    named: set[int] = set()
    for line in sys.stdin:
        (named.add if line.startswith("+") else named.discard)(int(line[1:]))
    return named


def processes_in(inodes: set[int], spared: set[int]) -> list[int]:
    """The processes whose network namespace is one of ``inodes``."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in spared:
            continue
        try:
            if os.stat(f"/proc/{entry}/ns/net").st_ino in inodes:
                found.append(int(entry))
        except OSError:
            continue  # it has ended, or is not ours to look into
    return found


def kill_all_in(inodes: set[int], spared: set[int]) -> None:
    """Kill until none is left, as one may be starting another."""
    while left := processes_in(inodes, spared):
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
            except PermissionError:
                return
        time.sleep(0.001)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Python closes its pipes a little before its process ends: pytest is not to be killed on its way out.
    watched_over = os.getppid()
    kill_all_in(inodes_named_at_the_end(), spared={os.getpid(), watched_over})
