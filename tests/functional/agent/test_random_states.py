"""Law 7, asked at random: whatever is described, both packet filters and the walker give every packet one verdict.

Every day a few states of each configuration; ``tools/test states`` takes a thousand of them, or NETAGENT_STATES.
"""

import os
from dataclasses import dataclass, replace
from itertools import chain, permutations
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from nova_netagent.model import AllowedAddressPair, FloatingIP, Instance, Network, ProviderRule, SecurityGroup, Vif
from nova_netagent.testing import (
    group_id,
    make_floating_ip,
    make_instance,
    make_network,
    make_provider_rule,
    make_vif,
)
from tests.functional.agent.conftest import SiteMaker
from tests.functional.agent.site import Site
from tests.lab import Forged, Gre, Icmp, Ip, Namespace, Sctp, Seen, Tcp, Udp, UdpLite, needs
from tests.lab.agent import BACKENDS
from tests.lab.probes import IpProbe
from tests.properties import strategies

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "as nova": {
        "network": {"fixed_range": "10.0.0.0/8", "dmz_cidr": "192.0.2.77/32", "allow_same_net_traffic": True},
        "metadata": {"metadata_host": "192.0.2.77"},
    },
    "as neutron": {
        "network": {"fixed_range": "10.1.0.0/16", "public_interface": None},
        "firewall": {"egress_default": "deny"},
    },
}
MACHINES = {1: 1, 2: 1, 3: 2, 4: 2}
"""The network of each vif's machine."""
PACKETS = 40
"""So many for each state."""
STATES = int(os.environ.get("NETAGENT_STATES", "16"))


# --- what is described


@st.composite
def networks(draw: st.DrawFn) -> list[Network]:
    first = make_network(1, **draw(st.sampled_from(({}, {"bridge_interface": "eth1"}))))
    second: dict[str, Any] = draw(st.sampled_from(({}, {}, {"gateway": "10.2.0.254", "dhcp_server": "10.2.0.1"})))
    return [first, make_network(2, **second)] if draw(st.integers(0, 5)) else [first]


@st.composite
def vifs(draw: st.DrawFn, number: int) -> Vif:
    fields: dict[str, Any] = {}
    if not draw(st.integers(0, 5)):
        fields["port_security_enabled"] = False
    if not draw(st.integers(0, 3)):
        address = draw(st.sampled_from(("10.1.0.100", "10.1.0.128/25", "10.1.0.3", "fd00:1::/64", "0.0.0.0/0", "::/0")))
        mac = draw(st.sampled_from((None, "02:00:00:00:00:09")))
        fields["allowed_address_pairs"] = (AllowedAddressPair(ip_address=address, mac_address=mac),)
    if not draw(st.integers(0, 3)):
        fields["security_groups"] = tuple(draw(st.lists(some_group, max_size=1)))
    return make_vif(number, MACHINES[number], **fields)


some_group = st.sampled_from(strategies.GROUPS).map(group_id)


@st.composite
def instances(draw: st.DrawFn) -> list[Instance]:
    """Four vifs, of four instances or three; sometimes not all of them."""
    of = draw(st.sampled_from(({1: [1], 2: [2], 3: [3], 4: [4]}, {1: [1, 3], 2: [2], 4: [4]}, {2: [2, 1], 3: [3]})))
    return [
        make_instance(
            number,
            tuple(draw(st.lists(st.sampled_from(strategies.GROUPS), max_size=2, unique=True))),
            vifs=tuple(draw(vifs(vif)) for vif in taps),
        )
        for number, taps in of.items()
    ]


@st.composite
def groups(draw: st.DrawFn) -> list[SecurityGroup]:
    """Most of the groups that somebody may name."""
    return [draw(strategies.groups(number)) for number in strategies.GROUPS if draw(st.integers(0, 7))]


@st.composite
def others(draw: st.DrawFn) -> list[FloatingIP | ProviderRule]:
    fixed = st.sampled_from(sorted(MACHINES))
    floating = [
        make_floating_ip(number, vif, MACHINES[vif], interface=draw(st.sampled_from((None, "eth0"))))
        for number in (1, 2)
        for vif in (draw(fixed),)
    ]
    prefixes = st.sampled_from(("192.0.2.77/32", "2001:db8:2::77/128", "10.1.0.3/32"))
    protocol = draw(st.sampled_from((None, "tcp")))
    provider = make_provider_rule(1, remote_ip_prefix=draw(prefixes), protocol=protocol)
    return [*draw(st.lists(st.sampled_from(floating), unique=True)), *draw(st.lists(st.just(provider), max_size=1))]


states = st.tuples(networks(), groups(), instances(), others()).map(lambda parts: [*chain(*parts)])


# --- what is sent


PORTS = st.sampled_from((22, 23, 53, 67, 68, 80, 81, 1023, 1024, 2024, 2025))


@st.composite
def probes(draw: st.DrawFn, family: int) -> IpProbe:
    source_port = draw(st.sampled_from((None, None, 53, 67, 68)))
    kinds = (0, 8, 13) if family == 4 else (128, 129, 139, 134, 135, 136, 137)
    rest = draw(st.integers(1, 2**32 - 1))
    probe: IpProbe = draw(
        st.one_of(
            st.builds(Tcp, PORTS, source_port=st.just(source_port), family=st.just(family)),
            st.builds(Udp, PORTS, source_port=st.just(source_port), family=st.just(family)),
            st.builds(Sctp, PORTS, family=st.just(family)),
            st.builds(UdpLite, PORTS, family=st.just(family)),
            st.builds(
                Icmp,
                kind=st.sampled_from(kinds),
                code=st.sampled_from((0, 0, 1)),
                rest=st.just(rest),
                family=st.just(family),
            ),
            st.just(Gre(family=family)),
            st.just(Ip(112, family=family)),
        )
    )
    return probe


LIES = {4: ("10.1.0.3", "10.1.0.99", "10.1.0.200", "203.0.113.5"), 6: ("fd00:1::3", "fd00:1::99", "2001:db8:5::5")}
FOR_ALL = {4: ("255.255.255.255", "224.0.0.1"), 6: ("ff02::1",)}
PEOPLE = ("vm1", "vm2", "vm3", "vm4", "far", "host", "outside", "elsewhere")


@dataclass(frozen=True)
class Sent:
    """What somebody sends to somebody else, and in which way."""

    sender: str
    receiver: str
    probe: IpProbe
    way: Literal["plain", "by floating IP", "to all", "forged", "routed"]
    floating: int
    to_all: str
    source: str | None
    source_mac: str | None


@st.composite
def packets(draw: st.DrawFn) -> Sent:
    sender, receiver = draw(st.sampled_from([*permutations(PEOPLE, 2)]))
    family = draw(st.sampled_from((4, 6)))
    return Sent(
        sender,
        receiver,
        draw(probes(family)),
        way=draw(st.sampled_from(("plain", "plain", "plain", "by floating IP", "to all", "forged", "routed"))),
        floating=draw(st.integers(0, 1)),
        to_all=draw(st.sampled_from(FOR_ALL[family])),
        source=draw(st.sampled_from((None, *LIES[family]))),
        source_mac=draw(st.sampled_from((None, None, "02:00:00:00:00:09"))),
    )


class Places:
    """Where packets come from and go to."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.machines = {f"vm{number}": site.machine(number, network) for number, network in MACHINES.items()}
        site.describe(make_network(1, bridge_interface="eth1"))
        far = site.behind("eth1", "10.1.0.20{}/24", bridge="br1")
        far.links.add_address("eth0", "fd00:1::209/64")
        far.ip6 = "fd00:1::209"
        far.links.add_route("default", via="10.1.0.1")
        far.links.add_route("default6", via="fd00:1::1", device="eth0")
        self.machines["far"] = far
        for station in (site.outside, site.elsewhere):
            station.links.add_route("198.51.100.0/24", via=site.host.ip4)  # also to those that are bound nowhere
            for which in ("all", "eth0"):  # from where the host sends them elsewhere, which they would not forget
                station.sysctl(f"net/ipv4/conf/{which}/accept_redirects", 0)

    def describe(self, described: list[Any]) -> None:
        """Tell the agent; from then on those take part who can be found by their neighbours."""
        self.site.describe(*described)
        self.floating = [each.id for each in described if isinstance(each, FloatingIP)] or ["198.51.100.1"]
        gateways = {name: self.site.gateway_mac(machine) for name, machine in self.machines.items()}
        if not any(isinstance(each, Network) and each.bridge_interface for each in described):
            gateways["far"] = None  # nobody hears its discovery, which the walker does not see
        self.gateways = {name: mac for name, mac in gateways.items() if mac is not None}
        self.people = {name: self.machines[name] for name in self.gateways}
        self.people |= {"host": self.site.host, "outside": self.site.outside, "elsewhere": self.site.elsewhere}

    def addressed(self, sent: Sent) -> IpProbe | Forged:
        """The packet, if it can be had in the way that was drawn; otherwise a plain one."""
        bridged = sent.sender in self.gateways
        match sent.way:
            case "by floating IP" if sent.probe.family == 4 and sent.receiver not in ("outside", "elsewhere"):
                return replace(sent.probe, to=self.floating[sent.floating % len(self.floating)])
            case "to all" if bridged and sent.receiver in self.gateways:
                return replace(sent.probe, to=sent.to_all)
            case "forged" if bridged:
                return Forged(sent.probe, source=sent.source, source_mac=sent.source_mac)
            case "routed" if bridged:
                return Forged(sent.probe, via=self.gateways[sent.sender])
        return sent.probe


@pytest.fixture(scope="module")
def backend() -> str:
    """Every test here asks all packet filters."""
    return BACKENDS[0]


@pytest.fixture(scope="module", params=CONFIGS)
def places(request: pytest.FixtureRequest, make_site: SiteMaker) -> list[Places]:
    """Hosts of one configuration, one for each packet filter."""
    return [Places(make_site(CONFIGS[request.param], backend)) for backend in BACKENDS]


@settings(
    max_examples=STATES // len(CONFIGS),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(states, st.lists(packets(), min_size=PACKETS, max_size=PACKETS))
def test_kernel_and_walker_agree(places: list[Places], described: list[Any], sent: list[Sent]) -> None:
    for one in places:
        one.describe(described)
        for each in sent:
            if each.sender in one.people and each.receiver in one.people:
                _send(one, each)


def _send(places: Places, sent: Sent) -> None:
    places.site.forget_flows()
    sender, receiver, probe = places.people[sent.sender], places.people[sent.receiver], places.addressed(sent)
    seen = places.site.judge(sender, receiver, probe)
    event(f"{sent.way}: {'passes' if seen else 'stops'}")
    reply = _reply(probe, seen, sender, receiver)
    if reply is not None and receiver is not places.site.host:  # which has many addresses to answer from
        replied = places.site.judge(receiver, sender, reply, state="ESTABLISHED")
        event(f"reply: {'passes' if replied else 'stops'}")


def _reply(probe: IpProbe | Forged, seen: Seen | None, sender: Namespace, receiver: Namespace) -> Udp | None:
    """The answer to a datagram that nobody translated."""
    if seen is None or type(probe) is not Udp or seen.source_port is None:
        return None
    family = probe.family
    if seen.source != sender.ip(family) or probe.to not in (None, receiver.ip(family)):
        return None
    return Udp(seen.source_port, source_port=probe.port, to=seen.source)
