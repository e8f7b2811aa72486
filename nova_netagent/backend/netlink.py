"""Netlink's framing, the same in every subsystem: messages with attributes in them, padded to four bytes.

Sources: netlink(7), linux/netlink.h, lib/nlattr.c.
"""

import math
import select
import socket
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Protocol, TypeVar

HEADER = Struct("=IHHII")
"""Of a message: length, kind, flags, sequence, port."""
ATTRIBUTE = Struct("=HH")
"""Of an attribute: length, kind."""
NESTED = 0x8000
_KIND = 0x3FFF
_SO_RCVBUFFORCE = 33

Data = TypeVar("Data", bytes, memoryview)


class _Numbered(Protocol):
    def fileno(self) -> int: ...


S = TypeVar("S", bound=_Numbered)


def let_wait(sock: socket.socket, size: int) -> None:
    """Let so many bytes wait to be read, or as many as who is not privileged may; more are lost (socket(7))."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def readable(sockets: Iterable[S], seconds: float) -> list[S]:
    """Those of some sockets that have something to be read, as soon as one has, or none within so many seconds.

    Whatever their numbers are: select(2) knows no descriptor from 1024 on, and the API may have thousands.
    """
    numbers = {each.fileno(): each for each in sockets}
    poll = select.poll()
    for number in numbers:
        poll.register(number, select.POLLIN)
    return [numbers[number] for number, _ in poll.poll(math.ceil(seconds * 1000))]


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A message to the kernel."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def messages(data: Data) -> Iterator[tuple[int, int, int, Data]]:
    """What was received at once: kind, flags, sequence and body of each message."""
    at = 0
    while at + HEADER.size <= len(data):
        size, kind, flags, sequence, _ = HEADER.unpack_from(data, at)
        yield kind, flags, sequence, data[at + HEADER.size : at + size]
        at += size + (-size % 4)


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute with these bytes as its value."""
    size = len(value)
    head = ATTRIBUTE.pack(ATTRIBUTE.size + size, kind)
    return head + value + bytes(-size % 4) if size & 3 else head + value


def joined(attributes: Iterable[tuple[int, bytes]]) -> bytes:
    """Attributes by kind and value, one after the other: what ``attributes`` tells apart."""
    return b"".join(attribute(kind, value) for kind, value in attributes)


def parse(data: Data) -> dict[int, Data]:
    """``attributes`` by kind; of several of one kind the last."""
    found: dict[int, Data] = {}
    # As below, without a generator's turns: a table of rules has hundreds of thousands.
    at, end, unpack = 0, len(data) - ATTRIBUTE.size, ATTRIBUTE.unpack_from
    while at <= end:
        size, kind = unpack(data, at)
        if size < 4:
            break
        found[kind & _KIND] = data[at + 4 : at + size]
        at += size + (-size & 3)
    return found


def attributes(data: Data) -> Iterator[tuple[int, Data]]:
    """Kind and value of each attribute, the kind without its flags."""
    at = 0
    while at + ATTRIBUTE.size <= len(data):
        size, kind = ATTRIBUTE.unpack_from(data, at)
        if size < ATTRIBUTE.size:
            return
        yield kind & _KIND, data[at + ATTRIBUTE.size : at + size]
        at += size + (-size % 4)
