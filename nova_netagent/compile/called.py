"""How the host reaches an instance by its floating IP."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from msgspec.structs import replace

from nova_netagent.compile import dispatch
from nova_netagent.compile.dispatch import AddressEntry
from nova_netagent.compile.floating_ip import DNATED
from nova_netagent.compile.memo import InOrder, Memo
from nova_netagent.compile.parts import Scope, network
from nova_netagent.model import FloatingIP, values


def called_by_floating_ip(
    own: InOrder[AddressEntry], pairs: InOrder[AddressEntry], scope: Scope, memo: Memo
) -> InOrder[AddressEntry]:
    """What the host sends to a floating IP finds the instance by its fixed IP alone, or a pair of its network.

    filter OUTPUT still shows the interface that led to the floating IP (lo, where it is bound).
    """
    part = memo.part("called")
    floating_ips, networks = scope.resolved.floating_ips, scope.resolved.networks
    fixed = part.get("fixed", (floating_ips,), partial(_fixed, floating_ips))
    in_pairs = part.get("in pairs", (pairs, networks, fixed), partial(_in_pairs, pairs.items, fixed, scope))

    def those_with(text: str, address: values.Prefix) -> tuple[AddressEntry, ...]:
        of_vifs = own.beginning(-address.length, address.value)  # as dispatch.address_order begins
        return (*of_vifs.by_key(), *in_pairs.get(text, ()))

    def concerned(known: tuple[Any, ...]) -> Iterable[str] | None:
        before, before_in_pairs = known
        if in_pairs is not before_in_pairs or own.since is None or own.since.before is not before.items:
            return None
        return [text for each in own.since.others if (text := values.prefix_text(each.prefix)) in fixed]

    def make(text: str, address: values.Prefix, _last: object) -> tuple[AddressEntry, ...]:
        return tuple(_called(each, address) for each in those_with(text, address))

    found = part.each("called", fixed, (own, in_pairs), make, those_with, concerned)
    return part.in_order("in order", found, lambda entries: entries, dispatch.address_order)


def _fixed(floating_ips: Iterable[FloatingIP]) -> Mapping[str, values.Prefix]:
    """The fixed IPs that floating IPs lead to, by their texts."""
    found = {values.prefix(each.fixed_ip_address) for each in floating_ips}
    return {values.prefix_text(each): each for each in found}


def _in_pairs(
    pairs: Iterable[AddressEntry], fixed: Mapping[str, values.Prefix], scope: Scope
) -> Mapping[str, list[AddressEntry]]:
    """The pairs in which fixed IPs are, by the fixed IP's text: of equal ones the first."""
    bridges = {each: _bridges_of(each, scope) for each in fixed.values()} if pairs else {}
    found: dict[str, list[AddressEntry]] = {}
    seen: set[tuple[values.Prefix, str | None]] = set()
    for entry in pairs:
        where = entry.prefix, entry.rule.out_interface
        if where not in seen:
            seen.add(where)
            for each in entry.prefix.among(bridges):
                if where[1] in bridges[each]:
                    found.setdefault(values.prefix_text(each), []).append(entry)
    return found


def _bridges_of(fixed: values.Prefix, scope: Scope) -> frozenset[str | None]:
    """Where an address can be: a pair of everything is of its own network only, and leads nobody else's away."""
    return frozenset(
        each.bridge
        for each in scope.resolved.networks.values()
        for cidr in (each.cidr, each.cidr_v6)
        if cidr is not None and values.prefix(cidr).contains(fixed)
    )


def _called(entry: AddressEntry, fixed: values.Prefix) -> AddressEntry:
    to = network(values.prefix_text(fixed))
    return AddressEntry(fixed, replace(entry.rule, destination=to, out_interface=None, matches=(DNATED,)))
