"""Ask the kernel where it would send a packet: rules of policy routing, VRFs and all.

Source: rtnetlink(7), RTM_GETROUTE; net/ipv4/route.c, inet_rtm_getroute(). With the interface that
a packet came by the kernel answers for a packet that is received, and refuses what it would not
take or forward.
"""

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from nova_netagent.backend import netlink
from nova_netagent.backend.links import question
from nova_netagent.model import values
from nova_netagent.model.protocols import ICMP, ICMPV6, TCP, UDP

_ROUTE = struct.Struct("=BBBBBBBBI")
_RTM_GETROUTE = 26
_RTA_DST, _RTA_SRC, _RTA_IIF, _RTA_OIF, _RTA_PREFSRC, _RTA_MARK = 1, 2, 3, 4, 7, 16
_RTA_IP_PROTO, _RTA_SPORT, _RTA_DPORT = 27, 28, 29
_SELECTED = frozenset({TCP, UDP, ICMP, ICMPV6})
"""The protocols that may be asked about (rtm_getroute_parse_ip_proto)."""
_RTM_F_LOOKUP_TABLE = 0x1000
_KINDS = {1: "unicast", 2: "local", 3: "broadcast", 4: "local", 5: "broadcast"}
NOT_FORWARDED = "the host would not forward it"
_REFUSALS = {
    errno.EXDEV: "the reverse path filter refuses it: answers would go another way",
    errno.EHOSTUNREACH: NOT_FORWARDED,
    errno.ENETUNREACH: "there is no route",
    errno.EACCES: "a route prohibits it",
    errno.EINVAL: "a route drops it, or its source is not one that can come that way",
}


class Asked(Struct, frozen=True):
    """A packet to be routed.

    :ivar interface: that it came by; ``None``: the host sends it, or only the way is asked for.
    :ivar protocol: its number; with it, and the ports, rules of policy routing choose.
    """

    destination: str
    source: str | None = None
    interface: str | None = None
    mark: int = 0
    protocol: int | None = None
    source_port: int | None = None
    destination_port: int | None = None


class Route(Struct, frozen=True):
    """What the kernel answered."""

    kind: Literal["unicast", "local", "broadcast", "unreachable"]
    """``local``: the host takes it; ``broadcast``: it is for everybody on a link, the host too."""
    interface: str | None = None
    source: str | None = None
    """The address from which the host itself would send there."""
    reason: str = ""
    """Why there is no way."""


def ask(asked: Asked) -> Route:
    """One question, one answer; in the network namespace that the thread is in."""
    destination = values.prefix(asked.destination)
    family = values.SOCKET_FAMILY[destination.family]
    attributes = [(_RTA_DST, values.packed(asked.destination))]
    if asked.source is not None:
        attributes.append((_RTA_SRC, values.packed(asked.source)))
    try:
        if asked.interface is not None:
            attributes.append((_RTA_IIF, struct.pack("=I", socket.if_nametoindex(asked.interface))))
    except OSError:
        return Route("unreachable", reason=f"there is no link {asked.interface}")
    if asked.mark:
        attributes.append((_RTA_MARK, struct.pack("=I", asked.mark)))
    attributes += _transport(asked)
    source_length = destination.length if asked.source is not None else 0
    body = _ROUTE.pack(family, destination.length, source_length, 0, 0, 0, 0, 0, _RTM_F_LOOKUP_TABLE)
    body += netlink.joined(attributes)
    with question.opened() as kernel:
        try:
            return _parsed(question.ask(kernel, _RTM_GETROUTE, body))
        except OSError as error:
            code = error.errno or 0
            reason = _REFUSALS.get(code, f"the kernel says: {errno.errorcode.get(code, error)}")
            return Route("unreachable", reason=reason)


def _transport(asked: Asked) -> Iterator[tuple[int, bytes]]:
    if asked.protocol not in _SELECTED:
        return
    yield _RTA_IP_PROTO, bytes([asked.protocol])
    for kind, port in ((_RTA_SPORT, asked.source_port), (_RTA_DPORT, asked.destination_port)):
        if port:
            yield kind, struct.pack(">H", port)


def _parsed(body: bytes) -> Route:
    route_type = _ROUTE.unpack_from(body)[7]
    found = netlink.parse(body[_ROUTE.size :])
    interface = _name(found[_RTA_OIF]) if _RTA_OIF in found else None
    source = values.unpacked(found[_RTA_PREFSRC]) if _RTA_PREFSRC in found else None
    known = _KINDS.get(route_type)
    if known is None:
        return Route("unreachable", interface, source, "a route says that it is unreachable, prohibited or dropped")
    return Route(known, interface, source)  # type: ignore[arg-type]


def _name(packed: bytes) -> str | None:
    try:
        return socket.if_indextoname(struct.unpack("=I", packed)[0])
    except OSError:
        return None
