"""Requests are served once each, however many come while others are."""

import threading
from itertools import count

import pytest

from nova_netagent.engine import Change
from nova_netagent.engine.inbox import SHARING, Inbox
from nova_netagent.events import Put
from nova_netagent.testing import make_provider_rule


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
