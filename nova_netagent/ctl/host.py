"""status, export, apply, plan, resync, chains: the host as a whole."""

import sys
from collections.abc import Sequence
from typing import Any

from nova_netagent.ctl.client import Answer
from nova_netagent.ctl.kinds import KINDS
from nova_netagent.ctl.outcome import DIFFERENT, FAILED, OK, PENDING
from nova_netagent.ctl.screen import GAP, complain, seen_or_not
from nova_netagent.ctl.session import Session

Document = dict[str, Any]


def status(session: Session) -> int:
    """``status``, once or again and again until somebody interrupts it."""
    every = session.args.watch
    code = _status(session)
    while every is not None:
        import time

        sys.stdout.flush()
        time.sleep(every)
        session.screen.clear()
        code = _status(session)
    return code


def _status(session: Session) -> int:
    answer = session.agent.get("/v1/status")
    report = answer.having("enforcing", "kinds")
    if session.screen.json:
        session.screen.body(answer.body)
    else:
        _show_status(session, report)
    return OK if report["enforcing"] else FAILED


def _show_status(session: Session, report: Document) -> None:
    screen = session.screen
    enforcing = screen.state("yes" if report["enforcing"] else "no")
    reason = f": {report['failure']}" if report["failure"] else ""
    backend = report["backend"] or "not open yet"
    see = f"; see our rules with {report['see_with']}" if report["see_with"] else ""
    lines = [("enforcing", f"{enforcing}{reason}"), *(("warning", each) for each in report["warnings"])]
    lines.append(("backend", f"{backend}{see}"))
    lines.append(("host", f"{report['host']}, version {report['version']}, up {_span(report['uptime_seconds'])}"))
    lines.append(("applied", f"{_ago(report['applied_at'])}, verified {_ago(report['verified_at'])}"))
    if report.get("rpc"):
        lines.append(("rpc", _rpc(report["rpc"])))
    for name, text in lines:
        screen.wrapped(f"{name:11}{text}", further=" " * 11)
    screen.line()
    rows = [[kind, *(report["kinds"].get(kind, {}).get(state, 0) for state in _STATES)] for kind in KINDS]
    screen.table(["KIND", *map(str.upper, _STATES)], rows, right="DONE PENDING ERROR")
    troubles = report["troubles"]
    if troubles:
        screen.line()
        screen.table(
            ["KIND", "ID", "STATE", "REASON"],
            [[each[key] for key in ("kind", "id", "state", "message")] for each in troubles],
        )
        more = report["troubles_total"] - len(troubles)
        if more > 0:
            screen.line(f"… and {more} more")


def _rpc(found: Document) -> str:
    connected = "connected" if found["connected"] else "no broker"
    synced = f", synced {_ago(found['synced_at'])}" if found["synced_at"] else ""
    failure = f": {found['failure']}" if found["failure"] else ""
    return f"{connected}, since {_ago(found['changed_at'])}{synced}{failure}"


_STATES = ("done", "pending", "error")


def _ago(when: str | None) -> str:
    if when is None:
        return "never"
    from datetime import UTC, datetime

    return f"{_span((datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds())} ago"


def _span(seconds: float) -> str:
    """A duration in its two largest units."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= size or parts or size == 1:
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2])


def export(session: Session) -> int:
    """``export``."""
    answer = session.agent.get("/v1/state")
    found = answer.having(*KINDS)
    if session.screen.json:
        session.screen.body(answer.body)
        return OK
    import json

    # UTF-8, whatever the terminal is: apply reads it again.
    session.screen.body(json.dumps(found, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return OK


def apply(session: Session) -> int:
    """``apply -f FILE``: the plan, then what became of it."""
    body, screen = session.read_input(), session.screen
    if session.args.dry_run or not screen.json:
        planned = session.agent.request("PUT", "/v1/state?dry_run=true", body).accepted()
        code = _print_answer(session, planned, "plan")
        if session.args.dry_run:
            return _complain_of_kept(planned) or code
    answer = session.agent.request("PUT", "/v1/state", body).accepted()
    counts = answer.having("counts")["counts"]
    with seen_or_not():
        if screen.json:
            screen.body(answer.body)
        else:
            screen.line(", ".join(f"{counts.get(state, 0)} {screen.state(state)}" for state in _STATES))
    return _complain_of_kept(answer) or (FAILED if counts.get("error") else PENDING if counts.get("pending") else OK)


def _complain_of_kept(answer: Answer) -> int:
    """Tell which objects the state is older than: the host is not as it says."""
    kept = answer.document.get("kept", ())  # an agent of an older version does not tell
    for each in kept:
        complain(f"{each['kind']}: {each['message']}; it stays as it is")
    return FAILED if kept else OK


def plan(session: Session) -> int:
    """``plan``."""
    return _print_lines(session, "GET", "/v1/plan", "plan")


def resync(session: Session) -> int:
    """``resync``."""
    _print_lines(session, "POST", "/v1/resync", "repaired")
    return OK


_NOTHING = {"plan": "nothing to change", "repaired": "nothing to repair"}


def _print_lines(session: Session, method: str, target: str, key: str) -> int:
    """Ask, and print the lines of the answer."""
    return _print_answer(session, session.agent.request(method, target).accepted(), key)


def _print_answer(session: Session, answer: Answer, key: str) -> int:
    """Print the lines of an answer; with --exit-code their presence is an exit status."""
    lines: Sequence[str] = answer.having(key)[key]
    with seen_or_not():
        if session.screen.json:
            session.screen.body(answer.body)
        else:
            session.screen.line("\n".join(lines) or _NOTHING[key])
    return DIFFERENT if lines and getattr(session.args, "exit_code", False) else OK


def chains(session: Session) -> int:
    """``chains``: as ``iptables -vL`` lists them, with what each rule is there for."""
    args, screen = session.args, session.screen
    asked = [f"{name}={value}" for name, value in (("table", args.table), ("family", args.family)) if value]
    answer = session.agent.get("/v1/chains" + ("?" + "&".join(asked) if asked else ""))
    found = answer.having("chains")["chains"]
    if screen.json:
        screen.body(answer.body)
        return OK
    table = ""
    for chain in found:
        name = f"IPv{chain['family']} {chain['table']}"
        if name != table:
            screen.line(f"{'' if not table else chr(10)}{name}")
            table = name
        _show_chain(session, chain)
    rules = [rule for chain in found for rule in chain["rules"]]
    if any(rule.get("together") is not None for rule in rules):
        screen.line()
        screen.wrapped("* matched this rule or another one of its set or map: the kernel counts them together")
    if any(rule["packets"] is None and rule.get("together") is None for rule in rules):
        screen.line()
        screen.wrapped("- not counted: a rule of a map that the kernel asks without counting")
    return OK


def _show_chain(session: Session, chain: Document) -> None:
    screen = session.screen
    policy = f" (policy {chain['policy']})" if chain["policy"] else ""
    screen.line(f"\n  {chain['chain']}{policy}")
    for rule in chain["rules"]:
        owner = f"  # {rule['owner']}" if rule.get("owner") else ""
        counted = f"  {_counted(rule, 'packets'):>6} {_counted(rule, 'bytes'):>6}  "
        if screen.fits(f"{counted}{rule['rule']}{owner}"):
            screen.line(f"{counted}{rule['rule']}{owner}")
            continue
        screen.wrapped(rule["rule"], indent=counted, further=GAP)
        if owner:
            screen.wrapped(owner.strip(), indent=" " * len(counted) + GAP, further=GAP)


def _counted(rule: Document, what: str) -> str:
    """Of a rule that the kernel counts with others these, marked so; a dash where there is nothing to say."""
    if rule[what] is not None:
        return short(rule[what])
    return "-" if what == "bytes" or rule.get("together") is None else f"*{short(rule['together'])}"


def short(number: int) -> str:
    """A counter as iptables abbreviates it."""
    for unit in ("", "K", "M", "G"):
        if number < 100_000:
            return f"{number}{unit}"
        number = (number + 500) // 1000
    return f"{number}T"
