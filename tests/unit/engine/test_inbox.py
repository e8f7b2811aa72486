"""Requests are served once each, however many come while others are."""

from itertools import count

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
