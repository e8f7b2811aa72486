"""Random states of a small host: few ids, so that things refer to each other, clash and are missing."""

from hypothesis import strategies as st

from nova_netagent.model import FloatingIP, Instance, Network, ProviderRule, SecurityGroup, SecurityGroupRule, State
from nova_netagent.testing import (
    group_id,
    instance_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    make_vif,
)

NETWORKS, GROUPS, INSTANCES = range(1, 4), range(1, 5), range(1, 8)

PREFIXES = {
    "IPv4": ("0.0.0.0/0", "10.1.0.0/24", "192.0.2.0/24", "203.0.113.7"),
    "IPv6": ("::/0", "fd00:1::/64", "2001:db8:2::/64", "2001:db8::7"),
}


@st.composite
def rules(draw: st.DrawFn, number: int) -> SecurityGroupRule:
    ethertype = draw(st.sampled_from(("IPv4", "IPv6")))
    fields: dict[str, object] = {"direction": draw(st.sampled_from(("ingress", "egress"))), "ethertype": ethertype}
    protocol = draw(st.sampled_from((None, "tcp", "udp", "icmp", "sctp", 47, "112")))
    fields["protocol"] = protocol
    if protocol in ("tcp", "udp", "sctp") and draw(st.booleans()):
        low = draw(st.sampled_from((0, 22, 80, 1024)))
        fields |= {"port_range_min": low, "port_range_max": low + draw(st.sampled_from((0, 1, 1000)))}
        if draw(st.booleans()):
            fields |= {"source_port_range_min": 53, "source_port_range_max": 53}
    elif protocol == "icmp" and draw(st.booleans()):
        fields["port_range_min"] = draw(st.sampled_from((0, 8, 128)))
        if draw(st.booleans()):
            fields["port_range_max"] = 0
    match draw(st.sampled_from(("anywhere", "prefix", "group"))):
        case "prefix":
            fields["remote_ip_prefix"] = draw(st.sampled_from(PREFIXES[ethertype]))
        case "group":
            fields["remote_group_id"] = group_id(draw(st.sampled_from(GROUPS)))
    return make_rule(number, **fields)


@st.composite
def groups(draw: st.DrawFn, number: int) -> SecurityGroup:
    count = draw(st.integers(0, 5))
    return make_group(
        number,
        *(draw(rules(number * 100 + index)) for index in range(count)),
        stateful=draw(st.sampled_from((True, True, False))),
        members=draw(st.lists(st.sampled_from(("10.9.0.5", "10.1.0.0/28", "fd00:9::5", "0.0.0.0/0")), max_size=2)),
    )


@st.composite
def networks(draw: st.DrawFn, number: int) -> Network:
    fields: dict[str, object] = {}
    match draw(
        st.sampled_from(("routed", "routed", "ipv4", "no gateway", "external", "uplink", "vlan", "overlapping"))
    ):
        case "ipv4":
            fields = {"cidr_v6": None, "gateway_v6": None}
        case "no gateway":
            fields = {"gateway": None, "gateway_v6": None}
        case "external":
            fields = {"dhcp_server": f"10.{number}.0.2"}
        case "uplink":
            fields = {"bridge_interface": draw(st.sampled_from(("eth1", "eth2")))}
        case "vlan":
            fields = {"bridge_interface": "eth1", "vlan": draw(st.sampled_from((7, 8)))}
        case "overlapping":
            fields = {"cidr": "10.1.0.0/16", "gateway": "10.1.255.254"}
    return make_network(number, **fields)


@st.composite
def instances(draw: st.DrawFn, number: int, clashing: bool = True) -> Instance:
    vifs = []
    for index in range(draw(st.sampled_from((1, 1, 1, 2)))):
        network = draw(st.sampled_from(NETWORKS))
        vif = number * 10 + index
        fields: dict[str, object] = {"port_security_enabled": draw(st.sampled_from((True, True, True, False)))}
        if clashing and index == 0 and draw(st.sampled_from((False, False, False, True))):
            fields["fixed_ips"] = (f"10.{network}.0.77",)
        if draw(st.sampled_from((False, False, False, True))):
            fields["security_groups"] = (group_id(draw(st.sampled_from(GROUPS))),)
        if draw(st.sampled_from((False, False, True))):
            fields["allowed_address_pairs"] = draw(pairs())
        vifs.append(make_vif(vif, network, **fields))
    member_of = draw(st.lists(st.sampled_from(GROUPS), max_size=3, unique=True))
    return make_instance(number, tuple(member_of), vifs=tuple(vifs))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[object, ...]:
    from nova_netagent.model import AllowedAddressPair

    return (
        AllowedAddressPair(
            ip_address=draw(st.sampled_from(("10.1.0.100", "10.1.0.128/25", "fd00:1::100", "0.0.0.0/0"))),
            mac_address=draw(st.sampled_from((None, "fa:16:3e:ff:ff:01"))),
        ),
    )


@st.composite
def floating_ips(draw: st.DrawFn, number: int) -> FloatingIP:
    return make_floating_ip(
        number,
        fixed_ip_address=f"10.{draw(st.sampled_from(NETWORKS))}.0.{draw(st.sampled_from((11, 21, 77)))}",
        interface=draw(st.sampled_from((None, "eth0"))),
        instance_id=draw(st.sampled_from((None, None, instance_id(1)))),
    )


@st.composite
def provider_rules(draw: st.DrawFn, number: int) -> ProviderRule:
    return make_provider_rule(number, remote_ip_prefix=draw(st.sampled_from(("203.0.113.0/24", "2001:db8:bad::/48"))))


@st.composite
def states(draw: st.DrawFn, clashing: bool = True) -> State:
    """A whole state; ``clashing`` ones have objects that claim what is another's."""
    chosen_networks = draw(st.lists(st.sampled_from(NETWORKS), unique=True))
    return State(
        networks=tuple(
            draw(networks(number)) if clashing else make_network(number) for number in sorted(chosen_networks)
        ),
        security_groups=tuple(draw(groups(n)) for n in sorted(draw(st.lists(st.sampled_from(GROUPS), unique=True)))),
        instances=tuple(
            draw(instances(n, clashing)) for n in sorted(draw(st.lists(st.sampled_from(INSTANCES), unique=True)))
        ),
        floating_ips=tuple(draw(floating_ips(n)) for n in sorted(draw(st.lists(st.integers(1, 4), unique=True)))),
        provider_rules=tuple(draw(provider_rules(n)) for n in sorted(draw(st.lists(st.integers(1, 2), unique=True)))),
    )
