"""Rules as iptables-save(8) writes them: for people, plans, goldens and ``render``."""

from collections.abc import Iterable, Iterator, Mapping

from nova_netagent.model.protocols import AH
from nova_netagent.netfilter import foreign
from nova_netagent.netfilter.rule import (
    CUT_FLOWS,
    CUT_SECONDS,
    FAMILIES,
    ChecksumFill,
    Comment,
    Conntrack,
    Dnat,
    Family,
    Hook,
    Icmp,
    InSet,
    IpSet,
    Jump,
    Limit,
    LocalAddress,
    Log,
    MacSource,
    Mark,
    Match,
    MultiPort,
    Opaque,
    Physdev,
    PortRange,
    Ports,
    Redirect,
    Reject,
    Rule,
    Ruleset,
    SetMark,
    Snat,
    Table,
    Target,
    TcpSyn,
    Verdict,
    Zone,
)

# The names that iptables-save prints on a Debian host, from netbase's /etc/protocols.
_PROTOCOLS = {
    1: "icmp", 2: "igmp", 4: "ipencap", 6: "tcp", 8: "egp", 17: "udp", 33: "dccp", 41: "ipv6",
    43: "ipv6-route", 44: "ipv6-frag", 46: "rsvp", 47: "gre", 50: "esp", 51: "ah", 58: "ipv6-icmp",
    59: "ipv6-nonxt", 60: "ipv6-opts", 89: "ospf", 112: "vrrp", 132: "sctp", 136: "udplite",
}  # fmt: skip
_STATE_ORDER = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT")
HALVES = {
    "0.0.0.0/0": frozenset({"0.0.0.0/1", "128.0.0.0/1"}),
    "::/0": frozenset({"::/1", "8000::/1"}),
}
"""The kernel's ``hash:net`` has no /0: it is kept as its two halves."""
BUILTIN_CHAINS = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "raw": ("PREROUTING", "OUTPUT"),
}


def protocol_text(number: int) -> str:
    """A protocol's name as iptables-save prints it, or its number."""
    return _PROTOCOLS.get(number, str(number))


def end_text(address: str, port: int | None) -> str:
    """An end of a packet's way: ``10.0.0.1:80``, ``[fd00::1]:80``, or the address alone."""
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


_DEFAULT_BURST = 5
"""That iptables-save leaves out."""


def rule_text(rule: Rule, family: Family) -> str:
    """What follows ``-A CHAIN`` in iptables-save's line."""
    words = [
        _field(rule, "source", "-s"),
        _field(rule, "destination", "-d"),
        _field(rule, "in_interface", "-i"),
        _field(rule, "out_interface", "-o"),
    ]
    if rule.protocol == AH and family == 6:
        words.append("-m ah")  # a protocol that ip6tables looks past
    elif rule.protocol is not None:
        words.append(_negated(rule, "protocol", f"-p {protocol_text(rule.protocol)}"))
    words.extend(match_text(match, family) for match in rule.matches)
    words.append(target_text(rule.target, family))
    return " ".join(word for word in words if word)


def _field(rule: Rule, name: str, option: str) -> str:
    value = getattr(rule, name)
    return "" if value is None else _negated(rule, name, f"{option} {value}")


def _negated(rule: Rule, name: str, text: str) -> str:
    return f"! {text}" if name in rule.inverted else text


def _range(ports: PortRange) -> str:
    low, high = ports
    return str(low) if low == high else f"{low}:{high}"


def match_text(match: Match, family: Family) -> str:
    """One match with its options."""
    match match:
        case Ports(protocol, source, destination):
            options = [f"-m {protocol}"]
            if source is not None:
                options.append(f"--sport {_range(source)}")
            if destination is not None:
                options.append(f"--dport {_range(destination)}")
            return " ".join(options)
        case MultiPort(direction, ports):
            return f"-m multiport --{'s' if direction == 'source' else 'd'}ports {_range(ports)}"
        case Icmp(type_, code):
            name, option = ("icmp", "icmp-type") if family == 4 else ("icmp6", "icmpv6-type")
            return f"-m {name} --{option} {type_}" + ("" if code is None else f"/{code}")
        case Conntrack(states, inverted):
            listed = ",".join(state for state in _STATE_ORDER if state in states)
            return f"-m conntrack {'! ' if inverted else ''}--ctstate {listed}"
        case Physdev(incoming, outgoing, bridged):
            options = ["-m physdev"]
            if incoming is not None:
                options.append(f"--physdev-in {incoming}")
            if outgoing is not None:
                options.append(f"--physdev-out {outgoing}")
            if bridged is not None:
                options.append(f"{'' if bridged else '! '}--physdev-is-bridged")
            return " ".join(options)
        case InSet(name, direction):
            return f"-m set --match-set {name} {direction}"
        case TcpSyn(inverted):
            return f"-m tcp {'! ' if inverted else ''}--tcp-flags FIN,SYN,RST,ACK SYN"
        case MacSource(address, inverted):
            return f"-m mac {'! ' if inverted else ''}--mac-source {address}"
        case Mark(value, mask):
            return f"-m mark --mark {value:#x}" + ("" if mask == 0xFFFFFFFF else f"/{mask:#x}")
        case LocalAddress():
            return "-m addrtype --dst-type LOCAL"
        case Limit(rate, burst):
            shown = "" if burst == _DEFAULT_BURST else f" --limit-burst {burst}"
            return f"-m limit --limit {rate}/sec{shown}"
        case Comment(text):
            return f"-m comment --comment {_quoted(text)}"
        case Opaque(name, revision, _):
            return foreign.match_text(match) or f"-m {name} (revision {revision}, not ours)"


def target_text(target: Target, family: Family) -> str:
    """The target with its options."""
    match target:
        case Verdict(name):
            return f"-j {name}"
        case Jump(chain, goto):
            return f"-{'g' if goto else 'j'} {chain}"
        case Dnat(address, port):
            host = f"[{address}]" if family == 6 and port is not None else address
            return f"-j DNAT --to-destination {host}" + ("" if port is None else f":{port}")
        case Snat(address):
            return f"-j SNAT --to-source {address}"
        case Redirect(port):
            return f"-j REDIRECT --to-ports {port}"
        case SetMark(value, mask):
            return f"-j MARK --set-xmark {value:#x}/{mask:#x}"
        case Zone(number):
            return f"-j CT --zone {number}"
        case Log(group, prefix):
            return f"-j NFLOG --nflog-prefix {_quoted(prefix)} --nflog-group {group}"
        case ChecksumFill():
            return "-j CHECKSUM --checksum-fill"
        case Reject():
            return f"-j REJECT --reject-with {'icmp' if family == 4 else 'icmp6'}-port-unreachable"
        case Opaque():
            return foreign.target_text(target, family)


def _quoted(text: str) -> str:
    """A comment as libxtables' xtables_save_string() quotes it."""
    if text and all(char.isascii() and (char.isalnum() or char in "_-") for char in text):
        return text
    escaped = "".join(f"\\{char}" if char in "\\\"'" else char for char in text)
    return f'"{escaped}"'


def table_lines(table: Table) -> Iterator[str]:
    """A table as iptables-restore(8) takes it with ``--noflush``, built-in chains included."""
    family = table.id.family
    yield f"*{table.id.name}"
    for name in BUILTIN_CHAINS[table.id.name]:
        yield f":{name} ACCEPT [0:0]"
    shared = [hook.chain for hook in table.hooks if hook.shared]
    for name in sorted([*table.chains, *shared]):
        yield f":{name} - [0:0]"
    yield from (line for hook in table.hooks for line in hook_lines(hook, family))
    for name in sorted(table.chains):
        for rule in table.chains[name].rules:
            yield f"-A {name} {rule_text(rule, family)}"
    yield "COMMIT"


def hook_lines(hook: Hook, family: Family) -> Iterator[str]:
    """The rules of a hook."""
    for rule in hook.rules:
        yield f"-A {hook.chain} {rule_text(rule, family)}"


def set_lines(sets: Iterable[IpSet]) -> Iterator[str]:
    """Sets as ipset(8) restore takes them."""
    for each in sorted(sets, key=lambda item: item.name):
        options = f" maxelem {CUT_FLOWS} timeout {CUT_SECONDS} forceadd" if each.type != "hash:net" else ""
        yield f"create {each.name} {each.type} family {'inet' if each.family == 4 else 'inet6'}{options}"
        held = {half for member in each.members for half in HALVES.get(member, (member,))}
        yield from (f"add {each.name} {member}" for member in sorted(held))


SET_MARK = "# ipset "
"""Before a line of ipset(8), which is a comment to iptables-restore(8)."""
_PROGRAMS: Mapping[Family, str] = {4: "iptables", 6: "ip6tables"}


def ruleset_text(ruleset: Ruleset, families: Iterable[Family] = FAMILIES) -> str:
    """A whole ruleset, each family as iptables-restore(8) takes it once its sets, which are told first, are there."""
    return "".join(f"{line}\n" for family in families for line in _family_lines(ruleset, family))


def _family_lines(ruleset: Ruleset, family: Family) -> Iterator[str]:
    tables = [ruleset.tables[id_] for id_ in sorted(ruleset.tables) if id_.family == family]
    if tables:
        yield f"# {_PROGRAMS[family]}"
    sets = (each for each in ruleset.sets.values() if each.family == family)
    yield from (f"{SET_MARK}{line}" for line in set_lines(sets))
    for table in tables:
        yield from table_lines(table)
