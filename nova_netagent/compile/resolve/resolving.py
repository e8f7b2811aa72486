"""All of a state at once."""

from collections.abc import Mapping
from functools import partial

from nova_netagent.compile.interfaces import Interfaces, interfaces
from nova_netagent.compile.memo import Memo
from nova_netagent.compile.resolve.claims import claimed_things
from nova_netagent.compile.resolve.floating_ips import Ranges, routed_floating_ips, usable_floating_ips
from nova_netagent.compile.resolve.groups import missing_groups, resolve_groups, who_names
from nova_netagent.compile.resolve.networks import NO_NAT, report_missing_nat, usable_networks
from nova_netagent.compile.resolve.ports import resolve_ports, troubled
from nova_netagent.compile.resolve.resolved import Group, Problem, Resolved
from nova_netagent.compile.uplinks import uplinks_of
from nova_netagent.model import DesiredState, Key, ProviderRule
from nova_netagent.settings import Settings


def resolve(
    state: DesiredState, settings: Settings, refused: Mapping[Key, str], memo: Memo, *, has_nat: bool = True
) -> Resolved:
    """Resolve a state.

    :param refused: objects that the kernel refused, with its reason: they are left out.
    :param has_nat: whether the kernel has a nat table for IPv4; without it what needs it is in error.
    """
    refused = memo.intern("refused", refused)
    groups = resolve_groups(state, refused, memo)
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
    claimed = part.get("claimed", (state.instances,), lambda: claimed_things(state, part.last("claimed")))
    named: Interfaces = part.get(
        "interfaces",
        (state.networks, state.floating_ips, claimed),
        lambda: interfaces(state, settings.network, claimed.oldest),
    )
    without = {**named.mistaken, **refused}
    problems: dict[Key, list[Problem]] = {key: [("error", why)] for key, why in without.items()}
    networks = usable_networks(state, settings, named.mistaken, refused, part, problems)
    if not has_nat:
        without |= {("floating_ips", id_): NO_NAT for id_ in state.floating_ips}
        report_missing_nat(state, networks.values(), settings, problems)
    holders = part.intern("holders", claimed.holders)
    ports = resolve_ports(state, networks, groups, holders, part.intern("host's own", named.hosts_own), refused, part)
    routed = part.get(
        "routed floating IPs", (state.floating_ips, networks), lambda: routed_floating_ips(state, networks.values())
    )
    ranges = part.get("ranges", (networks,), lambda: Ranges(networks.values()))
    fixed = {address: claimed.oldest[claim][1] for address, claim in routed.items() if claim in claimed.oldest}
    for id_ in part.index("troubled", ports, troubled).get("", ()):
        problems.setdefault(("instances", id_), []).extend(each for port in ports[id_] for each in port.problems)
    for key, found in missing_groups(groups, described, who_names(groups, memo), part).items():
        problems.setdefault(key, []).extend(found)
    return Resolved(
        networks=networks,
        ports=ports,
        groups=groups,
        known_groups=part.keys("known groups", groups),
        floating_ips=part.intern(
            "floating IPs", tuple(usable_floating_ips(state, networks, ports, fixed, ranges, without, problems))
        ),
        provider_rules=part.intern(
            "provider rules", tuple(r for r in state.of(ProviderRule) if ("provider_rules", r.id) not in refused)
        ),
        problems={key: tuple(found) for key, found in problems.items()},
        uplinks=uplinks_of(networks.values(), settings.network),
    )
