"""Where our jumps stand among foreign rules, and what a foreign rule that leads to us does.

In nf_tables nobody else's rules are in our chains, and no jump leads from one table to another.
"""

import pytest

from nova_netagent.testing import make_group, make_instance, make_provider_rule, make_rule
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import cleanup, eventually, kernel, metric
from tests.functional.agent.test_foreign_rules import HOOKS, order_in
from tests.functional.conftest import ON_IPTABLES
from tests.lab import Lab, Namespace, iptables, needs, privileges
from tests.lab.tables import Family

pytestmark = [needs("iptables", "ip6tables", "ipset", "br_netfilter"), ON_IPTABLES]

A, B, C, D = (f"-s 203.0.113.{n}/32 -j ACCEPT" for n in (1, 2, 3, 4))
OURS = "-j nova-netagent-INPUT"


@pytest.mark.parametrize("family", [4, 6])
def test_ours_stand_first_in_every_built_in_chain_of_the_contract(lab: Lab, family: Family) -> None:
    host = lab.host()
    for table, chain in HOOKS:
        iptables(host, f"-t {table} -A {chain} -m mark --mark 0x77", family=family)
    Cloud(lab, host=host)
    for (table, chain), names in HOOKS.items():
        foreign = ["-m mark --mark 0x77"]
        assert order_in(host, table, chain, family) == [f"-j {name}" for name in names] + foreign


def input_of(host: Namespace, *rules: str) -> None:
    for rule in rules:
        iptables(host, f"-A INPUT {rule}")


@pytest.mark.parametrize(
    ("top", "bottom", "expected"),
    [
        ("", "", [OURS, A, B, C, D]),
        (r"203\.0\.113\.2", "", [A, B, OURS, C, D]),
        (r"203\.0\.113\.[24]", "", [A, B, C, D, OURS]),
        ("", r"203\.0\.113\.2", [OURS, A, B, C, D]),
        (r"203\.0\.113\.[24]", r"203\.0\.113\.3", [A, B, OURS, C, D]),
        ("no such rule", "", [OURS, A, B, C, D]),
    ],
)
def test_what_the_regular_expressions_match_keeps_its_place(
    lab: Lab, top: str, bottom: str, expected: list[str]
) -> None:
    host = lab.host()
    input_of(host, A, B, C, D)
    cloud = Cloud(lab, {"firewall": {"iptables_top_regex": top, "iptables_bottom_regex": bottom}}, host)
    assert order_in(host, "filter", "INPUT") == expected
    assert cloud.agent.resync()["repaired"] == []
    cloud.agent.stop()
    cleanup(cloud.agent)
    assert order_in(host, "filter", "INPUT") == [A, B, C, D]


@pytest.mark.parametrize(
    "rule",
    [
        B,
        "-p tcp -m tcp --dport 22 -j ACCEPT",
        "-m limit --limit 5/min -j ACCEPT",
    ],
)
def test_a_regular_expression_sees_the_line_as_nova_did(lab: Lab, rule: str) -> None:
    """nova matched iptables-save's line, and its operators wrote the chain and the options of every match."""
    host = lab.host()
    input_of(host, A, rule)
    for chain in ("FORWARD", "OUTPUT"):
        iptables(host, f"-A {chain} {rule}")
    Cloud(lab, {"firewall": {"iptables_top_regex": f"-A INPUT {rule}"}}, host)
    assert order_in(host, "filter", "INPUT") == [A, rule, OURS]
    assert order_in(host, "filter", "FORWARD")[-1] == rule


def test_pushed_down_they_are_put_back_once_a_resync_and_it_is_reported(cloud: Cloud) -> None:
    for number in range(1, 4):
        iptables(cloud.host, f"-I INPUT {A}")
        cloud.put(make_provider_rule(number))
        cloud.put(make_group(number))
        assert order_in(cloud.host, "filter", "INPUT") == [A, OURS, *[A] * (number - 1)], "they are left in peace"
        repaired = cloud.agent.resync()["repaired"]
        assert repaired
        assert all("INPUT" in line for line in repaired)
        assert order_in(cloud.host, "filter", "INPUT") == [OURS, *[A] * number]
        assert cloud.agent.log.count("somebody had changed what is ours") == number
    assert metric(cloud.agent, "drift_repairs_total") == 6


def test_pushed_down_they_are_put_back_by_themselves(lab: Lab) -> None:
    cloud = Cloud(lab, {"firewall": {"resync_interval": 1}})
    iptables(cloud.host, f"-I INPUT {A}")
    eventually(lambda: order_in(cloud.host, "filter", "INPUT") == [OURS, A], 3)


def test_gone_or_doubled_they_are_put_right_at_the_next_change(cloud: Cloud) -> None:
    cloud.put(make_provider_rule(1))
    before = kernel(cloud.host)
    for meddling in (f"-D INPUT {OURS}", "-A FORWARD -j nova-filter-top"):
        iptables(cloud.host, meddling)
        cloud.put(make_provider_rule(2))
        cloud.delete(make_provider_rule(2))
        assert kernel(cloud.host) == before


def test_a_foreign_rule_that_leads_to_a_chain_of_ours_is_kept(cloud: Cloud) -> None:
    """The chain cannot go while it is used: it is emptied, and goes when the rule has gone."""
    cloud.network(1)
    cloud.guest(1)
    cloud.put(make_group(1, make_rule(1)), make_instance(1, (1,)))
    chain = "nova-netagent-inst-a0000001"
    foreign = f"-s 203.0.113.1/32 -j {chain}"
    iptables(cloud.host, f"-A FORWARD {foreign}")
    cloud.delete(make_instance(1))
    assert order_in(cloud.host, "filter", "FORWARD")[-1] == foreign
    assert order_in(cloud.host, "filter", chain) == []
    assert cloud.agent.resync()["repaired"] == [], "an empty chain is no drift"
    iptables(cloud.host, f"-D FORWARD {foreign}")
    cloud.agent.resync()
    assert chain not in str(kernel(cloud.host))


def test_a_foreign_rule_that_uses_a_set_of_ours_is_kept(cloud: Cloud) -> None:
    cloud.network(1)
    cloud.put(make_group(1, make_rule(1, remote_group_id=make_group(1).id)), make_instance(1, (1,)))
    (name,) = (each for each in cloud.agent.ipsets() if "-g4-" in each)
    foreign = f"-m set --match-set {name} src -j ACCEPT"
    iptables(cloud.host, f"-A FORWARD {foreign}")
    cloud.delete(make_instance(1), make_group(1))
    assert order_in(cloud.host, "filter", "FORWARD")[-1] == foreign
    cloud.put(make_provider_rule(1))
    assert cloud.agent.request("GET", "/v1/status")[1]["failure"] == ""
    iptables(cloud.host, f"-D FORWARD {foreign}")
    cloud.agent.resync()
    assert name not in cloud.agent.ipsets()


def test_without_ipv6_no_table_of_it_is_touched(lab: Lab) -> None:
    host = lab.host()
    cloud = Cloud(lab, {"DEFAULT": {"use_ipv6": False}}, host)
    cloud.put(make_provider_rule(1))
    cloud.agent.stop()
    cleanup(cloud.agent)
    if privileges.wanted():
        # The kernel tells root only which there are: who is not asks for each, and by that it is there, empty.
        assert "-A" not in host.run(["ip6tables-legacy-save"]).stdout
    else:
        assert host.run(["cat", "/proc/net/ip6_tables_names"]).stdout == ""
    assert "filter" in host.run(["cat", "/proc/net/ip_tables_names"]).stdout
