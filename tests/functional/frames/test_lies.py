"""What an instance sends in another's name, or in a language that is none of its business, does not arrive."""

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nova_netagent.netfilter.frames import Frames
from tests.functional.frames.site import UPLINK, BridgeSite
from tests.lab import Forged, Frame, Icmp, Namespace, Udp, arp_request, frames, needs, refused
from tests.lab.frames import BROADCAST_MAC, ETH_ARP, ETH_IPV4, ETH_IPV6, ETH_VLAN, arp, ethernet, mac_bytes

pytestmark = needs("bridge", "veth", "nftables", "br_netfilter")

RARP, ETH_8021AD, PPPOE_DISCOVERY, PPPOE, LLDP, EXPERIMENT = 0x8035, 0x88A8, 0x8863, 0x8864, 0x88CC, 0x88B5
BPDU_MAC, NEAREST_BRIDGE = "01:80:c2:00:00:00", "01:80:c2:00:00:0e"
UNKNOWN_MAC = "02:00:00:00:00:99"

Liar = Callable[[BridgeSite], Frame | Forged]


def of_arp(body: bytes, source_mac: str, to: str = BROADCAST_MAC, ethertype: int = ETH_ARP) -> Frame:
    return Frame(lambda token: ethernet(to, source_mac, ethertype, body + token))


def arp_header(
    site: BridgeSite,
    hardware: int = 1,
    protocol: int = ETH_IPV4,
    sizes: tuple[int, int] = (6, 4),
    operation: int = 1,
    sender: str | None = None,
) -> Frame:
    """A request of vm1 for vm2, but for its header."""
    honest = arp(1, site.vm1.mac, sender or site.vm1.ip4, site.vm2.ip4)
    return of_arp(struct.pack("!HHBBH", hardware, protocol, *sizes, operation) + honest[8:], site.vm1.mac)


def of_type(site: BridgeSite, ethertype: int, payload: bytes = b"", to: str = BROADCAST_MAC) -> Frame:
    return Frame(lambda token: ethernet(to, site.vm1.mac, ethertype, payload + token))


def inner_packet(site: BridgeSite, token: bytes) -> bytes:
    """An IPv4 datagram of vm1's to everybody."""
    return frames.ip(site.vm1.ip4, "255.255.255.255", 17, frames.udp(site.vm1.ip4, "255.255.255.255", 999, 999, token))


def tagged(site: BridgeSite, *tags: tuple[int, int], to: str = BROADCAST_MAC) -> Frame:
    """vm1's own datagram behind VLAN tags, each an ethertype and a number."""

    def build(token: bytes) -> bytes:
        inner = struct.pack("!H", ETH_IPV4) + inner_packet(site, token)
        for ethertype, vlan in reversed(tags):
            inner = struct.pack("!HH", ethertype, vlan) + inner
        return (mac_bytes(to) + mac_bytes(site.vm1.mac) + inner).ljust(60, b"\0")

    return Frame(build)


def snap(site: BridgeSite) -> Frame:
    """vm1's own datagram by IEEE 802.3 with LLC and SNAP (RFC 1042)."""

    def build(token: bytes) -> bytes:
        body = bytes.fromhex("aaaa030000000800") + inner_packet(site, token)
        return ethernet(BROADCAST_MAC, site.vm1.mac, len(body), body)

    return Frame(build)


def bpdu(site: BridgeSite, to: str) -> Frame:
    """A BPDU by which vm1 would become the root of the spanning tree."""
    return Frame(lambda token: ethernet(to, site.vm1.mac, 38, bytes.fromhex("424203") + bytes(35) + token))


def advertisement(site: BridgeSite, target: str, before: bytes = b"", next_header: int = 58) -> Frame:
    """A neighbour advertisement of vm1's from its own address, about a target."""

    def build(token: bytes) -> bytes:
        options = bytes.fromhex("0201") + mac_bytes(site.vm1.mac)
        everybody = "ff02::1"
        message = frames.icmp(site.vm1.ip6, everybody, 136, 0, frames.packed(target) + options + token, rest=0x20)
        packet = frames.ip(site.vm1.ip6, everybody, next_header, before + message, ttl=255)
        return ethernet("33:33:00:00:00:01", site.vm1.mac, ETH_IPV6, packet)

    return Frame(build)


def rarp(site: BridgeSite, mac: str, source_mac: str, operation: int = 3, address: str = "0.0.0.0") -> Frame:
    """What QEMU sends after a migration, when mac is the vif's own."""
    body = struct.pack("!HHBBH", 1, ETH_IPV4, 6, 4, operation) + mac_bytes(mac) + frames.packed(address)
    return of_arp(body + mac_bytes(mac) + bytes(4), source_mac, ethertype=RARP)


LIES: dict[str, Liar] = {
    "ARP request as a neighbour": lambda s: arp_request(s.vm1, wanted=s.vm2.ip4, claimed=s.vm3.ip4),
    "ARP request as the gateway": lambda s: arp_request(s.vm1, wanted=s.vm2.ip4, claimed="198.51.100.1"),
    "ARP request from another MAC": lambda s: arp_request(s.vm1, wanted=s.vm2.ip4, source_mac=s.vm3.mac),
    "ARP reply as a neighbour": lambda s: of_arp(arp(2, s.vm1.mac, s.vm3.ip4, s.vm2.ip4, s.vm2.mac), s.vm1.mac),
    "gratuitous ARP as the gateway": lambda s: of_arp(arp(2, s.vm1.mac, "198.51.100.1", "198.51.100.1"), s.vm1.mac),
    "ARP that gives its address another MAC": lambda s: of_arp(arp(1, s.vm3.mac, s.vm1.ip4, s.vm2.ip4), s.vm1.mac),
    "ARP about a neighbour's MAC and address": lambda s: of_arp(arp(1, s.vm3.mac, s.vm3.ip4, s.vm2.ip4), s.vm1.mac),
    "ARP whose frame has another MAC": lambda s: of_arp(arp(1, s.vm1.mac, s.vm1.ip4, s.vm2.ip4), s.vm3.mac),
    "ARP probe from another MAC": lambda s: of_arp(arp(1, s.vm3.mac, "0.0.0.0", s.vm2.ip4), s.vm1.mac),
    "ARP reply from nobody": lambda s: of_arp(arp(2, s.vm1.mac, "0.0.0.0", s.vm2.ip4), s.vm1.mac),
    "ARP of other hardware": lambda s: arp_header(s, hardware=6),
    "ARP about another protocol": lambda s: arp_header(s, protocol=ETH_IPV6),
    "ARP with long MACs": lambda s: arp_header(s, sizes=(8, 4)),
    "ARP with long addresses": lambda s: arp_header(s, sizes=(6, 16)),
    "ARP of the operation 0": lambda s: arp_header(s, operation=0),
    "RARP in ARP's ethertype": lambda s: arp_header(s, operation=3),
    "InARP": lambda s: arp_header(s, operation=8),
    "ARP probe of other hardware": lambda s: arp_header(s, hardware=6, sender="0.0.0.0"),
    "ARP probe about another protocol": lambda s: arp_header(s, protocol=ETH_IPV6, sender="0.0.0.0"),
    "ARP probe with long addresses": lambda s: arp_header(s, sizes=(6, 16), sender="0.0.0.0"),
    "RARP about a neighbour": lambda s: rarp(s, s.vm3.mac, s.vm1.mac),
    "RARP as a neighbour": lambda s: rarp(s, s.vm3.mac, s.vm3.mac),
    "RARP reply": lambda s: rarp(s, s.vm1.mac, s.vm1.mac, operation=4),
    "RARP with an address": lambda s: rarp(s, s.vm1.mac, s.vm1.mac, address=s.vm3.ip4),
    "IPv4 from another MAC": lambda s: Forged(Udp(999, to="255.255.255.255"), source_mac=s.vm3.mac),
    "IPv4 from a MAC of nobody": lambda s: Forged(Udp(999, to="255.255.255.255"), source_mac=UNKNOWN_MAC),
    "IPv6 from another MAC": lambda s: Forged(Icmp(to="ff02::1"), source_mac=s.vm3.mac, source=s.vm1.ip6),
    "advertises a neighbour's address": lambda s: advertisement(s, s.vm3.ip6),
    "advertises the gateway's address": lambda s: advertisement(s, "2001:db8:198::1"),
    "advertises behind another header": lambda s: advertisement(s, s.vm3.ip6, bytes([58, 0, 1, 4, 0, 0, 0, 0]), 60),
    "VLAN 7": lambda s: tagged(s, (ETH_VLAN, 7)),
    "VLAN 0, a priority": lambda s: tagged(s, (ETH_VLAN, 0)),
    "VLAN 0 with a priority": lambda s: tagged(s, (ETH_VLAN, 5 << 13)),
    "VLAN 7 of 802.1ad": lambda s: tagged(s, (ETH_8021AD, 7)),
    "VLAN 0 of 802.1ad": lambda s: tagged(s, (ETH_8021AD, 0)),
    "VLAN in VLAN": lambda s: tagged(s, (ETH_8021AD, 7), (ETH_VLAN, 8)),
    "VLAN 0 in VLAN 0": lambda s: tagged(s, (ETH_VLAN, 0), (ETH_VLAN, 0)),
    "PPPoE discovery": lambda s: of_type(s, PPPOE_DISCOVERY, bytes.fromhex("110900000000")),
    "PPPoE": lambda s: of_type(s, PPPOE, bytes.fromhex("1100000100160021") + inner_packet(s, b"")),
    "802.3 with SNAP": snap,
    "a BPDU to everybody": lambda s: bpdu(s, BROADCAST_MAC),
    "LLDP to everybody": lambda s: of_type(s, LLDP),
    "an unknown ethertype": lambda s: of_type(s, EXPERIMENT),
    "MPLS": lambda s: of_type(s, 0x8847, bytes.fromhex("000011ff") + inner_packet(s, b"")),
    "an ethertype of 1500": lambda s: of_type(s, 1500),
    "an ethertype of 1535": lambda s: of_type(s, 0x05FF),
}

CONTROL = "ARP request"
HONEST: dict[str, Liar] = {
    CONTROL: lambda s: arp_request(s.vm1, wanted=s.vm2.ip4),
    "ARP reply": lambda s: of_arp(arp(2, s.vm1.mac, s.vm1.ip4, s.vm2.ip4, s.vm2.mac), s.vm1.mac),
    "gratuitous ARP": lambda s: of_arp(arp(1, s.vm1.mac, s.vm1.ip4, s.vm1.ip4), s.vm1.mac),
    "ARP probe": lambda s: of_arp(arp(1, s.vm1.mac, "0.0.0.0", s.vm1.ip4), s.vm1.mac),
    "RARP": lambda s: rarp(s, s.vm1.mac, s.vm1.mac),
    "IPv4": lambda s: Forged(Udp(999, to="255.255.255.255")),
    "IPv6": lambda s: Forged(Icmp(to="ff02::1"), source=s.vm1.ip6),
    "IPv6 that looks like an advertisement": lambda s: Forged(
        Udp(999, source_port=136 << 8, to="ff02::1"), source=s.vm1.ip6
    ),
    "advertises its address": lambda s: advertisement(s, s.vm1.ip6),
    "advertises its link-local address": lambda s: advertisement(s, link_local(s.vm1)),
    "advertises behind another header": lambda s: advertisement(s, s.vm1.ip6, bytes([58, 0, 1, 4, 0, 0, 0, 0]), 60),
}


def link_local(machine: Namespace) -> str:
    octets = mac_bytes(machine.mac)
    return f"fe80::{octets[0] ^ 2:x}{octets[1]:02x}:{octets[2]:x}ff:fe{octets[3]:02x}:{octets[4]:x}{octets[5]:02x}"


@pytest.fixture
def secured(site: BridgeSite) -> BridgeSite:
    """All instances have port security."""
    site.let_all_be_secured()
    return site


@pytest.fixture
def trusted(site: BridgeSite) -> BridgeSite:
    """No instance has port security: they are not spoken of."""
    site.let(Frames())
    return site


@pytest.mark.parametrize("name", HONEST)
def test_honest_frames_arrive(secured: BridgeSite, name: str) -> None:
    for receiver in secured.receivers():
        assert secured.passes(secured.vm1, receiver, HONEST[name](secured)), f"{name} at {receiver.name}"


@pytest.mark.parametrize("name", LIES)
def test_lies_do_not_arrive(secured: BridgeSite, name: str) -> None:
    for receiver in secured.receivers():
        control = HONEST[CONTROL](secured)
        assert secured.stops(secured.vm1, receiver, LIES[name](secured), control), f"{name} at {receiver.name}"


@pytest.mark.parametrize("spanning_tree", [False, True], ids=["", "spanning tree"])
@pytest.mark.parametrize("to", [BROADCAST_MAC, *(f"01:80:c2:00:00:{last:02x}" for last in range(16))])
def test_a_lie_teaches_the_bridge_nothing(secured: BridgeSite, to: str, spanning_tree: bool) -> None:
    """Or the neighbour's frames would come to the liar."""
    with spanning_tree_on(secured, spanning_tree):
        assert secured.passes(secured.vm3, secured.vm2, arp_request(secured.vm3, wanted=secured.vm2.ip4))
        assert learned_at(secured, secured.vm3.mac) == secured.tap(secured.vm3)
        stolen = ethernet(to, secured.vm3.mac, ETH_IPV4, inner_packet(secured, b"mine"))
        secured.vm1.wire("eth0").send(stolen)
        assert secured.passes(secured.vm1, secured.vm2, HONEST[CONTROL](secured))
        assert learned_at(secured, secured.vm3.mac) == secured.tap(secured.vm3)


@pytest.mark.parametrize(
    "name", [each for each in LIES if each.startswith(("ARP of", "ARP about another protocol", "ARP with", "RARP"))]
)
def test_who_may_claim_every_address_speaks_arp_all_the_same(site: BridgeSite, name: str) -> None:
    site.let_all_be_secured(site.secured(site.vm1, ("0.0.0.0/0", site.vm1.mac), ("::/0", site.vm1.mac)))
    assert site.passes(site.vm1, site.vm2, LIES["ARP request as a neighbour"](site))
    assert site.stops(site.vm1, site.vm2, LIES[name](site), HONEST[CONTROL](site))


@pytest.fixture
def untold(secured: BridgeSite) -> Iterator[BridgeSite]:
    """Nobody told vm1's port to judge frames for the bridge like others."""
    secured.judge_all_frames_of(secured.tap(secured.vm1), False)
    yield secured
    secured.judge_all_frames_of(secured.tap(secured.vm1))


@pytest.mark.parametrize("last", [3, 7, 15])
def test_where_nobody_told_the_port_most_of_it_holds_too(untold: BridgeSite, last: int) -> None:
    """All but ...:0e, and with spanning tree ...:00."""
    assert untold.passes(untold.vm3, untold.vm2, arp_request(untold.vm3, wanted=untold.vm2.ip4))
    before = untold.call(untold.frames.counters)["input"][0][0]
    to = f"01:80:c2:00:00:{last:02x}"
    untold.vm1.wire("eth0").send(ethernet(to, untold.vm3.mac, ETH_IPV4, inner_packet(untold, b"mine")))
    assert untold.passes(untold.vm1, untold.vm2, HONEST[CONTROL](untold))
    assert learned_at(untold, untold.vm3.mac) == untold.tap(untold.vm3)
    assert untold.call(untold.frames.counters)["input"][0][0] == before + 1


def test_the_uplinks_own_protocols_reach_the_host(secured: BridgeSite) -> None:
    """LACP, 802.1X: they are judged by nobody."""
    switch, port = secured.host.peers[UPLINK]
    switch.wire(port).send(ethernet("01:80:c2:00:00:03", UNKNOWN_MAC, 0x888E, bytes(46)))
    assert secured.passes(secured.elsewhere, secured.host, arp_request(secured.elsewhere, wanted=secured.vm1.ip4))
    assert learned_at(secured, UNKNOWN_MAC) == UPLINK


@pytest.mark.parametrize("to", [f"01:80:c2:00:00:{last:02x}" for last in range(16)])
def test_the_host_is_not_reached_by_the_bridges_own_addresses(secured: BridgeSite, to: str) -> None:
    """It would be by the tap itself, where no rule for bridged packets looks."""
    packet = Forged(Udp(999, to=secured.host.ip4), source="203.0.113.9", via=to, source_mac=secured.vm3.mac)
    assert refused(secured.vm1, secured.host, packet, control=Forged(Udp(999), via=host_mac(secured)))


def test_honest_conversations_work(secured: BridgeSite) -> None:
    for family in (4, 6):
        for receiver in (secured.vm2, secured.elsewhere):
            for machine in (secured.vm1, receiver):
                forget_neighbours(machine)
            assert secured.passes(secured.vm1, receiver, Icmp(family=family))
            assert secured.passes(receiver, secured.vm1, Icmp(family=family))


def test_large_packets_come_whole(secured: BridgeSite) -> None:
    """Their later fragments have no ICMPv6 type, which must not count against them."""
    for target in (f"{secured.vm2.ip4}", f"{secured.vm2.ip6}"):
        ping = ["ping", "-c1", "-W2", "-s4000", target]
        assert secured.vm1.run(ping, check=False).returncode == 0


def test_what_ends_too_early_is_dropped(secured: BridgeSite) -> None:
    whole = ethernet(BROADCAST_MAC, secured.vm1.mac, ETH_ARP, arp(1, secured.vm1.mac, secured.vm1.ip4, secured.vm2.ip4))
    for chain, frame in (
        ("from-vif-arp", whole[:20]),
        ("from-vif-arp", whole[:31]),
        ("from-vif-rarp", whole[:12] + struct.pack("!H", RARP) + whole[14:24]),
        ("from-vif", whole[:12] + b"\0\0"),
    ):
        before = secured.drops(chain)
        secured.vm1.wire("eth0").send(frame)
        assert secured.drops(chain) == before + 1


@pytest.mark.parametrize("name", LIES)
def test_without_port_security_everything_arrives(trusted: BridgeSite, name: str) -> None:
    """It also shows that each lie would be heard, were it not stopped."""
    for receiver in trusted.receivers():
        assert trusted.passes(trusted.vm1, receiver, LIES[name](trusted)), f"{name} at {receiver.name}"


def forget_neighbours(machine: Namespace) -> None:
    machine.run(["ip", "neigh", "flush", "dev", "eth0"])


def learned_at(site: BridgeSite, mac: str) -> str:
    lines = site.host.run(["bridge", "fdb", "show", "br", "br100"]).stdout.splitlines()
    return next(line.split()[2] for line in lines if line.startswith(mac))


def host_mac(site: BridgeSite) -> str:
    return site.host.links.mac("br100")


@contextmanager
def spanning_tree_on(site: BridgeSite, on: bool) -> Iterator[None]:
    state = Path("/sys/class/net/br100/bridge/stp_state")
    site.call(state.write_text, str(int(on)))
    wait_forwarding(site)
    yield
    site.call(state.write_text, "0")
    wait_forwarding(site)


def wait_forwarding(site: BridgeSite) -> None:
    for machine in (site.vm1, site.vm2, site.vm3):
        state = Path(f"/sys/class/net/{site.tap(machine)}/brport/state")
        while site.call(state.read_text).strip() != "3":
            time.sleep(0.01)
