"""The walk of a packet: what ipt_do_table() would do."""

import struct
from dataclasses import replace
from typing import Any

import pytest

from nova_netagent.netfilter.packet import CannotTell, Packet, Walk, chains_of, matches, walk
from nova_netagent.netfilter.rule import (
    ACCEPT,
    DROP,
    RETURN,
    Chain,
    ChecksumFill,
    Comment,
    Conntrack,
    Dnat,
    Hook,
    Icmp,
    InSet,
    IpSet,
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
    Ports,
    Redirect,
    Reject,
    Rule,
    SetMark,
    Snat,
    Table,
    TableId,
    Target,
    TcpSyn,
)

PACKET = Packet("10.1.0.2", "192.0.2.99", 6, 40000, 80, in_interface="br1", out_interface="eth0")
ANSWER = Packet("192.0.2.99", "10.1.0.2", 6, 80, 40000, opens=False)
UNKNOWN = Opaque("time", 0, b"")


def walked(**chains: tuple[Rule, ...]) -> Walk:
    return walk(chains, "FORWARD", PACKET, {})


# --- verdicts and chains


@pytest.mark.parametrize(
    ("target", "verdict"), [(ACCEPT, "ACCEPT"), (DROP, "DROP"), (RETURN, "ACCEPT"), (Reject(), "REJECT")]
)
def test_a_rule_of_the_built_in_chain_decides(target: Target, verdict: str) -> None:
    found = walked(FORWARD=(Rule(target), Rule(DROP if verdict == "ACCEPT" else ACCEPT)))
    assert found.verdict == verdict
    assert len(found.steps) == 1


def test_the_policy_decides_where_no_rule_does() -> None:
    assert walk({"FORWARD": ()}, "FORWARD", PACKET, {}, policy="DROP").verdict == "DROP"
    assert walk({"FORWARD": (Rule(RETURN),)}, "FORWARD", PACKET, {}, policy="DROP").verdict == "DROP"
    assert walk({}, "FORWARD", PACKET, {}, policy="DROP").verdict == "DROP"
    assert walk({}, "FORWARD", PACKET, {}).decided_by is None


def test_return_leads_back_behind_the_jump() -> None:
    found = walked(
        FORWARD=(Rule(Jump("a")), Rule(DROP)),
        a=(Rule(Jump("b")), Rule(Jump("c"))),
        b=(Rule(RETURN), Rule(ACCEPT)),
        c=(),
    )
    assert found.verdict == "DROP"
    assert [(step.chain, step.index) for step in found.steps] == [
        ("FORWARD", 0),
        ("a", 0),
        ("b", 0),
        ("a", 1),
        ("FORWARD", 1),
    ]


def test_goto_returns_to_where_the_chain_was_jumped_to_from() -> None:
    found = walked(FORWARD=(Rule(Jump("a")), Rule(DROP)), a=(Rule(Jump("b", goto=True)), Rule(ACCEPT)), b=())
    assert found.verdict == "DROP"
    nested = walked(FORWARD=(Rule(Jump("a", goto=True)), Rule(DROP)), a=(Rule(RETURN),))
    assert nested.verdict == "ACCEPT"  # from a built-in chain there is nowhere to return to


def test_a_rule_that_does_not_match_is_passed_by() -> None:
    found = walked(FORWARD=(Rule(DROP, protocol=17), Rule(ACCEPT)))
    assert (found.verdict, found.steps[0].index) == ("ACCEPT", 1)


def test_who_decided() -> None:
    assert walked(FORWARD=(Rule(Jump("a")),), a=(Rule(DROP),)).decided_by is not None
    logged = Rule(Log(1, "x"), matches=(Limit(1, 1),))
    for undecided in (
        (Rule(RETURN),),
        (Rule(Jump("a")),),
        (Rule(SetMark(1, 1)),),
        (Rule(ChecksumFill()),),
        (logged,),
        (),
    ):
        assert walked(FORWARD=undecided, a=()).decided_by is None
    assert walked(FORWARD=(Rule(Jump("a")), Rule(DROP, protocol=17)), a=(Rule(RETURN),)).decided_by is None
    for target in (Reject(), Snat("192.0.2.1"), Dnat("10.0.0.1"), Redirect(80), ACCEPT):
        assert walked(FORWARD=(Rule(target),)).decided_by is not None


def test_what_foreign_targets_do() -> None:
    assert walked(FORWARD=(Rule(Opaque("LOG", 0, b"")), Rule(Opaque("", 0, b"")), Rule(DROP))).verdict == "DROP"
    refused = walked(FORWARD=(Rule(Opaque("REJECT", 0, b"\x09\0\0\0")), Rule(ACCEPT)))
    assert (refused.verdict, refused.decided_by is not None) == ("REJECT", True)
    assert walked(FORWARD=(Rule(Opaque("MASQUERADE", 0, b"")), Rule(DROP))).verdict == "ACCEPT"


# --- what a walk cannot tell


def test_a_walk_does_not_guess() -> None:
    with pytest.raises(CannotTell, match="time"):
        walked(FORWARD=(Rule(ACCEPT, matches=(UNKNOWN,)),))
    with pytest.raises(CannotTell, match="NFQUEUE in FORWARD") as caught:
        walked(FORWARD=(Rule(Opaque("LOG", 0, b"")), Rule(Opaque("NFQUEUE", 0, b""))))
    assert [step.index for step in caught.value.steps] == [0, 1]
    with pytest.raises(CannotTell, match="no chain gone"):
        walked(FORWARD=(Rule(Jump("gone")),))
    with pytest.raises(CannotTell, match="no set s"):
        walked(FORWARD=(Rule(ACCEPT, matches=(InSet("s", "src"),)),))


def test_what_does_not_concern_a_packet_need_not_be_understood() -> None:
    assert walked(FORWARD=(Rule(ACCEPT, protocol=17, matches=(UNKNOWN,)), Rule(DROP))).verdict == "DROP"


# --- targets that change the packet


def test_nat_rewrites_and_ends_the_walk() -> None:
    snat = walked(FORWARD=(Rule(Snat("192.0.2.10")), Rule(DROP)))
    assert (snat.verdict, snat.packet) == ("ACCEPT", replace(PACKET, source="192.0.2.10"))
    dnat = walked(FORWARD=(Rule(Dnat("10.1.0.9")), Rule(DROP)))
    expected = replace(PACKET, destination="10.1.0.9", states=frozenset({"NEW", "DNAT"}))
    assert (dnat.verdict, dnat.packet) == ("ACCEPT", expected)
    assert walked(FORWARD=(Rule(Dnat("10.1.0.9", 22)),)).packet == replace(expected, destination_port=22)
    redirect = walked(FORWARD=(Rule(Redirect(8775)),))
    assert redirect.packet.destination_port == 8775
    assert redirect.packet.to_local_address
    assert "DNAT" in redirect.packet.states


@pytest.mark.parametrize(
    ("before", "value", "mask", "after"),
    [(0, 1, 1, 1), (5, 0, 1, 4), (0xF0, 0x3, 0xF, 0xF3), (0xFF, 0x10, 0xFF, 0x10), (0b110, 0b011, 0, 0b101)],
)
def test_a_mark_is_set_and_the_walk_goes_on(before: int, value: int, mask: int, after: int) -> None:
    """xt_mark.c: ``(mark & ~mask) ^ value``."""
    chains = {"FORWARD": (Rule(SetMark(value, mask)), Rule(ChecksumFill()), Rule(DROP))}
    found = walk(chains, "FORWARD", replace(PACKET, mark=before), {})
    assert (found.verdict, found.packet.mark) == ("DROP", after)
    assert len(found.steps) == 3


# --- headers

HEADERS: list[tuple[str, Any, Any]] = [
    ("source", "10.1.0.0/24", "10.2.0.0/24"),
    ("source", "10.1.0.2/32", "10.1.0.3/32"),
    ("destination", "192.0.2.0/24", "10.1.0.0/24"),
    ("in_interface", "br1", "br"),
    ("in_interface", "br+", "br2+"),
    ("out_interface", "eth0", "eth0+x"),
    ("out_interface", "eth0+", "eth00+"),
    ("protocol", 6, 17),
]


@pytest.mark.parametrize(("field", "hit", "miss"), HEADERS)
def test_a_header_field_must_agree_or_inverted_must_not(field: str, hit: Any, miss: Any) -> None:
    inverted = frozenset({field})
    assert matches(Rule(DROP, **{field: hit}), PACKET, {})
    assert not matches(Rule(DROP, **{field: miss}), PACKET, {})
    assert not matches(Rule(DROP, **{field: hit}, inverted=inverted), PACKET, {})
    assert matches(Rule(DROP, **{field: miss}, inverted=inverted), PACKET, {})


def test_inverting_what_is_not_asked_changes_nothing() -> None:
    assert matches(Rule(DROP, inverted=frozenset({"source"})), PACKET, {})


def test_a_packet_without_an_interface_came_by_none() -> None:
    local = replace(PACKET, in_interface=None)
    assert not matches(Rule(DROP, in_interface="br1"), local, {})
    assert matches(Rule(DROP, in_interface="br1", inverted=frozenset({"in_interface"})), local, {})


def test_families_do_not_mix() -> None:
    assert PACKET.family == 4
    six = replace(PACKET, source="fd00::1", destination="fd00::2")
    assert six.family == 6
    assert not matches(Rule(DROP, source="10.1.0.0/24"), six, {})
    assert matches(Rule(DROP, source="fd00::/64"), six, {})


# --- matches

SETS = {
    "s": IpSet("s", 4, frozenset({"10.1.0.0/30", "192.0.2.99/32"})),
    "empty": IpSet("empty", 4, frozenset()),
    "ends": IpSet("ends", 4, frozenset({"10.1.0.2,tcp:40000,192.0.2.99"}), type="hash:ip,port,ip"),
}
ICMP_PACKET = replace(PACKET, protocol=1, source_port=None, destination_port=None, icmp=(3, 4))
BRIDGED = replace(PACKET, physdev_in="tap1", physdev_out="tap2", mac_source="fa:16:3e:00:00:01")

MATCHES: list[tuple[Match, Packet, bool]] = [
    (Ports("tcp"), PACKET, True),
    (Ports("tcp", destination=(80, 80)), PACKET, True),
    (Ports("tcp", destination=(79, 81)), PACKET, True),
    (Ports("tcp", destination=(81, 90)), PACKET, False),
    (Ports("tcp", source=(40000, 40000)), PACKET, True),
    (Ports("tcp", source=(1, 9), destination=(80, 80)), PACKET, False),
    (Ports("tcp", destination=(0, 65535)), replace(PACKET, destination_port=None), False),
    (MultiPort("destination", (80, 80)), PACKET, True),
    (MultiPort("source", (80, 80)), PACKET, False),
    (MultiPort("source", (40000, 40001)), PACKET, True),
    (Icmp(3), ICMP_PACKET, True),
    (Icmp(3, 4), ICMP_PACKET, True),
    (Icmp(3, 5), ICMP_PACKET, False),
    (Icmp(4), ICMP_PACKET, False),
    (Icmp(3), PACKET, False),
    (Conntrack(frozenset({"NEW"})), PACKET, True),
    (Conntrack(frozenset({"ESTABLISHED", "NEW"})), PACKET, True),
    (Conntrack(frozenset({"ESTABLISHED"})), PACKET, False),
    (Conntrack(frozenset({"DNAT"}), inverted=True), PACKET, True),
    (Conntrack(frozenset({"DNAT"}), inverted=True), replace(PACKET, states=frozenset({"NEW", "DNAT"})), False),
    (Physdev(incoming="tap1"), BRIDGED, True),
    (Physdev(incoming="tap"), BRIDGED, False),
    (Physdev(incoming="tap+"), BRIDGED, True),
    (Physdev(incoming="tap1+"), BRIDGED, True),
    (Physdev(incoming="tap1"), PACKET, False),
    (Physdev(outgoing="tap2", bridged=True), BRIDGED, True),
    (Physdev(outgoing="tap1", bridged=True), BRIDGED, False),
    (Physdev(bridged=True), BRIDGED, True),
    (Physdev(bridged=True), PACKET, False),
    (Physdev(bridged=True), replace(BRIDGED, physdev_out=None), False),
    (Physdev(bridged=False), replace(BRIDGED, physdev_out=None), True),
    (Physdev(bridged=False), PACKET, True),
    (Physdev(bridged=False), BRIDGED, False),
    (InSet("s", "src"), PACKET, True),
    (InSet("s", "dst"), PACKET, True),
    (InSet("s", "src"), replace(PACKET, source="10.1.0.4"), False),
    (InSet("empty", "src"), PACKET, False),
    (InSet("ends", "src,src,dst"), PACKET, True),
    (InSet("ends", "dst,dst,src"), PACKET, False),
    (InSet("ends", "dst,dst,src"), ANSWER, True),
    (InSet("ends", "src,src,dst"), replace(PACKET, source_port=40001), False),
    (TcpSyn(), PACKET, True),
    (TcpSyn(), replace(PACKET, opens=False), False),
    (TcpSyn(inverted=True), PACKET, False),
    (TcpSyn(inverted=True), replace(PACKET, opens=False), True),
    (MacSource("fa:16:3e:00:00:01"), BRIDGED, True),
    (MacSource("fa:16:3e:00:00:01", inverted=True), BRIDGED, False),
    (MacSource("fa:16:3e:00:00:02", inverted=True), BRIDGED, True),
    (MacSource("fa:16:3e:00:00:01"), PACKET, False),
    (Mark(0, 0xF), PACKET, True),
    (Mark(1, 0xF), PACKET, False),
    (Mark(1, 0xF), replace(PACKET, mark=0xF1), True),
    (LocalAddress(), PACKET, False),
    (LocalAddress(), replace(PACKET, to_local_address=True), True),
    (Comment("anything"), PACKET, True),
]


@pytest.mark.parametrize(("match", "packet", "expected"), MATCHES)
def test_a_match(match: Match, packet: Packet, expected: bool) -> None:
    assert matches(Rule(DROP, matches=(match,)), packet, SETS) is expected


def test_a_packet_without_an_ethernet_header_matches_no_mac_inverted_or_not() -> None:
    """net/netfilter/xt_mac.c: mac_mt() is false before it looks at ``invert``."""
    assert not matches(Rule(DROP, matches=(MacSource("fa:16:3e:00:00:01", inverted=True),)), PACKET, {})


def test_every_match_must_agree() -> None:
    rule = Rule(DROP, matches=(Ports("tcp", destination=(80, 80)), Conntrack(frozenset({"ESTABLISHED"}))))
    assert not matches(rule, PACKET, {})
    assert matches(rule, replace(PACKET, states=frozenset({"ESTABLISHED"})), {})


def test_a_table_is_walked_as_if_nobody_else_had_any_rule() -> None:
    local = Chain("W-local", (Rule(DROP),))
    hooks = (Hook("FORWARD", (Rule(Jump("top")),)), Hook("top", (Rule(Jump("W-local")),), shared=True))
    chains = chains_of(Table(TableId(4, "filter"), {"W-local": local}, hooks))
    assert walk(chains, "FORWARD", PACKET, {}).verdict == "DROP"
    assert walk(chains, "INPUT", PACKET, {}).verdict == "ACCEPT"


def connmark(revision: int, mode: int) -> Opaque:
    """``-j CONNMARK`` as the kernel has it: of both marks their lowest byte; the second revision can shift."""
    shift = b"" if revision == 1 else bytes(2)
    return Opaque("CONNMARK", revision, struct.pack("=III", 0, 0xFF, 0xFF) + shift + bytes([mode]))


@pytest.mark.parametrize("revision", [1, 2])
@pytest.mark.parametrize(("mode", "tells"), [(0, True), (1, True), (2, False)], ids=["set", "save", "restore"])
def test_what_a_connections_mark_is_no_packet_tells(revision: int, mode: int, tells: bool) -> None:
    chains = {"FORWARD": [Rule(connmark(revision, mode))]}
    found = walk(chains, "FORWARD", replace(PACKET, mark=0x105), {}).packet
    assert found.has_mark(0x100, 0xF00) is True
    assert found.has_mark(0x200, 0xF00) is False
    assert found.has_mark(0x5, 0xF) is (True if tells else None)
    assert found.has_mark(0x105, 0xFF) is False, "no packet has what the mask takes away"
    if not tells:
        with pytest.raises(CannotTell):
            walk({"FORWARD": [Rule(DROP, matches=(Mark(0x5, 0xF),))]}, "FORWARD", found, {})
        assert found.marked(0x5, 0xF).has_mark(0x5, 0xF) is True
        assert found.marked(0x10, 0).mark == 0x100, "what cannot be told is not guessed by turning it over"


@pytest.mark.parametrize(
    ("target", "states"),
    [
        (Opaque("NOTRACK", 0, b""), {"UNTRACKED"}),
        (Opaque("CT", 2, struct.pack("=H", 1) + bytes(70)), {"UNTRACKED"}),
        (Opaque("CT", 2, bytes(72)), {"NEW"}),
    ],
    ids=["NOTRACK", "--notrack", "--helper"],
)
def test_what_shall_not_be_tracked(target: Opaque, states: set[str]) -> None:
    assert walk({"PREROUTING": [Rule(target)]}, "PREROUTING", PACKET, {}).packet.states == states
