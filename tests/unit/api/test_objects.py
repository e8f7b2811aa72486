"""Single objects and lists of them over HTTP."""

from typing import Any

import pytest
from falcon.testing import Result, TestClient

from nova_netagent.api.app import make_app
from nova_netagent.backend import RuleRefused, Unavailable
from nova_netagent.model import KINDS, Object, document
from nova_netagent.settings import ApiSettings
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
)
from tests.unit.api.stub_engine import StubEngine

OBJECTS: tuple[Object, ...] = (
    make_network(1),
    make_group(1, make_rule(1)),
    make_instance(1, groups=(1,)),
    make_floating_ip(1),
    make_provider_rule(1),
)
NETWORK = f"/v1/networks/{network_id(1)}"


def path(item: Object) -> str:
    return f"/v1/{item.KIND.replace('_', '-')}/{item.id}"


def body(item: Object, **fields: object) -> dict[str, Any]:
    found = document(item)
    assert isinstance(found, dict)
    return {**found, **fields}


def put(client: TestClient, item: Object, query: str = "", **fields: object) -> Result:
    return client.simulate_put(path(item), json=body(item, **fields), query_string=query)


def error(result: Result) -> dict[str, Any]:
    """What a refusal says; its code is the status, and it has no more and no fewer fields than promised."""
    assert set(result.json) == {"error"}
    found: dict[str, Any] = result.json["error"]
    assert set(found) == {"code", "title", "message", "field"}
    assert found["code"] == result.status_code
    assert found["title"]
    assert result.headers["content-type"] == "application/json"
    return found


@pytest.fixture
def described(client: TestClient) -> TestClient:
    for item in OBJECTS:
        assert put(client, item).status_code == 201
    return client


# --- PUT


@pytest.mark.parametrize("item", OBJECTS, ids=lambda item: item.KIND)
def test_a_new_object_is_201_and_answers_what_it_is_now(client: TestClient, item: Object) -> None:
    if item.KIND == "instances":
        put(client, make_network(1))
        put(client, make_group(1, make_rule(1)))
    result = put(client, item)
    assert result.status_code == 201
    assert result.json == {**body(item), "status": {"state": "done", "revision": 1, "message": ""}}
    assert client.simulate_get(path(item)).json == result.json


def test_again_and_otherwise_are_200(client: TestClient) -> None:
    put(client, make_network(1))
    assert put(client, make_network(1)).status_code == 200
    changed = put(client, make_network(1), label="other")
    assert changed.status_code == 200
    assert changed.json["status"]["revision"] == 2
    assert changed.json["label"] == "other"


def test_the_body_needs_no_id(client: TestClient) -> None:
    sent = body(make_network(1))
    del sent["id"]
    assert client.simulate_put(NETWORK.upper().replace("/V1/NETWORKS", "/v1/networks"), json=sent).status_code == 201
    assert client.simulate_get(NETWORK).json["id"] == network_id(1)


def test_nulls_are_as_if_left_out(client: TestClient) -> None:
    put(client, make_network(1))
    assert put(client, make_network(1), vlan=None, mtu=None, dns1=None, revision=None).json["status"]["revision"] == 1


def test_what_waits_for_another_is_202_until_that_comes(client: TestClient) -> None:
    put(client, make_network(1))
    waiting = put(client, make_instance(1, groups=(1,)))
    assert waiting.status_code == 202
    assert waiting.json["status"] == {
        "state": "pending",
        "revision": 1,
        "message": f"security group {group_id(1)} is not there yet",
    }
    put(client, make_group(1))
    assert client.simulate_get(path(make_instance(1))).json["status"]["state"] == "done"


def test_wait_false_is_202_as_soon_as_it_is_on_disk(client: TestClient, engine: StubEngine) -> None:
    engine.failure = "the kernel is gone"
    result = put(client, make_network(1), "wait=false")
    assert result.status_code == 202
    assert result.json["status"]["state"] == "pending"
    assert put(client, make_network(2), "wait=FALSE").status_code == 202
    assert put(client, make_network(3), "wait=true").status_code == 503


def test_a_refused_object_is_503_with_its_reason_and_stays(client: TestClient, engine: StubEngine) -> None:
    engine.refused["networks", network_id(1)] = "10.1.0.0/24 overlaps that of network 7"
    result = put(client, make_network(1))
    assert result.status_code == 503
    assert error(result)["message"] == "10.1.0.0/24 overlaps that of network 7"
    stored = client.simulate_get(NETWORK)
    assert stored.status_code == 200
    assert stored.json["status"]["state"] == "error"


def test_a_kernel_that_cannot_have_it_is_503_and_it_stays(client: TestClient, engine: StubEngine) -> None:
    engine.failure = "another program holds the lock"
    result = put(client, make_network(1))
    assert result.status_code == 503
    assert error(result)["message"] == "another program holds the lock"
    assert client.simulate_get(NETWORK).json["status"] == {
        "state": "pending",
        "revision": 1,
        "message": "another program holds the lock",
    }


def test_a_disk_that_does_not_take_it_is_503_and_it_is_not_stored(client: TestClient, engine: StubEngine) -> None:
    engine.store_failure = "disk full"
    assert error(put(client, make_network(1)))["code"] == 503
    assert client.simulate_get(NETWORK).status_code == 404


def test_a_lower_revision_is_409_and_changes_nothing(client: TestClient) -> None:
    assert put(client, make_network(1), revision=5).json["status"]["revision"] == 5
    late = put(client, make_network(1), revision=4, label="late")
    assert late.status_code == 409
    assert error(late)["message"] == f"revision 4 of {network_id(1)} is below the stored 5"
    assert put(client, make_network(1), revision=5).status_code == 200
    assert put(client, make_network(1), revision=5, label="another").status_code == 409
    assert client.simulate_get(NETWORK).json["label"] == "net1"


def test_what_is_put_without_a_revision_has_the_stored_one(client: TestClient) -> None:
    put(client, make_network(1), revision=5)
    for label in ("net1", "another"):
        answered = put(client, make_network(1), label=label)
        assert answered.json == client.simulate_get(NETWORK).json
        assert (answered.json["label"], answered.json["revision"]) == (label, 5)
        assert answered.json["status"]["revision"] == 5
    assert put(client, make_network(1), revision=5, label="another").status_code == 200
    assert put(client, make_network(1), revision=4).status_code == 409


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"id": network_id(2)}, "id"),
        ({"vlan": 4095}, "vlan"),
        ({"mtu": 67}, "mtu"),
        ({"mtu": 1279}, "mtu"),
        ({"gateway": "10.2.0.1"}, "gateway"),
        ({"dhcp_start": "10.2.0.1"}, "dhcp_start"),
        ({"unknown": 1}, "unknown"),
        ({"label": None}, "label"),
    ],
)
def test_a_bad_field_is_400_and_changes_nothing(client: TestClient, fields: dict[str, Any], field: str) -> None:
    result = put(client, make_network(1), **fields)
    assert result.status_code == 400
    assert error(result)["field"] == field
    assert client.simulate_get("/v1/networks").json == {"networks": []}


def test_a_bad_id_in_the_path_is_400_for_what_would_be_made_and_404_for_what_is_sought(client: TestClient) -> None:
    assert error(client.simulate_put("/v1/networks/net", json=body(make_network(1))))["field"] == "id"
    for method in ("GET", "DELETE"):
        assert error(client.simulate_request(method, "/v1/networks/net"))["message"] == "there is no network net"


# --- bodies


def test_a_body_without_a_length_is_411(client: TestClient) -> None:
    app = make_app(StubEngine().agent())
    for headers in ({"Transfer-Encoding": "chunked"}, {}):
        result = TestClient(app).simulate_put(NETWORK, headers=headers)
        assert result.status_code == 411
        assert error(result)["message"] == "send the body with a Content-Length, not in chunks"


def test_a_large_body_is_413_before_it_is_read(engine: StubEngine) -> None:
    client = TestClient(make_app(engine.agent(ApiSettings(max_body_size=1000, max_state_size=2000))))
    result = client.simulate_put(NETWORK, body=b" " * 1001)
    assert result.status_code == 413
    assert error(result)["message"] == "the body has 1001 bytes, at most 1000 are taken here"
    assert client.simulate_put(NETWORK, body=b" " * 1000).status_code == 400
    assert client.simulate_put("/v1/state", body=b" " * 2000).status_code == 400
    assert client.simulate_put("/v1/state", body=b" " * 2001).status_code == 413


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", "application/x+json"])
def test_json_is_taken(client: TestClient, content_type: str) -> None:
    result = client.simulate_put(NETWORK, body=b'{"label": "a", "bridge": "b"}', headers={"Content-Type": content_type})
    assert result.status_code == 201


def test_an_encoded_body_is_415(client: TestClient) -> None:
    path, body = f"/v1/security-groups/{group_id(1)}", {"id": group_id(1), "rules": []}
    result = client.simulate_put(path, json=body, headers={"Content-Encoding": "gzip"})
    assert result.status_code == 415
    assert "said to be in gzip" in result.json["error"]["message"]
    assert client.simulate_put(path, json=body, headers={"Content-Encoding": "identity"}).status_code == 201


def test_another_type_is_415(client: TestClient) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    result = client.simulate_put(NETWORK, body=b'{"label": "a", "bridge": "b"}', headers=headers)
    assert result.status_code == 415
    assert error(result)["message"] == (
        "the body is said to be application/x-www-form-urlencoded; only application/json is taken"
    )


# --- DELETE


def test_a_deleted_object_is_gone(described: TestClient) -> None:
    for item in OBJECTS:
        result = described.simulate_delete(path(item))
        assert (result.status_code, result.content) == (204, b"")
        assert described.simulate_get(path(item)).status_code == 404
        assert error(described.simulate_delete(path(item)))["code"] == 404


def test_what_is_not_there_is_named(client: TestClient) -> None:
    assert error(client.simulate_get("/v1/floating-ips/1.2.3.4"))["message"] == "there is no floating IP 1.2.3.4"
    missing = f"/v1/security-groups/{group_id(9)}"
    assert error(client.simulate_delete(missing))["message"] == f"there is no security group {group_id(9)}"


def test_a_numbered_deletion_is_remembered(client: TestClient) -> None:
    put(client, make_network(1), revision=5)
    assert client.simulate_delete(NETWORK, query_string="revision=4").status_code == 409
    assert client.simulate_delete(NETWORK, query_string="revision=6").status_code == 204
    assert put(client, make_network(1), revision=6).status_code == 409
    assert put(client, make_network(1), revision=7).status_code == 201


def test_a_numbered_deletion_of_what_is_not_there_is_remembered_too(client: TestClient) -> None:
    assert client.simulate_delete(NETWORK, query_string="revision=6").status_code == 404
    assert put(client, make_network(1), revision=6).status_code == 409


def test_a_deletion_that_the_kernel_cannot_have_is_503(described: TestClient, engine: StubEngine) -> None:
    engine.failure = "another program holds the lock"
    assert error(described.simulate_delete(NETWORK))["code"] == 503


def test_deleting_what_others_refer_to_leaves_them_pending(described: TestClient) -> None:
    assert described.simulate_delete(NETWORK).status_code == 204
    assert described.simulate_get(path(make_instance(1))).json["status"]["state"] == "pending"


# --- lists


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_stands_under_its_kind_with_underscores(described: TestClient, kind: str) -> None:
    result = described.simulate_get(f"/v1/{kind.replace('_', '-')}")
    assert set(result.json) == {kind}
    (only,) = result.json[kind]
    assert only["status"]["state"] == "done"
    assert described.simulate_get(f"/v1/{kind.replace('_', '-')}/{only['id']}").json == only


def test_an_underscore_in_a_path_is_nothing(client: TestClient) -> None:
    assert error(client.simulate_get("/v1/security_groups"))["message"] == "there is nothing at this path"


def test_a_list_is_whole_unless_a_limit_is_given(client: TestClient) -> None:
    for number in range(150):
        put(client, make_provider_rule(number))
    assert len(client.simulate_get("/v1/provider-rules").json["provider_rules"]) == 150


def test_pages_follow_each_other_to_the_end(client: TestClient) -> None:
    for number in (3, 1, 5, 2, 4):
        put(client, make_network(number))
    seen: list[str] = []
    next_page: str | None = "/v1/networks?limit=2"
    while next_page is not None:
        page = client.simulate_get(next_page).json
        seen += [each["id"] for each in page["networks"]]
        links = page.get("networks_links", [])
        assert all(link["rel"] == "next" for link in links)
        next_page = links[0]["href"] if links else None
    assert seen == [network_id(number) for number in range(1, 6)]


def test_a_marker_need_not_be_there_any_more(client: TestClient) -> None:
    for number in (1, 3):
        put(client, make_network(number))
    found = client.simulate_get("/v1/networks", query_string=f"marker={network_id(2).upper()}").json
    assert [each["id"] for each in found["networks"]] == [network_id(3)]


def test_a_list_of_many_is_written_aside(client: TestClient, engine: StubEngine) -> None:
    for number in range(60):
        put(client, make_instance(number))
    aside = []

    def offload(function: Any) -> Any:
        aside.append(function)
        return function()

    agent = engine.agent()
    slow = TestClient(make_app(type(agent)(**{**vars(agent), "offload": offload})))
    assert len(slow.simulate_get("/v1/instances").json["instances"]) == 60
    assert len(aside) == 1


# --- parameters and methods


@pytest.mark.parametrize(
    ("method", "target", "field", "message"),
    [
        ("GET", "/v1/networks?x=1", "x", "is not a parameter of this call, which takes limit, marker"),
        ("GET", f"{NETWORK}?x=1", "x", "is not a parameter of this call, which takes none"),
        ("GET", "/v1/networks?limit=0", "limit", "'0' is not an integer from 1 to 10000"),
        ("GET", "/v1/networks?limit=", "limit", "'' is not an integer from 1 to 10000"),
        ("GET", "/v1/networks?limit=%D9%A3", "limit", "'\u0663' is not an integer from 1 to 10000"),
        ("GET", "/v1/networks?limit=1&limit=2", "limit", "is given twice"),
        ("GET", "/v1/networks?marker=x", "marker", "'x' is not a UUID"),
        (
            "GET",
            "/v1/floating-ips?marker=255.255.255.255",
            "marker",
            "255.255.255.255 is not an address that a host can have",
        ),
        ("PUT", f"{NETWORK}?wait=maybe", "wait", "'maybe' is not true or false"),
        ("PUT", f"{NETWORK}?revision=1", "revision", "is not a parameter of this call, which takes wait"),
        ("DELETE", f"{NETWORK}?revision=-1", "revision", f"'-1' is not an integer from 0 to {2**63 - 1}"),
        ("DELETE", f"{NETWORK}?revision={2**63}", "revision", f"'{2**63}' is not an integer from 0 to {2**63 - 1}"),
        ("DELETE", f"{NETWORK}?wait=false", "wait", "is not a parameter of this call, which takes revision"),
    ],
)
def test_a_bad_parameter_is_400(client: TestClient, method: str, target: str, field: str, message: str) -> None:
    sent = {"body": b'{"label": "a", "bridge": "b"}'} if method == "PUT" else {}
    found = error(client.simulate_request(method, target, **sent))
    assert (found["code"], found["field"], found["message"]) == (400, field, message)


def test_another_method_is_405_and_told_which(client: TestClient) -> None:
    result = client.simulate_post("/v1/networks")
    assert result.status_code == 405
    assert error(result)["message"] == "this path takes GET, HEAD, OPTIONS"
    assert error(client.simulate_patch(NETWORK))["message"] == "this path takes DELETE, GET, HEAD, PUT, OPTIONS"
    assert client.simulate_options(NETWORK).headers["allow"] == "DELETE, GET, HEAD, PUT"


def test_nothing_else_is_there(client: TestClient) -> None:
    for target in (
        "/v2/networks",
        "/v1/explanations",
        "/v1/networks/a/b",
        "/%ff",
        "/v1/networks/%00",
        "/v1/%2e%2e/x",
    ):
        assert error(client.simulate_get(target))["code"] == 404


def test_a_slash_at_the_end_is_no_id(client: TestClient) -> None:
    assert client.simulate_get("/v1/networks/").json == {"networks": []}
    assert client.simulate_delete("/v1/networks/").status_code == 405


# --- failures


def test_what_nobody_foresaw_is_500_and_says_nothing_of_the_inside(
    engine: StubEngine, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_request: object) -> None:
        raise KeyError("secret")

    engine.serve = fail  # type: ignore[assignment,method-assign]
    result = put(client, make_network(1))
    assert result.status_code == 500
    assert error(result)["message"] == "the agent failed to answer; its log has the reason"
    assert "secret" in caplog.text


@pytest.mark.parametrize("failure", [RuleRefused("no such match"), Unavailable("no permission")])
def test_a_kernel_that_cannot_be_read_is_503(client: TestClient, engine: StubEngine, failure: Exception) -> None:
    engine.read_failure = failure
    for target in ("/v1/plan", "/v1/chains"):
        assert error(client.simulate_get(target))["message"] == str(failure)


def test_instances_refer_by_their_ids(client: TestClient) -> None:
    floating = make_floating_ip(1, instance_id=instance_id(4))
    assert put(client, floating).json["status"]["message"] == f"instance {instance_id(4)} is not there yet"
