"""A disk that is full or cannot be written: what cannot be kept is refused, and nothing changes."""

import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.model import document
from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_network, make_rule
from tests.functional.agent.cloud import CONFIG, Cloud
from tests.functional.agent.flows import talking
from tests.functional.agent.forkserver import ForkedAgent
from tests.functional.agent.kernel import eventually, kernel
from tests.functional.agent.meddling import DRIFT
from tests.functional.agent.nft import nft
from tests.functional.conftest import ON_ONE
from tests.lab import Lab, Namespace, needs, privileges

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "real_root")


class Disk(Cloud):
    """A host whose agent keeps its state on a small file system of its own."""

    def __init__(self, lab: Lab, directory: Path, backend: str) -> None:
        self.lab, self.host, self.backend = lab, lab.host(), backend
        self.agent = ForkedAgent(self.host, directory / "agent", {**CONFIG, "firewall": {"backend": backend}})
        lab.agents.append(self.agent)
        self.host.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(self.agent.state_path)])
        self.agent.start()

    def fill(self) -> None:
        """Leave no room."""
        path = self.agent.state_path / "ballast"
        self.host.run(["sh", "-c", f"dd if=/dev/zero of={path} bs=4k || :"], check=False)

    def empty(self) -> None:
        """Give the room back."""
        self.host.run(["rm", str(self.agent.state_path / "ballast")])

    def sql(self, statement: str) -> None:
        """Have the store be another while no agent is there."""
        program = f"import sqlite3; store = sqlite3.connect('state.db'); store.execute({statement!r}); store.commit()"
        self.host.run([sys.executable, "-c", program], cwd=self.agent.state_path)

    def lose_rules(self) -> None:
        """Somebody flushes them."""
        what = "the ruleset is flushed" if self.backend == "nftables" else "every table is emptied"
        DRIFT[self.backend][what](self.host)

    def forbid(self) -> None:
        """Have every write of the agent to a file fail, as on a file system that became read-only."""
        try:
            resource.prlimit(self.agent.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        except PermissionError:
            if not privileges.wanted():
                raise
            pytest.skip("the limits of another user's process are set with CAP_SYS_RESOURCE, which is not had here")

    def allow(self) -> None:
        """Let it write again."""
        resource.prlimit(self.agent.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def code(self, method: str, path: str, body: Any = None) -> int:
        """What a request is answered with; a refusal must name the file."""
        code, answer = self.agent.request(method, path, body)
        assert code != 503 or "state.db" in answer["error"]["message"]
        return code


@pytest.fixture
def disk(lab: Lab, tmp_path: Path, backend: str) -> Disk:
    return Disk(lab, tmp_path, backend)


BIG: Any = document(make_group(7, *(make_rule(n, remote_ip_prefix=f"10.{n >> 8}.{n & 255}.0/24") for n in range(2000))))
PATH = f"/v1/security-groups/{BIG['id']}"


@ON_ONE
def test_on_a_full_disk_what_has_no_room_is_refused_and_the_rest_goes_on(disk: Disk) -> None:
    disk.network(1)
    before = kernel(disk.host)
    disk.fill()
    assert disk.code("PUT", PATH, BIG) == 503
    assert disk.code("PUT", f"{PATH}?wait=false", BIG) == 503
    assert disk.code("PUT", "/v1/state", {"security_groups": [BIG]}) == 503
    assert disk.agent.get("security-groups") == []
    assert len(disk.agent.get("networks")) == 1
    assert kernel(disk.host) == before
    disk.empty()
    assert disk.code("PUT", PATH, BIG) == 201


def test_what_cannot_be_written_is_refused_and_nothing_changes(disk: Disk) -> None:
    disk.network(1)
    disk.put(make_group(1, make_rule(1)))
    disk.instance(1, (1,))
    before, state = kernel(disk.host), disk.agent.state()
    disk.forbid()
    for method, path, body in (
        ("PUT", PATH, BIG),
        ("PUT", f"{PATH}?wait=false", BIG),
        ("PUT", f"/v1/instances/{make_instance(2).id}", document(make_instance(2, (1,)))),
        ("PUT", "/v1/state", {}),
        ("DELETE", f"/v1/instances/{make_instance(1).id}", None),
    ):
        assert disk.code(method, path, body) == 503
    assert disk.agent.state() == state
    assert kernel(disk.host) == before
    assert disk.agent.request("GET", "/livez")[0] == 200
    disk.allow()
    assert disk.code("PUT", PATH, BIG) == 201
    disk.delete(make_instance(1))


def test_what_was_acknowledged_before_is_there_after_a_crash_on_a_full_disk(disk: Disk) -> None:
    disk.network(1)
    disk.instance(1)
    disk.fill()
    assert disk.code("PUT", PATH, BIG) == 503
    disk.agent.kill9()
    disk.empty()
    disk.agent.start()
    assert [len(disk.agent.get(kind)) for kind in ("networks", "instances", "security-groups")] == [1, 1, 0]


@ON_ONE
def test_a_link_that_comes_while_nothing_can_be_noted_is_joined_later(disk: Disk) -> None:
    """And the agent lives on meanwhile."""
    disk.network(1)
    disk.put(make_instance(1))
    disk.forbid()
    disk.guest(1)
    assert disk.agent.request("GET", "/livez")[0] == 200
    eventually(lambda: "state.db" in disk.agent.request("GET", "/v1/status")[1]["failure"], 3)
    assert disk.host.links.all()["tap1"]["master"] is None
    disk.allow()
    eventually(lambda: disk.host.links.all()["tap1"]["master"] == "br1", 5)
    eventually(lambda: disk.agent.request("GET", "/v1/status")[1]["failure"] == "", 3)


def test_rules_are_repaired_while_nothing_can_be_noted(disk: Disk) -> None:
    disk.put(make_network(1))
    before = kernel(disk.host)
    disk.forbid()
    DRIFT[disk.backend]["a verdict is turned"](disk.host)
    assert disk.agent.resync()["repaired"]
    assert kernel(disk.host) == before


def rules(host: Namespace) -> list[Any]:
    """What judges IP, of whichever packet filter."""
    found = kernel(host)
    of_ip = {name: text for name, text in found["nf_tables"].items() if not name.startswith("table bridge ")}
    return [found["IPv4"], found["IPv6"], found["sets"], of_ip]


@pytest.mark.parametrize("comes", [False, True], ids=["", "a link comes meanwhile"])
def test_a_start_on_a_full_disk_enforces_what_is_stored(disk: Disk, comes: bool) -> None:
    """Somebody flushed the rules while no agent was there; a link that comes cannot be noted, nor joined."""
    disk.network(1)
    disk.put(make_group(1, make_rule(1)))
    disk.instance(1, (1,))
    disk.put(make_instance(2))
    before = rules(disk.host)
    disk.agent.kill9()
    disk.lose_rules()
    if comes:
        disk.guest(2)
    disk.fill()
    disk.agent.start(ready=not comes)
    eventually(lambda: rules(disk.host) == before, 2)
    assert disk.host.links.all().get("tap2", {"master": None})["master"] is None
    disk.empty()
    disk.agent.wait_ready()
    if comes:
        eventually(lambda: disk.host.links.all()["tap2"]["master"] == "br1", 5)
    eventually(lambda: disk.agent.request("GET", "/v1/status")[1]["failure"] == "", 5)
    assert disk.agent.resync()["repaired"] == []


@ON_ONE
def test_a_start_on_a_full_disk_after_a_reboot(disk: Disk) -> None:
    """Nothing of what is there is known to be ours: it cannot be noted, and the rules do not wait for that."""
    disk.network(1)
    disk.put(make_group(1, make_rule(1)))
    disk.instance(1, (1,))
    disk.agent.stop()
    disk.sql("UPDATE boot SET id = 'another'")
    before = rules(disk.host)
    disk.lose_rules()
    disk.fill()
    disk.agent.start(ready=False)
    eventually(lambda: rules(disk.host) == before, 5)
    disk.empty()
    disk.agent.wait_ready()
    assert disk.agent.resync()["repaired"] == []


@ON_ONE
def test_a_start_on_a_full_disk_after_a_clean_stop(disk: Disk) -> None:
    """No file of the store is there but the store."""
    disk.network(1)
    disk.put(make_group(1, make_rule(1)))
    disk.instance(1, (1,))
    disk.agent.stop()
    before = rules(disk.host)
    disk.lose_rules()
    disk.fill()
    disk.agent.start()
    assert rules(disk.host) == before
    assert disk.code("PUT", PATH, BIG) == 503
    disk.empty()
    assert disk.code("PUT", PATH, BIG) == 201
    assert "taken away" not in disk.agent.log
    disk.agent.restart()
    assert len(disk.agent.get("security-groups")) == 2


@needs("nftables", "program:nft")
def test_what_came_in_before_a_start_on_a_full_disk_is_cut_when_there_is_room(disk: Disk) -> None:
    """An address is wanted no more: it is taken away, and cannot be struck from the notes."""
    disk.network(1)
    disk.put(make_group(1, make_rule(1, protocol="tcp", port_range_min=81, port_range_max=81)))
    guest = disk.instance(1, (1,))
    disk.put(make_floating_ip(1, 1))
    disk.agent.kill9()
    disk.agent.configure({"firewall": {"backend": disk.backend}})
    disk.lose_rules()
    # Somebody's rule has connections tracked meanwhile.
    nft(disk.host, "add table inet operators", "add chain inet operators c", "add rule inet operators c ct state new")
    with talking(disk.outside, guest, 80) as stray:
        disk.fill()
        disk.agent.start(ready=False)
        eventually(lambda: "next attempt" in disk.agent.log, 5)
        disk.empty()
        disk.agent.wait_ready()
        assert stray.is_dead()


@ON_ONE
@pytest.mark.parametrize("seen_by", ["a change", "a resync"])
def test_all_is_there_after_a_crash_though_somebody_had_deleted_every_file(disk: Disk, seen_by: str) -> None:
    """Else the next start would find an empty store, and take every rule away."""
    disk.network(1)
    disk.put(make_group(1, make_rule(1)))
    disk.instance(1, (1,))
    disk.host.run(["sh", "-c", f"rm -r {disk.agent.state_path}/*"])
    if seen_by == "a change":
        disk.put(make_floating_ip(1, 1))
    else:
        disk.agent.resync()
    assert "state.db had been taken away, and is there again" in disk.agent.log
    before = kernel(disk.host)
    disk.agent.kill9()
    disk.agent.start()
    assert kernel(disk.host) == before
    assert len(disk.agent.get("instances")) == 1
