"""An instance speaks as itself, whatever its groups say and whomever it speaks to."""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from nova_netagent.model import AllowedAddressPair, document, values
from nova_netagent.testing import make_group, make_instance, make_network, make_rule, make_vif
from tests.functional.agent.site import Site
from tests.lab import Forged, Frame, Icmp, Namespace, Tcp, Udp, arrives, frames, needs, refused
from tests.lab.probes import IpProbe

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

OPEN = make_group(
    1,
    *(
        make_rule(n, direction=direction, ethertype=ethertype)
        for n, (direction, ethertype) in enumerate(
            (direction, ethertype) for direction in ("ingress", "egress") for ethertype in ("IPv4", "IPv6")
        )
    ),
)
STRANGE_MAC = "02:00:00:00:00:09"
VIRTUAL_MAC = "00:00:5e:00:01:05"
LIES = {
    4: ("10.1.0.3", "10.1.0.1", "10.1.0.99", "10.2.0.4", "192.0.2.77", "127.0.0.1", "169.254.169.254"),
    6: ("fd00:1::3", "fd00:1::1", "fd00:1::99", "fd00:2::4", "2001:db8:2::77", "::1"),
}


@pytest.fixture
def honest(site: Site) -> Site:
    """Groups allow everything: what is refused is refused as a lie."""
    site.describe(OPEN, make_instance(1, (1,)), make_instance(2, (1,)), make_instance(3, (1,), 2))
    return site


def everybody(site: Site) -> tuple[Namespace, ...]:
    """A neighbour, one on another network, the host, the outside."""
    return site.vm2, site.vm3, site.host, site.outside


def link_local(number: int) -> str:
    return values.link_local(make_vif(number).address)


# --- whose address, whose MAC


def test_the_truth_passes(honest: Site, family: int) -> None:
    for receiver in everybody(honest):
        assert honest.passes(honest.vm1, receiver, Forged(Udp(53, family=family)))


@pytest.mark.parametrize("lie", [*LIES[4], *LIES[6]])
def test_another_address(honest: Site, lie: str) -> None:
    family = 6 if ":" in lie else 4
    for receiver in everybody(honest):
        assert honest.stops(honest.vm1, receiver, Forged(Udp(53, family=family), source=lie))


@pytest.mark.parametrize("mac", [STRANGE_MAC, make_vif(2).address], ids=["strange", "a neighbour's"])
def test_another_mac(honest: Site, mac: str, family: int) -> None:
    for receiver in everybody(honest):
        assert honest.stops(honest.vm1, receiver, Forged(Udp(53, family=family), source_mac=mac))


def test_somebody_elses_address_and_mac_at_once(honest: Site, family: int) -> None:
    lie = Forged(Udp(53, family=family), source=LIES[family][0], source_mac=honest.vm2.mac)
    for receiver in (honest.vm3, honest.host, honest.outside):
        assert honest.stops(honest.vm1, receiver, lie)


@pytest.mark.parametrize("to", ["10.1.0.255", "255.255.255.255", "224.0.0.251", "ff02::1"])
def test_a_lie_to_everybody(honest: Site, to: str) -> None:
    lie = LIES[6 if ":" in to else 4][0]
    assert honest.passes(honest.vm1, honest.vm2, Udp(53, to=to))
    assert honest.stops(honest.vm1, honest.vm2, Forged(Udp(53, to=to), source=lie))


def test_a_flow_that_exists_is_no_excuse(honest: Site, family: int) -> None:
    """Neither one's own nor, by its address, a neighbour's."""
    assert honest.passes(honest.vm2, honest.outside, Udp(53, source_port=5000, family=family))
    lie = Forged(Udp(53, source_port=5000, family=family), source=LIES[family][0])
    assert honest.stops(honest.vm1, honest.outside, lie, state="ESTABLISHED")
    assert honest.passes(honest.vm2, honest.outside, Udp(53, source_port=5000, family=family), state="ESTABLISHED")


def test_a_link_local_address_is_that_of_the_mac(honest: Site) -> None:
    for receiver in (honest.vm2, honest.host):
        probe = Udp(53, to="ff02::1")
        assert honest.passes(honest.vm1, receiver, Forged(probe, source=link_local(1)))
        for lie in (link_local(2), "fe80::1"):
            assert honest.stops(honest.vm1, receiver, Forged(probe, source=lie))
    to_neighbour = Udp(53, to=link_local(2))
    assert honest.passes(honest.vm1, honest.vm2, Forged(to_neighbour, source=link_local(1)))
    assert honest.stops(honest.vm1, honest.vm2, Forged(to_neighbour, source="fe80::1"))


def test_nobody_may_only_look_for_an_address(honest: Site) -> None:
    """What is sent before there is an address: a DHCP request, a solicitation."""
    solicitation = Icmp(kind=135, to="ff02::1:ff00:2", device="br1")
    assert honest.passes(honest.vm1, honest.vm2, Forged(solicitation, source="::"))
    for probe in (Icmp(kind=128, to="ff02::1"), Udp(53, to="ff02::1"), Icmp(kind=136, to="ff02::1")):
        assert honest.stops(honest.vm1, honest.vm2, Forged(probe, source="::"))
    everybody = "255.255.255.255"
    discover = Forged(Udp(67, source_port=68, to=everybody), source="0.0.0.0")
    assert honest.passes(honest.vm1, honest.vm2, discover)
    others = Udp(67, source_port=69, to=everybody), Udp(68, source_port=68, to=everybody), Udp(67, source_port=68)
    for probe in others:
        assert honest.stops(honest.vm1, honest.vm2, Forged(probe, source="0.0.0.0"))


def test_a_lie_leaves_nothing_in_the_connection_table(honest: Site, family: int) -> None:
    assert honest.passes(honest.vm1, honest.outside, Forged(Udp(53, source_port=5001, family=family)))
    unnoticed = Udp(53, source_port=5002, family=family)
    for lie in (Forged(unnoticed, source=LIES[family][0]), Forged(unnoticed, source_mac=STRANGE_MAC)):
        assert honest.stops(honest.vm1, honest.outside, lie)
    tracked = honest.host.run(["conntrack", "-L", "-f", f"ipv{family}"]).stdout
    assert "sport=5001 " in tracked
    assert "sport=5002 " not in tracked


# --- servers and routers


@pytest.mark.parametrize("source_port", [67, 1067])
def test_no_instance_is_a_dhcp_server(honest: Site, source_port: int) -> None:
    """A client takes an offer from any port."""
    for receiver in everybody(honest):
        assert honest.stops(honest.vm1, receiver, Udp(68, source_port=source_port))
        assert honest.passes(honest.vm1, receiver, Udp(69, source_port=source_port))
    assert honest.stops(honest.vm1, honest.vm2, Udp(68, source_port=source_port, to="255.255.255.255"))


@pytest.mark.parametrize("source_port", [547, 1547])
def test_no_instance_is_a_dhcpv6_server(honest: Site, source_port: int) -> None:
    for receiver in everybody(honest):
        assert honest.stops(honest.vm1, receiver, Udp(546, source_port=source_port, family=6))
    assert honest.stops(honest.vm1, honest.vm2, Udp(546, source_port=source_port, to=link_local(2)))
    assert honest.passes(honest.vm1, honest.vm2, Udp(545, source_port=source_port, to=link_local(2)))


@pytest.mark.parametrize("kind", [134, 137], ids=["router advertisement", "redirect"])
def test_no_instance_is_a_router(honest: Site, kind: int) -> None:
    for receiver in everybody(honest):
        assert honest.stops(honest.vm1, receiver, Icmp(kind=kind, family=6))
    for receiver in (honest.vm2, honest.host):
        assert honest.stops(honest.vm1, receiver, Icmp(kind=kind, to="ff02::1"))
        assert honest.passes(honest.vm1, receiver, Icmp(kind=135, to="ff02::1"))


# --- the same, disguised


@dataclass(frozen=True)
class Wrapped(IpProbe):
    """An ICMPv6 message behind an extension header."""

    kind: int
    number: int
    header: bytes

    @property
    def protocol(self) -> int:
        return self.number

    def transport(self, source: str, destination: str, token: bytes) -> bytes:
        return self.header + frames.icmp(source, destination, self.kind, 0, token)


HOP_BY_HOP = (0, bytes([58, 0, 1, 4, 0, 0, 0, 0]))
DESTINATION_OPTIONS = (60, bytes([58, 0, 1, 4, 0, 0, 0, 0]))
ATOMIC_FRAGMENT = (44, struct.pack("!BBHI", 58, 0, 0, 7))


@pytest.mark.parametrize(
    "header", [HOP_BY_HOP, DESTINATION_OPTIONS, ATOMIC_FRAGMENT], ids=["hops", "options", "fragment"]
)
@pytest.mark.parametrize("kind", [134, 137])
def test_a_router_behind_an_extension_header(honest: Site, header: tuple[int, bytes], kind: int) -> None:
    assert arrives(honest.vm1, honest.vm2, Forged(Wrapped(128, *header, to="ff02::1")))
    assert refused(honest.vm1, honest.vm2, Forged(Wrapped(kind, *header, to="ff02::1")))


def in_fragments(sender: Namespace, build: Callable[[bytes], Iterable[bytes]]) -> Frame:
    """A packet in several frames, of which the last one has the token; the others go ahead of it."""

    def last(token: bytes) -> bytes:
        *ahead, rest = build(token)
        for frame in ahead:
            sender.wire().send(frame)
        return rest

    return Frame(last)


@pytest.mark.parametrize("kind", [134, 137])
def test_a_router_in_fragments(honest: Site, kind: int) -> None:
    """RFC 6980: the type stands in the first fragment, behind options."""
    source, to = "fd00:1::2", "ff02::1"

    def message(kind: int) -> Frame:
        def build(token: bytes) -> Iterator[bytes]:
            whole = bytes([58, 0, 1, 4, 0, 0, 0, 0]) + frames.icmp(source, to, kind, 0, token)
            for offset, more, part in ((0, 1, whole[:16]), (16, 0, whole[16:])):
                packet = frames.ip(source, to, 44, struct.pack("!BBHI", 60, 0, offset | more, kind) + part)
                yield frames.ethernet(frames.multicast_mac(to), honest.vm1.mac, frames.ETH_IPV6, packet)

        return in_fragments(honest.vm1, build)

    assert arrives(honest.vm1, honest.vm2, message(128))
    assert refused(honest.vm1, honest.vm2, message(kind))


def test_a_dhcp_server_in_fragments(honest: Site) -> None:
    """The ports stand in the first fragment."""
    source, to = "10.1.0.2", "10.1.0.3"

    def message(port: int) -> Frame:
        def build(token: bytes) -> Iterator[bytes]:
            whole = struct.pack("!HHHH", 67, port, 16 + len(token), 0) + bytes(8) + token
            for offset, more, part in ((0, 1, whole[:16]), (2, 0, whole[16:])):
                packet = bytearray(frames.ip(source, to, 17, part))
                struct.pack_into("!HHBBH", packet, 4, port, offset | more << 13, 64, 17, 0)
                struct.pack_into("!H", packet, 10, frames.checksum(bytes(packet[:20])))
                yield frames.ethernet(honest.vm2.mac, honest.vm1.mac, frames.ETH_IPV4, bytes(packet))

        return in_fragments(honest.vm1, build)

    assert arrives(honest.vm1, honest.vm2, message(69))
    assert refused(honest.vm1, honest.vm2, message(68))


# --- allowed pairs


@pytest.mark.parametrize(
    ("pair", "inside", "beyond"),
    [
        ("10.1.0.100", "10.1.0.100", "10.1.0.101"),
        ("10.1.0.128/25", "10.1.0.200", "10.1.0.127"),
        ("172.16.0.0/16", "172.16.5.5", "172.17.0.1"),
        ("fd00:1::100", "fd00:1::100", "fd00:1::101"),
        ("fd00:5::/64", "fd00:5::1", "fd00:6::1"),
    ],
)
def test_the_address_of_a_pair_is_the_truth(site: Site, pair: str, inside: str, beyond: str) -> None:
    family = 6 if ":" in pair else 4
    vif = make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address=pair),))
    site.describe(OPEN, make_instance(1, (1,), vifs=(vif,)), make_instance(2, (1,)))
    for receiver in (site.vm2, site.host, site.outside):
        assert site.passes(site.vm1, receiver, Forged(Udp(53, family=family), source=inside))
        assert site.passes(site.vm1, receiver, Forged(Udp(53, family=family)))
        assert site.stops(site.vm1, receiver, Forged(Udp(53, family=family), source=beyond))
        assert site.stops(site.vm2, receiver, Forged(Udp(53, family=family), source=inside)) or receiver is site.vm2
    with_other_mac = Forged(Udp(53, family=family), source=inside, source_mac=VIRTUAL_MAC)
    assert site.stops(site.vm1, site.vm2, with_other_mac)


def test_the_mac_of_a_pair_goes_with_its_address(site: Site, family: int) -> None:
    pair = "10.1.0.100" if family == 4 else "fd00:1::100"
    vif = make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address=pair, mac_address=VIRTUAL_MAC),))
    site.describe(OPEN, make_instance(1, (1,), vifs=(vif,)), make_instance(2, (1,)))
    probe = Udp(53, family=family)
    assert site.passes(site.vm1, site.vm2, Forged(probe, source=pair, source_mac=VIRTUAL_MAC))
    assert site.passes(site.vm1, site.vm2, Forged(probe))
    assert site.stops(site.vm1, site.vm2, Forged(probe, source=pair))
    assert site.stops(site.vm1, site.vm2, Forged(probe, source_mac=VIRTUAL_MAC))


def test_a_pair_of_everything_makes_no_server(site: Site) -> None:
    pairs = tuple(AllowedAddressPair(ip_address=each) for each in ("0.0.0.0/0", "::/0"))
    vif = make_vif(1, allowed_address_pairs=pairs)
    site.describe(OPEN, make_instance(1, (1,), vifs=(vif,)), make_instance(2, (1,)))
    for source in ("203.0.113.5", "2001:db8:5::5"):
        family = 6 if ":" in source else 4
        assert site.passes(site.vm1, site.vm2, Forged(Udp(53, family=family), source=source))
        assert site.stops(site.vm1, site.vm2, Forged(Udp(53, family=family), source=source, source_mac=STRANGE_MAC))
    assert site.stops(site.vm1, site.vm2, Udp(68, source_port=67))
    assert site.stops(site.vm1, site.vm2, Icmp(kind=134, to="ff02::1"))


# --- port security off


def test_without_port_security_an_instance_may_be_anybody(site: Site, family: int) -> None:
    free = make_instance(1, vifs=(make_vif(1, port_security_enabled=False),))
    site.describe(OPEN, free, make_instance(2, (1,)))
    lie = "203.0.113.5" if family == 4 else "2001:db8:5::5"
    for receiver in (site.vm2, site.host, site.outside):
        assert site.passes(site.vm1, receiver, Forged(Udp(53, family=family), source=lie, source_mac=STRANGE_MAC))
        assert site.stops(site.vm2, receiver, Forged(Udp(53, family=family), source=lie)) or receiver is site.vm2


def test_without_port_security_an_instance_may_serve_and_route(site: Site) -> None:
    free = make_instance(1, vifs=(make_vif(1, port_security_enabled=False),))
    also_free = make_instance(2, vifs=(make_vif(2, port_security_enabled=False),))
    site.describe(free, also_free)
    assert site.passes(site.vm1, site.vm2, Udp(68, source_port=67))
    assert site.passes(site.vm1, site.vm2, Udp(546, source_port=547, family=6))
    for kind in (134, 137):
        assert site.passes(site.vm1, site.vm2, Icmp(kind=kind, to="ff02::1"))


def test_without_port_security_everything_comes_in(site: Site, family: int) -> None:
    free = make_instance(1, vifs=(make_vif(1, port_security_enabled=False),))
    site.describe(free, make_instance(2, vifs=(make_vif(2),)))
    for sender in (site.outside, site.vm2, site.host):
        assert site.passes(sender, site.vm1, Tcp(22, family=family))
    assert site.passes(site.outside, site.vm1, Icmp(kind=0 if family == 4 else 129, family=family))
    assert site.stops(site.outside, site.vm2, Tcp(22, family=family))


# --- a vif of one family


def test_a_vif_without_ipv6_says_no_more_than_discovery(site: Site) -> None:
    only_4 = make_instance(1, vifs=(make_vif(1, fixed_ips=("10.1.0.2",)),))
    site.describe(OPEN, only_4, make_instance(2, (1,)))
    for receiver in (site.vm2, site.host):
        for kind in (133, 135):
            assert site.passes(site.vm1, receiver, Icmp(kind=kind, to="ff02::1"))
    for probe in (Udp(53, to="ff02::1"), Icmp(kind=128, to="ff02::1"), Udp(53, family=6)):
        assert site.stops(site.vm1, site.vm2, probe)
    assert site.stops(site.vm1, site.outside, Udp(53, family=6))
    assert site.passes(site.vm1, site.outside, Udp(53))


def test_a_vif_without_ipv4_says_no_more_than_dhcp(site: Site) -> None:
    only_6 = make_instance(1, vifs=(make_vif(1, fixed_ips=("fd00:1::2",)),))
    site.describe(OPEN, only_6, make_instance(2, (1,)))
    assert site.passes(site.vm1, site.vm2, Udp(53, family=6))
    for receiver in (site.vm2, site.outside, site.host):
        assert site.stops(site.vm1, receiver, Udp(53))
    discover = Forged(Udp(67, source_port=68, to="255.255.255.255"), source="0.0.0.0")
    assert site.passes(site.vm1, site.host, discover)


def test_an_address_outside_the_network_is_nobodys(site: Site) -> None:
    """A fixed IP that is in error may not be used."""
    wrong = make_instance(1, (1,), vifs=(make_vif(1, fixed_ips=("10.1.0.2", "10.7.0.2")),))
    site.describe(OPEN, wrong, make_instance(2, (1,)))
    assert site.status(wrong)["state"] == "error"
    assert site.passes(site.vm1, site.vm2, Forged(Udp(53)))
    assert site.stops(site.vm1, site.vm2, Forged(Udp(53), source="10.7.0.2"))


def test_an_address_that_another_has_is_still_the_others(site: Site) -> None:
    site.describe(OPEN, make_instance(2, (1,)), make_network(1), make_network(2))
    thief = make_instance(1, (1,), vifs=(make_vif(1, fixed_ips=("10.1.0.2", "10.1.0.3")),))
    site.agent.request("PUT", f"/v1/instances/{thief.id}", document(thief))
    assert site.status(thief)["state"] == "error"
    lie = Forged(Udp(53), source="10.1.0.3", via=site.gateway_mac(site.vm1))
    assert refused(site.vm1, site.outside, lie)  # the body of a state does not tell the walker who is the older
    assert arrives(site.vm2, site.outside, Udp(53))


# --- not closed yet


def test_a_tag_is_no_disguise(honest: Site, family: int) -> None:
    tagged: dict[str, Any] = {"vlan": 7, "source": LIES[family][2]}
    assert refused(honest.vm1, honest.vm2, Forged(Udp(53, family=family), **tagged))
