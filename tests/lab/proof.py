"""Proofs that a packet sent just now was dropped: by what is sent after it and does arrive.

All are to be used on one processor (``one_processor``), as only that keeps the order.
"""

import contextlib
import os
import socket
from collections.abc import Iterator

from tests.lab import frames, syscalls
from tests.lab.namespace import Namespace
from tests.lab.probes import IpProbe, Probe, is_unicast, new_token

ROUNDS = 24
"""Frames that it takes to work off the backlog, each one hop: more than any packet's way has, ARP included."""

Endpoint = tuple[str, int]


@contextlib.contextmanager
def one_processor() -> Iterator[None]:
    """Keep the calling thread on the processor that it is on, so that what it sends stays in order."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {syscalls.current_cpu()})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def drain(receiver: Namespace, device: str = "eth0") -> bool:
    """Send frames on the receiver's own link, one after the other, until what was sent before has gone by.

    False when the link's other end is not known, or the link is down.
    """
    if device not in receiver.peers:
        return False
    neighbour, port = receiver.peers[device]
    try:
        sending = neighbour.wire(port)
        receiving = receiver.wire(device, only=frames.ETH_EXPERIMENT)
        for _ in range(ROUNDS):
            token = new_token()
            sending.send(frames.ethernet(receiving.mac, sending.mac, frames.ETH_EXPERIMENT, token))
            if not receiving.wait(token, 0.3):
                return False
    except OSError:
        return False
    return True


class ReplyFlow:
    """A UDP flow that the receiver opens to the sender, so that the sender may answer whatever the groups say."""

    def __init__(self, sender: Namespace, receiver: Namespace, probe: Probe) -> None:
        family = int(getattr(probe, "family", 4))
        self._sender, self._receiver = sender, receiver
        self._target = _unicast_target(probe) or receiver.ip(family)
        self._answering = _datagram_socket(sender, family)
        self._asking = _datagram_socket(receiver, family)

    def close(self) -> None:
        """Give the sockets back."""
        self._answering.close()
        self._asking.close()

    def open(self) -> bool:
        """Have the receiver write to the sender; whether that arrived."""
        question = new_token()
        address = self._sender.source_address(self._target)
        with contextlib.suppress(OSError):  # forbidden at once, or no route: then there is no such flow
            self._asking.sendto(question, (address, self._answering.getsockname()[1]))
        self._peer = self._came(question) or (self._came(question) if drain(self._sender) else None)
        return self._peer is not None

    def answer(self) -> bool:
        """Have the sender answer; whether that arrived."""
        answer = new_token()
        if self._peer is None:
            return False
        self._asking.settimeout(0.3)
        with contextlib.suppress(OSError):
            self._answering.sendto(answer, self._peer)
            return self._asking.recv(1024) == answer
        return False

    def _came(self, message: bytes) -> Endpoint | None:
        with contextlib.suppress(OSError):
            data, peer = self._answering.recvfrom(1024)
            if data == message:
                return peer[0], peer[1]
        return None


@contextlib.contextmanager
def reply_flow(sender: Namespace, receiver: Namespace, probe: Probe) -> Iterator[ReplyFlow | None]:
    """The flow by which a reply can follow the probe; None when the receiver cannot open one."""
    try:
        flow = ReplyFlow(sender, receiver, probe)
    except LookupError:  # one of them has no address
        yield None
        return
    with contextlib.closing(flow):
        yield flow if flow.open() else None


def _unicast_target(probe: Probe) -> str | None:
    if isinstance(probe, IpProbe) and probe.to is not None and is_unicast(probe.to):
        return None if probe.to.startswith("fe80:") else probe.to  # which would need a device
    return None


def _datagram_socket(namespace: Namespace, family: int) -> socket.socket:
    opened = namespace.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.bind(("", 0))
    return opened
