"""Stateful groups judge a flow once, stateless ones each packet; replies and ICMP errors go with their flow."""

import socket

import pytest

from nova_netagent.model import SecurityGroup
from nova_netagent.testing import make_group, make_instance, make_rule
from tests.functional.agent.site import ETHERTYPES, Site
from tests.lab import Gre, Icmp, Namespace, Udp, UdpLite, connect, needs, ping, tcp, udp
from tests.lab.clients import ADDRESS_FAMILIES

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

UDP_LITE = 136


def asks_and_is_refused_by_icmp(sender: Namespace, receiver: Namespace, family: int) -> bool:
    """Write to a closed UDP port: whether the receiver's "port unreachable" comes back."""
    with sender.socket(ADDRESS_FAMILIES[family], socket.SOCK_DGRAM) as client:
        client.settimeout(0.3)
        client.connect((receiver.ip(family), 9))
        client.send(b"anybody there?")
        try:
            client.recv(100)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
    return False


def group_of(family: int, *directions: str, stateful: bool = True, number: int = 1) -> SecurityGroup:
    """A group of rules for UDP port 53, one in each of these directions, and with an egress rule in any case."""
    rules = [
        make_rule(
            n, ethertype=ETHERTYPES[family], protocol="udp", port_range_min=53, port_range_max=53, direction=direction
        )
        for n, direction in enumerate(directions)
    ]
    closing = make_rule(99, direction="egress", protocol=200)
    return make_group(number, *rules, closing, stateful=stateful)


# --- stateful: replies


def test_replies_to_what_was_let_in_go_out(site: Site, family: int) -> None:
    """Though nothing else may."""
    site.describe(group_of(family, "ingress"), make_instance(1, (1,)), make_instance(2))
    for other in (site.outside, site.vm2):
        assert udp(other, site.vm1, 53, family=family)
        assert site.stops(site.vm1, other, Udp(53, family=family))


def test_replies_to_what_was_let_out_come_in(site: Site, family: int) -> None:
    site.describe(group_of(family, "egress"), make_instance(1, (1,)))
    assert udp(site.vm1, site.outside, 53, family=family)
    assert site.stops(site.outside, site.vm1, Udp(53, family=family))


def test_a_connection_lives_both_ways(site: Site, family: int) -> None:
    rule = make_rule(1, ethertype=ETHERTYPES[family], protocol="tcp", port_range_min=22, port_range_max=22)
    site.describe(make_group(1, rule, make_rule(99, direction="egress", protocol=200)), make_instance(1, (1,)))
    with connect(site.outside, site.vm1, 22, family=family) as connection:
        assert connection.alive()


def test_pings_are_answered(site: Site, family: int) -> None:
    rule = make_rule(1, ethertype=ETHERTYPES[family], protocol="icmp")
    site.describe(
        make_group(1, rule, make_rule(99, direction="egress", protocol=200)), make_instance(1, (1,)), make_instance(2)
    )
    for other in (site.outside, site.vm2, site.host):
        assert ping(other, site.vm1, family=family)
        assert not ping(site.vm1, other, family=family, timeout=0.05)


def test_flows_without_ports_have_replies_too(site: Site, family: int) -> None:
    site.describe(make_instance(1))
    assert site.stops(site.outside, site.vm1, Gre(family=family))
    assert site.passes(site.vm1, site.outside, Gre(family=family))
    assert site.passes(site.outside, site.vm1, Gre(family=family), state="ESTABLISHED")


# --- stateful: ICMP errors


def test_errors_about_what_an_instance_sent_come_in(site: Site, family: int) -> None:
    site.describe(make_instance(1), make_instance(2, (1,)), make_group(1, make_rule(1, ethertype=ETHERTYPES[family])))
    for other in (site.outside, site.vm2, site.host):
        assert asks_and_is_refused_by_icmp(site.vm1, other, family)


def test_errors_about_what_was_let_in_go_out(site: Site, family: int) -> None:
    rule = make_rule(1, ethertype=ETHERTYPES[family], protocol="udp")
    site.describe(
        make_group(1, rule, make_rule(99, direction="egress", protocol=200)), make_instance(1, (1,)), make_instance(2)
    )
    for other in (site.outside, site.vm2, site.host):
        assert asks_and_is_refused_by_icmp(other, site.vm1, family)


def test_errors_about_what_was_refused_do_not_exist(site: Site, family: int) -> None:
    site.describe(make_instance(1))
    assert not asks_and_is_refused_by_icmp(site.outside, site.vm1, family)


# --- stateless


def test_a_stateless_group_lets_in_what_it_names(site: Site, family: int) -> None:
    site.describe(group_of(family, "ingress", stateful=False), make_instance(1, (1,)), make_instance(2))
    for other in (site.outside, site.vm2):
        assert site.passes(other, site.vm1, Udp(53, family=family))
        assert site.stops(other, site.vm1, Udp(54, family=family))


def test_a_stateless_group_knows_no_replies_in(site: Site, family: int) -> None:
    site.describe(group_of(family, "egress", stateful=False), make_instance(1, (1,)))
    assert site.passes(site.vm1, site.outside, Udp(53, source_port=5000, family=family))
    reply = Udp(5000, source_port=53, family=family)
    assert site.stops(site.outside, site.vm1, reply, state="ESTABLISHED")


def test_a_stateless_group_knows_no_replies_out(site: Site, family: int) -> None:
    site.describe(group_of(family, "ingress", stateful=False), make_instance(1, (1,)))
    assert site.passes(site.outside, site.vm1, Udp(53, source_port=5000, family=family))
    reply = Udp(5000, source_port=53, family=family)
    assert site.stops(site.vm1, site.outside, reply, state="ESTABLISHED")


def test_rules_for_both_ways_make_a_stateless_conversation(site: Site, family: int) -> None:
    ethertype = ETHERTYPES[family]
    asked = make_rule(1, ethertype=ethertype, protocol="udp", port_range_min=53, port_range_max=53)
    answered = make_rule(
        2,
        ethertype=ethertype,
        protocol="udp",
        source_port_range_min=53,
        source_port_range_max=53,
        direction="egress",
    )
    site.describe(make_group(1, asked, answered, stateful=False), make_instance(1, (1,)), make_instance(2))
    for other in (site.outside, site.vm2):
        assert udp(other, site.vm1, 53, family=family)
        assert not tcp(other, site.vm1, 53, family=family, timeout=0.05)


def test_a_stateless_group_lets_in_what_is_no_flow(site: Site) -> None:
    """An echo reply that nobody asked for: a stateful group would find it invalid."""
    rule = make_rule(1, protocol="icmp", port_range_min=0)
    for stateful in (True, False):
        site.describe(make_group(1, rule, stateful=stateful), make_instance(1, (1,)))
        judged = site.stops if stateful else site.passes
        assert judged(site.outside, site.vm1, Icmp(kind=0))


def test_dhcp_and_discovery_need_no_state(site: Site) -> None:
    site.describe(make_group(1, stateful=False), make_instance(1, (1,)))
    assert site.passes(site.host, site.vm1, Udp(68, source_port=67))
    assert site.passes(site.host, site.vm1, Icmp(kind=134, to="ff02::1", device="br1"))
    assert site.passes(site.host, site.vm1, Icmp(kind=135, family=6))


def test_one_stateful_group_makes_the_instance_stateful(site: Site, family: int) -> None:
    stateless = group_of(family, "egress", stateful=False)
    site.describe(stateless, make_group(2), make_instance(1, (1, 2)))
    assert udp(site.vm1, site.outside, 53, family=family)
    site.put(make_instance(1, (1,)))
    assert not udp(site.vm1, site.outside, 53, family=family, timeout=0.05)


def test_a_group_that_becomes_stateless(site: Site, family: int) -> None:
    site.describe(group_of(family, "ingress"), make_instance(1, (1,)))
    assert udp(site.outside, site.vm1, 53, family=family)
    site.put(group_of(family, "ingress", stateful=False))
    assert not udp(site.outside, site.vm1, 53, family=family, timeout=0.05)
    site.put(group_of(family, "ingress"))
    assert udp(site.outside, site.vm1, 53, family=family)


@pytest.mark.parametrize("stateful", [True, False])
def test_udplite_has_no_valid_state_and_passes_all_the_same(site: Site, stateful: bool, family: int) -> None:
    """Connection tracking finds each of its datagrams invalid (kernel 6.18, nf_conntrack_checksum = 1)."""
    rule = make_rule(1, ethertype=ETHERTYPES[family], protocol=UDP_LITE)
    site.describe(make_group(1, rule, stateful=stateful), make_instance(1, (1,)), make_instance(2))
    for other in (site.outside, site.vm2):
        assert site.passes(other, site.vm1, UdpLite(5, family=family))
        assert site.stops(other, site.vm1, Udp(5, family=family))
