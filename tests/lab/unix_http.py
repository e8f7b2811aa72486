"""HTTP over a unix socket, one connection for each request."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a port."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


def request(path: Path, method: str, target: str, body: Any = None, *, timeout: float = 30) -> tuple[int, Any]:
    """Send a request; status and body, which is parsed when it is JSON and text otherwise.

    A body of ``bytes`` is sent as it is.
    """
    connection = UnixConnection(path, timeout)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        connection.request(method, target, data, headers)
        response = connection.getresponse()
        return response.status, _parsed(response.read(), response.getheader("Content-Type", ""))
    finally:
        connection.close()


def _parsed(data: bytes, content_type: str) -> Any:
    if not data:
        return None
    return json.loads(data) if "json" in content_type else data.decode(errors="replace")
