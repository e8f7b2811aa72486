"""The broker away, gone, back, half dead, restarted; poison. What is described stays enforced meanwhile."""

import json
import random
import re
import signal
import threading
from typing import Any

import kombu
import pytest

from nova_netagent.rpc import errors
from nova_netagent.testing import make_network, network_id
from tests.functional.agent.kernel import eventually, hindered, ip_rules, lock_held
from tests.functional.agent.test_life_hindered import WHY
from tests.functional.conftest import ON_IPTABLES
from tests.functional.rpc.broker import PORT, URL, Broker
from tests.functional.rpc.conftest import Node, NodeMaker
from tests.functional.rpc.test_calls import body


def described(node: Node, number: int) -> bool:
    """Whether the rules of a network are in the kernel."""
    return re.search(rf"\bbr{number}\b", ip_rules(node.host)) is not None


def test_without_a_broker_the_agent_starts_enforces_and_stops_and_connects_when_there_is_one(
    make_node: NodeMaker, caller: Any
) -> None:
    node = make_node(is_open=False)
    assert node.rpc()["connected"] is False
    assert node.rpc()["failure"] == "the broker does not answer"
    node.put(make_network(1))
    assert described(node, 1)
    node.agent.stop(within=5)

    node.agent.start()
    assert described(node, 1)
    node.gate.open()
    node.wait_connected()
    assert node.metric("netagent_rpc_connected") == 1
    assert caller.call(node.name, "get", kind="networks", id=network_id(1))["status"]["state"] == "done"
    node.agent.stop()


def test_a_broker_that_is_gone_is_noticed_and_what_it_kept_comes_when_it_is_back(node: Node, caller: Any) -> None:
    node.gate.shut()
    node.wait_connected(False)
    assert node.metric("netagent_rpc_connected") == 0
    assert node.agent.request("GET", "/v1/status")[1]["enforcing"]
    node.put(make_network(1))
    assert described(node, 1)
    for number in range(10):
        caller.cast(node.name, "update", kind="networks", body=body(make_network(2), label=f"label {number}"))
    answer = caller.later(caller.call, node.name, "update", kind="networks", body=body(make_network(3)))

    node.gate.open()
    assert answer.result(30)["status"]["state"] == "done"
    node.wait_connected()
    assert node.agent.get("networks", network_id(2))["label"] == "label 9"
    node.agent.state({})


def test_a_connection_that_is_half_dead_is_given_up(node: Node, caller: Any) -> None:
    node.gate.freeze()
    node.wait_connected(False)
    node.put(make_network(1))
    assert described(node, 1)
    node.gate.shut()
    node.gate.open()
    node.wait_connected()
    assert caller.call(node.name, "delete", kind="networks", id=network_id(1)) == {"deleted": True}


@ON_IPTABLES
def test_a_stop_answers_what_was_taken_and_a_stop_without_a_broker_waits_for_none(node: Node, caller: Any) -> None:
    """In nf_tables nobody is waited for."""
    with lock_held():
        answer = caller.later(caller.call, node.name, "update", kind="networks", body=body(make_network(1)))
        eventually(lambda: node.agent.get("networks"), within=10)
        node.agent.signal(signal.SIGTERM)
    assert answer.result(30)["status"]["state"] == "done"
    assert node.agent.wait() == 0
    node.agent.start()
    node.wait_connected()
    node.gate.shut()
    node.wait_connected(False)
    node.agent.stop(within=5)
    node.gate.open()
    node.agent.start()
    node.wait_connected()
    node.agent.state({})


def test_what_the_kernel_does_not_take_is_told_and_kept(make_node: NodeMaker, caller: Any) -> None:
    node = make_node({"firewall": {"lock_timeout": 0.2}})
    with hindered(node.host, node.backend):
        with pytest.raises(errors.NotApplied, match=WHY[node.backend][0]):
            caller.call(node.name, "update", kind="networks", body=body(make_network(1)))
        with pytest.raises(errors.NotApplied, match=WHY[node.backend][0]):
            caller.call(node.name, "resync")
    eventually(lambda: described(node, 1), within=10)
    failed = 'netagent_rpc_messages_total{method="update",result="failed"}'
    assert node.metric(failed) == 1
    node.agent.stop()


def test_all_agents_hear_a_fanout_and_one_takes_what_is_for_any(node: Node, make_node: NodeMaker, caller: Any) -> None:
    other = make_node()
    caller.cast(None, "update", kind="networks", body=body(make_network(1)))
    for each in (node, other):
        eventually(lambda each=each: described(each, 1), within=10)  # type: ignore[misc]
    said = caller.nova(None, "setup_networks_on_host", "1.0", instance_id=network_id(1), host="elsewhere")
    assert said in [f"this is {each.name}, not elsewhere: nothing was done" for each in (node, other)]
    other.agent.stop()
    node.agent.state({})


def test_a_wrong_option_of_oslo_messagings_ends_the_start(node: Node) -> None:
    """It would only show when a broker is there, and then to nobody."""
    agent = node.agent
    agent.stop()
    right = agent.config_file.read_text()
    wrong = [
        ("rabbit_interval_max = 1", "rabbit_interval_max = soon", "[oslo_messaging_rabbit] rabbit_interval_max: "),
        (URL.format(node.gate.port), "rabbit://h:port/", "[DEFAULT] transport_url: "),
    ]
    for old, new, said in wrong:
        agent.config_file.write_text(right.replace(old, new))
        agent.start(ready=False)
        assert agent.wait() == 2
        assert agent.log_end(1).startswith(f"nova-netagent: {said}")
    agent.config_file.write_text(right)
    agent.start()
    node.wait_connected()


# --- poison

ENVELOPE = {"oslo.version": "2.0", "oslo.message": "{}"}


def enveloped(message: object) -> bytes:
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


POISON: dict[str, tuple[bytes, str, str]] = {
    "no JSON": (b"\xff\xfe{", "application/json", "utf-8"),
    "no object": (b"[1, 2]", "application/json", "utf-8"),
    "nothing": (b"", "application/json", "utf-8"),
    "a pickle": (b"cos\nsystem\n(S'false'\ntR.", "application/x-python-serialize", "binary"),
    "an unknown type": (b"x", "text/cat", "utf-8"),
    "another envelope": (json.dumps({**ENVELOPE, "oslo.version": "9.0"}).encode(), "application/json", "utf-8"),
    "no message in it": (json.dumps(ENVELOPE).encode(), "application/json", "utf-8"),
    "no method": (enveloped({"args": {}, "namespace": "netagent"}), "application/json", "utf-8"),
    "a method that is none": (enveloped({"method": ["x"], "namespace": "netagent"}), "application/json", "utf-8"),
    "no arguments": (enveloped({"method": "update", "args": 5, "namespace": "netagent"}), "application/json", "utf-8"),
    "no version": (
        enveloped({"method": "status", "version": {}, "namespace": "netagent"}),
        "application/json",
        "utf-8",
    ),
    "a hidden method": (enveloped({"method": "__init__", "args": {}}), "application/json", "utf-8"),
    "a deep one": (b"[" * 100_000, "application/json", "utf-8"),
}


def test_poison_costs_itself_only(node: Node, caller: Any) -> None:
    assert caller.call(node.name, "status")["enforcing"]
    with kombu.Connection(URL.format(PORT).replace("rabbit:", "amqp:")) as connection:
        producer = connection.Producer()
        for poison, kind, encoding in POISON.values():
            producer.publish(
                poison,
                exchange="nova",
                routing_key=f"network.{node.name}",
                content_type=kind,
                content_encoding=encoding,
                serializer=None,
            )
    assert caller.call(node.name, "update", kind="networks", body=body(make_network(1)))["status"]["state"] == "done"
    assert node.agent.running
    assert node.rpc()["connected"]
    node.agent.state({})


# --- a restart of the broker, under load


def test_the_state_is_exact_after_a_thousand_messages_in_disorder_with_a_restart_among_them(
    make_node: NodeMaker, caller: Any, rabbit: Broker
) -> None:
    """Repeated, out of order, some of them poison; a call that was answered is never lost."""
    networks, revisions = 20, 25
    node = make_node()
    random.seed(1)
    casts = [(number, revision) for number in range(networks) for revision in range(revisions)] * 2
    random.shuffle(casts)
    answered: dict[int, int] = {}
    lost: list[str] = []

    def network(number: int, revision: int) -> dict[str, Any]:
        return body(make_network(number + 1), label=f"label {revision}", revision=revision)

    def call(number: int) -> None:
        """Have the last revision answered, as a sender does that must be sure."""
        while True:
            try:
                caller.call(node.name, "update", timeout=10, kind="networks", body=network(number, revisions))
            except Exception:
                continue
            answered[number] = revisions
            label = node.agent.get("networks", network_id(number + 1))["label"]
            if label != f"label {revisions}":
                lost.append(label)
            return

    half = threading.Event()

    def cast() -> None:
        for index, (number, revision) in enumerate(casts):
            if index == len(casts) // 2:
                half.set()
            if index % 50 == 0:
                caller.cast(node.name, "update", kind="networks", body={"id": "poison"})
            caller.cast(node.name, "update", kind="networks", body=network(number, revision))

    casting = caller.later(cast)
    calls = [caller.later(call, number) for number in range(0, networks, 2)]
    assert half.wait(60)
    rabbit.kill()
    rabbit.start()
    rabbit.wait()
    casting.result(120)
    for each in [*calls, *[caller.later(call, number) for number in range(1, networks, 2)]]:
        each.result(120)
    node.wait_connected()
    assert not lost
    assert sorted(answered) == list(range(networks))
    found = {each["id"]: each["label"] for each in node.agent.get("networks")}
    assert found == {network_id(number + 1): f"label {revisions}" for number in range(networks)}
    assert all(described(node, number + 1) for number in range(networks))
    node.agent.stop()
