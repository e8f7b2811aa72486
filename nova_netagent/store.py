"""The durable desired state, and what in the kernel we made: one SQLite file.

WAL with synchronous=FULL: a change that was saved survives a power cut, and costs one
fsync (sqlite.org/wal.html). One thread uses a store.
"""

import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import msgspec
from msgspec.structs import replace

from nova_netagent.model import KINDS, DesiredState, Entry, Key, Object, Tombstone, claims
from nova_netagent.model.lineage import changed

LOG = logging.getLogger(__name__)

SCHEMA_VERSION = 2

_MIGRATIONS: Mapping[int, str] = {
    0: """
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
    1: "CREATE TABLE boot (id TEXT NOT NULL)",
}
"""For each schema version the statements that lead to the next."""

Made = tuple[str, str]
"""Something we made in the kernel: a kind (``bridge``, ``address``, ``port``, ``sysctl``) and its name."""

Names = tuple[int | None, int | None]
"""The inodes of a store's file and of its log, where they are."""

_decoders = {kind: msgspec.json.Decoder(cls) for kind, cls in KINDS.items()}
_encoder = msgspec.json.Encoder()


class StoreError(Exception):
    """The state could not be read or saved; nothing was changed."""


class Store:
    """The state of one host in a file.

    :param boot: which boot of the host it is: what was made in another one is forgotten, as what is there now is
        somebody else's. It is struck when something new is noted, and not before: a full disk hinders no start.
    :raises StoreError: the file cannot be opened, is no store, or is of a newer version.
    """

    def __init__(self, path: Path, boot: str | None = None) -> None:
        self._path = path
        self._boot = boot
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{path}: {error}") from error

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_IOERR:
                raise
            # A full disk has no room for the log's index. Who is alone has it in memory, and can read at least.
            self._db.close()
            self._db = sqlite3.connect(self._path, isolation_level=None)
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._migrate()
        self._opened = self._names()

    def _names(self) -> Names:
        """What is at the file's name and at its log's by now."""
        return _number(self._path), _number(_beside(self._path, "-wal"))

    def secure(self) -> None:
        """Have the store in its place: where somebody took it away, what is saved would end with this process.

        Another file that is in its place is kept beside it, as ``state.db.found``.

        :raises StoreError: it was taken away, and cannot be made anew.
        """
        try:
            if self._names() == self._opened:
                return
            self._make_anew()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path}: it was taken away: {error}") from error
        LOG.warning("%s had been taken away, and is there again", self._path)

    def _make_anew(self) -> None:
        """Who has a file open can still read it, whatever became of its name."""
        anew = _beside(self._path, ".anew")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        anew.unlink(missing_ok=True)
        with closing(sqlite3.connect(anew)) as copy:
            self._db.backup(copy)
        for ending, opened in zip(("", "-wal"), self._opened, strict=True):
            found = _beside(self._path, ending)
            if _number(found) not in (None, opened):
                found.replace(_beside(self._path, f".found{ending}"))
        for ending in ("-wal", "-shm"):  # they would be taken for this file's
            _beside(self._path, ending).unlink(missing_ok=True)
        anew.replace(self._path)
        _sync(self._path.parent)
        self._db.close()
        self._open()

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StoreError(f"{self._path} is of schema version {version}, this program knows {SCHEMA_VERSION}")
        for step in range(version, SCHEMA_VERSION):
            self._db.executescript(f"BEGIN; {_MIGRATIONS[step]}; PRAGMA user_version = {step + 1}; COMMIT")

    def close(self) -> None:
        """Close the file; what was saved stays."""
        self._db.close()

    def load(self) -> DesiredState:
        """The saved state.

        :raises StoreError: an object does not read: the message names it; or something else is missing.
        """
        kinds: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        try:
            # Row by row: all bodies at once would be as much again as the model.
            for kind, id_, *row in self._db.execute("SELECT kind, id, body, revision, changes, since FROM object"):
                try:
                    kinds[kind][id_] = _entry(kind, *row)
                except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
                    raise StoreError(f"{self._path}: {kind} {id_} does not read: {error}") from error
            stones = self._db.execute("SELECT kind, id, revision, at FROM tombstone ORDER BY at").fetchall()
            sequence = self._db.execute("SELECT value FROM counter WHERE name = 'sequence'").fetchone()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error
        if sequence is None:
            raise StoreError(f"{self._path}: the counter 'sequence' is not there")
        tombstones = {(kind, id_): Tombstone(revision, at) for kind, id_, revision, at in stones}
        return DesiredState(**kinds, tombstones=tombstones, sequence=sequence[0])

    def save(self, old: DesiredState, new: DesiredState) -> None:
        """Make the new state durable; what is the same object in both is not written.

        :raises StoreError: nothing was saved.
        """
        if new is old:
            return
        with self._transaction() as db:
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
        try:
            rows = self._db.execute("SELECT kind, name, found FROM made").fetchall()
            past = self._is_past(self._db)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error
        return {} if past else {(kind, name): found for kind, name, found in rows}

    def note_made(self, things: Mapping[Made, str], *, anew: bool = False) -> None:
        """Note what is about to be made: before it is, so that a crash leaves nothing unknown.

        :param anew: in place of what was noted of these before, which otherwise stays.
        :raises StoreError: nothing was noted.
        """
        if things:
            rows = [(kind, name, found) for (kind, name), found in things.items()]
            with self._transaction() as db:
                if self._is_past(db):
                    db.execute("DELETE FROM made")
                    db.execute("DELETE FROM boot")
                    db.execute("INSERT INTO boot VALUES (?)", (self._boot,))
                db.executemany(f"INSERT OR {'REPLACE' if anew else 'IGNORE'} INTO made VALUES (?, ?, ?)", rows)

    def _is_past(self, db: sqlite3.Connection) -> bool:
        """Whether what is noted was made in another boot."""
        return self._boot is not None and db.execute("SELECT id FROM boot").fetchone() != (self._boot,)

    def forget_made(self, things: Iterable[Made]) -> None:
        """Forget what is gone from the kernel."""
        rows = list(things)
        if rows:
            with self._transaction() as db:
                db.executemany("DELETE FROM made WHERE kind = ? AND name = ?", rows)

    def owes_cuts(self) -> bool:
        """Whether rules were changed, and flows that they forbid now may go on.

        :raises StoreError: it cannot be read.
        """
        try:
            return bool(self._db.execute("SELECT value FROM counter WHERE name = 'cuts owed'").fetchone() == (1,))
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error

    def owe_cuts(self, owed: bool) -> None:
        """Note that flows are to be cut, or that they were. No fsync: a power cut ends every flow.

        :raises StoreError: nothing was noted.
        """
        try:
            self._db.execute("PRAGMA synchronous = OFF")
            try:
                with self._transaction() as db:
                    db.execute("REPLACE INTO counter VALUES ('cuts owed', ?)", (int(owed),))
            finally:
                self._db.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error

    def _transaction(self) -> "_Transaction":
        self.secure()
        return _Transaction(self._db, self._path)


class _Transaction:
    """``BEGIN IMMEDIATE`` to ``COMMIT``, with sqlite's errors as ours."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error
        return self._db

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._db.execute("COMMIT")
                return
        except sqlite3.Error as failed:
            error = failed
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise StoreError(f"{self._path}: {error}") from error


def _beside(path: Path, ending: str) -> Path:
    """A file of SQLite's, or ours, beside a store."""
    return path.with_name(path.name + ending)


def _sync(folder: Path) -> None:
    """Have the names in a folder survive a power cut (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _number(path: Path) -> int | None:
    """The inode that a name has, if there is one."""
    try:
        return path.stat().st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


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
