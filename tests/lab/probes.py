"""One packet of any kind, to be sent from a namespace and recognised where it arrives.

A probe is a value: what to send and, with ``to``, whither; without ``to`` it goes to the
address of the receiver. ``prepare`` opens and builds all that is needed, so that calling its
result does one thing: send. The packet holds a token that occurs in no other packet.
"""

import contextlib
import os
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Protocol, Self

from tests.lab import frames
from tests.lab.namespace import Namespace

Shot = Callable[[], None]

SO_BINDTODEVICE = 25


class Probe(Protocol):
    """Anything that can put one recognisable packet on its way."""

    def towards(self, receiver: Namespace) -> Self:
        """The same probe, addressed to ``receiver`` if it was addressed to nobody."""

    def prepare(self, sender: Namespace, token: bytes) -> Shot:
        """Make everything ready; the result sends the packet."""


def new_token() -> bytes:
    """Bytes that occur in no other packet."""
    return b"LAB" + os.urandom(9)


def new_port() -> int:
    """A source port below those that the kernel gives to others."""
    return random.randint(20000, 31999)


@dataclass(frozen=True, kw_only=True)
class IpProbe:
    """An IP packet sent by the kernel, with its own routing, source address and neighbour discovery.

    ``family`` chooses between the receiver's addresses when ``to`` does not say. Broadcast and
    multicast go out by ``device``.
    """

    to: str | None = None
    family: int = 4
    device: str = "eth0"

    @property
    def protocol(self) -> int:
        """The number in the IP header."""
        raise NotImplementedError

    def transport(self, source: str, destination: str, token: bytes) -> bytes:
        """What follows the IP header."""
        raise NotImplementedError

    def towards(self, receiver: Namespace) -> Self:
        """Addressed to ``receiver`` if it was addressed to nobody."""
        if self.to is not None:
            return replace(self, family=6 if ":" in self.to else 4)
        return replace(self, to=receiver.ip(self.family))

    def prepare(self, sender: Namespace, token: bytes) -> Shot:
        """Open a raw socket in the sender's namespace and build the packet."""
        if self.to is None:
            raise ValueError(f"{self} is addressed to nobody")
        destination = self.to
        opened, source, scope = sender.call(_open_raw, self, destination)
        packet = self.transport(source, destination, token)
        address = (destination, 0, 0, scope) if self.family == 6 else (destination, 0)

        def shoot() -> None:
            with opened:
                _send(opened, packet, address)

        return shoot


_ADVERTISEMENT = 136


@dataclass(frozen=True)
class Tcp(IpProbe):
    """One TCP segment, by default the SYN of a connection that nobody will finish."""

    port: int
    source_port: int | None = None
    flags: str = "S"

    @property
    def protocol(self) -> int:
        """The number in the IP header."""
        return frames.TCP

    def transport(self, source: str, destination: str, token: bytes) -> bytes:
        """The segment, the token its payload."""
        source_port = self.source_port or new_port()
        return frames.tcp(source, destination, source_port, self.port, token, flags=self.flags)


@dataclass(frozen=True)
class Udp(IpProbe):
    """One UDP datagram, also to a broadcast or multicast address."""

    port: int
    source_port: int | None = None

    @property
    def protocol(self) -> int:
        """The number in the IP header."""
        return frames.UDP

    def transport(self, source: str, destination: str, token: bytes) -> bytes:
        """The datagram."""
        return frames.udp(source, destination, self.source_port or new_port(), self.port, token)


@dataclass(frozen=True)
class UdpLite(Udp):
    """One UDP-Lite datagram (protocol 136)."""

    @property
    def protocol(self) -> int:
        """The number in the IP header."""
        return frames.UDPLITE

    def transport(self, source: str, destination: str, token: bytes) -> bytes:
        """The datagram."""
        return frames.udplite(source, destination, self.source_port or new_port(), self.port, token)


@dataclass(frozen=True)
class Sctp(IpProbe):
    """The INIT of an SCTP association (protocol 132)."""

    port: int
    source_port: int | None = None

    @property
    def protocol(self) -> int:
        """The number in the IP header."""
        return frames.SCTP

    def transport(self, source: str, destination: str, token: bytes) -> bytes:
        """The INIT chunk, the token in a parameter that receivers skip."""
        return frames.sctp_init(self.source_port or new_port(), self.port, token)


@dataclass(frozen=True)
class Icmp(IpProbe):
    """An ICMP or ICMPv6 message, by default an echo request."""

    kind: int | None = None
    code: int = 0
    rest: int = 0x4C410001

    @property
    def protocol(self) -> int:
        """The number in the IP header."""
        return frames.ICMPV6 if self.family == 6 else frames.ICMP

    def transport(self, source: str, destination: str, token: bytes) -> bytes:
        """The message, the token its payload; who advertises himself as a neighbour names himself."""
        echo_request = 128 if ":" in destination else 8
        kind = echo_request if self.kind is None else self.kind
        target = socket.inet_pton(socket.AF_INET6, source) if kind == _ADVERTISEMENT and ":" in source else b""
        return frames.icmp(source, destination, kind, self.code, target + token, rest=self.rest)


@dataclass(frozen=True)
class Ip(IpProbe):
    """A packet of any protocol; ``header`` comes before the token."""

    number: int
    header: bytes = b""

    @property
    def protocol(self) -> int:
        """The number in the IP header."""
        return self.number

    def transport(self, source: str, destination: str, token: bytes) -> bytes:
        """The given bytes and the token."""
        return self.header + token


@dataclass(frozen=True)
class Gre(IpProbe):
    """A GRE packet (protocol 47)."""

    @property
    def protocol(self) -> int:
        """The number in the IP header."""
        return frames.GRE

    def transport(self, source: str, destination: str, token: bytes) -> bytes:
        """The GRE header and the token."""
        return frames.gre(token)


@dataclass(frozen=True)
class Frame:
    """An Ethernet frame of any content, sent past the sender's own stack.

    ``build`` is given the token and puts it where it is not cut off: in the payload of an IP
    packet, behind the body of an ARP message.
    """

    build: Callable[[bytes], bytes]
    device: str = "eth0"
    family: int = 4

    def towards(self, receiver: Namespace) -> Self:
        """A frame says itself whither it goes."""
        return self

    def prepare(self, sender: Namespace, token: bytes) -> Shot:
        """Build the frame; the result sends it."""
        frame, wire = self.build(token), sender.wire(self.device)
        return lambda: wire.send(frame)


@dataclass(frozen=True)
class Forged:
    """An IP probe put into a frame by hand: with another source address, source MAC or a VLAN tag.

    ``via`` is the MAC of the next hop: the receiver's by default, for those on one bridge.
    """

    probe: IpProbe
    source: str | None = None
    source_mac: str | None = None
    via: str | None = None
    vlan: int | None = None
    device: str = "eth0"

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.probe.family

    def towards(self, receiver: Namespace) -> Self:
        """Addressed to ``receiver`` if it was addressed to nobody."""
        probe = self.probe.towards(receiver)
        group = probe.to is not None and not is_unicast(probe.to)
        via = frames.multicast_mac(str(probe.to)) if group else receiver.mac
        return replace(self, probe=probe, via=self.via or via)

    def prepare(self, sender: Namespace, token: bytes) -> Shot:
        """Build the frame; the result sends it."""
        destination = str(self.probe.to)
        source = self.source or sender.ip(self.family)
        transport = self.probe.transport(source, destination, token)
        packet = frames.ip(source, destination, self.probe.protocol, transport)
        ethertype = frames.ETH_IPV6 if self.family == 6 else frames.ETH_IPV4
        source_mac = self.source_mac or sender.links.mac(self.device)
        if not self.via:
            raise ValueError(f"{self} lacks the MAC of its next hop")
        frame = frames.ethernet(self.via, source_mac, ethertype, packet, vlan=self.vlan)
        wire = sender.wire(self.device)
        return lambda: wire.send(frame)


def arp_request(
    sender: Namespace, *, wanted: str, claimed: str | None = None, source_mac: str | None = None, device: str = "eth0"
) -> Frame:
    """The frame that asks for the MAC of ``wanted``, maybe claiming another's address or MAC."""
    mac = source_mac or sender.links.mac(device)
    body = frames.arp(1, mac, claimed or sender.ip4, wanted)
    return Frame(lambda token: frames.ethernet(frames.BROADCAST_MAC, mac, frames.ETH_ARP, body + token), device)


def is_unicast(address: str) -> bool:
    """Neither multicast nor the broadcast to all; a subnet's own broadcast address cannot be told."""
    known = ip_address(address.split("%")[0])
    return not known.is_multicast and str(known) != "255.255.255.255"


def _open_raw(probe: IpProbe, destination: str) -> tuple[socket.socket, str, int]:
    """In the sender's namespace: a raw socket, the source address to use, the scope of the destination."""
    family = socket.AF_INET6 if probe.family == 6 else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_RAW, probe.protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    scope = 0
    if not is_unicast(destination) or destination.lower().startswith("fe80:"):
        opened.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, probe.device.encode())
        scope = socket.if_nametoindex(probe.device) if probe.family == 6 else 0
    return opened, _source(opened, family, destination, scope), scope


def _source(opened: socket.socket, family: int, destination: str, scope: int) -> str:
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        device = opened.getsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, 16).rstrip(b"\0")
        if device:
            asking.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, device)
        asking.connect((destination, 9, 0, scope) if family == socket.AF_INET6 else (destination, 9))
        return str(asking.getsockname()[0]).split("%")[0]


def _send(opened: socket.socket, packet: bytes, address: tuple[str | int, ...]) -> None:
    with contextlib.suppress(PermissionError):  # dropped by the sender's own OUTPUT chain: one way of not arriving
        opened.sendto(packet, address)
