"""Every kind of rule comes back from the kernel byte for byte, so that nothing is repaired for ever."""

from collections.abc import Iterator

import pytest

from nova_netagent.backend import RuleRefused
from nova_netagent.backend.nft import Batch, Netlink, attributes
from nova_netagent.backend.nft.objects import Chain
from nova_netagent.backend.nftables import keys, members, notes
from nova_netagent.netfilter.rule import Conntrack, IpSet
from tests.functional.backend import nft
from tests.functional.backend.shapes import CUT, SETS, Shape, shapes
from tests.lab import isolation

OTHERS = ("other", "o" * 28)
UNSPEAKABLE = "not-state"
"""A state and a translation in one question."""
ALL = [pytest.param(shape, id=name) for name, shape in shapes() if not name.endswith(UNSPEAKABLE)]


@pytest.fixture(scope="module")
def netlink() -> Iterator[Netlink]:
    isolation.require()
    made = Netlink()
    nft.empty(made)
    for family in (4, 6):
        batch, table = Batch(), nft.table(family)
        batch.add_table(table)
        for name in (*OTHERS, "probe"):
            batch.add_chain(table, Chain(name))
        batch.add_set(table, members.set_of(IpSet(SETS[family], family, frozenset())))
        batch.add_set(table, members.set_of(IpSet(CUT[family], family, frozenset(), type="hash:ip,port,ip")))
        made.commit(batch)
    yield made
    nft.empty(made)
    made.close()


@pytest.mark.parametrize("shape", ALL)
def test_a_rule_comes_back_as_it_was_sent(netlink: Netlink, shape: Shape) -> None:
    id_, rule = shape
    table = nft.table(id_.family)
    sent = keys.key(rule, id_.family, lambda name: name)
    batch = Batch()
    batch.flush_rules(table, "probe")
    batch.add_encoded_rule(table, "probe", sent, notes.of_rule(sent, ""), what=lambda: "the rule")
    netlink.commit(batch)
    (listed,) = netlink.rules(table, "probe")
    assert keys.uncounted(listed.expressions) == sent
    assert keys.alike(sent, keys.uncounted(listed.expressions))


def test_what_cannot_be_said_is_refused() -> None:
    id_, rule = dict(shapes())[f"4-{UNSPEAKABLE}"]
    with pytest.raises(RuleRefused):
        keys.key(rule, id_.family, lambda name: name)


def test_defaults_that_a_kernel_names_besides_make_no_difference() -> None:
    """As kernels after ours may."""
    for id_, rule in dict(shapes()).values():
        if rule.matches and isinstance(rule.matches[0], Conntrack) and not rule.matches[0].inverted:
            sent = keys.key(rule, id_.family, lambda name: name)
            first = next(attributes.parse_list(sent))
            known = attributes.parse(first)
            longer = attributes.attribute(
                1, attributes.attribute(1, known[1]) + attributes.attribute(2, known[2] + attributes.number(9, 0))
            )
            rest = sent[4 + len(first) + -len(first) % 4 :]
            assert keys.alike(sent, longer + rest)
            assert not keys.alike(sent, longer.replace(attributes.number(9, 0), attributes.number(9, 1)) + rest)
            assert not keys.alike(sent, rest)
