"""Requests are served once each, however many come while others are."""

import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nova_netagent.engine import Change, Look
from nova_netagent.engine import inbox as inbox_module
from nova_netagent.engine.inbox import SHARING, Inbox
from nova_netagent.engine.requests import Wake
from nova_netagent.events import Put
from nova_netagent.testing import make_network, make_provider_rule
from tests.properties.host import SETTINGS, Host


def test_what_comes_while_the_last_who_share_a_commit_are_saved_is_served_by_the_next() -> None:
    inbox, numbers = Inbox(), count(1)

    def come() -> Change:
        change = Change(Put(make_provider_rule(next(numbers))))
        inbox.put(change)
        return change

    put = [come()]
    shared: list[Change] = []
    for some in inbox.sharing(inbox.changes_here()):
        shared += some
        put += [come(), come()]  # while these are saved
    left = inbox.take(0, 0)
    assert len(left) == 2, "a commit is not put off for ever"
    assert len(shared) == 1 + 2 * SHARING
    assert [*shared, *left] == put


NEVER = float("inf")
"""To wait for a part of it is an error."""


def test_who_comes_alone_waits_for_nobody() -> None:
    alone = Change(Put(make_provider_rule(1)))
    assert list(Inbox().sharing([alone], NEVER)) == [[alone]]
    with pytest.raises(OverflowError):
        list(Inbox().sharing([alone, alone], NEVER))


def test_the_next_of_a_crowd_shares_its_commit() -> None:
    inbox, (first, second, last) = Inbox(), (Change(Put(make_provider_rule(number))) for number in (1, 2, 3))
    shared = inbox.sharing([first, second], 600.0)
    assert next(shared) == [first, second]
    late = threading.Timer(0.02, inbox.put, [last])
    late.start()
    assert next(shared) == [last]
    late.join()


def test_nobody_of_a_crowd_is_waited_for_once_somebody_has_stalled() -> None:
    inbox, change = Inbox(coming=lambda: True), Change(Put(make_provider_rule(1)))
    assert list(inbox.sharing([change, change], 0.001)) == [[change, change]]


def test_a_commit_that_took_for_ever_makes_nobody_wait_for_who_stalls_for_ever() -> None:
    change = Change(Put(make_provider_rule(1)))
    assert list(Inbox(coming=lambda: True).sharing([change], NEVER)) == [[change]]


# --- a pause between commits


def look(*, meanwhile: bool = False) -> Look[Any]:
    """A question: which provider rules are there?"""
    return Look(lambda engine: sorted(engine.view.state.provider_rules), meanwhile=meanwhile)


def test_a_pause_holds_changes_and_neither_questions_nor_what_the_kernel_tells() -> None:
    inbox, changes = Inbox(), [Change(Put(make_provider_rule(number))) for number in (1, 2, 3)]
    wake, question = Wake(), look(meanwhile=True)
    for each in (changes[0], wake, changes[1], question):
        inbox.put(each)
    assert inbox.take(NEVER, NEVER) == [wake, question]
    assert inbox, "the changes are still to be served"
    inbox.put(changes[2])
    assert inbox.take(NEVER, 0) == changes, "together, and in the order in which they came"
    assert not inbox


def test_who_is_to_see_what_came_before_waits_with_it() -> None:
    inbox, change, seeing, blind = Inbox(), Change(Put(make_provider_rule(1))), look(), look()
    for each in (blind, change, seeing):
        inbox.put(each)
    assert inbox.take(NEVER, NEVER) == [blind], "nothing came before it"
    late, question = look(), look(meanwhile=True)
    for each in (late, question):
        inbox.put(each)
    assert inbox.take(NEVER, NEVER) == [question]
    assert inbox.take(NEVER, 0) == [change, seeing, late]


def test_a_pause_keeps_nothing_that_is_due_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "TURN_SECONDS", NEVER)
    inbox, change = Inbox(), Change(Put(make_provider_rule(1)))
    inbox.put(change)
    assert inbox.take(0, NEVER) == []
    assert inbox.take(0, 0) == [change]


def test_a_pause_that_ends_while_nobody_asks_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "TURN_SECONDS", NEVER)
    inbox, change = Inbox(), Change(Put(make_provider_rule(1)))
    inbox.put(change)
    assert inbox.take(NEVER, time.monotonic() + 0.02) == []
    assert inbox.take(NEVER, time.monotonic()) == [change]


PAUSING = replace(SETTINGS, firewall=replace(SETTINGS.firewall, coalesce_interval=1e10))
"""A pause between commits that is too long to sleep: that is an error."""


@pytest.fixture
def pausing(tmp_path: Path) -> Host:
    """A host that has committed a change just now."""
    host = Host(tmp_path, PAUSING)
    host.put(make_network(1))
    return host


def waiting(host: Host) -> Change:
    """A change that waits for the pause to end, while a question is answered."""
    change, question = Change(Put(make_provider_rule(1))), look(meanwhile=True)
    host.engine.submit(change)
    host.engine.submit(question)
    host.engine.serve(host.engine._take())
    assert question.answer.result(0) == []
    assert not change.answer.done()
    return change


def test_the_first_change_after_a_start_waits_for_no_pause(tmp_path: Path) -> None:
    host, change = Host(tmp_path, PAUSING), Change(Put(make_network(1)))
    host.engine.submit(change)
    host.engine.serve(host.engine._take())
    assert change.answer.result(0).change == "created"


def test_a_pause_ends_at_once_when_the_agent_is_to_stop(pausing: Host) -> None:
    first, second = waiting(pausing), Change(Put(make_provider_rule(2)))
    pausing.engine.hurry()
    pausing.engine.serve(pausing.engine._take())
    assert first.answer.result(0).change == "created"
    pausing.engine.submit(second)
    pausing.engine.serve(pausing.engine._take())
    assert second.answer.result(0).change == "created", "and no other begins"


def test_what_waits_for_a_pause_is_served_before_the_loop_ends(pausing: Host) -> None:
    change = waiting(pausing)
    pausing.engine.stop()
    assert pausing.engine.inbox
    pausing.engine.serve(pausing.engine._take())
    assert not pausing.engine.inbox
    assert change.answer.result(0).change == "created"


def test_a_pause_ends_when_the_configuration_says_so(pausing: Host) -> None:
    change = waiting(pausing)
    pausing.engine.reconfigure(SETTINGS)
    pausing.engine.serve(pausing.engine._take())
    assert change.answer.result(0).change == "created"


def test_repairs_and_links_prolong_no_pause(pausing: Host) -> None:
    until = pausing.engine._ready_for_commit
    pausing.engine.resync()
    pausing.engine.serve([Wake()])
    assert pausing.engine._ready_for_commit == until
