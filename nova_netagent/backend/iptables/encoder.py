"""Tables of rules to tables of bytes, remembering what was encoded already."""

from collections.abc import Mapping
from dataclasses import dataclass

from nova_netagent.backend import RuleRefused
from nova_netagent.backend.iptables.entry import encode
from nova_netagent.backend.iptables.image import Chains, Keys
from nova_netagent.backend.iptables.layout import encoded_name
from nova_netagent.backend.iptables.sets import KernelSets
from nova_netagent.netfilter.owner import MAX_CHAIN_NAME
from nova_netagent.netfilter.rule import Chain, Hook, Rule, Table, TableId
from nova_netagent.plan import EncodedHook, EncodedTable


@dataclass(frozen=True)
class _Encoded:
    """A chain as it was encoded, and the set indexes that this relied on."""

    chain: Chain
    keys: Keys
    indexes: Mapping[str, int]


class Encoder:
    """Encodes a chain once, as long as it is the same object and its sets have the same indexes."""

    def __init__(self, sets: KernelSets) -> None:
        self._sets = sets
        self._chains: dict[TableId, dict[str, _Encoded]] = {}
        self._tables: dict[TableId, tuple[Table, int, EncodedTable[bytes]]] = {}

    def encode(self, table: Table, actual: Chains) -> EncodedTable[bytes]:
        """A table's keys; a chain that ``actual`` has alike is that very object.

        :raises RuleRefused: a rule or a chain's name that the kernel would not take as it is meant.
        """
        known = self._tables.get(table.id)
        if known is not None and known[0] is table and known[1] == self._sets.generation:
            return known[2]
        before = self._chains.get(table.id, {})
        chains = {
            name: kept
            if (kept := before.get(name)) is not None and kept.chain is chain and self._holds(kept)
            else self._encode_chain(table.id, chain, actual.get(name))
            for name, chain in table.chains.items()
        }
        hooks = tuple(self._encode_hook(table.id, hook) for hook in table.hooks)
        encoded = EncodedTable(table.id, {name: each.keys for name, each in chains.items()}, hooks)
        self._chains[table.id] = chains
        self._tables[table.id] = (table, self._sets.generation, encoded)
        return encoded

    def keys(self, table: TableId, chain: str) -> Keys | None:
        """A chain's keys as they were handed out last."""
        encoded = self._chains.get(table, {}).get(chain)
        return None if encoded is None else encoded.keys

    def _holds(self, encoded: _Encoded) -> bool:
        return all(self._sets.index(name) == index for name, index in encoded.indexes.items())

    def _encode_chain(self, table: TableId, chain: Chain, actual: Keys | None) -> _Encoded:
        _check_name(table, chain.name)
        indexes: dict[str, int] = {}
        keys = self._encode_rules(table, chain.name, chain.rules, indexes)
        return _Encoded(chain, actual if actual is not None and actual == keys else keys, indexes)

    def _encode_hook(self, table: TableId, hook: Hook) -> EncodedHook[bytes]:
        _check_name(table, hook.chain)
        return EncodedHook(hook.chain, self._encode_rules(table, hook.chain, hook.rules, {}), hook.shared)

    def _encode_rules(self, table: TableId, chain: str, rules: tuple[Rule, ...], indexes: dict[str, int]) -> Keys:
        def index(name: str) -> int:
            indexes[name] = number = self._sets.index(name)
            return number

        try:
            return tuple([encode(rule, table.family, index) for rule in rules])
        except ValueError as e:
            raise RuleRefused(f"{table}: a rule of {chain} cannot be: {e}") from e


def _check_name(table: TableId, chain: str) -> None:
    if not 1 <= len(encoded_name(chain)) <= MAX_CHAIN_NAME:
        raise RuleRefused(f"{table}: the chain name {chain!r} has more than {MAX_CHAIN_NAME} characters, or none")
