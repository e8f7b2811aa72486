"""examples/controller.py drives three agents by RabbitMQ: groups across hosts, a migration with a floating IP."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.model import Object, document
from nova_netagent.testing import (
    group_id,
    instance_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_rule,
    make_vif,
)
from tests.functional.agent.kernel import eventually
from tests.functional.rpc.broker import PORT, URL, Broker
from tests.functional.rpc.conftest import Node
from tests.lab import Lab, Namespace, Tcp, arrives, connect, refused
from tests.lab.agent import REPOSITORY
from tests.lab.namespace import veth

FLOATING = "198.51.100.1"
WEB, DATABASE = 1, 2


def described(item: Object, **fields: Any) -> dict[str, Any]:
    body: Any = document(item)
    return {**body, **fields}


def cloud() -> dict[str, Any]:
    """A flat network over three hosts; vm1 and vm2 are web servers, vm3 is their database."""
    hosts = ["host1", "host2", "host3"]
    groups = {1: WEB, 2: WEB, 3: DATABASE}
    web = make_group(WEB, make_rule(1, protocol="tcp", port_range_min=80, port_range_max=80))
    asks = make_rule(2, protocol="tcp", port_range_min=5432, port_range_max=5432, remote_group_id=group_id(WEB))
    return {
        "hosts": hosts,
        "networks": [described(make_network(1, bridge_interface="eth1", share_address=True))],
        "security_groups": [described(web), described(make_group(DATABASE, asks))],
        "instances": [
            described(make_instance(number, (group,)), host=hosts[number - 1]) for number, group in groups.items()
        ],
        "floating_ips": [described(make_floating_ip(1, instance_id=instance_id(1)))],
    }


class Site:
    """Three hosts on a segment of their own beside the public one, and the controller's file."""

    def __init__(self, lab: Lab, path: Path) -> None:
        self.lab = lab
        self.path = path
        self.nodes = [Node(lab, uplinks={"eth1": "flat"}) for _ in range(3)]
        for each in self.nodes:
            each.wait_connected()
        lab.outside.links.add_route("198.51.100.0/24", device="eth0")
        self.guests = [node.guest(number) for number, node in enumerate(self.nodes, 1)]
        path.write_text(json.dumps(cloud()))

    def control(self, *arguments: str) -> str:
        """Run the controller."""
        command = [sys.executable, str(REPOSITORY / "examples/controller.py"), "--transport-url", URL.format(PORT)]
        done = subprocess.run(
            [*command, "--cloud", str(self.path), "--durable-queues", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def move(self, guest: Namespace, number: int, source: Node, dest: Node) -> None:
        """What the hypervisors do: the same machine, its memory and its sockets, behind a tap of another host."""
        vif = make_vif(number)
        guest.links.delete("eth0")
        eventually(lambda: not source.host.links.exists(vif.device), within=5)
        veth(guest, "eth0", dest.host, vif.device, mac=vif.address)
        for address in vif.fixed_ips:
            guest.links.add_address("eth0", f"{address}/{64 if ':' in address else 24}")
        guest.links.wait_running("eth0")
        guest.links.add_route("default", via="10.1.0.1", device="eth0")
        dest.host.links.wait_running(vif.device)
        eventually(lambda: dest.host.links.all()[vif.device]["master"] == "br1", within=5)


@pytest.fixture
def site(lab: Lab, rabbit: Broker, tmp_path: Path) -> Iterator[Site]:
    made = Site(lab, tmp_path / "cloud.json")
    yield made
    for each in made.nodes:
        each.gate.close()


def test_three_hosts_one_controller_and_a_migration(site: Site) -> None:
    outside, (vm1, vm2, vm3) = site.lab.outside, site.guests
    source, dest, _ = site.nodes
    told = site.control("apply")
    assert [line.partition(":")[0] for line in told.splitlines()] == ["host1", "host2", "host3"]
    for node in site.nodes:
        node.host.links.set("eth1", master="br1")
        node.host.links.wait_running("br1")
    assert arrives(outside, vm1, Tcp(80, to=FLOATING))
    for web in (vm1, vm2):
        assert arrives(web, vm3, Tcp(5432))
    assert refused(outside, vm1, Tcp(5432, to=FLOATING))

    with connect(outside, FLOATING, 80, server=vm1) as connection:
        assert connection.alive()
        site.control("migrate-start", instance_id(1), "host2")
        assert not source.host.links.has_address("eth0", f"{FLOATING}/32")
        site.move(vm1, 1, source, dest)
        site.control("migrate-finish", instance_id(1), "host2")
        assert dest.host.links.has_address("eth0", f"{FLOATING}/32")
        assert connection.alive(within=5), "what was open lives on"

    assert arrives(outside, vm1, Tcp(80, to=FLOATING))
    assert source.agent.get("instances") == []
    assert source.agent.get("floating-ips") == []
    assert arrives(vm1, vm3, Tcp(5432)), "still a member, wherever it is"
    assert all(each.agent.request("GET", "/v1/status")[1]["counts"]["pending"] == 0 for each in site.nodes)
    assert "unchanged" in site.control("apply")
