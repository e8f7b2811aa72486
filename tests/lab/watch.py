"""Seeing packets arrive: on a receiver's wire, or at a socket behind its own input filter."""

import contextlib
import select
import socket
import time
from collections.abc import Iterable, Iterator

from tests.lab.frames import Seen, read_packet, read_transport
from tests.lab.namespace import Namespace
from tests.lab.probes import Forged, IpProbe, Probe
from tests.lab.wire import Wire


class Watch:
    """Looks for tokens in everything that arrives while it is open."""

    def __init__(self, wire: Wire | None, delivered: "list[Delivered]") -> None:
        self._wire = wire
        self._delivered = delivered
        self._poll = select.poll()
        for descriptor in [*([wire.socket] if wire else []), *(source.socket for source in delivered)]:
            self._poll.register(descriptor, select.POLLIN)
        self._looked_for: set[bytes] = set()
        self._found: dict[bytes, Seen] = {}

    def expect(self, token: bytes) -> None:
        """Say which token is looked for, before it is sent."""
        self._looked_for.add(token)

    def look(self, token: bytes) -> Seen | None:
        """The packet with the token, if it has arrived; does not wait."""
        for seen in self._arrived():
            for wanted in self._looked_for:
                if wanted in seen.data:
                    self._found.setdefault(wanted, seen)  # an ICMP error may bring the token back
        return self._found.get(token)

    def wait(self, token: bytes, within: float) -> Seen | None:
        """The packet with the token, as soon as it arrives; None when it does not come in time."""
        deadline = time.monotonic() + within
        while (seen := self.look(token)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._poll.poll(left * 1000)
        return seen

    def _arrived(self) -> Iterator[Seen]:
        if self._wire is not None:
            yield from self._wire.read()
        for source in self._delivered:
            yield from source.read()


class Delivered:
    """A raw IP socket: sees the packets of one protocol that passed the input filter."""

    def __init__(self, receiver: Namespace, family: int, protocol: int) -> None:
        self._family = family
        self._protocol = protocol
        address_family = socket.AF_INET6 if family == 6 else socket.AF_INET
        self.socket = receiver.socket(address_family, socket.SOCK_RAW, protocol)
        self.socket.setblocking(False)

    def read(self) -> Iterator[Seen]:
        """The packets that came in and were not read yet; never waits."""
        while True:
            try:
                data, address = self.socket.recvfrom(65536)
            except BlockingIOError:
                return
            if self._family == 6:
                yield read_transport(data, self._protocol, address[0].split("%")[0])
            else:
                yield read_packet(data)


@contextlib.contextmanager
def watching(receiver: Namespace, probes: Iterable[Probe], device: str | None) -> Iterator[Watch]:
    """Watch where these probes would arrive: at sockets of a filtering host, else on the wire."""
    if device is None and receiver.seen_at == "socket":
        with contextlib.ExitStack() as stack:
            sources = [Delivered(receiver, *which) for which in sorted(set(map(_family_and_protocol, probes)))]
            for source in sources:
                stack.enter_context(source.socket)
            yield Watch(None, sources)
    else:
        wire = receiver.wire(device or "eth0")
        with wire.listening():
            yield Watch(wire, [])


def _family_and_protocol(probe: Probe) -> tuple[int, int]:
    inner = probe.probe if isinstance(probe, Forged) else probe
    if isinstance(inner, IpProbe):
        return inner.family, inner.protocol
    raise ValueError(f"{probe!r} cannot be delivered to a socket: give the device on which it is to be seen")
