"""allow_same_net_traffic: whoever is on the vif's own network is let in, the host there included."""

from nova_netagent.model import values
from nova_netagent.testing import make_group, make_instance, make_network, make_provider_rule, make_rule, make_vif
from tests.functional.agent.site import ETHERTYPES, Site
from tests.lab import Forged, Icmp, Sctp, Tcp, Udp, needs, tcp, udp

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

CONFIG = {"network": {"allow_same_net_traffic": True}}


def test_neighbours_are_let_in(site: Site, family: int) -> None:
    site.describe(make_instance(1), make_instance(2))
    assert site.passes(site.vm2, site.vm1, Tcp(22, family=family))
    assert site.passes(site.vm2, site.vm1, Sctp(22, family=family))
    assert tcp(site.vm2, site.vm1, 22, family=family)
    assert udp(site.vm2, site.vm1, 22, family=family)


def test_others_are_not(site: Site, family: int) -> None:
    site.describe(make_instance(1), make_instance(3, network=2))
    for stranger in (site.outside, site.vm3):
        assert site.stops(stranger, site.vm1, Tcp(22, family=family))


def test_the_host_is_let_in_by_its_address_there(site: Site, family: int) -> None:
    site.describe(make_instance(1))
    assert site.passes(site.host, site.vm1, Tcp(22, family=family))


def test_the_host_is_not_let_in_by_another_address(site: Site) -> None:
    """Traffic that only passes the host has its own source, and this is what counts."""
    site.describe(make_instance(1))
    assert site.stops(site.outside, site.vm1, Tcp(22))


def test_what_neighbours_send_to_everybody_is_let_in(site: Site) -> None:
    site.describe(make_instance(1), make_instance(2))
    for to in ("10.1.0.255", "224.0.0.251", "ff02::fb"):
        assert site.passes(site.vm2, site.vm1, Udp(5353, to=to))


def test_a_neighbours_link_local_address_counts(site: Site) -> None:
    site.describe(make_instance(1), make_instance(2))
    assert site.passes(site.vm2, site.vm1, Udp(53, to=values.link_local(site.vm1.mac)))


def test_a_neighbours_packet_that_is_routed_is_let_in(site: Site, family: int) -> None:
    site.describe(make_instance(1), make_instance(2))
    assert site.passes(site.vm2, site.vm1, Forged(Tcp(22, family=family), via=site.gateway_mac(site.vm2)))


def test_a_neighbour_that_lies_is_not(site: Site, family: int) -> None:
    site.describe(make_instance(1), make_instance(3, network=2))
    lie = "10.1.0.9" if family == 4 else "fd00:1::9"
    assert site.stops(site.vm3, site.vm1, Forged(Tcp(22, family=family), source=lie))


def test_each_vif_has_its_own_network(site: Site, family: int) -> None:
    both = make_instance(1, vifs=(make_vif(1), make_vif(3, 2)))
    site.describe(both, make_instance(2))
    assert site.passes(site.vm2, site.vm1, Tcp(22, family=family))
    assert site.stops(site.vm2, site.vm3, Tcp(22, family=family))


def test_the_provider_goes_before(site: Site, family: int) -> None:
    prefix = "10.1.0.3" if family == 4 else "fd00:1::3"
    site.describe(make_provider_rule(1, remote_ip_prefix=prefix, protocol="tcp"), make_instance(1), make_instance(2))
    assert site.stops(site.vm2, site.vm1, Tcp(22, family=family))
    assert site.passes(site.vm2, site.vm1, Udp(22, family=family))


def test_it_lets_nobody_be_a_server(site: Site) -> None:
    site.describe(make_instance(1), make_instance(2))
    assert site.stops(site.vm2, site.vm1, Udp(68, source_port=67))
    assert site.stops(site.vm2, site.vm1, Icmp(kind=134, to="ff02::1"))


def test_a_network_of_one_family_opens_nothing_of_the_other(site: Site, family: int) -> None:
    """A network without IPv6 has no neighbours there."""
    only_4 = make_network(1, cidr_v6=None, gateway_v6=None)
    vif = make_vif(1, fixed_ips=("10.1.0.2",))
    other = make_vif(2, fixed_ips=("10.1.0.3", "fd00:1::3"))
    site.describe(only_4, make_instance(1, vifs=(vif,)), make_instance(2, vifs=(other,)))
    judged = site.passes if family == 4 else site.stops
    assert judged(site.vm2, site.vm1, Tcp(22, family=family))


def test_groups_still_open_for_others(site: Site, family: int) -> None:
    rule = make_rule(1, ethertype=ETHERTYPES[family], protocol="tcp", port_range_min=80, port_range_max=80)
    site.describe(make_group(1, rule), make_instance(1, (1,)), make_instance(2))
    assert site.passes(site.outside, site.vm1, Tcp(80, family=family))
    assert site.stops(site.outside, site.vm1, Tcp(22, family=family))
