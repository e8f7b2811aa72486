"""Security groups decide real packets: what a rule names is let in, its neighbour is not."""

from dataclasses import dataclass
from typing import Any

import pytest

from nova_netagent.model import SecurityGroupRule
from nova_netagent.model.protocols import DCCP, ICMP, ICMPV6, NUMBERS, TCP, UDP
from nova_netagent.testing import make_group, make_instance, make_rule
from tests.functional.agent.conftest import SiteMaker
from tests.functional.agent.site import ETHERTYPES, Site
from tests.lab import Gre, Icmp, Ip, Sctp, Tcp, Udp, UdpLite, frames, needs, tcp, udp
from tests.lab.probes import IpProbe

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

NO_PROTOCOLS = {4: {0, ICMPV6}, 6: {0, 43, 44, 59, 60}}
"""IPv6 has extension headers where IPv4 has a protocol: both packet filters look past them; after 59 comes nothing."""
AH = 51
AUTHENTICATED = bytes((200, 4)) + bytes(22)
"""An authentication header (RFC 4302) before a packet of protocol 200."""


@dataclass(frozen=True)
class Dccp(Udp):
    """A DCCP request (RFC 4340, section 5)."""

    @property
    def protocol(self) -> int:
        return DCCP

    def transport(self, source: str, destination: str, token: bytes) -> bytes:
        ports = (self.source_port or 0).to_bytes(2, "big") + self.port.to_bytes(2, "big")
        rest = bytes([1, 0, 0]) + (1).to_bytes(6, "big") + b"LAB "  # a request, its sequence number, the service
        unsummed = ports + bytes([5, 0, 0, 0]) + rest + token
        total = frames.checksum(frames.pseudo_header(source, destination, DCCP, len(unsummed)) + unsummed)
        return ports + bytes([5, 0]) + total.to_bytes(2, "big") + rest + token


WITH_PORTS = {"tcp": Tcp, "udp": Udp, "udplite": UdpLite, "sctp": Sctp, "dccp": Dccp}


def opened(family: int, **fields: Any) -> SecurityGroupRule:
    return make_rule(1, ethertype=ETHERTYPES[family], **fields)


def ports(low: int, high: int | None = None) -> dict[str, int]:
    return {"port_range_min": low, "port_range_max": high or low}


def one_of(number: int, family: int) -> IpProbe:
    """A valid packet of a protocol."""
    known: dict[int, IpProbe] = {
        ICMP: Icmp(),
        ICMPV6: Icmp(family=6),
        TCP: Tcp(80, family=family),
        UDP: Udp(80, family=family),
        DCCP: Dccp(80, family=family),
        47: Gre(family=family),
        AH: Ip(AH, header=AUTHENTICATED, family=family),
        132: Sctp(80, family=family),
        136: UdpLite(80, family=family),
    }
    return known.get(number, Ip(number, family=family))


# --- protocols


@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in (4, 6) for name, number in NUMBERS.items() if number not in NO_PROTOCOLS[family]],
)
def test_a_protocol_by_name_and_by_number(site: Site, family: int, name: str) -> None:
    number = ICMPV6 if family == 6 and name == "icmp" else NUMBERS[name]
    stranger = Udp(80, family=family) if number != UDP else Tcp(80, family=family)
    for spelling in (name, number):
        site.describe(make_group(1, opened(family, protocol=spelling)), make_instance(1, (1,)))
        assert site.passes(site.outside, site.vm1, one_of(number, family))
    assert site.stops(site.outside, site.vm1, stranger)
    assert site.stops(site.outside, site.vm1, Ip(200, family=family))


@pytest.mark.parametrize("spelling", ["17", "UDP"])
def test_a_protocol_by_digits_and_in_capitals(site: Site, spelling: str, family: int) -> None:
    site.describe(make_group(1, opened(family, protocol=spelling)), make_instance(1, (1,)))
    assert site.passes(site.outside, site.vm1, Udp(80, family=family))
    assert site.stops(site.outside, site.vm1, Tcp(80, family=family))


@pytest.mark.parametrize("protocol", [None, "ip", 0])
def test_no_protocol_is_any_protocol(site: Site, protocol: str | int | None, family: int) -> None:
    site.describe(make_group(1, opened(family, protocol=protocol)), make_instance(1, (1,)))
    for number in (TCP, UDP, 47, 112, 132, 136, 200, ICMPV6 if family == 6 else ICMP):
        assert site.passes(site.outside, site.vm1, one_of(number, family))
    assert site.stops(site.outside, site.vm1, Tcp(80, family=10 - family))


def test_a_protocol_without_a_name(site: Site, family: int) -> None:
    site.describe(make_group(1, opened(family, protocol=200)), make_instance(1, (1,)))
    assert site.passes(site.outside, site.vm1, Ip(200, family=family))
    assert site.stops(site.outside, site.vm1, Ip(201, family=family))


# --- ports


@pytest.mark.parametrize("protocol", WITH_PORTS)
def test_a_single_port(site: Site, protocol: str, family: int) -> None:
    kind = WITH_PORTS[protocol]
    site.describe(
        make_group(1, opened(family, protocol=protocol, **ports(80))), make_instance(1, (1,)), make_instance(2)
    )
    for sender in (site.outside, site.vm2):
        assert site.passes(sender, site.vm1, kind(80, family=family))
        assert site.stops(sender, site.vm1, kind(79, family=family))
        assert site.stops(sender, site.vm1, kind(81, family=family))
    other = Tcp if kind is not Tcp else Udp
    assert site.stops(site.outside, site.vm1, other(80, family=family))


@pytest.mark.parametrize("protocol", WITH_PORTS)
def test_a_range_of_ports_with_both_its_ends(site: Site, protocol: str, family: int) -> None:
    kind = WITH_PORTS[protocol]
    site.describe(make_group(1, opened(family, protocol=protocol, **ports(1000, 2000))), make_instance(1, (1,)))
    for port in (1000, 1500, 2000):
        assert site.passes(site.outside, site.vm1, kind(port, family=family))
    for port in (999, 2001):
        assert site.stops(site.outside, site.vm1, kind(port, family=family))


@pytest.mark.parametrize("protocol", WITH_PORTS)
def test_a_source_port(site: Site, protocol: str, family: int) -> None:
    kind = WITH_PORTS[protocol]
    rule = opened(family, protocol=protocol, source_port_range_min=500, source_port_range_max=510)
    site.describe(make_group(1, rule), make_instance(1, (1,)))
    for port in (500, 510):
        assert site.passes(site.outside, site.vm1, kind(7, source_port=port, family=family))
    for port in (499, 511):
        assert site.stops(site.outside, site.vm1, kind(7, source_port=port, family=family))
    assert site.stops(site.outside, site.vm1, kind(505, source_port=7, family=family))


@pytest.mark.parametrize("protocol", WITH_PORTS)
def test_source_and_destination_port_at_once(site: Site, protocol: str, family: int) -> None:
    kind = WITH_PORTS[protocol]
    rule = opened(family, protocol=protocol, **ports(80), source_port_range_min=500, source_port_range_max=500)
    site.describe(make_group(1, rule), make_instance(1, (1,)))
    assert site.passes(site.outside, site.vm1, kind(80, source_port=500, family=family))
    assert site.stops(site.outside, site.vm1, kind(80, source_port=501, family=family))
    assert site.stops(site.outside, site.vm1, kind(81, source_port=500, family=family))


def test_the_first_and_the_last_port(site: Site, family: int) -> None:
    rules = (
        opened(family, protocol="udp", port_range_min=0, port_range_max=0),
        make_rule(2, ethertype=ETHERTYPES[family], protocol="udp", **ports(65535)),
    )
    site.describe(make_group(1, *rules), make_instance(1, (1,)))
    for port in (0, 65535):
        assert site.passes(site.outside, site.vm1, Udp(port, family=family))
    for port in (1, 65534):
        assert site.stops(site.outside, site.vm1, Udp(port, family=family))


# --- ICMP


@pytest.mark.parametrize("spelling", ["icmp", 1, "1"])
def test_an_icmp_type(site: Site, spelling: str | int) -> None:
    site.describe(make_group(1, opened(4, protocol=spelling, port_range_min=8)), make_instance(1, (1,)))
    assert site.passes(site.outside, site.vm1, Icmp(kind=8))
    assert site.passes(site.outside, site.vm1, Icmp(kind=8, code=3))
    assert site.stops(site.outside, site.vm1, Icmp(kind=13))
    assert site.stops(site.outside, site.vm1, Udp(8))


def test_an_icmp_code(site: Site) -> None:
    site.describe(make_group(1, opened(4, protocol="icmp", **ports(8, 3))), make_instance(1, (1,)))
    assert site.passes(site.outside, site.vm1, Icmp(kind=8, code=3))
    assert site.stops(site.outside, site.vm1, Icmp(kind=8, code=2))
    assert site.stops(site.outside, site.vm1, Icmp(kind=13, code=3))


@pytest.mark.parametrize("spelling", ["icmp", "icmpv6", "ipv6-icmp", 58, "58"])
def test_an_icmpv6_type(site: Site, spelling: str | int) -> None:
    site.describe(make_group(1, opened(6, protocol=spelling, port_range_min=128)), make_instance(1, (1,)))
    assert site.passes(site.outside, site.vm1, Icmp(kind=128, family=6))
    assert site.passes(site.outside, site.vm1, Icmp(kind=128, code=3, family=6))
    assert site.stops(site.outside, site.vm1, Icmp(kind=139, family=6))


def test_an_icmpv6_code(site: Site) -> None:
    site.describe(
        make_group(1, opened(6, protocol="icmpv6", port_range_min=139, port_range_max=1)), make_instance(1, (1,))
    )
    assert site.passes(site.outside, site.vm1, Icmp(kind=139, code=1, family=6))
    assert site.stops(site.outside, site.vm1, Icmp(kind=139, code=0, family=6))
    assert site.stops(site.outside, site.vm1, Icmp(kind=128, code=1, family=6))


def test_icmp_type_0_is_a_type(site: Site) -> None:
    """Not "any"."""
    site.describe(make_group(1, opened(4, protocol="icmp", port_range_min=0), stateful=False), make_instance(1, (1,)))
    assert site.passes(site.outside, site.vm1, Icmp(kind=0))
    assert site.stops(site.outside, site.vm1, Icmp(kind=8))


# --- where from


@pytest.mark.parametrize(
    ("prefix", "here", "elsewhere"),
    [
        ("192.0.2.1", True, False),
        ("192.0.2.1/32", True, False),
        ("192.0.2.0/28", True, False),
        ("192.0.2.77/28", False, True),
        ("192.0.2.0/24", True, True),
        ("0.0.0.0/0", True, True),
        ("10.0.0.0/8", False, False),
        ("2001:db8:2::1", True, False),
        ("2001:db8:2::/123", True, False),
        ("2001:db8:2::77/123", False, True),
        ("2001:db8:2::/64", True, True),
        ("::/0", True, True),
        ("fd00::/8", False, False),
    ],
)
def test_a_prefix(site: Site, prefix: str, here: bool, elsewhere: bool) -> None:
    family = 6 if ":" in prefix else 4
    site.describe(make_group(1, opened(family, protocol="tcp", remote_ip_prefix=prefix)), make_instance(1, (1,)))
    for sender, allowed in ((site.outside, here), (site.elsewhere, elsewhere)):
        judged = site.passes if allowed else site.stops
        assert judged(sender, site.vm1, Tcp(80, family=family))
    assert site.stops(site.outside, site.vm1, Udp(80, family=family))


# --- families, several groups, changes


def test_a_rule_is_of_one_family(site: Site, family: int) -> None:
    site.describe(make_group(1, opened(family)), make_instance(1, (1,)), make_instance(2))
    for sender in (site.outside, site.vm2):
        assert site.passes(sender, site.vm1, Tcp(80, family=family))
        assert site.stops(sender, site.vm1, Tcp(80, family=10 - family))


def test_conversations_through_an_open_port(site: Site, family: int) -> None:
    site.describe(
        make_group(
            1,
            opened(family, protocol="tcp", **ports(80)),
            make_rule(2, ethertype=ETHERTYPES[family], protocol="udp", **ports(53)),
        ),
        make_instance(1, (1,)),
        make_instance(2),
    )
    for sender in (site.outside, site.vm2):
        assert tcp(sender, site.vm1, 80, family=family)
        assert udp(sender, site.vm1, 53, family=family)


def test_each_of_several_groups_opens_what_it_names(site: Site, family: int) -> None:
    site.describe(
        make_group(1, opened(family, protocol="tcp", **ports(80))),
        make_group(2, opened(family, protocol="tcp", **ports(443))),
        make_group(3, opened(family, protocol="tcp", **ports(22))),
        make_instance(1, (1, 2)),
    )
    assert site.passes(site.outside, site.vm1, Tcp(80, family=family))
    assert site.passes(site.outside, site.vm1, Tcp(443, family=family))
    assert site.stops(site.outside, site.vm1, Tcp(22, family=family))


def test_members_of_one_group_are_open_alike(site: Site, family: int) -> None:
    site.describe(
        make_group(1, opened(family, protocol="tcp", **ports(80))),
        make_instance(1, (1,)),
        make_instance(2, (1,)),
        make_instance(3, (), network=2),
    )
    for receiver in (site.vm1, site.vm2):
        assert site.passes(site.outside, receiver, Tcp(80, family=family))
        assert site.stops(site.outside, receiver, Tcp(81, family=family))
    assert site.stops(site.outside, site.vm3, Tcp(80, family=family))


def test_of_two_equal_rules_one_may_go(site: Site, family: int) -> None:
    twice = [make_rule(n, ethertype=ETHERTYPES[family], protocol="tcp", **ports(80)) for n in (1, 2)]
    site.describe(make_group(1, *twice), make_instance(1, (1,)))
    assert site.passes(site.outside, site.vm1, Tcp(80, family=family))
    site.put(make_group(1, twice[1]))
    assert site.passes(site.outside, site.vm1, Tcp(80, family=family))
    site.put(make_group(1))
    assert site.stops(site.outside, site.vm1, Tcp(80, family=family))


def test_a_rule_counts_as_soon_as_its_group_is_accepted(site: Site, family: int) -> None:
    site.describe(make_group(1), make_instance(1, (1,)))
    for port in (80, 81, 82):
        site.put(make_group(1, opened(family, protocol="tcp", **ports(port))))
        assert site.passes(site.outside, site.vm1, Tcp(port, family=family))
        assert site.stops(site.outside, site.vm1, Tcp(port - 1, family=family))


def test_a_group_that_comes_or_goes(site: Site, family: int) -> None:
    group = make_group(1, opened(family, protocol="tcp"))
    site.describe(make_instance(1, (1,)))
    assert site.status(make_instance(1))["state"] == "pending"
    assert site.stops(site.outside, site.vm1, Tcp(80, family=family))
    site.put(group)
    assert site.status(make_instance(1))["state"] == "done"
    assert site.passes(site.outside, site.vm1, Tcp(80, family=family))
    site.delete(group)
    assert site.status(make_instance(1))["state"] == "pending"
    assert site.stops(site.outside, site.vm1, Tcp(80, family=family))


def test_an_instance_that_leaves_its_group(site: Site, family: int) -> None:
    site.describe(make_group(1, opened(family, protocol="tcp")), make_instance(1, (1,)))
    assert site.passes(site.outside, site.vm1, Tcp(80, family=family))
    site.put(make_instance(1))
    assert site.stops(site.outside, site.vm1, Tcp(80, family=family))


def test_an_instance_that_is_deleted_gets_and_sends_nothing(site: Site, family: int) -> None:
    site.describe(make_group(1, opened(family)), make_instance(1, (1,)), make_instance(2, (1,)))
    assert site.passes(site.vm2, site.vm1, Tcp(80, family=family))
    site.delete(make_instance(1))
    for other in (site.outside, site.vm2):
        assert site.stops(other, site.vm1, Tcp(80, family=family))
        assert site.stops(site.vm1, other, Tcp(80, family=family))


# --- what is done to what is refused


def test_what_is_refused_may_be_rejected(make_site: SiteMaker, family: int) -> None:
    """iptables_drop_action = REJECT: the sender is told, routed or bridged."""
    site = make_site({"firewall": {"iptables_drop_action": "REJECT"}})
    rule = opened(family, protocol="udp", **ports(80))
    site.describe(make_group(1, rule), make_instance(1, (1,)), make_instance(2))
    for sender in (site.outside, site.vm2):
        assert udp(sender, site.vm1, 80, family=family)
        assert site.stops(sender, site.vm1, Udp(81, family=family))
        assert udp(sender, site.vm1, 81, family=family, timeout=0.3, server=site.host).reason == "Connection refused"
