"""Our bytes are libxtables' bytes, and the kernel gives them back."""

import pytest

from nova_netagent.backend.iptables import IptablesBackend
from nova_netagent.netfilter.rule import IpSet, Rule, TableId
from nova_netagent.plan.sets import SetPlan
from nova_netagent.plan.tables import AddChain, TablePlan
from tests.functional.backend.legacy import encoded, new_backend, put, restore, save, text
from tests.functional.backend.shapes import CUT, SETS, shapes

NAMES, SHAPES = zip(*shapes(), strict=True)


@pytest.fixture
def prepared(backend: IptablesBackend) -> IptablesBackend:
    """With the sets and the chains that the shapes refer to."""
    prefixes = tuple(IpSet(name, family, frozenset()) for family, name in SETS.items())
    ends = tuple(IpSet(name, family, frozenset(), type="hash:ip,port,ip") for family, name in CUT.items())
    backend.prepare_sets(SetPlan(create=(*prefixes, *ends)))
    return backend


def read_anew(table: TableId) -> tuple[bytes, ...]:
    fresh = new_backend()
    try:
        return fresh.read(table, fresh=True)["probe"]
    finally:
        fresh.close()


def put_with_targets(backend: IptablesBackend, table: TableId, rule: Rule) -> list[bytes]:
    if table.name == "filter":
        with backend.locked():
            backend.read(table, fresh=False)
            backend.apply(TablePlan(table, (AddChain("other"), AddChain("o" * 28))))
    return put(backend, table, "probe", [rule])


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_the_kernel_gives_a_rule_back_as_we_made_it(prepared: IptablesBackend, shape: tuple[TableId, Rule]) -> None:
    table, rule = shape
    keys = put_with_targets(prepared, table, rule)
    assert read_anew(table) == tuple(keys)
    assert prepared.describe(table, keys[0]) == text(rule, table)


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_iptables_save_prints_our_text(prepared: IptablesBackend, shape: tuple[TableId, Rule]) -> None:
    table, rule = shape
    put_with_targets(prepared, table, rule)
    assert save(table) == [f"-A probe {text(rule, table)}"]


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_iptables_makes_the_same_bytes(prepared: IptablesBackend, shape: tuple[TableId, Rule]) -> None:
    table, rule = shape
    keys = encoded(prepared, table, [rule])
    chains = [f":{chain} - [0:0]" for chain in ("other", "o" * 28, "probe")]
    lines = [f"*{table.name}", *chains, f"-A probe {text(rule, table)}", "COMMIT", ""]
    restore(table.family, "\n".join(lines), "--noflush")
    assert list(read_anew(table)) == keys
