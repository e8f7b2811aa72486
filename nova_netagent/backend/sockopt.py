"""getsockopt(2) as netfilter uses it: the request goes in through the buffer that the answer comes back in.

Python's own ``socket.getsockopt`` neither passes a buffer in nor takes more than 1024 bytes.
"""

import ctypes
import os
import socket

_libc = ctypes.CDLL(None, use_errno=True)
_getsockopt = _libc.getsockopt
_getsockopt.restype = ctypes.c_int
_getsockopt.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32)]


def ask(sock: socket.socket, level: int, option: int, request: bytearray) -> None:
    """Ask the kernel; the answer stands in ``request`` afterwards.

    :raises OSError: with the kernel's errno.
    """
    length = ctypes.c_uint32(len(request))
    buffer = (ctypes.c_char * len(request)).from_buffer(request)
    if _getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(length)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
