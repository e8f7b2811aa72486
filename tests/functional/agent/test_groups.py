"""Security groups decide real packets: one allowed and one refused for every kind of rule."""

from nova_netagent.testing import make_group, make_rule
from tests.functional.agent.cloud import Cloud
from tests.lab import Tcp, needs, refused, tcp


@needs("iptables", "ip6tables", "br_netfilter")
def test_a_port_that_a_group_lets_in(cloud: Cloud) -> None:
    cloud.network(1)
    cloud.put(make_group(1, make_rule(1, protocol="tcp", port_range_min=80, port_range_max=80)))
    web, other = cloud.instance(1, (1,)), cloud.instance(2)
    assert tcp(cloud.outside, web, 80)
    assert tcp(other, web, 80)
    assert refused(cloud.outside, web, Tcp(22), control=Tcp(80))
    assert refused(other, web, Tcp(22), control=Tcp(80))
