"""Single packets: arrives and refused, for every kind of probe, with and without a rule that drops them."""

import socket
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.functional.lab.conftest import Bridged
from tests.lab import (
    ControlLostError,
    Forged,
    Frame,
    Gre,
    Icmp,
    Ip,
    Lab,
    Namespace,
    Sctp,
    Tcp,
    Udp,
    UdpLite,
    arp_request,
    arrives,
    frames,
    needs,
    refused,
    veth,
)
from tests.lab.probes import IpProbe
from tests.lab.syscalls import readable

pytestmark = needs("iptables", "ip6tables", "br_netfilter", "bridge")

PROBES: dict[str, tuple[Callable[[int], IpProbe], str]] = {
    "tcp": (lambda family: Tcp(80, family=family), "-p tcp --dport 80"),
    "udp": (lambda family: Udp(53, family=family), "-p udp --dport 53"),
    "udp-source": (lambda family: Udp(68, source_port=67, family=family), "-p udp --sport 67"),
    "udplite": (lambda family: UdpLite(5, family=family), "-p udplite"),
    "sctp": (lambda family: Sctp(5060, family=family), "-p sctp --dport 5060"),
    "gre": (lambda family: Gre(family=family), "-p gre"),
    "esp": (lambda family: Ip(50, family=family), "-p esp"),
    "unassigned": (lambda family: Ip(200, family=family), "-p 200"),
}


@pytest.fixture(params=PROBES)
def probe_and_match(request: pytest.FixtureRequest, family: int) -> tuple[IpProbe, str]:
    """A probe and what matches it."""
    make, match = PROBES[request.param]
    return make(family), match


def test_routed(bridged: Bridged, probe_and_match: tuple[IpProbe, str]) -> None:
    probe, match = probe_and_match
    assert arrives(bridged.outside, bridged.vm1, probe)
    assert not refused(bridged.outside, bridged.vm1, probe)
    with bridged.dropping(f"FORWARD {match}"):
        assert arrives(bridged.outside, bridged.vm1, probe, within=0.05) is None
        assert refused(bridged.outside, bridged.vm1, probe)
    assert arrives(bridged.outside, bridged.vm1, probe)


def test_bridged(bridged: Bridged, probe_and_match: tuple[IpProbe, str]) -> None:
    probe, match = probe_and_match
    assert arrives(bridged.vm2, bridged.vm1, probe)
    assert not refused(bridged.vm2, bridged.vm1, probe)
    with bridged.dropping(f"FORWARD {match}"):
        assert arrives(bridged.vm2, bridged.vm1, probe, within=0.05) is None
        assert refused(bridged.vm2, bridged.vm1, probe)


def test_to_a_host_behind_its_input_chain(bridged: Bridged, probe_and_match: tuple[IpProbe, str]) -> None:
    probe, match = probe_and_match
    assert arrives(bridged.vm1, bridged.host, probe)
    assert not refused(bridged.vm1, bridged.host, probe)
    with bridged.dropping(f"INPUT {match}"):
        assert arrives(bridged.vm1, bridged.host, probe, within=0.05) is None
        assert refused(bridged.vm1, bridged.host, probe)


def test_connection_tracking_takes_our_packets_for_valid(
    bridged: Bridged, probe_and_match: tuple[IpProbe, str]
) -> None:
    probe, _ = probe_and_match
    if isinstance(probe, UdpLite):
        # Linux sums up UDP-Lite as if it were UDP and finds every datagram invalid, also its own.
        bridged.host.sysctl("net.netfilter.nf_conntrack_checksum", 0)
    with bridged.dropping("FORWARD -m conntrack ! --ctstate NEW"):
        assert arrives(bridged.outside, bridged.vm1, probe)


@pytest.mark.parametrize("probe", [Udp(7), UdpLite(7)], ids=["udp", "udplite"])
def test_the_receivers_kernel_takes_our_packets_for_valid(bridged: Bridged, probe: Udp, family: int) -> None:
    address_family = socket.AF_INET6 if family == 6 else socket.AF_INET
    try:
        listener = bridged.vm1.socket(address_family, socket.SOCK_DGRAM, probe.protocol)
    except OSError as error:
        pytest.skip(f"no UDP-Lite sockets: {error}")
    listener.bind(("", 7))
    assert arrives(bridged.vm2, bridged.vm1, replace(probe, family=family))
    assert readable(listener, 1)
    assert listener.recv(100).startswith(b"LAB")


@pytest.mark.parametrize(("family", "match"), [(4, "-p icmp --icmp-type 13"), (6, "-p icmpv6 --icmpv6-type 137")])
def test_icmp_by_type(bridged: Bridged, family: int, match: str) -> None:
    kind = 13 if family == 4 else 137
    with bridged.dropping(f"FORWARD {match}"):
        assert refused(bridged.outside, bridged.vm1, Icmp(kind=kind, family=family))
        assert arrives(bridged.outside, bridged.vm1, Icmp(family=family))


def test_what_the_sender_drops_itself_does_not_arrive(bridged: Bridged) -> None:
    with bridged.dropping("OUTPUT -p udp --dport 53"):
        assert refused(bridged.host, bridged.vm1, Udp(53))
        assert arrives(bridged.host, bridged.vm1, Udp(54))


@pytest.mark.parametrize("to", ["255.255.255.255", "198.51.100.255", "224.0.0.251", "239.1.2.3", "ff02::fb"])
def test_broadcast_and_multicast(bridged: Bridged, to: str) -> None:
    probe = Udp(5353, to=to)
    assert arrives(bridged.vm2, bridged.vm1, probe)
    with bridged.dropping("FORWARD -m physdev --physdev-out tap-vm1 -p udp --dport 5353"):
        assert refused(bridged.vm2, bridged.vm1, probe)
    assert not refused(bridged.vm2, bridged.vm1, probe)


def test_a_broadcast_to_the_host(bridged: Bridged) -> None:
    discover = Udp(67, to="255.255.255.255", source_port=68)
    assert arrives(bridged.vm1, bridged.host, discover)
    with bridged.dropping("INPUT -p udp --dport 67"):
        assert refused(bridged.vm1, bridged.host, discover)


def test_a_forged_source_is_seen_as_forged(bridged: Bridged, family: int) -> None:
    source = "198.51.100.99" if family == 4 else "2001:db8:198::99"
    seen = arrives(bridged.vm2, bridged.vm1, Forged(Udp(53, family=family), source=source))
    assert seen is not None
    assert (seen.source, seen.destination_port) == (source, 53)
    with bridged.dropping(f"FORWARD -s {source}") if family == 4 else bridged.dropping("FORWARD -p udp"):
        assert refused(bridged.vm2, bridged.vm1, Forged(Udp(53, family=family), source=source))


def test_a_forged_mac(bridged: Bridged) -> None:
    forged = Forged(Udp(53), source_mac="fa:16:3e:99:99:99")
    seen = arrives(bridged.vm2, bridged.vm1, forged)
    assert seen is not None
    assert seen.source_mac == "fa:16:3e:99:99:99"
    with bridged.dropping("FORWARD -p udp -m mac --mac-source fa:16:3e:99:99:99"):
        assert refused(bridged.vm2, bridged.vm1, forged)
        assert arrives(bridged.vm2, bridged.vm1, Forged(Udp(53)))


def test_a_dhcp_discover_from_nowhere(bridged: Bridged) -> None:
    discover = Forged(Udp(67, to="255.255.255.255", source_port=68), source="0.0.0.0")
    assert arrives(bridged.vm1, bridged.host, discover)
    with bridged.dropping("INPUT -p udp --dport 67"):
        assert refused(bridged.vm1, bridged.host, discover)


def test_a_tagged_frame_keeps_its_tag(bridged: Bridged) -> None:
    seen = arrives(bridged.vm2, bridged.vm1, Forged(Udp(53), vlan=42))
    assert seen is not None
    assert seen.vlan == 42
    seen = arrives(bridged.vm2, bridged.vm1, Forged(Udp(53)))
    assert seen is not None
    assert seen.vlan is None


def test_arp(bridged: Bridged) -> None:
    request = arp_request(bridged.vm2, wanted="198.51.100.77")
    seen = arrives(bridged.vm2, bridged.vm1, request)
    assert seen is not None
    assert seen.ethertype == frames.ETH_ARP
    assert not refused(bridged.vm2, bridged.vm1, request)
    bridged.host.links.set("tap-vm1", master="")
    assert refused(bridged.vm2, bridged.vm1, request)


def test_a_frame_of_any_type(bridged: Bridged) -> None:
    frame = Frame(lambda token: frames.ethernet(bridged.vm1.mac, bridged.vm2.mac, 0x88CC, token))
    assert arrives(bridged.vm2, bridged.vm1, frame)
    assert arrives(bridged.vm2, bridged.host, frame, device="br100", within=0.05) is None
    assert arrives(bridged.vm2, bridged.host, frame, device="tap-vm2")


def test_an_arp_conversation_on_the_way_breaks_no_proof(bridged: Bridged, family: int) -> None:
    for _ in range(20):
        for namespace in (bridged.host, bridged.outside, bridged.vm1):
            for neighbour in namespace.links.neighbours():
                if neighbour["state"] not in ("noarp", "permanent"):
                    namespace.links.delete_neighbour(neighbour["device"], neighbour["address"])
        assert not refused(bridged.outside, bridged.vm1, Udp(53, family=family))


# how a refusal is proved


def test_proof_by_reply(bridged: Bridged, family: int) -> None:
    with bridged.dropping("FORWARD -o br100 -m conntrack --ctstate NEW"):
        refusal = refused(bridged.outside, bridged.vm1, Tcp(80, family=family))
    assert (bool(refusal), refusal.proof, refusal.way_proved) == (True, "reply", True)


def test_proof_by_wire_when_nothing_may_pass(bridged: Bridged, family: int) -> None:
    with bridged.dropping("FORWARD"):
        refusal = refused(bridged.outside, bridged.vm1, Tcp(80, family=family))
    assert (bool(refusal), refusal.proof, refusal.way_proved) == (True, "wire", False)


def test_the_wire_shows_an_arrival_too(bridged: Bridged, family: int) -> None:
    with bridged.dropping("FORWARD -i br100 -o eth0"):
        refusal = refused(bridged.outside, bridged.vm1, Tcp(80, family=family))
    assert (bool(refusal), refusal.proof) == (False, "wire")


def test_proof_by_control(bridged: Bridged, family: int) -> None:
    allowed = Tcp(22, family=family)
    with bridged.dropping("FORWARD -p tcp --dport 80"):
        refusal = refused(bridged.outside, bridged.vm1, Tcp(80, family=family), control=allowed)
        assert (bool(refusal), refusal.proof) == (True, "control")
        assert not refused(bridged.outside, bridged.vm1, allowed, control=allowed)


def test_a_lost_control_is_an_error(bridged: Bridged) -> None:
    with bridged.dropping("FORWARD -p tcp"), pytest.raises(ControlLostError):
        refused(bridged.outside, bridged.vm1, Tcp(80), control=Tcp(22))


def test_proof_by_time_when_no_link_is_known(bridged: Bridged) -> None:
    bridged.vm1.peers.clear()
    with bridged.dropping("FORWARD"):
        refusal = refused(bridged.outside, bridged.vm1, Tcp(80), within=0.05)
    assert (bool(refusal), refusal.proof) == (True, "time")


def test_nothing_is_proved_by_the_wire_of_a_link_that_is_down(bridged: Bridged) -> None:
    bridged.host.links.set("tap-vm1", up=False)
    assert refused(bridged.outside, bridged.vm1, Tcp(80), within=0.05).proof == "time"


def test_a_way_of_many_hops(lab: Lab) -> None:
    """Eight routers in a row: the packet is queued anew at each, and no proof may overtake it."""
    chain = [lab.add(Namespace(f"router{number}")) for number in range(9)]
    for number, (left, right) in enumerate(pairwise(chain)):
        veth(left, "eth1", right, "eth0")
        left.links.add_address("eth1", f"10.{number}.0.1/24")
        right.links.add_address("eth0", f"10.{number}.0.2/24")
        left.links.wait_running("eth1")
    for number, router in enumerate(chain):
        router.sysctl("net.ipv4.ip_forward", 1)
        for other in range(8):
            if other > number:
                router.links.add_route(f"10.{other}.0.0/24", via=f"10.{number}.0.2")
            elif other < number - 1:
                router.links.add_route(f"10.{other}.0.0/24", via=f"10.{number - 1}.0.1")
    first, last = chain[0], chain[-1]
    last.ip4 = "10.7.0.2"
    for _ in range(10):
        assert not refused(first, last, Udp(53))
        first.links.delete_neighbour("eth1", "10.0.0.2")
