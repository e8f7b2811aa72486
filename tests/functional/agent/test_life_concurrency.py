"""Many requests at once, large states, and nothing that grows."""

import json
import os
import sqlite3
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path
from typing import Any

from nova_netagent.model import Object, document
from nova_netagent.testing import (
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
)
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import chains, eventually, hindered, kernel, metric
from tests.functional.conftest import ON_BOTH, ON_ONE
from tests.lab import Lab, needs, privileges
from tests.lab.unix_http import UnixConnection

pytestmark = [needs("iptables", "ip6tables", "ipset", "br_netfilter"), ON_BOTH]

SELF = make_group(1, make_rule(1, remote_group_id=make_group(1).id), make_rule(2, protocol="tcp"))
CLIENTS = 8
TABLES = 8
"""Four of each family."""


def path_of(each: Object) -> str:
    return f"/v1/{each.KIND.replace('_', '-')}/{each.id}"


def put(cloud: Cloud, each: Object, query: str = "", **fields: Any) -> int:
    body: Any = document(each)
    return cloud.agent.request("PUT", path_of(each) + query, {**body, **fields})[0]


def commits(cloud: Cloud) -> float:
    return metric(cloud.agent, "applies_total")


def test_fifty_at_once_are_all_answered_and_share_commits(cloud: Cloud) -> None:
    cloud.network(1)
    cloud.put(SELF)
    for number in range(1, 51):
        cloud.guest(number)
    before = commits(cloud)
    with ThreadPoolExecutor(50) as pool:
        codes = list(pool.map(lambda number: put(cloud, make_instance(number, (1,))), range(1, 51)))
    assert codes == [201] * 50
    assert commits(cloud) - before < 50 * TABLES / 4
    there_are = chains(cloud.host)
    assert all(f"nova-netagent-inst-{make_instance(n).id[:8]}" in there_are for n in range(1, 51))
    assert all(link["master"] == "br1" for name, link in cloud.host.links.all().items() if name.startswith("tap"))
    with ThreadPoolExecutor(50) as pool:
        codes = [
            code
            for code, _ in pool.map(
                lambda n: cloud.agent.request("DELETE", path_of(make_instance(n))), [*range(1, 51), *range(1, 51)]
            )
        ]
    assert sorted(codes) == [204] * 50 + [404] * 50


def test_a_thousand_objects_at_once_are_one_commit_a_table(cloud: Cloud) -> None:
    state = {
        "networks": [document(make_network(1, cidr="10.1.0.0/16", cidr_v6="fd00:1::/64"))],
        "security_groups": [document(make_group(n, make_rule(n, protocol="udp"))) for n in range(1, 101)],
        "instances": [document(make_instance(n, (n % 100 + 1,))) for n in range(1, 901)],
    }
    before = commits(cloud)
    began = time.monotonic()
    answer = cloud.agent.state(state)
    print(f"1,001 objects took {time.monotonic() - began:.2f} s")
    assert answer["counts"] == {"done": 1001, "pending": 0, "error": 0}
    assert commits(cloud) - before <= TABLES
    assert cloud.agent.state(state)["change"] == "unchanged"
    assert commits(cloud) - before <= TABLES
    began = time.monotonic()
    cloud.put(make_instance(7, (1, 2)))
    print(f"one more change took {(time.monotonic() - began) * 1000:.0f} ms")
    cloud.agent.state({})
    assert commits(cloud) - before <= 3 * TABLES


def test_without_waiting_the_answer_comes_from_the_disk(lab: Lab, backend: str) -> None:
    cloud = Cloud(lab, {"firewall": {"lock_timeout": 60}}, backend=backend)
    with hindered(cloud.host, backend) as release:  # 201 needs the rules
        assert [put(cloud, make_provider_rule(1), "?wait=false")] == [202]
        assert cloud.status(make_provider_rule(1))["state"] == "pending"
        cloud.agent.kill9()
        release()
    cloud.agent.start()
    assert cloud.status(make_provider_rule(1))["state"] == "done"


def test_a_dry_run_tells_what_would_be_done_and_does_nothing(cloud: Cloud) -> None:
    cloud.network(1)
    cloud.put(SELF)
    cloud.instance(1, (1,))
    before, state = kernel(cloud.host), cloud.agent.state()
    written = commits(cloud)
    wanted = {**state, "instances": [], "provider_rules": [document(make_provider_rule(1))]}
    plan = cloud.agent.state(wanted, dry_run=True)["plan"]
    assert any("203.0.113.0/24" in line for line in plan)
    assert "link: - port tap1" in plan
    assert (kernel(cloud.host), cloud.agent.state(), commits(cloud)) == (before, state, written)
    cloud.agent.restart()
    assert kernel(cloud.host) == before
    assert cloud.agent.state(state, dry_run=True)["plan"] == []


def test_the_order_of_arrival_does_not_matter(cloud: Cloud) -> None:
    """Law 3 on the kernel: every order of four objects that need each other."""
    cloud.guest(1)
    objects: list[Object] = [make_network(1), SELF, make_instance(1, (1,)), make_floating_ip(1)]
    found = []
    for order in permutations(objects):
        cloud.put(*order)
        found.append(kernel(cloud.host))
        assert all(cloud.status(each)["state"] == "done" for each in objects)
        cloud.agent.state({})
    assert all(each == found[0] for each in found)


@ON_ONE
def test_of_many_updates_of_one_object_the_highest_revision_stays(cloud: Cloud) -> None:
    revisions = [n * 7 % 40 + 1 for n in range(40)]
    with ThreadPoolExecutor(20) as pool:
        codes = list(
            pool.map(lambda n: put(cloud, make_group(1), revision=n, name=f"revision {n}"), [*revisions, *revisions])
        )
    assert set(codes) <= {200, 201, 409}
    assert codes.count(201) == 1
    stored = cloud.agent.get("security-groups", make_group(1).id)
    assert (stored["revision"], stored["name"], stored["status"]["revision"]) == (40, "revision 40", 40)


def test_late_and_contradicting_revisions_are_refused_and_change_nothing(cloud: Cloud) -> None:
    cloud.network(1)
    group = make_group(1, make_rule(1))
    assert put(cloud, group, revision=5) == 201
    cloud.put(make_instance(1, (1,)))
    before, written = kernel(cloud.host), commits(cloud)
    assert put(cloud, group, revision=4) == 409
    assert put(cloud, make_group(1), revision=5) == 409
    assert put(cloud, group, revision=5) == 200
    assert (kernel(cloud.host), commits(cloud)) == (before, written)
    cloud.agent.delete("security-groups", group.id, revision=6)
    assert put(cloud, group, revision=6) == 409
    cloud.agent.restart()
    assert put(cloud, group, revision=6) == 409, "the tombstone is on disk"
    assert put(cloud, group, revision=7) == 201


# --- nothing grows


def resident(cloud: Cloud) -> int:
    """The memory of the agent in kilobytes."""
    (line,) = [x for x in Path(f"/proc/{cloud.agent.pid}/status").read_text().splitlines() if x.startswith("VmRSS")]
    return int(line.split()[1])


def descriptors(cloud: Cloud) -> int:
    return len(os.listdir(f"/proc/{cloud.agent.pid}/fd"))


def test_memory_and_descriptors_stay_as_they_are(lab: Lab, backend: str) -> None:
    """Over 1,700 requests, after as many to warm up: garbage is collected rarely."""
    with tempfile.TemporaryDirectory(dir="/run") as memory:  # its file system is in memory, and no disk is waited for
        if privileges.wanted():
            privileges.give(Path(memory))
        cloud = Cloud(lab, {"DEFAULT": {"state_path": memory}}, backend=backend)
        cloud.network(1)
        cloud.put(SELF)

        def work(client: int) -> None:
            for _ in range(12):
                for each in (make_provider_rule(client), make_instance(client, (1,)), make_group(client + 10)):
                    cloud.put(each)
                    cloud.delete(each)

        found = []
        with ThreadPoolExecutor(CLIENTS) as pool:
            for _ in range(6):
                list(pool.map(work, range(1, CLIENTS + 1)))
                found.append((resident(cloud), descriptors(cloud)))
        print(f"after each {CLIENTS * 72} requests (kB, descriptors): {found}")
        assert found[-1][0] - found[2][0] < 4000
        eventually(lambda: descriptors(cloud) - found[0][1] <= 2, 5)  # a client's goes when the agent has seen it
        cloud.agent.stop()


def test_what_we_noted_goes_with_what_we_made(cloud: Cloud) -> None:
    def notes() -> list[tuple[str, str]]:
        with sqlite3.connect(cloud.agent.state_path / "state.db") as db:
            return db.execute("SELECT kind, name FROM made ORDER BY 1, 2").fetchall()

    cloud.network(1)
    before = notes()
    for number in range(1, 4):
        objects = (make_network(2), make_instance(number), make_floating_ip(number, number))
        cloud.guest(number)
        cloud.put(*objects)
        assert len(notes()) > len(before)
        cloud.delete(*objects)
        cloud.host.links.delete(f"tap{number}")
    assert notes() == before


def test_at_rest_it_takes_next_to_no_processor_time(cloud: Cloud) -> None:
    cloud.network(1)
    cloud.put(SELF)
    cloud.instance(1, (1,))
    cloud.put(make_floating_ip(1))
    eventually(lambda: used(cloud, 0.3) <= 2, 5)
    assert used(cloud, 1.0) <= 3


def used(cloud: Cloud, seconds: float) -> int:
    """The processor time in hundredths of a second that the agent takes over some seconds."""

    def ticks() -> int:
        words = Path(f"/proc/{cloud.agent.pid}/stat").read_text().rpartition(")")[2].split()
        return int(words[11]) + int(words[12])

    before = ticks()
    time.sleep(seconds)
    return ticks() - before


@ON_ONE
def test_clients_that_go_away_without_their_answer_leave_nothing(cloud: Cloud) -> None:
    before = descriptors(cloud)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda number: _vanish(cloud, number), range(1, 101)))
    eventually(lambda: len(cloud.agent.get("provider-rules")) == 100, 5)
    eventually(lambda: descriptors(cloud) <= before + 1, 5)
    eventually(lambda: cloud.agent.request("GET", "/v1/status")[1]["counts"]["done"] == 100, 5)


def _vanish(cloud: Cloud, number: int) -> None:
    connection = UnixConnection(cloud.agent.socket, 5)
    body: Any = document(make_provider_rule(number))
    headers = {"Content-Type": "application/json"}
    connection.request("PUT", path_of(make_provider_rule(number)), json.dumps(body), headers)
    connection.close()
