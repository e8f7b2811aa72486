"""What a commit does when others change the table, when the kernel says no, and what is remembered of it."""

import errno
import os
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from nova_netagent.backend import RuleRefused, TableChanged, Unavailable, legacy, sockopt
from nova_netagent.backend.iptables import IptablesBackend
from nova_netagent.backend.iptables import backend as backend_module
from nova_netagent.backend.iptables.image import Image
from nova_netagent.backend.iptables.layout import IPV4
from nova_netagent.backend.iptables.libiptc import Handle
from nova_netagent.backend.iptables.tables import KernelTables, TableInfo
from nova_netagent.backend.iptables.targets import jump
from nova_netagent.netfilter.rule import (
    ACCEPT,
    DROP,
    FAMILIES,
    RETURN,
    Chain,
    Comment,
    Family,
    Hook,
    Jump,
    Ports,
    Rule,
    Table,
    TableId,
)
from nova_netagent.netfilter.text import BUILTIN_CHAINS
from nova_netagent.plan.tables import AddChain, Delete, Edit, Insert, Placement, TablePlan, plan_table
from tests.functional.backend.legacy import FILTER, encoded, iptables, new_backend, put, restore, save

RULES = tuple(Rule(ACCEPT, protocol=6, matches=(Ports("tcp", destination=(port, port)),)) for port in (1, 2, 3))
LINES = [f"-A probe -p tcp -m tcp --dport {port} -j ACCEPT" for port in (1, 2, 3)]
UNACCEPTABLE = Rule(ACCEPT, matches=(Ports("tcp", destination=(1, 1)),))


# --- others change the table


def test_a_rule_added_before_the_commit_is_noticed(backend: IptablesBackend) -> None:
    (key,) = put(backend, FILTER, "probe", RULES[:1])
    iptables(FILTER, "-A INPUT -j DROP")
    with pytest.raises(TableChanged):
        backend.apply(TablePlan(FILTER, (Delete("probe", 0, key),)))
    assert save(FILTER) == ["-A INPUT -j DROP", LINES[0]]


def test_the_kernel_notices_a_rule_added_while_we_hold_the_table(backend: IptablesBackend) -> None:
    (key,) = encoded(backend, FILTER, [Rule(DROP)])
    with Handle(FILTER) as handle:
        handle.append("INPUT", key)
        iptables(FILTER, "-A OUTPUT -j ACCEPT")
        with pytest.raises(TableChanged):
            handle.commit()
    assert save(FILTER) == ["-A OUTPUT -j ACCEPT"]


def test_a_rule_replaced_in_the_edited_chain_is_noticed(backend: IptablesBackend) -> None:
    keys = put(backend, FILTER, "probe", RULES)
    iptables(FILTER, "-R probe 1 -p tcp -m tcp --dport 9 -j ACCEPT")
    with pytest.raises(TableChanged, match="probe"):
        backend.apply(TablePlan(FILTER, (Delete("probe", 2, keys[2]),)))
    assert save(FILTER) == ["-A probe -p tcp -m tcp --dport 9 -j ACCEPT", *LINES[1:]]


def test_an_empty_chain_that_somebody_renamed_is_noticed(backend: IptablesBackend) -> None:
    put(backend, FILTER, "probe", [])
    iptables(FILTER, "-E probe other")
    (key,) = encoded(backend, FILTER, [Rule(DROP)])
    with pytest.raises(TableChanged, match="probe"):
        backend.apply(TablePlan(FILTER, (Insert("probe", 0, key),)))


def test_a_rule_replaced_in_another_chain_stays_replaced(backend: IptablesBackend) -> None:
    keys = put(backend, FILTER, "probe", RULES)
    iptables(FILTER, "-A INPUT -j ACCEPT")
    backend.read(FILTER, fresh=False)
    iptables(FILTER, "-R INPUT 1 -j DROP")
    backend.apply(TablePlan(FILTER, (Delete("probe", 2, keys[2]),)))
    assert save(FILTER) == ["-A INPUT -j DROP", *LINES[:2]]


def test_a_plan_made_from_an_older_reading_is_noticed(backend: IptablesBackend) -> None:
    keys = put(backend, FILTER, "probe", RULES)
    iptables(FILTER, "-D probe 1")
    backend.read(FILTER, fresh=True)
    with pytest.raises(TableChanged):
        backend.apply(TablePlan(FILTER, (Delete("probe", 0, keys[0]),)))
    assert save(FILTER) == LINES[1:]


def test_a_table_must_be_read_before_it_is_changed(backend: IptablesBackend) -> None:
    (key,) = encoded(backend, FILTER, [Rule(DROP)])
    with pytest.raises(TableChanged):
        backend.apply(TablePlan(FILTER, (Insert("INPUT", 0, key),)))


# --- what the kernel refuses


def refused_plans(backend: IptablesBackend) -> list[tuple[Edit[bytes], ...]]:
    unacceptable, loop, lost = encoded(backend, FILTER, [UNACCEPTABLE, Rule(Jump("probe")), Rule(Jump("nowhere"))])
    builtin = jump(b"INPUT")
    return [
        (AddChain("new"), Insert("new", 0, unacceptable)),
        (Insert("probe", 0, loop), Insert("INPUT", 0, loop)),
        (Insert("INPUT", 0, lost),),
        (Insert("INPUT", 0, lost[: -len(builtin)] + builtin),),
        (Insert("probe", 4, loop),),
        (Insert("nowhere", 0, unacceptable),),
        (AddChain("probe"),),
    ]


@pytest.mark.parametrize("number", range(7))
def test_a_refused_plan_changes_nothing_and_the_next_one_works(backend: IptablesBackend, number: int) -> None:
    put(backend, FILTER, "probe", RULES)
    before = save(FILTER, "-c")
    with pytest.raises(RuleRefused):
        backend.apply(TablePlan(FILTER, refused_plans(backend)[number]))
    assert save(FILTER, "-c") == before
    put(backend, FILTER, "afterwards", [Rule(DROP)])
    assert save(FILTER)[0] == "-A afterwards -j DROP"


def test_the_kernels_words_are_in_the_error(backend: IptablesBackend) -> None:
    with pytest.raises(RuleRefused, match=r"IPv4 filter.*EINVAL: Invalid argument"):
        put(backend, FILTER, "probe", [UNACCEPTABLE])


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule(Jump("x" * 29)), "28"),
        (Rule(DROP, matches=(Comment("x" * 256),)), "255"),
        (Rule(DROP, protocol=0), "protocol 0"),
        (Rule(DROP, source="2001:db8::/32"), "IPv4"),
        (Rule(DROP, in_interface="x" * 16), "interface"),
    ],
)
def test_a_rule_that_cannot_be_said_is_refused_before_the_kernel_sees_it(
    backend: IptablesBackend, rule: Rule, words: str
) -> None:
    with pytest.raises(RuleRefused, match=words):
        encoded(backend, FILTER, [rule])


def test_a_jump_to_nowhere_is_refused_before_the_kernel_looks_for_a_module(backend: IptablesBackend) -> None:
    with pytest.raises(RuleRefused, match="no chain nowhere"):
        put(backend, FILTER, "probe", [Rule(Jump("nowhere"))])


def test_a_long_chain_name_is_refused(backend: IptablesBackend) -> None:
    with pytest.raises(RuleRefused, match="28"):
        backend.encode(Table(FILTER, {"x" * 29: Chain("x" * 29, ())}, ()))


def test_a_table_that_is_not_there_is_unavailable(backend: IptablesBackend) -> None:
    with pytest.raises(Unavailable, match="nonsense"):
        backend.read(TableId(4, "nonsense"), fresh=True)
    with pytest.raises(Unavailable, match="nonsense"), Handle(TableId(4, "nonsense")):
        pass


# --- drift, and what is remembered


@pytest.mark.parametrize(
    "line", ["-F probe", "-D probe 2", "-A probe -j DROP", "-I probe -p tcp -m tcp --dport 1 -j ACCEPT"]
)
def test_a_change_of_size_is_seen_at_a_glance(backend: IptablesBackend, line: str) -> None:
    put(backend, FILTER, "probe", RULES)
    before = backend.read(FILTER, fresh=False)["probe"]
    iptables(FILTER, line)
    assert backend.read(FILTER, fresh=False)["probe"] != before


def test_reordered_rules_are_seen_by_a_fresh_reading(backend: IptablesBackend) -> None:
    keys = put(backend, FILTER, "probe", RULES)
    backend.read(FILTER, fresh=True)
    iptables(FILTER, "-D probe 1")
    iptables(FILTER, "-A probe -p tcp -m tcp --dport 1 -j ACCEPT")
    assert backend.read(FILTER, fresh=True)["probe"] == (*keys[1:], keys[0])


def test_chains_that_did_not_change_stay_the_same_objects(backend: IptablesBackend) -> None:
    put(backend, FILTER, "probe", RULES)
    put(backend, FILTER, "second", RULES[:1])
    first = backend.read(FILTER, fresh=True)
    assert backend.read(FILTER, fresh=True) is first
    iptables(FILTER, "-A second -j DROP")
    again = backend.read(FILTER, fresh=True)
    assert again["probe"] is first["probe"]
    assert again["second"] != first["second"]


def table_of(*rules: Rule) -> Table:
    chains = {"ours": Chain("ours", rules), "ours-too": Chain("ours-too", (Rule(RETURN),))}
    return Table(FILTER, chains, (Hook("INPUT", (Rule(Jump("ours")),)),))


def plan(backend: IptablesBackend, table: Table, fresh: bool = False) -> TablePlan[bytes]:
    return plan_table(
        backend.encode(table),
        backend.read(table.id, fresh=fresh),
        owns=lambda name: name.startswith("ours"),
        jumps_to=backend.jumps_to,
        placement=Placement(lambda key: backend.describe(table.id, key)),
    )


def test_what_was_encoded_and_committed_is_what_is_read(backend: IptablesBackend) -> None:
    table = table_of(*RULES)
    backend.apply(plan(backend, table))
    desired = backend.encode(table).chains
    for fresh in (False, True):
        actual = backend.read(FILTER, fresh=fresh)
        assert all(actual[name] is keys for name, keys in desired.items())
    assert not plan(backend, table, fresh=True).edits


def test_a_chain_that_was_gone_and_is_back_is_the_object_that_was_encoded(backend: IptablesBackend) -> None:
    table = table_of(*RULES)
    backend.apply(plan(backend, table))
    iptables(FILTER, "-F ours")
    assert backend.read(FILTER, fresh=True)["ours"] == ()
    for line in LINES:
        iptables(FILTER, line.replace("probe", "ours"))
    assert backend.read(FILTER, fresh=True)["ours"] is backend.encode(table).chains["ours"]


def test_what_was_read_before_it_is_encoded_is_taken_as_it_is(backend: IptablesBackend) -> None:
    backend.apply(plan(backend, table_of(*RULES)))
    restarted = new_backend()
    actual = restarted.read(FILTER, fresh=False)
    desired = restarted.encode(table_of(*RULES)).chains
    assert all(actual[name] is keys for name, keys in desired.items())
    restarted.close()


def test_a_restarted_agent_finds_its_rules_and_takes_them_as_they_are(backend: IptablesBackend) -> None:
    backend.apply(plan(backend, table_of(*RULES)))
    restarted = new_backend()
    table = table_of(*RULES)
    assert not plan(restarted, table).edits
    actual = restarted.read(FILTER, fresh=False)
    desired = restarted.encode(table).chains
    assert all(actual[name] == keys for name, keys in desired.items())
    restarted.close()


def test_only_a_changed_chain_is_encoded_anew(backend: IptablesBackend) -> None:
    table = table_of(*RULES)
    first = backend.encode(table)
    changed = Table(FILTER, {**table.chains, "ours-too": Chain("ours-too", (Rule(DROP),))}, table.hooks)
    second = backend.encode(changed)
    assert second.chains["ours"] is first.chains["ours"]
    assert second.chains["ours-too"] != first.chains["ours-too"]


def fail_after(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The kernel replaces a table and says that it has not."""
    replaced = KernelTables.replace

    def replace_and_fail(tables: KernelTables, table: str, before: Image, after: Image) -> NoReturn:
        replaced(tables, table, before, after)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(KernelTables, "replace", replace_and_fail)


def test_a_commit_that_fails_after_it_was_carried_out_is_read_anew(
    backend: IptablesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = put(backend, FILTER, "probe", RULES[:1])
    (new,) = encoded(backend, FILTER, RULES[1:2])
    fail_after(monkeypatch, errno.EAGAIN)
    with pytest.raises(TableChanged):
        backend.apply(TablePlan(FILTER, (Delete("probe", 0, key), Insert("probe", 0, new))))
    monkeypatch.undo()
    with pytest.raises(TableChanged, match="read first"):
        backend.apply(TablePlan(FILTER, (Delete("probe", 0, key),)))
    assert backend.read(FILTER, fresh=False)["probe"] == (new,)


def test_nothing_to_do_does_not_touch_the_kernel(backend: IptablesBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise AssertionError("not empty")

    monkeypatch.setattr(KernelTables, "read", fail)
    monkeypatch.setattr(KernelTables, "replace", fail)
    backend.apply(TablePlan(FILTER, ()))


def test_a_chain_with_a_longer_name_than_iptables_allows_is_read_and_kept(backend: IptablesBackend) -> None:
    name = "f" * 29
    (lost,) = encoded(backend, FILTER, [Rule(Jump("nowhere"))])
    with Handle(FILTER) as handle:
        handle.create_chain(name)
        handle.append("INPUT", lost[: -len(jump(b""))] + jump(name.encode()))
        handle.commit()
    put(backend, FILTER, "probe", RULES)
    chains = backend.read(FILTER, fresh=True)
    assert chains[name] == ()
    assert backend.jumps_to(chains["INPUT"][0]) == name


def test_a_table_that_grows_while_it_is_read_is_read_again(
    backend: IptablesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = put(backend, FILTER, "probe", RULES)
    asked = KernelTables.info
    answers: list[TableInfo] = []

    def outdated(tables: KernelTables, table: str) -> TableInfo:
        answers.append(asked(tables, table))
        return answers[-1]._replace(size=answers[-1].size - 8 if len(answers) < 3 else answers[-1].size)

    monkeypatch.setattr(KernelTables, "info", outdated)
    assert backend.read(FILTER, fresh=True)["probe"] == tuple(keys)
    assert len(answers) == 3


def test_what_old_programs_noted_in_a_rule_makes_no_difference(backend: IptablesBackend) -> None:
    (key,) = encoded(backend, FILTER, RULES[:1])
    noted = bytearray(key)
    noted[IPV4.nfcache_at : IPV4.nfcache_at + 4] = (0x4000).to_bytes(4, "little")
    with Handle(FILTER) as handle:
        handle.append("INPUT", bytes(noted))
        handle.commit()
    assert backend.read(FILTER, fresh=True)["INPUT"] == (key,)


def test_tables_are_those_of_both_families(backend: IptablesBackend) -> None:
    assert backend.tables() == [TableId(family, name) for family in FAMILIES for name in BUILTIN_CHAINS]


def test_a_family_that_the_kernel_does_not_have_has_no_tables(
    backend: IptablesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnlyIPv4(KernelTables):
        def __init__(self, family: Family) -> None:
            if family == 6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family)

    monkeypatch.setattr(backend_module, "KernelTables", OnlyIPv4)
    assert {table.family for table in backend.tables()} == {4}
    with pytest.raises(Unavailable, match="IPv6"):
        backend.read(TableId(6, "filter"), fresh=True)


def test_loaded_tables_are_found_without_loading_any(backend: IptablesBackend) -> None:
    backend.read(FILTER, fresh=True)
    loaded = backend.loaded_tables()
    assert FILTER in loaded
    assert backend.loaded_tables() == loaded


class Closed:
    """A list of tables that is for root only."""

    def read_text(self) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel does not tell which tables are in use."""
    monkeypatch.setattr(legacy, "NAMES", {4: Closed(), 6: Closed()})


@pytest.mark.usefixtures("untold")
def test_where_the_kernel_does_not_tell_which_tables_are_loaded_all_are_looked_at(
    backend: IptablesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not looked at is not cleaned up; and the question for which the kernel runs modprobe is not asked."""
    there = backend.tables()
    monkeypatch.setattr(KernelTables, "info", lambda *_: pytest.fail("it would be loaded"))
    assert backend.loaded_tables() == there


@pytest.mark.usefixtures("untold")
@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOPROTOOPT, errno.EPERM])
def test_what_the_kernel_answers_who_asks_for_tables_that_it_does_not_have(
    backend: IptablesBackend, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sockopt, "ask", refused)
    if number == errno.EPERM:
        with pytest.raises(Unavailable, match="not permitted"):
            backend.loaded_tables()
    else:
        assert backend.loaded_tables() == []


def test_a_refusal_that_came_too_late_is_a_change(backend: IptablesBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_after(monkeypatch, errno.EINVAL)
    with pytest.raises(TableChanged):
        put(backend, FILTER, "probe", RULES)
    monkeypatch.undo()
    put(backend, FILTER, "probe", RULES[:1])
    assert save(FILTER) == [LINES[0], *LINES]


def test_counters_that_cannot_be_added_any_more_are_a_change(
    backend: IptablesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(backend, FILTER, "probe", RULES[:1])
    restore(4, "*filter\n[3:252] -A INPUT -j ACCEPT\nCOMMIT\n", "--noflush", "-c")
    backend.read(FILTER, fresh=True)
    add = KernelTables.add_counters

    def add_too_late(tables: KernelTables, table: str, counters: bytes) -> None:
        iptables(FILTER, "-A OUTPUT -j DROP")
        add(tables, table, counters)

    monkeypatch.setattr(KernelTables, "add_counters", add_too_late)
    (key,) = encoded(backend, FILTER, RULES[1:2])
    with pytest.raises(TableChanged, match="counters"):
        backend.apply(TablePlan(FILTER, (Insert("probe", 0, key),)))
    monkeypatch.undo()
    with pytest.raises(TableChanged, match="read first"):
        backend.apply(TablePlan(FILTER, (Insert("probe", 0, key),)))
    assert backend.read(FILTER, fresh=False)["OUTPUT"] != ()
    assert LINES[1] in save(FILTER)


def test_a_table_is_read_once_under_one_lock(backend: IptablesBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    (key,) = encoded(backend, FILTER, [Rule(DROP)])
    tables: list[str] = []
    read = KernelTables.read

    def counted(kernel: KernelTables, table: str, *known: Any) -> Image:
        tables.append(table)
        return read(kernel, table, *known)

    monkeypatch.setattr(KernelTables, "read", counted)
    with backend.locked():
        backend.read(FILTER, fresh=True)
        backend.apply(TablePlan(FILTER, (Insert("INPUT", 0, key),)))
        backend.apply(TablePlan(FILTER, (Insert("INPUT", 0, key),)))
    assert len(tables) == 1
    backend.apply(TablePlan(FILTER, (Delete("INPUT", 0, key),)))
    assert len(tables) == 2
    assert save(FILTER) == ["-A INPUT -j DROP"]


def test_no_descriptor_is_left_open(backend: IptablesBackend) -> None:
    put(backend, FILTER, "probe", RULES)
    count: Callable[[], int] = lambda: len(os.listdir("/proc/self/fd"))  # noqa: E731
    before = count()
    for number in range(20):
        put(backend, FILTER, f"probe-{number}", RULES)
    with pytest.raises(RuleRefused):
        put(backend, FILTER, "refused", [UNACCEPTABLE])
    assert count() == before
