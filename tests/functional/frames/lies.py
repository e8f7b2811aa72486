"""Frames by which an instance lies, and their honest counterparts, on whatever bridge there is."""

import struct
from collections.abc import Callable
from typing import Protocol

from tests.lab import Forged, Frame, Icmp, Namespace, Udp, arp_request, frames
from tests.lab.frames import BROADCAST_MAC, ETH_ARP, ETH_IPV4, ETH_IPV6, ETH_VLAN, arp, ethernet, mac_bytes

RARP, ETH_8021AD, PPPOE_DISCOVERY, PPPOE, LLDP, EXPERIMENT = 0x8035, 0x88A8, 0x8863, 0x8864, 0x88CC, 0x88B5
UNKNOWN_MAC = "02:00:00:00:00:99"


class Cast(Protocol):
    """Who plays: vm1 lies, vm2 hears it, and vm3 is whom it is said to come from."""

    vm1: Namespace
    vm2: Namespace
    vm3: Namespace
    gateway4: str
    gateway6: str


Liar = Callable[[Cast], Frame | Forged]


def of_arp(body: bytes, source_mac: str, to: str = BROADCAST_MAC, ethertype: int = ETH_ARP) -> Frame:
    return Frame(lambda token: ethernet(to, source_mac, ethertype, body + token))


def arp_header(
    site: Cast,
    hardware: int = 1,
    protocol: int = ETH_IPV4,
    sizes: tuple[int, int] = (6, 4),
    operation: int = 1,
    sender: str | None = None,
) -> Frame:
    """A request of vm1 for vm2, but for its header."""
    honest = arp(1, site.vm1.mac, sender or site.vm1.ip4, site.vm2.ip4)
    return of_arp(struct.pack("!HHBBH", hardware, protocol, *sizes, operation) + honest[8:], site.vm1.mac)


def of_type(site: Cast, ethertype: int, payload: bytes = b"", to: str = BROADCAST_MAC) -> Frame:
    return Frame(lambda token: ethernet(to, site.vm1.mac, ethertype, payload + token))


def inner_packet(site: Cast, token: bytes) -> bytes:
    """An IPv4 datagram of vm1's to everybody."""
    return frames.ip(site.vm1.ip4, "255.255.255.255", 17, frames.udp(site.vm1.ip4, "255.255.255.255", 999, 999, token))


def tagged(site: Cast, *tags: tuple[int, int], to: str = BROADCAST_MAC) -> Frame:
    """vm1's own datagram behind VLAN tags, each an ethertype and a number."""

    def build(token: bytes) -> bytes:
        inner = struct.pack("!H", ETH_IPV4) + inner_packet(site, token)
        for ethertype, vlan in reversed(tags):
            inner = struct.pack("!HH", ethertype, vlan) + inner
        return (mac_bytes(to) + mac_bytes(site.vm1.mac) + inner).ljust(60, b"\0")

    return Frame(build)


def snap(site: Cast) -> Frame:
    """vm1's own datagram by IEEE 802.3 with LLC and SNAP (RFC 1042)."""

    def build(token: bytes) -> bytes:
        body = bytes.fromhex("aaaa030000000800") + inner_packet(site, token)
        return ethernet(BROADCAST_MAC, site.vm1.mac, len(body), body)

    return Frame(build)


def bpdu(site: Cast, to: str) -> Frame:
    """A BPDU by which vm1 would become the root of the spanning tree."""
    return Frame(lambda token: ethernet(to, site.vm1.mac, 38, bytes.fromhex("424203") + bytes(35) + token))


def advertisement(
    site: Cast, target: str, before: bytes = b"", next_header: int = 58, *, source: str | None = None
) -> Frame:
    """A neighbour advertisement of vm1's, by default from its own address, about a target."""
    said_by = source or site.vm1.ip6

    def build(token: bytes) -> bytes:
        options = bytes.fromhex("0201") + mac_bytes(site.vm1.mac)
        everybody = "ff02::1"
        message = frames.icmp(said_by, everybody, 136, 0, frames.packed(target) + options + token, rest=0x20)
        packet = frames.ip(said_by, everybody, next_header, before + message, ttl=255)
        return ethernet("33:33:00:00:00:01", site.vm1.mac, ETH_IPV6, packet)

    return Frame(build)


def rarp(site: Cast, mac: str, source_mac: str, operation: int = 3, address: str = "0.0.0.0") -> Frame:
    """What QEMU sends after a migration, when mac is the vif's own."""
    body = struct.pack("!HHBBH", 1, ETH_IPV4, 6, 4, operation) + mac_bytes(mac) + frames.packed(address)
    return of_arp(body + mac_bytes(mac) + bytes(4), source_mac, ethertype=RARP)


LIES: dict[str, Liar] = {
    "ARP request as a neighbour": lambda s: arp_request(s.vm1, wanted=s.vm2.ip4, claimed=s.vm3.ip4),
    "ARP request as the gateway": lambda s: arp_request(s.vm1, wanted=s.vm2.ip4, claimed=s.gateway4),
    "ARP request from another MAC": lambda s: arp_request(s.vm1, wanted=s.vm2.ip4, source_mac=s.vm3.mac),
    "ARP reply as a neighbour": lambda s: of_arp(arp(2, s.vm1.mac, s.vm3.ip4, s.vm2.ip4, s.vm2.mac), s.vm1.mac),
    "gratuitous ARP as the gateway": lambda s: of_arp(arp(2, s.vm1.mac, s.gateway4, s.gateway4), s.vm1.mac),
    "ARP that gives its address another MAC": lambda s: of_arp(arp(1, s.vm3.mac, s.vm1.ip4, s.vm2.ip4), s.vm1.mac),
    "ARP about a neighbour's MAC and address": lambda s: of_arp(arp(1, s.vm3.mac, s.vm3.ip4, s.vm2.ip4), s.vm1.mac),
    "ARP whose frame has another MAC": lambda s: of_arp(arp(1, s.vm1.mac, s.vm1.ip4, s.vm2.ip4), s.vm3.mac),
    "ARP probe from another MAC": lambda s: of_arp(arp(1, s.vm3.mac, "0.0.0.0", s.vm2.ip4), s.vm1.mac),
    "ARP reply from nobody": lambda s: of_arp(arp(2, s.vm1.mac, "0.0.0.0", s.vm2.ip4), s.vm1.mac),
    "ARP of other hardware": lambda s: arp_header(s, hardware=6),
    "ARP about another protocol": lambda s: arp_header(s, protocol=ETH_IPV6),
    "ARP with long MACs": lambda s: arp_header(s, sizes=(8, 4)),
    "ARP with long addresses": lambda s: arp_header(s, sizes=(6, 16)),
    "ARP of the operation 0": lambda s: arp_header(s, operation=0),
    "RARP in ARP's ethertype": lambda s: arp_header(s, operation=3),
    "InARP": lambda s: arp_header(s, operation=8),
    "ARP probe of other hardware": lambda s: arp_header(s, hardware=6, sender="0.0.0.0"),
    "ARP probe about another protocol": lambda s: arp_header(s, protocol=ETH_IPV6, sender="0.0.0.0"),
    "ARP probe with long addresses": lambda s: arp_header(s, sizes=(6, 16), sender="0.0.0.0"),
    "RARP about a neighbour": lambda s: rarp(s, s.vm3.mac, s.vm1.mac),
    "RARP as a neighbour": lambda s: rarp(s, s.vm3.mac, s.vm3.mac),
    "RARP reply": lambda s: rarp(s, s.vm1.mac, s.vm1.mac, operation=4),
    "RARP with an address": lambda s: rarp(s, s.vm1.mac, s.vm1.mac, address=s.vm3.ip4),
    "IPv4 from another MAC": lambda s: Forged(Udp(999, to="255.255.255.255"), source_mac=s.vm3.mac),
    "IPv4 from a MAC of nobody": lambda s: Forged(Udp(999, to="255.255.255.255"), source_mac=UNKNOWN_MAC),
    "IPv6 from another MAC": lambda s: Forged(Icmp(to="ff02::1"), source_mac=s.vm3.mac, source=s.vm1.ip6),
    "advertises a neighbour's address": lambda s: advertisement(s, s.vm3.ip6),
    "advertises the gateway's address": lambda s: advertisement(s, s.gateway6),
    "advertises behind another header": lambda s: advertisement(s, s.vm3.ip6, bytes([58, 0, 1, 4, 0, 0, 0, 0]), 60),
    "VLAN 7": lambda s: tagged(s, (ETH_VLAN, 7)),
    "VLAN 0, a priority": lambda s: tagged(s, (ETH_VLAN, 0)),
    "VLAN 0 with a priority": lambda s: tagged(s, (ETH_VLAN, 5 << 13)),
    "VLAN 7 of 802.1ad": lambda s: tagged(s, (ETH_8021AD, 7)),
    "VLAN 0 of 802.1ad": lambda s: tagged(s, (ETH_8021AD, 0)),
    "VLAN in VLAN": lambda s: tagged(s, (ETH_8021AD, 7), (ETH_VLAN, 8)),
    "VLAN 0 in VLAN 0": lambda s: tagged(s, (ETH_VLAN, 0), (ETH_VLAN, 0)),
    "PPPoE discovery": lambda s: of_type(s, PPPOE_DISCOVERY, bytes.fromhex("110900000000")),
    "PPPoE": lambda s: of_type(s, PPPOE, bytes.fromhex("1100000100160021") + inner_packet(s, b"")),
    "802.3 with SNAP": snap,
    "a BPDU to everybody": lambda s: bpdu(s, BROADCAST_MAC),
    "LLDP to everybody": lambda s: of_type(s, LLDP),
    "an unknown ethertype": lambda s: of_type(s, EXPERIMENT),
    "MPLS": lambda s: of_type(s, 0x8847, bytes.fromhex("000011ff") + inner_packet(s, b"")),
    "an ethertype of 1500": lambda s: of_type(s, 1500),
    "an ethertype of 1535": lambda s: of_type(s, 0x05FF),
}

CONTROL = "ARP request"
HONEST: dict[str, Liar] = {
    CONTROL: lambda s: arp_request(s.vm1, wanted=s.vm2.ip4),
    "ARP reply": lambda s: of_arp(arp(2, s.vm1.mac, s.vm1.ip4, s.vm2.ip4, s.vm2.mac), s.vm1.mac),
    "gratuitous ARP": lambda s: of_arp(arp(1, s.vm1.mac, s.vm1.ip4, s.vm1.ip4), s.vm1.mac),
    "ARP probe": lambda s: of_arp(arp(1, s.vm1.mac, "0.0.0.0", s.vm1.ip4), s.vm1.mac),
    "RARP": lambda s: rarp(s, s.vm1.mac, s.vm1.mac),
    "IPv4": lambda s: Forged(Udp(999, to="255.255.255.255")),
    "IPv6": lambda s: Forged(Icmp(to="ff02::1"), source=s.vm1.ip6),
    "IPv6 that looks like an advertisement": lambda s: Forged(
        Udp(999, source_port=136 << 8, to="ff02::1"), source=s.vm1.ip6
    ),
    "advertises its address": lambda s: advertisement(s, s.vm1.ip6),
    "advertises its link-local address": lambda s: advertisement(s, link_local(s.vm1)),
    "advertises behind another header": lambda s: advertisement(s, s.vm1.ip6, bytes([58, 0, 1, 4, 0, 0, 0, 0]), 60),
}


def link_local(machine: Namespace) -> str:
    octets = mac_bytes(machine.mac)
    return f"fe80::{octets[0] ^ 2:x}{octets[1]:02x}:{octets[2]:x}ff:fe{octets[3]:02x}:{octets[4]:x}{octets[5]:02x}"
