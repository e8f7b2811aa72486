"""What decides beside all rules whether frames pass a link: its carrier, its bridge's opinion of it, programs on it.

Sources: rtnetlink(7); net/bridge/br_netlink.c, br_forward.c (should_deliver), br_fdb.c (br_fdb_get);
net/core/rtnetlink.c, rtnl_fdb_get(); net/sched/sch_api.c, tc_get_qdisc().
"""

import errno
import socket
import struct

from msgspec import Struct

from nova_netagent.backend import Unavailable, netlink
from nova_netagent.backend.links import question

_LINK = struct.Struct("=BxHiII")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_QDISC = struct.Struct("=BxxxiIII")
_RTM_GETLINK, _RTM_GETNEIGH, _RTM_GETQDISC = 18, 30, 38
_IFF_RUNNING = 0x40
_IFLA_LINKINFO, _IFLA_XDP = 18, 43
_IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 2, 4, 5
_IFLA_XDP_ATTACHED = 2
_IFLA_BR_NF_CALL = {4: 36, 6: 37}
_IFLA_BRPORT_STATE, _IFLA_BRPORT_ISOLATED = 1, 33
_FORWARDING = 3
_NDA_LLADDR, _NDA_MASTER = 2, 9
_AF_BRIDGE = 7
_TC_H_INGRESS = 0xFFFFFFF1
_MISSING = frozenset({errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.EINVAL})


class Passable(Struct, frozen=True):
    """Of a link what lets frames pass, or not."""

    running: bool = True
    """Somebody is at its other end."""
    forwards: bool = True
    """It is no port of a bridge, or the bridge neither listens nor blocks there."""
    isolated: bool = False
    """As a port it gives frames to those that are not isolated, and has them from those, only."""
    xdp: bool = False
    """A program of XDP's is attached."""
    tc: bool = False
    """It has the queueing discipline by which tc(8) filters what comes."""
    filtered: frozenset[int] = frozenset()
    """The families (4, 6) of which a bridge shows frames to iptables whatever bridge-nf-call-* are."""


def look(name: str) -> Passable | None:
    """What is so of a link; ``None``: there is none of that name.

    :raises Unavailable: the kernel does not tell.
    """
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return None
    body = _ask(_RTM_GETLINK, _LINK.pack(0, 0, index, 0, 0))
    if not body:
        return None
    flags = _LINK.unpack_from(body)[3]
    known = netlink.parse(body[_LINK.size :])
    info = netlink.parse(known.get(_IFLA_LINKINFO, b""))
    is_port = info.get(_IFLA_INFO_SLAVE_KIND, b"").rstrip(b"\0") == b"bridge"
    port = netlink.parse(info.get(_IFLA_INFO_SLAVE_DATA, b"")) if is_port else {}
    bridge = netlink.parse(info.get(_IFLA_INFO_DATA, b""))
    return Passable(
        running=bool(flags & _IFF_RUNNING),
        forwards=port.get(_IFLA_BRPORT_STATE, bytes([_FORWARDING]))[0] == _FORWARDING,
        isolated=any(port.get(_IFLA_BRPORT_ISOLATED, b"")),
        xdp=any(netlink.parse(known.get(_IFLA_XDP, b"")).get(_IFLA_XDP_ATTACHED, b"")),
        tc=bool(_ask(_RTM_GETQDISC, _QDISC.pack(0, index, 0, _TC_H_INGRESS, 0))),
        filtered=frozenset(family for family, kind in _IFLA_BR_NF_CALL.items() if any(bridge.get(kind, b""))),
    )


def behind(bridge: str, mac: str) -> str | None:
    """The port by which a bridge gives out frames for a MAC, if it has learned or was told it.

    :raises Unavailable: the kernel does not tell.
    """
    try:
        index = socket.if_nametoindex(bridge)
        attributes = [(_NDA_LLADDR, bytes.fromhex(mac.replace(":", ""))), (_NDA_MASTER, struct.pack("=I", index))]
        body = _ask(_RTM_GETNEIGH, _NEIGHBOUR.pack(_AF_BRIDGE, 0, 0, 0, 0) + netlink.joined(attributes))
        return socket.if_indextoname(_NEIGHBOUR.unpack_from(body)[1]) if body else None
    except OSError:  # a link that is gone
        return None


def _ask(kind: int, body: bytes) -> bytes:
    """One question, and its answer; empty where there is nothing of the kind.

    A queueing discipline is only told to who asks to have it echoed (qdisc_get_notify).
    """
    try:
        with question.opened() as kernel:
            return question.ask(kernel, kind, body, question.ECHO, bearable=_MISSING)
    except OSError as error:
        raise Unavailable(f"the kernel does not tell of links: {error.strerror or error}") from error
