"""The API on the real engine, with the strict fakes for a kernel: both agree on what they say to each other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient

from nova_netagent.api.agent import Agent
from nova_netagent.api.app import make_app
from nova_netagent.model import State, document
from nova_netagent.netfilter.rule import TableId
from nova_netagent.testing import instance_id, make_floating_ip, make_group, make_instance, make_network, make_rule
from tests.properties.host import Host
from tests.unit.api.stub_engine import about
from tests.unit.api.test_objects import body, error, path

GROUP = make_group(1, make_rule(1, protocol="tcp", port_range_min=22, port_range_max=22))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    found = Host(tmp_path)
    yield found
    found.engine.close()


@pytest.fixture
def client(host: Host) -> TestClient:
    def submit(request: Any) -> Any:
        host.engine.serve([request])
        return request.answer.result(timeout=0)

    agent = Agent(
        submit=submit,
        view=lambda: host.engine.view,
        live=lambda: (True, ""),
        about=about,
        metrics=host.metrics,
    )
    return TestClient(make_app(agent))


def test_objects_arrive_in_any_order_and_come_to_be_done(client: TestClient) -> None:
    first = client.simulate_put(path(make_instance(1)), json=body(make_instance(1, groups=(1,))))
    assert first.status_code == 202
    assert client.simulate_put(path(GROUP), json=body(GROUP)).status_code == 201
    assert client.simulate_put(path(make_network(1)), json=body(make_network(1))).status_code == 201
    assert client.simulate_get(path(make_instance(1))).json["status"]["state"] == "done"
    assert client.simulate_get("/v1/status").json["counts"] == {"done": 3, "pending": 0, "error": 0}
    assert client.simulate_delete(path(GROUP)).status_code == 204
    assert client.simulate_get(path(make_instance(1))).json["status"]["state"] == "pending"


def test_a_state_is_planned_applied_and_exported(client: TestClient) -> None:
    state = document(State(networks=(make_network(1),), instances=(make_instance(1, (1,)),), security_groups=(GROUP,)))
    planned = client.simulate_put("/v1/state?dry_run=true", json=state).json["plan"]
    assert any("--dport 22" in line for line in planned)
    assert client.simulate_put("/v1/state", json=state).json["counts"] == {"done": 3, "pending": 0, "error": 0}
    assert client.simulate_put("/v1/state", json=state).json["change"] == "unchanged"
    assert client.simulate_get("/v1/state").json == state
    assert client.simulate_get("/v1/plan").json == {"plan": []}


def test_what_a_state_is_older_in_stays_and_is_told(client: TestClient) -> None:
    newer = make_network(1, revision=7)
    client.simulate_put(path(newer), json=body(newer))
    older = document(State(networks=(make_network(1, revision=6, label="older"),)))
    kept = [
        {"kind": "networks", "id": newer.id, "message": f"revision 6 of {newer.id} is below the stored 7"},
    ]
    assert client.simulate_put("/v1/state?dry_run=true", json=older).json == {"plan": [], "kept": kept}
    result = client.simulate_put("/v1/state", json=older).json
    assert (result["change"], result["kept"]) == ("unchanged", kept)
    assert client.simulate_get("/v1/state").json == document(State(networks=(newer,)))


def test_a_second_network_on_the_same_range_is_503_and_stays(client: TestClient) -> None:
    client.simulate_put(path(make_network(1)), json=body(make_network(1)))
    clash = make_network(2, cidr="10.1.0.0/25", gateway="10.1.0.2")
    result = client.simulate_put(path(clash), json=body(clash))
    assert result.status_code == 503
    assert make_network(1).id in error(result)["message"]
    assert client.simulate_get(path(clash)).json["status"]["state"] == "error"


def test_an_address_of_the_host_is_no_floating_ip(client: TestClient, host: Host) -> None:
    host.links.addresses.add(("eth0", "198.51.100.1/24"))
    result = client.simulate_put(path(make_floating_ip(1)), json=body(make_floating_ip(1)))
    assert result.status_code == 503
    assert error(result)["message"] == "198.51.100.1 is an address of this host already"


def test_chains_tell_what_each_rule_is_there_for(client: TestClient) -> None:
    for item in (make_network(1), GROUP, make_instance(1, groups=(1,))):
        client.simulate_put(path(item), json=body(item))
    chains = client.simulate_get("/v1/chains?table=filter&family=4").json["chains"]
    names = [chain["chain"] for chain in chains]
    assert "FORWARD" in names
    (instance,) = [chain for chain in chains if chain["chain"] == "nova-netagent-inst-a0000001"]
    assert {"instances"} <= {rule["origin"][0] for rule in instance["rules"] if rule["origin"]}
    assert {instance_id(1)} <= {rule["origin"][1] for rule in instance["rules"] if rule["origin"]}


def test_a_resync_repairs_and_tells(client: TestClient, host: Host) -> None:
    client.simulate_put(path(make_network(1)), json=body(make_network(1)))
    assert client.simulate_post("/v1/resync").json == {"repaired": []}
    host.backend.change(TableId(4, "filter"), "FORWARD", ())
    assert client.simulate_get("/v1/plan").json["plan"]
    assert client.simulate_post("/v1/resync").json["repaired"]
    assert client.simulate_get("/v1/plan").json == {"plan": []}


def test_flows_that_could_not_be_cut_are_told(client: TestClient, host: Host) -> None:
    for item in (make_network(1), GROUP, make_instance(1, groups=(1,))):
        client.simulate_put(path(item), json=body(item))
    host.flows.broken = 1
    assert client.simulate_delete(path(GROUP)).status_code == 204
    status = client.simulate_get("/v1/status").json
    assert "cannot be read" in status["failure"]
    assert status["enforcing"] is False
