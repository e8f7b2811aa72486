"""CONTRACT's "In and out", written down a second time, and asked about random hosts and packets.

The second writing knows no chains: it looks at the described objects alone.
"""

from dataclasses import dataclass

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from nova_netagent.model import (
    Instance,
    Network,
    ProviderRule,
    SecurityGroup,
    SecurityGroupRule,
    State,
    Vif,
    protocols,
    values,
)
from nova_netagent.model.protocols import ICMP, ICMPV6, TCP, UDP
from nova_netagent.netfilter.rule import Family
from tests.properties.strategies import states
from tests.unit.compile.world import ELSEWHERE, OUTSIDE, End, World, host, make_settings


@dataclass(frozen=True)
class Sent:
    """A packet's header."""

    family: Family
    source: str
    destination: str
    protocol: int
    source_port: int
    port: int
    icmp: tuple[int, int]
    state: str


@dataclass
class Contract:
    """What the contract says of a host."""

    described: State
    egress_default: str
    allow_same_net_traffic: bool

    def passes(self, sent: Sent, sender: Vif | None, receiver: Vif | None) -> bool:
        """Whether a packet of an honest sender gets through: both sides must agree."""
        return (sender is None or self._may_send(sender, sent)) and (receiver is None or self._may_get(receiver, sent))

    def _may_send(self, vif: Vif, sent: Sent) -> bool:
        network = self._network(vif)
        if network is None:
            return False
        if not vif.port_security_enabled:
            return True
        groups, missing = self._groups(vif)
        rules = [rule for group in groups for rule in group.rules if rule.direction == "egress"]
        if not (self.egress_default == "deny" or missing or rules):
            return True
        everything = any(
            rule.family == sent.family
            and protocols.number(rule.protocol, rule.family) is None
            and rule.remote_group_id is None
            and (rule.remote_ip_prefix is None or rule.remote_ip_prefix.endswith("/0"))
            for rule in rules
        )
        if everything:
            return True  # also what connection tracking finds invalid: nothing is judged
        if self._stateful(groups):
            if sent.state == "INVALID":
                return False
            if sent.state == "ESTABLISHED":
                return True
        if sent.port == 53 and sent.protocol in (TCP, UDP):
            servers = (network.dhcp_server or network.gateway, network.gateway_v6, network.dns1, network.dns2)
            if sent.destination in servers:
                return True
        return any(self._names(rule, sent, sent.destination) for rule in rules)

    def _may_get(self, vif: Vif, sent: Sent) -> bool:
        network = self._network(vif)
        if network is None:
            return False
        if not vif.port_security_enabled:
            return True
        groups, _ = self._groups(vif)
        if self._stateful(groups):
            if sent.state == "INVALID":
                return False
            if sent.state == "ESTABLISHED":
                return True
        if any(self._provider_drops(rule, sent) for rule in self.described.provider_rules or ()):
            return False
        own = network.range(sent.family)
        if self.allow_same_net_traffic and own is not None and _inside(sent.source, own):
            return True
        return any(
            self._names(rule, sent, sent.source)
            for group in groups
            for rule in group.rules
            if rule.direction == "ingress"
        )

    def _names(self, rule: SecurityGroupRule, sent: Sent, other: str) -> bool:
        if rule.family != sent.family or not _names_ports(rule, sent):
            return False
        low, high = rule.source_port_range_min, rule.source_port_range_max
        if low is not None and high is not None and not low <= sent.source_port <= high:
            return False
        if rule.remote_group_id is not None:
            return self._is_member(other, rule.remote_group_id)
        return rule.remote_ip_prefix is None or _inside(other, rule.remote_ip_prefix)

    def _provider_drops(self, rule: ProviderRule, sent: Sent) -> bool:
        return rule.family == sent.family and _names_ports(rule, sent) and _inside(sent.source, rule.remote_ip_prefix)

    def _is_member(self, address: str, group_id: str) -> bool:
        for group in self.described.security_groups or ():
            if group.id == group_id:
                here = [
                    fixed
                    for instance in self.described.instances or ()
                    for vif in instance.vifs
                    if group_id in instance.groups_of(vif) and self._network(vif) is not None
                    for fixed in vif.fixed_ips
                ]
                return address in here or any(_inside(address, cidr) for cidr in group.members or ())
        return False

    def _network(self, vif: Vif) -> Network | None:
        return next((each for each in self.described.networks or () if each.id == vif.network_id), None)

    def _groups(self, vif: Vif) -> tuple[list[SecurityGroup], bool]:
        (instance,) = [each for each in self.described.instances or () if vif in each.vifs]
        known = {group.id: group for group in self.described.security_groups or ()}
        wanted = instance.groups_of(vif)
        return [known[id_] for id_ in wanted if id_ in known], any(id_ not in known for id_ in wanted)

    @staticmethod
    def _stateful(groups: list[SecurityGroup]) -> bool:
        return not groups or any(group.stateful for group in groups)


def _names_ports(rule: SecurityGroupRule | ProviderRule, sent: Sent) -> bool:
    number = protocols.number(rule.protocol, sent.family)
    if number is None:
        return True
    if number != sent.protocol:
        return False
    low, high = rule.port_range_min, rule.port_range_max
    if number in (ICMP, ICMPV6):
        return low in (None, sent.icmp[0]) and high in (None, sent.icmp[1])
    return low is None or high is None or low <= sent.port <= high


def _inside(address: str, cidr: str) -> bool:
    return values.prefix(cidr).contains(values.prefix(address))


def _end(vif: Vif) -> End:
    ipv4, ipv6 = vif.fixed_ips
    return End(vif.device, ipv4, ipv6)


def _vifs(instances: tuple[Instance, ...]) -> list[Vif]:
    return [vif for instance in instances for vif in instance.vifs]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(states(clashing=False), st.data())
def test_packets_go_as_the_contract_says(described: State, data: st.DataObject) -> None:
    options = {
        "egress_default": data.draw(st.sampled_from(("allow", "deny"))),
        "allow_same_net_traffic": data.draw(st.booleans()),
        "manage_links": True,
    }
    world = World(*described.objects(), settings=make_settings(**options))
    contract = Contract(described, str(options["egress_default"]), bool(options["allow_same_net_traffic"]))
    known = {network.id for network in described.networks or ()}
    here = [vif for vif in _vifs(described.instances or ()) if vif.network_id in known]
    assume(here)
    people: list[tuple[End, Vif | None]] = [(_end(vif), vif) for vif in here]
    strangers: list[tuple[End, Vif | None]] = [(OUTSIDE, None), (ELSEWHERE, None)]
    strangers += [
        (host(n), None) for n in range(1, 4) if any(each.bridge == f"br{n}" for each in described.networks or ())
    ]
    for _ in range(12):
        family: Family = data.draw(st.sampled_from((4, 6)))
        one, other = data.draw(st.sampled_from(people)), data.draw(st.sampled_from([*people, *strangers]))
        (source, sender), (destination, receiver) = data.draw(st.permutations((one, other)))
        if source == destination:
            continue
        icmp = ICMP if family == 4 else ICMPV6
        sent = Sent(
            family=family,
            source=source.address(family),
            destination=destination.address(family),
            protocol=data.draw(st.sampled_from((TCP, UDP, icmp, 132, 47, 112))),
            source_port=data.draw(st.sampled_from((53, 40000))),
            port=data.draw(st.sampled_from((0, 22, 23, 53, 80, 81, 1023, 2024, 2025))),
            icmp=data.draw(st.sampled_from(((0, 0), (8, 0), (8, 1), (128, 0), (128, 1)))),
            state=data.draw(st.sampled_from(("NEW", "NEW", "NEW", "ESTABLISHED", "INVALID"))),
        )
        journey = world.send(
            source,
            destination,
            sent.protocol,
            sent.port,
            family=family,
            source_port=sent.source_port,
            icmp=sent.icmp if sent.protocol == icmp else None,
            state=sent.state,
        )
        expected = contract.passes(sent, sender, receiver)
        event(f"{'vif' if sender else 'other'} to {'vif' if receiver else 'other'}: {expected}")
        assert journey.passed == expected, (sent, journey.chains)
