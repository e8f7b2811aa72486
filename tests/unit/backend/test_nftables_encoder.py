"""What was encoded stays the same object as long as it is the same: what changes next is known by that."""

from nova_netagent.backend.nftables import allowances
from nova_netagent.backend.nftables.encoder import Encoder
from nova_netagent.backend.nftables.names import Names
from nova_netagent.netfilter.rule import (
    ACCEPT,
    DROP,
    FAMILIES,
    Chain,
    Family,
    Jump,
    LocalAddress,
    MacSource,
    Physdev,
    Ports,
    Reject,
    Rule,
    Table,
    TableId,
)

FILTER = TableId(4, "filter")


def table(**chains: tuple[Rule, ...]) -> Table:
    return Table(FILTER, {f"W-{name}": Chain(f"W-{name}", rules) for name, rules in chains.items()}, ())


def test_a_chain_that_is_made_anew_and_says_the_same_has_not_changed() -> None:
    encoder = Encoder(Names("W"))
    before = encoder.encode(table(INPUT=(Rule(ACCEPT, protocol=6),), provider=())).chains
    after = encoder.encode(table(INPUT=(Rule(ACCEPT, protocol=6),), provider=())).chains
    assert after is before


def test_only_the_chain_that_says_something_else_is_another() -> None:
    encoder = Encoder(Names("W"))
    before = encoder.encode(table(INPUT=(Rule(ACCEPT),), FORWARD=(Rule(ACCEPT),), provider=())).chains
    after = encoder.encode(table(INPUT=(Rule(ACCEPT),), FORWARD=(Rule(DROP),), OUTPUT=())).chains
    assert after["W-INPUT"] is before["W-INPUT"]
    assert after["W-FORWARD"] != before["W-FORWARD"]
    assert list(after) == ["W-INPUT", "W-FORWARD", "W-OUTPUT"]


def test_the_same_rules_are_other_elements_in_another_family() -> None:
    rules = [Rule(ACCEPT, protocol=6, matches=(Ports("tcp", destination=(port, port)),)) for port in (22, 80, 443)]
    sizes = {}
    families: tuple[Family, ...] = (4, 6)
    for family in families:
        chain = tuple(allowances.key(rule, family, str, egress=False) for rule in rules)
        ((_, elements),) = allowances.lay_out(chain, "W-sgi-b0000001", family, str, egress=False).maps.values()
        sizes[family] = {len(each.key) for each in elements.values()}
    assert sizes == {4: {12}, 6: {24}}


def test_a_rule_of_both_families_is_encoded_once_where_it_says_the_same() -> None:
    port = Rule(DROP, in_interface="br1", matches=(Physdev(incoming="tap1"), MacSource("fa:16:3e:00:00:01")))
    rules = (port, Rule(Jump("W-provider")), Rule(Reject()), Rule(ACCEPT, matches=(LocalAddress(),)))
    chains = {"W-INPUT": Chain("W-INPUT", rules)}
    both, one = Encoder(Names("W")), Encoder(Names("W"))
    of_4, of_6 = (both.encode(Table(TableId(family, "filter"), chains, ())).chains["W-INPUT"] for family in FAMILIES)
    assert [a is b for a, b in zip(of_4, of_6, strict=True)] == [True, True, False, False]
    assert of_6 == one.encode(Table(TableId(6, "filter"), chains, ())).chains["W-INPUT"]
