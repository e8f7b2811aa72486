"""A host whose bridges have their dnsmasq, and its instances: the agent's part played by the test.

Networks and instances are those of nova_netagent.testing: network N is 10.N.0.0/24 and
fd00:N::/64 on bridge brN, instance N has .(N+1).
"""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nova_netagent.backend.links.image import LinkImage
from nova_netagent.compile.dhcp import DhcpService
from nova_netagent.model import Object
from nova_netagent.plan.links import ActualLinks
from nova_netagent.services import DhcpPlan, DnsmasqServers, plan_dhcp
from nova_netagent.testing import make_vif
from tests.functional.dhcp.running import dnsmasqs, kill, leased
from tests.lab import Lab, Namespace
from tests.unit.dhcp.world import services_of

TENTATIVE = 0x40


class Site:
    """A host, its bridges and its dnsmasqs.

    :param options: settings by name, whatever their group.
    """

    def __init__(self, lab: Lab, directory: Path, **options: Any) -> None:
        self.lab = lab
        self.directory = directory
        self.log = directory / "dnsmasq.log"
        self.log.touch()
        configuration = directory / "dnsmasq.conf"
        configuration.write_text(f"log-facility={self.log}\nlog-dhcp\nlog-queries\n")
        self.options = {"state_path": str(directory), "dnsmasq_config_file": str(configuration)} | options
        self.host = lab.host()
        self.counts: Counter[str] = Counter()
        self.ended = 0
        self._image = self.host.call(LinkImage)
        self.servers = self.adapter()
        self.desired: Mapping[str, DhcpService] = {}

    def adapter(self) -> DnsmasqServers:
        """A new one, as after a restart of the agent."""

        def count(what: str) -> None:
            self.counts[what] += 1

        return DnsmasqServers(self.networks, self._woken, count)

    def _woken(self) -> None:
        self.ended += 1

    @property
    def networks(self) -> Path:
        """Where dnsmasq's files are."""
        return self.directory / "networks"

    def close(self) -> None:
        self.servers.close()
        self._image.close()

    # the host

    def bridge(self, number: int = 1, *addresses: str) -> None:
        """Bridge N with the addresses that the agent gives it."""
        own = addresses or (f"10.{number}.0.1/24", f"fd00:{number}::1/64")
        self.lab.bridge(self.host, f"br{number}", addresses=own)

    def guest(self, number: int, network: int = 1, mac: str | None = None) -> Namespace:
        """The machine of instance N, without any address."""
        vif = make_vif(number, network)
        name = f"vm{number}-{len(self.lab.instances)}"
        guest = self.lab.instance(
            self.host, name, tap=f"tap{len(self.lab.instances)}", mac=mac or vif.address, addresses=(), gateways=(),
            bridge=f"br{network}",
        )  # fmt: skip
        # Without its link-local address dhclient does not even begin.
        eventually(lambda: [e["address"] for e in guest.links.addresses("eth0") if not e["flags"] & TENTATIVE])
        # A bridge whose first port has just come loses what it sends until the kernel has noticed.
        self.host.links.wait_running(f"br{network}")
        return guest

    @property
    def links(self) -> ActualLinks:
        """The host's links."""
        found: ActualLinks = self._image.read()
        return found

    # the agent's part

    def plan(self, *objects: Object, **options: Any) -> DhcpPlan:
        """What would be done about these objects."""
        self.desired = services_of(*objects, **(self.options | options))
        return plan_dhcp(self.desired, self.servers.read(), self.links)

    def describe(self, *objects: Object, **options: Any) -> DhcpPlan:
        """Serve what these objects ask for, and wait until it is served."""
        plan = self.plan(*objects, **options)
        deadline = time.monotonic() + 2
        while plan.wait and time.monotonic() < deadline:
            time.sleep(0.01)  # the kernel tells of a new IPv6 address a moment later; the engine looks again then
            plan = self.plan(*objects, **options)
        self.host.call(self.servers.apply, plan)
        self.settle()
        return plan

    def settle(self, seconds: float = 10) -> None:
        assert self.host.call(self.servers.settle, seconds), self.servers.troubles()

    def turn(self) -> None:
        self.host.call(self.servers.do_due)

    def turn_until(self, happened: Callable[[], object], within: float = 5.0) -> None:
        """Do what is due again and again until something is so."""

        def turned() -> object:
            self.turn()
            return happened()

        eventually(turned, within)

    # what runs

    def pids(self) -> dict[str, list[int]]:
        """Every dnsmasq of the host, by bridge: none is hidden."""
        return dnsmasqs(self.host)

    def pid(self, bridge: str = "br1") -> int:
        (pid,) = self.pids()[bridge]
        return pid

    def kill(self, bridge: str = "br1", number: int = signal.SIGKILL) -> int:
        """Kill one, as an operator or the kernel would."""
        pid = self.pid(bridge)
        kill(pid, number)
        return pid

    def leases(self, bridge: str = "br1") -> set[str]:
        """The addresses that are leased."""
        return set(leased(self.networks / f"{bridge}.leases"))

    def said(self) -> str:
        """All that the dnsmasqs logged."""
        return self.log.read_text()

    @contextmanager
    def closed_input(self) -> Iterator[None]:
        """An operator whose policy is to let nothing in but replies."""
        for program in ("iptables-legacy", "ip6tables-legacy"):
            self.host.run([program, "-P", "INPUT", "DROP"])
            self.host.run(
                [program, "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT"]
            )
        yield


def eventually(happened: Any, within: float = 5.0) -> float:
    """Wait until something is so; the seconds that it took.

    :param within: what it takes an idle machine at most; a loaded one is given ten times that.
    """
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < 10 * within, f"not within {10 * within} s"
        time.sleep(0.005)
    return time.monotonic() - began
