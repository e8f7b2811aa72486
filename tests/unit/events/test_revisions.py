"""Revisions by the contract's words alone, for any order of updates and deletions, numbered or not."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_netagent.events import Delete, Event, LateRevision, Put, Replace, fold
from nova_netagent.model import DesiredState, Network, State
from nova_netagent.store import Store
from nova_netagent.testing import make_network, network_id

NOW = 1_000_000.0
ID = network_id(1)

Make = Callable[[], Path]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return lambda: tmp_path_factory.mktemp("store")


@dataclass
class Told:
    """What the contract says is known of one object: the body and the revision that are stored, and a tombstone."""

    label: str | None = None
    revision: int | None = None
    buried: int | None = None

    def hear(self, event: Event) -> bool:
        """Take an event; false: it is refused with 409, and changes nothing."""
        match event:
            case Put(Network(label=label, revision=revision)):
                return self._put(label, revision)
            case Delete(revision=revision):
                return self._delete(revision)
            case Replace(State(networks=networks)):
                return self._replace(networks or ())
        raise AssertionError(event)

    def _put(self, label: str, revision: int | None) -> bool:
        if self.buried is not None and (revision is None or revision <= self.buried):
            return False
        if self._is_below(revision) or self._contradicts(label, revision):
            return False
        self._store(label, revision)
        return True

    def _is_below(self, revision: int | None) -> bool:
        return revision is not None and self.revision is not None and revision < self.revision

    def _contradicts(self, label: str, revision: int | None) -> bool:
        return revision is not None and revision == self.revision and label != self.label

    def _delete(self, revision: int | None) -> bool:
        if revision is not None:
            if self._is_below(revision):
                return False
            self.buried = revision if self.buried is None else max(revision, self.buried)
        self.label = self.revision = None
        return True

    def _replace(self, networks: tuple[Network, ...]) -> bool:
        """What is behind is left as it is; what does not count is as it is said."""
        if not networks:
            return self._delete(None)
        (wanted,) = networks
        revision = wanted.revision
        if self._is_below(revision) or (revision is not None and self.buried is not None and revision <= self.buried):
            return True
        if self._contradicts(wanted.label, revision):
            return False
        self._store(wanted.label, revision)
        return True

    def _store(self, label: str, revision: int | None) -> None:
        self.label, self.buried = label, None
        self.revision = self.revision if revision is None else revision


numbers = st.none() | st.integers(0, 4)
networks = st.builds(
    lambda label, revision: make_network(1, label=label, revision=revision), st.sampled_from("ab"), numbers
)
events = st.one_of(
    st.builds(Put, networks),
    st.builds(Delete, st.just(Network.KIND), st.just(ID), numbers),
    st.builds(lambda item: Replace(State(networks=item)), st.just(()) | st.tuples(networks)),
)
histories = st.lists(events, max_size=12)


def heard(history: list[Event], told: Told) -> DesiredState:
    """The state after a history, each answer compared with what the contract says."""
    state = DesiredState()
    for event in history:
        try:
            made = fold(state, event, NOW)
        except LateRevision:
            made = None
        assert (made is not None) is told.hear(event), event
        state = state if made is None else made
    return state


@given(histories)
def test_what_is_refused_and_what_is_stored(history: list[Event]) -> None:
    told = Told()
    state = heard(history, told)
    found = state.get(Network, ID)
    assert (found and found.label, found and found.revision) == (told.label, told.revision)
    assert [each.revision for each in state.tombstones.values()] == ([] if told.buried is None else [told.buried])


@given(histories)
def test_the_revision_that_is_shown_is_the_one_that_guards(history: list[Event]) -> None:
    state = heard(history, Told())
    found = state.get(Network, ID)
    if found is None or found.revision is None:
        return
    assert state.networks[ID].reported_revision == found.revision
    assert fold(state, Put(found), NOW) is state
    with pytest.raises(LateRevision, match="with another body"):
        fold(state, Put(make_network(1, label="c", revision=found.revision)), NOW)
    if found.revision > 0:
        with pytest.raises(LateRevision, match=f"below the stored {found.revision}"):
            fold(state, Put(make_network(1, label=found.label, revision=found.revision - 1)), NOW)


@given(histories)
def test_the_same_body_without_a_revision_changes_nothing(history: list[Event]) -> None:
    state = heard(history, Told())
    found = state.get(Network, ID)
    if found is not None:
        unnumbered = make_network(1, label=found.label)
        assert fold(state, Put(unnumbered), NOW) is state
        assert fold(state, Replace(State(networks=(unnumbered,))), NOW) is state


@given(histories)
def test_what_is_exported_is_the_state(history: list[Event]) -> None:
    state = heard(history, Told())
    assert fold(state, Replace(state.export()), NOW) is state
    assert fold(DesiredState(), Replace(state.export()), NOW).export() == state.export()


@given(histories)
def test_a_restart_changes_nothing_of_it(folders: Make, history: list[Event]) -> None:
    state = heard(history, Told())
    path = folders() / "state.db"
    store = Store(path)
    store.save(DesiredState(), state)
    store.close()
    again = Store(path)
    assert again.load() == state
    again.close()
