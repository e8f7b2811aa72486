"""What we are measured against on every machine: iptables-legacy-restore and iptables-legacy-save."""

from collections.abc import Iterator

from tests.lab import Namespace

_PREFIX = {4: "iptables-legacy", 6: "ip6tables-legacy"}

Saved = dict[int, str]
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
    """The lines by which two states differ, as iptables-restore takes them with --noflush."""
    return {family: "\n".join(_added(before[family], after[family])) + "\n" for family in _PREFIX}


def _added(before: str, after: str) -> Iterator[str]:
    for table, lines in _tables(after).items():
        known = set(_tables(before).get(table, ()))
        fresh = [line for line in lines if line not in known]
        if fresh:
            yield f"*{table}"
            yield from fresh
            yield "COMMIT"


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
