"""The physical interface of a host goes to its network's bridge and comes back, and nobody who talks through it notices."""

from collections.abc import Iterator
from contextlib import contextmanager

from nova_netagent.testing import make_network
from tests.functional.agent.cloud import Cloud
from tests.functional.links.held import furnish, held
from tests.lab import Flood, Namespace, connect, needs

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "program:ip")

FLAT = make_network(1, bridge_interface="eth0")


@contextmanager
def talking(host: Namespace, outside: Namespace) -> Iterator[None]:
    """Connections both ways and of both families live, and a flood loses nothing."""
    connections = [connect(outside, host, 5000), connect(outside, host, 5001, family=6), connect(host, outside, 5002)]
    with Flood(outside, host) as flood:
        yield
        assert all(each.alive() for each in connections)
    assert flood.lost == []


def test_the_uplink_goes_and_comes_back_while_others_talk_through_it(cloud: Cloud) -> None:
    host = cloud.host
    furnish(host)
    before, mac = held(host, "eth0"), host.links.mac("eth0")
    with talking(host, cloud.outside):
        cloud.put(FLAT)
        links = host.links.all()
        assert (links["eth0"]["master"], links["br1"]["mac"], links["br1"]["up"]) == ("br1", mac, True)
        assert held(host, "eth0") == ([], [])
        ours = ["10.1.0.1/24", "fd00:1::1/64"]
        assert held(host, "br1", without=ours) == before
        cloud.delete(FLAT)
    assert not host.links.exists("br1")
    assert host.links.all()["eth0"]["master"] is None
    assert held(host, "eth0") == before
