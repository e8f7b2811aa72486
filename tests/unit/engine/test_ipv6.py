"""IPv6 switched off and on again, or gone from the kernel: nothing of ours stays where nothing is asked."""

import logging
from pathlib import Path

import pytest
from msgspec.structs import replace

from nova_netagent.netfilter.owner import FILTER_TOP, POSTROUTING_BOTTOM, Owner
from nova_netagent.netfilter.rule import ACCEPT, FAMILIES, Family, Jump, LocalAddress, Rule, TableId
from nova_netagent.testing import make_group, make_instance, make_network, make_rule
from tests.properties.host import SETTINGS, Host

FILTER, RAW = TableId(6, "filter"), TableId(6, "raw")
SHARED = {FILTER_TOP, POSTROUTING_BOTTOM}
FOREIGN = Rule(ACCEPT, matches=(LocalAddress(),))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Instances whose groups know each other in both families."""
    made = Host(tmp_path)
    remote = [make_rule(n, ethertype=f"IPv{n}", remote_group_id=make_group(1).id) for n in (4, 6)]
    made.put(make_network(1), make_group(1, *remote), *(make_instance(n, (1,)) for n in (1, 2)))
    assert of_ours(made, 6)
    return made


def of_ours(host: Host, family: Family) -> set[str]:
    """The names of our chains and sets of a family, and of those that we share."""
    owns = Owner(SETTINGS.firewall.wrap_name).owns_chain
    chains = {name for table, each in host.backend.chains.items() if table.family == family for name in each}
    return {name for name in chains if owns(name) or name in SHARED} | {
        name for name, each in host.backend.sets.items() if each.family == family
    }


def restart(host: Host, *, use_ipv6: bool) -> None:
    host.settings = replace(SETTINGS, use_ipv6=use_ipv6)
    host.restart()


def plan(host: Host) -> list[str]:
    return host.engine.inspect().plan()


def of_ipv4(host: Host) -> object:
    return {table: chains for table, chains in host.kernel()["chains"].items() if table.family == 4}


def test_switched_off_nothing_of_ours_is_left(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.backend.change(FILTER, "foreign", [FOREIGN])
    host.backend.change(FILTER, "FORWARD", [*host.backend.chains[FILTER]["FORWARD"], Rule(Jump("foreign"))])
    before, ipv4 = host.kernel(), of_ipv4(host)
    caplog.set_level(logging.INFO)
    restart(host, use_ipv6=False)
    assert of_ours(host, 6) == set()
    assert of_ipv4(host) == ipv4
    assert host.backend.chains[FILTER]["foreign"] == (FOREIGN,)
    assert host.backend.chains[FILTER]["FORWARD"] == (Rule(Jump("foreign")),)
    (told,) = [each.getMessage() for each in caplog.records if "swept" in each.getMessage()]
    assert told.startswith("nothing of ours has to be in IPv6 nat, IPv6 filter, IPv6 mangle, IPv6 raw: swept ")
    assert (plan(host), host.engine.resync()) == ([], [])
    restart(host, use_ipv6=True)
    assert host.kernel() == before
    assert plan(host) == []


def test_what_comes_back_while_it_is_off_is_drift(host: Host) -> None:
    restart(host, use_ipv6=False)
    name = Owner(SETTINGS.firewall.wrap_name).chain("local")
    host.backend.change(FILTER, name, [])
    assert plan(host) == [f"IPv6 filter: - chain {name}"]
    assert host.backend.chains[FILTER].keys() >= {name}, "a plan changes nothing"
    host.put(make_instance(3, (1,)))
    assert host.engine.resync() == [f"IPv6 filter: - chain {name}"]
    assert (of_ours(host, 6), plan(host)) == (set(), [])


def test_a_kernel_that_has_lost_its_tables_keeps_no_sets_for_them(host: Host) -> None:
    for table in [each for each in host.backend.chains if each.family == 6]:
        del host.backend.chains[table]
    restart(host, use_ipv6=False)
    assert (of_ours(host, 6), plan(host)) == (set(), [])


def test_a_family_that_cannot_be_served_any_more_is_not_left_half_done(host: Host) -> None:
    before = of_ipv4(host)
    del host.backend.chains[RAW]
    host.restart()
    assert host.engine.view.warnings == ("this kernel lacks tables of IPv6: instances' IPv6 is refused",)
    assert (of_ours(host, 6), of_ipv4(host)) == (set(), before)
    assert (plan(host), host.engine.resync()) == ([], [])


def test_how_our_rules_are_seen_names_no_family_that_cannot_be_served(host: Host) -> None:
    assert host.engine.see_with == host.backend.see_with(FAMILIES)
    del host.backend.chains[RAW]
    host.restart()
    assert host.engine.see_with == host.backend.see_with(FAMILIES[:1])


def test_a_set_that_a_strangers_rule_uses_stays_and_goes_when_it_may(host: Host) -> None:
    (name,) = [name for name in of_ours(host, 6) if "-g6-" in name]
    used = next(
        replace(rule, target=ACCEPT)
        for rules in host.backend.chains[FILTER].values()
        for rule in rules
        if name in str(rule.matches)
    )
    host.backend.change(FILTER, "FORWARD", [*host.backend.chains[FILTER]["FORWARD"], used])
    restart(host, use_ipv6=False)
    assert of_ours(host, 6) == {name}
    assert host.engine.view.failure == ""
    host.backend.change(FILTER, "FORWARD", [])
    host.engine.resync()
    assert (of_ours(host, 6), plan(host)) == (set(), [])
