"""A served stub, and ways to speak to it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.lab import unix_http

ROOT = Path(__file__).parents[3]


class Served:
    """``tests.unit.api.serve_stub`` as a process of its own."""

    def __init__(self, path: Path, options: Mapping[str, object]) -> None:
        self.path = path
        self.log = path.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.unit.api.serve_stub", str(path), json.dumps(options)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.line() == "serving", self.log.read_text()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def request(self, method: str, target: str, body: Any = None, *, timeout: float = 10) -> tuple[int, Any]:
        return unix_http.request(self.path, method, target, body, timeout=timeout)

    def connect(self, timeout: float = 10) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        sock.connect(str(self.path))
        return sock

    def raw(self, data: bytes, *, half_close: bool = True) -> bytes:
        """Send bytes on a new connection and read until its end."""
        with self.connect() as sock:
            try:
                sock.sendall(data)
                if half_close:
                    sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it answered early and closed
            return read_all(sock)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def stop(self) -> str:
        """End it; what it said: ``finished`` or ``cut off``."""
        self.signal(signal.SIGTERM)
        said = self.line()
        assert self.process.wait(10) == 0, self.log.read_text()
        return said

    def end(self) -> None:
        if self.alive:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def read_all(sock: socket.socket) -> bytes:
    parts: list[bytes] = []
    while True:
        try:
            part = sock.recv(1 << 16)
        except ConnectionResetError:
            part = b""
        if not part:
            return b"".join(parts)
        parts.append(part)
