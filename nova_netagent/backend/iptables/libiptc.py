"""libiptc, through the libraries that python-iptables has loaded: fed with bytes, committed once.

python-iptables' Rule objects cost a millisecond each and its autocommit swallows errors, so
nothing of it is used but the library. Its declarations are misspelt (``argstype``), hence ours.
Source: libiptc/libiptc.c of iptables 1.8.
"""

import ctypes
import errno
import importlib
import os
from collections.abc import Iterator
from functools import cache
from types import TracebackType
from typing import Any, NoReturn, Self

from nova_netagent.backend import BackendError, RuleRefused, TableChanged, Unavailable
from nova_netagent.backend.iptables.layout import EXTENSION, LAYOUTS, OFFSETS, encoded_name, standard_target
from nova_netagent.backend.iptables.targets import VERDICTS, jump
from nova_netagent.netfilter.rule import Family, TableId

_MODULES = {4: "iptc.ip4tc", 6: "iptc.ip6tc"}
_PREFIXES = {4: "iptc", 6: "ip6tc"}

_NOT_NOW = frozenset({errno.EPERM, errno.EACCES, errno.ENOMEM, errno.ENOBUFS, errno.EINTR, errno.EBUSY, errno.ENOSYS})
_BY_NAME = frozenset({b"", *(name.encode() for name in VERDICTS)})

_POINTER, _TEXT, _NUMBER = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint


class _Library:
    """The functions of one family's library, with our declarations."""

    def __init__(self, family: Family) -> None:
        # Importing iptc runs ldconfig and a compiler; it happens once, in the thread that uses the backend.
        path = importlib.import_module(_MODULES[family])._libiptc._name
        self._prefix = _PREFIXES[family]
        slow = ctypes.CDLL(path, use_errno=True)
        # Tiny calls keep the GIL: giving it back costs more than they do.
        tiny = ctypes.PyDLL(path, use_errno=True)
        self.init = self._declare(slow, "init", _POINTER, _TEXT)
        self.commit = self._declare(slow, "commit", ctypes.c_int, _POINTER)
        self.free = self._declare(slow, "free", None, _POINTER)
        self.strerror = self._declare(tiny, "strerror", _TEXT, ctypes.c_int)
        self.is_chain = self._declare(tiny, "is_chain", ctypes.c_int, _TEXT, _POINTER)
        self.create_chain = self._declare(tiny, "create_chain", ctypes.c_int, _TEXT, _POINTER)
        self.delete_chain = self._declare(tiny, "delete_chain", ctypes.c_int, _TEXT, _POINTER)
        self.flush_entries = self._declare(tiny, "flush_entries", ctypes.c_int, _TEXT, _POINTER)
        self.first_rule = self._declare(tiny, "first_rule", _POINTER, _TEXT, _POINTER)
        self.next_rule = self._declare(tiny, "next_rule", _POINTER, _POINTER, _POINTER)
        self.get_target = self._declare(tiny, "get_target", _TEXT, _POINTER, _POINTER)
        self.append_entry = self._declare(tiny, "append_entry", ctypes.c_int, _TEXT, _TEXT, _POINTER)
        self.insert_entry = self._declare(tiny, "insert_entry", ctypes.c_int, _TEXT, _TEXT, _NUMBER, _POINTER)
        self.delete_num_entry = self._declare(tiny, "delete_num_entry", ctypes.c_int, _TEXT, _NUMBER, _POINTER)

    def _declare(self, library: Any, name: str, result: Any, *arguments: Any) -> Any:
        function = library[f"{self._prefix}_{name}"]
        function.restype = result
        function.argtypes = arguments
        return function


@cache
def _library(family: Family) -> _Library:
    return _Library(family)


class Handle:
    """One table, taken out of the kernel to be edited and put back once.

    A context manager. Without ``commit`` nothing happens to the kernel; after it the handle
    is worth nothing (libiptc has the old counters and offsets).

    :raises RuleRefused: by the editing methods, when an edit does not fit the table.
    """

    def __init__(self, table: TableId) -> None:
        self.table = table
        self._layout = LAYOUTS[table.family]
        self._library = _library(table.family)
        self._handle: int | None = None

    def __enter__(self) -> Self:
        """Read the table.

        :raises Unavailable: the kernel does not give it.
        """
        self._handle = self._library.init(self.table.name.encode())
        if not self._handle:
            raise Unavailable(f"{self.table}: {self._words(ctypes.get_errno())}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._library.free(self._handle)
        self._handle = None

    def has_chain(self, chain: str) -> bool:
        """Whether there is such a chain."""
        return bool(self._library.is_chain(encoded_name(chain), self._handle))

    def rules(self, chain: str) -> list[bytes]:
        """The rules of a chain, in the codec's form."""
        return list(self._rules(chain))

    def create_chain(self, chain: str) -> None:
        """Make an empty chain."""
        if not self._library.create_chain(encoded_name(chain), self._handle):
            self._fail("make the chain", chain)

    def delete_chain(self, chain: str) -> None:
        """Remove a chain that is empty and that nothing jumps to."""
        if not self._library.delete_chain(encoded_name(chain), self._handle):
            self._fail("remove the chain", chain)

    def flush(self, chain: str) -> None:
        """Empty a chain."""
        if not self._library.flush_entries(encoded_name(chain), self._handle):
            self._fail("empty the chain", chain)

    def append(self, chain: str, key: bytes) -> None:
        """Put a rule at the end of a chain."""
        if not self._library.append_entry(encoded_name(chain), key, self._handle):
            self._fail("add a rule to", chain)

    def insert(self, chain: str, index: int, key: bytes) -> None:
        """Put a rule into a chain at an index that counts from zero."""
        if not self._library.insert_entry(encoded_name(chain), key, index, self._handle):
            self._fail("add a rule to", chain)

    def delete(self, chain: str, index: int) -> None:
        """Take the rule at an index out of a chain."""
        done = self._library.delete_num_entry(encoded_name(chain), index, self._handle)
        if not done:
            self._fail("take a rule out of", chain)

    def commit(self) -> None:
        """Put the table back, all of it or nothing.

        :raises TableChanged: its number of rules changed since it was read.
        :raises RuleRefused: the kernel refuses what it should hold.
        :raises Unavailable: no permission, no memory.
        """
        if not self._library.commit(self._handle):
            raise self._error(ctypes.get_errno())

    def _error(self, number: int) -> BackendError:
        if number == errno.EAGAIN:
            return TableChanged(f"{self.table} was changed by another program while we were at it")
        words = self._words(number)
        if number in _NOT_NOW:
            return Unavailable(f"{self.table}: {words}")
        return RuleRefused(f"{self.table}: the kernel refused the table: {words}")

    def _fail(self, doing: str, chain: str) -> NoReturn:
        raise RuleRefused(f"{self.table}: cannot {doing} {chain}: {self._words(ctypes.get_errno())}")

    def _words(self, number: int) -> str:
        # libiptc guesses the reason by the function that failed; the number's own words do not mislead.
        said = self._library.strerror(number)
        words = os.strerror(number)
        guess = said.decode(errors="replace") if said else words
        return f"{errno.errorcode.get(number, number)}: {words}" + (f" ({guess})" if guess != words else "")

    def _rules(self, chain: str) -> Iterator[bytes]:
        entry = self._library.first_rule(encoded_name(chain), self._handle)
        while entry:
            yield self._normal(entry)
            entry = self._library.next_rule(entry, self._handle)

    def _normal(self, pointer: int) -> bytes:
        layout = self._layout
        _nfcache, target_at, end = OFFSETS.unpack(ctypes.string_at(pointer + layout.nfcache_at, OFFSETS.size))
        entry = ctypes.string_at(pointer, end)
        notes = bytes(layout.size - layout.comefrom_at)
        matches = _with_clean_names(entry[layout.size : target_at])
        target = self._normal_target(pointer, entry[target_at:])
        offsets = OFFSETS.pack(0, target_at, end)
        return b"".join((entry[: layout.nfcache_at], offsets, notes, matches, target))

    def _normal_target(self, pointer: int, target: bytes) -> bytes:
        if target[2]:
            return _with_clean_names(target)
        name = self._library.get_target(pointer, self._handle)
        return standard_target(name) if name in _BY_NAME else jump(name)


def _with_clean_names(extensions: bytes) -> bytes:
    """Matches or a target without what libiptc's memory had behind their names."""
    parts = []
    at = 0
    while at < len(extensions):
        size, name, revision = EXTENSION.unpack_from(extensions, at)
        parts += [
            EXTENSION.pack(size, name.partition(b"\0")[0], revision),
            extensions[at + EXTENSION.size : at + size],
        ]
        at += size
    return b"".join(parts)
