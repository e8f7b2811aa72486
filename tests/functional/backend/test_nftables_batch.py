"""A transaction knows its messages: which one the kernel refuses, how long they are, and that it may be sent again."""

from collections.abc import Iterator

import pytest

from nova_netagent.backend import RuleRefused, TableChanged
from nova_netagent.backend.nft import Batch, Netlink
from nova_netagent.backend.nft.objects import INET_SERVICE, Chain, Element, Set
from nova_netagent.backend.nft.userdata import element_comment, rule_comment
from nova_netagent.backend.nftables import keys
from nova_netagent.netfilter.rule import ACCEPT, Jump, Rule
from tests.functional.backend import nft
from tests.lab import isolation

TABLE = nft.table(4)
RULES = [Rule(ACCEPT, source=f"192.0.2.{number}/32") for number in range(5)]


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    isolation.require()
    made = Netlink()
    nft.empty(made)
    yield made
    nft.empty(made)
    made.close()


def batch_of(*chains: tuple[str, list[Rule]]) -> Batch:
    batch = Batch()
    batch.add_table(TABLE)
    for name, _ in chains:
        batch.add_chain(TABLE, Chain(name, comment="a chain's own"))
    for name, rules in chains:
        encoded = [keys.key(rule, 4, str) for rule in rules]
        notes = [b"", *(rule_comment(f"rule {number}") for number in range(1, len(rules)))]
        batch.add_encoded_rules(TABLE, name, encoded, notes, lambda number, name=name: f"rule {number} of {name}")  # type: ignore[misc]
    return batch


@pytest.mark.parametrize("at", [0, 3, 4])
def test_of_rules_that_were_added_together_the_refused_one_is_told(netlink: Netlink, at: int) -> None:
    rules = [*RULES]
    rules[at] = Rule(Jump("nowhere"))
    batch = batch_of(("before", RULES), ("chain", rules), ("after", RULES))
    with pytest.raises((RuleRefused, TableChanged), match=f"ip rule {at} of chain: "):
        netlink.commit(batch)
    assert netlink.chains(TABLE) == []


def test_of_thousands_of_rules_the_refused_one_is_told(netlink: Netlink, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept on several pages."""
    monkeypatch.setattr("nova_netagent.backend.nft.batch._PAGE", 1 << 16)
    chains = [(f"chain{number}", RULES) for number in range(500)]
    chains[400] = ("chain400", [*RULES[:2], Rule(Jump("nowhere"))])
    with pytest.raises((RuleRefused, TableChanged), match="ip rule 2 of chain400: "):
        netlink.commit(batch_of(*chains))
    chains[400] = ("chain400", RULES)
    netlink.commit(batch_of(*chains))
    assert len(netlink.rules(TABLE)) == 500 * len(RULES)


def test_of_elements_that_were_added_together_the_refused_one_is_told(netlink: Netlink) -> None:
    batch = batch_of(("chain", RULES))
    described = Set("ports", (INET_SERVICE,))
    batch.add_set(TABLE, described)
    elements = [Element(number.to_bytes(2, "big")) for number in range(5)] + [Element(b"too long")]
    batch.add_elements(TABLE, described, elements, [element_comment(f"port {number}") for number in range(6)])
    with pytest.raises(RuleRefused, match="ip add to set ports: 74:6f: "):
        netlink.commit(batch)


def test_what_was_refused_on_another_generation_is_sent_again_as_it_is(netlink: Netlink) -> None:
    batch = batch_of(("chain", RULES), ("other", RULES))
    generation = netlink.generation()
    with pytest.raises(TableChanged):
        netlink.commit(batch, generation=generation + 1)
    netlink.commit(batch, generation=generation)
    for name in ("chain", "other"):
        listed = netlink.rules(TABLE, name)
        assert [keys.uncounted(each.expressions) for each in listed] == [keys.key(rule, 4, str) for rule in RULES]
        assert [each.comment for each in listed] == [None, "rule 1", "rule 2", "rule 3", "rule 4"]
    assert netlink.generation() == generation + 1
