"""Maps say what the lists of rules said that they are made from, whatever their order."""

import ipaddress
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_netagent.backend.nft import attributes
from nova_netagent.backend.nft.expressions import Nat
from nova_netagent.backend.nft.objects import interface_name, key
from nova_netagent.backend.nftables import allowances, dispatch, layout, members, translations
from nova_netagent.backend.nftables.chains import _of_its_line
from nova_netagent.backend.nftables.keys import Key
from nova_netagent.backend.nftables.keys import key as key_of
from nova_netagent.backend.nftables.laid import Laid
from nova_netagent.backend.nftables.names import BASE_CHAINS, Names
from nova_netagent.compile import Compiler
from nova_netagent.compile.dispatch import (
    AddressEntry,
    Kept,
    Way,
    Written,
    address_order,
    address_tree,
    enter_prefix,
    name_nodes,
)
from nova_netagent.model import AllowedAddressPair, values
from nova_netagent.model.lineage import beside, follow
from nova_netagent.netfilter.owner import MAX_CHAIN_NAME, Owner
from nova_netagent.netfilter.packet import Packet, matches, walk
from nova_netagent.netfilter.rule import (
    ACCEPT,
    Conntrack,
    Dnat,
    Jump,
    Physdev,
    Ports,
    Rule,
    Snat,
)
from nova_netagent.netfilter.text import BUILTIN_CHAINS
from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_network, make_rule, make_vif
from tests.unit.compile.world import make_settings, state_of

HOSTS = ("10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32")
LINKS = ("eth0", "eth1")
CALLED, ROUTED = Conntrack(frozenset({"DNAT"})), Physdev(bridged=False)

hosts = st.sampled_from(HOSTS)
snats = st.builds(
    lambda to, source, destination, link, guard: Rule(
        Snat(to), source=source, destination=destination, out_interface=link, matches=guard
    ),
    st.sampled_from(("192.0.2.1", "192.0.2.2", "192.0.2.3")),
    hosts,
    st.none() | hosts,
    st.none() | st.sampled_from(LINKS),
    st.sampled_from(((), (CALLED,), (ROUTED,))),
)
accepts = st.builds(
    lambda source, destination: Rule(ACCEPT, source=source, destination=destination),
    st.sampled_from((*HOSTS, "10.0.0.0/8")),
    st.none() | hosts,
)
PACKETS = [
    Packet(source[:-3], destination[:-3], 6, out_interface=link, states=states, physdev_out=port)
    for source, destination, link, states, port in product(
        HOSTS, (*HOSTS, "203.0.113.1/32"), LINKS, (frozenset({"NEW"}), frozenset({"NEW", "DNAT"})), (None, "tap0")
    )
]


def made(rule: Rule) -> Key:
    return translations.classified(key_of(rule, 4, lambda name: name), 4)


def decided(rules: list[Rule], packet: Packet) -> object:
    return next((rule.target for rule in rules if matches(rule, packet, {})), None)


def looked_up(laid: Laid, shapes: dict[bytes, translations.Shape], packet: Packet) -> object:
    for rule in laid.rules:
        if isinstance(rule, Key):
            if matches(rule.rule, packet, {}):
                return rule.rule.target
            continue
        shape = shapes[rule]
        if not matches(Rule(ACCEPT, matches=shape.guard), packet, {}):
            continue
        parts = [ipaddress.ip_address(packet.source).packed]
        parts += [ipaddress.ip_address(packet.destination).packed] if shape.destination else []
        parts += [interface_name(packet.out_interface or "")] if shape.interface else []
        _, elements = laid.maps[translations._map(shape, "c", 4).name]
        found = elements.get((key(parts), False))
        if found is not None and found.data is not None:
            return Snat(str(ipaddress.ip_address(found.data)))
    return None


@given(st.lists(snats | accepts, max_size=9))
def test_translations_in_maps_decide_as_their_list_does(rules: list[Rule]) -> None:
    keys = tuple(map(made, rules))
    laid = translations.lay_out(keys, "c", 4)
    shapes = {translations._lookup(each.shape, "c", 4): each.shape for each in keys if hasattr(each, "shape")}
    for packet in PACKETS:
        assert looked_up(laid, shapes, packet) == decided(rules, packet)


def test_what_asks_for_more_is_no_element() -> None:
    plain = [
        Rule(Snat("192.0.2.1"), source="10.0.0.0/8"),
        Rule(Snat("192.0.2.1"), source=HOSTS[0], protocol=6),
        Rule(Snat("192.0.2.1"), source=HOSTS[0], out_interface="eth+"),
        Rule(Snat("192.0.2.1"), source=HOSTS[0], inverted=frozenset({"source"})),
        Rule(Dnat("192.0.2.1", 80), destination=HOSTS[0], protocol=6),
        Rule(Dnat("192.0.2.1"), source=HOSTS[0], destination=HOSTS[1]),
    ]
    assert not [rule for rule in plain if isinstance(made(rule), translations.Translation)]
    element = made(Rule(Dnat("192.0.2.1"), destination=HOSTS[0]))
    assert isinstance(element, translations.Translation)
    assert element.shape.kind is Nat.DESTINATION


# --- what a group allows

ports = st.sampled_from(((80, 80), (22, 22), (80, 90), (1, 65535), (443, 443), (5000, 5010)))
allowed = st.builds(
    lambda source, protocol, destination: Rule(
        ACCEPT,
        source=source,
        protocol={"tcp": 6, "udp": 17}[protocol],
        matches=(Ports(protocol, destination=destination),),
    ),
    st.sampled_from((None, "10.0.0.0/24", "10.0.0.1/32", "10.0.0.0/31", "192.0.2.0/24")),
    st.sampled_from(("tcp", "udp")),
    ports,
)
others = st.sampled_from((Rule(ACCEPT, protocol=47), Rule(ACCEPT, source="10.0.0.2/32"), Rule(ACCEPT, protocol=6)))


@given(st.lists(allowed | others, max_size=12))
def test_what_is_in_the_set_of_a_group_is_what_its_rules_allow(rules: list[Rule]) -> None:
    keys = tuple(allowances.key(rule, 4, str, egress=False) for rule in rules)
    laid = allowances.lay_out(keys, "c", 4, str, egress=False)
    plain = [each.rule for each in laid.rules if isinstance(each, Key)]
    elements = [each for _, found in laid.maps.values() for each in found.values()]
    assert len(plain) + len(elements) == len(rules)
    assert len(elements) == 0 or len(elements) >= 3
    sources = ("10.0.0.1", "10.0.0.2", "192.0.2.9", "203.0.113.1")
    for source, protocol, port in product(sources, (6, 17), (22, 80, 85, 443, 6000)):
        packet = Packet(source, "10.1.0.1", protocol, destination_port=port)
        at = key((ipaddress.ip_address(source).packed, bytes((protocol,)), port.to_bytes(2, "big")))
        found = [each for each in elements if _is_in(at, each.key, each.end or each.key)]
        assert len(found) <= 1, "elements share no packet"
        assert bool(found) or decided(plain, packet) == ACCEPT or decided(rules, packet) is None
        assert not found or decided(rules, packet) == ACCEPT


def _is_in(at: bytes, low: bytes, high: bytes) -> bool:
    fields = ((0, 4), (4, 5), (8, 10))
    return all(low[start:end] <= at[start:end] <= high[start:end] for start, end in fields)


# --- the way to an instance

prefixes = st.tuples(st.integers(0, 63), st.sampled_from((32, 32, 32, 30, 28, 0))).map(
    lambda drawn: values.prefix(f"10.0.0.{drawn[0]}/{drawn[1]}")
)
ways = st.lists(st.tuples(prefixes, st.sampled_from(("br1", "br2"))), max_size=40, unique=True)


@given(ways, st.lists(st.integers(0, 63), max_size=8))
def test_the_maps_of_the_dispatch_lead_where_the_tree_does(
    drawn: list[tuple[values.Prefix, str]], called: list[int]
) -> None:
    owner = Owner("ours")
    entries = []
    for number, (prefix, bridge) in enumerate(drawn):
        destination = None if prefix.length == 0 else values.prefix_text(prefix)
        entries.append(AddressEntry(prefix, Rule(Jump(f"i{number}"), destination=destination, out_interface=bridge)))
    for host in sorted(set(called)):
        prefix = values.prefix(f"10.0.0.{host}/32")
        rule = Rule(Jump(f"c{host}"), destination=values.prefix_text(prefix), matches=(CALLED,))
        entries.append(AddressEntry(prefix, rule))
    tree = address_tree(sorted(entries, key=address_order), None, Kept())
    way = Way(name_nodes(tree.keys), enter_prefix, owner, Written())
    below = {name.removeprefix("ours-"): chain.rules for name, chain in way.below(tree).items()}
    chains = {"local": way.root(tree), **below}
    head = "ours-"
    keys = {
        name: tuple(dispatch.classified(key_of(rule, 4, str), 4, head, str) for rule in rules)
        for name, rules in chains.items()
    }
    assert all(layout.is_dispatched(each) for each in keys.values())
    maps, shapes = layout.entries(keys.values(), "root", 4)
    walked = {f"ours-{name}": list(rules) for name, rules in chains.items()}
    walked |= {f"i{n}": [Rule(ACCEPT)] for n in range(len(drawn))} | {f"c{host}": [Rule(ACCEPT)] for host in called}
    for host, bridge, states in product(range(0, 64, 5), ("br1", "br2", "lo"), ({"NEW"}, {"NEW", "DNAT"})):
        packet = Packet("192.0.2.1", f"10.0.0.{host}", 6, out_interface=bridge, states=frozenset(states))
        steps = walk(walked, "ours-local", packet, {}).steps
        led = [step.chain for step in steps if step.chain[:1] in "ic"]
        assert _led(maps, shapes, packet) == (led[0] if led else None)


def _led(maps: layout.Maps, shapes: dict[str, dispatch.Shape], packet: Packet) -> str | None:
    for shape, name in sorted((shape, name) for name, shape in shapes.items()):
        if not shape.interface and "DNAT" not in packet.states:
            continue
        address = int(ipaddress.ip_address(packet.destination)) >> shape.shortness << shape.shortness
        parts = [] if shape.shortness == 32 else [address.to_bytes(4, "big")]
        parts += [interface_name(packet.out_interface or "")] if shape.interface else []
        found = maps[name].get((key(parts), False))
        if found is not None and found.data is not None:
            return attributes.read_string(attributes.parse(found.data)[2])
    return None


# --- members


@given(st.sets(st.tuples(st.integers(0, 255), st.integers(0, 32)), max_size=12))
def test_the_ranges_of_a_set_hold_its_members_and_nobody_else(drawn: set[tuple[int, int]]) -> None:
    texts = {values.prefix_text(values.prefix(f"10.0.{number}.{number}/{length}")) for number, length in drawn}
    found = members.prefixes(members.elements(texts), 4)
    known = [values.prefix(each) for each in texts]
    again = [values.prefix(each) for each in found]
    assert all(any(mine.contains(each) for mine in again) for each in known)
    for other in range(0, 256, 3):
        address = values.prefix(f"10.0.{other}.{other}/32")
        assert any(each.contains(address) for each in known) == any(each.contains(address) for each in again)
    assert members.elements(found) == members.elements(texts) or len(found) != len(texts)


MEMBERS = ("10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32", "10.0.0.0/30", "10.0.0.0/31", "255.255.255.255/32", "0.0.0.0/0")
some = st.frozensets(st.sampled_from(MEMBERS))


@given(some, some)
def test_a_change_of_members_leads_where_a_new_set_would(before: frozenset[str], after: frozenset[str]) -> None:
    changed = members.change(before, after - before, before - after)
    if changed is None:
        assert any(not each.endswith("/32") for each in before | after)
        return
    held = dict(members.elements(before))
    assert not members.is_torn(held, changed)
    for each in changed[1]:
        del held[each.key, each.closes]
    held |= {(each.key, each.closes): each for each in changed[0]}
    assert held == members.elements(after)


PARTED = ("10.0.0.0/30", "10.0.0.0/31", "10.0.0.2/31", "10.0.0.1/32", "10.0.0.4/30", "10.0.0.0/29", "128.0.0.0/1")


@given(st.frozensets(st.sampled_from(PARTED)), st.frozensets(st.sampled_from(PARTED)))
def test_ranges_change_whole(before: frozenset[str], after: frozenset[str]) -> None:
    """What stays are ranges that both have; what goes and comes are ranges."""
    old, new = members.elements(before), members.elements(after)
    apart = members.apart(old, new)
    assert members.prefixes({end: each for end, each in old.items() if end not in apart}, 4) <= members.prefixes(new, 4)
    for held in (old, new):
        ends = [held[end] for end in sorted(apart & held.keys(), key=lambda end: (end[0], not end[1]))]
        assert [each.closes for each in ends] == [False, True] * (len(ends) // 2) + [False] * (len(ends) % 2)


def test_a_range_to_the_last_address_is_closed_by_nothing() -> None:
    assert len(members.elements({"0.0.0.0/0"})) == len(members.elements({"255.255.255.255/32"})) == 1
    assert members.prefixes(members.elements({"::/0"}), 6) == {"::/0"}


# --- names

CHAINS = (
    "local",
    "PREROUTING",
    "ports",
    "sg-fallback",
    "to-01234567",
    "src-01234567",
    "snat",
    "services",
    "sge-01234567",
)


@pytest.mark.parametrize("wrap_name", ["ours", "nova", "nova-filter"])
def test_every_chain_of_every_table_has_a_name_of_its_own(wrap_name: str) -> None:
    names = Names(wrap_name)
    chains = [(table, f"{wrap_name}-{name}") for table in BUILTIN_CHAINS for name in CHAINS]
    chains += [(table, name) for table, builtin in BUILTIN_CHAINS.items() for name in builtin]
    chains += [
        ("filter", "nova-filter-top"),
        ("nat", "nova-postrouting-bottom"),
        ("filter", "theirs"),
        ("nat", "theirs"),
    ]
    physical = [names.physical(*each) for each in chains]
    assert len(set(physical)) == len(physical)
    assert [names.logical(each) for each in physical] == chains
    assert {"nova-filter-top", "nova-postrouting-bottom"} <= set(physical)


def test_no_name_of_ours_is_longer_than_28_characters() -> None:
    """As on iptables; "mangle-POSTROUTING" is a base chain, and has no wrap name."""
    names = Names("fourteen-chars")
    asked = make_settings(wrap_name="fourteen-chars", egress_default="deny")
    unrouted = make_network(2, gateway=None, gateway_v6=None)
    pair = AllowedAddressPair(ip_address="10.1.0.128/25")
    instances = [make_instance(n, (1,), vifs=(make_vif(n, allowed_address_pairs=(pair,)),)) for n in range(1, 40)]
    group = make_group(1, make_rule(1), make_rule(2, direction="egress"))
    compiled = Compiler(asked).compile(state_of(make_network(), unrouted, group, *instances, make_floating_ip()))
    found = [names.physical(id_.name, name) for id_, table in compiled.ruleset.tables.items() for name in table.chains]
    assert len(found) > 150
    assert [name for name in found if len(name) > MAX_CHAIN_NAME] == []


def test_our_base_chains_come_in_the_order_of_the_tables_and_before_others() -> None:
    priority = {name: chain.hook.priority for name, chain in BASE_CHAINS.items() if chain.hook is not None}
    assert priority["raw-PREROUTING"] < priority["mangle-PREROUTING"] < priority["nat-PREROUTING"]
    assert priority["raw-OUTPUT"] < priority["mangle-OUTPUT"] < priority["nat-OUTPUT"] < priority["filter-OUTPUT"]
    assert priority["mangle-FORWARD"] < priority["filter-FORWARD"] < 0
    assert -400 < priority["raw-PREROUTING"] < -300, "after fragments are put together, before iptables' raw"
    assert priority["mangle-POSTROUTING"] < priority["nat-POSTROUTING"] < 100


def test_equal_rules_of_another_object_keep_the_line_of_versions() -> None:
    """Rules that stay while what they are there for changes; else each change would go through the whole table."""
    desired = follow(follow({}, {"a": (b"1",), "b": (b"2",)}), {"a": (bytes(bytearray(b"1")),)})
    before = beside({"a": (b"1",), "b": (b"2",)}, {"INPUT": ()})
    assert _of_its_line(before, {}, [], desired).log is desired.log  # type: ignore[attr-defined]
    other = _of_its_line(before, {"a": (b"3",)}, [], desired)
    assert other.log is not desired.log  # type: ignore[attr-defined]
    assert other["a"] == (b"3",)
