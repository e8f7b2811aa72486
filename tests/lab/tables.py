"""What the tables of iptables and the ipsets of a namespace hold, as its operator would see it."""

import re
from typing import Literal

from tests.lab.namespace import Namespace

Family = Literal[4, 6]
World = Literal["legacy", "nft"]
"""Which iptables(8): the one of the legacy tables, or the one that writes nf_tables."""


def command(family: Family, world: World = "legacy") -> str:
    """The program for a family's tables."""
    return f"{'iptables' if family == 4 else 'ip6tables'}-{world}"


def iptables(namespace: Namespace, rule: str, *, family: Family = 4) -> str:
    """Run one iptables-legacy command, written as one line: ``-A FORWARD -p tcp --dport 80 -j DROP``."""
    return namespace.run([command(family), "-w", *rule.split()]).stdout


def iptables_save(
    namespace: Namespace,
    *,
    counters: bool = False,
    family: Family = 4,
    table: str | None = None,
    world: World = "legacy",
) -> str:
    """The tables in the format of iptables-save, without its dated comments.

    Without ``counters`` those of the built-in chains' policies are 0 as well, since traffic of
    no interest moves them.
    """
    argv = [f"{command(family, world)}-save", *(["-c"] if counters else []), *(["-t", table] if table else [])]
    lines = [line for line in _steadily(namespace, argv).splitlines() if not line.startswith("#")]
    if not counters:
        lines = [re.sub(r"^(:\S+ \S+) \[\d+:\d+\]$", r"\1 [0:0]", line) for line in lines]
    return "".join(f"{line}\n" for line in lines)


def _steadily(namespace: Namespace, argv: list[str]) -> str:
    """What a program says; iptables-save asks for a set's name after it read the table, and it may be gone by then."""
    for _ in range(9):
        said = namespace.run(argv, check=False)
        if said.returncode == 0:
            return said.stdout
        if "Set with index" not in said.stderr:
            break
    return namespace.run(argv).stdout


def ipsets(namespace: Namespace) -> dict[str, set[str]]:
    """The members of each ipset, by the set's name."""
    sets: dict[str, set[str]] = {}
    for line in namespace.run(["ipset", "save"]).stdout.splitlines():
        command, name, *rest = line.split()
        members = sets.setdefault(name, set())
        if command == "add":
            members.add(" ".join(rest))
    return sets
