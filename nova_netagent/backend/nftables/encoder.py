"""A table's rules as keys, each chain encoded once as long as it is the same object."""

from collections.abc import Mapping
from functools import partial

from nova_netagent.backend.nftables import allowances, dispatch, keys, translations
from nova_netagent.backend.nftables.keys import Key, Place, refuse_name
from nova_netagent.backend.nftables.names import FILTER, Names
from nova_netagent.model.lineage import changed, follow
from nova_netagent.netfilter.rule import Chain, Table, TableId
from nova_netagent.plan.tables import EncodedHook, EncodedTable

Keys = tuple[bytes, ...]


class Encoder:
    """Encodes rules for the tables of one agent."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._head = f"{names.wrap_name}-"
        self._known: dict[TableId, tuple[Mapping[str, Chain], Mapping[str, Keys]]] = {}
        """By table: its chains when they were encoded last, and their keys."""
        self._hooks: dict[TableId, tuple[EncodedHook[bytes], ...]] = {}

    def encode(self, table: Table) -> EncodedTable[bytes]:
        """A table's rules as keys.

        :raises RuleRefused: a rule or a name that cannot be said.
        """
        chains, known = self._known.get(table.id, ({}, {}))
        place = partial(self._names.physical, table.id.name)
        others = changed(chains, table.chains)
        put = {}
        done: _Done = {}
        for name in others:
            if name in table.chains:
                refuse_name(name)
                put[name] = self._chain(table.chains[name], table.id, place, done)
        encoded = follow(known, put, [name for name in others if name not in table.chains])
        self._known[table.id] = (table.chains, encoded)
        hooks = tuple(
            EncodedHook(hook.chain, self._chain(Chain(hook.chain, hook.rules), table.id, place, done), hook.shared)
            for hook in table.hooks
        )
        self._hooks[table.id] = hooks
        return EncodedTable(table.id, encoded, hooks)

    def keys(self, table: TableId, chain: str) -> Keys | None:
        """The keys of a chain as they were encoded last."""
        known = self.chains(table).get(chain)
        if known is not None:
            return known
        return next((hook.keys for hook in self._hooks.get(table, ()) if hook.chain == chain), None)

    def chains(self, table: TableId) -> Mapping[str, Keys]:
        """Every chain of ours as it was encoded last."""
        return self._known[table][1] if table in self._known else {}

    def chain(self, table: TableId, name: str) -> Chain:
        """A chain of ours as it was encoded last: it says what its rules are there for."""
        return self._known[table][0][name]

    def _chain(self, chain: Chain, table: TableId, place: Place, done: "_Done") -> Keys:
        name, family = chain.name, table.family
        if table.name == FILTER and (dispatch.is_root(name, self._head) or dispatch.is_node(name, self._head)):
            made = (keys.key(rule, family, place) for rule in chain.explained)
            return tuple(dispatch.classified(each, family, self._head, place) for each in made)
        if allowances.has_set(name, self._head):
            egress = allowances.is_egress(name, self._head)
            return tuple(allowances.key(rule, family, place, egress) for rule in chain.explained)
        if table.name == "nat" and translations.has_maps(name, self._head):
            return tuple(translations.classified(keys.key(rule, family, place), family) for rule in chain.explained)
        # The compiler has one object for equal rules.
        found = []
        for rule in chain.rules:
            known = done.get(id(rule))
            if known is None:
                known = done[id(rule)] = keys.key(rule, family, place)
            found.append(known)
        return tuple(found)


_Done = dict[int, Key]
"""By the identity of a rule its key, as long as one table is encoded."""
