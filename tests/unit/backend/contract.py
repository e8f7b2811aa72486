"""What every packet-filter backend does, the kernel's and the fake alike."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import pytest

from nova_netagent.backend import Backend, RuleRefused, TableChanged
from nova_netagent.netfilter.rule import (
    ACCEPT,
    DROP,
    RETURN,
    Chain,
    ChecksumFill,
    Comment,
    Conntrack,
    Dnat,
    Family,
    Hook,
    Icmp,
    InSet,
    IpSet,
    Jump,
    Limit,
    Log,
    MacSource,
    MultiPort,
    Physdev,
    Ports,
    Redirect,
    Reject,
    Rule,
    SetMark,
    Snat,
    Table,
    TableId,
)
from nova_netagent.plan.sets import SetPlan, plan_sets
from nova_netagent.plan.tables import (
    AddChain,
    Delete,
    Insert,
    Placement,
    RemoveChain,
    TablePlan,
    plan_removal,
    plan_table,
)

FILTER, NAT, MANGLE, RAW = (TableId(4, name) for name in ("filter", "nat", "mangle", "raw"))
FILTER_6 = TableId(6, "filter")

SSH = Rule(ACCEPT, protocol=6, matches=(Ports("tcp", destination=(22, 22)),), origin=("security-group", "a", "ssh"))
DNS = Rule(ACCEPT, protocol=17, matches=(Ports("udp", destination=(53, 53)),))
FOREIGN = Rule(DROP, source="203.0.113.0/24", matches=(Comment("nova-netagent-local"),))
STAYS = Rule(ACCEPT, protocol=47)
TO_OURS = Rule(Jump("ours-local"))
CUT_SETS: tuple[tuple[str, Family], ...] = (("ours-cut", 4), ("ours-cut", 6), ("ours-more", 4))


class World(Protocol):
    """A backend, and what other programs do behind its back."""

    backend: Backend[Any]

    def put(self, table: TableId, chain: str, rules: Sequence[Rule]) -> None:
        """Make a chain hold these rules."""

    def rules(self, table: TableId, chain: str) -> list[str] | None:
        """The rules of a chain, ``None`` when there is no such chain."""

    notices: bool
    """Whether a reading that is not fresh sees every change, also one of the same size."""

    permits: frozenset[str]
    """What of ``REFUSED`` this kernel takes."""

    def noted(self, name: str) -> set[str]:
        """The ends of flows in a set."""


def table(id_: TableId, hooks: Sequence[Hook] = (), **chains: Sequence[Rule]) -> Table:
    """A table with chains of ours: ``local=(...)`` is ``ours-local``."""
    named = {f"ours-{name}": Chain(f"ours-{name}", tuple(rules)) for name, rules in chains.items()}
    return Table(id_, named, tuple(hooks))


def hooked(*rules: Rule, **chains: Sequence[Rule]) -> Table:
    """A filter table whose INPUT jumps to ours."""
    return table(FILTER, [Hook("INPUT", (TO_OURS,))], local=rules, **chains)


def owns(name: str) -> bool:
    """Whether a chain is ours."""
    return name.startswith("ours-")


def plan(world: World, desired: Table, *, fresh: bool = False) -> TablePlan[Any]:
    """The edits towards what is desired."""
    backend = world.backend
    return plan_table(
        backend.encode(desired),
        backend.read(desired.id, fresh=fresh),
        owns=owns,
        jumps_to=backend.jumps_to,
        placement=Placement(lambda key: backend.describe(desired.id, key)),
    )


def reconcile(world: World, desired: Table, *, fresh: bool = False) -> None:
    """Make the table hold what is desired."""
    with world.backend.locked():
        world.backend.apply(plan(world, desired, fresh=fresh))


def keys(world: World, table_id: TableId, *rules: Rule) -> list[Any]:
    """The keys of single rules."""
    return list(world.backend.encode(table(table_id, probe=rules)).chains["ours-probe"])


def apply(world: World, table_id: TableId, *edits: Any) -> None:
    """Read and apply."""
    with world.backend.locked():
        world.backend.read(table_id, fresh=False)
        world.backend.apply(TablePlan(table_id, edits))


# Each is refused in the chain "ours-probe", which the built-in chain jumps to.
REFUSED = {
    "tcp ports without tcp": (FILTER, "INPUT", Rule(ACCEPT, matches=(Ports("tcp"),))),
    "tcp ports of all but tcp": (
        FILTER,
        "INPUT",
        Rule(ACCEPT, protocol=6, matches=(Ports("tcp"),), inverted=frozenset({"protocol"})),
    ),
    "udp ports of tcp": (FILTER, "INPUT", Rule(ACCEPT, protocol=6, matches=(Ports("udp"),))),
    "ports without ports": (FILTER, "INPUT", Rule(ACCEPT, protocol=47, matches=(MultiPort("source", (1, 2)),))),
    "icmp without icmp": (FILTER, "INPUT", Rule(ACCEPT, matches=(Icmp(8),))),
    "icmp6 of icmp": (FILTER_6, "INPUT", Rule(ACCEPT, protocol=1, matches=(Icmp(128),))),
    "no such set": (FILTER, "INPUT", Rule(ACCEPT, matches=(InSet("ours-none", "src"),))),
    "no such chain": (FILTER, "INPUT", Rule(Jump("nowhere"))),
    "a loop": (FILTER, "INPUT", Rule(Jump("ours-probe"))),
    "goto itself": (FILTER, "INPUT", Rule(Jump("ours-probe", goto=True))),
    "jump to a built-in chain": (FILTER, "INPUT", Rule(Jump("FORWARD"))),
    "dnat in filter": (FILTER, "INPUT", Rule(Dnat("192.0.2.1"))),
    "dnat after routing": (NAT, "POSTROUTING", Rule(Dnat("192.0.2.1"))),
    "snat before routing": (NAT, "PREROUTING", Rule(Snat("192.0.2.1"))),
    "redirect after routing": (NAT, "POSTROUTING", Rule(Redirect(80), protocol=6)),
    "reject in mangle": (MANGLE, "INPUT", Rule(Reject())),
    "checksum in filter": (FILTER, "INPUT", Rule(ChecksumFill())),
    "a source mac going out": (FILTER, "OUTPUT", Rule(DROP, matches=(MacSource("fa:16:3e:00:00:01"),))),
    "a bridge port match that says nothing": (FILTER, "FORWARD", Rule(DROP, matches=(Physdev(),))),
    "a bridge port out of the host": (FILTER, "OUTPUT", Rule(DROP, matches=(Physdev(outgoing="tap0"),))),
}

ACCEPTED = {
    "reject": (FILTER, "OUTPUT", Rule(Reject())),
    "mark": (MANGLE, "POSTROUTING", Rule(SetMark(1, 1))),
    "mark in filter": (FILTER, "INPUT", Rule(SetMark(1, 1))),
    "a source mac coming in": (RAW, "PREROUTING", Rule(DROP, matches=(MacSource("fa:16:3e:00:00:01"),))),
    "a bridge port out, bridged": (FILTER, "OUTPUT", Rule(DROP, matches=(Physdev(outgoing="t+", bridged=True),))),
    "snat of local input": (NAT, "INPUT", Rule(Snat("192.0.2.1"))),
    "dnat of local output": (NAT, "OUTPUT", Rule(Dnat("192.0.2.1"))),
    "state in raw": (RAW, "OUTPUT", Rule(DROP, matches=(Conntrack(frozenset({"NEW"})),))),
    "log in filter": (FILTER, "INPUT", Rule(Log(6400, "drop ingress 1"), matches=(Limit(100, 100),))),
    "log in mangle": (MANGLE, "PREROUTING", Rule(Log(6400, "accept egress 1"), matches=(Limit(1, 1),))),
    "sctp ports": (FILTER, "INPUT", Rule(ACCEPT, protocol=132, matches=(MultiPort("source", (1, 2)),))),
}


class BackendContract:
    """Inherit it, with a fixture ``world``."""

    def test_what_is_desired_is_there_and_stays_without_another_edit(self, world: World) -> None:
        desired = hooked(SSH, DNS, Rule(Jump("ours-b")), b=(Rule(RETURN),))
        reconcile(world, desired)
        assert world.rules(FILTER, "INPUT") == ["-j ours-local"]
        assert world.rules(FILTER, "ours-local") == [
            "-p tcp -m tcp --dport 22 -j ACCEPT",
            "-p udp -m udp --dport 53 -j ACCEPT",
            "-j ours-b",
        ]
        for fresh in (False, True):
            assert not plan(world, desired, fresh=fresh).edits

    def test_both_families_are_apart(self, world: World) -> None:
        reconcile(world, table(FILTER_6, local=(SSH,)))
        assert world.rules(FILTER_6, "ours-local") == ["-p tcp -m tcp --dport 22 -j ACCEPT"]
        assert world.rules(FILTER, "ours-local") is None

    def test_the_origin_of_a_rule_makes_no_difference(self, world: World) -> None:
        other = Rule(SSH.target, protocol=6, matches=SSH.matches, origin=("security-group", "b", "x"))
        assert keys(world, FILTER, SSH) == keys(world, FILTER, other)

    def test_a_change_edits_what_changed(self, world: World) -> None:
        reconcile(world, hooked(SSH, DNS))
        desired = hooked(DNS, SSH, Rule(DROP))
        reconcile(world, desired)
        assert world.rules(FILTER, "ours-local") == [
            "-p udp -m udp --dport 53 -j ACCEPT",
            "-p tcp -m tcp --dport 22 -j ACCEPT",
            "-j DROP",
        ]
        assert not plan(world, desired, fresh=True).edits

    def test_chains_are_the_same_objects_as_long_as_they_hold_the_same(self, world: World) -> None:
        desired = hooked(SSH, b=(DNS,))
        reconcile(world, desired)
        encoded = world.backend.encode(desired).chains
        actual = world.backend.read(FILTER, fresh=True)
        assert all(actual[name] is chain for name, chain in encoded.items())

    def test_foreign_rules_stay_below_ours_in_a_built_in_chain(self, world: World) -> None:
        world.put(FILTER, "INPUT", [FOREIGN, FOREIGN, Rule(ACCEPT, in_interface="lo")])
        foreign = world.rules(FILTER, "INPUT")
        assert foreign is not None
        reconcile(world, hooked(SSH))
        assert world.rules(FILTER, "INPUT") == ["-j ours-local", *foreign]
        reconcile(world, table(FILTER, [Hook("INPUT", ())]))
        with world.backend.locked():
            removal = plan_removal(
                world.backend.encode(hooked()),
                world.backend.read(FILTER, fresh=True),
                owns=owns,
                jumps_to=world.backend.jumps_to,
            )
            world.backend.apply(removal)
        assert world.rules(FILTER, "INPUT") == foreign
        assert world.rules(FILTER, "ours-local") is None

    def test_foreign_chains_stay(self, world: World) -> None:
        world.put(FILTER, "theirs", [FOREIGN])
        world.put(FILTER, "INPUT", [Rule(Jump("theirs"))])
        reconcile(world, hooked(SSH))
        reconcile(world, hooked(DNS))
        assert world.rules(FILTER, "theirs") == ["-s 203.0.113.0/24 -m comment --comment nova-netagent-local -j DROP"]
        assert world.rules(FILTER, "INPUT") == ["-j ours-local", "-j theirs"]

    def test_jumps_are_told(self, world: World) -> None:
        told = [
            world.backend.jumps_to(key)
            for table_id in (FILTER, FILTER_6)
            for key in keys(world, table_id, Rule(Jump("a")), Rule(Jump("b", goto=True)), SSH, Rule(Reject()))
        ]
        assert told == ["a", "b", None, None] * 2

    # --- chains that go

    def test_chains_that_jump_to_each_other_go_together(self, world: World) -> None:
        reconcile(world, hooked(Rule(Jump("ours-a")), a=(Rule(Jump("ours-b")),), b=(Rule(Jump("ours-c")),), c=()))
        apply(
            world,
            FILTER,
            RemoveChain("ours-c"),
            RemoveChain("ours-a"),
            RemoveChain("ours-b"),
            RemoveChain("ours-local", flush_only=True),
        )
        assert world.rules(FILTER, "ours-local") == []
        assert [world.rules(FILTER, f"ours-{name}") for name in "abc"] == [None] * 3

    def test_a_chain_that_somebody_jumps_to_stays(self, world: World) -> None:
        reconcile(world, hooked(SSH))
        with pytest.raises(RuleRefused):
            apply(world, FILTER, RemoveChain("ours-local"))
        assert world.rules(FILTER, "ours-local") == ["-p tcp -m tcp --dport 22 -j ACCEPT"]

    @pytest.mark.parametrize("chain", ["nowhere", "INPUT"])
    def test_a_chain_that_is_not_there_or_built_in_cannot_go(self, world: World, chain: str) -> None:
        with pytest.raises(RuleRefused):
            apply(world, FILTER, RemoveChain(chain))

    def test_a_chain_that_is_there_cannot_be_made(self, world: World) -> None:
        reconcile(world, hooked(SSH))
        with pytest.raises(RuleRefused):
            apply(world, FILTER, AddChain("ours-local"))

    def test_a_chain_with_a_name_that_is_too_long_cannot_be_made(self, world: World) -> None:
        with pytest.raises(RuleRefused):
            apply(world, FILTER, AddChain("x" * 29))

    # --- what is refused

    @pytest.mark.parametrize("name", REFUSED)
    def test_a_refused_rule_changes_nothing(self, world: World, name: str) -> None:
        table_id, hook, rule = REFUSED[name]
        world.put(table_id, hook, [STAYS])
        (to_probe,) = keys(world, table_id, Rule(Jump("ours-probe")))
        with nullcontext() if name in world.permits else pytest.raises(RuleRefused):
            (refused,) = keys(world, table_id, rule)
            apply(world, table_id, AddChain("ours-probe"), Insert("ours-probe", 0, refused), Insert(hook, 0, to_probe))
        if name in world.permits:
            assert world.rules(table_id, "ours-probe") == [world.backend.describe(table_id, refused)]
            return
        assert world.rules(table_id, "ours-probe") is None
        assert world.rules(table_id, hook) == ["-p gre -j ACCEPT"]
        apply(world, table_id, AddChain("ours-probe"))

    @pytest.mark.parametrize(("table_id", "hook", "rule"), ACCEPTED.values(), ids=ACCEPTED)
    def test_an_unusual_rule_is_accepted(self, world: World, table_id: TableId, hook: str, rule: Rule) -> None:
        accepted, to_probe = keys(world, table_id, rule, Rule(Jump("ours-probe")))
        apply(world, table_id, AddChain("ours-probe"), Insert("ours-probe", 0, accepted), Insert(hook, 0, to_probe))
        assert world.rules(table_id, "ours-probe") == [world.backend.describe(table_id, accepted)]

    def test_what_nobody_reaches_is_not_judged_by_its_hook(self, world: World) -> None:
        mac, loop = keys(world, FILTER, Rule(DROP, matches=(MacSource("fa:16:3e:00:00:01"),)), Rule(Jump("ours-probe")))
        apply(world, FILTER, AddChain("ours-probe"), Insert("ours-probe", 0, mac), Insert("ours-probe", 1, loop))
        assert len(world.rules(FILTER, "ours-probe") or ()) == 2

    @pytest.mark.parametrize("index", [3, 100])
    def test_an_index_beyond_the_end_is_refused(self, world: World, index: int) -> None:
        reconcile(world, hooked(SSH, DNS))
        ssh, dns = world.backend.read(FILTER, fresh=False)["ours-local"]
        with pytest.raises(RuleRefused):
            apply(world, FILTER, Insert("ours-local", index, ssh))
        with pytest.raises(RuleRefused):
            apply(world, FILTER, Delete("ours-local", index, dns))
        with pytest.raises(RuleRefused):
            apply(world, FILTER, Insert("nowhere", 0, ssh))
        assert len(world.rules(FILTER, "ours-local") or ()) == 2

    @pytest.mark.parametrize(
        "rule",
        [
            Rule(Jump("x" * 29)),
            Rule(ACCEPT, matches=(Comment("x" * 256),)),
            Rule(ACCEPT, protocol=0),
            Rule(ACCEPT, protocol=1, matches=(Icmp(255),)),
        ],
    )
    def test_a_rule_that_would_mean_something_else_is_not_encoded(self, world: World, rule: Rule) -> None:
        with pytest.raises(RuleRefused):
            keys(world, FILTER, rule)

    def test_a_chain_name_that_is_too_long_is_not_encoded(self, world: World) -> None:
        name = "ours-" + "x" * 24
        with pytest.raises(RuleRefused):
            world.backend.encode(Table(FILTER, {name: Chain(name, ())}, ()))

    # --- others at work

    def test_a_rule_that_somebody_added_since_is_noticed(self, world: World) -> None:
        reconcile(world, hooked(SSH))
        with world.backend.locked():
            ours = plan(world, hooked(DNS))
            world.put(FILTER, "FORWARD", [FOREIGN])
            with pytest.raises(TableChanged):
                world.backend.apply(ours)
            assert world.rules(FILTER, "ours-local") == ["-p tcp -m tcp --dport 22 -j ACCEPT"]
        reconcile(world, hooked(DNS))
        assert world.rules(FILTER, "ours-local") == ["-p udp -m udp --dport 53 -j ACCEPT"]
        assert len(world.rules(FILTER, "FORWARD") or ()) == 1

    def test_a_chain_of_ours_that_somebody_rewrote_since_is_noticed(self, world: World) -> None:
        reconcile(world, hooked(SSH))
        world.put(FILTER, "ours-local", [DNS])
        with nullcontext() if world.notices else pytest.raises(TableChanged):
            reconcile(world, hooked(SSH, Rule(DROP)))
        reconcile(world, hooked(SSH, Rule(DROP)), fresh=True)
        assert world.rules(FILTER, "ours-local") == ["-p tcp -m tcp --dport 22 -j ACCEPT", "-j DROP"]

    def test_a_foreign_rule_that_somebody_replaced_since_stays_replaced(self, world: World) -> None:
        world.put(FILTER, "FORWARD", [FOREIGN])
        reconcile(world, hooked(SSH))
        world.put(FILTER, "FORWARD", [Rule(ACCEPT)])
        reconcile(world, hooked(DNS))
        assert world.rules(FILTER, "FORWARD") == ["-j ACCEPT"]

    @pytest.mark.parametrize(
        "left", [[], [DNS], [SSH, SSH, DNS], [DNS, SSH]], ids=["flushed", "deleted", "doubled", "swapped"]
    )
    def test_drift_is_seen_by_a_fresh_reading_and_repaired(self, world: World, left: list[Rule]) -> None:
        desired = hooked(SSH, DNS)
        reconcile(world, desired)
        world.put(FILTER, "ours-local", left)
        assert plan(world, desired, fresh=True).edits
        reconcile(world, desired, fresh=True)
        assert not plan(world, desired, fresh=True).edits
        assert len(world.rules(FILTER, "ours-local") or ()) == 2

    def test_a_rule_that_is_not_where_the_plan_has_it_is_a_change(self, world: World) -> None:
        reconcile(world, hooked(SSH, DNS))
        ssh, dns = world.backend.read(FILTER, fresh=True)["ours-local"]
        with pytest.raises(TableChanged):
            apply(world, FILTER, Delete("ours-local", 0, dns))
        apply(world, FILTER, Delete("ours-local", 0, ssh), Delete("ours-local", 0, dns))
        assert world.rules(FILTER, "ours-local") == []

    def test_a_table_that_was_never_read_is_not_changed(self, world: World) -> None:
        (ssh,) = keys(world, FILTER, SSH)
        with pytest.raises(TableChanged):
            world.backend.apply(TablePlan(FILTER, (Insert("INPUT", 0, ssh),)))

    def test_after_a_refusal_the_table_has_to_be_read_again(self, world: World) -> None:
        refused, ssh = keys(world, FILTER, Rule(Dnat("192.0.2.1")), SSH)
        with pytest.raises(RuleRefused):
            apply(world, FILTER, Insert("INPUT", 0, refused))
        with pytest.raises(TableChanged):
            world.backend.apply(TablePlan(FILTER, (Insert("INPUT", 0, ssh),)))
        apply(world, FILTER, Insert("INPUT", 0, ssh))
        assert len(world.rules(FILTER, "INPUT") or ()) == 1

    # --- sets

    @pytest.mark.parametrize(
        ("family", "members"),
        [(4, {"10.0.0.0/8", "0.0.0.0/0"}), (6, {"2001:db8::/32", "::/0"}), (4, {"192.0.2.1/32"}), (6, set())],
    )
    def test_a_set_comes_and_goes(self, world: World, family: Family, members: set[str]) -> None:
        backend = world.backend
        backend.prepare_sets(SetPlan(create=(IpSet("ours-set", family, frozenset(members)),)))
        assert backend.read_sets()["ours-set"] == IpSet("ours-set", family, frozenset(members))
        backend.finish_sets(SetPlan(remove={"ours-set": frozenset(members)}))
        assert backend.read_sets()["ours-set"].members == frozenset()
        backend.finish_sets(SetPlan(destroy=("ours-set",)))
        assert backend.read_sets() == {}

    @pytest.mark.parametrize(
        ("family", "steps"),
        [
            (4, ["10.0.0.0/8", "10.0.0.0/9 10.128.0.0/9", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.0/25 10.0.0.192/26"]),
            (4, ["10.0.0.0/31", "10.0.0.0/32 10.0.0.1/32", "10.0.0.1/32", "10.0.0.0/30", "10.0.0.2/31 10.0.0.0/32"]),
            (4, ["0.0.0.0/0", "128.0.0.0/1", "0.0.0.0/0", "255.255.255.255/32", "255.255.255.254/31", "0.0.0.0/1"]),
            (
                6,
                [
                    "fd00::/16",
                    "fd00::/17 fd00:8000::/17",
                    "fd00::/18 fd00:4000::/18 fd00:8000::/17",
                    "::/0",
                    "8000::/1",
                ],
            ),
        ],
    )
    def test_members_are_parted_and_joined(self, world: World, family: Family, steps: list[str]) -> None:
        before: dict[str, IpSet] = {}
        for step in steps:
            wanted = {"ours-set": IpSet("ours-set", family, frozenset(step.split()))}
            plan = plan_sets(wanted, before, lambda _: True)
            world.backend.prepare_sets(plan)
            world.backend.finish_sets(plan)
            assert world.backend.read_sets() == wanted
            before = wanted

    def test_a_set_in_use_stays(self, world: World) -> None:
        backend = world.backend
        sets = tuple(IpSet(f"ours-{number}", 4, frozenset({"10.0.0.0/8"})) for number in (1, 2))
        backend.prepare_sets(SetPlan(create=sets))
        reconcile(world, hooked(Rule(DROP, matches=(InSet("ours-1", "src"),))))
        assert world.rules(FILTER, "ours-local") == ["-m set --match-set ours-1 src -j DROP"]
        with pytest.raises(RuleRefused, match="ours-1"):
            backend.finish_sets(SetPlan(destroy=("ours-1", "ours-2")))
        assert list(backend.read_sets()) == ["ours-1"]
        with pytest.raises(RuleRefused):
            backend.prepare_sets(SetPlan(create=sets[:1]))
        reconcile(world, hooked())
        backend.finish_sets(SetPlan(destroy=("ours-1", "ours-2")))
        assert backend.read_sets() == {}

    def test_a_set_that_is_gone_or_of_the_other_family_is_reported(self, world: World) -> None:
        with pytest.raises(TableChanged):
            world.backend.prepare_sets(SetPlan(add={"ours-set": frozenset({"10.0.0.0/8"})}))
        with pytest.raises(TableChanged):
            world.backend.finish_sets(SetPlan(remove={"ours-set": frozenset({"10.0.0.0/8"})}))
        world.backend.prepare_sets(SetPlan(create=(IpSet("ours-set", 6, frozenset()),)))
        with pytest.raises(RuleRefused):
            world.backend.prepare_sets(SetPlan(add={"ours-set": frozenset({"10.0.0.0/8"})}))

    @pytest.mark.parametrize("family", [4, 6])
    def test_ends_of_flows_are_noted_and_are_no_drift(self, world: World, family: Family) -> None:
        backend = world.backend
        cut = IpSet("ours-cut", family, frozenset(), type="hash:ip,port,ip")
        backend.prepare_sets(SetPlan(create=(cut,)))
        one, other = ("10.0.0.2", "192.0.2.1") if family == 4 else ("fd00::2", "2001:db8::1")
        ends = {f"{one},tcp:40000,{other}", f"{other},tcp:1,{one}"}
        for _ in range(2):
            backend.note_cut({"ours-cut": ends})
        assert world.noted("ours-cut") == ends
        for each in ends:
            ago = backend.cut_ago("ours-cut", each)
            assert ago is not None
            assert 0 <= ago < 60
        assert backend.cut_ago("ours-cut", f"{one},tcp:40001,{other}") is None
        assert backend.cut_ago("ours-gone", f"{one},tcp:40000,{other}") is None
        assert backend.read_sets() == {"ours-cut": cut}
        with pytest.raises(TableChanged):
            backend.note_cut({"ours-gone": ends})

    def test_ends_of_flows_are_told_as_they_were_noted(self, world: World) -> None:
        backend = world.backend
        assert backend.cut_ends() == {}
        sets = [IpSet(f"{name}{family}", family, frozenset(), type="hash:ip,port,ip") for name, family in CUT_SETS]
        backend.prepare_sets(SetPlan(create=(*sets, IpSet("ours-set", 4, frozenset({"192.0.2.1/32"})))))
        ends = {
            "ours-cut4": {"10.0.0.2,tcp:40000,192.0.2.1", "192.0.2.1,tcp:65535,10.0.0.2"},
            "ours-cut6": {"fd00::2,tcp:1,2001:db8::1", "::ffff:192.0.2.1,tcp:80,::"},
        }
        for _ in range(2):
            backend.note_cut(ends)
            assert backend.cut_ends() == ends | {"ours-more4": set()}
        backend.finish_sets(SetPlan(destroy=("ours-cut4",)))
        assert backend.cut_ends() == {"ours-cut6": ends["ours-cut6"], "ours-more4": set()}
        backend.prepare_sets(SetPlan(create=tuple(sets[:1])))
        assert backend.cut_ends()["ours-cut4"] == set()

    def test_a_set_of_another_type_is_made_anew(self, world: World) -> None:
        wrong, right = (IpSet("ours-cut", 4, frozenset(), type=each) for each in ("hash:net", "hash:ip,port,ip"))
        world.backend.prepare_sets(SetPlan(create=(wrong,)))
        world.backend.prepare_sets(plan_sets({"ours-cut": right}, world.backend.read_sets(), lambda name: True))
        assert world.backend.read_sets() == {"ours-cut": right}

    def test_a_rule_with_a_set_is_planned_before_the_set_is_there(self, world: World) -> None:
        desired = hooked(Rule(DROP, matches=(InSet("ours-set", "dst"),)))
        lines = list(plan(world, desired).lines(lambda key: world.backend.describe(FILTER, key)))
        assert any("--match-set ours-set dst" in line for line in lines)
        world.backend.prepare_sets(SetPlan(create=(IpSet("ours-set", 4, frozenset()),)))
        reconcile(world, desired)
        assert world.rules(FILTER, "ours-local") == ["-m set --match-set ours-set dst -j DROP"]
