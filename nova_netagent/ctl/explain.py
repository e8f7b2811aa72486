"""explain: a packet's way through the host, for a person."""

from typing import Any

from nova_netagent.ctl.graph.command import draw_way
from nova_netagent.ctl.host import short
from nova_netagent.ctl.outcome import OK
from nova_netagent.ctl.session import Session

Document = dict[str, Any]

_FIELDS = ("proto", "src", "dst", "in_dev", "out_dev", "state", "icmp_type", "icmp_code", "mac")
_ENDS = {"ACCEPT": "passes", "DROP": "is dropped", "REJECT": "is rejected", "NO ROUTE": "goes nowhere"}
_WAYS = {
    "bridged": "is bridged",
    "routed": "is routed",
    "to the host": "goes to the host",
    "from the host": "is the host's own",
}


def explain(session: Session) -> int:
    """``explain``."""
    import json

    args = session.args
    asked = {name: value for name in _FIELDS if (value := getattr(args, name)) is not None}
    if args.routed:
        asked["routed"] = True
    target, agent = "/v1/explain", session.agent
    if args.trace:
        target, agent = f"{target}?trace={args.trace}", agent.patient(args.trace)
        session.screen.progress(f"watching for {args.trace} s …")
    answer = agent.request("POST", target, json.dumps(asked).encode()).accepted_arguments()
    found = answer.having("verdict", "rules")
    if session.screen.json:
        session.screen.body(answer.body)
    else:
        _show(session, found)
    if args.graph:
        draw_way(session, found, args.graph)
    return OK


def _show(session: Session, found: Document) -> None:
    screen = session.screen
    sent, left = found["sent"], found["left"]
    screen.wrapped(f"{sent['proto']} {sent['src']} -> {sent['dst']} ({found['state']}) {_WAYS[found['way']]}")
    _show_end(session, "from", sent)
    _show_rules(session, found["rules"])
    screen.line()
    if (left["src"], left["dst"]) != (sent["src"], sent["dst"]):
        screen.wrapped(f"translated to {left['src']} -> {left['dst']}", indent="  ")
    if found["verdict"] == "ACCEPT":
        _show_end(session, "to", left)
    verdict = screen.verdict(_ENDS.get(found["verdict"], "may pass or not"), found["verdict"] == "ACCEPT")
    screen.wrapped(f"It {verdict}: {found['reason']}.")
    if not found["certain"] and found["verdict"] != "UNKNOWN":
        screen.wrapped("That is not certain" + (":" if found["doubts"] else "."), indent="  ")
    for doubt in found["doubts"]:
        rule = doubt["rule"]
        what = _ENDS.get(doubt["verdict"], "may pass or not")
        where = f"rule {rule['number']} of {rule['table']} {rule['chain']}"
        screen.wrapped(f"if {where} applied ({rule['rule']}), it {what}", indent="  ")
    for note in found["notes"]:
        screen.wrapped(f"Note: {note}.")
    if found["proposal"]:
        _show_proposal(session, found["proposal"])
    if found.get("trace"):
        _show_trace(session, found["trace"])


def _show_rules(session: Session, rules: list[Document]) -> None:
    screen, place = session.screen, ""
    shown = [rule for rule in rules if session.args.all or not _leads_only(rule)]
    for rule in shown:
        here = f"IPv{rule['family']} {rule['table']} {rule['hook']}"
        if here != place:
            screen.line(f"\n  {here}")
            place = here
        _show_rule(session, rule)
    if len(shown) < len(rules):
        left_out = len(rules) - len(shown)
        screen.line()
        screen.wrapped(f"({left_out} jumps of the agent's that every packet takes are left out; --all)", indent="  ")


def _show_trace(session: Session, trace: Document) -> None:
    """The real packets; those that met the same rules as the one before are only counted."""
    screen = session.screen
    screen.line()
    if not trace["packets"]:
        screen.wrapped(f"Watched for {trace['seconds']} s: no such packet came.")
    before: list[tuple[Any, ...]] = []
    for number, packet in enumerate(trace["packets"], 1):
        way = f"{packet['src']} -> {packet['dst']}"
        if (packet["left_src"], packet["left_dst"]) != (packet["src"], packet["dst"]):
            way += f", translated to {packet['left_src']} -> {packet['left_dst']}"
        links = [f"{word} {packet[name]}" for word, name in (("from", "in_dev"), ("to", "out_dev")) if packet[name]]
        end = _ENDS.get(packet["verdict"], "was not seen to leave, and no rule refused it")
        seen = screen.verdict(end, packet["verdict"] == "ACCEPT")
        screen.wrapped(f"Packet {number}: {', '.join([way, *links])}: it {seen}.")
        met = [(rule["table"], rule["chain"], rule["number"], rule["rule"]) for rule in packet["rules"]]
        if met != before:
            _show_rules(session, packet["rules"])
            screen.line()
        else:
            screen.line("  by the same rules")
        before = met
    if trace["more"]:
        screen.line(f"({trace['more']} more)")
    for note in trace["notes"]:
        screen.wrapped(f"Note: {note}.")


def _show_end(session: Session, word: str, end: Document) -> None:
    named = [each for each in (end["device"], end["holder"]) if each]
    if named:
        session.screen.wrapped(f"{word} {', '.join(named)}", indent="  ")


def _leads_only(rule: Document) -> bool:
    """A jump that is there for every packet, whoever it is for."""
    return rule["owner"]["ours"] and rule["owner"]["kind"] is None and rule["effect"].startswith(("->", "=>"))


_DECIDES = ("ACCEPT", "DROP", "REJECT")


def _show_rule(session: Session, rule: Document) -> None:
    """The rule, and below it whose it is and how often it matched."""
    screen = session.screen
    number = f" {rule['number']}" if rule["number"] else ""
    screen.wrapped(f"{rule['chain']}{number}: {rule['rule'] or '(every packet)'}", indent="    ")
    whose = f"# {rule['owner']['text']}" + (f"; {_counted(rule)}" if rule["number"] else "")
    effect = rule["effect"]
    if effect in _DECIDES:
        whose = f"{screen.verdict(effect, effect == 'ACCEPT')} {whose}"
    screen.wrapped(whose, indent="      ")


def _counted(rule: Document) -> str:
    if rule["packets"] is not None:
        return f"{short(rule['packets'])} packets so far"
    if rule["together"] is not None:
        return f"{short(rule['together'])} packets so far with the others of its set or map"
    return "not counted"


def _show_proposal(session: Session, proposal: Document) -> None:
    screen = session.screen
    screen.line()
    if proposal["changes"]:
        screen.line("To let it through:" if proposal["works"] else "This would be needed, and is not enough:")
    for change in proposal["changes"]:
        also = f" ({change['also']})" if change["also"] else ""
        screen.wrapped(f"- {change['text']}{also}", indent="  ")
    if proposal["works"]:
        kinds = dict.fromkeys(change["kind"].replace("_", "-") for change in proposal["changes"])
        screen.wrapped(
            f"Tried on a copy of the state: it passes then. With --format json the bodies are there for"
            f" netagentctl set {' and '.join(kinds)}.",
            indent="  ",
        )
    elif proposal["text"]:
        screen.wrapped(f"{proposal['text']}.", indent="  ")
