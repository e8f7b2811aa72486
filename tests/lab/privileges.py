"""Have the agents under test run as the service does: a user of their own, three capabilities, nothing to be gained.

With ``AS_SERVICE=1`` in the environment every agent of a run is started so; the harness stays what it is.
"""

import ctypes
import os
from pathlib import Path

USER = 64_990
"""Nobody's number: the agent needs no account."""

CAPABILITIES = {"net_bind_service": 10, "net_admin": 12, "net_raw": 13}
LOCK = Path("/run/xtables.lock")

_SET_DUMPABLE, _SET_KEEPCAPS, _CAPBSET_DROP, _SET_NO_NEW_PRIVS = 4, 8, 24, 38
_CAP_AMBIENT, _CAP_AMBIENT_RAISE = 47, 2
_VERSION_3 = 0x20080522


def wanted() -> bool:
    """Whether agents are to run so."""
    return os.environ.get("AS_SERVICE") == "1"


def command(argv: list[str]) -> list[str]:
    """A command that runs another so."""
    kept = ",".join(f"+{name}" for name in CAPABILITIES)
    sets = [f"--{name}=-all,{kept}" for name in ("inh-caps", "ambient-caps", "bounding-set")]
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *sets, "--no-new-privs", "--", *argv]


def become() -> None:
    """Run so from now on: prctl(2), capabilities(7)."""
    libc = ctypes.CDLL(None, use_errno=True)
    mask = sum(1 << number for number in CAPABILITIES.values())
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in range(last + 1):
        if not mask >> number & 1:
            libc.prctl(_CAPBSET_DROP, number, 0, 0, 0)
    libc.prctl(_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    for number in CAPABILITIES.values():
        libc.prctl(_CAP_AMBIENT, _CAP_AMBIENT_RAISE, number, 0, 0)
    libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0)


def give(*paths: Path) -> None:
    """Have directories be the service's and the way to them passable; the lock is as tmpfiles.d makes it."""
    for path in paths:
        for parent in path.parents:
            if parent.stat().st_uid == os.getuid() and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
        for each in (path, *path.rglob("*")):
            os.chown(each, USER, USER, follow_symlinks=False)
    LOCK.touch(0o600)
    os.chown(LOCK, 0, USER)
    LOCK.chmod(0o660)
