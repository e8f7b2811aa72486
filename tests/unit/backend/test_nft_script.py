"""Rules, sets and tables in nft's words, read off what would be sent."""

import sys

import pytest

from nova_netagent.backend.nft import Batch, attributes, expressions
from nova_netagent.backend.nft import objects as nft
from nova_netagent.backend.nft.expressions import Base, Compare, Ct, Expression, Meta, Verdict
from nova_netagent.backend.nft.objects import BaseHook, Chain, Element, Set
from nova_netagent.backend.nft.script import contents, script_lines
from nova_netagent.backend.nft.script.elements import element_lines
from nova_netagent.backend.nft.script.rules import Words, words
from nova_netagent.backend.nftables import keys, members
from nova_netagent.netfilter.rule import (
    ACCEPT,
    DROP,
    RETURN,
    ChecksumFill,
    Conntrack,
    Dnat,
    Family,
    Icmp,
    InSet,
    IpSet,
    Jump,
    Limit,
    LocalAddress,
    Log,
    MacSource,
    Mark,
    MultiPort,
    Physdev,
    Ports,
    Redirect,
    Reject,
    Rule,
    SetMark,
    Snat,
    TcpSyn,
    Zone,
)

FAMILIES: dict[Family, nft.Family] = {4: nft.Family.IP, 6: nft.Family.IP6}
TABLE = nft.TableId(nft.Family.IP, "W")
TCP, UDP = 6, 17
ADDRESS = expressions.payload(Base.NETWORK, 12, 4)
MARK = expressions.meta(Meta.MARK)
NOTHING = expressions.compare(Compare.EQUAL, bytes(4))


def said(rule: Rule, family: Family = 4) -> Words:
    return words(keys.key(rule, family, lambda name: name), FAMILIES[family])


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule(ACCEPT), "counter accept"),
        (Rule(RETURN, source="10.0.0.0/8"), "ip saddr 10.0.0.0/8 counter return"),
        (Rule(DROP, destination="10.0.0.7/32"), "ip daddr 10.0.0.7 counter drop"),
        (Rule(DROP, source="10.0.128.0/17"), "ip saddr 10.0.128.0/17 counter drop"),
        (
            Rule(DROP, source="10.1.0.0/16", inverted=frozenset({"source"})),
            "ip saddr != 10.1.0.0/16 counter drop",
        ),
        (Rule(ACCEPT, in_interface="br1", out_interface="tap+"), 'iifname "br1" oifname "tap*" counter accept'),
        (
            Rule(ACCEPT, in_interface="abcdefghijklmno", inverted=frozenset({"in_interface"})),
            'iifname != "abcdefghijklmno" counter accept',
        ),
        (Rule(ACCEPT, protocol=47), "meta l4proto gre counter accept"),
        (Rule(ACCEPT, protocol=253), "meta l4proto 253 counter accept"),
        (Rule(ACCEPT, protocol=TCP, inverted=frozenset({"protocol"})), "meta l4proto != tcp counter accept"),
        (Rule(ACCEPT, protocol=TCP), "meta l4proto tcp counter accept"),
        (Rule(ACCEPT, protocol=TCP, matches=(Ports("tcp", destination=(22, 22)),)), "tcp dport 22 counter accept"),
        (
            Rule(ACCEPT, protocol=UDP, matches=(Ports("udp", (53, 53), (1024, 65535)),)),
            "udp sport 53 udp dport 1024-65535 counter accept",
        ),
        (
            Rule(ACCEPT, protocol=132, matches=(MultiPort("destination", (5, 9)),)),
            "sctp dport 5-9 counter accept",
        ),
        (
            Rule(ACCEPT, protocol=TCP, matches=(Conntrack(frozenset({"NEW"})), Ports("tcp", destination=(22, 22)))),
            "meta l4proto tcp ct state new tcp dport 22 counter accept",
        ),
        (Rule(ACCEPT, protocol=1, matches=(Icmp(8),)), "icmp type echo-request counter accept"),
        (Rule(ACCEPT, protocol=1, matches=(Icmp(5, 1),)), "icmp type redirect icmp code 1 counter accept"),
        (Rule(ACCEPT, protocol=1, matches=(Icmp(200),)), "icmp type 200 counter accept"),
        (
            Rule(ACCEPT, matches=(Conntrack(frozenset({"RELATED", "ESTABLISHED"})),)),
            "ct state established,related counter accept",
        ),
        (Rule(DROP, matches=(Conntrack(frozenset({"NEW"}), inverted=True),)), "ct state ! new counter drop"),
        (Rule(DROP, matches=(Conntrack(frozenset({"DNAT"})),)), "ct status dnat counter drop"),
        (Rule(DROP, matches=(Conntrack(frozenset({"DNAT"}), inverted=True),)), "ct status ! dnat counter drop"),
        (Rule(ACCEPT, matches=(InSet("W-g4-1", "src"),)), "ip saddr @W-g4-1 counter accept"),
        (
            Rule(DROP, matches=(InSet("W-cut4", "dst,dst,src"),)),
            "ip daddr . th dport . ip saddr @W-cut4 counter drop",
        ),
        (
            Rule(DROP, protocol=TCP, matches=(InSet("W-cut4", "src,src,dst"),)),
            "ip saddr . tcp sport . ip daddr @W-cut4 counter drop",
        ),
        (Rule(DROP, protocol=TCP, matches=(TcpSyn(),)), "tcp flags syn / fin,syn,rst,ack counter drop"),
        (Rule(DROP, protocol=TCP, matches=(TcpSyn(inverted=True),)), "tcp flags != syn / fin,syn,rst,ack counter drop"),
        (
            Rule(DROP, matches=(MacSource("fa:16:3e:00:00:01", inverted=True),)),
            "ether saddr != fa:16:3e:00:00:01 counter drop",
        ),
        (Rule(ACCEPT, matches=(Mark(0x10, 0xF0),)), "meta mark & 0x000000f0 == 0x00000010 counter accept"),
        (
            Rule(ACCEPT, matches=(Limit(100, 5),)),
            "limit rate 100/second counter accept",
        ),
        (
            Rule(ACCEPT, matches=(Limit(100, 100),)),
            "limit rate 100/second burst 100 packets counter accept",
        ),
        (Rule(ACCEPT, matches=(LocalAddress(),)), "fib daddr type local counter accept"),
        (Rule(Jump("W-a")), "counter jump W-a"),
        (Rule(Jump("W-a", goto=True)), "counter goto W-a"),
        (Rule(Reject()), "counter reject"),
        (Rule(Dnat("10.0.0.1")), "counter dnat to 10.0.0.1"),
        (Rule(Dnat("10.0.0.1", 8775)), "counter dnat to 10.0.0.1:8775"),
        (Rule(Snat("10.0.0.1")), "counter snat to 10.0.0.1"),
        (Rule(Redirect(80)), "counter redirect to :80"),
        (Rule(SetMark(0x10, 0x10)), "counter meta mark set meta mark | 0x00000010"),
        (Rule(SetMark(0, 0x10)), "counter meta mark set meta mark & 0xffffffef"),
        (Rule(SetMark(0x10, 0xFF)), "counter meta mark set meta mark & 0xffffff10 | 0x00000010"),
        (Rule(Zone(7)), "counter ct zone set 7"),
        (Rule(Log(6400, "drop ingress 1")), 'counter log prefix "drop ingress 1" group 6400'),
        (Rule(ChecksumFill()), "counter"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_rule_is_said_as_nft_lists_it(rule: Rule, text: str) -> None:
    assert said(rule) == Words(text, loads=True)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule(DROP, source="fe80::/10"), "ip6 saddr fe80::/10 counter drop"),
        (Rule(DROP, source="fd00::/64"), "ip6 saddr fd00::/64 counter drop"),
        (Rule(DROP, destination="fd00::1/128"), "ip6 daddr fd00::1 counter drop"),
        (Rule(ACCEPT, protocol=58, matches=(Icmp(136),)), "icmpv6 type nd-neighbor-advert counter accept"),
        (Rule(Dnat("fd00::1", 80)), "counter dnat to [fd00::1]:80"),
        (Rule(Dnat("fd00::1")), "counter dnat to fd00::1"),
        (Rule(Reject()), "counter reject"),
    ],
)
def test_a_rule_of_ipv6(rule: Rule, text: str) -> None:
    assert said(rule, 6) == Words(text, loads=True)


def test_what_nft_has_no_words_for_is_no_part_of_a_script() -> None:
    port = Rule(DROP, source="10.0.0.7/32", matches=(Physdev(incoming="tap1"), MacSource("fa:16:3e:00:00:01")))
    expected = "ip saddr 10.0.0.7 xt match physdev ether saddr fa:16:3e:00:00:01 counter drop"
    assert said(port) == Words(expected, loads=False)


def test_an_expression_that_nobody_knows_is_no_part_of_a_script() -> None:
    unknown = attributes.attribute(1, attributes.string(1, "quota"))
    assert words(unknown + keys.key(Rule(DROP), 4, str), nft.Family.IP) == Words("(quota) counter drop", loads=False)
    for bad in (Rule(Reject()), Rule(DROP, source="10.0.0.0/8")):
        assert not words(keys.key(bad, 4, str), nft.Family.IP6).loads  # what it means there is something else


@pytest.mark.parametrize(
    "asked",
    [
        (ADDRESS, expressions.mask(b"\xff\x00\xff\x00"), NOTHING),
        (ADDRESS, expressions.mask(b"\xff\x00\x00\x00", flip=b"\1\0\0\0"), NOTHING),
        (ADDRESS, expressions.compare(Compare.AT_MOST, bytes(4))),
        (ADDRESS, expressions.compare(Compare.AT_LEAST, bytes(4))),
        (expressions.payload(Base.NETWORK, 8, 1), expressions.compare(Compare.EQUAL, b"\x40")),
        (MARK, expressions.mask(bytes(4)), expressions.lookup("W-marks")),
        (expressions.ct(Ct.STATE), expressions.mask(b"\2\0\0\0"), expressions.compare(Compare.EQUAL, b"\2\0\0\0")),
        (MARK, expressions.set_meta(Meta.MARK)),
        (expressions.load(b"\0\7"), expressions.set_ct(Ct.STATUS)),
        (expressions.load(bytes(4)), expressions.lookup("W-set")),
        (expressions.load(bytes(4)), NOTHING),
    ],
)
def test_what_no_rule_of_ours_asks_is_not_guessed_at(asked: tuple[Expression, ...]) -> None:
    listed = expressions.encode((*asked, expressions.verdict(Verdict.DROP)))
    assert not words(listed, nft.Family.IP).loads


def test_bits_that_turn_over_are_no_bits_that_are_set() -> None:
    turned = expressions.mask((0xFFFFFFF0).to_bytes(4, sys.byteorder), flip=(0x11).to_bytes(4, sys.byteorder))
    listed = expressions.encode((MARK, turned, expressions.set_meta(Meta.MARK)))
    said = "meta mark set meta mark & 0xfffffff1 ^ 0x00000010 | 0x00000001"
    assert words(listed, nft.Family.IP) == Words(said, loads=True)


def test_a_comment_ends_the_rule() -> None:
    assert words(keys.key(Rule(DROP), 4, str), nft.Family.IP, "its own").text == 'counter drop comment "its own"'


@pytest.mark.parametrize(
    ("prefixes", "text"),
    [
        (["10.0.0.2/32", "10.0.0.4/30"], ["10.0.0.2", "10.0.0.4/30"]),
        (["0.0.0.0/0"], ["0.0.0.0/0"]),
        (["255.255.255.0/24"], ["255.255.255.0/24"]),
        (["10.0.0.0/24", "10.0.1.0/24"], ["10.0.0.0/24", "10.0.1.0/24"]),
        (["fd00::/64", "fd01::1/128"], ["fd00::/64", "fd01::1"]),
    ],
)
def test_ranges_are_said_as_prefixes(prefixes: list[str], text: list[str]) -> None:
    family: Family = 6 if ":" in prefixes[0] else 4
    elements = list(members.elements(prefixes).values())
    assert list(element_lines(members.described("W-g", family), elements)) == text


def test_a_range_that_is_no_prefix() -> None:
    low, after = (bytes((10, 0, 0, last)) for last in (1, 4))
    elements = [Element(low), Element(after, closes=True)]
    assert list(element_lines(members.described("W-g", 4), elements)) == ["10.0.0.1-10.0.0.3"]


def test_tables_are_said_as_nft_lists_them() -> None:
    batch = Batch()
    batch.add_table(TABLE, "whose it is")
    batch.add_chain(TABLE, Chain("W-a", comment="what for"))
    batch.add_chain(TABLE, Chain("filter-FORWARD", BaseHook(2, -5)))
    leads = Set("W-map", (nft.IPV4_ADDRESS, nft.INTERFACE_NAME), nft.VERDICT, comment="where to")
    batch.add_set(TABLE, members.set_of(IpSet("W-cut4", 4, frozenset(), type="hash:ip,port,ip")))
    batch.add_set(TABLE, leads)
    key = nft.key((bytes((10, 0, 0, 1)), nft.interface_name("br1")))
    verdict = attributes.number(1, -3) + attributes.string(2, "W-a")
    other = nft.key((bytes((10, 0, 0, 2)), nft.interface_name("br2")))
    batch.add_elements(TABLE, leads, [Element(key, data=verdict, comment="of one"), Element(other, data=verdict)])
    for rule in (Rule(Jump("W-a")), Rule(DROP, matches=(Physdev(incoming="tap1"),))):
        batch.add_encoded_rule(TABLE, "filter-FORWARD", keys.key(rule, 4, str), what=str)
    assert list(script_lines(contents(batch))) == [
        "# incomplete for nft -f: rules that only netlink can say stand as comments (1)",
        "table ip W {",
        '\tcomment "whose it is"',
        "\tset W-cut4 {",
        "\t\ttype ipv4_addr . inet_service . ipv4_addr",
        "\t\tsize 65536",
        "\t\ttimeout 5d",
        '\t\tcomment "TCP that was cut: here, port, peer"',
        "\t}",
        "",
        "\tmap W-map {",
        "\t\ttype ipv4_addr . ifname : verdict",
        '\t\tcomment "where to"',
        '\t\telements = { 10.0.0.1 . "br1" comment "of one" : jump W-a,',
        '\t\t\t     10.0.0.2 . "br2" : jump W-a }',
        "\t}",
        "",
        "\tchain W-a {",
        '\t\tcomment "what for"',
        "\t}",
        "",
        "\tchain filter-FORWARD {",
        "\t\ttype filter hook forward priority filter - 5; policy accept;",
        "\t\tcounter jump W-a",
        "\t\t# not for nft -f: xt match physdev counter drop",
        "\t}",
        "}",
    ]


@pytest.mark.parametrize(
    ("hook", "text"),
    [
        (BaseHook(0, -305), "type filter hook prerouting priority raw - 5; policy accept;"),
        (BaseHook(0, -105, "nat"), "type nat hook prerouting priority dstnat - 5; policy accept;"),
        (BaseHook(3, -105, "nat"), "type nat hook output priority -105; policy accept;"),
        (BaseHook(4, 100, "nat"), "type nat hook postrouting priority srcnat; policy accept;"),
        (BaseHook(1, 61), "type filter hook input priority 61; policy accept;"),
        (BaseHook(1, 60), "type filter hook input priority security + 10; policy accept;"),
    ],
)
def test_priorities_have_names(hook: BaseHook, text: str) -> None:
    batch = Batch()
    batch.add_chain(TABLE, Chain("c", hook))
    assert f"\t\t{text}" in script_lines(contents(batch))


def test_a_name_that_nft_does_not_take_is_told() -> None:
    batch = Batch()
    batch.add_table(nft.TableId(nft.Family.IP, "7th"))
    first, *_ = script_lines(contents(batch))
    assert first == "# nothing for nft -f: it takes no table whose name begins like 7th"


def test_what_takes_something_away_makes_no_tables() -> None:
    batch = Batch()
    batch.delete_table(TABLE)
    with pytest.raises(ValueError, match="makes nothing"):
        contents(batch)
