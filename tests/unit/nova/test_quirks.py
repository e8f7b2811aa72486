"""nova's own defects (reference, section (h)): what this agent does where nova did harm."""

from typing import Any

import pytest

from nova_netagent.engine import NotApplied
from nova_netagent.netfilter.rule import DROP, Rule, TableId
from nova_netagent.plan.tables import Delete, TablePlan
from nova_netagent.testing import (
    group_id,
    instance_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
)
from tests.properties.host import Host
from tests.unit.compile.world import World
from tests.unit.nova.conftest import MakeHost
from tests.unit.nova.iptables import chain, everything, foreign, install, jump, names, save

FILTER = TableId(4, "filter")


def test_removing_instance_1_leaves_10_to_19_filtered(host: Host) -> None:
    """Q1: nova removed every rule whose text contained the name."""
    ids = [f"0000000{n:x}-0000-4000-8000-00000000000{n:x}" for n in (1, 10)]
    ids += ["00000010-0000-4000-8000-000000000010", "00000011-0000-4000-8000-000000000011"]
    instances = [make_instance(n + 1, id=id_) for n, id_ in enumerate(ids)]
    host.put(make_network(1), *instances)
    before = save(host)
    host.delete(instances[0])
    gone = [line for line in before if line not in save(host)]
    assert len([line for line in gone if "W-local" in line]) == 1
    assert all("W-inst-00000001" in line for line in gone)
    for id_ in ids[1:]:
        assert [line for line in save(host) if line.startswith("-A W-local") and line.endswith(f"-j W-inst-{id_[:8]}")]


def test_an_unrelated_change_touches_no_other_rule(host: Host) -> None:
    """Q2: what is not touched keeps its counters."""
    host.put(make_network(1), *(make_instance(n) for n in range(1, 6)))
    plans: list[TablePlan[Rule]] = []
    apply = host.backend.apply

    def noted(plan: TablePlan[Rule], *rest: Any, **named: Any) -> None:
        plans.append(plan)
        apply(plan, *rest, **named)

    host.backend.apply = noted  # type: ignore[method-assign]
    host.put(make_instance(6))
    assert not [edit for plan in plans for edit in plan.edits if isinstance(edit, Delete)]
    touched = {chain for plan in plans for chain, _ in plan.coming()}
    assert {name.removeprefix("nova-netagent-") for name in touched if "-to-" not in name} == {
        "inst-a0000006",
        "local",
        "ports",
        "senders",
    }


def test_a_rule_that_an_operator_repeats_stays_repeated_where_it_is(host: Host) -> None:
    """Q3."""
    rule, other = foreign("twice"), foreign("other")
    install(host, {"filter": {"FORWARD": [rule, other, rule]}})
    host.put(make_network(1))
    host.engine.resync()
    assert list(host.backend.chains[FILTER]["FORWARD"])[2:] == [rule, other, rule]


def test_an_operators_rule_that_mentions_us_stays(host: Host) -> None:
    """Q4."""
    rules = [foreign("see nova-netagent-FORWARD"), foreign("nova-netagent"), foreign("-j nova-netagent-local")]
    install(host, {"filter": {"FORWARD": rules, "INPUT": rules}})
    host.put(make_network(1))
    host.engine.resync()
    host.restart()
    for name in ("FORWARD", "INPUT"):
        assert [rule for rule in host.backend.chains[FILTER][name] if rule in rules] == rules


def test_a_flush_is_repaired_whole_and_counted(host: Host) -> None:
    """Q5 and Q6: ``iptables -F; iptables -t nat -F; iptables -X``."""
    host.put(make_network(1), make_instance(1), make_floating_ip(1))
    before = everything(host)
    for table in (FILTER, TableId(4, "nat")):
        for name in list(host.backend.chains[table]):
            host.backend.change(table, name, ())
    repaired = host.engine.resync()
    assert repaired
    assert everything(host) == before
    (counter,) = host.metrics.drift_repairs_total.collect()
    assert sum(sample.value for sample in counter.samples if sample.name.endswith("_total")) > 0
    assert host.engine.resync() == []


def test_a_change_after_a_flush_repairs_it_as_well(host: Host) -> None:
    """Q5: nova's tables were not dirty."""
    host.put(make_network(1), make_instance(1))
    for name in list(host.backend.chains[FILTER]):
        host.backend.change(FILTER, name, ())
    host.put(make_instance(2))
    assert "-j nova-filter-top" in chain(host, "FORWARD")
    assert len(chain(host, "W-inst-a0000001")) > 1


def test_two_agents_of_one_host_leave_each_other_alone(make_host: MakeHost) -> None:
    """Q7 and Q8: one's name is the beginning of the other's."""
    one = make_host(wrap_name="nova-api")
    other = make_host(one.backend, wrap_name="nova-api-m")
    for agent, number in ((one, 1), (other, 2), (one, 3), (other, 4)):
        agent.put(make_network(number), make_instance(number, network=number))
    for table in one.backend.chains.values():
        assert {name for name in table if name.endswith("-inst-a0000001")} <= {"nova-api-inst-a0000001"}
    chains = one.backend.chains[FILTER]
    for wrap, numbers in (("nova-api", (1, 3)), ("nova-api-m", (2, 4))):
        for number in numbers:
            assert chains[f"{wrap}-inst-a000000{number}"]
    assert set(chains["nova-filter-top"]) == {jump("nova-api-local"), jump("nova-api-m-local")}
    for agent in (one, other):
        agent.engine.resync()
    assert {rule.target for rule in chains["FORWARD"]} >= {
        jump("nova-api-FORWARD").target,
        jump("nova-api-m-FORWARD").target,
    }


def test_a_restart_takes_no_instances_filter_away(host: Host) -> None:
    """Q9: nova-compute's first apply took every chain away, and brought them back one by one."""
    host.put(make_network(1), *(make_instance(n) for n in range(1, 9)))
    before, commits = everything(host), host.backend.commits
    host.restart()
    assert everything(host) == before
    assert host.backend.commits == commits


def test_source_groups_and_icmp_types_work_in_ipv6() -> None:
    """Q11."""
    group = make_group(
        1,
        make_rule(1, ethertype="IPv6", remote_group_id=group_id(1)),
        make_rule(2, ethertype="IPv6", protocol="icmp", port_range_min=128, port_range_max=0),
    )
    world = World(make_network(1), group, make_instance(1, (1,)))
    assert world.chain("sgi-b0000001", family=6) == [
        "-m set --match-set nova-netagent-g6-b0000001 src -j ACCEPT",
        "-p ipv6-icmp -m icmp6 --icmpv6-type 128/0 -j ACCEPT",
    ]
    assert world.sets["g6-b0000001"].members == {"fd00:1::2/128"}


# --- by reading


def test_a_failed_write_is_not_taken_for_done(host: Host) -> None:
    """nova cleared ``dirty`` before it ran iptables-restore."""
    host.put(make_network(1))
    host.backend.unavailable = 1
    with pytest.raises(NotApplied):
        host.put(make_instance(1))
    status = host.engine.view.status(("instances", instance_id(1)))
    assert status is not None
    assert status.state == "pending"
    assert "W-inst-a0000001" not in names(host)
    host.put(make_group(1))
    assert "W-inst-a0000001" in names(host)


def test_a_change_of_another_program_between_read_and_write_is_not_lost(host: Host) -> None:
    """nova wrote the whole table back from a snapshot."""
    host.put(make_network(1))
    rule = foreign("came in between")

    def meddle(table: TableId) -> None:
        host.backend.before_commit = lambda table: None
        host.backend.change(FILTER, "INPUT", [*host.backend.chains[FILTER]["INPUT"], rule])

    host.backend.before_commit = meddle
    host.put(make_instance(1))
    assert rule in host.backend.chains[FILTER]["INPUT"]
    assert "W-inst-a0000001" in names(host)


def test_one_rule_that_the_kernel_refuses_fails_its_object_alone(host: Host) -> None:
    """nova's whole iptables-restore failed, for every instance of the host, until the rule went away."""
    bad = Rule(DROP, source="203.0.113.0/24")
    host.backend.refuse = lambda rule: rule.source == bad.source
    refused = make_provider_rule(1)
    host.put(make_network(1), refused, make_instance(1), make_group(1, make_rule(1)))
    status = host.engine.view.status(("provider_rules", refused.id))
    assert status is not None
    assert status.state == "error"
    assert "refused" in status.message
    assert "W-inst-a0000001" in names(host)


def test_ipv4_and_ipv6_are_both_there_or_the_change_is_pending(host: Host) -> None:
    """nova's two restores were independent: one could fail without anybody knowing."""
    host.put(make_network(1))

    def fail(table: TableId) -> None:
        if table.family == 6:  # somebody is always faster
            chains = host.backend.chains[table]
            host.backend.change(table, f"x{len(chains)}", ())

    host.backend.before_commit = fail
    with pytest.raises(NotApplied):
        host.put(make_instance(1))
    host.backend.before_commit = lambda table: None
    host.engine.resync()
    for family in (4, 6):
        assert "W-inst-a0000001" in names(host, family=family)


def test_the_way_to_an_instance_is_no_list_of_all_of_them() -> None:
    """nova: each forwarded packet walked all N rules of ``local``."""
    world = World(make_network(1, cidr="10.1.0.0/20"), *(make_instance(n) for n in range(1, 301)))
    for name in world.chains():
        if name in ("local", "ports") or name.startswith("to-"):
            assert len(world.chain(name)) <= 21, name


def test_a_source_group_of_many_members_is_one_rule() -> None:
    """nova: members x rules x instances."""
    group = make_group(1, make_rule(1, remote_group_id=group_id(1)))
    world = World(make_network(1), group, *(make_instance(n, (1,)) for n in range(1, 101)))
    assert world.chain("sgi-b0000001") == ["-m set --match-set nova-netagent-g4-b0000001 src -j ACCEPT"]
    assert len(world.sets["g4-b0000001"].members) == 100


def test_a_floating_ip_whose_interface_changes_leaves_nothing(host: Host) -> None:
    """nova leaked its rules when the device at disassociate was another."""
    host.links.add_link("eth5")
    host.put(make_network(1), make_instance(1), make_floating_ip(1, interface="eth5"))
    host.put(make_floating_ip(1))
    assert not [line for line in save(host, "nat") if "eth5" in line]
    assert ("eth5", "198.51.100.1/32") not in host.links.addresses
    assert ("eth0", "198.51.100.1/32") in host.links.addresses
