"""Who has come to an address that somebody else may have had, and who may claim others. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain

from nova_netagent.compile.resolve import Port
from nova_netagent.model import values
from nova_netagent.model.lineage import changed

Neighbours = Mapping[tuple[str, str], str]
"""By bridge and address, the MAC that has it; a pair's prefix stands for all its addresses."""

Had = tuple[str, str, str]
"""Who had an address: bridge, address or prefix, and MAC. Several may have had the same one, as an allowed pair."""


def newcomers(
    before: Mapping[str, tuple[Port, ...]], now: Mapping[str, tuple[Port, ...]], *, pairs: bool = False
) -> Neighbours:
    """The addresses that have another MAC than before, or none before: what they cost is what changed.

    :param pairs: those of allowed pairs as well, which may be others' too.
    """
    found: dict[tuple[str, str], str] = {}
    for id_ in changed(before, now):
        had = _by_address(before.get(id_, ()), pairs)
        found |= {key: mac for key, mac in _by_address(now.get(id_, ()), pairs).items() if had.get(key) != mac}
    return found


def leavers(before: Mapping[str, tuple[Port, ...]], now: Mapping[str, tuple[Port, ...]]) -> set[Had]:
    """Who has an address no more, or one of an allowed pair's: what they cost is what changed."""
    ids = changed(before, now)
    has = {each for id_ in ids for each in _held(now.get(id_, ()), pairs=True)}
    return {each for id_ in ids for each in _held(before.get(id_, ()), pairs=True) if each not in has}


def past(known: Neighbours, now: Mapping[str, tuple[Port, ...]]) -> set[Had]:
    """Of what a host knows that which a vif of ours told it, and may not claim now."""
    own: dict[tuple[str, str], list[values.Prefix]] = {}
    for port in chain.from_iterable(now.values()):
        if port.network is not None and port.vif.port_security_enabled:
            mac = port.vif.address
            claimed = own.setdefault((port.network.bridge, mac), [])
            texts = (*port.addresses, values.link_local(mac), *(pair.ip_address for pair in port.vif.pairs))
            claimed += map(values.prefix, texts)
    return {
        (bridge, address, mac)
        for (bridge, address), mac in known.items()
        if (bridge, mac) in own and not any(each.contains(values.prefix(address)) for each in own[bridge, mac])
    }


def joining(now: Mapping[str, tuple[Port, ...]], devices: Collection[str], *, pairs: bool = False) -> Neighbours:
    """The addresses of the vifs of these devices."""
    found: dict[tuple[str, str], str] = {}
    for ports in now.values() if devices else ():
        found |= _by_address(tuple(port for port in ports if port.vif.device in devices), pairs)
    return found


def changing(before: Mapping[str, tuple[Port, ...]], now: Mapping[str, tuple[Port, ...]]) -> set[str]:
    """The devices whose vifs may claim anything else than they could before, whoever's they were, new ones too.

    An instance's vif that had no port security could claim anything.
    """
    ids = changed(before, now)
    had = {claim for id_ in ids for claim in _claims(before.get(id_, ()))}
    free = {(id_, *where) for id_ in ids for where in _free(before.get(id_, ()))}
    return {
        device
        for id_ in ids
        for device, bridge, may_be in _claims(now.get(id_, ()))
        if (device, bridge, may_be) not in had and (id_, device, bridge) not in free
    }


def _claims(ports: Iterable[Port]) -> Iterator[tuple[str, str | None, object]]:
    """The devices of vifs, each with its bridge, and all that it may claim there."""
    for port in ports:
        yield port.vif.device, _bridge(port), (port.vif.address, port.addresses, port.vif.pairs)


def _free(ports: Iterable[Port]) -> Iterator[tuple[str, str | None]]:
    """The devices at which an instance may claim anything, each with its bridge."""
    for port in ports:
        if port.holds_device and port.network is not None and not port.vif.port_security_enabled:
            yield port.vif.device, _bridge(port)


def _bridge(port: Port) -> str | None:
    return None if port.network is None else port.network.bridge


def _by_address(ports: tuple[Port, ...], pairs: bool) -> dict[tuple[str, str], str]:
    """Of a vif that has an address, and a pair of another MAC for it, the address counts."""
    return {(bridge, address): mac for bridge, address, mac in _held(ports, pairs)}


def _held(ports: tuple[Port, ...], pairs: bool) -> Iterator[Had]:
    for port in ports:
        if port.network is not None:
            bridge = port.network.bridge
            for pair in port.vif.pairs if pairs else ():
                prefix = values.prefix(pair.ip_address)
                text = values.address_text(prefix.family, prefix.value) if prefix.is_host else pair.ip_address
                yield bridge, text, pair.mac_address or port.vif.address
            yield from ((bridge, address, port.vif.address) for address in port.addresses)
