"""Frames on a host: what a state asks of them, and the ports that the host has. Pure."""

from collections.abc import Collection

from msgspec.structs import replace

from nova_netagent.compile.frames import WantedFrames
from nova_netagent.netfilter.frames import Closed, Frames, Gateway
from nova_netagent.plan.links import ActualLinks

_NOBODYS = ("networks", "", "unknown port")


def narrowed(frames: Frames, before: Frames, devices: Collection[str], ports: Collection[str]) -> Frames:
    """The frames that a host shall pass; of some devices no more than before: what was closed stays closed.

    Of a family that met no rules before nothing passes either. The same object where that is all that it shall.

    :param ports: the devices that are on bridges of ours: who was nobody there was closed, or is about to be.
    """
    had = {each.device: each.addresses for each in before.secured if each.device in devices}
    shut = {each.device for each in before.closed if each.device in devices}
    shut |= {device for device in devices if device in ports and device not in had}
    unjudged = tuple(sorted({*before.unjudged, *frames.unjudged}))
    if not had and not shut and unjudged == frames.unjudged:
        return frames
    closed = tuple(Closed(device, _NOBODYS) for device in sorted(shut))
    secured = tuple(
        replace(each, addresses=tuple(own for own in each.addresses if own in had[each.device]))
        if each.device in had
        else each
        for each in frames.secured
        if each.device not in shut
    )
    others = (each for each in frames.closed if each.device not in shut)
    return replace(frames, secured=secured, closed=(*others, *closed), unjudged=unjudged)


def frames_on(wanted: WantedFrames, actual: ActualLinks) -> Frames:
    """The frames that a host shall pass.

    A port of a bridge of ours that is nobody's is closed. Frames for another gateway are
    taken out at every port that may send them, with the MAC that its bridge has now.
    """
    if not wanted.bridges:
        return wanted.frames
    closed = [
        Closed(link.name, _NOBODYS)
        for link in actual.links.values()
        if (ports := wanted.bridges.get(link.master or "")) is not None and link.name not in ports.known
    ]
    gateways = [
        Gateway(device, mac)
        for bridge, its in wanted.bridges.items()
        if its.redirecting and bridge in actual.links and (mac := actual.links[bridge].mac) is not None
        for device in sorted(its.redirecting)
    ]
    frames = wanted.frames
    closed_devices = {each.device for each in closed}
    # A vif's port on another bridge than its own: nothing passes until it is back.
    secured = frames.secured
    if closed_devices:
        secured = tuple(each for each in secured if each.device not in closed_devices)
    return replace(frames, secured=secured, closed=(*frames.closed, *closed), gateways=tuple(gateways))
