"""Where a table's chains are in our one table of nf_tables, which has raw, mangle, nat and filter in it.

A chain keeps its name. Where several tables have a chain of one name it is filter's (nat's,
if filter has none), and the others have their table's first letter in it: mangle's ``W-ports`` is
``W-m-ports``. With that, too, none is longer than 28 characters, as on iptables. What are built-in
chains there are base chains here: ``filter-FORWARD``.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from msgspec import Struct

from nova_netagent.backend.nft.objects import BaseHook, Chain
from nova_netagent.netfilter.hooks import HOOKS, priority
from nova_netagent.netfilter.owner import FILTER_TOP, POSTROUTING_BOTTOM
from nova_netagent.netfilter.text import BUILTIN_CHAINS

FILTER = "filter"
OTHERS = tuple(name for name in BUILTIN_CHAINS if name != FILTER)
_BY_LETTER = {name[0]: name for name in BUILTIN_CHAINS}

_OWN = re.compile(
    r"(?:(?P<nat>PREROUTING|POSTROUTING|snat|float-snat)"
    r"|(?P<mangle>egress-ok|egress-done|services|(?:out|sge|lge)-[0-9a-f]{8})"
    r"|(?P<raw>senders|no-server|unspecified|zones|src-[0-9a-f]{8}))\Z"
)
_SHARED = {FILTER_TOP: FILTER, POSTROUTING_BOTTOM: "nat"}
"""The chains without a wrap name, and their tables; with the wrap name ``nova`` they would look wrapped."""
BEFORE_OTHERS = 5
"""So far before the priority at which iptables has the table, and most other programs theirs."""


class Names(Struct, frozen=True):
    """The names of the chains of one agent, by its wrap name."""

    wrap_name: str

    def physical(self, table: str, chain: str) -> str:
        """The name in nf_tables of a table's chain."""
        return _physical(f"{self.wrap_name}-", table, chain)

    def logical(self, physical: str) -> tuple[str, str]:
        """The table and the name of a chain in it; what is not ours counts as filter's."""
        return _logical(f"{self.wrap_name}-", physical)

    def known(self, physical: str) -> bool:
        """Whether a chain, set or map of our tables is called as ours are."""
        return physical in BASE_CHAINS or physical in _SHARED or physical.startswith(f"{self.wrap_name}-")


@lru_cache(1 << 10)
def _logical(head: str, physical: str) -> tuple[str, str]:
    if physical in BASE_CHAINS:
        table, _, chain = physical.partition("-")
        return table, chain
    if physical in _SHARED:
        return _SHARED[physical], physical
    if not physical.startswith(head):
        table, dot, name = physical.partition(".")
        return (table, name) if dot and table in OTHERS else (FILTER, physical)
    letter, dash, name = physical.removeprefix(head).partition("-")
    if dash and letter in _BY_LETTER:
        return _BY_LETTER[letter], head + name
    return _owner(physical.removeprefix(head)), physical


@lru_cache(1 << 15)
def _physical(head: str, table: str, chain: str) -> str:
    if chain in BUILTIN_CHAINS[table]:
        return f"{table}-{chain}"
    if _SHARED.get(chain) == table:
        return chain
    if not chain.startswith(head):
        return chain if table == FILTER else f"{table}.{chain}"
    name = chain.removeprefix(head)
    return chain if table == _owner(name) else f"{head}{table[0]}-{name}"


def _owner(name: str) -> str:
    """The table that has a chain of ours under its plain name."""
    found = _OWN.match(name)
    return FILTER if found is None or found.lastgroup is None else found.lastgroup


def _base_chain(table: str, chain: str) -> Chain:
    # What the host sends has to find its way anew when its mark changes.
    type_ = "nat" if table == "nat" else "route" if (table, chain) == ("mangle", "OUTPUT") else "filter"
    return Chain(f"{table}-{chain}", BaseHook(HOOKS.index(chain), priority(table, chain) - BEFORE_OTHERS, type_))


BASE_CHAINS: Mapping[str, Chain] = {
    f"{table}-{chain}": _base_chain(table, chain) for table, chains in BUILTIN_CHAINS.items() for chain in chains
}
"""By name; they hook in just before the priority of iptables' table of the same name."""
