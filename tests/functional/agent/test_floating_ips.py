"""A floating IP leads to its instance from everywhere, and is its face outside."""

import pytest

from nova_netagent.model import AllowedAddressPair, FloatingIP, document
from nova_netagent.testing import (
    group_id,
    instance_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_rule,
    make_vif,
)
from tests.functional.agent.conftest import SiteMaker
from tests.functional.agent.site import Site
from tests.lab import Answer, Icmp, Namespace, Tcp, Udp, UdpLite, arrives, needs, ping, tcp, udp

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

CONFIG = {"network": {"fixed_range": "10.0.0.0/8"}}
HOST, FIRST, SECOND = "192.0.2.10", "198.51.100.1", "198.51.100.2"
WEB = make_group(
    1,
    make_rule(1, protocol="tcp", port_range_min=80, port_range_max=80),
    make_rule(2, protocol="icmp"),
    make_rule(3, protocol="udp", port_range_min=53, port_range_max=54),
)
INSTANCES = (WEB, make_instance(1, (1,)), make_instance(2, (1,)), make_instance(3, (1,), 2))


def calls(caller: Namespace, address: str, server: Namespace, port: int = 80) -> Answer:
    return tcp(caller, address, port, server=server, timeout=0.2)


def seen_from(answer: Answer) -> str:
    assert answer
    assert answer.seen_as is not None
    return answer.seen_as[0]


def source_seen(site: Site, sender: Namespace, receiver: Namespace, to: str | None = None) -> str | None:
    seen = site.passes(sender, receiver, Udp(53, to=to))
    assert seen is not None
    return seen.source


@pytest.fixture
def floating(site: Site) -> Site:
    """Instance 1 has the first floating IP."""
    site.describe(*INSTANCES, make_floating_ip(1))
    return site


# --- in


@pytest.mark.parametrize("pair", ["10.1.0.100", "10.1.0.96/28"])
def test_the_host_is_judged_by_the_groups_when_it_calls_one_of_an_allowed_pair(site: Site, pair: str) -> None:
    vif = make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address=pair),))
    site.vm1.links.add_address("eth0", "10.1.0.100/24")
    try:
        site.describe(WEB, make_instance(1, (1,), vifs=(vif,)), make_floating_ip(1, fixed_ip_address="10.1.0.100"))
        assert calls(site.host, FIRST, site.vm1)
        assert not calls(site.host, FIRST, site.vm1, 81)
    finally:
        site.vm1.links.delete_address("eth0", "10.1.0.100/24")


def test_from_outside(floating: Site) -> None:
    assert seen_from(calls(floating.outside, FIRST, floating.vm1)) == floating.outside.ip4
    assert udp(floating.outside, FIRST, 53, server=floating.vm1)
    assert ping(floating.outside, FIRST)
    seen = floating.passes(floating.outside, floating.vm1, Tcp(80, to=FIRST))
    assert seen is not None
    assert seen.destination == floating.vm1.ip4


def test_its_groups_decide(floating: Site) -> None:
    for sender in (floating.outside, floating.vm2, floating.vm3, floating.host):
        assert floating.passes(sender, floating.vm1, Tcp(80, to=FIRST))
        assert floating.stops(sender, floating.vm1, Tcp(81, to=FIRST))


def test_nobody_else_gets_it(floating: Site) -> None:
    for other in (floating.vm2, floating.vm3, floating.host):
        assert floating.stops(floating.outside, other, Tcp(80, to=FIRST))


def test_from_another_instance_on_the_same_network(floating: Site) -> None:
    assert seen_from(calls(floating.vm2, FIRST, floating.vm1)) == floating.vm2.ip4


def test_from_another_instance_on_another_network(floating: Site) -> None:
    assert seen_from(calls(floating.vm3, FIRST, floating.vm1)) == floating.vm3.ip4


def test_from_an_instance_that_has_one_itself(floating: Site) -> None:
    """It is known by its own (nova, bug 1178745), unless it calls the fixed IP."""
    floating.put(make_floating_ip(2, instance=2), make_floating_ip(3, instance=3, network=2))
    assert seen_from(calls(floating.vm2, FIRST, floating.vm1)) == SECOND
    assert seen_from(calls(floating.vm3, FIRST, floating.vm1)) == "198.51.100.3"
    assert seen_from(calls(floating.vm2, floating.vm1.ip4, floating.vm1)) == floating.vm2.ip4


def test_from_the_instance_itself(floating: Site) -> None:
    """It does not see itself as the caller: it would answer itself."""
    assert seen_from(calls(floating.vm1, FIRST, floating.vm1)) == FIRST


def test_from_the_host(floating: Site) -> None:
    assert calls(floating.host, FIRST, floating.vm1)
    assert ping(floating.host, FIRST)
    floating.put(make_group(9, make_rule(9, protocol="udplite")), make_instance(1, (9,)))
    assert floating.passes(floating.host, floating.vm1, UdpLite(80, to=FIRST))


def test_through_the_remote_group_of_fixed_ips(site: Site) -> None:
    """A member is its fixed IP, whichever address it called."""
    members_only = make_group(2, make_rule(1, protocol="tcp", remote_group_id=group_id(3)))
    site.describe(
        members_only,
        make_group(3),
        make_instance(1, (2,)),
        make_instance(2, (3,)),
        make_instance(3, network=2),
        make_floating_ip(1),
        make_floating_ip(2, instance=2),
    )
    assert site.passes(site.vm2, site.vm1, Tcp(80, to=FIRST))
    assert site.stops(site.vm3, site.vm1, Tcp(80, to=FIRST))
    assert site.stops(site.outside, site.vm1, Tcp(80, to=FIRST))


# --- out


def test_outside_an_instance_is_known_by_it(floating: Site) -> None:
    assert source_seen(floating, floating.vm1, floating.outside) == FIRST
    assert source_seen(floating, floating.vm2, floating.outside) == HOST
    assert seen_from(tcp(floating.vm1, floating.outside, 80)) == FIRST
    assert ping(floating.vm1, floating.outside)


def test_inside_it_is_known_by_its_fixed_ip(floating: Site) -> None:
    for receiver in (floating.vm2, floating.vm3):
        assert source_seen(floating, floating.vm1, receiver) == floating.vm1.ip4
    assert source_seen(floating, floating.vm1, floating.host, "10.1.0.1") == floating.vm1.ip4


@pytest.mark.parametrize("numbers", [(9, 10), (10, 9)])
def test_of_two_on_one_fixed_ip_the_numerically_lower_is_the_source(site: Site, numbers: tuple[int, int]) -> None:
    site.describe(*INSTANCES)
    for number in numbers:
        site.put(make_floating_ip(number))
    assert source_seen(site, site.vm1, site.outside) == "198.51.100.9"
    for number in numbers:
        assert calls(site.outside, f"198.51.100.{number}", site.vm1)
    site.delete(make_floating_ip(9))
    assert source_seen(site, site.vm1, site.outside) == "198.51.100.10"


def test_ipv6_knows_nothing_of_it(floating: Site) -> None:
    seen = floating.passes(floating.vm1, floating.outside, Udp(53, family=6))
    assert seen is not None
    assert seen.source == floating.vm1.ip6


# --- coming and going


def test_it_is_an_address_of_the_host(floating: Site) -> None:
    assert floating.host.links.has_address("eth0", f"{FIRST}/32")


def test_it_moves_to_another_instance(floating: Site) -> None:
    assert calls(floating.outside, FIRST, floating.vm1)
    floating.put(make_floating_ip(1, instance=2))
    assert floating.passes(floating.outside, floating.vm2, Tcp(80, to=FIRST))
    assert floating.stops(floating.outside, floating.vm1, Tcp(80, to=FIRST))
    assert source_seen(floating, floating.vm2, floating.outside) == FIRST
    assert source_seen(floating, floating.vm1, floating.outside) == HOST


def test_it_is_gone_when_it_is_deleted(floating: Site) -> None:
    assert calls(floating.outside, FIRST, floating.vm1)
    floating.delete(make_floating_ip(1))
    assert not floating.host.links.has_address("eth0", f"{FIRST}/32")
    for caller in (floating.outside, floating.vm2, floating.vm3, floating.host):
        assert floating.stops(caller, floating.vm1, Tcp(80, to=FIRST))
    assert not calls(floating.outside, FIRST, floating.vm1)
    assert source_seen(floating, floating.vm1, floating.outside) == HOST


def test_one_that_goes_leaves_the_other(floating: Site) -> None:
    floating.put(make_floating_ip(2))
    floating.delete(make_floating_ip(1))
    assert calls(floating.outside, SECOND, floating.vm1)
    assert not calls(floating.outside, FIRST, floating.vm1)


def bound(site: Site, each: FloatingIP) -> bool:
    return site.host.links.has_address("eth0", f"{each.id}/32")


def test_it_waits_for_its_instance(site: Site) -> None:
    waiting = make_floating_ip(1, instance_id=instance_id(1))
    site.describe(WEB, waiting)
    assert site.status(waiting)["state"] == "pending"
    assert not bound(site, waiting)
    assert site.stops(site.outside, site.vm1, Tcp(80, to=FIRST))
    site.put(make_instance(1, (1,)))
    assert site.status(waiting)["state"] == "done"
    assert bound(site, waiting)
    assert calls(site.outside, FIRST, site.vm1)
    site.delete(make_instance(1))
    assert site.status(waiting)["state"] == "pending"
    assert not bound(site, waiting)


def test_it_waits_for_an_instance_that_has_the_fixed_ip(site: Site) -> None:
    waiting = make_floating_ip(1, instance_id=instance_id(2))
    site.describe(*INSTANCES, waiting)
    assert site.status(waiting)["state"] == "pending"
    assert site.stops(site.outside, site.vm1, Tcp(80, to=FIRST))


def test_it_waits_for_its_network(site: Site) -> None:
    waiting = make_floating_ip(1)
    site.describe(make_network(2), *INSTANCES, waiting)
    assert site.status(waiting)["state"] == "pending"
    assert not bound(site, waiting)
    site.put(make_network(1))
    assert site.status(waiting)["state"] == "done"
    assert calls(site.outside, FIRST, site.vm1)


def test_one_on_an_address_without_a_machine_harms_nobody(site: Site) -> None:
    """A network here holds it: the instance may be on another host."""
    site.describe(*INSTANCES, make_floating_ip(1, instance=200))
    assert site.stops(site.outside, site.vm1, Tcp(80, to=FIRST))
    assert source_seen(site, site.vm1, site.outside) == HOST


# --- whose address it is not


@pytest.mark.parametrize("address", [HOST, "10.1.0.1"])
def test_an_address_that_the_host_has_already(site: Site, address: str) -> None:
    site.describe(*INSTANCES)
    taken = make_floating_ip(1, id=address)
    site.agent.request("PUT", f"/v1/floating-ips/{address}", document(taken))
    assert site.status(taken)["state"] == "error"
    assert arrives(site.outside, site.host, Tcp(22, to=address))
    site.delete(taken)
    assert address in {each["address"] for each in site.host.links.addresses()}


# --- where it is bound


def test_another_interface(site: Site, aside: Namespace) -> None:
    """There it is the source, elsewhere it is not."""
    other = make_floating_ip(1, id="198.18.0.50", interface="eth5")
    site.describe(*INSTANCES, other)
    assert site.host.links.has_address("eth5", "198.18.0.50/32")
    assert calls(aside, "198.18.0.50", site.vm1)
    assert source_seen(site, site.vm1, aside) == "198.18.0.50"
    assert source_seen(site, site.vm1, site.outside) == HOST
    site.delete(other)
    assert not site.host.links.has_address("eth5", "198.18.0.50/32")


@pytest.fixture(scope="module")
def aside(site: Site) -> Namespace:
    """A machine behind another interface of the host, which leads it to the host's networks."""
    machine = site.behind("eth5", "198.18.0.{}/24")
    machine.links.add_route("10.0.0.0/8", via="198.18.0.8")
    return machine


def test_without_any_interface(make_site: SiteMaker) -> None:
    """Routed to the host by somebody else, and bound nowhere."""
    site = make_site({"network": {"fixed_range": "10.0.0.0/8", "public_interface": None}})
    site.outside.links.add_route("198.51.100.0/24", via=site.host.ip4)
    site.describe(*INSTANCES, make_floating_ip(1))
    assert FIRST not in {each["address"] for each in site.host.links.addresses()}
    assert seen_from(calls(site.outside, FIRST, site.vm1)) == site.outside.ip4
    assert source_seen(site, site.vm1, site.outside) == FIRST
    assert source_seen(site, site.vm1, site.vm2) == site.vm1.ip4
    seen = site.passes(site.vm1, site.vm2, Udp(53, to="224.0.0.251"))
    assert seen is not None
    assert seen.source == site.vm1.ip4


def test_an_interface_that_is_not_there_is_an_error_of_its_own(site: Site) -> None:
    missing, good = make_floating_ip(1, interface="eth9"), make_floating_ip(2)
    site.describe(*INSTANCES, missing, good)
    assert site.status(missing)["state"] == "error"
    assert site.status(good)["state"] == "done"
    assert calls(site.outside, SECOND, site.vm1)


def test_an_instance_of_another_host(site: Site) -> None:
    """The fixed IP lives behind the uplink of the bridge."""
    site.describe(make_network(1, bridge_interface="eth1"), make_network(2), make_floating_ip(1, instance=208))
    far = site.behind("eth1", "10.1.0.20{}/24", bridge="br1")
    far.links.add_route("default", via="10.1.0.1")
    assert seen_from(calls(site.outside, FIRST, far)) == site.outside.ip4
    assert ping(site.outside, FIRST)
    assert source_seen(site, far, site.outside) == FIRST


def test_icmp_errors_speak_of_the_address_that_was_called(floating: Site) -> None:
    """The answer to a closed port comes from the floating IP, not from the fixed one."""
    with floating.outside.socket(2, 2) as client:
        client.settimeout(0.3)
        client.connect((FIRST, 54))
        client.send(b"anybody there?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)


def test_the_path_of_an_echo(floating: Site) -> None:
    assert floating.passes(floating.outside, floating.vm1, Icmp(to=FIRST))
    assert floating.stops(floating.outside, floating.vm2, Icmp(to=FIRST))
