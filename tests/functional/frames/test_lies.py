"""What an instance sends in another's name, or in a language that is none of its business, does not arrive."""

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nova_netagent.netfilter.frames import Frames
from tests.functional.frames.lies import CONTROL, HONEST, LIES, RARP, UNKNOWN_MAC, inner_packet
from tests.functional.frames.site import UPLINK, BridgeSite
from tests.lab import Forged, Icmp, Namespace, Udp, arp_request, needs, refused
from tests.lab.frames import BROADCAST_MAC, ETH_ARP, ETH_IPV4, arp, ethernet

pytestmark = needs("bridge", "veth", "nftables", "br_netfilter")


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
