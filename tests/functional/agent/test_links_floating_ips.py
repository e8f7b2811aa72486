"""Floating IPs as addresses of the host: bound, announced, unbound, and never taken from anybody."""

import time
from typing import Any

import pytest

from nova_netagent.model import document
from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_rule
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import addresses, cleanup, eventually, kernel
from tests.functional.conftest import ON_BOTH
from tests.lab import Icmp, Lab, Namespace, arrives, needs, ping
from tests.lab.frames import ETH_ARP, arp

pytestmark = [needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge"), ON_BOTH]

FLOATING = "198.51.100.1"


@pytest.fixture
def cloud(cloud: Cloud) -> Cloud:
    """With a network and an instance that anybody may ping."""
    return populated(cloud)


def populated(cloud: Cloud) -> Cloud:
    cloud.network(1)
    cloud.outside.links.add_route("198.51.100.0/24", device="eth0")
    cloud.put(make_group(1, make_rule(1, protocol="icmp")))
    cloud.instance(1, (1,))
    return cloud


def bound(host: Namespace, device: str = "eth0") -> bool:
    return host.links.has_address(device, f"{FLOATING}/32")


def refused(cloud: Cloud, **fields: Any) -> str:
    """Describe it and be refused; why."""
    body: Any = document(make_floating_ip(1, **fields))
    code, answer = cloud.agent.request("PUT", f"/v1/floating-ips/{FLOATING}", body)
    assert code == 503
    return str(answer["error"]["message"])


def test_it_is_bound_as_a_single_address_and_unbound_with_its_object(cloud: Cloud) -> None:
    before = addresses(cloud.host)
    cloud.put(make_floating_ip(1))
    assert addresses(cloud.host) - before == {("eth0", f"{FLOATING}/32")}
    assert ping(cloud.outside, FLOATING)
    cloud.delete(make_floating_ip(1))
    assert addresses(cloud.host) == before
    assert not ping(cloud.outside, FLOATING, timeout=0.3)


def test_it_is_announced_again_and_again_and_the_answer_does_not_wait(cloud: Cloud) -> None:
    claim = arp(1, cloud.host.mac, FLOATING, FLOATING)
    wire = cloud.outside.wire("eth0", ETH_ARP)
    with wire.listening():
        began = time.monotonic()
        cloud.put(make_floating_ip(1))
        answered = time.monotonic() - began
        heard: list[float] = []
        while len(heard) < 3 and time.monotonic() - began < 40:
            heard += [time.monotonic() - began for seen in wire.read() if claim in seen.data and is_broadcast(seen)]
            time.sleep(0.005)
    assert len(heard) == 3
    assert answered < heard[1], "it was not waited for"
    assert heard[2] - heard[0] > 1, "a second between each and the next, but for how late they are read"


def is_broadcast(seen: Any) -> bool:
    return bool(seen.destination_mac == "ff:ff:ff:ff:ff:ff")


def test_one_that_went_elsewhere_is_not_announced_again(cloud: Cloud) -> None:
    """Else the next announcement would have the neighbours leave the host that has it now."""
    claim = arp(1, cloud.host.mac, FLOATING, FLOATING)
    wire = cloud.outside.wire("eth0", ETH_ARP)
    with wire.listening():
        cloud.put(make_floating_ip(1))
        eventually(lambda: any(claim in seen.data for seen in wire.read()), 2)
        cloud.delete(make_floating_ip(1))
        time.sleep(1.2)
        assert not [seen for seen in wire.read() if claim in seen.data]


def test_a_neighbour_that_knew_another_believes_the_announcement(cloud: Cloud) -> None:
    """As after a move from another host."""
    cloud.outside.run(
        ["ip", "neigh", "replace", FLOATING, "lladdr", "02:00:00:00:99:99", "dev", "eth0", "nud", "stale"]
    )
    cloud.put(make_floating_ip(1))
    eventually(lambda: ping(cloud.outside, FLOATING, timeout=0.2), 1)


def test_without_send_arp_for_ha_nothing_is_announced(lab: Lab, backend: str) -> None:
    cloud = populated(Cloud(lab, {"network": {"send_arp_for_ha": False}}, backend=backend))
    claim = arp(1, cloud.host.mac, FLOATING, FLOATING)
    wire = cloud.outside.wire("eth0", ETH_ARP)
    with wire.listening():
        cloud.put(make_floating_ip(1))
        time.sleep(0.2)
        assert not [seen for seen in wire.read() if claim in seen.data]


@pytest.mark.parametrize("length", [24, 32])
def test_an_address_that_the_host_has_is_not_taken_and_not_removed(cloud: Cloud, length: int) -> None:
    mine = f"{FLOATING}/{length}"
    cloud.host.links.add_address("eth0", mine)
    before = kernel(cloud.host)
    assert f"{FLOATING} is an address of this host already" in refused(cloud)
    assert kernel(cloud.host) == before, "nothing leads to the instance either"
    cloud.agent.restart()
    assert cloud.status(make_floating_ip(1))["state"] == "error"
    cloud.agent.resync()
    cloud.delete(make_floating_ip(1))
    cloud.agent.stop()
    cleanup(cloud.agent)
    assert cloud.host.links.has_address("eth0", mine)


def test_an_address_on_another_link_counts_too(cloud: Cloud) -> None:
    cloud.host.links.add_address("lo", f"{FLOATING}/32")
    refused(cloud)
    assert not bound(cloud.host)


def test_freed_later_it_is_installed_at_once(cloud: Cloud) -> None:
    cloud.host.links.add_address("eth0", f"{FLOATING}/24")
    refused(cloud)
    cloud.host.links.delete_address("eth0", f"{FLOATING}/24")
    eventually(lambda: cloud.status(make_floating_ip(1))["state"] == "done", 1)
    assert bound(cloud.host)
    assert ping(cloud.outside, FLOATING)


def test_taken_by_the_operator_later_it_is_in_error_and_theirs_stays(cloud: Cloud) -> None:
    cloud.put(make_floating_ip(1))
    cloud.host.links.add_address("lo", f"{FLOATING}/32")
    eventually(lambda: cloud.status(make_floating_ip(1))["state"] == "error", 2)
    assert cloud.host.links.has_address("lo", f"{FLOATING}/32")
    cloud.host.links.delete_address("lo", f"{FLOATING}/32")
    eventually(lambda: cloud.status(make_floating_ip(1))["state"] == "done", 2)


def test_the_hosts_own_address(cloud: Cloud) -> None:
    body: Any = document(make_floating_ip(1, id="192.0.2.10"))
    code, _ = cloud.agent.request("PUT", "/v1/floating-ips/192.0.2.10", body)
    assert code == 503
    assert ping(cloud.outside, cloud.host)
    cloud.agent.delete("floating-ips", "192.0.2.10")
    assert ping(cloud.outside, cloud.host)


def test_a_gateways_address(cloud: Cloud) -> None:
    body: Any = document(make_floating_ip(1, id="10.1.0.1"))
    code, answer = cloud.agent.request("PUT", "/v1/floating-ips/10.1.0.1", body)
    assert (code, "gateway" in answer["error"]["message"]) == (503, True)
    assert cloud.host.links.has_address("br1", "10.1.0.1/24")
    cloud.agent.delete("floating-ips", "10.1.0.1")
    assert cloud.host.links.has_address("br1", "10.1.0.1/24")


def test_what_is_sent_to_a_whole_network_goes_on_reaching_all_of_it(cloud: Cloud) -> None:
    everybody, sender, receiver = Icmp(to="10.1.0.255"), cloud.instance(2), cloud.instance(3, (1,))
    assert arrives(sender, receiver, everybody)
    body: Any = document(make_floating_ip(1, id="10.1.0.255"))
    code, answer = cloud.agent.request("PUT", "/v1/floating-ips/10.1.0.255", body)
    assert arrives(sender, receiver, everybody, within=1)
    assert (code, "no host can have it" in str(answer)) == (503, True)
    assert not cloud.host.links.has_address("eth0", "10.1.0.255/32")


def test_a_fixed_ip_of_another_instance_stays_its_own(cloud: Cloud) -> None:
    floating = make_floating_ip(1, id="10.1.0.3")
    cloud.put(floating)
    other = cloud.instance(2, (1,))
    assert f"a fixed IP of instance {make_instance(2).id}" in cloud.status(floating)["message"]
    assert not cloud.host.links.has_address("eth0", "10.1.0.3/32")
    assert ping(cloud.outside, other)
    assert ping(other, cloud.outside)
    cloud.delete(make_instance(2))
    assert cloud.status(floating)["state"] == "done"
    assert cloud.host.links.has_address("eth0", "10.1.0.3/32")


def test_its_interface_is_missing_and_comes_later(lab: Lab, backend: str) -> None:
    cloud = populated(Cloud(lab, {"network": {"public_interface": "eth7"}}, backend=backend))
    assert "eth7" in refused(cloud)
    assert cloud.status(make_floating_ip(1))["state"] == "error"
    assert cloud.agent.request("GET", "/v1/status")[1]["counts"]["error"] == 1
    lab.plug(cloud.host, "eth7")
    eventually(lambda: bound(cloud.host, "eth7"), 1)
    eventually(lambda: cloud.status(make_floating_ip(1))["state"] == "done", 1)
    cloud.host.links.delete("eth7")
    eventually(lambda: cloud.status(make_floating_ip(1))["state"] == "error", 2)


def test_it_goes_where_its_body_says(cloud: Cloud, lab: Lab) -> None:
    lab.plug(cloud.host, "eth1")
    cloud.put(make_floating_ip(1, interface="eth1"))
    assert bound(cloud.host, "eth1")
    cloud.put(make_floating_ip(1, interface=None))
    assert (bound(cloud.host, "eth1"), bound(cloud.host)) == (False, True)


def test_without_any_interface_it_is_translated_and_not_bound(lab: Lab, backend: str) -> None:
    cloud = populated(Cloud(lab, {"network": {"public_interface": None}}, backend=backend))
    before = addresses(cloud.host)
    cloud.put(make_floating_ip(1))
    assert addresses(cloud.host) == before
    (told,) = cloud.agent.request("GET", "/v1/status")[1]["warnings"]
    assert told.startswith("[network] public_interface is not set: floating IPs that name no interface")
    rules = [rule["rule"] for chain in cloud.agent.request("GET", "/v1/chains")[1]["chains"] for rule in chain["rules"]]
    assert any(rule.startswith(f"-d {FLOATING}/32 -j DNAT") for rule in rules)
    cloud.put(make_floating_ip(1, interface="eth0"))
    assert bound(cloud.host)
    assert cloud.agent.request("GET", "/v1/status")[1]["warnings"] == []


def test_it_waits_for_the_network_of_its_fixed_ip(cloud: Cloud) -> None:
    cloud.put(make_floating_ip(1, network=2))
    assert cloud.status(make_floating_ip(1, network=2))["state"] == "pending"
    assert not bound(cloud.host)
    cloud.network(2)
    assert bound(cloud.host), "before the network's PUT answers"


def test_our_own_is_no_conflict_after_a_crash(cloud: Cloud) -> None:
    cloud.put(make_floating_ip(1))
    cloud.agent.kill9()
    cloud.agent.start()
    assert cloud.status(make_floating_ip(1))["state"] == "done"
    cloud.delete(make_floating_ip(1), make_instance(1))
    assert not bound(cloud.host)
