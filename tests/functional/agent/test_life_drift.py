"""Law 9: what somebody did to our rules, sets, links and addresses is repaired, and counted."""

import re
from collections.abc import Callable, Iterator

import pytest

from nova_netagent.testing import make_floating_ip, make_group, make_provider_rule, make_rule
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import eventually, kernel, metric
from tests.lab import Lab, Namespace, iptables, needs
from tests.lab.tables import Family

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter")

Meddling = Callable[[Namespace], None]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A host that every meddling leaves as it was, repaired."""
    with Lab(tmp_path_factory.mktemp("drift")) as lab:
        yield furnished(Cloud(lab))


def furnished(cloud: Cloud) -> Cloud:
    """Some of everything: two instances on a bridge, a group that is its own remote, a floating IP."""
    cloud.network(1)
    rules = [make_rule(n, ethertype=f"IPv{n}", remote_group_id=make_group(1).id) for n in (4, 6)]
    cloud.put(make_group(1, *rules, make_rule(7, protocol="tcp", port_range_min=80, port_range_max=80)))
    cloud.instance(1, (1,))
    cloud.instance(2, (1,))
    cloud.put(make_floating_ip(1), make_provider_rule(1), make_provider_rule(2, remote_ip_prefix="203.0.113.7"))
    return cloud


def rules(*commands: str, family: Family = 4) -> Meddling:
    def meddle(host: Namespace) -> None:
        for command in commands:
            iptables(host, command, family=family)

    return meddle


def sets(*commands: str) -> Meddling:
    def meddle(host: Namespace) -> None:
        for command in commands:
            host.run(["ipset", *command.split()])

    return meddle


W = "nova-netagent"
RULES: dict[str, Meddling] = {
    "a chain is flushed": rules(f"-F {W}-inst-a0000001"),
    "our chains are flushed": rules(*(f"-F {W}-{name}" for name in ("INPUT", "FORWARD", "local", "provider"))),
    "a built-in chain is flushed": rules("-F FORWARD"),
    "a table is flushed": rules("-F"),
    "a table is emptied": rules("-F", "-X"),
    "every table is emptied": rules(*(f"-t {t} -{x}" for t in ("raw", "mangle", "filter", "nat") for x in "FX")),
    "IPv6 is emptied": rules(*(f"-t {t} -{x}" for t in ("raw", "mangle", "filter", "nat") for x in "FX"), family=6),
    "a rule is deleted": rules(f"-D {W}-inst-a0000001 1"),
    "a rule is added at the end": rules(f"-A {W}-inst-a0000001 -j ACCEPT"),
    "a rule is added at the top": rules(f"-I {W}-local -j ACCEPT", f"-I {W}-local -j RETURN"),
    "a rule is doubled": rules(f"-I {W}-sg-fallback -j DROP"),
    "rules are reordered": rules(f"-D {W}-provider 1", f"-A {W}-provider -s 203.0.113.0/24 -j DROP"),
    "a rule is replaced by one of the same size": rules(f"-R {W}-provider 1 -s 203.0.114.0/24 -j DROP"),
    "a verdict is turned": rules(f"-R {W}-sg-fallback 1 -j ACCEPT"),
    "a rule in IPv6 is turned": rules(f"-R {W}-sg-fallback 1 -j ACCEPT", family=6),
    "a jump is turned": rules(f"-R {W}-inst-a0000001 1 -j {W}-provider"),
    "a chain is removed": rules(f"-D nova-filter-top -j {W}-local", f"-F {W}-local", f"-X {W}-local"),
    "a shared chain is removed": rules(
        "-D FORWARD -j nova-filter-top", "-D OUTPUT -j nova-filter-top", "-F nova-filter-top", "-X nova-filter-top"
    ),
    "a chain of our grammar is added": rules(f"-N {W}-inst-deadbeef", f"-A {W}-inst-deadbeef -j ACCEPT"),
    "our jump is deleted": rules(f"-t raw -D PREROUTING -j {W}-PREROUTING"),
    "our jump is doubled": rules(f"-A INPUT -j {W}-INPUT"),
    "our jumps are swapped": rules(f"-D FORWARD -j {W}-FORWARD", f"-I FORWARD -j {W}-FORWARD"),
    "a translation is changed": rules(
        f"-t nat -R {W}-PREROUTING 2 -d 198.51.100.1/32 -j DNAT --to-destination 10.1.0.9"
    ),
}
SETS: dict[str, Meddling] = {
    "a set is flushed": sets(f"flush {W}-g4-b0000001"),
    "all sets are flushed": sets("flush"),
    "a member is deleted": sets(f"del {W}-g4-b0000001 10.1.0.2"),
    "a member is added": sets(f"add {W}-g4-b0000001 203.0.113.0/24"),
    "a member is added in IPv6": sets(f"add {W}-g6-b0000001 2001:db8:bad::/48"),
    "a member is replaced": sets(f"del {W}-g4-b0000001 10.1.0.2", f"add {W}-g4-b0000001 10.1.0.99"),
    "a member excludes": sets(f"del {W}-g4-b0000001 10.1.0.2", f"add {W}-g4-b0000001 10.1.0.2 nomatch"),
    "a set is swapped for another": sets("create x hash:net", f"swap x {W}-g4-b0000001", "destroy x"),
    "a set of our grammar is added": sets(f"create {W}-g4-deadbeef hash:net"),
}


def no_sets(host: Namespace) -> None:
    """Rules first, as the kernel destroys no set that is used."""
    RULES["every table is emptied"](host)
    RULES["IPv6 is emptied"](host)
    host.run(["ipset", "destroy"])


@pytest.mark.parametrize("what", [*RULES, *SETS, "the sets are destroyed"])
def test_a_resync_repairs_tells_and_counts(shared: Cloud, what: str) -> None:
    host, agent = shared.host, shared.agent
    agent.resync()
    before, counted = kernel(host), metric(agent, "drift_repairs_total")
    {**RULES, **SETS, "the sets are destroyed": no_sets}[what](host)
    assert kernel(host) != before
    repaired = agent.resync()["repaired"]
    assert repaired
    assert kernel(host) == before
    assert metric(agent, "drift_repairs_total") > counted
    assert agent.resync()["repaired"] == []


def test_what_is_repaired_is_told_in_words_an_operator_knows(shared: Cloud) -> None:
    RULES["a verdict is turned"](shared.host)
    SETS["a member is added"](shared.host)
    plan = shared.agent.request("GET", "/v1/plan")[1]["plan"]
    repaired = shared.agent.resync()["repaired"]
    assert sorted(repaired) == sorted(plan)
    assert f"IPv4 filter: - {W}-sg-fallback[1] -j ACCEPT" in repaired
    assert f"IPv4 filter: + {W}-sg-fallback[1] -j DROP" in repaired
    assert f"set: - {W}-g4-b0000001 203.0.113.0/24" in repaired
    assert repaired[0] in shared.agent.log or repaired[-1] in shared.agent.log


def test_a_plan_changes_nothing(shared: Cloud) -> None:
    RULES["a table is flushed"](shared.host)
    found = kernel(shared.host)
    assert len(shared.agent.request("GET", "/v1/plan")[1]["plan"]) > 20
    assert kernel(shared.host) == found
    shared.agent.resync()


def test_what_is_right_keeps_its_counters_while_the_rest_is_repaired(shared: Cloud) -> None:
    chain = f"{W}-inst-a0000001"
    restored = f"*filter\n[5:500] -A {chain} -j DROP\nCOMMIT\n"
    shared.host.run(["iptables-legacy-restore", "-c", "--noflush"], stdin=restored)
    iptables(shared.host, f"-I {chain} -j {W}-provider")
    shared.host.run(
        ["iptables-legacy-restore", "-c", "--noflush"], stdin="*filter\n[7:70] -A FORWARD -s 192.0.2.99\nCOMMIT\n"
    )
    shared.agent.resync()
    saved = shared.agent.iptables_save(counters=True, table="filter")
    assert "[7:70] -A FORWARD -s 192.0.2.99/32" in saved
    iptables(shared.host, "-D FORWARD -s 192.0.2.99")


def test_by_itself_within_the_resync_interval(lab: Lab) -> None:
    cloud = furnished(Cloud(lab, {"firewall": {"resync_interval": 1}}))
    before = kernel(cloud.host)
    for what in ("every table is emptied", "a verdict is turned"):
        RULES[what](cloud.host)
        SETS["all sets are flushed"](cloud.host)
        eventually(lambda: kernel(cloud.host) == before, 2)
    eventually(lambda: metric(cloud.agent, "drift_repairs_total") > 50, 1)
    assert re.search(r"WARNING .*somebody had changed what is ours", cloud.agent.log)


# --- links: at once, by the kernel's own notices

LINKS: dict[str, Meddling] = {
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


def test_hundreds_of_repairs_in_a_row(shared: Cloud) -> None:
    before = kernel(shared.host)
    for _ in range(50):
        shared.host.links.set("tap1", master="")
        shared.host.links.delete_address("br1", "10.1.0.1/24")
        eventually(lambda: shared.host.links.has_address("br1", "10.1.0.1/24"), 1)
        eventually(lambda: shared.host.links.all()["tap1"]["master"], 1)
    eventually(lambda: kernel(shared.host) == before, 1)
