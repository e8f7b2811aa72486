"""A security group is one chain a direction, which its members share, and one set a family.

nova and neutron copied each group's rules into every member's chain. Here a rule change
edits one chain, and a new member adds one element to one set.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

from msgspec import Struct

from nova_netagent.compile import group_log
from nova_netagent.compile.memo import Memo
from nova_netagent.compile.parts import Placed, Scope, chain_of, network
from nova_netagent.compile.resolve import Direction, Group, Port, Side, who_names
from nova_netagent.model import DesiredState, Entry, SecurityGroup, SecurityGroupRule, protocols, values
from nova_netagent.model.lineage import changed, follow
from nova_netagent.netfilter.rule import (
    ACCEPT,
    DROP,
    FAMILIES,
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
_LOG_KIND: Mapping[Direction, str] = {"ingress": "lgi", "egress": "lge"}


Limits = tuple[int | None, int | None]
"""A range of ports, or an ICMP type and code."""


def chain_name(group_id: str, direction: Direction, scope: Scope) -> str:
    """The chain of a group's rules of a direction."""
    return scope.chain(f"{_CHAIN_KIND[direction]}-{scope.names.groups[group_id]}")


def log_chain_name(group_id: str, direction: Direction, scope: Scope) -> str:
    """The chain of what a group allows, where that is logged."""
    return scope.chain(f"{_LOG_KIND[direction]}-{scope.names.groups[group_id]}")


def set_name(group_id: str, family: Family, scope: Scope) -> str:
    """The set of the addresses of a group's members."""
    return scope.owner.set(f"g{family}-{scope.names.groups[group_id]}")


class Groups(Struct, frozen=True):
    """The chains of the groups, whoever their members are, and what their rules name."""

    placed: Placed
    remotes: Mapping[Family, frozenset[str]]
    """By family the groups whose members' addresses a rule asks for."""


def place(scope: Scope, memo: Memo, used: Mapping[Side, frozenset[str]]) -> Groups:
    """The chains of the groups that some vif's chain jumps to."""
    placed = Placed()
    known_groups = scope.resolved.known_groups
    remotes: dict[Family, list[_Remotes]] = {family: [] for family in scope.families}
    naming = who_names(scope.resolved.groups, memo)
    part = memo.part("groups")

    def concerned(before: tuple[Any, ...]) -> Iterable[str] | None:
        known, names = before
        if names is not scope.names:
            return None
        return (id_ for remote in known ^ known_groups for id_ in naming.get(remote, ()))

    for side, group_ids in used.items():
        direction, family = side
        members = part.picked(("used groups", side), scope.resolved.groups, group_ids)
        chains = _Chains(side, scope)
        depends_on = (known_groups, scope.names)
        made = part.each(("group chains", side), members, depends_on, chains.make, chains.names, concerned)
        table = "filter" if direction == "ingress" else "mangle"
        placed.add_chains(family, table, made)
        log = scope.settings.security_group_log
        if log.groups:
            told = frozenset(id_ for id_ in members if log.logs(id_, "accept"))
            logged = part.picked(("logged groups", side), members, told)
            names, log_name = (scope.names,), chains.log_name
            placed.add_chains(family, table, part.each(("log chains", side), logged, names, chains.log, log_name))
        remotes[family].append(part.each(("remotes", side), members, (), partial(_remotes, side)))
    wanted = {
        family: part.get(("wanted sets", family), (known_groups, *named), partial(_wanted, known_groups, named))
        for family, named in remotes.items()
    }
    return Groups(placed, {family: part.intern(("set groups", family), ids) for family, ids in wanted.items()})


def sets(scope: Scope, state: DesiredState, memo: Memo, groups: Groups) -> list[Mapping[str, IpSet]]:
    """By family the sets that the groups' rules name."""
    elsewhere = memo.each("elsewhere", state.security_groups, (), _elsewhere)
    return [_sets(scope, elsewhere, memo, family, ids) for family, ids in groups.remotes.items() if ids]


def _elsewhere(_id: str, entry: Entry, _last: tuple[str, ...] | None) -> tuple[str, ...]:
    """The prefixes of a group's members on other hosts."""
    assert isinstance(entry.object, SecurityGroup)
    return entry.object.members or ()


_Remotes = Mapping[str, tuple[str, ...]]
"""The groups that each group's rules name."""


def _remotes(side: Side, _id: str, group: Group, _last: tuple[str, ...] | None) -> tuple[str, ...]:
    return group.remotes.get(side, ())


def _wanted(known: frozenset[str], remotes: Iterable[_Remotes]) -> frozenset[str]:
    return known & {remote for each in remotes for ids in each.values() for remote in ids}


class _Chains:
    """Makes the chains of the groups that have rules of a direction in a family."""

    def __init__(self, side: Side, scope: Scope) -> None:
        self._side = side
        self._scope = scope
        self._allowed: Target = ACCEPT if side[0] == "ingress" else Jump(scope.chain("egress-ok"), goto=True)
        self._known: _Known = {}

    def names(self, id_: str, group: Group) -> tuple[object, ...]:
        """The names that are in a group's chain, its own first."""
        own = chain_name(id_, self._side[0], self._scope)
        return (own, *self._sets(group).values()) if group.remotes else (own,)

    def make(self, id_: str, group: Group, _last: Chain | None) -> Chain:
        """The chain of a group."""
        direction, family = self._side
        sets = self._sets(group) if group.remotes else {}
        allowed, known = self._allowed, self._known
        if self._scope.settings.security_group_log.logs(id_, "accept"):
            allowed, known = Jump(log_chain_name(id_, direction, self._scope), goto=True), {}
        rules = _compile(group.rules[self._side], family, sets, allowed, known)
        name = chain_name(id_, direction, self._scope)
        return Chain(name, tuple(rules), (SecurityGroup.KIND, id_), tuple(rules.values()))

    def log_name(self, id_: str, _group: Group) -> tuple[object, ...]:
        """The name of the chain to which a group that is logged leads."""
        return (log_chain_name(id_, self._side[0], self._scope),)

    def log(self, id_: str, _group: Group, _last: Chain | None) -> Chain:
        """The chain to which a group's rules lead instead where it is logged: it tells, and does the same."""
        direction, _ = self._side
        told = group_log.rule(self._scope.settings.security_group_log, "accept", direction, id_)
        name = log_chain_name(id_, direction, self._scope)
        return chain_of(name, SecurityGroup.KIND, id_, ((told, "log"), (Rule(self._allowed), "")))

    def _sets(self, group: Group) -> dict[str, str]:
        known = self._scope.resolved.groups
        remotes = group.remotes.get(self._side, ())
        return {remote: set_name(remote, self._side[1], self._scope) for remote in remotes if remote in known}


_What = tuple[str | int | None, int | None, int | None, int | None, int | None, str | None, str | None]
"""What a rule is about: protocol, ports or type and code, source ports, prefix, set of a remote group."""
_Known = dict[_What, Rule]
"""The rules of one direction and family that lead to one target."""


def _compile(
    rules: Iterable[SecurityGroupRule], family: Family, sets: Mapping[str, str], allowed: Target, known: _Known
) -> Mapping[Rule, str]:
    """The rules of a chain, each with the id of the first that says it."""
    found: dict[Rule, str] = {}
    for rule in rules:
        remote = rule.remote_group_id
        if remote is not None and remote not in sets:
            continue  # pending: a rule whose remote group is not known lets nobody in
        what = _what(rule, None if remote is None else sets[remote])
        said = known.get(what)
        if said is None:
            known[what] = said = _rule(rule.direction, family, what, allowed)
        found.setdefault(said, rule.id)
    return found


def without_remote(rule: SecurityGroupRule, family: Family) -> Rule:
    """What a rule asks of a packet, but whether it is of a remote group."""
    return _rule(rule.direction, family, _what(rule, None), ACCEPT)


def _what(rule: SecurityGroupRule, remote: str | None) -> _What:
    return (
        rule.protocol,
        rule.port_range_min,
        rule.port_range_max,
        rule.source_port_range_min,
        rule.source_port_range_max,
        rule.remote_ip_prefix,
        remote,
    )


@lru_cache(16384)
def _rule(direction: Direction, family: Family, what: _What, allowed: Target) -> Rule:
    """A rule as tenants write it; egress is allowed in a chain of its own, and so is what is logged."""
    protocol, low, high, source_low, source_high, prefix, remote = what
    matches = tuple(_port_matches(protocol, (low, high), (source_low, source_high), family))
    if remote is not None:
        matches += (InSet(remote, "src" if direction == "ingress" else "dst"),)
    return _one(
        Rule(
            allowed,
            source=network(prefix) if direction == "ingress" else None,
            destination=network(prefix) if direction == "egress" else None,
            protocol=protocols.number(protocol, family),
            matches=matches,
        )
    )


@lru_cache(16384)
def _one(rule: Rule) -> Rule:
    """The one object for all rules that are equal, however they were written."""
    return rule


def _port_matches(protocol: str | int | None, ports: Limits, source_ports: Limits, family: Family) -> Iterator[Match]:
    number = protocols.number(protocol, family)
    low, high = ports
    if number in protocols.WITH_TYPES:
        if low is not None:
            yield Icmp(low, high)
        return
    destination = _port_range(low, high)
    source = _port_range(*source_ports)
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


def _sets(
    scope: Scope, elsewhere: Mapping[str, tuple[str, ...]], memo: Memo, family: Family, ids: frozenset[str]
) -> Mapping[str, IpSet]:
    """The sets of these groups' members in a family, by group."""
    ports = scope.resolved.ports
    members = memo.get("members", (ports,), lambda: _members(ports, memo.last("members")))

    def name(id_: str, _source: _Source) -> tuple[object, ...]:
        return (scope.names.groups[id_],)

    def make(id_: str, source: _Source, _last: IpSet | None) -> IpSet:
        others, here = source
        prefixes = frozenset(cidr for cidr in others if (":" in cidr) == (family == 6))
        origin = (SecurityGroup.KIND, id_, "members")
        return IpSet(set_name(id_, family, scope), family, prefixes.union(*(here or {}).values()), origin)

    picked = memo.picked(("members elsewhere", family), elsewhere, ids)
    sources = memo.paired(("set sources", family), picked, members.here[family])
    return memo.each(("sets", family), sources, (scope.names,), make, name)


_Addresses = Mapping[str, frozenset[str]]
"""Of a group's members here, by instance."""
_Source = tuple[tuple[str, ...], _Addresses | None]
"""The members of a group on other hosts, and those here."""


class _Members(NamedTuple):
    """Who of the instances here is a member of what, and what they were told from."""

    ports: Mapping[str, tuple[Port, ...]]
    here: Mapping[Family, Mapping[str, _Addresses]]
    """By family and group."""


def _members(ports: Mapping[str, tuple[Port, ...]], last: _Members | None) -> _Members:
    before, here = last or _Members({}, {family: {} for family in FAMILIES})
    touched: dict[Family, dict[str, dict[str, frozenset[str]]]] = {family: {} for family in FAMILIES}
    for id_ in changed(before, ports):
        old, new = _memberships(before.get(id_, ())), _memberships(ports.get(id_, ()))
        for key in old.keys() | new.keys():
            if old.get(key) != new.get(key):
                group_id, family = key
                its = touched[family].setdefault(group_id, dict(here[family].get(group_id, {})))
                its.pop(id_, None)
                its |= {id_: new[key]} if key in new else {}
    return _Members(ports, {family: _edited(here[family], groups) for family, groups in touched.items()})


def _edited(here: Mapping[str, _Addresses], touched: Mapping[str, _Addresses]) -> Mapping[str, _Addresses]:
    put = {id_: its for id_, its in touched.items() if its}
    return follow(here, put, [id_ for id_ in touched if id_ in here and id_ not in put])


def _memberships(ports: Iterable[Port]) -> Mapping[tuple[str, Family], frozenset[str]]:
    """The addresses of an instance, by the groups and families in which they are."""
    found: dict[tuple[str, Family], set[str]] = {}
    for port in ports:
        for judge in port.groups if port.network is not None else ():
            for address in port.addresses:
                found.setdefault((judge.id, 6 if ":" in address else 4), set()).add(values.host(address))
    return {key: frozenset(addresses) for key, addresses in found.items()}


def place_provider(scope: Scope, placed: Placed) -> None:
    """What the provider drops for every instance: W-provider, entered before their own rules."""
    for rule in scope.resolved.provider_rules:
        family: Family = 4 if rule.family == 4 else 6
        if family in scope.families:
            compiled = Rule(
                DROP,
                source=network(rule.remote_ip_prefix),
                protocol=protocols.number(rule.protocol, family),
                matches=tuple(
                    _port_matches(rule.protocol, (rule.port_range_min, rule.port_range_max), (None, None), family)
                ),
                origin=("provider_rules", rule.id, ""),
            )
            placed.add(family, "filter", scope.chain("provider"), compiled)
