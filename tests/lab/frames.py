"""Packets as bytes: building what an honest kernel would not send, and reading what came."""

import struct
from dataclasses import dataclass
from ipaddress import ip_address

ETH_IPV4, ETH_ARP, ETH_VLAN, ETH_IPV6 = 0x0800, 0x0806, 0x8100, 0x86DD
ETH_EXPERIMENT = 0x88B5
"""IEEE's "local experimental" type: no firewall or stack looks into it."""

ICMP, TCP, UDP, GRE, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 47, 58, 132, 136
WITH_PORTS = {TCP, UDP, 33, SCTP, UDPLITE}
BROADCAST_MAC = "ff:ff:ff:ff:ff:ff"

TCP_FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16}


@dataclass(frozen=True)
class Seen:
    """A packet as it arrived; what it does not have is None."""

    data: bytes
    source_mac: str | None = None
    destination_mac: str | None = None
    ethertype: int | None = None
    vlan: int | None = None
    source: str | None = None
    destination: str | None = None
    protocol: int | None = None
    source_port: int | None = None
    destination_port: int | None = None

    def __repr__(self) -> str:
        ports = f" {self.source_port}->{self.destination_port}" if self.source_port is not None else ""
        return f"<Seen {self.source_mac} {self.source} -> {self.destination} protocol {self.protocol}{ports}>"


# layer 2


def mac_bytes(mac: str) -> bytes:
    """``fa:16:3e:00:00:01`` as six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(raw: bytes) -> str:
    """Six bytes as ``fa:16:3e:00:00:01``."""
    return raw.hex(":")


def ethernet(destination: str, source: str, ethertype: int, payload: bytes, *, vlan: int | None = None) -> bytes:
    """An Ethernet frame, tagged when ``vlan`` is given."""
    tag = b"" if vlan is None else struct.pack("!HH", ETH_VLAN, vlan)
    frame = mac_bytes(destination) + mac_bytes(source) + tag + struct.pack("!H", ethertype) + payload
    return frame.ljust(60, b"\0")


def arp(
    operation: int, sender_mac: str, sender_ip: str, target_ip: str, target_mac: str = "00:00:00:00:00:00"
) -> bytes:
    """An ARP request (1) or reply (2), without its Ethernet header."""
    addresses = mac_bytes(sender_mac) + packed(sender_ip) + mac_bytes(target_mac) + packed(target_ip)
    return struct.pack("!HHBBH", 1, ETH_IPV4, 6, 4, operation) + addresses


def multicast_mac(address: str) -> str:
    """The Ethernet address of a multicast or broadcast IP address."""
    raw = packed(address)
    if len(raw) == 16:
        return mac_text(b"\x33\x33" + raw[12:])
    if address.startswith(("224.", "239.")):
        return mac_text(b"\x01\x00\x5e" + bytes([raw[1] & 0x7F]) + raw[2:])
    return BROADCAST_MAC


# layer 3


def packed(address: str) -> bytes:
    """An address as 4 or 16 bytes."""
    return ip_address(address.split("%")[0]).packed


def ip(source: str, destination: str, protocol: int, payload: bytes, *, ttl: int = 64) -> bytes:
    """An IPv4 or IPv6 packet, whichever the addresses are."""
    if ":" in destination:
        return (
            struct.pack("!IHBB", 6 << 28, len(payload), protocol, ttl) + packed(source) + packed(destination) + payload
        )
    fields = (0x45, 0, 20 + len(payload), 0, 0x4000, ttl, protocol, 0, packed(source), packed(destination))
    header = bytearray(struct.pack("!BBHHHBBH4s4s", *fields))
    struct.pack_into("!H", header, 10, checksum(bytes(header)))
    return bytes(header) + payload


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(source: str, destination: str, protocol: int, length: int) -> bytes:
    """What transport checksums cover of the IP header."""
    addresses = packed(source) + packed(destination)
    return addresses + (
        struct.pack("!II", length, protocol) if len(addresses) == 32 else struct.pack("!HH", protocol, length)
    )


# layer 4: each gives the bytes after the IP header


def udp(source: str, destination: str, source_port: int, port: int, payload: bytes) -> bytes:
    """A UDP datagram."""
    return _udp_like(UDP, source, destination, source_port, port, payload, length=8 + len(payload))


def udplite(source: str, destination: str, source_port: int, port: int, payload: bytes) -> bytes:
    """A UDP-Lite datagram (RFC 3828) whose checksum covers all of it."""
    return _udp_like(UDPLITE, source, destination, source_port, port, payload, length=0)


def _udp_like(
    protocol: int, source: str, destination: str, source_port: int, port: int, payload: bytes, *, length: int
) -> bytes:
    unsummed = struct.pack("!HHHH", source_port, port, length, 0) + payload
    total = checksum(pseudo_header(source, destination, protocol, len(unsummed)) + unsummed) or 0xFFFF
    return struct.pack("!HHHH", source_port, port, length, total) + payload


def tcp(
    source: str,
    destination: str,
    source_port: int,
    port: int,
    payload: bytes,
    *,
    flags: str = "S",
    sequence: int = 1,
    acknowledgement: int = 0,
) -> bytes:
    """A TCP segment; ``flags`` are letters of FSRPA."""
    bits = sum(TCP_FLAGS[letter] for letter in flags)
    header = bytearray(
        struct.pack("!HHIIBBHHH", source_port, port, sequence, acknowledgement, 5 << 4, bits, 64240, 0, 0)
    )
    total = checksum(pseudo_header(source, destination, TCP, 20 + len(payload)) + bytes(header) + payload)
    struct.pack_into("!H", header, 16, total)
    return bytes(header) + payload


def icmp(source: str, destination: str, kind: int, code: int, payload: bytes, *, rest: int = 0) -> bytes:
    """An ICMP or ICMPv6 message, by the addresses; ``rest`` is the second word of the header."""
    unsummed = struct.pack("!BBHI", kind, code, 0, rest) + payload
    covered = unsummed
    if ":" in destination:
        covered = pseudo_header(source, destination, ICMPV6, len(unsummed)) + unsummed
    return struct.pack("!BBHI", kind, code, checksum(covered), rest) + payload


def gre(payload: bytes) -> bytes:
    """A version 0 GRE header, claiming to carry IPv4."""
    return struct.pack("!HH", 0, ETH_IPV4) + payload


def sctp_init(source_port: int, port: int, payload: bytes) -> bytes:
    """An SCTP INIT chunk, the payload in a parameter that receivers skip."""
    padded = payload + b"\0" * (-len(payload) % 4)
    parameter = struct.pack("!HH", 0xC001, 4 + len(payload)) + padded
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20 + len(parameter), 0x1234567, 65536, 1, 1, 1) + parameter
    total = crc32c(struct.pack("!HHII", source_port, port, 0, 0) + chunk)
    return struct.pack("!HHI", source_port, port, 0) + struct.pack("<I", total) + chunk


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum, which SCTP uses and connection tracking verifies."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


# reading


def read_frame(data: bytes, vlan: int | None = None) -> Seen:
    """An Ethernet frame; the kernel hands over its tag beside the bytes."""
    ethertype = int.from_bytes(data[12:14], "big")
    payload = data[14:]
    if ethertype == ETH_VLAN:
        vlan, ethertype = struct.unpack_from("!HH", payload)
        payload = payload[4:]
    inner = _read_ip(payload) if ethertype in (ETH_IPV4, ETH_IPV6) else {}
    macs = {"destination_mac": mac_text(data[:6]), "source_mac": mac_text(data[6:12])}
    tag = None if vlan is None else vlan & 0xFFF
    return Seen(data=data, ethertype=ethertype, vlan=tag, **macs, **inner)  # type: ignore[arg-type]


def read_packet(data: bytes) -> Seen:
    """An IP packet, as a raw IPv4 socket gives it."""
    return Seen(data=data, **_read_ip(data))  # type: ignore[arg-type]


def read_transport(data: bytes, protocol: int, source: str) -> Seen:
    """What follows the IP header, as a raw IPv6 socket gives it."""
    return Seen(data=data, source=source, protocol=protocol, **_read_ports(data, protocol))  # type: ignore[arg-type]


def _read_ip(packet: bytes) -> dict[str, object]:
    if len(packet) < 20:
        return {}
    if packet[0] >> 4 == 6:
        protocol, addresses, header = packet[6], packet[8:40], 40
    else:
        protocol, addresses, header = packet[9], packet[12:20], (packet[0] & 15) * 4
    half = len(addresses) // 2
    ends = {"source": str(ip_address(addresses[:half])), "destination": str(ip_address(addresses[half:]))}
    return {"protocol": protocol, **ends, **_read_ports(packet[header:], protocol)}


def _read_ports(transport: bytes, protocol: int) -> dict[str, int]:
    if protocol not in WITH_PORTS or len(transport) < 4:
        return {}
    source_port, port = struct.unpack_from("!HH", transport)
    return {"source_port": source_port, "destination_port": port}
