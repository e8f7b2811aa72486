"""Tables of rules to tables of bytes, remembering what was encoded already."""

from collections.abc import Mapping
from typing import NamedTuple, cast

from nova_netagent.backend import RuleRefused
from nova_netagent.backend.iptables.entry import encode
from nova_netagent.backend.iptables.image import Chains, Keys
from nova_netagent.backend.iptables.layout import encoded_name
from nova_netagent.backend.iptables.sets import KernelSets
from nova_netagent.model.lineage import changed, follow
from nova_netagent.netfilter.owner import MAX_CHAIN_NAME
from nova_netagent.netfilter.rule import Hook, Rule, Table, TableId
from nova_netagent.plan.tables import EncodedHook, EncodedTable


class _Encoded(NamedTuple):
    """A table as it was encoded."""

    table: Table
    keys: EncodedTable[bytes]
    indexes: Mapping[str, Mapping[str, int]]
    """By chain the set indexes that its keys rely on, where there are any."""
    generation: int


class Encoder:
    """Encodes a chain once, as long as it is the same object and its sets have the same indexes."""

    def __init__(self, sets: KernelSets) -> None:
        self._sets = sets
        self._tables: dict[TableId, _Encoded] = {}
        self._asked: dict[str, int] = {}
        """The indexes of the sets that the rule names which is being encoded."""

    def encode(self, table: Table, actual: Chains) -> EncodedTable[bytes]:
        """A table's keys; a chain that ``actual`` has alike is that very object.

        :raises RuleRefused: a rule or a chain's name that the kernel would not take as it is meant.
        """
        known = self._tables.get(table.id)
        if known is None:
            known = _Encoded(Table(table.id, {}, ()), EncodedTable(table.id, {}, ()), {}, self._sets.generation)
        elif known.table is table and known.generation == self._sets.generation:
            return known.keys
        indexes = dict(known.indexes)
        if known.generation != self._sets.generation:
            indexes = {name: its for name, its in indexes.items() if self._holds(its)}
        stale = known.indexes.keys() - indexes.keys()
        others = changed(known.table.chains, table.chains)
        put: dict[str, Keys] = {}
        done: _Done = {}
        for name in dict.fromkeys((*others, *stale)):
            indexes.pop(name, None)
            chain = table.chains.get(name)
            if chain is None:
                continue
            if name in known.table.chains and name not in known.indexes:
                # Of the rules of a chain most stay: a tree's node has a jump more.
                done.update(zip(map(id, known.table.chains[name].rules), known.keys.chains[name], strict=True))
            relied: dict[str, int] = {}
            keys = self._encode_rules(table.id, name, chain.rules, relied, done)
            if relied:
                indexes[name] = relied
            now = actual.get(name)
            put[name] = now if now == keys else keys
        chains = follow(known.keys.chains, put, [name for name in others if name not in table.chains])
        hooks = known.keys.hooks
        if table.hooks != known.table.hooks:
            hooks = tuple(self._encode_hook(table.id, hook) for hook in table.hooks)
        encoded = EncodedTable(table.id, chains, hooks)
        self._tables[table.id] = _Encoded(table, encoded, indexes, self._sets.generation)
        return encoded

    def chains(self, table: TableId) -> Chains:
        """The keys of a table's chains as they were handed out last."""
        known = self._tables.get(table)
        return {} if known is None else known.keys.chains

    def _holds(self, indexes: Mapping[str, int]) -> bool:
        return all(self._sets.index(name) == index for name, index in indexes.items())

    def _encode_hook(self, table: TableId, hook: Hook) -> EncodedHook[bytes]:
        return EncodedHook(hook.chain, self._encode_rules(table, hook.chain, hook.rules, {}, {}), hook.shared)

    def _encode_rules(
        self, table: TableId, chain: str, rules: tuple[Rule, ...], indexes: dict[str, int], done: "_Done"
    ) -> Keys:
        _check_name(table, chain)
        # Most rules are one object with others, which were encoded before.
        known = tuple(map(done.get, map(id, rules)))
        if all(known):
            return cast("Keys", known)
        keys = list(known)
        family, index, asked = table.family, self._index, self._asked
        asked.clear()
        try:
            for at, rule in enumerate(rules):
                if keys[at] is None:
                    keys[at] = key = encode(rule, family, index)
                    # The compiler has one object for equal rules. What relies on a set is its chain's alone.
                    if asked:
                        indexes |= asked
                        asked.clear()
                    else:
                        done[id(rule)] = key
        except ValueError as e:
            raise RuleRefused(f"{table}: a rule of {chain} cannot be: {e}") from e
        return cast("Keys", tuple(keys))

    def _index(self, name: str) -> int:
        self._asked[name] = number = self._sets.index(name)
        return number


_Done = dict[int, bytes]
"""By the identity of a rule its key, as long as one table is encoded, and the one before it is known."""


def _check_name(table: TableId, chain: str) -> None:
    if not 1 <= len(chain if chain.isascii() else encoded_name(chain)) <= MAX_CHAIN_NAME:
        raise RuleRefused(f"{table}: the chain name {chain!r} has more than {MAX_CHAIN_NAME} characters, or none")
