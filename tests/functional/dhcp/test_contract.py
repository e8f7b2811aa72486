"""The real servers do what the fake does: with dnsmasq, and with clients that ask it for leases."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from nova_netagent.plan.links import ActualLinks
from nova_netagent.services import DhcpServers
from tests.functional.dhcp.clients import dhclient, udhcpc
from tests.functional.dhcp.site import Site
from tests.lab import Namespace, needs

pytest.register_assert_rewrite("tests.unit.dhcp.contract")

from tests.unit.dhcp.contract import ServersContract  # noqa: E402

pytestmark = needs("bridge", "veth", "ipv6", "program:dnsmasq", "setgroups", "program:dhclient", "program:busybox")


class InNamespace:
    """Servers whose every call is made in a namespace, as the engine makes them in its own."""

    def __init__(self, host: Namespace, servers: DhcpServers) -> None:
        self._host = host
        self._servers = servers

    def __getattr__(self, name: str) -> Any:
        called = getattr(self._servers, name)
        return lambda *args, **fields: self._host.call(called, *args, **fields)


class RealWorld:
    """A host with br1 and br2, and instances that ask for what they are given."""

    def __init__(self, site: Site) -> None:
        self.site = site
        site.bridge(2)
        self.options: Mapping[str, Any] = site.options
        self.servers: Any = InNamespace(site.host, site.servers)
        self._guests: dict[str, Namespace] = {}

    @property
    def counts(self) -> Counter[str]:
        return self.site.counts

    @property
    def links(self) -> ActualLinks:
        return self.site.links

    def restart_agent(self) -> None:
        self.site.servers.close()
        self.site.servers = self.site.adapter()
        self.servers = InNamespace(self.site.host, self.site.servers)

    def pids(self) -> Mapping[str, int]:
        found = self.site.pids()
        assert all(len(pids) == 1 for pids in found.values()), found
        return {bridge: pids[0] for bridge, pids in found.items()}

    def kill(self, bridge: str) -> None:
        self.site.kill(bridge)

    def lease(self, bridge: str, address: str, mac: str) -> None:
        network = int(bridge.removeprefix("br"))
        if mac not in self._guests:
            self._guests[mac] = self.site.guest(1, network, mac)
        guest = self._guests[mac]
        if ":" in address:
            answer = dhclient(guest, self.site.directory / guest.name, family=6)
            assert answer is not None
            assert answer["ip6_address"] == address
        else:
            answer = udhcpc(guest, self.site.directory / guest.name)
            assert answer is not None
            assert answer["ip"] == address

    def leases(self, bridge: str) -> set[str]:
        return self.site.leases(bridge)

    def files(self) -> set[str]:
        return {path.name for path in self.site.networks.iterdir()}

    def write(self, bridge: str, suffix: str, text: str) -> None:
        (self.site.networks / f"{bridge}.{suffix}").write_text(text)

    def break_configuration(self) -> None:
        broken = self.site.directory / "broken.conf"
        broken.write_text("no-such-option=1\n")
        self.options = {**self.options, "dnsmasq_config_file": str(broken)}


@pytest.fixture
def world(site: Site) -> RealWorld:
    return RealWorld(site)


class TestDnsmasqServers(ServersContract):
    """All of it."""
