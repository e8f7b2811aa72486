"""The smallest change that would let a refused packet through.

Each refusal of ours names the object that refused; what would change its mind is worked out
here, one change at a time, and whoever asks tries it on a copy of the state. What somebody
else refuses is theirs to change, and is only named.
"""

from typing import Any, Literal

from msgspec.structs import replace

from nova_netagent.compile import Compiled
from nova_netagent.compile.resolve import Port
from nova_netagent.events import Event, Put
from nova_netagent.explain import owners
from nova_netagent.explain.report import MetRule, ObjectChange, Proposal
from nova_netagent.explain.scene import LiveScene
from nova_netagent.model import DesiredState, Instance, SecurityGroup, document, protocols, values
from nova_netagent.model.objects import ETHERTYPES, AllowedAddressPair, Object, SecurityGroupRule, Vif
from nova_netagent.netfilter.owner import digest
from nova_netagent.netfilter.packet import Packet

MOST_STEPS = 4
"""A packet is judged at most twice by groups; more steps than this lead nowhere."""


class Attempt:
    """Changes gathered so far, and what is to be said of them."""

    def __init__(self, state: DesiredState, compiled: Compiled, scene: LiveScene) -> None:
        self._state = state
        self._compiled = compiled
        self._scene = scene
        self._changes: list[ObjectChange] = []
        self._advice = ""
        self.events: list[Event] = []

    def seen(self, state: DesiredState, compiled: Compiled) -> None:
        """The state with the changes so far."""
        self._state, self._compiled = state, compiled

    def take(self, refused_by: MetRule | None, packet: Packet, sender: str | None) -> bool:
        """Add what would undo a refusal; false when nothing that is described would."""
        if refused_by is None:
            return False
        if not refused_by.owner.ours:
            self._advice = _foreign(refused_by)
            return False
        match (refused_by.owner.kind, refused_by.table):
            case ("instances", "filter") | (None, "filter"):
                return self._allow("ingress", self._receiver(packet), packet)
            case ("instances", "mangle") | (None, "mangle"):
                return self._allow("egress", self._scene.vifs.get(sender or ""), packet)
            case ("instances", "raw") | (None, "raw"):
                return self._admit(self._scene.vifs.get(sender or ""), packet)
        self._advice = _what_refuses(refused_by)
        return False

    def proposal(self, *, works: bool) -> Proposal | None:
        """What came of it."""
        if works:
            return Proposal(tuple(self._changes), True, "")
        if not self._changes and not self._advice:
            return None
        return Proposal(tuple(self._changes), False, self._advice or "even so it would be refused")

    # --- groups

    def _receiver(self, packet: Packet) -> Port | None:
        """The vif whose chain the packet is in: by bridge port, or by address."""
        if packet.physdev_out is not None:
            return self._scene.vifs.get(packet.physdev_out)
        found = (
            port for port in self._scene.vifs.values() if port.network and port.network.bridge == packet.out_interface
        )
        known = list(found) or list(self._scene.vifs.values())
        own = next((port for port in known if packet.destination in port.addresses), None)
        if own is not None:
            return own
        wanted = values.prefix(packet.destination)
        covers = (port for port in known for pair in port.vif.pairs if values.prefix(pair.ip_address).contains(wanted))
        return next(covers, None)

    def _allow(self, direction: Literal["ingress", "egress"], port: Port | None, packet: Packet) -> bool:
        if port is None:
            return False
        instance = self._state.get(Instance, port.instance_id)
        if instance is None:
            return False
        vif = next((each for each in instance.vifs if each.id == port.vif.id), port.vif)
        if direction == "egress" and port.missing_group:
            self._advice = (
                f"describe the security groups that {_name(instance)} is in: one is not known, so it may restrict"
            )
            return False
        group = self._best_group(instance, vif, direction)
        if group is None:
            return self._found_group(instance, vif, direction, packet)
        rule = _rule(direction, packet)
        if rule is None or any(each.id == rule.id for each in group.rules):
            self._advice = _unsayable(packet)
            return False
        changed = replace(group, rules=(*group.rules, rule), revision=_next(group))
        others = self._members(group.id) - {instance.id}
        also = ""
        if others:
            also = f"so can {len(others)} other member{'s' if len(others) > 1 else ''} of the group on this host"
        self._add(changed, f"security group {group.name or group.id}: add {owners.rule_words(rule)}", also)
        return True

    def _best_group(self, instance: Instance, vif: Vif, direction: str) -> SecurityGroup | None:
        """The group with the fewest members; for egress one that restricts its members already."""
        found = [group for id_ in instance.groups_of(vif) if (group := self._state.get(SecurityGroup, id_)) is not None]
        if direction == "egress":
            restricting = [group for group in found if any(rule.direction == "egress" for rule in group.rules)]
            found = restricting or found
        return min(found, key=lambda group: (len(self._members(group.id)), group.id), default=None)

    def _members(self, group_id: str) -> set[str]:
        return {
            each.id
            for each in self._state.of(Instance)
            if any(group_id in each.groups_of(vif) for vif in each.vifs) or group_id in each.security_groups
        }

    def _found_group(
        self, instance: Instance, vif: Vif, direction: Literal["ingress", "egress"], packet: Packet
    ) -> bool:
        """An instance without a group: a new one for it alone."""
        rule = _rule(direction, packet)
        if rule is None:
            self._advice = _unsayable(packet)
            return False
        group = SecurityGroup(id=_uuid(f"group {vif.id}"), name=f"for {_name(instance)}"[:255], rules=(rule,))
        wanted = (*instance.groups_of(vif), group.id)
        if vif.security_groups is None:
            changed = replace(instance, security_groups=wanted, revision=_next(instance))
        else:
            changed = _with_vif(instance, replace(vif, security_groups=wanted))
        self._add(group, f"a new security group {group.id}: {owners.rule_words(rule)}")
        self._add(changed, f"instance {_name(instance)}: put it into that group")
        return True

    # --- own addresses

    def _admit(self, port: Port | None, packet: Packet) -> bool:
        """A vif that sends as somebody else: an allowed address pair, if it may be one."""
        instance = None if port is None else self._state.get(Instance, port.instance_id)
        if port is None or instance is None:
            return False
        vif = next((each for each in instance.vifs if each.id == port.vif.id), port.vif)
        try:
            address = values.host_ip(packet.source)
        except ValueError:
            return False
        mac = packet.mac_source if packet.mac_source not in (None, vif.address) else None
        pair = AllowedAddressPair(ip_address=address, mac_address=mac)
        if pair in vif.pairs:
            self._advice = "an instance never acts as a DHCP server or a router, whatever it is allowed"
            return False
        changed = replace(vif, allowed_address_pairs=(*vif.pairs, pair))
        text = f"instance {_name(instance)}, vif {vif.device}: allow it to send as {address}"
        self._add(_with_vif(instance, changed), text + (f" from {mac}" if mac else ""))
        return True

    def _add(self, changed: Object, text: str, also: str = "") -> None:
        self.events = [
            each for each in self.events if not (isinstance(each, Put) and _key(each.object) == _key(changed))
        ]
        self.events.append(Put(changed))
        body: Any = document(changed)
        self._changes.append(ObjectChange(changed.KIND, changed.id, text, body, also))


def _key(each: Object) -> tuple[str, str]:
    return each.KIND, each.id


def _next(each: Object) -> int | None:
    return None if each.revision is None else each.revision + 1


def _with_vif(instance: Instance, vif: Vif) -> Instance:
    vifs = tuple(vif if each.id == vif.id else each for each in instance.vifs)
    return replace(instance, vifs=vifs, revision=_next(instance))


def _name(instance: Instance) -> str:
    return instance.hostname or instance.id


def _rule(direction: Literal["ingress", "egress"], packet: Packet) -> SecurityGroupRule | None:
    """The rule for this packet, its peer, and nothing else."""
    peer = packet.source if direction == "ingress" else packet.destination
    low, high = _ports(packet)
    text = f"{direction} {packet.protocol} {low} {high} {peer}"
    try:
        return SecurityGroupRule(
            id=_uuid(text),
            direction=direction,
            ethertype=ETHERTYPES[packet.family],
            protocol=_protocol(packet),
            port_range_min=low,
            port_range_max=high,
            remote_ip_prefix=values.host(peer),
        )
    except ValueError:
        return None


def _protocol(packet: Packet) -> str | int:
    names = {
        number: name for name, number in protocols.NUMBERS.items() if name in ("icmp", "icmpv6", "tcp", "udp", "sctp")
    }
    return names.get(packet.protocol, packet.protocol)


def _ports(packet: Packet) -> tuple[int | None, int | None]:
    if packet.icmp is not None:
        return packet.icmp
    return packet.destination_port, packet.destination_port


def _uuid(text: str) -> str:
    """An id that the same proposal always has."""
    found = digest(text)
    return f"{found[:8]}-{found[8:12]}-5{found[13:16]}-8{found[17:20]}-{found[20:32]}"


def _unsayable(packet: Packet) -> str:
    if not packet.states & {"NEW", "ESTABLISHED", "RELATED"}:
        return f"connection tracking finds it {', '.join(sorted(packet.states))}: no stateful group lets that in"
    return "no rule of a group can say it"


def _foreign(rule: MetRule) -> str:
    where = f"IPv{rule.family} {rule.table} {rule.chain}"
    if rule.number == 0:
        return f"the policy of {where} is the operator's: let it through there, or set the policy to ACCEPT"
    return f"not ours to change: {rule.owner.text}; see rule {rule.number} of {where}"


def _what_refuses(rule: MetRule) -> str:
    match rule.owner.kind:
        case "provider_rules":
            return f"{rule.owner.text} is for every instance: delete or narrow it, no group overrules it"
        case "networks":
            return f"{rule.owner.text}: no group overrules what a network refuses"
        case "connections":
            return "what was cut stays cut: the ends have to open a new connection, which the rules judge"
        case "floating_ips":
            return f"{rule.owner.text} refuses it"
    return f"{rule.owner.text} refuses it"
