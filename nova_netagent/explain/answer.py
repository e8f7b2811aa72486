"""From a question to its explanation."""

from collections.abc import Iterator
from itertools import islice
from typing import Literal

from nova_netagent.compile import Compiled
from nova_netagent.explain import owners, proposal
from nova_netagent.explain.case import Case, End, World, leaves_by
from nova_netagent.explain.live import Place
from nova_netagent.explain.notes import notes
from nova_netagent.explain.obstacles import obstacles
from nova_netagent.explain.question import Question
from nova_netagent.explain.report import Doubt, Explanation, MetRule, PacketAt, Proposal
from nova_netagent.netfilter.journey import Hop
from nova_netagent.netfilter.packet import Packet
from nova_netagent.netfilter.rule import TableId
from nova_netagent.netfilter.text import end_text

MOST_DOUBTS = 16
_UNTRANSLATED = "its flow is taken not to be translated; if it is, it goes on to whom only connection tracking knows"
Way = Literal["bridged", "routed", "to the host", "from the host"]


def explain(question: Question, world: World) -> Explanation:
    """What becomes of a packet, by the rules that the kernel has now.

    :raises Invalid: the question names a link that is not here.
    :raises BackendError: the kernel cannot be read.
    """
    case = Case(question, world)
    end = case.walk()
    doubts = _doubts(case, end)
    rules = [each for hop in end.journey.hops for each in _met(case, hop)]
    refused_by = rules[-1] if end.verdict in ("DROP", "REJECT", "UNKNOWN") and rules else None
    _guess_translation(case)
    told = list(notes(case, end))
    hindered = obstacles(case, end)
    return Explanation(
        verdict=end.verdict,
        reason=_reason(case, end, rules, refused_by),
        certain=end.verdict != "UNKNOWN"
        and not case.live.guesses
        and not (hindered and end.verdict == "ACCEPT")
        and all(each.verdict == end.verdict for each in doubts),
        way=_way(case, end),
        state=",".join(sorted(case.packet.states)),
        sent=_at(case, case.packet, case.sender),
        left=_at(case, end.packet, leaves_by(end.packet)),
        rules=rules,
        refused_by=refused_by,
        doubts=doubts,
        notes=tuple(dict.fromkeys([*hindered, *case.said, *told])),
        proposal=_propose(case, end, refused_by),
    )


def _doubts(case: Case, end: End) -> list[Doubt]:
    """What would become of the packet if one of the rules that cannot be judged applied."""
    met = list(islice(case.live.doubts, MOST_DOUBTS))
    found = []
    for place in met:
        case.live.assumed = frozenset({place})
        other = case.walk()
        rule = _at_place(case, place, other)
        if rule is not None:
            found.append(Doubt(rule, other.verdict))
    case.live.assumed = frozenset()
    return found


def _at_place(case: Case, place: Place, end: End) -> MetRule | None:
    table, chain, index = place
    return next(
        (
            each
            for hop in end.journey.hops
            for each in _met(case, hop)
            if (each.table, each.chain, each.number) == (table.name, chain, index + 1)
        ),
        None,
    )


def _met(case: Case, hop: Hop) -> Iterator[MetRule]:
    table = case.live.met(TableId(hop.walk.packet.family, hop.table))
    if table is None:
        return
    callers = owners.Callers(case.world.compiled.scope.owner)
    sender = case.scene.vifs.get(hop.walk.packet.physdev_in or "")
    for step in hop.walk.steps:
        found = callers.named(owners.met(case.world.state, table, hop.hook, step), step)
        yield found if sender is None else owners.of_sender(case.world.state, found, sender.instance_id)
    if hop.walk.verdict != "ACCEPT" and hop.walk.decided_by is None and hop.walk.verdict != "UNKNOWN":
        yield owners.policy(table, hop.hook, hop.walk.verdict)


def _at(case: Case, packet: Packet, device: str | None) -> PacketAt:
    proto = str(case.question.proto)
    if packet.icmp is not None:
        proto += f" type {packet.icmp[0]} code {packet.icmp[1]}"
    source = end_text(packet.source, packet.source_port)
    destination = end_text(packet.destination, packet.destination_port)
    address = packet.source if device == case.sender else packet.destination
    return PacketAt(source, destination, proto, device, case.who(device, address))


def _way(case: Case, end: End) -> Way:
    if case.sender is None:
        return "from the host"
    if end.packet.physdev_out is not None or (case.bridged_to is not None and not end.packet.to_local_address):
        return "bridged"
    if any(hop.hook == "INPUT" for hop in end.journey.hops) or case.scene.takes(end.packet.destination):
        return "to the host"
    return "routed"


def _reason(case: Case, end: End, rules: list[MetRule], refused_by: MetRule | None) -> str:
    if end.reason:
        return end.reason
    if refused_by is not None:
        where = f"IPv{refused_by.family} {refused_by.table} {refused_by.chain}"
        if end.verdict == "UNKNOWN":
            return f"another program decides: {refused_by.rule} in {where}"
        place = "the policy" if refused_by.number == 0 else f"rule {refused_by.number}"
        return f"{place} of {where} refuses it: {owners.why(case.world.state, refused_by)}"
    judges = [each for each in rules if each.table != "nat"]  # which translates, and refuses nothing
    allowed = [each for each in judges if each.effect == "ACCEPT" or each.owner.kind == "security_groups"]
    by = next((each.owner.text for each in reversed(allowed) if each.owner.kind is not None), None)
    if by is None and allowed:
        by = allowed[-1].owner.text
    return "no rule refuses it" if by is None else f"it is let through by {by}"


def _guess_translation(case: Case) -> None:
    """To one of the host's own addresses comes also what connection tracking gives back to who is behind them."""
    known = case.packet.states & {"ESTABLISHED", "RELATED"}
    if known and case.sender is not None and case.scene.is_own(case.packet.destination):
        case.live.guesses.setdefault(_UNTRANSLATED)


def _propose(case: Case, end: End, refused_by: MetRule | None) -> Proposal | None:
    if end.verdict not in ("DROP", "REJECT"):
        return None
    found = proposal.Attempt(case.world.state, case.world.compiled, case.scene)
    refused: tuple[End, MetRule | None] = (end, refused_by)
    for _ in range(proposal.MOST_STEPS):
        if not found.take(refused[1], refused[0].packet, case.sender):
            break
        state, compiled = case.world.changed(found.events)
        found.seen(state, compiled)
        refused = _again(case, compiled)
        if refused[0].verdict == "ACCEPT":
            return found.proposal(works=True)
    case.live.instead(None)
    return found.proposal(works=False)


def _again(case: Case, compiled: Compiled) -> tuple[End, MetRule | None]:
    """The same packet, with our own rules as they would be."""
    case.live.instead(compiled.ruleset)
    try:
        end = case.walk()
        rules = [rule for hop in end.journey.hops for rule in _met(case, hop)]
        return end, rules[-1] if rules and end.verdict != "ACCEPT" else None
    finally:
        case.live.instead(None)
