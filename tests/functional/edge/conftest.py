"""An API of a stub engine over TCP, and those who speak to it."""

import http.client
import json
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from http.client import HTTPMessage
from pathlib import Path
from typing import Any

import pytest

from tests.functional.edge.certificates import Authority, Pair
from tests.functional.edge.fake_keystone import Keystone
from tests.lab.agent import render_ini
from tests.unit.api.served import Served, read_all


class Edge(Served):
    """A served stub that listens over TCP too."""

    def __init__(self, directory: Path, config: Mapping[str, Mapping[str, Any]], options: Mapping[str, object]) -> None:
        self.port = free_port()
        sections = {**config, "api": {"bind_host": "127.0.0.1", "bind_port": self.port, **config["api"]}}
        file = directory / "agent.conf"
        file.write_text(render_ini({"DEFAULT": {"my_ip": "192.0.2.1", **config.get("DEFAULT", {})}, **sections}))
        super().__init__(directory / "api.sock", {"config": str(file), **options})

    def dial(self, timeout: float = 10) -> socket.socket:
        """A TCP connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def ask(
        self,
        method: str,
        target: str,
        body: object = None,
        *,
        tls: ssl.SSLContext | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Send a request over TCP; status and body."""
        given = {**({} if token is None else {"X-Auth-Token": token}), **(headers or {})}
        code, answer, self.headers = exchange(self.dial(), method, target, body, tls, given)
        return code, answer


def exchange(
    sock: socket.socket,
    method: str,
    target: str,
    body: object = None,
    tls: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any, HTTPMessage]:
    """Send a request on a new connection, and close it; status, body and headers of the answer."""
    with sock if tls is None else tls.wrap_socket(sock, server_hostname="127.0.0.1") as sock:
        connection = http.client.HTTPConnection("127.0.0.1")
        connection.sock = sock
        connection.request(method, target, None if body is None else json.dumps(body).encode(), dict(headers or {}))
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None, answer.headers


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Site:
    """Two authorities, certificates of one of them, and APIs that are guarded by it."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory, self._stack, self._count = directory, stack, 0
        self.authority = Authority(directory / "ours")
        self.stranger = Authority(directory / "theirs")
        self.server = self.authority.sign("agent")
        self.reader = self.authority.sign("reader")
        self.writer = self.authority.sign("controller")

    def mutual(self) -> dict[str, object]:
        """The options of mutual TLS; who is called controller may write."""
        files = {"cert_file": self.server.cert, "key_file": self.server.key, "ca_file": self.authority.cert}
        return {**files, "cert_writers": "other,controller.example.com"}

    def serve(
        self, api: Mapping[str, object], config: Mapping[str, Mapping[str, Any]] | None = None, **options: object
    ) -> Edge:
        self._count += 1
        directory = self._directory / str(self._count)
        directory.mkdir()
        edge = Edge(directory, {**(config or {}), "api": api}, options)
        self._stack.callback(edge.end)
        return edge

    def client(self, pair: Pair | None = None) -> ssl.SSLContext:
        """TLS as a client speaks it that trusts our authority."""
        context = ssl.create_default_context(cafile=str(self.authority.cert))
        if pair is not None:
            context.load_cert_chain(pair.cert, pair.key)
        return context


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    with ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("site"), stack)


@pytest.fixture(scope="module")
def edge(site: Site) -> Edge:
    """An API behind mutual TLS for all that must not hurt it."""
    return site.serve(site.mutual())


@pytest.fixture
def make_keystone() -> Iterator[Callable[[], Keystone]]:
    with ExitStack() as stack:

        def make() -> Keystone:
            keystone = Keystone()
            stack.callback(keystone.close)
            return keystone

        yield make


__all__ = ["Edge", "Site", "read_all"]
