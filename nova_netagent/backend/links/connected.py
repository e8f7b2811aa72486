"""The routes by which the networks of our addresses are reached: the kernel makes them, and never again.

Who flushes a link's routes takes them as well (``ip route flush dev br1``), and leaves the addresses
that they came with. They are made as the kernel makes them, so that they go when their address goes.
Source: net/ipv4/fib_frontend.c, fib_add_ifaddr(); net/ipv6/addrconf.c, addrconf_prefix_route().
"""

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

from nova_netagent.backend import netlink
from nova_netagent.backend.links import question
from nova_netagent.backend.links.listing import listing
from nova_netagent.model import values

_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_GETADDR, _NEWROUTE, _GETROUTE = 22, 24, 26
_IFA_LOCAL = 2
_IFA_F_SECONDARY = 0x01
_RTA_DST, _RTA_OIF, _RTA_PRIORITY, _RTA_PREFSRC = 1, 4, 6, 7
_TABLE_MAIN, _PROTOCOL_KERNEL, _UNICAST = 254, 2, 1
_SCOPE_LINK = {socket.AF_INET: 253, socket.AF_INET6: 0}
_IPV6_METRIC = 256

Led = tuple[int, str]
"""The index of a link, and a network that a route leads to by it."""


def networks() -> frozenset[Led]:
    """All networks that the kernel leads to by their links, in the network namespace that the thread is in.

    :raises OSError: the kernel does not tell.
    """
    return frozenset(led for family in (socket.AF_INET, socket.AF_INET6) for led in _listed(family))


def lead(index: int, cidr: str) -> None:
    """Make the route that came with an address of a link.

    :raises OSError: the kernel refuses it.
    """
    network = ipaddress.ip_interface(cidr).network
    family = values.SOCKET_FAMILY[network.version]
    scope = _SCOPE_LINK[family]
    body = _ROUTE.pack(family, network.prefixlen, 0, 0, _TABLE_MAIN, _PROTOCOL_KERNEL, scope, _UNICAST, 0)
    body += netlink.attribute(_RTA_DST, network.network_address.packed)
    body += netlink.attribute(_RTA_OIF, struct.pack("=i", index))
    if network.version == 6:
        body += netlink.attribute(_RTA_PRIORITY, struct.pack("=I", _IPV6_METRIC))
    else:
        body += netlink.attribute(_RTA_PREFSRC, _first(index, network))
    with question.opened() as kernel:
        try:
            question.ask(kernel, _NEWROUTE, body, question.CREATE | question.APPEND, bearable=(errno.EEXIST,))
        except OSError as error:
            raise OSError(error.errno, f"the route to {network} cannot be made: {error.strerror}") from error


def _listed(family: int) -> Iterator[Led]:
    asked = _ROUTE.pack(family, 0, 0, 0, 0, _PROTOCOL_KERNEL, 0, 0, 0)
    for _, body in listing(_GETROUTE, asked, strict=True).messages:
        fixed = _ROUTE.unpack_from(body)
        found = netlink.parse(body[_ROUTE.size :])
        if (fixed[0], fixed[5], fixed[7]) == (family, _PROTOCOL_KERNEL, _UNICAST) and {_RTA_DST, _RTA_OIF} <= set(
            found
        ):
            (index,) = struct.unpack("=i", found[_RTA_OIF])
            yield index, f"{values.unpacked(found[_RTA_DST])}/{fixed[1]}"


def _first(index: int, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bytes:
    """The address with which a link speaks to an IPv4 network: the first one of it that the link was given."""
    for _, body in listing(_GETADDR, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, index), strict=True).messages:
        _, length, flags, _, link = _ADDRESS.unpack_from(body)
        local = bytes(netlink.parse(body[_ADDRESS.size :])[_IFA_LOCAL])
        is_in = ipaddress.ip_network((local, length), strict=False) == network
        if link == index and is_in and not flags & _IFA_F_SECONDARY:
            return local
    raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
