"""Events without end over RPC and HTTP, and what the agent holds meanwhile: memory, descriptors, threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from nova_netagent.model import Object, document
from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_network, make_rule
from tests.functional.rpc.conftest import Node

SENDERS = 8
"""How many send at a time, each about objects of its own."""

TRIES = 30
"""How often a call is made until it is answered."""


class Held(NamedTuple):
    """What a process has of the kernel. Memory is its own, in KiB."""

    memory: int
    descriptors: int
    threads: int


def held(process: int) -> Held:
    """What a process has now (proc(5))."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    descriptors = sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
    return Held(int(status["RssAnon"].split()[0]), descriptors, int(status["Threads"]))


class Sender:
    """Changes a group, an instance and a floating IP again and again, by call, by cast and over HTTP in turn.

    A call that is not answered is repeated, as a sender does that must be sure.
    """

    def __init__(self, number: int, node: Node, caller: Any) -> None:
        self._number = number
        self._node = node
        self._caller = caller
        self._revision = 0

    def send(self, events: int) -> None:
        """So many events; the last one of each object is answered."""
        for _ in range(events):
            self._revision += 1
            self._ways[self._revision % len(self._ways)](self)

    def settle(self) -> None:
        """Have each object in its last revision answered."""
        self._revision += 1
        for item in self._objects():
            self._call(item)

    def expected(self) -> dict[str, int]:
        """Each object's id and the revision that it must have."""
        return {item.id: self._revision for item in self._objects()}

    def _objects(self) -> tuple[Object, ...]:
        return (self._group(), self._instance(), make_floating_ip(self._number))

    def _group(self) -> Object:
        # A few hundred of them: what is remembered of each rule that was seen is bounded, and filled while it warms up.
        ports = [1 + (self._revision * 7 + each) % 210 for each in range(3)]
        rules = [
            make_rule(self._number * 10 + each, protocol="tcp", port_range_min=port, port_range_max=port)
            for each, port in enumerate(ports)
        ]
        return make_group(self._number, *rules)

    def _instance(self) -> Object:
        groups = (self._number,) if self._revision % 2 else (self._number, 100)
        return make_instance(self._number, groups)

    def _body(self, item: Object) -> dict[str, Any]:
        found: Any = document(item)
        return {**found, "revision": self._revision}

    def _call(self, item: Object) -> None:
        for attempt in range(TRIES):
            try:
                self._caller.call(self._node.name, "update", timeout=10, kind=item.KIND, body=self._body(item))
                return
            except Exception:  # the broker is away, or took the answer with it
                if attempt == TRIES - 1:
                    raise

    def _cast(self, item: Object) -> None:
        self._caller.cast(self._node.name, "update", kind=item.KIND, body=self._body(item))

    def _put(self, item: Object) -> None:
        target = f"/v1/{item.KIND.replace('_', '-')}/{item.id}"
        code, answer = self._node.agent.request("PUT", target, self._body(item))
        assert code in (200, 201, 409), answer  # 409: a cast of a later revision was there first

    def _come_and_go(self) -> None:
        item = make_floating_ip(self._number)
        target = f"/v1/floating-ips/{item.id}?revision={self._revision}"
        if self._revision % 2:
            self._call(item)
        else:
            code, answer = self._node.agent.request("DELETE", target)
            assert code in (204, 404, 409), answer

    _ways: tuple[Callable[["Sender"], None], ...] = (
        lambda self: self._call(self._group()),
        lambda self: self._cast(self._instance()),
        lambda self: self._put(self._group()),
        lambda self: self._come_and_go(),
        lambda self: self._put(self._instance()),
    )


class Load:
    """Senders at work on one node."""

    def __init__(self, node: Node, caller: Any) -> None:
        self._node = node
        self._pool = ThreadPoolExecutor(SENDERS)
        node.put(make_network(1), make_group(100, make_rule(9999)))
        self.senders = [Sender(number, node, caller) for number in range(1, SENDERS + 1)]

    def send(self, events: int, meanwhile: Callable[[], None] | None = None) -> None:
        """So many events in all, and something else meanwhile."""
        sending = [self._pool.submit(each.send, events // SENDERS) for each in self.senders]
        if meanwhile is not None:
            meanwhile()
        for each in sending:
            each.result()
        for each in [self._pool.submit(each.settle) for each in self.senders]:
            each.result()

    def held(self) -> Held:
        """What the agent holds."""
        return held(self._node.agent.pid)

    def close(self) -> None:
        """Send no more."""
        self._pool.shutdown()
