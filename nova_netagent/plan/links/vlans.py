"""Whether a VLAN's link is the one that is asked for."""

from collections.abc import Container

from nova_netagent.compile.links import Vlan
from nova_netagent.plan.links.actual import ActualLinks, Link, Made


def is_vlan(link: Link, wanted: Vlan) -> bool:
    """Whether a link is that VLAN of that interface, whatever its name."""
    return (link.kind, link.parent, link.vlan) == ("vlan", wanted.interface, wanted.number)


def is_astray(wanted: Vlan, actual: ActualLinks, made: Container[Made]) -> bool:
    """Whether a VLAN's link is ours, on another interface than it should be, and can be had on that."""
    link = actual.links.get(wanted.name)
    return (
        link is not None
        and (link.kind, link.vlan) == ("vlan", wanted.number)
        and ("vlan", wanted.name) in made
        and ("uplink", f"{wanted.name} {link.master}") in made
        and wanted.interface in actual.links
        and not any(is_vlan(each, wanted) for each in actual.links.values())
    )


def why_not_made(vlan: Vlan, actual: ActualLinks) -> str:
    """Why a VLAN's link is not there although it was asked for; one of a name of its own is all that there can be."""
    for link in actual.links.values():
        if is_vlan(link, vlan):
            return f"VLAN {vlan.number} of {vlan.interface} is {link.name} already"
    return "it could not be made"
