"""explain, beside rules of other programs below IP, of bridges and of single links: the kernel's counters judge it."""

import json
from collections.abc import Iterator

import pytest

from nova_netagent.testing import make_group, make_instance, make_rule
from tests.functional.agent.meeting import met_alone
from tests.functional.agent.nft import nft
from tests.functional.agent.site import Site
from tests.functional.agent.test_explain import asked
from tests.lab import Icmp, Namespace, Tcp, Udp, arrives, needs
from tests.lab.probes import IpProbe

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

BRIDGE = {"prerouting": (-310, 5), "input": (0,), "forward": (-200, 10), "output": (0,), "postrouting": (10,)}
"""The bridge's hooks, and where in them: before and after br_netfilter has shown the packet to iptables."""
LINKS = ("tap1", "tap2", "eth0", "br1")
MAC = "fa:16:3e:00:00:02"

ASKED = (
    'iifname "tap1"',
    'iifname "tap2"',
    'iifname != "tap2"',
    'oifname "tap1"',
    'oifname { "tap2", "br1" }',
    f"ether saddr {MAC}",
    "ether type ip",
    "ether type ip6",
    "ip saddr 10.1.0.0/24",
    "ip daddr 10.1.0.2",
    "ip6 daddr fd00:1::/64",
    "meta l4proto tcp",
    "meta protocol ip",
    "tcp dport 80",
    "tcp dport { 22, 80-90 }",
    "udp dport 53",
    "meta mark 0x7",
    "icmp type echo-request",
)
"""What rules ask: each stands at every hook, and only counts."""


def asked_in(family: str) -> list[str]:
    """What is asked in a family's table; of links that are no bridge's port it is not known that they are Ethernet."""
    return [each for each in ASKED if family == "bridge" or not each.startswith("ether")]


def chains_of_frames() -> dict[tuple[str, str], str]:
    """By table and chain, where it is hooked in."""
    bridge = {
        ("bridge", f"{hook}-{number}"): f"type filter hook {hook} priority {priority};"
        for hook, priorities in BRIDGE.items()
        for number, priority in enumerate(priorities)
    }
    links = {
        (family, f"{hook}-{link}"): f'type filter hook {hook} device "{link}" priority {priority};'
        for family, hook, priority in (("netdev", "ingress", 0), ("netdev", "egress", 0), ("inet", "ingress", -10))
        for link in LINKS
    }
    return {**bridge, **links}


CHAINS = chains_of_frames()


@pytest.fixture(scope="module")
def asking(site: Site) -> Iterator[Site]:
    """A host where all of that is asked, and two instances that everything may reach."""
    opened = make_group(1, make_rule(1), make_rule(2, ethertype="IPv6"))
    site.describe(opened, make_instance(1, (1,)), make_instance(2, (1,)))
    assert site.vm2.links.mac("eth0") == MAC
    lines = []
    for family in ("bridge", "netdev", "inet"):
        lines.append(f"table {family} other {{")
        for (of, name), hooked in CHAINS.items():
            if of == family:
                rules = "\n".join(f"{each} counter" for each in asked_in(family))
                lines += [f"chain {name} {{ {hooked}", "}", f"chain at-{name} {{", rules, "}"]
        lines.append("}")
    nft(site.host, *lines)
    yield site
    nft(site.host, *(f"delete table {family} other" for family in ("bridge", "netdev", "inet")))


@pytest.mark.parametrize(
    ("sender", "receiver", "probe"),
    [
        ("vm2", "vm1", Tcp(80)),
        ("vm2", "vm1", Icmp()),
        ("vm2", "vm1", Tcp(80, family=6)),
        ("outside", "vm1", Tcp(80)),
        ("outside", "vm1", Udp(53, family=6)),
        ("vm2", "outside", Tcp(22)),
        ("vm2", "host", Icmp()),
        ("host", "vm1", Udp(53)),
    ],
    ids=str,
)
def test_the_same_rules_hold_as_in_the_kernel(asking: Site, sender: str, receiver: str, probe: IpProbe) -> None:
    site = asking
    machines: tuple[Namespace, Namespace] = (getattr(site, sender), getattr(site, receiver))
    probe = site.addressed(*machines, probe)
    _, alone = met_alone(site, *machines, probe)
    nft(site.host, *(f"flush chain {family} other {name}" for family, name in CHAINS))
    nft(site.host, *(f"add rule {family} other {name} {alone} jump at-{name}" for family, name in CHAINS))
    before = hits(site)
    assert arrives(*machines, probe)
    kernel = {key for key, count in hits(site).items() if count > before.get(key, 0)}
    assert {chain for _, chain, _ in kernel}, "some are met"
    found = site.agent.explain(asked(site, *machines, probe))
    said = {
        (rule["table"].partition(" ")[0], rule["chain"], asked_in(rule["table"].partition(" ")[0])[rule["number"] - 1])
        for rule in found["rules"]
        if rule["chain"].startswith("at-")
    }
    doubted = {
        (family, each["rule"]["chain"], asked_in(family)[each["rule"]["number"] - 1])
        for each in found["doubts"]
        for family in (each["rule"]["table"].partition(" ")[0],)
    }
    assert all(text.startswith("ether saddr") for _, _, text in doubted), doubted
    assert said - doubted == kernel - doubted
    assert found["verdict"] == "ACCEPT"


def hits(site: Site) -> dict[tuple[str, str, str], int]:
    """By table, chain and what it asks, what the rules counted so far."""
    found: dict[tuple[str, str, str], int] = {}
    for family in ("bridge", "netdev", "inet"):
        listed = json.loads(site.host.run(["nft", "-j", "list", "table", family, "other"]).stdout)["nftables"]
        at: dict[str, int] = {}
        for each in (entry["rule"] for entry in listed if "rule" in entry):
            if each["chain"].startswith("at-"):
                (packets,) = [part["counter"]["packets"] for part in each["expr"] if "counter" in part]
                number = at.get(each["chain"], 0)
                found[family, each["chain"], asked_in(family)[number]] = packets
                at[each["chain"]] = number + 1
    return found


REFUSALS = {
    "bridge forward": ("bridge", "type filter hook forward priority 0;", "vm2"),
    "bridge forward, before ours": ("bridge", "type filter hook forward priority -200;", "vm2"),
    "bridge prerouting": ("bridge", "type filter hook prerouting priority -300;", "vm2"),
    "bridge postrouting": ("bridge", "type filter hook postrouting priority 0;", "outside"),
    "bridge output": ("bridge", "type filter hook output priority 0;", "outside"),
    "ingress of its sender's tap": ("netdev", 'type filter hook ingress device "tap2" priority 0;', "vm2"),
    "ingress of its sender's tap, by its MAC": (
        "netdev",
        f'type filter hook ingress device "tap2" priority 0;\nether saddr != {MAC} accept',
        "vm2",
    ),
    "ingress of the uplink": ("netdev", 'type filter hook ingress device "eth0" priority 0;', "outside"),
    "egress of its tap": ("netdev", 'type filter hook egress device "tap1" priority 0;', "outside"),
    "inet ingress": ("inet", 'type filter hook ingress device "eth0" priority 0;', "outside"),
}


@pytest.fixture
def served(site: Site) -> Iterator[Site]:
    """An instance that serves port 80; what others put beside it is taken out afterwards."""
    site.describe(
        make_group(1, make_rule(1, protocol="tcp", port_range_min=80, port_range_max=81)),
        make_instance(1, (1,)),
        make_instance(2, (1,)),
    )
    yield site
    nft(site.host, *(f"add table {of} fw\ndelete table {of} fw" for of in ("bridge", "netdev", "inet")))


@pytest.mark.parametrize("where", REFUSALS)
def test_what_others_refuse_below_ip_is_named(served: Site, where: str) -> None:
    site, (family, hooked, name) = served, REFUSALS[where]
    sender = getattr(site, name)
    nft(site.host, f"table {family} fw {{ chain c {{ {hooked}\nip daddr 10.1.0.2 tcp dport 80 counter drop\n}}\n}}")
    for port, gets_in in ((80, False), (81, True)):
        site.forget_flows()
        assert bool(arrives(sender, site.vm1, Tcp(port).towards(site.vm1), within=1)) is gets_in
        found = site.agent.explain(asked(site, sender, site.vm1, Tcp(port).towards(site.vm1)))
        assert (found["verdict"], found["certain"]) == ("ACCEPT" if gets_in else "DROP", True), found
    found = site.agent.explain(asked(site, sender, site.vm1, Tcp(80).towards(site.vm1)))
    by = found["refused_by"]
    number = 1 + hooked.count("accept")
    assert (by["table"], by["chain"], by["number"]) == (f"{family} fw", "c", number)
    assert by["packets"] >= 1
    assert by["owner"]["text"].startswith("foreign")
    assert f"rule {number} of IPv4 {family} fw c refuses it: foreign" in found["reason"]
    assert not found["proposal"]["works"]
    assert "not ours to change" in found["proposal"]["text"]


def test_what_the_bridge_does_not_hand_up_is_not_asked_for_its_route(served: Site) -> None:
    site = served
    nft(site.host, "table bridge fw { chain c { type filter hook input priority 0; ip daddr 172.31.255.2 drop\n}\n}")
    site.host.run(["ip", "route", "replace", "unreachable", "172.31.255.2/32"])
    found = site.agent.explain({"proto": "udp", "src": "10.1.0.3:5000", "dst": "172.31.255.2:53"})
    assert (found["verdict"], found["refused_by"]["table"], found["refused_by"]["hook"]) == (
        "DROP",
        "bridge fw",
        "input",
    )


def test_a_policy_of_a_bridge(served: Site) -> None:
    site = served
    arrives(site.vm2, site.vm1, Tcp(81).towards(site.vm1))  # the policy drops ARP as well: each knows the other's MAC
    nft(
        site.host,
        "table bridge fw { chain c { type filter hook forward priority 0; policy drop; tcp dport 81 accept\n}\n}",
    )
    for port, verdict in ((80, "DROP"), (81, "ACCEPT")):
        found = site.agent.explain(asked(site, site.vm2, site.vm1, Tcp(port).towards(site.vm1)))
        assert found["verdict"] == verdict
        assert bool(arrives(site.vm2, site.vm1, Tcp(port).towards(site.vm1), within=1)) is (verdict == "ACCEPT")
    found = site.agent.explain(asked(site, site.vm2, site.vm1, Tcp(80).towards(site.vm1)))
    assert found["reason"].startswith("the policy of IPv4 bridge fw c refuses it: ")


@pytest.mark.parametrize("test", ["ether daddr fa:16:3e:00:00:01", "meta pkttype other"])
def test_what_no_packet_tells_below_ip_is_not_guessed(served: Site, test: str) -> None:
    site = served
    nft(site.host, f"table bridge fw {{ chain c {{ type filter hook forward priority 0; {test} drop\n}}\n}}")
    found = site.agent.explain(asked(site, site.vm2, site.vm1, Tcp(80).towards(site.vm1)))
    assert (found["verdict"], found["certain"]) == ("ACCEPT", False)
    (doubt,) = found["doubts"]
    assert (doubt["verdict"], doubt["rule"]["table"], doubt["rule"]["chain"]) == ("DROP", "bridge fw", "c")


WITHOUT_ARP = {
    "a policy that forgets it": (
        "bridge",
        "type filter hook forward priority 0; policy drop;",
        "meta protocol ip accept",
    ),
    "a rule": ("bridge", "type filter hook prerouting priority -250;", "ether type arp drop"),
    "requests": ("bridge", "type filter hook postrouting priority 0;", "arp operation request drop"),
    "of one tap": ("netdev", 'type filter hook ingress device "tap2" priority 0;', "meta protocol arp drop"),
}


@pytest.mark.parametrize("how", WITHOUT_ARP)
def test_who_refuses_arp_is_named_though_the_packet_would_pass(served: Site, how: str) -> None:
    site, (family, hooked, rule) = served, WITHOUT_ARP[how]
    question = asked(site, site.vm2, site.vm1, Tcp(80).towards(site.vm1))
    nft(site.host, f"table {family} fw {{ chain c {{ {hooked}\n{rule}\n}}\n}}")
    for machine in (site.vm1, site.vm2):
        machine.run(["ip", "neigh", "flush", "dev", "eth0"])
    site.forget_flows()
    assert not arrives(site.vm2, site.vm1, Tcp(80).towards(site.vm1), within=1)
    found = site.agent.explain(question)
    assert found["verdict"] == "ACCEPT"
    (note,) = [each for each in found["notes"] if "refuses ARP" in each]
    assert note.startswith(f"the policy of {family} fw c, " if "policy" in hooked else f"rule 1 of {family} fw c, ")
    nft(site.host, f"flush table {family} fw", f"add rule {family} fw c accept")
    assert arrives(site.vm2, site.vm1, Tcp(80).towards(site.vm1), within=3)
    assert not any("ARP" in each for each in site.agent.explain(question)["notes"])


PROVES_ARP = {
    "the MAC": ("ether saddr {mac} return", "drop"),
    "the address": ("ether type arp arp saddr ip {address} accept", "ether type arp drop"),
}


@pytest.mark.parametrize("what", PROVES_ARP)
def test_who_asks_whose_arp_it_is_is_not_said_to_refuse_it(served: Site, what: str) -> None:
    """As the Linux bridge agent does, a chain for each tap: nobody knows here as whom ARP is sent."""
    site = served
    proved, rest = PROVES_ARP[what]
    proved = proved.format(mac=site.vm2.mac, address=site.vm2.ip4)
    nft(
        site.host,
        "table bridge fw {\n"
        f"chain of-tap2 {{ {proved}\n{rest}\n}}\n"
        'chain c { type filter hook prerouting priority -300;\niifname "tap2" jump of-tap2\n}\n}',
    )
    for machine in (site.vm1, site.vm2):
        machine.run(["ip", "neigh", "flush", "dev", "eth0"])
    site.forget_flows()
    packet = Tcp(80).towards(site.vm1)
    assert arrives(site.vm2, site.vm1, packet, within=3)
    found = site.agent.explain(asked(site, site.vm2, site.vm1, packet))
    assert found["verdict"] == "ACCEPT"
    assert [each for each in found["notes"] if "ARP" in each] == []


def test_what_is_forwarded_by_a_link_is_somebody_elses(served: Site) -> None:
    site = served
    nft(
        site.host,
        'table netdev fw { chain c { type filter hook ingress device "tap2" priority 0; tcp dport 80 fwd to "lo"\n}\n}',
    )
    found = site.agent.explain(asked(site, site.vm2, site.vm1, Tcp(80).towards(site.vm1)))
    assert (found["verdict"], found["refused_by"]["table"]) == ("UNKNOWN", "netdev fw")
