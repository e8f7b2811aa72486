"""The whole state, plan, resync, chains, status and what watches the agent."""

from typing import Any

import pytest
from falcon.testing import TestClient
from msgspec.structs import replace

from nova_netagent.api.access import PEER, READ, Caller, Peer, Unauthorized, anybody, by_peer
from nova_netagent.api.answers import MOST_TROUBLES
from nova_netagent.api.app import make_app
from nova_netagent.api.host import WholeState
from nova_netagent.metrics import Metrics
from nova_netagent.model import State, document
from nova_netagent.testing import (
    group_id,
    instance_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    network_id,
    provider_rule_id,
)
from tests.unit.api.stub_engine import CHAINS, StubEngine
from tests.unit.api.test_objects import error

STATE = State(
    networks=(make_network(1, revision=7),),
    instances=(make_instance(1, groups=(1,)), make_instance(2, groups=(9,))),
    security_groups=(make_group(1, make_rule(1)),),
    floating_ips=(make_floating_ip(1),),
    provider_rules=(make_provider_rule(1),),
)
NONE = {"done": 0, "pending": 0, "error": 0}


def put_state(client: TestClient, state: object, query: str = "") -> Any:
    return client.simulate_put("/v1/state", json=state, query_string=query)


# --- state


def test_a_state_is_answered_with_counts_by_status(client: TestClient) -> None:
    result = put_state(client, document(STATE))
    assert result.status_code == 200
    assert result.json == {
        "change": "updated",
        "counts": {"done": 5, "pending": 1, "error": 0},
        "kinds": {
            "networks": {**NONE, "done": 1},
            "security_groups": {**NONE, "done": 1},
            "provider_rules": {**NONE, "done": 1},
            "instances": {**NONE, "done": 1, "pending": 1},
            "floating_ips": {**NONE, "done": 1},
        },
        "kept": [],
    }


def test_what_is_exported_is_imported_unchanged(client: TestClient) -> None:
    put_state(client, document(STATE))
    exported = client.simulate_get("/v1/state").json
    assert exported == document(STATE)
    assert put_state(client, exported).json["change"] == "unchanged"


def test_what_a_state_does_not_name_is_removed(client: TestClient) -> None:
    put_state(client, document(STATE))
    assert put_state(client, {"networks": [document(make_network(2))]}).json["counts"] == {**NONE, "done": 1}
    assert [each["id"] for each in client.simulate_get("/v1/networks").json["networks"]] == [network_id(2)]
    put_state(client, {})
    assert client.simulate_get("/v1/state").json == document(State())


def test_a_dry_run_tells_and_changes_nothing(client: TestClient) -> None:
    result = put_state(client, document(State(networks=(make_network(1),))), "dry_run=true")
    assert (result.status_code, result.json) == (200, {"plan": [f"+ networks {network_id(1)}"], "kept": []})
    assert client.simulate_get("/v1/state").json == document(State())


def test_a_state_that_contradicts_a_revision_is_409(client: TestClient) -> None:
    put_state(client, document(STATE))
    for query in ("", "dry_run=true"):
        result = put_state(client, {"networks": [document(make_network(1, revision=7, label="b"))]}, query)
        assert error(result)["code"] == 409


def test_what_is_newer_here_than_a_state_is_told(client: TestClient) -> None:
    put_state(client, document(STATE))
    client.simulate_delete(f"/v1/provider-rules/{provider_rule_id(1)}", params={"revision": 4})
    older = {
        "networks": [document(make_network(1, revision=6, label="older")), document(make_network(2))],
        "provider_rules": [document(make_provider_rule(1, revision=4))],
    }
    buried = f"{provider_rule_id(1)} was deleted with revision 4: only a higher one makes it anew"
    kept = [
        {"kind": "networks", "id": network_id(1), "message": f"revision 6 of {network_id(1)} is below the stored 7"},
        {"kind": "provider_rules", "id": provider_rule_id(1), "message": buried},
    ]
    assert put_state(client, older, "dry_run=true").json["kept"] == kept
    assert put_state(client, older).json["kept"] == kept
    assert client.simulate_get("/v1/state").json == document(
        State(networks=(make_network(1, revision=7), make_network(2)))
    )


def test_one_bad_object_refuses_a_state_as_a_whole(client: TestClient) -> None:
    result = put_state(client, {"networks": [document(make_network(1)), {"id": "x", "label": "a", "bridge": "b"}]})
    assert error(result)["field"] == "networks[1].id"
    assert client.simulate_get("/v1/networks").json == {"networks": []}


def test_a_state_that_the_kernel_cannot_have_is_503_and_stays(client: TestClient, engine: StubEngine) -> None:
    engine.failure = "another program holds the lock"
    assert error(put_state(client, document(STATE)))["message"] == engine.failure
    assert client.simulate_get("/v1/state").json == document(STATE)


def test_an_object_in_error_does_not_fail_a_state(client: TestClient, engine: StubEngine) -> None:
    engine.refused["networks", network_id(1)] = "no"
    result = put_state(client, document(STATE))
    assert (result.status_code, result.json["kinds"]["networks"]) == (200, {**NONE, "error": 1})


def test_a_large_state_is_read_and_written_aside(engine: StubEngine) -> None:
    aside = []

    def offload(function: Any) -> Any:
        aside.append(function)
        return function()

    agent = engine.agent()
    client = TestClient(make_app(type(agent)(**{**vars(agent), "offload": offload})))
    assert put_state(client, document(STATE)).status_code == 200
    assert client.simulate_get("/v1/state").json == document(STATE)
    assert len(aside) == 2


# --- the engine's own


def test_the_plan_of_now(client: TestClient, engine: StubEngine) -> None:
    assert client.simulate_get("/v1/plan").json == {"plan": []}
    engine.failure = "no"
    put_state(client, {"networks": [document(make_network(1))]})
    assert client.simulate_get("/v1/plan").json == {"plan": [f"+ networks {network_id(1)}"]}


def test_a_resync_tells_what_it_repaired(client: TestClient, engine: StubEngine) -> None:
    engine.drift = ["IPv4 filter: +FORWARD[1] -j nova-filter-top"]
    assert client.simulate_post("/v1/resync").json == {"repaired": ["IPv4 filter: +FORWARD[1] -j nova-filter-top"]}
    assert client.simulate_post("/v1/resync", json={}).json == {"repaired": []}


def test_a_resync_that_fails_is_503(client: TestClient, engine: StubEngine) -> None:
    engine.failure = "another program holds the lock"
    assert error(client.simulate_post("/v1/resync"))["message"] == engine.failure


def test_live_chains_have_counters_and_owners(client: TestClient) -> None:
    everything = client.simulate_get("/v1/chains").json["chains"]
    assert [each["chain"] for each in everything] == [each["chain"] for each in CHAINS]
    assert everything[0]["policy"] == "ACCEPT"
    assert everything[1]["rules"][0]["origin"][:2] == ["instances", instance_id(1)]
    assert everything[1]["rules"][0]["packets"] == 1_234_567
    nat = client.simulate_get("/v1/chains?table=nat&family=6").json["chains"]
    assert [each["chain"] for each in nat] == ["nova-netagent-snat"]
    assert client.simulate_get("/v1/chains?family=4&table=nat").json == {"chains": []}


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ("table=x", "table", "'x' is not one of filter, nat, mangle, raw"),
        ("family=5", "family", "'5' is not one of 4, 6"),
        ("chain=x", "chain", "is not a parameter of this call, which takes family, table"),
    ],
)
def test_chains_of_no_table(client: TestClient, query: str, field: str, message: str) -> None:
    found = error(client.simulate_get(f"/v1/chains?{query}"))
    assert (found["code"], found["field"], found["message"]) == (400, field, message)


@pytest.mark.parametrize("target", ["/v1/state", "/v1/plan", "/v1/status"])
def test_no_other_parameters(client: TestClient, target: str) -> None:
    assert error(client.simulate_get(f"{target}?x=1"))["field"] == "x"
    assert error(client.simulate_put("/v1/state?x=1", json={}))["field"] == "x"
    assert error(client.simulate_post("/v1/resync?x=1"))["field"] == "x"


# --- status


def test_the_status_at_a_glance(client: TestClient) -> None:
    put_state(client, document(STATE))
    report = client.simulate_get("/v1/status").json
    assert report.pop("uptime_seconds") == 90.2
    assert report.pop("kinds")["instances"] == {**NONE, "done": 1, "pending": 1}
    assert report == {
        "enforcing": True,
        "live": True,
        "ready": True,
        "failure": "",
        "warnings": [],
        "host": "node-1",
        "version": "1.2.3",
        "backend": "iptables",
        "see_with": "iptables-legacy-save",
        "started_at": "2026-09-21T14:13:20.000Z",
        "applied_at": "2026-09-21T14:13:25.000Z",
        "verified_at": "2026-09-21T14:13:25.000Z",
        "counts": {"done": 5, "pending": 1, "error": 0},
        "troubles": [
            {
                "kind": "instances",
                "id": instance_id(2),
                "state": "pending",
                "revision": 1,
                "message": f"security group {group_id(9)} is not there yet",
            }
        ],
        "troubles_total": 1,
        "rpc": None,
    }


def test_the_status_never_waits_for_the_engine(client: TestClient, engine: StubEngine) -> None:
    client.simulate_get("/v1/status")
    assert engine.served == 0


@pytest.mark.parametrize(
    ("ready", "failure", "live", "said"),
    [
        (False, "", (True, ""), "the stored state was not applied yet"),
        (True, "no permission", (True, ""), "no permission"),
        (True, "", (False, "the engine is busy for 40 s"), "the engine is busy for 40 s"),
    ],
)
def test_what_keeps_the_agent_from_enforcing(
    client: TestClient, engine: StubEngine, ready: bool, failure: str, live: tuple[bool, str], said: str
) -> None:
    engine.view = replace(engine.view, ready=ready, failure=failure)
    engine.alive = live
    report = client.simulate_get("/v1/status").json
    assert (report["enforcing"], report["failure"]) == (False, said)


def test_the_status_names_a_bounded_number_of_troubles(client: TestClient) -> None:
    many = State(instances=tuple(make_instance(number, groups=(9,)) for number in range(MOST_TROUBLES + 20)))
    put_state(client, document(many))
    report = client.simulate_get("/v1/status").json
    assert (len(report["troubles"]), report["troubles_total"]) == (MOST_TROUBLES, MOST_TROUBLES + 20)
    assert report["counts"] == {**NONE, "pending": MOST_TROUBLES + 20}


# --- health


def test_alive_is_while_the_loop_turns(client: TestClient, engine: StubEngine) -> None:
    assert client.simulate_get("/livez").status_code == 200
    engine.alive = (False, "the engine is busy for 40 s")
    result = client.simulate_get("/livez")
    assert result.status_code == 503
    assert error(result)["message"] == "the engine is busy for 40 s"


def test_ready_is_once_the_stored_state_was_applied(client: TestClient, engine: StubEngine) -> None:
    assert client.simulate_get("/readyz").status_code == 200
    engine.view = replace(engine.view, ready=False)
    assert error(client.simulate_get("/readyz"))["message"] == "the stored state was not applied yet"
    engine.view = replace(engine.view, failure="another program holds the lock")
    result = client.simulate_get("/readyz")
    assert result.status_code == 503
    assert error(result)["message"] == "another program holds the lock"


def test_the_versions(client: TestClient) -> None:
    found = client.simulate_get("/").json
    assert (found["name"], found["version"]) == ("nova-netagent", "1.2.3")
    assert [each["id"] for each in found["versions"]] == ["v1.0"]
    links = {each["rel"]: client.simulate_get(each["href"]) for each in found["versions"][0]["links"]}
    assert links["self"].json == {"version": found["versions"][0]}
    assert links["describedby"].json["openapi"] == "3.1.0"


# --- HEAD (RFC 9110, 9.3.2)


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/", 200),
        ("/openapi.json", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/v1/status", 200),
        ("/v1/state", 200),
        ("/v1/plan", 200),
        ("/v1/networks", 200),
        ("/v1/networks/", 200),
        ("/v1/networks?limit=0", 400),
        (f"/v1/networks/{network_id(1)}", 200),
        (f"/v1/networks/{network_id(9)}", 404),
        ("/nowhere", 404),
        ("/v1/resync", 405),
    ],
)
def test_head_is_get_without_a_body(client: TestClient, target: str, code: int) -> None:
    put_state(client, document(STATE))
    path, _, query = target.partition("?")
    client.simulate_get(path, query_string=query)  # the first is counted in /metrics
    got, head = client.simulate_get(path, query_string=query), client.simulate_head(path, query_string=query)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.status_code == code
    same = head.headers.keys() - ({"content-length"} if path in ("/metrics", "/v1/status") else set())
    assert {name: got.headers[name] for name in same} == {name: head.headers[name] for name in same}
    assert int(head.headers["content-length"]) > 0


def test_head_of_an_agent_that_is_not_ready_is_503(client: TestClient, engine: StubEngine) -> None:
    engine.view = replace(engine.view, ready=False)
    engine.alive = (False, "stuck")
    for target in ("/readyz", "/livez"):
        assert client.simulate_head(target).status_code == 503


def test_head_is_let_in_as_get_is(engine: StubEngine) -> None:
    def stranger(_environ: object) -> Caller:
        raise Unauthorized("who are you?", "Keystone")

    for gate, code in ((stranger, 401), (lambda _: Caller("nobody", frozenset()), 403), (anybody, 200)):
        client = TestClient(make_app(engine.agent(), gate))
        for target in ("/livez", "/v1/state"):
            head = client.simulate_head(target)
            assert (head.status_code, head.content) == (code, b"")
            assert client.simulate_get(target).status_code == code


def test_head_takes_what_get_takes(engine: StubEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WholeState, "NEEDS", {"GET": "admin"})
    client = TestClient(make_app(engine.agent(), lambda _: Caller("reader", READ)))
    assert client.simulate_get("/v1/state").status_code == 403
    assert client.simulate_head("/v1/state").status_code == 403


# --- metrics


def test_requests_are_counted_by_route_and_not_by_path(engine: StubEngine) -> None:
    metrics = Metrics()
    client = TestClient(make_app(engine.agent(metrics=metrics)))
    for number in range(3):
        client.simulate_get(f"/v1/networks/{network_id(number)}")
        client.simulate_get(f"/nowhere/{number}")
    client.simulate_put("/v1/state", json={})
    client.simulate_post("/v1/networks")

    def count(method: str, route: str, code: str) -> float | None:
        labels = {"method": method, "route": route, "code": code}
        return metrics.registry.get_sample_value("netagent_http_requests_total", labels)

    assert count("GET", "/v1/networks/{id}", "404") == 3
    assert count("GET", "none", "404") == 3
    assert count("PUT", "/v1/state", "200") == 1
    assert count("POST", "/v1/networks", "405") == 1
    client.simulate_head("/livez")
    assert (count("HEAD", "/livez", "200"), count("GET", "/livez", "200")) == (1, None)
    seconds = {"method": "GET", "route": "/v1/networks/{id}"}
    assert metrics.registry.get_sample_value("netagent_http_request_seconds_count", seconds) == 3


def test_metrics_tell_of_the_objects_by_kind_and_state(client: TestClient) -> None:
    put_state(client, document(STATE))
    result = client.simulate_get("/metrics")
    assert result.headers["content-type"].startswith("text/plain; version=")
    assert 'netagent_objects{kind="instances",state="pending"} 1.0' in result.text
    assert 'netagent_objects{kind="floating_ips",state="error"} 0.0' in result.text
    put_state(client, {})
    assert 'netagent_objects{kind="instances",state="pending"} 0.0' in client.simulate_get("/metrics").text


def test_changes_are_logged_with_who_asked(engine: StubEngine, caplog: pytest.LogCaptureFixture) -> None:
    client = TestClient(make_app(engine.agent(), by_peer(1000)))
    extras = {PEER: Peer(77, 1000, 1000)}
    with caplog.at_level("INFO"):
        client.simulate_delete(f"/v1/networks/{network_id(1)}", extras=extras)
        client.simulate_get("/v1/networks", extras=extras)
        client.simulate_post("/v1/res%0aync", extras=extras)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith(f"DELETE /v1/networks/{network_id(1)}: 404, ")
    assert lines[0].endswith(", by uid 1000 (process 77)")
    assert "\n" not in lines[1]
