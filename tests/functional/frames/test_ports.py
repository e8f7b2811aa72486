"""Who is spoken of and who is not: pairs, closed ports, port security off, an address of all hosts."""

import pytest

from nova_netagent.netfilter.frames import Closed, Frames, Isolated
from tests.functional.frames.site import NETWORK, UPLINK, BridgeSite
from tests.lab import Forged, Frame, Icmp, Ip, Namespace, Tcp, Udp, arp_request, frames, needs
from tests.lab.frames import BROADCAST_MAC, ETH_ARP, ETH_IPV4, ETH_IPV6, arp, ethernet
from tests.lab.probes import Probe

pytestmark = needs("bridge", "veth", "nftables", "br_netfilter")

VIRTUAL_MAC, VIRTUAL_IP = "00:00:5e:00:01:07", "198.51.100.200"
SHARED = "198.51.100.1"


def asks(sender: Namespace, wanted: str, claimed: str, mac: str | None = None) -> Frame:
    return arp_request(sender, wanted=wanted, claimed=claimed, source_mac=mac)


def replies(sender: Namespace, claimed: str, to: str = SHARED) -> Frame:
    body = arp(2, sender.mac, claimed, to)
    return Frame(lambda token: ethernet(BROADCAST_MAC, sender.mac, ETH_ARP, body + token))


def advertises(sender: Namespace, target: str) -> Frame:
    def build(token: bytes) -> bytes:
        body = frames.packed(target) + token
        message = frames.icmp(sender.ip6, "ff02::1", 136, 0, body, rest=0x20)
        packet = frames.ip(sender.ip6, "ff02::1", 58, message, ttl=255)
        return ethernet("33:33:00:00:00:01", sender.mac, ETH_IPV6, packet)

    return Frame(build)


# --- allowed pairs


def test_a_pair_of_an_address_is_claimed_by_the_vifs_own_mac(site: BridgeSite) -> None:
    vm1, vm2 = site.vm1, site.vm2
    site.let_all_be_secured(site.secured(vm1, (f"{VIRTUAL_IP}/32", vm1.mac), ("2001:db8:198::200/128", vm1.mac)))
    control = asks(vm1, vm2.ip4, vm1.ip4)
    assert site.passes(vm1, vm2, asks(vm1, vm2.ip4, VIRTUAL_IP))
    assert site.passes(vm1, vm2, replies(vm1, VIRTUAL_IP))
    assert site.passes(vm1, vm2, advertises(vm1, "2001:db8:198::200"))
    assert site.stops(vm1, vm2, asks(vm1, vm2.ip4, VIRTUAL_IP, VIRTUAL_MAC), control)
    assert site.stops(vm1, vm2, asks(vm1, vm2.ip4, "198.51.100.201"), control)
    assert site.stops(vm1, vm2, advertises(vm1, "2001:db8:198::201"), control)


def test_a_pair_with_a_mac_is_claimed_by_that_mac_alone(site: BridgeSite) -> None:
    vm1, vm2 = site.vm1, site.vm2
    site.let_all_be_secured(site.secured(vm1, (f"{VIRTUAL_IP}/32", VIRTUAL_MAC)))
    control = asks(vm1, vm2.ip4, vm1.ip4)
    assert site.passes(vm1, vm2, asks(vm1, vm2.ip4, VIRTUAL_IP, VIRTUAL_MAC))
    assert site.passes(vm1, vm2, Forged(Udp(999), source_mac=VIRTUAL_MAC, source=VIRTUAL_IP))
    assert site.stops(vm1, vm2, asks(vm1, vm2.ip4, VIRTUAL_IP), control)
    assert site.stops(vm1, vm2, asks(vm1, vm2.ip4, vm1.ip4, VIRTUAL_MAC), control)


def test_a_pair_of_a_prefix_is_all_its_addresses(site: BridgeSite) -> None:
    vm1, vm2 = site.vm1, site.vm2
    pairs = (("203.0.113.0/25", vm1.mac), ("2001:db8:3::/80", vm1.mac))
    site.let_all_be_secured(site.secured(vm1, *pairs))
    control = asks(vm1, vm2.ip4, vm1.ip4)
    for claimed in ("203.0.113.0", "203.0.113.77", "203.0.113.127"):
        assert site.passes(vm1, vm2, asks(vm1, vm2.ip4, claimed))
    for claimed in ("203.0.113.128", "203.0.112.255"):
        assert site.stops(vm1, vm2, asks(vm1, vm2.ip4, claimed), control)
    assert site.passes(vm1, vm2, advertises(vm1, "2001:db8:3::9"))
    assert site.stops(vm1, vm2, advertises(vm1, "2001:db8:3:0:1::9"), control)


def test_a_pair_of_everything_is_every_address_by_the_own_mac(site: BridgeSite) -> None:
    vm1, vm2 = site.vm1, site.vm2
    site.let_all_be_secured(site.secured(vm1, ("0.0.0.0/0", vm1.mac), (NETWORK, vm1.mac), ("::/0", vm1.mac)))
    assert site.passes(vm1, vm2, asks(vm1, vm2.ip4, site.vm3.ip4))
    assert site.passes(vm1, vm2, advertises(vm1, site.vm3.ip6))
    assert site.stops(vm1, vm2, asks(vm1, vm2.ip4, vm1.ip4, VIRTUAL_MAC), asks(vm1, vm2.ip4, "192.0.2.9"))


def test_one_vifs_pairs_are_no_others(site: BridgeSite) -> None:
    vm1, vm2, vm3 = site.vm1, site.vm2, site.vm3
    site.let_all_be_secured(site.secured(vm1, (f"{VIRTUAL_IP}/32", VIRTUAL_MAC), ("203.0.113.0/25", vm1.mac)))
    control = asks(vm3, vm2.ip4, vm3.ip4)
    for claimed, mac in ((VIRTUAL_IP, VIRTUAL_MAC), (VIRTUAL_IP, vm3.mac), ("203.0.113.9", vm3.mac)):
        assert site.stops(vm3, vm2, asks(vm3, vm2.ip4, claimed, mac), control)


# --- ports that are closed, and ports that are not spoken of


def test_nothing_passes_a_closed_port(site: BridgeSite) -> None:
    site.let(Frames(secured=(site.secured(site.vm1),), closed=(Closed(site.tap(site.vm3)),)))
    away: list[Probe] = [
        asks(site.vm3, site.vm1.ip4, site.vm3.ip4),
        Forged(Udp(999, to="255.255.255.255")),
        Forged(Icmp(to="ff02::1"), source=site.vm3.ip6),
        Frame(lambda token: ethernet(BROADCAST_MAC, site.vm3.mac, 0x88B5, token)),
    ]
    for probe in away:
        for receiver in (site.vm1, site.vm2, site.host, site.elsewhere):
            assert not site.passes_soon(site.vm3, receiver, probe)
    for sender in (site.vm1, site.vm2, site.elsewhere):
        honest = asks(sender, site.vm3.ip4, sender.ip4)
        assert site.passes(sender, site.host, honest)
        assert not site.passes_soon(sender, site.vm3, honest)
    from_host = Frame(lambda token: ethernet(BROADCAST_MAC, site.host.mac, ETH_IPV4, token), "br100")
    assert site.passes(site.host, site.vm1, from_host)
    assert not site.passes_soon(site.host, site.vm3, from_host)


def test_a_port_that_is_opened_passes_again(site: BridgeSite) -> None:
    site.let(Frames(closed=(Closed(site.tap(site.vm3)),)))
    site.let(Frames())
    assert site.passes(site.vm3, site.vm1, asks(site.vm3, site.vm1.ip4, site.vm3.ip4))


def test_what_is_sent_to_the_bridge_itself_by_a_closed_port_is_dropped(site: BridgeSite) -> None:
    """Even where nobody told the port to judge it like other frames."""
    site.let(Frames(closed=(Closed(site.tap(site.vm3)),)))
    site.judge_all_frames_of(site.tap(site.vm3), False)
    site.vm3.wire("eth0").send(ethernet("01:80:c2:00:00:03", site.vm3.mac, 0x888E, bytes(46)))
    assert site.drops("input") == 1
    site.judge_all_frames_of(site.tap(site.vm3))


def test_a_device_that_does_not_exist_yet_can_be_spoken_of(site: BridgeSite) -> None:
    site.let(Frames(closed=(Closed("tap-late"),)))
    late = site.lab.instance(site.host, "late", bridge="br100")
    assert not site.passes_soon(late, site.vm1, asks(late, site.vm1.ip4, late.ip4))


def test_names_are_compared_whole(site: BridgeSite) -> None:
    site.let(Frames(closed=(Closed("tap-vm"), Closed("tap-vm11"))))
    assert site.passes(site.vm1, site.vm2, asks(site.vm1, site.vm2.ip4, site.vm1.ip4))


# --- an address that every host has


@pytest.fixture
def shared(site: BridgeSite) -> BridgeSite:
    site.let_all_be_secured(isolated=(Isolated(UPLINK, SHARED, ("networks", "n1", "shared address")),))
    return site


def test_arp_for_the_shared_address_does_not_cross_the_uplink(shared: BridgeSite) -> None:
    control = asks(shared.elsewhere, shared.vm1.ip4, shared.elsewhere.ip4)
    for receiver in (shared.host, shared.vm1):
        for probe in (
            asks(shared.elsewhere, SHARED, shared.elsewhere.ip4),
            asks(shared.elsewhere, shared.vm1.ip4, SHARED),
            replies(shared.elsewhere, SHARED, shared.vm1.ip4),
        ):
            assert shared.stops(shared.elsewhere, receiver, probe, control)
    control = asks(shared.vm1, shared.elsewhere.ip4, shared.vm1.ip4)
    assert shared.stops(shared.vm1, shared.elsewhere, asks(shared.vm1, SHARED, shared.vm1.ip4), control)
    from_host = Frame(lambda token: arp_frame(shared, SHARED, token), "br100")
    other = Frame(lambda token: arp_frame(shared, "198.51.100.2", token), "br100")
    assert shared.stops(shared.host, shared.elsewhere, from_host, other)


def test_arp_for_the_shared_address_works_on_this_side(shared: BridgeSite) -> None:
    assert shared.passes(shared.vm1, shared.host, asks(shared.vm1, SHARED, shared.vm1.ip4))
    assert shared.passes(shared.vm1, shared.vm2, asks(shared.vm1, SHARED, shared.vm1.ip4))
    assert shared.passes(shared.host, shared.vm1, Frame(lambda token: arp_frame(shared, SHARED, token), "br100"))


def test_dhcp_does_not_cross_the_uplink(shared: BridgeSite) -> None:
    for port, other in ((67, 68), (68, 67)):
        discover = Forged(Udp(port, source_port=other, to="255.255.255.255"))
        control = Forged(Udp(69, source_port=other, to="255.255.255.255"))
        assert shared.stops(shared.vm1, shared.elsewhere, discover, control)
        assert shared.stops(shared.elsewhere, shared.vm1, discover, control)
        assert shared.passes(shared.vm1, shared.vm2, discover)
        assert shared.passes(shared.vm1, shared.host, discover)


def test_what_only_looks_like_it_crosses_the_uplink(shared: BridgeSite) -> None:
    """Rules look at bytes, which mean something else in other packets."""
    shared.let(Frames(isolated=(Isolated(UPLINK, SHARED),)))
    packed = frames.packed(SHARED)
    for probe in (
        Forged(Tcp(67, to="203.0.113.9"), via=BROADCAST_MAC),
        Forged(Udp(67, to="ff02::1"), source="2011:db8::1"),
        Forged(Ip(200, to="255.255.255.255", header=bytes(4) + packed)),
        Forged(Ip(200, to="100.1.0.1"), source="203.0.198.51", via=BROADCAST_MAC),
    ):
        assert shared.passes(shared.vm1, shared.elsewhere, probe)
        assert shared.passes(shared.elsewhere, shared.vm1, probe)


def test_the_hosts_own_dhcp_crosses_it(shared: BridgeSite) -> None:
    """As with nova: an uplink's host may have its own address by DHCP."""
    offer = Forged(Udp(68, source_port=67, to="255.255.255.255"))
    assert shared.passes(shared.elsewhere, shared.host, offer)
    packet = frames.ip("0.0.0.0", "255.255.255.255", 17, frames.udp("0.0.0.0", "255.255.255.255", 68, 67, b"x"))
    mac = shared.host.links.mac("br100")
    discover = Frame(lambda token: ethernet(BROADCAST_MAC, mac, ETH_IPV4, packet + token), "br100")
    assert shared.passes(shared.host, shared.elsewhere, discover)


def test_without_isolation_all_of_it_crosses(site: BridgeSite) -> None:
    site.let_all_be_secured()
    assert site.passes(site.elsewhere, site.host, asks(site.elsewhere, SHARED, site.elsewhere.ip4))
    assert site.passes(site.vm1, site.elsewhere, asks(site.vm1, SHARED, site.vm1.ip4))
    assert site.passes(site.vm1, site.elsewhere, Forged(Udp(67, source_port=68, to="255.255.255.255")))


def arp_frame(site: BridgeSite, claimed: str, token: bytes) -> bytes:
    mac = site.host.links.mac("br100")
    return ethernet(BROADCAST_MAC, mac, ETH_ARP, arp(1, mac, claimed, site.vm1.ip4) + token)
