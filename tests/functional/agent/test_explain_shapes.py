"""explain, beside one rule of another program's at a time: what it is sure of is what the kernel does."""

import shutil
from collections.abc import Iterator

import pytest

from nova_netagent.testing import make_group, make_instance, make_rule
from tests.functional.agent.nft import nft
from tests.functional.agent.site import Site
from tests.functional.conftest import ON_NFTABLES
from tests.lab import Tcp, arrives, needs

pytestmark = [ON_NFTABLES, needs("br_netfilter", "bridge")]

PLACES = (("inet", "forward", 5), ("ip", "prerouting", -150))
ASKED = {"proto": "tcp", "src": "192.0.2.1:4000", "dst": "10.1.0.2:80"}

TOLD = (
    # what asks nothing
    *("counter", "accept", "return", "continue", "notrack", "counter log", 'log prefix "hello" group 5'),
    *("meta nftrace set 1", "meta priority set 1:2", "ip dscp set cs1", "ip ttl set 5"),
    *("ct mark set 5", "delete @dyn { ip saddr }", "tcp flags syn tcp option maxseg size set 1300"),
    *(
        "vlan id 5 drop",
        "jump sub",
        "goto sub",
        "ip daddr 10.1.0.0/24 jump sub",
        "ct state new counter",
        "meta cpu 0 counter",
    ),
    # what refuses
    *("drop", "reject", "reject with tcp reset", "tcp dport 9999 reject with tcp reset"),
    # addresses and ports
    *("ip saddr 192.0.2.0/24 tcp dport 80 drop", "ip saddr != 192.0.2.1 drop", "@nh,96,32 0xc0000201 drop"),
    *("ip saddr & 255.255.255.0 == 192.0.2.0 drop", "ip daddr 10.1.0.0-10.1.0.5 drop"),
    *("ip daddr != 10.1.0.0-10.1.0.5 drop", "ip daddr { 10.1.0.0/30 } drop", "ip daddr != { 10.1.0.0/30 } drop"),
    *("ip saddr . ip daddr { 192.0.2.1 . 10.1.0.2 } drop", "ip saddr . tcp dport { 192.0.2.0/24 . 80-90 } drop"),
    *("ip saddr . tcp dport vmap @vm", "ip saddr vmap { 10.0.0.0/8 : continue, 1.1.1.1 : drop }"),
    *("tcp dport != 80 drop", "tcp dport vmap { 80 : drop, 81 : accept }", "tcp sport 4000-5000 drop"),
    *("tcp sport { 4000-4001 } drop", "udp dport 80 drop", "th dport 80 drop", "@th,16,16 80 drop"),
    *("meta l4proto { tcp, udp } drop", "ip protocol tcp drop", "icmp type echo-request drop"),
    *("tcp flags == syn drop", "tcp flags & syn == 0 drop", "meta protocol ip drop"),
    # links, routes and what is known of the flow
    *('iifname "eth*" drop', 'meta iifname . meta oifname { "eth0" . "br1" } drop', "meta iif lo drop"),
    *("fib saddr type local drop", "fib daddr type unicast drop", "fib saddr oif 0 drop"),
    *("fib saddr . iif oif eth0 drop", "fib saddr . iif oif != eth0 drop", 'fib saddr . iif oifname "eth0" drop'),
    *('fib saddr oifname != "eth0" drop', "fib saddr oif eth0 drop", "fib saddr . iif oif missing drop"),
    *("fib saddr . mark . iif oif exists drop", "fib daddr oif lo drop", 'fib daddr oifname "br1" drop'),
    *("ct state { new, related } drop", "ct state != established drop", "ct state untracked drop"),
    *("ct state vmap { established : accept, new : drop }", "ct direction original drop"),
    *("ct status dnat drop", "ct status snat,dnat drop"),
    # marks
    *("meta mark 0 drop", "meta mark != 0 drop", "meta mark & 0x10000000 != 0 drop", "meta mark set 5 drop"),
    *("meta mark set 5; meta mark 5 drop", "meta mark set meta mark or 0x40; meta mark and 0x40 == 0x40 drop"),
    *("meta mark set 7; meta mark set meta mark xor 0x2; meta mark 5 drop", "meta mark set ct mark drop"),
    *("meta mark set ct mark; meta mark set 5; meta mark 5 drop",),
)
"""What a packet tells; a semicolon is between rules."""
UNTOLD = (
    *("ip ttl 64 drop", "ip length > 1000 drop", "ip dscp cs0 drop", "ip version 4 drop", "ip id 0 drop"),
    *("ip frag-off 0 drop", "ip hdrlength 5 drop", "tcp doff 5 drop", "tcp window > 0 drop", "tcp checksum 0 drop"),
    *("tcp option maxseg exists drop", "ip option rr exists drop", "@ll,0,48 0 drop"),
    *("ct original ip daddr 10.1.0.2 drop", "ct mark 0 drop", "ct l3proto ipv4 drop", "ct protocol tcp drop"),
    *("ct id 5 drop", "ct zone 0 drop", "ct expiration > 1s drop", 'ct helper "ftp" drop', "ct bytes > 1000 drop"),
    *("ct count over 10000 drop", "meta skuid 0 drop", "meta length < 1000 drop", 'meta day "Monday" drop'),
    *('meta time > "2020-01-01" drop', "meta random 100 drop", "limit rate 5/second drop", 'osf name "Linux" drop'),
    *("quota over 5 mbytes drop", "ct state new add @dyn { ip saddr limit rate over 1000/second } drop"),
    *("iifgroup 5 drop", "rt classid 5 drop", "ether type ip drop"),
    # whose verdict depends on it
    *("ct mark vmap { 0 : drop, 1 : accept }", "numgen random mod 2 vmap { 0 : accept, 1 : drop }"),
    *("meta mark set ct mark; meta mark 0 drop", "meta mark set jhash ip saddr mod 16; meta mark < 16 drop"),
    *("meta mark set numgen random mod 16 offset 100; meta mark > 99 drop", "ip daddr set 10.1.0.3; counter"),
    *("meta mark set ct mark or 0x1; meta mark and 0x6 == 0 drop", "tcp dport set 81 accept"),
)
"""What it does not tell, and would change what becomes of it."""


@pytest.fixture(scope="module")
def serving(site: Site) -> Iterator[Site]:
    """An instance that serves port 80."""
    site.describe(
        make_group(1, make_rule(1, protocol="tcp", port_range_min=80, port_range_max=80)), make_instance(1, (1,))
    )
    assert arrives(site.outside, site.vm1, Tcp(80))
    yield site
    for family in ("inet", "ip"):
        nft(site.host, f"add table {family} other", f"delete table {family} other")


def put(site: Site, family: str, hook: str, priority: int, shape: str) -> None:
    """Have another program's table hold a shape alone."""
    nft(
        site.host,
        *(f"add table {each} other\ndelete table {each} other" for each in ("inet", "ip")),
        f"table {family} other {{",
        "set dyn { type ipv4_addr; flags dynamic,timeout; timeout 1m; size 1000;\n}",
        "map vm { type ipv4_addr . inet_service : verdict; flags interval;",
        "elements = { 192.0.2.0/24 . 1-100 : drop }\n}",
        "chain sub {\ncounter\n}",
        f"chain shape {{ type filter hook {hook} priority {priority};\n" + shape.replace("; ", "\n") + "\n}",
        "}",
    )


def passes(site: Site) -> bool:
    site.forget_flows()
    return arrives(site.outside, site.vm1, Tcp(80, source_port=4000), within=0.1) is not None


def expected(passed: bool) -> tuple[str, ...]:
    return ("ACCEPT",) if passed else ("DROP", "REJECT")


@pytest.mark.parametrize("shape", TOLD)
def test_what_a_packet_tells_is_as_in_the_kernel(serving: Site, shape: str) -> None:
    for place in PLACES:
        put(serving, *place, shape)
        found = serving.agent.explain(ASKED)
        assert found["certain"], (place, found["doubts"], found["notes"])
        assert found["verdict"] in expected(passes(serving)), (place, found)


@pytest.mark.skipif(shutil.which("iptables-nft") is None, reason="there is no iptables-nft")
@pytest.mark.parametrize(
    "rule",
    [
        "-t mangle -A PREROUTING -j MARK --set-mark 5",
        "-t mangle -A PREROUTING -j CONNMARK --save-mark",
        "-t nat -A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 10.1.0.2:81",
        "-A FORWARD -p tcp --dport 80 -j REJECT --reject-with tcp-reset",
        "-A FORWARD -m comment --comment x",
        "-A FORWARD -m conntrack --ctstate NEW -j DROP",
    ],
)
def test_the_targets_of_iptables_nft_are_as_in_the_kernel(serving: Site, rule: str) -> None:
    serving.host.run(["iptables-nft", *rule.split()])
    try:
        found = serving.agent.explain(ASKED)
        assert found["certain"], (found["doubts"], found["notes"])
        assert found["verdict"] in expected(passes(serving)), found
    finally:
        serving.host.run(["iptables-nft", *rule.replace("-A", "-D").split()])


def test_what_is_not_tracked_is_known_for_it(serving: Site) -> None:
    put(serving, "inet", "prerouting", -310, "notrack")
    nft(
        serving.host,
        "table inet other { chain later { type filter hook forward priority 5; ct state untracked drop\n}\n}",
    )
    found = serving.agent.explain(ASKED)
    assert (found["verdict"], found["certain"]) == ("DROP", True), found
    assert not passes(serving)


def test_where_it_goes_may_depend_on_its_mark(serving: Site) -> None:
    put(serving, "ip", "prerouting", -150, "meta mark set ct mark")
    found = serving.agent.explain(ASKED)
    assert (found["verdict"], found["certain"]) == ("ACCEPT", False), found
    assert any("where it goes may depend on its mark" in note for note in found["notes"])
    put(serving, "ip", "forward", 5, "meta mark set ct mark")
    assert serving.agent.explain(ASKED)["certain"]


@pytest.mark.parametrize("shape", UNTOLD)
def test_what_a_packet_does_not_tell_is_never_certain(serving: Site, shape: str) -> None:
    for place in PLACES:
        put(serving, *place, shape)
        assert not serving.agent.explain(ASKED)["certain"], place
