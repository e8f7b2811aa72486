"""What an instance sends through a gateway elsewhere, this host routes when it has to."""

from collections.abc import Iterator

import pytest

from nova_netagent.netfilter.frames import Frames, Gateway, Redirected
from tests.functional.frames.site import NETWORK, UPLINK, BridgeSite
from tests.lab import Forged, Namespace, Udp, needs
from tests.lab.frames import multicast_mac

pytestmark = needs("bridge", "veth", "nftables", "br_netfilter")


@pytest.fixture(params=[True, False], ids=["with port security", "without"])
def routed(request: pytest.FixtureRequest, site: BridgeSite) -> Iterator[BridgeSite]:
    """vm1 has a floating IP here, and the machine elsewhere is its gateway; so has a machine elsewhere."""
    mac = site.host.links.mac("br100")
    vifs = (site.secured(site.vm1), site.secured(site.vm2)) if request.param else ()
    floating = tuple(Redirected(f"{each.ip4}/32", NETWORK, inverted=True) for each in (site.vm1, site.elsewhere))
    ports = (site.tap(site.vm1), site.tap(site.vm2), UPLINK)
    site.let(Frames(secured=vifs, redirected=floating, gateways=tuple(Gateway(each, mac) for each in ports)))
    yield site
    site.let(Frames())


def through(gateway: Namespace, **fields: object) -> Forged:
    """A datagram in a frame for a gateway."""
    return Forged(Udp(999, **fields), via=gateway.mac)  # type: ignore[arg-type]


def test_a_frame_for_another_gateway_is_routed_here(routed: BridgeSite) -> None:
    outside = routed.lab.outside
    assert routed.passes(routed.vm1, outside, through(routed.elsewhere))
    to_outside = through(routed.elsewhere, to=outside.ip4)
    assert routed.stops(routed.vm1, routed.elsewhere, to_outside, through(routed.elsewhere, to=routed.elsewhere.ip4))


def test_so_is_one_that_comes_in_by_the_uplink(routed: BridgeSite) -> None:
    assert routed.passes(routed.elsewhere, routed.lab.outside, Forged(Udp(999), via="02:00:00:00:00:77"))


def test_without_a_floating_ip_it_stays_bridged(routed: BridgeSite) -> None:
    outside = routed.lab.outside
    probe = through(routed.elsewhere, to=outside.ip4)
    assert routed.passes(routed.vm2, routed.elsewhere, probe)
    assert not routed.passes_soon(routed.vm2, outside, probe)


def test_so_does_what_is_for_the_network_itself(routed: BridgeSite) -> None:
    assert routed.passes(routed.vm1, routed.elsewhere, through(routed.elsewhere))
    assert routed.passes(routed.vm1, routed.vm2, through(routed.vm2))


def test_so_does_what_is_for_many(routed: BridgeSite) -> None:
    for to in ("255.255.255.255", "224.0.0.251"):
        group = Forged(Udp(999, to=to), via=multicast_mac(to))
        for receiver in (routed.vm2, routed.elsewhere):
            assert routed.passes(routed.vm1, receiver, group)


def test_so_does_ipv6_that_has_the_address_in_its_bytes(routed: BridgeSite) -> None:
    routed.let(Frames(redirected=(Redirected(f"{routed.vm1.ip4}/32", "0.0.0.0/0"),), gateways=(gateway_of(routed),)))
    probe = Forged(Udp(999, to="2001:db8:2::1"), source="2001:db8:c633:640b::1", via=routed.elsewhere.mac)
    assert routed.vm1.ip4 == "198.51.100.11"
    assert routed.passes(routed.vm1, routed.elsewhere, probe)


def gateway_of(site: BridgeSite) -> Gateway:
    return Gateway(site.tap(site.vm1), site.host.links.mac("br100"))


def test_so_does_what_comes_by_a_port_of_no_gateway(routed: BridgeSite) -> None:
    """As on another bridge, where somebody else may have the address."""
    probe = Forged(Udp(999, to=routed.lab.outside.ip4), source=routed.vm1.ip4, via=routed.elsewhere.mac)
    assert routed.passes(routed.vm3, routed.elsewhere, probe)


def test_a_lie_is_not_routed(site: BridgeSite) -> None:
    mac = site.host.links.mac("br100")
    redirected = (Redirected(f"{site.vm1.ip4}/32", NETWORK, inverted=True),)
    site.let_all_be_secured(redirected=redirected, gateways=(Gateway(site.tap(site.vm1), mac),))
    lie = Forged(Udp(999), via=site.elsewhere.mac, source_mac=site.vm3.mac)
    assert site.stops(site.vm1, site.lab.outside, lie, through(site.elsewhere))


def test_a_destination_can_be_redirected_too(site: BridgeSite) -> None:
    """nova's force_snat_range."""
    mac, outside = site.host.links.mac("br100"), site.lab.outside
    redirected = (Redirected(NETWORK, f"{outside.ip4}/32"), Redirected(f"{site.vm1.ip4}/32", "192.0.2.0/24"))
    site.let(Frames(redirected=redirected, gateways=(Gateway(site.tap(site.vm1), mac),)))
    assert site.passes(site.vm1, outside, through(site.elsewhere))
    assert site.passes(site.vm1, site.elsewhere, through(site.elsewhere, to="203.0.113.9"))
