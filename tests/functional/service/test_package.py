"""The Debian package of tools/package on a machine of its own: installed, started, upgraded over, removed, purged."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nova_netagent.testing import make_network
from tests.functional.service import machine
from tests.functional.service.machine import SOURCE, Machine
from tests.functional.service.test_service import Service
from tests.lab.agent import REPOSITORY


@pytest.fixture(scope="module")
def package() -> Path:
    built = sorted((REPOSITORY / "dist").glob("nova-netagent_*.deb"), key=lambda each: each.stat().st_mtime)
    if not built:
        pytest.skip("tools/package has not been run: it needs PyPI, and a minute")
    return SOURCE / built[-1].relative_to(REPOSITORY)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if (reason := machine.missing()) is not None:
        pytest.skip(reason)
    with Machine(tmp_path_factory.mktemp("package"), Path(sys.prefix)) as made:
        yield made


def test_from_its_installation_to_its_purge(clean: Machine, package: Path) -> None:
    clean.run("dpkg", "--install", package)
    assert clean.run("systemctl", "is-enabled", "nova-netagent", check=False).strip() == "disabled"
    assert clean.show("ActiveState") == "inactive"
    assert "nova" not in clean.run("iptables-legacy-save")
    assert clean.run("stat", "-c", "%U:%G %a", "/etc/nova-netagent/nova-netagent.conf") == "root:nova-netagent 640\n"

    service = Service(clean)
    service.start()
    service.put(make_network(1))
    assert "-i br1 -j ACCEPT" in service.rules()
    assert "enforcing" in clean.run("netagentctl", "status")
    pid, servers = service.pid, service.servers()
    assert servers

    clean.run("dpkg", "--install", package)
    assert service.pid != pid, "an upgrade restarts what runs"
    assert service.servers() == servers
    assert "-i br1 -j ACCEPT" in service.rules()

    clean.run("dpkg", "--remove", "nova-netagent")
    assert "nova" not in clean.run("iptables-legacy-save")
    assert clean.fails("ip", "link", "show", "br1")
    assert service.servers() == []
    assert not clean.fails("test", "-f", "/var/lib/nova-netagent/state.db")
    assert not clean.fails("test", "-f", "/etc/nova-netagent/nova-netagent.conf")

    clean.run("dpkg", "--purge", "nova-netagent")
    for path in ("/etc/nova-netagent", "/var/lib/nova-netagent", "/opt/nova-netagent", "/usr/sbin/nova-netagent"):
        assert clean.fails("test", "-e", path), path
