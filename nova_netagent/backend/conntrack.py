"""The connection-tracking table: look at the flows of some addresses, and delete chosen ones.

In one pass through netlink (nfnetlink_conntrack): one dump a family, one message a deletion,
sent in batches. A process a flow is what made neutron's agents stand still (bug 1513765).
"""

import errno
import socket
import struct
from collections.abc import Collection, Iterable, Iterator

from msgspec import Struct

from nova_netagent.netfilter.rule import FAMILIES, Family

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_GENERIC = struct.Struct("=BBH")
_NETFILTER = 12
_SUBSYSTEM = 1 << 8
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_ORIGINAL, _REPLY, _STATUS, _ID, _ZONE = 1, 2, 3, 12, 18
_IP, _PROTO = 1, 2
_ADDRESSES = {4: (1, 2), 6: (3, 4)}
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_ICMP = {4: (5, 6), 6: (8, 9)}
_SOCKET_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_BATCH = 256
_BUFFER = 4 << 20

SEEN_REPLY = 1 << 1
"""IPS_SEEN_REPLY: there were packets in both directions."""


class Side(Struct, frozen=True):
    """One direction of a flow, as its packets look on the way in."""

    source: str
    destination: str
    source_port: int | None = None
    destination_port: int | None = None
    icmp: tuple[int, int] | None = None
    """Type and code."""


class Flow(Struct, frozen=True):
    """A tracked flow: how its first packet looked, and how replies to it look (NAT in between)."""

    family: Family
    protocol: int
    original: Side
    reply: Side
    status: int
    zone: int
    handle: bytes
    """What names the flow to the kernel: its original tuple, zone and id as netlink attributes."""


class ConntrackError(Exception):
    """The table could not be read or edited."""


class Conntrack:
    """The flows of the network namespace in which it is made. One thread only."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
        self._socket.bind((0, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def flows(self, addresses: Collection[str]) -> list[Flow]:
        """The flows that have one of some addresses on any side of either direction.

        :raises ConntrackError: the table cannot be read.
        """
        found: list[Flow] = []
        for family in FAMILIES:
            wanted = {
                socket.inet_pton(_SOCKET_FAMILY[family], each) for each in addresses if (":" in each) == (family == 6)
            }
            if wanted:
                found += [flow for body in self._dump(family) if (flow := _flow(body, family, wanted)) is not None]
        return found

    def delete(self, flows: Iterable[Flow]) -> int:
        """Delete flows; returns how many there still were.

        :raises ConntrackError: the kernel refuses for another reason than that a flow is gone.
        """
        messages = [_message(_DELETE, _REQUEST | _ACK, flow.family, flow.handle) for flow in flows]
        deleted = 0
        for start in range(0, len(messages), _BATCH):
            batch = messages[start : start + _BATCH]
            self._socket.send(b"".join(batch))
            deleted += sum(self._acknowledged() for _ in batch)
        return deleted

    def _dump(self, family: Family) -> Iterator[memoryview]:
        self._socket.send(_message(_GET, _REQUEST | _DUMP, family, b""))
        while True:
            for kind, body in _messages(self._socket.recv(1 << 18)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    (code,) = struct.unpack_from("=i", body)
                    raise ConntrackError(f"the flows cannot be read: {errno.errorcode.get(-code, code)}")
                yield body

    def _acknowledged(self) -> int:
        ((_, body),) = _messages(self._socket.recv(1 << 16))
        (code,) = struct.unpack_from("=i", body)
        if code not in (0, -errno.ENOENT):
            raise ConntrackError(f"a flow cannot be deleted: {errno.errorcode.get(-code, code)}")
        return int(code == 0)


def _message(kind: int, flags: int, family: Family, attributes: bytes) -> bytes:
    body = _GENERIC.pack(_SOCKET_FAMILY[family], 0, 0) + attributes
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def _messages(data: bytes) -> Iterator[tuple[int, memoryview]]:
    view, offset = memoryview(data), 0
    while offset + _HEADER.size <= len(view):
        length, kind, _, _, _ = _HEADER.unpack_from(view, offset)
        yield kind, view[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _attributes(view: memoryview) -> dict[int, memoryview]:
    found, offset = {}, 0
    while offset + _ATTRIBUTE.size <= len(view):
        length, kind = _ATTRIBUTE.unpack_from(view, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = view[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def _flow(body: memoryview, family: Family, wanted: Collection[bytes]) -> Flow | None:
    known = _attributes(body[_GENERIC.size :])
    original, reply = _attributes(known[_ORIGINAL]), _attributes(known[_REPLY])
    source, destination = _ADDRESSES[family]
    sides = [_attributes(each[_IP]) for each in (original, reply)]
    if not any(bytes(side[name]) in wanted for side in sides for name in (source, destination)):
        return None
    zone = struct.unpack("!H", known[_ZONE])[0] if _ZONE in known else 0
    handle = b"".join(_packed(kind, known[kind]) for kind in (_ORIGINAL, _ZONE, _ID) if kind in known)
    protocol = _attributes(original[_PROTO])[_NUMBER][0]
    first, second = (_side(each, ip, family) for each, ip in zip((original, reply), sides, strict=True))
    (status,) = struct.unpack("!I", known[_STATUS]) if _STATUS in known else (0,)
    return Flow(family, protocol, first, second, status, zone, handle)


def _packed(kind: int, value: memoryview) -> bytes:
    nested = _NESTED if kind == _ORIGINAL else 0
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind | nested) + bytes(value) + bytes(-len(value) % 4)


def _side(known: dict[int, memoryview], ip: dict[int, memoryview], family: Family) -> Side:
    source, destination = (socket.inet_ntop(_SOCKET_FAMILY[family], bytes(ip[each])) for each in _ADDRESSES[family])
    proto = _attributes(known[_PROTO])
    type_, code = _ICMP[family]
    if type_ in proto:
        return Side(source, destination, icmp=(proto[type_][0], proto[code][0]))
    if _SOURCE_PORT in proto:
        ports = (struct.unpack("!H", proto[each])[0] for each in (_SOURCE_PORT, _DESTINATION_PORT))
        return Side(source, destination, *ports)
    return Side(source, destination)
