"""Law 9: what somebody did to our rules, sets, links and addresses is repaired, and counted."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nova_netagent.engine.schedule import MEDDLING_SECONDS
from nova_netagent.testing import make_floating_ip, make_group, make_provider_rule, make_rule
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import eventually, kernel, metric
from tests.functional.agent.meddling import DRIFT
from tests.functional.agent.nft import W
from tests.functional.conftest import ON_IPTABLES, ON_NFTABLES, ON_ONE
from tests.lab import Lab, Namespace, iptables, needs, tcp
from tests.lab.agent import BACKENDS

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[Cloud]:
    """A host that every meddling leaves as it was, repaired."""
    with Lab(tmp_path_factory.mktemp("drift")) as lab:
        yield furnished(Cloud(lab, backend=backend))


def furnished(cloud: Cloud) -> Cloud:
    """Some of everything: two instances on a bridge, a group that is its own remote, a floating IP."""
    cloud.network(1)
    rules = [make_rule(n, ethertype=f"IPv{n}", remote_group_id=make_group(1).id) for n in (4, 6)]
    cloud.put(make_group(1, *rules, make_rule(7, protocol="tcp", port_range_min=80, port_range_max=80)))
    cloud.instance(1, (1,))
    cloud.instance(2, (1,))
    cloud.put(make_floating_ip(1), make_provider_rule(1), make_provider_rule(2, remote_ip_prefix="203.0.113.7"))
    return cloud


def meddle(cloud: Cloud, what: str) -> None:
    DRIFT[cloud.backend][what](cloud.host)


MEDDLINGS = [(backend, what) for backend in BACKENDS for what in DRIFT[backend]]


@pytest.mark.parametrize(("backend", "what"), MEDDLINGS, indirect=["backend"])
def test_a_resync_repairs_tells_and_counts(shared: Cloud, what: str) -> None:
    host, agent = shared.host, shared.agent
    agent.resync()
    before, counted = kernel(host), metric(agent, "drift_repairs_total")
    meddle(shared, what)
    assert kernel(host) != before
    assert agent.request("GET", "/v1/plan")[1]["plan"]
    assert agent.resync()["repaired"]
    assert kernel(host) == before
    assert metric(agent, "drift_repairs_total") > counted
    assert agent.resync()["repaired"] == []


@ON_NFTABLES
def test_what_a_resync_repaired_is_not_looked_for_again(shared: Cloud) -> None:
    meddle(shared, "a verdict is turned")
    assert shared.agent.resync()["repaired"]
    resyncs = metric(shared.agent, "resync_seconds_count")
    time.sleep(MEDDLING_SECONDS + 2)
    assert metric(shared.agent, "resync_seconds_count") == resyncs


def reaches(cloud: Cloud) -> bool:
    """Whether the outside reaches the first instance where its group lets it."""
    return bool(tcp(cloud.outside, "10.1.0.2", 80, server=cloud.lab.instances[0]))


WAYS = {
    "iptables": ("every table is emptied", "a chain is removed", "all sets are flushed"),
    "nftables": ("the ruleset is flushed", "every address leads nowhere", "a lookup is taken out"),
}


def test_packets_pass_again(shared: Cloud) -> None:
    for what in WAYS[shared.backend]:
        meddle(shared, what)
        shared.agent.resync()
        assert reaches(shared)


def test_what_is_repaired_is_told_in_words_an_operator_knows(shared: Cloud) -> None:
    meddle(shared, "a verdict is turned")
    meddle(shared, "a member is added")
    plan = shared.agent.request("GET", "/v1/plan")[1]["plan"]
    repaired = shared.agent.resync()["repaired"]
    assert sorted(repaired) == sorted(plan)
    assert f"IPv4 filter: - {W}-sg-fallback[1] -j ACCEPT" in repaired
    assert f"IPv4 filter: + {W}-sg-fallback[1] -j DROP" in repaired
    assert f"set: - {W}-g4-b0000001 203.0.113.0/24" in repaired
    assert repaired[0] in shared.agent.log or repaired[-1] in shared.agent.log


def test_a_plan_changes_nothing(shared: Cloud) -> None:
    meddle(shared, {"iptables": "a table is flushed", "nftables": "our table is emptied"}[shared.backend])
    found = kernel(shared.host)
    assert len(shared.agent.request("GET", "/v1/plan")[1]["plan"]) > 20
    assert kernel(shared.host) == found
    shared.agent.resync()


def test_what_is_right_keeps_its_counters_while_the_rest_is_repaired(shared: Cloud) -> None:
    assert reaches(shared)
    before = packets(shared, "inst-a0000001")
    assert sum(before) > 0
    meddle(shared, "a rule is added at the end")
    meddle(shared, "a verdict is turned")
    shared.agent.resync()
    # The end of the connection may be counted late.
    assert all(now >= then for now, then in zip(packets(shared, "inst-a0000001"), before, strict=True))


def packets(cloud: Cloud, chain: str) -> list[int]:
    """What the rules of a chain of ours have counted in IPv4, by the agent."""
    chains: list[dict[str, Any]] = cloud.agent.request("GET", "/v1/chains")[1]["chains"]
    (found,) = (each for each in chains if (each["family"], each["chain"]) == (4, f"{W}-{chain}"))
    return [rule["packets"] for rule in found["rules"]]


@ON_IPTABLES
def test_what_is_others_keeps_its_counters_in_a_table_that_is_repaired(shared: Cloud) -> None:
    """In nf_tables ours are tables of our own."""
    restored = "*filter\n[7:70] -A FORWARD -s 192.0.2.99\nCOMMIT\n"
    shared.host.run(["iptables-legacy-restore", "-c", "--noflush"], stdin=restored)
    meddle(shared, "a verdict is turned")
    shared.agent.resync()
    saved = shared.agent.iptables_save(counters=True, table="filter")
    assert "[7:70] -A FORWARD -s 192.0.2.99/32" in saved
    iptables(shared.host, "-D FORWARD -s 192.0.2.99")


BY_ITSELF = {
    "iptables": ("every table is emptied", "a verdict is turned", "all sets are flushed"),
    "nftables": ("the ruleset is flushed", "an address leads to another"),
}


def test_by_itself(lab: Lab, backend: str) -> None:
    """Within the resync interval; in nf_tables long before it, as soon as the kernel tells of it."""
    seconds = {"iptables": 1, "nftables": 60}[backend]
    cloud = furnished(Cloud(lab, {"firewall": {"resync_interval": seconds}}, backend=backend))
    before = kernel(cloud.host)
    for what in BY_ITSELF[backend]:
        meddle(cloud, what)
        eventually(lambda: kernel(cloud.host) == before, 2)
    eventually(lambda: metric(cloud.agent, "drift_repairs_total") > 50, 1)
    assert "somebody had changed what is ours" in cloud.agent.log


# --- links: at once, by the kernel's own notices, whatever the packet filter

LINKS: dict[str, Callable[[Namespace], None]] = {
    "the gateway's address is removed": lambda host: host.links.delete_address("br1", "10.1.0.1/24"),
    "the gateway's IPv6 address is removed": lambda host: host.links.delete_address("br1", "fd00:1::1/64"),
    "a floating IP is removed": lambda host: host.links.delete_address("eth0", "198.51.100.1/32"),
    "the metadata address is removed": lambda host: host.links.delete_address("lo", "169.254.169.254/32"),
    "a tap is taken off its bridge": lambda host: host.links.set("tap1", master=""),
    "a tap is set down": lambda host: host.links.set("tap1", up=False),
    "the bridge is set down": lambda host: host.links.set("br1", up=False),
    "the bridge is deleted": lambda host: host.links.delete("br1"),
}


@pytest.mark.parametrize("what", LINKS)
def test_links_are_repaired_at_once_without_a_resync(shared: Cloud, what: str) -> None:
    before, counted = kernel(shared.host), metric(shared.agent, "drift_repairs_total")
    LINKS[what](shared.host)
    eventually(lambda: kernel(shared.host) == before, 1)
    eventually(lambda: metric(shared.agent, "drift_repairs_total") > counted, 1)


def test_a_tap_on_another_bridge_comes_back_to_its_own(shared: Cloud) -> None:
    before = kernel(shared.host)
    shared.host.links.add_bridge("elsewhere")
    shared.host.links.set("tap1", master="elsewhere")
    eventually(lambda: shared.host.links.all()["tap1"]["master"] == "br1", 1)
    shared.host.links.delete("elsewhere")
    eventually(lambda: kernel(shared.host) == before, 1)


def test_a_tap_that_is_made_anew_is_joined_again(shared: Cloud) -> None:
    before = kernel(shared.host)
    shared.host.links.delete("tap2")
    shared.guest(2)
    eventually(lambda: kernel(shared.host) == before, 1)


def test_links_are_repaired_by_a_resync_too(shared: Cloud) -> None:
    """Sysctls give no notice."""
    for name in ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables", "net/ipv4/ip_forward"):
        shared.host.sysctl(name, 0)
        assert shared.agent.resync()["repaired"] == [f"sysctl: {name} = 1"]
        assert shared.host.sysctl(name) == "1"


@ON_ONE
def test_hundreds_of_repairs_in_a_row(shared: Cloud) -> None:
    before = kernel(shared.host)
    for _ in range(50):
        shared.host.links.set("tap1", master="")
        shared.host.links.delete_address("br1", "10.1.0.1/24")
        eventually(lambda: shared.host.links.has_address("br1", "10.1.0.1/24"), 1)
        eventually(lambda: shared.host.links.all()["tap1"]["master"], 1)
    eventually(lambda: kernel(shared.host) == before, 1)
