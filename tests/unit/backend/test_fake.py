"""The faults that the fake can be told to have."""

import pytest

from nova_netagent.backend import Count, RuleRefused, TableChanged, Unavailable
from nova_netagent.backend.fake import FakeBackend
from nova_netagent.netfilter.rule import ACCEPT, DROP, Rule, TableId
from nova_netagent.plan.tables import Insert, TablePlan

FILTER = TableId(4, "filter")
PLAN = TablePlan(FILTER, (Insert("INPUT", 0, Rule(DROP)),))


def test_a_rule_can_be_refused_for_no_reason() -> None:
    backend = FakeBackend()
    backend.refuse = lambda rule: rule.target == DROP
    backend.read(FILTER, fresh=False)
    with pytest.raises(RuleRefused):
        backend.apply(PLAN)
    assert backend.chains[FILTER]["INPUT"] == ()
    assert backend.commits == 0


def test_it_can_be_unavailable_for_a_while() -> None:
    backend = FakeBackend()
    backend.unavailable = 2
    for _ in range(2):
        with pytest.raises(Unavailable), backend.locked():
            pass
    with backend.locked(), backend.locked():
        backend.read(FILTER, fresh=False)
        backend.apply(PLAN)
    assert backend.commits == 1


def test_somebody_can_come_between() -> None:
    backend = FakeBackend()
    backend.before_commit = lambda table: backend.change(table, "FORWARD", [Rule(ACCEPT, origin=("a", "b", "c"))])
    backend.read(FILTER, fresh=False)
    with pytest.raises(TableChanged):
        backend.apply(PLAN)
    assert backend.chains[FILTER]["FORWARD"] == (Rule(ACCEPT),)
    backend.read(FILTER, fresh=False)
    backend.apply(PLAN)
    assert backend.commits == 1


def test_somebody_can_remove_a_chain() -> None:
    backend = FakeBackend()
    backend.change(FILTER, "theirs", [])
    backend.read(FILTER, fresh=False)
    backend.change(FILTER, "theirs", None)
    with pytest.raises(TableChanged):
        backend.apply(PLAN)


def test_a_table_that_is_not_there_is_unavailable() -> None:
    backend = FakeBackend(tables=[FILTER])
    assert backend.tables() == [FILTER]
    with pytest.raises(Unavailable):
        backend.read(TableId(6, "filter"), fresh=False)


def test_counters_have_policies_for_built_in_chains() -> None:
    backend = FakeBackend()
    backend.change(FILTER, "theirs", [Rule(DROP)])
    counters = backend.counters(FILTER)
    assert counters["INPUT"] == ("ACCEPT", ())
    assert counters["theirs"] == (None, ((Count(0, 0), Rule(DROP)),))
