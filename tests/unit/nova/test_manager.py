"""IptablesManager's scenarios (nova/tests/unit/test_iptables_network.py): numbers 1 to 9."""

import pytest

from nova_netagent.backend.fake import ALL_TABLES, FakeBackend
from nova_netagent.events import Put
from nova_netagent.model import Object
from nova_netagent.netfilter.rule import Family, Rule, TableId
from nova_netagent.testing import (
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_rule,
)
from tests.properties.host import Host
from tests.unit.nova.conftest import MakeHost
from tests.unit.nova.iptables import VIRBR0, chain, everything, foreign, install, jump, names, save, virbr0


def test_describing_the_same_thing_twice_changes_nothing_the_second_time(host: Host) -> None:
    """Scenario 1."""
    items = (make_network(1), make_group(1, make_rule(1)), make_instance(1, (1,)))
    host.put(*items)
    before, commits = everything(host), host.backend.commits
    answers = host.put(*items)
    assert [answer.change for answer in answers] == ["unchanged"] * 3
    assert everything(host) == before
    assert host.backend.commits == commits


def test_nothing_to_do_is_no_write_and_many_changes_are_one(host: Host) -> None:
    """Scenario 2."""
    assert host.engine.resync() == []
    commits = host.backend.commits
    assert host.engine.resync() == []
    assert host.backend.commits == commits
    host.put(make_network(1), *(make_instance(n) for n in range(1, 20)), *(make_floating_ip(n) for n in range(1, 9)))
    tables_touched = 7  # all but IPv6 nat
    assert host.backend.commits == commits + tables_touched


def test_a_rule_comes_with_what_asks_for_it_and_goes_with_it(host: Host) -> None:
    """Scenario 3."""
    group = make_group(1, make_rule(1, remote_ip_prefix="1.2.3.4/5", protocol="tcp"))
    host.put(make_network(1), group, make_instance(1, (1,)))
    assert "-A W-sgi-b0000001 -s 0.0.0.0/5 -p tcp -j ACCEPT" in save(host)
    host.delete(group)
    assert not [line for line in save(host) if "0.0.0.0/5" in line]


def test_removing_a_floating_ip_leaves_the_one_that_looks_alike(host: Host) -> None:
    """Scenario 4: nova removed by a regular expression."""
    host.put(make_network(1), make_instance(1), make_instance(9))
    before = save(host, "nat")
    short, long = make_floating_ip(1, fixed_ip_address="10.1.0.1"), make_floating_ip(10, fixed_ip_address="10.1.0.10")
    assert long.id.startswith(short.id)
    for first, second in ((short, long), (long, short)):
        host.put(short, long)
        assert len(save(host, "nat")) == len(before) + 10
        host.delete(first)
        assert not [line for line in save(host, "nat") if first.id in line.replace("/", " ").split()]
        assert len([line for line in save(host, "nat") if second.id in line.replace("/", " ").split()]) == 5
        host.delete(second)
        assert save(host, "nat") == before


@pytest.mark.parametrize("family", [4, 6])
def test_the_nat_table_has_its_chains_and_its_last_jump_is_to_the_bottom(host: Host, family: Family) -> None:
    """Scenario 5."""
    install(host, family=family)
    host.put(make_network(1))
    host.engine.resync()
    assert names(host, "nat", family) >= {"W-PREROUTING", "W-OUTPUT", "W-POSTROUTING", "W-snat", "W-float-snat"}
    lines = save(host, "nat", family)
    assert len(lines) == len(set(lines))
    for name in ("PREROUTING", "OUTPUT", "POSTROUTING"):
        assert chain(host, name, "nat", family)[0] == f"-j W-{name}"
    assert chain(host, "POSTROUTING", "nat", family)[1] == "-j nova-postrouting-bottom"
    assert chain(host, "nova-postrouting-bottom", "nat", family) == ["-j W-snat"]
    assert chain(host, "W-snat", "nat", family)[0] == "-j W-float-snat"


@pytest.mark.parametrize("family", [4, 6])
def test_the_first_rule_of_forward_and_output_is_nova_filter_top(host: Host, family: Family) -> None:
    """Scenario 6."""
    install(host, family=family)
    host.put(make_network(1))
    host.engine.resync()
    for name in ("FORWARD", "OUTPUT"):
        assert chain(host, name, "filter", family)[:2] == ["-j nova-filter-top", f"-j W-{name}"]
    assert chain(host, "INPUT", "filter", family)[0] == "-j W-INPUT"
    assert chain(host, "nova-filter-top", "filter", family) == ["-j W-local"]
    assert names(host, "filter", family) >= {"W-FORWARD", "W-INPUT", "W-local", "W-OUTPUT"}


def test_a_kernel_without_ipv6_nat_is_served_without_it(make_host: MakeHost) -> None:
    """Scenario 7; CONTRACT, section 6: IPv4 and IPv6 alike except where the kernel has no such thing."""
    backend = FakeBackend([table for table in ALL_TABLES if table != TableId(6, "nat")])
    host = make_host(backend)
    host.put(make_network(1), make_instance(1))
    assert host.engine.view.ready
    assert "W-inst-a0000001" in names(host, "filter", 6)


def test_a_kernel_without_ipv4_nat_is_not_served_as_if_it_had_it(make_host: MakeHost) -> None:
    """Scenario 7, the other half."""
    backend = FakeBackend([table for table in ALL_TABLES if table != TableId(4, "nat")])
    host = make_host(backend)
    network, instance, floating = make_network(1), make_instance(1), make_floating_ip(1)
    host.put(network, make_network(2, cidr=None, gateway=None), instance, floating)
    assert told(host, floating) == ("error", "this kernel has no nat table for IPv4")
    assert told(host, network) == (
        "error",
        "this kernel has no nat table for IPv4: no SNAT, no way to the metadata service",
    )
    assert told(host, make_network(2)) == told(host, instance) == ("done", "")
    assert "198.51.100.1" not in "".join(cidr for _, cidr in host.links.addresses)
    assert "W-inst-a0000001" in names(host, "filter", 4)


def told(host: Host, item: Object) -> tuple[str, str]:
    """What is said of an object: its state, and why."""
    status = host.engine.view.status((item.KIND, item.id))
    assert status is not None
    return status.state, status.message


TOP = [foreign("iptables-top-rule"), foreign("iptables-top-rule", protocol=6)]
BOTTOM = [foreign("iptables-bottom-rule")]
PLAIN = VIRBR0["filter"]["FORWARD"]
OUR_JUMPS = [jump("nova-filter-top"), jump("nova-netagent-FORWARD")]


@pytest.mark.parametrize(
    ("options", "found", "expected"),
    [
        ({"iptables_top_regex": "iptables-top-rule"}, TOP + PLAIN, TOP + OUR_JUMPS + PLAIN),
        ({"iptables_bottom_regex": "iptables-bottom-rule"}, PLAIN + BOTTOM, OUR_JUMPS + PLAIN + BOTTOM),
        (
            {"iptables_top_regex": "iptables-top-rule", "iptables_bottom_regex": "iptables-bottom-rule"},
            TOP + PLAIN + BOTTOM,
            TOP + OUR_JUMPS + PLAIN + BOTTOM,
        ),
        ({}, TOP + PLAIN + BOTTOM, OUR_JUMPS + TOP + PLAIN + BOTTOM),
    ],
)
def test_foreign_rules_that_match_stay_first_and_last_and_a_second_pass_changes_nothing(
    make_host: MakeHost, options: dict[str, str], found: list[Rule], expected: list[Rule]
) -> None:
    """Scenario 8."""
    backend = FakeBackend()
    table = TableId(4, "filter")
    backend.change(table, "FORWARD", found)
    host = make_host(backend, **options)
    assert list(backend.chains[table]["FORWARD"]) == expected
    commits = backend.commits
    assert host.engine.resync() == []
    host.restart()
    assert backend.commits == commits
    assert list(backend.chains[table]["FORWARD"]) == expected


@pytest.mark.parametrize("family", [4, 6])
def test_foreign_rules_are_all_still_there(host: Host, family: Family) -> None:
    """Scenario 9."""
    install(host, family=family)
    before = {(table, name): rules for table, chains in virbr0(family).items() for name, rules in chains.items()}
    host.put(make_network(1), make_group(1, make_rule(1)), make_instance(1, (1,)), make_floating_ip(1))
    host.send(Put(make_instance(2, (1,))))
    host.engine.resync()
    for (table, name), rules in before.items():
        now = host.backend.chains[TableId(family, table)][name]
        assert [rule for rule in now if rule in rules] == rules
