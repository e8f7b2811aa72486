"""The edits of one table: the messages, and what it holds afterwards."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

from msgspec.structs import replace

from nova_netagent.backend import RuleRefused, TableChanged
from nova_netagent.backend.nft import Batch
from nova_netagent.backend.nft.objects import Chain, Element, Set, TableId
from nova_netagent.backend.nftables import keys as rule_keys
from nova_netagent.backend.nftables import members, notes
from nova_netagent.backend.nftables.chain_comments import comment_of
from nova_netagent.backend.nftables.image import Elements, HeldChain, Image, Keys, held
from nova_netagent.backend.nftables.names import BASE_CHAINS
from nova_netagent.backend.nftables.notes import Reasons
from nova_netagent.netfilter.rule import Family
from nova_netagent.plan.tables import AddChain, Delete, Edit, Fill, Insert, RemoveChain, diff_chain

Message = tuple[Callable[..., None], tuple[Any, ...]]
"""A method of a batch, or a function of one, and what it is given."""

TABLE_COMMENT = "nova-netagent: what may pass, and where it leads"
_NEW = HeldChain()
_PHASES = ("chains", "take", "sets", "fill", "rules", "link", "unmap", "remove", "forget")


@dataclass
class _Row:
    """A rule in a chain that is being edited."""

    key: bytes
    handle: int | None
    new: bool


class TableEdits:
    """The edits of our table of one family, gathered by the order in which the kernel can carry them out.

    :param image: what the table holds; it is edited.
    :param handles: asks the kernel for the handles of a chain's rules, whose keys are given too.
    """

    def __init__(self, image: Image, family: Family, handles: Callable[[str, Keys], tuple[int, ...]]) -> None:
        self.image = image
        self.edited = image.goes
        self.going: list[str] = []
        """The sets of groups that are to go."""
        self.family = family
        self._handles = handles
        self._phases: dict[str, list[Message]] = {phase: [] for phase in _PHASES}

    def write(self, batch: Batch, *, destroy: bool) -> None:
        """Append the messages to a batch.

        :param destroy: take the sets away that are to go.
        """
        table, image = self.image.table, self.image
        if not self.edited:
            return
        if image.goes:
            batch.delete_table(table)
        if not image.chains and not image.sets:
            if image.exists:
                batch.delete_table(table)
            return
        if not image.exists or not image.awake:
            batch.add_table(table, TABLE_COMMENT)
        for phase, messages in self._phases.items():
            if phase != "forget" or destroy:
                for write, message in messages:
                    write(batch, *message)

    def done(self) -> None:
        """What was written is so."""
        if self.edited:
            self.image.exists = bool(self.image.chains or self.image.sets)
            self.image.awake = True
            self.image.goes = False

    @property
    def destroys(self) -> bool:
        """Whether sets are to go."""
        return bool(self.going)

    def _add(self, phase: str, write: Callable[..., None], *message: Any) -> None:
        self.edited = True
        self._phases[phase].append((write, message))

    # --- chains

    def set_rules(self, physical: str, after: Keys | None, known: Reasons | None = None) -> None:
        """Have a chain hold these rules; with ``None`` it goes.

        :param known: what each rule is there for, if they do not say it themselves.
        """
        table = self.image.table
        before = self.image.chains.get(physical)
        base = BASE_CHAINS.get(physical)
        self.edited |= self.image.exists and not self.image.awake  # it is woken with whatever is edited
        if base is not None and not after:
            after = None  # a base chain without rules would only cost
        if before is not None and (after is None or not before.right):
            self._take_chain(physical, before)
            before = None
        if after is None:
            return
        if before is None:
            chain = base or Chain(physical, comment=comment_of(physical, table.name))
            self._add("chains", Batch.add_chain, table, chain)
            before = _NEW
        if not before.rules and after:
            self._add("rules", _append, table, self.family, physical, after, known)
            self.image.chains[physical] = HeldChain(after, None)
        elif before.rules != after:
            self._edit(physical, before, after, known)
        elif physical not in self.image.chains:
            self.image.chains[physical] = before

    def replace_rules(
        self, physical: str, rules: Keys, at: Collection[int], handles: tuple[int, ...], known: Reasons | None
    ) -> None:
        """Make some rules of a chain anew, for what is said beside them.

        :param rules: all of its rules.
        :param at: which of them are made anew.
        :param handles: of all of them.
        :param known: what each rule is there for, if they do not say it themselves.
        """
        if at:
            kept = tuple(b"" if number in at else key for number, key in enumerate(rules))
            self._edit(physical, HeldChain(kept, handles), rules, known)

    def empty(self, physical: str) -> None:
        """Take the rules out of a chain, whatever they are."""
        before = self.image.chains.get(physical)
        if before is not None and before.rules:
            self._add("take", Batch.flush_rules, self.image.table, physical)
            self.image.chains[physical] = replace(before, rules=(), handles=())

    def _take_chain(self, physical: str, before: HeldChain) -> None:
        table = self.image.table
        if before.rules:
            self._add("take" if before.right else "chains", Batch.flush_rules, table, physical)
        # One that is hooked in wrong goes before the right one comes.
        phase = "remove" if before.right else "chains"
        self._add(phase, Batch.delete_chain, table, physical)
        del self.image.chains[physical]

    def _edit(self, physical: str, before: HeldChain, after: Keys, known: Reasons | None) -> None:
        edits = list(diff_chain(physical, before.rules, after))
        handles = before.handles
        emptied = sum(isinstance(edit, Delete) for edit in edits) == len(before.rules)
        if handles is None and not emptied and not _only_appends(edits, len(before.rules)):
            handles = self._handles(physical, before.rules)
        rows = [_Row(key, handles[at] if handles else None, new=False) for at, key in enumerate(before.rules)]
        gone = _carry_out(edits, rows)
        if emptied and before.rules:
            self._add("take", Batch.flush_rules, self.image.table, physical)
        else:
            for handle in gone:
                self._add("take", Batch.delete_rule, self.image.table, physical, handle)
        following: int | None = None
        inserts: list[tuple[bytes, bytes, int | None]] = []
        for number, row in reversed([*enumerate(rows)]):
            if row.new:
                reason = "" if known is None else known.text(number)
                inserts.append((row.key, notes.of_rule(row.key, reason), following))
            else:
                following = row.handle
        for message in reversed(inserts):
            self._add("rules", _insert, self.image.table, self.family, physical, *message)
        after_handles = tuple(row.handle for row in rows)
        whole = tuple(handle for handle in after_handles if handle is not None)
        self.image.chains[physical] = HeldChain(after, whole if len(whole) == len(after_handles) else None)

    # --- sets

    def add_set(self, described: Set) -> None:
        """Make a set; one of this name goes first, unless it is in use."""
        table, name = self.image.table, described.name
        if name in self.image.sets:
            self._add("sets", Batch.delete_set, table, name)
        self._add("sets", Batch.add_set, table, described)
        self.image.sets[name] = held(described)

    def set_elements(self, described: Set, after: Elements, known: Reasons | None = None) -> None:
        """Have a set that is there hold these elements.

        :param known: what each is there for, if they do not say it themselves.
        """
        before = self.image.sets[described.name]
        if not before.elements:
            self.image.sets[described.name] = replace(before, elements=after)
            self._add_elements(described, list(after.values()), known)
            return
        parts = repeat("") if known is None else known.parts
        apart = members.apart(before.elements, after) if _has_ends(described) else ()
        come = [
            (each, part)
            for (key, each), part in zip(after.items(), parts, strict=False)
            if key in apart or not _same(before.elements.get(key), each)
        ]
        remove = [each for key, each in before.elements.items() if key in apart or not _same(after.get(key), each)]
        new = None if known is None else Reasons(known.about, tuple(part for _, part in come))
        self.edit_elements(described, [each for each, _ in come], remove, new)

    def edit_elements(
        self, described: Set, add: Iterable[Element], remove: Iterable[Element], known: Reasons | None = None
    ) -> None:
        """Add elements, after others were removed.

        :param known: what each new one is there for, if they do not say it themselves.
        """
        add, remove = list(add), list(remove)
        table, name = self.image.table, described.name
        if not add and not remove:
            return
        there = self.image.sets[name]
        elements = dict(there.elements)
        for each in remove:
            del elements[each.key, each.closes]
        for each in add:
            elements[each.key, each.closes] = each
        self.image.sets[name] = replace(there, elements=elements)
        if remove:
            gone = sorted(remove, key=_ranges)
            # Elements of a map lead to chains: they go before these.
            phase = "fill" if described.data is None else "take"
            self._add(phase, Batch.delete_elements, table, described, gone)
        self._add_elements(described, add, known)

    def _add_elements(self, described: Set, add: Sequence[Element], known: Reasons | None) -> None:
        if not add:
            return
        new = sorted(add, key=_ranges) if known is None and _has_ends(described) else add
        # Elements of a map lead to chains: they come after these.
        phase = "fill" if described.data is None else "link"
        self._add(phase, _add_elements, self.image.table, described, new, known)

    def note(self, described: Set, elements: Sequence[Element]) -> None:
        """Add elements that nobody looks for again; of one that is there the time-out begins anew.

        To add what is there changes nothing, and a transaction that changes nothing counts no generation
        (``nf_tables_commit``): whatever is there goes, and comes again.
        """
        table = self.image.table
        for write in (Batch.add_elements, Batch.delete_elements, Batch.add_elements) if elements else ():
            self._add("fill", write, table, described, elements)

    def forget(self, name: str) -> None:
        """Forget every element of a set before others are added."""
        table = self.image.table
        self._add("take", Batch.flush_elements, table, name)

    def remove_set(self, name: str) -> None:
        """Take a set away that no rule looks into any more."""
        table = self.image.table
        self.going.append(name)
        self._add("forget", Batch.delete_set, table, name)
        del self.image.sets[name]

    def remove_map(self, name: str) -> None:
        """Take a map away with what is in it, before the chains that it leads to."""
        table = self.image.table
        self._add("unmap", Batch.delete_set, table, name)
        del self.image.sets[name]


def edited(edits: Iterable[Edit[bytes]], chains: Mapping[str, Keys], name: str) -> dict[str, Keys | None]:
    """The chains that a plan touches, afterwards; ``None`` for one that it removes.

    :param name: the table, for people.
    :raises RuleRefused: an edit does not fit the table.
    :raises TableChanged: another rule than was planned stands at an index.
    """
    found: dict[str, Keys | list[bytes] | None] = {}
    for edit in edits:
        chain = edit.chain
        known = found[chain] if chain in found else chains.get(chain)
        if isinstance(edit, AddChain):
            if known is not None:
                raise RuleRefused(f"{name}: there is a chain {chain} already")
            found[chain] = ()
            continue
        if known is None:
            raise RuleRefused(f"{name}: there is no chain {chain}")
        if isinstance(edit, Fill):
            if known:
                raise RuleRefused(f"{name}: the chain {chain} is not empty")
            found[chain] = edit.keys
        elif isinstance(edit, RemoveChain):
            found[chain] = () if edit.flush_only else None
        else:
            if not isinstance(known, list):
                known = found[chain] = list(known)
            _edit_rules(edit, known, name)
    return {chain: tuple(rules) if isinstance(rules, list) else rules for chain, rules in found.items()}


def _edit_rules(edit: Insert[bytes] | Delete[bytes], rules: list[bytes], name: str) -> None:
    if isinstance(edit, Insert):
        if edit.index > len(rules):
            raise RuleRefused(f"{name}: there is no place {edit.index + 1} in {edit.chain}")
        rules.insert(edit.index, edit.key)
        return
    if edit.index >= len(rules):
        raise RuleRefused(f"{name}: there is no place {edit.index + 1} in {edit.chain}")
    if rules[edit.index] != edit.key:
        raise TableChanged(f"{name}: {edit.chain} has another rule at {edit.index + 1} than was planned")
    del rules[edit.index]


def _append(batch: Batch, table: TableId, family: Family, physical: str, rules: Keys, known: Reasons | None) -> None:
    noted = notes.of_rules(rules, known)
    batch.add_encoded_rules(table, physical, rules, noted, partial(_told_of, physical, rules, family))


def _insert(
    batch: Batch, table: TableId, family: Family, physical: str, key: bytes, note: bytes, before: int | None
) -> None:
    batch.add_encoded_rule(table, physical, key, note, before=before, what=partial(_told, physical, key, family))


def _add_elements(
    batch: Batch, table: TableId, described: Set, elements: Sequence[Element], known: Reasons | None
) -> None:
    batch.add_elements(table, described, elements, None if known is None else notes.of_elements(known))


def _told_of(physical: str, rules: Keys, family: Family, number: int) -> str:
    return _told(physical, rules[number], family)


def _told(physical: str, key: bytes, family: Family) -> str:
    return f"rule {physical}: {rule_keys.described(key, family)}"


def _only_appends(edits: Iterable[Insert[bytes] | Delete[bytes]], length: int) -> bool:
    return all(isinstance(edit, Insert) and edit.index >= length for edit in edits)


def _carry_out(edits: Iterable[Insert[bytes] | Delete[bytes]], rows: list[_Row]) -> list[int]:
    """Edit the rows; the handles of those that go."""
    gone = []
    for edit in edits:
        if isinstance(edit, Insert):
            rows.insert(edit.index, _Row(edit.key, None, new=True))
        else:
            row = rows.pop(edit.index)
            if row.handle is not None:
                gone.append(row.handle)
    return gone


def _same(known: Element | None, wanted: Element) -> bool:
    return known is not None and (known.end, known.data) == (wanted.end, wanted.data)


def _has_ends(described: Set) -> bool:
    """Whether its ranges are two elements each."""
    return described.interval and len(described.key) == 1


def _ranges(element: Element) -> tuple[bytes, bool]:
    """Where a range is closed comes before the next one that begins there."""
    return element.key, not element.closes
