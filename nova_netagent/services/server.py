"""One dnsmasq and what it is to be: a state that is looked at again whenever something may be due.

Nothing here waits. What takes its time (a start, an end, the pause between two reloads) has a
time at which ``turn`` looks again.
"""

import logging
import signal
from collections.abc import Callable, Sequence

from nova_netagent.compile.dhcp import DhcpService, Pair, pairs
from nova_netagent.services import leases
from nova_netagent.services.leases import Lease
from nova_netagent.services.plan import ActualService
from nova_netagent.services.protocol import Trouble
from nova_netagent.services.system import (
    DNS_HOSTS,
    HOSTS,
    LEASES,
    STDERR,
    SUFFIXES,
    UNREAD,
    Process,
    StartFailed,
    System,
)

LOG = logging.getLogger(__name__)

RELOAD_PAUSE = 0.2
"""Seconds between two reloads: a thousand hosts take dnsmasq 4 ms each time."""
BACK_OFF = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds to the next start after the first failure, the second, and so on."""
STABLE = 10.0
"""Seconds after which a server that ends has not failed to start."""
READY_POLL, READY_LONGEST = 0.005, 5.0
"""Seconds to the first look whether it is ready, doubled each time; after the longest it is taken for ready."""
STUMBLED = 5.0
"""Seconds to the next attempt when the host does not let us signal a process or remove a file."""
PATIENCE = 2.0
"""Seconds that it has to end."""
RELEASE_PAUSE = 0.05
"""Seconds after which a released lease must be gone from the lease file."""
QUIET = 0.02
"""Seconds for which a lease file must not have changed to be a whole one: dnsmasq writes it in place."""
LOOKS = 10
"""How often a lease file that keeps changing is looked at again before it is taken as it is."""

Texts = tuple[str, str]


class Server:
    """The dnsmasq of one bridge.

    :param process: one that was found running.
    :param on_process: called with each process that is started.
    :param count: called with the name of what happened.
    """

    def __init__(
        self,
        bridge: str,
        system: System,
        *,
        process: Process | None,
        on_process: Callable[[Process], None],
        count: Callable[[str], None],
    ) -> None:
        self.bridge = bridge
        self.wanted: DhcpService | None = None
        self.waits = ""
        """Why it is not started yet."""
        self._system = system
        self._on_process = on_process
        self._count = count
        self._trouble = ""
        self._texts: Texts | None = None
        """What it has read, or will read before it answers; ``None``: not known."""
        self._reread = False
        """Its files are to be written and read again, whatever it has read."""
        self._process = process
        self._ready = process is not None and process.ready()
        self._has_leases = self._ready and self._sees_leases()
        """Whether its lease file was there when it was ready: one that is ``leasefile-ro`` has none."""
        self._started = float("-inf")
        self._look = float("-inf")
        self._poll = READY_POLL
        self._stopping: float | None = None
        """When an end that was asked for is enforced."""
        self._removing = False
        self._failures = 0
        self._crashed = False
        self._next_start = float("-inf")
        self._next_reload = float("-inf")
        self._check: float | None = None
        """When the leases are compared with the hosts."""
        self._before: str | None = None
        """The text of the hosts file before those that the leases were not compared with yet."""
        self._looks = 0
        self._stumbled: float | None = None
        """When it is tried again what the host did not let us do."""
        self._doomed: set[Pair] = set()
        self._doom: float | None = None
        """When the doomed leases must be gone."""
        if process is not None and system.read(bridge, UNREAD) is None:
            self._texts = self._on_disk()

    # --- what it shall be

    def want(self, service: DhcpService, now: float, *, reread: bool = False) -> None:
        """Serve this from now on.

        :param reread: its files may have been changed by somebody else.
        """
        self._reread = self._reread or reread
        if self.wanted is None or self.wanted.arguments != service.arguments:
            self._failures, self._next_start, self._trouble = 0, now, ""
        self.wanted, self.waits, self._removing = service, "", False

    def hold(self, service: DhcpService, why: str, now: float) -> None:
        """End it; its files stay."""
        self.want(service, now)
        self.waits = why

    def drop(self) -> None:
        """End it for good, with its files."""
        self.wanted, self.waits, self._trouble, self._removing = None, "", "", True

    def retry(self, now: float) -> None:
        """Do not wait any longer to start it."""
        self._next_start = min(self._next_start, now)

    def doom(self, address: str, mac: str, now: float) -> None:
        """Have a lease forgotten: ask for it, and see to it that it happens."""
        self._doomed.add((address, mac))
        # For DHCPv6 a restart is sooner: for a message of the host's own dnsmasq looks for
        # the sender's MAC among the neighbours, half a second, and answers nobody meanwhile.
        self._doom = now if ":" in address else now + RELEASE_PAUSE
        self._release(address, mac)

    # --- what it is

    def actual(self, *, fresh: bool) -> ActualService | None:
        """What runs, or is about to; ``None``: it is about to go.

        :param fresh: read its files back from disk.
        """
        if self._removing:
            return None
        coming = None if self.waits else self.wanted
        if self._process is None or self._stopping is not None:
            if coming is None:
                return ActualService(None, None, None)
            return ActualService(coming.arguments, coming.hosts, coming.dns_hosts)
        if self._process.ended() is not None:
            return ActualService(None, None, None)
        texts = self._texts if coming is None else _texts(coming)
        if fresh and self._texts is not None and self._on_disk() != self._texts:
            texts = None
        return ActualService(self._process.arguments, *(texts or (None, None)))

    @property
    def networks(self) -> Sequence[str]:
        """The networks that it is to serve."""
        return () if self.wanted is None else self.wanted.networks

    def trouble(self, now: float) -> Trouble | None:
        """Why it does not serve."""
        if self.waits:
            return "pending", self.waits
        if not self._trouble:
            return None
        delay = max(0.0, self._next_start - now)
        return "error", self._trouble + (f"; next attempt in {delay:.0f} s" if self._process is None else "")

    @property
    def gone(self) -> bool:
        """Nothing is left of it."""
        return self._removing and self._process is None and self._stumbled is None

    @property
    def settled(self) -> bool:
        """Nothing is on its way."""
        if self._process is None:
            return self.wanted is None or bool(self.waits)
        in_place = self._ready and self._stopping is None and self._doom is None and self._check is None
        return in_place and not self._reload_wanted

    @property
    def _reload_wanted(self) -> bool:
        return self.wanted is not None and (self._reread or self._texts != _texts(self.wanted))

    def may_start(self, now: float) -> bool:
        """Whether ``turn`` would start a process."""
        idle = self._process is None or self._process.ended() is not None
        return idle and self.wanted is not None and not self.waits and now >= self._next_start

    def next_due(self) -> float | None:
        """When ``turn`` has something to do."""
        times: list[float] = []
        if self._process is None:
            if self.wanted is not None and not self.waits:
                times.append(self._next_start)
        elif self._stopping is not None:
            times.append(self._stopping)
        else:
            if not self._ready:
                times.append(self._look)
            elif self._reload_wanted:
                times.append(self._next_reload)
            times += [each for each in (self._check, self._doom) if each is not None]
        if self._stumbled is not None:
            return self._stumbled
        return min(times, default=None)

    # --- what is done about it

    def turn(self, now: float) -> None:
        """Do what it is time for; what the host does not let us do is tried again later."""
        if self._stumbled is not None:
            if now < self._stumbled:
                return
            self._stumbled, self._trouble = None, ""
        try:
            self._do(now)
        except OSError as error:
            LOG.warning("dnsmasq of %s cannot be looked after: %s", self.bridge, error)
            self._trouble = f"dnsmasq of {self.bridge} cannot be looked after: {error}"
            self._stumbled = now + STUMBLED

    def _do(self, now: float) -> None:
        self._notice_end(now)
        if self._process is not None:
            self._tend(self._process, now)
            self._notice_end(now)
        if self._process is not None:
            return
        if self._removing:
            for suffix in SUFFIXES:
                self._system.remove(self.bridge, suffix)
        elif self.wanted is not None and not self.waits and now >= self._next_start:
            self._start(self.wanted, now)

    def close(self) -> None:
        """Let go of the process, which goes on."""
        if self._process is not None:
            self._process.close()

    def _on_disk(self) -> Texts | None:
        hosts, dns_hosts = self._system.read(self.bridge, HOSTS), self._system.read(self.bridge, DNS_HOSTS)
        return None if hosts is None or dns_hosts is None else (hosts, dns_hosts)

    def _notice_end(self, now: float) -> None:
        how = None if self._process is None else self._process.ended()
        if self._process is None or how is None:
            return
        pid = self._process.pid
        self._process.close()
        self._process, self._ready, self._texts = None, False, None
        self._check = self._before = self._doom = None
        if self._stopping is not None:
            self._stopping = None
            return
        if now - self._started >= STABLE:
            self._failures = 0
        self._count("crashes")
        self._crashed = True
        LOG.warning("dnsmasq of %s (process %d) %s", self.bridge, pid, how)
        self._fail(f"dnsmasq of {self.bridge} {how}", now)

    def _fail(self, what: str, now: float) -> None:
        delay = BACK_OFF[min(self._failures, len(BACK_OFF) - 1)]
        self._failures += 1
        self._next_start = now + delay
        words = (self._system.read(self.bridge, STDERR) or "").strip().splitlines()
        self._trouble = f"{what}: {words[-1].strip()}" if words else what

    def _tend(self, process: Process, now: float) -> None:
        if self._stopping is not None:
            if now >= self._stopping:
                process.signal(signal.SIGKILL)
                self._stopping = now + PATIENCE
            return
        if self._removing or self.waits or (self.wanted is not None and process.arguments != self.wanted.arguments):
            self._stop(process, now)
            return
        if not self._ready:
            self._see_whether_ready(process, now)
        if self._ready and self.wanted is not None:
            self._reload(process, self.wanted, now)
        if self._check is not None and now >= self._check and self.wanted is not None:
            self._compare_leases(self.wanted, now)
        if self._doom is not None and now >= self._doom:
            self._enforce_releases(process, now)

    def _stop(self, process: Process, now: float) -> None:
        process.signal(signal.SIGTERM)
        self._stopping = now + PATIENCE
        self._next_start = now
        self._check = self._before = self._doom = None
        self._count("stops")

    def _see_whether_ready(self, process: Process, now: float) -> None:
        # dnsmasq_config_file may name another pid file: then time tells.
        if process.ready() or now - self._started >= READY_LONGEST:
            self._ready, self._has_leases = True, self._sees_leases()
            self._trouble = ""
            return
        self._look = now + self._poll
        self._poll = min(self._poll * 2, 0.25)

    def _start(self, wanted: DhcpService, now: float) -> None:
        if self._crashed:
            # What it forked for a TCP query outlives it, and holds its sockets.
            for process in self._system.find().values():
                process.close()
            self._crashed = False
        try:
            self._write(wanted)
            self._prune_leases(wanted)
            process = self._system.start(self.bridge, wanted.arguments)
        except (StartFailed, OSError) as error:
            LOG.warning("dnsmasq of %s cannot be started: %s", self.bridge, error)
            self._system.remove(self.bridge, STDERR)
            self._fail(str(error), now)
            return
        self._process = process
        self._on_process(process)
        self._count("starts")
        LOG.info("dnsmasq of %s started as process %d", self.bridge, process.pid)
        self._texts, self._reread = _texts(wanted), False
        self._ready, self._started, self._poll = False, now, READY_POLL
        self._look = now + READY_POLL

    def _write(self, wanted: DhcpService) -> None:
        for suffix, text in ((HOSTS, wanted.hosts), (DNS_HOSTS, wanted.dns_hosts)):
            if self._system.read(self.bridge, suffix) != text:
                self._system.write(self.bridge, suffix, text)
        self._system.remove(self.bridge, UNREAD)

    def _reload(self, process: Process, wanted: DhcpService, now: float) -> None:
        if not self._reload_wanted or now < self._next_reload:
            return
        if self._has_leases and not self._sees_leases():
            # It goes on writing the one that somebody deleted, in which we see nobody who is to be released.
            LOG.warning("dnsmasq of %s is restarted: its lease file was deleted", self.bridge)
            self._stop(process, now)
            return
        before, after = self._texts, _texts(wanted)
        self._next_reload = now + RELOAD_PAUSE
        try:
            # Noted first: who finds this process after us knows that it may not have read them.
            self._system.write(self.bridge, UNREAD, "")
            for suffix, text in zip((HOSTS, DNS_HOSTS), after, strict=True):
                self._system.write(self.bridge, suffix, text)
            process.signal(signal.SIGHUP)
            self._system.remove(self.bridge, UNREAD)
        except OSError as error:
            self._trouble = str(error)
            return
        self._texts, self._reread, self._trouble = after, False, ""
        self._count("reloads")
        if self._check is None:
            self._before = None if before is None else before[0]
        self._check = now

    # --- leases

    def _sees_leases(self) -> bool:
        return self._system.read(self.bridge, LEASES) is not None

    def _leases(self) -> tuple[Lease, ...] | None:
        """The leases; ``None``: they are being written, or will be.

        A lease is written after the client was told of it: while the server is busy it may be missing.
        """
        busy = self._process is not None and not self._process.idle()
        if self._looks < LOOKS and (busy or not self._system.is_quiet(self.bridge, LEASES, QUIET)):
            self._looks += 1
            return None
        self._looks = 0
        return tuple(leases.leases(self._system.read(self.bridge, LEASES) or ""))

    def _compare_leases(self, wanted: DhcpService, now: float) -> None:
        """Have the leases forgotten of who is gone; those in the way of somebody must go."""
        found = self._leases()
        if found is None:
            self._check = now + QUIET
            return
        before, self._check, self._before = self._before, None, None
        if not found:
            return
        given = pairs(wanted.hosts)
        owners = dict(given)
        for lease in found:
            owner = owners.get(lease.address)
            if lease.mac is None:
                # Whose it was is not in the file: somebody else's, if the address is new to its owner.
                if owner is not None and before is not None and (lease.address, owner) not in pairs(before):
                    self.doom(lease.address, owner, now)
            elif (lease.address, lease.mac) not in given:
                if owner is not None:
                    self.doom(lease.address, lease.mac, now)
                else:
                    self._release(lease.address, lease.mac)

    def _release(self, address: str, mac: str) -> None:
        server = None if self.wanted is None or ":" in address else self.wanted.server_of(address)
        if server is None or self._process is None:
            return
        try:
            self._system.release(self.bridge, server, address, mac)
        except OSError as error:
            LOG.debug("the lease of %s could not be released: %s", address, error)

    def _enforce_releases(self, process: Process, now: float) -> None:
        """Restart it without the leases that it did not give up: the packet filter may have dropped the message."""
        found = self._leases()
        if found is None:
            self._doom = now + QUIET
            return
        self._doom = None
        if any(self._is_doomed(lease) for lease in found):
            LOG.info(
                "dnsmasq of %s is restarted to free %s", self.bridge, ", ".join(a for a, _ in sorted(self._doomed))
            )
            self._stop(process, now)
        else:
            self._doomed.clear()

    def _is_doomed(self, lease: Lease) -> bool:
        if lease.mac is None:
            return any(lease.address == address for address, _ in self._doomed)
        return (lease.address, lease.mac) in self._doomed

    def _prune_leases(self, wanted: DhcpService) -> None:
        text = self._system.read(self.bridge, LEASES)
        if text is None:
            return
        given = pairs(wanted.hosts)
        addresses = {address for address, _ in given}

        def stale(lease: Lease) -> bool:
            known = lease.address in addresses if lease.mac is None else (lease.address, lease.mac) in given
            return not known or self._is_doomed(lease)

        kept = leases.without(text, stale)
        if kept != text:
            self._system.write(self.bridge, LEASES, kept)
        self._doomed.clear()


def _texts(service: DhcpService) -> Texts:
    return service.hosts, service.dns_hosts
