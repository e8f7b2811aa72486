"""explain without a kernel: the real engine on the strict fakes."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nova_netagent.backend.nft import expressions
from nova_netagent.backend.nft.expressions import Expression, Verdict
from nova_netagent.backend.nft.netlink import ListedChain, ListedRule
from nova_netagent.backend.nft.objects import Family as NftFamily
from nova_netagent.backend.nft.objects import TableId as NftTable
from nova_netagent.backend.nft.others import OtherTable
from nova_netagent.explain.question import Question
from nova_netagent.explain.report import Explanation
from nova_netagent.host import Others
from nova_netagent.model.objects import Invalid
from nova_netagent.netfilter.rule import ACCEPT, DROP, Comment, Jump, Opaque, Ports, Rule, TableId
from nova_netagent.testing import (
    group_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    make_vif,
)
from tests.properties.host import Host

FILTER = TableId(4, "filter")
WEB = make_group(1, make_rule(1, protocol="tcp", port_range_min=80, port_range_max=80))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with two instances of a network: vm1, which serves port 80, and vm2, which is in no group."""
    found = Host(tmp_path)
    found.links.default = "eth0"
    found.links.addresses.add(("eth0", "192.0.2.10/24"))
    for tap in ("tap1", "tap2"):
        found.links.add_link(tap)
    found.put(make_network(1), WEB, make_instance(1, (1,)), make_instance(2), make_floating_ip(1, interface="eth0"))
    return found


def explain(host: Host, src: str, dst: str, proto: str = "tcp", **fields: Any) -> Explanation:
    return host.engine.inspect().explain(Question(proto=proto, src=src, dst=dst, **fields))


OUTSIDE = "198.18.0.9:40000"


def test_the_checksum_of_udp_lite_is_not_asked_for_where_the_host_sends_it(host: Host) -> None:
    assert explain(host, "192.0.2.10:9", "198.51.100.1:80", "udplite").state == "NEW"
    assert explain(host, OUTSIDE, "198.51.100.1:80", "udplite").state == "INVALID"
    assert explain(host, "192.0.2.10:9", "198.51.100.1:80", "udplite", state="INVALID").state == "INVALID"


def test_what_passes(host: Host) -> None:
    found = explain(host, OUTSIDE, "10.1.0.2:80")
    assert (found.verdict, found.way, found.certain, found.proposal) == ("ACCEPT", "routed", True, None)
    assert (found.sent.device, found.left.device, found.left.holder) == ("eth0", "br1", "instance vm1")
    assert found.reason.startswith("it is let through by security group group1: ingress tcp 80 from anywhere")


def test_a_floating_ip_is_followed(host: Host) -> None:
    found = explain(host, OUTSIDE, "198.51.100.1:80")
    assert (found.verdict, found.left.dst) == ("ACCEPT", "10.1.0.2:80")
    assert any(rule.effect == "DNAT to 10.1.0.2" for rule in found.rules)


def test_what_is_refused_and_what_would_help(host: Host) -> None:
    found = explain(host, OUTSIDE, "10.1.0.2:22")
    assert found.refused_by is not None
    assert (found.verdict, found.refused_by.owner.part) == ("DROP", "fallback")
    assert found.proposal is not None
    assert found.proposal.works
    (change,) = found.proposal.changes
    assert change.id == group_id(1)
    rules = change.body["rules"]
    assert [rule["port_range_min"] for rule in rules] == [80, 22]
    assert rules[1]["remote_ip_prefix"] == "198.18.0.9/32"
    # It is only tried: nothing changed, here or in the kernel.
    assert explain(host, OUTSIDE, "10.1.0.2:22").verdict == "DROP"
    assert host.engine.inspect().plan() == []


def test_the_same_question_has_the_same_answer(host: Host) -> None:
    assert explain(host, OUTSIDE, "10.1.0.3:22") == explain(host, OUTSIDE, "10.1.0.3:22")


@pytest.mark.parametrize(
    ("src", "mac"), [("10.1.0.2", "fa:16:3e:00:00:02"), ("10.1.0.3", "fa:16:3e:00:00:01")], ids=["MAC", "address"]
)
def test_a_lie_is_told_to_be_one(host: Host, src: str, mac: str) -> None:
    """Also by the rule that refuses ports that are nobody's."""
    found = explain(host, src, OUTSIDE, in_dev="tap1", mac=mac)
    assert found.refused_by is not None
    assert (found.refused_by.owner.id, found.refused_by.owner.part) == (make_instance(1).id, "own address")
    assert found.reason.endswith("vm1 may not send from that address or MAC")
    strange = f"{mac} is no MAC of tap1: its frames are dropped and counted before that"
    assert any(note.startswith(strange) for note in found.notes) == (mac != make_vif(1).address)


def test_between_neighbours_it_is_bridged(host: Host) -> None:
    found = explain(host, "10.1.0.2:5000", "10.1.0.3:22")
    assert (found.way, found.sent.device, found.left.device) == ("bridged", "tap1", "tap2")
    assert found.verdict == "ACCEPT"  # allow_same_net_traffic
    assert found.reason == "it is let through by instance vm2: same network"


def test_a_provider_rule_is_not_overruled(host: Host) -> None:
    host.put(make_provider_rule(1, remote_ip_prefix="198.18.0.0/15"))
    found = explain(host, OUTSIDE, "10.1.0.2:80")
    assert found.proposal is not None
    assert (found.verdict, found.proposal.works) == ("DROP", False)
    assert "delete or narrow it" in found.proposal.text


def test_a_foreign_rule_first(host: Host) -> None:
    chains = host.backend.chains[FILTER]
    chains["DOCKER-USER"] = (Rule(DROP, protocol=6, matches=(Ports("tcp", destination=(80, 80)),)),)
    chains["FORWARD"] = (Rule(Jump("DOCKER-USER")), *chains["FORWARD"])
    found = explain(host, OUTSIDE, "10.1.0.2:80")
    assert found.refused_by is not None
    assert (found.refused_by.owner.ours, found.refused_by.owner.text) == (False, "foreign, probably docker")
    assert found.proposal is not None
    assert "not ours to change" in found.proposal.text


def test_what_a_packet_does_not_tell(host: Host) -> None:
    chains = host.backend.chains[FILTER]
    odd = Rule(DROP, matches=(Comment("sometimes"), Opaque("recent", 1, b"")))
    harmless = Rule(ACCEPT, matches=(Opaque("recent", 1, b""),))
    chains["FORWARD"] = (odd, *chains["FORWARD"])
    found = explain(host, OUTSIDE, "10.1.0.2:80")
    assert (found.verdict, found.certain) == ("ACCEPT", False)
    assert [(doubt.rule.number, doubt.verdict) for doubt in found.doubts] == [(1, "DROP")]
    chains["FORWARD"] = (harmless, *chains["FORWARD"][1:])
    found = explain(host, OUTSIDE, "10.1.0.2:80")
    assert (found.verdict, found.certain, len(found.doubts)) == ("ACCEPT", True, 1)


def test_a_program_that_decides(host: Host) -> None:
    chains = host.backend.chains[FILTER]
    chains["FORWARD"] = (Rule(Opaque("NFQUEUE", 1, b"")), *chains["FORWARD"])
    found = explain(host, OUTSIDE, "10.1.0.2:80")
    assert (found.verdict, found.certain, found.proposal) == ("UNKNOWN", False, None)
    assert found.reason.startswith("another program decides: -j NFQUEUE")


def test_a_link_that_is_down_or_gone(host: Host) -> None:
    host.links.remove_link("tap2")
    found = explain(host, "10.1.0.2:5000", "10.1.0.3:22")
    assert "there is no link tap2: nothing comes or goes that way" in found.notes


def test_where_nobody_is(host: Host) -> None:
    found = explain(host, OUTSIDE, "10.1.0.77:80")
    assert found.verdict == "ACCEPT"
    assert "no described instance has 10.1.0.77: nobody behind br1 answers to it" in found.notes
    assert not any("nobody behind" in note for note in explain(host, OUTSIDE, "10.1.0.2:80").notes)


def test_nothing_leads_there(host: Host) -> None:
    host.links.default = None
    found = explain(host, "10.1.0.2:5000", "198.18.0.9:80")
    assert (found.verdict, found.reason, found.left.device) == ("NO ROUTE", "there is no route", None)


def test_a_stranger_on_the_bridge(host: Host) -> None:
    host.links.add_link("stranger", master="br1")
    found = explain(host, "10.1.0.9:5000", "10.1.0.2:80", in_dev="stranger")
    assert found.verdict == "DROP"
    assert found.reason.startswith("stranger is a port of br1, and nobody's")


@pytest.mark.parametrize(("src", "dst", "port"), [(2, 3, "tap1"), (9, 3, "tap2"), (3, 9, "tap2")])
def test_ipv6_that_meets_no_rules(host: Host, src: int, dst: int, port: str) -> None:
    host.put(make_instance(3, vifs=(make_vif(8, port_security_enabled=False),)))
    host.links.add_link("tap8")
    host.settings = replace(host.settings, use_ipv6=False)
    host.restart()
    found = explain(host, f"[fd00:1::{src}]:5000", f"[fd00:1::{dst}]:80", in_dev=f"tap{src - 1}")
    assert (found.verdict, found.certain) == ("DROP", True)
    assert f"no rules of IPv6 on this host (use_ipv6, or what its kernel lacks): {port}, with" in found.reason
    assert explain(host, "[fd00:1::9]:5000", "[fd00:1::1]:80", in_dev="tap8").verdict == "ACCEPT"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"in_dev": "nowhere"}, "in_dev"),
        ({"in_dev": "tap1", "out_dev": "nowhere"}, "out_dev"),
        ({"in_dev": "eth0", "out_dev": "tap1"}, "out_dev"),
    ],
)
def test_what_is_not_here_is_refused(host: Host, fields: dict[str, str], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        explain(host, "10.1.0.2", "10.1.0.3", "gre", **fields)
    assert caught.value.field == field


def others(host: Host, *tables: OtherTable) -> None:
    object.__setattr__(host.engine.host, "others", lambda: Others(tables))


def base(name: str, *, policy: int = 1, hook: int = 2) -> ListedChain:
    return ListedChain(name, hook, 0, "filter", policy)


def test_the_policy_of_anothers_chain_is_the_cause(host: Host) -> None:
    chains = {"input": base("input", policy=0, hook=1), "forward": base("forward", policy=0)}
    six = OtherTable(NftTable(NftFamily.IP6, "docker"), chains, {}, {})
    others(host, six)
    assert explain(host, OUTSIDE, "10.1.0.2:80").verdict == "ACCEPT"
    others(host, six, OtherTable(NftTable(NftFamily.IP, "docker"), chains, {}, {}))
    found = explain(host, OUTSIDE, "10.1.0.2:80")
    assert found.reason.startswith("the policy of IPv4 ip docker forward refuses it: foreign, ")
    assert found.refused_by is not None
    assert (found.refused_by.owner.ours, found.certain) == (False, True)
    assert found.proposal is not None
    assert not found.proposal.works


def test_what_anothers_rule_asks_and_no_packet_tells(host: Host) -> None:
    limited = expressions.encode((Expression("limit"), expressions.verdict(Verdict.DROP)))
    rules = {"forward": (ListedRule("forward", 2, limited, "mine"),)}
    others(host, OtherTable(NftTable(NftFamily.INET, "fw"), {"forward": base("forward")}, rules, {}))
    found = explain(host, OUTSIDE, "10.1.0.2:80")
    assert (found.verdict, found.certain) == ("ACCEPT", False)
    (doubt,) = found.doubts
    assert (doubt.verdict, doubt.rule.table, doubt.rule.chain, doubt.rule.number) == ("DROP", "inet fw", "forward", 1)
    assert doubt.rule.rule == 'limit rate … drop comment "mine"'


def test_an_expression_that_is_not_known_is_a_doubt(host: Host) -> None:
    strange = expressions.encode((Expression("neverheard", ((1, b"x"),)), expressions.verdict(Verdict.DROP)))
    broken = expressions.encode((Expression("cmp"), expressions.verdict(Verdict.DROP)))
    rules = {"forward": (ListedRule("forward", 2, strange, None), ListedRule("forward", 3, broken, None))}
    others(host, OtherTable(NftTable(NftFamily.INET, "fw"), {"forward": base("forward")}, rules, {}))
    found = explain(host, OUTSIDE, "10.1.0.2:80")
    assert [each.rule.rule for each in found.doubts] == ["(neverheard) drop", "(cmp) drop"]
    assert not found.certain


COUNTER = Expression("counter", ((1, bytes(8)), (2, bytes(8))))


@pytest.mark.parametrize("rule", [COUNTER, Expression("notrack"), Expression("dup"), Expression("log")])
def test_a_rule_that_asks_nothing(host: Host, rule: Expression) -> None:
    rules = {"forward": (ListedRule("forward", 2, expressions.encode((rule,)), None),)}
    others(host, OtherTable(NftTable(NftFamily.INET, "fw"), {"forward": base("forward")}, rules, {}))
    found = explain(host, OUTSIDE, "10.1.0.2:80")
    assert (found.verdict, found.certain) == ("ACCEPT", True)
    assert [each.rule for each in found.rules if each.table == "inet fw"] == [rule.name]
