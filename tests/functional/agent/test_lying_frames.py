"""Frames by which an instance lies do not arrive, whatever they claim: with the whole agent, to everybody."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from nova_netagent.model import AllowedAddressPair, Instance, values
from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_network, make_rule, make_vif
from tests.functional.agent.conftest import SiteMaker
from tests.functional.agent.kernel import eventually
from tests.functional.agent.site import Site
from tests.functional.frames.lies import CONTROL, HONEST, LIES, Liar, advertisement, of_arp
from tests.lab import Forged, Frame, Icmp, Namespace, Udp, arp_request, arrives, needs, refused, tcp
from tests.lab.frames import BROADCAST_MAC, arp

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "nftables")

OPEN = make_group(9, make_rule(91), make_rule(92, ethertype="IPv6"))
UPLINKED = make_network(1, bridge_interface="eth1")
W = "nova-netagent"
VIRTUAL_MAC = "00:00:5e:00:01:05"


@dataclass
class Stage:
    """A site whose bridge 1 has the instances 1, 2 and 4, and an uplink with a machine behind it."""

    site: Site
    vm1: Namespace
    vm2: Namespace
    vm3: Namespace
    far: Namespace
    gateway4: str = "10.1.0.1"
    gateway6: str = "fd00:1::1"

    def describe(self, *instances: Instance, **fields: Any) -> None:
        """These instances, and of 1, 2 and 4 those that are not among them; all with vifs of these fields."""
        known = {each.id for each in instances}
        rest = [make_instance(n, (9,), vifs=(make_vif(n, **fields),)) for n in (1, 2, 4)]
        self.site.describe(UPLINKED, OPEN, *instances, *(each for each in rest if each.id not in known))

    def receivers(self) -> Iterator[tuple[str, Namespace, str]]:
        """To whom vm1 may speak, and by which link he hears: a neighbour, the host, the outside."""
        yield from (("a neighbour", self.vm2, "eth0"), ("the host", self.site.host, "br1"), ("far", self.far, "eth0"))

    def heard(self, liars: dict[str, Liar], sender: Namespace | None = None) -> set[tuple[str, str]]:
        """Which frames arrive at whom."""
        return {
            (name, who)
            for name, liar in liars.items()
            for who, receiver, device in self.receivers()
            if arrives(sender or self.vm1, receiver, liar(self), device=device)
        }

    def not_stopped(self, liars: dict[str, Liar]) -> set[tuple[str, str]]:
        """Which frames of vm1's arrive at whom, while the control that is sent after each does."""
        return {
            (name, who)
            for name, liar in liars.items()
            for who, receiver, device in self.receivers()
            if not refused(self.vm1, receiver, liar(self), control=HONEST[CONTROL](self), device=device)
        }


@pytest.fixture(scope="module")
def furnished(site: Site) -> Stage:
    site.describe(UPLINKED)
    far = site.behind("eth1", "10.1.0.20{}/24", bridge="br1")
    return Stage(site, site.vm1, site.vm2, site.machine(4), far)


@pytest.fixture
def stage(furnished: Stage) -> Stage:
    """Groups allow everything: what is refused is refused as a lie."""
    furnished.describe()
    return furnished


def everywhere(names: Any) -> set[tuple[str, str]]:
    return {(name, who) for name in names for who in ("a neighbour", "the host", "far")}


def tracked(host: Namespace) -> list[str]:
    """The flows of the host, without its own word about groups that it listens to (IGMP)."""
    lists = (host.run(["conntrack", "-L", "-f", f"ipv{family}"]).stdout for family in (4, 6))
    return [line for each in lists for line in each.splitlines() if "dst=224.0.0.22 " not in line]


# --- lies and the truth


def test_no_lie_is_heard_by_anybody_or_tracked(stage: Stage) -> None:
    stage.site.forget_flows()
    assert stage.not_stopped(LIES) == set()
    assert tracked(stage.site.host) == []


def test_the_truth_is_heard_by_everybody(stage: Stage) -> None:
    assert stage.heard(HONEST) == everywhere(HONEST)


def test_without_port_security_everything_is_heard(stage: Stage) -> None:
    stage.describe(port_security_enabled=False)
    assert stage.heard(LIES) == everywhere(LIES)


def test_port_security_can_be_switched_off_and_on(stage: Stage) -> None:
    lies = {name: LIES[name] for name in ("ARP request as a neighbour", "VLAN 7", "LLDP to everybody")}
    free = make_instance(1, (9,), vifs=(make_vif(1, port_security_enabled=False),))
    far_only = {(name, "far") for name in lies} | {(name, "the host") for name in lies}
    stage.site.put(free)
    # To vm2, which has port security, nothing but IP and ARP is sent.
    assert stage.not_stopped(lies) == far_only | {("ARP request as a neighbour", "a neighbour")}
    stage.site.put(make_instance(1, (9,)))
    assert stage.not_stopped(lies) == set()


def test_what_is_not_ip_does_not_come_in_either(stage: Stage) -> None:
    """A tagged packet would not meet the rules of the receiver's groups."""
    control = Forged(Udp(53, to="10.1.0.3"), source="10.1.0.209", via=stage.vm2.mac)
    for vlan in (0, 7):
        tagged = Forged(Udp(53, to="10.1.0.3"), source="10.1.0.209", via=stage.vm2.mac, vlan=vlan)
        assert refused(stage.far, stage.vm2, tagged, control=control)
        assert arrives(stage.far, stage.site.host, Forged(Udp(53), via=BROADCAST_MAC, vlan=vlan), device="br1")


# --- allowed pairs


def claims(address: str, mac: str, source_mac: str | None = None) -> dict[str, Liar]:
    """ARP, or a neighbour advertisement, by which vm1 says that an address has a MAC."""
    if ":" in address:
        return {f"{address} is at {mac}": lambda s: advertisement(s, address)}
    return {
        f"{address} is at {mac} ({operation})": lambda s, operation=operation: of_arp(  # type: ignore[misc]
            arp(operation, mac, address, s.vm2.ip4), source_mac or mac
        )
        for operation in (1, 2)
    }


@pytest.mark.parametrize(
    ("pair", "inside", "beyond"),
    [
        ("10.1.0.100", "10.1.0.100", "10.1.0.101"),
        ("10.1.0.128/25", "10.1.0.200", "10.1.0.127"),
        ("fd00:1::100", "fd00:1::100", "fd00:1::101"),
        ("fd00:1:0:0:5::/80", "fd00:1::5:0:0:1", "fd00:1::6:0:0:1"),
    ],
)
def test_the_address_of_a_pair_is_spoken_for(stage: Stage, pair: str, inside: str, beyond: str) -> None:
    own = stage.vm1.mac
    assert stage.not_stopped(claims(inside, own)) == set()
    stage.describe(
        make_instance(1, (9,), vifs=(make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address=pair),)),))
    )
    assert stage.heard(claims(inside, own)) == everywhere(claims(inside, own))
    assert stage.not_stopped({**claims(beyond, own), **LIES}) == set()
    stage.describe()
    assert stage.not_stopped(claims(inside, own)) == set()


def test_the_mac_of_a_pair_goes_with_its_address(stage: Stage) -> None:
    pair = AllowedAddressPair(ip_address="10.1.0.100", mac_address=VIRTUAL_MAC)
    stage.describe(make_instance(1, (9,), vifs=(make_vif(1, allowed_address_pairs=(pair,)),)))
    honest = claims("10.1.0.100", VIRTUAL_MAC)
    # Behind it stands keepalived: the frame may be the interface's own.
    honest |= {"from its own": claims("10.1.0.100", VIRTUAL_MAC, stage.vm1.mac).popitem()[1]}
    assert stage.heard(honest) == everywhere(honest)
    lies = claims("10.1.0.100", stage.vm1.mac) | claims(stage.vm1.ip4, VIRTUAL_MAC) | claims("10.1.0.3", VIRTUAL_MAC)
    assert stage.not_stopped(lies) == set()


# --- a vif of one family


def test_a_vif_without_ipv6_advertises_its_link_local_address_only(stage: Stage) -> None:
    stage.describe(make_instance(1, (9,), vifs=(make_vif(1, fixed_ips=("10.1.0.2",)),)))
    own = values.link_local(stage.vm1.mac)

    def said(target: str, source: str) -> Frame:
        return advertisement(stage, target, source=source)

    for _, receiver, device in stage.receivers():
        assert arrives(stage.vm1, receiver, said(own, own), device=device)
        assert arrives(stage.vm1, receiver, Forged(Icmp(kind=135, to="ff02::1"), source=own), device=device)
        for lie in (said(stage.vm1.ip6, own), said(own, stage.vm1.ip6), Forged(Udp(53, to="ff02::1"), source=own)):
            assert refused(stage.vm1, receiver, lie, control=HONEST[CONTROL](stage), device=device)


def test_a_vif_without_ipv4_speaks_no_arp(stage: Stage) -> None:
    """But to see whether an address is free, as DHCP has it."""
    stage.describe(make_instance(1, (9,), vifs=(make_vif(1, fixed_ips=("fd00:1::2",)),)))
    honest = {name: liar for name, liar in HONEST.items() if "ARP" not in name.split() and name != "IPv4"}
    honest |= {name: HONEST[name] for name in ("ARP probe", "RARP")}
    assert stage.heard(honest) == everywhere(honest)
    for _, receiver, device in stage.receivers():
        control = HONEST["ARP probe"](stage)
        assert refused(
            stage.vm1, receiver, arp_request(stage.vm1, wanted=stage.vm2.ip4), control=control, device=device
        )


# --- a port that is nobody's


def test_a_strangers_port_is_deaf_and_mute_until_it_is_described(stage: Stage) -> None:
    site, stranger = stage.site, stage.site.machine(7)
    honest = Stage(site, stranger, stage.vm2, stage.vm3, stage.far)
    site.host.links.set("tap7", master="br1", up=True)
    try:
        eventually_closed(site, "tap7")
        assert heard_at_once(honest, {**HONEST, **LIES}) == set()
        broadcast = arp_request(stage.vm2, wanted=stranger.ip4)
        assert refused(stage.vm2, stranger, broadcast)
        assert arrives(stage.vm2, stage.vm1, broadcast)
        site.put(make_instance(7, (9,)))
        assert honest.heard(HONEST) == everywhere(HONEST)
        assert honest.not_stopped(LIES) == set()
        assert arrives(stage.vm2, stranger, broadcast)
        site.delete(make_instance(7))
        assert site.host.links.all()["tap7"]["master"] is None
        assert heard_at_once(honest, HONEST) == set()
    finally:
        site.host.links.set("tap7", master="")


def heard_at_once(stage: Stage, liars: dict[str, Liar]) -> set[tuple[str, str]]:
    """Which frames arrive, of a sender for whom nothing would: proved by the receiver's wire."""
    return {
        (name, who)
        for name, liar in liars.items()
        for who, receiver, device in stage.receivers()
        if not refused(stage.vm1, receiver, liar(stage), device=device, within=0.05)
    }


def eventually_closed(site: Site, device: str) -> None:
    """The kernel tells of a new port, and the agent closes it: within milliseconds."""
    eventually(lambda: f'"{device}"' in site.host.run(["nft", "list", "set", "bridge", W, "closed"]).stdout, 2)


# --- hairpins


def test_what_a_guest_sends_to_all_does_not_come_back_to_it(stage: Stage) -> None:
    """Its own neighbour solicitation would tell it that its address is taken."""
    for name, liar in HONEST.items():
        probe = liar(stage)
        assert arrives(stage.vm1, stage.vm2, probe), name
        assert refused(stage.vm1, stage.vm1, probe), name
    solicitation = Forged(Icmp(kind=135, to="ff02::1:ff00:2"), source="::")
    assert refused(stage.vm1, stage.vm1, solicitation)


def test_a_guest_reaches_itself_by_its_floating_ip(stage: Stage) -> None:
    """What is for it alone does come back to it, by the same port."""
    stage.site.put(make_floating_ip(1))
    answer = tcp(stage.vm1, "198.51.100.1", 80, server=stage.vm1)
    assert answer
    assert answer.seen_as is not None
    assert answer.seen_as[0] == "198.51.100.1"
    assert refused(stage.vm1, stage.vm1, HONEST[CONTROL](stage))
    assert arrives(stage.vm1, stage.vm2, HONEST[CONTROL](stage))


# --- links that somebody else manages


@pytest.fixture(scope="module")
def unmanaged(make_site: SiteMaker) -> Stage:
    """Bridge, ports and uplink are made by hand."""
    site = make_site({"network": {"manage_links": False}})
    vm1, vm2, vm3, _ = (site.machine(number) for number in (1, 2, 4, 7))
    ports = [f"tap{number}" for number in (1, 2, 4, 7)]
    site.lab.bridge(site.host, "br1", addresses=("10.1.0.1/24", "fd00:1::1/64"), ports=ports)
    far = site.behind("eth1", "10.1.0.20{}/24", bridge="br1")
    site.host.links.wait_running("br1")
    return Stage(site, vm1, vm2, vm3, far)


def test_where_links_are_not_ours_described_vifs_do_not_lie(unmanaged: Stage) -> None:
    unmanaged.describe()
    assert unmanaged.not_stopped(LIES) == set()
    assert unmanaged.heard(HONEST) == everywhere(HONEST)


def test_where_links_are_not_ours_other_ports_are_left_alone(unmanaged: Stage) -> None:
    unmanaged.describe()
    site, other = unmanaged.site, unmanaged.site.machine(7)
    for name, liar in LIES.items():
        probe = liar(Stage(site, other, unmanaged.vm2, unmanaged.vm3, unmanaged.far))
        assert arrives(other, site.host, probe, device="br1"), name
        assert arrives(other, unmanaged.far, probe), name
    assert "tap7" not in site.host.run(["nft", "list", "table", "bridge", W]).stdout


def test_where_links_are_not_ours_a_vif_that_waits_passes_nothing(unmanaged: Stage) -> None:
    waits = make_instance(1, (9,), vifs=(make_vif(1, network=3, fixed_ips=()),))
    unmanaged.describe(waits)
    assert unmanaged.site.status(waits)["state"] == "pending"
    assert heard_at_once(unmanaged, {**HONEST, **LIES}) == set()
    assert refused(unmanaged.vm2, unmanaged.vm1, arp_request(unmanaged.vm2, wanted="10.1.0.2"))
    unmanaged.describe()
    assert unmanaged.heard(HONEST) == everywhere(HONEST)
