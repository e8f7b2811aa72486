"""Tables: actual against desired gives a plan. Pure, and the same for every backend.

A backend hands over its tables as *keys*: one hashable value a rule (bytes for the
kernel's legacy tables, the rule itself for the fake), equal exactly when the kernel
could not tell the two rules apart. A plan is a value; edits are applied in order, and an
index counts from zero in the chain as it is at that moment.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from nova_netagent.model.lineage import changed
from nova_netagent.netfilter.rule import Table, TableId

K = TypeVar("K")
_ORDER = ("raw", "mangle", "filter", "nat")
"""Deny before allow: what proves and refuses comes before what rewrites. One family after the other: the kernel
takes longest for IPv4's filter table, and meanwhile IPv6's are prepared and begun with."""


class AddChain(Struct, frozen=True, gc=False):
    """Make an empty chain."""

    chain: str


class RemoveChain(Struct, frozen=True, gc=False):
    """Empty a chain and remove it; with ``flush_only`` a foreign rule still jumps to it."""

    chain: str
    flush_only: bool = False


class Insert(Struct, Generic[K], frozen=True, gc=False):
    """Put a rule in at an index."""

    chain: str
    index: int
    key: K


class Fill(Struct, Generic[K], frozen=True, gc=False):
    """Put rules, at least one, into an empty chain."""

    chain: str
    keys: tuple[K, ...]


class Delete(Struct, Generic[K], frozen=True, gc=False):
    """Take the rule at an index out."""

    chain: str
    index: int
    key: K


Edit = AddChain | RemoveChain | Fill[K] | Insert[K] | Delete[K]


@dataclass(frozen=True)
class TablePlan(Generic[K]):
    """The edits of one table, which are committed together or not at all."""

    table: TableId
    edits: tuple[Edit[K], ...] = ()

    def counts(self) -> Counter[str]:
        """How many edits there are of each kind, in a word; rules that fill a chain are inserted."""
        kinds = Counter(map(type, self.edits))
        counts = Counter({kind.__name__.lower(): number for kind, number in kinds.items()})
        if counts.pop("fill", 0):
            counts["insert"] += sum(len(edit.keys) for edit in self.edits if type(edit) is Fill)
        return counts

    def coming(self) -> Iterator[tuple[str, K]]:
        """Each rule that is put in, with its chain."""
        for edit in self.edits:
            match edit:
                case Insert(chain, _, key):
                    yield chain, key
                case Fill(chain, keys):
                    yield from ((chain, key) for key in keys)

    def lines(self, describe: Callable[[K], str]) -> Iterator[str]:
        """The plan for people, an edit a line."""
        for edit in self.edits:
            match edit:
                case AddChain(chain):
                    yield f"{self.table}: + chain {chain}"
                case RemoveChain(chain, flush_only):
                    yield f"{self.table}: - {'rules of chain' if flush_only else 'chain'} {chain}"
                case Fill(chain, keys):
                    yield from (f"{self.table}: + {chain}[{i}] {describe(key)}" for i, key in enumerate(keys, 1))
                case Insert(chain, index, key):
                    yield f"{self.table}: + {chain}[{index + 1}] {describe(key)}"
                case Delete(chain, index, key):
                    yield f"{self.table}: - {chain}[{index + 1}] {describe(key)}"


@dataclass(frozen=True)
class EncodedHook(Generic[K]):
    """A hook's rules as keys."""

    chain: str
    keys: tuple[K, ...]
    shared: bool


@dataclass(frozen=True)
class EncodedTable(Generic[K]):
    """What a table must hold of ours, as keys. Without chains and with hooks that must go: nothing."""

    id: TableId
    chains: Mapping[str, tuple[K, ...]]
    hooks: tuple[EncodedHook[K], ...]


@dataclass(frozen=True)
class Placement(Generic[K]):
    """Where our rules stand among foreign ones in a built-in chain.

    They stand before every foreign rule but those that match ``top`` (and never below
    one that matches ``bottom``): nova's iptables_top_regex and iptables_bottom_regex.
    """

    describe: Callable[[K], str]
    top: re.Pattern[str] | None = None
    bottom: re.Pattern[str] | None = None

    def index(self, chain: str, foreign: Sequence[K]) -> int:
        """How many of the foreign rules of a chain stand above ours; a rule is matched as ``-A CHAIN RULE``."""
        if self.top is None:
            return 0
        texts = [f"-A {chain} {self.describe(key)}" for key in foreign]
        above = max((i + 1 for i, text in enumerate(texts) if self.top.search(text)), default=0)
        if self.bottom is not None:
            below = next((i for i, text in enumerate(texts) if self.bottom.search(text)), len(texts))
            above = min(above, below)
        return above


def in_order(tables: Iterable[Table]) -> list[Table]:
    """Tables, in the order in which they are edited."""
    return sorted(tables, key=lambda each: (each.id.family, _ORDER.index(each.id.name)))


def plan_table(
    desired: EncodedTable[K],
    actual: Mapping[str, Sequence[K]],
    *,
    owns: Callable[[str], bool],
    jumps_to: Callable[[K], str | None],
    placement: Placement[K] | None,
    keep_position: bool = False,
) -> TablePlan[K]:
    """The edits that make a table hold what is desired, and nothing else of ours.

    :param actual: every chain of the table with its rules' keys.
    :param owns: whether a chain is ours by its name.
    :param jumps_to: the chain that a rule jumps to, if any.
    :param placement: where ours stand among the rules of others; ``None``: the table is ours alone, and none is there.
    :param keep_position: leave our rules in built-in chains where they stand, as long as
        they are all there once: another program that wants to be first is fought once a
        resync and not at every change.
    """
    edits: list[Edit[K]] = []
    others = changed(actual, desired.chains)
    shared = [hook.chain for hook in desired.hooks if hook.shared]
    edits += [AddChain(name) for name in (*others, *shared) if name not in actual]
    for name in others:
        if name in desired.chains:
            now, keys = actual.get(name), desired.chains[name]
            edits += diff_chain(name, now or (), keys) if now or not keys else (Fill(name, keys),)
    for hook in desired.hooks:
        now = actual.get(hook.chain, ())
        if placement is None:
            edits += diff_chain(hook.chain, now, hook.keys)
        elif hook.shared:
            edits += _edit_shared(hook, now)
        else:
            ours = [key for key in now if key in hook.keys]
            if not (keep_position and (tuple(ours) == hook.keys or Counter(ours) == Counter(hook.keys))):
                edits += _edit_builtin(hook, now, placement, _others_before(hook, desired, actual, jumps_to))
    left = [name for name in others if name not in desired.chains]
    edits += _sweep([name for name in left if owns(name)], left, desired, actual, jumps_to)
    return TablePlan(desired.id, tuple(edits))


def plan_removal(
    skeleton: EncodedTable[K],
    actual: Mapping[str, Sequence[K]],
    *,
    owns: Callable[[str], bool],
    jumps_to: Callable[[K], str | None],
) -> TablePlan[K]:
    """The edits that take everything of ours out of a table, and nothing else.

    A shared chain goes with its hooks when the jump that we take out is its last rule.
    """
    edits: list[Edit[K]] = []
    emptied = set()
    for hook in skeleton.hooks:
        if hook.shared and hook.chain in actual:
            now = actual[hook.chain]
            edits += _delete(hook.chain, now, lambda key, ours=hook.keys: key in ours)  # type: ignore[misc]
            if all(key in hook.keys for key in now):
                emptied.add(hook.chain)
    kept = {hook.chain for hook in skeleton.hooks if hook.shared and hook.chain in actual} - emptied
    for hook in skeleton.hooks:
        if not hook.shared:
            going = {key for key in hook.keys if jumps_to(key) not in kept}
            edits += _delete(hook.chain, actual.get(hook.chain, ()), lambda key, going=going: key in going)  # type: ignore[misc]
    left = [name for name in actual if name not in skeleton.chains]
    edits += _sweep([*(name for name in actual if owns(name)), *sorted(emptied)], left, skeleton, actual, jumps_to)
    return TablePlan(skeleton.id, tuple(edits))


def diff_chain(chain: str, actual: Sequence[K], desired: Sequence[K]) -> Iterator[Insert[K] | Delete[K]]:
    """The edits of one chain of our own; rules that stay are not touched and keep their counters."""
    start, end_actual, end_desired = 0, len(actual), len(desired)
    while start < end_actual and start < end_desired and actual[start] == desired[start]:
        start += 1
    while end_actual > start and end_desired > start and actual[end_actual - 1] == desired[end_desired - 1]:
        end_actual -= 1
        end_desired -= 1
    if start == end_actual:  # nothing goes
        for index in range(start, end_desired):
            yield Insert(chain, index, desired[index])
        return
    # The edges are cut off first: SequenceMatcher is quadratic where rules repeat.
    matcher = SequenceMatcher(None, actual[start:end_actual], desired[start:end_desired], autojunk=False)
    for tag, low, high, low_desired, high_desired in reversed(matcher.get_opcodes()):
        if tag == "equal":
            continue
        for index in range(start + high - 1, start + low - 1, -1):
            yield Delete(chain, index, actual[index])
        for offset in range(high_desired - low_desired):
            yield Insert(chain, start + low + offset, desired[start + low_desired + offset])


def _others_before(
    hook: EncodedHook[K],
    desired: EncodedTable[K],
    actual: Mapping[str, Sequence[K]],
    jumps_to: Callable[[K], str | None],
) -> frozenset[K]:
    """The jumps of other nova-style agents that go before our last one, where that leads to a chain of everybody's.

    nova-postrouting-bottom is there so that SNAT comes after everybody's exemptions. Whose
    they are is seen from that chain: who jumps from it to W-snat has a W-POSTROUTING.
    """
    last = jumps_to(hook.keys[-1]) if hook.keys else None
    shared = next((each for each in desired.hooks if each.shared and each.chain == last), None)
    if shared is None:
        return frozenset()
    sharers = (jumps_to(key) or "" for key in actual.get(shared.chain, ()) if key not in shared.keys)
    chains = {f"{name.rpartition('-')[0]}-{hook.chain}" for name in sharers}
    return frozenset(key for key in actual.get(hook.chain, ()) if jumps_to(key) in chains)


def _edit_builtin(
    hook: EncodedHook[K], now: Sequence[K], placement: Placement[K], before_last: frozenset[K]
) -> Iterator[Edit[K]]:
    """Our jumps stand together, but for those of others that go before our last one."""
    foreign = [key for key in now if key not in hook.keys]
    first = last = placement.index(hook.chain, foreign)
    while last < len(foreign) and foreign[last] in before_last:
        last += 1
    wanted = [*foreign[:first], *hook.keys[:-1], *foreign[first:last], *hook.keys[-1:], *foreign[last:]]
    # Between two foreign rules at a time, the last ones first: what stands right keeps its counters.
    for (start, have), (_, want) in zip(
        reversed(_gaps(now, hook.keys)), reversed(_gaps(wanted, hook.keys)), strict=True
    ):
        for edit in diff_chain(hook.chain, have, want):
            yield replace(edit, index=start + edit.index)


def _gaps(rules: Sequence[K], ours: Sequence[K]) -> list[tuple[int, list[K]]]:
    """Our rules before, between and after the foreign ones, each with the index where it begins."""
    gaps: list[tuple[int, list[K]]] = [(0, [])]
    for index, key in enumerate(rules):
        if key in ours:
            gaps[-1][1].append(key)
        else:
            gaps.append((index + 1, []))
    return gaps


def _edit_shared(hook: EncodedHook[K], now: Sequence[K]) -> Iterator[Edit[K]]:
    """Our jumps in a chain of everybody's: there once, wherever they stand."""
    for key in hook.keys:
        places = [index for index, other in enumerate(now) if other == key]
        for index in reversed(places[1:]):
            yield Delete(hook.chain, index, key)
        if not places:
            yield Insert(hook.chain, 0, key)


def _delete(chain: str, now: Sequence[K], going: Callable[[K], bool]) -> Iterator[Edit[K]]:
    for index in range(len(now) - 1, -1, -1):
        if going(now[index]):
            yield Delete(chain, index, now[index])


def _sweep(
    stale: Sequence[str],
    left: Sequence[str],
    desired: EncodedTable[K],
    actual: Mapping[str, Sequence[K]],
    jumps_to: Callable[[K], str | None],
) -> Iterator[Edit[K]]:
    """Remove chains of ours that nothing asks for; one that a foreign rule still needs is emptied.

    :param left: all chains that are not desired: those of others are among them.
    """
    if not stale:
        return
    going = set(stale)
    hooks = {hook.chain: hook.keys for hook in desired.hooks}
    needed = {
        jumps_to(key)
        for chain in left
        if chain not in going
        for key in actual[chain]
        if key not in hooks.get(chain, ())
    }
    for chain in stale:
        if chain not in needed:
            yield RemoveChain(chain)
        elif actual[chain]:
            yield RemoveChain(chain, flush_only=True)
