"""DHCP servers in memory, for tests: the real state machine on a system that starts no process.

It refuses what dnsmasq and the kernel refuse, and what would do harm with dnsmasq 2.90.
"""

import errno
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nova_netagent.compile.dhcp import Pair, pairs
from nova_netagent.services import leases
from nova_netagent.services.dnsmasq import DnsmasqServers
from nova_netagent.services.system import DNS_HOSTS, HOSTS, LEASES, PID, STDERR, StartFailed


class FakeProcess:
    """One dnsmasq that is none: it has read its hosts, and obeys signals at once."""

    def __init__(self, pid: int, bridge: str, arguments: tuple[str, ...], system: "FakeSystem") -> None:
        self.pid = pid
        self.arguments = arguments
        self.bridge = bridge
        self.hosts = self.dns_hosts = ""
        self.signals: list[int] = []
        self.how: str | None = None
        self.at_work = False
        """It has told a client of a lease that it has not written yet."""
        self._system = system

    def begin(self) -> None:
        """Bind and read, as the real one does some milliseconds after it is started."""
        assert self.how is None, "it ended before"
        self._system.files[self.bridge, PID] = f"{self.pid}\n"
        self._read()

    def _read(self) -> None:
        self.hosts = self._system.files[self.bridge, HOSTS]
        self.dns_hosts = self._system.files[self.bridge, DNS_HOSTS]
        assert "set:" not in self.hosts, "dnsmasq 2.90 crashes at the next SIGHUP"
        given = pairs(self.hosts)
        assert len({address for address, _ in given}) == len(given), "an address is given twice"

    @property
    def begun(self) -> bool:
        """Whether it has bound its sockets."""
        return self._system.files.get((self.bridge, PID)) == f"{self.pid}\n"

    def signal(self, number: int) -> None:
        """Obey."""
        if self.how is not None:
            return
        self.signals.append(number)
        if number == signal.SIGHUP:
            assert self.begun, "a SIGHUP before it has a handler for it ends it"
            self._read()
        elif not (number == signal.SIGTERM and self._system.stubborn):
            self.end(f"was killed by {signal.Signals(number).name}")

    def end(self, how: str) -> None:
        """End, for whatever reason."""
        self.how = how
        self._system.processes.pop(self.bridge)
        if how == "was killed by SIGTERM":
            self._system.files.pop((self.bridge, PID), None)


class FakeDescriptor:
    """A process by a descriptor, which is used until it is closed and not after."""

    def __init__(self, process: FakeProcess) -> None:
        self.pid = process.pid
        self.arguments = process.arguments
        self._process = process
        self._closed = False

    def _look(self) -> FakeProcess:
        assert not self._closed, "this descriptor is closed"
        return self._process

    def ended(self) -> str | None:
        """How it ended."""
        return self._look().how

    def ready(self) -> bool:
        """Whether it has begun."""
        return self._look().begun

    def idle(self) -> bool:
        """Unless the test says that it is at work."""
        return not self._look().at_work

    def signal(self, number: int) -> None:
        """Have it obey."""
        self._look().signal(number)

    def close(self) -> None:
        """Close it."""
        self._look()
        self._closed = True


class FakeSystem:
    """A system without processes.

    :ivar fail: by a part of an argument, what a process complains of that is started with it, and ends.
    :ivar slow: started processes begin only when the test says so.
    :ivar stubborn: processes do not end on SIGTERM.
    :ivar busy: lease files are being written.
    :ivar stuck: files that cannot be removed, by bridge and suffix.
    :ivar deaf: a DHCPRELEASE is not heard, as behind a packet filter that drops it.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], str] = {}
        self.processes: dict[str, FakeProcess] = {}
        self.started: list[FakeProcess] = []
        self.fail: dict[str, str] = {}
        self.no_program = False
        self.stuck: set[tuple[str, str]] = set()
        self.slow = False
        self.stubborn = False
        self.deaf = False
        self.busy = False
        self.released: list[tuple[str, str, str, str]] = []
        self._next_pid = 1000

    def find(self) -> Mapping[str, FakeDescriptor]:
        """The processes, each by a new descriptor."""
        return {bridge: FakeDescriptor(process) for bridge, process in self.processes.items()}

    def start(self, bridge: str, arguments: Sequence[str]) -> FakeDescriptor:
        """Start one; a second one for a bridge would find its sockets bound."""
        assert bridge not in self.processes, f"there is a dnsmasq for {bridge} already"
        assert f"--interface={bridge}" in arguments
        if self.no_program:
            raise StartFailed("there is no dnsmasq: install dnsmasq-base")
        self._next_pid += 1
        process = FakeProcess(self._next_pid, bridge, tuple(arguments), self)
        self.processes[bridge] = process
        self.started.append(process)
        self.files[bridge, STDERR] = ""
        why = next((why for word, why in self.fail.items() if any(word in each for each in arguments)), None)
        if why is not None:
            self.files[bridge, STDERR] = f"\ndnsmasq: {why}\n"
            process.end("ended with exit code 1")
        elif not self.slow:
            process.begin()
        return FakeDescriptor(process)

    def bridges(self) -> frozenset[str]:
        """The bridges that have files."""
        return frozenset(bridge for bridge, _ in self.files)

    def read(self, bridge: str, suffix: str) -> str | None:
        """A file's text."""
        return self.files.get((bridge, suffix))

    def is_quiet(self, bridge: str, suffix: str, seconds: float) -> bool:
        """Unless the test says that a server is writing."""
        return not self.busy

    def write(self, bridge: str, suffix: str, text: str) -> None:
        """Write a file; that of the leases is a running server's own."""
        assert suffix != LEASES or bridge not in self.processes, "dnsmasq would write over it"
        self.files[bridge, suffix] = text

    def remove(self, bridge: str, suffix: str) -> None:
        """Remove a file."""
        assert suffix != LEASES or bridge not in self.processes, "dnsmasq has it open"
        if (bridge, suffix) in self.stuck:
            raise PermissionError(errno.EACCES, "Permission denied", f"{bridge}.{suffix}")
        self.files.pop((bridge, suffix), None)

    def release(self, bridge: str, server: str, address: str, mac: str) -> None:
        """Hear a DHCPRELEASE."""
        self.released.append((bridge, server, address, mac))
        if not self.deaf and bridge in self.processes:
            given_up = leases.Lease(address, mac)
            self.files[bridge, LEASES] = leases.without(
                self.files.get((bridge, LEASES), ""), lambda each: each == given_up
            )

    # what a test does

    def lease(self, bridge: str, *given: Pair) -> None:
        """Instances ask for their addresses; those of IPv6 come with a client identifier."""
        process = self.processes[bridge]
        text = self.files.get((bridge, LEASES), "")
        for address, mac in given:
            assert (address, mac) in pairs(process.hosts), f"{mac} is not given {address}"
            others = [each for each in leases.leases(text) if each.address == address and each.mac not in (None, mac)]
            assert not others, f"not using configured address {address} because it is leased to {others}"
            owner, client = ("1234", f"00:01:{mac}") if ":" in address else (mac, f"01:{mac}")
            text += f"1795411200 {owner} {address} * {client}\n"
        self.files[bridge, LEASES] = text

    def leased(self, bridge: str) -> set[str]:
        """The addresses that are leased."""
        return {lease.address for lease in leases.leases(self.files.get((bridge, LEASES), ""))}

    def crash(self, bridge: str) -> None:
        """Have a process end that nobody told to."""
        self.processes[bridge].end("was killed by SIGSEGV")


class FakeDhcpServers(DnsmasqServers):
    """DHCP servers on a fake system."""

    def __init__(
        self,
        system: FakeSystem | None = None,
        count: Callable[[str], None] = lambda what: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.system = system or FakeSystem()
        super().__init__(Path("/nowhere"), count=count, clock=clock, system=self.system)
