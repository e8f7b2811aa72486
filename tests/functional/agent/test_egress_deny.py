"""Egress as in neutron (egress_default = deny): only what a group's egress rules allow."""

import pytest

from nova_netagent.testing import make_group, make_instance, make_network, make_rule, make_vif
from tests.functional.agent.site import ETHERTYPES, Site
from tests.lab import Forged, Icmp, Tcp, Udp, needs, ping, tcp, udp

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

CONFIG = {"firewall": {"egress_default": "deny"}}
OPEN = make_group(9, make_rule(91), make_rule(92, ethertype="IPv6"))
PEERS = (OPEN, make_instance(2, (9,)), make_instance(3, (9,), 2))


@pytest.mark.parametrize("groups", [(), (1,)], ids=["no group", "a group without egress rules"])
def test_without_egress_rules_nothing_goes_out(site: Site, groups: tuple[int, ...], family: int) -> None:
    site.describe(make_group(1, make_rule(1)), make_instance(1, groups), *PEERS)
    for receiver in (site.outside, site.vm2, site.vm3, site.host):
        assert site.stops(site.vm1, receiver, Tcp(80, family=family))
        assert site.stops(site.vm1, receiver, Icmp(family=family))


def test_an_egress_rule_lets_out_what_it_names(site: Site, family: int) -> None:
    rule = make_rule(1, ethertype=ETHERTYPES[family], direction="egress", protocol="tcp")
    site.describe(make_group(1, rule), make_instance(1, (1,)), *PEERS)
    for receiver in (site.outside, site.vm2, site.vm3, site.host):
        assert site.passes(site.vm1, receiver, Tcp(80, family=family))
        assert site.stops(site.vm1, receiver, Udp(80, family=family))


def test_neutrons_default_group_lets_everything_out(site: Site, family: int) -> None:
    """Its two egress rules name any protocol and anywhere."""
    default = make_group(1, make_rule(1, direction="egress"), make_rule(2, direction="egress", ethertype="IPv6"))
    site.describe(default, make_instance(1, (1,)), *PEERS)
    for receiver in (site.outside, site.vm2, site.host):
        assert tcp(site.vm1, receiver, 80, family=family)
        assert ping(site.vm1, receiver, family=family)


def test_an_open_rule_of_one_family_does_not_open_the_other(site: Site, family: int) -> None:
    rule = make_rule(1, ethertype=ETHERTYPES[family], direction="egress")
    site.describe(make_group(1, rule), make_instance(1, (1,)))
    assert site.passes(site.vm1, site.outside, Tcp(80, family=family))
    assert site.stops(site.vm1, site.outside, Tcp(80, family=10 - family))


def test_replies_go_out(site: Site, family: int) -> None:
    rule = make_rule(1, ethertype=ETHERTYPES[family])
    site.describe(make_group(1, rule), make_instance(1, (1,)))
    for caller in (site.outside, site.host):
        assert tcp(caller, site.vm1, 80, family=family)
        assert udp(caller, site.vm1, 53, family=family)
        assert ping(caller, site.vm1, family=family)


def test_what_brings_an_instance_to_life_is_allowed(site: Site) -> None:
    site.describe(make_network(1, dns1="192.0.2.1"), make_network(2), make_instance(1), make_instance(2))
    discover = Forged(Udp(67, source_port=68, to="255.255.255.255"), source="0.0.0.0")
    assert site.passes(site.vm1, site.host, discover)
    assert site.passes(site.vm1, site.host, Udp(53, to="fd00:1::1"))
    assert udp(site.vm1, site.outside, 53)
    assert tcp(site.vm1, "169.254.169.254", 80, server=site.host, server_port=8775)
    assert site.passes(site.vm1, site.vm2, Icmp(kind=135, to="ff02::1"))
    assert not udp(site.vm1, site.elsewhere, 53, timeout=0.03)


def test_a_vif_without_port_security_is_free(site: Site, family: int) -> None:
    free = make_instance(1, vifs=(make_vif(1, port_security_enabled=False),))
    site.describe(free, make_instance(2))
    assert site.passes(site.vm1, site.outside, Tcp(80, family=family))
    assert site.stops(site.vm2, site.outside, Tcp(80, family=family))


def test_each_vif_is_judged_by_its_own_groups(site: Site, family: int) -> None:
    lets_out = make_group(1, make_rule(1, ethertype=ETHERTYPES[family], direction="egress"))
    both = make_instance(1, (1,), vifs=(make_vif(1), make_vif(3, 2, security_groups=())))
    site.describe(lets_out, both)
    assert site.passes(site.vm1, site.outside, Tcp(80, family=family))
    assert site.stops(site.vm3, site.outside, Tcp(80, family=family))
