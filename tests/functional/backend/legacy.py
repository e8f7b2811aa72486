"""The other programs: iptables-legacy and ipset, as an operator calls them."""

import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence

from nova_netagent.backend.iptables import IptablesBackend
from nova_netagent.backend.iptables.backend import WORTH_A_THREAD
from nova_netagent.backend.iptables.commit import Commit, replace_table
from nova_netagent.netfilter.rule import FAMILIES, Chain, Family, Rule, Table, TableId
from nova_netagent.netfilter.text import BUILTIN_CHAINS, rule_text
from nova_netagent.plan.tables import AddChain, Edit, Insert, TablePlan

FILTER, NAT, MANGLE, RAW = (TableId(4, name) for name in ("filter", "nat", "mangle", "raw"))

_COMMANDS = {4: "iptables-legacy", 6: "ip6tables-legacy"}


def new_backend(
    lock_timeout: float = 10, commit: Commit = replace_table, beside: int = WORTH_A_THREAD
) -> IptablesBackend:
    """A backend that knows nothing yet."""
    return IptablesBackend(lock_timeout, lambda name: name.startswith("ours-"), commit, beside)


def run(*words: str, given: str | None = None) -> str:
    """Run a command that must succeed, and that has a lock of its own: it does not care for ours. Its output."""
    environment = os.environ | {"XTABLES_LOCKFILE": "/run/another.lock"}
    done = subprocess.run(words, input=given, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
    return done.stdout


def iptables(table: TableId, line: str) -> str:
    """``iptables-legacy -t TABLE LINE``, or ip6tables."""
    return run(_COMMANDS[table.family], "-w", "-t", table.name, *shlex.split(line))


def save(table: TableId, *options: str) -> list[str]:
    """The rules of a table as ``iptables-legacy-save`` prints them."""
    return [line for line in save_all(table, *options) if line[:1] in "-["]


def save_all(table: TableId, *options: str) -> list[str]:
    """The same with the chains."""
    return run(f"{_COMMANDS[table.family]}-save", "-t", table.name, *options).splitlines()


def restore(family: Family, text: str, *options: str) -> None:
    """``iptables-legacy-restore``."""
    run(f"{_COMMANDS[family]}-restore", *options, given=text)


def empty() -> None:
    """Remove everything."""
    lines = []
    for table, chains in BUILTIN_CHAINS.items():
        lines += [f"*{table}", *(f":{chain} ACCEPT [0:0]" for chain in chains), "COMMIT", ""]
    for family in FAMILIES:
        restore(family, "\n".join(lines))
    run("ipset", "destroy")


def put(backend: IptablesBackend, table: TableId, chain: str, rules: Sequence[Rule]) -> list[bytes]:
    """Make a chain hold rules, as the engine would; a user-defined chain is made."""
    keys = encoded(backend, table, rules)
    with backend.locked():
        actual = backend.read(table, fresh=False)
        made: list[Edit[bytes]] = [] if chain in actual else [AddChain(chain)]
        backend.apply(TablePlan(table, (*made, *(Insert(chain, i, key) for i, key in enumerate(keys)))))
    return keys


def encoded(backend: IptablesBackend, table: TableId, rules: Iterable[Rule]) -> list[bytes]:
    """The keys of single rules."""
    chain = Chain("probe", tuple(rules))
    return list(backend.encode(Table(table, {chain.name: chain}, ())).chains[chain.name])


def text(rule: Rule, table: TableId) -> str:
    """A rule as we say it."""
    return rule_text(rule, table.family)
