"""The kernel's own rules, read when they are met: everybody's, with their counters."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from msgspec.structs import replace

from nova_netagent.backend import Backend
from nova_netagent.netfilter.foreign import Surroundings, applies
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.packet import CannotTell, Packet, Step, Walk, matches, walk
from nova_netagent.netfilter.rule import InSet, IpSet, Opaque, Rule, Ruleset, Table, TableId

Place = tuple[TableId, str, int]
"""A table, a chain and a rule's index in it."""


@dataclass(frozen=True)
class LiveRule:
    """A rule as the kernel has it; ``ours`` is the compiled one that it is, with its origin."""

    rule: Rule
    text: str
    packets: int
    octets: int
    ours: Rule | None
    stray: bool
    """It stands in a chain of ours without being of ours."""


class LiveTable:
    """One table of the kernel's.

    :param wanted: what it must hold of ours; ``None`` where nothing of ours belongs there.
    """

    def __init__(self, id_: TableId, backend: Backend[Any], wanted: Table | None, owner: Owner) -> None:
        self.id = id_
        self._backend = backend
        self._owner = owner
        self._counted = backend.counters(id_)
        self._encoded = None if wanted is None else backend.encode(wanted)
        self._wanted = wanted
        self._chains: dict[str, tuple[LiveRule, ...]] = {}

    def policy(self, chain: str) -> str:
        """What becomes of a packet at the end of a built-in chain."""
        found = self._counted.get(chain)
        return "ACCEPT" if found is None else found[0] or "ACCEPT"

    def chain(self, name: str) -> tuple[LiveRule, ...] | None:
        """A chain's rules."""
        if name not in self._chains:
            if name not in self._counted:
                return None
            self._chains[name] = tuple(self._rules(name))
        return self._chains[name]

    @property
    def names(self) -> Sequence[str]:
        """Every chain."""
        return list(self._counted)

    def _rules(self, name: str) -> Iterator[LiveRule]:
        ours = self._ours(name)
        owned = self._owner.owns_chain(name)
        for packets, octets, key in self._counted[name][1]:
            known = ours.get(key)
            rule = known or self._backend.parse(self.id, key)
            yield LiveRule(rule, self._backend.describe(self.id, key), packets, octets, known, owned and known is None)

    def _ours(self, name: str) -> Mapping[Any, Rule]:
        if self._wanted is None or self._encoded is None:
            return {}
        if name in self._wanted.chains:
            return dict(zip(self._encoded.chains[name], self._wanted.chains[name].explained, strict=True))
        return {
            key: rule
            for hook, encoded in zip(self._wanted.hooks, self._encoded.hooks, strict=True)
            if hook.chain == name
            for key, rule in zip(encoded.keys, hook.rules, strict=True)
        }


class _Rules(Mapping[str, Sequence[Rule]]):
    """A table's chains for the walker."""

    def __init__(self, table: LiveTable) -> None:
        self._table = table

    def __getitem__(self, name: str) -> Sequence[Rule]:
        found = self._table.chain(name)
        if found is None:
            raise KeyError(name)
        return [each.rule for each in found]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.names)

    def __len__(self) -> int:
        return len(self._table.names)


class LiveRules:
    """The tables that packets meet here.

    :ivar doubts: the rules of which it could not be told whether they apply, in the order in which they were met.
    """

    def __init__(self, backend: Backend[Any], ruleset: Ruleset, owner: Owner, around: Surroundings) -> None:
        self._backend = backend
        self._ruleset = ruleset
        self._owner = owner
        self._around = around
        self._loaded = frozenset(backend.loaded_tables())
        self._tables: dict[TableId, LiveTable] = {}
        self._instead: Ruleset | None = None
        self._walked: dict[tuple[TableId, str], Sequence[Rule]] = {}
        self.doubts: dict[Place, None] = {}
        self.assumed: frozenset[Place] = frozenset()
        """Those of the doubtful rules that are taken to apply."""

    def table(self, id_: TableId) -> LiveTable | None:
        """A table, if it is in use."""
        if id_ not in self._loaded:
            return None
        if id_ not in self._tables:
            self._tables[id_] = LiveTable(id_, self._backend, self._ruleset.tables.get(id_), self._owner)
        return self._tables[id_]

    @cached_property
    def _sets(self) -> Mapping[str, IpSet]:
        return self._backend.read_sets()

    def instead(self, ruleset: Ruleset | None) -> None:
        """From now on take our own chains and sets from a ruleset that the kernel does not have."""
        self._instead = ruleset

    def walk(self, id_: TableId, hook: str, packet: Packet) -> Walk:
        """What one table does to a packet at one hook; ``UNKNOWN`` where a program of somebody's decides."""
        table = self.table(id_)
        if table is None:
            return Walk("ACCEPT", packet)
        chains: Mapping[str, Sequence[Rule]] = _Rules(table)
        sets = self._sets
        if self._instead is not None:
            chains, sets = self._with_ours(table, self._instead), self._instead.sets

        def judge(step: Step, packet: Packet) -> bool:
            return self._applies(id_, step, packet, sets)

        try:
            return walk(chains, hook, packet, sets, table.policy(hook), judge)
        except CannotTell as error:
            return Walk("UNKNOWN", packet, error.steps)

    def _with_ours(self, table: LiveTable, ruleset: Ruleset) -> Mapping[str, Sequence[Rule]]:
        """Everybody's chains as they are, but ours as a ruleset has them."""
        chains: dict[str, Sequence[Rule]] = {
            name: rules for name, rules in _Rules(table).items() if not self._owner.owns_chain(name)
        }
        wanted = ruleset.tables.get(table.id)
        if wanted is not None:
            chains |= {name: chain.explained for name, chain in wanted.chains.items()}
        return chains

    def _applies(self, id_: TableId, step: Step, packet: Packet, sets: Mapping[str, IpSet]) -> bool:
        rule = step.rule
        unknown = [each for each in rule.matches if _is_unknown(each, sets)]
        if not unknown:
            return matches(rule, packet, sets)
        known = tuple(each for each in rule.matches if each not in unknown)
        if not matches(replace(rule, matches=known), packet, sets):
            return False
        found = [applies(each, packet, self._around) if isinstance(each, Opaque) else None for each in unknown]
        if False in found:
            return False
        if None not in found:
            return True
        place = (id_, step.chain, step.index)
        self.doubts[place] = None
        return place in self.assumed


def _is_unknown(match: object, sets: Mapping[str, IpSet]) -> bool:
    return isinstance(match, Opaque) or (isinstance(match, InSet) and match.name not in sets)
