"""Which link leads from a network's bridge to other hosts, and whose it is where two networks ask for one.

A bridge has one uplink and an uplink one bridge: two segments that were joined by a second
one would be one network to everybody in them.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from nova_netagent.model import Network
from nova_netagent.settings import NetworkSettings


class Uplink(Struct, frozen=True):
    """The link by which a bridge leads to other hosts."""

    device: str
    bridge: str
    interface: str
    """The physical interface: the device itself, or what carries its VLAN."""
    vlan: int | None = None
    """The number of the VLAN whose link the device is."""


def uplink_of(each: Network, settings: NetworkSettings) -> Uplink | None:
    """A network's uplink; the local option wins over its ``bridge_interface`` (nova, bug 833426)."""
    if each.vlan_link is not None:
        interface = settings.vlan_interface or each.bridge_interface
        return None if interface is None else Uplink(each.vlan_link, each.bridge, interface, each.vlan)
    interface = settings.flat_interface or each.bridge_interface
    return None if interface is None else Uplink(interface, each.bridge, interface)


def uplink(each: Network, settings: NetworkSettings) -> str | None:
    """The device of a network's uplink."""
    found = uplink_of(each, settings)
    return None if found is None else found.device


def uplinks_of(networks: Iterable[Network], settings: NetworkSettings) -> Mapping[str, Uplink]:
    """The uplinks of networks by device; none where somebody else manages the links."""
    found = (uplink_of(each, settings) for each in networks) if settings.manage_links else ()
    return {each.device: each for each in found if each is not None}


def contested(aged: Iterable[tuple[int, Network]], settings: NetworkSettings) -> Mapping[str, str]:
    """Networks whose uplink, or whose bridge's, an older network has otherwise; and why, by id.

    :param aged: networks, and since when each names all the links that it does.
    """
    by_device: dict[str, tuple[Uplink, Network]] = {}
    by_bridge: dict[str, tuple[Uplink, Network]] = {}
    bad: dict[str, str] = {}
    for _, each in sorted(aged, key=lambda item: (item[0], item[1].id)):
        wanted = uplink_of(each, settings)
        if wanted is None:
            continue
        for known in (by_device.get(wanted.device), by_bridge.get(wanted.bridge)):
            if known is not None and known[0] != wanted:
                holder = f"network {known[1].id} ({known[1].label})"
                bad[each.id] = f"it wants {_told(wanted)}, and {holder} has {_told(known[0])} already"
                break
        else:
            by_device.setdefault(wanted.device, (wanted, each))
            by_bridge.setdefault(wanted.bridge, (wanted, each))
    return bad


def _told(each: Uplink) -> str:
    on = "" if each.vlan is None else f" on {each.interface}"
    return f"{each.device}{on} in bridge {each.bridge}"
