"""``[rpc] sync_on_connect``: on every connection a controller is asked for the whole state."""

from collections.abc import Iterator
from typing import Any

import oslo_messaging
import pytest

from nova_netagent.testing import make_network, network_id
from tests.functional.agent.kernel import eventually, ip_rules
from tests.functional.rpc.conftest import Node, NodeMaker
from tests.functional.rpc.test_calls import body


class Controller:
    """Answers what it is told to; ``asked`` are the hosts that asked."""

    target = oslo_messaging.Target(namespace="netagent", version="1.0")

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Any = None
        self.meanwhile: Any = None

    def get_host_state(self, _context: object, host: str) -> Any:
        self.asked.append(host)
        if self.meanwhile is not None:
            self.meanwhile()
        return self.answer


@pytest.fixture(scope="module")
def controller(caller: Any) -> Iterator[Controller]:
    made = Controller()
    server = caller.answering("netagent-controller", made)
    yield made
    server.stop()
    server.wait()


@pytest.fixture(scope="module")
def synced(make_node: NodeMaker, controller: Controller) -> Node:
    node = make_node({"DEFAULT": {"rpc_response_timeout": 2}, "rpc": {"sync_on_connect": True}})
    eventually(lambda: controller.asked, within=10)
    return node


@pytest.fixture(autouse=True)
def nothing_described(synced: Node, controller: Controller) -> Iterator[None]:
    synced.agent.state({})
    yield
    controller.answer = controller.meanwhile = None


def reconnect(node: Node) -> None:
    """Lose the broker and have it back."""
    node.gate.shut()
    node.wait_connected(False)
    node.gate.open()
    node.wait_connected()


def labels(node: Node) -> dict[str, str]:
    return {each["id"]: each["label"] for each in node.agent.get("networks")}


def test_the_state_is_asked_for_and_becomes_the_hosts(synced: Node, controller: Controller) -> None:
    synced.put(make_network(1), make_network(2))
    asked = len(controller.asked)
    controller.answer = {"networks": [body(make_network(2, label="new")), body(make_network(3))]}
    reconnect(synced)
    eventually(lambda: labels(synced) == {network_id(2): "new", network_id(3): "net3"}, within=10)
    assert controller.asked[asked:] == [synced.name]
    eventually(lambda: synced.rpc()["synced_at"], within=5)
    saved = ip_rules(synced.host)
    assert "br3" in saved
    assert "br1" not in saved
    assert synced.rpc()["failure"] == ""


def test_a_controller_without_a_state_sweeps_nothing(synced: Node, controller: Controller) -> None:
    synced.put(make_network(1))
    before = synced.rpc()["synced_at"]
    asked = len(controller.asked)
    reconnect(synced)
    eventually(lambda: len(controller.asked) > asked, within=10)
    synced.agent.resync()
    assert labels(synced) == {network_id(1): "net1"}
    assert synced.rpc()["synced_at"] == before


def test_an_answer_that_is_no_state_sweeps_nothing_and_is_asked_for_again(synced: Node, controller: Controller) -> None:
    synced.put(make_network(1))
    controller.answer = {"networks": [body(make_network(2)), {"id": network_id(3)}]}
    failed = synced.metric('netagent_rpc_syncs_total{result="failed"}')
    reconnect(synced)
    eventually(lambda: "networks[1].label: is required" in synced.rpc()["failure"], within=10)
    assert labels(synced) == {network_id(1): "net1"}
    assert synced.metric('netagent_rpc_syncs_total{result="failed"}') > failed

    controller.answer = {"networks": [body(make_network(2))]}
    eventually(lambda: labels(synced) == {network_id(2): "net2"}, within=20)
    eventually(lambda: synced.rpc()["failure"] == "", within=5)


def test_what_changes_while_the_controller_answers_is_newer_than_its_answer(
    synced: Node, controller: Controller
) -> None:
    synced.put(make_network(1), make_network(2), make_network(4))

    def meanwhile() -> None:
        synced.put(make_network(1, label="newer"), make_network(3))
        synced.delete(make_network(2))

    controller.meanwhile = meanwhile
    controller.answer = {"networks": [body(make_network(number, label="older")) for number in (1, 2, 5)]}
    reconnect(synced)
    eventually(lambda: network_id(5) in labels(synced), within=10)
    assert labels(synced) == {network_id(1): "newer", network_id(3): "net3", network_id(5): "older"}


def test_what_a_controllers_state_contradicts_or_is_older_in_is_told(synced: Node, controller: Controller) -> None:
    synced.put(make_network(1, revision=5))
    controller.answer = {"networks": [body(make_network(1, revision=5, label="another"))]}
    reconnect(synced)
    told = f"no state of a controller was applied: revision 5 of {network_id(1)} is stored with another body"
    eventually(lambda: synced.rpc()["failure"] == told, within=10)
    controller.answer = {"networks": [body(make_network(1, revision=4, label="older")), body(make_network(2))]}
    eventually(lambda: labels(synced) == {network_id(1): "net1", network_id(2): "net2"}, within=20)
    told = f"1 objects are newer here than the controller says, and stay: revision 4 of {network_id(1)}"
    eventually(lambda: told in synced.agent.log, within=5)
