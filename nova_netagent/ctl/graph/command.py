"""graph: the live chains drawn, of everything, of one object, or of a packet's way."""

from pathlib import Path
from typing import Any

from nova_netagent.ctl.client import Client
from nova_netagent.ctl.graph.picture import Key, Picture, picture
from nova_netagent.ctl.kinds import path
from nova_netagent.ctl.outcome import FAILED, NOT_FOUND, OK, Failure
from nova_netagent.ctl.session import Session

Document = dict[str, Any]


def graph(session: Session) -> int:
    """``graph``."""
    args, agent = session.args, session.agent
    about = None if args.of is None else _objects(agent, args.of)
    title = "all chains" if args.of is None else f"chains of {args.of}"
    asked = [f"{name}={value}" for name, value in (("table", args.table), ("family", args.family)) if value]
    chains = agent.get("/v1/chains" + ("?" + "&".join(asked) if asked else "")).document["chains"]
    drawn = picture(f"{_host(agent)}: {title}", chains, about=about, whole=args.whole)
    write(session, drawn, args.output)
    return OK


def draw_way(session: Session, explanation: Document, output: str) -> None:
    """A packet's way through the chains, each rule that it matches marked."""
    met: set[tuple[Key, int]] = {
        ((rule["family"], rule["table"], rule["chain"]), rule["number"]) for rule in explanation["rules"]
    }
    agent = session.agent
    known: list[Document] = agent.get("/v1/chains").document["chains"]
    sent = explanation["sent"]
    title = f"{_host(agent)}: {sent['proto']} {sent['src']} -> {sent['dst']}: {explanation['verdict']}"
    write(session, picture(title, _with_foreign(known, explanation["rules"]), met=met), output)


def _with_foreign(known: list[Document], rules: list[Document]) -> list[Document]:
    """The chains of ours and, of those of others, the rules that were met."""
    names = {(chain["family"], chain["table"], chain["chain"]) for chain in known}
    others: dict[Key, Document] = {}
    for rule in rules:
        key = (rule["family"], rule["table"], rule["chain"])
        if key in names:
            continue
        chain = others.setdefault(
            key, {"family": key[0], "table": key[1], "chain": key[2], "policy": None, "rules": []}
        )
        blank = {"packets": 0, "rule": "", "owner": None, "origin": None, "target": None}
        chain["rules"] += [dict(blank) for _ in range(rule["number"] - len(chain["rules"]))]
        if rule["number"]:
            target = rule["effect"].partition(" ")[2] if rule["effect"].startswith(("->", "=>")) else None
            met = {"packets": rule["packets"], "rule": rule["rule"], "owner": rule["owner"]["text"], "target": target}
            chain["rules"][rule["number"] - 1] = {**blank, **met}
    return [*known, *others.values()]


def write(session: Session, drawn: Picture, output: str | None) -> None:
    """As the name of the file says: DOT for .dot and .gv, otherwise SVG; without one to standard output.

    :raises Failure: the file cannot be written.
    """
    from nova_netagent.ctl.graph.dot import dot
    from nova_netagent.ctl.graph.svg import svg

    as_dot = getattr(session.args, "dot", False) or (output or "").endswith((".dot", ".gv"))
    text = dot(drawn) if as_dot else svg(drawn)
    if output is None or output == "-":
        session.screen.line(text.rstrip("\n"))
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(FAILED, f"{output}: {error.strerror}") from None


def _host(agent: Client) -> str:
    return str(agent.get("/v1/status").document["host"])


def _objects(agent: Client, named: str) -> set[tuple[str, str]]:
    """The objects that are meant: by id, by an instance's or group's name, by an address.

    :raises Failure: nothing here is called that.
    """
    found: set[tuple[str, str]] = set()
    addresses = {named}
    for each in agent.get(path("floating_ips")).document["floating_ips"]:
        if named in (each["id"], each["fixed_ip_address"]):
            found.add(("floating_ips", each["id"]))
            addresses.add(each["fixed_ip_address"])
    for each in agent.get(path("instances")).document["instances"]:
        own = {address for vif in each["vifs"] for address in vif.get("fixed_ips", ())}
        devices = {vif.get("devname") for vif in each["vifs"]}
        if named in (each["id"], each.get("hostname")) or own & addresses or named in devices:
            found.add(("instances", each["id"]))
    for kind, name in (("security_groups", "name"), ("networks", "label"), ("provider_rules", "id")):
        for each in agent.get(path(kind)).document[kind]:
            if named in (each["id"], each.get(name)):
                found.add((kind, each["id"]))
    if not found:
        raise Failure(NOT_FOUND, f"nothing here has the id, name or address {named}")
    return found
