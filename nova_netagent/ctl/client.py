"""HTTP to the agent, in as few lines as that takes: http.client costs 40 ms to import."""

import json
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from nova_netagent.ctl.outcome import FAILED, NOT_FOUND, UNREACHABLE, USAGE, Failure

Connect = Callable[[float], socket.socket]

_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Answer(NamedTuple):
    """What the agent answered."""

    status: int
    body: bytes
    at: str
    """Where it was asked, for messages."""

    @property
    def document(self) -> Any:
        """The body, parsed.

        :raises Failure: it is no object of JSON: somebody else answers there.
        """
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            raise self.somebody_else() from None
        if not isinstance(found, dict):
            raise self.somebody_else()
        return found

    def having(self, *fields: str) -> Any:
        """The body, parsed, with these fields.

        :raises Failure: it lacks one: somebody else answers there.
        """
        found = self.document
        if not all(field in found for field in fields):
            raise self.somebody_else()
        return found

    def accepted(self) -> "Answer":
        """The answer itself, unless it is a refusal.

        :raises Failure: naming the field and the reason, or that it is not the agent's.
        """
        if 200 <= self.status < 300:
            return self
        if self.status < 400:
            raise self.somebody_else()
        raise Failure(NOT_FOUND if self.status == 404 else FAILED, self._reason())

    def accepted_arguments(self) -> "Answer":
        """The same of a request that has nothing in it but the command line: what cannot be meant is wrong usage.

        :raises Failure: naming the option and the reason.
        """
        if self.status == 400:
            raise Failure(USAGE, self._reason(lambda field: f"--{field.replace('_', '-')}"))
        return self.accepted()

    def _reason(self, shown: Callable[[str], str] = str) -> str:
        try:
            error = self.document["error"]
            return f"{shown(error['field'])}: {error['message']}" if error.get("field") else str(error["message"])
        except (KeyError, TypeError, AttributeError):
            raise self.somebody_else() from None

    def somebody_else(self) -> Failure:
        """What is told where the agent would have answered otherwise."""
        return Failure(UNREACHABLE, f"{self.at}: what answers there is not the agent (HTTP status {self.status})")


class Client:
    """Speaks to one agent, with a connection for each request.

    :ivar at: its socket's path, or its URL, for messages.
    :param timeout: seconds to wait for each answer.
    :param connect: makes a connection, given the timeout; by default to the socket.
    :param headers: further lines of each request.
    """

    def __init__(self, at: str, timeout: float, connect: Connect | None = None, headers: Sequence[str] = ()) -> None:
        self.at = at
        self._timeout = timeout
        self._connect = connect or self._to_socket
        self._headers = headers

    def patient(self, seconds: float) -> "Client":
        """The same, waiting so much longer for each answer."""
        return Client(self.at, self._timeout + seconds, self._connect, self._headers)

    def get(self, target: str) -> Answer:
        """GET, refusals raised as ``Failure``."""
        return self.request("GET", target).accepted()

    def request(self, method: str, target: str, body: bytes | None = None) -> Answer:
        """Send a request and give back its answer, whatever it is.

        :raises Failure: nobody answers.
        """
        try:
            with self._connect(self._timeout) as sock:
                return self._exchange(sock, _request(method, target, body, self._headers))
        except (FileNotFoundError, ConnectionRefusedError):
            raise Failure(UNREACHABLE, f"nobody listens at {self.at}: is the agent running?") from None
        except PermissionError:
            reason = "permission denied; be root, or in the group of [api] socket_group"
            raise Failure(UNREACHABLE, f"{self.at}: {reason}") from None
        except TimeoutError:
            raise Failure(UNREACHABLE, f"{self.at}: no answer within {self._timeout:g} s") from None
        except OSError as error:
            raise Failure(UNREACHABLE, f"{self.at}: {error.strerror or error}") from None

    def _to_socket(self, timeout: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            _connect(sock, self.at, timeout)
        except OSError:
            sock.close()
            raise
        return sock

    def _exchange(self, sock: socket.socket, request: bytes) -> Answer:
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before all is read: the answer is there
            sock.sendall(request)
        parts = []
        while part := sock.recv(1 << 18):
            parts.append(part)
        return _parse(b"".join(parts), self.at)


def _connect(sock: socket.socket, path: str, timeout: float) -> None:
    """Wait where many are waiting to be let in: with a timeout the kernel does not."""
    until = time.monotonic() + timeout
    while True:
        try:
            sock.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise TimeoutError from None
            time.sleep(0.02)


def quoted(text: str) -> str:
    """A text as one segment of a path."""
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def _request(method: str, target: str, body: bytes | None, headers: Sequence[str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def _parse(data: bytes, at: str) -> Answer:
    head, found, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    if not found or len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise Failure(UNREACHABLE, f"{at}: what answers there speaks no HTTP, or broke off")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) != len(body):
        raise Failure(UNREACHABLE, f"{at}: the answer broke off")
    return Answer(int(words[1]), body, at)
