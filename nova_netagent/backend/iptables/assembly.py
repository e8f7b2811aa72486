"""A table from another one: what a plan leaves is copied, what it edits is put in its place.

The kernel has every jump as an offset into the table, so those are said anew. Chains lie as
libiptc has them: the built-in ones in the order of their hooks, then the others by name.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress
from typing import Any, NamedTuple

from msgspec import Struct

from nova_netagent.backend import RuleRefused, TableChanged
from nova_netagent.backend.iptables.image import Chains, Image, Keys
from nova_netagent.backend.iptables.layout import (
    COUNTERS,
    ERROR_NAME,
    ERROR_TARGET_SIZE,
    EXTENSION,
    LAYOUTS,
    OFFSETS,
    ROOM,
    STANDARD_TARGET,
    Layout,
    decoded_name,
    encoded_name,
    standard_target,
)
from nova_netagent.backend.iptables.targets import FALL_THROUGH, JUMP_END, VERDICTS
from nova_netagent.model.lineage import follow
from nova_netagent.netfilter.owner import MAX_CHAIN_NAME
from nova_netagent.netfilter.rule import Family, TableId
from nova_netagent.plan.tables import AddChain, Delete, Edit, Fill, Insert, RemoveChain, TablePlan

_FEW = 8
_TARGET = STANDARD_TARGET.size
_MARK_NAME = ERROR_TARGET_SIZE - EXTENSION.size
_VERDICT_FROM_END = _TARGET - EXTENSION.size
_SAID = {standard_target(name.encode()): standard_target(b"", number) for name, number in VERDICTS.items()}


class _Edited(Struct, gc=False):
    """A chain that a plan edits, as it will be."""

    keys: list[bytes] | Keys
    places: list[int]
    """By rule its number in the chain as it was, -1 for one that is new."""

    def listed(self) -> list[bytes]:
        """The keys, to be edited one by one."""
        if isinstance(self.keys, tuple):
            self.keys = list(self.keys)
        return self.keys


class _Splice(Struct, frozen=True, order=True, gc=False):
    """Where a table is another one afterwards. Of those with a number the new ones go before the other, by name."""

    number: int
    """Of the chain that is edited or removed; a new one goes before the chain of this number."""
    is_there: bool
    name: str
    chain: _Edited | None
    """``None``: it is removed."""


@dataclass(frozen=True)
class Replacement:
    """What goes into the kernel in the place of a table."""

    before: Image
    image: Image
    splices: Sequence[_Splice]

    def counters(self, old: bytearray) -> bytes | None:
        """What the entries that stay had counted, for ``add_counters``; ``None`` where that is nothing.

        :param old: the counters of the table's entries when it was replaced.
        """
        if old.count(0) == len(old):
            return None
        firsts = _first_entries(self.before)
        size = COUNTERS.size
        parts: list[bytes | bytearray] = []

        def keep(first: int, count: int = 1) -> None:
            parts.append(old[first * size : (first + count) * size])

        done = 0
        for splice in self.splices:
            number, chain = splice.number, splice.chain
            keep(firsts[done], firsts[number] - firsts[done])
            done = number + splice.is_there
            if chain is None:
                continue
            if not splice.is_there:
                parts.append(bytes((len(chain.keys) + 2) * size))
                continue
            mark = 0 if number < len(self.before.hooks) else 1
            keep(firsts[number], mark)
            for place in chain.places:
                if place < 0:
                    parts.append(bytes(size))
                else:
                    keep(firsts[number] + mark + place)
            keep(firsts[number + 1] - 1)
        keep(firsts[done], firsts[-1] + 1 - firsts[done])
        return b"".join(parts)


class _Links(NamedTuple):
    """Where the rules of a chain have offsets."""

    jumps: tuple[int, ...]
    """Where rules end that jump, in units of 4 bytes from the first rule."""
    targets: tuple[str, ...]
    """Where each jump leads. Apart from their places, as those are the same in thousands of chains."""
    falls: tuple[int, ...]
    """Where rules without a target end: they go on at the next one."""


_NO_LINKS = _Links((), (), ())
_Piece = bytes | bytearray | memoryview


class _Sayings(dict[bytes, bytes]):
    """By key the entry as the kernel has it, its offset left open. Asked for one, it makes it."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.leads: dict[bytes, str] = {}
        """Where those jump to that have an offset: ``""`` is the next rule."""
        self.shapes: dict[_Links | tuple[int, ...], Any] = {}
        """What chains have alike, each once."""
        self._offsets_at = layout.nfcache_at

    def __missing__(self, key: bytes) -> bytes:
        target_at = len(key) - _TARGET
        entry = key
        if OFFSETS.unpack_from(key, self._offsets_at)[1] == target_at:
            if key.endswith(JUMP_END):
                self.leads[key] = decoded_name(key[target_at + 2 : target_at + EXTENSION.size])
                entry = key[:target_at] + FALL_THROUGH
            else:
                target = key[target_at:]
                if target == FALL_THROUGH:
                    self.leads[key] = ""
                else:
                    entry = key[:target_at] + _SAID.get(target, target)
        self[key] = entry
        return entry


class Assembler:
    """Assembles one table after another, remembering where the jumps of a chain are.

    :param encoded: gives the keys of a chain as they were encoded: a chain that will hold
        them is remembered by that object.
    """

    def __init__(self, table: TableId, encoded: Callable[[str], Keys | None]) -> None:
        self._table = table
        self._layout = LAYOUTS[table.family]
        # The entry with which a user-defined chain begins, but for its name.
        self._mark = _entry(table.family, EXTENSION.pack(ERROR_TARGET_SIZE, ERROR_NAME, 0), _MARK_NAME)
        self._policy = _entry(table.family, standard_target(b"", VERDICTS["RETURN"]))
        self._encoded = encoded
        self._linked: Chains = {}
        self._links: dict[str, _Links] = {}
        """By chain, of the table that was linked last."""

    def replacement(self, plan: TablePlan[bytes], before: Image) -> Replacement:
        """The table after a plan.

        :raises RuleRefused: an edit that does not fit the table, or a jump to a chain that is not there.
        :raises TableChanged: another rule than the plan says stands where one is to be taken out.
        """
        edited = _edited_chains(plan, before)
        chains = self._chains_after(before, edited)
        splices = _splices(before, edited)
        pieces: list[_Piece] = [bytes(ROOM)]
        names: list[str] = []
        starts: list[int] = []
        said = _Sayings(self._layout)
        if self._linked is not before.chains:
            self._links = {name: _take_apart(keys, said, []) for name, keys in before.chains.items()}
        self._linked = {}  # until all is well
        for name in edited:
            self._links.pop(name, None)
        done = at = 0
        with memoryview(before.blob) as old:
            for splice in [*splices, _Splice(len(before.names), False, "", None)]:
                if done < splice.number:  # what lies between is copied as it is
                    low, high = before.starts[done], before.starts[splice.number]
                    pieces.append(old[ROOM + low : ROOM + high])
                    names += before.names[done : splice.number]
                    shift = at - low
                    starts += [start + shift for start in before.starts[done : splice.number]]
                    at += high - low
                done = splice.number + splice.is_there
                if splice.chain is not None:
                    names.append(splice.name)
                    starts.append(at)
                    at += self._write(splice, chains[splice.name], before, said, pieces)
            pieces.append(old[ROOM + before.starts[-1] :])
            blob = bytearray().join(pieces)
            pieces.clear()
        image = Image(blob, before.hooks, tuple(names), (*starts, at), chains)
        self._link(image)
        self._linked = chains
        return Replacement(before, image, splices)

    def _chains_after(self, before: Image, edited: Mapping[str, _Edited | None]) -> Chains:
        put: dict[str, Keys] = {}
        for name, chain in edited.items():
            if chain is not None:
                keys, encoded = chain.keys, self._encoded(name)
                if keys is not encoded:
                    keys = tuple(keys)
                    put[name] = encoded if encoded is not None and encoded == keys else keys
                else:
                    put[name] = encoded
        return follow(before.chains, put, [name for name in edited if name not in put and name in before.chains])

    def _write(self, splice: _Splice, keys: Keys, before: Image, said: _Sayings, pieces: list[_Piece]) -> int:
        """Add a chain's entries, its jumps left open, and say how long they are; where jumps are is remembered."""
        layout = self._layout
        is_builtin = splice.number < len(before.hooks) and splice.is_there
        if not is_builtin:
            pieces.append(self._mark + encoded_name(splice.name).ljust(_MARK_NAME, b"\0"))
        self._links[splice.name] = _take_apart(keys, said, pieces)
        if is_builtin:
            end = before.span(splice.number).stop
            pieces.append(before.blob[end - layout.policy_size : end])
        else:
            pieces.append(self._policy)
        return sum(map(len, keys)) + layout.policy_size + (0 if is_builtin else layout.mark_size)

    def _link(self, image: Image) -> None:
        """Say where every jump leads."""
        builtin = len(image.hooks)
        mark = self._layout.mark_size
        # Where the first rule of each chain is: that is where a jump leads, in one of our own.
        own = dict(zip(image.names[builtin:], [start + mark for start in image.starts[builtin:-1]], strict=True))
        first = {**own, **dict(zip(image.names[:builtin], image.starts, strict=False))}
        with memoryview(image.blob) as whole, whole.cast("i") as words:
            for name, (jumps, targets, falls) in self._links.items():
                start = first[name]
                at = (ROOM + start - _VERDICT_FROM_END) >> 2
                try:
                    for place, target in zip(jumps, targets, strict=True):
                        words[at + place] = own[target]
                except KeyError as e:
                    raise RuleRefused(f"{self._table}: there is no chain {e.args[0]} to jump to") from None
                for place in falls:
                    words[at + place] = start + 4 * place


def _take_apart(keys: Keys, said: _Sayings, entries: list[_Piece]) -> _Links:
    """Add the entries of a chain, and give back where its jumps are."""
    entries += map(said.__getitem__, keys)
    if said.leads.keys().isdisjoint(keys):  # the chain of a group: most of what a cold start says
        return _NO_LINKS
    ends = [end >> 2 for end in accumulate(map(len, keys))]
    leads = [*map(said.leads.get, keys)]
    jumps = tuple(compress(ends, leads))
    falls = tuple(end for end, lead in zip(ends, leads, strict=True) if lead == "") if "" in leads else ()
    links = _Links(said.shapes.setdefault(jumps, jumps), tuple(filter(None, leads)), falls)
    known: _Links = said.shapes.setdefault(links, links)
    return known


def _edited_chains(plan: TablePlan[bytes], before: Image) -> dict[str, _Edited | None]:
    """The chains that a plan touches, afterwards; ``None`` for one that it removes.

    :raises RuleRefused: an edit that does not fit the table.
    :raises TableChanged: another rule than the plan says stands where one is to be taken out.
    """
    chains = before.chains
    builtin = before.names[: len(before.hooks)]
    edited: dict[str, _Edited | None] = {}
    name, chain = "", None
    for edit in plan.edits:
        if edit.chain != name:
            name = edit.chain
            if name in edited:
                chain = edited[name]
            elif name in chains:
                keys = chains[name]
                chain = edited[name] = _Edited(list(keys), list(range(len(keys))))
            else:
                chain = None
        if type(edit) is AddChain and chain is None:
            _check_name(plan.table, name)
            chain = edited[name] = _Edited((), [])
        elif type(edit) is Fill and chain is not None and not chain.keys:
            chain.keys, chain.places = edit.keys, [-1] * len(edit.keys)
        else:
            chain = edited[name] = _edit(edit, chain, plan.table, name in builtin)
    return edited


def _edit(edit: Edit[bytes], chain: _Edited | None, table: TableId, is_builtin: bool) -> _Edited | None:
    """A chain after an edit of one of its rules, or of all.

    :raises RuleRefused: the edit does not fit the chain.
    :raises TableChanged: another rule than the plan says stands where one is to be taken out.
    """
    match edit:
        case Insert() if chain is not None and edit.index <= len(chain.keys):
            chain.listed().insert(edit.index, edit.key)
            chain.places.insert(edit.index, -1)
        case Delete() if chain is not None and edit.index < len(chain.keys):
            if chain.keys[edit.index] != edit.key:
                raise TableChanged(f"{table}: {edit.chain} has another rule at {edit.index + 1} than was planned")
            del chain.listed()[edit.index], chain.places[edit.index]
        case RemoveChain() if chain is not None and not is_builtin:
            return _Edited([], []) if edit.flush_only else None
        case Insert() | Delete():
            raise RuleRefused(f"{table}: there is no place {edit.index + 1} in {edit.chain}")
        case _:
            raise RuleRefused(f"{table}: {type(edit).__name__} does not fit the chain {edit.chain}")
    return chain


def _splices(before: Image, edited: Mapping[str, _Edited | None]) -> list[_Splice]:
    """The chains that are edited, new or removed, in the order of the table: who is there keeps its place."""
    user = len(before.hooks)
    numbers = {name: number for number, name in enumerate(before.names)} if len(edited) > _FEW else None
    found = []
    for name, chain in edited.items():
        if name not in before.chains:
            found.append(_Splice(bisect_left(before.names, name, user), False, name, chain))
        else:
            number = before.names.index(name) if numbers is None else numbers[name]
            found.append(_Splice(number, True, name, chain))
    return sorted(found)


def _check_name(table: TableId, chain: str) -> None:
    if not 1 <= len(chain if chain.isascii() else encoded_name(chain)) <= MAX_CHAIN_NAME:
        raise RuleRefused(f"{table}: {chain!r} is not a chain name: 1 to {MAX_CHAIN_NAME} characters")


def _first_entries(image: Image) -> list[int]:
    """By chain the number of its first entry; then that of the entry at the end."""
    user = len(image.hooks)
    counts = [len(image.chains[name]) + (1 if number < user else 2) for number, name in enumerate(image.names)]
    return list(accumulate(counts, initial=0))


def _entry(family: Family, target: bytes, more: int = 0) -> bytes:
    """An entry that matches everything, with so many bytes more to come."""
    layout = LAYOUTS[family]
    offsets = OFFSETS.pack(0, layout.size, layout.size + len(target) + more)
    return bytes(layout.nfcache_at) + offsets + bytes(layout.size - layout.comefrom_at) + target
