"""What keeps packets of any kind from a way, whatever the rules say."""

from nova_netagent.backend.links.passable import Passable
from nova_netagent.explain.case import Case, End, leaves_by


def obstacles(case: Case, end: End) -> list[str]:
    """What keeps a packet of any kind from the way that it would go by the rules."""
    found = [told for device in links_of(case, end) if (told := _closed(case, device)) is not None]
    found = [f"{each}: nothing comes or goes that way" for each in found]
    came_by, goes_by = case.sender, end.packet.physdev_out or case.scene.leads_out(end.packet)
    if end.packet.physdev_out and _is_isolated(case, came_by) and _is_isolated(case, goes_by):
        found.append(f"{came_by} and {goes_by} are isolated ports: their bridge gives no frames from one to the other")
    port = case.scene.ports.get(goes_by or "")
    if port is not None and port.mac is not None and port.bridge in case.actual.links:
        behind = case.world.host.links.behind(port.bridge, port.mac)
        if behind not in (None, goes_by):
            found.append(
                f"{port.bridge} has learned {port.mac} behind {behind}: it gives frames for {goes_by} out there"
            )
    return found


def links_of(case: Case, end: End) -> list[str]:
    """The links that a packet goes by, in order: ports, and what they are ports of."""
    scene, out = case.scene, leaves_by(end.packet)
    leads_out = scene.leads_out(end.packet) if end.packet.physdev_out is None else None
    found = []
    for device in filter(None, (case.sender, case.bridged_to, leads_out, out)):
        port = scene.ports.get(device)
        found += [device] if port is None else [device, port.bridge]
    return list(dict.fromkeys(found))


def passable(case: Case, device: str | None) -> Passable | None:
    """Of a link what lets frames pass, or not; ``None``: there is no such link."""
    return None if device is None else case.world.host.links.passable(device)


def _is_isolated(case: Case, device: str | None) -> bool:
    known = passable(case, device)
    return known is not None and known.isolated


def _closed(case: Case, device: str) -> str | None:
    """Why no frame passes a link."""
    link, known = case.actual.links.get(device), passable(case, device)
    if link is None or known is None:
        return f"there is no link {device}"
    if not link.up:
        return f"{device} is down"
    if device in case.scene.vifs and link.master is None:
        return f"{device} is on no bridge"
    if not known.running:
        return f"{device} has no carrier: nobody is at its other end"
    if not known.forwards:
        return f"{device} does not forward yet: its bridge listens, learns or blocks there (STP)"
    return None
