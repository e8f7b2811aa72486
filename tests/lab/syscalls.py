"""The few system calls that Python 3.11 lacks, or makes long: namespaces, mounts, the processor, waiting."""

import ctypes
import os
import select
import socket

CLONE_NEWNS = 0x00020000
CLONE_FS = 0x00000200
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_NOSUID = 2
MS_NODEV = 4

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own."""
    _checked("unshare", _libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace that ``fd`` holds."""
    _checked("setns", _libc.setns(fd, kind))


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Mount ``source`` of filesystem type ``kind`` on ``target``."""
    texts = [None if text is None else text.encode() for text in (source, target, kind, options)]
    result = _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _checked(f"mount {kind or source} on {target}", result)


def current_cpu() -> int:
    """The processor that the calling thread runs on at this moment."""
    return _checked("sched_getcpu", _libc.sched_getcpu())


def getsockopt(opened: socket.socket, level: int, option: int, request: bytes) -> bytes:
    """Ask a socket with a question in the buffer, which Python's own ``getsockopt`` does not pass on."""
    buffer = ctypes.create_string_buffer(request, len(request))
    length = ctypes.c_uint32(len(request))
    _checked("getsockopt", _libc.getsockopt(opened.fileno(), level, option, buffer, ctypes.byref(length)))
    return buffer.raw[: length.value]


def readable(opened: socket.socket, within: float) -> bool:
    """Wait until there is something to read; unlike ``select``, with any number of open files."""
    poll = select.poll()
    poll.register(opened, select.POLLIN)
    return bool(poll.poll(max(within, 0) * 1000))
