"""getsockopt(2) and setsockopt(2) as netfilter uses them: whole tables, by the address of a buffer.

Python's own ``socket.getsockopt`` neither passes a buffer in nor takes more than 1024 bytes.
"""

import ctypes
import os
import socket
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_getsockopt, _setsockopt = _libc.getsockopt, _libc.setsockopt
_getsockopt.restype = _setsockopt.restype = ctypes.c_int
_getsockopt.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32)]
_setsockopt.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32]


def ask(sock: socket.socket, level: int, option: int, request: bytearray, start: int = 0) -> None:
    """Ask the kernel; the answer stands in ``request`` afterwards, from ``start`` on as the question did.

    :raises OSError: with the kernel's errno.
    """
    buffer = _buffer(request, start)
    length = ctypes.c_uint32(len(buffer))
    if _getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(length)) < 0:
        raise _error()


def tell(sock: socket.socket, level: int, option: int, request: bytearray, start: int = 0) -> None:
    """Tell the kernel what stands in ``request`` from ``start`` on.

    :raises OSError: with the kernel's errno.
    """
    buffer = _buffer(request, start)
    if _setsockopt(sock.fileno(), level, option, buffer, len(buffer)) < 0:
        raise _error()


def address(buffer: bytearray) -> int:
    """Where a buffer is, for a request that refers to another one. It must not be resized meanwhile."""
    return ctypes.addressof(_buffer(buffer, 0))


def _buffer(request: bytearray, start: int) -> Any:
    return (ctypes.c_char * (len(request) - start)).from_buffer(request, start)


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
