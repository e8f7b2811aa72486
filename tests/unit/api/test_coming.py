"""Who has begun to ask is told from who only holds a connection."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import eventlet
import pytest

from nova_netagent.api import hub
from nova_netagent.api.hub import Hub

REQUEST = b"PUT / HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\n"


class Desk:
    """A hub that serves in this thread, whenever the test lets it."""

    def __init__(self, path: Path) -> None:
        self.hub = Hub(lambda request: None)
        self.path = path
        self.asked: list[bytes] = []
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        self.server = self.hub.serve(listener, self._app)

    def _app(self, environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        self.asked.append(environ["wsgi.input"].read())
        self.hub.came()  # what submit_and_wait does
        self.coming_when_told = self.hub.coming()
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.path))
        return client

    def turn(self) -> None:
        for _ in range(10):
            eventlet.sleep(0)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "socket")
    made.turn()
    yield made
    made.server.stop(0)
    made.hub.close()


def test_nobody_comes_where_nobody_is(desk: Desk) -> None:
    assert not desk.hub.coming()


def test_who_waits_to_be_accepted_comes_and_who_then_says_nothing_does_not(desk: Desk) -> None:
    with desk.connect():
        assert desk.hub.coming()
        desk.turn()
        assert not desk.hub.coming()


def test_who_is_read_comes_until_the_engine_is_told(desk: Desk) -> None:
    with desk.connect() as client:
        desk.turn()
        client.sendall(REQUEST)
        assert desk.hub.coming()  # said, and not read yet
        desk.turn()
        assert desk.hub.coming()  # its body is not here
        client.sendall(b"body")
        desk.turn()
        assert desk.asked == [b"body"]
        assert not desk.coming_when_told
        assert not desk.hub.coming()  # the connection is kept


def test_who_dawdles_is_not_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk.connect() as client:
        client.sendall(REQUEST)
        desk.turn()
        assert desk.hub.coming()
        monkeypatch.setattr(hub, "DAWDLING", 0.0)
        assert not desk.hub.coming()


def test_who_leaves_in_the_middle_does_not_come(desk: Desk) -> None:
    with desk.connect() as client:
        client.sendall(REQUEST)
        desk.turn()
        assert desk.hub.coming()
    desk.turn()
    assert not desk.hub.coming()
