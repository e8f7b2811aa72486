"""Have the host ask anew who has an address, when somebody else has come to it.

Its neighbour table keeps the MAC that answered last for half a minute: an address that is used
again within that time would lead nowhere. An instance may, but need not, announce itself.

By netlink of our own: pyroute2 0.9 takes a millisecond for each question, this 10 us.
"""

import errno
import socket
import struct
from collections.abc import Mapping

from nova_netagent.backend import netlink

_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_DELETE, _GET = 29, 30
_ERROR = 2
_REQUEST, _ACK = 0x1, 0x4
_ADDRESS, _MAC = 1, 2
_PERMANENT = 0x80


def forget(stale: Mapping[tuple[int, str], str]) -> int:
    """Forget who had an address, unless it is who has it now, or an operator wrote it down.

    :param stale: by link's index and address, the MAC that has it now.
    :returns: how many were forgotten.
    :raises OSError: the kernel cannot be asked.
    """
    forgotten = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        for (index, address), mac in stale.items():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            packed = socket.inet_pton(family, address)
            asked = _NEIGHBOUR.pack(family, index, 0, 0, 0) + netlink.attribute(_ADDRESS, packed)
            known = _ask(kernel, _GET, _REQUEST, asked)
            if known is None:
                continue
            _, _, state, _, _ = _NEIGHBOUR.unpack_from(known)
            answered = dict(netlink.attributes(known[_NEIGHBOUR.size :])).get(_MAC)
            if state & _PERMANENT or answered is None or answered.hex(":") == mac:
                continue
            _ask(kernel, _DELETE, _REQUEST | _ACK, asked)
            forgotten += 1
    return forgotten


def _ask(kernel: socket.socket, kind: int, flags: int, body: bytes) -> bytes | None:
    """The answer's body; ``None`` where there is nothing of the kind."""
    kernel.send(netlink.message(kind, flags, 0, body))
    ((kind, _, _, answer),) = netlink.messages(kernel.recv(1 << 16))
    if kind == _ERROR:
        (code,) = struct.unpack_from("=i", answer)
        if code not in (0, -errno.ENOENT, -errno.ENODEV, -errno.ENXIO):
            raise OSError(-code, "the table of neighbours")
        return None
    return answer
