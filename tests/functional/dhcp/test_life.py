"""Processes: killed, found again, taken over, left alone, and gone with their network."""

import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.compile.dhcp import files
from nova_netagent.testing import make_instance, make_network, make_vif, network_id
from tests.functional.dhcp.clients import dhclient, resolve, solicit, udhcpc
from tests.functional.dhcp.site import Site, eventually
from tests.lab import needs
from tests.lab.agent import REPOSITORY
from tests.unit.dhcp.test_services import slaac_vif

pytestmark = needs("bridge", "veth", "ipv6", "program:dnsmasq", "setgroups", "program:dhclient", "program:busybox")


class Driver:
    """An agent in a process of its own."""

    def __init__(self, site: Site, *words: str, prefix: tuple[str, ...] = ()) -> None:
        self._site = site
        argv = [*prefix, sys.executable, "-m", "tests.functional.dhcp.driver", str(site.directory), *words]
        self.process = site.host.popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, start_new_session=True
        )

    def serve(self, networks: list[int], instances: list[tuple[int, int]], **options: Any) -> list[str]:
        """Give an order; what the plan said."""
        configuration = self._site.options["dnsmasq_config_file"]
        order = {
            "networks": networks,
            "instances": instances,
            "options": {"dnsmasq_config_file": configuration} | options,
        }
        self.process.stdin.write(json.dumps(order) + "\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        answer = self.process.stdout.readline()  # type: ignore[union-attr]
        assert answer, "the driver died"
        return list(json.loads(answer))

    def kill(self) -> None:
        """Kill it and everything in its process group."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def driver(site: Site) -> Iterator[Driver]:
    made = Driver(site)
    yield made
    made.process.kill()


# --- the agent dies


def test_it_outlives_the_agent_and_is_taken_over(site: Site, driver: Driver) -> None:
    site.bridge(2)
    assert driver.serve([1, 2], [(1, 1), (2, 2)]) == ["dhcp: + br1", "dhcp: + br2"]
    before = site.pids()
    driver.kill()
    assert site.pids() == before
    guest = site.guest(1)
    assert udhcpc(guest, site.directory)
    successor = Driver(site)
    assert successor.serve([1, 2], [(1, 1), (2, 2)]) == []
    assert successor.serve([1, 2], [(1, 1), (2, 2), (3, 1)]) == ["dhcp: reload br1: 3 lines come, 0 go"]
    assert site.pids() == before
    assert udhcpc(site.guest(3), site.directory)
    site.kill("br1")
    eventually(lambda: len(site.pids().get("br1", ())) == 1)
    assert site.leases() == {"10.1.0.2", "10.1.0.4"}
    successor.kill()


def test_killed_at_any_instant_there_is_one_for_each_network(site: Site) -> None:
    """The agent is killed while it starts, restarts and reloads; the next one leaves exactly one."""
    site.bridge(2)
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    for round_ in range(12):
        driver = Driver(site)
        count = chance.randrange(1, 5)
        order = {
            "networks": chance.choice([[1], [1, 2], [2], [1, 2]]),
            "instances": [[number, 1] for number in range(1, count)],
            "options": {"dhcp_lease_time": 600 + round_ % 3},
        }
        driver.process.stdin.write(json.dumps(order) + "\n")  # type: ignore[union-attr]
        driver.process.stdin.flush()  # type: ignore[union-attr]
        if round_ == 0:
            driver.process.stdout.readline()  # type: ignore[union-attr]
        else:
            # Its start alone takes some hundred milliseconds: wait until it is at work.
            time.sleep(chance.uniform(0.25, 0.6))
        driver.kill()
    final = Driver(site)
    final.serve([1, 2], [(1, 1), (2, 1)])
    assert {bridge: len(pids) for bridge, pids in site.pids().items()} == {"br1": 1, "br2": 1}
    assert udhcpc(site.guest(1), site.directory)
    assert final.serve([1, 2], [(1, 1), (2, 1)]) == []
    final.kill()


def test_signals_that_the_agent_blocks_reach_dnsmasq(site: Site) -> None:
    driver = Driver(site, "--ignoring")
    driver.serve([1], [])
    driver.serve([1], [(1, 1)])
    assert udhcpc(site.guest(1), site.directory)
    pid = site.pid()
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: pid not in site.pids().get("br1", []))
    driver.process.kill()


def test_one_of_which_nothing_can_be_had_to_watch_it_by_is_not_left_running(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold the sockets, and every other one would fail for that."""

    def full(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as exhausted:
        exhausted.setattr(os, "pidfd_open", full)
        site.host.call(site.servers.apply, site.plan(make_network(1)))
        assert site.pids() == {}
    site.settle()
    assert len(site.pids()["br1"]) == 1


# --- dnsmasq dies


@pytest.mark.parametrize(("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGRTMIN + 1, "signal 35")])
def test_whatever_signal_ends_it_is_told_and_it_is_started_again(
    site: Site, caplog: pytest.LogCaptureFixture, number: int, name: str
) -> None:
    """The real-time signals between the first and the last have no name in Python."""
    site.describe(make_network(1))
    before = site.kill(number=number)
    site.turn_until(lambda: site.pids().get("br1", [before]) != [before])
    site.settle()
    assert f"(process {before}) was killed by {name}" in caplog.text


def test_killed_at_random_no_lease_is_lost(site: Site) -> None:
    numbers = range(1, 6)
    site.describe(make_network(1), *(make_instance(number) for number in numbers))
    guests = {number: site.guest(number) for number in numbers}
    for number, guest in guests.items():
        assert udhcpc(guest, site.directory / str(number))
    leased = site.leases()
    assert len(leased) == 5
    chance = random.Random(7)
    for _ in range(15):
        site.kill()
        site.turn()
        time.sleep(chance.uniform(0, 0.05))
        if chance.random() < 0.5:
            site.settle()
        site.turn_until(lambda: "br1" in site.pids(), within=10)
        assert len(site.pids()["br1"]) == 1
        # Stable for longer than it takes to be started at once again, so that the test is not about pauses.
        site.servers._servers["br1"]._started = float("-inf")
    site.settle()
    assert site.leases() == leased
    answer = udhcpc(guests[3], site.directory)
    assert answer is not None
    assert answer["ip"] == "10.1.0.4"
    assert site.counts["crashes"] == 15


def test_its_end_wakes_the_engine(site: Site) -> None:
    site.describe(make_network(1))
    assert site.ended == 0
    site.kill()
    eventually(lambda: site.ended == 1, within=1)
    site.turn()
    site.settle()
    site.kill()
    eventually(lambda: site.ended == 2, within=1)


def test_one_that_was_found_wakes_the_engine_too(site: Site) -> None:
    site.describe(make_network(1))
    site.servers.close()
    site.servers = site.adapter()
    site.describe(make_network(1))
    site.kill()
    eventually(lambda: site.ended >= 1, within=1)


def test_what_it_forked_for_a_query_does_not_stand_in_the_way(site: Site) -> None:
    """A child that serves a TCP client holds the listening sockets, and outlives a kill -9 by minutes."""
    site.describe(make_network(1), make_instance(1))
    guest = site.guest(1)
    guest.links.add_address("eth0", "10.1.0.2/24")
    connection = guest.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.connect(("10.1.0.1", 53))
    eventually(lambda: len(site.pids()["br1"]) == 2)
    (child,) = {*site.pids()["br1"]} - {site.host.call(lambda: site.servers.read() and _leader(site))}
    site.servers.close()
    site.servers = site.adapter()
    assert not site.describe(make_network(1), make_instance(1)), "the child was not taken for the server"
    leader = _leader(site)
    os.kill(leader, signal.SIGKILL)
    eventually(lambda: site.ended == 1)
    assert site.pids()["br1"] == [child]
    site.turn()
    site.settle()
    assert child not in site.pids()["br1"]
    assert resolve(guest, "10.1.0.1", "vm1.novalocal", tcp=True) == ["10.1.0.2"]


def _leader(site: Site) -> int:
    (leader,) = (pid for pid in site.pids()["br1"] if os.getsid(pid) == pid)
    return leader


# --- others


def test_a_process_that_has_an_old_number_is_not_taken_for_ours(site: Site) -> None:
    sleeper = site.host.popen(["sleep", "60"])
    site.networks.mkdir(exist_ok=True)
    (site.networks / "br1.pid").write_text(f"{sleeper.pid}\n")
    assert list(site.describe(make_network(1)).lines()) == ["dhcp: + br1"]
    assert sleeper.poll() is None
    site.describe()
    assert sleeper.poll() is None


def test_the_dnsmasq_of_others_is_left_alone(site: Site) -> None:
    site.host.links.add_bridge("virbr0")
    site.host.links.add_address("virbr0", "192.168.122.1/24")
    theirs = site.directory / "theirs"
    theirs.mkdir()
    common = ["dnsmasq", "-k", "--conf-file=/dev/null", "--bind-interfaces", "--interface=virbr0", "--user=root"]
    common += [
        "--dhcp-range=192.168.122.2,192.168.122.254",
        f"--dhcp-leasefile={theirs}/leases",
        "--except-interface=lo",
    ]
    others = [
        site.host.popen([*common, f"--pid-file={theirs}/br1.pid"]),
        # In another directory whose name begins with ours; and one that only speaks of our file.
        site.host.popen([*common, "--port=0", f"--pid-file={site.networks}2/br1.pid"]),
        site.host.popen([*common, "--port=0", "--pid-file=", f"--dhcp-boot=--pid-file={site.networks}/br1.pid"]),
    ]
    time.sleep(0.3)
    assert [other.poll() for other in others][::2] == [None, None]
    site.describe(make_network(1), make_instance(1))
    assert udhcpc(site.guest(1), site.directory)
    site.describe()
    site.describe(make_network(1))
    site.kill("br1")
    site.turn()
    site.settle()
    assert [other.poll() for other in others][::2] == [None, None]


def test_of_two_of_ours_for_one_bridge_one_stays(site: Site) -> None:
    """By the fault of whoever: a second one for a bridge answers every other renewal with silence."""
    plan = site.describe(make_network(1))
    arguments = plan.start[0].service.arguments
    second = site.host.popen(["dnsmasq", *arguments, "--port=0"], start_new_session=True)
    eventually(lambda: len(site.pids()["br1"]) == 2)
    site.servers.close()
    site.servers = site.adapter()
    site.describe(make_network(1))
    eventually(lambda: second.poll() is not None)
    assert len(site.pids()["br1"]) == 1


def test_files_of_others_stay(site: Site) -> None:
    site.networks.mkdir(exist_ok=True)
    for name in ("README", "nova-br100.conf", "br1.conf", "br7.leases.bak", ".hidden"):
        (site.networks / name).write_text("x")
    site.describe(make_network(1))
    site.describe()
    assert {path.name for path in site.networks.iterdir()} == {
        "README", "nova-br100.conf", "br1.conf", "br7.leases.bak", ".hidden",
    }  # fmt: skip


# --- bridges


def test_a_bridge_that_is_made_anew_is_served_by_the_same_process(site: Site) -> None:
    """dnsmasq binds its sockets to the bridge by name, again and again."""
    objects = (make_network(1), make_instance(1))
    site.describe(*objects)
    before = site.pid()
    site.host.links.delete("br1")
    site.bridge(1)
    site.describe(*objects)
    assert site.pid() == before
    guest = site.guest(1)
    answer = udhcpc(guest, site.directory)
    assert answer is not None
    assert answer["ip"] == "10.1.0.2"
    answer = dhclient(guest, site.directory, family=6)
    assert answer is not None
    assert answer["ip6_address"] == "fd00:1::2"
    assert solicit(guest)
    guest.links.add_address("eth0", "10.1.0.2/24")
    assert resolve(guest, "10.1.0.1", "vm1.novalocal") == ["10.1.0.2"]


def test_a_bridge_that_is_gone_ends_it_and_brings_it_back(site: Site) -> None:
    objects = (make_network(1), make_instance(1))
    site.describe(*objects)
    guest = site.guest(1)
    assert udhcpc(guest, site.directory)
    site.host.links.delete("br1")
    eventually(lambda: "br1" not in site.links.links)
    plan = site.plan(*objects)
    assert list(plan.lines()) == ["dhcp: stop br1: waits for bridge br1"]
    site.host.call(site.servers.apply, plan)
    site.settle()
    assert site.pids() == {}
    assert site.servers.troubles() == {network_id(1): ("pending", "waits for bridge br1")}
    site.bridge(1)
    site.host.links.set("tap0", master="br1")
    site.describe(*objects)
    assert site.leases() == {"10.1.0.2"}
    assert udhcpc(guest, site.directory)


def test_an_address_that_comes_back_is_served(site: Site) -> None:
    objects = (make_network(1), make_instance(1))
    site.describe(*objects)
    guest = site.guest(1)
    site.host.links.delete_address("br1", "10.1.0.1/24")
    eventually(lambda: ("br1", "10.1.0.1/24") not in site.links.addresses)
    assert not site.plan(*objects)
    site.host.links.add_address("br1", "10.1.0.1/24")
    assert udhcpc(guest, site.directory)
    guest.links.add_address("eth0", "10.1.0.2/24")
    eventually(lambda: resolve(guest, "10.1.0.1", "vm1.novalocal", within=0.5) == ["10.1.0.2"])


# --- failing


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no-such-option=1\n", "bad option at line 1 of"),
        ("dhcp-range=10.1.0.300,static\n", "bad dhcp-range at line 1 of"),
        ("log-facility=/nowhere/at/all\n", "cannot open log /nowhere/at/all"),
        ("user=nobodyatall\n", "unknown user or group: nobodyatall"),
    ],
)
def test_a_file_that_dnsmasq_refuses_is_told_by_name(site: Site, text: str, why: str) -> None:
    broken = site.directory / "broken.conf"
    broken.write_text(text)
    plan = site.plan(make_network(1), dnsmasq_config_file=str(broken))
    site.host.call(site.servers.apply, plan)
    site.turn_until(lambda: site.counts["crashes"] >= 2)
    kind, message = site.servers.troubles()[network_id(1)]
    assert kind == "error"
    assert why in message
    assert "next attempt in" in message
    broken.write_text("")
    site.turn_until(lambda: site.servers.troubles() == {}, within=15)
    assert len(site.pids()["br1"]) == 1


def test_a_file_that_is_not_there(site: Site) -> None:
    plan = site.plan(make_network(1), dnsmasq_config_file="/no/such/file")
    site.host.call(site.servers.apply, plan)
    site.turn_until(lambda: site.counts["crashes"] >= 1)
    assert "cannot read /no/such/file" in site.servers.troubles()[network_id(1)][1]


def test_sockets_that_somebody_has_are_told(site: Site) -> None:
    taken = site.host.socket(socket.AF_INET, socket.SOCK_STREAM)
    taken.bind(("10.1.0.1", 53))
    taken.listen()
    plan = site.plan(make_network(1))
    site.host.call(site.servers.apply, plan)
    site.turn_until(lambda: site.counts["crashes"] >= 1)
    assert "Address already in use" in site.servers.troubles()[network_id(1)][1]
    taken.close()
    site.turn_until(lambda: site.servers.troubles() == {}, within=15)


# --- who it is


def _uid(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Uid:")).split()[2])


@needs("real_root")
def test_root_has_it_run_as_nobody_of_weight(site: Site) -> None:
    site.describe(make_network(1), make_instance(1))
    assert _uid(site.pid()) not in (0, os.getuid())
    assert udhcpc(site.guest(1), site.directory)


@needs("real_root", "program:setpriv")
def test_root_without_the_right_to_change_its_user(site: Site) -> None:
    """As under a service manager that leaves it the network's capabilities only."""
    left = "-all,+net_admin,+net_raw,+net_bind_service,+dac_override,+chown,+fowner"
    driver = Driver(site, prefix=("setpriv", "--bounding-set", left))
    assert driver.serve([1], [(1, 1)]) == ["dhcp: + br1"]
    assert _uid(site.pid()) == 0
    assert udhcpc(site.guest(1), site.directory)
    assert driver.serve([1], [(1, 1), (2, 1)]) == ["dhcp: reload br1: 3 lines come, 0 go"]
    driver.kill()


@needs("real_root", "program:setpriv")
def test_an_agent_that_is_not_root(site: Site) -> None:
    site.networks.mkdir(exist_ok=True)
    for path in (site.directory, site.networks, site.log):
        os.chown(path, 12345, 12345)
    caps = "+net_admin,+net_raw,+net_bind_service"
    prefix = ("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", "--inh-caps", f"-all,{caps}",
              "--ambient-caps", f"-all,{caps}", "--bounding-set", f"-all,{caps}", "--no-new-privs")  # fmt: skip
    driver = Driver(site, prefix=prefix)
    assert driver.serve([1], [(1, 1)]) == ["dhcp: + br1"]
    assert _uid(site.pid()) == 12345
    guest = site.guest(1)
    for family, name, address in ((4, "ip_address", "10.1.0.2"), (6, "ip6_address", "fd00:1::2")):
        answer = dhclient(guest, site.directory, family=family)
        assert answer is not None
        assert answer[name] == address
    assert driver.serve([1], [(2, 1)]) == ["dhcp: reload br1: 3 lines come, 3 go"]
    assert udhcpc(site.guest(2), site.directory)
    before = site.pids()
    driver.kill()
    successor = Driver(site, prefix=prefix)
    assert successor.serve([1], [(2, 1)]) == []
    assert site.pids() == before
    assert successor.serve([], []) == ["dhcp: - br1"]
    eventually(lambda: site.pids() == {})
    successor.kill()


# --- reloading with leases: Debian's dnsmasq 2.90 crashes when the hosts file sets tags


def test_reloads_with_leases_of_both_families(site: Site) -> None:
    site.describe(make_network(1), make_instance(1))
    guest = site.guest(1)
    for family in (4, 6):
        assert dhclient(guest, site.directory, family=family)
    before = site.pid()
    for number in range(2, 8):
        site.describe(make_network(1), *(make_instance(each) for each in range(1, number)))
    assert site.pid() == before
    assert site.leases() == {"10.1.0.2", "fd00:1::2"}


def test_from_slaac_to_dhcpv6_is_one_restart(site: Site) -> None:
    slaac = make_instance(1, vifs=(slaac_vif(1),))
    site.describe(make_network(1), slaac)
    site.describe(make_network(1), slaac, make_instance(2))
    assert site.counts == {"starts": 2, "stops": 1}
    found = solicit(site.guest(1))
    assert found is not None
    assert (found.managed, [each.autonomous for each in found.prefixes]) == (True, [False])


# --- numbers


@pytest.mark.parametrize("hosts", [200, 1000])
def test_how_long_a_reload_takes(site: Site, hosts: int) -> None:
    """Printed, not judged."""
    network = make_network(1, cidr="10.1.0.0/20")
    site.host.links.delete_address("br1", "10.1.0.1/24")
    site.host.links.add_address("br1", "10.1.0.1/20")
    many = [make_instance(number) for number in range(1, hosts + 1)]
    began = time.perf_counter()
    site.describe(network, *many)
    started = time.perf_counter()
    newcomer = make_instance(hosts + 1)
    said = len(site.said())
    plan = site.plan(network, *many, newcomer)
    planned = time.perf_counter()
    site.host.call(site.servers.apply, plan)
    applied = time.perf_counter()
    eventually(lambda: "read " in site.said()[said:] and "dhcp-hosts" in site.said()[said:])
    read = time.perf_counter()
    where = files(str(site.directory), "br1")
    print(
        f"\n{hosts} hosts: start {1000 * (started - began):.0f} ms,"
        f" compile and plan {1000 * (planned - started):.1f} ms, apply {1000 * (applied - planned):.1f} ms,"
        f" read by dnsmasq {1000 * (read - applied):.1f} ms later,"
        f" {os.stat(where.hosts).st_size} bytes"
    )
    assert udhcpc(site.guest(hosts + 1), site.directory)


# --- the files are deleted


def test_whoever_is_given_the_address_of_one_who_is_gone_though_all_files_were_deleted(site: Site) -> None:
    """dnsmasq goes on writing a lease file that nobody sees, and keeps the address for who had it."""
    site.describe(make_network(1), make_instance(1))
    assert udhcpc(site.guest(1), site.directory)
    shutil.rmtree(site.networks)
    heir = make_instance(2, vifs=(make_vif(2, fixed_ips=make_vif(1).fixed_ips),))
    site.describe(make_network(1), heir)
    answer = udhcpc(site.guest(2), site.directory)
    assert answer is not None
    assert answer["ip"] == "10.1.0.2"
    assert site.leases() == {"10.1.0.2"}
