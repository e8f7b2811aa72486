"""Packets told from their headers."""

import socket
import struct

import pytest

from nova_netagent.netfilter.headers import head_of
from nova_netagent.netfilter.packet import Packet

ENDS = socket.inet_pton(socket.AF_INET6, "fd00::1") + socket.inet_pton(socket.AF_INET6, "fd00::2")


def six(next_header: int, rest: bytes) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(rest), next_header, 64) + ENDS + rest


def told(data: bytes) -> Packet:
    found = head_of(data)
    assert found is not None
    return found.packet


def test_over_ipv6() -> None:
    packet = told(six(17, struct.pack(">HHHH", 1, 53, 8, 0)))
    assert (packet.source, packet.destination, packet.protocol) == ("fd00::1", "fd00::2", 17)
    assert (packet.source_port, packet.destination_port) == (1, 53)


def test_options_come_before_what_is_meant() -> None:
    report = told(six(0, bytes((60, 0)) + bytes(6) + bytes((58, 1)) + bytes(14) + bytes((143, 0, 0, 0))))
    assert (report.protocol, report.icmp) == (58, (143, 0))


def test_options_that_are_cut_off() -> None:
    assert told(six(0, bytes((58, 9)) + bytes(6))).icmp is None


@pytest.mark.parametrize("data", [b"", bytes(19), b"\x60" + bytes(30)])
def test_what_is_too_short_is_nothing(data: bytes) -> None:
    assert head_of(data) is None
