"""In a transaction the kernel takes a table of each family while the next ones are prepared."""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from threading import Event, current_thread

import pytest

from nova_netagent.backend import RuleRefused, TableChanged
from nova_netagent.backend.iptables import IptablesBackend
from nova_netagent.backend.iptables.assembly import Replacement
from nova_netagent.backend.iptables.backend import AT_A_TIME
from nova_netagent.backend.iptables.commit import Commit, replace_table
from nova_netagent.backend.iptables.image import Image
from nova_netagent.backend.iptables.tables import KernelTables
from nova_netagent.netfilter.rule import ACCEPT, DROP, Ports, Rule, TableId
from nova_netagent.plan.tables import AddChain, Fill, TablePlan
from tests.functional.backend.legacy import FILTER, MANGLE, NAT, RAW, encoded, iptables, new_backend, save

UNACCEPTABLE = Rule(ACCEPT, matches=(Ports("tcp", destination=(1, 1)),))
CHAINS = ((FILTER, UNACCEPTABLE), (RAW, Rule(DROP)), (MANGLE, Rule(DROP)))
TABLES = (FILTER, RAW, MANGLE, NAT)
RAW6, FILTER6 = TableId(6, "raw"), TableId(6, "filter")
OURS = ["-A ours -j DROP"]
LARGE = 16 << 10
"""More than the entries of an empty table."""
SECONDS = 30
"""Longer than anything here takes: whoever waits so long waits for ever."""


class Gate:
    """A way to commit that begins when it is opened, and tells on which threads it went."""

    def __init__(self) -> None:
        self.opened = Event()
        self.opened.set()
        self.threads: list[str] = []
        self.before: Callable[[], object] = lambda: None
        self.instead: Commit = replace_table

    def __call__(self, tables: KernelTables, plan: TablePlan[bytes], before: Image, replacement: Replacement) -> None:
        assert self.opened.wait(SECONDS)
        self.threads.append(current_thread().name)
        self.before()
        self.instead(tables, plan, before, replacement)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def backend(empty_tables: None, gate: Gate) -> Iterator[IptablesBackend]:
    made = new_backend(commit=gate, beside=0)
    yield made
    gate.opened.set()
    made.close()


def plan(backend: IptablesBackend, table: TableId, rule: Rule = Rule(DROP)) -> TablePlan[bytes]:  # noqa: B008
    """A chain of ours with one rule."""
    backend.read(table, fresh=True)
    return TablePlan(table, (AddChain("ours"), Fill("ours", tuple(encoded(backend, table, [rule])))))


def test_the_next_tables_are_read_while_the_kernel_takes_this_one(backend: IptablesBackend, gate: Gate) -> None:
    done: list[TableId] = []
    with backend.locked(), backend.transaction():
        for number, table in enumerate(TABLES):
            mine = plan(backend, table)
            assert done == []
            if number == 0:
                gate.opened.clear()
            if number == AT_A_TIME:
                gate.opened.set()
            backend.apply(mine, partial(done.append, table), more=True)
        assert done[:1] == [FILTER]
    assert done == [*TABLES]
    assert [save(table) for table in TABLES] == [OURS] * len(TABLES)
    assert all(name.startswith("commit") for name in gate.threads)
    assert backend.read(FILTER, fresh=False)["ours"]


def test_who_waits_finds_it_in_the_kernel(backend: IptablesBackend) -> None:
    with backend.locked(), backend.transaction():
        backend.apply(plan(backend, FILTER), more=True)
        backend.settle()
        assert save(FILTER) == OURS


def test_a_table_on_its_way_is_read_when_it_is_there(backend: IptablesBackend) -> None:
    with backend.locked(), backend.transaction():
        backend.apply(plan(backend, FILTER), more=True)
        assert len(backend.read(FILTER, fresh=False)["ours"]) == 1
        backend.apply(TablePlan(FILTER, (AddChain("ours-too"),)), more=True)
        backend.apply(TablePlan(FILTER, (AddChain("ours-more"),)))
    assert backend.read(FILTER, fresh=True).keys() >= {"ours", "ours-too", "ours-more"}


def test_turns_are_short_while_tables_are_on_their_way(backend: IptablesBackend) -> None:
    usual = sys.getswitchinterval()
    with backend.locked(), backend.transaction():
        assert sys.getswitchinterval() < usual
    assert sys.getswitchinterval() == usual
    with pytest.raises(TableChanged), backend.locked(), backend.transaction():
        backend.apply(TablePlan(FILTER, (AddChain("ours"),)))
    assert sys.getswitchinterval() == usual


def apply_all(
    backend: IptablesBackend, plans: Iterable[TablePlan[bytes]], done: list[TableId], *, wait: bool = False
) -> None:
    """Apply them in one transaction, and note which were carried out."""
    with backend.locked(), backend.transaction():
        for each in plans:
            backend.apply(each, partial(done.append, each.table), more=True)
        if wait:
            backend.settle()


def test_a_family_waits_for_none_of_the_other_one(backend: IptablesBackend, gate: Gate) -> None:
    """The first of IPv4's tables goes in after all of IPv6's, and only then the next one of its family."""
    order: list[TableId] = []
    is_last_in = Event()

    def commit(tables: KernelTables, plan: TablePlan[bytes], before: Image, replacement: Replacement) -> None:
        if plan.table.family == 4:
            assert is_last_in.wait(SECONDS)
        replace_table(tables, plan, before, replacement)
        order.append(plan.table)
        if plan.table == FILTER6:
            is_last_in.set()

    gate.instead = commit
    done: list[TableId] = []
    with backend.locked(), backend.transaction():
        for table in (RAW, RAW6, FILTER6, FILTER):
            backend.apply(plan(backend, table), partial(done.append, table), more=True)
    assert order == [RAW6, FILTER6, RAW, FILTER]
    assert done == [RAW, RAW6, FILTER6, FILTER]


def test_what_is_refused_in_one_family_is_none_of_the_other_ones(backend: IptablesBackend) -> None:
    done: list[TableId] = []
    plans = (plan(backend, *each) for each in ((RAW, UNACCEPTABLE), (RAW6, Rule(DROP)), (FILTER, Rule(DROP))))
    with pytest.raises(RuleRefused, match=r"IPv4 raw.*EINVAL"):
        apply_all(backend, plans, done)
    assert done == [RAW6]
    assert [save(table) for table in (RAW, FILTER, RAW6)] == [[], [], OURS]
    with backend.locked():  # what went in is known, what did not is not
        assert backend.read(RAW6, fresh=False).keys() >= {"ours"}
        backend.apply(TablePlan(RAW6, (AddChain("ours-too"),)))
        assert "ours" not in backend.read(FILTER, fresh=False)


def test_what_the_kernel_refuses_keeps_the_next_table_from_it(backend: IptablesBackend) -> None:
    done: list[TableId] = []
    plans = (plan(backend, table, rule) for table, rule in CHAINS)
    with pytest.raises(RuleRefused, match=r"IPv4 filter.*EINVAL"):
        apply_all(backend, plans, done)
    assert done == []
    assert save(FILTER) == save(RAW) == save(MANGLE) == []
    apply_all(backend, (plan(backend, table) for table in (FILTER, RAW, MANGLE)), done)
    assert done == [FILTER, RAW, MANGLE]
    assert save(FILTER) == save(RAW) == save(MANGLE) == OURS


@pytest.mark.parametrize("wait", [True, False])
def test_the_last_one_is_not_forgotten(backend: IptablesBackend, wait: bool) -> None:
    with pytest.raises(RuleRefused, match=r"IPv4 filter.*EINVAL"):
        apply_all(backend, (plan(backend, FILTER, UNACCEPTABLE) for _ in range(1)), [], wait=wait)


def test_who_comes_between_is_noticed(backend: IptablesBackend, gate: Gate) -> None:
    gate.before = lambda: iptables(FILTER, "-A INPUT -j DROP")
    with pytest.raises(TableChanged):
        apply_all(backend, (plan(backend, FILTER) for _ in range(1)), [])
    assert save(FILTER) == ["-A INPUT -j DROP"]
    with pytest.raises(TableChanged, match="read first"):
        backend.apply(TablePlan(FILTER, (AddChain("ours"),)))


def test_what_went_wrong_first_is_told_when_the_table_is_in(backend: IptablesBackend) -> None:
    done: list[TableId] = []
    backend.read(MANGLE, fresh=True)
    with pytest.raises(RuleRefused, match="INPUT"):
        apply_all(backend, (plan(backend, FILTER), TablePlan(MANGLE, (AddChain("INPUT"),))), done)
    assert done == [FILTER]
    assert save(FILTER) == OURS


def test_outside_a_transaction_nobody_has_to_wait(backend: IptablesBackend, gate: Gate) -> None:
    backend.apply(plan(backend, FILTER))
    assert save(FILTER) == OURS
    assert gate.threads == [current_thread().name]


def test_the_last_table_is_in_when_it_is_applied_and_comes_after_the_others(backend: IptablesBackend) -> None:
    done: list[TableId] = []
    with backend.locked(), backend.transaction():
        backend.apply(plan(backend, FILTER), lambda: done.append(FILTER), more=True)
        backend.apply(plan(backend, RAW), lambda: done.append(RAW))
        assert done == [FILTER, RAW]
        assert save(RAW) == OURS


def test_a_small_table_goes_in_at_once(empty_tables: None, gate: Gate) -> None:
    backend = new_backend(commit=gate)
    with backend.locked(), backend.transaction():
        backend.apply(plan(backend, FILTER), more=True)
        assert save(FILTER) == OURS
    assert gate.threads == [current_thread().name]
    backend.close()


def test_small_tables_wait_for_nobody_beside_large_ones(empty_tables: None, gate: Gate) -> None:
    backend = new_backend(commit=gate, beside=LARGE)
    many = Fill("ours", tuple(encoded(backend, FILTER, [Rule(DROP)])) * (LARGE // 100))
    done: list[TableId] = []
    with backend.locked(), backend.transaction():
        backend.read(FILTER, fresh=True)
        gate.opened.clear()
        backend.apply(TablePlan(FILTER, (AddChain("ours"), many)), partial(done.append, FILTER), more=True)
        for table in (RAW, MANGLE, NAT, TableId(6, "filter"), TableId(6, "raw")):
            backend.apply(plan(backend, table), partial(done.append, table), more=True)
        assert done == []
        gate.opened.set()
    assert done == [FILTER, RAW, MANGLE, NAT, TableId(6, "filter"), TableId(6, "raw")]
    backend.close()
