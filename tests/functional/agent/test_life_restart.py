"""Law 2: a restart with nothing changed writes nothing; and what signals do."""

import contextlib
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.model import document
from nova_netagent.testing import (
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    make_vif,
)
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import counted, counters, eventually, hindered, kernel, lock_held, metric, tables
from tests.functional.agent.meddling import DRIFT
from tests.functional.agent.nft import generation
from tests.functional.conftest import ON_IPTABLES, ON_ONE
from tests.lab import Agent, Flood, Lab, Namespace, iptables, needs, ping
from tests.lab.agent import BACKEND
from tests.lab.unix_http import UnixConnection

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter")

FOREIGN = "-p icmp -m limit --limit 1/hour --limit-burst 1"
"""Matches once: the kernel begins to count anew whenever a table is written, whoever writes it."""


class Town(Cloud):
    """A host with two machines that anybody may ping."""

    def __init__(self, lab: Lab, **config: dict[str, Any]) -> None:
        super().__init__(lab, config, program=True)
        self.network(1)
        self.outside.links.add_route("198.51.100.0/24", device="eth0")
        echo = [make_rule(n, ethertype=f"IPv{family}", protocol="icmp") for n, family in ((1, 4), (2, 6))]
        self.put(make_group(1, *echo, make_rule(3, remote_group_id=make_group(1).id)))
        self.vm1, self.vm2 = self.instance(1, (1,)), self.instance(2, (1,))
        self.put(make_floating_ip(1, 1))
        assert ping(self.outside, "198.51.100.1")
        eventually(lambda: self.is_served(self.vm2), 5)

    def is_served(self, machine: Namespace) -> bool:
        """Whether dnsmasq was told of a machine: of one that follows another a moment later."""
        files = self.agent.state_path / "networks"
        return machine.mac in (files / "br1.dhcp-hosts").read_text() and not (files / "br1.unread").exists()

    @contextlib.contextmanager
    def traffic(self, *others: Namespace) -> Iterator[None]:
        """Packets that all arrive: routed, bridged, of both families, to a floating IP and to other machines."""
        floods = [
            Flood(self.outside, self.vm1),
            Flood(self.outside, self.vm1, family=6),
            Flood(self.vm1, self.vm2),
            Flood(self.outside, "198.51.100.1"),
            *(Flood(self.outside, other) for other in others),
        ]
        with contextlib.ExitStack() as stack:
            for flood in floods:
                stack.enter_context(flood)
            yield
        assert [(flood.sent > 5, flood.lost) for flood in floods] == [(True, [])] * len(floods)

    def counts(self) -> list[tuple[str, int, int]]:
        """Every rule of the host with its counters."""
        return counted(self.host)

    @property
    def written(self) -> int:
        """Counts every change of the host's nf_tables: those of the legacy tables nobody counts."""
        return generation(self.host)


@pytest.fixture
def town(lab: Lab, backend: str) -> Town:
    """Two machines, one of them with a floating IP."""
    return Town(lab, firewall={"backend": backend})


def stop_and_start(agent: Agent) -> None:
    agent.restart()


def kill_and_start(agent: Agent) -> None:
    agent.kill9()
    agent.start()


@pytest.mark.parametrize("again", [stop_and_start, kill_and_start])
def test_a_restart_loses_no_packet_and_moves_no_counter_back(town: Town, again: Callable[[Agent], None]) -> None:
    iptables(town.host, "-t raw -A PREROUTING -s 192.0.2.1/32 -j ACCEPT")
    iptables(town.host, "-A FORWARD -j ACCEPT")
    free = town.instance(3, vifs=(make_vif(3, port_security_enabled=False),))
    eventually(lambda: town.is_served(free), 5)
    with town.traffic(free):
        time.sleep(0.05)
        written, before = town.written, town.counts()
        again(town.agent)
        after = town.counts()
    assert town.written == written
    for (text, packets, size), (text_after, packets_after, size_after) in zip(before, after, strict=True):
        assert text_after == text
        assert (packets_after, size_after) >= (packets, size), text
    assert metric(town.agent, "applies_total") == 0
    assert metric(town.agent, "edits_total") == 0


def test_a_resync_writes_nothing(town: Town) -> None:
    written, before = town.written, town.counts()
    assert town.agent.resync()["repaired"] == []
    assert town.written == written
    assert len(town.counts()) == len(before)


@ON_IPTABLES
def test_a_restart_writes_no_table(town: Town) -> None:
    """Seen from outside: a limit that is used up stays so, unless its table is written. (nf_tables counts it.)"""
    where = [("filter", "INPUT"), ("mangle", "INPUT"), ("raw", "PREROUTING"), ("nat", "INPUT")]
    for table, chain in where:
        iptables(town.host, f"-t {table} -A {chain} {FOREIGN}")

    def limits() -> list[int]:
        assert ping(town.outside, town.host)
        return [_packets(town.host, table, "--limit 1/hour") for table, _ in where]

    assert limits() == [1, 1, 1, 1]
    assert limits() == [1, 1, 1, 1]
    town.agent.restart()
    assert limits() == [1, 1, 1, 1]
    assert town.agent.resync()["repaired"] == []
    assert limits() == [1, 1, 1, 1]
    town.put(make_provider_rule(1))
    assert limits() == [2, 1, 1, 1], "only the filter table was written"


def _packets(host: Namespace, table: str, part: str) -> int:
    (found,) = [packets for text, packets, _ in counters(tables(host, counters=True)[table]) if part in text]
    return found


AWAY = {
    "iptables": ("our chains are flushed", "a chain of our grammar is added"),
    "nftables": (
        "an address leads nowhere",
        "the root is flushed",
        "a chain of our grammar",
        "a base chain is flushed",
        "a floating IP leads to another",
    ),
}


def test_what_changed_while_it_was_away_is_put_right_at_the_start(town: Town) -> None:
    before = kernel(town.host)
    town.agent.stop()
    for what in AWAY[town.backend]:
        DRIFT[town.backend][what](town.host)
    town.host.links.set("tap1", master="")
    town.host.links.delete_address("eth0", "198.51.100.1/32")
    town.agent.start()
    assert kernel(town.host) == before


def test_it_is_not_ready_before_the_stored_state_is_in_the_kernel(town: Town) -> None:
    town.agent.stop()
    with hindered(town.host, town.backend) as release:
        town.agent.start(ready=False)
        eventually(lambda: _answers(town.agent), 5)
        assert town.agent.request("GET", "/livez")[0] == 200
        code, answer = town.agent.request("GET", "/readyz")
        assert (code, answer["error"]["title"]) == (503, "Service Unavailable")
        release()
    town.agent.wait_ready()


def _answers(agent: Agent) -> bool:
    with contextlib.suppress(OSError):
        return bool(agent.request("GET", "/livez"))
    return False


# --- SIGTERM and SIGINT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_leaves_everything(town: Town, number: signal.Signals) -> None:
    before = kernel(town.host)
    with town.traffic():
        town.agent.signal(number)
        assert town.agent.wait() == 0
        assert kernel(town.host) == before
        time.sleep(0.05)
    assert not town.agent.socket.exists()


@ON_IPTABLES
def test_requests_in_flight_are_finished_before_it_stops(town: Town) -> None:
    """In nf_tables nobody is waited for."""
    body: Any = document(make_provider_rule(1))
    with lock_held() as release, ThreadPoolExecutor() as pool:
        putting = pool.submit(town.agent.put, "provider-rules", body)
        eventually(lambda: town.agent.state()["provider_rules"], 5)
        town.agent.signal(signal.SIGTERM)
        time.sleep(0.1)
        assert town.agent.running
        release()
        assert putting.result()["status"]["state"] == "done"
    assert town.agent.wait() == 0
    assert "-s 203.0.113.0/24 -j DROP" in "\n".join(tables(town.host)["filter"])


def test_a_pause_between_commits_holds_neither_links_nor_questions_nor_the_end(lab: Lab) -> None:
    pause = 20
    cloud = Cloud(lab, {"firewall": {"coalesce_interval": pause}})
    cloud.guest(1)
    cloud.agent.state({"networks": [document(make_network(1))], "instances": [document(make_instance(1))]})
    began = time.monotonic()
    rule: Any = document(make_provider_rule(1))
    putting = UnixConnection(cloud.agent.socket, 2 * pause)
    path = f"/v1/provider-rules/{rule['id']}"
    putting.request("PUT", path, json.dumps(rule), {"Content-Type": "application/json"})
    assert cloud.agent.request("GET", "/v1/plan")[0] == 200
    cloud.host.links.set("tap1", master="")
    eventually(lambda: cloud.host.links.all()["tap1"].get("master") == "br1", 2)
    assert not cloud.agent.state()["provider_rules"]
    cloud.agent.signal(signal.SIGTERM)
    assert putting.getresponse().status == 201
    putting.close()
    assert cloud.agent.wait() == 0
    assert time.monotonic() - began < pause
    cloud.agent.start()
    assert cloud.status(make_provider_rule(1))["state"] == "done"


# --- SIGHUP


def reload(cloud: Cloud, says: str, **changes: dict[str, Any]) -> str:
    """Change the configuration, send SIGHUP, and wait until the log says so; the log since."""
    known = len(cloud.agent.log)
    groups = {"network", *changes}
    base: dict[str, dict[str, Any]] = {"network": {"public_interface": "eth0", "allow_same_net_traffic": False}}
    cloud.agent.configure({group: {**base.get(group, {}), **changes.get(group, {})} for group in groups})
    cloud.agent.signal(signal.SIGHUP)
    eventually(lambda: says in cloud.agent.log[known:], 5)
    return cloud.agent.log[known:]


def test_sighup_takes_over_what_may_change(town: Town) -> None:
    reload(town, "configuration read anew", firewall={"resync_interval": 1})
    before = kernel(town.host)
    DRIFT[town.backend]["a verdict is turned"](town.host)
    eventually(lambda: kernel(town.host) == before, 3)


@ON_ONE
def test_sighup_changes_how_much_is_logged(town: Town) -> None:
    said = reload(town, "configuration read anew", DEFAULT={"debug": True})
    town.put(make_provider_rule(1))
    assert "DEBUG" in town.agent.log
    assert "takes effect at the next start" not in said


@ON_ONE
def test_sighup_with_an_invalid_file_keeps_what_was_and_says_why(town: Town) -> None:
    before = kernel(town.host)
    said = reload(town, "is kept", firewall={"resync_interval": "soon"})
    (line,) = [line for line in said.splitlines() if "is kept" in line]
    for word in ("ERROR", "[firewall]", "resync_interval", "soon"):
        assert word in line
    assert kernel(town.host) == before
    town.put(make_provider_rule(1))
    assert "configuration read anew" in reload(town, "configuration read anew", firewall={"resync_interval": 2})


UNREADABLE: dict[str, tuple[bytes | None, str]] = {
    "absent": (None, ""),
    "no text": (b"\xff\xfe[", ""),
    "no syntax": (b"[network\n", "line 1"),
    "a switch that ends other programs": (b"[DEFAULT]\ndebug = maybe\n", "[DEFAULT] debug"),
    "a log that is not there": (b"[DEFAULT]\nlog_config_append = /nowhere\n", "[DEFAULT] log_config_append = /nowhere"),
    "a log that is none": (b"[DEFAULT]\nlog_config_append = /proc/version\n", "[DEFAULT] log_config_append"),
    "too large": (b"[firewall]\niptables_top_regex = a{99999999999}\n", "[firewall] iptables_top_regex"),
    "too deep": (b"[firewall]\niptables_top_regex = " + b"(" * 5000 + b")" * 5000, "[firewall] iptables_top_regex"),
    "a group that is not there": (b"[api]\nsocket_group = no-such-group\n", "[api] socket_group"),
}


@ON_ONE
def test_sighup_with_a_file_that_does_not_read_keeps_what_was(town: Town) -> None:
    for number, (name, (content, word)) in enumerate(UNREADABLE.items()):
        known = len(town.agent.log)
        town.agent.config_file.unlink(missing_ok=True)
        if content is not None:
            town.agent.config_file.write_bytes(content)
        town.agent.signal(signal.SIGHUP)
        eventually(lambda known=known: "the configuration is kept as it was" in town.agent.log[known:], 5)  # type: ignore[misc]
        said = town.agent.log[known:]
        assert (word or str(town.agent.config_file)) in said, name
        assert len(said) < 1000, name
        assert "ConfigError" not in said, name
        town.put(make_provider_rule(number))


@ON_ONE
def test_sighup_with_a_log_that_cannot_be_keeps_the_log(town: Town) -> None:
    appended = town.agent.directory / "log.conf"
    appended.write_text(
        "[loggers]\nkeys = root\n[handlers]\nkeys = one\n[formatters]\nkeys =\n[logger_root]\nhandlers = one\n"
        "[handler_one]\nclass = no.such.Handler\nargs = ()\n"
    )
    said = reload(town, "is kept", DEFAULT={"log_config_append": appended})
    assert f"as it was: [DEFAULT] log_config_append = {appended}: " in said
    town.put(make_provider_rule(1))
    assert "configuration read anew" in reload(town, "configuration read anew", firewall={"resync_interval": 2})


@ON_ONE
def test_sighup_names_what_waits_for_the_next_start(town: Town) -> None:
    before = kernel(town.host)
    said = reload(town, "configuration read anew", firewall={"wrap_name": "other", "resync_interval": 7})
    assert "takes effect at the next start: [firewall] wrap_name" in said
    town.put(make_provider_rule(1))
    town.delete(make_provider_rule(1))
    assert kernel(town.host) == before


@ON_ONE
def test_many_signals_during_many_requests(town: Town) -> None:
    done = threading.Event()

    def send() -> None:
        while not done.wait(0.01):
            town.agent.signal(signal.SIGHUP)

    sender = threading.Thread(target=send)
    sender.start()
    for number in range(1, 30):
        town.put(make_provider_rule(number))
    done.set()
    sender.join()
    town.agent.stop()


# --- its socket


@ON_ONE
def test_a_socket_that_was_taken_away_is_there_again(town: Town) -> None:
    agent = town.agent
    kept = UnixConnection(agent.socket, 5)
    kept.request("GET", "/livez")
    assert kept.getresponse().read()
    for _ in range(3):
        agent.socket.unlink()
        eventually(agent.socket.exists, 2)
        eventually(lambda: agent.request("GET", "/readyz")[0] == 200, 1)
    kept.request("GET", "/livez")
    assert kept.getresponse().status == 200, "who was connected still is"
    assert "had been taken away" in agent.log
    agent.stop()
    assert not agent.socket.exists()
    agent.start()


# --- SIGUSR2 and the service manager


@ON_ONE
def test_sigusr2_writes_a_report_and_it_goes_on(town: Town) -> None:
    town.agent.signal(signal.SIGUSR2)
    eventually(lambda: "Guru Meditation" in town.agent.log and "Green Threads" in town.agent.log, 10)
    town.put(make_provider_rule(1))


def test_the_service_manager_is_told(lab: Lab, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        Path(address).chmod(0o666)
        manager.settimeout(5)
        agent = lab.agent(lab.host(), environment={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"})

        def heard(word: str) -> str:
            while word not in (text := manager.recv(4096).decode()):
                pass
            return text

        assert f"enforcing with {BACKEND}" in heard("READY=1")
        heard("WATCHDOG=1")
        agent.signal(signal.SIGHUP)
        heard("RELOADING=1")
        heard("READY=1")
        agent.stop()
        heard("STOPPING=1")


def test_an_instance_that_is_described_while_it_is_away_is_there_after_the_start(town: Town) -> None:
    town.guest(3)
    town.agent.restart()
    town.put(make_instance(3, (1,)))
    town.agent.kill9()
    assert town.host.links.all()["tap3"]["master"] == "br1"


def test_the_service_manager_hears_nothing_more_of_an_engine_that_hangs(lab: Lab, tmp_path: Path) -> None:
    """A process whose API still answers is none that works: it is restarted, and the rules stay."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        Path(address).chmod(0o666)
        manager.settimeout(10)
        agent = lab.agent(
            lab.host(),
            environment={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"},
            command=[sys.executable, "-m", "tests.functional.agent.hanging_agent"],
        )

        def fed() -> bool:
            """Whether there is a sign of life within a second."""
            until = time.monotonic() + 1
            while time.monotonic() < until:
                with contextlib.suppress(TimeoutError):
                    if b"WATCHDOG=1" in manager.recv(4096):
                        return True
            return False

        manager.settimeout(0.2)
        eventually(fed, within=10)
        (agent.state_path / "hang").touch()
        eventually(lambda: not fed(), within=20)
        assert agent.request("GET", "/livez")[0] == 503
        assert "the engine has been busy for" in agent.request("GET", "/v1/status")[1]["failure"]
        (agent.state_path / "hang").unlink()
        eventually(fed, within=20)
        assert agent.request("GET", "/livez")[0] == 200
