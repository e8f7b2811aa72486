"""What instances may send: mangle PREROUTING, before NAT, for the host and everybody else alike.

Egress is free, as in nova-network, until a group has an egress rule or the operator says
``egress_default = deny``. A group's chain is shared by its members and so cannot end the
walk of one of them: RETURN would only lead to the next group, and ACCEPT would hide the
packet from foreign rules of the table. A mark (``[firewall] egress_mark``) says "allowed";
it is taken off before the packet leaves our chains.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from nova_netagent.compile import group_log
from nova_netagent.compile.discovery import DHCP_CLIENT, SENT
from nova_netagent.compile.ingress import DROP_INVALID, REPLIES
from nova_netagent.compile.metadata import METADATA_IP, METADATA_PORT
from nova_netagent.compile.parts import Reasoned, Scope, judged_by
from nova_netagent.compile.resolve import Judge, Port
from nova_netagent.compile.security_group import chain_name
from nova_netagent.model import values
from nova_netagent.model.protocols import ICMPV6, TCP, UDP
from nova_netagent.netfilter.rule import DROP, RETURN, Family, Icmp, Jump, Mark, Ports, Rule, SetMark


def shared_chains(family: Family, scope: Scope) -> Iterator[tuple[str, tuple[Rule, ...]]]:
    """What every judged vif's chain jumps to."""
    mark = scope.settings.firewall.egress_mark
    yield "egress-ok", (Rule(SetMark(mark, mark)),)
    yield "egress-done", (Rule(SetMark(0, mark)),)
    yield "services", tuple(_services(family, scope))
    yield "sg-fallback", (Rule(DROP),)


def _services(family: Family, scope: Scope) -> Iterator[Rule]:
    """DHCP, neighbour discovery and the metadata service are always allowed."""
    ok = Jump(scope.chain("egress-ok"), goto=True)
    yield Rule(ok, protocol=UDP, matches=(DHCP_CLIENT[family],))
    if family == 6:
        for type_ in SENT:
            yield Rule(ok, protocol=ICMPV6, matches=(Icmp(type_),))
        return
    to_metadata = Ports("tcp", destination=(METADATA_PORT, METADATA_PORT))
    yield Rule(ok, destination=METADATA_IP, protocol=TCP, matches=(to_metadata,))


def is_judged(port: Port, family: Family, scope: Scope) -> bool:
    """Whether what a vif sends is judged at all, in a family.

    A group that is not known yet may have an egress rule: it counts as one that has.
    """
    if port.network is None or not port.vif.port_security_enabled:
        return False
    restricted = (
        scope.settings.firewall.egress_default == "deny"
        or port.missing_group
        or any(group.restricts_egress for group in port.groups)
    )
    return restricted and not any(family in group.open_egress for group in port.groups)


def groups_of(port: Port, family: Family) -> Sequence[Judge]:
    """The groups whose egress chain a judged vif's chain jumps to."""
    return [group for group in port.groups if ("egress", family) in group.sides]


def rules(port: Port, family: Family, scope: Scope) -> Iterator[Reasoned]:
    """W-out-ID: replies, what is always allowed, what its groups allow, and nothing else."""
    mark = scope.settings.firewall.egress_mark
    if port.stateful:
        yield DROP_INVALID, "replies"
        yield _RETURN_REPLIES, "replies"
    for address in _dns_servers(port, family):
        for protocol in (UDP, TCP):
            yield _dns(address, protocol), "DNS"
    yield scope.jump("egress-done"), "not allowed yet"
    yield scope.jump("services"), "services"
    for group in groups_of(port, family):
        yield judged_by(chain_name(group.id, "egress", scope), group.id), ""
    yield _marked(mark, scope.chain("egress-done")), "allowed"
    if group_log.is_refusal_logged(scope.settings.security_group_log, port):
        yield group_log.rule(scope.settings.security_group_log, "drop", "egress", port.instance_id), "log"
    yield scope.jump("sg-fallback"), "fallback"


_RETURN_REPLIES = Rule(RETURN, matches=(REPLIES,))


@lru_cache(4096)
def _dns(address: str, protocol: int) -> Rule:
    ports = Ports("udp" if protocol == UDP else "tcp", destination=(53, 53))
    return Rule(RETURN, destination=values.host(address), protocol=protocol, matches=(ports,))


@lru_cache(64)
def _marked(mark: int, done: str) -> Rule:
    return Rule(Jump(done, goto=True), matches=(Mark(mark, mark),))


def _dns_servers(port: Port, family: Family) -> list[str]:
    assert port.network is not None
    own = port.network.server if family == 4 else port.network.gateway_v6
    given = [address for address in (own, port.network.dns1, port.network.dns2) if address is not None]
    return [address for address in dict.fromkeys(given) if (":" in address) == (family == 6)]
