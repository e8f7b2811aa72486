"""What others do in nf_tables meanwhile, and what fails while it is looked at: nothing is lost, nothing stays."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nova_netagent import cleanup
from nova_netagent.backend import RuleRefused, Unavailable
from nova_netagent.backend.nft import Batch, Netlink, attributes
from nova_netagent.backend.nft.commits import Commits
from nova_netagent.backend.nft.netlink import Disturbed
from nova_netagent.backend.nft.objects import Family, TableId
from nova_netagent.backend.nftables import NftablesBackend, commit
from nova_netagent.events import Delete, Event, Put, fold
from nova_netagent.model import DesiredState, Object
from nova_netagent.netfilter.rule import IpSet
from nova_netagent.plan.sets import SetPlan
from nova_netagent.settings import Settings
from nova_netagent.testing import (
    group_id,
    instance_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    rule_id,
)
from tests.lab import isolation, needs, rules_only
from tests.lab.rules_only import RulesOnly

pytestmark = needs("nftables", "program:nft")

W = "ours"
GET_RULES = 7
"""NFT_MSG_GETRULE (linux/netfilter/nf_tables.h)."""
MANY, FEW = 40, 2
"""Of many instances the ports are a tree, of a few a list."""


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    isolation.require()
    made = rules_only.settings(str(tmp_path), "nftables", wrap_name=W)
    yield made
    nft("flush ruleset")
    cleanup.run(made)


@pytest.fixture
def agent(settings: Settings) -> Iterator[RulesOnly]:
    made = RulesOnly(settings)
    yield made
    made.close()


def nft(script: str) -> str:
    """What somebody says to nft(8)."""
    done = subprocess.run(["nft", "-f", "-"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def state(instances: int, *more: Event) -> DesiredState:
    ports = [make_rule(port, protocol="tcp", port_range_min=port, port_range_max=port) for port in (22, 80, 443)]
    group = make_group(1, *ports, make_rule(3, remote_group_id=group_id(1)), members=("192.0.2.0/24",))
    described: list[Object] = [make_network(1), group, *(make_instance(n, (1,)) for n in range(1, instances + 1))]
    made = DesiredState()
    for event in (*map(Put, described), *more):
        made = fold(made, event, 0.0)
    return made


def nodes() -> list[str]:
    """The nodes of the tree of ports, as chains."""
    return [line.split()[1] for line in nft(f"list table ip {W}").splitlines() if line.startswith(f"\tchain {W}-to-")]


def standing() -> list[str]:
    """What our table holds, without counters, in an order of its own."""
    done = subprocess.run(["nft", "-s", "list", "table", "ip", W], capture_output=True, text=True, check=True)
    return sorted(done.stdout.splitlines())


def commits_of_others(count: int = 1) -> None:
    netlink = Netlink()
    for _ in range(count):
        batch = Batch()
        batch.add_table(TableId(Family.INET, "others"))
        batch.delete_table(TableId(Family.INET, "others"))
        netlink.commit(batch)
    netlink.close()


# --- ends of flows


def test_what_is_noted_twice_is_a_change_and_lasts_from_then_on(settings: Settings) -> None:
    netlink, commits = Netlink(), Commits()
    backend = NftablesBackend(W, lambda name: name.startswith(f"{W}-"), commits)
    backend.read_sets()
    backend.prepare_sets(SetPlan(create=(IpSet(f"{W}-cut4", 4, frozenset(), type="hash:ip,port,ip"),)))
    end = "10.0.0.2,tcp:40000,192.0.2.1"
    for ends in ({end}, {end}, {end, "192.0.2.1,tcp:1,10.0.0.2"}, set()):
        time.sleep(0.3)
        before = netlink.generation()
        backend.note_cut({f"{W}-cut4": ends})
        assert (netlink.generation() == before) == (not ends)
        assert backend._mirror.generation == netlink.generation(), "it is believed to be ours, and is nobody's"
        ago = backend.cut_ago(f"{W}-cut4", end)
        assert ago is not None
        assert not ends or ago < 0.25
    backend.close()
    netlink.close()


# --- reading


def test_what_was_heard_before_reading_failed_is_not_forgotten(
    agent: RulesOnly, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.apply(state(FEW), verify=True)
    backend: Any = agent._host.rules
    assert not backend.meddled()
    nft(f"flush chain ip {W} {W}-inst-a0000001")

    def fails(*_: object) -> None:
        raise Unavailable("the kernel does not list its nf_tables")

    with monkeypatch.context() as patch:
        patch.setattr(backend._mirror.kernel, "rules", fails)
        with pytest.raises(Unavailable):
            backend.meddled()
    commits_of_others()
    assert backend.meddled()
    assert agent.plan(state(FEW)) != []
    agent.apply(state(FEW), verify=True)
    assert agent.plan(state(FEW)) == []


def test_reading_is_done_once_while_others_commit(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time that it is read, the ruleset is another one afterwards; once a chain of ours is, too."""
    agent = RulesOnly(settings)
    agent.apply(state(FEW), verify=True)
    agent.close()
    read: Callable[..., Any] = Netlink.sets

    def disturbed(self: Netlink, table: TableId) -> Any:
        commits_of_others()
        found = read(self, table)
        if table.family == Family.IP6:
            nft(f"flush chain ip {W} {W}-inst-a0000001")
        return found

    monkeypatch.setattr(Netlink, "sets", disturbed)
    agent = RulesOnly(settings)
    lines = agent.plan(state(FEW))
    assert lines
    assert all(f"{W}-inst-a0000001" in line for line in lines)
    agent.close()


def test_a_range_that_ends_elsewhere_is_seen_at_once(agent: RulesOnly) -> None:
    agent.apply(state(FEW), verify=True)
    backend: Any = agent._host.rules
    assert not backend.meddled()
    allowed = f"element ip {W} {W}-sgi-b0000001-allowed"
    nft(f"delete {allowed} {{ 0.0.0.0/0 . tcp . 22 }}\nadd {allowed} {{ 0.0.0.0/0 . tcp . 22-79 }}")
    assert backend.meddled()


def test_a_trial_says_nothing_of_what_stands(agent: RulesOnly) -> None:
    agent.apply(state(FEW), verify=True)
    backend: Any = agent._host.rules
    backend._mirror.forget()
    assert agent.plan(state(FEW, Delete("instances", instance_id(1)))) != []
    assert agent.plan(state(FEW)) == []


# --- writing


def test_a_large_transaction_goes_through_while_others_commit(
    agent: RulesOnly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time that it is sent, somebody was quicker."""
    monkeypatch.setattr(commit, "_MUCH", 10)
    sent = list[int]()
    transact: Callable[..., None] = Netlink._transact

    def disturbed(self: Netlink, batch: Batch, generation: int | None, *, commit: bool) -> None:
        if len(batch) > 10 and len(sent) < 10:
            sent.append(len(batch))
            commits_of_others()
        transact(self, batch, generation, commit=commit)

    monkeypatch.setattr(Netlink, "_transact", disturbed)
    agent.apply(state(FEW), verify=True)
    assert len(sent) == 10
    assert agent.plan(state(FEW)) == []


def test_a_table_that_is_never_listed_undisturbed_is_read_chain_by_chain(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others commit more often than a whole table of a thousand instances can be listed."""
    first = RulesOnly(settings)
    first.apply(state(MANY), verify=True)
    first.close()
    ask = Netlink._ask

    def disturbed(self: Netlink, kind: int, family: Family, body: bytes, flags: int) -> Iterator[Any]:
        yield from ask(self, kind, family, body, flags)
        if (kind, body) == (GET_RULES, attributes.string(1, W)):
            raise Disturbed

    monkeypatch.setattr(Netlink, "_ask", disturbed)
    again = RulesOnly(settings)
    assert again.plan(state(MANY)) == []
    again.close()


def test_a_node_that_goes_stays_empty_while_a_foreign_rule_leads_to_it(agent: RulesOnly) -> None:
    agent.apply(state(MANY), verify=True)
    node = nodes()[0]
    nft(f"add chain ip {W} foreign\nadd rule ip {W} foreign jump {node}")
    agent.apply(state(FEW), verify=True)
    assert nodes() == [node]
    assert agent.plan(state(FEW)) == []
    nft(f"flush chain ip {W} foreign")
    agent.apply(state(FEW), verify=True)
    assert nodes() == []


@pytest.mark.parametrize("script", [f"flush table ip {W}", f"add chain ip {W} {W}-to-0000abcd"])
def test_an_empty_node_goes(settings: Settings, script: str) -> None:
    """Whoever emptied it or made it."""
    agent = RulesOnly(settings)
    agent.apply(state(MANY), verify=True)
    agent.close()
    nft(script)
    agent = RulesOnly(settings)
    agent.apply(state(FEW), verify=True)
    assert agent.plan(state(FEW)) == []
    assert nodes() == []
    agent.close()


def test_a_map_of_the_dispatch_of_another_kind_is_made_anew(agent: RulesOnly) -> None:
    """The rule that looks into it is as it should be."""
    agent.apply(state(FEW), verify=True)
    listed = nft(f"list chain ip {W} {W}-local").splitlines()
    (looks,) = (line.strip() for line in listed if f"@{W}-local-hosts" in line)
    kind = "type ipv4_addr . ifname : verdict; flags timeout;"
    name = f"{W}-local-hosts"
    nft(f"flush chain ip {W} {W}-local\ndelete map ip {W} {name}")
    nft(f"add map ip {W} {name} {{ {kind} }}\nadd rule ip {W} {W}-local {looks}")
    agent.apply(state(FEW), verify=True)
    assert agent.plan(state(FEW)) == []
    assert "timeout" not in nft(f"list map ip {W} {name}")


PUT_AMONG_OURS = {
    "whatever no element says": f"add element ip {W} {W}-local-hosts {{ * : accept }}",
    "whatever no group allows": f"add element ip {W} {W}-sgi-b0000001-allowed {{ * }}",
    "a chain that is hooked in": (
        f"flush chain ip {W} {W}-FORWARD\nflush chain ip {W} filter-FORWARD\ndelete chain ip {W} {W}-FORWARD\n"
        f"add chain ip {W} {W}-FORWARD {{ type filter hook forward priority 0; }}"
    ),
}


@pytest.mark.parametrize("what", PUT_AMONG_OURS)
def test_what_others_put_among_ours_goes(agent: RulesOnly, what: str) -> None:
    agent.apply(state(FEW), verify=True)
    before = standing()
    nft(PUT_AMONG_OURS[what])
    assert agent.plan(state(FEW)) != []
    agent.apply(state(FEW), verify=True)
    assert agent.plan(state(FEW)) == []
    assert standing() == before


def test_a_map_with_room_for_one_is_made_anew(agent: RulesOnly) -> None:
    agent.apply(state(FEW, Put(make_floating_ip(1))), verify=True)
    name, kind = f"{W}-PREROUTING-floating", "type ipv4_addr : ipv4_addr; size 1;"
    listed = nft(f"list chain ip {W} {W}-PREROUTING").splitlines()
    rules = "\n".join(f"add rule ip {W} {W}-PREROUTING {line.strip()}" for line in listed if "ip daddr" in line)
    nft(f"flush chain ip {W} {W}-PREROUTING\ndelete map ip {W} {name}")
    nft(f"add map ip {W} {name} {{ {kind} }}\n{rules}")
    both = state(FEW, Put(make_floating_ip(1)), Put(make_floating_ip(2, 2)))
    agent.apply(both, verify=True)
    assert agent.plan(both) == []
    assert "size" not in nft(f"list map ip {W} {name}")


@pytest.mark.parametrize("chain", ["filter-FORWARD", f"{W}-sg-fallback"])
def test_a_chain_that_is_renamed_is_missed(agent: RulesOnly, chain: str) -> None:
    agent.apply(state(FEW), verify=True)
    backend: Any = agent._host.rules
    assert not backend.meddled()
    nft(f"rename chain ip {W} {chain} spare")
    nft(f"flush chain ip {W} spare")
    assert backend.meddled()
    agent.apply(state(FEW), verify=True)
    assert agent.plan(state(FEW)) == []
    listed = nft(f"list table ip {W}")
    assert f"\tchain {chain} {{" in listed
    assert "jump spare" not in listed, "whoever led to it does so by its new name until he is read again"


def test_what_cannot_be_edited_any_more_is_made_anew(agent: RulesOnly) -> None:
    """A map that we do not know leads to a chain that has to go: the kernel refuses the whole transaction."""
    agent.apply(state(FEW), verify=True)
    nft(f"add map ip {W} theirs {{ type ipv4_addr : verdict; }}")
    nft(f"add element ip {W} theirs {{ 192.0.2.7 : jump {W}-inst-a0000002 }}")
    backend: Any = agent._host.rules
    with pytest.raises(RuleRefused):
        agent.apply(state(1), verify=True)
    assert f"{W}-inst-a0000002" in nft(f"list table ip {W}"), "all or nothing"
    assert backend.start_over()
    agent.apply(state(1), verify=True)
    assert agent.plan(state(1)) == []
    assert "theirs" not in nft(f"list table ip {W}")


def test_a_cleanup_takes_tables_away_whatever_is_in_them(agent: RulesOnly, settings: Settings) -> None:
    agent.apply(state(FEW), verify=True)
    nft(f"add map ip {W} theirs {{ type ipv4_addr : verdict; }}")
    nft(f"add element ip {W} theirs {{ 192.0.2.7 : jump {W}-inst-a0000002 }}")
    cleanup.run(settings)
    assert nft("list tables") == ""


def test_elements_are_listed_as_what_they_are(agent: RulesOnly) -> None:
    ranges = {22: "192.0.2.1/32", 25: "10.9.0.0/16", 443: None, 3306: "192.0.2.7/32", 8000: "172.16.0.0/12"}
    rules = [
        make_rule(port, protocol="tcp", port_range_min=port, port_range_max=port, remote_ip_prefix=prefix)
        for port, prefix in ranges.items()
    ]
    agent.apply(state(1, Put(make_group(1, *rules))), verify=True)
    listed = nft(f"list set ip {W} {W}-sgi-b0000001-allowed")
    found = {(match[1], match[2]) for match in re.finditer(r"([\d./-]+) \. tcp \. ([\d-]+)", listed)}
    assert found == {
        ("192.0.2.1", "22"),
        ("10.9.0.0/16", "25"),
        ("0.0.0.0/0", "443"),
        ("192.0.2.7", "3306"),
        ("172.16.0.0/12", "8000"),
    }


def test_a_change_after_everything_was_flushed_is_not_refused(agent: RulesOnly) -> None:
    """Sets are taken for those that are remembered, and tables are read: the first attempt cannot be right."""
    agent.apply(state(FEW), verify=True)
    nft("flush ruleset")
    changed = state(FEW, Put(make_provider_rule(1)))
    agent.apply(changed)
    assert agent.plan(changed) == []


# --- what is said beside rules


def test_a_comment_that_was_not_said_is_said_with_the_next_change(
    agent: RulesOnly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is enforced does not hang on it."""
    agent.apply(state(1), verify=True)
    ports = [make_rule(n, protocol="tcp", port_range_min=n - 500, port_range_max=n - 500) for n in (522, 580, 943)]
    renamed = Put(make_group(1, *ports))
    with monkeypatch.context() as patched:
        patched.setattr(Netlink, "commit", _once(Netlink.commit))
        agent.apply(state(1, renamed))
    assert rule_id(522) not in "".join(standing())
    agent.apply(state(1, renamed, Put(make_provider_rule(1))))
    assert all(rule_id(n) in "".join(standing()) and rule_id(n - 500) not in "".join(standing()) for n in (522, 943))


def _once(commit: Callable[..., Any]) -> Callable[..., Any]:
    """Take the first transaction, as the kernel does, and no other."""
    taken: list[bool] = []

    def taken_once(self: Netlink, *arguments: Any, **named: Any) -> Any:
        if taken:
            raise Unavailable("not now")
        taken.append(True)
        return commit(self, *arguments, **named)

    return taken_once


def test_what_was_only_tried_is_said_nowhere(agent: RulesOnly) -> None:
    """A plan is made by what is tried; the next transaction is of ends that are noted, or of members."""

    def ports(first: int, *members: str) -> Put:
        rules = [make_rule(first + n, protocol="tcp", port_range_min=n, port_range_max=n) for n in (22, 80, 443)]
        return Put(make_group(1, *rules, make_rule(3, remote_group_id=group_id(1)), members=members))

    agent.apply(state(1, ports(0, "192.0.2.0/24")), verify=True)
    before = standing()
    agent.plan(state(1, ports(500, "192.0.2.0/24")))
    agent._host.rules.note_cut({f"{W}-cut4": {"10.0.0.2,tcp:40000,192.0.2.1"}})
    assert [line for line in standing() if "elements" not in line] == [
        line for line in before if "elements" not in line
    ]
    agent.plan(state(1, ports(500, "192.0.2.0/24")))
    agent.apply(state(1, ports(0, "192.0.2.0/24", "198.51.100.0/24")))
    assert "198.51.100.0/24" in "".join(standing())
    assert rule_id(22) in "".join(standing())
    assert rule_id(522) not in "".join(standing())
