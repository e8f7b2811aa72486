"""What is wrong with which object. Pure."""

from collections.abc import Iterable, Mapping

from nova_netagent.compile import Compiled
from nova_netagent.model import DesiredState, Key
from nova_netagent.services import Trouble
from nova_netagent.status import State


def troubles(
    state: DesiredState, compiled: Compiled, link_failures: Mapping[str, str], servers: Mapping[str, Trouble]
) -> Mapping[Key, tuple[State, str]]:
    """The objects that are not done, and why: the earlier its place in the work, the more a reason matters.

    :param link_failures: by the link concerned, why its edits failed.
    :param servers: by network, what is wrong with its DHCP server.
    """
    found: dict[Key, tuple[State, str]] = {
        ("networks", id_): trouble for id_, trouble in servers.items() if id_ in state.networks
    }
    for key, problems in compiled.problems.items():
        worst: State = "error" if any(kind == "error" for kind, _ in problems) else "pending"
        found[key] = (worst, "; ".join(message for _, message in problems))
    for key, name in _who_needs(link_failures, state, compiled) if link_failures else ():
        found[key] = ("error", f"{name}: {link_failures[name]}")
    return found


def _who_needs(names: Mapping[str, str], state: DesiredState, compiled: Compiled) -> Iterable[tuple[Key, str]]:
    """The objects that want something of a link."""
    links = compiled.links
    for address in links.addresses:
        if address.interface in names and address.origin is not None:
            yield address.origin, address.interface
    for id_, entry in state.instances.items():
        for vif in getattr(entry.object, "vifs", ()):
            if vif.device in names:
                yield ("instances", id_), vif.device
    for id_, entry in state.networks.items():
        bridge = getattr(entry.object, "bridge", "")
        for name in (*links.under(bridge), bridge):
            if name in names:
                yield ("networks", id_), name
