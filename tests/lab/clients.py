"""Conversations: TCP, UDP and ping, with an answer from the other side."""

import ipaddress
import os
import socket
import struct
import time
from dataclasses import dataclass

from tests.lab import frames
from tests.lab.namespace import Namespace, holder_of
from tests.lab.probes import new_token
from tests.lab.syscalls import readable

PATIENCE = 4.0
"""Seconds for an answer that must come: a lost ARP request is sent again after one, a SYN after one and three."""

ADDRESS_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True)
class Answer:
    """How a conversation went; true when the right answer came back.

    ``seen_as`` is the client's address and port as the server saw them.
    """

    answered: bool
    reason: str = ""
    seen_as: tuple[str, int] | None = None

    def __bool__(self) -> bool:
        return self.answered


def target(destination: Namespace | str, family: int, server: Namespace | None) -> tuple[str, int, Namespace | None]:
    """The address to write to, its family, and the namespace that is to answer."""
    if isinstance(destination, Namespace):
        return destination.ip(family), family, server or destination
    version = ipaddress.ip_address(destination.split("%")[0]).version
    return destination, version, server or holder_of(destination)


def tcp(
    source: Namespace,
    destination: Namespace | str,
    port: int,
    *,
    family: int = 4,
    source_port: int = 0,
    server: Namespace | None = None,
    server_port: int | None = None,
    timeout: float = PATIENCE,
) -> Answer:
    """Connect, send, and have it sent back.

    Whoever has the address answers; when NAT is in between, ``server`` (and ``server_port``)
    must say who. A SYN that is dropped is repeated after one second, within the default time.
    """
    address, family, server = target(destination, family, server)
    if server is not None:
        server.echo.serve("tcp", family, server_port or port)
    client = source.socket(ADDRESS_FAMILIES[family], socket.SOCK_STREAM)
    client.settimeout(timeout)
    return _converse(client, (address, port), source_port=source_port, server=server)


def udp(
    source: Namespace,
    destination: Namespace | str,
    port: int,
    *,
    family: int = 4,
    source_port: int = 0,
    server: Namespace | None = None,
    server_port: int | None = None,
    timeout: float = PATIENCE,
) -> Answer:
    """Send a datagram and have it sent back."""
    address, family, server = target(destination, family, server)
    if server is not None:
        server.echo.serve("udp", family, server_port or port)
    client = source.socket(ADDRESS_FAMILIES[family], socket.SOCK_DGRAM)
    client.settimeout(timeout)
    return _converse(client, (address, port), source_port=source_port, server=server)


def _converse(client: socket.socket, address: tuple[str, int], *, source_port: int, server: Namespace | None) -> Answer:
    token = new_token()
    with client:
        try:
            _bind(client, source_port)
            client.connect(address)
            came_back = _asked(client, token)
        except OSError as error:
            return Answer(False, "timed out" if isinstance(error, TimeoutError) else os.strerror(error.errno or 0))
    if came_back != token:
        return Answer(False, f"another answer: {came_back!r}")
    return Answer(True, seen_as=server.echo.sender_of(token) if server else None)


def _asked(client: socket.socket, token: bytes) -> bytes:
    """What comes back; a datagram is sent once more half-way, as whoever asks by UDP does."""
    client.send(token)
    if client.type == socket.SOCK_STREAM:
        return client.recv(1024)
    patience = client.gettimeout() or 0.0
    client.settimeout(patience / 2)
    try:
        return client.recv(1024)
    except TimeoutError:
        client.send(token)
        return client.recv(1024)


def _bind(client: socket.socket, source_port: int) -> None:
    if source_port:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if client.type == socket.SOCK_STREAM:
            # Closed by a reset, so that the port can be used for the same destination again at once.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.bind(("", source_port))


def ping(source: Namespace, destination: Namespace | str, *, family: int = 4, timeout: float = PATIENCE) -> Answer:
    """Send an echo request and wait for the reply of the other side's kernel."""
    address, family, _ = target(destination, family, None)
    with open_ping(source, family) as client:
        token, identifier = new_token(), os.urandom(4)
        client.sendto(echo_request(family, identifier, token), (address, 0))
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if readable(client, left) and is_reply(family, client.recv(65536), identifier, token):
                return Answer(True)
    return Answer(False, "timed out")


def open_ping(source: Namespace, family: int) -> socket.socket:
    """A raw socket for echo requests and replies."""
    if family == 6:
        return source.socket(socket.AF_INET6, socket.SOCK_RAW, frames.ICMPV6)
    return source.socket(socket.AF_INET, socket.SOCK_RAW, frames.ICMP)


def echo_request(family: int, rest: bytes, payload: bytes) -> bytes:
    """An echo request; ``rest`` is identifier and sequence. The kernel sums up ICMPv6 itself."""
    message = struct.pack("!BBH", 128 if family == 6 else 8, 0, 0) + rest + payload
    if family == 6:
        return message
    return message[:2] + struct.pack("!H", frames.checksum(message)) + message[4:]


def is_reply(family: int, packet: bytes, rest: bytes, payload: bytes) -> bool:
    """Whether a packet from such a socket is the reply to that request."""
    message = packet if family == 6 else packet[(packet[0] & 15) * 4 :]
    return message[0] == (129 if family == 6 else 0) and message[4:] == rest + payload
