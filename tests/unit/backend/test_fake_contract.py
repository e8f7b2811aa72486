"""The fake does what every backend does."""

from collections.abc import Sequence

import pytest

from nova_netagent.backend.fake import FakeBackend
from nova_netagent.netfilter.rule import Rule, TableId
from nova_netagent.netfilter.text import rule_text

pytest.register_assert_rewrite("tests.unit.backend.contract")

from tests.unit.backend.contract import BackendContract  # noqa: E402


class FakeWorld:
    """The fake, and what others do to its tables."""

    notices = False
    permits: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.backend = FakeBackend(owns_set=lambda name: name.startswith("ours-"))

    def put(self, table: TableId, chain: str, rules: Sequence[Rule]) -> None:
        self.backend.change(table, chain, rules)

    def rules(self, table: TableId, chain: str) -> list[str] | None:
        rules = self.backend.chains[table].get(chain)
        return None if rules is None else [rule_text(rule, table.family) for rule in rules]

    def noted(self, name: str) -> set[str]:
        return self.backend.cut[name]


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


class TestFakeBackend(BackendContract):
    """All of it."""
