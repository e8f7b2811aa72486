"""A host without any IPv4, and networks of one family each on it: what is right passes, and nothing else."""

import pytest

from nova_netagent.testing import make_group, make_instance, make_network, make_rule, make_vif
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import cleanup, kernel
from tests.functional.conftest import ON_BOTH
from tests.lab import Forged, Icmp, Lab, Namespace, Tcp, Udp, arrives, needs, ping, refused, tcp, veth

pytestmark = [needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "ipv6", "program:ip"), ON_BOTH]

IPV6 = make_network(1, cidr=None, gateway=None)
IPV4 = make_network(2, cidr_v6=None, gateway_v6=None)


@pytest.fixture
def host(lab: Lab) -> Namespace:
    """It has no address and no route of IPv4."""
    made = lab.host()
    made.run(["ip", "-4", "addr", "flush", "dev", "eth0"])
    assert made.links.routes(4) == []
    return made


def enforced(lab: Lab, host: Namespace, backend: str) -> Cloud:
    """The host with the agent, and a route to its network of IPv6."""
    lab.outside.links.add_route("fd00:1::/64", via=host.ip6)
    return Cloud(lab, host=host, backend=backend)


def only_ipv6(cloud: Cloud, number: int) -> Namespace:
    """The machine of an instance on the network of IPv6."""
    return cloud.guest(number, addresses=(f"fd00:1::{number + 1:x}/64",))


def test_groups_of_ipv6_judge_there_and_a_restart_writes_nothing(lab: Lab, host: Namespace, backend: str) -> None:
    empty = {**kernel(host), "links": ()}
    cloud, outside = enforced(lab, host, backend), lab.outside
    vm1, vm2, vm3 = (only_ipv6(cloud, number) for number in (1, 2, 3))
    web = make_rule(1, ethertype="IPv6", protocol="tcp", port_range_min=80, port_range_max=80)
    echo = make_rule(2, ethertype="IPv6", protocol="icmp", port_range_min=128)
    dns = make_rule(3, ethertype="IPv6", protocol="udp", remote_ip_prefix="2001:db8:2::/64")
    members = make_rule(4, ethertype="IPv6", protocol="tcp", remote_group_id=make_group(1).id)
    cloud.put(IPV6, make_group(1, web, echo, dns), make_group(2, members))
    for number, groups in ((1, (1,)), (2, (2,)), (3, ())):
        vif = make_vif(number, fixed_ips=(f"fd00:1::{number + 1:x}",))
        cloud.put(make_instance(number, groups, vifs=(vif,)))
        assert cloud.status(make_instance(number))["state"] == "done"
    assert tcp(outside, vm1, 80, family=6)
    assert ping(outside, vm1, family=6)
    assert arrives(outside, vm1, Udp(53, family=6))
    assert tcp(vm1, vm2, 22, family=6)
    assert tcp(vm2, outside, 443, family=6)
    for sender, receiver, probe in (
        (outside, vm1, Tcp(22, family=6)),
        (outside, vm1, Icmp(kind=129, family=6)),
        (vm3, vm1, Udp(53, family=6)),
        (vm3, vm2, Tcp(22, family=6)),
        (vm3, vm1, Forged(Tcp(80, family=6), source="fd00:1::3")),
    ):
        assert refused(sender, receiver, probe)
    before = kernel(host)
    cloud.agent.restart()
    assert kernel(host) == before
    assert cloud.agent.resync()["repaired"] == []
    cloud.agent.stop()
    cleanup(cloud.agent)
    assert {**kernel(host), "links": ()} == empty


def test_an_instance_with_a_vif_in_each_speaks_on_each_its_own(lab: Lab, host: Namespace, backend: str) -> None:
    cloud = enforced(lab, host, backend)
    vifs = (make_vif(1, fixed_ips=("fd00:1::2",)), make_vif(2, 2, fixed_ips=("10.2.0.3",)))
    both = only_ipv6(cloud, 1)
    veth(both, "eth1", host, vifs[1].device, mac=vifs[1].address)
    both.links.add_address("eth1", "10.2.0.3/24")
    both.links.wait_running("eth1")
    cloud.put(IPV6, IPV4, make_group(1, make_rule(1, protocol="icmp"), make_rule(2, ethertype="IPv6", protocol="icmp")))
    cloud.put(make_instance(1, (1,), vifs=vifs))
    other = only_ipv6(cloud, 7)
    cloud.put(make_instance(7, (1,), vifs=(make_vif(7, fixed_ips=("fd00:1::8",)),)))
    third = cloud.guest(8, 2, addresses=("10.2.0.9/24",))
    cloud.put(make_instance(8, (1,), 2, vifs=(make_vif(8, 2, fixed_ips=("10.2.0.9",)),)))
    assert ping(other, "fd00:1::2", family=6)
    assert ping(third, "10.2.0.3")
    assert refused(both, other, Forged(Udp(80, to="10.2.0.9"), source="10.2.0.3", via=other.mac))
    lie = Forged(Udp(80, to="fd00:1::2", family=6), source="fd00:1::8", via=vifs[1].address)
    assert not arrives(third, both, lie, device="eth1", within=0.3)
    assert cloud.agent.resync()["repaired"] == []
