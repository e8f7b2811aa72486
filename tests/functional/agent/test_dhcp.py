"""DHCP by the agent: an instance is given what the API said, and nobody else anything, whoever is killed."""

import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.model import State, document
from nova_netagent.testing import make_group, make_instance, make_network, make_rule, make_vif
from tests.functional.agent.kernel import cleanup, ctl, eventually, metric
from tests.functional.agent.served import Served, serving
from tests.functional.conftest import ON_ONE
from tests.functional.dhcp.clients import resolve, solicit
from tests.functional.dhcp.running import kill
from tests.lab import Namespace, Tcp, Udp, arrives, needs, refused, syscalls

pytestmark = needs(
    "iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "nftables",
    "program:dnsmasq", "setgroups", "program:dhclient", "program:busybox",
)  # fmt: skip

MS_BIND = 0x1000


@pytest.fixture(scope="module")
def shared(backend: str) -> Iterator[Served]:
    with serving(backend=backend) as made:
        yield made


@pytest.fixture
def served(shared: Served) -> Served:
    """A host of which nothing is described."""
    shared.agent.state({})
    eventually(lambda: shared.pids() == {}, 5)
    for name in shared.host.links.all():
        if name.startswith("tap"):
            shared.host.links.delete(name)
    return shared


@pytest.fixture
def alone(backend: str) -> Iterator[Served]:
    """A host of the test's own."""
    with serving(backend=backend) as made:
        yield made


def dnsmasq_events(served: Served, event: str) -> float:
    return metric(served.agent, "dnsmasq_events_total", what=event)


def status(served: Served, number: int = 1) -> dict[str, Any]:
    return served.status(make_network(number))


# --- what is given


def test_the_range_of_a_link_local_gateway_is_advertised(served: Served) -> None:
    served.put(make_network(1, gateway_v6="fe80::1"), make_instance(1))
    advertised = solicit(served.client(1))
    assert advertised is not None
    assert [each.prefix for each in advertised.prefixes] == ["fd00:1::/64"]


def test_an_instance_is_given_what_the_api_said(served: Served) -> None:
    served.put(make_network(1, dns1="192.0.2.53", mtu=1400), make_instance(1, hostname="web"))
    machine = served.client(1)
    answer = served.ask(machine)
    assert answer is not None
    names = ("ip", "mask", "router", "dns", "domain", "hostname", "mtu", "lease", "serverid")
    assert [answer[name] for name in names] == [
        "10.1.0.2", "24", "10.1.0.1", "192.0.2.53", "novalocal", "web", "1400", "86400", "10.1.0.1",
    ]  # fmt: skip
    assert served.ask6(machine) == "fd00:1::2"
    advertised = solicit(machine)
    assert advertised is not None
    assert (advertised.managed, advertised.mtu) == (True, 1400)
    machine.links.add_address("eth0", "10.1.0.2/24")
    assert resolve(machine, "10.1.0.1", "web.novalocal") == ["10.1.0.2"]
    assert served.leases().keys() == {"10.1.0.2", "fd00:1::2"}


def test_two_networks_do_not_mix(served: Served) -> None:
    served.put(make_network(1), make_network(2), make_instance(1), make_instance(2, network=2))
    for number in (1, 2):
        machine = served.client(number, number)
        answer = served.ask(machine)
        assert answer is not None
        assert (answer["ip"], answer["router"]) == (f"10.{number}.0.{number + 1}", f"10.{number}.0.1")
    assert served.pids().keys() == {"br1", "br2"}


def test_who_was_described_first_is_given_his_address_the_moment_his_tap_comes(served: Served) -> None:
    served.put(make_network(1), make_instance(1))
    eventually(lambda: served.told(1), 2)
    for _ in range(3):
        answer = served.ask(served.client(1), tries=5)
        assert answer is not None
        assert answer["ip"] == "10.1.0.2"
        served.host.links.delete("tap1")


# --- who is given nothing


def test_a_strangers_mac_is_given_nothing(served: Served) -> None:
    """Behind the port of an instance, and behind one that is nobody's; nor by a MAC in the request only."""
    served.put(make_network(1), make_instance(1), make_instance(2))
    liar = served.client(1, mac="fa:16:3e:ff:ff:01")
    assert served.ask(liar, tries=1) is None
    assert served.ask6(liar, within=1) is None
    nobody = served.client(7)
    served.host.links.set("tap7", master="br1")
    assert served.ask(nobody, tries=1) is None
    assert solicit(nobody, within=0.5) is None
    served.host.links.set("tap7", master="")
    assert served.leases() == {}
    honest = served.client(2)
    assert served.ask(honest)
    assert served.leases().keys() == {"10.1.0.3"}


@ON_ONE
def test_without_dhcp_nothing_runs(served: Served) -> None:
    served.put(make_network(1, enable_dhcp=False, cidr_v6=None, gateway_v6=None))
    served.put(make_instance(1, vifs=(make_vif(1, fixed_ips=("10.1.0.2",)),)))
    assert served.pids() == {}
    assert served.ask(served.client(1), tries=1) is None


# --- coming and going


def test_an_address_can_be_used_again_at_once(served: Served) -> None:
    served.put(make_network(1), make_instance(1))
    first = served.client(1)
    assert served.ask(first)
    assert served.ask6(first) == "fd00:1::2"
    served.delete(make_instance(1))
    successor = make_instance(2, vifs=(make_vif(2, fixed_ips=("10.1.0.2", "fd00:1::2")),))
    served.put(successor)
    second = served.client(2)
    answer = served.ask(second)
    assert answer is not None
    assert answer["ip"] == "10.1.0.2"
    assert served.leases()["10.1.0.2"] == second.mac
    assert served.ask6(second) == "fd00:1::2"


@ON_ONE
def test_a_deleted_instance_gives_its_lease_back(served: Served) -> None:
    served.put(make_network(1), make_instance(1), make_instance(2))
    for number in (1, 2):
        assert served.ask(served.client(number))
    served.delete(make_instance(1))
    eventually(lambda: served.leases().keys() == {"10.1.0.3"}, 5)


@ON_ONE
def test_dnsmasq_goes_with_its_network(served: Served) -> None:
    served.put(make_network(1), make_network(2), make_instance(1))
    assert served.ask(served.client(1))
    served.pid("br2")
    served.delete(make_network(1))
    eventually(lambda: served.pids().keys() == {"br2"}, 5)
    eventually(lambda: {path.name.split(".")[0] for path in served.networks.iterdir()} == {"br2"}, 5)


@ON_ONE
def test_what_changes_without_need_of_a_restart_is_reloaded(served: Served) -> None:
    served.put(make_network(1), make_instance(1))
    pid, starts = served.pid(), dnsmasq_events(served, "starts")
    assert served.ask(served.client(1))
    served.put(make_instance(2), make_instance(3, hostname="late"))
    served.delete(make_instance(2))
    served.put(make_group(1, make_rule(1)))
    assert served.ask(served.client(3))
    assert (served.pid(), dnsmasq_events(served, "starts")) == (pid, starts)
    served.put(make_network(1, mtu=1300))
    eventually(lambda: served.pids().get("br1", [pid]) != [pid], 5)
    assert served.leases().keys() == {"10.1.0.2", "10.1.0.4"}


# --- killed


def test_while_the_agent_is_stopped_dnsmasq_goes_on(alone: Served) -> None:
    alone.put(make_network(1), make_instance(1))
    machine = alone.client(1)
    assert alone.ask(machine)
    pid = alone.pid()
    alone.agent.stop()
    assert alone.ask(machine)
    assert alone.ask6(machine) == "fd00:1::2"
    alone.agent.start()
    assert alone.pid() == pid
    assert (dnsmasq_events(alone, "adoptions"), dnsmasq_events(alone, "starts")) == (1, 0)
    assert alone.agent.resync()["repaired"] == []


def test_killed_at_random_there_is_one_dnsmasq_and_no_lease_is_lost(alone: Served) -> None:
    """Agent, dnsmasq or both, while instances come and go."""
    numbers = (1, 2, 3)
    alone.put(make_network(1), *(make_instance(number) for number in numbers))
    machines = [alone.client(number) for number in numbers]
    for machine in machines:
        assert alone.ask(machine)
    assert alone.ask6(machines[0]) == "fd00:1::2"
    leases = alone.leases()
    assert len(leases) == 4
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    for turn in range(12):
        coming = document(make_instance(10 + turn))
        alone.agent.request("PUT", f"/v1/instances/{coming['id']}?wait=false", coming)
        time.sleep(chance.uniform(0, 0.03))
        victims = chance.choice(["agent", "dnsmasq", "both", "both the other way"])
        if victims in ("agent", "both"):
            alone.agent.kill9()
        for pid in alone.pids().get("br1", []) if victims != "agent" else []:
            kill(pid)
        if victims == "both the other way":
            time.sleep(chance.uniform(0, 0.01))
            alone.agent.kill9()
        if not alone.agent.running:
            alone.agent.start()
        time.sleep(chance.uniform(0, 0.03))
        assert len(alone.pids().get("br1", [])) <= 1
    eventually(lambda: len(alone.pids().get("br1", [])) == 1 and status(alone)["state"] == "done", 15)
    assert leases.items() <= alone.leases().items()
    eventually(lambda: all(alone.told(10 + turn) for turn in range(12)), 5)
    for machine in machines:
        assert alone.ask(machine)
    assert alone.pids().keys() == {"br1"}


@ON_ONE
def test_a_killed_dnsmasq_is_back_at_once_and_counted(served: Served) -> None:
    served.put(make_network(1), make_instance(1))
    machine, pid, crashes = served.client(1), served.pid(), dnsmasq_events(served, "crashes")
    assert served.ask(machine)
    kill(pid)
    eventually(lambda: served.pids().get("br1", [pid]) != [pid], 2)
    assert served.ask(machine)
    assert dnsmasq_events(served, "crashes") == crashes + 1
    eventually(lambda: status(served)["state"] == "done", 2)


# --- failing


def test_one_that_ends_again_and_again_is_told_counted_and_tried_more_rarely() -> None:
    with serving() as served:
        broken = served.files / "broken.conf"
        broken.write_text("no-such-option\n")
        served.agent.restart({"network": {"public_interface": "eth0", "dnsmasq_config_file": broken}})
        served.put(make_network(1), make_instance(1, (1,)), make_group(1, make_rule(1, protocol="tcp")))
        eventually(lambda: dnsmasq_events(served, "crashes") >= 3, 5)
        told = status(served)
        assert told["state"] == "error"
        assert re.search(r"bad option at line 1 of .*broken.conf; next attempt in \d+ s", told["message"]), told
        assert dnsmasq_events(served, "starts") <= 6
        # The rest is as it should be.
        machine = reachable(served)
        assert arrives(served.outside, machine, Tcp(80))
        assert served.status(make_instance(1))["state"] == "done"
        broken.write_text("")
        eventually(lambda: status(served)["state"] == "done", 15)
        assert served.ask(machine)


def reachable(served: Served) -> Namespace:
    """The machine of instance 1, on its bridge, and the way to it from the outside."""
    machine = served.guest(1)
    served.outside.links.add_route("10.1.0.0/24", via=served.host.ip4)
    eventually(lambda: served.host.links.all()["tap1"]["master"] == "br1", 5)
    served.host.links.wait_running("br1")
    return machine


def test_without_the_program_the_network_is_in_error_and_the_rules_hold(alone: Served) -> None:
    alone.host.call(syscalls.mount, "/dev/null", "/usr/sbin/dnsmasq", None, MS_BIND)
    network = make_network(1)
    code, told = alone.agent.request("PUT", f"/v1/networks/{network.id}", document(network))
    assert (code, told["error"]["message"].partition(";")[0]) == (
        503,
        why := "there is no dnsmasq: install dnsmasq-base",
    )
    assert status(alone)["state"] == "error"
    assert status(alone)["message"].startswith(f"{why}; next attempt in ")
    alone.put(make_group(1, make_rule(1, protocol="tcp")), make_instance(1, (1,)))
    machine = reachable(alone)
    assert arrives(alone.outside, machine, Tcp(80))
    assert refused(alone.outside, machine, Udp(80), control=Tcp(80))
    alone.host.run(["umount", "/usr/sbin/dnsmasq"])
    eventually(lambda: status(alone)["state"] == "done", 15)
    assert alone.ask(machine)


# --- many


@ON_ONE
def test_two_hundred_at_once(served: Served) -> None:
    """Printed, not judged."""
    network = make_network(1, cidr="10.1.0.0/20")
    served.agent.state(body(network, make_instance(1)))
    served.pid()
    assert served.ask(served.client(1))
    reloads = dnsmasq_events(served, "reloads")
    began = time.perf_counter()
    served.agent.state(body(network, *(make_instance(number) for number in range(1, 201))))
    answered = time.perf_counter()
    eventually(lambda: served.told(200) and dnsmasq_events(served, "reloads") > reloads, 5)
    written = time.perf_counter()
    answer = served.ask(served.client(200), tries=5)
    assert answer is not None
    assert answer["ip"] == "10.1.0.201"
    ended = time.perf_counter()
    print(
        f"\n200 instances in one PUT: answered after {1000 * (answered - began):.0f} ms, dnsmasq told"
        f" {1000 * (written - answered):.0f} ms later; a client has its address {1000 * (ended - written):.0f} ms later"
    )


@ON_ONE
def test_how_soon_a_new_instance_is_known(served: Served) -> None:
    """Printed, not judged."""
    served.put(make_network(1))
    served.pid()
    time.sleep(0.3)
    took = []
    for number in range(1, 6):
        served.put(make_instance(number))
        took.append(1000 * eventually(lambda number=number: served.told(number), 2))  # type: ignore[misc]
    print("\nafter the answer dnsmasq's file has the instance within", *(f"{each:.0f} ms" for each in took))


def body(*objects: Any) -> Any:
    found: dict[str, list[Any]] = {}
    for each in objects:
        found.setdefault(each.KIND, []).append(each)
    return document(State(**{kind: tuple(items) for kind, items in found.items()}))


# --- what an operator sees


@ON_ONE
def test_a_plan_tells_what_would_be_served(served: Served) -> None:
    served.put(make_network(1), make_instance(1))
    pid = served.pid()
    eventually(lambda: served.told(1), 2)
    assert ctl(served.agent, "plan") == "nothing to change\n"
    (served.networks / "br1.dhcp-hosts").write_text("")
    assert "dhcp: reload br1: it is not known what it has read" in ctl(served.agent, "plan")
    assert "dhcp: reload br1" in ctl(served.agent, "resync")
    eventually(lambda: served.told(1), 2)
    kill(pid)
    assert served.ask(served.client(1))


def test_cleanup_leaves_the_store_and_what_is_noted_beside_it_alone(alone: Served) -> None:
    alone.put(make_network(1), make_network(2), make_instance(1))
    assert alone.ask(alone.client(1))
    for each in ("br1", "br2"):
        alone.pid(each)
    alone.agent.stop()
    (alone.networks / "theirs").write_text("of others")
    said = cleanup(alone.agent)
    assert {"dhcp: - br1", "dhcp: - br2", "bridge nova-netagent: - table"} <= set(said.splitlines())
    assert alone.pids() == {}
    assert alone.host.run(["nft", "list", "ruleset"]).stdout == ""
    files = {str(path.relative_to(alone.agent.state_path)) for path in alone.agent.state_path.rglob("*")}
    kept = {"state.db", "state.db-wal", "state.db-shm", "my_ip", "wrap_names"}
    assert files - kept == {"networks", "networks/theirs"}
    assert Path(alone.agent.state_path / "state.db").exists()
