"""A program of ours on a kernel without legacy tables: ``legacyless.py MODULE ARGUMENTS...``.

The kernel itself refuses what iptables asks for, by seccomp(2): "Protocol not available", as
where ip_tables is not built. Only the file that would be absent is hidden from us by hand.
"""

import ctypes
import errno
import platform
import runpy
import struct
import sys

SOCKET_OPTION_CALLS = {"x86_64": (54, 55), "aarch64": (208, 209)}[platform.machine()]
"""setsockopt(2) and getsockopt(2)."""
LEVELS = (0, 41)
OPTIONS = (64, 65)
"""IPT_SO_SET_REPLACE, IPT_SO_SET_ADD_COUNTERS, IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES; those of IPv6 are the same."""

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_CALL_AT, _LEVEL_AT, _OPTION_AT = 0, 24, 32
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000


def _program() -> bytes:
    checks = ((_CALL_AT, SOCKET_OPTION_CALLS), (_LEVEL_AT, LEVELS), (_OPTION_AT, OPTIONS))
    made: list[tuple[int, int, int, int]] = []
    left = 3 * len(checks)
    for offset, (first, second) in checks:
        left -= 3
        made.append((_LOAD, 0, 0, offset))
        made.append((_JUMP_IF_EQUAL, 1, 0, first))
        made.append((_JUMP_IF_EQUAL, 0, left + 1, second))
    made.append((_RETURN, 0, 0, _FAIL | errno.ENOPROTOOPT))
    made.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *each) for each in made)


def without_legacy_tables() -> None:
    """From now on, in this thread and all that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(_program())
    program = ctypes.create_string_buffer(struct.pack("@HP", (len(code) - 1) // 8, ctypes.addressof(code)))
    for call in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0)):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    without_legacy_tables()
    from pathlib import Path

    from nova_netagent.backend import legacy

    legacy.NAMES = dict.fromkeys(legacy.NAMES, Path("/nowhere"))
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=False)
