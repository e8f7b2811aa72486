"""One request of rtnetlink(7), and what the kernel says to it."""

import os
import socket
import struct
from collections.abc import Container

from nova_netagent.backend import netlink

ECHO, REPLACE, CREATE, APPEND = 0x8, 0x100, 0x400, 0x800
"""Flags that a request may have besides those that make it one (netlink(7))."""
_REQUEST, _ACK = 0x1, 0x4
_ERROR = 2


def opened() -> socket.socket:
    """A socket to ask in the network namespace that the thread is in.

    :raises OSError: the process may have no more descriptors.
    """
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)


def ask(kernel: socket.socket, kind: int, body: bytes, flags: int = 0, *, bearable: Container[int] = ()) -> bytes:
    """Ask for one thing, or for something to be done.

    It is acknowledged, so that an answer always comes: a queueing discipline that was there and is gone has no other.

    :param kernel: a socket that is ``opened`` and of which nothing is left to be read.
    :param bearable: numbers of reasons to refuse that are answers as well: it is not there, or is so already.
    :returns: the answer's body, empty where the kernel tells no more than that it is so, or refuses bearably.
    :raises OSError: the kernel refuses, with its reason's number.
    """
    kernel.send(netlink.message(kind, _REQUEST | _ACK | flags, 1, body))
    told = b""
    while True:
        for answer, _, _, said in netlink.messages(kernel.recv(1 << 16)):
            if answer != _ERROR:
                told = said
                continue
            (code,) = struct.unpack_from("=i", said)
            if code and -code not in bearable:
                raise OSError(-code, os.strerror(-code))
            return told
