"""An established TCP connection whose two ends the test holds."""

import contextlib
import socket
import struct
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from tests.lab.clients import PATIENCE, target
from tests.lab.namespace import Namespace
from tests.lab.probes import Shot, new_token

TCP_INFO = 11
TCP_INFO_SIZE = 224
UNACKNOWLEDGED_AT, SENT_AGAIN_AT, IN_VAIN_AT = 24, 100, 216
"""Where struct tcp_info has tcpi_unacked, tcpi_total_retrans, and tcpi_dsack_dups: of what was sent again, what had
arrived all the same (RFC 2883), as on a machine that is late."""


class Connection:
    """Both ends of a TCP connection, to see whether it still lives after the rules have changed."""

    def __init__(self, client: socket.socket, server: socket.socket, family: int) -> None:
        self.client = client
        self.server = server
        self.family = family
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def alive(self, within: float = 1.0) -> bool:
        """Whether bytes get through both ways; a lost segment is sent again after some 0.2 s."""
        return _passes(self.client, self.server, within) and _passes(self.server, self.client, within)

    def dead(self, within: float = 0.5) -> bool:
        """Whether bytes get through neither way, though both ends try, and try again."""
        tokens = new_token(), new_token()
        for end, token in zip((self.client, self.server), tokens, strict=True):
            with contextlib.suppress(OSError):  # reset: as dead as can be
                end.send(token)
        deadline = time.monotonic() + within
        came = _came(self.server, tokens[0], within)
        return not came and not _came(self.client, tokens[1], max(deadline - time.monotonic(), 0.01))

    @property
    def lost(self) -> int:
        """How many segments of both ends were lost."""
        return sum(tcp_info(end, SENT_AGAIN_AT) - tcp_info(end, IN_VAIN_AT) for end in (self.client, self.server))

    @property
    def from_client(self) -> "Segment":
        """The next bytes from the client, as a probe for ``arrives`` and ``refused``."""
        return Segment(self, "client")

    @property
    def from_server(self) -> "Segment":
        """The next bytes from the server, as a probe."""
        return Segment(self, "server")

    def close(self) -> None:
        """Close both ends."""
        self.client.close()
        self.server.close()


@dataclass(frozen=True)
class Segment:
    """Bytes on an established connection, as a probe."""

    connection: Connection
    end: Literal["client", "server"]

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.connection.family

    @property
    def sent_at_once(self) -> bool:
        """Whether the next bytes leave the moment they are handed over.

        Not so while earlier ones are unacknowledged: TCP then sends when *it* thinks fit, and the
        order of things proves nothing. An acknowledgement alone may take 40 ms.
        """
        deadline = time.monotonic() + 0.06
        while tcp_info(self._socket, UNACKNOWLEDGED_AT):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def towards(self, receiver: Namespace) -> Self:
        """A connection knows its way."""
        return self

    def prepare(self, sender: Namespace, token: bytes) -> Shot:
        """The result hands the token to TCP."""
        return lambda: self._socket.sendall(token)

    @property
    def _socket(self) -> socket.socket:
        return self.connection.client if self.end == "client" else self.connection.server


def connect(
    source: Namespace,
    destination: Namespace | str,
    port: int,
    *,
    family: int = 4,
    source_port: int = 0,
    server: Namespace | None = None,
    server_port: int | None = None,
    timeout: float = PATIENCE,
) -> Connection:
    """Open a connection; ``server`` and ``server_port`` say who answers when NAT is in between."""
    address, family, server = target(destination, family, server)
    if server is None:
        raise LookupError(f"who has {address}? give server=")
    server.echo.serve("tcp", family, server_port or port)
    client = source.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(timeout)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.bind(("", source_port))
    client.connect((address, port))
    token = new_token()
    client.sendall(token)
    if client.recv(1024) != token:
        raise ConnectionError(f"{address}:{port} did not answer with what it was sent")
    return Connection(client, server.echo.take_over(token), family)


def tcp_info(end: socket.socket, at: int) -> int:
    """A number of a connection's end, by where it stands (linux/tcp.h)."""
    information = end.getsockopt(socket.IPPROTO_TCP, TCP_INFO, TCP_INFO_SIZE)
    return int(struct.unpack_from("=I", information, at)[0])


def _passes(sending: socket.socket, receiving: socket.socket, within: float) -> bool:
    token = new_token()
    with contextlib.suppress(OSError):
        sending.sendall(token)
        return _came(receiving, token, within)
    return False


def _came(receiving: socket.socket, token: bytes, within: float) -> bool:
    deadline = time.monotonic() + within
    received = b""
    while token not in received:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        receiving.settimeout(left)
        try:
            more = receiving.recv(65536)
        except OSError:  # too late, or reset
            return False
        if not more:
            return False
        received += more
    return True
