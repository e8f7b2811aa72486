"""The connection-tracking table: look at the flows of some addresses, and delete chosen ones.

In one pass through netlink (nfnetlink_conntrack): one dump, and one message a deletion,
sent in batches. A process a flow is what made neutron's agents stand still (bug 1513765).
Sources: linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c.
"""

import errno
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from nova_netagent.backend import netlink
from nova_netagent.model import values
from nova_netagent.netfilter.flow import Addresses, Flow, Side
from nova_netagent.netfilter.rule import Family

_GENERIC = struct.Struct("=BBH")
_NETFILTER = 12
_SUBSYSTEM = 1 << 8
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_NEW, _MULTI = _SUBSYSTEM, 0x2
_ERROR, _DONE = 2, 3
_END = netlink.HEADER.size + 4
_ORIGINAL, _REPLY, _STATUS, _PROTOINFO, _ID, _ZONE = 1, 2, 3, 4, 12, 18
_IP, _PROTO = 1, 2
_ADDRESSES = {4: (1, 2), 6: (3, 4)}
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_ICMP = {4: (5, 6), 6: (8, 9)}
_PROTOINFO_TCP, _FLAGS_ORIGINAL, _BE_LIBERAL = 1, 4, 0x08
"""IP_CT_TCP_FLAG_BE_LIBERAL: what tcp_new() gives to a connection that it picks up mid-stream."""
_FAMILIES: dict[int, Family] = {socket.AF_INET: 4, socket.AF_INET6: 6}
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_BATCH = 256
_BUFFER = 4 << 20
_RECEIVED = 1 << 18
_ANSWER_SECONDS = 10.0
_FEW = 16
"""Up to so many addresses are looked for in a whole buffer before its messages are."""


class ConntrackError(Exception):
    """The table could not be read or edited: nothing is known of the flows, and it is to be tried again."""


class FlowTable(Protocol):
    """The connection-tracking table of the network namespace that the process is in. One thread only."""

    def flows(self, of: Addresses) -> list[Flow]:
        """The flows that have one of some addresses on any side of either direction.

        :raises ConntrackError: the table cannot be read.
        """

    def delete(self, flows: Iterable[Flow]) -> int:
        """Delete flows; returns how many there still were.

        :raises ConntrackError: it is refused for another reason than that a flow is gone.
        """

    def close(self) -> None:
        """Give up what is held of the kernel."""


class Conntrack:
    """The kernel's table."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def flows(self, of: Addresses) -> list[Flow]:
        """The flows that have one of some addresses on any side of either direction."""
        try:
            return list(self._dump(of)) if of and _count() else []
        except (OSError, KeyError, IndexError, struct.error) as error:
            self.close()
            raise ConntrackError(f"the flows cannot be read: {error}") from error

    def delete(self, flows: Iterable[Flow]) -> int:
        """Delete flows; returns how many there still were."""
        wanted = list(flows)
        deleted = 0
        try:
            for start in range(0, len(wanted), _BATCH):
                batch = wanted[start : start + _BATCH]
                first = self._sequence + 1
                self._open().send(b"".join(map(self._deletion, batch)))
                deleted += self._acknowledged(range(first, first + len(batch)))
        except OSError as error:
            self.close()
            raise ConntrackError(f"the flows cannot be deleted: {error}") from error
        return deleted

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
            self._socket.bind((0, 0))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.settimeout(_ANSWER_SECONDS)
        return self._socket

    def _deletion(self, flow: Flow) -> bytes:
        return self._message(_DELETE, _ACK, values.SOCKET_FAMILY[flow.family], flow.handle)

    def _message(self, kind: int, flags: int, family: int, attributes: bytes) -> bytes:
        self._sequence += 1
        body = _GENERIC.pack(family, 0, 0) + attributes
        return netlink.message(kind, _REQUEST | flags, self._sequence, body)

    def _dump(self, of: Addresses) -> Iterator[Flow]:
        needles = [values.packed(each) for each in of.single]
        skim = not of.everybody and not of.prefixes and len(needles) <= _FEW
        is_wanted = _filter(of)
        kernel = self._open()
        kernel.send(self._message(_GET, _DUMP, socket.AF_UNSPEC, b""))
        while True:
            data = kernel.recv(_RECEIVED)
            if skim and not any(needle in data for needle in needles) and _goes_on(data):
                continue
            for kind, _, sequence, body in netlink.messages(data):
                if sequence != self._sequence:
                    continue
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    _raise(body)
                family = _FAMILIES.get(body[0])
                if family is not None and is_wanted(body, family):
                    yield _flow(body, family)

    def _acknowledged(self, sequences: range) -> int:
        waiting, deleted = set(sequences), 0
        while waiting:
            for kind, _, sequence, body in netlink.messages(self._open().recv(_RECEIVED)):
                if kind == _ERROR and sequence in waiting:
                    waiting.remove(sequence)
                    deleted += _raise(body)
        return deleted


def _goes_on(data: bytes) -> bool:
    """Whether a buffer is of a dump and not its end, which comes last in it or alone."""
    _, kind, flags, _, _ = netlink.HEADER.unpack_from(data)
    return (
        kind == _NEW
        and bool(flags & _MULTI)
        and netlink.HEADER.unpack_from(data, len(data) - _END)[:2] != (_END, _DONE)
    )


def _raise(body: bytes) -> bool:
    """Whether it was done; false where there was nothing to do it to.

    :raises OSError: it was refused.
    """
    (code,) = struct.unpack_from("=i", body)
    if code not in (0, -errno.ENOENT):
        raise OSError(-code, errno.errorcode.get(-code, str(code)))
    return bool(code == 0)


def _count() -> int:
    """How many flows there are; the kernel takes tens of milliseconds to find that there are none."""
    try:
        return int(_COUNT.read_text())
    except (OSError, ValueError):
        return 1


def _filter(of: Addresses) -> Callable[[bytes, Family], bool]:
    """Whether a message is of a flow that is wanted.

    The kernel writes a tuple's addresses first and without padding (ctnetlink_dump_tuples_ip()).
    """
    if of.everybody:
        return lambda body, family: True
    single = {values.packed(each) for each in of.single}
    ranges = [(each.family, *_range(each)) for each in of.prefixes]

    def is_wanted(body: bytes, family: Family) -> bool:
        size = values.FAMILY_BITS[family] // 8
        at = _GENERIC.size
        for _ in (_ORIGINAL, _REPLY):
            for offset in (at + 3 * netlink.ATTRIBUTE.size, at + 4 * netlink.ATTRIBUTE.size + size):
                address = body[offset : offset + size]
                if address in single or any(each == family and low <= address <= high for each, low, high in ranges):
                    return True
            at += (netlink.ATTRIBUTE.unpack_from(body, at)[0] + 3) & ~3
        return False

    return is_wanted


def _range(prefix: values.Prefix) -> tuple[bytes, bytes]:
    size = values.FAMILY_BITS[prefix.family] // 8
    return prefix.value.to_bytes(size, "big"), prefix.last.to_bytes(size, "big")


def _parsed(data: bytes) -> dict[int, bytes]:
    return netlink.parse(data)


def _flow(body: bytes, family: Family) -> Flow:
    known = _parsed(body[_GENERIC.size :])
    original, reply = _parsed(known[_ORIGINAL]), _parsed(known[_REPLY])
    (status,) = struct.unpack("!I", known[_STATUS]) if _STATUS in known else (0,)
    return Flow(
        family,
        _parsed(original[_PROTO])[_NUMBER][0],
        _side(original, family),
        _side(reply, family),
        status=status,
        zone=struct.unpack("!H", known[_ZONE])[0] if _ZONE in known else 0,
        picked_up=_PROTOINFO in known and _is_picked_up(known[_PROTOINFO]),
        handle=b"".join(_again(kind, known[kind]) for kind in (_ORIGINAL, _ZONE, _ID) if kind in known),
    )


def _is_picked_up(protoinfo: bytes) -> bool:
    flags = _parsed(_parsed(protoinfo).get(_PROTOINFO_TCP, b"")).get(_FLAGS_ORIGINAL)
    return flags is not None and bool(flags[0] & _BE_LIBERAL)


def _again(kind: int, value: bytes) -> bytes:
    return netlink.attribute(kind | (netlink.NESTED if kind == _ORIGINAL else 0), value)


def _side(known: dict[int, bytes], family: Family) -> Side:
    ip, proto = _parsed(known[_IP]), _parsed(known[_PROTO])
    source, destination = (values.unpacked(ip[each]) for each in _ADDRESSES[family])
    type_, code = _ICMP[family]
    if type_ in proto:
        return Side(source, destination, icmp=(proto[type_][0], proto[code][0]))
    if _SOURCE_PORT in proto:
        ports = (struct.unpack("!H", proto[each])[0] for each in (_SOURCE_PORT, _DESTINATION_PORT))
        return Side(source, destination, *ports)
    return Side(source, destination)
