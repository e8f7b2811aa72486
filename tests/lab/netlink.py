"""One route-netlink socket of one namespace, used from any thread.

The messages are pyroute2's; the socket is ours. pyroute2's own sockets belong to the thread
that uses them (another thread silently gets another socket, in *its* namespace) and cost four
times as much for each request.
"""

import os
import socket
import struct
import threading
from typing import Any

from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
EXCLUSIVE, REPLACE, CREATE = 0x200, 0x100, 0x400
ERROR, DONE = 2, 3

_BUFFER = 1 << 17


class Netlink:
    """Requests to the kernel about one namespace's links, addresses, routes and neighbours."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._lock = threading.Lock()
        self._sequence = 0
        self._marshal = MarshalRtnl()

    def change(self, message: nlmsg, kind: int, flags: int = 0) -> None:
        """Send a request and raise the kernel's refusal as an OSError."""
        with self._lock:
            self._send(message, kind, flags | ACK)
            self._receive()

    def ask(self, message: nlmsg, kind: int) -> Any:
        """Send a request for one object and give back the message that describes it."""
        with self._lock:
            self._send(message, kind, 0)
            return self._receive()[0]

    def dump(self, message: nlmsg, kind: int) -> list[Any]:
        """Send a request for all objects of a kind and give back their messages."""
        with self._lock:
            self._send(message, kind, DUMP)
            answers: list[Any] = []
            while True:
                for answer in self._receive():
                    if answer["header"]["type"] == DONE:
                        return answers
                    answers.append(answer)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def _send(self, message: nlmsg, kind: int, flags: int) -> None:
        self._sequence += 1
        header = message["header"]
        header["type"], header["flags"] = kind, flags | REQUEST
        header["sequence_number"], header["pid"] = self._sequence, 0
        message.encode()
        self._socket.send(message.data)

    def _receive(self) -> list[Any]:
        while True:
            data = self._socket.recv(_BUFFER)
            _, kind, _, sequence = struct.unpack_from("=IHHI", data)
            if sequence == self._sequence:
                break  # an answer to an earlier request that was interrupted is of no interest
        if kind == ERROR:
            number = -struct.unpack_from("=i", data, 16)[0]
            if number:
                raise OSError(number, os.strerror(number))
            return []
        return list(self._marshal.parse(data))


def open_socket() -> socket.socket:
    """Open a route-netlink socket in the calling thread's namespace."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    opened.bind((0, 0))
    return opened
