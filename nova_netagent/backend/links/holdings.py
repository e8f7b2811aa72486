"""What a link holds, its addresses and routes, and how it is moved to another link whole.

nova moved a physical interface's IPv4 addresses to its bridge by ip(8)'s text: IPv6, labels,
lifetimes, metrics and every route without a gateway were lost on the way. Here the kernel's
own messages (rtnetlink(7)) are sent back to it with another link in them, so that nothing
that they say is lost; a route by several links changes in the one that is concerned.
"""

import errno
import socket
import struct
from collections.abc import Iterator

from msgspec import Struct

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_HOP = struct.Struct("=HBBi")

_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _CREATE, _APPEND = 0x1, 0x4, 0x300, 0x400, 0x800
_IFA_LABEL = 3
_SCOPE_LINK, _SCOPE_HOST = 253, 254
_RTA_OIF, _RTA_MULTIPATH, _RTA_CACHEINFO = 4, 9, 12
_RTPROT_KERNEL = 2
_RTN_UNICAST = 1
_RTM_F_CLONED = 0x200


class Holdings(Struct, frozen=True):
    """What a link holds, as the kernel's own messages: global addresses, and routes that somebody set."""

    addresses: tuple[bytes, ...]
    routes: tuple[bytes, ...]

    def __bool__(self) -> bool:
        return bool(self.addresses or self.routes)


class MoveFailed(Exception):
    """Something could not be moved; it is where it was, or on both links, never lost."""


def read(index: int) -> Holdings:
    """What the link of an index holds. Link-local addresses are its own and stay."""
    addresses = tuple(
        bytes(body)
        for body in _dump(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0))
        if _ADDRESS.unpack_from(body)[4] == index and _ADDRESS.unpack_from(body)[3] < _SCOPE_LINK
    )
    routes = tuple(
        bytes(body) for body in _dump(_GETROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)) if _is_moved(body, index)
    )
    return Holdings(addresses, routes)


def move(holdings: Holdings, old: int, new: int) -> None:
    """Move holdings from one link to another, both there and up; the addresses answer all the time.

    What is new is made before what is old is taken away.

    :raises MoveFailed: naming what the kernel refused.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        for body in holdings.addresses:
            _send(kernel, _NEWADDR, _CREATE, _on_link(body, new), "an address", errno.EEXIST)
        # A route through a gateway is taken only when the gateway's own route is there: those first.
        for body in sorted(holdings.routes, key=_has_gateway):
            _send(kernel, _NEWROUTE, _CREATE | _APPEND, _through(body, old, new), "a route", errno.EEXIST)
        for body in sorted(holdings.routes, key=_has_gateway, reverse=True):
            _send(kernel, _DELROUTE, 0, body, "a route", errno.ESRCH)
        for body in holdings.addresses:
            _send(kernel, _DELADDR, 0, body, "an address", errno.EADDRNOTAVAIL)


def _is_moved(body: bytes | memoryview, index: int) -> bool:
    """Whether a route is of a link and not the kernel's own (it comes and goes with its address)."""
    protocol, kind, flags = _ROUTE.unpack_from(body)[5], _ROUTE.unpack_from(body)[7], _ROUTE.unpack_from(body)[8]
    if protocol == _RTPROT_KERNEL or kind != _RTN_UNICAST or flags & _RTM_F_CLONED:
        return False
    return index in _links_of(bytes(body))


def _links_of(body: bytes) -> Iterator[int]:
    for kind, value in _attributes(body[_ROUTE.size :]):
        if kind == _RTA_OIF:
            yield struct.unpack("=i", value)[0]
        elif kind == _RTA_MULTIPATH:
            yield from (hop for hop, _ in _hops(value))


def _has_gateway(body: bytes) -> bool:
    return any(kind == 5 for kind, _ in _attributes(body[_ROUTE.size :]))


def _on_link(body: bytes, new: int) -> bytes:
    family, length, flags, scope, _ = _ADDRESS.unpack_from(body)
    # A label names the link that it was given on, and ifconfig's eth0:1 means nothing on a bridge.
    kept = b"".join(_packed(kind, value) for kind, value in _attributes(body[_ADDRESS.size :]) if kind != _IFA_LABEL)
    return _ADDRESS.pack(family, length, flags, scope, new) + kept


def _through(body: bytes, old: int, new: int) -> bytes:
    def changed(kind: int, value: bytes) -> bytes:
        if kind == _RTA_OIF and struct.unpack("=i", value)[0] == old:
            return struct.pack("=i", new)
        if kind == _RTA_MULTIPATH:
            return b"".join(
                _HOP.pack(*_HOP.unpack_from(hop)[:3], new if index == old else index) + hop[_HOP.size :]
                for index, hop in _hops(value)
            )
        return value

    attributes = _attributes(body[_ROUTE.size :])
    kept = b"".join(_packed(kind, changed(kind, value)) for kind, value in attributes if kind != _RTA_CACHEINFO)
    return body[: _ROUTE.size] + kept


def _hops(value: bytes) -> Iterator[tuple[int, bytes]]:
    """The next hops of a route by several links, each with its link."""
    offset = 0
    while offset + _HOP.size <= len(value):
        length, _, _, index = _HOP.unpack_from(value, offset)
        if length < _HOP.size:
            return
        yield index, value[offset : offset + length]
        offset += (length + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def _packed(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _messages(data: bytes) -> Iterator[tuple[int, memoryview]]:
    view, offset = memoryview(data), 0
    while offset + _HEADER.size <= len(view):
        length, kind, _, _, _ = _HEADER.unpack_from(view, offset)
        yield kind, view[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _dump(kind: int, request: bytes) -> Iterator[memoryview]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(_HEADER.pack(_HEADER.size + len(request), kind, _REQUEST | _DUMP, 1, 0) + request)
        while True:
            for found, body in _messages(kernel.recv(1 << 18)):
                if found == _DONE:
                    return
                if found == _ERROR:
                    raise MoveFailed(f"the links' holdings cannot be read: {_reason(body)}")
                yield body


def _send(kernel: socket.socket, kind: int, flags: int, body: bytes, what: str, done_already: int) -> None:
    kernel.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _ACK | flags, 1, 0) + body)
    ((_, answer),) = _messages(kernel.recv(1 << 16))
    (code,) = struct.unpack_from("=i", answer)
    if code not in (0, -done_already):
        raise MoveFailed(f"{what} cannot be moved: {_reason(answer)}")


def _reason(answer: memoryview) -> str:
    (code,) = struct.unpack_from("=i", answer)
    return errno.errorcode.get(-code, str(code))
