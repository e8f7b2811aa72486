"""What of the desired state can be done: references looked up, claims settled, problems named.

What refers to something that is not there is pending, what contradicts something older
is in error, and both fail closed for the part concerned only. Nothing here knows rules.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any, Literal

from msgspec import Struct

from nova_netagent.compile.interfaces import Interfaces, Oldest, interfaces
from nova_netagent.compile.memo import Memo
from nova_netagent.compile.uplinks import Uplink, contested, uplinks_of
from nova_netagent.model import (
    Claim,
    DesiredState,
    Entry,
    FloatingIP,
    Instance,
    Key,
    Network,
    Object,
    ProviderRule,
    SecurityGroup,
    SecurityGroupRule,
    Vif,
    protocols,
    values,
)
from nova_netagent.model.lineage import changed, ordered
from nova_netagent.model.objects import ETHERTYPES
from nova_netagent.netfilter.rule import FAMILIES, Family
from nova_netagent.settings import Settings

Problem = tuple[Literal["pending", "error"], str]
METADATA_ADDRESS = "169.254.169.254"
NO_NAT = "this kernel has no nat table for IPv4"


Direction = Literal["ingress", "egress"]
Side = tuple[Direction, Family]


class Judge(Struct, frozen=True, gc=False):
    """What a vif must know of one of its groups: the same value as long as its rules are about the same."""

    id: str
    stateful: bool
    sides: frozenset[Side]
    """The directions and families in which it has rules."""
    open_egress: frozenset[Family]
    """The families in which a rule allows everything out."""

    @property
    def restricts_egress(self) -> bool:
        """Whether it has a say in what its members may send."""
        return ("egress", 4) in self.sides or ("egress", 6) in self.sides


_is_stateful = attrgetter("stateful")


class Group(Struct, frozen=True, gc=False):
    """The rules of a security group, and what they are about: looked up once for thousands of members."""

    judge: Judge
    remotes: Mapping[Side, tuple[str, ...]]
    """The groups that its rules name, by side."""
    rules: Mapping[Side, tuple[SecurityGroupRule, ...]]
    """Its rules by side."""
    described: tuple[SecurityGroupRule, ...]
    """All of them, in the order in which they were described."""


class Port(Struct, frozen=True, gc=False):
    """A vif and what it may be: its network, its addresses, who judges it."""

    vif: Vif
    instance_id: str
    network: Network | None
    """``None``: the vif passes nothing."""
    holds_device: bool
    """Whether the tap of that name is this vif's and not an older one's."""
    addresses: tuple[str, ...]
    """The fixed IPs that are valid and its own."""
    groups: tuple[Judge, ...]
    missing_group: bool
    problems: tuple[Problem, ...]

    @property
    def stateful(self) -> bool:
        """Judged flow by flow: unless every group of a vif that has some is stateless."""
        return not self.groups or any(map(_is_stateful, self.groups))


class Resolved(Struct, frozen=True, gc=False):
    """The state with its references resolved."""

    networks: Mapping[str, Network]
    ports: Mapping[str, tuple[Port, ...]]
    """By instance, in the order of the instance's vifs."""
    groups: Mapping[str, Group]
    """The same object as long as no rule is another, whoever is a member."""
    known_groups: frozenset[str]
    """Their ids: the same object as long as they are the same."""
    floating_ips: tuple[FloatingIP, ...]
    provider_rules: tuple[ProviderRule, ...]
    problems: Mapping[Key, tuple[Problem, ...]]
    """For each object that is not simply done."""
    uplinks: Mapping[str, Uplink]
    """By device, the links that are ports of the networks' bridges; none where links are somebody else's."""


class _Claimed(Struct, frozen=True, gc=False):
    """What the described instances claim."""

    instances: Mapping[str, Entry]
    oldest: Oldest
    holders: Mapping[Claim, Claim]
    """For each contested thing the claim that is the oldest; what is not contested is left out."""


def resolve(
    state: DesiredState, settings: Settings, refused: Mapping[Key, str], memo: Memo, *, has_nat: bool = True
) -> Resolved:
    """Resolve a state.

    :param refused: objects that the kernel refused, with its reason: they are left out.
    :param has_nat: whether the kernel has a nat table for IPv4; without it what needs it is in error.
    """
    refused = memo.intern("refused", refused)
    groups = _groups(state, refused, memo)
    described = memo.keys("described groups", state.security_groups)
    who_names(groups, memo)  # asked for each time, so that it is remembered
    # Whatever is looked at of a state: who is a member elsewhere is not.
    seen = (state.networks, state.instances, state.floating_ips, state.provider_rules, groups, described, refused)
    make = partial(_resolve, state, settings, refused, groups, described, memo, has_nat=has_nat)
    return memo.get("resolved", seen, make)


def _resolve(
    state: DesiredState,
    settings: Settings,
    refused: Mapping[Key, str],
    groups: Mapping[str, Group],
    described: frozenset[str],
    memo: Memo,
    *,
    has_nat: bool,
) -> Resolved:
    part = memo.part("resolved")
    claimed = part.get("claimed", (state.instances,), lambda: _claimed(state, part.last("claimed")))
    named: Interfaces = part.get(
        "interfaces",
        (state.networks, state.floating_ips, claimed),
        lambda: interfaces(state, settings.network, claimed.oldest),
    )
    without = {**named.mistaken, **refused}
    problems: dict[Key, list[Problem]] = {key: [("error", why)] for key, why in without.items()}
    networks = _usable_networks(state, settings, named.mistaken, refused, part, problems)
    if not has_nat:
        without |= {("floating_ips", id_): NO_NAT for id_ in state.floating_ips}
        _report_missing_nat(state, networks.values(), settings, problems)
    holders = part.intern("holders", claimed.holders)
    ports = _ports(state, networks, groups, holders, part.intern("host's own", named.hosts_own), refused, part)
    routed = part.get("routed floating IPs", (state.floating_ips, networks), lambda: _routed(state, networks.values()))
    ranges = part.get("ranges", (networks,), lambda: _Ranges(networks.values()))
    fixed = {address: claimed.oldest[claim][1] for address, claim in routed.items() if claim in claimed.oldest}
    for id_ in part.index("troubled", ports, _troubled).get("", ()):
        problems.setdefault(("instances", id_), []).extend(each for port in ports[id_] for each in port.problems)
    for key, found in _missing(groups, described, who_names(groups, memo), part).items():
        problems.setdefault(key, []).extend(found)
    return Resolved(
        networks=networks,
        ports=ports,
        groups=groups,
        known_groups=part.keys("known groups", groups),
        floating_ips=part.intern(
            "floating IPs", tuple(_floating_ips(state, networks, ports, fixed, ranges, without, problems))
        ),
        provider_rules=part.intern(
            "provider rules", tuple(r for r in state.of(ProviderRule) if ("provider_rules", r.id) not in refused)
        ),
        problems={key: tuple(found) for key, found in problems.items()},
        uplinks=uplinks_of(networks.values(), settings.network),
    )


def _troubled(_id: str, ports: tuple[Port, ...]) -> Iterable[str]:
    """Instances by nothing, if anything is wrong with them."""
    return ("",) if any(port.problems for port in ports) else ()


def _missing(
    groups: Mapping[str, Group], described: frozenset[str], naming: Mapping[str, Collection[str]], memo: Memo
) -> Mapping[Key, tuple[Problem, ...]]:
    """What the groups lack whose rules name groups that are not described.

    :param naming: as ``who_names`` tells.
    """

    def lacks(_id: str, group: Group, _last: tuple[Problem, ...] | None) -> tuple[Problem, ...]:
        return tuple(_missing_remotes(group, described))

    def missing(_id: str, group: Group) -> tuple[object, ...]:
        return tuple(id_ for id_ in _remotes(group) if id_ not in described)

    def concerned(before: tuple[Any, ...]) -> Iterable[str]:
        return (id_ for remote in before[0] ^ described for id_ in naming.get(remote, ()))

    lacking = memo.each("lacking", groups, (described,), lacks, missing, concerned)
    return memo.get(
        "missing",
        (lacking,),
        lambda: {(SecurityGroup.KIND, id_): problems for id_, problems in lacking.items() if problems},
    )


def who_names(groups: Mapping[str, Group], memo: Memo) -> Mapping[str, Collection[str]]:
    """By group the groups whose rules name it."""
    return memo.index("naming groups", groups, lambda _, group: _remotes(group))


def _remotes(group: Group) -> Iterable[str]:
    return {remote: None for remotes in group.remotes.values() for remote in remotes}


def _usable_networks(
    state: DesiredState,
    settings: Settings,
    mistaken: Mapping[Key, str],
    refused: Mapping[Key, str],
    memo: Memo,
    problems: dict[Key, list[Problem]],
) -> Mapping[str, Network]:
    absent = memo.intern("absent", frozenset(id_ for kind, id_ in mistaken if kind == Network.KIND))
    lost = memo.get("lost networks", (state.networks, absent), lambda: _lost(state, settings, absent))
    for id_, why in lost.items():
        problems.setdefault(("networks", id_), []).append(("error", why))

    def make() -> dict[str, Network]:
        return {
            id_: entry.object
            for id_, entry in state.networks.items()
            if isinstance(entry.object, Network)
            and id_ not in lost
            and id_ not in absent
            and (Network.KIND, id_) not in refused
        }

    return memo.get("networks", (state.networks, lost, absent, refused), make)


def _report_missing_nat(
    state: DesiredState, networks: Iterable[Network], settings: Settings, problems: dict[Key, list[Problem]]
) -> None:
    """Say of every object what it lacks on a kernel without NAT."""
    for id_ in state.floating_ips:
        problems.setdefault(("floating_ips", id_), []).append(("error", NO_NAT))
    fixed = [values.prefix(range_) for range_ in settings.network.fixed_range]
    for each in networks:
        if each.cidr is None:
            continue
        lost = []
        if settings.network.routing_source_ip and any(range_.overlaps(values.prefix(each.cidr)) for range_ in fixed):
            lost.append("no SNAT")
        if ":" not in (settings.metadata.metadata_host or ":"):
            lost.append("no way to the metadata service")
        if lost:
            problems.setdefault(("networks", each.id), []).append(("error", f"{NO_NAT}: {', '.join(lost)}"))


def _lost(state: DesiredState, settings: Settings, absent: frozenset[str]) -> Mapping[str, str]:
    """Networks that cannot be had beside an older one, and why: their range, or their uplink, is taken.

    :param absent: networks that are in error already, and hold nothing.
    """
    overlaps = _overlaps(state, absent)
    if not settings.network.manage_links:
        return overlaps
    aged = (
        (max((since for claim, since in entry.since.items() if claim[0] == "link"), default=0), entry.object)
        for id_, entry in state.networks.items()
        if isinstance(entry.object, Network) and id_ not in overlaps and id_ not in absent
    )
    return {**overlaps, **contested(aged, settings.network)}


def _overlaps(state: DesiredState, absent: frozenset[str]) -> Mapping[str, str]:
    """Networks that this host cannot route beside an older one, and why.

    Each range is as old as its own claim; a network that loses one loses all of its ranges.
    """
    claims = sorted(_routed_ranges(state), key=lambda claim: (claim[0], claim[1].id))
    bad: dict[str, str] = {}
    while True:
        found = _first_overlap([claim for claim in claims if claim[1].id not in bad and claim[1].id not in absent])
        if found is None:
            return bad
        younger, older = found
        bad[younger.id] = f"its range overlaps network {older.id} ({older.label}), which is routed here already"


def _routed_ranges(state: DesiredState) -> Iterable[tuple[int, Network, values.Prefix]]:
    for entry in state.networks.values():
        network = entry.object
        assert isinstance(network, Network)
        for family in (4, 6):
            cidr = network.range(family)
            if cidr is not None and network.routed(family):
                yield entry.since[("range", cidr)], network, values.prefix(cidr)


def _first_overlap(claims: list[tuple[int, Network, values.Prefix]]) -> tuple[Network, Network] | None:
    """The first of the claims, by age, that overlaps an older one: whose it is, and whose the older is."""
    kept: list[tuple[Network, values.Prefix]] = []
    for _, network, range_ in claims:
        for older, known in kept:
            if older is not network and known.overlaps(range_):
                return network, older
        kept.append((network, range_))
    return None


def _claimed(state: DesiredState, last: _Claimed | None) -> _Claimed:
    if last is not None and not last.holders:
        oldest = _claimed_anew(state, last)
        if oldest is not None:
            return _Claimed(state.instances, oldest, {})
    first: dict[Claim, tuple[int, Claim]] = {}
    contested: set[Claim] = set()
    for entry in state.instances.values():
        for claim, since in entry.since.items():
            thing = claim[:-1]
            other = first.setdefault(thing, (since, claim))
            if other[1] != claim:
                first[thing] = min(other, (since, claim))
                contested.add(thing)
    return _Claimed(state.instances, first, {thing: first[thing][1] for thing in contested})


def _claimed_anew(state: DesiredState, last: _Claimed) -> Oldest | None:
    """The claims of last time, changed by those that came and went; ``None`` where one is contested."""
    oldest = dict(last.oldest)
    before, after = last.instances, state.instances
    others = changed(before, after)
    for id_ in others:
        for claim in before[id_].since if id_ in before else ():
            del oldest[claim[:-1]]
    for id_ in others:
        for claim, since in after[id_].since.items() if id_ in after else ():
            if oldest.setdefault(claim[:-1], (since, claim))[1] is not claim:
                return None
    return oldest


def _groups(state: DesiredState, refused: Mapping[Key, str], memo: Memo) -> Mapping[str, Group]:
    made = memo.each("groups", state.security_groups, (), lambda _, entry, last: _make_group(entry.object, last))
    if not any(kind == SecurityGroup.KIND for kind, _ in refused):
        return made

    def left() -> dict[str, Group]:
        return {id_: group for id_, group in made.items() if (SecurityGroup.KIND, id_) not in refused}

    return memo.get("groups left", (made, refused), left)


_SIDES: Mapping[Direction, Mapping[str, Side]] = {
    direction: {ETHERTYPES[family]: (direction, family) for family in FAMILIES} for direction in ("ingress", "egress")
}


def _make_group(definition: Object, before: Group | None) -> Group:
    assert isinstance(definition, SecurityGroup)
    rules: defaultdict[Side, list[SecurityGroupRule]] = defaultdict(list)
    open_egress: set[Family] = set()
    remotes: dict[Side, dict[str, None]] = {}
    for rule in definition.rules:
        side = _SIDES[rule.direction][rule.ethertype]
        rules[side].append(rule)
        if rule.remote_group_id is not None:
            remotes.setdefault(side, {})[rule.remote_group_id] = None
        elif rule.direction == "egress" and _is_open(rule):
            open_egress.add(side[1])
    named = {side: tuple(ids) for side, ids in remotes.items()}
    judge = Judge(definition.id, bool(definition.stateful), frozenset(rules), frozenset(open_egress))
    if before is not None and before.judge == judge:
        judge = before.judge  # the same object: its members' chains stay as they are
    return Group(judge, named, {side: tuple(its) for side, its in rules.items()}, definition.rules)


def _is_open(rule: SecurityGroupRule) -> bool:
    """Whether a rule without a remote group allows everything."""
    return protocols.number(rule.protocol, rule.family) is None and (rule.remote_ip_prefix or "/0").endswith("/0")


def _ports(
    state: DesiredState,
    networks: Mapping[str, Network],
    groups: Mapping[str, Group],
    holders: Mapping[Claim, Claim],
    hosts_own: frozenset[str],
    refused: Mapping[Key, str],
    memo: Memo,
) -> Mapping[str, tuple[Port, ...]]:
    judges = memo.each("judges", groups, (), lambda _id, group, _last: group.judge)

    def narrowed(id_: str, entry: Entry) -> tuple[object, ...]:
        instance = entry.object
        assert isinstance(instance, Instance)
        depends_on: list[object] = [refused.get(("instances", id_)) if refused else None]
        for vif in instance.vifs:
            depends_on += [networks.get(vif.network_id), vif.device in hosts_own]
            depends_on += [judges.get(group_id) for group_id in instance.groups_of(vif)]
            if holders:
                depends_on += _taken(instance, vif, holders)
        return tuple(depends_on)

    def make(id_: str, entry: Entry, _last: tuple[Port, ...] | None) -> tuple[Port, ...]:
        why = refused.get(("instances", id_)) if refused else None
        return _make_ports(entry.object, networks, judges, holders, hosts_own, why)

    instances = memo.get(
        "sorted",
        (state.instances,),
        lambda: ordered(memo.last("sorted") or {}, dict(sorted(state.instances.items()))),
    )
    members = memo.index("members of groups", instances, _judging)
    others = (networks, holders, hosts_own, refused)

    def concerned(before: tuple[Any, ...]) -> Iterable[str] | None:
        known, *rest = before
        if any(now is not last for now, last in zip(others, rest, strict=True)):
            return None
        return (id_ for group_id in changed(known, judges) for id_ in members.get(group_id, ()))

    return memo.each("ports", instances, (judges, *others), make, narrowed, concerned)


def _judging(_id: str, entry: Entry) -> Iterable[str]:
    """The groups that an instance names."""
    instance = entry.object
    assert isinstance(instance, Instance)
    return {group_id for vif in instance.vifs for group_id in instance.groups_of(vif)}


def _make_ports(
    instance: Object,
    networks: Mapping[str, Network],
    judges: Mapping[str, Judge],
    holders: Mapping[Claim, Claim],
    hosts_own: frozenset[str],
    refused: str | None,
) -> tuple[Port, ...]:
    assert isinstance(instance, Instance)
    ports = []
    for vif in instance.vifs:
        wanted = instance.groups_of(vif)
        ports.append(
            _make_port(
                instance,
                vif,
                None if refused is not None else networks.get(vif.network_id),
                tuple(judges[id_] for id_ in wanted if id_ in judges),
                _taken(instance, vif, holders),
                vif.device in hosts_own,
                refused,
                [id_ for id_ in wanted if id_ not in judges],
            )
        )
    return tuple(ports)


def _taken(instance: Instance, vif: Vif, holders: Mapping[Claim, Claim]) -> tuple[str, ...]:
    """What the vif asks for and another instance holds, with that instance's id."""
    mine: list[Claim] = [("vif", vif.id), ("device", vif.device)]
    mine += [("address", vif.network_id, address) for address in vif.fixed_ips]
    held = [(thing, holders[thing][-1]) for thing in mine if thing in holders]
    return tuple(f"{thing[0]} {thing[-1]} {holder}" for thing, holder in held if holder != instance.id)


def _make_port(
    instance: Instance,
    vif: Vif,
    network: Network | None,
    groups: tuple[Judge, ...],
    taken: tuple[str, ...],
    is_hosts_own: bool,
    refused: str | None,
    missing: list[str],
) -> Port:
    problems: list[Problem] = []
    lost = {tuple(each.split(" ")[:2]): each.split(" ")[2] for each in taken}
    if network is None and refused is None:
        problems.append(("pending", f"vif {vif.id} waits for network {vif.network_id}"))
    for kind, name in (("vif", vif.id), ("device", vif.device)):
        if (kind, name) in lost:
            problems.append(("error", f"vif {vif.id}: {kind} {name} is instance {lost[kind, name]}'s already"))
            network = None
    if is_hosts_own:
        problems.append(("error", f"vif {vif.id}: {vif.device} is an interface of the host's own"))
        network = None
    addresses = []
    for address in vif.fixed_ips:
        why = _address_problem(address, network, lost.get(("address", address)))
        if why is None:
            addresses.append(address)
        else:
            problems.append(("error", f"vif {vif.id}: fixed IP {address} {why}"))
    problems += [("pending", f"vif {vif.id} waits for security group {id_}") for id_ in missing]
    return Port(
        vif=vif,
        instance_id=instance.id,
        network=network,
        holds_device=("device", vif.device) not in lost and not is_hosts_own,
        addresses=tuple(addresses),
        groups=groups,
        missing_group=bool(missing),
        problems=tuple(problems),
    )


def _address_problem(address: str, network: Network | None, holder: str | None) -> str | None:
    if holder is not None:
        return f"is instance {holder}'s already"
    if network is None:
        return None
    own = values.prefix(address)
    cidr = network.range(own.family)
    range_ = None if cidr is None else values.prefix(cidr)
    if range_ is None or not range_.contains(own):
        return f"is outside network {network.id}"
    if not range_.has_host(own):
        return _no_host_has_it(network.id)
    if address in (network.server, network.gateway_v6):
        return f"is the host's own on network {network.id}"
    if address == network.routers_v6:
        return f"is the first address of network {network.id}: its routers take what is sent there"
    return None


def _missing_remotes(group: Group, described: frozenset[str]) -> Iterable[Problem]:
    return [
        ("pending", f"rule {rule.id} waits for security group {rule.remote_group_id}")
        for rule in group.described
        if rule.remote_group_id is not None and rule.remote_group_id not in described
    ]


def _no_host_has_it(network_id: str) -> str:
    return f"is the first or the last address of network {network_id}: no host can have it"


class _Ranges:
    """Networks' IPv4 ranges: which of them has an address is looked up, not looked for in every network."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._ids = {values.prefix(each.cidr): each.id for each in networks if each.cidr is not None}
        self._lengths = {each.length for each in self._ids}

    def holder(self, address: values.Prefix) -> str | None:
        """A network whose range has an address: the only one, of those that are routed here."""
        return next(filter(None, (self._ids.get(address.within(length)) for length in self._lengths)), None)

    def meant_whole(self, address: values.Prefix) -> str | None:
        """A network of whose range an address is the first or the last: that leads to all of it, or to nobody."""
        ranges = (address.within(length) for length in self._lengths)
        return next((self._ids[each] for each in ranges if each in self._ids and not each.has_host(address)), None)


def _routed(state: DesiredState, networks: Iterable[Network]) -> Mapping[str, Claim]:
    """For each floating IP in a range that is routed here the claim of whoever has it as a fixed IP."""
    ranges = _Ranges(each for each in networks if each.routed(4))
    holders = ((id_, ranges.holder(values.prefix(id_))) for id_ in state.floating_ips)
    return {id_: ("address", network_id, id_) for id_, network_id in holders if network_id is not None}


def _floating_ips(
    state: DesiredState,
    networks: Mapping[str, Network],
    ports: Mapping[str, tuple[Port, ...]],
    fixed: Mapping[str, Claim],
    ranges: _Ranges,
    without: Mapping[Key, str],
    problems: dict[Key, list[Problem]],
) -> Iterable[FloatingIP]:
    """The floating IPs to install, in numerical order.

    :param fixed: those that are a vif's fixed IP as well, each with the vif's claim.
    """
    entries = state.floating_ips.values()
    if not entries:
        return
    own = {
        address: network.id for network in networks.values() for address in (network.gateway, network.server) if address
    }
    for entry in sorted(entries, key=lambda each: values.prefix(each.object.id)):
        floating = entry.object
        assert isinstance(floating, FloatingIP)
        key = (FloatingIP.KIND, floating.id)
        if key in without:
            continue
        problem = _floating_problem(floating, ranges, own, fixed, ports)
        if problem is None:
            yield floating
        else:
            problems.setdefault(key, []).append(problem)


def _floating_problem(
    floating: FloatingIP,
    ranges: _Ranges,
    own: Mapping[str, str],
    fixed_here: Mapping[str, Claim],
    ports: Mapping[str, tuple[Port, ...]],
) -> Problem | None:
    if floating.id == METADATA_ADDRESS:
        return "error", f"{floating.id} is the metadata service's address"
    if floating.id in own:
        return "error", f"{floating.id} is the gateway of network {own[floating.id]}"
    if floating.id in fixed_here:
        _, network_id, _, instance_id = fixed_here[floating.id]
        return "error", f"{floating.id} is a fixed IP of instance {instance_id} on network {network_id}"
    whole = ranges.meant_whole(values.prefix(floating.id))
    if whole is not None:
        return "error", f"{floating.id} {_no_host_has_it(whole)}"
    fixed = floating.fixed_ip_address
    if floating.instance_id is not None:
        if any(fixed in port.addresses for port in ports.get(floating.instance_id, ()) if port.network):
            return None
        return "pending", f"waits for instance {floating.instance_id} with fixed IP {fixed}"
    if ranges.holder(values.prefix(fixed)) is not None:
        return None
    return "pending", f"waits for a network that holds {fixed}"
