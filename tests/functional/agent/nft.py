"""nf_tables of a host, as its operator sees and changes them with nft(8)."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nova_netagent.backend.nft import Batch, Netlink
from nova_netagent.backend.nft.objects import Family, TableId
from tests.lab import Namespace

W = "nova-netagent"


def nft(host: Namespace, *lines: str) -> str:
    """Carry lines out in one transaction; what nft prints."""
    return host.run(["nft", "-f", "-"], stdin="\n".join(lines) + "\n").stdout


def listed(host: Namespace, *what: str) -> str:
    """``nft list WHAT`` without counters."""
    return host.run(["nft", "-s", "list", *(what or ("ruleset",))]).stdout


def held(host: Namespace) -> dict[str, str]:
    """Every table, chain, set and map by name, with what it says.

    Without nft(8) there is nothing to see, and no backend that puts anything there.
    """
    return {} if shutil.which("nft") is None else by_name(listed(host))


def by_name(text: str) -> dict[str, str]:
    """What ``nft list`` printed, by table, chain, set and map; elements in order, as the kernel has none."""
    found: dict[str, str] = {}
    table = block = ""
    for line in text.splitlines():
        if line.startswith("table "):
            table = line.removesuffix(" {")
            found[table] = ""
        elif match := re.match(r"\t(\w+ \S+) {", line):
            block = f"{table} {match[1]}"
            found[block] = ""
        elif line.startswith("\t\t"):
            found[block] += line.strip() + "\n"
        elif line.startswith("\t") and line != "\t}":
            found[table] += line.strip() + "\n"
    return {name: _ordered(text) for name, text in found.items()}


def _ordered(text: str) -> str:
    head, elements, rest = text.partition("elements = {")
    if not elements:
        return text
    members = sorted(" ".join(each.split()) for each in rest.replace("}", "").split(","))
    return f"{head}elements = {{ {', '.join(members)} }}"


def handle(host: Namespace, chain: str, part: str, family: str = "ip") -> str:
    """The handle of the first rule of a chain in whose text this is."""
    text = host.run(["nft", "-a", "list", "chain", family, W, chain]).stdout
    return next(line.rpartition("# handle ")[2] for line in text.splitlines() if part in line)


def counted(host: Namespace) -> list[tuple[str, int, int]]:
    """Every rule that counts, in its place, with its packets and bytes."""
    found, place = [], ""
    text = "" if shutil.which("nft") is None else host.run(["nft", "list", "ruleset"]).stdout
    for line in text.splitlines():
        if line.endswith("{"):
            place = line.strip()
        elif match := re.search(r"counter packets (\d+) bytes (\d+)", line):
            found.append((f"{place} {line.replace(match[0], '').strip()}", int(match[1]), int(match[2])))
    return found


def generation(host: Namespace) -> int:
    """Counts every change of the host's nf_tables."""
    netlink = host.call(Netlink)
    try:
        return netlink.generation()
    finally:
        netlink.close()


@contextmanager
def table_owned(host: Namespace) -> Iterator[Callable[[], None]]:
    """Somebody else owns an empty IPv4 table of our name, to the end of the block or until he is told to let go."""
    owner, ours, batch = host.call(Netlink), TableId(Family.IP, W), Batch()
    if owner.table_flags(ours) is not None:
        batch.delete_table(ours)
    batch.add_table(ours, owned=True)
    owner.commit(batch)
    try:
        yield owner.close
    finally:
        owner.close()


_BEHIND_A_CLOSED_INPUT = """
table inet operator {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iifname "br*" udp dport { 53, 67 } accept
        iifname "br*" tcp dport 53 accept
        iifname "br*" ip daddr 192.0.2.10 tcp dport 8775 accept
        iifname "br*" fib daddr type local tcp dport 8776 accept
        iifname "br*" meta nfproto ipv6 udp dport 547 accept
        iifname "br*" meta l4proto ipv6-icmp accept
    }
}
"""


@contextmanager
def closed_input(host: Namespace) -> Iterator[None]:
    """An operator meanwhile whose table lets nothing in but replies and what docs/operation.md says that he has to."""
    nft(host, _BEHIND_A_CLOSED_INPUT)
    try:
        yield
    finally:
        nft(host, "delete table inet operator")
