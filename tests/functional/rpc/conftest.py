"""One broker for all tests of RPC, and hosts whose agents reach it by a gate."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import eventually
from tests.functional.rpc import broker
from tests.functional.rpc.broker import Broker
from tests.functional.rpc.gate import Gate
from tests.lab import Lab

pytest.importorskip("oslo_messaging")


@pytest.fixture(scope="session")
def starting_broker() -> Iterator[Broker]:
    """A broker on its way: what else takes time can be done meanwhile."""
    if (reason := broker.missing()) is not None:
        pytest.skip(reason)
    started = Broker()
    try:
        started.start()
        yield started
    finally:
        started.close()


@pytest.fixture(scope="session")
def rabbit(starting_broker: Broker) -> Broker:
    """The broker, taking connections."""
    starting_broker.wait()
    return starting_broker


@pytest.fixture(scope="session")
def caller(rabbit: Broker) -> Iterator[Any]:
    """A controller that speaks to the agents."""
    from tests.functional.rpc.caller import Caller

    made = Caller()
    yield made
    made.close()


GUEST = "guest:guest"


class Node(Cloud):
    """A host whose agent serves RPC by a gate.

    :ivar gates: the ways to as many brokers as its agent knows of, all to the same one; ``gate`` is the first.
    """

    def __init__(
        self,
        lab: Lab,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        is_open: bool = True,
        uplinks: Mapping[str, str] | None = None,
        user: str = GUEST,
        brokers: int = 1,
    ) -> None:
        host = lab.host(uplinks=uplinks)
        self.gates = [Gate(host, is_open=is_open) for _ in range(brokers)]
        self.gate = self.gates[0]
        hosts = ",".join(f"{user}@127.0.0.1:{gate.port}" for gate in self.gates)
        merged: dict[str, dict[str, Any]] = {
            "DEFAULT": {"transport_url": f"rabbit://{hosts}/"},
            "rpc": {"enabled": True},
            "oslo_messaging_rabbit": {
                "amqp_durable_queues": True,
                # A test need not wait a minute for what operators wait a minute for.
                "heartbeat_timeout_threshold": 4,
                "rabbit_interval_max": 1,
            },
        }
        for group, options in (config or {}).items():
            merged.setdefault(group, {}).update(options)
        self.name: str = merged["DEFAULT"].get("host", host.name)
        """The name of the host, as its agent's server has it."""
        super().__init__(lab, merged, host)

    def rpc(self) -> dict[str, Any]:
        """What its status says of RPC."""
        found: dict[str, Any] = self.agent.request("GET", "/v1/status")[1]["rpc"]
        return found

    def wait_connected(self, connected: bool = True) -> None:
        """Wait until its agent knows that it is connected, or that it is not."""
        eventually(lambda: self.rpc()["connected"] is connected, within=30)

    def metric(self, line: str) -> float:
        """The value of a line of its metrics; 0 where there is none yet."""
        text = self.agent.request("GET", "/metrics")[1]
        lines = text.decode() if isinstance(text, bytes) else text
        return next((float(each.split()[-1]) for each in lines.splitlines() if each.startswith(f"{line} ")), 0.0)


NodeMaker = Callable[..., Node]


@pytest.fixture(scope="module")
def make_node(rabbit: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeMaker]:
    """Makes hosts of one lab."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(tmp_path_factory.mktemp("lab")))

        def make(
            config: Mapping[str, Mapping[str, Any]] | None = None,
            *,
            is_open: bool = True,
            user: str = GUEST,
            brokers: int = 1,
        ) -> Node:
            node = Node(lab, config, is_open=is_open, user=user, brokers=brokers)
            for gate in node.gates:
                stack.callback(gate.close)
            if is_open and user == GUEST:
                node.wait_connected()
            return node

        yield make


@pytest.fixture(scope="module")
def node(make_node: NodeMaker) -> Node:
    """One host for all tests of a module."""
    return make_node()
