"""The iptables backend does what every backend does."""

from collections.abc import Sequence

import pytest

from nova_netagent.backend.iptables import IptablesBackend
from nova_netagent.netfilter.rule import Rule, TableId
from nova_netagent.netfilter.text import BUILTIN_CHAINS
from tests.functional.backend.legacy import restore, run, save_all, text

pytest.register_assert_rewrite("tests.unit.backend.contract")

from tests.unit.backend.contract import BackendContract  # noqa: E402


class KernelWorld:
    """The kernel, and what iptables-legacy does to it."""

    notices = False
    permits: frozenset[str] = frozenset()

    def __init__(self, backend: IptablesBackend) -> None:
        self.backend = backend

    def put(self, table: TableId, chain: str, rules: Sequence[Rule]) -> None:
        flush = f"-F {chain}" if chain in BUILTIN_CHAINS[table.name] else f":{chain} - [0:0]"
        lines = [f"*{table.name}", flush, *(f"-A {chain} {text(rule, table)}" for rule in rules), "COMMIT", ""]
        restore(table.family, "\n".join(lines), "--noflush")

    def rules(self, table: TableId, chain: str) -> list[str] | None:
        saved = save_all(table)
        if not any(line.startswith(f":{chain} ") for line in saved):
            return None
        return [line.removeprefix(f"-A {chain} ") for line in saved if line.startswith(f"-A {chain} ")]

    def noted(self, name: str) -> set[str]:
        return {line.split()[2] for line in run("ipset", "save", name).splitlines() if line.startswith("add ")}


@pytest.fixture
def world(either_backend: IptablesBackend) -> KernelWorld:
    return KernelWorld(either_backend)


class TestIptablesBackend(BackendContract):
    """All of it."""
