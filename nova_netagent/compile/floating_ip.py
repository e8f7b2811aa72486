"""nova's five NAT rules of a floating IP (linux_net.py, floating_forward_rules)."""

from nova_netagent.compile.fixed_range import only_routed
from nova_netagent.compile.parts import Placed, Scope
from nova_netagent.model import FloatingIP, values
from nova_netagent.netfilter.rule import Conntrack, Dnat, Rule, Snat

DNATED = Conntrack(frozenset({"DNAT"}))


def interface_of(floating: FloatingIP, scope: Scope) -> str | None:
    """The interface that a floating IP is bound to: its own, or ``public_interface``."""
    return scope.above(floating.interface or scope.settings.network.public_interface)


def place(scope: Scope, placed: Placed) -> None:
    """The address leads to the fixed IP from outside, from this host and from instances, and back.

    They are placed in numerical order: of two on one fixed IP the lower is the source.
    """
    for floating in scope.resolved.floating_ips:
        origin = ("floating_ips", floating.id, "")
        fixed = values.host(floating.fixed_ip_address)
        public = values.host(floating.id)
        interface = interface_of(floating, scope)
        to_fixed = Rule(Dnat(floating.fixed_ip_address), destination=public, origin=origin)
        placed.add(4, "nat", scope.chain("PREROUTING"), to_fixed)
        placed.add(4, "nat", scope.chain("OUTPUT"), to_fixed)
        to_public = Snat(floating.id)
        # An instance that calls another through its floating IP shows its own (nova, bug 1178745).
        placed.add(
            4, "nat", scope.chain("POSTROUTING"), Rule(to_public, source=fixed, matches=(DNATED,), origin=origin)
        )
        snat = scope.chain("float-snat")
        # An instance that calls its own floating IP must not see itself as the caller.
        placed.add(4, "nat", snat, Rule(to_public, source=fixed, destination=fixed, origin=origin))
        # A frame on its way to a gateway of somebody else's is only bridged here, and shows the address as well.
        bridged_out = interface is not None and _has_external_gateway(floating, scope)
        matches = () if bridged_out else only_routed(interface, scope)
        out = Rule(to_public, source=fixed, out_interface=interface, matches=matches, origin=origin)
        placed.add(4, "nat", snat, out)


def _has_external_gateway(floating: FloatingIP, scope: Scope) -> bool:
    fixed = values.prefix(floating.fixed_ip_address)
    external = (each.cidr for each in scope.resolved.networks.values() if each.external_gateway)
    return any(cidr is not None and values.prefix(cidr).contains(fixed) for cidr in external)
