"""Tables to bytes: what is remembered, and when it is true no more."""

from typing import cast

import pytest

from nova_netagent.backend import RuleRefused
from nova_netagent.backend.iptables import entry
from nova_netagent.backend.iptables.encoder import Encoder
from nova_netagent.backend.iptables.sets import KernelSets
from nova_netagent.netfilter.rule import ACCEPT, DROP, RETURN, Chain, InSet, Physdev, Rule, Table, TableId

FILTER = TableId(4, "filter")
NAMED = Rule(ACCEPT, matches=(InSet("members", "src"),))
OTHER = Rule(ACCEPT, matches=(InSet("others", "dst"),))
PLAIN = Rule(RETURN, source="10.0.0.1/32")


class Sets:
    """The indexes of sets, as the kernel gives them."""

    def __init__(self) -> None:
        self.generation = 1
        self.indexes = {"members": 3, "others": 4}

    def index(self, name: str) -> int:
        return self.indexes[name]

    def move(self, name: str, index: int) -> None:
        """The set was destroyed and made again."""
        self.indexes[name] = index
        self.generation += 1


def table(**chains: tuple[Rule, ...]) -> Table:
    return Table(FILTER, {name: Chain(name, rules) for name, rules in chains.items()}, ())


def test_a_set_made_again_is_asked_for_again_in_each_chain_that_names_it() -> None:
    sets = Sets()
    encoder = Encoder(cast("KernelSets", sets))
    desired = table(a=(NAMED, PLAIN, OTHER), b=(PLAIN, NAMED), c=(PLAIN, OTHER), d=(PLAIN,))
    before = encoder.encode(desired, {}).chains
    sets.move("members", 7)
    after = encoder.encode(desired, {}).chains
    assert {name: after[name] is before[name] for name in after} == {"a": False, "b": False, "c": True, "d": True}
    for name, chain in desired.chains.items():
        assert after[name] == tuple(entry.encode(rule, 4, sets.index) for rule in chain.rules)


def test_a_refused_rule_leaves_nothing_behind_for_the_next_chain() -> None:
    sets = Sets()
    encoder = Encoder(cast("KernelSets", sets))
    with pytest.raises(RuleRefused, match="not an interface name"):
        encoder.encode(table(a=(Rule(DROP, matches=(*NAMED.matches, Physdev(incoming=""))),)), {})
    desired = table(b=(PLAIN, Rule(DROP)))
    before = encoder.encode(desired, {}).chains["b"]
    sets.move("members", 7)
    assert encoder.encode(desired, {}).chains["b"] is before
