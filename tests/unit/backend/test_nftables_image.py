"""What was read and is as it should be is held once, as our own objects; what is not stays as it was read."""

from functools import partial

import pytest

from nova_netagent.backend.nft.commits import Commits
from nova_netagent.backend.nft.netlink import ListedChain, ListedRule
from nova_netagent.backend.nft.objects import Element, Family, SetFlag
from nova_netagent.backend.nft.objects import TableId as NftTable
from nova_netagent.backend.nftables import keys
from nova_netagent.backend.nftables.chains import Chains
from nova_netagent.backend.nftables.commit import commit
from nova_netagent.backend.nftables.encoder import Encoder
from nova_netagent.backend.nftables.image import HeldChain, HeldSet, Image, Same, chain_of
from nova_netagent.backend.nftables.keys import COUNTER
from nova_netagent.backend.nftables.laid import STRAY
from nova_netagent.backend.nftables.mirror import Mirror
from nova_netagent.backend.nftables.names import Names
from nova_netagent.backend.nftables.transaction import Held, Transaction
from nova_netagent.netfilter.rule import ACCEPT, DROP, Chain, Conntrack, Hook, Jump, Ports, Rule, Table, TableId
from nova_netagent.plan.tables import Placement, TablePlan, plan_table

FILTER = TableId(4, "filter")
W = "ours"
GROUP, ROOT, PLAIN = f"{W}-sgi-b0000001", f"{W}-local", f"{W}-inst-a0000001"
ALLOWED, HOSTS = f"{GROUP}-allowed", f"{ROOT}-hosts"
TABLE = Table(
    FILTER,
    {
        GROUP: Chain(
            GROUP,
            tuple(
                Rule(ACCEPT, protocol=6, matches=(Ports("tcp", destination=(port, port)),)) for port in (22, 80, 443)
            ),
        ),
        PLAIN: Chain(PLAIN, (Rule(Jump(GROUP)), Rule(DROP))),
        ROOT: Chain(
            ROOT,
            tuple(
                Rule(Jump(PLAIN), destination=f"10.0.0.{host}/32", out_interface="br1", origin=("instances", "a", ""))
                for host in (1, 2)
            ),
        ),
    },
    (Hook("FORWARD", (Rule(Jump(ROOT)),)),),
)


class Agent:
    """One that encoded the table, and what its own edits left in its image."""

    def __init__(self) -> None:
        names = Names(W)
        self._encoder = Encoder(names)
        self.chains = Chains(names, self._encoder)
        self.image = self.edited(TABLE, Held({4: Image(NftTable(Family.IP, W))}))

    def edited(self, table: Table, held: Held) -> Image:
        """What there is when what is held was edited to be this table."""
        opened = Transaction(held, lambda _, __, rules: tuple(range(len(rules))))
        plan: TablePlan[bytes] = plan_table(
            self._encoder.encode(table),
            self.chains.of(FILTER, opened.held),
            owns=lambda name: name.startswith(W),
            jumps_to=lambda _: None,
            placement=Placement[bytes](str),
        )
        self.chains.edit(plan, opened)
        return opened.held.images[4]

    def listed(self) -> Image:
        """The same as it would be read from the kernel: equal, and no object of ours."""
        image = Image(self.image.table, exists=True)
        for name, chain in self.image.chains.items():
            rules = tuple(bytes(bytearray(each)) for each in chain.rules)
            image.chains[name] = HeldChain(rules, tuple(range(len(rules))))
        for name, each in self.image.sets.items():
            elements = {
                (key, closes): Element(bytes(bytearray(key)), one.end, one.data, "said beside it", closes)
                for (key, closes), one in each.elements.items()
            }
            image.sets[name] = HeldSet(elements, each.flags, each.key_size, each.data_size)
        return image


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent()


def test_what_is_as_it_should_be_is_held_once(agent: Agent) -> None:
    held = Held({4: agent.listed()})
    told = agent.chains.of(FILTER, held)
    image = held.images[4]
    assert told[PLAIN] is image.chains[PLAIN].rules
    assert told[PLAIN] is agent.image.chains[PLAIN].rules
    hooked = zip(image.chains["filter-FORWARD"].rules, agent.image.chains["filter-FORWARD"].rules, strict=True)
    assert all(one is other for one, other in hooked)
    for name in (ALLOWED, HOSTS):
        ours = agent.image.sets[name].elements
        assert ours
        assert all(image.sets[name].elements[at] is each for at, each in ours.items())
    assert image.chains[PLAIN].handles == (0, 1), "what only the kernel knows is kept"
    assert not image.differs(agent.listed())


@pytest.mark.parametrize(("name", "chain"), [(ALLOWED, GROUP), (HOSTS, ROOT)])
def test_what_lacks_an_element_stays_as_it_was_read(agent: Agent, name: str, chain: str) -> None:
    read = agent.listed()
    elements = dict(read.sets[name].elements)
    elements.pop(next(iter(elements)))
    read.sets[name] = HeldSet(elements, *_kind(read.sets[name]))
    held = Held({4: read})
    assert agent.chains.of(FILTER, held)[chain] != agent.chains.of(FILTER, Held({4: agent.listed()}))[chain]
    assert held.images[4].sets[name].elements == elements


def test_a_map_beside_the_root_that_nothing_is_in_is_seen(agent: Agent) -> None:
    read = agent.listed()
    read.sets[f"{ROOT}-nets-24"] = HeldSet({}, *_kind(read.sets[HOSTS]))
    assert STRAY in agent.chains.of(FILTER, Held({4: read}))[ROOT]


def test_after_a_restart_a_change_of_one_node_leaves_what_others_lead_to() -> None:
    """One node knows of floating IPs and the other does not: the root looks into the maps of both all the same."""
    agent = Agent()

    def table(hosts: int) -> Table:
        near = [Rule(Jump(PLAIN), destination=f"10.0.0.{host}/32", out_interface="br1") for host in range(1, hosts)]
        called = Rule(Jump(PLAIN), destination="10.0.1.1/32", matches=(Conntrack(frozenset({"DNAT"})),))
        nodes = {f"{W}-to-00000001": ("10.0.0.0/24", near), f"{W}-to-00000002": ("10.0.1.0/24", [called])}
        ways = tuple(Rule(Jump(name), destination=prefix) for name, (prefix, _) in nodes.items())
        chains = {name: Chain(name, tuple(rules)) for name, (_, rules) in nodes.items()}
        return Table(FILTER, {**TABLE.chains, ROOT: Chain(ROOT, ways), **chains}, TABLE.hooks)

    agent.image = agent.edited(table(3), Held({4: Image(NftTable(Family.IP, W))}))
    before, another = agent.image.chains[ROOT].rules, Agent()
    assert [rule for rule in before if f"{ROOT}-called-hosts".encode() in rule]
    held = Held({4: agent.listed()})
    another.edited(table(3), held)
    assert another.edited(table(4), held).chains[ROOT].rules == before


def test_what_was_told_for_a_transaction_that_edits_nothing_stays_known(agent: Agent) -> None:
    """As at a restart that finds all as it should be: the first change goes by it."""
    mirror = Mirror(W, Commits())
    mirror.held = Held({4: agent.listed()})
    opened = mirror.begin()
    told = agent.chains.of(FILTER, opened.held)
    commit(opened, mirror)
    mirror.open = None
    assert agent.chains.of(FILTER, mirror.held) is told


def test_a_listing_holds_equal_rules_and_elements_once() -> None:
    same = Same()
    listed = partial(ListedChain, hook=None, priority=0, type="", policy=1)
    asked = keys.asked(Rule(DROP, source="10.0.0.1/32"), 4)
    counted = asked + COUNTER[:24] + (7).to_bytes(8, "big") + COUNTER[32:]
    one, other = (
        chain_of(listed(name), [ListedRule(name, 1, bytes(bytearray(counted)), "said")], same) for name in ("a", "b")
    )
    assert one.rules == (asked + COUNTER,), "as if nothing was counted"
    assert one.rules[0] is other.rules[0]
    (at, first), (_, second) = (same.element(Element(b"\1", data=b"d", comment=text)) for text in ("x", "y"))
    assert first is second
    assert at == (b"\1", False)
    assert same.element(Element(b"\1", data=b"e"))[1] is not first
    assert same.element(Element(b"\1", data=b"d", closes=True))[0] == (b"\1", True)


def _kind(each: HeldSet) -> tuple[SetFlag, int, int]:
    return each.flags, each.key_size, each.data_size
