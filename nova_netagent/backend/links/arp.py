"""Gratuitous ARP: tell the neighbours of a new address without waiting for anybody.

nova ran arping(8), which blocked a second for each repetition. Here the first
announcement goes out at once and the others when their time comes (RFC 5227, section 3:
a sender announces an address by an ARP request for itself).
"""

import socket
import struct
from collections.abc import Callable
from contextlib import suppress

_ETH_P_ARP = 0x0806
_BROADCAST = b"\xff" * 6
_SPACING = 1.0
"""Seconds between two announcements, as arping has it."""


def announcement(mac: str, address: str) -> bytes:
    """The Ethernet frame by which ``mac`` claims an IPv4 address."""
    sender = bytes.fromhex(mac.replace(":", ""))
    own = socket.inet_aton(address)
    header = _BROADCAST + sender + struct.pack("!H", _ETH_P_ARP)
    return header + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + sender + own + bytes(6) + own


class Announcer:
    """Announcements that are due, by time; each says what is true when it is sent.

    An address may have gone to another host by then, or its bridge have got another MAC.

    :param clock: seconds of a clock that does not jump.
    :param holder: the MAC of an interface as long as it has an address (with its prefix length).
    """

    def __init__(self, clock: Callable[[], float], holder: Callable[[str, str], str | None]) -> None:
        self._clock = clock
        self._holder = holder
        self._due: list[tuple[float, str, str]] = []

    def announce(self, interface: str, cidr: str, count: int) -> None:
        """Plan ``count`` announcements instead of those that are still due, the first at once."""
        now = self._clock()
        self._due = [each for each in self._due if each[1:] != (interface, cidr)]
        self._due += [(now + number * _SPACING, interface, cidr) for number in range(count)]
        self.send_due()

    def next_due(self) -> float | None:
        """When the next one is due, by the clock."""
        return min((when for when, _, _ in self._due), default=None)

    def send_due(self) -> None:
        """Send what is due and still true."""
        now = self._clock()
        due = [each for each in self._due if each[0] <= now]
        self._due = [each for each in self._due if each[0] > now]
        for _, interface, cidr in due:
            mac = self._holder(interface, cidr)
            if mac is not None:
                _send(interface, announcement(mac, cidr.partition("/")[0]))


def _send(interface: str, frame: bytes) -> None:
    """Send a frame, unless the interface is gone."""
    with suppress(OSError), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((interface, 0))
        sender.send(frame)
