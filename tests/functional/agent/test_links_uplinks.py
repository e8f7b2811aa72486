"""A host's physical interface goes to its network's bridge and comes back, and who talks through it never notices."""

import os
import random
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest

from nova_netagent.model import document
from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_network, make_rule
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import cleanup, eventually, kernel, metric
from tests.functional.conftest import ON_BOTH, ON_ONE
from tests.functional.links.held import ROUTER, advertise, furnish, held
from tests.lab import Flood, Lab, Namespace, connect, needs, ping, tcp
from tests.lab.frames import ETH_ARP, arp

pytestmark = [needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "program:ip"), ON_BOTH]

FLAT = make_network(1, bridge_interface="eth0")
OURS = ["10.1.0.1/24", "fd00:1::1/64"]
OPEN = make_group(1, make_rule(1), make_rule(2, ethertype="IPv6"))
KILLS = int(os.environ.get("NOVA_NETAGENT_KILLS", "12"))
SEED = int(os.environ.get("NOVA_NETAGENT_SEED", "0")) or random.randrange(1, 1 << 32)


@contextmanager
def talking(host: Namespace, outside: Namespace, *, flood: bool = True) -> Iterator[None]:
    """Connections both ways and of both families live on.

    A flood loses no more than what comes in the instants in which the bridge takes nothing from a port
    that joins or leaves it (br_add_if, del_nbp).
    """
    connections = [connect(outside, host, 5000), connect(outside, host, 5001, family=6), connect(host, outside, 5002)]
    if not flood:
        yield
    else:
        with Flood(outside, host) as sent:
            yield
        assert len(sent.lost) <= 2
    assert all(each.alive() for each in connections)


def master(host: Namespace, device: str = "eth0") -> Any:
    return host.links.all()[device]["master"]


def test_the_uplink_goes_and_comes_back_while_others_talk_through_it(cloud: Cloud) -> None:
    host = cloud.host
    furnish(host)
    before, mac = held(host, "eth0"), host.links.mac("eth0")
    with talking(host, cloud.outside):
        cloud.put(FLAT)
        links = host.links.all()
        assert (links["eth0"]["master"], links["br1"]["mac"], links["br1"]["up"]) == ("br1", mac, True)
        assert held(host, "eth0") == ([], [])
        assert held(host, "br1", without=OURS) == before
        cloud.delete(FLAT)
    assert not host.links.exists("br1")
    assert master(host) is None
    assert held(host, "eth0") == before


def test_cleanup_gives_it_back_while_others_talk_through_it(cloud: Cloud) -> None:
    host = cloud.host
    before = held(host, "eth0"), kernel(host)["links"]
    cloud.put(FLAT)
    cloud.guest(1)
    cloud.put(OPEN, make_instance(1, (1,)), make_floating_ip(1))
    with talking(host, cloud.outside):
        cloud.agent.kill9()
        cleanup(cloud.agent)
    assert held(host, "eth0") == before[0]
    assert kernel(host)["links"] == before[1] | {"tap1": (None, True)}
    cloud.agent.start()
    assert master(host) == "br1", "what is described is made again"


def test_killed_in_the_middle_nothing_is_lost(cloud: Cloud) -> None:
    host, chance = cloud.host, random.Random(SEED)
    furnish(host)
    before, body = held(host, "eth0"), document(FLAT)
    path = f"/v1/networks/{FLAT.id}"
    print(f"NOVA_NETAGENT_SEED={SEED} NOVA_NETAGENT_KILLS={KILLS}")
    with talking(host, cloud.outside, flood=False):
        for number in range(KILLS):
            cloud.agent.request("DELETE" if number % 2 else "PUT", path, None if number % 2 else body)

            def change(number: int = number) -> None:
                with suppress(Exception):
                    cloud.agent.request("PUT" if number % 2 else "DELETE", path, body if number % 2 else None)

            asking = threading.Thread(target=change)
            asking.start()
            time.sleep(chance.uniform(0.002, 0.03))
            cloud.agent.kill9()
            asking.join()
            cloud.agent.start()
            stored = bool(cloud.agent.state()["networks"])
            assert host.links.exists("br1") is stored
            assert master(host) == ("br1" if stored else None)
            assert held(host, "br1" if stored else "eth0", without=OURS) == before
            if stored:
                assert held(host, "eth0") == ([], [])


# --- drift


@pytest.mark.parametrize(
    "command", ["link del br1", "link set br1 down", "link set eth0 nomaster", "link set eth0 down"]
)
def test_what_somebody_undoes_is_done_again_at_once(cloud: Cloud, command: str) -> None:
    host = cloud.host
    before = held(host, "eth0")
    cloud.put(FLAT)
    guest = cloud.instance(1)
    with talking(host, cloud.outside, flood=False):
        host.run(["ip", *command.split()])
        eventually(lambda: host.links.exists("br1") and host.links.show("br1")["up"], 2)
        eventually(lambda: (master(host), host.links.show("eth0")["up"]) == ("br1", True), 2)
        eventually(lambda: held(host, "br1", without=OURS) == before, 2)
        eventually(lambda: ping(guest, "10.1.0.1"), 2)
        eventually(lambda: ping(cloud.outside, host), 2)
    eventually(lambda: metric(cloud.agent, "drift_repairs_total", what="link") > 0, 2)
    cloud.delete(make_instance(1), FLAT)
    assert held(host, "eth0") == before


def test_what_a_bridge_held_comes_back_also_when_its_interface_does_later(cloud: Cloud) -> None:
    host = cloud.host
    before = held(host, "eth0")
    cloud.put(FLAT)
    host.links.add_bridge("br9")
    host.links.set("eth0", master="br9")
    eventually(lambda: "it is a port of br9 already" in cloud.status(FLAT)["message"], 2)
    index = host.links.index("br1")
    host.links.delete("br1")
    eventually(lambda: host.links.exists("br1") and host.links.index("br1") != index, 2)
    cloud.agent.resync()
    host.links.delete("br9")
    eventually(lambda: held(host, "br1", without=OURS) == before, 2)
    cloud.delete(FLAT)
    assert held(host, "eth0") == before


@ON_ONE
def test_what_a_bridge_held_that_was_deleted_while_no_agent_ran_comes_back(cloud: Cloud) -> None:
    host, agent = cloud.host, cloud.agent
    furnish(host)
    before = held(host, "eth0")
    host.run(["ip", "addr", "add", "192.0.2.99/24", "dev", "eth0", "valid_lft", "2", "preferred_lft", "2"])
    cloud.put(FLAT)
    agent.kill9()
    host.links.delete("br1")
    time.sleep(2)
    agent.start()
    assert held(host, "br1", without=OURS) == before, "all but what has ended"
    cloud.delete(FLAT)
    assert held(host, "eth0") == before


@ON_ONE
def test_a_note_of_what_a_bridge_held_that_does_not_read_is_left(cloud: Cloud) -> None:
    agent = cloud.agent
    cloud.put(FLAT)
    agent.stop()
    with closing(sqlite3.connect(agent.state_path / "state.db")) as store, store:
        store.execute("UPDATE made SET found = '{}' WHERE kind = 'held'")
    cloud.host.links.delete("br1")
    agent.start()
    assert "what br1 held for the host does not read, and is not given again" in agent.log
    assert cloud.host.links.exists("br1")


@ON_ONE
def test_what_somebody_gives_a_bridge_that_he_made_anew_is_what_comes_back(cloud: Cloud) -> None:
    host, agent = cloud.host, cloud.agent
    cloud.put(FLAT)
    agent.signal(signal.SIGSTOP)
    host.links.delete("br1")
    host.links.add_bridge("br1")
    host.links.set("eth0", master="br1")
    host.links.add_address("br1", "192.0.2.77/24")
    agent.signal(signal.SIGCONT)
    agent.resync()
    before = held(host, "br1", without=OURS)
    host.links.set("br1", up=False)
    eventually(lambda: host.links.all()["br1"]["up"], 2)
    agent.resync()
    assert held(host, "br1", without=OURS) == before


def test_an_interface_that_comes_later_is_taken_and_one_that_is_taken_is_left(cloud: Cloud, lab: Lab) -> None:
    host = cloud.host
    network = make_network(1, bridge_interface="eth7")
    body: Any = document(network)
    code, answer = cloud.agent.request("PUT", f"/v1/networks/{network.id}", body)
    assert (code, "eth7: there is no such interface" in answer["error"]["message"]) == (503, True)
    lab.plug(host, "eth7", "elsewhere")
    eventually(lambda: cloud.status(network)["state"] == "done", 2)
    assert master(host, "eth7") == "br1"
    host.links.add_bridge("br9")
    host.links.set("eth7", master="br9")
    eventually(lambda: cloud.status(network)["state"] == "error", 2)
    assert "it is a port of br9 already" in cloud.status(network)["message"]
    cloud.agent.resync()
    assert master(host, "eth7") == "br9"


def test_the_neighbours_of_a_bridge_whose_uplink_comes_later_hear_of_its_mac_and_of_no_other(
    cloud: Cloud, lab: Lab
) -> None:
    network = make_network(1, bridge_interface="eth7")
    body: Any = document(network)
    guest = cloud.guest(1)
    cloud.agent.request("PUT", f"/v1/networks/{network.id}", body)
    cloud.put(make_instance(1))
    old = cloud.host.links.mac("br1")
    assert ping(guest, "fd00:1::1")
    wire = guest.wire("eth0", ETH_ARP)
    with wire.listening():
        lab.plug(cloud.host, "eth7", "elsewhere")
        new = cloud.host.links.mac("eth7")
        eventually(lambda: cloud.host.links.mac("br1") == new, 2)
        list(wire.read())
        time.sleep(1.2)
        heard = [seen.data for seen in wire.read()]
    assert any(arp(1, new, "10.1.0.1", "10.1.0.1") in each for each in heard)
    assert not any(arp(1, old, "10.1.0.1", "10.1.0.1") in each for each in heard)
    assert new in guest.run(["ip", "-6", "neigh", "show", "fd00:1::1"]).stdout


def test_of_two_networks_on_one_interface_the_older_has_it(cloud: Cloud) -> None:
    cloud.put(FLAT)
    second = make_network(2, bridge_interface="eth0")
    body: Any = document(second)
    cloud.agent.request("PUT", f"/v1/networks/{second.id}", body)
    assert cloud.status(second)["state"] == "error"
    assert FLAT.id in cloud.status(second)["message"]
    assert not cloud.host.links.exists("br2")
    cloud.delete(FLAT)
    assert cloud.status(second)["state"] == "done"
    assert master(cloud.host) == "br2"


# --- what the host has by it


def test_a_default_route_that_was_learned_goes_on_being_renewed(cloud: Cloud) -> None:
    host, router = cloud.host, cloud.outside
    host.links.delete_route("default6", via=router.ip6)
    advertise(router, 900)
    shown = ["ip", "-6", "route", "show", "default"]
    eventually(lambda: f"via {ROUTER} dev eth0" in host.run(shown).stdout, 1)
    cloud.put(FLAT)
    assert host.sysctl("net.ipv6.conf.all.forwarding") == "1"
    assert host.sysctl("net.ipv6.conf.br1.accept_ra") == "2"
    assert f"via {ROUTER} dev br1" in host.run(shown).stdout
    advertise(router, 1800)
    eventually(lambda: int(host.run(shown).stdout.split("expires ")[1].split("sec")[0]) > 1700, 1)
    host.run([*shown[:3], "del", "default", "via", ROUTER, "dev", "br1"])
    advertise(router)
    eventually(lambda: f"via {ROUTER} dev br1" in host.run(shown).stdout, 1)


@ON_ONE
def test_a_bridge_has_ipv6_where_its_interface_has_it_and_new_links_have_none(cloud: Cloud) -> None:
    host = cloud.host
    host.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
    before = held(host, "eth0")
    cloud.put(FLAT)
    assert held(host, "br1", without=OURS) == before
    cloud.delete(FLAT)
    assert held(host, "eth0") == before


@ON_ONE
def test_a_lease_that_is_renewed_on_the_interface_is_renewed_on_the_bridge(cloud: Cloud) -> None:
    host = cloud.host

    def renew(seconds: int) -> None:
        for address in ("192.0.2.77/24", "2001:db8:77::1/64"):
            host.run(["ip", "addr", "add", address, "dev", "eth0", "valid_lft", f"{seconds}", "preferred_lft", "50"])

    def left() -> list[int]:
        shown = host.run(["ip", "addr", "show", "dev", "br1"]).stdout
        return [int(each) for each in re.findall(r"valid_lft (\d+)sec", shown)]

    renew(60)
    cloud.put(FLAT)
    assert len(left()) == 2
    for _ in range(2):
        renew(600)
        eventually(lambda: min(left()) > 500, 2)
        cloud.agent.resync()
        assert min(left()) > 500


@pytest.mark.parametrize("interface", [None, "br1", "eth0"])
def test_a_floating_ip_on_a_bridge_interface(cloud: Cloud, interface: str | None) -> None:
    """Named as the bridge, or as the interface that is its port now: bound to the bridge, and it leads and shows."""
    cloud.put(FLAT, OPEN)
    guest = cloud.instance(1, (1,))
    cloud.put(make_floating_ip(1, interface=interface))
    assert cloud.host.links.has_address("br1", "198.51.100.1/32")
    cloud.outside.links.add_route("198.51.100.0/24", device="eth0")
    assert tcp(cloud.outside, "198.51.100.1", 80, server=guest)
    answer = tcp(guest, cloud.outside, 80)
    assert answer.seen_as is not None
    assert answer.seen_as[0] == "198.51.100.1"
    cloud.delete(make_floating_ip(1), make_instance(1), FLAT)
    assert not cloud.host.links.has_address("eth0", "198.51.100.1/32")


def test_two_hosts_over_their_uplinks(lab: Lab, backend: str) -> None:
    hosts = [lab.host(uplinks={"eth1": "physical"}) for _ in range(2)]
    clouds = [Cloud(lab, host=host, backend=backend) for host in hosts]
    for number, each in enumerate(clouds, 1):
        own = make_network(
            1, bridge_interface="eth1", gateway=f"10.1.0.{250 + number}", gateway_v6=f"fd00:1::f{number}"
        )
        each.put(own, OPEN)
        each.guest(number)
        each.put(make_instance(number, (1,)))
    first, second = lab.instances
    for family in (4, 6):
        assert tcp(first, second, 80, family=family)
    assert ping(first, "10.1.0.252"), "the other host, too"


def test_without_manage_links_an_interface_stays_where_it_is(lab: Lab, backend: str) -> None:
    host = lab.host()
    before = held(host, "eth0"), kernel(host)["links"]
    cloud = Cloud(lab, {"network": {"manage_links": False, "flat_interface": "eth0"}}, host, backend=backend)
    cloud.put(FLAT, make_network(2, bridge_interface="eth0", vlan=7))
    assert (held(host, "eth0"), kernel(host)["links"]) == before
