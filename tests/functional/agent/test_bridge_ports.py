"""Whose bridge port it is decides: a vif's is judged, the uplink leads to others, anybody else's passes nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from nova_netagent.testing import group_id, make_group, make_instance, make_network, make_rule, make_vif
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.conftest import SiteMaker
from tests.functional.agent.kernel import eventually
from tests.functional.agent.site import ETHERTYPES, Site
from tests.lab import Forged, Icmp, Namespace, Tcp, Udp, arrives, needs, refused, tcp, udp

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

OPEN = make_group(9, make_rule(91), make_rule(92, ethertype="IPv6"))
WEB = make_group(
    1,
    *(
        make_rule(n, ethertype=ethertype, protocol="tcp", port_range_min=80, port_range_max=80)
        for n, ethertype in enumerate(("IPv4", "IPv6"))
    ),
)
FRAMES = ("bridge", "nova-netagent")
UPLINKED = make_network(1, bridge_interface="eth1")


@contextmanager
def plugged(site: Site, device: str) -> Iterator[None]:
    """Somebody puts a link on the bridge of network 1, which the agent sees, and takes it off again."""
    site.host.links.set(device, master="br1", up=True)
    eventually(lambda: device in site.host.run(["nft", "list", "set", *FRAMES, "closed"]).stdout, 2)
    site.witness.look_again()
    try:
        yield
    finally:
        site.host.links.set(device, master="")


# --- ports that are nobody's


@pytest.fixture
def stranger(site: Site) -> Iterator[Namespace]:
    """A machine on the bridge of network 1 that nobody described."""
    machine = site.machine(7)
    site.describe(OPEN, make_instance(1, (9,)), make_instance(2, (9,)))
    with plugged(site, "tap7"):
        yield machine


def test_an_unknown_port_sends_nothing(site: Site, stranger: Namespace, family: int) -> None:
    for receiver in (site.vm1, site.host, site.outside):
        assert site.stops(stranger, receiver, Forged(Udp(53, family=family)))
        assert site.passes(site.vm2, receiver, Udp(53, family=family))


def test_an_unknown_port_says_nothing_to_everybody(site: Site, stranger: Namespace) -> None:
    for to in ("10.1.0.255", "224.0.0.251", "ff02::1"):
        assert site.stops(stranger, site.vm1, Udp(53, to=to))
    assert site.stops(stranger, site.vm1, Icmp(kind=135, to="ff02::1"))
    assert site.stops(stranger, site.vm1, Icmp(kind=134, to="ff02::1"))
    discover = Forged(Udp(67, source_port=68, to="255.255.255.255"), source="0.0.0.0")
    assert site.stops(stranger, site.host, discover)


def test_an_unknown_port_lends_nobody_a_voice(site: Site, stranger: Namespace) -> None:
    """Neither with the address of a neighbour nor with its MAC as well."""
    as_vm2 = Forged(Udp(53), source="10.1.0.3", source_mac=site.vm2.mac)
    assert site.stops(stranger, site.vm1, as_vm2)
    assert site.stops(stranger, site.outside, as_vm2)


def test_an_unknown_port_gets_nothing_from_neighbours(site: Site, stranger: Namespace, family: int) -> None:
    assert site.stops(site.vm1, stranger, Forged(Udp(53, family=family)))
    for to in ("10.1.0.255", "ff02::1"):
        assert site.stops(site.vm1, stranger, Udp(53, to=to))


def test_an_unknown_port_gets_nothing_by_ipv6_that_is_routed(site: Site, stranger: Namespace) -> None:
    """Nobody hears its neighbour discovery."""
    for sender in (site.outside, site.host):
        assert refused(sender, stranger, Udp(53, family=6))
    site.put(make_instance(7, (9,)))
    assert site.passes(site.outside, stranger, Udp(53, family=6))


def test_a_port_is_known_when_its_instance_is(site: Site, stranger: Namespace, family: int) -> None:
    assert site.stops(stranger, site.vm1, Udp(53, family=family))
    site.put(make_instance(7))
    stranger.run(["ip", "neigh", "flush", "dev", "eth0"])  # it has asked in vain, and would for a second more
    assert site.passes(stranger, site.vm1, Udp(53, family=family))


# --- the uplink


@pytest.fixture(scope="module")
def far(site: Site) -> Namespace:
    """A machine behind the uplink of network 1, as an instance of another host would be."""
    site.describe(UPLINKED)
    machine = site.behind("eth1", "10.1.0.20{}/24", bridge="br1")
    machine.links.add_address("eth0", "fd00:1::209/64")
    machine.ip6 = "fd00:1::209"
    machine.links.add_route("default", via="10.1.0.1")
    machine.links.add_route("default6", via="fd00:1::1", device="eth0")
    return machine


@pytest.fixture
def uplinked(site: Site, far: Namespace) -> Site:
    """Instance 1 lets in web traffic, instance 2 nothing."""
    instances = (make_instance(1, (1,)), make_instance(2), make_instance(3, (9,), 2))
    site.describe(UPLINKED, make_network(2), WEB, OPEN, *instances)
    return site


def test_what_comes_by_the_uplink_is_judged_by_the_receiver(uplinked: Site, far: Namespace, family: int) -> None:
    assert uplinked.passes(far, uplinked.vm1, Tcp(80, family=family))
    assert uplinked.stops(far, uplinked.vm1, Tcp(81, family=family))
    assert uplinked.stops(far, uplinked.vm2, Tcp(80, family=family))
    assert tcp(far, uplinked.vm1, 80, family=family)


def test_what_goes_by_the_uplink_is_not_filtered_here(uplinked: Site, far: Namespace, family: int) -> None:
    for sender in (uplinked.vm1, uplinked.vm2, uplinked.vm3, uplinked.host, uplinked.outside):
        assert uplinked.passes(sender, far, Tcp(81, family=family))
        assert udp(sender, far, 53, family=family)


def test_the_far_side_is_routed_like_an_instance(uplinked: Site, far: Namespace, family: int) -> None:
    for receiver in (uplinked.vm3, uplinked.outside, uplinked.host):
        assert uplinked.passes(far, receiver, Tcp(80, family=family))


def test_the_far_side_may_have_any_address(uplinked: Site, far: Namespace, family: int) -> None:
    """Its own host proves it; here nobody can."""
    source = "10.1.0.77" if family == 4 else "fd00:1::77"
    assert uplinked.passes(
        far, uplinked.vm1, Forged(Tcp(80, family=family), source=source, source_mac="02:00:00:00:00:77")
    )


def test_a_router_and_a_dhcp_server_may_be_far(uplinked: Site, far: Namespace) -> None:
    assert uplinked.passes(far, uplinked.vm2, Icmp(kind=134, to="ff02::1"))
    assert uplinked.stops(far, uplinked.vm2, Udp(68, source_port=67))
    assert uplinked.passes(far, uplinked.vm2, Forged(Udp(68, source_port=67), source="10.1.0.1"))


def test_multicast_from_the_uplink_meets_the_rules(uplinked: Site, far: Namespace) -> None:
    for to in ("10.1.0.255", "224.0.0.251", "ff02::1"):
        assert uplinked.stops(far, uplinked.vm1, Udp(5353, to=to))
        assert uplinked.passes(uplinked.vm1, far, Udp(5353, to=to))


def test_egress_is_judged_towards_the_uplink_too(uplinked: Site, far: Namespace, family: int) -> None:
    only_tcp = make_group(2, make_rule(1, ethertype=ETHERTYPES[family], direction="egress", protocol="tcp"))
    uplinked.put(only_tcp, make_instance(2, (2,)))
    assert uplinked.passes(uplinked.vm2, far, Tcp(80, family=family))
    assert uplinked.stops(uplinked.vm2, far, Udp(80, family=family))


def test_an_instance_does_not_lie_towards_the_uplink(uplinked: Site, far: Namespace, family: int) -> None:
    lie = "10.1.0.77" if family == 4 else "fd00:1::77"
    assert uplinked.stops(uplinked.vm1, far, Forged(Udp(53, family=family), source=lie))
    assert uplinked.passes(uplinked.vm1, far, Forged(Udp(53, family=family)))


def test_an_unknown_port_beside_the_uplink(uplinked: Site, far: Namespace, family: int) -> None:
    stranger = uplinked.machine(7)
    with plugged(uplinked, "tap7"):
        assert uplinked.stops(stranger, far, Forged(Udp(53, family=family)))
        assert uplinked.stops(far, stranger, Forged(Udp(53, family=family)))


def test_the_uplink_of_one_bridge_is_a_stranger_on_another(uplinked: Site, far: Namespace) -> None:
    uplinked.host.links.set("eth1", master="br2")
    try:
        assert refused(far, uplinked.vm3, Forged(Udp(53), source="10.2.0.9", via=uplinked.vm3.mac))
    finally:
        uplinked.host.links.set("eth1", master="br1")


# --- two hosts, bridged by their uplinks


@dataclass
class Pair:
    """Two hosts that have network 1; the first routes it, and each has an instance there."""

    first: Site
    second: Cloud
    near: Namespace
    far: Namespace

    @property
    def both_ways(self) -> list[tuple[Namespace, Namespace]]:
        """From the one instance to the other, and back."""
        return [(self.near, self.far), (self.far, self.near)]


@pytest.fixture(scope="module")
def hosts(make_site: SiteMaker) -> Pair:
    """The instances, 1 on the first host and 4 on the second, let in web traffic."""
    first = make_site({"DEFAULT": {"host": "first"}})
    second = Cloud(first.lab, host=first.lab.host())
    on_second = make_network(1, bridge_interface="eth1", dhcp_server="10.1.0.250", gateway_v6=None)
    for cloud, network in ((first, UPLINKED), (second, on_second)):
        cloud.lab.plug(cloud.host, "eth1", "between hosts")
        cloud.put(network, WEB, OPEN)
        cloud.host.links.set("eth1", master="br1")
    first.put(make_instance(1, (1,)))
    return Pair(first, second, first.vm1, second.instance(4, (1,)))


def test_instances_on_different_hosts_talk_when_they_may(hosts: Pair, family: int) -> None:
    for one, other in hosts.both_ways:
        assert tcp(one, other, 80, family=family)
        assert refused(one, other, Tcp(81, family=family), control=Tcp(80, family=family))


def test_members_on_the_other_host(hosts: Pair, family: int) -> None:
    rule = make_rule(1, ethertype=ETHERTYPES[family], protocol="udp", remote_group_id=group_id(3))
    group, members = make_group(2, rule), make_group(3, members=make_vif(1).fixed_ips)
    hosts.second.put(group, members, make_instance(4, (1, 2)))
    assert arrives(hosts.near, hosts.far, Udp(53, family=family))
    hosts.second.put(make_group(3))
    assert refused(hosts.near, hosts.far, Udp(53, family=family), control=Tcp(80, family=family))
    hosts.second.put(make_instance(4, (1,)))


def test_the_instance_of_the_second_host_is_routed_by_the_first(hosts: Pair) -> None:
    assert tcp(hosts.far, hosts.first.outside, 80)
    assert tcp(hosts.first.outside, hosts.far, 80)
    assert refused(hosts.first.outside, hosts.far, Tcp(81), control=Tcp(80))


def test_each_host_proves_its_own(hosts: Pair, family: int) -> None:
    lie = "10.1.0.77" if family == 4 else "fd00:1::77"
    for one, other in hosts.both_ways:
        assert arrives(one, other, Forged(Tcp(80, family=family)))
        assert refused(one, other, Forged(Tcp(80, family=family), source=lie))


# --- links that somebody else manages


@pytest.fixture(scope="module")
def unmanaged(make_site: SiteMaker) -> Site:
    """Bridge and ports are made by hand."""
    site = make_site({"network": {"manage_links": False}})
    machines = (site.vm1, site.vm2, site.machine(7))
    assert machines
    site.lab.bridge(site.host, "br1", addresses=("10.1.0.1/24", "fd00:1::1/64"), ports=("tap1", "tap2", "tap7"))
    return site


def test_described_vifs_are_filtered_where_links_are_not_ours(unmanaged: Site, family: int) -> None:
    unmanaged.describe(make_network(1), WEB, make_instance(1, (1,)), make_instance(2))
    for sender in (unmanaged.outside, unmanaged.vm2, unmanaged.host):
        assert unmanaged.passes(sender, unmanaged.vm1, Tcp(80, family=family))
        assert unmanaged.stops(sender, unmanaged.vm1, Tcp(81, family=family))
        assert unmanaged.stops(sender, unmanaged.vm2, Tcp(80, family=family)) or sender is unmanaged.vm2
    lie = "10.1.0.77" if family == 4 else "fd00:1::77"
    assert unmanaged.stops(unmanaged.vm1, unmanaged.outside, Forged(Udp(53, family=family), source=lie))


def test_other_ports_are_left_alone_where_links_are_not_ours(unmanaged: Site, family: int) -> None:
    unmanaged.describe(make_network(1), WEB, make_instance(1, (1,)))
    other = unmanaged.machine(7)
    for receiver in (unmanaged.outside, unmanaged.vm2, unmanaged.host):
        assert unmanaged.passes(other, receiver, Udp(53, family=family))
    for sender in (unmanaged.outside, unmanaged.vm2, unmanaged.vm1):
        assert unmanaged.passes(sender, other, Udp(53, family=family))
    assert unmanaged.stops(other, unmanaged.vm1, Tcp(81, family=family))


def test_a_vif_that_waits_is_shut_where_links_are_not_ours(unmanaged: Site, family: int) -> None:
    waits = make_instance(1, (9,), vifs=(make_vif(1, network=3, fixed_ips=()),))
    unmanaged.describe(make_network(1), OPEN, waits, make_instance(2, (9,)))
    assert unmanaged.status(waits)["state"] == "pending"
    for other in (unmanaged.vm2, unmanaged.outside):
        assert unmanaged.stops(unmanaged.vm1, other, Udp(53, family=family))
    assert unmanaged.stops(unmanaged.vm2, unmanaged.vm1, Udp(53, family=family))


def test_an_unknown_port_gets_nothing_that_is_routed(site: Site, stranger: Namespace) -> None:
    assert refused(site.outside, stranger, Udp(53))
    assert refused(site.host, stranger, Udp(53))


def test_a_tap_that_is_on_no_bridge_leads_nowhere(site: Site) -> None:
    """It waits for its network: fail closed. One that nobody described is the hypervisor's."""
    site.describe(make_instance(1, vifs=(make_vif(1, network=3, fixed_ips=()),)))
    lie = Forged(Udp(53, to=site.outside.ip4), source="10.2.0.9", via=site.host.links.mac("tap1"))
    assert refused(site.vm1, site.outside, lie)
    assert refused(site.vm1, site.host, Udp(53, to="ff02::1"))
