"""The desired state as rows, and notes of what in the kernel we made."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from nova_netagent.model import KINDS, DesiredState, Entry, Key, Object, Tombstone, claims
from nova_netagent.model.lineage import changed
from nova_netagent.store.database import Database, StoreError

_SCHEMA = (
    """
        CREATE TABLE object (
            kind TEXT NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL,
            revision INTEGER, changes INTEGER NOT NULL, since TEXT NOT NULL,
            PRIMARY KEY (kind, id)) WITHOUT ROWID;
        CREATE TABLE tombstone (
            kind TEXT NOT NULL, id TEXT NOT NULL, revision INTEGER NOT NULL, at REAL NOT NULL,
            PRIMARY KEY (kind, id)) WITHOUT ROWID;
        CREATE TABLE made (
            kind TEXT NOT NULL, name TEXT NOT NULL, found TEXT NOT NULL,
            PRIMARY KEY (kind, name)) WITHOUT ROWID;
        CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
        INSERT INTO counter VALUES ('sequence', 0);
    """,
    "CREATE TABLE boot (id TEXT NOT NULL)",
)
"""The statements that lead from each version to the next."""
SCHEMA_VERSION = len(_SCHEMA)

Made = tuple[str, str]
"""Something we made in the kernel: a kind (``bridge``, ``address``, ``port``, ``sysctl``) and its name."""

_decoders = {kind: msgspec.json.Decoder(cls) for kind, cls in KINDS.items()}
_encoder = msgspec.json.Encoder()


class Store:
    """The state of one host in a file.

    :param boot: which boot of the host it is: what was made in another one is forgotten, as what is there now is
        somebody else's. It is struck when something new is noted, and not before: a full disk hinders no start.
    :raises StoreError: the file cannot be opened, is no store, or is of a newer version.
    """

    def __init__(self, path: Path, boot: str | None = None) -> None:
        self._file = Database(path, _SCHEMA)
        self._boot = boot

    def close(self) -> None:
        """Close the file; what was saved stays."""
        self._file.close()

    def secure(self) -> None:
        """Have the file in its place, should somebody have taken it away; see ``Database.secure``.

        :raises StoreError: it was taken away, and cannot be made anew.
        """
        self._file.secure()

    def load(self) -> DesiredState:
        """The saved state.

        :raises StoreError: an object does not read: the message names it; or something else is missing.
        """
        kinds: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        for kind, id_, *row in self._file.rows("SELECT kind, id, body, revision, changes, since FROM object"):
            try:
                kinds[kind][id_] = _entry(kind, *row)
            except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
                raise StoreError(f"{self._file.path}: {kind} {id_} does not read: {error}") from error
        stones = self._file.rows("SELECT kind, id, revision, at FROM tombstone ORDER BY at")
        tombstones = {(kind, id_): Tombstone(revision, at) for kind, id_, revision, at in stones}
        sequence = self._counted("sequence")
        if sequence is None:
            raise StoreError(f"{self._file.path}: the counter 'sequence' is not there")
        return DesiredState(**kinds, tombstones=tombstones, sequence=sequence)

    def save(self, old: DesiredState, new: DesiredState) -> None:
        """Make the new state durable; what is the same object in both is not written.

        :raises StoreError: nothing was saved.
        """
        if new is old:
            return
        with self._file.transaction() as db:
            for kind in KINDS:
                after = new.entries(kind)
                ids = changed(old.entries(kind), after)
                if not ids:
                    continue
                gone = [(kind, id_) for id_ in ids if id_ not in after]
                rows = [_row(kind, id_, after[id_]) for id_ in ids if id_ in after]
                if gone:
                    db.executemany("DELETE FROM object WHERE kind = ? AND id = ?", gone)
                db.executemany("REPLACE INTO object VALUES (?, ?, ?, ?, ?, ?)", rows)
            if new.tombstones is not old.tombstones:
                _save_tombstones(db, old.tombstones, new.tombstones)
            if new.sequence != old.sequence:
                db.execute("UPDATE counter SET value = ? WHERE name = 'sequence'", (new.sequence,))

    def made(self) -> Mapping[Made, str]:
        """What we made in the kernel, and for each what was found there before.

        :raises StoreError: it cannot be read.
        """
        if self._is_past():
            return {}
        return {(kind, name): found for kind, name, found in self._file.rows("SELECT kind, name, found FROM made")}

    def note_made(self, things: Mapping[Made, str], *, anew: bool = False) -> None:
        """Note what is about to be made: before it is, so that a crash leaves nothing unknown.

        :param anew: in place of what was noted of these before, which otherwise stays.
        :raises StoreError: nothing was noted.
        """
        if things:
            rows = [(kind, name, found) for (kind, name), found in things.items()]
            with self._file.transaction() as db:
                if self._is_past():
                    db.execute("DELETE FROM made")
                    db.execute("DELETE FROM boot")
                    db.execute("INSERT INTO boot VALUES (?)", (self._boot,))
                db.executemany(f"INSERT OR {'REPLACE' if anew else 'IGNORE'} INTO made VALUES (?, ?, ?)", rows)

    def _is_past(self) -> bool:
        """Whether what is noted was made in another boot."""
        return self._boot is not None and list(self._file.rows("SELECT id FROM boot")) != [(self._boot,)]

    def forget_made(self, things: Iterable[Made]) -> None:
        """Forget what is gone from the kernel."""
        rows = list(things)
        if rows:
            with self._file.transaction() as db:
                db.executemany("DELETE FROM made WHERE kind = ? AND name = ?", rows)

    def owes_cuts(self) -> bool:
        """Whether rules were changed, and flows that they forbid now may go on.

        :raises StoreError: it cannot be read.
        """
        return self._counted("cuts owed") == 1

    def owe_cuts(self, owed: bool) -> None:
        """Note that flows are to be cut, or that they were. No fsync: a power cut ends every flow.

        :raises StoreError: nothing was noted.
        """
        with self._file.transaction(durable=False) as db:
            db.execute("REPLACE INTO counter VALUES ('cuts owed', ?)", (int(owed),))

    def _counted(self, name: str) -> int | None:
        found: list[tuple[int]] = list(self._file.rows("SELECT value FROM counter WHERE name = ?", (name,)))
        return found[0][0] if found else None


def _entry(kind: str, body: bytes, revision: int | None, changes: int, since: str) -> Entry:
    item: Object = _decoders[kind].decode(body)
    if item.revision is None and revision is not None:
        item = replace(item, revision=revision)  # an older version kept it beside the body only
    known = {tuple(claim): number for number, *claim in json.loads(since)}
    # What an older version did not count as a claim is as old as the object's oldest.
    oldest = min(known.values(), default=0)
    return Entry(item, changes, {each: known.get(each, oldest) for each in claims(item)})


def _row(kind: str, id_: str, entry: Entry) -> tuple[object, ...]:
    since = json.dumps([[number, *claim] for claim, number in entry.since.items()])
    return kind, id_, _encoder.encode(entry.object), entry.object.revision, entry.changes, since


def _save_tombstones(db: sqlite3.Connection, old: Mapping[Key, Tombstone], new: Mapping[Key, Tombstone]) -> None:
    keys = changed(old, new)
    db.executemany("DELETE FROM tombstone WHERE kind = ? AND id = ?", [key for key in keys if key not in new])
    fresh = [(*key, new[key].revision, new[key].at) for key in keys if key in new]
    db.executemany("REPLACE INTO tombstone VALUES (?, ?, ?, ?)", fresh)
