"""Rules as iptables-save(8) writes them: one golden line for each shape that we make."""

from typing import Any

import pytest

from nova_netagent.netfilter.rule import (
    ACCEPT,
    DROP,
    RETURN,
    Chain,
    ChecksumFill,
    Comment,
    Conntrack,
    Dnat,
    Family,
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
    MultiPort,
    Opaque,
    Physdev,
    Ports,
    Redirect,
    Reject,
    Rule,
    Ruleset,
    SetMark,
    Snat,
    Table,
    TableId,
    Target,
    TcpSyn,
    Zone,
)
from nova_netagent.netfilter.text import protocol_text, rule_text, ruleset_text, set_lines, table_lines

REPLIES = Conntrack(frozenset({"ESTABLISHED", "RELATED"}))

LINES: list[tuple[str, Rule]] = [
    ("-j ACCEPT", Rule(ACCEPT)),
    ("-j DROP", Rule(DROP)),
    ("-j RETURN", Rule(RETURN)),
    ("-j W-local", Rule(Jump("W-local"))),
    ("-g W-local", Rule(Jump("W-local", goto=True))),
    ("-s 10.0.0.0/24 -d 10.1.0.2/32 -j DROP", Rule(DROP, source="10.0.0.0/24", destination="10.1.0.2/32")),
    ("-i br1 -o eth0 -j ACCEPT", Rule(ACCEPT, in_interface="br1", out_interface="eth0")),
    (
        "-s 10.0.0.0/24 -d 10.1.0.2/32 -i br1 -o tap+ -p tcp -j DROP",
        Rule(DROP, "10.0.0.0/24", "10.1.0.2/32", "br1", "tap+", 6),
    ),
    (
        "! -s 10.0.0.0/24 ! -d 10.1.0.2/32 ! -i br1 ! -o eth0 ! -p udp -j DROP",
        Rule(
            DROP,
            "10.0.0.0/24",
            "10.1.0.2/32",
            "br1",
            "eth0",
            17,
            inverted=frozenset({"source", "destination", "in_interface", "out_interface", "protocol"}),
        ),
    ),
    ("-p tcp -m tcp --dport 22 -j ACCEPT", Rule(ACCEPT, protocol=6, matches=(Ports("tcp", destination=(22, 22)),))),
    ("-p tcp -m tcp --sport 1:9 -j ACCEPT", Rule(ACCEPT, protocol=6, matches=(Ports("tcp", source=(1, 9)),))),
    (
        "-p udp -m udp --sport 68 --dport 67:69 -j ACCEPT",
        Rule(ACCEPT, protocol=17, matches=(Ports("udp", (68, 68), (67, 69)),)),
    ),
    (
        "-p sctp -m multiport --dports 5:9 -j ACCEPT",
        Rule(ACCEPT, protocol=132, matches=(MultiPort("destination", (5, 9)),)),
    ),
    (
        "-p udplite -m multiport --sports 5 -m multiport --dports 7 -j ACCEPT",
        Rule(ACCEPT, protocol=136, matches=(MultiPort("source", (5, 5)), MultiPort("destination", (7, 7)))),
    ),
    ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", Rule(ACCEPT, matches=(REPLIES,))),
    ("-m conntrack ! --ctstate DNAT -j ACCEPT", Rule(ACCEPT, matches=(Conntrack(frozenset({"DNAT"}), inverted=True),))),
    (
        "-m conntrack --ctstate INVALID,NEW,UNTRACKED -j DROP",
        Rule(DROP, matches=(Conntrack(frozenset({"NEW", "UNTRACKED", "INVALID"})),)),
    ),
    ("-m physdev --physdev-in tap1 -j DROP", Rule(DROP, matches=(Physdev(incoming="tap1"),))),
    (
        "-m physdev --physdev-out tap1+ --physdev-is-bridged -j DROP",
        Rule(DROP, matches=(Physdev(outgoing="tap1+", bridged=True),)),
    ),
    ("-m physdev ! --physdev-is-bridged -j DROP", Rule(DROP, matches=(Physdev(bridged=False),))),
    ("-m set --match-set W-g4-01234567 src -j ACCEPT", Rule(ACCEPT, matches=(InSet("W-g4-01234567", "src"),))),
    ("-m set --match-set W-cut4 src,src,dst -j DROP", Rule(DROP, matches=(InSet("W-cut4", "src,src,dst"),))),
    ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP", Rule(DROP, protocol=6, matches=(TcpSyn(),))),
    (
        "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",
        Rule(DROP, protocol=6, matches=(TcpSyn(inverted=True),)),
    ),
    ("-i br1 -j CT --zone 7", Rule(Zone(7), in_interface="br1")),
    ("-m set --match-set W-g6-01234567 dst -j ACCEPT", Rule(ACCEPT, matches=(InSet("W-g6-01234567", "dst"),))),
    ("-m mac --mac-source fa:16:3e:00:00:01 -j RETURN", Rule(RETURN, matches=(MacSource("fa:16:3e:00:00:01"),))),
    (
        "-m mac ! --mac-source fa:16:3e:00:00:01 -j DROP",
        Rule(DROP, matches=(MacSource("fa:16:3e:00:00:01", inverted=True),)),
    ),
    ("-m mark --mark 0x10/0x30 -j ACCEPT", Rule(ACCEPT, matches=(Mark(0x10, 0x30),))),
    ("-m addrtype --dst-type LOCAL -j ACCEPT", Rule(ACCEPT, matches=(LocalAddress(),))),
    ("-m limit --limit 100/sec -j ACCEPT", Rule(ACCEPT, matches=(Limit(100, 5),))),
    (
        '-m limit --limit 100/sec --limit-burst 100 -j NFLOG --nflog-prefix "drop ingress 0123" --nflog-group 6400',
        Rule(Log(6400, "drop ingress 0123"), matches=(Limit(100, 100),)),
    ),
    ("-m comment --comment plain_1-2 -j DROP", Rule(DROP, matches=(Comment("plain_1-2"),))),
    ('-m comment --comment "" -j DROP', Rule(DROP, matches=(Comment(""),))),
    ('-m comment --comment "two words" -j DROP', Rule(DROP, matches=(Comment("two words"),))),
    (r'-m comment --comment "a\"b\\c\'d" -j DROP', Rule(DROP, matches=(Comment("a\"b\\c'd"),))),
    ("-m time (revision 1, not ours) -j DROP", Rule(DROP, matches=(Opaque("time", 1, b"x"),))),
    ("-j SNAT --to-source 192.0.2.10", Rule(Snat("192.0.2.10"))),
    ("-j DNAT --to-destination 10.1.0.2", Rule(Dnat("10.1.0.2"))),
    ("-j DNAT --to-destination 10.1.0.2:8775", Rule(Dnat("10.1.0.2", 8775))),
    ("-j REDIRECT --to-ports 8775", Rule(Redirect(8775))),
    ("-j MARK --set-xmark 0x10/0x30", Rule(SetMark(0x10, 0x30))),
    ("-j CHECKSUM --checksum-fill", Rule(ChecksumFill())),
    ("-j LOG (revision 0, not ours)", Rule(Opaque("LOG", 0, b""))),
]


@pytest.mark.parametrize(("line", "rule"), LINES, ids=[line for line, _ in LINES])
def test_a_rule_reads_as_iptables_save_writes_it(line: str, rule: Rule) -> None:
    assert rule_text(rule, 4) == line


BY_FAMILY: list[tuple[Any, str, str]] = [
    (Icmp(8), "-p icmp -m icmp --icmp-type 8 -j DROP", "-p ipv6-icmp -m icmp6 --icmpv6-type 8 -j DROP"),
    (Icmp(3, 4), "-p icmp -m icmp --icmp-type 3/4 -j DROP", "-p ipv6-icmp -m icmp6 --icmpv6-type 3/4 -j DROP"),
    (Icmp(0, 0), "-p icmp -m icmp --icmp-type 0/0 -j DROP", "-p ipv6-icmp -m icmp6 --icmpv6-type 0/0 -j DROP"),
]


@pytest.mark.parametrize(("match", "ipv4", "ipv6"), BY_FAMILY)
def test_icmp_reads_by_family(match: Icmp, ipv4: str, ipv6: str) -> None:
    assert rule_text(Rule(DROP, protocol=1, matches=(match,)), 4) == ipv4
    assert rule_text(Rule(DROP, protocol=58, matches=(match,)), 6) == ipv6


@pytest.mark.parametrize(
    ("target", "family", "text"),
    [
        (Reject(), 4, "-j REJECT --reject-with icmp-port-unreachable"),
        (Reject(), 6, "-j REJECT --reject-with icmp6-port-unreachable"),
        (Dnat("fd00::1"), 6, "-j DNAT --to-destination fd00::1"),
        (Dnat("fd00::1", 80), 6, "-j DNAT --to-destination [fd00::1]:80"),
        (Snat("fd00::1"), 6, "-j SNAT --to-source fd00::1"),
    ],
)
def test_targets_read_by_family(target: Target, family: Family, text: str) -> None:
    assert rule_text(Rule(target), family) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "icmp"), (4, "ipencap"), (6, "tcp"), (17, "udp"), (41, "ipv6"), (58, "ipv6-icmp"), (113, "113"), (200, "200")],
)
def test_protocols_read_by_the_names_of_the_host(number: int, text: str) -> None:
    assert protocol_text(number) == text


def test_the_origin_of_a_rule_is_no_part_of_its_text() -> None:
    assert rule_text(Rule(DROP, origin=("instances", "x", "y")), 4) == "-j DROP"


def test_a_family_reads_sets_first_and_ipv4_comes_before_ipv6() -> None:
    def table(family: Family) -> Table:
        return Table(
            TableId(family, "filter"),
            {
                "W-local": Chain("W-local", (Rule(ACCEPT, matches=(InSet(f"W-g{family}-00000001", "src"),)),)),
                "W-FORWARD": Chain("W-FORWARD", ()),
            },
            (
                Hook("FORWARD", (Rule(Jump("nova-filter-top")), Rule(Jump("W-FORWARD")))),
                Hook("nova-filter-top", (Rule(Jump("W-local")),), shared=True),
            ),
        )

    sets = {
        "W-g6-00000001": IpSet("W-g6-00000001", 6, frozenset({"fd00::2/128"})),
        "W-g4-00000001": IpSet("W-g4-00000001", 4, frozenset({"10.0.0.2/32", "10.0.0.0/30"})),
    }
    ruleset = Ruleset({each.id: each for each in (table(6), table(4))}, sets)

    def lines(family: int) -> str:
        return f"""\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:W-FORWARD - [0:0]
:W-local - [0:0]
:nova-filter-top - [0:0]
-A FORWARD -j nova-filter-top
-A FORWARD -j W-FORWARD
-A nova-filter-top -j W-local
-A W-local -m set --match-set W-g{family}-00000001 src -j ACCEPT
COMMIT
"""

    assert ruleset_text(ruleset) == (
        "# iptables\n"
        "# ipset create W-g4-00000001 hash:net family inet\n"
        "# ipset add W-g4-00000001 10.0.0.0/30\n"
        "# ipset add W-g4-00000001 10.0.0.2/32\n"
        f"{lines(4)}"
        "# ip6tables\n"
        "# ipset create W-g6-00000001 hash:net family inet6\n"
        "# ipset add W-g6-00000001 fd00::2/128\n"
        f"{lines(6)}"
    )
    assert ruleset_text(ruleset).endswith(ruleset_text(ruleset, [6]))
    assert ruleset_text(ruleset).startswith(ruleset_text(ruleset, [4]))


def test_what_no_set_of_the_kernel_holds_is_said_as_its_halves() -> None:
    members = frozenset({"0.0.0.0/0", "128.0.0.0/1", "10.0.0.0/8"})
    assert list(set_lines([IpSet("W-g4", 4, members)])) == [
        "create W-g4 hash:net family inet",
        "add W-g4 0.0.0.0/1",
        "add W-g4 10.0.0.0/8",
        "add W-g4 128.0.0.0/1",
    ]


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("raw", ["PREROUTING", "OUTPUT"]),
        ("mangle", ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]),
        ("nat", ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
        ("filter", ["INPUT", "FORWARD", "OUTPUT"]),
    ],
)
def test_a_table_names_its_built_in_chains(name: str, builtin: list[str]) -> None:
    lines = list(table_lines(Table(TableId(4, name), {}, ())))
    assert lines == [f"*{name}", *(f":{chain} ACCEPT [0:0]" for chain in builtin), "COMMIT"]


def test_an_empty_ruleset_is_no_text() -> None:
    assert ruleset_text(Ruleset({}, {})).strip() == ""


def test_table_ids_sort_and_read() -> None:
    ids = [TableId(6, "filter"), TableId(4, "nat"), TableId(4, "filter")]
    assert [str(id_) for id_ in sorted(ids)] == ["IPv4 filter", "IPv4 nat", "IPv6 filter"]
