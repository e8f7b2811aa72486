"""Dispatch trees find exactly what a list would, in nodes that stay small."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from nova_netagent.compile import dispatch
from nova_netagent.compile.dispatch import LEAF, AddressEntry, DeviceEntry, Enter, Kept, Node, Written
from nova_netagent.compile.memo import InOrder, Memo
from nova_netagent.model import values
from nova_netagent.model.values import Prefix
from nova_netagent.netfilter.owner import MAX_CHAIN_NAME, Owner
from nova_netagent.netfilter.packet import Packet, walk
from nova_netagent.netfilter.rule import ACCEPT, DROP, RETURN, Family, Jump, Physdev, Rule, Target

OWNER = Owner("fourteen-chars")
PACKET = Packet("192.0.2.1", "192.0.2.2", 6, 1, 2)

Nodes = Iterator[tuple[str, tuple[Rule, ...]]]


def of_addresses(entries: Iterable[AddressEntry], kept: Kept) -> Node:
    return dispatch.address_tree(sorted(entries, key=dispatch.address_order), None, kept)


def of_devices(entries: Iterable[DeviceEntry], tail: Sequence[Rule], kept: Kept) -> Node:
    return dispatch.device_tree(sorted(entries, key=dispatch.device_order), None, kept, tail)


def address_tree(root: str, entries: Sequence[AddressEntry], owner: Owner) -> Nodes:
    return written(root, of_addresses(entries, Kept()), dispatch.enter_prefix, owner)


def device_tree(
    root: str, entries: Sequence[DeviceEntry], tail: Sequence[Rule], side: Callable[[str], Physdev], owner: Owner
) -> Nodes:
    return written(root, of_devices(entries, tail, Kept()), dispatch.enter_names(side, goto=True), owner)


def written(root: str, tree: Node, enter: Enter, owner: Owner) -> Nodes:
    """The chains of a tree by name, without the wrap name; the root first."""
    way = dispatch.Way(dispatch.name_nodes(tree.keys), enter, owner, Written())
    yield root, way.root(tree)
    for name, chain in way.below(tree).items():
        yield name.removeprefix(f"{owner.wrap_name}-"), chain.rules


thorough = settings(deadline=None, max_examples=150)

TAIL = (Rule(DROP, origin=("tail", "", "")),)
HEX = st.text("0123456789abcdef", min_size=1, max_size=8)
LETTERS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.@=-", max_size=6)
NAMES = st.one_of(
    HEX.map(lambda text: f"tap{text}"),
    st.integers(0, 300).map(lambda number: f"vnet{number}"),
    LETTERS.map(lambda text: f"t{text}"),
)


def incoming(pattern: str) -> Physdev:
    return Physdev(incoming=pattern)


def device_entry(name: str, target: Target = DROP) -> DeviceEntry:
    return DeviceEntry(name, (Rule(target, matches=(incoming(name),), origin=(name, "", "")),))


def chains_of(nodes: Sequence[tuple[str, tuple[Rule, ...]]], root: str = "local") -> Mapping[str, Sequence[Rule]]:
    """The nodes as chains, with a built-in one that leads to the root and then accepts."""
    names = [name for name, _ in nodes]
    assert len(set(names)) == len(names), "two nodes of one name"
    assert names[0] == root
    for name in names:
        assert OWNER.owns_chain(OWNER.chain(name))
        assert len(OWNER.chain(name)) <= MAX_CHAIN_NAME
    chains: dict[str, Sequence[Rule]] = {OWNER.chain(name): rules for name, rules in nodes}
    chains["FORWARD"] = (Rule(Jump(OWNER.chain(root))), Rule(ACCEPT, origin=("nobody", "", "")))
    return chains


def finds(chains: Mapping[str, Sequence[Rule]], packet: Packet) -> str:
    """Which entry a packet comes to: the id in the origin of the rule that decides."""
    walked = walk(chains, "FORWARD", packet, {})
    step = walked.decided_by
    assert step is not None
    assert step.rule.origin is not None
    return step.rule.origin[0]


# --- addresses


def address_entry(name: str, cidr: str, bridge: str = "br1") -> AddressEntry:
    to = None if cidr.endswith("/0") else cidr
    return AddressEntry(values.prefix(cidr), Rule(DROP, destination=to, out_interface=bridge, origin=(name, "", "")))


def listed(entries: Sequence[AddressEntry], destination: str, bridge: str) -> str:
    """What a list of all entries says: the longest prefix on that bridge."""
    wanted = values.prefix(destination)
    hits = [e for e in entries if e.prefix.contains(wanted) and e.rule.out_interface == bridge]
    if not hits:
        return "nobody"
    longest = max(hits, key=lambda entry: entry.prefix.length)
    assert longest.rule.origin is not None
    return longest.rule.origin[0]


@st.composite
def prefixes(draw: st.DrawFn, family: Family) -> Prefix:
    bits = 32 if family == 4 else 128
    base = 0x0A000000 if family == 4 else 0xFD << 120
    spread = draw(st.sampled_from((4, 8, 12, 16, 24)))
    value = base + draw(st.integers(0, 2**spread - 1))
    length = draw(st.sampled_from((bits, bits, bits, bits, bits - 1, bits - 4, bits - 5, bits - 8, bits - 16, 1, 0)))
    return values.prefix(f"{values.address_text(family, value)}/{length}")


@thorough
@given(st.data(), st.sampled_from((4, 6)))
def test_an_address_tree_finds_what_a_list_would(data: st.DataObject, family: Family) -> None:
    chosen = data.draw(
        st.lists(st.tuples(prefixes(family), st.sampled_from(("br1", "br1", "br1", "br2"))), unique=True, max_size=80)
    )
    entries = [address_entry(str(n), values.prefix_text(prefix), bridge) for n, (prefix, bridge) in enumerate(chosen)]
    chains = chains_of(list(address_tree("local", entries, OWNER)))
    bits = 32 if family == 4 else 128
    asked = [prefix.value for prefix, _ in chosen] + [prefix.last for prefix, _ in chosen]
    asked += [value + step for value in asked[:40] for step in (-1, 1) if 0 <= value + step < 1 << bits]
    for value in asked:
        destination = values.address_text(family, value)
        for bridge in ("br1", "br2", "eth0"):
            packet = replace(PACKET, destination=destination, source=destination, out_interface=bridge)
            assert finds(chains, packet) == listed(entries, destination, bridge)


@thorough
@given(st.sets(st.integers(0, 2**20 - 1), max_size=600), st.sampled_from((4, 6)))
def test_the_nodes_of_an_address_tree_are_small(hosts: set[int], family: Family) -> None:
    base = 0x0A000000 if family == 4 else 0xFD << 120
    entries = [address_entry(str(n), values.host(values.address_text(family, base + n))) for n in hosts]
    nodes = list(address_tree("local", entries, OWNER))
    chains_of(nodes)
    assert max(len(rules) for _, rules in nodes) <= 16
    assert sum(1 for _, rules in nodes for rule in rules if rule.origin is not None) == len(entries)


def test_a_small_hosts_tree_reads_as_novas_list_did() -> None:
    entries = [address_entry(str(n), f"10.1.0.{n}/32") for n in range(LEAF, 0, -1)]
    ((name, rules),) = address_tree("local", entries, OWNER)
    assert name == "local"
    assert [rule.destination for rule in rules] == [f"10.1.0.{n}/32" for n in range(1, LEAF + 1)]


def test_no_address_at_all_is_one_empty_node() -> None:
    assert list(address_tree("local", [], OWNER)) == [("local", ())]


def test_a_tree_does_not_depend_on_the_order_of_its_entries() -> None:
    entries = [address_entry(str(n), f"10.{n % 7}.{n}.{n}/32") for n in range(200)]
    assert list(address_tree("local", entries, OWNER)) == list(address_tree("local", entries[::-1], OWNER))


def test_a_new_address_among_others_changes_a_few_nodes_only() -> None:
    """One that lies beyond all others may shift the places where nodes part, and change them all."""
    entries = [address_entry(str(n), f"10.1.{n >> 8}.{n & 255}/32") for n in range(1000) if n != 600]
    before = dict(address_tree("local", entries, OWNER))
    after = dict(address_tree("local", [*entries, address_entry("new", "10.1.2.88/32")], OWNER))
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    assert len(changed) == 1


@thorough
@given(st.lists(st.sets(st.integers(0, 400), max_size=60), max_size=5), st.sampled_from((4, 6)))
def test_a_tree_that_is_changed_is_the_one_that_is_made_anew(steps: list[set[int]], family: Family) -> None:
    base = 0x0A000000 if family == 4 else 0xFD << 120
    grown, put_down = Kept(), Written()
    for hosts in steps:
        entries = [address_entry(str(n), values.host(values.address_text(family, base + n * n))) for n in sorted(hosts)]
        tree = of_addresses(entries, grown)
        assert tree == of_addresses(entries, Kept())
        one, other = (
            dispatch.Way(dispatch.name_nodes(tree.keys), dispatch.enter_prefix, OWNER, written)
            for written in (put_down, Written())
        )
        assert (one.root(tree), one.below(tree)) == (other.root(tree), other.below(tree))


@thorough
@given(
    st.lists(st.sets(st.integers(0, 400), min_size=30, max_size=60), max_size=4),
    st.sets(st.integers(0, 400), max_size=3),
    st.sampled_from((4, 6)),
)
def test_a_tree_that_is_told_what_changed_is_the_one_that_is_made_anew(
    steps: list[set[int]], others: set[int], family: Family
) -> None:
    base = 0x0A000000 if family == 4 else 0xFD << 120
    texts = [values.host(values.address_text(family, base + n * n)) for n in range(401)]
    entries = [(address_entry(str(n), text),) for n, text in enumerate(texts)]
    memo, kept = Memo(), Kept()
    for hosts in [each for step in steps for each in (step, step ^ others, step | others, step - others)]:
        described = {str(n): entries[n] for n in hosts}
        ordered = memo.in_order("entries", described, tuple, dispatch.address_order)
        tree = dispatch.address_tree(ordered.items, ordered.since, kept)
        assert tree == of_addresses(ordered.items, Kept())
        memo.forget_unused()


@thorough
@given(st.lists(st.sets(NAMES, min_size=30, max_size=60), max_size=4), st.sets(NAMES, max_size=3))
def test_a_tree_of_names_that_is_told_what_changed_is_the_one_that_is_made_anew(
    steps: list[set[str]], others: set[str]
) -> None:
    told = ToldTree()
    for names in [each for step in steps for each in (step, step ^ others, step | others, step - others)]:
        told.is_as_made_anew(names)


class ToldTree:
    """A tree of names that is told what came and went."""

    def __init__(self) -> None:
        self._memo, self._kept = Memo(), Kept()
        self._entries: dict[str, tuple[DeviceEntry]] = {}

    def is_as_made_anew(self, names: Iterable[str]) -> None:
        ordered = self.ordered(names)
        tree = dispatch.device_tree(ordered.items, ordered.since, self._kept, TAIL)
        assert tree == of_devices(ordered.items, TAIL, Kept())

    def ordered(self, names: Iterable[str]) -> InOrder[DeviceEntry]:
        described = {name: self._entries.setdefault(name, (device_entry(name),)) for name in names}
        found = self._memo.in_order("entries", described, tuple, dispatch.device_order)
        self._memo.forget_unused()
        return found


TAPS = frozenset(f"tap{n:03x}" for n in range(0x200))


def test_a_device_comes_that_is_named_as_all_others_begin() -> None:
    told = ToldTree()
    for names in (TAPS, {"tap", *TAPS}, TAPS):
        told.is_as_made_anew(names)


def test_a_node_that_was_gone_for_a_while_is_not_the_one_that_it_was() -> None:
    told = ToldTree()
    few = {name for name in TAPS if name.startswith("tap13")}
    longer = {f"{name}z" for name in sorted(few)[:12]}
    for names in (TAPS, TAPS - few, TAPS - few | longer):
        told.is_as_made_anew(names)


def test_what_a_tree_is_not_told_it_sees() -> None:
    told = ToldTree()
    told.is_as_made_anew(TAPS)
    told.ordered(TAPS - {"tap000"})
    told.is_as_made_anew(TAPS - {"tap000", "tap1ff"})


def test_what_is_kept_of_a_tree_is_what_it_may_be_again_and_not_much_more() -> None:
    kept = Kept()
    entries = [address_entry(str(n), f"10.1.{n >> 8}.{n & 255}/32") for n in range(1000)]
    first = of_addresses(entries, kept)
    assert of_addresses(list(entries), kept) is first
    more = of_addresses([*entries, address_entry("new", "10.1.3.240/32")], kept)
    assert sum(one is other for one, other in zip(first.below, more.below, strict=True)) == len(first.below) - 1
    of_addresses(entries[:20], kept)
    assert len(kept.grown) < 20


def test_a_thousand_addresses_are_four_comparisons_deep() -> None:
    entries = [address_entry(str(n), f"10.1.{n >> 8}.{n & 255}/32") for n in range(1000)]
    chains = chains_of(list(address_tree("local", entries, OWNER)))
    walked = walk(chains, "FORWARD", replace(PACKET, destination="10.1.3.99", out_interface="br1"), {})
    assert len(walked.steps) <= 5
    assert all(step.index < 16 for step in walked.steps)


def test_many_wider_prefixes_do_not_make_a_list() -> None:
    """Kubernetes on instances: each has an address, and its pods' range as an allowed pair."""
    hosts = [address_entry(f"host{n}", f"10.1.0.{n}/32") for n in range(200)]
    pods = [address_entry(f"pods{n}", f"10.244.{n}.0/24") for n in range(200)]
    nodes = list(address_tree("local", [*hosts, *pods], OWNER))
    assert max(len(rules) for _, rules in nodes) <= 20


# --- devices


@thorough
@given(st.sets(NAMES, max_size=80), st.booleans())
def test_a_device_tree_finds_what_a_list_would(names: set[str], with_tail: bool) -> None:
    nodes = list(
        device_tree("ports", [device_entry(name) for name in names], TAIL if with_tail else (), incoming, OWNER)
    )
    chains = chains_of(nodes, "ports")
    strangers = {name + "x" for name in names} | {name[:-1] for name in names} | {"eth0", "tap", "t", "tapx"}
    for name in names | strangers:
        expected = name if name in names else "tail" if with_tail else "nobody"
        assert finds(chains, replace(PACKET, physdev_in=name)) == expected
    assert finds(chains, PACKET) == ("tail" if with_tail else "nobody")


@thorough
@given(st.lists(st.sets(NAMES, max_size=60), max_size=5), st.booleans())
def test_a_tree_of_names_that_is_changed_is_the_one_that_is_made_anew(steps: list[set[str]], with_tail: bool) -> None:
    grown = Kept()
    for names in steps:
        entries = [device_entry(name) for name in names]
        tail = TAIL if with_tail else ()
        assert of_devices(entries, tail, grown) == of_devices(entries, tail, Kept())


@thorough
@given(st.sets(NAMES, max_size=80))
def test_a_tree_that_is_entered_by_jumps_needs_one_tail(names: set[str]) -> None:
    tree = of_devices([device_entry(name) for name in names], (), Kept())
    (root, own), *below = written("ports", tree, dispatch.enter_names(incoming, goto=False), OWNER)
    chains = chains_of([(root, (*own, *TAIL)), *below], "ports")
    for name in names | {name + "x" for name in names} | {name[:-1] for name in names} | {"eth0", "tap"}:
        assert finds(chains, replace(PACKET, physdev_in=name)) == (name if name in names else "tail")


@thorough
@given(st.sets(st.text("0123456789abcdef", min_size=8, max_size=8), max_size=400))
def test_the_nodes_of_a_device_tree_are_small(ids: set[str]) -> None:
    nodes = list(device_tree("ports", [device_entry(f"tap{text}-00") for text in ids], TAIL, incoming, OWNER))
    chains_of(nodes, "ports")
    assert max(len(rules) for _, rules in nodes) <= 17


def test_numbered_devices_stay_in_small_nodes() -> None:
    """vnet1 is a device, and the letters that vnet10 to vnet19 share."""
    nodes = list(device_tree("ports", [device_entry(f"vnet{n}") for n in range(1000)], TAIL, incoming, OWNER))
    chains_of(nodes, "ports")
    assert max(len(rules) for _, rules in nodes) <= 21


def test_return_in_a_leaf_leaves_the_whole_tree() -> None:
    """Nodes are reached by goto: neither another entry nor a tail is asked on the way back."""
    names = [f"tap{n:03x}" for n in range(300)]
    nodes = list(device_tree("ports", [device_entry(name, RETURN) for name in names], TAIL, incoming, OWNER))
    assert len(nodes) > 3
    chains = chains_of(nodes, "ports")
    for name in names:
        assert finds(chains, replace(PACKET, physdev_in=name)) == "nobody"
    assert finds(chains, replace(PACKET, physdev_in="tap999")) == "tail"


def test_every_node_ends_with_the_tail() -> None:
    nodes = list(device_tree("ports", [device_entry(f"tap{n:03x}") for n in range(300)], TAIL, incoming, OWNER))
    assert all(rules[-1:] == TAIL for _, rules in nodes)


def test_an_empty_device_tree_is_its_tail() -> None:
    assert list(device_tree("ports", [], TAIL, incoming, OWNER)) == [("ports", TAIL)]


def test_a_device_tree_does_not_depend_on_the_order_of_its_entries() -> None:
    entries = [device_entry(f"tap{n:x}") for n in range(500)]
    assert list(device_tree("ports", entries, TAIL, incoming, OWNER)) == list(
        device_tree("ports", entries[::-1], TAIL, incoming, OWNER)
    )


def test_two_nodes_never_share_a_name() -> None:
    """tap10308+ and tap11c75+ have the same first eight digits of their SHA-1.

    With 5,000 taps one host in some thousand has such a pair; and in the filter table nodes
    of addresses and of devices have the same kind of name.
    """
    names = [f"{letters}{digit}" for letters in ("tap10308", "tap11c75") for digit in "0123"]
    names += [f"{letters}{digit}0" for letters in ("tap1030", "tap11c7") for digit in "0123abcdef"]
    nodes = list(device_tree("ports", [device_entry(name) for name in names], TAIL, incoming, OWNER))
    assert all(one != other for one, other in pairwise(sorted(name for name, _ in nodes)))
