"""What iptables-save says of a table, for matches that only its own extensions can spell."""

import subprocess
from collections.abc import Mapping, Sequence

from nova_netagent.netfilter.rule import TableId

_PROGRAMS = {4: "iptables-legacy-save", 6: "ip6tables-legacy-save"}
_SECONDS = 10


def saved_lines(table: TableId) -> Mapping[str, Sequence[str]]:
    """By chain, what follows ``-A CHAIN`` in the line of each rule; nothing where the program fails."""
    try:
        said = subprocess.run(
            [_PROGRAMS[table.family], "-t", table.name], capture_output=True, timeout=_SECONDS, check=True, text=True
        ).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return {}
    found: dict[str, list[str]] = {}
    for line in said.splitlines():
        if line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            found.setdefault(chain, []).append(rule)
    return found
