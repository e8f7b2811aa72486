"""The dnsmasqs of this host: found again after a restart, started, told to reload, ended.

They outlive the agent, and go with their network. What runs is its own record: its command
line is compared with the one that it should have.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nova_netagent.compile.dhcp import DhcpService
from nova_netagent.services.plan import ActualService, DhcpPlan
from nova_netagent.services.protocol import Trouble
from nova_netagent.services.server import Server
from nova_netagent.services.system import HostProcess, HostSystem, Process, System
from nova_netagent.services.watch import Watch

STARTS_PER_TURN = 4
"""How many are started before other work has its turn: a start takes 2 to 5 ms."""


class DnsmasqServers:
    """One dnsmasq for each bridge that wants one. Engine thread only.

    :param directory: where their files are, ``$state_path/networks``.
    :param on_change: called from another thread when a dnsmasq ended: ``do_due`` starts it again.
    :param count: called with ``starts``, ``stops``, ``reloads``, ``crashes`` or ``adoptions`` for each.
    """

    def __init__(
        self,
        directory: Path,
        on_change: Callable[[], None] | None = None,
        count: Callable[[str], None] = lambda what: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        system: System | None = None,
    ) -> None:
        self._system = system or HostSystem(directory)
        self._count = count
        self._clock = clock
        self._watch = None if on_change is None else Watch(on_change)
        self._known: dict[str, Server] | None = None

    def read(self, *, fresh: bool = False) -> Mapping[str, ActualService]:
        """The servers as they are or are about to be; changes nothing."""
        actual = ((bridge, server.actual(fresh=fresh)) for bridge, server in self._servers.items())
        return {bridge: service for bridge, service in actual if service is not None}

    def apply(self, plan: DhcpPlan) -> None:
        """Want what the plan wants, and begin with it."""
        now = self._clock()
        for bridge in plan.remove:
            self._server(bridge).drop()
        for bridge, edit in plan.wait.items():
            self._server(bridge).hold(edit.service, edit.why, now)
        for service in (*plan.keep, *(edit.service for edit in (*plan.start, *plan.restart))):
            self._want(service, now)
        for changed in plan.reload:
            self._want(changed.service, now, reread=True)
        self.do_due()

    def release(self, bridge: str, address: str, mac: str) -> None:
        """Have a lease forgotten: by a DHCPRELEASE, and by a restart without it if that does not help."""
        server = self._servers.get(bridge)
        if server is not None:
            server.doom(address, mac.lower(), self._clock())

    def troubles(self) -> Mapping[str, Trouble]:
        """By network, why it is not served."""
        now = self._clock()
        return {
            network: trouble
            for server in self._servers.values()
            if (trouble := server.trouble(now)) is not None
            for network in server.networks
        }

    def retry(self) -> None:
        """Do not wait any longer with what failed."""
        now = self._clock()
        for server in self._servers.values():
            server.retry(now)
        self.do_due()

    def next_due(self) -> float | None:
        """The earliest time at which a server has something to do."""
        times = (server.next_due() for server in self._servers.values())
        return min((each for each in times if each is not None), default=None)

    def do_due(self) -> None:
        """Give each server a turn."""
        now = self._clock()
        starts = 0
        for bridge, server in list(self._servers.items()):
            if server.may_start(now):
                starts += 1
                if starts > STARTS_PER_TURN:
                    continue  # it stays due
            server.turn(now)
            if server.gone:
                del self._servers[bridge]

    def settle(self, seconds: float) -> bool:
        """Turn until nothing is on its way any more; for programs that may wait."""
        deadline = self._clock() + seconds
        while not all(server.settled for server in self._servers.values()):
            if self._clock() >= deadline:
                return False
            time.sleep(0.005)
            self.do_due()
        return True

    def close(self) -> None:
        """Close descriptors; the servers go on."""
        if self._watch is not None:
            self._watch.close()
        for server in (self._known or {}).values():
            server.close()

    @property
    def _servers(self) -> dict[str, Server]:
        """The servers by bridge; at first those that run, and those of which there are files."""
        if self._known is None:
            processes = self._system.find()
            self._known = {}
            for bridge in sorted({*processes, *self._system.bridges()}):
                self._known[bridge] = self._make(bridge, processes.get(bridge))
            for process in processes.values():
                self._watch_process(process)
                self._count("adoptions")
        return self._known

    def _server(self, bridge: str) -> Server:
        return self._servers.setdefault(bridge, self._make(bridge, None))

    def _make(self, bridge: str, process: Process | None) -> Server:
        return Server(bridge, self._system, process=process, on_process=self._watch_process, count=self._count)

    def _want(self, service: DhcpService, now: float, *, reread: bool = False) -> None:
        self._server(service.bridge).want(service, now, reread=reread)

    def _watch_process(self, process: Process) -> None:
        if self._watch is not None and isinstance(process, HostProcess):
            self._watch.add(process.descriptor)
