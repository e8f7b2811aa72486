"""A network's bridge and addresses: made as the contract says, and left alone where they are somebody else's."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.model import document
from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_network, make_rule
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import addresses, eventually, kernel, metric
from tests.functional.conftest import ON_BOTH
from tests.lab import AgentError, Lab, Namespace, needs, ping, veth
from tests.lab.frames import arp, icmp, ip, mac_bytes, packed

pytestmark = [needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge"), ON_BOTH]


def bridge_file(host: Namespace, bridge: str, name: str) -> str:
    return host.call(Path(f"/sys/class/net/{bridge}/bridge/{name}").read_text).strip()


def test_the_bridge_forwards_at_once_and_keeps_its_own_mac(cloud: Cloud) -> None:
    cloud.network(1)
    assert bridge_file(cloud.host, "br1", "stp_state") == "0"
    assert bridge_file(cloud.host, "br1", "forward_delay") == "0"
    link = cloud.host.links.show("br1")
    assert link["up"]
    assert int(link["mac"][:2], 16) & 3 == 2, "locally administered, unicast"
    for number in (1, 2):
        cloud.instance(number)
        assert cloud.host.links.mac("br1") == link["mac"]
    cloud.delete(make_instance(1), make_instance(2), make_network(1))
    cloud.network(1)
    assert cloud.host.links.mac("br1") == link["mac"], "neighbours need not learn it anew"
    cloud.network(2)
    assert cloud.host.links.mac("br2") != link["mac"]


def test_its_addresses_are_usable_at_once(cloud: Cloud) -> None:
    cloud.network(1)
    found = {each["address"]: each for each in cloud.host.links.addresses("br1")}
    assert found["10.1.0.1"]["prefix"] == 24
    assert (found["fd00:1::1"]["prefix"], found["fd00:1::1"]["flags"] & 0x40) == (64, 0), "not tentative"
    guest = cloud.instance(1)
    assert ping(guest, "10.1.0.1")
    assert ping(guest, "fd00:1::1")


def test_a_link_local_gateway(cloud: Cloud) -> None:
    cloud.put(make_network(1, gateway_v6="fe80::1"))
    (found,) = [each for each in cloud.host.links.addresses("br1") if each["address"] == "fe80::1"]
    assert (found["prefix"], found["scope"]) == (64, "link")


def test_behind_a_link_local_gateway_instances_are_reached(cloud: Cloud) -> None:
    cloud.network(1, gateway_v6="fe80::1")
    guest = cloud.guest(1)
    guest.links.add_route("default6", via="fe80::1", device="eth0")
    cloud.put(make_group(1, make_rule(1, ethertype="IPv6")), make_instance(1, (1,)))
    assert ping(guest, cloud.outside.ip6)
    assert ping(cloud.outside, guest.ip6)
    assert ping(cloud.host, guest.ip6)


def test_what_the_first_address_of_a_range_is_sent_the_host_takes(cloud: Cloud) -> None:
    """So no instance may have it (resolve.py)."""
    cloud.network(1)
    assert ping(cloud.outside, "fd00:1::")


@pytest.mark.parametrize("fields", [{}, {"gateway": None, "gateway_v6": None}], ids=["routed", "not routed"])
def test_the_hosts_own_interface_is_no_bridge_and_stays_open(cloud: Cloud, fields: dict[str, Any]) -> None:
    """What passes no rule as a bridge's port would else be refused to the host, from everybody."""
    body: Any = document(make_network(1, bridge="eth0", **fields))
    code, answer = cloud.agent.request("PUT", f"/v1/networks/{body['id']}", body)
    assert ping(cloud.outside, cloud.host)
    assert ping(cloud.host, cloud.outside, family=6)
    assert (code, "eth0: there is a link of this name that is not a bridge" in str(answer)) == (503, True)
    cloud.network(2)
    guest = cloud.instance(3, network=2)
    assert ping(guest, cloud.outside)


def test_a_link_that_has_the_name_of_a_bridge_goes_and_the_bridge_comes(cloud: Cloud) -> None:
    veth(cloud.outside, "far", cloud.host, "br1")
    network = make_network(1)
    with pytest.raises(AgentError, match="503"):
        cloud.put(network)
    guest = cloud.guest(1)
    cloud.agent.request("PUT", f"/v1/instances/{make_instance(1).id}", document(make_instance(1)))
    assert not ping(guest, "10.1.0.1", timeout=0.3)
    cloud.host.links.delete("br1")
    eventually(lambda: cloud.status(network)["state"] == "done", 2)
    assert ping(guest, "10.1.0.1")


def test_a_gateway_that_is_somebody_elses_is_not_taken(cloud: Cloud) -> None:
    cloud.put(make_network(1, dhcp_server="10.1.0.2"))
    assert cloud.host.links.has_address("br1", "10.1.0.2/24")
    assert not cloud.host.links.has_address("br1", "10.1.0.1/24")


def test_the_mtu_is_the_networks_and_stays_when_ports_join(cloud: Cloud) -> None:
    cloud.network(1, mtu=1400)
    cloud.instance(1)
    assert cloud.host.links.show("br1")["mtu"] == 1400
    cloud.network(1, mtu=1450)
    assert cloud.host.links.show("br1")["mtu"] == 1450


def test_an_mtu_that_is_named_no_longer_is_given_back(cloud: Cloud) -> None:
    links = cloud.host.links
    cloud.network(1, mtu=9000)
    cloud.instance(1)
    cloud.put(make_network(1))
    assert links.show("br1")["mtu"] == 1500
    assert cloud.agent.get("plan") == []
    cloud.agent.restart()
    assert cloud.agent.get("plan") == []
    links.set("tap1", mtu=1400)
    assert eventually(lambda: links.show("br1")["mtu"] == 1400, 2), "as a bridge follows its ports"


def test_the_mtu_of_networks_that_name_none(lab: Lab, backend: str) -> None:
    cloud = Cloud(lab, {"network": {"network_device_mtu": 1380}}, backend=backend)
    cloud.network(1)
    cloud.network(2, mtu=1420)
    assert [cloud.host.links.show(name)["mtu"] for name in ("br1", "br2")] == [1380, 1420]


def test_an_address_that_the_kernel_refuses_is_no_drift(lab: Lab, backend: str) -> None:
    cloud = Cloud(lab, {"network": {"network_device_mtu": 1279}}, backend=backend)
    network = make_network(1)
    status, answer = cloud.agent.request("PUT", f"/v1/networks/{network.id}", document(network))
    assert (status, cloud.status(network)["state"]) == (503, "error")
    assert "its MTU is 1279, and IPv6 needs 1280" in answer["error"]["message"]
    assert "[network] network_device_mtu" in answer["error"]["message"]
    assert cloud.agent.resync() == {"repaired": []}
    assert metric(cloud.agent, "drift_repairs_total") == 0


def test_a_host_on_which_ipv6_is_switched_off(cloud: Cloud) -> None:
    cloud.host.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
    network = make_network(1)
    status, answer = cloud.agent.request("PUT", f"/v1/networks/{network.id}", document(network))
    off = "br1: IPv6 is switched off there: /proc/sys/net/ipv6/conf/br1/disable_ipv6 is 1"
    assert (status, off in answer["error"]["message"]) == (503, True)
    assert cloud.host.links.has_address("br1", "10.1.0.1/24")
    cloud.host.sysctl("net.ipv6.conf.br1.disable_ipv6", 0)
    cloud.agent.resync()
    assert cloud.status(network)["state"] == "done"


def test_what_changes_is_changed_and_the_rest_stays(cloud: Cloud) -> None:
    cloud.network(1)
    index, before = cloud.host.links.index("br1"), addresses(cloud.host)
    cloud.put(make_network(1, gateway="10.1.0.254"))
    assert addresses(cloud.host) == before - {("br1", "10.1.0.1/24")} | {("br1", "10.1.0.254/24")}
    cloud.put(make_network(1, cidr_v6=None, gateway_v6=None))
    assert ("br1", "fd00:1::1/64") not in addresses(cloud.host)
    assert cloud.host.links.index("br1") == index, "the bridge is the same"


def routes(host: Namespace, device: str) -> set[str]:
    """The routes of a link, as ip(8) shows them."""
    shown = (host.run(["ip", f"-{family}", "route", "show", "dev", device]).stdout for family in (4, 6))
    return {line.strip() for text in shown for line in text.splitlines()}


def test_the_routes_to_its_range_come_back(cloud: Cloud) -> None:
    """Nothing but the kernel makes them, and once only; with the source that the host had."""
    host = cloud.host
    cloud.network(1)
    guest = cloud.instance(1)
    host.links.add_bridge("br2")
    for address in ("10.2.0.77/24", "172.16.0.1/16"):
        host.links.add_address("br2", address)
    cloud.network(2)
    host.links.wait_running("br1")
    before = {name: routes(host, name) for name in ("br1", "br2")}
    for command in (
        "-4 route flush dev br1",
        "-6 route flush dev br1",
        "route del 10.2.0.0/24",
        "route del 172.16.0.0/16",
    ):
        host.run(["ip", *command.split()])
    assert "route: + network of 10.1.0.1/24 on br1" in cloud.agent.request("GET", "/v1/plan")[1]["plan"]
    assert cloud.agent.resync()["repaired"]
    assert routes(host, "br1") == before["br1"]
    assert routes(host, "br2") == {each for each in before["br2"] if "172.16." not in each}, (
        "not what is somebody else's"
    )
    assert ping(guest, "10.1.0.1")
    assert ping(guest, "fd00:1::1")
    assert cloud.agent.resync() == {"repaired": []}
    cloud.delete(make_network(2))
    host.links.delete_address("br2", "10.2.0.77/24")
    assert not any("10.2." in each or "fd00:" in each for each in routes(host, "br2"))


def test_a_network_that_moves_to_another_bridge_takes_its_ports_along(cloud: Cloud) -> None:
    cloud.network(1)
    guest = cloud.instance(1)
    cloud.put(make_network(1, bridge="other"))
    assert cloud.host.links.all()["tap1"]["master"] == "other"
    assert not cloud.host.links.exists("br1")
    assert ping(guest, "10.1.0.1")


def test_its_gateways_are_announced_where_they_come_to(cloud: Cloud) -> None:
    """Guests hold on to the MAC that they know: in IPv6 half a minute, and seconds more until they ask anew."""
    cloud.network(1)
    guest = cloud.instance(1)
    wire = guest.wire("eth0")
    heard: list[bytes] = []

    def hears(claim: bytes) -> bool:
        heard.extend(seen.data for seen in wire.read())
        return any(claim in data for data in heard)

    with wire.listening():
        cloud.put(make_network(1, bridge="other"))
        mac = str(cloud.host.links.all()["other"]["mac"])
        gateway = "fd00:1::1"
        told = packed(gateway) + bytes((2, 1)) + mac_bytes(mac)
        advertisement = ip(gateway, "ff02::1", 58, icmp(gateway, "ff02::1", 136, 0, told, rest=0xA0000000), ttl=255)
        eventually(lambda: hears(advertisement), 5)
        eventually(lambda: hears(arp(1, mac, "10.1.0.1", "10.1.0.1")), 5)


def test_a_guest_believes_at_once_that_its_gateway_is_another(cloud: Cloud) -> None:
    cloud.network(1)
    guest = cloud.instance(1)
    known = ["ip", "neigh", "replace", "fd00:1::1", "lladdr", "02:00:00:00:99:99", "dev", "eth0", "nud", "reachable"]
    cloud.delete(make_network(1))
    guest.run(known)
    cloud.put(make_network(1))
    eventually(lambda: "02:00:00:00:99:99" not in guest.run(["ip", "neigh", "show", "fd00:1::1"]).stdout, 5)
    assert ping(guest, "fd00:1::1")


def test_a_bridge_that_was_there_is_used_and_left(cloud: Cloud) -> None:
    links = cloud.host.links
    links.add_bridge("br1", mac="02:00:00:00:77:01", up=False)
    links.add_address("br1", "172.16.0.1/24")
    cloud.host.call(Path("/sys/class/net/br1/bridge/forward_delay").write_text, "400")
    before = addresses(cloud.host)
    cloud.network(1, mtu=1400)
    guest = cloud.instance(1)
    assert links.show("br1")["up"]
    assert ping(guest, "10.1.0.1") or eventually(lambda: ping(guest, "10.1.0.1"), 6)
    cloud.delete(make_instance(1), make_network(1))
    assert links.mac("br1") == "02:00:00:00:77:01"
    assert bridge_file(cloud.host, "br1", "forward_delay") == "400"
    assert addresses(cloud.host) == before


def test_a_bridge_of_ours_goes_whatever_is_on_it(cloud: Cloud, lab: Lab) -> None:
    cloud.network(1)
    lab.instance(cloud.host, "stranger", tap="stranger", bridge="br1", addresses=(), gateways=())
    cloud.delete(make_network(1))
    assert not cloud.host.links.exists("br1")
    assert cloud.host.links.all()["stranger"]["master"] is None


def test_two_networks_on_one_bridge(cloud: Cloud) -> None:
    cloud.put(make_network(1), make_network(2, bridge="br1"))
    cloud.delete(make_network(1))
    assert cloud.host.links.exists("br1")
    assert cloud.host.links.has_address("br1", "10.2.0.1/24")
    assert not cloud.host.links.has_address("br1", "10.1.0.1/24")
    cloud.delete(make_network(2))
    assert not cloud.host.links.exists("br1")


def test_a_name_that_another_kind_of_link_has(cloud: Cloud, lab: Lab) -> None:
    """The network is in error, and everything else goes on."""
    lab.plug(cloud.host, "br1")
    body: Any = document(make_network(1))
    code, answer = cloud.agent.request("PUT", f"/v1/networks/{make_network(1).id}", body)
    assert (code, "br1" in answer["error"]["message"]) == (503, True)
    cloud.network(2)
    cloud.guest(1, network=2)
    cloud.put(make_instance(1, network=2))
    assert cloud.status(make_network(1))["state"] == "error"
    assert cloud.status(make_network(2))["state"] == "done"
    cloud.host.links.delete("br1")
    eventually(lambda: cloud.status(make_network(1))["state"] == "done", 2)
    assert cloud.host.links.show("br1")["kind"] == "bridge"


def test_without_manage_links_bridges_ports_and_their_addresses_are_somebody_elses(lab: Lab, backend: str) -> None:
    host = lab.host()
    lab.bridge(host, "br1", addresses=("10.1.0.1/24", "fd00:1::1/64"))
    cloud = Cloud(lab, {"network": {"manage_links": False}}, host, backend=backend)
    for number in (1, 2):
        cloud.guest(number)
    host.links.set("tap1", master="br1")
    before = kernel(host)
    cloud.network(1)
    cloud.network(2)
    cloud.put(make_instance(1), make_instance(2))
    assert {name: kernel(host)[name] for name in ("links", "addresses")} == {
        name: before[name] for name in ("links", "addresses")
    }
    cloud.put(make_floating_ip(1))
    assert host.links.has_address("eth0", "198.51.100.1/32"), "a floating IP is no part of a bridge"
    cloud.delete(make_floating_ip(1), make_instance(1), make_instance(2), make_network(1), make_network(2))
    assert kernel(host)["links"] == before["links"]
    assert kernel(host)["addresses"] == before["addresses"]


def test_the_metadata_address_is_on_lo(cloud: Cloud) -> None:
    (found,) = [each for each in cloud.host.links.addresses("lo") if each["address"] == "169.254.169.254"]
    assert (found["prefix"], found["scope"]) == (32, "link")


@pytest.mark.parametrize("restarts", [0, 1])
def test_what_was_there_stays_and_what_we_made_goes_also_after_a_restart(cloud: Cloud, restarts: int) -> None:
    cloud.host.links.add_bridge("br2")
    cloud.network(1)
    cloud.network(2)
    for _ in range(restarts):
        cloud.agent.kill9()
        cloud.agent.start()
    cloud.delete(make_network(1), make_network(2))
    assert not cloud.host.links.exists("br1")
    assert cloud.host.links.exists("br2")
    assert addresses(cloud.host) & {("br2", "10.2.0.1/24"), ("br2", "fd00:2::1/64")} == set()


def test_what_was_made_before_a_reboot_is_ours_no_more(cloud: Cloud) -> None:
    """What is there then was made by the host's own configuration."""
    cloud.network(1)
    cloud.put(make_floating_ip(1))
    cloud.agent.stop()
    with sqlite3.connect(cloud.agent.state_path / "state.db") as db:
        db.execute("UPDATE boot SET id = 'another boot'")
    cloud.agent.start()
    assert cloud.status(make_floating_ip(1))["state"] == "error"
    before = addresses(cloud.host)
    cloud.delete(make_floating_ip(1), make_network(1))
    assert cloud.host.links.exists("br1")
    assert addresses(cloud.host) == before
    cloud.agent.restart()
    cloud.network(2)
    cloud.agent.restart()
    cloud.delete(make_network(2))
    assert not cloud.host.links.exists("br2"), "notes of this boot hold"
