"""What the fake kernel holds, as iptables-save writes it."""

from nova_netagent.netfilter.rule import (
    ACCEPT,
    Comment,
    Conntrack,
    Family,
    Jump,
    Ports,
    Reject,
    Rule,
    Snat,
    TableId,
)
from nova_netagent.netfilter.text import rule_text
from tests.properties.host import Host

VIRBR0: dict[str, dict[str, list[Rule]]] = {
    # What libvirt's default network leaves on a host: the dump of nova's own unit tests.
    "nat": {
        "POSTROUTING": [
            Rule(Snat("192.0.2.10"), source="192.168.122.0/24", destination="192.168.122.0/24",
                 inverted=frozenset({"destination"})),
        ],
    },
    "filter": {
        "INPUT": [
            Rule(ACCEPT, in_interface="virbr0", protocol=17, matches=(Ports("udp", destination=(port, port)),))
            for port in (53, 67)
        ],
        "FORWARD": [
            Rule(ACCEPT, destination="192.168.122.0/24", out_interface="virbr0",
                 matches=(Conntrack(frozenset({"RELATED", "ESTABLISHED"})),)),
            Rule(ACCEPT, source="192.168.122.0/24", in_interface="virbr0"),
            Rule(ACCEPT, in_interface="virbr0", out_interface="virbr0"),
            Rule(Reject(), out_interface="virbr0"),
            Rule(Reject(), in_interface="virbr0"),
        ],
        "OUTPUT": [],
    },
}  # fmt: skip


def virbr0(family: Family) -> dict[str, dict[str, list[Rule]]]:
    """libvirt's rules in a family: only those without addresses are IPv6's as well."""
    return {
        table: {
            name: [rule for rule in rules if family == 4 or rule.source is rule.destination is None]
            for name, rules in chains.items()
        }
        for table, chains in VIRBR0.items()
    }


def install(host: Host, rules: dict[str, dict[str, list[Rule]]] | None = None, family: Family = 4) -> None:
    """Another program's rules, above whatever is there; by default libvirt's."""
    for table, chains in (virbr0(family) if rules is None else rules).items():
        id_ = TableId(family, table)
        for chain, mine in chains.items():
            host.backend.change(id_, chain, [*mine, *host.backend.chains[id_].get(chain, ())])


def save(host: Host, table: str = "filter", family: Family = 4) -> list[str]:
    """A table, a rule a line, our wrap name as ``W``."""
    chains = host.backend.chains[TableId(family, table)]
    lines = [f"-A {name} {rule_text(rule, family)}" for name, rules in chains.items() for rule in rules]
    return [line.replace("nova-netagent-", "W-") for line in lines]


def chain(host: Host, name: str, table: str = "filter", family: Family = 4) -> list[str]:
    """The rules of one chain; ``W-`` is our wrap name."""
    full = name.replace("W-", "nova-netagent-", 1) if name.startswith("W-") else name
    rules = host.backend.chains[TableId(family, table)].get(full, ())
    return [rule_text(rule, family).replace("nova-netagent-", "W-") for rule in rules]


def names(host: Host, table: str = "filter", family: Family = 4) -> set[str]:
    """The chains of a table; ``W-`` is our wrap name."""
    return {name.replace("nova-netagent-", "W-") for name in host.backend.chains[TableId(family, table)]}


def everything(host: Host) -> dict[TableId, dict[str, tuple[Rule, ...]]]:
    """All that the fake kernel holds."""
    return {table: dict(chains) for table, chains in host.backend.chains.items()}


def foreign(comment: str, **fields: object) -> Rule:
    """An operator's rule with a comment."""
    return Rule(ACCEPT, matches=(Comment(comment),), **fields)  # type: ignore[arg-type]


def jump(name: str) -> Rule:
    """A jump to a chain."""
    return Rule(Jump(name))
