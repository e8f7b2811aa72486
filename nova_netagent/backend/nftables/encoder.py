"""A table's rules as keys, each chain encoded once as long as it is the same object."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from nova_netagent.backend.nftables import allowances, dispatch, keys, translations
from nova_netagent.backend.nftables.keys import Key, Place, refuse_name
from nova_netagent.backend.nftables.names import FILTER, Names
from nova_netagent.model.lineage import changed, follow
from nova_netagent.netfilter.rule import Chain, Hook, Rule, Table, TableId
from nova_netagent.plan.tables import EncodedHook, EncodedTable

Keys = tuple[bytes, ...]


class Encoder:
    """Encodes rules for the tables of one agent."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._head = f"{names.wrap_name}-"
        self._known: dict[TableId, tuple[Mapping[str, Chain], Mapping[str, Keys]]] = {}
        """By table: its chains when they were encoded last, and their keys."""
        self._hooks: dict[TableId, tuple[tuple[Hook, ...], tuple[EncodedHook[bytes], ...]]] = {}
        """By table its hooks, and how they were encoded."""

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
                put[name] = self._chain(
                    table.chains[name], table.id, place, done, chains.get(name), known.get(name, ())
                )
        encoded = follow(known, put, [name for name in others if name not in table.chains])
        self._known[table.id] = (table.chains, encoded)
        of, hooks = self._hooks.get(table.id, ((), ()))
        if of is not table.hooks:
            hooks = tuple(
                EncodedHook(hook.chain, self._chain(Chain(hook.chain, hook.rules), table.id, place, done), hook.shared)
                for hook in table.hooks
            )
            self._hooks[table.id] = (table.hooks, hooks)
        return EncodedTable(table.id, encoded, hooks)

    def keys(self, table: TableId, chain: str) -> Keys | None:
        """The keys of a chain as they were encoded last."""
        known = self.chains(table).get(chain)
        if known is not None:
            return known
        _, hooks = self._hooks.get(table, ((), ()))
        return next((hook.keys for hook in hooks if hook.chain == chain), None)

    def chains(self, table: TableId) -> Mapping[str, Keys]:
        """Every chain of ours as it was encoded last."""
        return self._known[table][1] if table in self._known else {}

    def chain(self, table: TableId, name: str) -> Chain:
        """A chain of ours as it was encoded last: it says what its rules are there for."""
        return self._known[table][0][name]

    def _chain(
        self,
        chain: Chain,
        table: TableId,
        place: Place,
        done: "_Done",
        last: Chain | None = None,
        last_keys: Keys = (),
    ) -> Keys:
        """A chain's keys.

        :param done: what was encoded of other chains: the compiler has one object for equal rules.
        :param last: what it was when it was encoded last, and its keys then.
        """
        kind, rules, key = self._way(chain, table, place)
        mine = {} if last is None else dict(zip(map(id, last.rules), last_keys, strict=False))
        others = done.setdefault(kind, {})
        found: list[bytes] = []
        for rule in rules:
            made = mine.get(id(rule)) or others.get(id(rule))
            if made is None:
                made = key(rule)
                if rules is chain.rules:
                    others[id(rule)] = made
            found.append(made)
        return tuple(found)

    def _way(self, chain: Chain, table: TableId, place: Place) -> tuple[str, Sequence[Rule], Callable[[Rule], Key]]:
        """Of what kind a chain is, its rules, and what makes a key of one."""
        name, family, head = chain.name, table.family, self._head
        if allowances.has_set(name, head):
            egress = allowances.is_egress(name, head)
            return (
                "egress" if egress else "ingress",
                chain.rules,
                lambda rule: allowances.key(rule, family, place, egress),
            )
        if table.name == FILTER and (dispatch.is_root(name, head) or dispatch.is_node(name, head)):
            return (
                "dispatch",
                chain.explained,
                lambda rule: dispatch.classified(keys.key(rule, family, place), family, head, place),
            )
        if table.name == "nat" and translations.has_maps(name, head):
            return (
                "translations",
                chain.explained,
                lambda rule: translations.classified(keys.key(rule, family, place), family),
            )
        return "plain", chain.rules, lambda rule: keys.key(rule, family, place)


_Done = dict[str, dict[int, bytes]]
"""By the kind of a chain and the identity of a rule its key, as long as one table is encoded."""
