"""render: the rules of a state as text. The agent's own modules are imported when it is asked for."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from nova_netagent.ctl.outcome import FAILED, OK, Failure
from nova_netagent.ctl.screen import complain
from nova_netagent.ctl.session import Session

if TYPE_CHECKING:
    from nova_netagent.compile import Compiled
    from nova_netagent.netfilter.rule import Family, Ruleset
    from nova_netagent.settings import FirewallSettings, Settings


def render(session: Session) -> int:
    """``render -f FILE``; what the state cannot have goes to standard error."""
    from nova_netagent.netfilter.rule import FAMILIES

    settings = session.settings()
    compiled = _compiled(session, settings)
    backend = session.args.backend or settings.firewall.backend
    families = [each for each in FAMILIES if session.args.family in (None, str(each))]
    lines = [*_head(backend, settings.firewall), *_RENDERED[backend](compiled.ruleset, families, settings.firewall)]
    if session.screen.json:
        import json

        session.screen.line(json.dumps({"rules": lines}))
    else:
        session.screen.line("\n".join(lines))
    for (kind, id_), problems in sorted(compiled.problems.items()):
        for state_word, reason in problems:
            complain(f"{kind} {id_}: {state_word}: {reason}")
    return OK


def _compiled(session: Session, settings: "Settings") -> "Compiled":
    from nova_netagent.api.wire import BadRequest, decode_state
    from nova_netagent.compile import ALL_TABLES, Compiler
    from nova_netagent.events import Replace, fold
    from nova_netagent.model import DesiredState

    try:
        wanted = decode_state(session.read_input())
    except BadRequest as error:
        raise Failure(FAILED, f"{session.input_name}: {error}") from None
    state = fold(DesiredState(), Replace(wanted), time.time())
    tables = [table for table in ALL_TABLES if table.family == 4 or settings.use_ipv6]
    return Compiler(settings, tables).compile(state)


def _head(backend: str, firewall: "FirewallSettings") -> Iterator[str]:
    """What it is, and what it needs."""
    from nova_netagent.compile.parts import DROP_TARGETS

    yield _HEADS[backend]
    if firewall.iptables_drop_action not in DROP_TARGETS:
        where = "in each of these tables, which are there then, " if backend == "nftables" else ""
        chain = firewall.iptables_drop_action
        yield f"# the chain {chain} is yours ([firewall] iptables_drop_action): make it {where}first"


def _iptables(ruleset: "Ruleset", families: Sequence["Family"], _: "FirewallSettings") -> list[str]:
    from nova_netagent.netfilter.text import ruleset_text

    return ruleset_text(ruleset, families).splitlines()


def _nftables(ruleset: "Ruleset", families: Sequence["Family"], firewall: "FirewallSettings") -> list[str]:
    from nova_netagent.backend import RuleRefused
    from nova_netagent.backend.nft.script import contents, script_lines
    from nova_netagent.backend.nftables.cold import first_transaction
    from nova_netagent.netfilter.rule import Ruleset

    asked = Ruleset(
        {id_: each for id_, each in ruleset.tables.items() if id_.family in families},
        {name: each for name, each in ruleset.sets.items() if each.family in families},
    )
    try:
        return list(script_lines(contents(first_transaction(asked, firewall.wrap_name))))
    except RuleRefused as error:
        raise Failure(FAILED, str(error)) from None


_IPTABLES = "# iptables-legacy-restore and ip6tables-legacy-restore take a family each (--family)"
_HEADS = {
    "iptables": _IPTABLES,
    "nftables": "# nft -f takes this where these tables are not yet",
    "auto": f"{_IPTABLES}; [firewall] backend = auto: a host that decides for nftables has --backend nftables",
}
_RENDERED: Mapping[str, Callable[["Ruleset", Sequence["Family"], "FirewallSettings"], list[str]]] = {
    "iptables": _iptables,
    "nftables": _nftables,
    "auto": _iptables,
}
