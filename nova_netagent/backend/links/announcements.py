"""Tell the neighbours of a new address, without waiting for anybody: gratuitous ARP, and its like in IPv6.

nova ran arping(8), which blocked a second for each repetition. Here the first
announcement goes out at once and the others when their time comes (RFC 5227, section 3:
a sender announces an address by an ARP request for itself; RFC 4861, section 7.2.6: it
advertises itself to all nodes, unsolicited). The kernel would advertise an IPv6 address when
its link gets another MAC (ip-sysctl, ndisc_notify), but not one that is new on its link.
"""

import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from nova_netagent.model.protocols import ICMPV6

_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_BROADCAST = b"\xff" * 6
_ALL_NODES = socket.inet_pton(socket.AF_INET6, "ff02::1")
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ADVERTISEMENT = 136
_ROUTER, _OVERRIDE = 1 << 31, 1 << 29
_TARGET_MAC = 2
_SPACING = 1.0
"""Seconds between two announcements, as arping has it; also RETRANS_TIMER of RFC 4861."""


def announcement(mac: str, address: str) -> bytes:
    """The Ethernet frame by which ``mac`` claims an address."""
    sender = bytes.fromhex(mac.replace(":", ""))
    return _advertisement(sender, address) if ":" in address else _gratuitous_arp(sender, address)


def _gratuitous_arp(sender: bytes, address: str) -> bytes:
    own = socket.inet_aton(address)
    header = _BROADCAST + sender + struct.pack("!H", _ETH_P_ARP)
    return header + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + sender + own + bytes(6) + own


def _advertisement(sender: bytes, address: str) -> bytes:
    """An unsolicited neighbour advertisement of a gateway's: without its flag of a router it would be none any more."""
    own = socket.inet_pton(socket.AF_INET6, address)
    what = own + struct.pack("!BB", _TARGET_MAC, 1) + sender
    about = own + _ALL_NODES + struct.pack("!II", 8 + len(what), ICMPV6)
    unsummed = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _ROUTER | _OVERRIDE) + what
    summed = unsummed[:2] + struct.pack("!H", _checksum(about + unsummed)) + unsummed[4:]
    header = struct.pack("!IHBB", 6 << 28, len(summed), ICMPV6, 255) + own + _ALL_NODES
    return _ALL_NODES_MAC + sender + struct.pack("!H", _ETH_P_IPV6) + header + summed


def _checksum(data: bytes) -> int:
    """The Internet checksum of an even number of bytes (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


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
