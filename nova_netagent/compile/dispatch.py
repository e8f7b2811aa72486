"""Dispatch without a scan: from a chain to one of thousands in a few comparisons.

A list of N jumps costs a new flow N comparisons. Here entries are kept in a tree of
chains: by the bits of an address, or by the letters of a device's name. A node holds at
most some twenty rules; a small host's tree is one node and reads as nova's list did.

A tree is outlined first and written down when all nodes of a table are known: their names
are hashes, and two that clash must part (``owner.short_ids``).
"""

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any, Generic, TypeVar

from msgspec import Struct

from nova_netagent.compile.memo import Since
from nova_netagent.model import values
from nova_netagent.model.lineage import follow
from nova_netagent.model.values import FAMILY_BITS, Prefix
from nova_netagent.netfilter.owner import SHORT, Owner, digest, short_ids
from nova_netagent.netfilter.rule import Chain, Jump, Physdev, Rule

LEAF = 8
"""So many entries stay in one node: a tree pays from about fifteen rules on (measured)."""
_STRIDE = 4
_SMALLEST = 2
"""Below this many entries a child node would only add a jump."""

E = TypeVar("E")


class AddressEntry(Struct, frozen=True, gc=False):
    """A rule for packets to or from a prefix; the rule carries the address itself."""

    prefix: Prefix
    rule: Rule


class DeviceEntry(Struct, frozen=True, gc=False):
    """Rules for frames of a bridge port; each carries the physdev match itself."""

    device: str
    rules: tuple[Rule, ...]


class Node(Struct, frozen=True, gc=False):
    """A node of a tree: what it leads to below, and its own rules before and after that."""

    key: str
    """The prefix of addresses or of names that the node is about; the root's says which tree it is."""
    first: tuple[Rule, ...]
    below: tuple["Node", ...]
    last: tuple[Rule, ...]
    keys: tuple[str, ...]
    """Of all the nodes below."""


class Names(Struct, frozen=True, gc=False):
    """By a node's key the name of its chain, without the wrap name."""

    exceptions: Mapping[str, str]
    """Of the keys whose hashes clash."""
    tree: str = ""
    """What keys of this tree begin with, where another tree of the table has keys like them."""

    def __getitem__(self, key: str) -> str:
        key = self.tree + key
        return self.exceptions.get(key) or f"to-{digest(key)[:SHORT]}"


class _Part(Struct, frozen=True, gc=False):
    """What entries with the same first bits or letters add to a node: rules of its own, or a node below it."""

    rules: tuple[Rule, ...]
    below: Node | None = None


class _Grown(Struct, frozen=True, gc=False):
    """A node, and what it was made of."""

    entries: Sequence[Any]
    tail: tuple[Rule, ...]
    node: Node
    parted: int
    """By how many first bits or letters, where all its entries are."""
    parts: Mapping[Any, _Part]
    """By these bits or letters, in their order."""


class Kept:
    """What was made of each node of a tree, by its key: so that a change makes the nodes above it only."""

    def __init__(self) -> None:
        self.grown: dict[str, _Grown] = {}

    def prune(self, root: Node) -> None:
        """Forget nodes that are no more, when they have become many."""
        if len(self.grown) > 2 * len(root.keys) + LEAF:
            self.grown = {key: self.grown[key] for key in (root.key, *root.keys) if key in self.grown}


class Written:
    """The chains below a tree's root, as they were written last in one table."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.chains: Mapping[str, Chain] = {}
        self.entered: dict[str, Rule] = {}
        """By a node's key the rule that leads to it."""


Enter = Callable[[str, str], Rule]
"""Makes the rule that leads to a node, from the node's key and its wrapped chain name."""


def _node(key: str, first: Iterable[Rule], below: Sequence[Node], last: Iterable[Rule]) -> Node:
    keys = [each for child in below for each in (child.key, *child.keys)]
    return Node(key, tuple(first), tuple(below), tuple(last), tuple(keys))


@lru_cache(16)
def name_nodes(keys: tuple[str, ...]) -> Names:
    """A name for each node of a table, distinct, and the same whatever the order."""
    if len({digest(key)[:SHORT] for key in keys}) == len(keys):
        return Names({})
    digests = {digest(key): key for key in keys}
    return Names({digests[long]: f"to-{name}" for long, name in short_ids(digests).items() if long[:SHORT] != name})


class Way(Struct, frozen=True):
    """A tree as it is written in one table."""

    names: Names
    enter: Enter
    owner: Owner
    written: Written
    """As it was written last, with the same names."""

    def root(self, node: Node) -> tuple[Rule, ...]:
        """The rules of a node: its own, and into those below it."""
        entered = self.written.entered
        into = [entered.get(child.key) or self._enter(child.key) for child in node.below]
        return (*node.first, *into, *node.last)

    def below(self, node: Node) -> Mapping[str, Chain]:
        """The chains of the nodes below one, by name; made from those of last time."""
        put: dict[str, Chain] = {}
        gone: dict[str, None] = {}
        self._compare(self.written.root, node, put, gone)
        last = self.written.chains
        others = {name: each for name, each in put.items() if last.get(name) != each}
        self.written.root = node
        self.written.chains = follow(last, others, [name for name in gone if name not in put])
        return self.written.chains

    def _compare(self, before: Node | None, after: Node, put: dict[str, Chain], gone: dict[str, None]) -> None:
        """Gather what is other below a node, and the names of what is no longer there."""
        known = {} if before is None else {child.key: child for child in before.below}
        for child in after.below:
            there = known.pop(child.key, None)
            if there is not child:
                name = self._name(child.key)
                put[name] = Chain(name, self.root(child))
                self._compare(there, child, put, gone)
        for child in known.values():
            for key in (child.key, *child.keys):
                gone[self._name(key)] = None
                self.written.entered.pop(key, None)

    def _enter(self, key: str) -> Rule:
        rule = self.written.entered[key] = self.enter(key, self._name(key))
        return rule

    def _name(self, key: str) -> str:
        return self.owner.chain(self.names[key])


class _Tree(ABC, Generic[E]):
    """How a tree is outlined.

    :param tail: ends every node.
    :param kept: of this tree.
    """

    def __init__(self, tail: Sequence[Rule], kept: Kept) -> None:
        self._tail = tuple(tail)
        self._kept = kept

    def root(self, key: str, entries: Sequence[E], since: Since[E] | None) -> Node:
        """The whole tree, over entries that are in order."""
        known = self._kept.grown.get(key)
        is_known = known is not None and since is not None and known.entries is since.before
        root = self._node(key, entries, since.others if since is not None and is_known else None)
        self._kept.prune(root)
        return root

    def _node(self, key: str, entries: Sequence[E], others: Sequence[E] | None) -> Node:
        """One node, with those below it.

        :param others: what came and went since it was grown last; ``None``: nobody knows.
        """
        known = self._kept.grown.get(key)
        if known is None or known.tail != self._tail:
            known = others = None
        elif known.entries == entries if others is None else not others:
            return known.node
        if len(entries) <= LEAF:
            grown = self._leaf(key, entries)
        else:
            grown = self._grow(key, entries, others or (), None if others is None else known)
        self._kept.grown[key] = grown
        return grown.node

    def _below(self, key: str, group: Sequence[E], others: Sequence[E] | None, known: _Part | None) -> Node:
        """A node below another. What is other in it is known where it is the one that was below it last time."""
        grown = self._kept.grown.get(key)
        is_known = grown is not None and known is not None and grown.node is known.below
        return self._node(key, group, others if is_known else None)

    def _parts(
        self, entries: Sequence[E], count: int, others: Sequence[E], known: _Grown | None
    ) -> Mapping[Any, _Part]:
        """What the entries of each label add, in the order of labels.

        :param count: so many bits or letters are a label.
        :param others: what came and went since ``known``.
        """
        if known is None or known.parted != count:
            made: dict[Any, _Part] = {}
            high = 0
            while high < len(entries):
                label = self._label(entries[high], count)
                low, high = self._span(entries, label, count, high)
                made[label] = self._part(label, count, entries[low:high], None, None)
            return made
        made = {**known.parts}
        for label in dict.fromkeys([self._label(each, count) for each in others]):
            low, high = self._span(entries, label, count, 0)
            if low < high:
                its = [each for each in others if self._label(each, count) == label]
                made[label] = self._part(label, count, entries[low:high], its, known.parts.get(label))
            else:
                made.pop(label, None)
        return dict(sorted(made.items())) if made.keys() - known.parts.keys() else made

    def _leaf(self, key: str, entries: Sequence[E]) -> _Grown:
        rules = chain.from_iterable(map(self._rules, entries))
        return _Grown(entries, self._tail, _node(key, rules, (), self._tail), 0, {})

    def _parted(
        self, key: str, entries: Sequence[E], count: int, parts: Mapping[Any, _Part], last: Sequence[Rule]
    ) -> _Grown:
        first = chain.from_iterable([part.rules for part in parts.values()])
        below = [part.below for part in parts.values() if part.below is not None]
        return _Grown(entries, self._tail, _node(key, first, below, (*last, *self._tail)), count, parts)

    @abstractmethod
    def _grow(self, key: str, entries: Sequence[E], others: Sequence[E], known: _Grown | None) -> _Grown:
        """A node of too many entries for a leaf."""

    @abstractmethod
    def _rules(self, entry: E) -> Sequence[Rule]:
        """What an entry says."""

    @abstractmethod
    def _label(self, entry: E, count: int) -> Any:
        """The first bits or letters of an entry."""

    @abstractmethod
    def _span(self, entries: Sequence[E], label: Any, count: int, low: int) -> tuple[int, int]:
        """From where to where the entries of a label are, from ``low`` on."""

    @abstractmethod
    def _part(
        self, label: Any, count: int, group: Sequence[E], others: Sequence[E] | None, known: _Part | None
    ) -> _Part:
        """What the entries of a label add.

        :param others: what came and went of them since ``known``.
        """


# --- by address


# The same object for the same way: what was encoded of it is found again.
_once = lru_cache(1 << 12)


@_once
def enter_prefix(key: str, chain: str) -> Rule:
    """Into a node of addresses: a packet that no entry there concerns comes back, and meets wider prefixes."""
    return Rule(Jump(chain), destination=key)


@_once
def enter_source(key: str, chain: str) -> Rule:
    """Into a node of addresses of hosts, by goto: RETURN in a leaf leaves the whole tree."""
    return Rule(Jump(chain, goto=True), source=key)


def address_tree(
    entries: Sequence[AddressEntry], since: Since[AddressEntry] | None, kept: Kept, tail: Sequence[Rule] = ()
) -> Node:
    """A tree over addresses. The longest prefix is judged first; of equal ones the first given.

    :param entries: by ``address_order``.
    :param since: what is other in them than in those before.
    :param kept: of this tree.
    :param tail: ends every node, where nodes are entered by goto: then all entries must be of one length.
    """
    return _AddressTree(tail, kept).root("local", entries, since)


def address_order(entry: AddressEntry) -> tuple[int, int, str]:
    """The longest prefix first."""
    return -entry.prefix.length, entry.prefix.value, entry.rule.out_interface or ""


class _AddressTree(_Tree[AddressEntry]):
    """By the bits of addresses."""

    def _grow(
        self, key: str, entries: Sequence[AddressEntry], others: Sequence[AddressEntry], known: _Grown | None
    ) -> _Grown:
        inside, around = _inside(entries)
        if not inside:
            return self._leaf(key, around)
        count = _shared_bits(inside) + _STRIDE
        if not around and _of_one_length(inside) and inside[0].prefix.length > count:
            return self._parted(key, entries, count, self._parts(entries, count, others, known), ())
        groups: dict[int, list[AddressEntry]] = {}
        direct = []
        for entry in inside:
            if entry.prefix.length > count:
                groups.setdefault(self._label(entry, count), []).append(entry)
            else:
                direct.append(entry)
        parts = {label: self._part(label, count, group, None, None) for label, group in sorted(groups.items())}
        return self._parted(key, entries, 0, parts, [entry.rule for entry in (*direct, *around)])

    def _rules(self, entry: AddressEntry) -> Sequence[Rule]:
        return (entry.rule,)

    def _label(self, entry: AddressEntry, count: int) -> int:
        return entry.prefix.value >> (FAMILY_BITS[entry.prefix.family] - count)

    def _span(self, entries: Sequence[AddressEntry], label: int, count: int, low: int) -> tuple[int, int]:
        rest = FAMILY_BITS[entries[0].prefix.family] - count
        low = bisect_left(entries, label << rest, low, key=_VALUE)
        return low, bisect_left(entries, label + 1 << rest, low, key=_VALUE)

    def _part(
        self,
        label: int,
        count: int,
        group: Sequence[AddressEntry],
        others: Sequence[AddressEntry] | None,
        known: _Part | None,
    ) -> _Part:
        if len(group) < _SMALLEST:
            return _Part(tuple([entry.rule for entry in group]))
        family = group[0].prefix.family
        prefix = Prefix(family, label << (FAMILY_BITS[family] - count), count)
        return _Part((), self._below(values.prefix_text(prefix), group, others, known))


_VALUE = attrgetter("prefix.value")


def _of_one_length(entries: Sequence[AddressEntry]) -> bool:
    """Whether all entries of a list that is in order have one length, and so are in the order of addresses."""
    return entries[0].prefix.length == entries[-1].prefix.length


def _inside(entries: Sequence[AddressEntry]) -> tuple[Sequence[AddressEntry], Sequence[AddressEntry]]:
    """Those that the node's bits can part, and those so wide that they are around all others."""
    count = len(entries)
    while count and entries[count - 1].prefix.length <= _shared_bits(entries[:count]):
        count -= 1
    return entries[:count], entries[count:]


def _shared_bits(entries: Sequence[AddressEntry]) -> int:
    """How many leading bits the prefixes of entries have in common."""
    if _of_one_length(entries):
        low, high = entries[0].prefix.value, entries[-1].prefix.last
    else:
        low = min(entry.prefix.value for entry in entries)
        high = max(entry.prefix.last for entry in entries)
    return FAMILY_BITS[entries[0].prefix.family] - (low ^ high).bit_length()


# --- by device


def enter_names(side: Callable[[str], Physdev], *, goto: bool) -> Enter:
    """Into a node of names.

    :param side: makes the match of a name pattern.
    :param goto: RETURN in a leaf leaves the whole tree, and each node needs the tree's tail. Otherwise
        a frame that no entry concerns comes back to the root, and the tail is the root's alone.
    """
    return _once(lambda key, chain: Rule(Jump(chain, goto), matches=(side(key),)))


@_once
def enter_interfaces(key: str, chain: str) -> Rule:
    """Into a node of names of interfaces that are no bridge ports."""
    return Rule(Jump(chain), in_interface=key)


device_order = attrgetter("device")
"""The order of a tree's entries: by name."""


def device_tree(
    entries: Sequence[DeviceEntry], since: Since[DeviceEntry] | None, kept: Kept, tail: Sequence[Rule] = ()
) -> Node:
    """A tree over bridge ports' names; ``tail`` ends every node: it judges what is no entry's.

    :param entries: by ``device_order``.
    :param since: what is other in them than in those before.
    :param kept: of this tree.
    """
    return _DeviceTree(tail, kept).root("ports", entries, since)


class _DeviceTree(_Tree[DeviceEntry]):
    """By the letters of names."""

    def _grow(
        self, key: str, entries: Sequence[DeviceEntry], others: Sequence[DeviceEntry], known: _Grown | None
    ) -> _Grown:
        count = _shared_letters(entries) + 1
        # A device that is named exactly like what all names begin with has no letter more, and is with all of them.
        is_parted = len(entries[0].device) >= count
        parts = self._parts(entries, count, others, known if is_parted else None)
        return self._parted(key, entries, count if is_parted else 0, parts, ())

    def _rules(self, entry: DeviceEntry) -> Sequence[Rule]:
        return entry.rules

    def _label(self, entry: DeviceEntry, count: int) -> str:
        return entry.device[:count]

    def _span(self, entries: Sequence[DeviceEntry], label: str, count: int, low: int) -> tuple[int, int]:
        low = bisect_left(entries, label, low, key=device_order)
        # No letter comes after Unicode's last one.
        return low, bisect_right(entries, f"{label}\U0010ffff", low, key=device_order)

    def _part(
        self,
        label: str,
        count: int,
        group: Sequence[DeviceEntry],
        others: Sequence[DeviceEntry] | None,
        known: _Part | None,
    ) -> _Part:
        # A device that is named exactly like the prefix of others has no letters to part by, and is before them.
        whole = bisect_right(group, label, key=device_order)
        if len(group) - whole < _SMALLEST:
            return _Part(tuple([rule for entry in group for rule in entry.rules]))
        longer = None if others is None else [each for each in others if each.device != label]
        below = self._below(f"{label}+", group[whole:], longer, known)
        return _Part(tuple([rule for entry in group[:whole] for rule in entry.rules]), below)


def _shared_letters(entries: Sequence[DeviceEntry]) -> int:
    """How many letters all names of a sorted list begin with: those of the first and the last."""
    first, last = entries[0].device, entries[-1].device
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return shared
