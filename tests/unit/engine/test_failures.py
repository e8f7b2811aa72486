"""What the engine does when something fails: nothing is lost, nobody else is touched, it is retried."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nova_netagent.backend import RuleRefused
from nova_netagent.backend.fake import FakeBackend
from nova_netagent.compile import empty_ruleset
from nova_netagent.engine import Change, Look, NotApplied
from nova_netagent.engine.requests import Wake
from nova_netagent.events import Put
from nova_netagent.model import DesiredState, Object
from nova_netagent.netfilter.rule import DROP, Rule, TableId
from nova_netagent.plan.links import LinkPlan
from nova_netagent.store import Store, StoreError
from nova_netagent.testing import (
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    make_vif,
)
from tests.properties.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def status(host: Host, item: Object) -> tuple[str, str]:
    found = host.engine.view.status((item.KIND, item.id))
    assert found is not None
    return found.state, found.message


def test_a_change_that_cannot_be_saved_is_not_made(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before = host.kernel()

    def full(*_: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(host.engine.store, "save", full)
    with pytest.raises(StoreError, match="disk full"):
        host.put(make_network(1))
    assert host.kernel() == before
    assert host.engine.view.state.networks == {}
    monkeypatch.undo()
    host.put(make_network(1))
    assert status(host, make_network(1)) == ("done", "")


def test_nothing_is_pending_since_a_time_to_come(host: Host) -> None:
    """What became pending just now, in a resync that was due, too."""
    host.backend.unavailable = 1
    host.engine._schedule.verified = -math.inf
    host.engine.serve([])
    assert host.engine.view.failure
    pending = host.metrics.registry.get_sample_value("netagent_pending_oldest_seconds")
    assert pending is not None
    assert pending >= 0


def test_an_unreachable_kernel_leaves_the_change_on_disk_and_pending(host: Host) -> None:
    host.backend.unavailable = 1
    with pytest.raises(NotApplied):
        host.put(make_network(1))
    state, message = status(host, make_network(1))
    assert state == "pending"
    assert message == host.engine.view.failure != ""
    host.engine._schedule.retry = time.monotonic()
    host.engine.serve([])
    assert status(host, make_network(1)) == ("done", "")
    assert host.engine.view.failure == ""


def test_retries_come_less_and_less_often(host: Host) -> None:
    host.backend.unavailable = 100
    with pytest.raises(NotApplied):
        host.put(make_network(1))
    delays = []
    for _ in range(9):
        delays.append(host.engine._schedule.delay)
        host.engine._schedule.retry = time.monotonic()
        host.engine.serve([])
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (0.5, 30.0)


def pending_seconds(host: Host) -> float:
    value = host.metrics.registry.get_sample_value("netagent_pending_oldest_seconds")
    assert value is not None
    return value


def test_what_is_pending_is_so_since_it_failed_first(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.backend.unavailable = 2
    with pytest.raises(NotApplied):
        host.put(make_network(1))
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 100)
    host.engine.serve([])
    assert host.engine.view.failure
    assert pending_seconds(host) >= 100
    host.engine.resync()
    host.engine.serve([])
    assert pending_seconds(host) == 0


def test_a_request_meanwhile_tries_at_once(host: Host) -> None:
    host.backend.unavailable = 1
    with pytest.raises(NotApplied):
        host.put(make_network(1))
    host.put(make_network(2))
    assert status(host, make_network(1)) == status(host, make_network(2)) == ("done", "")


def test_a_table_that_changes_under_us_is_read_again(host: Host) -> None:
    table = TableId(4, "filter")
    operators = Rule(DROP, source="192.0.2.66/32")
    left = 2

    def meddle(changed: TableId) -> None:
        nonlocal left
        if changed == table and left:
            left -= 1
            host.backend.change(table, "INPUT", (*host.backend.chains[table]["INPUT"], operators))

    host.backend.before_commit = meddle
    host.put(make_network(1))
    assert status(host, make_network(1)) == ("done", "")
    chain = host.backend.chains[table]["INPUT"]
    assert [rule for rule in chain if rule == operators] == [operators, operators]
    assert host.metrics.apply_retries_total._value.get() == 2


def test_a_table_that_never_stands_still_is_given_up_for_now(host: Host) -> None:
    count = 0

    def meddle(table: TableId) -> None:
        nonlocal count
        count += 1
        host.backend.change(table, "FORWARD", (Rule(DROP),) * count)

    host.backend.before_commit = meddle
    with pytest.raises(NotApplied):
        host.put(make_network(1))
    host.backend.before_commit = lambda table: None
    host.engine.resync()
    assert status(host, make_network(1)) == ("done", "")


def test_a_refused_rule_fails_its_own_object_among_many(host: Host) -> None:
    items: list[Object] = [make_network(1), *(make_group(n, make_rule(n)) for n in range(1, 9))]
    items += [make_instance(n, (n,)) for n in range(1, 9)]
    bad = make_group(5, make_rule(5, protocol="udp", port_range_min=666, port_range_max=666))
    host.backend.refuse = lambda rule: any(getattr(m, "destination", None) == (666, 666) for m in rule.matches)
    host.put(*(bad if item.id == bad.id else item for item in items))
    assert status(host, bad)[0] == "error"
    assert {status(host, item)[0] for item in items if item.id != bad.id} == {"done", "pending"}
    assert status(host, items[-4])[0] == "pending"  # instance 5 waits for its group and is shut meanwhile
    assert status(host, items[-1])[0] == "done"
    host.put(make_group(5, make_rule(5)))
    assert {status(host, item)[0] for item in items} == {"done"}


def test_rules_that_are_refused_without_any_object_fail_everybody(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.refuse = lambda rule: True
    host = Host(tmp_path, backend=backend)
    assert not host.engine.view.ready
    with pytest.raises(NotApplied, match="refused"):
        host.put(make_network(1))
    backend.refuse = lambda rule: False
    host.engine.resync()
    assert host.engine.view.ready
    assert status(host, make_network(1)) == ("done", "")


def test_a_bridge_that_cannot_be_edited_is_told_by_its_network(host: Host) -> None:
    host.links.fail["br1"] = "EBUSY"
    host.put(make_network(1, gateway=None, gateway_v6=None), make_network(2))
    assert status(host, make_network(1)) == ("error", "br1: EBUSY")
    assert status(host, make_network(2)) == ("done", "")


def test_a_link_that_comes_while_the_disk_is_full_is_waited_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("disk full")

    host.put(make_network(1), make_instance(1))
    host.links.add_link("tap1")
    with monkeypatch.context() as filled:
        filled.setattr(host.engine.store, "note_made", full)
        host.engine.serve([Wake()])
    assert "disk full" in host.engine.view.failure
    assert host.links.links["tap1"].master is None, "it is not noted"
    host.engine.resync()
    assert host.links.links["tap1"].master == "br1"


def test_what_the_kernel_tells_is_looked_at_beside_a_change_that_changes_nothing(host: Host) -> None:
    host.put(make_network(1), make_instance(1))
    host.links.add_link("tap1")
    host.engine.serve([Change(Put(make_network(1))), Wake()])
    assert host.links.links["tap1"].master == "br1"


def test_a_link_that_fails_is_told_by_its_objects_only(host: Host) -> None:
    host.links.add_link("tap1")
    host.links.add_link("tap2")
    host.links.fail["tap1"] = "EBUSY"
    host.put(make_network(1), make_instance(1), make_instance(2))
    assert status(host, make_instance(1)) == ("error", "tap1: EBUSY")
    assert status(host, make_instance(2)) == ("done", "")
    del host.links.fail["tap1"]
    host.engine.resync()
    assert status(host, make_instance(1)) == ("done", "")


def drift_repairs(host: Host, what: str = "link") -> float:
    return float(host.metrics.drift_repairs_total.labels(what)._value.get())


def test_what_a_resync_carries_out_of_a_change_that_failed_is_no_repair(host: Host) -> None:
    host.backend.unavailable = 1
    with pytest.raises(NotApplied):
        host.put(make_network(1))
    assert host.engine.resync() == []
    assert status(host, make_network(1)) == ("done", "")
    assert drift_repairs(host, "insert") == 0
    host.backend.change(TableId(4, "filter"), "FORWARD", [])
    assert host.engine.resync() != []
    assert drift_repairs(host, "insert") > 0


def test_an_edit_of_links_that_fails_is_no_repair(host: Host) -> None:
    host.links.add_link("tap1")
    host.links.add_link("tap2")
    host.links.fail["tap1"] = "EBUSY"
    host.put(make_network(1), make_instance(1), make_instance(2))
    assert host.engine.resync() == []
    host.engine._look_at_links()
    assert drift_repairs(host) == 0
    assert status(host, make_instance(1)) == ("error", "tap1: EBUSY")
    host.links.set_master("tap2", None)
    assert host.engine.resync() == ["link: + port tap2 on br1"]
    assert drift_repairs(host) == 1
    del host.links.fail["tap1"]
    assert host.engine.resync() == ["link: + port tap1 on br1"]


def test_an_address_of_the_host_is_not_taken_for_a_floating_ip(host: Host) -> None:
    host.links.addresses.add(("eth0", "198.51.100.1/24"))
    host.put(make_network(1), make_floating_ip(1), make_floating_ip(2))
    assert status(host, make_floating_ip(1)) == ("error", "198.51.100.1 is an address of this host already")
    assert status(host, make_floating_ip(2)) == ("done", "")
    host.delete(make_floating_ip(1))
    assert ("eth0", "198.51.100.1/24") in host.links.addresses
    host.put(make_floating_ip(1))
    host.links.addresses.remove(("eth0", "198.51.100.1/24"))
    host.engine._look_at_links()
    assert status(host, make_floating_ip(1)) == ("done", "")
    assert ("eth0", "198.51.100.1/32") in host.links.addresses


def test_a_port_that_is_nobodys_is_closed_though_the_rules_fail(host: Host) -> None:
    host.links.add_link("tap1")
    host.put(make_network(1))
    host.backend.unavailable = 1
    with pytest.raises(NotApplied):
        host.put(make_instance(1))
    host.links.set_master("tap1", "br1")
    host.links.add_link("stranger", master="br1")
    host.engine._look_at_links()
    assert {"stranger", "tap1"} <= host.frames.read()["closed"]
    host.frames.unavailable = 1
    host.engine._look_at_links()
    host.engine.resync()
    assert host.frames.read()["closed"] == {"stranger"}


def test_a_floating_ip_waits_for_its_interface(host: Host) -> None:
    floating = make_floating_ip(1, interface="eth5")
    host.put(make_network(1), floating)
    assert status(host, floating) == ("error", "eth5: there is no such interface")
    host.links.add_link("eth5")
    host.engine._look_at_links()
    assert status(host, floating) == ("done", "")


def test_without_waiting_the_answer_comes_from_the_disk(host: Host) -> None:
    change = Change(Put(make_network(1)), wait=False)
    host.backend.unavailable = 1
    host.engine.serve([change])
    assert change.answer.result(0).status.state == "pending"  # type: ignore[union-attr]


def test_what_a_look_raises_reaches_who_asked_and_nobody_else(host: Host) -> None:
    def ask(_: object) -> None:
        raise RuleRefused("no")

    look: Look[None] = Look(ask)
    change = Change(Put(make_provider_rule(1)))
    host.engine.serve([look, change])
    assert change.answer.result(0).change == "created"
    with pytest.raises(RuleRefused):
        look.answer.result(0)


def test_a_batch_is_one_commit_a_table(host: Host) -> None:
    host.put(make_network(1))
    commits = host.backend.commits
    host.put(*(make_instance(n) for n in range(1, 51)))
    assert host.backend.commits - commits == 4  # filter and raw of both families


def test_what_comes_while_a_change_is_saved_shares_its_commit(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a question that came between is answered afterwards."""
    host.put(make_network(1), make_group(1))
    later = [Change(Put(make_instance(number))) for number in (2, 3)]
    question = Look(lambda engine: sorted(engine.view.state.instances))
    save, applies = host.engine.store.save, []

    def save_while_others_come(*states: DesiredState) -> None:
        if later:
            host.engine.submit(later[0])
            host.engine.submit(question)
            host.engine.submit(later[1])
            asked.extend(later)
            later.clear()
        save(*states)

    asked: list[Change] = []
    monkeypatch.setattr(host.engine.store, "save", save_while_others_come)
    apply = host.engine.reconciler.apply

    def counted(*what: Any, **how: Any) -> Any:
        applies.append(1)
        return apply(*what, **how)

    monkeypatch.setattr(host.engine.reconciler, "apply", counted)
    first = Change(Put(make_instance(1)))
    host.engine.serve([first])
    assert [each.answer.result().change for each in (first, *asked)] == ["created"] * 3
    assert len(applies) == 1
    assert not question.answer.done()
    host.engine.serve(host.engine._take())
    assert question.answer.result() == sorted(make_instance(number).id for number in (1, 2, 3))


def commits_of(host: Host, change: Change, coming: Callable[[], bool]) -> int:
    """How often the tables were committed for a change, when others are coming."""
    host.engine.inbox.coming = coming
    before = host.backend.commits
    host.engine.serve([change])
    return host.backend.commits - before


def test_who_has_begun_to_ask_shares_the_commit(host: Host) -> None:
    host.put(make_network(1), make_group(1))
    later = [Change(Put(make_instance(number))) for number in (2, 3)]
    asked: list[Change] = []

    def coming() -> bool:
        if later:
            asked.append(later.pop())
            host.engine.submit(asked[-1])
        return bool(asked) and not asked[-1].answer.done() and bool(host.engine.inbox)

    first = Change(Put(make_instance(1)))
    assert commits_of(host, first, coming) == 4  # filter and raw of both families
    assert [each.answer.result(0).change for each in (first, *asked)] == ["created"] * 3


def test_who_begins_to_ask_while_others_are_saved_shares_the_commit(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.put(make_network(1), make_group(1))
    first, second, third = (Change(Put(make_instance(number))) for number in (1, 2, 3))
    save = host.engine.store.save
    callers: list[Change] = []

    def save_while_others_begin(*states: DesiredState) -> None:
        if not callers:
            callers.extend((third, second))
        save(*states)

    def coming() -> bool:
        if len(callers) > 1:
            host.engine.submit(callers.pop())
            host.engine.submit(callers[0])
        return bool(host.engine.inbox)

    monkeypatch.setattr(host.engine.store, "save", save_while_others_begin)
    assert commits_of(host, first, coming) == 4
    assert [each.answer.result(0).change for each in (first, second, third)] == ["created"] * 3


def test_nobody_is_waited_for_without_end(host: Host) -> None:
    began = time.monotonic()
    host.engine.inbox.coming = lambda: True
    assert host.engine.inbox.changes_to_come(began) == ([], began)


def test_who_begins_to_ask_and_stalls_holds_nobody(host: Host) -> None:
    host.put(make_network(1), make_group(1))
    looks: list[bool] = []
    change = Change(Put(make_instance(1)))
    assert commits_of(host, change, lambda: looks.append(True) or True) == 4  # type: ignore[func-returns-value]
    assert change.answer.result(0).change == "created"
    assert looks == [True]


def test_a_plan_of_an_event_changes_nothing(host: Host) -> None:
    before = host.kernel()
    lines = host.engine.inspect().plan(Put(make_network(1)))
    assert any("bridge br1" in line for line in lines)
    assert any("-i br1 -j ACCEPT" in line for line in lines)
    assert host.kernel() == before
    assert host.engine.inspect().plan() == []


def test_live_chains_tell_what_each_rule_is_there_for(host: Host) -> None:
    host.put(make_network(1), make_group(1, make_rule(1)), make_instance(1, (1,)))
    chains: dict[object, Any] = {each["chain"]: each for each in host.engine.inspect().live_chains("filter", 4)}
    (rule,) = chains["nova-netagent-sgi-b0000001"]["rules"]
    assert tuple(rule["origin"]) == ("security_groups", make_group(1).id, make_rule(1).id)
    host.backend.change(TableId(4, "filter"), "nova-netagent-sgi-b0000001", (Rule(DROP),))
    chains = {each["chain"]: each for each in host.engine.inspect().live_chains("filter", 4)}
    (rule,) = chains["nova-netagent-sgi-b0000001"]["rules"]
    assert rule["origin"] is None


@pytest.mark.parametrize("step", ["prepare", "finish"])
def test_what_was_made_at_the_moment_of_a_crash_is_known_to_be_ours(
    host: Host, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It is noted before it is made: otherwise a cleanup would take it for somebody else's."""
    host.engine.reconciler.remove_everything(empty_ruleset(host.settings))
    host.engine.close()
    sysctls, addresses, ports = dict(host.links.sysctls), set(host.links.addresses), set(host.links.links)
    work = getattr(host.links, step)

    def work_and_die(plan: LinkPlan) -> None:
        work(plan)
        raise KeyboardInterrupt

    host.start()
    monkeypatch.setattr(host.links, step, work_and_die)
    with pytest.raises(KeyboardInterrupt):
        host.put(make_network(1))
    monkeypatch.undo()
    host.start()
    assert host.links.sysctls != sysctls
    assert "br1" in host.links.links
    host.engine.reconciler.remove_everything(empty_ruleset(host.settings))
    assert (host.links.sysctls, host.links.addresses, set(host.links.links)) == (sysctls, addresses, ports)


def test_what_a_cleanup_beside_the_agent_struck_from_the_notes_is_noted_again(host: Host) -> None:
    """Whoever comes after the agent would take what it makes again for somebody else's."""
    host.put(make_network(1))
    noted = dict(host.engine.store.made())
    with closing(Store(host.folder / "state.db")) as beside:
        beside.forget_made(noted)
    host.engine.resync()
    assert host.engine.store.made() == noted


def test_vifs_of_one_instance_whose_ids_begin_alike_come_and_go(host: Host) -> None:
    host.put(make_network(1))
    first = make_vif(1)
    second = replace(make_vif(2), id=f"{first.id[:-4]}ffff")
    for vifs in ((first, second), (first,), (first, second)):
        host.put(make_instance(1, vifs=vifs))
        assert host.engine.failed is None
        assert host.engine.inspect().plan() == []
    host.delete(make_instance(1))
    assert host.engine.inspect().plan() == []
