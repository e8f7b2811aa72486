"""Tell the host who has an address now, when somebody has come to it.

Its neighbour table keeps the MAC that answered last for half a minute, and for a second that
nobody answered: an address that is used again within that time would lead nowhere. An instance
may, but need not, announce itself.

What was sent to an address while it was nobody's waits there for an answer, for three seconds, and
has all rules behind it: nobody's groups were asked. It is thrown away before somebody can answer.

By netlink of our own: pyroute2 0.9 takes a millisecond for each question, this 10 us.
"""

import errno
import socket
import struct
from collections.abc import Iterable, Mapping

from nova_netagent.backend import netlink

_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_NEW, _DELETE, _GET = 28, 29, 30
_ERROR = 2
_REQUEST, _ACK, _REPLACE = 0x1, 0x4, 0x100
_ADDRESS, _MAC = 1, 2
_INCOMPLETE, _STALE, _PERMANENT = 0x01, 0x04, 0x80
"""A stale one is used, and asked for anew within seconds (ip-neighbour(8))."""


def refuse_waiting(addresses: Iterable[tuple[int, str]]) -> None:
    """Throw away what waits for an answer from addresses, each with its link's index; its senders are told.

    :raises OSError: the kernel cannot be asked.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        for index, address in addresses:
            asked = _question(index, address)
            known = _ask(kernel, _GET, _REQUEST, asked)
            if known is not None and _NEIGHBOUR.unpack_from(known)[2] & _INCOMPLETE:
                _ask(kernel, _DELETE, _REQUEST | _ACK, asked)


def forget(gone: Mapping[tuple[int, str], str]) -> None:
    """Forget who had addresses that are nobody's now: what is sent to these would reach him, and no rule is his.

    :param gone: by link's index and address, the MAC that had it.
    :raises OSError: the kernel cannot be asked.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        for (index, address), mac in gone.items():
            asked = _question(index, address)
            known = _ask(kernel, _GET, _REQUEST, asked)
            if known is None or _NEIGHBOUR.unpack_from(known)[2] & _PERMANENT:
                continue
            answered = netlink.parse(known[_NEIGHBOUR.size :]).get(_MAC)
            if answered is not None and answered.hex(":") == mac:
                _ask(kernel, _DELETE, _REQUEST | _ACK, asked)


def correct(now: Mapping[tuple[int, str], str]) -> None:
    """Correct what is known of addresses, unless it is right or an operator wrote it down.

    What waits for an answer is sent at once. Of an address that nobody asked for nothing is known, and stays so.

    :param now: by link's index and address, the MAC that has it now.
    :raises OSError: the kernel cannot be asked.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        for (index, address), mac in now.items():
            known = _ask(kernel, _GET, _REQUEST, _question(index, address))
            if known is None:
                continue
            _, _, state, _, _ = _NEIGHBOUR.unpack_from(known)
            answered = netlink.parse(known[_NEIGHBOUR.size :]).get(_MAC)
            if state & _PERMANENT or (answered is not None and answered.hex(":") == mac):
                continue
            told = _question(index, address, _STALE) + netlink.attribute(_MAC, bytes.fromhex(mac.replace(":", "")))
            _ask(kernel, _NEW, _REQUEST | _ACK | _REPLACE, told)


def _question(index: int, address: str, state: int = 0) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    return _NEIGHBOUR.pack(family, index, state, 0, 0) + netlink.attribute(_ADDRESS, packed)


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
