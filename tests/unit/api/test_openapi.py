"""The description says what the API does: no more, no less."""

import json
import re
from typing import Any

import pytest
from falcon import inspect
from falcon.testing import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from nova_netagent.api import openapi, schemas, wire
from nova_netagent.api.app import make_app
from nova_netagent.model import KINDS, State, document
from nova_netagent.testing import make_id, make_network
from tests.properties.strategies import states
from tests.unit.api.bodies import mutated
from tests.unit.api.stub_engine import StubEngine

DESCRIPTION: dict[str, Any] = json.loads(openapi.description("1.2.3"))
ID = make_id("e", 1)


def schema(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": DESCRIPTION["components"]})


def fits(name: str, body: object) -> bool:
    return bool(schema(name).is_valid(body))


def test_it_is_openapi() -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(DESCRIPTION)


@pytest.mark.parametrize("name", DESCRIPTION["components"]["schemas"])
def test_every_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(DESCRIPTION["components"]["schemas"][name])


def test_it_is_served(client: TestClient) -> None:
    assert client.simulate_get("/openapi.json").json == DESCRIPTION


def test_every_route_and_method_is_described_and_no_other() -> None:
    """HEAD goes without saying: it is wherever GET is."""
    routes = inspect.inspect_routes(make_app(StubEngine().agent()))
    served = {(route.path, m.method.lower()) for route in routes for m in route.methods if not m.internal}
    described = {(path, m) for path, item in DESCRIPTION["paths"].items() for m in item if m != "parameters"}
    assert served == described | {(path, "head") for path, method in described if method == "get"}


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [
        op["operationId"] for item in DESCRIPTION["paths"].values() for op in item.values() if isinstance(op, dict)
    ]
    assert len(names) == len(set(names))


def test_every_reference_leads_somewhere() -> None:
    for reference in _references(DESCRIPTION):
        found: Any = DESCRIPTION
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [each for inner in value.values() for each in _references(inner)]
    if isinstance(value, list):
        return [each for inner in value for each in _references(inner)]
    return []


def test_the_examples_are_what_the_api_takes() -> None:
    for path, item in DESCRIPTION["paths"].items():
        content = item.get("put", {}).get("requestBody", {}).get("content")
        if content is None:
            continue
        example = content["application/json"]["example"]
        if path == "/v1/state":
            wire.convert_state(example)
        else:
            wire.convert_object(path.split("/")[2].replace("-", "_"), example)


def test_unknown_fields_are_refused_everywhere() -> None:
    for name in ("State", "Vif", "AllowedAddressPair", "SecurityGroupRule", *(cls.__name__ for cls in KINDS.values())):
        assert DESCRIPTION["components"]["schemas"][name]["additionalProperties"] is False


def test_only_a_put_may_leave_out_the_id() -> None:
    found = DESCRIPTION["components"]["schemas"]
    assert found["Network"]["required"] == ["id", "label", "bridge"]
    assert found["NetworkBody"]["required"] == ["label", "bridge"]
    assert found["NetworkAnswer"]["required"] == ["id", "label", "bridge", "status"]


# --- schemas and validators agree


@settings(max_examples=300)
@given(st.data(), states())
def test_whatever_is_accepted_fits_the_schema(data: st.DataObject, state: State) -> None:
    """So a client that checks before it sends is never stopped from sending what is right."""
    body = data.draw(mutated(document(state)))
    try:
        wire.convert_state(json.loads(json.dumps(body)))
    except (wire.BadRequest, ValueError):
        return
    schema("State").validate(json.loads(json.dumps(body)))


@pytest.mark.parametrize("address", ["240.0.0.1", "255.0.0.1", "255.255.255.254", "223.255.255.255", "1.0.0.0"])
def test_an_address_of_whatever_class_that_is_accepted_fits_the_schema(address: str) -> None:
    network = {"id": ID, "label": "a", "bridge": "b", "cidr": "240.0.0.0/24", "gateway": "240.0.0.1", "dns1": address}
    vif = {"id": ID, "address": "fa:16:3e:00:00:01", "network_id": ID, "fixed_ips": [address]}
    floating = {"id": address, "fixed_ip_address": "10.0.0.1"}
    bodies = {
        "networks": [network],
        "instances": [{"id": ID, "security_groups": [], "vifs": [vif]}],
        "floating_ips": [floating],
    }
    wire.convert_state(bodies)
    schema("State").validate(bodies)


@given(states())
def test_answers_fit_their_schemas(state: State) -> None:
    client = TestClient(make_app(StubEngine().agent()))
    assert fits("StateChanged", client.simulate_put("/v1/state", json=document(state)).json)
    assert fits("State", client.simulate_get("/v1/state").json)
    assert fits("Report", client.simulate_get("/v1/status").json)
    for kind, cls in KINDS.items():
        listed = client.simulate_get(f"/v1/{kind.replace('_', '-')}").json
        schema(f"{cls.__name__}List").validate(listed)


def _strings(name: str, field: str) -> tuple[dict[str, Any], str]:
    """The schema of a field that holds a string, without its null."""
    found = DESCRIPTION["components"]["schemas"][name]["properties"][field]
    found = found.get("items", found)
    return next(each for each in found.get("anyOf", [found]) if each.get("type") != "null"), field


FIELDS = [
    ("Network", "id", {}),
    ("Network", "bridge", {}),
    ("Network", "label", {}),
    ("Instance", "hostname", {}),
    ("Network", "vlan", {}),
    ("Network", "mtu", {}),
    ("Network", "revision", {}),
    ("SecurityGroup", "members", {}),
    ("FloatingIP", "fixed_ip_address", {}),
    ("FloatingIP", "interface", {}),
    ("FloatingIP", "instance_id", {}),
    ("ProviderRule", "remote_ip_prefix", {}),
    ("ProviderRule", "protocol", {}),
    ("ProviderRule", "port_range_min", {"protocol": "tcp", "port_range_max": 65535}),
]
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Network": ("networks", {"id": ID, "label": "a", "bridge": "b"}),
    "Instance": ("instances", {"id": ID, "security_groups": [], "vifs": []}),
    "SecurityGroup": ("security_groups", {"id": ID, "rules": []}),
    "FloatingIP": ("floating_ips", {"id": "198.51.100.1", "fixed_ip_address": "10.0.0.1"}),
    "ProviderRule": ("provider_rules", {"id": ID, "remote_ip_prefix": "203.0.113.0/24"}),
}


@pytest.mark.parametrize(("name", "field", "more"), FIELDS, ids=lambda value: value if isinstance(value, str) else "")
@settings(max_examples=20)
@given(data=st.data())
def test_whatever_fits_a_field_s_schema_is_accepted(
    name: str, field: str, more: dict[str, Any], data: st.DataObject
) -> None:
    found, _ = _strings(name, field)
    value = data.draw(_fitting(found))
    kind, body = BODIES[name]
    listed = DESCRIPTION["components"]["schemas"][name]["properties"][field]
    is_list = any(each.get("type") == "array" for each in listed.get("anyOf", [listed]))
    body = {**body, **more, field: [value] if is_list else value}
    if name == "ProviderRule" and field == "remote_ip_prefix":
        body["ethertype"] = None
    if field == "fixed_ip_address" and value == body["id"]:
        return
    wire.convert_object(kind, body)


def _fitting(found: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit the schema of a field."""
    if "anyOf" in found:
        return st.one_of([_fitting(each) for each in found["anyOf"]])
    if found.get("type") == "array":
        return _fitting(found["items"])
    if found["type"] == "integer":
        return st.integers(found["minimum"], found["maximum"])
    alphabet = st.characters(codec="utf-8") if "maxLength" not in found else st.characters(max_codepoint=0x24F)
    text = st.from_regex(found["pattern"], fullmatch=True, alphabet=alphabet)
    refused = found.get("not", {})
    return text.filter(
        lambda value: (
            len(value) <= found.get("maxLength", 10_000)
            and value not in refused.get("enum", ())
            and not ("pattern" in refused and re.search(refused["pattern"], value))
        )
    )


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("Network", "id", ["", "e0000001", f"{{{ID}}}", ID.replace("-", ""), f" {ID}"]),
        ("Network", "bridge", ["", "a" * 16, "a b", "eth0+", ".a", "a/b", "!a"]),
        ("Network", "cidr", ["10.0.0.0/33", "10.0.0/8", "010.0.0.0/8", "fd00::/64", "10.0.0.0/-1", "10.0.0.0/"]),
        ("Network", "cidr_v6", ["fd00::/129", "10.0.0.0/8", "::g/1", "1:2:3:4:5:6:7:8:9/1", ":::/1"]),
        ("Network", "gateway", ["10.0.0.256", "10.0.0", "::1", "224.0.0.1", "127.0.0.1", "255.255.255.255"]),
        ("Network", "dns1", ["::1", "ff02::1", "224.0.0.1", "255.255.255.255"]),
        ("Network", "gateway_v6", ["10.0.0.1", "fe80::1%eth0", "1::2::3"]),
        ("Network", "label", ["a" * 256, "a\nb", "a\x7f", "a\xa0b"]),
        ("Network", "vlan", [0, 4095, "1", True]),
        ("Network", "mtu", [67, 65536]),
        ("Network", "revision", [-1, 2**63]),
        ("Vif", "address", ["fa:16:3e:00:00", "fa-16-3e-00-00-01", "01:00:5e:00:00:01", "fg:16:3e:00:00:01"]),
        ("SecurityGroupRule", "protocol", ["foo", "256", "-1", 256, -1, 6.5, "", " tcp"]),
        ("SecurityGroupRule", "port_range_min", [-1, 65536, "22"]),
        ("SecurityGroupRule", "direction", ["in", None]),
        ("SecurityGroupRule", "ethertype", ["ipv4", 4]),
    ],
)  # fmt: skip
def test_what_no_field_may_hold_does_not_fit_its_schema(name: str, field: str, values: list[Any]) -> None:
    validator = Draft202012Validator(DESCRIPTION["components"]["schemas"][name]["properties"][field])
    assert [value for value in values if validator.is_valid(value)] == []


@pytest.mark.parametrize("name", ["SecurityGroupRule", "ProviderRule"])
def test_a_protocol_is_a_name_in_any_case_digits_or_a_number(name: str) -> None:
    validator = Draft202012Validator(DESCRIPTION["components"]["schemas"][name]["properties"]["protocol"])
    assert all(map(validator.is_valid, ["tcp", "TCP", "Icmp", "any", "ANY", "6", "006", 6, 0, 255, None]))


def test_fields_that_are_checked_more_closely_are_there() -> None:
    found = DESCRIPTION["components"]["schemas"]
    for name, field in schemas._BY_FIELD:
        assert field in found[name]["properties"]


def test_every_alias_that_is_described_closely_is_used() -> None:
    written = json.dumps(DESCRIPTION["components"]["schemas"], ensure_ascii=False)
    for text in schemas._BY_ALIAS:
        assert json.dumps(text, ensure_ascii=False) in written


def test_a_network_in_words() -> None:
    schema("NetworkAnswer").validate(
        wire.described(make_network(1), None) | {"status": {"state": "done", "revision": 1}}
    )
