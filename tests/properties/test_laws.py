"""The laws of the design, each as a property over random states (on the strict fakes)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from msgspec.structs import replace

from nova_netagent.events import Delete, LateRevision, Put
from nova_netagent.model import Object, State
from nova_netagent.netfilter.rule import DROP, Jump, Rule, TableId
from tests.properties.host import OWN_ADDRESSES, OWN_ROUTES, Host
from tests.properties.strategies import states

Folders = Callable[[], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A new folder for each example."""
    return lambda: tmp_path_factory.mktemp("host")


OWN = {cidr for _, cidr in OWN_ADDRESSES}
"""The host's own, on whatever link: nobody's to repair."""


@given(st.lists(states(), min_size=1, max_size=4))
def test_any_history_gives_what_a_cold_start_gives(folders: Folders, history: list[State]) -> None:
    """Law 1: from any state to any state gives the same rules as a cold start in the second."""
    host = Host(folders())
    for state in history:
        host.replace(state)
    warm = host.kernel()
    host.engine.close()
    fresh = Host(host.folder)
    assert fresh.kernel()["chains"] == warm["chains"]
    assert fresh.kernel()["sets"] == warm["sets"]
    assert fresh.kernel()["addresses"] == warm["addresses"]


@given(states())
def test_a_second_reconcile_and_a_restart_write_nothing(folders: Folders, state: State) -> None:
    """Law 2: nothing to do is no write."""
    host = Host(folders())
    host.replace(state)
    commits, edits = host.backend.commits, list(host.links.edits)
    assert host.engine.resync() == []
    host.restart()
    host.replace(state)
    assert host.backend.commits == commits
    assert host.links.edits == edits


@given(states(clashing=False), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(folders: Folders, state: State, random: object) -> None:
    """Law 3: objects in any order, repeated, and late updates between them, give the same kernel."""
    wanted = [_numbered(item, 5) for item in state.objects()]
    late = [_numbered(item, 4) for item in state.objects()]
    events = [*wanted, *wanted, *late]
    random.shuffle(events)  # type: ignore[attr-defined]
    shuffled, ordered = Host(folders()), Host(folders())
    for item in events:
        try:
            shuffled.put(item)
        except LateRevision:
            note(f"late: {item.KIND} {item.id}")
    for item in wanted:
        ordered.put(item)
    assert shuffled.kernel() == ordered.kernel()
    assert shuffled.engine.view.counts() == ordered.engine.view.counts()


def _numbered(item: Object, revision: int) -> Object:
    return replace(item, revision=revision)


@given(states(), st.data())
def test_a_numbered_deletion_wins_over_late_updates(folders: Folders, state: State, data: st.DataObject) -> None:
    """Law 3: a deletion that overtakes an older update still deletes it."""
    host, never = Host(folders()), Host(folders())
    items = list(state.objects())
    gone = data.draw(st.sampled_from(items)) if items else None
    for item in items:
        if item is gone:
            host.send(Delete(item.KIND, item.id, revision=7))
            with pytest.raises(LateRevision):
                host.put(_numbered(item, 7))
        else:
            host.put(item)
            never.put(item)
    assert host.kernel() == never.kernel()


NEIGHBOURS = (
    "nova-netagent2-INPUT",
    "nova-netagent-2-INPUT",
    "nova-netagent-inst-a00000011",
    "nova-netagent-inst-a000001",
    "nova-netagent-INPUTx",
    "xnova-netagent-INPUT",
    "nova-netagent-inst-A0000001",
    "nova-netagent-",
    "nova-compute-inst-1",
)


@given(st.lists(states(), min_size=1, max_size=3))
def test_chains_named_like_ours_are_foreign(folders: Folders, history: list[State]) -> None:
    """Laws 4 and 8: what is not of our grammar survives start, use, restart and cleanup untouched."""
    host = Host(folders())
    table = TableId(4, "filter")
    foreign = {name: (Rule(DROP, source=f"192.0.2.{n}/32"),) * 2 for n, name in enumerate(NEIGHBOURS)}
    for name, rules in foreign.items():
        host.backend.change(table, name, rules)
    own = Rule(Jump(NEIGHBOURS[0]), out_interface="eth7")
    host.backend.change(table, "FORWARD", (own, *host.backend.chains[table]["FORWARD"], own))
    for state in history:
        host.replace(state)
    host.restart()
    host.engine.resync()
    chains = host.backend.chains[table]
    assert {name: chains[name] for name in NEIGHBOURS} == foreign
    assert [rule for rule in chains["FORWARD"] if rule == own] == [own, own]
    _cleanup(host)
    assert host.backend.chains[table] == {"INPUT": (), "FORWARD": (own, own), "OUTPUT": (), **foreign}


def _cleanup(host: Host) -> None:
    from nova_netagent.compile import empty_ruleset

    host.engine.reconciler.remove_everything(empty_ruleset(host.settings))


@given(st.lists(states(), min_size=1, max_size=3))
def test_cleanup_leaves_the_host_as_it_was(folders: Folders, history: list[State]) -> None:
    """Law 8: after cleanup there is nothing of ours, and sysctls are as they were found."""
    host = Host(folders())
    for number in range(10, 80):
        host.links.add_link(f"tap{number}")
    before = Host(folders())
    _cleanup(before)
    found = dict(host.links.sysctls)
    for state in history:
        host.replace(state)
    _cleanup(host)
    assert host.backend.chains == before.backend.chains
    assert host.backend.sets == {}
    assert (host.links.addresses, host.links.routes) == (OWN_ADDRESSES, OWN_ROUTES)
    assert all(link.master is None for link in host.links.links.values())
    assert host.links.sysctls["net/ipv4/ip_forward"] == "0"
    assert {name: host.links.sysctls[name] for name in found} == before_start(found)


def before_start(found: dict[str, str]) -> dict[str, str]:
    return {name: "0" if name.startswith("net/bridge") or "forward" in name else value for name, value in found.items()}


@given(states(), st.data())
def test_one_refused_object_touches_no_other(folders: Folders, state: State, data: st.DataObject) -> None:
    """Law 5: an object that the kernel refuses is in error; everybody else is as without it."""
    items = [item for item in state.objects() if item.KIND == "provider_rules"]
    if not items:
        return
    bad = data.draw(st.sampled_from(items))
    host, without = Host(folders()), Host(folders())
    host.backend.refuse = lambda rule: rule.source == bad.remote_ip_prefix and rule.target == DROP  # type: ignore[union-attr]
    others = [item for item in items if item.remote_ip_prefix != bad.remote_ip_prefix]  # type: ignore[union-attr]
    same = [item.id for item in items if item not in others]
    host.replace(state)
    without.replace(replace(state, provider_rules=tuple(others)))
    assert host.kernel() == without.kernel()
    for id_ in same:
        status = host.engine.view.status(("provider_rules", id_))
        assert status is not None
        assert status.state == "error"
    host.backend.refuse = lambda rule: False
    host.engine.resync()
    without.replace(state)
    assert host.kernel() == without.kernel()


@given(states(), st.data())
def test_drift_is_repaired_and_counted(folders: Folders, state: State, data: st.DataObject) -> None:
    """Law 9: whatever somebody did to our rules, sets and links, a resync undoes it and says so."""
    host = Host(folders())
    host.replace(state)
    before = host.kernel()
    for _ in range(data.draw(st.integers(1, 4))):
        _meddle(host, data)
    drifted = host.kernel() != before
    repaired = host.engine.resync()
    assert host.kernel() == before
    assert bool(repaired) == drifted
    assert host.engine.resync() == []


def _meddle(host: Host, data: st.DataObject) -> None:
    """Do something to the kernel that an operator or another program might."""
    table = data.draw(st.sampled_from(sorted(host.backend.chains)))
    chains = host.backend.chains[table]
    name = data.draw(st.sampled_from(sorted(chains)))
    rules = list(chains[name])
    match data.draw(st.sampled_from(("flush", "drop", "double", "reverse", "add", "set", "address", "port"))):
        case "flush":
            host.backend.change(table, name, ())
        case "drop" if rules:
            del rules[data.draw(st.integers(0, len(rules) - 1))]
            host.backend.change(table, name, rules)
        case "double" if rules:
            rules.append(rules[0])
            host.backend.change(table, name, rules)
        case "reverse":
            host.backend.change(table, name, rules[::-1])
        case "add" if name.startswith("nova-netagent"):
            host.backend.change(table, name, [Rule(DROP), *rules])
        case "set" if host.backend.sets:
            chosen = data.draw(st.sampled_from(sorted(host.backend.sets)))
            each = host.backend.sets[chosen]
            stranger = "198.51.100.0/25" if each.family == 4 else "2001:db8:51::/48"
            host.backend.sets[chosen] = replace(each, members=frozenset({stranger}))
        case "address" if ours := sorted(each for each in host.links.addresses if each[1] not in OWN):
            host.links.addresses.remove(data.draw(st.sampled_from(ours)))
        case "port":
            for port, link in host.links.links.items():
                if link.master is not None:
                    host.links.links[port] = replace(link, master=None)


@given(states(), st.integers(0, 3))
def test_what_is_on_disk_survives_a_crash_anywhere(folders: Folders, state: State, after: int) -> None:
    """Law 10, in small: the kernel fails at some commit, the agent dies, and comes back to what was acknowledged."""
    host, whole = Host(folders()), Host(folders())
    left = after

    def crash(table: TableId) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    host.backend.before_commit = crash
    try:
        host.replace(state)
    except KeyboardInterrupt:
        host.backend.before_commit = lambda table: None
        host.start()
    host.backend.before_commit = lambda table: None
    whole.replace(state)
    assert host.kernel()["chains"] == whole.kernel()["chains"]
    assert host.kernel()["addresses"] == whole.kernel()["addresses"]


def test_put_then_delete_is_as_before(folders: Folders) -> None:
    """What was removed leaves nothing behind: the kernel is as it was before."""
    host = Host(folders())
    from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_network, make_rule

    before = host.kernel()
    items: list[Object] = [
        make_network(1),
        make_group(1, make_rule(1, remote_group_id=make_group(1).id)),
        make_instance(1, (1,)),
        make_floating_ip(1),
    ]
    host.send(*(Put(item) for item in items))
    assert host.kernel() != before
    host.delete(*items)
    assert host.kernel() == before
