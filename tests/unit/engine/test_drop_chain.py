"""``iptables_drop_action`` names a chain of the operator's: without it what is refused is dropped all the same."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from nova_netagent.netfilter.rule import DROP, Rule, TableId
from nova_netagent.testing import make_instance, make_network
from tests.properties.host import SETTINGS, Host

TABLES = [TableId(4, "filter"), TableId(6, "filter")]
FALLBACK = "nova-netagent-sg-fallback"
MISSING = (
    "[firewall] iptables_drop_action = LOGDROP: there is no such chain in {}, and DROP takes its place until it comes"
)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    firewall = replace(SETTINGS.firewall, iptables_drop_action="LOGDROP")
    return Host(tmp_path, settings=replace(SETTINGS, firewall=firewall))


def make_chains(host: Host, *tables: TableId) -> None:
    for table in tables:
        host.backend.change(table, "LOGDROP", (Rule(DROP),))


def fallbacks(host: Host) -> list[list[str]]:
    return [[host.backend.describe(table, rule) for rule in host.backend.chains[table][FALLBACK]] for table in TABLES]


def test_without_the_chain_all_else_is_in_force(host: Host) -> None:
    host.put(make_network(1), make_instance(1))
    assert (host.engine.view.ready, host.engine.view.failure) == (True, "")
    assert fallbacks(host) == [["-j DROP"], ["-j DROP"]]
    assert host.engine.view.warnings == (MISSING.format("IPv4 filter and IPv6 filter"),)
    assert host.engine.inspect().plan() == []


def test_it_is_jumped_to_when_it_comes(host: Host) -> None:
    host.put(make_network(1), make_instance(1))
    make_chains(host, TABLES[0])
    host.engine.resync()
    assert fallbacks(host) == [["-j DROP"], ["-j DROP"]]
    assert host.engine.view.warnings == (MISSING.format("IPv6 filter"),)
    make_chains(host, TABLES[1])
    host.engine.resync()
    assert fallbacks(host) == [["-j LOGDROP"], ["-j LOGDROP"]]
    assert not host.engine.view.warnings
    assert host.engine.inspect().plan() == []


def test_a_chain_that_was_there_before_us_is_jumped_to_at_once(host: Host) -> None:
    make_chains(host, *TABLES)
    host.restart()
    assert fallbacks(host) == [["-j LOGDROP"], ["-j LOGDROP"]]
    assert host.engine.view.warnings == ()


def test_who_takes_it_away_with_all_our_rules_opens_nothing(host: Host) -> None:
    make_chains(host, *TABLES)
    host.put(make_network(1), make_instance(1))
    host.engine.resync()
    for table in TABLES:
        for name in [name for name in host.backend.chains[table] if name not in ("INPUT", "FORWARD", "OUTPUT")]:
            host.backend.change(table, name, None)
        for name in host.backend.chains[table]:
            host.backend.change(table, name, ())
    host.engine.resync()
    assert host.engine.view.failure == ""
    assert fallbacks(host) == [["-j DROP"], ["-j DROP"]]
