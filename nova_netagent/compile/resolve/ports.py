"""What each vif may be."""

from collections.abc import Iterable, Mapping
from typing import Any

from nova_netagent.compile.memo import Memo
from nova_netagent.compile.resolve.networks import no_host_has_it
from nova_netagent.compile.resolve.resolved import Group, Judge, Port, Problem
from nova_netagent.model import Claim, DesiredState, Entry, Instance, Key, Network, Object, Vif, values
from nova_netagent.model.lineage import changed, ordered


def resolve_ports(
    state: DesiredState,
    networks: Mapping[str, Network],
    groups: Mapping[str, Group],
    holders: Mapping[Claim, Claim],
    hosts_own: frozenset[str],
    refused: Mapping[Key, str],
    memo: Memo,
) -> Mapping[str, tuple[Port, ...]]:
    """By instance what each of its vifs may be.

    :param holders: who has what is contested.
    :param hosts_own: the links that are no instance's.
    """
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
        return no_host_has_it(network.id)
    if address in (network.server, network.gateway_v6):
        return f"is the host's own on network {network.id}"
    if address == network.routers_v6:
        return f"is the first address of network {network.id}: its routers take what is sent there"
    return None


def troubled(_id: str, ports: tuple[Port, ...]) -> Iterable[str]:
    """Instances by nothing, if anything is wrong with them."""
    return ("",) if any(port.problems for port in ports) else ()
