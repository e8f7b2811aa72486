"""What a link holds, its addresses and routes, and how it is moved to another link whole.

nova moved a physical interface's IPv4 addresses to its bridge by ip(8)'s text: IPv6, labels,
lifetimes, metrics and every route without a gateway were lost on the way. Here the kernel's
own messages (rtnetlink(7)) are sent back to it with another link in them, so that nothing
that they say is lost; a route by several links changes in the one that is concerned.
A default route that a router advertised is made as the kernel makes it, so that the next
advertisement renews it.
"""

import errno
import fcntl
import hashlib
import socket
import struct
from collections.abc import Collection, Iterator
from functools import partial

from msgspec import Struct

from nova_netagent.backend import netlink
from nova_netagent.backend.links import question
from nova_netagent.backend.links.listing import listing
from nova_netagent.backend.links.question import APPEND, CREATE, REPLACE

_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_HOP = struct.Struct("=HBBi")

_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_RT_PRIORITY = 1, 2, 3, 6, 8, 9
_IFA_F_NODAD, _IFA_F_PERMANENT, _IFA_F_NOPREFIXROUTE = 0x02, 0x80, 0x200
_SCOPE_LINK = 253
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH = 1, 4, 5, 6, 9
_RTA_CACHEINFO, _RTA_VIA, _RTA_PREF, _RTA_EXPIRES, _RTA_NH_ID = 12, 18, 20, 23, 30
_CACHEINFO_EXPIRES = struct.Struct("=8xi")
_USER_HZ = 100
_LIFETIMES = struct.Struct("=II")
_FOREVER = 0xFFFFFFFF
_RTPROT_KERNEL = 2
_RTN_UNICAST = 1
_RT_TABLE_LOCAL = 255
_KERNELS_METRIC = {socket.AF_INET: 0, socket.AF_INET6: 256}
_RTM_F_CLONED = 0x200
_RTNH_F_ONLINK = 4

_SIOCADDRT = 0x890B
_IN6_RTMSG = struct.Struct("@16s16s16sIHHILIi")
_RTF_LEARNED = 0x1 | 0x2 | 0x10000 | 0x40000 | 0x400000
"""RTF_UP, RTF_GATEWAY, RTF_DEFAULT, RTF_ADDRCONF, RTF_EXPIRES."""
_RTF_PREF_SHIFT = 27


class Holdings(Struct, frozen=True):
    """What a link holds, as the kernel's own messages: global addresses, and routes that somebody set."""

    addresses: tuple[bytes, ...] = ()
    routes: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.addresses or self.routes)

    def keys(self) -> Iterator[str]:
        """By what each is known again: an address with its prefix length, a route by a digest of all it says."""
        yield from map(_address_key, self.addresses)
        yield from map(_route_key, self.routes)

    def aged(self, seconds: float) -> "Holdings":
        """What is left of it after so many seconds: what has a lifetime may have ended."""
        addresses = (_aged_address(each, int(seconds)) for each in self.addresses)
        routes = (_aged_route(each, int(seconds)) for each in self.routes)
        return Holdings(tuple(filter(None, addresses)), tuple(filter(None, routes)))

    def without(self, keys: Collection[str]) -> "Holdings":
        """All but those of these keys."""
        return Holdings(
            tuple(each for each in self.addresses if _address_key(each) not in keys),
            tuple(each for each in self.routes if _route_key(each) not in keys),
        )


class MoveFailed(Exception):
    """Something could not be moved; it is where it was, or on both links, never lost."""


def read(index: int) -> Holdings:
    """What the link of an index holds. Link-local addresses are its own and stay.

    :raises MoveFailed: the kernel does not tell.
    """
    listed = [
        bytes(body)
        for body in _list(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, index))
        if _ADDRESS.unpack_from(body)[4] == index
    ]
    addresses = tuple(body for body in listed if not _is_near(body))
    kernels = {network for body in listed for network in _led_by_kernel(body)}
    by_link = netlink.attribute(_RTA_OIF, struct.pack("=i", index))
    routes = tuple(
        _by(body, index)
        for family in (socket.AF_INET, socket.AF_INET6)
        for body in map(bytes, _list(_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + by_link))
        if body[0] == family and _is_moved(body, index, kernels)
    )
    return Holdings(addresses, routes)


def move(holdings: Holdings, old: int, new: int) -> None:
    """Move holdings from one link to another, both there and up; the addresses answer all the time.

    What is new is made before what is old is taken away.

    :raises MoveFailed: naming what the kernel refused.
    """
    with question.opened() as kernel:
        _give(kernel, holdings, old, new)
        for body in sorted(holdings.routes, key=_has_gateway, reverse=True):
            _send(kernel, _DELROUTE, 0, _as_named(body), "a route", errno.ESRCH)
        for body in holdings.addresses:
            _send(kernel, _DELADDR, 0, body, "an address", errno.EADDRNOTAVAIL)


def give(holdings: Holdings, old: int, new: int) -> None:
    """Give a link what another one held that is gone, as far as it has not got it.

    :raises MoveFailed: naming what the kernel refused.
    """
    with question.opened() as kernel:
        _give(kernel, holdings, old, new)


def _give(kernel: socket.socket, holdings: Holdings, old: int, new: int) -> None:
    """Give all that the kernel takes: a route through a network whose lease has ended costs no other its way."""
    refused: dict[str, None] = {}
    # A route through a gateway is taken only when the gateway's own route is there: those first.
    edits = [partial(_give_address, kernel, body, new) for body in holdings.addresses]
    edits += [partial(_give_route, kernel, body, old, new) for body in sorted(holdings.routes, key=_has_gateway)]
    for edit in edits:
        try:
            edit()
        except MoveFailed as error:
            refused[str(error)] = None
    if refused:
        raise MoveFailed("; ".join(refused))


def _give_address(kernel: socket.socket, body: bytes, new: int) -> None:
    moved = _on_link(body, new)
    # Replaced, where it is there: a DHCP client renews a lease on the link that it knows.
    flags = CREATE | REPLACE
    if body[0] == socket.AF_INET6:
        # It was proved unique already, and must not be deaf for the second that a new proof takes.
        _send(kernel, _NEWADDR, flags, _without_detection(moved), "an address", errno.EEXIST)
        flags = REPLACE
    _send(kernel, _NEWADDR, flags, moved, "an address", errno.EEXIST)


def _give_route(kernel: socket.socket, body: bytes, old: int, new: int) -> None:
    learned = _as_learned(body, new)
    if learned is not None:
        _learn(learned)
    else:
        _send(kernel, _NEWROUTE, CREATE | APPEND, _through(body, old, new), "a route", errno.EEXIST)


_Network = tuple[int, bytes, int, int | None]
"""Family, address, length and metric of a route to a network of an address; ``None``: of any metric."""


def _is_near(body: bytes) -> bool:
    """Whether an address is one of its link's own, which stays."""
    return int(_ADDRESS.unpack_from(body)[3]) >= _SCOPE_LINK


def _led_by_kernel(body: bytes) -> Iterator[_Network]:
    """The networks to which routes come and go with an address.

    Programs that ask the kernel for none (IFA_F_NOPREFIXROUTE) make one of their own and call it the kernel's:
    NetworkManager, systemd-networkd. Those of an IPv6 address with a lifetime the kernel leaves (ipv6_del_addr).
    """
    family, length, short, *_ = _ADDRESS.unpack_from(body)
    found = netlink.parse(body[_ADDRESS.size :])
    (flags,) = struct.unpack("=I", found.get(_IFA_FLAGS, struct.pack("=I", short)))
    (metric,) = struct.unpack("=I", found.get(_IFA_RT_PRIORITY, bytes(4)))
    ends = [(found[_IFA_ADDRESS], length)] if _IFA_ADDRESS in found else []  # a peer of zeros is not told
    if family == socket.AF_INET6 and _IFA_LOCAL in found:
        ends.append((found[_IFA_LOCAL], 128))
    if _is_near(body):
        yield from ((family, *_masked(*end), None) for end in ends)
    elif not flags & _IFA_F_NOPREFIXROUTE and (family == socket.AF_INET or flags & _IFA_F_PERMANENT):
        yield from ((family, *_masked(*end), metric or _KERNELS_METRIC[family]) for end in ends)


def _masked(address: bytes, length: int) -> tuple[bytes, int]:
    bits = len(address) * 8 - length
    return (int.from_bytes(address) >> bits << bits).to_bytes(len(address)), length


def _is_moved(body: bytes, index: int, kernels: Collection[_Network]) -> bool:
    """Whether a route is of a link and not the kernel's own (it comes and goes with its address)."""
    family, length, _, _, table, protocol, _, kind, flags = _ROUTE.unpack_from(body)
    if kind != _RTN_UNICAST or flags & _RTM_F_CLONED or index not in _links_of(body):
        return False
    if protocol != _RTPROT_KERNEL:
        return True
    found = netlink.parse(body[_ROUTE.size :])
    network = family, found.get(_RTA_DST, bytes(16 if family == socket.AF_INET6 else 4)), length
    (metric,) = struct.unpack("=I", found.get(_RTA_PRIORITY, bytes(4)))
    return table != _RT_TABLE_LOCAL and (*network, metric) not in kernels and (*network, None) not in kernels


def _by(body: bytes, index: int) -> bytes:
    """Of an IPv6 route by several links the part by one: there each is a route of its own, made and deleted alone."""
    attributes = netlink.parse(body[_ROUTE.size :])
    if body[0] != socket.AF_INET6 or _RTA_MULTIPATH not in attributes:
        return body
    attributes[_RTA_MULTIPATH] = b"".join(hop for link, hop in _hops(attributes[_RTA_MULTIPATH]) if link == index)
    return body[: _ROUTE.size] + netlink.joined(attributes.items())


def _links_of(body: bytes) -> Iterator[int]:
    for kind, value in netlink.attributes(body[_ROUTE.size :]):
        if kind == _RTA_OIF:
            yield struct.unpack("=i", value)[0]
        elif kind == _RTA_MULTIPATH:
            yield from (hop for hop, _ in _hops(value))


def _has_gateway(body: bytes) -> bool:
    return any(kind == _RTA_GATEWAY for kind, _ in netlink.attributes(body[_ROUTE.size :]))


def _address_key(body: bytes) -> str:
    family, length, *_ = _ADDRESS.unpack_from(body)
    found = netlink.parse(body[_ADDRESS.size :])
    return f"{socket.inet_ntop(family, found.get(_IFA_LOCAL) or found[_IFA_ADDRESS])}/{length}"


def _route_key(body: bytes) -> str:
    fixed = _ROUTE.pack(*_ROUTE.unpack_from(body)[:8], 0)
    said = b"".join(
        netlink.attribute(kind, value)
        for kind, value in netlink.attributes(body[_ROUTE.size :])
        if kind != _RTA_CACHEINFO
    )
    return hashlib.sha1(fixed + said, usedforsecurity=False).hexdigest()


def _expires(found: dict[int, bytes]) -> int:
    """When a route expires, in hundredths of a second from now; 0 is never."""
    times = found.get(_RTA_CACHEINFO, b"")
    return int(_CACHEINFO_EXPIRES.unpack_from(times)[0]) if len(times) >= _CACHEINFO_EXPIRES.size else 0


def _aged_address(body: bytes, seconds: int) -> bytes | None:
    """An address after so many seconds; ``None`` where it has ended."""
    found = netlink.parse(body[_ADDRESS.size :])
    preferred, valid = _LIFETIMES.unpack_from(found[_IFA_CACHEINFO])
    if valid == _FOREVER:
        return body
    left = preferred if preferred == _FOREVER else max(0, preferred - seconds)
    if valid <= seconds:
        return None
    found[_IFA_CACHEINFO] = _LIFETIMES.pack(left, valid - seconds) + found[_IFA_CACHEINFO][_LIFETIMES.size :]
    return body[: _ADDRESS.size] + netlink.joined(found.items())


def _aged_route(body: bytes, seconds: int) -> bytes | None:
    """A route after so many seconds; ``None`` where it has expired."""
    found = netlink.parse(body[_ROUTE.size :])
    expires = _expires(found)
    if expires <= 0:
        return body
    if expires <= seconds * _USER_HZ:
        return None
    times = bytearray(found[_RTA_CACHEINFO])
    _CACHEINFO_EXPIRES.pack_into(times, 0, expires - seconds * _USER_HZ)
    found[_RTA_CACHEINFO] = bytes(times)
    return body[: _ROUTE.size] + netlink.joined(found.items())


def _as_learned(body: bytes, new: int) -> bytes | None:
    """A default route that a router advertised, as an in6_rtmsg by another link; ``None`` where it is none.

    Only so can it be told to be one: the kernel neither renews nor withdraws any other, and
    reads no advertisement to its end as long as an equal route stands that is not its own.
    """
    family, length = _ROUTE.unpack_from(body)[:2]
    found = netlink.parse(body[_ROUTE.size :])
    expires = _expires(found)
    if family != socket.AF_INET6 or length or expires <= 0 or _RTA_GATEWAY not in found:
        return None
    (metric,) = struct.unpack("=I", found[_RTA_PRIORITY])
    preference = found.get(_RTA_PREF, b"\0")[0] << _RTF_PREF_SHIFT
    none = bytes(16)
    return _IN6_RTMSG.pack(none, none, found[_RTA_GATEWAY], 0, 0, 0, metric, expires, _RTF_LEARNED | preference, new)


def _learn(message: bytes) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as kernel:
        try:
            fcntl.ioctl(kernel, _SIOCADDRT, message)
        except FileExistsError:
            pass
        except OSError as error:
            raise MoveFailed(f"an advertised route cannot be moved: {error.strerror}") from error


def _on_link(body: bytes, new: int) -> bytes:
    family, length, flags, scope, _ = _ADDRESS.unpack_from(body)
    # A label names the link that it was given on, and ifconfig's eth0:1 means nothing on a bridge.
    kept = b"".join(
        netlink.attribute(kind, value)
        for kind, value in netlink.attributes(body[_ADDRESS.size :])
        if kind != _IFA_LABEL
    )
    return _ADDRESS.pack(family, length, flags, scope, new) + kept


def _without_detection(body: bytes) -> bytes:
    """An IPv6 address that is used without duplicate address detection."""
    family, length, flags, scope, index = _ADDRESS.unpack_from(body)
    attributes = netlink.parse(body[_ADDRESS.size :])
    (full,) = struct.unpack("=I", attributes.get(_IFA_FLAGS, struct.pack("=I", flags)))
    attributes[_IFA_FLAGS] = struct.pack("=I", full | _IFA_F_NODAD)
    kept = netlink.joined(attributes.items())
    return _ADDRESS.pack(family, length, flags | _IFA_F_NODAD, scope, index) + kept


def _through(body: bytes, old: int, new: int) -> bytes:
    def changed(kind: int, value: bytes) -> bytes:
        if kind == _RTA_OIF and struct.unpack("=i", value)[0] == old:
            return struct.pack("=i", new)
        if kind == _RTA_MULTIPATH:
            return b"".join(_hop_by(hop, new if index == old else index) for index, hop in _hops(value))
        return value

    attributes = netlink.parse(body[_ROUTE.size :])
    expires = _expires(attributes)
    attributes.pop(_RTA_CACHEINFO, None)
    attributes.pop(_RTA_NH_ID, None)  # what that stands for is told as well, and is on the old link
    if expires > 0:
        attributes[_RTA_EXPIRES] = struct.pack("=I", max(1, expires // _USER_HZ))
    *fixed, flags = _ROUTE.unpack_from(body)
    # The kernel tells of a link without a carrier by flags that it does not take back.
    head = _ROUTE.pack(*fixed, flags & _RTNH_F_ONLINK)
    return head + netlink.joined((kind, changed(kind, value)) for kind, value in attributes.items())


def _as_named(body: bytes) -> bytes:
    """A route as it can be deleted: one by a nexthop object (ip-nexthop(8)) is told by that, and by no other way."""
    if _RTA_NH_ID not in netlink.parse(body[_ROUTE.size :]):
        return body
    ways = (_RTA_OIF, _RTA_GATEWAY, _RTA_VIA, _RTA_MULTIPATH)
    told = (each for each in netlink.attributes(body[_ROUTE.size :]) if each[0] not in ways)
    return body[: _ROUTE.size] + netlink.joined(told)


def _hop_by(hop: bytes, index: int) -> bytes:
    length, flags, weight, _ = _HOP.unpack_from(hop)
    return _HOP.pack(length, flags & _RTNH_F_ONLINK, weight, index) + hop[_HOP.size :]


def _hops(value: bytes) -> Iterator[tuple[int, bytes]]:
    """The next hops of a route by several links, each with its link."""
    offset = 0
    while offset + _HOP.size <= len(value):
        length, _, _, index = _HOP.unpack_from(value, offset)
        if length < _HOP.size:
            return
        yield index, value[offset : offset + length]
        offset += (length + 3) & ~3


def _list(kind: int, request: bytes) -> list[memoryview]:
    try:
        found = listing(kind, request, strict=True)
    except OSError as error:
        if error.errno == errno.ENODEV:  # so says who is asked for the routes of a link that is gone
            return []
        raise MoveFailed(f"the links' holdings cannot be read: {error.strerror}") from error
    if not found.whole:
        raise MoveFailed("the links' holdings cannot be read: they keep changing")
    return [body for _, body in found.messages]


def _send(kernel: socket.socket, kind: int, flags: int, body: bytes, what: str, done_already: int) -> None:
    try:
        question.ask(kernel, kind, body, flags, bearable=(done_already,))
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, str(error))
        raise MoveFailed(f"{what} cannot be moved: {reason}") from error
