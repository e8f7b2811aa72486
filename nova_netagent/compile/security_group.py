"""A security group is one chain a direction, which its members share, and one set a family.

nova and neutron copied each group's rules into every member's chain. Here a rule change
edits one chain, and a new member adds one element to one set.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from nova_netagent.compile.memo import Memo
from nova_netagent.compile.parts import Placed, Scope, network
from nova_netagent.compile.resolve import Direction, Side
from nova_netagent.model import ProviderRule, SecurityGroup, SecurityGroupRule, protocols
from nova_netagent.netfilter.rule import (
    ACCEPT,
    DROP,
    Chain,
    Family,
    Icmp,
    InSet,
    IpSet,
    Jump,
    Match,
    MultiPort,
    PortRange,
    Ports,
    Rule,
    Target,
)

_CHAIN_KIND: Mapping[Direction, str] = {"ingress": "sgi", "egress": "sge"}


def chain_name(group_id: str, direction: Direction, scope: Scope) -> str:
    """The chain of a group's rules of a direction."""
    return scope.chain(f"{_CHAIN_KIND[direction]}-{scope.names.groups[group_id]}")


def set_name(group_id: str, family: Family, scope: Scope) -> str:
    """The set of the addresses of a group's members."""
    return scope.owner.set(f"g{family}-{scope.names.groups[group_id]}")


def rules_of(group: SecurityGroup, direction: Direction, family: Family) -> list[SecurityGroupRule]:
    """A group's rules of one direction and family."""
    return [rule for rule in group.rules if rule.direction == direction and rule.family == family]


def place(scope: Scope, memo: Memo, placed: Placed, used: Mapping[Side, Iterable[str]]) -> dict[str, IpSet]:
    """The chains of the groups that some vif's chain jumps to, and the sets their rules name."""
    remotes: set[tuple[str, Family]] = set()
    for side, group_ids in used.items():
        direction, family = side
        table = "filter" if direction == "ingress" else "mangle"
        for group_id in sorted(group_ids):
            group = scope.resolved.groups[group_id]
            known = [remote for remote in group.remotes.get(side, ()) if remote in scope.resolved.groups]
            named = {remote: set_name(remote, family, scope) for remote in known}
            name = chain_name(group_id, direction, scope)
            compiled = partial(_chain, name, group.definition, direction, family, named, scope.chain("egress-ok"))
            depends_on = (group, name, *named.values())
            placed.add_chain(family, table, memo.get(("group chain", group_id, side), depends_on, compiled))
            remotes |= {(remote, family) for remote in named}
    return {each.name: each for each in _sets(scope, memo, remotes)}


def _chain(
    name: str, group: SecurityGroup, direction: Direction, family: Family, sets: Mapping[str, str], egress_ok: str
) -> Chain:
    return Chain(name, tuple(_compile(group, direction, family, sets, egress_ok)))


def _compile(
    group: SecurityGroup, direction: Direction, family: Family, sets: Mapping[str, str], egress_ok: str
) -> Iterator[Rule]:
    target: Target = ACCEPT if direction == "ingress" else Jump(egress_ok, goto=True)
    seen = set()
    for rule in rules_of(group, direction, family):
        if rule.remote_group_id is not None and rule.remote_group_id not in sets:
            continue  # pending: a rule whose remote group is not known lets nobody in
        compiled = _rule(rule, direction, family, sets, target)
        if compiled not in seen:
            seen.add(compiled)
            yield _with_origin(compiled, ("security_groups", group.id, rule.id))


def _with_origin(rule: Rule, origin: tuple[str, str, str]) -> Rule:
    return Rule(
        rule.target,
        source=rule.source,
        destination=rule.destination,
        protocol=rule.protocol,
        matches=rule.matches,
        origin=origin,
    )


def _rule(
    rule: SecurityGroupRule, direction: Direction, family: Family, sets: Mapping[str, str], target: Target
) -> Rule:
    remote = network(rule.remote_ip_prefix)
    matches = tuple(_port_matches(rule, family))
    if rule.remote_group_id is not None:
        matches += (InSet(sets[rule.remote_group_id], "src" if direction == "ingress" else "dst"),)
    return Rule(
        target,
        source=remote if direction == "ingress" else None,
        destination=remote if direction == "egress" else None,
        protocol=protocols.number(rule.protocol, family),
        matches=matches,
    )


def _port_matches(rule: SecurityGroupRule | ProviderRule, family: Family) -> Iterator[Match]:
    number = protocols.number(rule.protocol, family)
    low, high = rule.port_range_min, rule.port_range_max
    if number in protocols.WITH_TYPES:
        if low is not None:
            yield Icmp(low, high)
        return
    destination = _port_range(low, high)
    source = None
    if isinstance(rule, SecurityGroupRule):
        source = _port_range(rule.source_port_range_min, rule.source_port_range_max)
    if source is None and destination is None:
        return
    if number == protocols.TCP:
        yield Ports("tcp", source, destination)
    elif number == protocols.UDP:
        yield Ports("udp", source, destination)
    else:
        if source is not None:
            yield MultiPort("source", source)
        if destination is not None:
            yield MultiPort("destination", destination)


def _port_range(low: int | None, high: int | None) -> PortRange | None:
    """A range as a match: every port is no match at all."""
    return None if low is None or high is None or (low, high) == (0, 65535) else (low, high)


def _sets(scope: Scope, memo: Memo, wanted: set[tuple[str, Family]]) -> Iterator[IpSet]:
    members: dict[tuple[str, Family], set[str]] = {}
    if wanted:
        for port in scope.all_ports:
            for judge in port.groups:
                for address in port.addresses if port.network is not None else ():
                    members.setdefault((judge.id, 6 if ":" in address else 4), set()).add(address)
    for group_id, family in sorted(wanted):
        group = scope.resolved.groups[group_id]
        addresses = {f"{address}/{32 if family == 4 else 128}" for address in members.get((group_id, family), ())}
        elsewhere = {cidr for cidr in group.definition.members or () if (":" in cidr) == (family == 6)}
        name = set_name(group_id, family, scope)
        yield memo.intern(
            ("set", name),
            IpSet(name, family, frozenset(addresses | elsewhere), ("security_groups", group_id, "members")),
        )


def place_provider(scope: Scope, placed: Placed) -> None:
    """What the provider drops for every instance: W-provider, entered before their own rules."""
    for rule in scope.resolved.provider_rules:
        family: Family = 4 if rule.family == 4 else 6
        if family in scope.families:
            compiled = Rule(
                DROP,
                source=network(rule.remote_ip_prefix),
                protocol=protocols.number(rule.protocol, family),
                matches=tuple(_port_matches(rule, family)),
                origin=("provider_rules", rule.id, ""),
            )
            placed.add(family, "filter", scope.chain("provider"), compiled)
