"""What nobody asked for does not come in, whoever sends it and whatever way it takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from nova_netagent.model import AllowedAddressPair, document, values
from nova_netagent.testing import make_group, make_instance, make_rule, make_vif
from tests.functional.agent.kernel import eventually, hindered
from tests.functional.agent.site import ETHERTYPES, Site
from tests.lab import Forged, Icmp, Ip, Namespace, Tcp, Udp, arrives, needs, ping, tcp, udp
from tests.lab.probes import IpProbe, new_token
from tests.lab.watch import watching

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

PROBES = [Tcp(22), Udp(53), Icmp(), Ip(47), Ip(112), Ip(200)]
FOR_ALL = ["10.1.0.255", "255.255.255.255", "224.0.0.1", "224.0.0.251", "ff02::1", "ff02::fb"]
ROUTER = "fe80::1"


def link_local(machine: Namespace) -> str:
    return values.link_local(machine.mac)


@pytest.fixture
def lonely(site: Site) -> Site:
    """No instance is in any group."""
    site.describe(make_instance(1), make_instance(2), make_instance(3, network=2))
    return site


# --- what is refused


@pytest.mark.parametrize("probe", PROBES, ids=repr)
def test_an_instance_without_groups_gets_nothing_in(lonely: Site, probe: IpProbe, family: int) -> None:
    for sender in (lonely.outside, lonely.vm2, lonely.vm3, lonely.host):
        assert lonely.stops(sender, lonely.vm1, replace(probe, family=family))
    assert lonely.passes(lonely.vm1, lonely.outside, replace(probe, family=family))


def test_a_group_without_rules_lets_nothing_in(site: Site, family: int) -> None:
    site.describe(make_group(1), make_instance(1, (1,)), make_instance(2, (1,)))
    for sender in (site.outside, site.vm2, site.host):
        assert site.stops(sender, site.vm1, Tcp(22, family=family))


@pytest.mark.parametrize("to", FOR_ALL)
def test_what_a_neighbour_sends_to_everybody_is_refused(lonely: Site, to: str) -> None:
    assert lonely.stops(lonely.vm2, lonely.vm1, Udp(5353, to=to))
    assert lonely.stops(lonely.vm2, lonely.vm1, Icmp(to=to, family=6 if ":" in to else 4))


@pytest.mark.parametrize("to", FOR_ALL)
def test_what_a_group_allows_comes_in_from_everybodys_address_too(site: Site, to: str) -> None:
    mdns = {"protocol": "udp", "port_range_min": 5353, "port_range_max": 5353}
    rule = make_rule(1, ethertype="IPv6" if ":" in to else "IPv4", **mdns)
    site.describe(make_group(1, rule), make_instance(1, (1,)), make_instance(2))
    assert site.passes(site.vm2, site.vm1, Udp(5353, to=to))
    assert site.stops(site.vm2, site.vm1, Udp(5354, to=to))


@pytest.mark.parametrize("to", FOR_ALL)
def test_a_frame_for_one_with_a_packet_for_everybody_is_refused(lonely: Site, to: str) -> None:
    """Dispatch by address alone would not see it."""
    assert lonely.stops(lonely.vm2, lonely.vm1, Forged(Udp(5353, to=to), via=lonely.vm1.mac))


def test_a_frame_for_everybody_with_a_packet_for_one_is_refused(lonely: Site, family: int) -> None:
    everybody = "ff:ff:ff:ff:ff:ff"
    assert lonely.stops(lonely.vm2, lonely.vm1, Forged(Udp(53, family=family), via=everybody))


def test_a_neighbour_that_has_its_packets_routed_gains_nothing(lonely: Site, family: int) -> None:
    routed = Forged(Tcp(22, family=family), via=lonely.gateway_mac(lonely.vm2))
    assert lonely.stops(lonely.vm2, lonely.vm1, routed)


def test_a_neighbours_packet_that_is_routed_meets_the_rules(site: Site, family: int) -> None:
    rule = make_rule(1, ethertype=ETHERTYPES[family], protocol="tcp", port_range_min=80, port_range_max=80)
    site.describe(make_group(1, rule), make_instance(1, (1,)), make_instance(2))
    via = site.gateway_mac(site.vm2)
    assert site.passes(site.vm2, site.vm1, Forged(Tcp(80, family=family), via=via))
    assert site.stops(site.vm2, site.vm1, Forged(Tcp(22, family=family), via=via))


def test_a_segment_from_the_middle_of_nowhere_is_refused(lonely: Site, family: int) -> None:
    for flags in ("A", "SA", "R", "FA", "PA"):
        state = "NEW" if flags in ("A", "PA", "FA") else "INVALID"
        assert lonely.stops(lonely.outside, lonely.vm1, Tcp(22, flags=flags, family=family), state=state)


def test_icmp_errors_about_nothing_are_refused(lonely: Site) -> None:
    assert lonely.stops(lonely.outside, lonely.vm1, Icmp(kind=3, code=3))
    assert lonely.stops(lonely.outside, lonely.vm1, Icmp(kind=1, code=4, family=6))


def test_echo_replies_that_nobody_asked_for_are_refused(lonely: Site) -> None:
    assert lonely.stops(lonely.outside, lonely.vm1, Icmp(kind=0))
    assert lonely.stops(lonely.outside, lonely.vm1, Icmp(kind=129, family=6))


# --- what is always heard


def test_replies_are_heard(lonely: Site, family: int) -> None:
    for other in (lonely.outside, lonely.host):
        assert tcp(lonely.vm1, other, 80, family=family)
        assert udp(lonely.vm1, other, 53, family=family)
        assert ping(lonely.vm1, other, family=family)


def test_an_answer_from_somebody_else_is_no_reply(lonely: Site, family: int) -> None:
    assert lonely.passes(lonely.vm1, lonely.outside, Udp(53, source_port=5000, family=family))
    assert lonely.stops(lonely.elsewhere, lonely.vm1, Udp(5000, source_port=53, family=family))
    assert lonely.stops(lonely.outside, lonely.vm1, Udp(5000, source_port=54, family=family))
    reply = Udp(5000, source_port=53, family=family)
    assert lonely.passes(lonely.outside, lonely.vm1, reply, state="ESTABLISHED")


def test_the_dhcp_server_is_heard(lonely: Site) -> None:
    assert lonely.passes(lonely.host, lonely.vm1, Udp(68, source_port=67))
    assert lonely.stops(lonely.host, lonely.vm1, Udp(68, source_port=66))
    assert lonely.stops(lonely.host, lonely.vm1, Udp(69, source_port=67))


def test_others_are_no_dhcp_server(lonely: Site) -> None:
    for other in (lonely.outside, lonely.vm2, lonely.vm3):
        assert lonely.stops(other, lonely.vm1, Udp(68, source_port=67))


def test_the_dhcpv6_server_is_heard(lonely: Site) -> None:
    answer = Udp(546, source_port=547, to=link_local(lonely.vm1), device="br1")
    assert lonely.passes(lonely.host, lonely.vm1, answer)
    assert lonely.stops(lonely.outside, lonely.vm1, Udp(546, source_port=547, family=6))


def test_a_router_advertisement_is_heard(lonely: Site) -> None:
    assert lonely.passes(lonely.host, lonely.vm1, Icmp(kind=134, to="ff02::1", device="br1"))


def test_neighbour_discovery_is_heard(lonely: Site) -> None:
    for kind in (135, 136):
        assert lonely.passes(lonely.vm2, lonely.vm1, Icmp(kind=kind, family=6))
    assert lonely.passes(lonely.vm2, lonely.vm1, Icmp(kind=135, to="ff02::1"))
    for kind in (128, 137, 138, 139):
        assert lonely.stops(lonely.vm2, lonely.vm1, Icmp(kind=kind, family=6))


def test_an_mld_query_is_heard_and_a_report_is_not(lonely: Site) -> None:
    assert lonely.passes(lonely.host, lonely.vm1, Icmp(kind=130, to="ff02::1", device="br1"))
    assert lonely.stops(lonely.vm2, lonely.vm1, Icmp(kind=131, to="ff02::1"))


def test_the_first_words_of_a_client_are_for_servers_only(lonely: Site) -> None:
    """A neighbour that is no server does not hear who asks for what address."""
    discover = Forged(Udp(67, source_port=68, to="255.255.255.255"), source="0.0.0.0")
    assert lonely.passes(lonely.vm1, lonely.host, discover)
    assert lonely.stops(lonely.vm1, lonely.vm2, discover)


# --- addresses beyond the fixed one


def test_the_addresses_of_a_pair_are_as_closed_as_the_own(site: Site) -> None:
    vif = make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address="10.1.0.100"),))
    rule = make_rule(1, protocol="tcp", port_range_min=80, port_range_max=80)
    site.vm1.links.add_address("eth0", "10.1.0.100/24")
    try:
        for groups, judged in (((), site.stops), ((1,), site.passes)):
            site.describe(make_group(1, rule), make_instance(1, groups, vifs=(vif,)), make_instance(2))
            for sender in (site.outside, site.vm2):
                assert judged(sender, site.vm1, Tcp(80, to="10.1.0.100"))
                assert site.stops(sender, site.vm1, Tcp(81, to="10.1.0.100"))
    finally:
        site.vm1.links.delete_address("eth0", "10.1.0.100/24")


def test_an_address_that_was_not_described_gets_nothing_from_a_neighbour(site: Site) -> None:
    site.vm1.links.add_address("eth0", "10.1.0.100/24")
    try:
        site.describe(make_instance(1), make_instance(2))
        assert site.stops(site.vm2, site.vm1, Tcp(80, to="10.1.0.100"))
    finally:
        site.vm1.links.delete_address("eth0", "10.1.0.100/24")


# --- what the host itself says


@pytest.mark.parametrize("to", FOR_ALL)
def test_what_the_host_sends_to_everybody_is_heard(lonely: Site, to: str) -> None:
    """filter OUTPUT sees no bridge ports: what is for all is judged for none. The host is trusted with that."""
    assert arrives(lonely.host, lonely.vm1, Udp(5353, to=to, device="br1"))


def test_what_the_host_sends_to_a_link_local_address_is_heard(lonely: Site) -> None:
    """Nobody describes it, and of all machines that are not on the bridge only the host can send to it."""
    assert arrives(lonely.host, lonely.vm1, Udp(53, to=link_local(lonely.vm1), device="br1"))


# --- what was sent before there was anybody to judge it for


@contextmanager
def nothing_early(site: Site, family: int) -> Iterator[None]:
    """What is sent to vm1's address while that is nobody's, and waits there for an answer, vm1 does not hear."""
    probe = site.addressed(site.outside, site.vm1, Udp(53, family=family))
    token = new_token()
    site.host.run(["ip", "neigh", "flush", "dev", "br1"])
    with watching(site.vm1, [probe], None) as watch:
        watch.expect(token)
        probe.prepare(site.outside, token)()
        eventually(lambda: "INCOMPLETE" in site.host.run(["ip", "neigh", "show", str(probe.to)]).stdout, 2)
        yield
        assert ping(site.vm1, site.outside, family=family)  # it is there, and heard
        assert watch.look(token) is None


def test_what_waited_for_an_instance_is_not_sent_to_it(site: Site, family: int) -> None:
    site.describe(make_instance(2))
    with nothing_early(site, family):
        site.put(make_instance(1))


def test_what_waited_for_an_address_is_not_sent_to_who_is_given_it(site: Site, family: int) -> None:
    other = ("10.1.0.9", "fd00:1::9")
    site.describe(make_instance(1, vifs=(make_vif(1, fixed_ips=other),)), make_instance(2))
    with nothing_early(site, family):
        site.put(make_instance(1))


def test_what_waited_for_an_instance_that_a_crash_delayed_is_not_sent_to_it(site: Site, family: int) -> None:
    """It was stored, and its rules come with the next start."""
    site.describe(make_instance(2))
    late = make_instance(1)
    with nothing_early(site, family):
        with hindered(site.host, site.backend):
            assert site.agent.request("PUT", f"/v1/instances/{late.id}?wait=false", document(late))[0] == 202
            site.agent.kill9()
        site.agent.start()
