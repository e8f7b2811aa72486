"""nova's five NAT rules of a floating IP (linux_net.py, floating_forward_rules)."""

from msgspec import Struct

from nova_netagent.compile.fixed_range import only_routed
from nova_netagent.compile.memo import Memo
from nova_netagent.compile.parts import Placed, Scope
from nova_netagent.model import FloatingIP, values
from nova_netagent.netfilter.rule import Conntrack, Dnat, Rule, Snat

DNATED = Conntrack(frozenset({"DNAT"}))


def interface_of(floating: FloatingIP, scope: Scope) -> str | None:
    """The interface that a floating IP is bound to: its own, or ``public_interface``."""
    return scope.above(floating.interface or scope.settings.network.public_interface)


class _Rules(Struct, frozen=True, gc=False):
    """What one floating IP adds to the chains of nat."""

    to_fixed: Rule
    called: Rule
    own: Rule
    out: Rule


def place(scope: Scope, memo: Memo, placed: Placed) -> None:
    """The address leads to the fixed IP from outside, from this host and from instances, and back.

    They are placed in numerical order: of two on one fixed IP the lower is the source.
    """
    if not scope.resolved.floating_ips:
        return
    resolved = scope.resolved
    described = memo.get(
        "floating IPs by id", (resolved.floating_ips,), lambda: {each.id: each for each in resolved.floating_ips}
    )

    def make(_id: str, floating: FloatingIP, _last: _Rules | None) -> _Rules:
        return _rules(floating, scope)

    found = memo.each("rules of floating IPs", described, (resolved.networks,), make).values()
    placed.add(4, "nat", scope.chain("PREROUTING"), *(each.to_fixed for each in found))
    placed.add(4, "nat", scope.chain("OUTPUT"), *(each.to_fixed for each in found))
    placed.add(4, "nat", scope.chain("POSTROUTING"), *(each.called for each in found))
    placed.add(4, "nat", scope.chain("float-snat"), *(rule for each in found for rule in (each.own, each.out)))


def _rules(floating: FloatingIP, scope: Scope) -> _Rules:
    origin = ("floating_ips", floating.id, "")
    fixed = values.host(floating.fixed_ip_address)
    interface = interface_of(floating, scope)
    to_public = Snat(floating.id)
    # A frame on its way to a gateway of somebody else's is only bridged here, and shows the address as well.
    bridged_out = interface is not None and _has_external_gateway(floating, scope)
    matches = () if bridged_out else only_routed(interface, scope)
    return _Rules(
        to_fixed=Rule(Dnat(floating.fixed_ip_address), destination=values.host(floating.id), origin=origin),
        # An instance that calls another through its floating IP shows its own (nova, bug 1178745).
        called=Rule(to_public, source=fixed, matches=(DNATED,), origin=origin),
        # An instance that calls its own floating IP must not see itself as the caller.
        own=Rule(to_public, source=fixed, destination=fixed, origin=origin),
        out=Rule(to_public, source=fixed, out_interface=interface, matches=matches, origin=origin),
    )


def _has_external_gateway(floating: FloatingIP, scope: Scope) -> bool:
    fixed = values.prefix(floating.fixed_ip_address)
    external = (each.cidr for each in scope.resolved.networks.values() if each.external_gateway)
    return any(cidr is not None and values.prefix(cidr).contains(fixed) for cidr in external)
