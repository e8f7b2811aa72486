"""The fake table does what every table does."""

import pytest

from nova_netagent.backend.conntrack_fake import FakeConntrack
from nova_netagent.netfilter.flow import Flow

pytest.register_assert_rewrite("tests.unit.backend.flows_contract")

from tests.unit.backend.flows_contract import FlowTableContract  # noqa: E402


class FakeWorld:
    """The fake, and its traffic."""

    def __init__(self) -> None:
        self.table = FakeConntrack()

    def track(self, *flows: Flow) -> None:
        self.table.tracked += flows


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


class TestFakeConntrack(FlowTableContract):
    """All of it."""
