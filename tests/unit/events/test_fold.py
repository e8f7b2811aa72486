"""What happens to the desired state: every branch of fold."""

from typing import Any

import pytest
from msgspec.structs import replace

from nova_netagent.events import Delete, Event, LateRevision, Put, Replace, fold
from nova_netagent.model import AllowedAddressPair, DesiredState, Object, State, Tombstone
from nova_netagent.model.state import TOMBSTONE_SECONDS
from nova_netagent.testing import (
    group_id,
    instance_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_rule,
    make_vif,
    network_id,
    vif_id,
)

EMPTY = DesiredState()
NOW = 1_000_000.0
DAY = 86400.0
KEY = ("networks", network_id(1))
ID, OTHER = group_id(1), group_id(2)


def after(*events: Event, state: DesiredState = EMPTY, now: float = NOW) -> DesiredState:
    for event in events:
        state = fold(state, event, now)
    return state


def network(revision: int | None = None, **fields: Any) -> Put:
    return Put(make_network(1, revision=revision, **fields))


def labels(state: DesiredState) -> list[str]:
    return [entry.object.label for entry in state.networks.values()]  # type: ignore[union-attr]


def delete(revision: int | None = None) -> Delete:
    return Delete("networks", network_id(1), revision)


# --- without revisions


def test_an_object_comes_changes_and_goes() -> None:
    state = after(network())
    assert state.networks[network_id(1)].object == make_network(1)
    assert labels(after(network(label="new"), state=state)) == ["new"]
    assert after(delete(), state=state).networks == {}


def test_a_state_is_never_changed_in_place() -> None:
    state = after(network())
    before = dict(state.networks)
    after(network(label="new"), Put(make_network(2)), delete(), state=state)
    assert state.networks == before


def test_the_same_again_is_the_same_state() -> None:
    state = after(network())
    assert fold(state, network(), NOW) is state
    assert fold(state, Put(make_network(1)), NOW + DAY) is state
    numbered = after(network(3))
    assert fold(numbered, network(3), NOW) is numbered


def test_what_is_not_there_can_be_deleted_without_effect() -> None:
    assert fold(EMPTY, delete(), NOW) is EMPTY
    state = after(network())
    assert fold(state, Delete("instances", network_id(1)), NOW) is state


def test_other_kinds_stay_the_same_objects() -> None:
    state = after(network(), Put(make_group(1)))
    changed = after(network(label="new"), state=state)
    assert changed.security_groups is state.security_groups
    assert changed.tombstones is state.tombstones


def test_changes_are_counted() -> None:
    state = after(network())
    assert state.networks[network_id(1)].reported_revision == 1
    state = after(network(label="a"), network(label="b"), network(label="b"), state=state)
    assert state.networks[network_id(1)].reported_revision == 3


# --- revisions of updates


@pytest.mark.parametrize(("stored", "given"), [(5, 4), (5, 0), (1, 0)])
def test_an_update_with_a_lower_revision_is_late(stored: int, given: int) -> None:
    state = after(network(stored))
    with pytest.raises(LateRevision, match=f"revision {given} of {network_id(1)} is below the stored {stored}"):
        fold(state, network(given, label="late"), NOW)


def test_an_update_with_the_same_revision_and_another_body_is_refused() -> None:
    with pytest.raises(LateRevision, match="with another body"):
        fold(after(network(5)), network(5, label="other"), NOW)


PAIRS = (AllowedAddressPair(ip_address="10.50.0.0/24"), AllowedAddressPair(ip_address="10.51.0.0/24"))
ELSEWHERE = ("10.1.0.8", "10.1.0.9")
IN_ANOTHER_ORDER = [
    (make_group(1, members=ELSEWHERE, revision=5), make_group(1, members=ELSEWHERE[::-1], revision=5)),
    (make_group(1, make_rule(1), make_rule(2), revision=5), make_group(1, make_rule(2), make_rule(1), revision=5)),
    (make_instance(1, (1, 2), revision=5), make_instance(1, (2, 1), revision=5)),
    (
        make_instance(1, vifs=(make_vif(1, allowed_address_pairs=PAIRS, security_groups=(ID, OTHER)),), revision=5),
        make_instance(
            1, vifs=(make_vif(1, allowed_address_pairs=PAIRS[::-1], security_groups=(OTHER, ID)),), revision=5
        ),
    ),
]


@pytest.mark.parametrize(("stored", "given"), IN_ANOTHER_ORDER)
def test_what_is_a_set_by_nature_is_the_same_in_any_order(stored: Object, given: Object) -> None:
    """A controller reads it from a database, which promises none; refused, its whole state would be."""
    state = after(Put(stored), Put(make_network(1)))
    assert fold(state, Put(given), NOW) is state
    assert fold(state, whole(given, make_network(1)), NOW) is state
    unnumbered = replace(given, revision=None)
    for event in (Put(unnumbered), Put(replace(given, revision=6))):
        assert state.entries(stored.KIND) is not fold(state, event, NOW).entries(stored.KIND), "as it was told last"


VIFS = (make_vif(1), make_vif(2))


@pytest.mark.parametrize(
    ("stored", "given"),
    [
        (make_instance(1, vifs=VIFS, revision=5), make_instance(1, vifs=VIFS[::-1], revision=5)),
        (
            make_instance(1, vifs=(make_vif(1, fixed_ips=ELSEWHERE),), revision=5),
            make_instance(1, vifs=(make_vif(1, fixed_ips=ELSEWHERE[::-1]),), revision=5),
        ),
        (make_group(1, members=ELSEWHERE, revision=5), make_group(1, members=ELSEWHERE[:1], revision=5)),
    ],
)
def test_where_the_first_is_another_or_one_is_missing_it_is_not_the_same(stored: Object, given: Object) -> None:
    with pytest.raises(LateRevision, match="with another body"):
        fold(after(Put(stored)), Put(given), NOW)


@pytest.mark.parametrize(("stored", "given"), [(5, 6), (0, 1), (5, 2**63 - 1), (None, 0), (None, 7)])
def test_an_update_with_a_higher_revision_is_taken(stored: int | None, given: int) -> None:
    state = after(network(stored), network(given, label="new"))
    assert labels(state) == ["new"]
    assert state.networks[network_id(1)].reported_revision == given


def test_an_update_without_a_revision_is_taken_and_the_stored_one_still_guards() -> None:
    state = after(network(5), network(label="unnumbered"))
    assert labels(state) == ["unnumbered"]
    assert state.networks[network_id(1)].reported_revision == 5
    with pytest.raises(LateRevision):
        fold(state, network(4, label="late"), NOW)
    with pytest.raises(LateRevision):
        fold(state, network(5, label="another body than the last"), NOW)
    assert labels(after(network(6, label="next"), state=state)) == ["next"]


def test_a_higher_revision_of_the_same_body_is_noted() -> None:
    state = after(network(5), network(6))
    assert state.networks[network_id(1)].reported_revision == 6
    with pytest.raises(LateRevision):
        fold(state, network(5), NOW)


def test_revisions_are_by_object() -> None:
    state = after(network(5), Put(make_network(2, revision=1)), Put(make_group(1, revision=0)))
    assert len(state.networks) == 2


# --- tombstones


def test_a_numbered_deletion_leaves_a_tombstone() -> None:
    state = after(network(5), delete(7))
    assert state.networks == {}
    assert state.tombstones == {KEY: Tombstone(7, NOW)}


def test_also_where_the_object_never_was() -> None:
    assert after(delete(7)).tombstones == {KEY: Tombstone(7, NOW)}


@pytest.mark.parametrize("given", [None, 0, 6, 7])
def test_an_update_not_above_the_tombstone_is_late(given: int | None) -> None:
    with pytest.raises(LateRevision, match="was deleted with revision 7: only a higher one"):
        fold(after(delete(7)), network(given), NOW)


def test_an_update_above_the_tombstone_makes_it_anew() -> None:
    state = after(network(5), delete(7), network(8))
    assert labels(state) == ["net1"]
    assert state.tombstones == {}
    assert state.networks[network_id(1)].changes == 1


def test_a_deletion_below_the_stored_revision_is_late() -> None:
    state = after(network(5))
    with pytest.raises(LateRevision, match="revision 4"):
        fold(state, delete(4), NOW)
    for revision in (5, 6, None):
        assert after(delete(revision), state=state).networks == {}


def test_a_numbered_deletion_of_what_is_not_numbered_is_taken() -> None:
    state = after(network(), delete(0))
    assert (state.networks, state.tombstones) == ({}, {KEY: Tombstone(0, NOW)})


def test_a_deletion_without_a_revision_leaves_no_tombstone() -> None:
    state = after(network(5), delete())
    assert state.tombstones == {}
    assert labels(after(network(1), state=state)) == ["net1"]


def test_a_repeated_or_a_lower_deletion_changes_nothing() -> None:
    state = after(network(5), delete(7))
    for revision in (7, 6, 0, None):
        assert fold(state, delete(revision), NOW + DAY) is state
    assert after(delete(9), state=state, now=NOW + DAY).tombstones == {KEY: Tombstone(9, NOW + DAY)}


def test_a_tombstone_is_kept_for_seven_days() -> None:
    state = after(delete(7))
    almost, over = NOW + TOMBSTONE_SECONDS - 1, NOW + TOMBSTONE_SECONDS
    assert TOMBSTONE_SECONDS == 7 * DAY
    kept = after(Put(make_network(2)), state=state, now=almost)
    assert KEY in kept.tombstones
    with pytest.raises(LateRevision):
        fold(kept, network(7), almost)
    assert after(Put(make_network(2)), state=state, now=over).tombstones == {}
    assert after(Delete("networks", network_id(2), 1), state=state, now=over).tombstones.keys() == {
        ("networks", network_id(2))
    }


def test_one_tombstone_expires_and_another_stays() -> None:
    state = after(Delete("networks", network_id(2), 1), state=after(delete(7)), now=NOW + DAY)
    assert after(Put(make_network(3)), state=state, now=NOW + 7.5 * DAY).tombstones == {
        ("networks", network_id(2)): Tombstone(1, NOW + DAY)
    }


@pytest.mark.parametrize("given", [None, 3])
def test_an_expired_tombstone_refuses_nothing(given: int | None) -> None:
    """CONTRACT, section 4: a tombstone is kept 7 days."""
    state = after(delete(7))
    assert labels(after(network(given), state=state, now=NOW + 8 * DAY)) == ["net1"]


def test_an_expired_tombstone_keeps_nothing_out_of_a_sync() -> None:
    state = after(delete(7))
    wanted = State(networks=(make_network(1, revision=3),))
    assert labels(after(Replace(wanted), state=state, now=NOW + 8 * DAY)) == ["net1"]


def test_a_deletion_after_an_expired_tombstone_leaves_its_own() -> None:
    state = after(delete(7))
    assert after(delete(5), state=state, now=NOW + 8 * DAY).tombstones == {KEY: Tombstone(5, NOW + 8 * DAY)}


# --- the whole state


def whole(*items: Object) -> Replace:
    kinds: dict[str, list[Any]] = {}
    for item in items:
        kinds.setdefault(item.KIND, []).append(item)
    return Replace(State(**{kind: tuple(found) for kind, found in kinds.items()}))


def test_a_replacement_makes_changes_and_removes() -> None:
    state = after(network(), Put(make_network(2)), Put(make_group(1)))
    state = after(whole(make_network(1, label="new"), make_network(3), make_floating_ip(1)), state=state)
    assert state.export() == State(
        networks=(make_network(1, label="new"), make_network(3)), floating_ips=(make_floating_ip(1),)
    )


def test_the_same_state_again_is_the_same_object() -> None:
    items = (make_network(1), make_group(1), make_instance(1, (1,)))
    state = after(whole(*items))
    assert fold(state, whole(*items), NOW) is state
    assert fold(state, Replace(state.export()), NOW) is state
    assert fold(EMPTY, whole(), NOW) is EMPTY


def test_what_a_replacement_does_not_name_goes_whatever_its_revision_and_leaves_no_tombstone() -> None:
    state = after(network(99), whole())
    assert state.networks == {}
    assert state.tombstones == {}


def test_an_object_that_is_newer_here_stays_as_it_is() -> None:
    """A sync was overtaken by an update on its way."""
    state = after(network(5, label="newer"), Put(make_network(2)))
    state = after(whole(make_network(1, revision=4, label="older"), make_network(3)), state=state)
    assert labels(state) == ["newer", "net3"]


def test_an_object_that_was_deleted_here_meanwhile_stays_deleted() -> None:
    state = after(delete(7))
    for revision in (6, 7):
        kept = after(whole(make_network(1, revision=revision), make_network(2)), state=state)
        assert labels(kept) == ["net2"]
        assert kept.tombstones == state.tombstones
    assert labels(after(whole(make_network(1, revision=8)), state=state)) == ["net1"]


def test_an_object_without_a_revision_is_as_the_sync_says() -> None:
    assert labels(after(network(5), whole(make_network(1, label="given")))) == ["given"]
    state = after(delete(7), whole(make_network(1)))
    assert labels(state) == ["net1"]
    assert state.tombstones == {}


def test_a_replacement_with_a_contradiction_changes_nothing() -> None:
    state = after(network(5), Put(make_network(2)))
    with pytest.raises(LateRevision, match="with another body"):
        fold(state, whole(make_network(1, revision=5, label="other")), NOW)


def test_a_replacement_with_equal_revisions_changes_nothing() -> None:
    state = after(network(5))
    assert fold(state, whole(make_network(1, revision=5)), NOW) is state


# --- claims and their age


def since(state: DesiredState, number: int) -> dict[tuple[str, ...], int]:
    return dict(state.instances[instance_id(number)].since)


def test_each_change_is_younger_than_the_one_before() -> None:
    state = after(Put(make_instance(1)), Put(make_instance(2)), Put(make_network(1)))
    assert set(since(state, 1).values()) == {1}
    assert set(since(state, 2).values()) == {2}
    assert set(state.networks[network_id(1)].since.values()) == {3}
    assert state.sequence == 3


def test_an_update_keeps_the_age_of_what_it_keeps() -> None:
    one, two = make_vif(1), make_vif(2, fixed_ips=("10.1.0.3",))
    state = after(Put(make_instance(1, vifs=(one,))), Put(make_instance(9)), Put(make_instance(1, vifs=(one, two))))
    ages = since(state, 1)
    assert ages["device", "tap1", instance_id(1)] == 1
    assert ages["address", network_id(1), "10.1.0.2", instance_id(1)] == 1
    assert ages["device", "tap2", instance_id(1)] == 3
    assert ages["vif", vif_id(2), instance_id(1)] == 3
    assert ages["address", network_id(1), "10.1.0.3", instance_id(1)] == 3


def test_what_was_let_go_and_is_claimed_again_is_young() -> None:
    full, bare = make_instance(1), make_instance(1, vifs=(make_vif(1, fixed_ips=()),))
    ages = since(after(Put(full), Put(bare), Put(make_instance(2)), Put(full)), 1)
    assert ages["device", "tap1", instance_id(1)] == 1
    assert ages["address", network_id(1), "10.1.0.2", instance_id(1)] == 3


def test_what_claims_nothing_new_takes_no_number() -> None:
    bare = make_instance(1, vifs=(make_vif(1, fixed_ips=()),))
    state = after(Put(make_group(1)), Put(make_instance(1)), Put(bare), Put(make_group(1, make_rule(1))))
    assert state.sequence == 1
    assert state.security_groups[group_id(1)].changes == 2


def test_an_update_that_does_not_change_a_thing_does_not_age_others() -> None:
    state = after(Put(make_instance(1)), Put(make_instance(1)), Put(make_instance(2)))
    assert set(since(state, 2).values()) == {2}


def test_an_address_that_moves_to_another_vif_of_the_instance_keeps_its_age() -> None:
    """The claim is the instance's."""
    before = (make_vif(1, fixed_ips=("10.1.0.2",)), make_vif(2, fixed_ips=()))
    moved = tuple(replace(vif, fixed_ips=ips) for vif, ips in zip(before, ((), ("10.1.0.2",)), strict=True))
    state = after(Put(make_instance(1, vifs=before)), Put(make_instance(1, vifs=moved)))
    assert since(state, 1)["address", network_id(1), "10.1.0.2", instance_id(1)] == 1


def test_what_was_deleted_comes_back_young() -> None:
    state = after(
        Put(make_instance(1)), Put(make_instance(2)), Delete("instances", instance_id(1)), Put(make_instance(1))
    )
    assert set(since(state, 1).values()) == {3}


def test_a_replacement_keeps_ages_as_well() -> None:
    state = after(
        Put(make_instance(2)), Put(make_instance(1)), whole(make_instance(1, hostname="new"), make_instance(2))
    )
    assert set(since(state, 2).values()) == {1}
    assert set(since(state, 1).values()) == {2}
    assert state.instances[instance_id(1)].changes == 2


def test_what_came_changed_or_went_since_a_state_was_asked_for_stays_as_it_is() -> None:
    """The answer may be older than that; the controller's next word is newer."""
    asked = after(*(Put(make_network(number)) for number in (1, 2, 3, 4)))
    now = after(
        Put(make_network(1, label="newer")), Delete("networks", network_id(2)), Put(make_network(5)), state=asked
    )
    described = whole(*(make_network(number, label="older") for number in (1, 2, 3, 5, 6)))
    found = after(Replace(described.state, since=asked), state=now)
    assert {entry.object.label for entry in found.networks.values()} == {"newer", "net5", "older"}  # type: ignore[union-attr]
    assert sorted(found.networks) == [network_id(number) for number in (1, 3, 5, 6)]


def test_a_state_that_was_asked_for_contradicts_nothing_that_changed_since() -> None:
    asked = after(network(3))
    now = after(network(4, label="newer"), state=asked)
    assert after(Replace(whole(make_network(1, label="other", revision=4)).state, since=asked), state=now) is now
