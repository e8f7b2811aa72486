"""RabbitMQ as operators run it: quorum queues for topics and fanout, durable, and restarted."""

from collections.abc import Iterator
from typing import Any

import kombu
import pytest
from amqp.exceptions import PreconditionFailed

from nova_netagent.testing import make_network, network_id
from tests.functional.agent.kernel import eventually
from tests.functional.rpc.broker import PORT, URL, Broker
from tests.functional.rpc.conftest import Node, NodeMaker
from tests.functional.rpc.test_broker import described
from tests.functional.rpc.test_calls import body

TOPIC = "network-quorum"
"""One of its own: queues and exchanges of a topic are declared alike by everybody, or refused."""

OPTIONS = {"rabbit_quorum_queue": True, "rabbit_transient_quorum_queue": True}


@pytest.fixture(scope="module")
def node(make_node: NodeMaker) -> Node:
    return make_node({"rpc": {"topic": TOPIC}, "oslo_messaging_rabbit": OPTIONS})


@pytest.fixture(scope="module")
def caller(rabbit: Broker) -> Iterator[Any]:
    from tests.functional.rpc.caller import Caller

    made = Caller(TOPIC, **OPTIONS)
    yield made
    made.close()


def network(number: int, revision: int) -> dict[str, Any]:
    return body(make_network(number), label=f"label {revision}", revision=revision)


def label(node: Node, number: int) -> str:
    code, found = node.agent.request("GET", f"/v1/networks/{network_id(number)}")
    return str(found["label"]) if code == 200 else ""


def test_its_queues_are_quorum_queues(node: Node) -> None:
    with kombu.Connection(URL.format(PORT).replace("rabbit:", "amqp:")) as connection:
        for name in (TOPIC, f"{TOPIC}.{node.name}"):
            with pytest.raises(PreconditionFailed, match=r"x-queue-type.*'quorum'"):
                kombu.Queue(name, durable=True, channel=connection.channel()).declare()


def test_calls_casts_and_fanout(node: Node, caller: Any) -> None:
    done = {"state": "done", "revision": 1, "message": ""}
    assert caller.call(node.name, "update", kind="networks", body=network(1, 1))["status"] == done
    assert described(node, 1)
    caller.cast(node.name, "update", kind="networks", body=network(2, 1))
    eventually(lambda: described(node, 2), within=10)
    caller.cast(None, "update", kind="networks", body=network(3, 1))
    eventually(lambda: described(node, 3), within=10)
    for number in (1, 2, 3):
        assert caller.call(node.name, "delete", kind="networks", id=network_id(number)) == {"deleted": True}
    assert not any(described(node, number) for number in (1, 2, 3))
    node.agent.state({})


def test_casts_to_an_agent_that_is_away_survive_the_broker(node: Node, caller: Any, rabbit: Broker) -> None:
    node.gate.shut()
    node.wait_connected(False)
    for revision in range(1, 11):
        caller.cast(node.name, "update", kind="networks", body=network(4, revision))
    rabbit.kill()
    rabbit.start()
    rabbit.wait()
    node.gate.open()
    node.wait_connected()
    eventually(lambda: label(node, 4) == "label 10", within=30)
    eventually(lambda: described(node, 4), within=10)  # it is on disk before it is in the kernel
    node.agent.state({})
