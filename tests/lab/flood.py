"""Steady traffic while something happens, counting what is lost."""

import contextlib
import os
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Self

from tests.lab.clients import echo_request, open_ping, target
from tests.lab.namespace import Namespace
from tests.lab.syscalls import readable


class Flood:
    """Sends ``rate`` packets a second and notes which come back.

    Echo requests, or, with ``port``, UDP datagrams that the other side's echo server returns.
    Used as ``with Flood(vm1, outside) as flood: ...; assert not flood.lost``.
    """

    def __init__(
        self,
        source: Namespace,
        destination: Namespace | str,
        *,
        rate: float = 200,
        port: int | None = None,
        family: int = 4,
        server: Namespace | None = None,
    ) -> None:
        self._address, self._family, server = target(destination, family, server)
        self._interval = 1 / rate
        self._identifier = os.urandom(2)
        self._sent: list[float] = []
        self._returned: dict[int, float] = {}
        self._stop = threading.Event()
        self._port = port or 0
        if port is None:
            self._socket = open_ping(source, self._family)
        else:
            if server is not None:
                server.echo.serve("udp", self._family, port)
            self._socket = source.socket(socket.AF_INET6 if self._family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._thread = threading.Thread(target=self._run, daemon=True, name="flood")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self, grace: float = 2.0) -> None:
        """Send no more, and wait for what is still on its way: on a busy processor, for as long as others have it."""
        self._stop.set()
        self._thread.join()
        deadline = time.monotonic() + grace
        while self.lost and time.monotonic() < deadline:
            self._receive(0.01)
        self._socket.close()

    @property
    def sent(self) -> int:
        """How many packets were sent so far."""
        return len(self._sent)

    @property
    def lost(self) -> list[int]:
        """The numbers of the packets that did not come back, counted from 0."""
        return [number for number in range(len(self._sent)) if number not in self._returned]

    @property
    def longest_gap(self) -> float:
        """The longest time in seconds over which whatever was sent was lost."""
        longest = 0.0
        first_lost: float | None = None
        for number, sent in enumerate(self._sent):
            if number in self._returned:
                first_lost = None
            else:
                first_lost = sent if first_lost is None else first_lost
                longest = max(longest, sent - first_lost + self._interval)
        return longest

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self._send()
            due = max(due + self._interval, time.monotonic() - self._interval)
            while (left := due - time.monotonic()) > 0 and not self._stop.is_set():
                self._receive(left)

    def _send(self) -> None:
        number = len(self._sent)
        payload = struct.pack("!4sI", b"FLUD", number)
        rest = self._identifier + struct.pack("!H", number & 0xFFFF)
        packet = payload if self._port else echo_request(self._family, rest, payload)
        self._sent.append(time.monotonic())
        with contextlib.suppress(OSError):  # refused by the sender's own kernel: lost like any other
            self._socket.sendto(packet, (self._address, self._port))

    def _receive(self, within: float) -> None:
        if not readable(self._socket, within):
            return
        try:
            data = self._socket.recv(65536)
        except OSError:
            return  # an ICMP error, told by the kernel
        if self._is_answer(data):
            self._returned.setdefault(struct.unpack("!I", data[-4:])[0], time.monotonic())

    def _is_answer(self, data: bytes) -> bool:
        if data[-8:-4] != b"FLUD":
            return False
        if self._port:
            return len(data) == 8
        message = data if self._family == 6 else data[(data[0] & 15) * 4 :]
        return message[0] == (129 if self._family == 6 else 0) and message[4:6] == self._identifier
