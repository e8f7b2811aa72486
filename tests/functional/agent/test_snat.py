"""The fixed range is translated on its way out, and nothing else is. IPv4 only: IPv6 has no NAT of ours."""

import pytest

from nova_netagent.testing import make_group, make_instance, make_network, make_rule
from tests.functional.agent.conftest import SiteMaker
from tests.functional.agent.site import Site
from tests.lab import Icmp, Namespace, Sctp, Tcp, Udp, needs, ping, tcp, udp

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

CONFIG = {
    "network": {
        "fixed_range": ["10.1.0.0/24", "10.2.0.0/24", "10.4.0.0/24"],
        "dmz_cidr": ["192.0.2.77/32"],
        "force_snat_range": ["192.0.2.78/32"],
    }
}
HOST = "192.0.2.10"
OPEN = make_group(1, make_rule(1), make_rule(2, ethertype="IPv6"))
NETWORKS = (
    make_network(1),
    make_network(2),
    make_network(3),
    make_network(4, gateway="10.4.0.254", dhcp_server="10.4.0.1"),
)
"""1 and 2 are of the fixed range, 3 is not, 4 is and has a gateway of its own."""


@pytest.fixture
def ranges(site: Site) -> Site:
    """One instance on each network: vm1, vm3, machines 5 and 6."""
    site.machine(5, 3)
    site.machine(6, 4)
    instances = [make_instance(vif, (1,), network) for vif, network in ((1, 1), (2, 1), (3, 2), (5, 3), (6, 4))]
    site.describe(*NETWORKS, OPEN, *instances)
    return site


def source_seen(site: Site, sender: Namespace, receiver: Namespace, probe: Udp | None = None) -> str:
    seen = site.passes(sender, receiver, probe or Udp(53))
    assert seen is not None
    assert seen.source is not None
    return seen.source


# --- out


def test_outside_an_instance_is_known_as_the_host(ranges: Site) -> None:
    for sender in (ranges.vm1, ranges.vm3):
        for probe in (Udp(53), Tcp(80), Icmp(), Sctp(5)):
            seen = ranges.passes(sender, ranges.outside, probe)
            assert seen is not None
            assert seen.source == HOST


def test_answers_find_the_way_back(ranges: Site) -> None:
    for talk in (tcp, udp):
        answer = talk(ranges.vm1, ranges.outside, 80)
        assert answer
        assert answer.seen_as is not None
        assert answer.seen_as[0] == HOST
    assert ping(ranges.vm1, ranges.outside)


def test_two_instances_may_use_one_port(ranges: Site) -> None:
    for sender in (ranges.vm1, ranges.vm3):
        assert udp(sender, ranges.outside, 53, source_port=5353)


def test_ipv6_keeps_its_source(ranges: Site) -> None:
    assert source_seen(ranges, ranges.vm1, ranges.outside, Udp(53, family=6)) == ranges.vm1.ip6


def test_what_comes_in_keeps_its_source(ranges: Site) -> None:
    assert source_seen(ranges, ranges.outside, ranges.vm1) == ranges.outside.ip4
    assert tcp(ranges.outside, ranges.vm1, 80)


def test_what_is_said_to_the_host_keeps_its_source(ranges: Site) -> None:
    for address in (HOST, "10.1.0.1"):
        assert source_seen(ranges, ranges.vm1, ranges.host, Udp(53, to=address)) == ranges.vm1.ip4


def test_what_the_host_says_keeps_its_source(ranges: Site) -> None:
    assert source_seen(ranges, ranges.host, ranges.vm1) == "10.1.0.1"
    assert source_seen(ranges, ranges.host, ranges.outside) == HOST


# --- not out


def test_fixed_ips_are_known_to_each_other(ranges: Site) -> None:
    assert source_seen(ranges, ranges.vm1, ranges.vm2) == ranges.vm1.ip4
    assert source_seen(ranges, ranges.vm1, ranges.vm3) == ranges.vm1.ip4
    assert source_seen(ranges, ranges.vm3, ranges.vm1) == ranges.vm3.ip4


def test_the_dmz_sees_fixed_ips(ranges: Site) -> None:
    assert source_seen(ranges, ranges.vm1, ranges.elsewhere) == ranges.vm1.ip4
    assert source_seen(ranges, ranges.vm1, ranges.outside) == HOST


def test_a_network_that_is_not_of_the_fixed_range_keeps_its_source(ranges: Site) -> None:
    assert source_seen(ranges, ranges.machine(5), ranges.outside) == "10.3.0.6"
    assert source_seen(ranges, ranges.machine(5), ranges.vm1) == "10.3.0.6"
    assert source_seen(ranges, ranges.vm1, ranges.outside) == HOST


def test_a_network_with_a_gateway_of_its_own_keeps_its_source(ranges: Site) -> None:
    assert source_seen(ranges, ranges.machine(6), ranges.outside) == "10.4.0.7"
    assert source_seen(ranges, ranges.machine(6), ranges.vm1) == "10.4.0.7"


def test_but_for_the_forced_ranges(ranges: Site, forced: Namespace) -> None:
    assert source_seen(ranges, ranges.machine(6), forced) == HOST
    assert tcp(ranges.machine(6), forced, 80)
    assert source_seen(ranges, ranges.vm1, forced) == HOST
    assert source_seen(ranges, ranges.machine(5), forced) == "10.3.0.6"


@pytest.fixture(scope="module")
def forced(site: Site) -> Namespace:
    """A machine in the forced range."""
    return site.neighbour("forced", "78")


@pytest.mark.parametrize("to", ["224.0.0.251", "10.1.0.255", "255.255.255.255", "239.1.2.3"])
def test_bridged_broadcast_and_multicast_keep_their_source(ranges: Site, to: str) -> None:
    assert source_seen(ranges, ranges.vm1, ranges.vm2, Udp(5353, to=to)) == ranges.vm1.ip4


def test_only_what_leaves_by_the_public_interface_is_translated(ranges: Site, aside: Namespace) -> None:
    assert source_seen(ranges, ranges.vm1, aside) == ranges.vm1.ip4


@pytest.fixture(scope="module")
def aside(site: Site) -> Namespace:
    """A machine behind another interface of the host."""
    return site.behind("eth5", "198.18.0.{}/24")


def test_a_port_that_is_not_metadatas_is_translated(ranges: Site) -> None:
    """The exemption of the metadata service is its address, protocol and port, as far as it is elsewhere."""
    assert source_seen(ranges, ranges.vm1, ranges.outside, Udp(8775)) == HOST
    assert source_seen(ranges, ranges.vm1, ranges.outside, Udp(80)) == HOST


# --- other configurations


@pytest.fixture(params=[None, "br1"], ids=["no public interface", "the bridge is public"])
def bridged(request: pytest.FixtureRequest, make_site: SiteMaker) -> Site:
    """Where the interface does not tell what is only bridged: nova's flat networks have their bridge as public."""
    site = make_site({"network": {"fixed_range": "10.1.0.0/24", "public_interface": request.param}})
    site.describe(make_network(1, bridge_interface="eth1"), OPEN, make_instance(1, (1,)), make_instance(2, (1,)))
    return site


@pytest.mark.parametrize("to", [None, "224.0.0.251", "10.1.0.255", "239.1.2.3"])
def test_what_is_only_bridged_keeps_its_source(bridged: Site, to: str | None) -> None:
    far = bridged.behind("eth1", "10.1.0.20{}/24", bridge="br1")
    for receiver in (bridged.vm2, far):
        assert source_seen(bridged, bridged.vm1, receiver, Udp(5353, to=to)) == bridged.vm1.ip4


def test_a_stranger_on_the_segment_sees_the_source(bridged: Site) -> None:
    """Bridged to an address that is not of the fixed range."""
    far, address = bridged.behind("eth1", "10.1.0.20{}/24", bridge="br1"), "172.16.0.9"
    far.links.add_address("eth0", f"{address}/24")
    bridged.vm1.links.add_route(f"{address}/32", device="eth0")
    bridged.witness.look_again()
    try:
        assert source_seen(bridged, bridged.vm1, far, Udp(5353, to=address)) == bridged.vm1.ip4
    finally:
        bridged.vm1.links.delete_route(f"{address}/32", device="eth0")
        far.links.delete_address("eth0", f"{address}/24")


def test_without_a_public_interface_every_way_out_is_translated(make_site: SiteMaker) -> None:
    site = make_site({"network": {"fixed_range": "10.1.0.0/24", "public_interface": None}})
    site.describe(make_network(1, bridge_interface="eth1"), OPEN, make_instance(1, (1,)), make_instance(2, (1,)))
    assert source_seen(site, site.vm1, site.outside) == HOST
    other = site.behind("eth5", "198.18.0.{}/24")
    assert source_seen(site, site.vm1, other) == HOST
    assert source_seen(site, site.vm1, site.vm2) == site.vm1.ip4


def test_another_source_address(make_site: SiteMaker) -> None:
    site = make_site({"network": {"fixed_range": "10.0.0.0/8", "routing_source_ip": "192.0.2.200"}})
    if not site.host.links.has_address("eth0", "192.0.2.200/32"):
        site.host.links.add_address("eth0", "192.0.2.200/32")
    site.describe(OPEN, make_instance(1, (1,)), make_instance(3, (1,), 2))
    assert source_seen(site, site.vm1, site.outside) == "192.0.2.200"
    assert tcp(site.vm1, site.outside, 80)
    assert source_seen(site, site.vm1, site.vm3) == site.vm1.ip4


def test_without_a_fixed_range_nothing_is_translated(make_site: SiteMaker) -> None:
    site = make_site({"network": {"fixed_range": None}})
    site.describe(OPEN, make_instance(1, (1,)))
    assert source_seen(site, site.vm1, site.outside) == site.vm1.ip4
