"""What may come in: the filter table's W-inst-ID, W-vif-ID and W-net-ID, and what all share."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from msgspec.structs import replace

from nova_netagent.compile import group_log
from nova_netagent.compile.discovery import DHCP_SERVER, HEARD, LINK_LOCAL, ROUTER_ADVERTISEMENT
from nova_netagent.compile.parts import Reasoned, Scope, judged_by, network
from nova_netagent.compile.resolve import Judge, Port
from nova_netagent.compile.security_group import chain_name
from nova_netagent.model import Network, values
from nova_netagent.model.protocols import ICMPV6, UDP, UDPLITE
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import ACCEPT, DROP, Conntrack, Family, Icmp, Jump, Rule

_ANYTHING = Rule(ACCEPT)
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
    yield "sg-fallback", (Rule(scope.drop),)
    if family == 6:
        yield "discovery", tuple(_discovery())


def _discovery() -> Iterator[Rule]:
    for type_ in HEARD:
        # A router is always heard by its link-local address (RFC 4861, section 6.1.2).
        source = LINK_LOCAL if type_ == ROUTER_ADVERTISEMENT else None
        yield Rule(ACCEPT, source=source, protocol=ICMPV6, matches=(Icmp(type_),))
    yield Rule(ACCEPT, source=LINK_LOCAL, protocol=UDP, matches=(DHCP_SERVER[6],))


def network_chain(network_id: str, scope: Scope) -> str:
    """W-net-ID: what any stateful vif of a network hears."""
    return scope.chain(f"net-{scope.names.networks[network_id]}")


def heard(each: Network, family: Family, scope: Scope) -> Iterator[Rule]:
    """The rules of W-net-ID: replies, and what brings a vif to life.

    One chain for all vifs, with nothing but one jump to it in each of theirs.
    """
    yield replace(DROP_INVALID, origin=("networks", each.id, "replies"))
    yield Rule(ACCEPT, matches=(REPLIES,), origin=("networks", each.id, "replies"))
    rule, why = _comes_to_life(scope.owner.wrap_name, family, each.server)
    yield replace(rule, origin=("networks", each.id, why))


def groups_of(port: Port, family: Family) -> Sequence[Judge]:
    """The groups whose ingress chain a vif's chain jumps to."""
    if port.network is None or not port.vif.port_security_enabled:
        return ()
    return [group for group in port.groups if ("ingress", family) in group.sides]


def rules(port: Port, family: Family, scope: Scope) -> Sequence[Reasoned]:
    """A vif's own rules: replies, DHCP and discovery, the provider's, its network's, its groups'.

    nova has the provider's before DHCP; an instance can always do DHCP here.
    """
    fallback = (scope.jump("sg-fallback"), "fallback")
    if port.network is None:
        return [fallback]
    if not port.vif.port_security_enabled:
        return [(_ANYTHING, "port security is off")]
    same_net = port.network.range(family) if scope.settings.network.allow_same_net_traffic else None
    shared = network_chain(port.network.id, scope) if port.stateful else None
    found = [*_of_its_network(scope.owner.wrap_name, family, shared, port.network.server, same_net)]
    found += [(judged_by(chain_name(group.id, "ingress", scope), group.id), "") for group in groups_of(port, family)]
    log = scope.settings.security_group_log
    if group_log.is_refusal_logged(log, port):
        found.append((group_log.rule(log, "drop", "ingress", port.instance_id), "log"))
    found.append(fallback)
    return found


@lru_cache(4096)
def _of_its_network(
    wrap_name: str, family: Family, shared: str | None, server: str | None, same_net: str | None
) -> tuple[Reasoned, ...]:
    """What the vifs of a network have in common: the same objects for all of them."""
    found: list[Reasoned] = []
    if shared is None:
        found.append(_comes_to_life(wrap_name, family, server))
    else:
        found.append((Rule(Jump(shared)), "replies and its network's services"))
    found.append((Rule(Jump(Owner(wrap_name).chain("provider"))), "provider rules"))
    if same_net is not None:
        found.append((Rule(ACCEPT, source=network(same_net)), "same network"))
        if family == 6:
            found.append((Rule(ACCEPT, source=LINK_LOCAL), "same network"))
    return tuple(found)


def _comes_to_life(wrap_name: str, family: Family, server: str | None) -> Reasoned:
    """What is heard whether the groups are stateful or not: the network's DHCP, neighbour discovery."""
    if family == 6:
        return Rule(Jump(Owner(wrap_name).chain("discovery"))), "neighbour discovery"
    source = None if server is None else values.host(server)
    return Rule(ACCEPT, source=source, protocol=UDP, matches=(DHCP_SERVER[4],)), "DHCP"
