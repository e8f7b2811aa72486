"""What can happen to the desired state, and the one function that makes it happen."""

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from nova_netagent.model import KINDS, DesiredState, Entry, Key, Object, State, Tombstone, claims, says_the_same
from nova_netagent.model.lineage import follow
from nova_netagent.model.state import TOMBSTONE_SECONDS


@dataclass(frozen=True)
class Put:
    """An object is described, for the first time or anew."""

    object: Object


@dataclass(frozen=True)
class Delete:
    """An object is to go. A revision leaves a tombstone, also where the object never was."""

    kind: str
    id: str
    revision: int | None = None


@dataclass(frozen=True)
class Replace:
    """The whole state is described: what it does not name is to go.

    :ivar since: the state when the description was asked for; what came, changed or went after it stays as it is.
    """

    state: State
    since: DesiredState | None = None


Event = Put | Delete | Replace


class LateRevision(Exception):
    """An event carries a revision that is behind what is known: it changes nothing."""


def fold(state: DesiredState, event: Event, now: float) -> DesiredState:
    """The state after an event; the same object where the event changes nothing.

    :param now: seconds since the epoch; tombstones older than seven days are dropped.
    :raises LateRevision: the event is older than the state, or contradicts its revision.
    """
    state = _without_expired(state, now)
    match event:
        case Put(item):
            _refuse_late(state, item)
            return _put(state, item)
        case Delete(kind, id_, revision):
            return _delete(state, (kind, id_), revision, now)
        case Replace(wanted, since):
            return _replace(state, wanted, now, since or state)


def _without_expired(state: DesiredState, now: float) -> DesiredState:
    oldest = next(iter(state.tombstones.values()), None)
    if oldest is None or now - oldest.at < TOMBSTONE_SECONDS:
        return state
    gone = [key for key, stone in state.tombstones.items() if now - stone.at >= TOMBSTONE_SECONDS]
    return replace(state, tombstones=follow(state.tombstones, {}, gone))


def kept(state: DesiredState, event: Replace, now: float) -> Mapping[Key, str]:
    """The objects of a whole state that are newer here, and stay as they are when it is folded, each with why."""
    state = _without_expired(state, now)
    found = (((item.KIND, item.id), _why_behind(state, item)) for item in event.state.objects())
    return {key: why for key, why in found if why is not None}


def _refuse_late(state: DesiredState, item: Object) -> None:
    tombstone = state.tombstones.get((item.KIND, item.id))
    if tombstone is not None and item.revision is None:
        raise LateRevision(_deleted(item.id, tombstone))
    why = _why_behind(state, item)
    if why is not None:
        raise LateRevision(why)
    entry = _entry(state, (item.KIND, item.id))
    if entry is not None:
        _refuse_contradiction(entry.object, item)


def _why_behind(state: DesiredState, item: Object) -> str | None:
    """Why an object is late, if an update or a deletion overtook it on its way here."""
    if item.revision is None:
        return None
    key = (item.KIND, item.id)
    tombstone = state.tombstones.get(key)
    if tombstone is not None and item.revision <= tombstone.revision:
        return _deleted(item.id, tombstone)
    entry = _entry(state, key)
    return None if entry is None else _why_below(entry.object, item.revision)


def _deleted(id_: str, tombstone: Tombstone) -> str:
    return f"{id_} was deleted with revision {tombstone.revision}: only a higher one makes it anew"


def _why_below(stored: Object, revision: int) -> str | None:
    if stored.revision is None or revision >= stored.revision:
        return None
    return f"revision {revision} of {stored.id} is below the stored {stored.revision}"


def _refuse_contradiction(stored: Object, item: Object) -> None:
    if item.revision == stored.revision and item.revision is not None and not says_the_same(item, stored):
        raise LateRevision(f"revision {item.revision} of {item.id} is stored with another body")


def _put(state: DesiredState, item: Object) -> DesiredState:
    """Store an object. One without a revision has the stored one: what is below that was said before it."""
    entries = state.entries(item.KIND)
    old = entries.get(item.id)
    if old is not None and old.object.revision is not None:
        if item.revision == old.object.revision:
            return state  # it says the same, or was refused
        if item.revision is None:
            item = replace(item, revision=old.object.revision)
    if old is not None and old.object == item:
        return state
    next_ = state.sequence + 1
    known: Mapping[tuple[str, ...], int] = {} if old is None else old.since
    since = {claim: known.get(claim, next_) for claim in claims(item)}
    sequence = next_ if next_ in since.values() else state.sequence
    entry = Entry(
        object=item,
        changes=1 if old is None else old.changes + 1,
        since=since,
    )
    changed = replace(state, sequence=sequence, tombstones=_exhumed(state, (item.KIND, item.id)))
    return _with_kind(changed, item.KIND, follow(entries, {item.id: entry}))


def _delete(state: DesiredState, key: Key, revision: int | None, now: float) -> DesiredState:
    kind, id_ = key
    entry = state.entries(kind).get(id_)
    if revision is not None:
        why = None if entry is None else _why_below(entry.object, revision)
        if why is not None:
            raise LateRevision(why)
        buried = state.tombstones.get(key)
        if buried is None or buried.revision < revision:
            # The youngest is the last, so that none but the first need be asked for its age.
            state = replace(state, tombstones=follow(_exhumed(state, key), {key: Tombstone(revision, now)}))
    if entry is None:
        return state
    return _with_kind(state, kind, follow(state.entries(kind), {}, [id_]))


def _replace(state: DesiredState, wanted: State, now: float, since: DesiredState) -> DesiredState:
    """Make the state what was described; an object that is newer here stays as it is."""
    found = state
    named = {(item.KIND, item.id) for item in wanted.objects()}
    for key, entry in list(state.all_entries()):
        if key not in named and _entry(since, key) is entry:
            state = _delete(state, key, None, now)
    for item in wanted.objects():
        key = (item.KIND, item.id)
        old = _entry(found, key)
        if _entry(since, key) is old and _why_behind(state, item) is None:
            if old is not None:
                _refuse_contradiction(old.object, item)
            state = _put(state, item)
    return state


def _entry(state: DesiredState, key: Key) -> Entry | None:
    return state.entries(key[0]).get(key[1])


def _with_kind(state: DesiredState, kind: str, entries: Mapping[str, Entry]) -> DesiredState:
    assert kind in KINDS
    return replace(state, **{kind: entries})


def _exhumed(state: DesiredState, key: Key) -> Mapping[Key, Tombstone]:
    """The tombstones without an object's."""
    return follow(state.tombstones, {}, [key] if key in state.tombstones else ())
