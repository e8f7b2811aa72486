"""Sets in the kernel, as the plan speaks of them."""

import os
import random
import time
from itertools import combinations, product

import pytest

from nova_netagent.backend import RuleRefused, TableChanged
from nova_netagent.backend.ipset import FULL, Ipset, IpsetError
from nova_netagent.backend.iptables import IptablesBackend
from nova_netagent.netfilter.rule import DROP, Chain, Family, InSet, IpSet, Rule, Table
from nova_netagent.plan.sets import SetPlan, plan_sets
from nova_netagent.plan.tables import AddChain, Insert, TablePlan
from tests.functional.backend.legacy import FILTER, encoded, iptables, new_backend, put, run, save

NETS: dict[Family, frozenset[str]] = {
    4: frozenset({"10.0.0.0/8", "192.0.2.1/32", "198.51.100.0/25"}),
    6: frozenset({"2001:db8::/32", "fe80::1/128"}),
}
IN_SET = Rule(DROP, matches=(InSet("ours-4", "src"),))
EVERYBODY: dict[Family, tuple[str, str, str]] = {
    4: ("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"),
    6: ("::/0", "::/1", "8000::/1"),
}
"""All addresses, and the halves of them."""
SEED = int(os.environ.get("NOVA_NETAGENT_SEED", "0")) or random.randrange(1, 1 << 32)


def create(backend: IptablesBackend, family: Family, members: frozenset[str], name: str = "") -> str:
    name = name or f"ours-{family}"
    backend.prepare_sets(SetPlan(create=(IpSet(name, family, members),)))
    return name


def have(backend: IptablesBackend, wanted: IpSet) -> None:
    """Read what there is, and make it what it should be."""
    plan = planned(backend, wanted)
    backend.prepare_sets(plan)
    backend.finish_sets(plan)


def planned(backend: IptablesBackend, wanted: IpSet) -> SetPlan:
    desired = {wanted.name: wanted}
    return plan_sets(desired, backend.read_sets(desired), lambda name: True)


def listed(name: str) -> frozenset[str]:
    """A set's members as ipset(8) prints them."""
    lines = run("ipset", "save", name).splitlines()
    return frozenset(line.split(" ", 2)[2] for line in lines if line.startswith("add "))


@pytest.mark.parametrize("family", [4, 6])
def test_a_set_is_made_changed_and_removed(backend: IptablesBackend, family: Family) -> None:
    name = create(backend, family, NETS[family])
    assert backend.read_sets() == {name: IpSet(name, family, NETS[family])}
    assert len(listed(name)) == len(NETS[family])
    extra = frozenset({"203.0.113.0/24"} if family == 4 else {"2001:db8:1::/48"})
    gone = frozenset({next(iter(NETS[family]))})
    plan = SetPlan(add={name: extra}, remove={name: gone})
    backend.prepare_sets(plan)
    assert backend.read_sets()[name].members == NETS[family] | extra
    backend.finish_sets(plan)
    assert backend.read_sets()[name].members == (NETS[family] | extra) - gone
    backend.finish_sets(SetPlan(destroy=(name,)))
    assert backend.read_sets() == {}


@pytest.mark.parametrize("whole", ["0.0.0.0/0", "::/0"])
def test_everybody_is_two_halves_that_nobody_sees(backend: IptablesBackend, whole: str) -> None:
    family: Family = 6 if ":" in whole else 4
    name = create(backend, family, frozenset({whole}))
    assert {member.partition("/")[2] for member in listed(name)} == {"1"}
    assert backend.read_sets()[name].members == {whole}
    restarted = new_backend()
    assert restarted.read_sets()[name].members == {whole}
    restarted.close()
    backend.finish_sets(SetPlan(remove={name: frozenset({whole})}))
    assert backend.read_sets()[name].members == frozenset()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("reads", [True, False], ids=["read back", "remembered"])
def test_everybody_and_halves_come_and_go_in_any_order(backend: IptablesBackend, family: Family, reads: bool) -> None:
    """Whatever a set was, and whoever made it: it holds what it should, and nobody finds anything to do."""
    chance = random.Random(SEED)
    print(f"NOVA_NETAGENT_SEED={SEED}")
    whole, *halves = EVERYBODY[family]
    some = [*EVERYBODY[family], "192.0.2.1/32" if family == 4 else "2001:db8::/32"]
    subsets = [frozenset(each) for size in range(len(some) + 1) for each in combinations(some, size)]
    pairs = [*product(subsets, subsets)]
    chance.shuffle(pairs)
    for before, after in pairs:
        old, new = (IpSet(f"ours-{family}", family, each) for each in (before, after))
        have(backend, old)
        if chance.random() < 0.5:
            backend.close()
            backend = new_backend()
        plan = planned(backend, new) if reads else plan_sets({new.name: new}, {old.name: old}, lambda name: True)
        backend.prepare_sets(plan)
        was, becomes = (expanded(each, whole, halves) for each in (before, after))
        assert listed(new.name) == was | becomes, "rules that go and rules that come find theirs"
        backend.finish_sets(plan)
        assert listed(new.name) == becomes, (before, after)
        assert not planned(backend, new), (before, after)
        another = new_backend()
        assert not planned(another, new), (before, after)
        another.close()
    backend.close()


def expanded(members: frozenset[str], whole: str, halves: list[str]) -> frozenset[str]:
    """The same as ipset(8) prints them."""
    held = members - {whole} | ({*halves} if whole in members else set())
    return frozenset(each.removesuffix("/32") if "." in each else each for each in held)


@pytest.mark.parametrize("family", [4, 6])
def test_what_somebody_did_to_the_halves_is_put_right_and_forgotten(backend: IptablesBackend, family: Family) -> None:
    whole, *halves = EVERYBODY[family]
    everybody, one, nobody = (IpSet(f"ours-{family}", family, frozenset(each)) for each in ([whole], halves[:1], []))
    have(backend, everybody)
    run("ipset", "del", everybody.name, halves[1])
    assert planned(backend, everybody)
    have(backend, everybody)
    assert listed(everybody.name) == frozenset(halves)
    run("ipset", "flush", everybody.name)
    have(backend, one)
    assert listed(everybody.name) == frozenset(halves[:1])
    have(backend, nobody)
    assert listed(everybody.name) == frozenset()
    have(backend, one)
    run("ipset", "add", everybody.name, halves[1])
    have(backend, one)
    assert listed(everybody.name) == frozenset(halves[:1])


def test_one_half_is_not_everybody(backend: IptablesBackend) -> None:
    name = create(backend, 4, frozenset({"128.0.0.0/1"}))
    assert backend.read_sets()[name].members == {"128.0.0.0/1"}


@pytest.mark.parametrize("family", [4, 6])
def test_twenty_thousand_members(backend: IptablesBackend, family: Family) -> None:
    members = frozenset(
        f"10.{i >> 8}.{i & 255}.0/24" if family == 4 else f"2001:db8:{i:x}::/48" if i else "2001:db8::/48"
        for i in range(20000)
    )
    name = create(backend, family, members)
    assert backend.read_sets()[name].members == members
    backend.finish_sets(SetPlan(remove={name: members}))
    assert backend.read_sets()[name].members == frozenset()


def test_other_programs_sets_are_not_ours(backend: IptablesBackend) -> None:
    run("ipset", "create", "theirs", "hash:net")
    run("ipset", "create", "ours-list", "list:set")
    create(backend, 4, NETS[4])
    assert list(backend.read_sets()) == ["ours-4"]


def test_a_set_in_use_cannot_go_and_keeps_no_other(backend: IptablesBackend) -> None:
    create(backend, 4, NETS[4])
    create(backend, 6, NETS[6])
    put(backend, FILTER, "probe", [IN_SET])
    with pytest.raises(RuleRefused, match=r"ours-4.*in use"):
        backend.finish_sets(SetPlan(destroy=("ours-4", "ours-6")))
    assert list(backend.read_sets()) == ["ours-4"]
    iptables(FILTER, "-F probe")
    backend.finish_sets(SetPlan(destroy=("ours-4",)))
    assert backend.read_sets() == {}


@pytest.mark.parametrize("kind", [("hash:ip",), ("hash:net", "family", "inet6")])
def test_a_name_taken_by_another_kind_of_set_is_taken_back(backend: IptablesBackend, kind: tuple[str, ...]) -> None:
    run("ipset", "create", "ours-4", *kind)
    create(backend, 4, NETS[4])
    assert backend.read_sets()["ours-4"].members == NETS[4]


def test_a_name_taken_by_another_kind_that_is_in_use_is_reported(backend: IptablesBackend) -> None:
    run("ipset", "create", "ours-4", "hash:ip")
    iptables(FILTER, "-A INPUT -m set --match-set ours-4 src -j ACCEPT")
    with pytest.raises(RuleRefused, match=r"ours-4.*in use"):
        create(backend, 4, NETS[4])


def test_a_member_of_the_other_family_is_named(backend: IptablesBackend) -> None:
    name = create(backend, 4, frozenset())
    with pytest.raises(RuleRefused, match="2001:db8::/32"):
        backend.prepare_sets(SetPlan(add={name: frozenset({"2001:db8::/32"})}))


def test_a_set_that_is_gone_is_noticed(backend: IptablesBackend) -> None:
    with pytest.raises(TableChanged):
        backend.prepare_sets(SetPlan(add={"ours-4": NETS[4]}))
    with pytest.raises(TableChanged):
        backend.finish_sets(SetPlan(remove={"ours-4": NETS[4]}))
    backend.finish_sets(SetPlan(destroy=("ours-4",)))


def test_an_exception_that_somebody_added_is_drift(backend: IptablesBackend) -> None:
    name = create(backend, 4, frozenset({"10.0.0.0/8"}))
    run("ipset", "add", name, "10.1.0.0/16", "nomatch")
    run("ipset", "-exist", "add", name, "10.0.0.0/8", "nomatch")
    actual = backend.read_sets()[name].members
    assert actual == {"10.0.0.0/8 nomatch", "10.1.0.0/16 nomatch"}
    have(backend, IpSet(name, 4, frozenset({"10.0.0.0/8"})))
    assert backend.read_sets()[name].members == {"10.0.0.0/8"}


def test_a_full_set_says_so(backend: IptablesBackend) -> None:
    run("ipset", "create", "ours-4", "hash:net", "maxelem", "2")
    ipset = Ipset()
    with pytest.raises(IpsetError, match="full") as caught:
        ipset.add("ours-4", sorted(NETS[4]))
    ipset.close()
    assert caught.value.errno == FULL


def test_a_refused_member_is_named_in_whatever_message_it_went(backend: IptablesBackend) -> None:
    name = create(backend, 4, frozenset())
    ipset = Ipset()
    for position in (1, 2030, 2031, 2032, 5000):
        members = [f"10.{i >> 8}.{i & 255}.0/24" for i in range(5000)]
        members.insert(position - 1, "2001:db8::/32")
        with pytest.raises(IpsetError, match="2001:db8::/32"):
            ipset.add(name, members)
    ipset.close()


# --- sets and rules


def test_an_index_does_not_outlive_its_set(backend: IptablesBackend) -> None:
    create(backend, 4, NETS[4])
    encoded(backend, FILTER, [IN_SET])
    backend.finish_sets(SetPlan(destroy=("ours-4",)))
    run("ipset", "create", "theirs", "hash:net")
    with pytest.raises(RuleRefused, match="ours-4"):
        put(backend, FILTER, "probe", [IN_SET])
    assert save(FILTER) == []


def test_a_rule_can_be_planned_before_its_set_is_there(backend: IptablesBackend) -> None:
    (planned,) = encoded(backend, FILTER, [IN_SET])
    assert backend.describe(FILTER, planned) == "-m set --match-set ours-4 src -j DROP"
    backend.read(FILTER, fresh=True)
    with pytest.raises(RuleRefused, match="ours-4"):
        backend.apply(TablePlan(FILTER, (Insert("INPUT", 0, planned),)))
    create(backend, 4, NETS[4])
    put(backend, FILTER, "probe", [IN_SET])
    assert save(FILTER) == ["-A probe -m set --match-set ours-4 src -j DROP"]


def test_the_same_chain_is_encoded_anew_when_its_set_has_another_index(backend: IptablesBackend) -> None:
    create(backend, 6, frozenset())
    create(backend, 4, NETS[4])
    table = Table(FILTER, {"ours": Chain("ours", (IN_SET,))}, ())
    first = backend.encode(table)
    run("ipset", "destroy")
    run("ipset", "create", "ours-4", "hash:net")
    backend.read_sets()
    second = backend.encode(table)
    assert second.chains["ours"] != first.chains["ours"]
    backend.read(FILTER, fresh=True)
    backend.apply(TablePlan(FILTER, (AddChain("ours"), Insert("ours", 0, second.chains["ours"][0]))))
    assert save(FILTER) == ["-A ours -m set --match-set ours-4 src -j DROP"]


def test_of_ends_of_flows_those_are_told_that_are_of_tcp_and_not_forgotten(backend: IptablesBackend) -> None:
    """Whatever others put into the set."""
    backend.prepare_sets(SetPlan(create=(IpSet("ours-cut4", 4, frozenset(), type="hash:ip,port,ip"),)))
    others = ("10.0.0.2,udp:53,192.0.2.1", "10.0.0.2,icmp:8/0,192.0.2.1", "10.0.0.2,443,192.0.2.1")
    for each in others:
        run("ipset", "add", "ours-cut4", each, "timeout", "0")
    run("ipset", "add", "ours-cut4", "10.0.0.2,tcp:22,192.0.2.1", "timeout", "1")
    assert backend.cut_ends() == {"ours-cut4": {"10.0.0.2,tcp:443,192.0.2.1", "10.0.0.2,tcp:22,192.0.2.1"}}
    time.sleep(1.2)
    assert backend.cut_ends() == {"ours-cut4": {"10.0.0.2,tcp:443,192.0.2.1"}}


def test_as_many_ends_of_flows_as_there_can_be_are_told(backend: IptablesBackend) -> None:
    backend.prepare_sets(SetPlan(create=(IpSet("ours-cut6", 6, frozenset(), type="hash:ip,port,ip"),)))
    ends = frozenset(f"fd00::{number:x},tcp:40000,2001:db8::1" for number in range(1, 20001))
    backend.note_cut({"ours-cut6": ends})
    assert backend.cut_ends() == {"ours-cut6": ends}
