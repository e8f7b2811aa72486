"""What the provider refuses is refused for every instance, before anything that its own groups say."""

from dataclasses import replace

import pytest

from nova_netagent.testing import make_group, make_instance, make_provider_rule, make_rule, make_vif
from tests.functional.agent.site import Site
from tests.lab import Gre, Icmp, Ip, Sctp, Tcp, Udp, UdpLite, connect, needs, tcp
from tests.lab.probes import IpProbe

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

OUTSIDE = {4: "192.0.2.1", 6: "2001:db8:2::1"}
OPEN = make_group(1, make_rule(1), make_rule(2, ethertype="IPv6"))
INSTANCES = (make_instance(1, (1,)), make_instance(2), make_instance(3, (1,), 2))


def test_it_goes_before_the_own_rules(site: Site, family: int) -> None:
    site.describe(make_provider_rule(1, remote_ip_prefix=OUTSIDE[family]), OPEN, *INSTANCES)
    assert site.stops(site.outside, site.vm1, Tcp(80, family=family))
    assert site.passes(site.elsewhere, site.vm1, Tcp(80, family=family))
    assert site.passes(site.outside, site.vm1, Tcp(80, family=10 - family))


def test_it_is_for_every_instance(site: Site, family: int) -> None:
    site.describe(make_provider_rule(1, remote_ip_prefix=OUTSIDE[family]), OPEN, *INSTANCES)
    for receiver in (site.vm1, site.vm2, site.vm3):
        assert site.stops(site.outside, receiver, Udp(80, family=family))
    assert site.passes(site.elsewhere, site.vm3, Udp(80, family=family))


@pytest.mark.parametrize(
    ("fields", "dropped", "kept"),
    [
        ({}, [Tcp(80), Udp(80), Gre(), Ip(112)], []),
        ({"protocol": "tcp"}, [Tcp(80), Tcp(1)], [Udp(80), Icmp()]),
        ({"protocol": 17}, [Udp(80)], [Tcp(80)]),
        ({"protocol": "gre"}, [Gre()], [Ip(112)]),
        ({"protocol": "tcp", "port_range_min": 80, "port_range_max": 90}, [Tcp(80), Tcp(90)], [Tcp(79), Tcp(91)]),
        ({"protocol": "sctp", "port_range_min": 80, "port_range_max": 80}, [Sctp(80)], [Sctp(81), Tcp(80)]),
        ({"protocol": "udplite", "port_range_min": 80, "port_range_max": 80}, [UdpLite(80)], [UdpLite(81), Udp(80)]),
        ({"protocol": "icmp"}, [Icmp(), Icmp(code=3)], [Tcp(80)]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_its_protocols_and_ports(
    site: Site, fields: dict[str, object], dropped: list[IpProbe], kept: list[IpProbe], family: int
) -> None:
    site.describe(make_provider_rule(1, remote_ip_prefix=OUTSIDE[family], **fields), OPEN, *INSTANCES)
    for probes, judged in ((dropped, site.stops), (kept, site.passes)):
        for probe in probes:
            assert judged(site.outside, site.vm1, replace(probe, family=family))


@pytest.mark.parametrize(("family", "kinds"), [(4, (8, 13)), (6, (128, 139))])
def test_a_type_of_icmp(site: Site, family: int, kinds: tuple[int, int]) -> None:
    rule = make_provider_rule(1, remote_ip_prefix=OUTSIDE[family], protocol="icmp", port_range_min=kinds[0])
    site.describe(rule, OPEN, *INSTANCES)
    assert site.stops(site.outside, site.vm1, Icmp(kind=kinds[0], family=family))
    assert site.passes(site.outside, site.vm1, Icmp(kind=kinds[1], family=family))


def test_several_rules(site: Site, family: int) -> None:
    prefixes = ("192.0.2.1", "10.2.0.0/24") if family == 4 else ("2001:db8:2::1", "fd00:2::/64")
    rules = [make_provider_rule(n, remote_ip_prefix=prefix) for n, prefix in enumerate(prefixes)]
    site.describe(*rules, OPEN, *INSTANCES)
    for sender in (site.outside, site.vm3):
        assert site.stops(sender, site.vm1, Tcp(80, family=family))
    assert site.passes(site.elsewhere, site.vm1, Tcp(80, family=family))


def test_a_neighbour_can_be_refused(site: Site, family: int) -> None:
    prefix = "10.1.0.3" if family == 4 else "fd00:1::3"
    site.describe(make_provider_rule(1, remote_ip_prefix=prefix), OPEN, *INSTANCES)
    assert site.stops(site.vm2, site.vm1, Tcp(80, family=family))
    assert site.passes(site.vm3, site.vm1, Tcp(80, family=family))


def test_it_comes_and_goes(site: Site, family: int) -> None:
    rule = make_provider_rule(1, remote_ip_prefix=OUTSIDE[family])
    site.describe(OPEN, *INSTANCES)
    assert site.passes(site.outside, site.vm1, Tcp(80, family=family))
    site.put(rule)
    assert site.stops(site.outside, site.vm1, Tcp(80, family=family))
    site.delete(rule)
    assert site.passes(site.outside, site.vm1, Tcp(80, family=family))


def test_it_refuses_nothing_that_the_instance_asked_for(site: Site, family: int) -> None:
    site.describe(make_provider_rule(1, remote_ip_prefix=OUTSIDE[family]), OPEN, *INSTANCES)
    assert tcp(site.vm1, site.outside, 80, family=family)
    with connect(site.vm1, site.outside, 80, family=family) as connection:
        assert connection.alive()


def test_it_keeps_nobody_from_dhcp_and_discovery(site: Site) -> None:
    everybody = [make_provider_rule(n, remote_ip_prefix=prefix) for n, prefix in enumerate(("0.0.0.0/0", "::/0"))]
    site.describe(*everybody, OPEN, *INSTANCES)
    assert site.passes(site.host, site.vm1, Udp(68, source_port=67))
    assert site.passes(site.host, site.vm1, Icmp(kind=134, to="ff02::1", device="br1"))
    assert site.passes(site.vm2, site.vm1, Icmp(kind=135, family=6))
    assert site.stops(site.host, site.vm1, Udp(67, source_port=67))


def test_stateless_instances_are_covered(site: Site, family: int) -> None:
    stateless = make_group(1, make_rule(1), make_rule(2, ethertype="IPv6"), stateful=False)
    site.describe(make_provider_rule(1, remote_ip_prefix=OUTSIDE[family]), stateless, *INSTANCES)
    assert site.stops(site.outside, site.vm1, Tcp(80, family=family))
    assert site.passes(site.elsewhere, site.vm1, Tcp(80, family=family))


def test_every_vif_is_covered(site: Site, family: int) -> None:
    both = make_instance(1, (1,), vifs=(make_vif(1), make_vif(3, 2)))
    site.describe(make_provider_rule(1, remote_ip_prefix=OUTSIDE[family]), OPEN, both)
    for receiver in (site.vm1, site.vm3):
        assert site.stops(site.outside, receiver, Tcp(80, family=family))
        assert site.passes(site.elsewhere, receiver, Tcp(80, family=family))
