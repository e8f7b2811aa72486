"""Calls, casts and fanout over a real RabbitMQ: done when durable and in the kernel."""

from typing import Any

import oslo_messaging
import pytest

from nova_netagent.model import Object, document
from nova_netagent.rpc import errors
from nova_netagent.testing import instance_id, make_instance, make_network, network_id
from tests.functional.agent.kernel import eventually, ip_rules, metric
from tests.functional.agent.meddling import DRIFT
from tests.functional.rpc.conftest import Node

DONE = {"state": "done", "revision": 1, "message": ""}


def body(item: Object, **fields: Any) -> dict[str, Any]:
    """An object as a controller sends it."""
    found: Any = document(item)
    return {**found, **fields}


@pytest.fixture(autouse=True)
def nothing_described(node: Node) -> None:
    node.agent.state({})


def test_an_update_answers_when_the_kernel_has_it_and_a_deletion_when_it_has_not(node: Node, caller: Any) -> None:
    answer = caller.call(node.name, "update", kind="network", body=body(make_network(1)))
    assert answer == {**body(make_network(1)), "status": DONE}
    assert "br1" in ip_rules(node.host)
    assert node.agent.get("networks", network_id(1))["status"] == DONE

    assert caller.call(node.name, "delete", kind="networks", id=network_id(1)) == {"deleted": True}
    assert "br1" not in ip_rules(node.host)
    assert caller.call(node.name, "delete", kind="networks", id=network_id(1)) == {"deleted": False}


def test_what_waits_for_another_is_answered_as_pending(node: Node, caller: Any) -> None:
    answer = caller.call(node.name, "update", kind="instances", body=body(make_instance(1)))
    assert answer["status"]["state"] == "pending"
    assert network_id(1) in answer["status"]["message"]


def test_a_sync_makes_the_host_match(node: Node, caller: Any) -> None:
    caller.call(node.name, "update", kind="networks", body=body(make_network(1)))
    answer = caller.call(node.name, "sync", state={"networks": [body(make_network(2))]})
    assert answer["change"] == "updated"
    assert answer["counts"] == {"done": 1, "pending": 0, "error": 0}
    saved = ip_rules(node.host)
    assert "br2" in saved
    assert "br1" not in saved
    assert caller.call(node.name, "sync", state={"networks": [body(make_network(2))]})["change"] == "unchanged"


def test_what_is_held_can_be_read(node: Node, caller: Any) -> None:
    caller.call(node.name, "update", kind="networks", body=body(make_network(1)))
    one = caller.call(node.name, "get", kind="networks", id=network_id(1))
    assert one == node.agent.get("networks", network_id(1))
    assert caller.call(node.name, "get", kind="networks") == {"networks": [one]}
    status = caller.call(node.name, "status")
    assert status["enforcing"]
    assert status["rpc"]["connected"]
    assert status["host"] == node.name


def test_a_resync_repairs_and_tells(node: Node, caller: Any) -> None:
    DRIFT[node.backend]["a verdict is turned"](node.host)
    assert caller.call(node.name, "resync")["repaired"]
    assert caller.call(node.name, "resync") == {"repaired": []}


@pytest.mark.parametrize(
    ("method", "arguments", "field"),
    [
        ("update", {"kind": "networks"}, "body"),
        ("update", {"kind": "networks", "body": []}, "body"),
        ("update", {"kind": "cats", "body": {}}, "kind"),
        ("update", {"kind": "networks", "body": body(make_network(1), cidr="nowhere")}, "cidr"),
        ("update", {"kind": "networks", "body": body(make_network(1), cat=1)}, "cat"),
        ("update", {"kind": "networks", "body": {}, "wait": True}, "wait"),
        ("delete", {"kind": "networks", "id": "one"}, "id"),
        ("delete", {"kind": "networks", "id": network_id(1), "revision": "one"}, "revision"),
        ("sync", {"state": {"networks": [{"id": network_id(1)}]}}, "networks[0].label"),
        ("get", {"kind": "networks", "id": 3}, "id"),
        ("resync", {"_context": {}}, "_context"),
    ],
)
def test_a_bad_argument_is_named(node: Node, caller: Any, method: str, arguments: Any, field: str) -> None:
    with pytest.raises(errors.BadArgument) as raised:
        caller.call(node.name, method, **arguments)
    assert raised.value.kwargs == {"field": field}
    assert field in str(raised.value)
    assert node.agent.state() == {each: [] for each in node.agent.state()}


def test_what_is_not_there_is_not_found(node: Node, caller: Any) -> None:
    with pytest.raises(errors.NotFound):
        caller.call(node.name, "get", kind="instances", id=instance_id(1))


def test_a_late_revision_changes_nothing(node: Node, caller: Any) -> None:
    caller.call(node.name, "update", kind="networks", body=body(make_network(1), revision=5))
    with pytest.raises(errors.Late):
        caller.call(node.name, "update", kind="networks", body=body(make_network(1), revision=4, label="old"))
    assert node.agent.get("networks", network_id(1))["label"] == "net1"
    repeated = caller.call(node.name, "update", kind="networks", body=body(make_network(1), revision=5))
    assert repeated["status"]["state"] == "done"


def test_methods_and_versions_that_are_none(node: Node, caller: Any) -> None:
    refused = node.metric('netagent_rpc_messages_total{method="unknown",result="refused"}')
    with pytest.raises(oslo_messaging.RemoteError) as raised:
        caller.call(node.name, "target")
    assert raised.value.exc_type == "NoSuchMethod"
    with pytest.raises(oslo_messaging.RemoteError) as raised:
        caller.nova(node.name, "update_dns", "2.0", network_ids=[])
    assert raised.value.exc_type == "UnsupportedVersion"
    assert node.metric('netagent_rpc_messages_total{method="unknown",result="refused"}') == refused + 2


def test_a_cast_is_done_and_a_bad_one_is_counted(node: Node, caller: Any) -> None:
    refused = node.metric('netagent_rpc_messages_total{method="update",result="refused"}')
    caller.cast(node.name, "update", kind="networks", body={})
    caller.cast(node.name, "update", kind="networks", body=body(make_network(3)))
    eventually(lambda: "br3" in ip_rules(node.host), within=10)
    assert node.metric('netagent_rpc_messages_total{method="update",result="refused"}') == refused + 1
    assert "update: id: is required" in node.agent.log


def test_casts_of_one_sender_are_applied_in_its_order(node: Node, caller: Any) -> None:
    """Without revisions as well: nothing is handed to several threads before the engine has it."""
    for number in range(100):
        caller.cast(node.name, "update", kind="networks", body=body(make_network(1), label=f"label {number}"))
    answer = caller.call(node.name, "get", kind="networks", id=network_id(1))
    assert answer["label"] == "label 99"
    assert answer["status"]["revision"] == 100


def test_calls_that_come_together_share_the_engines_commits(node: Node, caller: Any) -> None:
    commits = metric(node.agent, "applies_total", table="filter")
    bodies = [body(make_network(number)) for number in range(1, 17)]
    answers = [caller.later(caller.call, node.name, "update", kind="networks", body=each) for each in bodies]
    assert [each.result(30)["status"]["state"] for each in answers] == ["done"] * 16
    assert metric(node.agent, "applies_total", table="filter") - commits < 16
    took = node.metric('netagent_event_to_kernel_seconds_count{kind="networks",source="rpc"}')
    assert took >= 16
