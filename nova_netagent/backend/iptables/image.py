"""What a legacy table holds, read from the kernel and brought into the codec's form.

Sources: linux/netfilter_ipv4/ip_tables.h (``ipt_getinfo``, ``ipt_get_entries``) and libiptc, for
how built-in and user-defined chains lie in a table.
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct
from typing import NamedTuple

from nova_netagent.backend import sockopt
from nova_netagent.backend.iptables.layout import (
    COUNTERS,
    ERROR_TARGET_SIZE,
    EXTENSION,
    LAYOUTS,
    OFFSETS,
    Layout,
    decoded_name,
    standard_target,
)
from nova_netagent.backend.iptables.targets import FALL_THROUGH, VERDICTS, jump
from nova_netagent.netfilter.rule import Family

Chains = Mapping[str, tuple[bytes, ...]]

_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = Struct("=32sI5I5III")
_ENTRIES_HEAD = Struct("=32sI4x")
_VERDICT = Struct("=i")
_HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_ERROR_NAME = b"ERROR\0"
_READS = 10

_STANDARD = {number: standard_target(name.encode()) for name, number in VERDICTS.items()}
_POLICIES = {VERDICTS["ACCEPT"]: "ACCEPT", VERDICTS["DROP"]: "DROP"}


class TableInfo(NamedTuple):
    """The outline of a table: cheap to ask for, and any change of its size shows in it."""

    hooks: Mapping[str, int]
    """Where each built-in chain begins."""
    entries: int
    size: int


class CountedRule(NamedTuple):
    """A rule with its counters: packets and bytes that it matched."""

    packets: int
    octets: int
    key: bytes


class CountedChain(NamedTuple):
    """A chain as an operator looks at it; ``policy`` is ``None`` for a user-defined one."""

    policy: str | None
    rules: tuple[CountedRule, ...]


@dataclass(frozen=True)
class Image:
    """A table as it was read, or as a commit of ours left it."""

    entries: int
    size: int
    chains: Chains
    blob: bytes | None = None
    """The kernel's own bytes without counters; absent after a commit of ours."""
    starts: tuple[int, ...] = ()
    """Where its entries begin."""


class KernelTables:
    """The tables of one family in the network namespace that the process is in.

    One raw socket is kept open. :raises OSError: of the socket, when the family is absent.
    """

    def __init__(self, family: Family) -> None:
        self.layout = LAYOUTS[family]
        self._socket = socket.socket(self.layout.socket_family, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def info(self, table: str) -> TableInfo:
        """A table's outline. The kernel loads a table that it has and that was not used yet.

        :raises OSError: ENOENT when there is no such table, EPERM without CAP_NET_ADMIN.
        """
        request = bytearray(_INFO.size)
        request[: len(table)] = table.encode()
        sockopt.ask(self._socket, self.layout.level, _GET_INFO, request)
        _name, valid_hooks, *numbers = _INFO.unpack(request)
        hooks = {name: numbers[i] for i, name in enumerate(_HOOKS) if valid_hooks & 1 << i}
        return TableInfo(hooks, entries=numbers[10], size=numbers[11])

    def blob(self, table: str) -> tuple[TableInfo, bytearray]:
        """A table's outline and all its entries, as the kernel has them.

        :raises OSError: EAGAIN when the table kept changing while it was read.
        """
        for _ in range(_READS - 1):
            try:
                return self._blob(table)
            except BlockingIOError:
                # Its size changed between the two questions.
                continue
        return self._blob(table)

    def read(self, table: str, previous: Image | None = None) -> Image:
        """A table's chains; those that ``previous`` has alike are the same objects.

        :raises OSError: see ``blob``.
        """
        info, blob = self.blob(table)
        if previous is not None and _same(blob, previous, self.layout):
            return previous
        places = _places(blob, self.layout)
        starts = tuple(places.starts[:-1])
        _mask(blob, starts, self.layout)
        masked = bytes(blob)
        chains: dict[str, tuple[bytes, ...]] = {}
        old = previous.chains if previous is not None else {}
        for name, _first, _last, keys in _chains(masked, places, info.hooks, self.layout):
            kept = old.get(name)
            chains[name] = kept if kept == keys else keys
        return Image(info.entries, info.size, chains, masked, starts)

    def counters(self, table: str) -> dict[str, CountedChain]:
        """A table's chains with counters and policies.

        :raises OSError: see ``blob``.
        """
        info, blob = self.blob(table)
        places = _places(blob, self.layout)
        starts = places.starts[:-1]
        counts = [COUNTERS.unpack_from(blob, start + self.layout.counters_at) for start in starts]
        _mask(blob, starts, self.layout)
        chains = {}
        for name, first, last, keys in _chains(bytes(blob), places, info.hooks, self.layout):
            verdict = _VERDICT.unpack_from(blob, places.targets[last] + EXTENSION.size)[0]
            policy = _POLICIES.get(verdict) if name in info.hooks else None
            rules = tuple(
                CountedRule(packets, octets, key)
                for (packets, octets), key in zip(counts[first:last], keys, strict=True)
            )
            chains[name] = CountedChain(policy, rules)
        return chains

    def _blob(self, table: str) -> tuple[TableInfo, bytearray]:
        info = self.info(table)
        # A new buffer each time: the kernel does not clear what follows a name.
        request = bytearray(_ENTRIES_HEAD.size + info.size)
        _ENTRIES_HEAD.pack_into(request, 0, table.encode(), info.size)
        sockopt.ask(self._socket, self.layout.level, _GET_ENTRIES, request)
        return info, request[_ENTRIES_HEAD.size :]


class _Places(NamedTuple):
    """Where the entries of a table are. Plain lists of numbers: the garbage collector need not look into them."""

    starts: list[int]
    """With the end of the last entry at the end."""
    targets: list[int]


def _places(blob: bytearray, layout: Layout) -> _Places:
    unpack = OFFSETS.unpack_from
    nfcache_at = layout.nfcache_at
    starts, targets = [0], []
    start, size = 0, len(blob)
    while start < size:
        nfcache, target_at, length = unpack(blob, start + nfcache_at)
        if nfcache:
            blob[start + nfcache_at : start + nfcache_at + 4] = bytes(4)
        targets.append(start + target_at)
        start += length
        starts.append(start)
    return _Places(starts, targets)


def _mask(blob: bytearray, starts: Sequence[int], layout: Layout) -> None:
    """Set the kernel's own notes to zero."""
    low, high = layout.comefrom_at, layout.size
    nothing = bytes(high - low)
    for start in starts:
        blob[start + low : start + high] = nothing


def _same(blob: bytearray, previous: Image, layout: Layout) -> bool:
    if previous.blob is None or len(blob) != len(previous.blob):
        return False
    # If all else is equal then so are the offsets, and only counters were masked.
    masked = bytearray(blob)
    _mask(masked, previous.starts, layout)
    return masked == previous.blob


class _Head(NamedTuple):
    """Where a chain begins, in numbers of entries."""

    name: bytes
    begin: int
    """Its first entry, which in a user-defined chain is a mark with its name."""
    first: int
    """Its first rule, or its policy when it has no rule."""


def _chains(
    blob: bytes, places: _Places, hooks: Mapping[str, int], layout: Layout
) -> Iterator[tuple[str, int, int, tuple[bytes, ...]]]:
    """Each chain: its name, the numbers of its first entry and of its policy, its rules."""
    heads = list(_heads(blob, places, hooks, layout))
    jumps = {places.starts[head.first]: jump(head.name) for head in heads[:-1] if head.first != head.begin}
    targets = {**_STANDARD, **jumps}
    # The last head is the end of the table.
    for head, following in pairwise(heads):
        last = following.begin - 1
        yield decoded_name(head.name), head.first, last, tuple(_rules(blob, places, range(head.first, last), targets))


def _heads(blob: bytes, places: _Places, hooks: Mapping[str, int], layout: Layout) -> Iterator[_Head]:
    builtin = {offset: name.encode() for name, offset in hooks.items()}
    mark_size = layout.size + ERROR_TARGET_SIZE
    for number, (start, end) in enumerate(pairwise(places.starts)):
        if start in builtin:
            yield _Head(builtin[start], number, number)
        elif end - start == mark_size and blob.startswith(_ERROR_NAME, places.targets[number] + 2):
            name = blob[start + layout.size + EXTENSION.size : end].partition(b"\0")[0]
            yield _Head(name, number, number + 1)


def _rules(blob: bytes, places: _Places, numbers: range, targets: Mapping[int, bytes]) -> Iterator[bytes]:
    verdict_of = _VERDICT.unpack_from
    for number in numbers:
        start, target_at, end = places.starts[number], places.targets[number], places.starts[number + 1]
        if blob[target_at + 2]:
            yield blob[start:end]
            continue
        verdict = verdict_of(blob, target_at + EXTENSION.size)[0]
        target = targets.get(verdict)
        if target is None:
            target = FALL_THROUGH if verdict == end else blob[target_at:end]
        yield blob[start:target_at] + target
