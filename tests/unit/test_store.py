"""The store: what was saved comes back, and what cannot be saved changes nothing."""

import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.events import Delete, Put, fold
from nova_netagent.model import DesiredState, Network, claims
from nova_netagent.store import SCHEMA_VERSION, Store, StoreError
from nova_netagent.testing import (
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
)

OBJECTS = (
    make_network(1),
    make_group(1, make_rule(1, protocol="tcp", port_range_min=22, port_range_max=22), members=("10.9.0.0/24",)),
    make_instance(1, (1,), revision=7),
    make_floating_ip(1),
    make_provider_rule(1),
)


def a_state() -> DesiredState:
    state = DesiredState()
    for item in OBJECTS:
        state = fold(state, Put(item), 1000.0)
    return fold(state, Delete("networks", make_network(2).id, revision=3), 1000.0)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    state = a_state()
    store.save(DesiredState(), state)
    store.close()
    assert Store(tmp_path / "state.db").load() == state


def test_a_revision_that_stands_beside_a_body_without_one_is_the_objects(tmp_path: Path) -> None:
    """So an older version saved an object that was described with a revision, and then again without."""
    store = Store(tmp_path / "state.db")
    store.save(DesiredState(), fold(DesiredState(), Put(make_network(1)), 0.0))
    store._file.connection.execute("UPDATE object SET revision = 5")
    assert store.load().get(Network, make_network(1).id) == make_network(1, revision=5)


def test_what_is_made_anew_is_deleted_no_more(tmp_path: Path) -> None:
    """Otherwise whoever describes it without a revision would be refused after a restart."""
    store = Store(tmp_path / "state.db")
    state = a_state()
    store.save(DesiredState(), state)
    anew = fold(state, Put(make_network(2, revision=4)), 1000.0)
    store.save(state, anew)
    assert store.load().tombstones == {}
    assert store.load() == anew


def test_only_the_difference_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    state = a_state()
    store.save(DesiredState(), state)
    smaller = fold(state, Delete("instances", make_instance(1).id), 1000.0)
    changes = store._file.connection.total_changes
    store.save(state, smaller)
    assert store._file.connection.total_changes - changes == 1  # the object; nothing was claimed
    store.save(smaller, smaller)
    assert store._file.connection.total_changes - changes == 1
    other = fold(smaller, Put(make_instance(2)), 1000.0)
    store.save(smaller, other)
    assert store._file.connection.total_changes - changes == 3  # the object, and the sequence
    assert Store(tmp_path / "state.db").load() == other


def test_every_save_is_synchronous_to_the_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    store.owe_cuts(True)  # which is not
    assert store._file.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._file.connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "state.db").close()
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match=f"schema version {SCHEMA_VERSION + 1}"):
        Store(tmp_path / "state.db")


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_text("something else entirely, longer than a header of SQLite's hundred bytes" * 3)
    with pytest.raises(StoreError, match=r"state\.db"):
        Store(tmp_path / "state.db")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/state\.db"):
        Store(tmp_path / "file" / "state.db")


def test_a_body_that_does_not_read_names_its_object(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    store.save(DesiredState(), a_state())
    store._file.connection.execute("UPDATE object SET body = '{}' WHERE kind = 'instances'")
    with pytest.raises(StoreError, match=f"instances {make_instance(1).id} does not read"):
        store.load()


@pytest.mark.parametrize("since", ["", "[", "7", "[[]]", b"\xff"])
def test_claims_that_do_not_read_name_their_object(tmp_path: Path, since: object) -> None:
    store = Store(tmp_path / "state.db")
    store.save(DesiredState(), a_state())
    store._file.connection.execute("UPDATE object SET since = ? WHERE kind = 'instances'", (since,))
    with pytest.raises(StoreError, match=f"instances {make_instance(1).id} does not read"):
        store.load()


def test_a_store_without_its_counter_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    store._file.connection.execute("DELETE FROM counter")
    with pytest.raises(StoreError, match=r"state\.db: .*sequence"):
        store.load()


def test_a_save_that_fails_saves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    state = fold(DesiredState(), Put(OBJECTS[0]), 0.0)
    store.save(DesiredState(), state)
    store._file.connection.execute("CREATE TRIGGER full BEFORE INSERT ON object WHEN NEW.kind = 'floating_ips'"
                      " BEGIN SELECT RAISE(ABORT, 'disk full'); END")  # fmt: skip
    with pytest.raises(StoreError, match="disk full"):
        store.save(state, a_state())
    assert store.load() == state


def test_notes_of_what_we_made_keep_what_was_found_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    forward = ("sysctl", "net/ipv4/ip_forward")
    store.note_made({forward: "0", ("bridge", "br1"): ""})
    store.note_made({forward: "1"})
    assert Store(tmp_path / "state.db").made() == {forward: "0", ("bridge", "br1"): ""}
    store.forget_made([forward, ("port", "never")])
    assert store.made() == {("bridge", "br1"): ""}
    store.note_made({("bridge", "br1"): "anew"}, anew=True)
    assert store.made() == {("bridge", "br1"): "anew"}


def test_notes_of_another_boot_are_none_and_go_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = Store(path, "one")
    store.note_made({("bridge", "br1"): ""})
    store = Store(path, "one")
    assert store.made() == {("bridge", "br1"): ""}
    store = Store(path, "two")
    store._file.connection.execute("PRAGMA query_only = ON")  # a disk on which nothing can be written
    assert store.made() == {}
    store._file.connection.execute("PRAGMA query_only = OFF")
    store.note_made({("bridge", "br2"): ""})
    assert store.made() == {("bridge", "br2"): ""}
    store.forget_made([("bridge", "br2")])
    assert Store(path, "one").made() == {}


def test_a_claim_that_an_older_version_did_not_note_is_as_old_as_the_object(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = Store(path)
    network = make_network(1)
    state = fold(fold(DesiredState(), Put(make_instance(1)), 0.0), Put(network), 0.0)
    store.save(DesiredState(), state)
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE object SET since = '[[2, \"range\", \"10.1.0.0/24\"]]' WHERE kind = 'networks'")
    assert Store(path).load().networks[network.id].since == dict.fromkeys(claims(network), 2)


@pytest.mark.parametrize("taken", [["", "-wal", "-shm"], [""], ["-wal"], ["-wal", "-shm"]], ids=" ".join)
def test_what_is_saved_after_somebody_took_the_file_away_is_there_with_all_else(
    tmp_path: Path, taken: Sequence[str]
) -> None:
    path = tmp_path / "state.db"
    store = Store(path)
    before = a_state()
    store.save(DesiredState(), before)
    store.note_made({("bridge", "br1"): ""})
    for name in taken:
        path.with_name(path.name + name).unlink()
    after = fold(before, Put(make_group(2)), 1000.0)
    store.save(before, after)
    found = Store(path)  # without the first one's end: the process may be killed
    assert found.load() == after
    assert found.made() == {("bridge", "br1"): ""}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["state.db", "state.db-shm", "state.db-wal"]


def test_a_file_that_was_taken_away_is_there_again_without_anything_to_save(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    store = Store(folder / "state.db")
    store.save(DesiredState(), a_state())
    store.secure()
    shutil.rmtree(folder)
    store.secure()
    store.secure()
    assert Store(folder / "state.db").load() == a_state()


def test_a_file_that_somebody_put_in_its_place_is_kept_beside_it(tmp_path: Path) -> None:
    """Whoever restores another state stops the agent first; what was acknowledged meanwhile is not lost for it."""
    path, other = tmp_path / "state.db", tmp_path / "backup.db"
    store, backup = Store(path), Store(other)
    store.note_made({("bridge", "br1"): ""})
    backup.save(DesiredState(), a_state())
    backup.close()
    other.rename(path)
    mine = fold(DesiredState(), Put(make_group(2)), 1000.0)
    store.save(DesiredState(), mine)
    assert Store(path).load() == mine
    assert Store(tmp_path / "state.db.found").load() == a_state()


MINE = fold(DesiredState(), Put(make_group(2)), 1000.0)


def _take_away(path: Path) -> None:
    for name in ("", "-wal", "-shm"):
        path.with_name(path.name + name).unlink()


def _take_the_file_alone(path: Path) -> None:
    path.unlink()


def _put_another_there(path: Path) -> None:
    """With its log, in which all of it is."""
    _take_away(path)
    other = path.with_name("backup.db")
    Store(other).save(DesiredState(), a_state())
    for name in ("", "-wal"):
        shutil.copy(f"{other}{name}", f"{path}{name}")


def _put_another_there_without_its_log(path: Path) -> None:
    other = Store(path.with_name("backup.db"))
    other.save(DesiredState(), a_state())
    other.close()
    _take_away(path)
    path.with_name("backup.db").rename(path)


@pytest.mark.parametrize(
    ("meddle", "theirs"),
    [
        (_take_away, DesiredState()),
        (_take_the_file_alone, DesiredState()),
        (_put_another_there, a_state()),
        (_put_another_there_without_its_log, a_state()),
    ],
    ids=lambda each: getattr(each, "__name__", "")[1:],
)
def test_killed_while_it_is_made_anew_it_is_as_before_or_all_there(
    tmp_path: Path, meddle: Callable[[Path], None], theirs: DesiredState
) -> None:
    """Between any two steps; from the one on that makes it whole it is the start that does the others."""
    after = []
    for steps in range(1000):
        path = tmp_path / str(steps) / "state.db"
        if not _killed_while_made_anew(path, meddle, steps):
            break
        after.append(Store(path).load())
        if after[-1] == MINE and theirs != DesiredState():
            assert Store(path.with_name("state.db.found")).load() == theirs, steps
    first = after.index(MINE)
    assert after == [theirs] * first + [MINE] * (len(after) - first)
    assert len(after) - first >= 6, "what is still to be done then is found by this"


def _killed_while_made_anew(path: Path, meddle: Callable[[Path], None], steps: int) -> bool:
    """Have it made anew in a process that is killed before one of its calls of the system; whether it has so many."""
    process = os.fork()
    if process == 0:
        try:
            store = Store(path)
            store.save(DesiredState(), MINE)
            meddle(path)
            left = iter(range(steps))

            def kill(event: str, _: object) -> None:
                if event in ("open", "os.remove", "os.rename", "sqlite3.connect") and next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(kill)
            store.secure()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def test_where_the_file_cannot_be_made_anew_nothing_is_taken_until_it_can(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "state.db"
    store = Store(path)
    store.save(DesiredState(), a_state())
    shutil.rmtree(path.parent)
    path.parent.write_text("no folder")
    more = fold(a_state(), Put(make_group(2)), 1000.0)
    with pytest.raises(StoreError, match=r"state\.db"):
        store.save(a_state(), more)
    path.parent.unlink()
    store.save(a_state(), more)
    assert Store(path).load() == more


def test_where_what_was_made_anew_cannot_be_opened_it_is_once_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    store = Store(path)
    store.save(DesiredState(), a_state())
    path.unlink()
    more = fold(a_state(), Put(make_group(2)), 1000.0)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(sqlite3, "connect", _Reluctant(path))
        with pytest.raises(StoreError, match=r"state\.db: .* too many open files"):
            store.save(a_state(), more)
    assert store.load() == a_state(), "what was open is"
    store.save(a_state(), more)
    assert Store(path).load() == more
    monkeypatch.setattr(sqlite3, "connect", _Reluctant(path))
    store.secure()  # it is as it should be: nothing is opened


class _Reluctant:
    """SQLite, where one file cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def __call__(self, path: Path, **options: Any) -> sqlite3.Connection:
        if path == self.path:
            raise sqlite3.OperationalError("too many open files")
        return self.connect(path, **options)


def test_a_disk_that_fails_after_the_end_is_told_as_any_other(tmp_path: Path) -> None:
    """The engine goes on where the store fails, and ends where anything else does."""
    store = Store(tmp_path / "state.db")
    store._file.connection.set_authorizer(
        lambda action, _, value, *__: sqlite3.SQLITE_DENY if value == "FULL" else sqlite3.SQLITE_OK
    )
    with pytest.raises(StoreError, match="not authorized"):
        store.owe_cuts(True)
