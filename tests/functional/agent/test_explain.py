"""explain, beside the kernel: what it says of a packet is what becomes of it."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from nova_netagent.model import values
from nova_netagent.netfilter.journey import Journey
from nova_netagent.netfilter.rule import Family
from nova_netagent.netfilter.text import BUILTIN_CHAINS
from nova_netagent.testing import (
    group_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_provider_rule,
    make_rule,
)
from tests.functional.agent import foreign
from tests.functional.agent.conftest import SiteMaker
from tests.functional.agent.nft import nft
from tests.functional.agent.site import Site
from tests.functional.agent.test_foreign_rules import restore
from tests.functional.agent.test_random_states import CONFIGS, PACKETS, Places, Sent, packets, states
from tests.functional.agent.witness import Disagreement, packet_of
from tests.functional.conftest import ON_IPTABLES, ON_NFTABLES
from tests.lab import Forged, Ip, Namespace, Seen, Tcp, Udp, arrives, connect, iptables, needs, refused
from tests.lab.probes import IpProbe
from tests.lab.tables import command

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

EXAMPLES = int(os.environ.get("NETAGENT_EXPLAIN_STATES", "0"))
"""So many states for each configuration, of PACKETS packets each; without it always the same three."""


def asked(site: Site, sender: Namespace, receiver: Namespace, probe: IpProbe | Forged, **more: Any) -> dict[str, Any]:
    """The question that a probe is."""
    inner = probe.probe if isinstance(probe, Forged) else probe
    packet = packet_of(sender, probe, more.get("state"))
    body: dict[str, Any] = {"proto": packet.protocol, "src": packet.source, "dst": packet.destination, **more}
    for end, port in (("src", packet.source_port), ("dst", packet.destination_port)):
        if port is not None:
            body[end] = f"[{body[end]}]:{port}" if ":" in body[end] else f"{body[end]}:{port}"
    link = site.witness.link(sender, probe.device)
    if link is not None:
        body["in_dev"] = link
    if packet.icmp is not None:
        body["icmp_type"], body["icmp_code"] = packet.icmp
    if isinstance(probe, Forged):
        body |= {"mac": probe.source_mac} if probe.source_mac else {}
        body["routed"] = probe.via == site.gateway_mac(sender, probe.device)
    many = inner.to is not None and (inner.to.startswith(("255.", "224.", "ff")))
    goal = site.witness.link(receiver) if many and receiver is not site.host else None
    return body | ({"out_dev": goal} if goal is not None and not body.get("routed") else {})


def judged(site: Site, sender: Namespace, receiver: Namespace, probe: IpProbe | Forged) -> Seen | None:
    """What the kernel does; a packet that is lost on its way, and not by a rule, is sent once more."""
    try:
        return site.judge(sender, receiver, probe)
    except Disagreement:
        site.forget_flows()
        return site.judge(sender, receiver, probe)


@pytest.fixture(scope="module", params=CONFIGS)
def places(request: pytest.FixtureRequest, make_site: SiteMaker) -> Iterator[Places]:
    places = Places(make_site(CONFIGS[request.param]))
    counted.clear()
    yield places
    print("", *(f"{number:6} {what}" for what, number in sorted(counted.items())), sep="\n")


@dataclass(frozen=True)
class Asked:
    """A packet that was sent, and what explain said of it."""

    sender: Namespace
    receiver: Namespace
    probe: IpProbe | Forged
    found: dict[str, Any]

    @property
    def source(self) -> str:
        return _address(self.found["sent"]["src"])

    @property
    def subject(self) -> tuple[str, str]:
        """What it is, beside from whom and to whom."""
        return self.found["left"]["proto"], _port(self.found["left"]["dst"])


@settings(
    max_examples=EXAMPLES or 3,
    derandomize=not EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(states, st.lists(packets(), min_size=PACKETS, max_size=PACKETS))
def test_it_agrees_with_the_kernel(places: Places, described: list[Any], sent: list[Sent]) -> None:
    """And every refusal is somebody's; what is proposed lets this packet through, and no stranger's."""
    places.describe(described)
    site = places.site
    refused: list[Asked] = []
    for each in sent:
        if each.sender not in places.people or each.receiver not in places.people:
            continue
        site.forget_flows()
        sender, receiver = places.people[each.sender], places.people[each.receiver]
        probe = site.addressed(sender, receiver, places.addressed(each))
        seen = judged(site, sender, receiver, probe)
        found = site.agent.explain(asked(site, sender, receiver, probe))
        event(f"{found['verdict']} {found['way']}")
        _count(found)
        assert found["certain"], found
        if seen is not None:
            assert found["verdict"] == "ACCEPT", (probe, found)
            left = _address(found["left"]["src"])
            assert seen.source in (None, left, found["left"]["src"]), (seen, found)
        else:
            expected = site.witness.journey(sender, receiver, probe)
            lost = expected is not None and not expected.passed
            assert (found["verdict"] != "ACCEPT") or not lost, _told(site, probe, expected, found)
        if found["verdict"] in ("DROP", "REJECT"):
            _says_who(found)
            refused.append(Asked(sender, receiver, probe, found))
    helped = [each for each in refused if (each.found.get("proposal") or {}).get("works")]
    for one in helped if EXAMPLES else helped[-1:]:
        _take_advice(places, one, refused)
        if EXAMPLES:
            places.describe(described)


def _says_who(found: dict[str, Any]) -> None:
    """A refusal names the rule, and whose it is; or says why no rule was asked."""
    if not found["rules"]:
        counted["refused: before any rule, with a reason"] += 1
        assert found["reason"], found
        return
    by = found["refused_by"]
    counted[f"refused: by a rule of {by['table']}"] += 1
    assert by["owner"]["ours"], found
    assert by["chain"] in found["reason"], found
    assert found["proposal"] is not None, found


counted: Counter[str] = Counter()
"""What the packets of this run were; shown with -s."""


def _count(found: dict[str, Any]) -> None:
    family = 6 if found["sent"]["src"].count(":") > 1 else 4
    counted["pairs"] += 1
    counted[f"IPv{family} {found['verdict']}"] += 1
    counted["translated"] += (found["sent"]["src"], found["sent"]["dst"]) != (
        found["left"]["src"],
        found["left"]["dst"],
    )


def _address(end: str) -> str:
    """The address of an end like 10.1.0.2:80, [fd00::2]:80 or either alone."""
    if end.startswith("["):
        return end[1:].partition("]")[0]
    return end.partition(":")[0] if end.count(":") == 1 else end


def _port(end: str) -> str:
    return end.rpartition(":")[2] if end.startswith("[") or end.count(":") == 1 else ""


def _told(site: Site, probe: IpProbe | Forged, expected: Journey | None, found: dict[str, Any]) -> str:
    """Both ways side by side."""
    met = [f"{each['table']} {each['chain']} {each['rule']} {each['effect']}" for each in found["rules"]]
    other = [] if expected is None else [f"{hop.table} {hop.hook} {hop.walk.verdict}" for hop in expected.hops]
    asked = f"{found['sent']} {found['way']} {found['left']}"
    return "\n".join([str(probe), asked, *met, "the compiled rules:", *other, str(expected and expected.packet)])


def _take_advice(places: Places, helped: Asked, refused: list[Asked]) -> None:
    """What was proposed, done: both witnesses see the packet pass, and none that was a stranger to it."""
    site, changes = places.site, helped.found["proposal"]["changes"]
    for change in changes:
        site.agent.put(change["kind"].replace("_", "-"), change["body"])
    site.witness.look_again()
    site.forget_flows()
    judged(site, helped.sender, helped.receiver, helped.probe)
    again = site.agent.explain(asked(site, helped.sender, helped.receiver, helped.probe))
    assert again["verdict"] == "ACCEPT", (helped.probe, changes)
    counted["advice taken"] += 1
    event("took advice")
    strangers = [each for each in refused if not _is_meant(each, helped)]
    for each in strangers:
        now = site.agent.explain(asked(site, each.sender, each.receiver, each.probe))
        assert now["verdict"] != "ACCEPT", (each.probe, each.found["sent"], now["reason"], changes)
    for each in strangers[-1:]:
        site.forget_flows()
        assert judged(site, each.sender, each.receiver, each.probe) is None, (each.probe, changes)
    counted["strangers refused as before"] += len(strangers)


def _is_meant(other: Asked, helped: Asked) -> bool:
    """Whether what lets one packet through says the same of another."""
    if any("allow it to send as" in change["text"] for change in helped.found["proposal"]["changes"]):
        own = {helped.source, _address(helped.found["left"]["dst"])}  # an address of the vif from then on
        return other.source in own or _address(other.found["left"]["dst"]) in own
    return any(_says(change, other, helped) for change in helped.found["proposal"]["changes"])


def _says(change: dict[str, Any], other: Asked, helped: Asked) -> bool:
    """Whether a rule that is proposed is about another packet, too: of the same ends, or of whom it says so."""
    if change["kind"] != "security_groups" or other.subject != helped.subject:
        return False
    rule = change["body"]["rules"][-1]  # the new one
    if rule["direction"] == "ingress":
        return other.source == helped.source
    same_end = _address(other.found["left"]["dst"]) == _address(helped.found["left"]["dst"])
    same_sender = other.found["sent"]["holder"] == helped.found["sent"]["holder"]
    return same_end and (same_sender or "other member" in change["also"])


# --- one host, asked about one packet at a time


WEB = make_group(1, make_rule(1, protocol="tcp", port_range_min=80, port_range_max=80, remote_ip_prefix="192.0.2.0/24"))


def passes(site: Site, sender: Namespace, receiver: Namespace, probe: IpProbe, **more: Any) -> dict[str, Any]:
    """Send it: it arrives. What is said of it."""
    probe = site.addressed(sender, receiver, probe)
    found = site.agent.explain(asked(site, sender, receiver, probe, **more))
    site.forget_flows()
    assert site.passes(sender, receiver, probe)
    assert found["verdict"] == "ACCEPT", found
    return found


def stops(site: Site, sender: Namespace, receiver: Namespace, probe: IpProbe | Forged) -> dict[str, Any]:
    """Send it: it does not arrive. What is said of it."""
    probe = site.addressed(sender, receiver, probe)
    found = site.agent.explain(asked(site, sender, receiver, probe))
    site.forget_flows()
    assert site.judge(sender, receiver, probe) is None
    assert found["verdict"] in ("DROP", "REJECT", "NO ROUTE"), found
    return found


def owners(found: dict[str, Any]) -> list[str]:
    """Whose the rules are that were met, in order."""
    return [rule["owner"]["text"] for rule in found["rules"]]


def test_the_groups_rule_that_lets_it_in_is_named(site: Site) -> None:
    site.describe(WEB, make_instance(1, (1,)))
    found = passes(site, site.outside, site.vm1, Tcp(80))
    assert "security group group1: ingress tcp 80 from 192.0.2.0/24 (rule c0000001-" in found["reason"]
    assert found["way"] == "routed"
    assert found["left"]["holder"] == "instance vm1"


def test_what_has_nothing_behind_its_headers_is_no_flow(site: Site) -> None:
    site.describe(make_group(1, make_rule(1), make_rule(2, ethertype="IPv6")), make_instance(1, (1,)))
    passes(site, site.outside, site.vm1, Ip(59))
    found = stops(site, site.outside, site.vm1, Ip(59, family=6))
    assert "replies" in found["refused_by"]["owner"]["text"]


def test_the_counters_are_the_kernels(site: Site) -> None:
    site.describe(WEB, make_instance(1, (1,)))
    before, after = (passes(site, site.outside, site.vm1, Tcp(80))["rules"] for _ in range(2))
    assert [rule["rule"] for rule in before] == [rule["rule"] for rule in after]
    assert after[-1]["packets"] > before[-1]["packets"]


def test_who_refuses_is_named_and_what_would_help(site: Site) -> None:
    site.describe(WEB, make_instance(1, (1,)))
    found = stops(site, site.outside, site.vm1, Tcp(22))
    assert found["refused_by"]["owner"]["text"] == "instance vm1: fallback"
    assert found["reason"].endswith("refuses it: no security group of instance vm1 lets it in")
    (change,) = found["proposal"]["changes"]
    assert (change["kind"], change["id"]) == ("security_groups", group_id(1))
    assert "ingress tcp 22 from 192.0.2.1/32" in change["text"]
    site.agent.put("security-groups", change["body"])
    site.witness.look_again()
    passes(site, site.outside, site.vm1, Tcp(22))
    stops(site, site.elsewhere, site.vm1, Tcp(22))
    stops(site, site.outside, site.vm1, Tcp(23))


def test_an_instance_without_a_group_is_given_one_of_its_own(site: Site) -> None:
    site.describe(make_instance(1), make_instance(2))
    found = stops(site, site.outside, site.vm1, Tcp(22))
    assert [change["kind"] for change in found["proposal"]["changes"]] == ["security_groups", "instances"]
    for change in found["proposal"]["changes"]:
        site.agent.put(change["kind"].replace("_", "-"), change["body"])
    site.witness.look_again()
    passes(site, site.outside, site.vm1, Tcp(22))
    stops(site, site.outside, site.vm2, Tcp(22))


def test_what_goes_out_and_in_may_need_two_changes(site: Site) -> None:
    closed = make_rule(2, direction="egress", protocol="udp", port_range_min=53, port_range_max=53)
    site.describe(make_group(1, closed), make_group(2), make_instance(1, (1,)), make_instance(2, (2,)))
    found = stops(site, site.vm1, site.vm2, Tcp(5432))
    assert found["refused_by"]["table"] == "mangle"
    texts = [change["text"] for change in found["proposal"]["changes"]]
    assert ["egress" in text for text in texts] == [True, False]
    for change in found["proposal"]["changes"]:
        site.agent.put(change["kind"].replace("_", "-"), change["body"])
    site.witness.look_again()
    passes(site, site.vm1, site.vm2, Tcp(5432))


def test_a_provider_rule_is_for_the_provider_to_change(site: Site) -> None:
    site.describe(WEB, make_instance(1, (1,)), make_provider_rule(1, remote_ip_prefix="192.0.2.1/32"))
    found = stops(site, site.outside, site.vm1, Tcp(80))
    assert found["refused_by"]["owner"]["kind"] == "provider_rules"
    assert not found["proposal"]["works"]
    assert "delete or narrow it" in found["proposal"]["text"]


def test_who_sends_as_somebody_else_may_be_allowed_to(site: Site) -> None:
    site.describe(make_instance(1), make_instance(2))
    body = {"proto": "udp", "src": "10.1.0.77:5000", "dst": "10.1.0.3:5000", "in_dev": "tap1"}
    found = site.agent.explain(body)
    assert (found["verdict"], found["refused_by"]["table"]) == ("DROP", "raw")
    assert "allow it to send as 10.1.0.77" in found["proposal"]["changes"][0]["text"]
    assert found["proposal"]["works"]


def test_another_mac_is_dropped_where_it_is_said_to_be(site: Site) -> None:
    """Before the rules of packets, which count nothing of it."""
    site.describe(WEB, make_instance(1, (1,)))
    found = stops(site, site.vm1, site.outside, Forged(Tcp(80), source_mac="02:00:00:00:00:09"))
    (where,) = [note for note in found["notes"] if "dropped and counted before that" in note]
    listed = site.host.run(where.rpartition("(")[2].rstrip(")").split()).stdout
    assert re.search(r"counter packets [1-9]\d* bytes \d+ drop comment \"another's MAC\"", listed)
    again = site.agent.explain({"proto": "tcp", "src": "10.1.0.2:1", "dst": "192.0.2.1:80", "mac": "02:00:00:00:00:09"})
    assert again["refused_by"]["packets"] == 0


def test_nat_is_told(site: Site) -> None:
    site.describe(WEB, make_instance(1, (1,)), make_floating_ip(1))
    found = passes(site, site.outside, site.vm1, Tcp(80, to="198.51.100.1"))
    assert found["left"]["dst"] == "10.1.0.2:80"
    assert "floating IP 198.51.100.1" in owners(found)
    out = passes(site, site.vm1, site.outside, Tcp(80))
    assert out["left"]["src"].startswith("198.51.100.1:")


def test_to_whom_a_translated_flow_goes_on_is_not_guessed(site: Site) -> None:
    """Its later packets: the floating IP is the host's own, and the rules that translate are not asked again."""
    site.describe(WEB, make_instance(1, (1,)), make_floating_ip(1))
    with connect(site.outside, "198.51.100.1", 80, server=site.vm1) as flow:
        src = "{}:{}".format(*flow.client.getsockname())
        question = {"proto": "tcp", "src": src, "dst": "198.51.100.1:80", "state": "ESTABLISHED"}
        found = site.agent.explain(question)
        assert (found["way"], found["certain"]) == ("to the host", False)
        assert any("only connection tracking knows" in note for note in found["notes"])
        assert site.agent.explain(question | {"dst": "10.1.0.2:80"})["certain"]


def test_a_link_that_is_not_here_is_refused(site: Site) -> None:
    question = {"proto": "udp", "src": "10.1.0.9", "dst": "10.1.0.2", "in_dev": "nowhere"}
    status, answer = site.agent.request("POST", "/v1/explain", question)
    assert (status, answer["error"]["field"]) == (400, "in_dev")


def test_nothing_leads_there(site: Site) -> None:
    site.describe(make_instance(1))
    site.host.run(["ip", "route", "add", "unreachable", "172.31.255.1/32"])
    found = site.agent.explain({"proto": "tcp", "src": "10.1.0.2:5000", "dst": "172.31.255.1:80"})
    assert (found["verdict"], found["reason"]) == ("NO ROUTE", "the host would not forward it")


def test_what_the_host_itself_would_not_take_is_said(site: Site) -> None:
    """By routing, before any rule of INPUT."""
    site.describe(make_instance(1))
    strange = Forged(Udp(9, source_port=5000, to="192.0.2.10"), source="10.1.0.77", via=site.host.mac)
    to_loop = Forged(Udp(9, source_port=5000, to="127.0.0.1"), via=site.gateway_mac(site.vm1))

    def said(sender: Namespace, probe: Forged) -> tuple[str, str]:
        question = asked(site, sender, site.host, probe) | {"src": f"{probe.source or sender.ip4}:5000"}
        found = site.agent.explain(question)
        return found["verdict"], found["reason"]

    assert said(site.outside, strange)[0] == "ACCEPT"
    assert arrives(site.outside, site.host, strange)
    site.host.sysctl("net/ipv4/conf/eth0/rp_filter", 1)
    try:
        verdict, reason = said(site.outside, strange)
        assert verdict == "NO ROUTE"
        assert "reverse path filter" in reason or "its source is not one" in reason
        assert refused(site.outside, site.host, strange)
    finally:
        site.host.sysctl("net/ipv4/conf/eth0/rp_filter", 0)
    assert said(site.vm1, to_loop)[0] == "NO ROUTE"
    assert refused(site.vm1, site.host, to_loop)


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_what_the_host_does_not_forward(site: Site, family: int) -> None:
    site.describe(make_group(1, make_rule(1), make_rule(2, ethertype="IPv6")), make_instance(1, (1,)))
    packet = Tcp(80, family=family)
    passes(site, site.outside, site.vm1, packet)
    name = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}[family]
    question = asked(site, site.outside, site.vm1, site.addressed(site.outside, site.vm1, packet))
    site.host.sysctl(name, 0)
    try:
        found = site.agent.explain(question)
        assert found["verdict"] == "NO ROUTE"
        assert found["reason"].startswith("the host would not forward it")
        assert not arrives(site.outside, site.vm1, packet.towards(site.vm1), within=0.5)
    finally:
        site.host.sysctl(name, 1)


def test_what_is_of_one_link_only_is_not_forwarded(site: Site) -> None:
    site.describe(make_instance(1))
    link_local = values.link_local(site.vm1.mac)
    packet = Forged(Udp(9, source_port=5000, family=6, to=site.outside.ip6), source=link_local)
    question = asked(site, site.vm1, site.outside, site.addressed(site.vm1, site.outside, packet))
    found = site.agent.explain(question | {"src": f"[{link_local}]:5000"})
    assert (found["verdict"], found["way"]) == ("NO ROUTE", "routed")
    assert "is of one link only" in found["reason"]
    assert not arrives(site.vm1, site.outside, site.addressed(site.vm1, site.outside, packet), within=0.5)


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_rules_of_policy_routing_may_ask_for_ports(site: Site, family: int) -> None:
    site.describe(make_group(1, make_rule(1), make_rule(2, ethertype="IPv6")), make_instance(1, (1,)))
    rule = ["pref", "99", "ipproto", "tcp", "dport", "80", "blackhole"]
    site.host.run(["ip", f"-{family}", "rule", "add", *rule])
    try:
        found = stops_by_routing(site, Tcp(80, family=family))
        assert found["verdict"] == "NO ROUTE"
        passes(site, site.outside, site.vm1, Tcp(81, family=family))
        passes(site, site.outside, site.vm1, Udp(80, family=family))
    finally:
        site.host.run(["ip", f"-{family}", "rule", "del", *rule])


def stops_by_routing(site: Site, packet: IpProbe) -> dict[str, Any]:
    """Send it: it does not arrive, and the rules would let it. What is said of it."""
    packet = site.addressed(site.outside, site.vm1, packet)
    found = site.agent.explain(asked(site, site.outside, site.vm1, packet))
    assert not arrives(site.outside, site.vm1, packet, within=0.5)
    return found


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_what_the_host_sends_to_itself_comes_back_to_it(site: Site, family: int) -> None:
    site.describe(make_instance(1))
    lines = ("type filter hook input priority 0;", 'iifname "lo" tcp dport 80 counter drop')
    nft(site.host, "table inet other {", "chain input {", *lines, "}", "}")
    try:
        for port, gets_in in ((80, False), (81, True)):
            packet = Tcp(port, source_port=5000, family=family, to=site.host.ip(family))
            found = site.agent.explain(asked(site, site.host, site.host, packet))
            site.forget_flows()
            assert bool(arrives(site.host, site.host, packet, within=0.5)) is gets_in
            assert (found["verdict"], found["way"]) == ("ACCEPT" if gets_in else "DROP", "from the host")
            hooks = [rule["hook"] for rule in found["rules"]]
            assert hooks == sorted(hooks, key=("OUTPUT", "POSTROUTING", "PREROUTING", "INPUT").index)
    finally:
        site.host.run(["nft", "delete", "table", "inet", "other"])


def test_a_described_vif_that_the_routes_lead_past_is_named(site: Site) -> None:
    site.describe(make_instance(1))
    site.host.run(["ip", "route", "add", "10.1.0.2/32", "via", str(site.outside.ip4), "dev", "eth0"])
    try:
        found = site.agent.explain({"proto": "udp", "src": f"{site.host.ip4}:5000", "dst": "10.1.0.2:53"})
        assert found["left"]["device"] == "eth0"
        assert "10.1.0.2 is a described vif's on br1; it leaves by eth0" in found["notes"]
    finally:
        site.host.run(["ip", "route", "del", "10.1.0.2/32"])


def test_status_says_where_to_see_the_rules(site: Site) -> None:
    report = site.agent.request("GET", "/v1/status")[1]
    assert report["backend"] == site.backend
    assert report["see_with"].startswith(
        {"iptables": "iptables-legacy-save", "nftables": "nft list table"}[site.backend]
    )


def test_what_waits_is_said(site: Site) -> None:
    site.describe(make_instance(1, (7,)))
    found = site.agent.explain({"proto": "tcp", "src": "192.0.2.1:5000", "dst": "10.1.0.2:80"})
    assert any("instance vm1 is pending: " in note for note in found["notes"]), found["notes"]


def test_a_connection_that_was_cut(site: Site) -> None:
    """Its segments are refused from either end, whatever the rules say since; who asks is told why."""
    site.describe(WEB, make_instance(1, (1,)))
    with connect(site.outside, site.vm1, 80) as old:
        client = "{}:{}".format(*old.client.getsockname())
        site.put(make_group(1))
        site.put(WEB)
        assert old.dead(0.3)
        for src, dst in ((client, "10.1.0.2:80"), ("10.1.0.2:80", client)):
            found = site.agent.explain({"proto": "tcp", "src": src, "dst": dst, "state": "ESTABLISHED"})
            assert (found["verdict"], found["state"]) == ("DROP", "NEW")
            assert found["refused_by"]["chain"] == "nova-netagent-cut"
            assert "a connection that was cut when a change revoked it" in found["reason"]
            assert any("was cut" in note and "by a change of security group group1" in note for note in found["notes"])
            assert "open a new connection" in found["proposal"]["text"]
        found = site.agent.explain({"proto": "tcp", "src": client, "dst": "10.1.0.2:80"})
        assert found["verdict"] == "ACCEPT"
        assert any("a new one is judged by the rules" in note for note in found["notes"])
        site.agent.restart()
        found = site.agent.explain({"proto": "tcp", "src": client, "dst": "10.1.0.2:80", "state": "ESTABLISHED"})
        assert found["verdict"] == "DROP"
        assert any("was cut" in note and "by a change" not in note for note in found["notes"])


# --- what keeps a packet from its way beside rules


OPEN = make_group(1, make_rule(1), make_rule(2, ethertype="IPv6"))


@pytest.fixture
def opened(site: Site) -> Site:
    """Two instances of one network that everything may reach."""
    site.describe(OPEN, make_instance(1, (1,)), make_instance(2, (1,)))
    for sender in (site.vm2, site.outside):
        assert arrives(sender, site.vm1, Tcp(80).towards(site.vm1), within=3)
    return site


OBSTACLES = {
    "isolated": (
        "bridge link set dev {} isolated on",
        "bridge link set dev {} isolated off",
        "tap2 and tap1 are isolated ports",
        False,
    ),
    "learned elsewhere": (
        "bridge fdb replace fa:16:3e:00:00:01 dev tap2 master sticky static",
        "bridge fdb del fa:16:3e:00:00:01 dev tap2 master",
        "br1 has learned fa:16:3e:00:00:01 behind tap2",
        True,
    ),
}
"""What somebody does, how it is undone, what is said of it, and whether what is routed meets it as well."""


@pytest.mark.parametrize("what", OBSTACLES)
@pytest.mark.parametrize("name", ["vm2", "outside"])
def test_what_the_bridge_does_not_let_pass_is_said(opened: Site, what: str, name: str) -> None:
    site, (done, undone, said, also_routed) = opened, OBSTACLES[what]
    sender = getattr(site, name)
    packet = site.addressed(sender, site.vm1, Tcp(80))
    question = asked(site, sender, site.vm1, packet)
    for tap in ("tap1", "tap2"):
        site.host.run(done.format(tap).split())
    try:
        found = site.agent.explain(question)
        meets = also_routed or sender is site.vm2
        assert bool(arrives(sender, site.vm1, packet, within=0.5)) is not meets
        assert (found["verdict"], found["certain"]) == ("ACCEPT", not meets), found
        assert any(note.startswith(said) for note in found["notes"]) is meets, found["notes"]
    finally:
        for tap in ("tap1", "tap2") if "{}" in undone else ("",):
            site.host.run(undone.format(tap).split())
    assert site.agent.explain(question)["certain"]


@pytest.mark.parametrize("name", ["vm2", "outside"])
def test_a_guest_that_is_not_there_is_said(opened: Site, name: str) -> None:
    site, sender = opened, getattr(opened, name)
    packet = site.addressed(sender, site.vm1, Tcp(80))
    question = asked(site, sender, site.vm1, packet)
    site.vm1.links.set("eth0", up=False)
    try:
        found = site.agent.explain(question)
        assert (found["verdict"], found["certain"]) == ("ACCEPT", False)
        assert "tap1 has no carrier: nobody is at its other end: nothing comes or goes that way" in found["notes"]
    finally:
        site.vm1.links.set("eth0", up=True)
        site.vm1.run(["ip", "route", "replace", "default", "via", "10.1.0.1"])
        site.vm1.run(["ip", "-6", "address", "replace", "fd00:1::2/64", "dev", "eth0", "nodad"])
        site.vm1.run(["ip", "-6", "route", "replace", "default", "via", "fd00:1::1"])


@pytest.mark.parametrize("discipline", ["clsact", "ingress"])
def test_what_is_not_looked_at_on_a_link_is_said(opened: Site, discipline: str) -> None:
    site, question = opened, {"proto": "tcp", "src": "192.0.2.1:4000", "dst": "10.1.0.2:80"}
    site.host.run(["tc", "qdisc", "add", "dev", "tap1", discipline])
    (note,) = site.agent.explain(question)["notes"]
    assert note == "tap1 has filters of tc's, maybe: what becomes of packets there is not looked at"
    site.host.run(["tc", "qdisc", "del", "dev", "tap1", discipline])
    assert site.agent.explain(question)["notes"] == []


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_bridged_packets_that_iptables_is_not_shown(opened: Site, family: int) -> None:
    """They pass whatever the groups say, which is told; and what is routed has no port that would prove its sender."""
    site, name = opened, {4: "net/bridge/bridge-nf-call-iptables", 6: "net/bridge/bridge-nf-call-ip6tables"}[family]
    site.put(make_group(1))
    ways = {
        receiver: site.addressed(site.vm2, receiver, Tcp(80, source_port=5000, family=family))
        for receiver in (site.vm1, site.outside)
    }
    questions = {receiver: asked(site, site.vm2, receiver, packet) for receiver, packet in ways.items()}
    for shown in (False, True):
        site.host.sysctl(name, int(shown))
        try:
            for receiver, packet in ways.items():
                site.forget_flows()
                found = site.agent.explain(questions[receiver])
                passed = bool(arrives(site.vm2, receiver, packet, within=0.5))
                assert passed is ((receiver is site.vm1) is not shown)
                assert (found["verdict"], found["certain"]) == ("ACCEPT" if passed else "DROP", True), found
                assert any("meets no rules of" in note for note in found["notes"]) is not shown
        finally:
            site.host.sysctl(name, 1)


def test_who_has_joined_a_group_is_not_looked_at(opened: Site) -> None:
    question = {"proto": "udp", "src": "10.1.0.3:5000", "dst": "239.1.2.3:5000", "in_dev": "tap2"}
    for out_dev in (None, "tap1"):
        notes = opened.agent.explain(question | ({"out_dev": out_dev} if out_dev else {}))["notes"]
        assert any(note.endswith("depends on who has joined 239.1.2.3, which is not looked at") for note in notes)


# --- foreign rules in the way


@pytest.fixture
def described(site: Site) -> Iterator[Site]:
    """An instance that serves port 80, and other programs' rules beside it, taken out afterwards."""
    site.describe(WEB, make_instance(1, (1,)))
    families: tuple[Family, ...] = (4, 6)
    saved = {family: site.agent.iptables_save(family=family) for family in families}
    yield site
    for family, text in saved.items():
        # What was not in use then has nothing to go back to, and is emptied.
        empty = "".join(f"*{name}\nCOMMIT\n" for name in BUILTIN_CHAINS if f"*{name}\n" not in text)
        site.host.run([f"{command(family)}-restore"], stdin=text + empty)
        if "*filter\n" not in text:
            iptables(site.host, "-P INPUT ACCEPT", family=family)
            iptables(site.host, "-P FORWARD ACCEPT", family=family)


def gets_in(site: Site, port: int) -> bool:
    site.forget_flows()
    return bool(arrives(site.outside, site.vm1, Tcp(port).towards(site.vm1), within=1))


TO_WEB = {"proto": "tcp", "src": "192.0.2.1:4000", "dst": "10.1.0.2:80", "in_dev": "eth0"}


@pytest.mark.parametrize(
    ("world", "rule", "chain", "name"),
    [
        (foreign.DOCKER_4, "-I FORWARD -j DOCKER-USER", "DOCKER-USER", "foreign, probably docker"),
        (foreign.FIREWALLD_4, "-I FORWARD -j ufw-user-input", "ufw-user-input", "foreign, probably ufw"),
        (foreign.FIREWALLD_4, "-I FORWARD -j INPUT_ZONES", "INPUT_ZONES", "foreign, probably firewalld"),
        (foreign.LIBVIRT_4, "-I FORWARD -j LIBVIRT_FWI", "LIBVIRT_FWI", "foreign, probably libvirt"),
        (
            "",
            "-I FORWARD -p tcp -m multiport --dports 80,443 -m mark ! --mark 0x5 -j DROP",
            "FORWARD",
            "foreign, not the",
        ),
    ],
)
def test_a_foreign_rule_above_ours_is_the_cause(described: Site, world: str, rule: str, chain: str, name: str) -> None:
    site = described
    if world:
        restore(site.host, world)
    if chain != "FORWARD":
        iptables(site.host, f"-I {chain} -d 10.1.0.2 -p tcp --dport 80 -j REJECT --reject-with icmp-host-prohibited")
    iptables(site.host, rule)
    assert not gets_in(site, 80)
    found = site.agent.explain(TO_WEB)
    assert found["verdict"] in ("REJECT", "DROP")
    assert found["refused_by"]["chain"] == chain
    assert found["refused_by"]["owner"]["text"].startswith(name)
    assert not found["refused_by"]["owner"]["ours"]
    assert found["certain"], found["doubts"]
    assert not found["proposal"]["works"]
    assert "not ours to change" in found["proposal"]["text"]


@pytest.mark.parametrize("world", foreign.WORLDS)
def test_foreign_rules_that_do_not_concern_it_leave_it_alone(described: Site, world: str) -> None:
    site = described
    restore(site.host, foreign.WORLDS[world][0])
    passes_all = gets_in(site, 80)
    found = site.agent.explain(TO_WEB)
    assert found["certain"], found["doubts"]
    assert (found["verdict"] == "ACCEPT") == passes_all
    # Where ours are in nf_tables an ACCEPT of ours does not spare a packet others' policies.
    assert passes_all or site.backend == "nftables"


def test_the_operators_policy_is_the_cause(described: Site) -> None:
    site = described
    iptables(site.host, "-P INPUT DROP")
    found = site.agent.explain({"proto": "tcp", "src": "192.0.2.1:4000", "dst": "192.0.2.10:8080"})
    where = "IPv4 filter INPUT" if site.backend == "iptables" else "IPv4 iptables-legacy filter INPUT"
    assert found["reason"] == f"the policy of {where} refuses it: the policy of the chain, which is the operator's"
    assert found["way"] == "to the host"


@pytest.mark.parametrize("inverted", ["", "! "])
def test_whose_mac_nobody_knows_is_not_guessed(described: Site, inverted: str) -> None:
    site = described
    iptables(site.host, f"-I FORWARD -p tcp --dport 80 -m mac {inverted}--mac-source 02:00:00:00:00:09 -j DROP")
    assert gets_in(site, 80) is not bool(inverted)
    assert not site.agent.explain(TO_WEB)["certain"]
    found = site.agent.explain(TO_WEB | {"mac": site.outside.mac})
    assert (found["verdict"], found["certain"]) == ("DROP" if inverted else "ACCEPT", True)


def test_what_a_packet_does_not_tell_is_not_guessed(described: Site) -> None:
    site = described
    iptables(site.host, "-I FORWARD -p tcp --dport 80 -m limit --limit 1/min -j DROP")
    found = site.agent.explain(TO_WEB)
    assert (found["verdict"], found["certain"]) == ("ACCEPT", False)
    (doubt,) = found["doubts"]
    assert (doubt["verdict"], doubt["rule"]["chain"], doubt["rule"]["number"]) == ("DROP", "FORWARD", 1)


OF_A_BROADCAST = {
    "-m addrtype --dst-type BROADCAST": True,
    "-m addrtype ! --dst-type BROADCAST": False,
    "-m addrtype --dst-type UNICAST": False,
    "-m addrtype --dst-type LOCAL": False,
    "-m pkttype --pkt-type broadcast": True,
    "-m pkttype --pkt-type unicast": False,
    "fib daddr type broadcast": True,
    "fib daddr type unicast": False,
    "meta pkttype broadcast": True,
    "meta pkttype host": False,
}
"""What others ask of a packet to all of a network, and whether it is so."""


@pytest.mark.parametrize("asks", OF_A_BROADCAST)
def test_a_networks_own_broadcast_is_one(described: Site, asks: str) -> None:
    site = described
    to_all = Udp(5000, source_port=4000, to="10.1.0.255")
    question = asked(site, site.vm1, site.host, to_all)
    if asks.startswith("-m"):
        iptables(site.host, f"-I INPUT -p udp {asks} -j DROP")
    else:
        hooked = "type filter hook input priority -10;"
        nft(site.host, f"table ip other {{ chain input {{ {hooked}\nudp dport 5000 {asks} drop\n}}\n}}")
    try:
        found = site.agent.explain(question)
        assert bool(arrives(site.vm1, site.host, to_all, within=0.5)) is not OF_A_BROADCAST[asks]
        assert (found["verdict"], found["certain"]) == ("DROP" if OF_A_BROADCAST[asks] else "ACCEPT", True), found
    finally:
        nft(site.host, "add table ip other", "delete table ip other")


def test_each_address_that_routing_calls_local_is_the_hosts(described: Site) -> None:
    site = described
    iptables(site.host, "-I OUTPUT -p udp -m addrtype --dst-type LOCAL -j DROP")
    packet = Udp(53, source_port=4000, to="127.0.0.53")
    assert site.agent.explain(asked(site, site.host, site.host, packet))["verdict"] == "DROP"
    assert not arrives(site.host, site.host, packet, within=0.5)


def test_whether_an_address_is_that_of_one_link_is_not_guessed(described: Site) -> None:
    site = described
    iptables(site.host, "-I INPUT -p tcp -m addrtype --dst-type LOCAL --limit-iface-in -j DROP")
    packet = Tcp(8080, source_port=4000, to="10.1.0.1")
    found = site.agent.explain(asked(site, site.outside, site.host, packet))
    assert (found["verdict"], found["certain"]) == ("ACCEPT", False)


@pytest.mark.parametrize("world", foreign.NFT_WORLDS)
@pytest.mark.parametrize("meant", [True, False], ids=["in the way", "beside it"])
def test_foreign_rules_in_nf_tables(described: Site, world: str, meant: bool) -> None:
    """Each program's rules refuse what is not theirs; and let on what they are told to."""
    site = described
    named, chain, whose = foreign.NFT_WORLDS[world]
    text = getattr(foreign, f"{world.upper()}_NFT")
    nft(site.host, text.replace("@REFUSED@", "10.1.0.2" if meant else "203.0.113.5"))
    try:
        assert gets_in(site, 80) != meant
        found = site.agent.explain(TO_WEB)
        assert found["certain"], (found["doubts"], found["notes"])
        if not meant:
            assert found["verdict"] == "ACCEPT"
            assert any(rule["table"] == named for rule in found["rules"])
            return
        assert found["verdict"] in ("DROP", "REJECT")
        refused = found["refused_by"]
        assert (refused["table"], refused["chain"], refused["owner"]["ours"]) == (named, chain, False)
        assert refused["owner"]["text"].startswith(whose)
        assert "not ours to change" in found["proposal"]["text"]
    finally:
        site.host.run(["nft", "delete", "table", *named.split()])
    assert site.agent.explain(TO_WEB)["verdict"] == "ACCEPT"


def test_what_no_packet_tells_in_nf_tables_is_not_guessed(described: Site) -> None:
    site = described
    lines = ("type filter hook forward priority 0; policy accept;", "tcp dport 80 limit rate 1/minute drop")
    nft(site.host, "table ip other {", "chain forward {", *lines, "}", "}")
    try:
        found = site.agent.explain(TO_WEB)
        assert (found["verdict"], found["certain"]) == ("ACCEPT", False)
        (doubt,) = found["doubts"]
        assert (doubt["verdict"], doubt["rule"]["table"], doubt["rule"]["number"]) == ("DROP", "ip other", 1)
    finally:
        site.host.run(["nft", "delete", "table", "ip", "other"])


def test_what_others_translate_in_nf_tables_is_followed(described: Site) -> None:
    site = described
    site.put(make_instance(2))
    lines = ("type nat hook prerouting priority -110;", "ip daddr 198.51.100.77 tcp dport 8080 dnat to 10.1.0.2:80")
    nft(site.host, "table ip other {", "chain prerouting {", *lines, "}", "}")
    try:
        found = passes(site, site.outside, site.vm1, Tcp(80)) and site.agent.explain(
            {"proto": "tcp", "src": "192.0.2.1:4000", "dst": "198.51.100.77:8080", "in_dev": "eth0"}
        )
        assert (found["verdict"], found["left"]["dst"]) == ("ACCEPT", "10.1.0.2:80")
        assert "DNAT to 10.1.0.2 port 80" in [rule["effect"] for rule in found["rules"]]
    finally:
        site.host.run(["nft", "delete", "table", "ip", "other"])


@ON_IPTABLES
def test_a_rule_that_somebody_put_into_our_chain(described: Site) -> None:
    site = described
    iptables(site.host, "-I nova-netagent-inst-a0000001 -p tcp --dport 80 -j DROP")
    found = site.agent.explain(TO_WEB)
    assert found["refused_by"]["owner"]["text"] == "foreign, in a chain of ours: the next resync takes it out"
    site.agent.resync()
    assert site.agent.explain(TO_WEB)["verdict"] == "ACCEPT"


@ON_NFTABLES
def test_a_rule_that_somebody_put_into_our_chain_of_nf_tables(described: Site) -> None:
    site = described
    place = ["ip", "nova-netagent", "nova-netagent-inst-a0000001"]
    site.host.run(["nft", "insert", "rule", *place, "tcp", "dport", "80", "drop"])
    found = site.agent.explain(TO_WEB)
    assert (found["verdict"], found["certain"]) == ("DROP", True)
    assert found["refused_by"]["owner"]["text"].startswith("foreign, in a chain of ours")
    assert found["refused_by"]["rule"] == "tcp dport 80 drop"
    site.agent.resync()
    found = site.agent.explain(TO_WEB)
    assert found["certain"], (found["doubts"], found["notes"])


@ON_NFTABLES
@pytest.mark.parametrize("chain", ["nova-filter-top", "filter-FORWARD"])
def test_in_our_own_table_nothing_is_another_agents(described: Site, chain: str) -> None:
    site = described
    site.host.run(["nft", "insert", "rule", "ip", "nova-netagent", chain, "accept"])
    try:
        found = site.agent.explain(TO_WEB)
        assert "foreign, in a chain of ours: the next resync takes it out" in owners(found)
    finally:
        where = ["ip", "nova-netagent", chain]
        listed = site.host.run(["nft", "-a", "list", "chain", *where]).stdout
        for number in re.findall(r"^\s*accept # handle (\d+)$", listed, re.MULTILINE):
            site.host.run(["nft", "delete", "rule", *where, "handle", number])
