"""What rules of other programs say, by the bytes that the kernel has of them."""

import struct

import pytest

from nova_netagent.netfilter.foreign import Surroundings, applies, match_text, program_of, target_text
from nova_netagent.netfilter.packet import Packet
from nova_netagent.netfilter.rule import Opaque

AROUND = Surroundings(lambda address: address == "192.0.2.10", {"10.0.0.5": "br1"}.get)
PACKET = Packet("10.0.0.5", "192.0.2.10", 6, 4000, 80, in_interface="br1", mark=0x14)


def tcp(*fields: int) -> Opaque:
    return Opaque("tcp", 0, struct.pack("=HHHHBBBB", *fields))


def multiport(side: int, ports: tuple[int, ...], opens: tuple[int, ...], inverted: int = 0) -> Opaque:
    data = struct.pack("=BB", side, len(ports)) + struct.pack("=15H", *ports, *[0] * (15 - len(ports)))
    return Opaque("multiport", 1, data + bytes([*opens, *[0] * (15 - len(opens))]) + bytes([inverted]))


def iprange(flags: int) -> Opaque:
    low, high = (bytes([10, 0, 0, n]).ljust(16, b"\0") for n in (1, 9))
    return Opaque("iprange", 1, low + high + low + high + bytes([flags]))


SYN_ONLY = tcp(0, 65535, 0, 65535, 0, 0x17, 0x02, 0)


@pytest.mark.parametrize(
    ("match", "expected", "text"),
    [
        (tcp(0, 65535, 80, 80, 0, 0, 0, 0), True, "-m tcp --dport 80"),
        (tcp(0, 65535, 80, 80, 0, 0, 0, 2), False, "-m tcp ! --dport 80"),
        (tcp(1, 1024, 0, 65535, 0, 0, 0, 1), True, "-m tcp ! --sport 1:1024"),
        (SYN_ONLY, True, "-m tcp --tcp-flags FIN,SYN,RST,ACK SYN"),
        (tcp(0, 65535, 0, 65535, 0, 0x17, 0x02, 4), False, "-m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"),
        (tcp(0, 65535, 0, 65535, 7, 0, 0, 0), None, "-m tcp"),
        (Opaque("udp", 0, struct.pack("=HHHHB", 0, 65535, 53, 53, 2)), True, "-m udp ! --dport 53"),
        (multiport(1, (22, 79, 81), (0, 1, 0)), True, "-m multiport --dports 22,79:81"),
        (multiport(0, (22, 80), (0, 0)), False, "-m multiport --sports 22,80"),
        (multiport(2, (80,), (0,), 1), False, "-m multiport ! --ports 80"),
        (Opaque("mark", 1, struct.pack("=IIB", 4, 0xF, 1)), False, "-m mark ! --mark 0x4/0xf"),
        (Opaque("addrtype", 1, struct.pack("=HHI", 0, 4, 2)), False, "-m addrtype ! --dst-type LOCAL"),
        (Opaque("addrtype", 1, struct.pack("=HHI", 2, 0, 0)), True, "-m addrtype --src-type UNICAST"),
        (Opaque("pkttype", 0, struct.pack("=ii", 0, 0)), True, None),
        (Opaque("pkttype", 0, struct.pack("=ii", 2, 0)), False, None),
        (iprange(0x01), True, None),
        (iprange(0x11), False, None),
        (iprange(0x03), False, None),
        (iprange(0x22), True, None),
        (Opaque("rpfilter", 0, b"\x08"), False, "-m rpfilter --invert"),
        (Opaque("rpfilter", 0, b"\x02"), True, "-m rpfilter --validmark"),
        (Opaque("recent", 1, b"\0" * 16), None, None),
        (Opaque("mark", 1, b""), None, None),
    ],
)
def test_a_match(match: Opaque, expected: bool | None, text: str | None) -> None:
    assert applies(match, PACKET, AROUND) is expected
    assert match_text(match) == text


def test_a_spoofed_source_fails_the_reverse_path() -> None:
    elsewhere = Packet("10.0.0.5", "192.0.2.10", 17, in_interface="eth0")
    assert applies(Opaque("rpfilter", 0, b"\0"), elsewhere, AROUND) is False
    assert applies(Opaque("rpfilter", 0, b"\x01"), elsewhere, AROUND) is True


def test_a_segment_of_a_known_flow_has_no_syn() -> None:
    assert applies(SYN_ONLY, Packet("10.0.0.5", "192.0.2.10", 6, states=frozenset({"ESTABLISHED"})), AROUND) is False


def test_icmp_by_type() -> None:
    ping = Packet("10.0.0.5", "192.0.2.10", 1, icmp=(8, 0))

    def echo(*fields: int) -> Opaque:
        return Opaque("icmp", 0, bytes(fields))

    assert applies(echo(8, 0, 255, 0), ping, AROUND) is True
    assert applies(echo(8, 0, 255, 1), ping, AROUND) is False
    assert applies(echo(255, 0, 255, 0), ping, AROUND) is True
    assert applies(echo(8, 0, 255, 0), PACKET, AROUND) is False


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (Opaque("REJECT", 0, struct.pack("=I", 6)), "-j REJECT --reject-with icmp-host-prohibited"),
        (Opaque("", 0, b""), ""),
        (Opaque("MASQUERADE", 0, b""), "-j MASQUERADE"),
        (Opaque("LOG", 0, b""), "-j LOG (revision 0, not ours)"),
    ],
)
def test_a_target(target: Opaque, text: str) -> None:
    assert target_text(target, 4) == text


@pytest.mark.parametrize(
    ("chains", "program"),
    [
        (("DOCKER-USER",), "docker"),
        (("FORWARD", "LIBVIRT_FWI"), "libvirt"),
        (("IN_public",), "firewalld"),
        (("INPUT_ZONES",), "firewalld"),
        (("FORWARD", ""), None),
    ],
)
def test_whose_it_probably_is(chains: tuple[str, ...], program: str | None) -> None:
    assert program_of(*chains) == program
