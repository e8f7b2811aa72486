"""One broker of several away, gone or half dead; a broker that does not let the agent in, and one that is at odds."""

from collections.abc import Iterator
from typing import Any

import kombu
import pytest

from nova_netagent.testing import make_network, network_id
from tests.functional.agent.kernel import eventually
from tests.functional.rpc.broker import PORT, URL, Broker
from tests.functional.rpc.conftest import Node, NodeMaker
from tests.functional.rpc.endurance import held
from tests.functional.rpc.test_broker import described
from tests.functional.rpc.test_calls import body

# --- several brokers in transport_url


@pytest.fixture(scope="module")
def two(make_node: NodeMaker) -> Node:
    """A host that knows of two brokers, neither of which is there yet."""
    # One that finds out soon that a connection is half dead.
    return make_node({"oslo_messaging_rabbit": {"heartbeat_timeout_threshold": 2}}, brokers=2, is_open=False)


def serves(node: Node, caller: Any) -> None:
    """Whether it hears and answers."""
    node.wait_connected()
    assert caller.call(node.name, "update", kind="networks", body=body(make_network(1)))["status"]["state"] == "done"
    assert described(node, 1)
    assert caller.call(node.name, "delete", kind="networks", id=network_id(1)) == {"deleted": True}


def test_where_the_first_broker_is_away_the_second_is_taken(two: Node, caller: Any) -> None:
    two.gates[1].open()
    serves(two, caller)


def test_where_the_one_it_has_ends_the_other_is_taken(two: Node, caller: Any) -> None:
    for old, new in ((1, 0), (0, 1)):
        two.gates[old].shut()
        two.gates[new].open()
        serves(two, caller)


def test_where_the_one_it_has_is_half_dead_the_other_is_taken(two: Node, caller: Any) -> None:
    two.gates[0].open()
    two.gates[1].freeze()
    two.wait_connected(False)
    serves(two, caller)


# --- a broker that does not let it in

USER, PASSWORD = "node", "not-to-be-told"


@pytest.fixture
def user(rabbit: Broker) -> Iterator[None]:
    rabbit.ctl("add_user", USER, PASSWORD)
    rabbit.ctl("set_permissions", USER, ".*", ".*", ".*")
    yield
    rabbit.ctl("delete_user", USER)


@pytest.fixture(scope="module")
def stranger(make_node: NodeMaker) -> Node:
    """A host whose user the broker does not know yet."""
    return make_node(user=f"{USER}:{PASSWORD}")


def test_one_whom_the_broker_does_not_know_says_so_and_enforces(stranger: Node) -> None:
    eventually(lambda: "ACCESS_REFUSED" in stranger.rpc()["failure"], within=10)
    assert not stranger.rpc()["connected"]
    stranger.put(make_network(1))
    assert described(stranger, 1)
    stranger.agent.state({})


@pytest.mark.usefixtures("user")
def test_it_is_served_once_it_is_known_and_again_after_its_password_was_another(
    stranger: Node, caller: Any, rabbit: Broker
) -> None:
    serves(stranger, caller)
    rabbit.ctl("change_password", USER, "another")
    stranger.gate.shut()
    stranger.gate.open()
    stranger.wait_connected(False)
    eventually(lambda: "ACCESS_REFUSED" in stranger.agent.log.split("RPC is connected")[-1], within=10)
    rabbit.ctl("change_password", USER, PASSWORD)
    serves(stranger, caller)
    assert PASSWORD not in stranger.agent.log
    assert stranger.rpc()["failure"] == ""


def test_one_whose_queue_somebody_declared_otherwise_says_so_and_is_served_when_it_is_gone(
    make_node: NodeMaker, caller: Any
) -> None:
    # A name that no host of another test had: whoever lost this queue would declare it again.
    late = make_node({"DEFAULT": {"host": "at-odds"}}, is_open=False)
    with kombu.Connection(URL.format(PORT).replace("rabbit:", "amqp:")) as connection:
        queue = kombu.Queue(f"network.{late.name}", durable=True, auto_delete=True, channel=connection.channel())
        queue.delete()  # of a host of this name that another module had
        queue.declare()
        late.gate.open()
        eventually(lambda: "PRECONDITION_FAILED" in late.rpc()["failure"], within=10)
        assert not late.rpc()["connected"]
        descriptors = held(late.agent.pid).descriptors
        eventually(lambda: late.agent.log.count("RPC is not served") >= 4, within=10)
        eventually(lambda: held(late.agent.pid).descriptors <= descriptors, within=2)
        queue.delete()
    serves(late, caller)
