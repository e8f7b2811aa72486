"""Rules of ours in the packet filter that is not: swept, and told of as long as they are there."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from nova_netagent.backend import Unavailable
from nova_netagent.backend.fake import FakeBackend
from nova_netagent.compile import empty_ruleset
from nova_netagent.compile.cut import set_name
from nova_netagent.engine.schedule import RETRY_FIRST
from nova_netagent.model import Object
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import InSet, IpSet, Jump, Rule, TableId, Verdict
from nova_netagent.plan.sets import SetPlan
from nova_netagent.status import Status
from nova_netagent.testing import make_group, make_network, make_provider_rule
from tests.properties.host import Host

FILTER = TableId(4, "filter")


@contextmanager
def blind(seconds: float) -> Iterator[None]:
    raise Unavailable("cannot see whether rules of ours are left")
    yield


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.put(make_network(1), make_group(1))
    made.leftovers = FakeBackend(owns_set=Owner(made.settings.firewall.wrap_name).owns_set)
    bring_back(made)
    return made


def bring_back(host: Host) -> None:
    """Somebody loads rules of ours into the packet filter that is not."""
    leftovers, ours = host.leftovers, Owner(host.settings.firewall.wrap_name).chain("FORWARD")
    assert leftovers is not None
    leftovers.change(FILTER, ours, [])
    leftovers.change(FILTER, "FORWARD", [Rule(Jump(ours))])


def left(host: Host) -> bool:
    assert host.leftovers is not None
    return host.leftovers.chains != FakeBackend().chains


def status(host: Host, item: Object) -> Status:
    found = host.engine.view.status((item.KIND, item.id))
    assert found is not None
    return found


def drift_repairs(host: Host) -> float:
    (counted,) = host.metrics.drift_repairs_total.collect()
    return sum(each.value for each in counted.samples if each.name.endswith("_total"))


def retry(host: Host) -> None:
    """The time has come to try again."""
    assert host.engine._schedule.retry is not None
    host.engine._schedule.retry = time.monotonic()
    host.engine.serve([])


def test_a_resync_sweeps_them_and_says_so(host: Host) -> None:
    (planned, *_) = host.engine.inspect().plan()
    assert planned.startswith("left in fake: IPv4 filter: - ")
    assert host.engine.resync() == ["swept what was left of ours in fake: 2 edits"]
    assert not left(host)
    assert host.engine.inspect().plan() == []
    assert host.engine.resync() == []


def test_what_cannot_be_swept_is_said_of_every_object_until_it_is(host: Host) -> None:
    assert host.leftovers is not None
    host.leftovers.unavailable = 100
    host.engine.resync()
    view = host.engine.view
    (warning,) = view.warnings
    assert (
        warning
        == "what is left of ours in fake is swept later, and refuses what it refused: the lock was not free in time"
    )
    assert (view.ready, view.failure) == (True, "")
    host.put(make_provider_rule(1))
    for item in (make_network(1), make_group(1), make_provider_rule(1)):
        assert (status(host, item).state, status(host, item).message) == ("pending", warning)
    host.leftovers.unavailable = 0
    retry(host)
    assert not left(host)
    assert host.engine.view.warnings == ()
    assert status(host, make_provider_rule(1)).state == "done"
    assert host.engine._schedule.retry is None
    assert host.engine.history.told()[0].why == "retry"


def test_it_is_tried_less_and_less_often_and_not_by_changes(host: Host) -> None:
    assert host.leftovers is not None
    host.leftovers.unavailable = 100
    host.engine.resync()
    delays = [host.engine._schedule.delay]
    for _ in range(3):
        retry(host)
        delays.append(host.engine._schedule.delay)
    assert delays == [RETRY_FIRST * 2**n for n in range(4)]
    due, left_to_fail = host.engine._schedule.retry, host.leftovers.unavailable
    host.put(make_provider_rule(1))
    assert (host.engine._schedule.retry, host.leftovers.unavailable) == (due, left_to_fail)


def test_a_look_that_fails_is_told_and_made_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(host, "open_leftovers", blind)
        host.restart()
    assert host.engine.view.warnings == ("cannot see whether rules of ours are left",)
    assert status(host, make_network(1)).state == "done"
    patched = host.engine.reconciler.rules
    monkeypatch.setattr(patched, "_open_leftovers", host.open_leftovers)
    retry(host)
    assert not left(host)
    assert not host.engine.view.warnings
    assert host.engine._schedule.retry is None


def test_what_was_seen_to_be_left_stands_while_nobody_can_look(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.leftovers is not None
    host.leftovers.unavailable = 100
    host.engine.resync()
    (seen,) = host.engine.view.warnings
    monkeypatch.setattr(host.engine.reconciler.rules, "_open_leftovers", blind)
    retry(host)
    assert host.engine.view.warnings == (seen, "cannot see whether rules of ours are left")
    assert status(host, make_network(1)).message == seen


def test_a_retry_for_what_is_left_is_no_resync(host: Host) -> None:
    assert host.leftovers is not None
    host.leftovers.unavailable = 100
    host.engine.resync()
    host.engine._schedule.verified -= host.settings.firewall.resync_interval - 10
    due, verified = host.engine._next_resync, host.engine.view.verified_at
    host.backend.change(FILTER, "FORWARD", [])
    retry(host)
    assert (host.engine._next_resync, host.engine.view.verified_at) == (due, verified)
    assert drift_repairs(host) == 0
    host.engine._schedule.verified -= 10
    host.engine.serve([])
    assert drift_repairs(host)
    assert host.engine.history.told()[0].why == "resync"


def test_what_a_foreign_rule_needs_of_ours_is_left_alone_without_the_lock(host: Host) -> None:
    ours = Owner(host.settings.firewall.wrap_name).chain("FORWARD")
    assert host.leftovers is not None
    host.leftovers.change(FILTER, "INPUT", [Rule(Jump(ours))])
    host.engine.resync()
    assert left(host)
    host.leftovers.unavailable = 1
    assert host.engine.resync() == []
    assert (host.engine.view.warnings, host.leftovers.unavailable) == ((), 1)


def test_a_set_that_a_foreign_rule_uses_is_not_said_to_be_swept(host: Host) -> None:
    name = set_name(4, Owner(host.settings.firewall.wrap_name))
    assert host.leftovers is not None
    host.leftovers.prepare_sets(SetPlan(create=(IpSet(name, 4, frozenset(), type="hash:ip,port,ip"),)))
    host.leftovers.change(FILTER, "INPUT", [Rule(Verdict("DROP"), matches=(InSet(name, "src,src,dst"),))])
    assert host.engine.resync() == ["swept what was left of ours in fake: 2 edits"]
    assert host.engine.resync() == []
    assert host.leftovers.read_sets()


def test_a_plan_says_that_it_cannot_be_seen(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.engine.reconciler.rules, "_open_leftovers", blind)
    assert host.engine.inspect().plan() == ["left: cannot see whether rules of ours are left"]


def test_a_cleanup_takes_all_else_away_and_says_that_it_cannot_be_seen(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.engine.reconciler.rules, "_open_leftovers", blind)
    with pytest.raises(Unavailable, match="cannot see"):
        host.engine.reconciler.remove_everything(empty_ruleset(host.settings))
    assert host.backend.chains == FakeBackend().chains
    assert "br1" not in host.links.links


def test_who_was_in_the_way_stands_while_nobody_can_look(host: Host) -> None:
    def dark() -> Sequence[str]:
        raise Unavailable("cannot see who is in the way")

    object.__setattr__(host.engine.host, "in_the_way", lambda: ["somebody drops"])
    host.engine.resync()
    object.__setattr__(host.engine.host, "in_the_way", dark)
    host.engine.resync()
    assert host.engine.view.warnings == ("somebody drops", "cannot see who is in the way")
