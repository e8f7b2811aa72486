"""Whose a rule is, and what it does, in words."""

from typing import Any

from msgspec.structs import replace as changed

from nova_netagent.backend import Count
from nova_netagent.compile.source import UNPROVED_PART
from nova_netagent.explain.live import Met
from nova_netagent.explain.report import Holder, MetRule
from nova_netagent.explain.rules import LiveRule
from nova_netagent.model import DesiredState, FloatingIP, Instance, Network, ProviderRule, SecurityGroup, protocols
from nova_netagent.model.objects import SecurityGroupRule
from nova_netagent.netfilter.foreign import program_of
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.packet import Step
from nova_netagent.netfilter.rule import Dnat, Jump, Log, Opaque, Origin, Redirect, Reject, Snat, TableId, Verdict
from nova_netagent.netfilter.text import rule_text, target_text

AGENT = Holder(True, "the agent, for every packet")
OPERATOR = Holder(False, "the policy of the chain, which is the operator's")


def met(state: DesiredState, table: Met, hook: str, step: Step) -> MetRule:
    """A rule that a packet met, with its counters and owner."""
    found = table.at(step)
    count = Count() if found is None else found.count
    return MetRule(
        family=table.id.family,
        table=table.id.name,
        hook=hook,
        chain=step.chain,
        number=step.index + 1,
        rule=rule_text(step.rule, table.id.family) if found is None else found.text,
        effect=effect(step),
        packets=count.packets,
        bytes=count.octets,
        owner=_owner_of(state, step, found, table.id.name),
        together=count.together,
    )


def _owner_of(state: DesiredState, step: Step, found: LiveRule | None, table: str) -> Holder:
    if step.rule.origin is not None:
        return holder(state, step.rule.origin)
    return AGENT if found is None else owner(found, step.chain, table)


def why(state: DesiredState, refused_by: MetRule) -> str:
    """What a refusal means."""
    whose = refused_by.owner
    if whose.kind != "instances" or whose.id is None:
        return whose.text
    name = _named(state, "instances", whose.id)[1]
    match whose.part, refused_by.table:
        case "fallback", "filter":
            return f"no security group of {name} lets it in"
        case "fallback", "mangle":
            return f"no security group of {name} lets it out"
        case "own address", _:
            return f"{name} may not send from that address or MAC"
        case "no server", _:
            return f"{name} is no DHCP server and no router"
        case "pending", _:
            return f"{name} passes nothing until what it waits for is there"
    return whose.text


class Callers:
    """Has rules that many share speak for whoever led there: the fallback, the operator's own drop action."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._of: dict[str, Holder] = {}

    def named(self, found: MetRule, step: Step) -> MetRule:
        """A rule that was met next, with the owner that it has on this way."""
        caller = self._of.get(step.chain)
        foreign_place = not self._owner.owns_chain(step.chain)
        if caller is not None and found.owner.kind is None and (found.owner.ours or foreign_place):
            found = changed(found, owner=caller)
        if isinstance(step.rule.target, Jump) and found.owner.kind is not None:
            self._of[step.rule.target.chain] = found.owner
        return found


def of_sender(state: DesiredState, found: MetRule, instance_id: str) -> MetRule:
    """The rule that refuses unknown ports refuses what a known one sends with another MAC, too."""
    if found.owner.part != UNPROVED_PART:
        return found
    return changed(found, owner=holder(state, ("instances", instance_id, "own address")))


def unplaced(table: TableId, hook: str, chain: str, text: str, does: str) -> MetRule:
    """A rule in which we keep several, of which none is meant alone."""
    return MetRule(table.family, table.name, hook, chain, 0, text, does, None, None, AGENT)


def policy(table: Met, hook: str, name: str) -> MetRule:
    """The policy of a built-in or base chain as what decided."""
    chain = table.start(hook)
    program = program_of(chain, *table.id.name.split()[1:])
    whose = OPERATOR if program is None else Holder(False, f"foreign, the policy of the chain, probably of {program}")
    return MetRule(table.id.family, table.id.name, hook, chain, 0, f"policy {name}", name, None, None, whose)


def owner(live: LiveRule, chain: str, table: str) -> Holder:
    """Whose a live rule is."""
    if live.ours is not None:
        return AGENT
    if live.stray:
        return Holder(False, "foreign, in a chain of ours: the next resync takes it out")
    if live.alone:
        return Holder(False, "foreign, in a table of ours")
    target = live.rule.target
    program = program_of(chain, target.chain if isinstance(target, Jump) else "", *table.split()[1:])
    return Holder(False, f"foreign, probably {program}" if program else "foreign, not the agent's")


def holder(state: DesiredState, origin: Origin) -> Holder:
    """What a rule of ours is there for."""
    kind, id_, part = origin
    name, text = _named(state, kind, id_)
    if kind == "security_groups" and part:
        text = f"{text}: {_rule(state, id_, part)}"
    elif part:
        text = f"{text}: {part}"
    return Holder(True, text, kind, id_ or None, part or None, name)


def with_owners(state: DesiredState, chain: dict[str, Any]) -> dict[str, Any]:
    """A live chain of ``Reconciler.live_chains``, each rule of ours with its owner in words."""
    for rule in chain["rules"]:
        if rule["origin"] is not None:
            rule["owner"] = holder(state, rule["origin"]).text
    return chain


def _named(state: DesiredState, kind: str, id_: str) -> tuple[str | None, str]:
    match kind:
        case "instances":
            instance = state.get(Instance, id_)
            name = None if instance is None else instance.hostname
            return name, f"instance {name or id_}"
        case "security_groups":
            group = state.get(SecurityGroup, id_)
            name = None if group is None else group.name
            return name, f"security group {name or id_}"
        case "networks":
            network = state.get(Network, id_)
            name = None if network is None else network.label
            return name, f"network {name or id_}" if id_ else "the networks"
        case "floating_ips":
            return None, f"floating IP {id_}" if state.get(FloatingIP, id_) else f"floating IP {id_} (not described)"
        case "connections":
            return None, "a connection that was cut when a change revoked it"
        case "provider_rules":
            known = state.get(ProviderRule, id_)
            return None, f"provider rule {id_}" + ("" if known is None else f" ({known.remote_ip_prefix})")
    return None, kind.replace("_", " ")


def _rule(state: DesiredState, group_id: str, rule_id: str) -> str:
    group = state.get(SecurityGroup, group_id)
    found = None if group is None else next((each for each in group.rules if each.id == rule_id), None)
    return f"rule {rule_id}" if found is None else f"{rule_words(found)} (rule {rule_id})"


def rule_words(rule: SecurityGroupRule) -> str:
    """A group's rule in words: ``ingress tcp 443 from 10.0.0.0/8``, ``egress icmp type 8 code 0 to 10.0.0.1/32``."""
    words = [rule.direction, str(rule.protocol) if rule.protocol is not None else "anything"]
    if rule.port_range_min is not None:
        low, high = rule.port_range_min, rule.port_range_max
        if protocols.number(rule.protocol, 4 if rule.ethertype == "IPv4" else 6) in protocols.WITH_TYPES:
            words.append(f"type {low}" + ("" if high is None else f" code {high}"))
        else:
            words.append(str(low) if high in (None, low) else f"{low}-{high}")
    preposition = "from" if rule.direction == "ingress" else "to"
    anywhere = "anywhere over " + rule.ethertype
    remote = rule.remote_ip_prefix or (f"group {rule.remote_group_id}" if rule.remote_group_id else anywhere)
    return " ".join([*words, preposition, remote])


def effect(step: Step) -> str:
    """What a rule does to a packet."""
    match step.rule.target:
        case Verdict("RETURN"):
            return "return"
        case Verdict(name):
            return name
        case Jump(chain, goto):
            return f"{'=>' if goto else '->'} {chain}"
        case Dnat(address, port):
            return f"DNAT to {address}" + ("" if port is None else f" port {port}")
        case Snat(address):
            return f"SNAT to {address}"
        case Redirect(port):
            return f"redirected to port {port} of this host"
        case Log():
            return "logged, goes on"
        case Reject() | Opaque("REJECT"):
            return "REJECT"
        case Opaque("MASQUERADE" | "SNAT" as name):
            return name
        case Opaque("?"):
            return "another program decides"
        case Opaque(""):
            return "goes on"
        case _:
            return f"{target_text(step.rule.target, 4).removeprefix('-j ')}, goes on"
