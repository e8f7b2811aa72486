"""What the kernel refuses to hold, as a function of what it would hold: the conscience of the fake.

Sources: net/netfilter/x_tables.c (``xt_check_match``, ``xt_check_target``), net/ipv4/netfilter/ip_tables.c
(``mark_source_chains``) and each extension's ``checkentry``.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from nova_netagent.netfilter.owner import MAX_CHAIN_NAME
from nova_netagent.netfilter.rule import (
    ChecksumFill,
    Comment,
    Dnat,
    Icmp,
    InSet,
    Jump,
    MacSource,
    MultiPort,
    Physdev,
    Ports,
    Redirect,
    Reject,
    Rule,
    Snat,
    TableId,
    TcpSyn,
    Zone,
)
from nova_netagent.netfilter.text import BUILTIN_CHAINS, rule_text

Chains = Mapping[str, Sequence[Rule]]

MAX_COMMENT = 255

_PORT_PROTOCOLS = {"tcp": 6, "udp": 17}
_MULTIPORT_PROTOCOLS = {6, 17, 33, 132, 136}
_ICMP_PROTOCOLS = {4: 1, 6: 58}
_TABLES = {Dnat: "nat", Snat: "nat", Redirect: "nat", Reject: "filter", ChecksumFill: "mangle", Zone: "raw"}
_TARGET_HOOKS = {
    Dnat: {"PREROUTING", "OUTPUT"},
    Redirect: {"PREROUTING", "OUTPUT"},
    Snat: {"INPUT", "POSTROUTING"},
}
_MAC_HOOKS = {"PREROUTING", "INPUT", "FORWARD"}


def refusal(table: TableId, chains: Chains, sets: Collection[str]) -> str | None:
    """Why the kernel would not take a table like this; ``None`` when it would."""
    return next(_refusals(table, chains, sets), None)


def unspeakable(rule: Rule, table: TableId) -> str | None:
    """Why a rule cannot even be handed to the kernel."""
    if rule.protocol is not None and not 1 <= rule.protocol <= 255:
        return f"protocol {rule.protocol}"
    for match in rule.matches:
        if isinstance(match, Comment) and len(match.text.encode()) > MAX_COMMENT:
            return f"a comment of more than {MAX_COMMENT} bytes"
        if isinstance(match, Icmp) and match.type == 255 and table.family == 4:
            return "ICMP type 255"
    return name_refusal(rule.target.chain) if isinstance(rule.target, Jump) else None


def name_refusal(chain: str) -> str | None:
    """Why a chain cannot have a name."""
    return None if 1 <= len(chain.encode()) <= MAX_CHAIN_NAME else f"the chain name {chain!r}"


def _refusals(table: TableId, chains: Chains, sets: Collection[str]) -> Iterator[str]:
    builtin = BUILTIN_CHAINS[table.name]
    for name, rules in chains.items():
        for rule in rules:
            if isinstance(rule.target, Jump) and (rule.target.chain not in chains or rule.target.chain in builtin):
                yield f"{name} jumps to {rule.target.chain}"
                return
    hooks = {name: set[str]() for name in chains}
    for name in builtin:
        if not _mark(name, name, chains, hooks, []):
            yield f"the chains make a loop below {name}"
            return
    for name, rules in chains.items():
        for rule in rules:
            for reason in _rule_refusals(rule, table, hooks[name], sets):
                yield f"{name} has {rule_text(rule, table.family)}: {reason}"


def _mark(hook: str, name: str, chains: Chains, hooks: dict[str, set[str]], path: list[str]) -> bool:
    """Note that a chain is reached from a hook; false when that never ends."""
    if name in path:
        return False
    if hook in hooks[name]:
        return True
    path.append(name)
    targets = {rule.target.chain for rule in chains[name] if isinstance(rule.target, Jump)}
    ends = all(_mark(hook, target, chains, hooks, path) for target in targets)
    hooks[name].add(hook)
    path.pop()
    return ends


def _rule_refusals(rule: Rule, table: TableId, hooks: set[str], sets: Collection[str]) -> Iterator[str]:
    kind = type(rule.target)
    if _TABLES.get(kind, table.name) != table.name:
        yield "the target is for another table"
    if hooks - _TARGET_HOOKS.get(kind, hooks):
        yield "the target is for other hooks"
    protocol = None if "protocol" in rule.inverted else rule.protocol
    for match in rule.matches:
        match match:
            case Ports(name) if protocol != _PORT_PROTOCOLS[name]:
                yield f"ports without -p {name}"
            case TcpSyn() if protocol != _PORT_PROTOCOLS["tcp"]:
                yield "TCP's flags without -p tcp"
            case MultiPort() if protocol not in _MULTIPORT_PROTOCOLS:
                yield "ports of a protocol that has none"
            case Icmp() if protocol != _ICMP_PROTOCOLS[table.family]:
                yield "an ICMP type without its protocol"
            case InSet(name) if name not in sets:
                yield f"there is no set {name}"
            case MacSource() if hooks - _MAC_HOOKS:
                yield "a source MAC where there is none"
            case Physdev(None, None, None):
                yield "a bridge port match that says nothing"
            case Physdev(_, outgoing, bridged) if outgoing is not None and not bridged and "OUTPUT" in hooks:
                yield "a bridge port out, in OUTPUT"
