"""Egress, free until a group has an egress rule (egress_default = allow, as in nova-network)."""

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from nova_netagent.model import SecurityGroup, SecurityGroupRule
from nova_netagent.testing import make_group, make_instance, make_network, make_rule
from tests.functional.agent.site import ETHERTYPES, Site
from tests.lab import (
    Forged,
    Gre,
    Icmp,
    Ip,
    Namespace,
    Sctp,
    Tcp,
    Udp,
    UdpLite,
    iptables_save,
    needs,
    ping,
    refused,
    tcp,
    udp,
)
from tests.lab.probes import IpProbe

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

MARK = "0x10000000/0x10000000"
OPEN = make_group(9, make_rule(91), make_rule(92, ethertype="IPv6"))
PEERS = (OPEN, make_instance(2, (9,)), make_instance(3, (9,), 2))


def out(family: int, number: int = 1, **fields: Any) -> SecurityGroupRule:
    return make_rule(number, ethertype=ETHERTYPES[family], direction="egress", **fields)


def web(family: int) -> SecurityGroup:
    """Whose members may only call web servers."""
    return make_group(1, out(family, protocol="tcp", port_range_min=80, port_range_max=80))


def addresses_of_the_host(family: int) -> tuple[str, str]:
    return ("10.1.0.1", "192.0.2.10") if family == 4 else ("fd00:1::1", "2001:db8:2::10")


# --- free


@pytest.mark.parametrize("probe", [Tcp(80), Udp(80), Icmp(), Sctp(80), Gre(), Ip(200)], ids=repr)
def test_without_egress_rules_everything_goes_out(site: Site, probe: IpProbe, family: int) -> None:
    site.describe(make_group(1, make_rule(1)), make_instance(1, (1,)), *PEERS)
    mine = replace(probe, family=family)
    for receiver in (site.outside, site.vm2, site.vm3, site.host):
        assert site.passes(site.vm1, receiver, mine)


def test_what_an_instance_may_send_another_may_still_refuse(site: Site, family: int) -> None:
    site.describe(make_instance(1), make_instance(2), make_instance(3, network=2))
    for receiver in (site.vm2, site.vm3):
        assert site.stops(site.vm1, receiver, Tcp(80, family=family))


# --- closed


def test_the_first_egress_rule_closes_the_rest(site: Site, family: int) -> None:
    site.describe(web(family), make_instance(1, (1,)), *PEERS)
    for receiver in (site.outside, site.vm2, site.vm3):
        assert site.passes(site.vm1, receiver, Tcp(80, family=family))
        assert site.stops(site.vm1, receiver, Tcp(81, family=family))
        assert site.stops(site.vm1, receiver, Udp(80, family=family))
        assert site.stops(site.vm1, receiver, Tcp(80, family=10 - family))


def test_the_host_is_a_receiver_like_any_other(site: Site, family: int) -> None:
    site.describe(web(family), make_instance(1, (1,)))
    for address in addresses_of_the_host(family):
        assert site.passes(site.vm1, site.host, Tcp(80, to=address))
        assert site.stops(site.vm1, site.host, Tcp(81, to=address))


def test_then_the_operators_input_rules_decide(site: Site, family: int) -> None:
    site.describe(web(family), make_instance(1, (1,)), make_instance(2))
    with site.closed_input():
        for address in addresses_of_the_host(family):
            assert site.stops(site.vm1, site.host, Tcp(80, to=address))
            assert site.stops(site.vm2, site.host, Tcp(80, to=address))


def test_broadcast_and_multicast_are_egress_too(site: Site) -> None:
    group = make_group(1, out(4, protocol="udp", port_range_min=5353, port_range_max=5353), out(6, 2, protocol="tcp"))
    site.describe(group, make_instance(1, (1,)), *PEERS)
    for to in ("10.1.0.255", "224.0.0.251"):
        assert site.passes(site.vm1, site.vm2, Udp(5353, to=to))
        assert site.stops(site.vm1, site.vm2, Udp(5354, to=to))
    assert site.stops(site.vm1, site.vm2, Udp(5353, to="ff02::fb"))


def test_a_neighbour_is_no_nearer_when_routed(site: Site, family: int) -> None:
    site.describe(web(family), make_instance(1, (1,)), *PEERS)
    via = site.gateway_mac(site.vm1)
    assert site.passes(site.vm1, site.vm2, Forged(Tcp(80, family=family), via=via))
    assert site.stops(site.vm1, site.vm2, Forged(Tcp(81, family=family), via=via))


@pytest.mark.parametrize(
    ("fields", "allowed", "refused"),
    [
        ({"protocol": "tcp", "port_range_min": 80, "port_range_max": 90}, [Tcp(80), Tcp(90)], [Tcp(79), Tcp(91)]),
        ({"protocol": "udp"}, [Udp(1)], [Tcp(1), Icmp()]),
        ({"protocol": "udp", "source_port_range_min": 500, "source_port_range_max": 500},
         [Udp(1, source_port=500)], [Udp(1, source_port=501)]),
        ({"protocol": "icmp"}, [Icmp()], [Udp(1)]),
        ({"protocol": "sctp", "port_range_min": 5, "port_range_max": 5}, [Sctp(5)], [Sctp(6)]),
        ({"protocol": "udplite", "port_range_min": 5, "port_range_max": 5}, [UdpLite(5)], [UdpLite(6)]),
        ({"protocol": "gre"}, [Gre()], [Ip(112)]),
        ({"protocol": 112}, [Ip(112)], [Gre()]),
        ({}, [Tcp(1), Udp(1), Ip(200)], []),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_egress_rules_can_name(
    site: Site, fields: dict[str, Any], allowed: list[IpProbe], refused: list[IpProbe], family: int
) -> None:
    site.describe(make_group(1, out(family, **fields)), make_instance(1, (1,)), *PEERS)
    for probes, judged in ((allowed, site.passes), (refused, site.stops)):
        for probe in probes:
            mine = replace(probe, family=family)
            for receiver in (site.outside, site.vm2):
                assert judged(site.vm1, receiver, mine)


@pytest.mark.parametrize(("family", "kinds"), [(4, (8, 13)), (6, (128, 139))])
def test_a_type_and_a_code_of_icmp(site: Site, family: int, kinds: tuple[int, int]) -> None:
    rule = out(family, protocol="icmp", port_range_min=kinds[0], port_range_max=1)
    site.describe(make_group(1, rule), make_instance(1, (1,)))
    assert site.passes(site.vm1, site.outside, Icmp(kind=kinds[0], code=1, family=family))
    assert site.stops(site.vm1, site.outside, Icmp(kind=kinds[0], code=0, family=family))
    assert site.stops(site.vm1, site.outside, Icmp(kind=kinds[1], code=1, family=family))


def test_a_prefix(site: Site, family: int) -> None:
    prefix = "192.0.2.0/28" if family == 4 else "2001:db8:2::/123"
    site.describe(make_group(1, out(family, remote_ip_prefix=prefix)), make_instance(1, (1,)), *PEERS)
    assert site.passes(site.vm1, site.outside, Tcp(80, family=family))
    for other in (site.elsewhere, site.vm2, site.vm3):
        assert site.stops(site.vm1, other, Tcp(80, family=family))


def test_several_groups_allow_what_each_of_them_allows(site: Site, family: int) -> None:
    others = make_group(2, out(family, protocol="udp", port_range_min=53, port_range_max=53))
    site.describe(web(family), others, make_instance(1, (1, 2)))
    assert site.passes(site.vm1, site.outside, Tcp(80, family=family))
    assert site.passes(site.vm1, site.outside, Udp(53, family=family))
    assert site.stops(site.vm1, site.outside, Tcp(53, family=family))


def test_one_egress_rule_of_one_group_is_enough_to_close(site: Site, family: int) -> None:
    site.describe(web(family), make_group(2, make_rule(5)), make_instance(1, (2, 1)))
    assert site.stops(site.vm1, site.outside, Udp(80, family=family))
    assert site.passes(site.vm1, site.outside, Tcp(80, family=family))


def test_members_of_other_groups_stay_free(site: Site, family: int) -> None:
    site.describe(web(family), make_instance(1, (1,)), make_instance(2), make_instance(3, network=2))
    for free in (site.vm2, site.vm3):
        assert site.passes(free, site.outside, Udp(80, family=family))
    assert site.stops(site.vm1, site.outside, Udp(80, family=family))


def test_a_group_that_is_not_known_yet_may_have_egress_rules(site: Site, family: int) -> None:
    site.describe(make_instance(1, (1,)))
    assert site.stops(site.vm1, site.outside, Tcp(80, family=family))
    site.put(make_group(1))
    assert site.passes(site.vm1, site.outside, Tcp(80, family=family))
    site.put(web(family))
    assert site.stops(site.vm1, site.outside, Tcp(81, family=family))
    site.put(make_group(1))
    assert site.passes(site.vm1, site.outside, Tcp(81, family=family))


def test_both_ends_must_agree(site: Site, family: int) -> None:
    rule = make_rule(1, ethertype=ETHERTYPES[family], protocol="tcp", port_range_min=81, port_range_max=81)
    listens = make_group(2, rule)
    site.describe(web(family), listens, make_instance(1, (1,)), make_instance(2, (2,)), make_instance(3, (2,), 2))
    for receiver in (site.vm2, site.vm3):
        assert site.stops(site.vm1, receiver, Tcp(80, family=family))
        assert site.stops(site.vm1, receiver, Tcp(81, family=family))
    assert site.passes(site.vm3, site.vm2, Tcp(81, family=family))


def test_conversations(site: Site, family: int) -> None:
    site.describe(web(family), make_instance(1, (1,)), *PEERS)
    for receiver in (site.outside, site.vm2, site.vm3, site.host):
        assert tcp(site.vm1, receiver, 80, family=family)
        assert not udp(site.vm1, receiver, 80, family=family, timeout=0.03)
        assert not ping(site.vm1, receiver, family=family, timeout=0.03)


# --- always allowed


@contextmanager
def hearing(machine: Namespace, group: str, device: str) -> Iterator[None]:
    """Have a machine be of a multicast group, as a DHCPv6 server is."""
    with machine.socket(socket.AF_INET6, socket.SOCK_DGRAM) as member:
        request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=I", machine.links.index(device))
        member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        yield


@pytest.fixture
def closed(site: Site) -> Site:
    """What instance 1 may send is nothing but protocol 200."""
    network = make_network(1, dns1="192.0.2.1", dns2="2001:db8:2::1")
    group = make_group(1, out(4, protocol=200), out(6, 2, protocol=200))
    site.describe(network, make_network(2), group, make_instance(1, (1,)), *PEERS)
    return site


def test_dhcp_is_always_allowed(closed: Site) -> None:
    discover = Forged(Udp(67, source_port=68, to="255.255.255.255"), source="0.0.0.0")
    with closed.closed_input():
        assert closed.passes(closed.vm1, closed.host, discover)
        assert closed.passes(closed.vm1, closed.host, Udp(67, source_port=68, to="10.1.0.1"))
        with hearing(closed.host, "ff02::1:2", "br1"):
            assert closed.passes(closed.vm1, closed.host, Udp(547, source_port=546, to="ff02::1:2"))
        assert closed.stops(closed.vm1, closed.host, Udp(67, source_port=69, to="10.1.0.1"))


def test_the_networks_dns_is_always_allowed(closed: Site, family: int) -> None:
    bridge = addresses_of_the_host(family)[0]
    with closed.closed_input():
        for kind in (Tcp, Udp):
            assert closed.passes(closed.vm1, closed.host, kind(53, to=bridge))
            assert closed.stops(closed.vm1, closed.host, kind(54, to=bridge))
    for kind in (Tcp, Udp):
        assert closed.passes(closed.vm1, closed.outside, kind(53, family=family))
        assert closed.stops(closed.vm1, closed.elsewhere, kind(53, family=family))


def test_the_metadata_service_is_always_allowed(closed: Site) -> None:
    with closed.closed_input():
        assert tcp(closed.vm1, "169.254.169.254", 80, server=closed.host, server_port=8775)
        assert not tcp(closed.vm1, "169.254.169.254", 81, server=closed.host, timeout=0.03)
        assert not tcp(closed.vm1, closed.host, 8775, timeout=0.03)


def test_neighbour_discovery_is_always_allowed(closed: Site) -> None:
    for kind in (133, 135, 136):
        assert closed.passes(closed.vm1, closed.host, Icmp(kind=kind, to="ff02::1"))
    for kind in (135, 136):
        assert closed.passes(closed.vm1, closed.vm2, Icmp(kind=kind, family=6))
        assert closed.passes(closed.vm1, closed.vm2, Icmp(kind=kind, to="ff02::1"))
    assert closed.stops(closed.vm1, closed.vm2, Icmp(kind=128, family=6))


# --- what an operator sees


def packets(site: Site, table: str, name: str, family: int) -> int:
    """How many packets a foreign rule with that comment has counted."""
    saved = iptables_save(site.host, counters=True, family=family, table=table)  # type: ignore[arg-type]
    found = re.search(rf"^\[(\d+):\d+\] .*--comment {name}(?: |$)", saved, re.MULTILINE)
    assert found is not None
    return int(found[1])


def calls(family: int) -> SecurityGroup:
    """Whose members may only send to UDP port 5."""
    return make_group(1, out(family, protocol="udp", port_range_min=5, port_range_max=5))


def test_an_operators_own_rules_still_see_the_packets(site: Site, family: int) -> None:
    site.describe(calls(family), make_instance(1, (1,)))
    with site.foreign(*(f"-t mangle -A PREROUTING -p udp --dport {n} -m comment --comment to{n}" for n in (5, 6))):
        assert site.passes(site.vm1, site.outside, Udp(5, family=family))
        assert site.stops(site.vm1, site.outside, Udp(6, family=family))
        assert [packets(site, "mangle", f"to{n}", family) for n in (5, 6)] == [1, 0]


def test_an_operators_own_rules_still_decide(site: Site, family: int) -> None:
    site.describe(calls(family), make_instance(1, (1,)))
    with site.foreign("-t mangle -A PREROUTING -p udp --dport 5 -j DROP"):
        assert refused(site.vm1, site.outside, Udp(5, family=family))
    assert site.passes(site.vm1, site.outside, Udp(5, family=family))


def test_an_operators_mark_arrives_where_it_is_used(site: Site, family: int) -> None:
    site.describe(calls(family), make_instance(1, (1,)))
    mark = "-t mangle -A PREROUTING -p udp -j MARK --set-mark 0x5"
    marked = "-t mangle -A POSTROUTING -p udp -m mark --mark 0x5 -m comment --comment marked"
    with site.foreign(mark, marked):
        assert site.passes(site.vm1, site.outside, Udp(5, family=family))
        assert packets(site, "mangle", "marked", family) == 1


def test_our_mark_is_not_left_on_packets(site: Site, family: int) -> None:
    dns = make_network(1, dns1="192.0.2.1", dns2="2001:db8:2::1")
    site.describe(dns, make_network(2), web(family), make_instance(1, (1,)), *PEERS)
    places = (("mangle", "PREROUTING"), ("mangle", "POSTROUTING"), ("filter", "INPUT"))
    rules = [
        f"-t {table} -A {chain} {match}-m comment --comment {name}{chain}"
        for table, chain in places
        for name, match in (("seen", "-p tcp "), ("marked", f"-m mark --mark {MARK} "))
    ]
    # Behind our own rules in FORWARD nothing comes by: they accept what bridges send.
    with site.foreign(*rules, "-t mangle -A FORWARD -m mark --mark 0x10000000/0x10000000 -m comment --comment marked"):
        for receiver in (site.outside, site.vm2, site.vm3, site.host):
            assert tcp(site.vm1, receiver, 80, family=family)
        assert udp(site.vm1, site.outside, 53, family=family)
        for table, chain in places:
            assert packets(site, table, f"seen{chain}", family) > 0
            assert packets(site, table, f"marked{chain}", family) == 0
        assert packets(site, "mangle", "marked", family) == 0


def test_our_mark_is_not_left_in_filter_forward(site: Site, family: int) -> None:
    site.describe(web(family), make_instance(1, (1,)), *PEERS)
    first = f"-t filter -I FORWARD -m mark --mark {MARK} -m comment --comment marked"
    with site.foreign(first):
        for receiver in (site.outside, site.vm2, site.vm3):
            assert site.passes(site.vm1, receiver, Tcp(80, family=family))
        assert packets(site, "filter", "marked", family) == 0


def test_a_mark_from_elsewhere_allows_nothing(site: Site, family: int) -> None:
    """Whoever set the bit before us: it is judged anew."""
    site.describe(web(family), make_instance(1, (1,)))
    with site.foreign("-t raw -A PREROUTING -j MARK --set-mark 0x10000000"):
        assert site.stops(site.vm1, site.outside, Tcp(81, family=family))
        assert site.passes(site.vm1, site.outside, Tcp(80, family=family))


def test_an_operators_other_bits_survive(site: Site, family: int) -> None:
    site.describe(calls(family), make_instance(1, (1,)))
    mark = "-t raw -A PREROUTING -j MARK --set-mark 0x11"
    marked = "-t mangle -A POSTROUTING -p udp -m mark --mark 0x11 -m comment --comment marked"
    with site.foreign(mark, marked):
        assert site.passes(site.vm1, site.outside, Udp(5, family=family))
        assert packets(site, "mangle", "marked", family) == 1
