"""The fake does what the real ones do."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from nova_netagent.plan.links import ActualLinks
from nova_netagent.services.fake import FakeDhcpServers, FakeSystem
from tests.unit.dhcp.world import links_of

pytest.register_assert_rewrite("tests.unit.dhcp.contract")

from tests.unit.dhcp.contract import ServersContract  # noqa: E402


class FakeWorld:
    """The fake, and what others do behind its back."""

    def __init__(self) -> None:
        self.system = FakeSystem()
        self.counts: Counter[str] = Counter()
        self.options: Mapping[str, Any] = {}
        self.restart_agent()

    @property
    def links(self) -> ActualLinks:
        return links_of(("br1", "10.1.0.1/24"), ("br2", "10.2.0.1/24"))

    def restart_agent(self) -> None:
        def count(what: str) -> None:
            self.counts[what] += 1

        self.servers = FakeDhcpServers(self.system, count)

    def pids(self) -> Mapping[str, int]:
        return {bridge: process.pid for bridge, process in self.system.processes.items()}

    def kill(self, bridge: str) -> None:
        self.system.processes[bridge].end("was killed by SIGKILL")

    def lease(self, bridge: str, address: str, mac: str) -> None:
        self.system.lease(bridge, (address, mac))

    def leases(self, bridge: str) -> set[str]:
        return self.system.leased(bridge)

    def files(self) -> set[str]:
        return {f"{bridge}.{suffix}" for bridge, suffix in self.system.files}

    def write(self, bridge: str, suffix: str, text: str) -> None:
        self.system.files[bridge, suffix] = text

    def break_configuration(self) -> None:
        self.options = {"dnsmasq_config_file": "/broken"}
        self.system.fail["/broken"] = "bad option at line 1 of /broken"


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


class TestFakeDhcpServers(ServersContract):
    """All of it."""
