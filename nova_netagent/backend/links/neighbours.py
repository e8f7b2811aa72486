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
from collections.abc import Container, Iterable, Iterator, Mapping

from msgspec import Struct

from nova_netagent.backend import netlink
from nova_netagent.backend.links import question
from nova_netagent.backend.links.listing import listing
from nova_netagent.model import values

_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_NEW, _DELETE, _GET = 28, 29, 30
_ADDRESS, _MAC, _LINK = 1, 2, 8
_INCOMPLETE, _STALE, _PERMANENT = 0x01, 0x04, 0x80
"""A stale one is used, and asked for anew within seconds (ip-neighbour(8))."""
_MISSING = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO})


class _Known(Struct, frozen=True):
    """What the host knows of an address."""

    index: int
    """Of the link that it is on."""
    address: str
    state: int
    mac: str | None


def answered(indexes: Container[int]) -> list[tuple[int, str, str]]:
    """Who answered for which address on the links of these indexes: index, address and MAC.

    :raises OSError: the kernel cannot be asked.
    """
    found = (known for family in values.SOCKET_FAMILY.values() for known in _list(family))
    return [(each.index, each.address, each.mac) for each in found if each.index in indexes and each.mac is not None]


def refuse_waiting(addresses: Iterable[tuple[int, str]]) -> None:
    """Throw away what waits for an answer from addresses, each with its link's index; its senders are told.

    :param addresses: or prefixes, for any of their addresses.
    :raises OSError: the kernel cannot be asked.
    """
    with question.opened() as kernel:
        for index, addressed in addresses:
            for known in _known_in(kernel, index, addressed):
                if known.state & _INCOMPLETE:
                    question.ask(kernel, _DELETE, _question(index, known.address), bearable=_MISSING)


def forget(gone: Iterable[tuple[int, str, str]]) -> None:
    """Forget who had addresses that are nobody's now: what is sent to these would reach him, and no rule is his.

    :param gone: link's index, address or prefix, and the MAC that had it.
    :raises OSError: the kernel cannot be asked.
    """
    with question.opened() as kernel:
        for index, addressed, mac in gone:
            for known in _known_in(kernel, index, addressed):
                if known.mac == mac and not known.state & _PERMANENT:
                    question.ask(kernel, _DELETE, _question(index, known.address), bearable=_MISSING)


def correct(now: Mapping[tuple[int, str], str]) -> None:
    """Correct what is known of addresses, unless it is right or an operator wrote it down.

    What waits for an answer is sent at once. Of an address that nobody asked for nothing is known, and stays so.

    :param now: by link's index and address, the MAC that has it now.
    :raises OSError: the kernel cannot be asked.
    """
    with question.opened() as kernel:
        for (index, address), mac in now.items():
            for known in _known_of(kernel, index, address):
                if known.mac == mac or known.state & _PERMANENT:
                    continue
                told = _question(index, address, _STALE) + netlink.attribute(_MAC, bytes.fromhex(mac.replace(":", "")))
                question.ask(kernel, _NEW, told, question.REPLACE, bearable=_MISSING)


def _known_in(kernel: socket.socket, index: int, addressed: str) -> Iterable[_Known]:
    """What the host knows of an address, or of those of a prefix."""
    return _known_among(index, addressed) if "/" in addressed else _known_of(kernel, index, addressed)


def _known_of(kernel: socket.socket, index: int, address: str) -> Iterator[_Known]:
    found = question.ask(kernel, _GET, _question(index, address), bearable=_MISSING)
    if found:
        yield _known(memoryview(found))


def _known_among(index: int, cidr: str) -> Iterator[_Known]:
    prefix = values.prefix(cidr)
    for known in _list(values.SOCKET_FAMILY[prefix.family], index):
        if known.index == index and prefix.contains(values.prefix(known.address)):
            yield known


def _known(answer: memoryview) -> _Known:
    _, index, state, _, _ = _NEIGHBOUR.unpack_from(answer)
    attributes = netlink.parse(answer[_NEIGHBOUR.size :])
    mac = attributes.get(_MAC)
    return _Known(index, values.unpacked(attributes[_ADDRESS]), state, None if mac is None else mac.hex(":"))


def _question(index: int, address: str, state: int = 0) -> bytes:
    family = values.SOCKET_FAMILY[values.prefix(address).family]
    return _NEIGHBOUR.pack(family, index, state, 0, 0) + netlink.attribute(_ADDRESS, values.packed(address))


def _list(family: int, index: int | None = None) -> list[_Known]:
    """What the host knows of its neighbours, or of those on one link (a kernel before 4.4 tells of all)."""
    asked = _NEIGHBOUR.pack(family, 0, 0, 0, 0)
    if index is not None:
        asked += netlink.attribute(_LINK, struct.pack("=i", index))
    return [_known(body) for _, body in listing(_GET, asked).messages]
