"""Gratuitous ARP: tell the neighbours of a new address without waiting for anybody.

nova ran arping(8), which blocked a second for each repetition. Here the first
announcement goes out at once and the others when their time comes (RFC 5227, section 3:
a sender announces an address by an ARP request for itself).
"""

import socket
import struct
from collections.abc import Callable

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
    """Announcements that are due, by time.

    :param clock: seconds of a clock that does not jump.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due: list[tuple[float, str, bytes]] = []

    def announce(self, interface: str, mac: str, address: str, count: int) -> None:
        """Plan ``count`` announcements, the first at once."""
        frame = announcement(mac, address)
        now = self._clock()
        self._due += [(now + number * _SPACING, interface, frame) for number in range(count)]
        self.send_due()

    def next_due(self) -> float | None:
        """When the next one is due, by the clock."""
        return min((when for when, _, _ in self._due), default=None)

    def send_due(self) -> None:
        """Send what is due; an interface that is gone is skipped."""
        now = self._clock()
        due = [each for each in self._due if each[0] <= now]
        self._due = [each for each in self._due if each[0] > now]
        for _, interface, frame in due:
            try:
                with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
                    sender.bind((interface, 0))
                    sender.send(frame)
            except OSError:
                continue
