"""The networks that can be had here, and why others can not."""

from collections.abc import Iterable, Mapping

from nova_netagent.compile.memo import Memo
from nova_netagent.compile.resolve.resolved import Problem
from nova_netagent.compile.uplinks import contested
from nova_netagent.model import DesiredState, Key, Network, values
from nova_netagent.settings import Settings

NO_NAT = "this kernel has no nat table for IPv4"


def usable_networks(
    state: DesiredState,
    settings: Settings,
    mistaken: Mapping[Key, str],
    refused: Mapping[Key, str],
    memo: Memo,
    problems: dict[Key, list[Problem]],
) -> Mapping[str, Network]:
    """The networks that can be had here.

    :param mistaken: objects that are in error already, with the reason.
    :param problems: what the others lack is added to it.
    """
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


def no_host_has_it(network_id: str) -> str:
    """Why an address of a network is nobody's."""
    return f"is the first or the last address of network {network_id}: no host can have it"


def report_missing_nat(
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
