"""What a host's kernel holds and what its agent counts, to be compared before and after."""

import fcntl
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from subprocess import CompletedProcess
from typing import Any

from tests.functional.agent import nft
from tests.lab import Agent, Namespace, ipsets, iptables, iptables_save
from tests.lab.agent import REPOSITORY
from tests.lab.tables import Family, World

LOCK = "/run/xtables.lock"


def tables(
    host: Namespace, family: Family = 4, *, counters: bool = False, world: World = "legacy"
) -> dict[str, list[str]]:
    """The tables of iptables by name, each as the lines of iptables-save."""
    found: dict[str, list[str]] = {}
    for line in iptables_save(host, family=family, counters=counters, world=world).splitlines():
        if line.startswith("*"):
            found[line[1:]] = lines = []
        elif line != "COMMIT":
            lines.append(line)
    return found


def kernel(host: Namespace) -> dict[str, Any]:
    """Rules of either packet filter, sets, ports, links, and those addresses that it does not make itself."""
    links = host.links.all()
    return {
        "IPv4": _used(tables(host, 4)),
        "IPv6": _used(tables(host, 6)),
        "sets": ipsets(host),
        "nf_tables": nft.held(host),
        "links": {name: (link["master"], link["up"]) for name, link in links.items()},
        "addresses": addresses(host),
    }


def chains(host: Namespace) -> set[str]:
    """The names of all IPv4 chains, of whichever packet filter."""
    legacy = {line.split()[0][1:] for lines in tables(host).values() for line in lines if line.startswith(":")}
    return legacy | {name.split()[-1] for name in nft.held(host) if re.match(r"table ip \S+ chain ", name)}


def ip_rules(host: Namespace) -> str:
    """All that the tables of IPv4 and IPv6 hold, of whichever packet filter, as one text."""
    found = kernel(host)
    of_ip = {name: text for name, text in found["nf_tables"].items() if not name.startswith("table bridge ")}
    return "\n".join(str(each) for each in (found["IPv4"], found["IPv6"], found["sets"], of_ip))


def _used(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Without tables in which there is nothing: an empty one is as good as one that was never asked for."""
    return {name: lines for name, lines in found.items() if not all(" ACCEPT [" in line for line in lines)}


def addresses(host: Namespace) -> set[tuple[str, str]]:
    """Device and address of all that are not made by the kernel itself."""
    found = ((each["device"], f"{each['address']}/{each['prefix']}") for each in host.links.addresses())
    return {(device, address) for device, address in found if not re.match("fe80::.*ff:fe", address)}


def counted(host: Namespace) -> list[tuple[str, int, int]]:
    """Every rule of either packet filter with its packets and bytes."""
    families: tuple[Family, ...] = (4, 6)
    found = [lines for family in families for lines in tables(host, family, counters=True).values()]
    return [each for lines in found for each in counters(lines)] + nft.counted(host)


def counters(lines: list[str]) -> list[tuple[str, int, int]]:
    """The rules of ``iptables-save -c`` with their packets and bytes."""
    found = (re.match(r"\[(\d+):(\d+)\] (-A .*)", line) for line in lines)
    return [(match[3], int(match[1]), int(match[2])) for match in found if match]


def metric(agent: Agent, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    status, text = agent.request("GET", "/metrics")
    assert status == 200
    return sum(value for found, value in _samples(text, name) if labels.items() <= found.items())


def _samples(text: str, name: str) -> Iterator[tuple[Mapping[str, str], float]]:
    for match in re.finditer(rf"^netagent_{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE):
        yield dict(re.findall(r'(\w+)="([^"]*)"', match[1] or "")), float(match[2])


def eventually(happened: Callable[[], object], within: float) -> float:
    """Wait until something is so; the seconds that it took.

    :param within: what it takes an idle machine at most; a loaded one is given ten times that.
    """
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < 10 * within, f"not within {10 * within} s"
        time.sleep(0.005)
    return time.monotonic() - began


def ctl(agent: Agent, *words: str) -> str:
    """``netagentctl`` on the agent's host: what it says."""
    return run_ctl(agent, *words).stdout


def run_ctl(agent: Agent, *words: str, check: bool = True) -> CompletedProcess[str]:
    """``netagentctl`` on the agent's host: how it ends."""
    argv = [sys.executable, "-m", "nova_netagent.cmd.ctl", "--config-file", str(agent.config_file), *words]
    return agent.namespace.run(argv, check=check, cwd=REPOSITORY)


def cleanup(agent: Agent) -> str:
    """``netagentctl cleanup`` on the agent's host: what it says."""
    return ctl(agent, "cleanup")


@contextmanager
def lock_held() -> Iterator[Callable[[], None]]:
    """Somebody else holds the lock of iptables, to the end of the block or until they are told to let go."""
    descriptor = os.open(LOCK, os.O_RDONLY | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield lambda: fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def hindered(host: Namespace, backend: str) -> AbstractContextManager[Callable[[], None]]:
    """Our rules cannot be written, to the end of the block or until it is said that they can."""
    return lock_held() if backend == "iptables" else nft.table_owned(host)


@contextmanager
def closed_input(host: Namespace, backend: str) -> Iterator[None]:
    """An operator meanwhile whose policy is to let nothing in but replies.

    In nf_tables an ACCEPT ends the walk of one table only: ours cannot open his, and he lets in himself what we would.
    """
    if backend == "nftables":
        with nft.closed_input(host):
            yield
        return
    replies = "INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
    families: tuple[Family, ...] = (4, 6)
    for family in families:
        iptables(host, f"-A {replies}", family=family)
        iptables(host, "-P INPUT DROP", family=family)
    try:
        yield
    finally:
        for family in families:
            iptables(host, "-P INPUT ACCEPT", family=family)
            iptables(host, f"-D {replies}", family=family)
