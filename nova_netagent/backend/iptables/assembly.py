"""A table from another one: what a plan leaves is copied, what it edits is put in its place.

The kernel has every jump as an offset into the table, so those are said anew. Chains lie as
libiptc has them: the built-in ones in the order of their hooks, then the others by name.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

from msgspec import Struct

from nova_netagent.backend import RuleRefused, TableChanged
from nova_netagent.backend.iptables.image import Chains, Image, Keys
from nova_netagent.backend.iptables.jumps import NEXT, Jumps, no_jumps
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
_LONG = 8
"""So many rules are worth a look whether they are those of another chain."""
_TARGET = STANDARD_TARGET.size
_MARK_NAME = ERROR_TARGET_SIZE - EXTENSION.size
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


_Piece = bytes | bytearray | memoryview


class _Sayings(dict[bytes, bytes]):
    """By key the entry as the kernel has it, its offset left open. Asked for one, it makes it."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.leads: dict[bytes, str] = {}
        """Where those lead to that have an offset."""
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
                    self.leads[key] = NEXT
                else:
                    entry = key[:target_at] + _SAID.get(target, target)
        self[key] = entry
        return entry


class _Writing:
    """A table as it is written, chain after chain: its pieces, and what is known of them."""

    def __init__(self, said: _Sayings) -> None:
        self.pieces: list[_Piece] = [bytes(ROOM)]
        self.names: list[str] = []
        self.starts: list[int] = []
        self.size = 0
        self.jumps = no_jumps()
        self._said = said
        self._new: list[bytes] = []
        """The chains that were written since some were copied: entry by entry, or what lies between mark and policy
        in one piece."""
        self._keys: list[bytes] = []
        """As many; nothing stands for what has no offset."""
        self._heads: list[int] = []
        """The numbers of the pieces with which chains begin."""
        self._bodies: dict[Keys, bytes] = {}
        """By the rules of a long chain its entries in one piece, if they came twice and none has an offset: many
        groups have the same rules. Nothing where they came once."""

    def write(self, name: str, mark: bytes, keys: Keys, policy: bytes) -> None:
        """A chain, its jumps left open. :param mark: nothing, of a built-in chain."""
        self.names.append(name)
        self._heads.append(len(self._new))
        self._new.append(mark)
        self._keys.append(b"")
        body = self._body(keys) if len(keys) >= _LONG else b""
        if body:
            self._new.append(body)
            self._keys.append(b"")
        else:
            self._new += map(self._said.__getitem__, keys)
            self._keys += keys
        self._new.append(policy)
        self._keys.append(b"")

    def _body(self, keys: Keys) -> bytes:
        """The entries of a chain in one piece; nothing where they are to be written one by one."""
        body = self._bodies.get(keys)
        if body is None:
            self._bodies[keys] = body = b""
        elif not body and self._said.leads.keys().isdisjoint(keys):
            self._bodies[keys] = body = b"".join(map(self._said.__getitem__, keys))
        return body

    def copy(self, before: Image, blob: memoryview, low: int, high: int, jumps: Jumps) -> None:
        """Some chains of another table, by their numbers, as they are."""
        self.close()
        first, last = before.starts[low], before.starts[high]
        shift = self.size - first
        self.pieces.append(blob[ROOM + first : ROOM + last])
        self.names += before.names[low:high]
        self.starts += [start + shift for start in before.starts[low:high]]
        self.jumps.copy(jumps, first, last, shift)
        self.size += last - first

    def close(self) -> None:
        """Make up the account of what was written: all at once, as there are tens of thousands of entries."""
        ends = list(accumulate(map(len, self._new), initial=self.size))
        self.starts += [ends[head] for head in self._heads]
        self.jumps.add(map(self._said.leads.get, self._keys), islice(ends, 1, None))
        self.pieces += self._new
        self.size = ends[-1]
        self._new, self._keys, self._heads = [], [], []


class Assembler:
    """Assembles one table after another, remembering where its jumps are.

    :param encoded: gives the keys of the table's chains as they were encoded: a chain that will hold
        them is remembered by that object.
    """

    def __init__(self, table: TableId, encoded: Callable[[], Chains]) -> None:
        self._table = table
        self._layout = LAYOUTS[table.family]
        # The entry with which a user-defined chain begins, but for its name.
        self._mark = _entry(table.family, EXTENSION.pack(ERROR_TARGET_SIZE, ERROR_NAME, 0), _MARK_NAME)
        self._policy = _entry(table.family, standard_target(b"", VERDICTS["RETURN"]))
        self._encoded = encoded
        self._linked: Chains = {}
        self._jumps = no_jumps()
        """Of the table that was linked last."""

    def replacement(self, plan: TablePlan[bytes], before: Image) -> Replacement:
        """The table after a plan.

        :raises RuleRefused: an edit that does not fit the table, or a jump to a chain that is not there.
        :raises TableChanged: another rule than the plan says stands where one is to be taken out.
        """
        edited = _edited_chains(plan, before)
        chains = self._chains_after(before, edited)
        splices = _splices(before, edited)
        said = _Sayings(self._layout)
        jumps = self._jumps if self._linked is before.chains else self._jumps_of(before, said)
        after = _Writing(said)
        done = 0
        with memoryview(before.blob) as old:
            for splice in [*splices, _Splice(len(before.names), False, "", None)]:
                number = splice.number
                if done < number:  # what lies between is copied as it is
                    after.copy(before, old, done, number, jumps)
                done = number + splice.is_there
                if splice.chain is not None:
                    self._write(splice, chains[splice.name], before, after)
            after.close()
            blob = bytearray().join((*after.pieces, old[ROOM + before.starts[-1] :]))
            after.pieces.clear()
        image = Image(blob, before.hooks, tuple(after.names), (*after.starts, after.size), chains)
        self._link(image, after.jumps)
        self._linked, self._jumps = chains, after.jumps
        return Replacement(before, image, splices)

    def _jumps_of(self, image: Image, said: _Sayings) -> Jumps:
        """Where a table has its jumps that was not assembled here."""
        writing = _Writing(said)
        for number, name in enumerate(image.names):
            mark = b"" if number < len(image.hooks) else bytes(self._layout.mark_size)
            writing.write(name, mark, image.chains[name], self._policy)
        writing.close()
        return writing.jumps

    def _chains_after(self, before: Image, edited: Mapping[str, _Edited | None]) -> Chains:
        put: dict[str, Keys] = {}
        encoded_chains = self._encoded()
        for name, chain in edited.items():
            if chain is not None:
                keys, encoded = chain.keys, encoded_chains.get(name)
                if keys is not encoded:
                    keys = tuple(keys)
                    put[name] = encoded if encoded is not None and encoded == keys else keys
                else:
                    put[name] = encoded
        return follow(before.chains, put, [name for name in edited if name not in put and name in before.chains])

    def _write(self, splice: _Splice, keys: Keys, before: Image, after: _Writing) -> None:
        if splice.number < len(before.hooks) and splice.is_there:
            end = before.span(splice.number).stop
            after.write(splice.name, b"", keys, bytes(before.blob[end - self._layout.policy_size : end]))
        else:
            mark = self._mark + encoded_name(splice.name).ljust(_MARK_NAME, b"\0")
            after.write(splice.name, mark, keys, self._policy)

    def _link(self, image: Image, jumps: Jumps) -> None:
        """Say where every jump leads: to the first rule of one of our own."""
        user = len(image.hooks)
        firsts = [start + self._layout.mark_size for start in image.starts[user:-1]]
        try:
            with memoryview(image.blob) as blob, blob[ROOM:] as entries:
                jumps.say(entries, dict(zip(image.names[user:], firsts, strict=True)))
        except KeyError as e:
            raise RuleRefused(f"{self._table}: there is no chain {e.args[0]} to jump to") from None


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
