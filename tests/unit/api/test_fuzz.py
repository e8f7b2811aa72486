"""Requests made up from the description, and every answer held against it."""

import json
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from nova_netagent.api import openapi
from nova_netagent.api.app import make_app
from tests.unit.api.stub_engine import StubEngine

CONFIG = SchemathesisConfig.from_dict(
    # 411: a PUT without a body has no Content-Length.
    {"checks": {"negative_data_rejection": {"expected-statuses": [400, 404, 405, 411, 415]}}}
)

# JSON Schema cannot say that a gateway lies in its cidr, nor that the body's id is the path's.
BEYOND_SCHEMA = positive_data_acceptance


def without_formats(value: Any) -> Any:
    """What has a format has a pattern too; to make up what lacks a format takes schemathesis half a second each."""
    if isinstance(value, dict):
        return {key: without_formats(each) for key, each in value.items() if key != "format" or "pattern" not in value}
    return [without_formats(each) for each in value] if isinstance(value, list) else value


schema = schemathesis.openapi.from_dict(without_formats(json.loads(openapi.description("1.2.3"))), config=CONFIG)
schema.app = make_app(StubEngine().agent())


@schema.parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_a_described_one(case: Case) -> None:
    case.call_and_validate(excluded_checks=[BEYOND_SCHEMA])
