"""RabbitMQ as operators run it: quorum queues for topics and fanout, durable, and restarted in the middle of it."""

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import kombu
import pytest
from amqp.exceptions import PreconditionFailed

from nova_netagent.testing import make_network, network_id
from tests.functional.agent.kernel import eventually
from tests.functional.rpc.broker import PORT, URL, Broker
from tests.functional.rpc.conftest import Node, NodeMaker
from tests.functional.rpc.test_broker import described, enveloped
from tests.functional.rpc.test_calls import body

TOPIC = "network-quorum"
"""One of its own: queues and exchanges of a topic are declared alike by everybody, or refused."""

OPTIONS = {"rabbit_quorum_queue": True, "rabbit_transient_quorum_queue": True}

CONFIG: dict[str, dict[str, Any]] = {
    "rpc": {"topic": TOPIC},
    "oslo_messaging_rabbit": {**OPTIONS, "kombu_missing_consumer_retry_timeout": 1},
}

QUORUM: dict[str, Any] = {"durable": True, "queue_arguments": {"x-queue-type": "quorum"}}
JSON: dict[str, Any] = {"content_type": "application/json", "content_encoding": "utf-8", "serializer": None}


@pytest.fixture(scope="module")
def node(make_node: NodeMaker) -> Node:
    return make_node(CONFIG)


@pytest.fixture(scope="module")
def caller(rabbit: Broker) -> Iterator[Any]:
    from tests.functional.rpc.caller import Caller

    made = Caller(TOPIC, **OPTIONS)
    yield made
    made.close()


def network(number: int, revision: int) -> dict[str, Any]:
    return body(make_network(number), label=f"label {revision}", revision=revision)


def queue_of(node: Node) -> str:
    return f"{TOPIC}.{node.name}"


def connection(**options: Any) -> kombu.Connection:
    return kombu.Connection(URL.format(PORT).replace("rabbit:", "amqp:"), transport_options=options)


def label(node: Node, number: int) -> str:
    code, found = node.agent.request("GET", f"/v1/networks/{network_id(number)}")
    return str(found["label"]) if code == 200 else ""


def test_its_queues_are_quorum_queues(node: Node) -> None:
    with connection() as opened:
        for name in (TOPIC, queue_of(node)):
            with pytest.raises(PreconditionFailed, match=r"x-queue-type.*'quorum'"):
                kombu.Queue(name, durable=True, channel=opened.channel()).declare()


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


# --- the broker killed: what it kept, and a queue that lost its leader by it


class Restarted(NamedTuple):
    """What there was before and after: ten casts for an agent that was away, and a queue without a leader."""

    revisions: int
    lost: str
    away: Node


@pytest.fixture(scope="module")
def restarted(node: Node, make_node: NodeMaker, caller: Any, rabbit: Broker) -> Restarted:
    # One that finds out soon that it is not given its queue.
    messaging = {**CONFIG["oslo_messaging_rabbit"], "heartbeat_timeout_threshold": 2}
    away = make_node({**CONFIG, "oslo_messaging_rabbit": messaging}, is_open=False)
    caller.call(node.name, "status")
    rabbit.wait_kept(caller.reply_queue)
    node.gate.shut()
    node.wait_connected(False)
    revisions = 10
    for revision in range(1, revisions + 1):
        caller.cast(node.name, "update", kind="networks", body=network(4, revision))
    lost = queue_of(away)
    with connection() as opened:
        kombu.Queue(lost, **QUORUM, channel=opened.channel()).declare()
        rabbit.kill()  # at once: see Broker.wait_kept
    rabbit.start()
    rabbit.wait()
    node.gate.open()
    node.wait_connected()
    return Restarted(revisions, lost, away)


def test_casts_to_an_agent_that_is_away_survive_the_broker(node: Node, restarted: Restarted) -> None:
    eventually(lambda: label(node, 4) == f"label {restarted.revisions}", within=30)
    eventually(lambda: described(node, 4), within=10)
    node.agent.state({})


def test_a_caller_whose_reply_queue_has_no_leader_keeps_nobody_else_waiting(
    node: Node, caller: Any, restarted: Restarted
) -> None:
    """More of its calls than there are threads and connections, some of them refused."""
    with connection(confirm_publish=True) as opened:
        producer = opened.Producer()
        for number in range(100):
            arguments = {"kind": "networks"} if number % 2 else {"kind": "cats"}
            asked = {"method": "get", "args": arguments, "namespace": "netagent", "version": "1.0"}
            asked |= {"_msg_id": f"{number}", "_unique_id": f"lost {number}", "_reply_q": restarted.lost}
            producer.publish(enveloped(asked), exchange="nova", routing_key=queue_of(node), **JSON)
        assert caller.call(node.name, "status")["enforcing"]
        opened.default_channel.connection.sock.settimeout(1)
        with pytest.raises(TimeoutError):
            producer.publish({}, exchange="", routing_key=restarted.lost)


def test_an_agent_that_is_not_given_its_queue_says_so_until_the_queue_is_made_anew(
    caller: Any, restarted: Restarted
) -> None:
    away = restarted.away
    away.gate.open()

    def in_vain() -> bool:
        assert not away.rpc()["connected"]
        return "is unreachable: <RecoverableConnectionError" in away.agent.log

    eventually(in_vain, within=30)
    with connection() as opened:
        kombu.Queue(restarted.lost, channel=opened.channel()).delete()
    away.wait_connected()
    assert caller.call(away.name, "status")["rpc"]["connected"]
    away.agent.stop()


def test_a_broker_that_restarts_under_load_loses_nothing_that_was_answered(
    node: Node, caller: Any, rabbit: Broker
) -> None:
    networks, revisions = 16, 32
    half = threading.Event()

    def update(number: int) -> None:
        """Each revision by call until it is answered, with a late cast of the one before it."""
        for revision in range(1, revisions + 1):
            if revision > revisions // 2:
                half.set()
            while True:
                try:
                    caller.call(node.name, "update", timeout=5, kind="networks", body=network(number, revision))
                except Exception:
                    continue
                break
            assert label(node, number) == f"label {revision}"
            if revision > 1:
                caller.cast(node.name, "update", kind="networks", body=network(number, revision - 1))

    caller.call(node.name, "status")
    rabbit.wait_kept(caller.reply_queue)
    updating = [caller.later(update, number) for number in range(10, 10 + networks)]
    assert half.wait(60)
    rabbit.kill()
    rabbit.start()
    rabbit.wait()
    for each in updating:
        each.result(120)
    node.wait_connected()
    caller.cast(None, "update", kind="networks", body=network(9, 1))
    eventually(lambda: described(node, 9), within=30)
    found = {each["id"]: each["label"] for each in node.agent.get("networks")}
    expected = {network_id(number): f"label {revisions}" for number in range(10, 10 + networks)}
    assert found == {**expected, network_id(9): "label 1"}
    assert all(described(node, number) for number in range(9, 10 + networks))
