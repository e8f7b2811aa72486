"""Every kind of rule that the compiler makes, and where it may stand."""

from collections.abc import Iterator

from nova_netagent.netfilter.rule import (
    ACCEPT,
    DROP,
    FAMILIES,
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
    MultiPort,
    Physdev,
    Ports,
    Redirect,
    Reject,
    Rule,
    SetMark,
    Snat,
    TableId,
    TcpSyn,
    Zone,
)

TCP, UDP, SCTP = 6, 17, 132
SETS: dict[Family, str] = {4: "ours-4", 6: "ours-6"}
CUT: dict[Family, str] = {4: "ours-cut4", 6: "ours-cut6"}
ADDRESS = {4: "192.0.2.7", 6: "2001:db8::7"}
PREFIX = {4: "198.51.100.0/24", 6: "2001:db8:5::/48"}
HOST = {4: "192.0.2.7/32", 6: "2001:db8::7/128"}
ICMP = {4: 1, 6: 58}

Shape = tuple[TableId, Rule]


def shapes() -> Iterator[tuple[str, Shape]]:
    """Each shape by a name, for both families."""
    for family in FAMILIES:
        for table, name, rule in _all(family):
            yield f"{family}-{name}", (TableId(family, table), rule)


def _all(family: Family) -> Iterator[tuple[str, str, Rule]]:
    yield from (("filter", name, rule) for name, rule in _headers(family))
    yield from (("filter", name, rule) for name, rule in _matches(family))
    yield from _targets(family)


def _headers(family: Family) -> Iterator[tuple[str, Rule]]:
    yield "bare", Rule(ACCEPT)
    yield "source", Rule(ACCEPT, source=PREFIX[family])
    yield "hosts", Rule(DROP, source=HOST[family], destination=HOST[family])
    yield "not-source", Rule(DROP, source=HOST[family], inverted=frozenset({"source"}))
    yield "not-destination", Rule(DROP, destination=PREFIX[family], inverted=frozenset({"destination"}))
    yield "interfaces", Rule(RETURN, in_interface="br100", out_interface="eth0")
    yield "interface-prefix", Rule(RETURN, in_interface="tap+", out_interface="vlan+")
    yield "long-interface", Rule(ACCEPT, in_interface="abcdefghijklmno")
    yield (
        "not-interfaces",
        Rule(
            ACCEPT,
            in_interface="br100",
            out_interface="eth+",
            inverted=frozenset({"in_interface", "out_interface"}),
        ),
    )
    yield "protocol", Rule(ACCEPT, protocol=47)
    yield "unnamed-protocol", Rule(ACCEPT, protocol=253)
    yield "authentication-header", Rule(ACCEPT, source=HOST[family], protocol=51)
    yield "not-protocol", Rule(ACCEPT, protocol=TCP, inverted=frozenset({"protocol"}))


def _matches(family: Family) -> Iterator[tuple[str, Rule]]:
    yield "tcp-port", Rule(ACCEPT, protocol=TCP, matches=(Ports("tcp", destination=(22, 22)),))
    yield "tcp-ports", Rule(ACCEPT, protocol=TCP, matches=(Ports("tcp", (0, 1023), (1024, 65535)),))
    yield "udp-port", Rule(ACCEPT, protocol=UDP, matches=(Ports("udp", source=(53, 53)),))
    yield "udp-ports", Rule(ACCEPT, protocol=UDP, matches=(Ports("udp", (1, 2), (67, 68)),))
    yield "sctp-port", Rule(ACCEPT, protocol=SCTP, matches=(MultiPort("destination", (5000, 5000)),))
    yield "sctp-ports", Rule(ACCEPT, protocol=SCTP, matches=(MultiPort("source", (5000, 5010)),))
    yield "icmp-type", Rule(ACCEPT, protocol=ICMP[family], matches=(Icmp(8 if family == 4 else 135),))
    yield "icmp-code", Rule(ACCEPT, protocol=ICMP[family], matches=(Icmp(3, 4),))
    yield "state", Rule(ACCEPT, matches=(Conntrack(frozenset({"RELATED", "ESTABLISHED"})),))
    yield "not-state", Rule(DROP, matches=(Conntrack(frozenset({"NEW", "SNAT", "DNAT"}), inverted=True),))
    yield "untracked", Rule(DROP, matches=(Conntrack(frozenset({"INVALID", "UNTRACKED"})),))
    yield "physdev-in", Rule(ACCEPT, matches=(Physdev(incoming="tap0"),))
    yield "physdev-out", Rule(ACCEPT, matches=(Physdev(outgoing="tap0", bridged=True),))
    yield "physdev-prefix", Rule(ACCEPT, matches=(Physdev(incoming="tap+", outgoing="vnet+", bridged=True),))
    yield "bridged", Rule(ACCEPT, matches=(Physdev(bridged=True),))
    yield "not-bridged", Rule(ACCEPT, matches=(Physdev(bridged=False),))
    yield "set-source", Rule(ACCEPT, matches=(InSet(SETS[family], "src"),))
    yield "set-destination", Rule(ACCEPT, matches=(InSet(SETS[family], "dst"),))
    yield "set-client", Rule(DROP, protocol=TCP, matches=(InSet(CUT[family], "src,src,dst"),))
    yield "set-server", Rule(DROP, protocol=TCP, matches=(InSet(CUT[family], "dst,dst,src"),))
    yield "tcp-syn", Rule(ACCEPT, protocol=TCP, matches=(TcpSyn(),))
    yield "tcp-not-syn", Rule(DROP, protocol=TCP, matches=(TcpSyn(inverted=True), Conntrack(frozenset({"NEW"}))))
    yield "mac", Rule(ACCEPT, matches=(MacSource("fa:16:3e:00:aa:01"),))
    yield "not-mac", Rule(DROP, matches=(MacSource("fa:16:3e:00:aa:01", inverted=True),))
    yield "mark", Rule(ACCEPT, matches=(Mark(0x10, 0xF0),))
    yield "limit", Rule(ACCEPT, matches=(Limit(100, 100),))
    yield "limit-burst", Rule(ACCEPT, matches=(Limit(1, 5),))
    yield "local", Rule(ACCEPT, matches=(LocalAddress(),))
    yield "comment-word", Rule(ACCEPT, matches=(Comment("nova"),))
    yield "comment", Rule(ACCEPT, matches=(Comment('a "rule" of \\ somebody\'s: $x'),))
    yield "longest-comment", Rule(ACCEPT, matches=(Comment("x" * 255),))
    yield "utf8-comment", Rule(ACCEPT, matches=(Comment("grüße"),))
    yield (
        "many-matches",
        Rule(
            DROP,
            source=PREFIX[family],
            protocol=TCP,
            matches=(
                Physdev(outgoing="tap0", bridged=True),
                Ports("tcp", destination=(80, 90)),
                Conntrack(frozenset({"NEW"})),
                InSet(SETS[family], "src"),
                Comment("c"),
            ),
        ),
    )


def _targets(family: Family) -> Iterator[tuple[str, str, Rule]]:
    yield "filter", "jump", Rule(Jump("other"))
    yield "filter", "goto", Rule(Jump("other", goto=True), source=PREFIX[family])
    yield "filter", "longest-jump", Rule(Jump("o" * 28))
    yield "filter", "reject", Rule(Reject())
    yield "nat", "dnat", Rule(Dnat(ADDRESS[family]), destination=HOST[family])
    yield "nat", "dnat-port", Rule(Dnat(ADDRESS[family], 8775), protocol=TCP)
    yield "nat", "snat", Rule(Snat(ADDRESS[family]), source=PREFIX[family], out_interface="eth0")
    yield "nat", "redirect", Rule(Redirect(8775), protocol=TCP, matches=(Ports("tcp", destination=(80, 80)),))
    yield "mangle", "mark", Rule(SetMark(0x1, 0xFF))
    yield "mangle", "mark-all", Rule(SetMark(0xFFFFFFFF, 0xFFFFFFFF))
    yield "mangle", "checksum", Rule(ChecksumFill(), protocol=UDP, matches=(Ports("udp", destination=(68, 68)),))
    yield "filter", "log", Rule(Log(6400, "accept ingress 0123456789abcdef"), matches=(Limit(100, 100),))
    yield "mangle", "log-word", Rule(Log(1, "x" * 63))
    yield "raw", "zone", Rule(Zone(4711), in_interface="br100")
    yield "raw", "raw-drop", Rule(DROP, matches=(LocalAddress(),))
