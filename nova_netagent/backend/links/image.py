"""The host's links and addresses, kept current by the kernel's own notices.

A look through pyroute2 costs some 2 ms a link; here a dump is read once and each notice
(rtnetlink(7), groups LINK, IPV4_IFADDR, IPV6_IFADDR) changes one entry, so that a look
costs what happened since the last one. A lost notice (ENOBUFS) leads to a new dump.
"""

import errno
import socket
import struct

from nova_netagent.backend import netlink
from nova_netagent.backend.links.listing import listing
from nova_netagent.plan.links import ActualLinks, Link

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_GROUPS = 0x1 | 0x10 | 0x100
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR."""
_IFF_UP = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_PROTINFO = 1, 3, 4, 5, 10, 12
_IFLA_LINKINFO, _IFLA_LINK_NETNSID = 18, 37
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_IFLA_VLAN_ID = 1
_IFLA_BRPORT_MODE = 4
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_BUFFER = 8 << 20

_SCOPE_LINK = 253

_RawLink = tuple[str, str | None, int, bool, int, str | None, int, int | None, bool | None]
"""Name, kind, master's index, up, mtu, mac, the carrier's index, VLAN, hairpin mode."""


class LinkImage:
    """The links and addresses of the network namespace in which it is made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        netlink.let_wait(self._socket, _BUFFER)
        self._socket.bind((0, _GROUPS))
        self._links: dict[int, _RawLink] = {}
        self._addresses: dict[tuple[int, str], bool] = {}
        """By index and address, whether it counts beyond the link."""
        self._view: ActualLinks | None = None
        self._whole = False
        """Whether what was listed is all that there was."""
        self._dump()

    def fileno(self) -> int:
        """The socket: readable when something changed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def read(self) -> ActualLinks:
        """The links as they are now; the same object as long as nothing changed."""
        if not self._drain() or not self._whole:
            self._dump()
        if self._view is None:
            self._view = self._make_view()
        return self._view

    def assume(self, index: int, cidr: str) -> None:
        """Take it that a link has an address that was just given: the kernel tells of an IPv6 one later."""
        self._addresses.setdefault((index, cidr), True)
        self._view = None

    def _drain(self) -> bool:
        """Take in what was announced; whether nothing was lost.

        Where something was (ENOBUFS), what waits is from before, and until it is taken the kernel announces nothing.
        """
        whole = True
        while True:
            try:
                data = self._socket.recv(1 << 18, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return whole
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                whole = False
                continue
            for kind, _, _, body in netlink.messages(memoryview(data)):
                self._take(kind, body)

    def _dump(self) -> None:
        self._whole = False
        links = listing(_GETLINK, _LINK.pack(0, 0, 0, 0, 0))
        addresses = listing(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0))
        self._links.clear()
        self._addresses.clear()
        self._view = None
        for kind, body in (*links.messages, *addresses.messages):
            self._take(kind, body)
        self._whole = links.whole and addresses.whole

    def _take(self, kind: int, body: memoryview) -> None:
        if kind in (_NEWLINK, _DELLINK):
            self._take_link(kind, body)
        elif kind in (_NEWADDR, _DELADDR):
            self._take_address(kind, body)

    def _take_link(self, kind: int, body: memoryview) -> None:
        family, _, index, flags, _ = _LINK.unpack_from(body)
        if family == socket.AF_BRIDGE:
            self._take_port(kind, index, body)
            return
        self._view = None
        if kind == _DELLINK:
            self._links.pop(index, None)
            return
        name, link_kind, master, mtu, mac, parent, vlan, hairpin = "", None, 0, 0, None, 0, None, None
        for attribute, value in netlink.attributes(body[_LINK.size :]):
            if attribute == _IFLA_IFNAME:
                name = _text(value)
            elif attribute == _IFLA_MASTER:
                (master,) = struct.unpack("=I", value)
            elif attribute == _IFLA_MTU:
                (mtu,) = struct.unpack("=I", value)
            elif attribute == _IFLA_ADDRESS:
                mac = value.hex(":")
            elif attribute == _IFLA_LINK:
                (parent,) = struct.unpack("=I", value)
            elif attribute == _IFLA_LINK_NETNSID:
                parent = 0  # the index is one of another namespace
            elif attribute == _IFLA_LINKINFO:
                info = netlink.parse(value)
                link_kind = _text(info[_IFLA_INFO_KIND]) if _IFLA_INFO_KIND in info else None
                if link_kind == "vlan":
                    vlan = _vlan(info.get(_IFLA_INFO_DATA, _NOTHING))
                if _text(info.get(_IFLA_INFO_SLAVE_KIND, _NOTHING)) == "bridge":
                    hairpin = _hairpin(info.get(_IFLA_INFO_SLAVE_DATA, _NOTHING))
        self._links[index] = (name, link_kind, master, bool(flags & _IFF_UP), mtu, mac, parent, vlan, hairpin)

    def _take_port(self, kind: int, index: int, body: memoryview) -> None:
        """A port's bridge attributes, which are told apart; DELLINK here means that it left its bridge."""
        known = self._links.get(index)
        if kind == _NEWLINK and known is not None:
            port = netlink.parse(body[_LINK.size :]).get(_IFLA_PROTINFO, _NOTHING)
            if known[-1] != (hairpin := _hairpin(port)):
                self._links[index] = (*known[:-1], hairpin)
                self._view = None

    def _take_address(self, kind: int, body: memoryview) -> None:
        family, length, _, scope, index = _ADDRESS.unpack_from(body)
        if family not in (socket.AF_INET, socket.AF_INET6):
            return
        found = netlink.parse(body[_ADDRESS.size :])
        packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
        if packed is None:
            return
        address = (index, f"{socket.inet_ntop(family, bytes(packed))}/{length}")
        self._view = None
        if kind == _NEWADDR:
            self._addresses[address] = scope < _SCOPE_LINK
        else:
            self._addresses.pop(address, None)

    def _make_view(self) -> ActualLinks:
        names = {index: raw[0] for index, raw in self._links.items()}
        links = {
            name: Link(index, name, kind, names.get(master), up, mtu, mac, hairpin, names.get(parent), vlan)
            for index, (name, kind, master, up, mtu, mac, parent, vlan, hairpin) in self._links.items()
        }
        addresses = frozenset((names[index], cidr) for index, cidr in self._addresses if index in names)
        addressed = frozenset(names[index] for (index, _), wide in self._addresses.items() if wide and index in names)
        return ActualLinks(links, addresses, addressed)


_NOTHING = memoryview(b"")


def _hairpin(port: memoryview) -> bool | None:
    """Whether a bridge port sends back to where a frame came from; ``None`` where it is not told."""
    mode = netlink.parse(port).get(_IFLA_BRPORT_MODE)
    return None if mode is None else bool(mode[0])


def _vlan(data: memoryview) -> int | None:
    number = netlink.parse(data).get(_IFLA_VLAN_ID)
    return None if number is None else int(struct.unpack("=H", number)[0])


def _text(value: memoryview) -> str:
    return bytes(value).split(b"\0", 1)[0].decode("utf-8", "replace")
