"""Who has come to an address that somebody else may have had, and who may claim others. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain

from nova_netagent.compile.resolve import Port
from nova_netagent.model import values
from nova_netagent.model.lineage import changed

Neighbours = Mapping[tuple[str, str], str]
"""By bridge and address, the MAC that has it; a pair's prefix stands for all its addresses."""


def newcomers(
    before: Mapping[str, tuple[Port, ...]], now: Mapping[str, tuple[Port, ...]], *, pairs: bool = False
) -> Neighbours:
    """The addresses that have another MAC than before, or none before: what they cost is what changed.

    :param pairs: those of allowed pairs as well, which may be others' too.
    """
    found: dict[tuple[str, str], str] = {}
    for id_ in changed(before, now):
        had = _held(before.get(id_, ()), pairs)
        found |= {key: mac for key, mac in _held(now.get(id_, ()), pairs).items() if had.get(key) != mac}
    return found


def past(known: Neighbours, now: Mapping[str, tuple[Port, ...]]) -> Neighbours:
    """Of what a host knows that which a vif of ours told it, and may not claim now."""
    own: dict[tuple[str, str], list[values.Prefix]] = {}
    for port in chain.from_iterable(now.values()):
        if port.network is not None and port.vif.port_security_enabled:
            mac = port.vif.address
            claimed = own.setdefault((port.network.bridge, mac), [])
            texts = (*port.addresses, values.link_local(mac), *(pair.ip_address for pair in port.vif.pairs))
            claimed += map(values.prefix, texts)
    return {
        (bridge, address): mac
        for (bridge, address), mac in known.items()
        if (bridge, mac) in own and not any(each.contains(values.prefix(address)) for each in own[bridge, mac])
    }


def joining(now: Mapping[str, tuple[Port, ...]], devices: Collection[str], *, pairs: bool = False) -> Neighbours:
    """The addresses of the vifs of these devices."""
    found: dict[tuple[str, str], str] = {}
    for ports in now.values() if devices else ():
        found |= _held(tuple(port for port in ports if port.vif.device in devices), pairs)
    return found


def changing(before: Mapping[str, tuple[Port, ...]], now: Mapping[str, tuple[Port, ...]]) -> set[str]:
    """The devices whose vifs may claim anything else than they could before, whoever's they were, new ones too."""
    ids = changed(before, now)
    had = {claim for id_ in ids for claim in _claims(before.get(id_, ()))}
    return {claim[0] for id_ in ids for claim in _claims(now.get(id_, ())) if claim not in had}


def _claims(ports: Iterable[Port]) -> Iterator[tuple[str, object]]:
    """The devices of vifs, each with all that it may claim."""
    for port in ports:
        bridge = None if port.network is None else port.network.bridge
        yield port.vif.device, (bridge, port.vif.address, port.addresses, port.vif.pairs)


def _held(ports: tuple[Port, ...], pairs: bool) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for port in ports:
        if port.network is not None:
            for pair in port.vif.pairs if pairs else ():
                prefix = values.prefix(pair.ip_address)
                text = values.address_text(prefix.family, prefix.value) if prefix.is_host else pair.ip_address
                found[port.network.bridge, text] = pair.mac_address or port.vif.address
            found |= {(port.network.bridge, address): port.vif.address for address in port.addresses}
    return found
