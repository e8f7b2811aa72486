"""The same address on the bridge of every host: each instance has its own host's, and hears of no other."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from nova_netagent.testing import make_group, make_instance, make_network, make_rule, make_vif
from tests.functional.agent.kernel import eventually
from tests.functional.agent.served import Served, serving
from tests.functional.dhcp.clients import udhcpc
from tests.lab import Forged, Namespace, Udp, arp_request, arrives, needs, refused, tcp

pytestmark = needs(
    "iptables",
    "ip6tables",
    "ipset",
    "br_netfilter",
    "bridge",
    "nftables",
    "program:dnsmasq",
    "setgroups",
    "program:busybox",
)

CONFIG: dict[str, dict[str, Any]] = {"DEFAULT": {"use_ipv6": False}, "network": {"fixed_range": "10.0.0.0/8"}}
SHARED = "10.1.0.1"
NETWORK = make_network(1, bridge_interface="eth1", multi_host=True, share_address=True, cidr_v6=None, gateway_v6=None)
OPEN = make_group(1, make_rule(1))


@dataclass
class Pair:
    """Instance 1 on the first host, instance 4 on the second, and a machine on the wire between them."""

    first: Served
    second: Served
    vm1: Namespace
    vm4: Namespace
    wire: Namespace


@pytest.fixture(scope="module")
def pair(backend: str) -> Iterator[Pair]:
    with serving(CONFIG, backend) as first:
        lab = first.lab
        second = Served(lab, CONFIG, lab.host(), backend=backend)
        wire = lab.add(Namespace("wire"))
        lab.plug(wire, "eth0", "between")
        wire.links.add_address("eth0", "10.1.0.99/24")
        wire.ip4, wire.mac = "10.1.0.99", wire.links.mac("eth0")
        machines = []
        for cloud, number in ((first, 1), (second, 4)):
            lab.plug(cloud.host, "eth1", "between")
            # Ours is named by the machine's id, which the hosts of a lab share.
            cloud.host.links.add_bridge("br1", mac=f"02:00:00:00:01:0{number}")
            cloud.put(NETWORK, OPEN)
            cloud.host.links.set("eth1", master="br1")
            vif = make_vif(number, fixed_ips=(f"10.1.0.{number + 1}",))
            machines.append(cloud.guest(number, addresses=(f"10.1.0.{number + 1}/24",)))
            cloud.put(make_instance(number, (1,), vifs=(vif,)))
            cloud.host.links.wait_running("br1")
            cloud.pid()
        vm1, vm4 = machines
        yield Pair(first, second, vm1, vm4, wire)


def test_the_address_is_that_of_the_own_host(pair: Pair) -> None:
    for cloud, machine in ((pair.first, pair.vm1), (pair.second, pair.vm4)):
        assert tcp(machine, cloud.outside, 80)
        known = {each["address"]: each["mac"] for each in machine.links.neighbours("eth0")}
        assert known[SHARED] == cloud.host.links.mac("br1")
    assert pair.first.host.links.mac("br1") != pair.second.host.links.mac("br1")


def test_who_asks_for_it_is_heard_on_his_own_host_only(pair: Pair) -> None:
    control = arp_request(pair.vm1, wanted="10.1.0.77")
    asked = arp_request(pair.vm1, wanted=SHARED)
    assert arrives(pair.vm1, pair.first.host, asked, device="br1")
    for receiver in (pair.wire, pair.vm4):
        assert refused(pair.vm1, receiver, asked, control=control)
    assert refused(
        pair.wire, pair.vm1, arp_request(pair.wire, wanted=SHARED), control=arp_request(pair.wire, wanted="10.1.0.2")
    )


def test_no_host_tells_others_that_it_has_it(pair: Pair) -> None:
    """Nor does what the host itself announces leave it."""
    host = pair.first.host
    announced, control = (arp_request(host, wanted=each, claimed=each, device="br1") for each in (SHARED, "10.1.0.77"))
    for receiver in (pair.wire, pair.vm4):
        assert refused(host, receiver, announced, control=control)
    assert arrives(host, pair.vm1, announced)
    from_outside = arp_request(pair.wire, wanted="10.1.0.2", claimed=SHARED)
    assert refused(pair.wire, pair.vm1, from_outside, control=arp_request(pair.wire, wanted="10.1.0.2"))


def test_dhcp_does_not_cross_the_wire(pair: Pair) -> None:
    everybody = "ff:ff:ff:ff:ff:ff"
    control = Forged(Udp(69, to="255.255.255.255"), source="10.1.0.2", via=everybody)
    discover = Forged(Udp(67, source_port=68, to="255.255.255.255"), source="0.0.0.0", via=everybody)
    assert arrives(pair.vm1, pair.first.host, discover, device="br1")
    assert refused(pair.vm1, pair.wire, discover, control=control)
    assert refused(pair.vm1, pair.vm4, discover)
    offer = Forged(Udp(68, source_port=67, to="255.255.255.255"), source=SHARED, via=everybody)
    assert refused(pair.wire, pair.vm1, offer)


def test_each_is_served_by_its_own_host(pair: Pair) -> None:
    for cloud, number in ((pair.first, 1), (pair.second, 4)):
        machine = pair.vm1 if number == 1 else pair.vm4
        eventually(lambda cloud=cloud, number=number: cloud.told(number), 2)  # type: ignore[misc]
        answer = udhcpc(machine, cloud.files / machine.name)
        assert answer is not None
        assert (answer["ip"], answer["serverid"], answer["router"]) == (f"10.1.0.{number + 1}", SHARED, SHARED)
        assert cloud.leases().keys() == {f"10.1.0.{number + 1}"}


def test_instances_of_both_hosts_talk(pair: Pair) -> None:
    assert tcp(pair.vm1, pair.vm4, 80)
    assert tcp(pair.vm4, pair.vm1, 80)


def test_without_sharing_both_cross(pair: Pair) -> None:
    plain = make_network(
        1, bridge_interface="eth1", gateway="10.1.0.1", dhcp_server="10.1.0.250", cidr_v6=None, gateway_v6=None
    )
    pair.first.put(plain)
    try:
        assert arrives(pair.vm1, pair.wire, arp_request(pair.vm1, wanted=SHARED))
        everybody = "255.255.255.255"
        discover = Forged(Udp(67, source_port=68, to=everybody), source="0.0.0.0", via="ff:ff:ff:ff:ff:ff")
        assert arrives(pair.vm1, pair.wire, discover)
    finally:
        pair.first.put(NETWORK)
    assert refused(pair.vm1, pair.wire, arp_request(pair.vm1, wanted=SHARED))
