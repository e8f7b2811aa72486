"""The uplinks that go to their bridge, and those that leave it."""

from collections.abc import Collection, Container, Iterator, Mapping

from nova_netagent.compile.links import Links
from nova_netagent.plan.links.actual import ActualLinks, Made, is_bridge
from nova_netagent.plan.links.edits import Join, Release
from nova_netagent.plan.links.problems import uplink_problems
from nova_netagent.plan.links.sysctls import accepts
from nova_netagent.plan.links.vlans import is_vlan


def joins(
    desired: Links,
    actual: ActualLinks,
    made: Mapping[Made, str],
    sysctls: Mapping[str, str],
    held: Mapping[str, str],
    unusable: set[str],
) -> Iterator[Join]:
    """The uplinks that are not on their bridge, and those of ours that hold what their bridge should."""
    left = {tuple(name.split(" ")) for kind, name in made if kind == "uplink"}
    problems = uplink_problems(desired, actual)
    for device, bridge in desired.uplinks.items():
        link, vlan = actual.links.get(device), desired.vlans.get(device)
        if bridge in unusable or (vlan is not None and vlan.interface in problems):
            continue
        if link is None:
            wanted = vlan is not None
        elif vlan is not None and not is_vlan(link, vlan):
            wanted = False
        elif link.master == bridge:
            ours = ("uplink", f"{device} {bridge}") in made
            wanted = ours and (device in actual.addressed or bool(held.get(device)))
        else:
            # Another bridge keeps it, unless it is there by us and leaves with this plan.
            wanted = link.master is None or (device, link.master) in left
        if wanted:
            ours = ("bridge", bridge) in made or bridge not in actual.links
            yield Join(device, bridge, ours and accepts(device, sysctls))


def releases(going: Collection[Made], actual: ActualLinks, made: Mapping[Made, str]) -> Iterator[Release]:
    """The uplinks of ours that nobody asks for by their name any more.

    One that was given another name is known by its MAC, which its bridge has. It stays where it is asked for by that.
    """
    for kind, name in going:
        if kind == "uplink":
            device, bridge = name.split(" ")
            found = device if device in actual.links else _renamed(bridge, actual, made)
            if found is None:
                continue
            remembered = ("held", bridge) in made and bridge not in actual.links and not actual.links[found].master
            if remembered or is_bridge(bridge, actual):
                stays = bridge in actual.links and ("bridge", bridge) in made and ("bridge", bridge) not in going
                yield Release(found, bridge, _kept(bridge, made[kind, name], made), deafen=stays)


def _renamed(bridge: str, actual: ActualLinks, made: Container[Made]) -> str | None:
    """The uplink of a bridge of ours, by whatever name."""
    if bridge not in actual.links or ("bridge", bridge) not in made:
        return None
    mac = actual.links[bridge].mac
    ports = (link for link in actual.links.values() if link.master == bridge and ("port", link.name) not in made)
    return next((link.name for link in ports if link.mac == mac), None)


def _kept(bridge: str, found: str, made: Mapping[Made, str]) -> tuple[str, ...]:
    """What stays on a bridge when its uplink leaves: what it had before, and what we gave it."""
    given = (name.split(" ", 1) for kind, name in made if kind == "address")
    return (*found.split(), *(cidr for device, cidr in given if device == bridge))


def is_off(device: str, bridge: str, actual: ActualLinks) -> bool:
    """Whether a link is there, and no port of its bridge."""
    return device in actual.links and actual.links[device].master != bridge


def is_new(device: str, bridge: str, actual: ActualLinks, made: Mapping[Made, str]) -> bool:
    """Whether an uplink is about to be joined for the first time to a bridge that is there."""
    joined = device in actual.links and actual.links[device].master == bridge
    return not joined and bridge in actual.links and ("uplink", f"{device} {bridge}") not in made


def mac_of(device: str, bridge: str, actual: ActualLinks, joining: Mapping[str, str]) -> str | None:
    """The MAC of an uplink that is on its bridge, or comes to it."""
    link = actual.links.get(device)
    return link.mac if link is not None and (link.master == bridge or device in joining) else None
