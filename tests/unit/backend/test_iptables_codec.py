"""Rules to bytes and back, without a kernel."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nova_netagent.backend.iptables import entry
from nova_netagent.backend.iptables.layout import EXTENSION, LAYOUTS, OFFSETS, extension
from nova_netagent.model import values
from nova_netagent.netfilter.rule import (
    ACCEPT,
    DROP,
    RETURN,
    ChecksumFill,
    Comment,
    Conntrack,
    Dnat,
    Family,
    Icmp,
    InSet,
    Jump,
    Limit,
    LocalAddress,
    Log,
    MacSource,
    Mark,
    Match,
    MultiPort,
    Opaque,
    Physdev,
    PortRange,
    Ports,
    Redirect,
    Reject,
    Rule,
    SetMark,
    Snat,
    Target,
)

INDEXES = {"ours-4": 0, "ours-6": 7, "theirs": 300}
NAMES = {index: name for name, index in INDEXES.items()}

unhurried = settings(deadline=None)

families: st.SearchStrategy[Family] = st.sampled_from((4, 6))
ports = st.integers(0, 65535)
words = st.integers(0, 2**32 - 1)
interfaces = st.builds(
    str.__add__,
    st.text(string.ascii_letters + string.digits + "_.@=-", min_size=1, max_size=14),
    st.sampled_from(("", "+")),
)
chains = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=28)
blobs = st.integers(0, 6).flatmap(lambda count: st.binary(min_size=8 * count, max_size=8 * count))
states = st.frozensets(
    st.sampled_from(("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT")), min_size=1
)


@st.composite
def port_ranges(draw: st.DrawFn) -> PortRange:
    low, high = sorted((draw(ports), draw(ports)))
    return low, high


def narrower(ranges: st.SearchStrategy[PortRange]) -> st.SearchStrategy[PortRange | None]:
    """All ports is no condition at all, and is written as none."""
    return st.none() | ranges.filter(lambda each: each != (0, 65535))


@st.composite
def prefixes(draw: st.DrawFn, family: Family) -> str:
    bits = values.FAMILY_BITS[family]
    length = draw(st.integers(1, bits))
    return values.cidr(f"{values.address_text(family, draw(st.integers(0, 2**bits - 1)))}/{length}")


def addresses(family: Family) -> st.SearchStrategy[str]:
    return st.integers(0, 2 ** values.FAMILY_BITS[family] - 1).map(lambda n: values.address_text(family, n))


def matches(family: Family) -> st.SearchStrategy[Match]:
    return st.one_of(
        st.builds(Ports, st.sampled_from(("tcp", "udp")), narrower(port_ranges()), narrower(port_ranges())),
        st.builds(MultiPort, st.sampled_from(("source", "destination")), port_ranges()),
        st.builds(Icmp, st.integers(0, 254 if family == 4 else 255), st.none() | st.integers(0, 255)),
        st.builds(Conntrack, states, st.booleans()),
        st.builds(Physdev, st.none() | interfaces, st.none() | interfaces, st.none() | st.booleans()),
        st.builds(InSet, st.sampled_from(sorted(INDEXES)), st.sampled_from(("src", "dst"))),
        st.builds(MacSource, st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":")), st.booleans()),
        st.builds(Mark, words, words),
        st.just(LocalAddress()),
        st.builds(Limit, st.sampled_from((1, 4, 100, 10_000)), st.integers(1, 1000)),
        st.builds(Comment, st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=60)),
        st.builds(Opaque, st.sampled_from(("limit", "recent", "tcp", "hl")), st.integers(1, 9), blobs),
    )


def targets(family: Family) -> st.SearchStrategy[Target]:
    return st.one_of(
        st.sampled_from((ACCEPT, DROP, RETURN, Reject(), ChecksumFill())),
        st.builds(Jump, chains, st.booleans()),
        st.builds(Dnat, addresses(family), st.none() | ports),
        st.builds(Snat, addresses(family)),
        st.builds(Redirect, ports),
        st.builds(SetMark, words, words),
        st.builds(Log, ports, st.text(st.characters(exclude_characters="\0", codec="ascii"), min_size=1, max_size=63)),
        st.builds(Opaque, st.sampled_from(("LOG", "NFLOG", "MASQUERADE", "TCPMSS")), st.integers(0, 5), blobs),
    )


@st.composite
def rules(draw: st.DrawFn, family: Family) -> Rule:
    fields = {
        "source": draw(st.none() | prefixes(family)),
        "destination": draw(st.none() | prefixes(family)),
        "in_interface": draw(st.none() | interfaces),
        "out_interface": draw(st.none() | interfaces),
        "protocol": draw(st.none() | st.integers(1, 255)),
    }
    given_fields = [name for name, value in fields.items() if value is not None]
    return Rule(
        draw(targets(family)),
        matches=tuple(draw(st.lists(matches(family), max_size=5))),
        inverted=draw(st.frozensets(st.sampled_from(given_fields))) if given_fields else frozenset(),
        **fields,  # type: ignore[arg-type]
    )


family_and_rule = families.flatmap(lambda family: st.tuples(st.just(family), rules(family)))


def encode(rule: Rule, family: Family) -> bytes:
    return entry.encode(rule, family, INDEXES.__getitem__)


@unhurried
@given(family_and_rule)
def test_what_is_encoded_is_decoded_again(case: tuple[Family, Rule]) -> None:
    family, rule = case
    assert entry.decode(encode(rule, family), family, NAMES.get) == rule


@unhurried
@given(family_and_rule)
def test_an_entry_tells_its_family_its_jump_and_its_sets(case: tuple[Family, Rule]) -> None:
    family, rule = case
    encoded = encode(rule, family)
    assert entry.family_of(encoded) == family
    assert entry.jumps_to(encoded) == (rule.target.chain if isinstance(rule.target, Jump) else None)
    expected = [INDEXES[match.name] for match in rule.matches if isinstance(match, InSet)]
    assert list(entry.set_indexes(encoded, family)) == expected


@unhurried
@given(family_and_rule, st.data())
def test_bytes_that_somebody_else_made_are_not_lost(case: tuple[Family, Rule], data: st.DataObject) -> None:
    """Any byte of the header and of the target's data may be another one."""
    family, rule = case
    changed = bytearray(encode(rule, family))
    nfcache_at = LAYOUTS[family].nfcache_at
    target_at = OFFSETS.unpack_from(changed, nfcache_at)[1]
    places = [*range(nfcache_at), *range(target_at + EXTENSION.size, len(changed))]
    for at in data.draw(st.lists(st.sampled_from(places), max_size=4)):
        changed[at] = data.draw(st.integers(0, 255))
    decoded = entry.decode(bytes(changed), family, NAMES.get)
    assert encode(decoded, family) == changed


@unhurried
@given(
    families,
    st.sampled_from(("tcp", "udp", "multiport", "icmp", "conntrack", "physdev", "mac", "mark", "comment")),
    blobs,
)
def test_a_match_of_ours_with_strange_options_is_opaque_or_right(family: Family, name: str, blob: bytes) -> None:
    revision = {"conntrack": 3, "multiport": 1, "mark": 1}.get(name, 0)
    rule = Rule(ACCEPT, matches=(Opaque(name, revision, blob),))
    encoded = encode(rule, family)
    assert encode(entry.decode(encoded, family, NAMES.get), family) == encoded


@pytest.mark.parametrize("family", [4, 6])
def test_a_goto_without_a_jump_is_not_lost(family: Family) -> None:
    changed = bytearray(encode(Rule(Jump("x", goto=True)), family))
    changed[-8] = 0
    assert encode(entry.decode(bytes(changed), family, NAMES.get), family) == changed


def test_a_set_without_a_name_is_opaque() -> None:
    encoded = encode(Rule(ACCEPT, matches=(InSet("theirs", "src"),)), 4)
    (match,) = entry.decode(encoded, 4, lambda index: None).matches
    assert isinstance(match, Opaque)
    assert match.name == "set"


def test_prefixes_of_everything_are_no_condition_unless_inverted() -> None:
    everything = Rule(ACCEPT, source="0.0.0.0/0")
    assert encode(everything, 4) == encode(Rule(ACCEPT), 4)
    nothing = Rule(ACCEPT, source="0.0.0.0/0", inverted=frozenset({"source"}))
    assert entry.decode(encode(nothing, 4), 4, NAMES.get) == nothing


REFUSED = {
    "28 characters": Rule(Jump("x" * 29)),
    "1 to 28": Rule(Jump("")),
    "at most 255 bytes": Rule(DROP, matches=(Comment("ü" * 128),)),
    "none of them zero": Rule(DROP, matches=(Comment("a\0b"),)),
    "protocol 0": Rule(DROP, protocol=0),
    "protocol 256": Rule(DROP, protocol=256),
    "ICMP type 255": Rule(DROP, protocol=1, matches=(Icmp(255),)),
    "not an IPv4 prefix": Rule(DROP, source="2001:db8::/32"),
    "not an IPv4 address": Rule(Snat("2001:db8::1")),
    "xxx' is not an interface": Rule(DROP, in_interface="x" * 16),
    "70000|range": Rule(DROP, protocol=6, matches=(Ports("tcp", (70000, 70000)),)),
    "out of range": Rule(Redirect(70000), protocol=6),
    "ESTABLISHMENT": Rule(DROP, matches=(Conntrack(frozenset({"ESTABLISHMENT"})),)),
    "'' is not an interface": Rule(DROP, matches=(Physdev(incoming=""),)),
}


@pytest.mark.parametrize(("words", "rule"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_said_is_refused(words: str, rule: Rule) -> None:
    with pytest.raises(ValueError, match=words):
        encode(rule, 4)


def test_extensions_are_padded_to_the_kernels_alignment() -> None:
    assert len(extension(b"x", 0, b"123")) == 40
