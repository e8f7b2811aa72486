"""Conversations that are under way when something is revoked, in both transports."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tests.lab import Connection, Namespace, connect
from tests.lab.clients import ADDRESS_FAMILIES, target
from tests.lab.probes import new_token

SILENCE = 0.25
"""Seconds after which nothing is believed to come: a lost segment is sent again after 0.2."""

End = Literal["client", "server"]


@dataclass(frozen=True)
class Datagrams:
    """A client that goes on writing from one port, and the echo that answers it."""

    client: socket.socket

    def alive(self, within: float = 1.0) -> bool:
        """Whether an answer comes to what is written now."""
        token = new_token()
        self.client.settimeout(within)
        try:
            self.client.send(token)
            while self.client.recv(1024) != token:
                pass
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class Talk:
    """Conversations of one pair: one in UDP, and two in TCP to see either end speak first after a cut."""

    datagrams: Datagrams
    connections: tuple[Connection, Connection]

    def lives(self) -> bool:
        """Whether all of them go on."""
        return self.datagrams.alive() and all(each.alive() for each in self.connections)

    def is_dead(self) -> bool:
        """Whether none goes on, whichever end speaks first and then the other."""
        return self.is_cut() and not self.datagrams.alive(SILENCE)

    def is_cut(self) -> bool:
        """Whether the connections do not go on; what a client sends in UDP may be allowed as new."""
        orders: tuple[tuple[End, End], ...] = (("client", "server"), ("server", "client"))
        dead = [_is_dead(each, *order) for each, order in zip(self.connections, orders, strict=True)]
        return all(dead)


def _is_dead(connection: Connection, first: End, second: End) -> bool:
    return not _gets_through(connection, first) and not _gets_through(connection, second)


def _gets_through(connection: Connection, end: End) -> bool:
    speaks, hears = connection.client, connection.server
    if end == "server":
        speaks, hears = hears, speaks
    token = new_token()
    with contextlib.suppress(OSError):  # reset: as dead as can be
        speaks.send(token)
        hears.settimeout(SILENCE)
        return token in hears.recv(65536)
    return False


@contextlib.contextmanager
def talking(
    client: Namespace,
    server: Namespace,
    port: int = 80,
    family: int = 4,
    to: str | None = None,
) -> Iterator[Talk]:
    """Have conversations under way; ``to`` is the address to write to when it is not the server's own."""
    address, family, _ = target(to or server, family, server)
    with contextlib.ExitStack() as stack:
        server.echo.serve("udp", family, port)
        datagrams = stack.enter_context(client.socket(ADDRESS_FAMILIES[family], socket.SOCK_DGRAM))
        datagrams.connect((address, port))
        talk = Talk(
            Datagrams(datagrams),
            (
                stack.enter_context(connect(client, address, port, server=server)),
                stack.enter_context(connect(client, address, port, server=server)),
            ),
        )
        assert talk.datagrams.alive(), f"{client} gets no answer from {address} port {port}"
        yield talk
