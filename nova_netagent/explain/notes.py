"""What is to be known besides a verdict."""

from collections.abc import Iterator

from nova_netagent.explain.case import Case, End, leaves_by
from nova_netagent.explain.obstacles import links_of, passable
from nova_netagent.model import FloatingIP
from nova_netagent.netfilter.foreign import cast
from nova_netagent.plan.links import BRIDGE_SYSCTLS


def notes(case: Case, end: End) -> Iterator[str]:
    """What is to be said of a packet's way and of how it was found, beside its verdict."""
    question = case.question
    yield from _of_mac(case)
    yield from _of_bridge(case)
    yield from _of_unread(case, end)
    yield from _of_nobody(case, end)
    yield from _of_elsewhere(case, end)
    yield from _of_arp(case, end)
    if "NEW" not in case.packet.states:
        yield "NAT was decided by its flow's first packet: the nat table is not asked again"
    floating = case.world.state.get(FloatingIP, question.destination[0])
    if floating is not None and ("floating_ips", floating.id) in case.world.troubles:
        yield f"floating IP {floating.id} is {' '.join(case.world.troubles['floating_ips', floating.id])}"
    ends = ((case.sender, question.source[0]), (leaves_by(end.packet), end.packet.destination))
    for device, address in ends:
        vif = case.vif_at(device, address)
        of_instance = None if vif is None else case.world.troubles.get(("instances", vif.instance_id))
        if of_instance is not None:
            yield f"{case.who(device, address)} is {of_instance[0]}: {of_instance[1]}"
    if question.number in (6, 17) and question.destination[1] is None:
        yield "no destination port was given: rules that name ports do not match"
    yield from case.live.guesses
    if case.live.doubts:
        yield "foreign rules that depend on more than the packet were taken not to apply"


def _of_mac(case: Case) -> Iterator[str]:
    """Another's MAC: the rules that refuse its packet do not get to see it, and count nothing."""
    mac, frames = case.question.mac, case.world.compiled.frames.frames
    secured = next((each for each in frames.secured if each.device == case.sender), None)
    if mac is None or secured is None or mac in secured.macs or case.world.host.frames is None:
        return
    where = f"nft list chain bridge {case.world.compiled.scope.owner.wrap_name} from-vif"
    yield f"{mac} is no MAC of {case.sender}: its frames are dropped and counted before that ({where})"


def _of_bridge(case: Case) -> Iterator[str]:
    """Frames of its sender's bridge are not shown to IP's hooks."""
    port, family = case.scene.ports.get(case.sender or ""), case.packet.family
    if port is None or case.scene.shows_bridged(port.bridge, family):
        return
    name = BRIDGE_SYSCTLS[family].replace("/", ".")
    yield (
        f"{name} is 0: what is bridged meets no rules of IPv{family}, the agent's neither, and what is routed is of"
        " no port to them; netagentctl resync sets it"
    )


def _of_unread(case: Case, end: End) -> Iterator[str]:
    """What decides as well, and is not looked at: programs on its links, and who has joined a group."""
    if cast(end.packet.destination) == "multicast" and case.sender is not None:
        port, group = end.packet.physdev_out, end.packet.destination
        who = "the host takes it" if port is None else f"{port} is given it by its bridge"
        yield f"whether {who} depends on who has joined {group}, which is not looked at"
    for device in links_of(case, end):
        known = passable(case, device)
        named = () if known is None else (("a program of XDP's", known.xdp), ("filters of tc's, maybe", known.tc))
        for what, is_there in named:
            if is_there:
                yield f"{device} has {what}: what becomes of packets there is not looked at"


def _of_nobody(case: Case, end: End) -> Iterator[str]:
    """A packet that is let out to a bridge behind which nobody is known to have its address."""
    bridge, address = end.packet.out_interface, end.packet.destination
    if end.verdict != "ACCEPT" or bridge is None or end.packet.physdev_out is not None or cast(address) != "unicast":
        return
    is_known = bridge in case.scene.uplinks or case.scene.holder(address, bridge) is not None
    if case.scene.is_near(address, bridge) and not is_known:
        yield f"no described instance has {address}: nobody behind {bridge} answers to it"


def _of_elsewhere(case: Case, end: End) -> Iterator[str]:
    """A packet that is for a described vif, and that the host's routes lead past its bridge."""
    out, address = end.packet.out_interface, end.packet.destination
    if end.verdict != "ACCEPT" or out is None:
        return
    vifs = case.scene.vifs.values()
    on = {port.network.bridge for port in vifs if port.network is not None and address in port.addresses}
    if on and out not in on:
        yield f"{address} is a described vif's on {', '.join(sorted(on))}; it leaves by {out}"


def _of_arp(case: Case, end: End) -> Iterator[str]:
    """A packet that is let through, and is never sent as its sender cannot ask for a MAC."""
    if end.verdict != "ACCEPT" or end.packet.family != 4:
        return
    came_by, goes_by = case.sender, end.packet.physdev_out or case.scene.leads_out(end.packet)
    asked = [("forward", came_by, goes_by), ("forward", goes_by, came_by)] if end.packet.physdev_out else []
    between = ("prerouting", "input"), ("output", "postrouting")
    for link in (each for each in (came_by, goes_by) if each is not None):
        known = between if link in case.scene.ports else ((), ())
        asked += [(hook, link, None) for hook in ("ingress", *known[0])]
        asked += [(hook, None, link) for hook in (*known[1], "egress")]
    for hook, incoming, outgoing in asked:
        if end.packet.physdev_out and hook in ("input", "output"):
            continue
        found = case.live.refuses_arp(hook, incoming, outgoing)
        if found is not None:
            other, walked = found
            step = walked.decided_by
            where = (
                f"rule {step.index + 1} of {other.id.name} {step.chain}" if step else f"the policy of {other.key.name}"
            )
            yield f"{where}, foreign, refuses ARP: without it the packet is never sent"
            return
