"""The lock of iptables, kept both ways, and tables that others change without it: nf_tables has none and needs none."""

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nova_netagent.model import document
from nova_netagent.testing import make_network, make_provider_rule
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import eventually, kernel, lock_held, metric
from tests.functional.agent.test_foreign_rules import order_in
from tests.functional.conftest import ON_IPTABLES
from tests.lab import Lab, needs

pytestmark = [needs("iptables", "ip6tables", "ipset", "br_netfilter"), ON_IPTABLES]

IMPATIENT = {"firewall": {"lock_timeout": 0.3}}
PATIENT = {"firewall": {"lock_timeout": 60}}
FOREIGN = 60
CHANGES = 20
WITHOUT_LOCK: dict[str, Any] = {
    "env": {"XTABLES_LOCKFILE": "/run/another.lock", "PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
}
"""Has iptables take a lock that nobody else knows."""
SOON = 2.0


class Changes:
    """Another thread that changes the filter table on and on, and counts what was asked for."""

    def __init__(self, cloud: Cloud, codes: set[int]) -> None:
        self.made = 0
        self.done = threading.Event()
        self._cloud = cloud
        self._codes = codes

    def make(self) -> None:
        rules = [make_provider_rule(number) for number in range(1, 51)]
        while not self.done.is_set():
            for rule in rules:
                assert put(self._cloud, rule)[0] in self._codes
                self.made += 1
                if self.done.is_set():
                    return
            for rule in rules:
                self._cloud.agent.request("DELETE", f"/v1/provider-rules/{rule.id}")


def appended(cloud: Cloud, number: int, **options: Any) -> int:
    """Let another program append a rule; how often it had to try again."""
    command = ["iptables-legacy", "-w", "-A", "INPUT", "-s", f"198.18.{number >> 8}.{number & 255}", "-j", "ACCEPT"]
    failed = 0
    while cloud.host.run(command, check=False, **options).returncode:
        failed += 1
    return failed


def nothing_is_lost(cloud: Cloud, codes: set[int], **options: Any) -> int:
    """Two programs at work on one table until both did their share; how often the other had to try again."""
    changes, failed, number = Changes(cloud, codes), 0, 0
    with ThreadPoolExecutor() as pool:
        changing = pool.submit(changes.make)
        try:
            while not changing.done() and (number < FOREIGN or changes.made < CHANGES):
                number += 1
                failed += appended(cloud, number, **options)
        finally:
            changes.done.set()
        changing.result()
    others = [rule for rule in order_in(cloud.host, "filter", "INPUT") if "198.18." in rule]
    if options:  # without the lock iptables may fail when its rule is in, at its counters, and append it again
        others = list(dict.fromkeys(others))
    assert others == [f"-s 198.18.{n >> 8}.{n & 255}/32 -j ACCEPT" for n in range(1, number + 1)]
    eventually(lambda: cloud.agent.request("GET", "/v1/status")[1]["enforcing"], SOON)
    assert cloud.agent.resync()["repaired"] == []
    dropped = [rule for rule in order_in(cloud.host, "filter", "nova-netagent-provider") if "203.0.113" in rule]
    assert len(dropped) == len(cloud.agent.get("provider-rules"))
    return failed


def test_beside_iptables_that_takes_the_lock_nothing_is_lost(lab: Lab) -> None:
    cloud = Cloud(lab, PATIENT)
    assert nothing_is_lost(cloud, {200, 201}) == 0
    assert metric(cloud.agent, "apply_errors_total") == 0


def test_beside_a_program_that_takes_no_lock_nothing_is_lost(cloud: Cloud) -> None:
    """Whose table has changed meanwhile reads it again; the other program has to as well.

    Who finds it changed at every attempt says 503, and has another try a moment later.
    """
    nothing_is_lost(cloud, {200, 201, 503}, **WITHOUT_LOCK)


# --- held by another


def put(cloud: Cloud, each: Any) -> tuple[int, Any]:
    body: Any = document(each)
    return cloud.agent.request("PUT", f"/v1/{each.KIND.replace('_', '-')}/{each.id}", body)


def test_held_for_a_moment_it_is_waited_for(lab: Lab) -> None:
    cloud = Cloud(lab, PATIENT)
    with lock_held() as release, ThreadPoolExecutor() as pool:
        putting = pool.submit(put, cloud, make_provider_rule(1))
        eventually(lambda: cloud.agent.get("provider-rules"), SOON)
        assert not putting.done()
        release()
        assert putting.result()[0] == 201
    assert metric(cloud.agent, "apply_errors_total") == 0
    assert metric(cloud.agent, "lock_wait_seconds_sum") > 0


def test_reads_are_answered_meanwhile(lab: Lab) -> None:
    cloud = Cloud(lab, PATIENT)
    with lock_held() as release, ThreadPoolExecutor() as pool:
        putting = pool.submit(put, cloud, make_provider_rule(1))
        eventually(lambda: cloud.agent.get("provider-rules"), SOON)
        for path in ("/v1/status", "/livez", "/metrics", "/v1/state", "/v1/provider-rules"):
            assert cloud.agent.request("GET", path)[0] == 200
        assert not putting.done()
        release()
        assert putting.result()[0] == 201


def test_drift_that_waited_for_the_lock_is_repaired(lab: Lab) -> None:
    cloud = Cloud(lab, IMPATIENT)
    cloud.put(make_network(1))
    before = kernel(cloud.host)
    with lock_held():
        cloud.host.run(["iptables-legacy", "-F", "nova-netagent-INPUT"], **WITHOUT_LOCK)
        assert cloud.agent.request("POST", "/v1/resync")[0] == 503
        assert kernel(cloud.host) != before
    eventually(lambda: kernel(cloud.host) == before, SOON)


def test_a_commit_that_collides_is_done_anew(cloud: Cloud) -> None:
    """Somebody without the lock comes between, again and again, and neither undoes the other."""
    loop = "while :; do iptables-legacy -A OUTPUT -d 203.0.113.5; iptables-legacy -D OUTPUT -d 203.0.113.5; done"
    silent = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    program = cloud.host.popen(["sh", "-c", loop], **silent, **WITHOUT_LOCK)
    cloud.network(1)
    changes = Changes(cloud, {200, 201, 503})
    with ThreadPoolExecutor() as pool:
        changing = pool.submit(changes.make)
        try:
            eventually(lambda: changing.done() or metric(cloud.agent, "apply_retries_total") > 3, SOON)
        finally:
            changes.done.set()
        changing.result()
    program.kill()
    program.wait()
    eventually(lambda: cloud.agent.request("GET", "/v1/status")[1]["enforcing"], SOON)
    dropped = [rule for rule in order_in(cloud.host, "filter", "nova-netagent-provider") if "203.0.113" in rule]
    assert len(dropped) == len(cloud.agent.get("provider-rules"))
    assert cloud.agent.resync()["repaired"] == []
