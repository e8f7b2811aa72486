"""Why links cannot be had."""

from collections.abc import Iterable, Iterator, Mapping

from nova_netagent.compile.links import Links
from nova_netagent.plan.links.actual import ActualLinks, is_bridge
from nova_netagent.plan.links.vlans import is_vlan, why_not_made

NOT_A_BRIDGE = "there is a link of this name that is not a bridge"


def link_problems(desired: Links, actual: ActualLinks) -> Mapping[str, str]:
    """By link why it cannot be had: an interface is not there, or what should be a bridge is none."""
    missing = {each.interface for each in desired.addresses if each.interface not in actual.links}
    return {
        **dict.fromkeys(sorted(missing), "there is no such interface"),
        **uplink_problems(desired, actual),
        **dict.fromkeys(not_bridges(desired.bridges, actual), NOT_A_BRIDGE),
    }


def uplink_problems(desired: Links, actual: ActualLinks) -> Mapping[str, str]:
    """By link, why an uplink cannot be had, or what carries it."""
    found: dict[str, str] = {}
    for device, bridge in desired.uplinks.items():
        vlan = desired.vlans.get(device)
        link = actual.links.get(device)
        if vlan is not None and vlan.interface not in actual.links:
            found[vlan.interface] = "there is no such interface"
        elif link is None:
            found[device] = "there is no such interface" if vlan is None else why_not_made(vlan, actual)
        elif vlan is not None and not is_vlan(link, vlan):
            found[device] = f"there is a link of this name that is not VLAN {vlan.number} of {vlan.interface}"
        elif link.master not in (None, bridge):
            found[device] = f"it is a port of {link.master} already"
    return found


def not_bridges(bridges: Iterable[str], actual: ActualLinks) -> Iterator[str]:
    """Names of bridges that are those of other links."""
    return (name for name in bridges if name in actual.links and not is_bridge(name, actual))
