"""The chains that are always there, and our jumps in the built-in and the shared chains.

The layout is nova's (linux_net.py, IptablesManager), with two hooks more: raw PREROUTING,
where a vif's own addresses are proved before connection tracking, and mangle PREROUTING,
where what instances may send is judged before any NAT.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache

from nova_netagent.compile import egress, ingress, source
from nova_netagent.compile.parts import Placed, Scope
from nova_netagent.netfilter.owner import FILTER_TOP, POSTROUTING_BOTTOM, Owner
from nova_netagent.netfilter.rule import Hook, Jump, Rule

CHAINS: Mapping[str, tuple[str, ...]] = {
    "filter": ("INPUT", "FORWARD", "OUTPUT", "local", "ports", "provider"),
    "nat": ("PREROUTING", "OUTPUT", "POSTROUTING", "snat", "float-snat"),
    "mangle": ("PREROUTING", "POSTROUTING"),
    "raw": ("PREROUTING", "senders", "ports"),
}
TABLES = tuple(CHAINS)


@lru_cache(64)
def hooks(table: str, owner: Owner) -> tuple[Hook, ...]:
    """Our rules in the chains of a table that are not ours alone."""
    return tuple(_hooks(table, owner))


def _hooks(table: str, owner: Owner) -> Iterator[Hook]:
    def jumps(*chains: str) -> tuple[Rule, ...]:
        return tuple(Rule(Jump(chain)) for chain in chains)

    match table:
        case "filter":
            yield Hook("INPUT", jumps(owner.chain("INPUT")))
            yield Hook("FORWARD", jumps(FILTER_TOP, owner.chain("FORWARD")))
            yield Hook("OUTPUT", jumps(FILTER_TOP, owner.chain("OUTPUT")))
            yield Hook(FILTER_TOP, jumps(owner.chain("local")), shared=True)
        case "nat":
            yield Hook("PREROUTING", jumps(owner.chain("PREROUTING")))
            yield Hook("OUTPUT", jumps(owner.chain("OUTPUT")))
            yield Hook("POSTROUTING", jumps(owner.chain("POSTROUTING"), POSTROUTING_BOTTOM))
            yield Hook(POSTROUTING_BOTTOM, jumps(owner.chain("snat")), shared=True)
        case "mangle":
            yield Hook("PREROUTING", jumps(owner.chain("PREROUTING")))
            yield Hook("POSTROUTING", jumps(owner.chain("POSTROUTING")))
        case "raw":
            yield Hook("PREROUTING", jumps(owner.chain("PREROUTING")))


def place(scope: Scope, placed: Placed) -> None:
    """The chains that are always there, with the rules that never change."""
    for family in scope.families:
        for table, names in CHAINS.items():
            for name in names:
                placed.add(family, table, scope.chain(name))
        for name, rules in ingress.shared_chains(family, scope):
            placed.add(family, "filter", scope.chain(name), *rules)
        for name, rules in egress.shared_chains(family, scope):
            placed.add(family, "mangle", scope.chain(name), *rules)
        for name, rules in source.shared_chains(family, scope):
            placed.add(family, "raw", scope.chain(name), *rules)
        placed.add(family, "nat", scope.chain("snat"), Rule(Jump(scope.chain("float-snat"))))
