"""A network whose gateway is another machine: what this host has to translate comes to it all the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from nova_netagent.model import AllowedAddressPair
from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_network, make_rule, make_vif
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import eventually
from tests.lab import Forged, Lab, Namespace, Seen, Udp, arrives, needs, refused, tcp, udp

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "nftables")

CONFIG: dict[str, dict[str, Any]] = {
    "network": {"fixed_range": "10.0.0.0/8", "force_snat_range": "192.0.2.78/32", "allow_same_net_traffic": False},
    "metadata": {"metadata_host": "192.0.2.77"},
}
HOST, FLOATING, ROUTER = "192.0.2.10", "198.51.100.1", "10.1.0.254"
METADATA, PORT = "169.254.169.254", 8775
NETWORK = make_network(1, bridge_interface="eth1", gateway=ROUTER, dhcp_server="10.1.0.1")
OPEN = make_group(1, make_rule(1), make_rule(2, ethertype="IPv6"))


@dataclass
class Elsewhere:
    """Instances 1 and 2 of a network that the router behind the uplink routes; 1 has a floating IP."""

    cloud: Cloud
    vm1: Namespace
    vm2: Namespace
    router: Namespace
    service: Namespace
    forced: Namespace

    @property
    def outside(self) -> Namespace:
        return self.cloud.outside

    def by_router(self, sender: Namespace, receiver: Namespace) -> Seen | None:
        """What the receiver sees of a datagram in a frame for the router."""
        return arrives(sender, receiver, Forged(Udp(53, to=receiver.ip4), via=self.router.mac))

    def at_router(self, sender: Namespace, receiver: Namespace) -> Seen | None:
        """The datagram as the router sees it, if it is bridged there."""
        return arrives(
            sender, self.router, Forged(Udp(53, to=receiver.ip4), via=self.router.mac), within=0.3, device="eth0"
        )


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[Elsewhere]:
    with Lab(tmp_path_factory.mktemp("gateway")) as lab:
        host = lab.host(uplinks={"eth1": "wire"})
        cloud = Cloud(lab, CONFIG, host, backend=backend)
        service, forced = lab.station("metadata", "77"), lab.station("forced", "78")
        service.links.add_route("10.1.0.0/24", via=host.ip4)
        lab.outside.links.add_route("198.51.100.0/24", device="eth0")
        router = lab.add(Namespace("router"))
        lab.plug(router, "eth0", "wire")
        router.links.add_address("eth0", f"{ROUTER}/24")
        router.ip4, router.mac = ROUTER, router.links.mac("eth0")
        cloud.put(NETWORK, OPEN)
        host.links.set("eth1", master="br1")
        machines = [cloud.instance(number, (1,)) for number in (1, 2)]
        for machine in machines:
            machine.links.delete_route("default", via="10.1.0.1")
            machine.links.add_route("default", via=ROUTER)
        cloud.put(make_floating_ip(1))
        host.links.wait_running("br1")
        yield Elsewhere(cloud, machines[0], machines[1], router, service, forced)


def test_a_floating_ip_works_both_ways(elsewhere: Elsewhere) -> None:
    answer = tcp(elsewhere.outside, FLOATING, 80, server=elsewhere.vm1)
    assert answer
    assert answer.seen_as is not None
    assert answer.seen_as[0] == elsewhere.outside.ip4
    assert udp(elsewhere.outside, FLOATING, 53, server=elsewhere.vm1)
    answer = tcp(elsewhere.vm1, elsewhere.outside, 80)
    assert answer
    assert answer.seen_as is not None
    assert answer.seen_as[0] == FLOATING


def test_frames_for_the_router_are_routed_here_for_the_floating_ip_only(elsewhere: Elsewhere) -> None:
    seen = elsewhere.by_router(elsewhere.vm1, elsewhere.outside)
    assert seen is not None
    assert seen.source == FLOATING
    assert not elsewhere.at_router(elsewhere.vm1, elsewhere.outside)
    seen = elsewhere.at_router(elsewhere.vm2, elsewhere.outside)
    assert seen is not None
    assert seen.source == elsewhere.vm2.ip4


@pytest.mark.parametrize("pair", ["10.1.0.100", "10.1.0.96/28"])
def test_one_of_an_allowed_pair_works_both_ways(elsewhere: Elsewhere, pair: str) -> None:
    public, shared, vm1 = "198.51.100.2", "10.1.0.100", elsewhere.vm1
    vif = make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address=pair),))
    vm1.links.add_address("eth0", f"{shared}/24")
    elsewhere.cloud.put(make_instance(1, (1,), vifs=(vif,)), make_floating_ip(2, fixed_ip_address=shared))
    try:
        answer = tcp(elsewhere.outside, public, 80, server=vm1)
        assert answer
        assert answer.seen_as is not None
        assert answer.seen_as[0] == elsewhere.outside.ip4
        sent = Forged(Udp(53, to=elsewhere.outside.ip4), source=shared, via=elsewhere.router.mac)
        seen = arrives(vm1, elsewhere.outside, sent)
        assert seen is not None
        assert seen.source == public
        sent = Forged(Udp(53, to=elsewhere.router.ip4), source=shared, via=elsewhere.router.mac)
        seen = arrives(vm1, elsewhere.router, sent)
        assert seen is not None
        assert seen.source == shared
    finally:
        elsewhere.cloud.delete(make_floating_ip(2))
        elsewhere.cloud.put(make_instance(1, (1,)))
        vm1.links.delete_address("eth0", f"{shared}/24")


def test_it_goes_when_the_floating_ip_goes(elsewhere: Elsewhere) -> None:
    elsewhere.cloud.delete(make_floating_ip(1))
    seen = elsewhere.at_router(elsewhere.vm1, elsewhere.outside)
    assert seen is not None
    assert seen.source == elsewhere.vm1.ip4
    elsewhere.cloud.put(make_floating_ip(1))
    assert elsewhere.by_router(elsewhere.vm1, elsewhere.outside)


def test_the_metadata_service_is_reached(elsewhere: Elsewhere) -> None:
    for machine in (elsewhere.vm1, elsewhere.vm2):
        answer = tcp(machine, METADATA, 80, server=elsewhere.service, server_port=PORT)
        assert answer
        assert answer.seen_as is not None
        assert answer.seen_as[0] == machine.ip4


def test_the_forced_range_is_translated(elsewhere: Elsewhere) -> None:
    answer = tcp(elsewhere.vm2, elsewhere.forced, 80)
    assert answer
    assert answer.seen_as is not None
    assert answer.seen_as[0] == HOST


def test_neighbours_talk_as_themselves(elsewhere: Elsewhere) -> None:
    for one, other in (
        (elsewhere.vm1, elsewhere.vm2),
        (elsewhere.vm2, elsewhere.vm1),
        (elsewhere.vm1, elsewhere.router),
    ):
        answer = tcp(one, other, 80)
        assert answer
        assert answer.seen_as is not None
        assert answer.seen_as[0] == one.ip4


def test_a_lie_is_not_routed_either(elsewhere: Elsewhere) -> None:
    lie = Forged(Udp(53, to=elsewhere.outside.ip4), source=elsewhere.vm1.ip4, via=elsewhere.router.mac)
    truth = Forged(Udp(53, to=elsewhere.outside.ip4), via=elsewhere.router.mac)
    assert arrives(elsewhere.vm1, elsewhere.outside, truth)
    assert refused(elsewhere.vm2, elsewhere.outside, lie)
    assert refused(elsewhere.vm2, elsewhere.router, lie, control=truth)


def test_the_bridge_may_be_made_anew(elsewhere: Elsewhere) -> None:
    """Frames are redirected to the MAC that it has now."""
    links = elsewhere.cloud.host.links
    links.delete("br1")
    eventually(lambda: links.exists("br1") and links.all()["tap1"]["master"] == "br1", 2)
    links.set("eth1", master="br1")
    links.wait_running("br1")
    eventually(lambda: elsewhere.by_router(elsewhere.vm1, elsewhere.outside), 3)
    assert tcp(elsewhere.outside, FLOATING, 80, server=elsewhere.vm1)
