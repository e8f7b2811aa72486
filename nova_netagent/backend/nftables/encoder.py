"""A table's rules as keys, each chain encoded once as long as it is the same object."""

from collections.abc import Mapping
from functools import partial
from typing import cast

from nova_netagent.backend.nftables import allowances, comments, dispatch, keys, translations
from nova_netagent.backend.nftables.keys import Key, Place, refuse_name
from nova_netagent.backend.nftables.kinds import Kind, kind
from nova_netagent.backend.nftables.names import Names
from nova_netagent.model.lineage import changed, follow
from nova_netagent.netfilter.rule import Chain, Family, Hook, Jump, MacSource, Physdev, Rule, Table, TableId, Verdict
from nova_netagent.plan.tables import EncodedHook, EncodedTable

Keys = tuple[bytes, ...]


class Encoder:
    """Encodes rules for the tables of one agent."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._head = f"{names.wrap_name}-"
        self._known: dict[TableId, tuple[Mapping[str, Chain], Mapping[str, Keys]]] = {}
        """By table: its chains when they were encoded last, and their keys."""
        self._done: dict[str, _Done] = {}
        """By name what of IPv4's table was encoded last, until IPv6's is: many rules are one object with its."""
        self._hooks: dict[TableId, tuple[tuple[Hook, ...], tuple[EncodedHook[bytes], ...]]] = {}
        """By table its hooks, and how they were encoded."""
        self.renamed: set[tuple[TableId, str]] = set()
        """The chains of which a rule stays and is there for something else, since somebody took them from here."""

    def encode(self, table: Table) -> EncodedTable[bytes]:
        """A table's rules as keys.

        :raises RuleRefused: a rule or a name that cannot be said.
        """
        chains, known = self._known.get(table.id, ({}, {}))
        place = partial(self._names.physical, table.id.name)
        others = changed(chains, table.chains)
        put: dict[str, Keys] = {}
        done: _Done = {}
        if table.id.family == 6:
            done = _of_both(self._done.pop(table.id.name, {}))
        for name in others:
            if name in table.chains:
                refuse_name(name)
                last = known.get(name)
                made = self._chain(table.chains[name], table.id, place, done, chains.get(name), last or ())
                if made is not last:
                    put[name] = made
        encoded = follow(known, put, [name for name in others if name not in table.chains])
        self._known[table.id] = (table.chains, encoded)
        if table.id.family == 4:
            self._done[table.id.name] = done
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
        of = kind(table.name, chain.name, self._head)
        others = done.setdefault(of, {})
        rules = chain.explained if of in _EXPLAINED else chain.rules
        found: list[bytes | None] = list(map(others.get, map(id, rules)))
        mine = {} if last is None else dict(zip(map(id, last.rules), last_keys, strict=False))
        for number, known in enumerate(found):
            if known is None:
                rule = rules[number]
                made = mine.get(id(rule)) or self._key(rule, of, table.family, place)
                found[number] = made
                if rules is chain.rules:
                    others[id(rule)] = made
        whole = tuple(cast(list[bytes], found))
        if last is not None and of not in _EXPLAINED and comments.differ(last, last_keys, chain, whole):
            self.renamed.add((table, chain.name))
            return whole
        # The same object for the same keys: a chain that the compiler made anew has not changed by that. Keys know
        # their rules, and these say what they are there for, unless the chain says it for all of them.
        same = last is not None and (last.about is None) == (chain.about is None)
        return last_keys if same and whole == last_keys else whole

    def _key(self, rule: Rule, of: Kind, family: Family, place: Place) -> Key:
        """The key of a rule in a chain of a kind."""
        match of:
            case Kind.PLAIN:
                return keys.key(rule, family, place)
            case Kind.INGRESS | Kind.EGRESS:
                return allowances.key(rule, family, place, of is Kind.EGRESS)
            case Kind.ROOT | Kind.NODE:
                return dispatch.classified(keys.key(rule, family, place), family, self._head, place)
            case Kind.TRANSLATIONS:
                return translations.classified(keys.key(rule, family, place), family)


_EXPLAINED = (Kind.ROOT, Kind.NODE, Kind.TRANSLATIONS)
"""Chains whose rules may become elements, which say themselves what they are there for."""

_OF_BOTH = (Physdev, MacSource)

_Done = dict[Kind, dict[int, bytes]]
"""By the kind of a chain and the identity of a rule its key, as long as one table is encoded."""


def _of_both(done: _Done) -> _Done:
    """Of what was encoded for IPv4 what is the same in IPv6: ports and MACs, and where they lead."""
    return {of: {id_: key for id_, key in keys_.items() if _is_of_both(key)} for of, keys_ in done.items()}


def _is_of_both(key: bytes) -> bool:
    if type(key) is not Key or not isinstance(key.rule.target, Jump | Verdict):
        return False  # what became an element says its own family's bits
    rule = key.rule
    return rule.source is rule.destination is None and all(type(each) in _OF_BOTH for each in rule.matches)
