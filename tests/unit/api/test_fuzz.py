"""Requests made up from the description and from nothing at all, and every answer held against it."""

import json
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from falcon.testing import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from nova_netagent.api import openapi
from nova_netagent.api.app import make_app
from nova_netagent.engine import Change
from nova_netagent.events import Replace
from nova_netagent.model import State
from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_network, make_provider_rule
from tests.unit.api.bodies import anything
from tests.unit.api.stub_engine import StubEngine

CONFIG = SchemathesisConfig.from_dict(
    # 411: a PUT without a body has no Content-Length.
    {"checks": {"negative_data_rejection": {"expected-statuses": [400, 404, 405, 411, 415]}}}
)

# JSON Schema cannot say that a gateway lies in its cidr, nor that the body's id is the path's.
BEYOND_SCHEMA = positive_data_acceptance


def as_json(value: Any) -> bytes:
    """A body that may hold what JSON cannot say: NaN, lone surrogates."""
    return json.dumps(value).encode()


def without_formats(value: Any) -> Any:
    """What has a format has a pattern too; to make up what lacks a format takes schemathesis half a second each."""
    if isinstance(value, dict):
        return {key: without_formats(each) for key, each in value.items() if key != "format" or "pattern" not in value}
    return [without_formats(each) for each in value] if isinstance(value, list) else value


DESCRIPTION = json.loads(openapi.description("1.2.3"))
STATE = State(
    networks=(make_network(1),),
    instances=(make_instance(1, (1,)),),
    security_groups=(make_group(1),),
    floating_ips=(make_floating_ip(1),),
    provider_rules=(make_provider_rule(1),),
)
ENGINE = StubEngine()
ENGINE.agent().submit(Change(Replace(STATE)))

schema = schemathesis.openapi.from_dict(without_formats(DESCRIPTION), config=CONFIG)
schema.app = make_app(ENGINE.agent())


@schema.parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_a_described_one_and_a_refusal_changes_nothing(case: "Case[Any]") -> None:
    """No answer is a failure of ours: this engine has no reason for a 503."""
    before = ENGINE.view.state.export()
    response = case.call_and_validate(excluded_checks=[BEYOND_SCHEMA])
    assert response.status_code < 400 or ENGINE.view.state.export() == before


OPERATIONS = [
    (method.upper(), path, operation)
    for path, item in DESCRIPTION["paths"].items()
    for method, operation in item.items()
    if method != "parameters"
]
IDS = st.sampled_from([make_network(1).id, make_floating_ip(1).id]) | st.text(max_size=40)
BODIES = (
    st.binary(max_size=200) | st.binary(max_size=20).map(lambda end: b'{"networks": [' + end) | anything.map(as_json)
)
QUERIES = st.text(max_size=30) | st.tuples(
    st.sampled_from(("wait", "revision", "limit", "marker", "dry_run", "table", "family", "x")), st.text(max_size=10)
).map("=".join)
TYPES = st.sampled_from(("application/json", "application/json; charset=utf-16", "text/plain", "", "a/b/c"))


@pytest.mark.parametrize(
    ("method", "path", "operation"), OPERATIONS, ids=[f"{each[0]} {each[1]}" for each in OPERATIONS]
)
@given(id_=IDS, body=BODIES, query=QUERIES, media_type=TYPES)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_garbage_is_refused_as_described_and_changes_nothing(
    method: str, path: str, operation: dict[str, Any], id_: str, body: bytes, query: str, media_type: str
) -> None:
    before = ENGINE.view.state.export()
    headers = {"Content-Type": media_type}
    target = path.replace("{id}", quote(id_, safe="") or "-")
    answer = TestClient(schema.app).simulate_request(
        method, target, body=body, query_string=quote(query, safe="=&%"), headers=headers
    )
    assert str(answer.status_code) in operation["responses"] or answer.status_code == 404
    assert answer.status_code < 500
    if answer.status_code >= 400:
        assert answer.json["error"]["code"] == answer.status_code
        assert ENGINE.view.state.export() == before
