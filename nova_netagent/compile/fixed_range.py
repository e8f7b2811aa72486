"""SNAT of the fixed range, and what is exempt from it. IPv4 only, as in nova."""

from collections.abc import Iterator

from nova_netagent.compile.parts import Placed, Scope, network
from nova_netagent.model import Network, values
from nova_netagent.model.protocols import TCP
from nova_netagent.netfilter.rule import ACCEPT, RETURN, Conntrack, Match, Physdev, Ports, Rule, Snat

NOT_DNATED = Conntrack(frozenset({"DNAT"}), inverted=True)
# Bridged frames meet the nat table too: a neighbour's mDNS must keep its source.
ROUTED = Physdev(bridged=False)


def place(scope: Scope, placed: Placed) -> None:
    """Fill W-POSTROUTING with the exemptions and W-snat with the translation.

    The exemptions stand before every floating IP's rule, the translation after them.
    """
    placed.add(4, "nat", scope.chain("POSTROUTING"), *_exemptions(scope))
    placed.add(4, "nat", scope.chain("snat"), *_translations(scope))


def _sources(scope: Scope) -> tuple[str, ...]:
    """The fixed ranges, and the ranges of networks that lie outside them."""
    fixed = scope.settings.network.fixed_range
    known = [values.prefix(cidr) for cidr in fixed]
    outside = {
        each.cidr
        for each in scope.resolved.networks.values()
        if each.cidr is not None and not any(range_.contains(values.prefix(each.cidr)) for range_ in known)
    }
    return (*fixed, *sorted(outside, key=values.prefix))


def _exemptions(scope: Scope) -> Iterator[Rule]:
    settings = scope.settings
    sources = _sources(scope)
    host, port = settings.metadata.metadata_host, settings.metadata.metadata_port
    if host is not None and ":" not in host and host != "127.0.0.1":
        for source in sources:
            yield Rule(
                ACCEPT,
                source=network(source),
                destination=values.host(host),
                protocol=TCP,
                matches=(Ports("tcp", destination=(port, port)),),
                origin=("metadata", "", "no SNAT"),
            )
    for source in sources:
        for zone in settings.network.dmz_cidr:
            yield Rule(ACCEPT, source=network(source), destination=network(zone), origin=("dmz_cidr", zone, "no SNAT"))
    # A floating IP in between is the exception to the exception: nova, bug 1178745.
    for source in sources:
        fixed = settings.network.fixed_range
        for other in fixed if source in fixed else (source,):
            yield Rule(
                ACCEPT,
                source=network(source),
                destination=network(other),
                matches=(NOT_DNATED,),
                origin=("fixed_range", source, "no SNAT"),
            )


def _translations(scope: Scope) -> Iterator[Rule]:
    settings = scope.settings.network
    address = settings.routing_source_ip
    if not address:
        return
    for each in scope.networks:
        if each.external_gateway:
            yield from _external(each, scope, address)
    public = scope.above(settings.public_interface)
    for range_ in settings.fixed_range:
        yield Rule(
            Snat(address),
            source=network(range_),
            out_interface=public,
            matches=only_routed(public, scope),
            origin=("fixed_range", range_, "SNAT"),
        )


def only_routed(interface: str | None, scope: Scope) -> tuple[Match, ...]:
    """The match that leaves bridged frames alone, where the interface they leave by does not tell.

    It is none of ours as a rule, and nova's flat networks have their bridge as public_interface.
    """
    bridges = (each.bridge for each in scope.resolved.networks.values())
    return (ROUTED,) if interface is None or interface in bridges else ()


def _external(each: Network, scope: Scope, address: str) -> Iterator[Rule]:
    """A network that somebody else routes: translated towards the forced ranges only."""
    assert each.cidr is not None  # a gateway needs one
    own = values.prefix(each.cidr)
    origin = ("networks", each.id, "external gateway")
    for range_ in scope.settings.network.fixed_range:
        fixed = values.prefix(range_)
        if not own.overlaps(fixed):
            continue
        source = each.cidr if fixed.contains(own) else range_
        for forced in scope.settings.network.force_snat_range:
            yield Rule(Snat(address), source=network(source), destination=network(forced), origin=origin)
        yield Rule(RETURN, source=network(source), origin=origin)
