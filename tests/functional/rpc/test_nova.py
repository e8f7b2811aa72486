"""nova 18.3.0's own client against the agent, unchanged; what goes over the wire stands in test_nova_wire.py."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.testing import (
    instance_id,
    make_group,
    make_instance,
    make_network,
    make_rule,
    network_id,
)
from tests.functional.agent.kernel import eventually, ip_rules
from tests.functional.rpc.broker import PORT, URL
from tests.functional.rpc.conftest import Node, NodeMaker
from tests.lab import Tcp, arrives, refused
from tests.lab.agent import REPOSITORY

PYTHON = REPOSITORY / ".venv-nova/bin/python"
FLOATING = "198.51.100.1"
UNKNOWN = instance_id(99)


class NovaClient:
    """nova.network.rpcapi.NetworkAPI, in a process with nova's own environment."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("nova_client.py")
        self._process = subprocess.Popen(
            [PYTHON, script, URL.format(PORT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        assert self._read() == {"ready": True}

    def __call__(self, method: str, **arguments: Any) -> Any:
        """Call a method of nova's; what it raised, if it did, and otherwise what it answered."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"method": method, "arguments": arguments}) + "\n")
        found = self._read()
        if "raised" in found:
            raise NovaRaised(found["raised"], found["text"])
        return found["answer"]

    def _read(self) -> Any:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class NovaRaised(Exception):
    """nova's client raised; ``classes`` are those of its exception, the nearest first."""

    def __init__(self, classes: list[str], text: str) -> None:
        super().__init__(f"{classes[0]}: {text}")
        self.classes = classes


@pytest.fixture(scope="module")
def nova(rabbit: object) -> Iterator[NovaClient]:
    if not PYTHON.exists():
        pytest.skip("tools/setup test builds nova's environment in .venv-nova; it is not there")
    client = NovaClient()
    yield client
    client.close()


@pytest.fixture(scope="module")
def node(make_node: NodeMaker, backend: str) -> Iterator[Node]:
    """A host of each packet filter, one after the other, as what is for any of them is taken by any."""
    made = make_node({"firewall": {"backend": backend}})
    yield made
    made.agent.stop()


@pytest.fixture(autouse=True)
def described(node: Node) -> None:
    """Network 1, with instance 1 that lets TCP in."""
    node.agent.state({})
    node.put(
        make_network(1, nova_id=7),
        make_group(1, make_rule(1, protocol="tcp")),
        make_instance(1, (1,)),
    )


@pytest.fixture(scope="module")
def machine(node: Node) -> Any:
    return node.guest(1)


def test_a_floating_ip_is_associated_and_disassociated(node: Node, nova: NovaClient, machine: Any) -> None:
    floating = {"floating_address": FLOATING, "fixed_address": "10.1.0.2"}
    who = {"interface": "eth0", "host": node.name, "instance_uuid": instance_id(1)}
    node.outside.links.add_route("198.51.100.0/24", device="eth0")
    assert nova("_associate_floating_ip", **floating, **who) is None
    assert node.agent.get("floating-ips", FLOATING)["instance_id"] == instance_id(1)
    assert arrives(node.outside, machine, Tcp(80, to=FLOATING))
    saved = ip_rules(node.host)
    assert nova("_associate_floating_ip", **floating, **who) is None, "repeated"
    assert ip_rules(node.host) == saved

    assert nova("_disassociate_floating_ip", address=FLOATING, **who) is None
    assert refused(node.outside, machine, Tcp(80, to=FLOATING))
    assert FLOATING not in ip_rules(node.host)


def test_what_is_not_here_is_novas_own_not_found(node: Node, nova: NovaClient) -> None:
    who = {"interface": "eth0", "host": node.name, "instance_uuid": instance_id(1)}
    for method, arguments in (
        ("_associate_floating_ip", {"floating_address": FLOATING, "fixed_address": "10.9.0.2", **who}),
        ("_associate_floating_ip", {"floating_address": FLOATING, "fixed_address": "10.1.0.9", **who}),
        ("_disassociate_floating_ip", {"address": FLOATING, **who}),
        ("rpc_setup_network_on_host", {"network_id": 8, "teardown": False, "host": node.name}),
        ("release_dhcp", {"host": node.name, "dev": "br9", "address": "10.1.0.2", "vif_address": "fa:16:3e:00:00:01"}),
    ):
        with pytest.raises(NovaRaised) as raised:
            nova(method, **arguments)
        assert "nova.exception.NotFound" in raised.value.classes, raised.value


def test_a_bad_argument_is_novas_own_invalid(node: Node, nova: NovaClient) -> None:
    with pytest.raises(NovaRaised, match="address: ") as raised:
        nova("_disassociate_floating_ip", address="nowhere", interface="eth0", host=node.name)
    assert "nova.exception.Invalid" in raised.value.classes


def test_networks_are_set_up_and_torn_down(node: Node, nova: NovaClient) -> None:
    for key in (7, network_id(1)):
        assert nova("rpc_setup_network_on_host", network_id=key, teardown=False, host=node.name) is None
    said = nova("rpc_setup_network_on_host", network_id=7, teardown=True, host=node.name)
    assert said == f"network {network_id(1)} stays: instance {instance_id(1)} is on it"

    arguments = {"instance_id": 5, "instance": {"uuid": instance_id(1), "id": 5}}
    said = nova("setup_networks_on_host", **arguments, host="elsewhere", teardown=True)
    assert said == f"this is {node.name}, not elsewhere: nothing was done"
    assert nova("setup_networks_on_host", **arguments, host=node.name, teardown=False) is None
    assert nova("setup_networks_on_host", **arguments, host=node.name, teardown=True) is None
    assert node.agent.get("instances") == []
    assert nova("rpc_setup_network_on_host", network_id=7, teardown=True, host=node.name) is None
    assert node.agent.get("networks") == []


def test_floating_ips_leave_with_their_instance_and_are_seen_to_where_it_comes(node: Node, nova: NovaClient) -> None:
    node.agent.put("floating-ips", {"id": FLOATING, "fixed_ip_address": "10.1.0.2", "instance_id": instance_id(1)})
    moving: dict[str, Any] = {
        "instance_uuid": instance_id(1),
        "rxtx_factor": 1.0,
        "project_id": "project",
        "floating_addresses": [FLOATING],
        "host": node.name,
    }
    assert nova("migrate_instance_finish", **moving, source_compute="elsewhere", dest_compute=node.name) is None
    said = nova("migrate_instance_start", **moving, source_compute="elsewhere", dest_compute=node.name)
    assert said == f"this is {node.name}, not elsewhere: nothing was done"
    assert nova("migrate_instance_start", **moving, source_compute=node.name, dest_compute="elsewhere") is None
    assert node.agent.get("floating-ips") == []
    with pytest.raises(NovaRaised, match=FLOATING):
        nova("migrate_instance_finish", **moving, source_compute="elsewhere", dest_compute=node.name)


def test_names_are_updated_by_a_fanout(node: Node, nova: NovaClient) -> None:
    line = 'netagent_rpc_messages_total{method="update_dns",result="%s"}'
    ok = node.metric(line % "ok")
    nova("update_dns", network_ids=[7, network_id(1)])
    eventually(lambda: node.metric(line % "ok") == ok + 1, within=10)


def test_what_pinned_clients_of_old_send_is_taken(node: Node, caller: Any) -> None:
    """Versions 1.0 to 1.17; a number of nova's database alone tells nothing here."""
    for version in ("1.0", "1.9", "1.17"):
        assert caller.nova(node.name, "rpc_setup_network_on_host", version, network_id=7, teardown=False) is None
    assert caller.nova(None, "setup_networks_on_host", "1.0", instance_id=instance_id(1), host=node.name) is None
