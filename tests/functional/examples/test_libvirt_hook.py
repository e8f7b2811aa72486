"""examples/libvirt-hook, called as libvirt calls it."""

import os
import subprocess
import sys

import pytest

from nova_netagent.testing import group_id, instance_id, make_group, make_rule, make_vif, network_id
from tests.functional.agent.cloud import Cloud
from tests.functional.conftest import ON_ONE
from tests.lab import Lab, Tcp, arrives, refused
from tests.lab.agent import REPOSITORY

HOOK = REPOSITORY / "examples/libvirt-hook"
VIF = make_vif(1)

GUEST = f"""
<domain type='kvm' id='3'>
  <name>vm1</name>
  <uuid>{instance_id(1)}</uuid>
  <metadata>
    <instance xmlns="https://nova-netagent.example/hook" groups="{group_id(1)}">
      <port mac="{VIF.address.upper()}" network="{network_id(1)}" addresses="{" ".join(VIF.fixed_ips)}"/>
    </instance>
  </metadata>
  <devices>
    <interface type='ethernet'><mac address='{VIF.address}'/><target dev='{VIF.device}' managed='no'/></interface>
  </devices>
</domain>
"""


@pytest.fixture
def cloud(lab: Lab, backend: str) -> Cloud:
    made = Cloud(lab, backend=backend)
    made.network(1)
    made.put(make_group(1, make_rule(1, protocol="tcp", port_range_min=80, port_range_max=80)))
    return made


def libvirt(cloud: Cloud, operation: str, sub: str, guest: str = GUEST) -> "subprocess.CompletedProcess[str]":
    """What libvirtd does."""
    environment = {**os.environ, "NETAGENT_SOCKET": str(cloud.agent.socket)}
    command = [sys.executable, str(HOOK), "vm1", operation, sub, "-"]
    return subprocess.run(command, input=guest, env=environment, capture_output=True, text=True, check=False)


def test_a_guest_is_filtered_from_before_it_starts_to_after_it_ended(cloud: Cloud) -> None:
    assert libvirt(cloud, "prepare", "begin").returncode == 0
    assert cloud.agent.get("instances", instance_id(1))["status"]["state"] == "done"
    guest = cloud.guest(1)
    assert libvirt(cloud, "started", "begin").returncode == 0
    assert arrives(cloud.outside, guest, Tcp(80))
    assert refused(cloud.outside, guest, Tcp(22))
    assert libvirt(cloud, "migrate", "begin").stdout == GUEST

    assert libvirt(cloud, "release", "end").returncode == 0
    assert libvirt(cloud, "release", "end").returncode == 0, "twice"
    assert cloud.agent.get("instances") == []
    assert cloud.host.links.all()[VIF.device]["master"] is None


@ON_ONE
def test_a_guest_that_cannot_be_filtered_is_not_started(cloud: Cloud) -> None:
    bad = libvirt(cloud, "prepare", "begin", GUEST.replace(network_id(1), "somewhere"))
    assert bad.returncode == 1
    assert "somewhere" in bad.stderr
    cloud.agent.stop()
    gone = libvirt(cloud, "prepare", "begin")
    assert gone.returncode == 1
    assert "api.sock" in gone.stderr


@ON_ONE
def test_guests_of_somebody_else_are_left_alone(cloud: Cloud) -> None:
    assert libvirt(cloud, "prepare", "begin", "<domain><name>x</name></domain>").returncode == 0
    assert libvirt(cloud, "stopped", "end", "").returncode == 0
    assert cloud.agent.get("instances") == []
