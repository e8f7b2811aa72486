"""list, show, set, delete: single objects."""

from typing import Any

from nova_netagent.ctl import kinds
from nova_netagent.ctl.client import Answer, quoted
from nova_netagent.ctl.kinds import Document
from nova_netagent.ctl.outcome import FAILED, NOT_FOUND, OK, PENDING, UNREACHABLE, Failure
from nova_netagent.ctl.screen import complain, seen_or_not
from nova_netagent.ctl.session import Session, parse

_NO_CONTENT = 204
_STORED = ("id", "status")
"""What every stored object is answered with."""


def list_objects(session: Session) -> int:
    """``list KIND``."""
    kind, screen = session.args.kind, session.screen
    answer = session.agent.get(kinds.path(kind))
    found = answer.having(kind)[kind]
    if screen.json:
        screen.body(answer.body)
        return OK
    rows = [kinds.row(kind, item) for item in found]
    if rows:
        screen.table(rows[0][0], [values for _, values in rows], right="VLAN RULES REMOTE_MEMBERS GROUPS")
    else:
        screen.progress(f"no {kinds.spoken(kind)} are described")
    return OK


def show(session: Session) -> int:
    """``show KIND ID``."""
    screen = session.screen
    try:
        answer = session.agent.get(kinds.path(session.args.kind, quoted(session.args.id)))
    except Failure as failure:
        raise _with_ids(session, failure) from None
    found = answer.having(*_STORED)
    if screen.json:
        screen.body(answer.body)
        return OK
    _show(session, found)
    return OK


def _with_ids(session: Session, failure: Failure) -> Failure:
    """What is not there may have been asked for by its name."""
    kind, named = session.args.kind, session.args.id
    if failure.code != NOT_FOUND or kind not in kinds.NAMES:
        return failure
    found = session.agent.get(kinds.path(kind)).document[kind]
    ids = [item["id"] for item in found if named in (item.get(kinds.NAMES[kind]), item["id"].partition("-")[0])]
    return Failure(failure.code, f"{failure}; meant by its id: {', '.join(ids)}" if ids else str(failure))


def _show(session: Session, item: Document) -> None:
    """Plain fields first, then each list of objects as a table."""
    screen = session.screen
    status = item.pop("status")
    tables = {key: value for key, value in item.items() if _is_table(value)}
    plain = {key: value for key, value in item.items() if key not in tables and value != []}
    width = max(map(len, [*plain, "state"]))
    for key, value in plain.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else _plain(value)
        screen.wrapped(f"{key.ljust(width)}  {text}".rstrip(), further=" " * (width + 2))
    reason = f": {status['message']}" if status.get("message") else ""
    state = screen.state(status.get("state", ""))
    screen.wrapped(f"{'state'.ljust(width)}  {state}{reason}", further=" " * (width + 2))
    for key, rows in tables.items():
        fields = list(dict.fromkeys(("id", *(field for row in rows for field in row))))
        screen.line()
        screen.line(key)
        titles = [field.upper() for field in fields]
        screen.table(titles, [[row.get(field) for field in fields] for row in rows], indent="  ")


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _plain(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def set_objects(session: Session) -> int:
    """``set KIND -f FILE``: one object or many; one that is refused does not stop the others."""
    args = session.args
    items = _items(parse(session.read_input(), session.input_name), args.kind, session.input_name)
    if not items:
        session.screen.progress(f"{session.input_name}: there is no object in it")
    codes = {_set(session, item) for item in items}
    return next((code for code in (FAILED, PENDING) if code in codes), OK)


def _items(value: Any, kind: str, name: str) -> list[Document]:
    """One object, a list, or what ``list`` prints as JSON."""
    if isinstance(value, dict) and isinstance(value.get(kind), list):
        value = value[kind]
    items = value if isinstance(value, list) else [value]
    for index, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("id"), str) or not item["id"]:
            where = f"[{index}]" if isinstance(value, list) else ""
            raise Failure(FAILED, f"{name}{where}: an object with an id is expected")
    return items


def _set(session: Session, item: Document) -> int:
    import json

    kind = session.args.kind
    body = {key: value for key, value in item.items() if key != "status"}  # ours, not the sender's to say
    query = "" if session.args.wait else "?wait=false"
    data = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    answer = session.agent.request("PUT", kinds.path(kind, quoted(item["id"])) + query, data)
    try:
        answer.accepted()
    except Failure as failure:
        if failure.code == UNREACHABLE:
            raise
        complain(f"{kind} {item['id']}: {failure}{_what_is_kept(session, item['id'], answer)}")
        return FAILED
    found = answer.having(*_STORED)
    with seen_or_not():
        _tell_set(session, item["id"], answer.body, found["status"])
    return PENDING if answer.status == 202 and session.args.wait else OK


def _what_is_kept(session: Session, id_: str, answer: Answer) -> str:
    """What a refusal does not tell: that the object is described all the same, and waits for better times."""
    if answer.status != 503:
        return ""
    kept = session.agent.request("GET", kinds.path(session.args.kind, quoted(id_)))
    state = kept.document["status"]["state"] if kept.status == 200 else "done"
    return "" if state == "done" else f" (it is described, in state {state}, and is tried again)"


def _tell_set(session: Session, id_: str, data: bytes, status: Document) -> None:
    screen = session.screen
    if screen.json:
        screen.body(data)
        return
    reason = f": {status['message']}" if status.get("message") else ""
    screen.line(f"{session.args.kind} {id_} {screen.state(status.get('state', ''))}{reason}")


def delete(session: Session) -> int:
    """``delete KIND ID``."""
    args = session.args
    query = "" if args.revision is None else f"?revision={args.revision}"
    try:
        path = kinds.path(args.kind, quoted(args.id)) + query
        answer = session.agent.request("DELETE", path).accepted_arguments()
    except Failure as failure:
        raise _with_ids(session, failure) from None
    if answer.status != _NO_CONTENT:
        raise answer.somebody_else()
    if not session.screen.json:
        session.screen.line(f"{args.kind} {args.id} deleted")
    return OK
