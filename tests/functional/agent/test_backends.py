"""Which packet filter it is: configured, found out, and changed while packets pass."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.agent.cloud import CONFIG
from tests.functional.agent.kernel import cleanup, tables
from tests.functional.agent.test_life_restart import Town
from tests.lab import Agent, Lab, Namespace, Tcp, arrives, connect, ipsets, iptables, needs, refused
from tests.lab.tables import Family

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "nftables", "program:nft")

OTHER = {"iptables": "nftables", "nftables": "iptables"}
FAMILIES: tuple[Family, ...] = (4, 6)


def nft(host: Namespace, *words: str) -> str:
    """``nft WORDS`` on a host."""
    return host.run(["nft", *words]).stdout


def nft_tables(host: Namespace) -> set[str]:
    """The tables of nf_tables for IP."""
    return {line for line in nft(host, "list", "tables").splitlines() if line.startswith(("table ip ", "table ip6 "))}


def legacy(host: Namespace) -> list[str]:
    """What there is of ours in the legacy tables."""
    found = [line for family in FAMILIES for lines in tables(host, family).values() for line in lines]
    return [line for line in found if "nova" in line] + [name for name in ipsets(host) if "nova" in name]


def change(agent: Agent, backend: str) -> None:
    """Change the option and start again."""
    agent.restart({**CONFIG, "firewall": {"backend": backend}})


def backend_of(agent: Agent) -> str:
    """As the agent says."""
    status, body = agent.request("GET", "/v1/status")
    assert status == 200
    return str(body["backend"])


@contextlib.contextmanager
def transfer(town: Town) -> Iterator[None]:
    """Bytes that go to and fro over one connection without a stall that a lost packet would make."""
    stopped, stalls = threading.Event(), list[float]()

    def run() -> None:
        while not stopped.is_set():
            began = time.monotonic()
            if not connection.alive(2.0):
                stalls.append(-1.0)
                return
            stalls.append(time.monotonic() - began)
            stopped.wait(0.005)

    with connect(town.vm1, town.outside, 80) as connection:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
    assert len(stalls) > 5
    assert -1.0 not in stalls, "the connection was cut"


def in_place(town: Town, backend: str) -> bool:
    """Whether our rules are in this packet filter and nowhere else."""
    in_nft = {"table ip nova-netagent", "table ip6 nova-netagent"} <= nft_tables(town.host)
    nowhere_else = not legacy(town.host) if backend == "nftables" else not nft_tables(town.host)
    return nowhere_else and (in_nft if backend == "nftables" else bool(legacy(town.host)))


@pytest.mark.parametrize("first", ["iptables", "nftables"])
def test_it_moves_over_and_back_without_losing_a_packet(lab: Lab, first: str) -> None:
    town = Town(lab, firewall={"backend": first})
    assert in_place(town, first)
    iptables(town.host, "-A FORWARD -p gre -j DROP")
    for backend in (OTHER[first], first):
        with town.traffic(), transfer(town):
            change(town.agent, backend)
        assert in_place(town, backend), (legacy(town.host), nft_tables(town.host))
        assert backend_of(town.agent) == backend
        assert refused(town.outside, town.vm1, Tcp(22))
        assert town.agent.resync()["repaired"] == []
    assert any("gre" in line for line in tables(town.host)["filter"])


def test_what_is_closed_is_closed_at_every_moment_of_the_move(lab: Lab) -> None:
    town = Town(lab, firewall={"backend": "iptables"})
    passed, stopped = [], threading.Event()

    def knock() -> None:
        while not stopped.is_set():
            if arrives(town.outside, town.vm1, Tcp(22), within=0.02):
                passed.append(True)

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    change(town.agent, "nftables")
    change(town.agent, "iptables")
    stopped.set()
    thread.join()
    assert not passed


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_cleanup_takes_everything_out_of_both(lab: Lab, backend: str) -> None:
    town = Town(lab, firewall={"backend": backend})
    town.agent.stop()
    town.agent.configure({**CONFIG, "firewall": {"backend": OTHER[backend]}})
    cleanup(town.agent)
    assert not legacy(town.host)
    assert not nft_tables(town.host)


# --- found out


def started(lab: Lab, host: Namespace) -> Agent:
    """An agent that has to find out."""
    return lab.agent(host, {**CONFIG, "firewall": {"backend": "auto"}})


def test_it_follows_legacy_rules(lab: Lab) -> None:
    host = lab.host()
    iptables(host, "-A INPUT -p gre -j ACCEPT")
    agent = started(lab, host)
    assert backend_of(agent) == "iptables"
    assert "the packet filter is iptables: this host's other rules are in the legacy tables" in agent.log_end(200)


def test_it_follows_nf_tables_and_warns_of_a_closed_policy(lab: Lab) -> None:
    host = lab.host()
    nft(host, "add table inet filter")
    nft(host, "add chain inet filter forward { type filter hook forward priority 0; policy drop; }")
    nft(host, "add rule inet filter forward accept")
    iptables(host, "-P FORWARD DROP")
    agent = started(lab, host)
    assert backend_of(agent) == "nftables"
    log = agent.log_end(200)
    assert "IPv4 filter FORWARD of the legacy tables drops what it does not allow" in log
    assert nft(host, "list", "table", "inet", "filter").count("accept") == 1


def test_it_warns_of_a_closed_policy_in_nf_tables(lab: Lab) -> None:
    host = lab.host()
    nft(host, "add table inet filter")
    nft(host, "add chain inet filter input { type filter hook input priority 0; policy drop; }")
    nft(host, "add rule inet filter input accept")
    agent = lab.agent(host, {**CONFIG, "firewall": {"backend": "iptables"}})
    assert "inet filter input of nf_tables drops what it does not allow" in agent.log_end(200)


def test_it_does_not_guess(lab: Lab, tmp_path: Path) -> None:
    host = lab.host()
    iptables(host, "-A INPUT -p gre -j ACCEPT")
    nft(host, "add table inet filter")
    nft(host, "add chain inet filter input")
    nft(host, "add rule inet filter input accept")
    agent = Agent(host, tmp_path / "undecided", {**CONFIG, "firewall": {"backend": "auto"}})
    agent.start(ready=False)
    assert agent.wait() == 1
    assert (
        "[firewall] backend = auto: 1 rules of others in the legacy tables and as many in nf_tables"
        in agent.log_end(50)
    )


def test_it_stays_where_its_rules_are(lab: Lab) -> None:
    host = lab.host()
    agent = lab.agent(host, {**CONFIG, "firewall": {"backend": "nftables"}})
    agent.restart({**CONFIG, "firewall": {"backend": "auto"}})
    assert backend_of(agent) == "nftables"
