"""Packets that the kernel hands to programs, NFLOG: what log rules name, and the trace of the legacy tables.

Sources: linux/netfilter/nfnetlink_log.h, net/netfilter/nfnetlink_log.c (without the mode it copies
nothing; the threshold is how many packets it gathers before it sends).
"""

import errno
import socket
from collections.abc import Iterator
from struct import Struct

from msgspec import Struct as Value
from msgspec.structs import replace

from nova_netagent.backend import Unavailable
from nova_netagent.backend.netlink import attribute, let_wait, message, messages, parse, readable

_NETLINK_NETFILTER, _SUBSYSTEM = 12, 4
_PACKET, _CONFIG = 0, 1
_REQUEST, _ACKNOWLEDGE = 0x1, 0x4
_COMMAND, _MODE, _THRESHOLD, _FLAGS = 1, 2, 5, 6
_NUMBERED = b"\0\x01"
_BIND = 1
_COPY_PACKET = 2
_HEAD, _INDEV, _OUTDEV, _PHYSIN, _PHYSOUT, _PAYLOAD, _PREFIX, _SEQUENCE = 1, 4, 5, 6, 7, 9, 10, 12
_READ = 1 << 17
_ERROR = Struct("=i")
_NFGEN = Struct(">BBH")
_NUMBER = Struct(">I")
COPIED = 128
"""So many bytes of each packet: its headers."""


class Logged(Value, frozen=True):
    """A packet that was handed out, as it was there."""

    hook: int
    prefix: str
    packet: bytes
    indev: int = 0
    outdev: int = 0
    physin: int = 0
    physout: int = 0
    lost: int = 0
    """So many were handed out before it that never came."""


class Overrun(Exception):
    """The kernel had more to hand out than there was room for."""


class LogGroup:
    """Hears one group of the network namespace in which it is made.

    :param room: bytes that may wait to be read; what is more is lost, and never waited for.
    :raises Unavailable: the kernel has no NFLOG, or another program hears the group.
    """

    def __init__(self, group: int, room: int = 1 << 20) -> None:
        self._group = group
        self._next: int | None = None
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            self._socket.bind((0, 0))
        except OSError as error:
            raise Unavailable(f"NFLOG: {error.strerror}") from error
        try:
            self._configure(attribute(_COMMAND, bytes((_BIND,))))
            mode = _NUMBER.pack(COPIED) + bytes((_COPY_PACKET, 0))
            numbered = attribute(_FLAGS, _NUMBERED)
            self._configure(attribute(_MODE, mode) + attribute(_THRESHOLD, _NUMBER.pack(1)) + numbered)
            let_wait(self._socket, room)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def read(self) -> list[Logged]:
        """What there is now; nothing where there is nothing.

        :raises Overrun: something was lost before.
        """
        found: list[Logged] = []
        try:
            data = self._socket.recv(_READ, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return found
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise Overrun from error
            raise
        for each, number in _packets(data):
            lost = 0 if self._next is None else (number - self._next) % 2**32
            self._next = (number + 1) % 2**32
            found.append(replace(each, lost=lost) if lost else each)
        return found

    def _configure(self, body: bytes) -> None:
        request = _NFGEN.pack(0, 0, self._group) + body
        self._socket.send(message(_SUBSYSTEM << 8 | _CONFIG, _REQUEST | _ACKNOWLEDGE, 1, request))
        if not readable([self._socket], 1.0):
            raise Unavailable("NFLOG: the kernel does not answer")
        for _, _, _, content in messages(self._socket.recv(_READ)):
            number = -_ERROR.unpack_from(content)[0]
            if number in (errno.EBUSY, errno.EPERM):
                raise Unavailable(f"NFLOG: another program hears group {self._group}")
            if number:
                raise Unavailable(f"NFLOG: {errno.errorcode.get(number, number)}")


def _packets(data: bytes) -> Iterator[tuple[Logged, int]]:
    """Each packet, and its number among all that the kernel had for this group."""
    for kind, _, _, content in messages(data):
        if kind != _SUBSYSTEM << 8 | _PACKET:
            continue
        known = parse(content[_NFGEN.size :])
        links = (_NUMBER.unpack_from(known[each])[0] if each in known else 0 for each in _LINKS)
        prefix = known.get(_PREFIX, b"").partition(b"\0")[0].decode(errors="replace")
        number = _NUMBER.unpack_from(known[_SEQUENCE])[0]
        yield Logged(known[_HEAD][2], prefix, known.get(_PAYLOAD, b""), *links), number


_LINKS = (_INDEV, _OUTDEV, _PHYSIN, _PHYSOUT)
