"""What we are measured against on every machine: iptables-legacy-restore and iptables-legacy-save."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from nova_netagent.netfilter.rule import FAMILIES, Family
from tests.lab import Namespace

_PREFIX: Mapping[Family, str] = {4: "iptables-legacy", 6: "ip6tables-legacy"}

Lines = Sequence[str]
TableName = tuple[Family, str]

Saved = Mapping[Family, str]
"""By family what iptables-save printed."""


def save(host: Namespace) -> Saved:
    """Everything in the kernel of a host."""
    return {family: host.run([f"{name}-save"]).stdout for family, name in _PREFIX.items()}


def restore(host: Namespace, saved: Saved) -> None:
    """Put rules into a host's kernel beside what is there, as scripts do."""
    for family, text in saved.items():
        if text:
            host.run([f"{_PREFIX[family]}-restore", "--noflush", "-w"], stdin=text)


def empty(host: Namespace) -> None:
    """Take everything out of a host's kernel: a machine that has just booted."""
    for name in _PREFIX.values():
        for table in ("filter", "nat", "mangle", "raw"):
            host.run([name, "-w", "-t", table, "-F"])
            host.run([name, "-w", "-t", table, "-X"])
    host.run(["ipset", "destroy"])
    host.run(["nft", "flush", "ruleset"])


def copy_sets(host: Namespace, other: Namespace) -> None:
    """Make another host's sets those of a host: its rules refer to them."""
    other.run(["ipset", "restore", "-exist"], stdin=host.run(["ipset", "save"]).stdout)


def added(before: Saved, after: Saved) -> Saved:
    """What one state has more than another, as iptables-restore takes it with --noflush."""
    return _commands(before, after, _fresh)


def changed(before: Saved, after: Saved) -> Saved:
    """The same with what it has no more; where among others a new rule stands is not told."""
    return _commands(before, after, lambda old, new: [*_fresh(old, new), *_gone(old, new)])


def replaced(before: Saved, after: Saved) -> Saved:
    """The rules that are others in chains of the same length, each replaced in its place."""
    return _commands(before, after, _replaced)


def differing(before: Saved, after: Saved) -> list[TableName]:
    """The tables in which two states differ."""
    return [
        (family, table)
        for family in FAMILIES
        for table, lines in _tables(after[family]).items()
        if lines != _tables(before[family]).get(table)
    ]


def _commands(before: Saved, after: Saved, commands: Callable[[Lines, Lines], Lines]) -> Saved:
    """What makes the tables of one state those of another, by family."""
    return {family: "".join(_blocks(_tables(before[family]), _tables(after[family]), commands)) for family in FAMILIES}


def _blocks(
    before: Mapping[str, Lines], after: Mapping[str, Lines], commands: Callable[[Lines, Lines], Lines]
) -> Iterator[str]:
    for table, lines in after.items():
        if said := commands(before.get(table, ()), lines):
            yield "\n".join((f"*{table}", *said, "COMMIT", ""))


def _fresh(before: Lines, after: Lines) -> Lines:
    known = set(before)
    return [line for line in after if line not in known]


def _gone(before: Lines, after: Lines) -> Lines:
    gone = _fresh(after, before)
    chains = [_chain(line) for line in gone if line.startswith(":")]
    rules = [f"-D{line[2:]}" for line in gone if line.startswith("-A") and _chain(line) not in chains]
    return [*rules, *(f"-F {chain}" for chain in chains), *(f"-X {chain}" for chain in chains)]


def _replaced(before: Lines, after: Lines) -> Lines:
    old, new = _chains(before), _chains(after)
    return [
        f"-R {chain} {place} {rule}"
        for chain, rules in new.items()
        if len(rules) == len(old.get(chain, ()))
        for place, (rule, was) in enumerate(zip(rules, old[chain], strict=True), 1)
        if rule != was
    ]


def _chains(lines: Lines) -> dict[str, list[str]]:
    """The rules of each chain in order, without its name."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("-A"):
            _, chain, rule = line.split(" ", 2)
            found.setdefault(chain, []).append(rule)
    return found


def _chain(line: str) -> str:
    """The chain that a line makes or adds a rule to."""
    return line.removeprefix(":").removeprefix("-A ").split(" ", 1)[0]


def _tables(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            name, policy, _ = line.split(" ", 2)
            if policy == "-":
                found.setdefault(table, []).append(f"{name} - [0:0]")
        elif line.startswith("-A"):
            found.setdefault(table, []).append(line)
    return found


def rules(saved: Saved) -> int:
    """How many rules there are."""
    return sum(text.count("\n-A") for text in saved.values())


def filter_rules(saved: Saved) -> int:
    """How many rules the filter table of IPv4 has."""
    return len([line for line in _tables(saved[4]).get("filter", ()) if line.startswith("-A")])
