"""A SQLite file that keeps what it was given, whatever becomes of the process, the power or its name.

WAL with synchronous=FULL: what was committed survives a power cut, and costs one fsync
(sqlite.org/wal.html). One thread uses a file.
"""

import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

LOG = logging.getLogger(__name__)

Names = tuple[int | None, int | None]
"""The inodes of a file and of its log, where they are."""


class StoreError(Exception):
    """The state could not be read or saved; nothing was changed."""


class Database:
    """A file, opened.

    :param schema: the statements that lead from each version of it to the next, from an empty file on.
    :raises StoreError: the file cannot be opened, is none of SQLite's, or is of a newer version.
    """

    def __init__(self, path: Path, schema: Sequence[str]) -> None:
        self.path = path
        self._schema = schema
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._made_anew.exists():
                self._put_in_place(keep=True)
                LOG.warning("%s had been taken away, and is there again", path)
            self._open()
        except (sqlite3.Error, OSError) as error:
            raise self._error(error) from error

    def _open(self) -> None:
        """Open what is at the name. What was open before stays so, also where this fails."""
        connection = self._connect()
        try:
            self._migrate(connection)
            self._opened = self._names()
        except BaseException:
            connection.close()
            raise
        self.connection = connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            connection.close()
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_IOERR:
                raise
            # A full disk has no room for the log's index. Who is alone has it in memory, and can read at least.
            connection = sqlite3.connect(self.path, isolation_level=None)
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        newest = len(self._schema)
        if version > newest:
            raise StoreError(f"{self.path} is of schema version {version}, this program knows {newest}")
        for step in range(version, newest):
            connection.executescript(f"BEGIN; {self._schema[step]}; PRAGMA user_version = {step + 1}; COMMIT")

    def close(self) -> None:
        """Close the file; what was committed stays."""
        self.connection.close()

    def rows(self, statement: str, values: Sequence[object] = ()) -> Iterator[Any]:
        """What a query finds, row by row: all at once may be as much again as what is made of it.

        :raises StoreError: it cannot be read.
        """
        try:
            yield from self.connection.execute(statement, values)
        except sqlite3.Error as error:
            raise self._error(error) from error

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """All that is done in it, or nothing.

        :param durable: it is on the disk at the end; otherwise only with the next one that is.
        :raises StoreError: nothing was done.
        """
        self.secure()
        db = self.connection
        try:
            if not durable:
                db.execute("PRAGMA synchronous = OFF")
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                if not durable:
                    db.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            raise self._error(error) from error

    def secure(self) -> None:
        """Have the file in its place: where somebody took it away, what is saved would end with this process.

        Another file that is in its place is kept beside it, as ``NAME.found``.

        :raises StoreError: it was taken away, and cannot be made anew.
        """
        try:
            if self._names() == self._opened and not self._made_anew.exists():
                return
            self._make_anew()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.path}: it was taken away: {error}") from error
        LOG.warning("%s had been taken away, and is there again", self.path)

    def _make_anew(self) -> None:
        """Who has a file open can still read it, whatever became of its name."""
        partial = self._beside(".anew")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        with closing(sqlite3.connect(partial)) as copy:
            self.connection.backup(copy)
        file, log = self._opened
        there = self._names()
        if there[0] != file and there[1] == log:
            self._beside("-wal").unlink(missing_ok=True)  # it would be taken for the other file's
        partial.replace(self._made_anew)
        _sync(self.path.parent)
        self._put_in_place(keep=there[0] not in (None, file) or there[1] not in (None, log))
        former = self.connection
        self._open()
        former.close()  # of a file that has no name any more it leaves those names alone

    @property
    def _made_anew(self) -> Path:
        """Where all that was committed is until it is in its place, and never a part of it: a start goes on from it."""
        return self._beside(".whole")

    def _put_in_place(self, *, keep: bool) -> None:
        """Put what was made anew in its place.

        :param keep: what is there is kept beside it.
        """
        if keep:
            if self.path.exists():
                for ending in ("-wal", "-shm"):  # of what was kept before
                    self._beside(f".found{ending}").unlink(missing_ok=True)
                self.path.replace(self._beside(".found"))
            if self._beside("-wal").exists():
                self._beside("-wal").replace(self._beside(".found-wal"))
        for ending in ("-wal", "-shm"):  # they would be taken for this file's
            self._beside(ending).unlink(missing_ok=True)
        self._made_anew.replace(self.path)
        _sync(self.path.parent)

    def _names(self) -> Names:
        """What is at the file's name and at its log's by now."""
        return _number(self.path), _number(self._beside("-wal"))

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)

    def _error(self, error: Exception) -> StoreError:
        return StoreError(f"{self.path}: {error}")


def _number(path: Path) -> int | None:
    """The inode that a name has, if there is one."""
    try:
        return path.stat().st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


def _sync(folder: Path) -> None:
    """Have the names in a folder survive a power cut (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
