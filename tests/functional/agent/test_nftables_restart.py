"""Law 2 with nftables: a restart with nothing changed writes nothing, a change writes what changed."""

import re
import time
from collections.abc import Callable

import pytest

from nova_netagent.backend.nft import Netlink
from nova_netagent.testing import make_group, make_instance, make_provider_rule, make_rule
from tests.functional.agent.kernel import eventually, metric
from tests.functional.agent.nft import W, held, nft
from tests.functional.agent.test_life_restart import Town, kill_and_start, stop_and_start
from tests.lab import Agent, Lab, Namespace, needs

pytestmark = needs("nftables", "br_netfilter", "bridge", "program:nft")


@pytest.fixture
def town(lab: Lab) -> Town:
    return Town(lab, firewall={"backend": "nftables"})


def generation(host: Namespace) -> int:
    """Counts every change of the host's nf_tables."""
    netlink = host.call(Netlink)
    try:
        return netlink.generation()
    finally:
        netlink.close()


def counted(host: Namespace) -> list[int]:
    text = host.run(["nft", "list", "ruleset"]).stdout
    return [int(each) for each in re.findall(r"packets (\d+)", text)]


@pytest.mark.parametrize("again", [stop_and_start, kill_and_start])
def test_a_restart_writes_nothing_and_loses_no_packet(town: Town, again: Callable[[Agent], None]) -> None:
    with town.traffic():
        time.sleep(0.05)
        written, before = generation(town.host), counted(town.host)
        again(town.agent)
        after = counted(town.host)
    assert generation(town.host) == written
    assert len(after) == len(before)
    assert all(now >= then for now, then in zip(after, before, strict=True))
    assert metric(town.agent, "applies_total") == 0


def test_a_resync_writes_nothing(town: Town) -> None:
    written = generation(town.host)
    assert town.agent.resync()["repaired"] == []
    assert generation(town.host) == written


def test_what_changed_while_it_was_away_is_put_right_at_the_start(town: Town) -> None:
    before = held(town.host)
    town.agent.stop()
    nft(
        town.host,
        f"flush chain ip {W} {W}-local",
        f'delete element ip {W} {W}-local-hosts {{ 10.1.0.2 . "br1" }}',
        f"add chain ip {W} {W}-inst-deadbeef",
        f"flush chain ip {W} filter-INPUT",
        f"delete element ip {W} {W}-PREROUTING-floating {{ 198.51.100.1 }}",
    )
    town.agent.start()
    assert held(town.host) == before


def test_a_change_while_packets_pass_loses_none_and_goes_back_to_what_was(town: Town) -> None:
    before = held(town.host)
    with town.traffic():
        town.put(make_provider_rule(1), make_provider_rule(2, remote_ip_prefix="203.0.113.7"))
        town.put(make_group(5, make_rule(50, protocol="tcp")), make_instance(5, (5,)), make_instance(6, (1,)))
        for instance in (5, 6):
            town.delete(make_instance(instance, ()))
        town.delete(make_provider_rule(1), make_provider_rule(2), make_group(5))
    eventually(lambda: held(town.host) == before, 5)


def test_several_dozen_instances_come_and_go(town: Town) -> None:
    """More than a node of the tree holds."""
    before = held(town.host)
    for number in range(10, 50):
        town.put(make_instance(number, (1,)))
    text = town.host.run(["nft", "list", "map", "ip", W, f"{W}-local-hosts"]).stdout
    assert text.count("jump") == 42
    assert "to-" not in town.host.run(["nft", "list", "chain", "ip", W, f"{W}-local"]).stdout
    assert town.agent.resync()["repaired"] == []
    written = generation(town.host)
    town.agent.restart()
    assert generation(town.host) == written
    for number in range(10, 50):
        town.delete(make_instance(number, ()))
    eventually(lambda: held(town.host) == before, 5)
