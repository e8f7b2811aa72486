"""explain, beside rules of other programs in nf_tables: it says what the kernel does by them."""

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_rule
from tests.functional.agent.meeting import met_alone
from tests.functional.agent.nft import W, nft
from tests.functional.agent.site import Site
from tests.functional.agent.test_explain import asked
from tests.functional.conftest import ON_NFTABLES
from tests.lab import Icmp, Namespace, Tcp, Udp, arrives, needs
from tests.lab.probes import IpProbe

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

HOOKS = {"prerouting": -310, "input": 10, "forward": 10, "output": -310, "postrouting": 10}
OPEN = [make_rule(1), make_rule(2, ethertype="IPv6")]

ASKED = (
    "ip saddr 192.0.2.1",
    "ip saddr 10.0.0.0/8",
    "ip saddr != 10.0.0.0/12",
    "ip daddr 10.1.0.2",
    "ip daddr { 10.1.0.2, 10.1.0.3 }",
    "ip daddr != { 10.1.0.0/24, 192.0.2.0/30 }",
    "ip daddr @nets",
    "ip6 daddr fd00:1::/64",
    "ip6 saddr { 2001:db8::/32, fd00:1::3 }",
    "meta nfproto ipv6",
    "meta l4proto tcp",
    "meta l4proto { icmp, ipv6-icmp }",
    "ip protocol udp",
    "tcp dport 80",
    "tcp dport != 80",
    "tcp dport { 22, 80-90 }",
    "tcp dport 1-79",
    "tcp sport 1024-65535",
    "tcp sport < 1024",
    "udp dport { 53, 80 }",
    "th dport 80",
    "tcp flags syn",
    "tcp flags & (syn | ack) == syn",
    "icmp type echo-request",
    "icmpv6 type echo-request",
    "ct state new",
    "ct state established,related",
    "ct state != established",
    "ct state invalid",
    "ct direction original",
    "ct status dnat",
    "ip saddr . tcp dport { 192.0.2.1 . 80, 10.1.0.3 . 80 }",
    "ip daddr . meta l4proto . th dport { 10.1.0.0/24 . tcp . 80-81 }",
    'iifname "br1"',
    'iifname "br*"',
    'iifname != "eth0"',
    "iif lo",
    'oifname "br1"',
    'oifname { "br1", "br2" }',
    "meta mark 0x7",
    "meta mark and 0xff == 0",
    "fib daddr type local",
    "fib daddr type { unicast, local }",
    "fib saddr . iif oif missing",
    "fib saddr type local",
    "meta pkttype host",
    "ip saddr 192.0.2.1 ip daddr 10.1.0.2 tcp dport 80 ct state new",
)
"""What rules ask: each stands at every hook, and only counts."""
ROUTED_BACK = "fib saddr . iif oif missing"
"""What the kernel lets nobody ask of a packet that leaves."""


def asked_at(hook: str) -> list[str]:
    """What is asked at a hook, in order."""
    return [each for each in ASKED if each != ROUTED_BACK or hook in ("prerouting", "input", "forward")]


@pytest.fixture(scope="module")
def asking(site: Site) -> Iterator[Site]:
    """A host where all of that is asked, and two instances that everything may reach."""
    site.describe(make_group(1, *OPEN), make_instance(1, (1,)), make_instance(2, (1,)), make_floating_ip(1))
    chains = [
        f"chain {hook} {{ type filter hook {hook} priority {priority};\n}}\nchain at-{hook} {{\n"
        + "\n".join(f"{each} counter" for each in asked_at(hook))
        + "\n}"
        for hook, priority in HOOKS.items()
    ]
    sets = "set nets { type ipv4_addr; flags interval; elements = { 10.1.0.0/24, 192.0.2.0/25 }\n}"
    nft(site.host, "table inet other {", sets, *chains, "}")
    yield site
    nft(site.host, "delete table inet other")


@pytest.mark.parametrize(
    ("sender", "receiver", "probe"),
    [
        ("outside", "vm1", Tcp(80)),
        ("outside", "vm1", Udp(53)),
        ("outside", "vm1", Icmp()),
        ("outside", "vm1", Tcp(80, to="198.51.100.1")),
        ("vm2", "vm1", Tcp(80)),
        ("vm1", "outside", Tcp(22)),
        ("outside", "vm1", Tcp(80, family=6)),
        ("outside", "vm1", Icmp(family=6)),
        ("host", "vm1", Udp(80)),
    ],
    ids=str,
)
def test_the_same_rules_hold_as_in_the_kernel(asking: Site, sender: str, receiver: str, probe: IpProbe) -> None:
    site = asking
    machines: tuple[Namespace, Namespace] = (getattr(site, sender), getattr(site, receiver))
    probe = site.addressed(*machines, probe)
    packet, alone = met_alone(site, *machines, probe)
    nft(site.host, *(f"flush chain inet other {hook}" for hook in HOOKS))
    nft(site.host, *(f"add rule inet other {hook} {alone} jump at-{hook}" for hook in HOOKS))
    before = hits(site)
    assert arrives(*machines, probe)
    kernel = {key for key, count in hits(site).items() if count > before.get(key, 0)}
    found = site.agent.explain(asked(site, *machines, probe))
    said = {(rule["chain"], rule["number"] - 1) for rule in found["rules"] if rule["chain"].startswith("at-")}
    doubted = {(each["rule"]["chain"], each["rule"]["number"] - 1) for each in found["doubts"]}
    told = {(chain, asked_at(chain.removeprefix("at-"))[at]) for chain, at in said}
    assert told == {(chain, asked_at(chain.removeprefix("at-"))[at]) for chain, at in kernel - doubted}, found
    untold = ("iif", "th dport") if packet.icmp else ("iif",)
    for chain, at in doubted:
        assert any(each in asked_at(chain.removeprefix("at-"))[at] for each in untold), (chain, at)
    assert found["verdict"] == "ACCEPT"


def hits(site: Site) -> dict[tuple[str, int], int]:
    """By chain and place, what the rules counted so far."""
    listed = json.loads(site.host.run(["nft", "-j", "list", "table", "inet", "other"]).stdout)["nftables"]
    found: dict[tuple[str, int], int] = {}
    at: Counter[str] = Counter()
    for each in listed:
        if "rule" in each and each["rule"]["chain"].startswith("at-"):
            chain = each["rule"]["chain"]
            (packets,) = [part["counter"]["packets"] for part in each["rule"]["expr"] if "counter" in part]
            found[chain, at[chain]] = packets
            at[chain] += 1
    return found


@ON_NFTABLES
def test_what_the_kernel_counts_together_is_no_zero(site: Site) -> None:
    """What became an element shows what the rule counted that looks it up; the dispatch counts nothing."""
    ports = [make_rule(n, protocol="tcp", port_range_min=p, port_range_max=p) for n, p in ((1, 80), (2, 443), (3, 22))]
    site.describe(make_group(1, *ports), make_instance(1, (1,)), make_floating_ip(1))
    for probe in (Tcp(80), Tcp(443), Tcp(443), Tcp(22, to="198.51.100.1")):
        site.forget_flows()
        assert site.passes(site.outside, site.vm1, probe)
    live = site.agent.request("GET", "/v1/chains")[1]["chains"]
    counted = {
        (each["family"], each["table"], each["chain"].removeprefix(f"{W}-")): [
            (rule["packets"], rule["together"]) for rule in each["rules"]
        ]
        for each in live
        if each["chain"].startswith(W)
    }
    assert counted[4, "filter", "sgi-b0000001"] == [(None, 4)] * 3
    assert any(packets is None and together for packets, together in counted[4, "nat", "PREROUTING"])
    assert (None, None) in counted[4, "filter", "local"]
    assert all(packets is not None for packets, _ in counted[4, "filter", "inst-a0000001"])
    found = site.agent.explain({"proto": "tcp", "src": "192.0.2.1:4000", "dst": "10.1.0.2:80"})
    allowed = next(each for each in found["rules"] if each["chain"] == "nova-netagent-sgi-b0000001")
    assert (allowed["packets"], allowed["together"]) == (None, 4)
    assert all(each["packets"] != 0 for each in found["rules"] if each["owner"]["ours"]), found["rules"]


@pytest.mark.parametrize("table", [pytest.param(f"ip {W}", marks=ON_NFTABLES), f"inet {W}"])
def test_who_hooks_into_a_table_of_our_name_is_asked_as_well(site: Site, table: str) -> None:
    site.describe(make_group(1, *OPEN), make_instance(1, (1,)))
    nft(
        site.host,
        f"add table {table}",
        f"add chain {table} theirs-too",
        f"add rule {table} theirs-too tcp dport 81 drop",
        f"add chain {table} theirs {{ type filter hook forward priority 10; }}",
        f"add rule {table} theirs jump theirs-too",
    )
    try:
        for port, verdict in ((80, "ACCEPT"), (81, "DROP")):
            probe = site.addressed(site.outside, site.vm1, Tcp(port))
            assert bool(arrives(site.outside, site.vm1, probe)) == (verdict == "ACCEPT")
            assert site.agent.explain(asked(site, site.outside, site.vm1, probe))["verdict"] == verdict
    finally:
        for chain in ("theirs", "theirs-too"):
            nft(site.host, f"delete chain {table} {chain}")
        if table.startswith("inet"):
            nft(site.host, f"delete table {table}")
