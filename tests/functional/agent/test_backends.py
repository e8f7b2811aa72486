"""Which packet filter it is: configured, found out, and changed while packets pass."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.model import document
from nova_netagent.testing import make_group, make_instance, make_rule
from tests.functional.agent.cloud import CONFIG
from tests.functional.agent.kernel import cleanup, eventually, kernel, lock_held, tables
from tests.functional.agent.meddling import DRIFT
from tests.functional.agent.nft import W
from tests.functional.agent.test_life_restart import Town
from tests.functional.conftest import BESIDE_EACH_OTHER
from tests.lab import (
    Agent,
    Forged,
    Lab,
    Namespace,
    Tcp,
    Udp,
    arrives,
    connect,
    ipsets,
    iptables,
    iptables_save,
    needs,
    refused,
)
from tests.lab.tables import Family

pytestmark = [
    needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "nftables", "program:nft"),
    BESIDE_EACH_OTHER,
]

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
def transfer(source: Namespace, destination: Namespace) -> Iterator[None]:
    """Bytes that go to and fro over one connection, of which no segment is lost."""
    stopped, turns = threading.Event(), list[bool]()

    def run() -> None:
        while not stopped.is_set() and (not turns or turns[-1]):
            turns.append(connection.alive(2.0))
            stopped.wait(0.005)

    with connect(source, destination, 80) as connection:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
        assert len(turns) > 5
        assert all(turns), "the connection was cut"
        assert connection.lost == 0


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
        routed, bridged = transfer(town.vm1, town.outside), transfer(town.vm1, town.vm2)
        with town.traffic(), routed, bridged:
            change(town.agent, backend)
        assert in_place(town, backend), (legacy(town.host), nft_tables(town.host))
        assert backend_of(town.agent) == backend
        assert refused(town.outside, town.vm1, Tcp(22))
        assert town.agent.resync()["repaired"] == []
    assert any("gre" in line for line in tables(town.host)["filter"])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("first", ["iptables", "nftables"])
def test_what_was_cut_stays_cut(lab: Lab, first: str, family: int) -> None:
    town = Town(lab, firewall={"backend": first})
    web = make_rule(5, ethertype=f"IPv{family}", protocol="tcp", port_range_min=80, port_range_max=80)
    from_anybody = make_group(3, make_rule(6, ethertype=f"IPv{family}"))
    town.put(make_group(2, web), from_anybody, make_instance(1, (2,)), make_instance(2, (3,)))
    with connect(town.vm2, town.vm1, 80, family=family) as connection:
        assert connection.alive()
        town.put(make_group(2))
        assert connection.dead()
        for backend in (OTHER[first], first):
            change(town.agent, backend)
            assert in_place(town, backend), (legacy(town.host), nft_tables(town.host))
            assert connection.dead()
            assert refused(town.vm2, town.vm1, Tcp(80, family=family))


MASQUERADE = """
table ip operators {
    chain postrouting {
        type nat hook postrouting priority 101
        oifname br1 ip saddr 192.0.2.1 masquerade
    }
}
"""


@pytest.mark.parametrize("first", ["iptables", "nftables"])
def test_what_is_translated_goes_on(lab: Lab, first: str) -> None:
    """By us to the metadata service, past egress rules; and by the operator, by an address that we gave the host."""
    town = Town(lab, firewall={"backend": first})
    both_ways = (
        make_rule(n, direction=way, protocol="tcp", port_range_min=80, port_range_max=80)
        for n, way in ((5, "ingress"), (6, "egress"))
    )
    town.put(make_group(2, *both_ways), make_instance(1, (2,)))
    town.host.run(["nft", "-f", "-"], stdin=MASQUERADE)
    with (
        connect(town.vm1, "169.254.169.254", 80, server=town.host, server_port=8775) as restricted,
        connect(town.vm2, "169.254.169.254", 80, server=town.host, server_port=8775) as free,
        connect(town.outside, town.vm1, 80) as masqueraded,
    ):
        assert masqueraded.server.getpeername()[0] == "10.1.0.1"
        for backend in (OTHER[first], first):
            change(town.agent, backend)
            assert all(each.alive() for each in (restricted, free, masqueraded))


@contextlib.contextmanager
def knocking(*knocks: Callable[[], object]) -> Iterator[None]:
    """What nobody may is tried again and again, and never succeeds."""
    stopped, passed = threading.Event(), list[list[bool]]()

    def knock() -> None:
        while not stopped.is_set():
            passed.append([bool(each()) for each in knocks])

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
    assert len(passed) > 5
    assert not any(map(any, passed))


def forbidden(town: Town) -> list[Callable[[], object]]:
    """What no group lets in, of both families, and bridged what its sender may not say."""
    probes = (
        (town.outside, Tcp(22)),
        (town.outside, Udp(53, family=6)),
        (town.vm2, Forged(Udp(53), source_mac="fa:16:3e:66:66:66")),
    )
    return [partial(arrives, sender, town.vm1, probe, within=0.02) for sender, probe in probes]


@pytest.mark.parametrize("first", ["iptables", "nftables"])
def test_what_is_closed_is_closed_at_every_moment_of_the_move(lab: Lab, first: str) -> None:
    town = Town(lab, firewall={"backend": first})
    with knocking(*forbidden(town)):
        change(town.agent, OTHER[first])
        change(town.agent, first)


@pytest.mark.parametrize("first", ["iptables", "nftables"])
def test_killed_at_any_instant_of_the_move_it_moves_on(lab: Lab, first: str) -> None:
    town = Town(lab, firewall={"backend": first})
    with town.traffic(), knocking(*forbidden(town)):
        for number, delay in enumerate((0.0, 0.002, 0.004, 0.008, 0.016, 0.032)):
            backend = (OTHER[first], first)[number % 2]
            town.agent.stop()
            town.agent.configure({**CONFIG, "firewall": {"backend": backend}})
            town.agent.start(ready=False)
            eventually(lambda backend=backend: arrived(town, backend), 10)  # type: ignore[misc]
            time.sleep(delay)
            town.agent.kill9()
            town.agent.start()
            assert in_place(town, backend), (delay, legacy(town.host), nft_tables(town.host))


def arrived(town: Town, backend: str) -> bool:
    """Whether our first rules are in this packet filter, and those in the other one perhaps not swept yet."""
    if backend == "nftables":
        return bool(nft_tables(town.host))
    return "nova-netagent" in iptables_save(town.host, table="raw")


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_cleanup_takes_everything_out_of_both(lab: Lab, backend: str) -> None:
    town = Town(lab, firewall={"backend": backend})
    town.agent.stop()
    town.agent.configure({**CONFIG, "firewall": {"backend": OTHER[backend]}})
    cleanup(town.agent)
    assert not legacy(town.host)
    assert not nft_tables(town.host)


def forgetful(host: Namespace) -> None:
    """Somebody, or an agent that was killed while it swept, takes all legacy rules away, and leaves our sets."""
    for what in ("every table is emptied", "IPv6 is emptied"):
        DRIFT["iptables"][what](host)
    assert legacy(host) == [name for name in ipsets(host) if "nova" in name] != []


def test_sets_that_were_left_without_rules_are_swept(lab: Lab) -> None:
    town = Town(lab, firewall={"backend": "iptables"})
    town.agent.stop()
    forgetful(town.host)
    town.agent.configure({**CONFIG, "firewall": {"backend": "nftables"}})
    town.agent.start()
    assert in_place(town, "nftables"), legacy(town.host)


def test_a_cleanup_takes_sets_that_were_left_without_rules(lab: Lab) -> None:
    town = Town(lab, firewall={"backend": "iptables"})
    town.agent.stop()
    forgetful(town.host)
    town.agent.configure({**CONFIG, "firewall": {"backend": "nftables"}})
    cleanup(town.agent)
    assert not legacy(town.host)
    assert not nft_tables(town.host)


# --- what is left, or comes back

PORT_80 = make_group(2, make_rule(5, protocol="tcp", port_range_min=80, port_range_max=80))
PORTS = make_group(2, make_rule(5, protocol="tcp", port_range_min=80, port_range_max=81))

OWNED_LEFTOVER = f"""
delete table ip {W}
add table ip {W} {{ flags owner; }}
add chain ip {W} {W}-FORWARD
add rule ip {W} {W}-FORWARD tcp dport 81 drop
add chain ip {W} filter-FORWARD {{ type filter hook forward priority -5; }}
add rule ip {W} filter-FORWARD counter jump {W}-FORWARD
"""


@contextlib.contextmanager
def owned_leftover(host: Namespace) -> Iterator[Callable[[], None]]:
    """What is left of ours in nf_tables belongs to somebody, and goes with him when he is told to let go."""
    owner = host.popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert owner.stdin is not None
    try:
        owner.stdin.write(OWNED_LEFTOVER)
        owner.stdin.flush()
        eventually(lambda: "tcp dport 81 drop" in nft(host, "list", "ruleset"), 5)
        yield owner.terminate
    finally:
        owner.kill()
        owner.wait()


def reported(agent: Agent) -> dict[str, Any]:
    """What the agent says of itself."""
    report: dict[str, Any] = agent.request("GET", "/v1/status")[1]
    return report


@pytest.mark.parametrize("first", ["iptables", "nftables"])
def test_what_cannot_be_swept_is_told_and_tried_again(lab: Lab, first: str) -> None:
    town = Town(lab, firewall={"backend": first})
    town.put(PORT_80, make_instance(1, (2,)))
    town.agent.stop()
    hindered = lock_held() if first == "iptables" else owned_leftover(town.host)
    with hindered as let_go:
        town.agent.configure({**CONFIG, "firewall": {"backend": OTHER[first]}})
        town.agent.start()
        began = time.monotonic()
        answer = town.agent.put("security-groups", document(PORTS))
        assert time.monotonic() - began < 5, "a change waited for a lock that is not ours"
        assert not arrives(town.outside, town.vm1, Tcp(81), within=0.5)
        assert answer["status"]["state"] == "pending"
        assert (
            f"what is left of ours in {first} is swept later, and refuses what it refused"
            in answer["status"]["message"]
        )
        report = reported(town.agent)
        assert report["warnings"] == [answer["status"]["message"]]
        assert report["counts"]["done"] == 0
        assert report["troubles_total"] == report["counts"]["pending"]
        assert any(line.startswith(f"left in {first}: IPv4 filter: - chain {W}-FORWARD") for line in planned(town))
        let_go()
        eventually(lambda: in_place(town, OTHER[first]), 30)
    eventually(lambda: reported(town.agent)["counts"]["pending"] == 0, 30)
    assert town.status(PORTS)["state"] == "done"
    assert reported(town.agent)["warnings"] == []
    assert planned(town) == []
    assert arrives(town.outside, town.vm1, Tcp(81))


def planned(town: Town) -> list[str]:
    """What a resync would change."""
    status, body = town.agent.request("GET", "/v1/plan")
    assert status == 200
    return list(body["plan"])


def restore(town: Town, backend: str) -> Callable[[], None]:
    """Save our rules; what puts them back, as a service does at boot."""
    if backend == "iptables":
        saved = [iptables_save(town.host, family=family) for family in FAMILIES]
        sets = town.host.run(["ipset", "save"]).stdout

        def put_back() -> None:
            town.host.run(["ipset", "restore"], stdin=sets)
            for family, text in zip(("", "6"), saved, strict=True):
                town.host.run([f"ip{family}tables-legacy-restore"], stdin=text)

        return put_back
    listed = "".join(nft(town.host, "list", "table", family, W) for family in ("ip", "ip6"))
    said = "\n".join(line for line in listed.splitlines() if "xt match" not in line)  # no words of nft's

    def load() -> None:
        town.host.run(["nft", "-f", "-"], stdin=said)

    return load


@pytest.mark.parametrize("how", ["at the next resync", "by itself"])
@pytest.mark.parametrize("first", ["iptables", "nftables"])
def test_rules_of_ours_that_come_back_in_the_other_one_are_swept(lab: Lab, first: str, how: str) -> None:
    town = Town(lab, firewall={"backend": first})
    town.put(PORT_80, make_instance(1, (2,)))
    put_back = restore(town, first)
    interval = 2 if how == "by itself" else 3600
    town.agent.restart({**CONFIG, "firewall": {"backend": OTHER[first], "resync_interval": interval}})
    assert in_place(town, OTHER[first])
    town.put(PORTS)
    assert arrives(town.outside, town.vm1, Tcp(81))
    put_back()
    if how == "by itself":
        eventually(lambda: in_place(town, OTHER[first]), 10)
    else:
        assert not arrives(town.outside, town.vm1, Tcp(81), within=0.5)
        assert any(line.startswith(f"left in {first}: IPv4 filter: - chain {W}-") for line in planned(town))
        (repaired,) = town.agent.resync()["repaired"]
        assert f"swept what was left of ours in {first}" in repaired
        assert in_place(town, OTHER[first]), (legacy(town.host), nft_tables(town.host))
    assert arrives(town.outside, town.vm1, Tcp(81))
    assert town.agent.resync()["repaired"] == []


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_what_others_put_where_ours_would_be_stays(lab: Lab, backend: str) -> None:
    host = lab.host()
    agent = lab.agent(host, {**CONFIG, "firewall": {"backend": backend}})
    if backend == "iptables":
        nft(host, "add table ip6 nova-netagent")
        nft(host, "add table ip nova-netagent")
        nft(host, "add chain ip nova-netagent nova-netagents { type filter hook input priority 0; }")
        nft(host, "add rule ip nova-netagent nova-netagents counter accept")
    else:
        iptables(host, "-N nova-netagent-local0")
        iptables(host, "-A nova-netagent-local0 -j ACCEPT")
        iptables(host, "-A INPUT -j nova-netagent-local0 -m comment --comment nova-netagent-INPUT")
    before = kernel(host)
    assert agent.resync()["repaired"] == []
    assert agent.request("GET", "/v1/plan")[1]["plan"] == []
    assert kernel(host) == before


@pytest.mark.parametrize(
    ("backend", "command"), [("iptables", "iptables-legacy-save"), ("nftables", f"nft list table ip {W}")]
)
def test_the_first_line_of_the_log_says_how_to_see_the_rules(lab: Lab, backend: str, command: str) -> None:
    agent = lab.agent(lab.host(), {**CONFIG, "firewall": {"backend": backend}})
    assert f"see our rules with {command}" in agent.log.splitlines()[0]


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


def test_it_follows_legacy_rules_beside_rules_for_frames(lab: Lab, tmp_path: Path) -> None:
    host = lab.host()
    iptables(host, "-A INPUT -p gre -j ACCEPT")
    nft(host, "add table bridge nat")
    nft(host, "add chain bridge nat PREROUTING { type filter hook prerouting priority -300; }")
    for _ in range(3):
        nft(host, "add rule bridge nat PREROUTING counter")
    sibling = Agent(host, tmp_path / "sibling", {**CONFIG, "firewall": {"backend": "iptables", "wrap_name": "first"}})
    lab.agents.append(sibling)
    sibling.start()
    assert nft(host, "list", "table", "bridge", "first")
    agent = started(lab, host)
    assert backend_of(agent) == "iptables"
    assert reported(agent)["warnings"] == []


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_others_that_come_and_go_are_warned_of_as_long_as_they_are_there(lab: Lab, backend: str) -> None:
    host = lab.host()
    agent = lab.agent(host, {**CONFIG, "firewall": {"backend": backend}})
    in_nft = "inet theirs forward of nf_tables drops what it does not allow"
    legacy_one = "IPv4 filter FORWARD of the legacy tables drops what it does not allow"
    wanted = [in_nft] if backend == "iptables" else [legacy_one, in_nft]
    assert warned(agent) == []
    nft(host, "add table inet theirs")
    nft(host, "add chain inet theirs forward { type filter hook forward priority 0; policy drop; }")
    iptables(host, "-P FORWARD DROP")
    agent.resync()
    assert warned(agent) == wanted
    assert all(agent.log.count(each) == 1 for each in wanted)
    agent.resync()
    assert all(agent.log.count(each) == 1 for each in wanted)
    nft(host, "add table inet theirs { flags dormant; }")
    iptables(host, "-P FORWARD ACCEPT")
    agent.resync()
    assert warned(agent) == []


def test_warnings_follow_at_the_timed_resync(lab: Lab) -> None:
    host = lab.host()
    agent = lab.agent(host, {**CONFIG, "firewall": {"backend": "nftables", "resync_interval": 1}})
    iptables(host, "-P FORWARD DROP")
    eventually(lambda: len(warned(agent)) == 1, 5)
    iptables(host, "-P FORWARD ACCEPT")
    eventually(lambda: not warned(agent), 5)


def warned(agent: Agent) -> list[str]:
    """What of others is in the way, as the status has it now."""
    return [each.partition(",")[0] for each in reported(agent)["warnings"]]


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


@pytest.mark.parametrize("configured", ["nftables", "auto"])
def test_it_warns_of_a_closed_policy_beside_its_own_tables(lab: Lab, configured: str) -> None:
    host = lab.host()
    nft(host, "add table inet filter")
    nft(host, "add chain inet filter forward { type filter hook forward priority 0; policy drop; }")
    nft(host, "add rule inet filter forward accept")
    agent = lab.agent(host, {**CONFIG, "firewall": {"backend": configured}})
    assert backend_of(agent) == "nftables"
    assert "inet filter forward of nf_tables drops what it does not allow" in agent.log_end(200)


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
