"""A host whose dnsmasqs are the agent's own, and what a guest and an operator see of them."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nova_netagent.testing import make_vif
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import eventually
from tests.functional.dhcp.clients import Answer, dhclient, udhcpc
from tests.functional.dhcp.running import dnsmasqs, leased
from tests.lab import Lab, Namespace
from tests.lab.agent import BACKEND

TENTATIVE = 0x40


class Served(Cloud):
    """One host, and machines that ask it for their addresses."""

    def client(self, number: int, network: int = 1, *, mac: str | None = None) -> Namespace:
        """The machine of instance N, which has no address yet."""
        vif = make_vif(number, network)
        machine = self.lab.instance(
            self.host,
            f"vm{number}",
            tap=vif.devname,
            mac=mac or vif.address,
            addresses=(),
            gateways=(),
        )
        # Without its link-local address dhclient does not even begin.
        eventually(lambda: [e for e in machine.links.addresses("eth0") if not e["flags"] & TENTATIVE], 5)
        return machine

    def ask(self, machine: Namespace, *options: str, tries: int = 8) -> Answer | None:
        """What busybox's client is given; ``None``: nothing."""
        return udhcpc(machine, self.files / machine.name, *options, tries=tries)

    def ask6(self, machine: Namespace, within: float = 8) -> str | None:
        """The address that DHCPv6 gives; ``None``: none."""
        answer = dhclient(machine, self.files / machine.name, family=6, within=within)
        return None if answer is None else answer["ip6_address"]

    @property
    def files(self) -> Path:
        """A place for the files of clients."""
        return self.agent.directory

    @property
    def networks(self) -> Path:
        """Where dnsmasq's files are."""
        return self.agent.state_path / "networks"

    def leases(self, bridge: str = "br1") -> dict[str, str]:
        """The addresses that are leased, each with whose it is."""
        return leased(self.networks / f"{bridge}.leases")

    def pids(self) -> dict[str, list[int]]:
        """Every dnsmasq of the host, by bridge."""
        return dnsmasqs(self.host)

    def pid(self, bridge: str = "br1") -> int:
        """The one dnsmasq of a bridge, as soon as it runs."""
        eventually(lambda: len(self.pids().get(bridge, ())) == 1, 5)
        return self.pids()[bridge][0]

    def told(self, number: int, bridge: str = "br1") -> bool:
        """Whether dnsmasq's file has the host line of instance N."""
        file = self.networks / f"{bridge}.dhcp-hosts"
        return file.exists() and make_vif(number).address in file.read_text()


@contextmanager
def serving(config: Mapping[str, Mapping[str, Any]] | None = None, backend: str = BACKEND) -> Iterator[Served]:
    """Such a host, its files where an unprivileged dnsmasq reaches them: pytest's directories are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="netagent-"))
    directory.chmod(0o755)
    try:
        with Lab(directory) as lab:
            yield Served(lab, config, backend=backend)
    finally:
        shutil.rmtree(directory)
