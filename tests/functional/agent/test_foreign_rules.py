"""Laws 4 and 8: what is not ours is left as it is, byte for byte, from our start to our cleanup."""

import re

import pytest

from nova_netagent.netfilter.owner import Owner
from nova_netagent.testing import (
    make_floating_ip,
    make_group,
    make_instance,
    make_provider_rule,
    make_rule,
)
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.foreign import WORLDS
from tests.functional.agent.kernel import cleanup, kernel, tables
from tests.lab import Lab, Namespace, needs
from tests.lab.agent import BACKENDS
from tests.lab.tables import Family, World, command

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter")

FAMILIES: tuple[Family, ...] = (4, 6)
OWNER = Owner("nova-netagent")

HOOKS = {
    ("filter", "INPUT"): ["nova-netagent-INPUT"],
    ("filter", "FORWARD"): ["nova-filter-top", "nova-netagent-FORWARD"],
    ("filter", "OUTPUT"): ["nova-filter-top", "nova-netagent-OUTPUT"],
    ("nat", "PREROUTING"): ["nova-netagent-PREROUTING"],
    ("nat", "OUTPUT"): ["nova-netagent-OUTPUT"],
    ("nat", "POSTROUTING"): ["nova-netagent-POSTROUTING", "nova-postrouting-bottom"],
    ("mangle", "PREROUTING"): ["nova-netagent-PREROUTING"],
    ("mangle", "POSTROUTING"): ["nova-netagent-POSTROUTING"],
    ("raw", "PREROUTING"): ["nova-netagent-PREROUTING"],
}
"""The table of the contract, and mangle PREROUTING (docs/decisions/0001)."""
SHARED = ("nova-filter-top", "nova-postrouting-bottom")

Saved = dict[tuple[Family, str], list[str]]
"""By family and table the lines of iptables-save -c."""


def restore(host: Namespace, text: str, family: Family = 4, world: World = "legacy") -> None:
    """Load rules with their counters, beside those that are there."""
    host.run([f"{command(family, world)}-restore", "-c", "--noflush"], stdin=text)


def saved(host: Namespace, world: World = "legacy") -> Saved:
    return {
        (family, name): lines
        for family in FAMILIES
        for name, lines in tables(host, family, counters=True, world=world).items()
        if not all(re.match(r":[A-Z]+ ACCEPT ", line) for line in lines)
    }


def foreign(host: Namespace, world: World = "legacy") -> Saved:
    """What is there but for our chains, our jumps, and the chains that we share with nobody here."""
    return {table: [x for x in lines if not is_ours(table, x)] for table, lines in saved(host, world).items()}


def is_ours(table: tuple[Family, str], line: str) -> bool:
    if line.startswith(":"):
        name = line[1:].split()[0]
        return OWNER.owns_chain(name) or name in SHARED
    chain, rule = re.match(r"\[\d+:\d+\] -A (\S+) ?(.*)", line).groups()  # type: ignore[union-attr]
    return OWNER.owns_chain(chain) or chain in SHARED or rule in [f"-j {x}" for x in HOOKS.get((table[1], chain), ())]


def same_but_for_traffic(before: Saved, after: Saved) -> bool:
    """The same lines in the same order, and no counter went back."""
    assert {table: [plain(x) for x in lines] for table, lines in after.items() if lines_of_use(lines)} == {
        table: [plain(x) for x in lines] for table, lines in before.items() if lines_of_use(lines)
    }
    for table, lines in before.items():
        for line, then in zip(lines, after.get(table, lines), strict=True):
            assert line.startswith(":") or counts(then) >= counts(line), f"{line} is {then}"
    return True


def lines_of_use(lines: list[str]) -> bool:
    return any(not re.match(r":[A-Z]+ ACCEPT ", line) for line in lines)


def plain(line: str) -> str:
    return re.sub(r"\[\d+:\d+\] ?", "", line)


def counts(line: str) -> tuple[int, ...]:
    return tuple(int(x) for x in re.findall(r"^\[(\d+):(\d+)\]", line)[0])


def order_in(host: Namespace, table: str, chain: str, family: Family = 4) -> list[str]:
    """The rules of a chain in their order."""
    head = f"-A {chain} "
    return [x.removeprefix(head) for x in tables(host, family).get(table, []) if x.startswith(head)]


def use(cloud: Cloud) -> None:
    """Describe some of everything, change it, and take some away."""
    cloud.network(1)
    for number in (1, 2):
        cloud.guest(number)
    echo = [make_rule(n, ethertype=f"IPv{family}", protocol="icmp") for n, family in ((1, 4), (2, 6))]
    cloud.put(make_group(1, *echo, make_rule(3, remote_group_id=make_group(1).id)), make_provider_rule(1))
    cloud.put(make_instance(1, (1,)), make_instance(2, (1,)), make_floating_ip(1), make_floating_ip(2, 2))
    cloud.put(make_group(1, echo[0]), make_group(1, *echo))
    cloud.delete(make_instance(2), make_floating_ip(2))


BESIDE: dict[str, World] = {"iptables": "legacy", "nftables": "nft"}
CASES = [(backend, name, BESIDE[backend]) for backend in BACKENDS for name in WORLDS]
CASES += [(backend, "docker", BESIDE[other]) for backend in BACKENDS for other in BESIDE if other != backend]


@pytest.mark.parametrize(("backend", "program", "world"), CASES, indirect=["backend"])
def test_a_whole_life_beside_them(lab: Lab, backend: str, program: str, world: World) -> None:
    """Start, use, kill, restart, resync, stop, cleanup: after each step they are as they were.

    They write the legacy tables, or nf_tables as Debian's plain iptables does: where ours are, or elsewhere.
    """
    host = lab.host()
    for family, text in zip(FAMILIES, WORLDS[program], strict=True):
        restore(host, text, family, world)
    before, whole = saved(host, world), kernel(host)
    assert before
    cloud = Cloud(lab, host=host, backend=backend)
    assert same_but_for_traffic(before, foreign(host, world))
    use(cloud)
    assert same_but_for_traffic(before, foreign(host, world))
    cloud.agent.kill9()
    cloud.agent.start()
    assert same_but_for_traffic(before, foreign(host, world))
    assert cloud.agent.resync()["repaired"] == []
    cloud.agent.restart()
    assert same_but_for_traffic(before, foreign(host, world))
    cloud.agent.stop()
    cleanup(cloud.agent)
    assert same_but_for_traffic(before, saved(host, world))
    for number in (1, 2):
        host.links.delete(f"tap{number}")
    assert kernel(host) == whole
