"""Who has come to an address that somebody else may have had. Pure."""

from collections.abc import Collection, Mapping

from nova_netagent.compile.resolve import Port
from nova_netagent.model.lineage import changed

Neighbours = Mapping[tuple[str, str], str]
"""By bridge and address, the MAC that has it."""


def newcomers(before: Mapping[str, tuple[Port, ...]], now: Mapping[str, tuple[Port, ...]]) -> Neighbours:
    """The addresses that have another MAC than before, or none before: what they cost is what changed."""
    found: dict[tuple[str, str], str] = {}
    for id_ in changed(before, now):
        had = _held(before.get(id_, ()))
        found |= {key: mac for key, mac in _held(now.get(id_, ())).items() if had.get(key) != mac}
    return found


def joining(now: Mapping[str, tuple[Port, ...]], devices: Collection[str]) -> Neighbours:
    """The addresses of the vifs of these devices."""
    found: dict[tuple[str, str], str] = {}
    for ports in now.values() if devices else ():
        found |= _held(tuple(port for port in ports if port.vif.device in devices))
    return found


def _held(ports: tuple[Port, ...]) -> dict[tuple[str, str], str]:
    return {
        (port.network.bridge, address): port.vif.address
        for port in ports
        if port.network is not None
        for address in port.addresses
    }
