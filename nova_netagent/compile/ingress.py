"""What may come in: the filter table's W-inst-ID, W-vif-ID and what they share."""

from collections.abc import Iterator, Sequence

from nova_netagent.compile.discovery import DHCP_SERVER, HEARD, LINK_LOCAL, ROUTER_ADVERTISEMENT
from nova_netagent.compile.parts import Scope, network
from nova_netagent.compile.resolve import Judge, Port
from nova_netagent.compile.security_group import chain_name
from nova_netagent.model import values
from nova_netagent.model.protocols import ICMPV6, UDP, UDPLITE
from nova_netagent.netfilter.rule import ACCEPT, DROP, Conntrack, Family, Icmp, Jump, Origin, Rule

REPLIES = Conntrack(frozenset({"RELATED", "ESTABLISHED"}))
DROP_INVALID = Rule(
    # Connection tracking finds every UDP-Lite datagram invalid: it verifies a checksum that
    # UDP-Lite does not have (seen on Linux 6.18 with nf_conntrack_checksum = 1).
    DROP,
    protocol=UDPLITE,
    inverted=frozenset({"protocol"}),
    matches=(Conntrack(frozenset({"INVALID"})),),
)


def shared_chains(family: Family, scope: Scope) -> Iterator[tuple[str, tuple[Rule, ...]]]:
    """What every instance's chain jumps to."""
    yield "established", (DROP_INVALID, Rule(ACCEPT, matches=(REPLIES,)))
    yield "sg-fallback", (Rule(scope.drop),)
    if family == 6:
        yield "discovery", tuple(_discovery())


def _discovery() -> Iterator[Rule]:
    for type_ in HEARD:
        # A router is always heard by its link-local address (RFC 4861, section 6.1.2).
        source = LINK_LOCAL if type_ == ROUTER_ADVERTISEMENT else None
        yield Rule(ACCEPT, source=source, protocol=ICMPV6, matches=(Icmp(type_),))
    yield Rule(ACCEPT, source=LINK_LOCAL, protocol=UDP, matches=(DHCP_SERVER[6],))


def groups_of(port: Port, family: Family) -> Sequence[Judge]:
    """The groups whose ingress chain a vif's chain jumps to."""
    if port.network is None or not port.vif.port_security_enabled:
        return ()
    return [group for group in port.groups if ("ingress", family) in group.sides]


def rules(port: Port, family: Family, scope: Scope) -> Iterator[Rule]:
    """A vif's own rules: replies, DHCP and discovery, the provider's, its network's, its groups'.

    nova has the provider's before DHCP; an instance can always do DHCP here.
    """

    def origin(purpose: str) -> Origin:
        return ("instances", port.instance_id, purpose)

    if port.network is not None and not port.vif.port_security_enabled:
        yield Rule(ACCEPT, origin=origin("port security is off"))
        return
    if port.network is not None:
        if port.stateful:
            yield Rule(Jump(scope.chain("established")), origin=origin("replies"))
        if family == 4:
            server = port.network.server
            source = None if server is None else values.host(server)
            yield Rule(ACCEPT, source=source, protocol=UDP, matches=(DHCP_SERVER[4],), origin=origin("DHCP"))
        else:
            yield Rule(Jump(scope.chain("discovery")), origin=origin("neighbour discovery"))
        yield Rule(Jump(scope.chain("provider")), origin=origin("provider rules"))
        cidr = port.network.range(family)
        if scope.settings.network.allow_same_net_traffic and cidr is not None:
            yield Rule(ACCEPT, source=network(cidr), origin=origin("same network"))
            if family == 6:
                yield Rule(ACCEPT, source=LINK_LOCAL, origin=origin("same network"))
        for group in groups_of(port, family):
            yield Rule(Jump(chain_name(group.id, "ingress", scope)), origin=("security_groups", group.id, ""))
    yield Rule(Jump(scope.chain("sg-fallback")), origin=origin("fallback"))
