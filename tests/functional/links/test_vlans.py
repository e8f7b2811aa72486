"""A network on a VLAN, on a kernel that has 802.1Q: this one, or one that is started for it."""

import sys
from pathlib import Path

import pytest

from nova_netagent.testing import make_network
from tests.functional.agent.kernel import eventually
from tests.functional.links.test_contract import Inside
from tests.lab import Namespace, features, machine, needs, ping, veth
from tests.properties.host import Host


@needs("vlan", "bridge", "program:ip")
def test_the_host_is_reached_by_the_networks_vlan_and_by_no_other(tmp_path: Path) -> None:
    with Namespace("host") as namespace, Namespace("behind") as behind:
        veth(namespace, "eth1", behind, "eth1")
        behind.links.add_vlan("tagged", "eth1", 7)
        behind.links.set("tagged", up=True)
        behind.links.add_address("tagged", "10.1.0.9/24")
        host = Host(tmp_path, open_links=lambda: Inside(namespace))
        host.put(make_network(1, bridge_interface="eth1", vlan=8))
        assert not ping(behind, "10.1.0.1", timeout=1)
        host.put(make_network(1, bridge_interface="eth1", vlan=7))
        eventually(lambda: ping(behind, "10.1.0.1"), 5)
        assert not namespace.links.exists("vlan8")
        host.engine.close()


@pytest.mark.skipif(not features.missing("vlan"), reason="this kernel has 802.1Q, and the tests ran on it")
def test_all_of_it_on_a_kernel_that_has_them(tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--no-header",
        "--color=no",
        "-p",
        "no:cacheprovider",
        "--basetemp=/mnt/tests",
    ]
    argv += [str(Path(__file__).parent), "-k", "vlan and not on_a_kernel_that_has_them"]
    try:
        code, said = machine.run(tmp_path, argv)
    except machine.NoMachine as error:
        pytest.skip(f"this kernel is built without 802.1Q, and {error}")
    assert code == 0, said
    assert "9 passed" in said, said
