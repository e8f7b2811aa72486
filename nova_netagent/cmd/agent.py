"""``nova-netagent``: the daemon. The one place that wires things together."""

import argparse
import fcntl
import gc
import importlib.metadata
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from nova_netagent.api.agent import About, Agent
    from nova_netagent.api.hub import Hub
    from nova_netagent.api.tcp import Tcp
    from nova_netagent.engine import Engine
    from nova_netagent.grouplog import GroupLog
    from nova_netagent.rpc.service import Rpc
    from nova_netagent.settings import Settings

LOG = logging.getLogger("nova_netagent")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
STOP_SECONDS = 20.0
"""How long requests in flight may take once the agent is told to stop."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""malloc.h"""
_FORKED_SECONDS = 1.0
"""So long what an agent that was killed had just forked may have its claim: until it is the program that it becomes."""
STUCK_SECONDS = 60.0
"""How old the engine's heartbeat may be: a commit of the largest tables takes a second."""
_HELP = """\
exit status:
  0  stopped cleanly
  1  failed, for another reason than the configuration
  2  wrong usage, or a configuration that cannot be used
"""


def version() -> str:
    """The version that is installed."""
    return importlib.metadata.version("nova-netagent")


class _Parser(argparse.ArgumentParser):
    """One that refuses in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The daemon's command line."""
    made = _Parser(
        prog="nova-netagent",
        description="A nova-network style agent for the network namespace that it is started in.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--config-file", action="append", default=[], metavar="FILE", help="may be given again")
    made.add_argument("--config-dir", action="append", default=[], metavar="DIR", help="its *.conf are read in order")
    made.add_argument("--version", action="version", version=f"nova-netagent {version()}")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until it is told to stop; returns the exit code."""
    arguments = parser().parse_args(argv)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they wait until there is somebody to obey them
    try:
        return _run(arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _run(arguments: argparse.Namespace) -> int:
    files = arguments.config_file or ["/etc/nova-netagent/nova-netagent.conf"]
    from nova_netagent import conf, local, logs

    opts = conf.global_options()
    try:
        settings = local.load(files, arguments.config_dir, opts)
    except conf.ConfigError as error:
        print(f"nova-netagent: {error}", file=sys.stderr)
        return 2
    try:
        logs.setup(opts)
        collect_rarely()
        return_memory()
        return Daemon(settings, opts, files, arguments.config_dir).run()
    except conf.ConfigError as error:
        print(f"nova-netagent: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        LOG.critical("%s", error, exc_info=LOG.isEnabledFor(logging.DEBUG))
        return 1


def _claim(state_path: str) -> int:
    """Have the stored state for this process alone: two agents would undo each other's work.

    The kernel gives the claim up when the process ends, however it does.

    :returns: the descriptor that holds it.
    """
    try:
        Path(state_path).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(state_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RuntimeError(f"[DEFAULT] state_path = {state_path}: {error.strerror}") from error
    patience = time.monotonic() + _FORKED_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > patience:
                os.close(descriptor)
                raise RuntimeError(f"{state_path}: another agent works with this state") from None
        time.sleep(0.01)


def collect_rarely() -> None:
    """Have the garbage collector look less often.

    The model, the rules and their bytes refer to each other without cycles, and die by
    reference count. With Python's defaults it visits all of them again and again while a
    host of 1,000 instances is compiled: half of the time of a cold start. 5,000 instances
    are more than half a million objects; to visit these once is a tenth of that time.
    """
    gc.set_threshold(2_000_000, 20, 50)


def return_memory() -> None:
    """Have what is large given back to the system when it is done with, and not kept for the next time.

    glibc keeps up to 32 MiB of each size that was asked for once (mallopt(3), ``M_MMAP_THRESHOLD``), and a
    host of 5,000 instances has eight tables of up to 20 MiB, each of them twice while it is replaced.
    """
    import ctypes

    try:
        set_option = ctypes.CDLL(None).mallopt
    except AttributeError:
        return  # another libc, which has its own ways
    set_option(_M_MMAP_THRESHOLD, 4 << 20)
    set_option(_M_TRIM_THRESHOLD, 4 << 20)


class Daemon:
    """The engine on its native thread, and the API on the main thread's event loop."""

    def __init__(self, settings: "Settings", opts: Any, files: Sequence[str], dirs: Sequence[str]) -> None:
        from nova_netagent.conf import awaits_my_ip
        from nova_netagent.metrics import Metrics
        from nova_netagent.wiring import make_engine

        self._settings = settings
        self._opts = opts
        self._awaits_my_ip = awaits_my_ip(opts)
        self._files = files
        self._dirs = dirs
        self._started, self._began = time.time(), time.monotonic()
        self._metrics = Metrics()
        self._hub: Hub | None = None
        self._rpc: Rpc | None = None
        self._tcp: Tcp | None = None
        self._group_log = self._open_group_log()
        self._engine: Engine = make_engine(
            self._settings, self._metrics, self._poke, self._coming, awaits_my_ip=self._awaits_my_ip
        )
        self._signals: set[signal.Signals] = set()
        self._was_ready = False
        self._told = ""
        self._deaf = ""
        """Why nobody can call."""

    def _open_group_log(self) -> "GroupLog | None":
        """The log of security groups, if it is on and this kernel can tell; else no rule of it is made."""
        from msgspec.structs import replace

        from nova_netagent.backend import Unavailable
        from nova_netagent.settings import SecurityGroupLogSettings

        wanted = self._settings.security_group_log
        if not wanted.groups:
            return None
        from nova_netagent.grouplog import GroupLog

        try:
            count = self._metrics.security_group_log_packets_total
            return GroupLog(wanted, lambda: self._engine.view.state, lambda what, n: count.labels(what).inc(n))
        except Unavailable as error:
            LOG.error("security groups are not logged: %s", error)
            self._settings = replace(self._settings, security_group_log=SecurityGroupLogSettings())
            return None

    def run(self) -> int:
        """Serve until a signal or the engine's end."""
        from nova_netagent import capabilities, systemd
        from nova_netagent.api.hub import Hub

        self._hub = hub = Hub(self._engine.submit)
        _allow_many_connections()
        capabilities.require()
        hub.on_signals(SIGNALS, self._signals.add)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        agent = self._agent(hub)
        self._tcp = self._make_tcp(hub, agent)
        self._claim = _claim(self._settings.state_path)  # held to the end of the process
        self._rpc = self._make_rpc(agent)
        self._listen(hub, agent)
        # A daemon thread: should this one end by a fault, the service manager must see it end.
        thread = threading.Thread(target=self._engine.run, name="engine", daemon=True)
        thread.start()
        if self._group_log is not None:
            self._group_log.start()
        if self._rpc is not None:
            self._rpc.start()
        watchdog = systemd.watchdog_seconds()
        if watchdog is not None:
            hub.every(watchdog / 3, self._feed_watchdog)
        while thread.is_alive() and not self._signals & {signal.SIGTERM, signal.SIGINT}:
            hub.rest(1.0)
            self._tell_readiness()
            self._listen_again()
            self._look_for_my_ip()
            self._obey()
        systemd.notify("STOPPING=1", "STATUS=finishing the requests in flight")
        return self._stop(hub, thread)

    def _agent(self, hub: "Hub") -> "Agent":
        from nova_netagent.api.agent import Agent

        return Agent(
            submit=hub.submit_and_wait,
            view=lambda: self._engine.view,
            live=self._live,
            about=self._about,
            metrics=self._metrics,
            settings=self._settings.api,
            offload=hub.offload,
            apart=hub.apart,
            rpc=lambda: None if self._rpc is None else self._rpc.state(),
        )

    def _make_rpc(self, agent: "Agent") -> "Rpc | None":
        """RPC where it is on; what it needs is imported only then."""
        if not self._settings.rpc.enabled:
            return None
        from nova_netagent.rpc.service import Rpc
        from nova_netagent.services import release

        return Rpc(self._settings, self._opts, agent, self._engine.submit, release.send)

    def _make_tcp(self, hub: "Hub", agent: "Agent") -> "Tcp | None":
        """The API over TCP where it is on; what it needs is imported only then."""
        if self._settings.api.bind_host is None:
            return None
        from nova_netagent.api.tcp import Tcp

        return Tcp(hub, agent, self._opts)

    def _listen(self, hub: "Hub", agent: "Agent") -> None:
        from nova_netagent.api import sockets
        from nova_netagent.api.access import by_peer
        from nova_netagent.api.app import make_app

        api = self._settings.api
        self._listener = sockets.UnixListener(api.socket, api.socket_mode, api.socket_group)
        self._server = hub.serve(self._listener.socket, make_app(agent, by_peer(self._listener.group)))
        if self._tcp is not None:
            self._tcp.serve()

    def _listen_again(self) -> None:
        """Let callers come, also where somebody has taken the socket's name away."""
        from nova_netagent.api import sockets

        failure, self._deaf = self._deaf, ""
        try:
            if self._listener.renew():
                self._server.listen(self._listener.socket)
                LOG.warning("%s had been taken away, and is there again", self._settings.api.socket)
        except sockets.ListenFailed as error:
            self._deaf = str(error)
            if self._deaf != failure:
                LOG.error("nobody can call: %s", error)

    def _stop(self, hub: "Hub", thread: threading.Thread) -> int:
        from nova_netagent.api.agent import Unanswered

        self._listener.remove()  # first: who comes late finds no socket, and not one that is reset
        if not thread.is_alive():
            ended = Unanswered(f"the engine ended: {self._engine.failed}")
            hub.abandon(ended)
            if self._rpc is not None:
                self._rpc.abandon(ended)
        self._engine.hurry()
        hub.leave_off()
        rpc_stopped = None if self._rpc is None else self._rpc.stop(STOP_SECONDS)
        if not hub.stop(STOP_SECONDS):
            LOG.warning("requests were still in flight after %.0f s", STOP_SECONDS)
        if rpc_stopped is not None and not hub.wait(rpc_stopped):
            LOG.warning("calls were still in flight after %.0f s", STOP_SECONDS)
        self._engine.stop()
        while thread.is_alive():
            hub.rest(0.2)
        if self._group_log is not None:
            self._group_log.stop()
        hub.close()
        if self._engine.failed is not None:
            LOG.critical("%s", self._engine.failed)
            return 1
        LOG.info("stopped; rules, links and addresses stay as they are")
        return 0

    # --- how it is

    def _coming(self) -> bool:
        return self._hub is not None and self._hub.coming()

    def _poke(self) -> None:
        if self._hub is not None:
            self._hub.poke()

    def _live(self) -> tuple[bool, str]:
        if self._engine.failed is not None:
            return False, f"the engine ended: {self._engine.failed}"
        age = time.monotonic() - self._engine.heartbeat
        return (True, "") if age < STUCK_SECONDS else (False, f"the engine has been busy for {age:.0f} s")

    def _about(self) -> "About":
        from nova_netagent.api.agent import About

        host = getattr(self._engine, "host", None)
        backend = host and host.rules
        return About(
            host=self._settings.host,
            version=version(),
            started=self._started,
            uptime=time.monotonic() - self._began,
            backend=backend and backend.name,
            see_with=self._engine.see_with,
        )

    def _feed_watchdog(self) -> None:
        from nova_netagent import systemd

        if self._live()[0]:
            systemd.notify("WATCHDOG=1")

    def _tell_readiness(self) -> None:
        """Tell the service manager how it is: that the stored state is in the kernel, and each second in a line."""
        from nova_netagent import systemd

        view = self._engine.view
        if view.ready and not self._was_ready:
            self._was_ready = True
            self._remember_my_ip()
            gc.freeze()  # what is there now stays: the collector need not visit it
            gc.set_threshold(50_000, 20, 50)  # a request leaves some 50 objects in cycles, of eventlet's
            backend = self._engine.host.rules
            LOG.info("enforcing with %s; see the rules with %s", backend.name, self._engine.see_with)
            self._told = self._status_line()
            systemd.notify("READY=1", f"STATUS={self._told}")
        elif not self._was_ready and self._live()[0]:
            # It waits for the kernel, and is not to be ended for that.
            systemd.notify(f"EXTEND_TIMEOUT_USEC={int(2 * STUCK_SECONDS * 1e6)}")
        line = self._status_line()
        if line != self._told:
            self._told = line
            systemd.notify(f"STATUS={line}")

    def _status_line(self) -> str:
        view = self._engine.view
        if view.failure:
            return f"the kernel does not have the state: {view.failure}"
        if not view.ready:
            return "loading the stored state into the kernel"
        objects = view.state.size()
        not_done = len(view.unapplied | view.troubles.keys())
        troubles = f", {not_done} of them pending or in error" if not_done else ""
        name, see_with = self._engine.host.rules.name, self._engine.see_with
        rpc = "" if self._rpc is None or self._rpc.state().connected else "; RPC: no broker"
        return f"enforcing with {name}, {objects} objects{troubles}; see the rules with {see_with}{rpc}"

    # --- where it is

    def _remember_my_ip(self) -> None:
        from nova_netagent.conf import own_address

        address = self._settings.my_ip
        if address is not None and not self._awaits_my_ip:
            own_address.remember(self._settings.state_path, address)

    def _look_for_my_ip(self) -> None:
        """Take this host's own address as soon as a default route tells it, if none did so at the start."""
        if not self._awaits_my_ip:
            return
        from msgspec.structs import replace

        from nova_netagent import conf
        from nova_netagent.conf import own_address

        found = own_address.of_default_route()
        if found is None:
            return
        self._awaits_my_ip = False
        try:
            moved = conf.with_my_ip(self._opts, found)
        except conf.ConfigError as error:
            LOG.error("[DEFAULT] my_ip = %s, which a default route tells now, is not used: %s", found, error)
            return
        # The log of groups may be off for what this kernel cannot tell.
        self._settings = replace(moved, security_group_log=self._settings.security_group_log)
        self._remember_my_ip()
        self._engine.move(self._settings)

    # --- what it is told

    def _obey(self) -> None:
        if signal.SIGHUP in self._signals:
            self._signals.discard(signal.SIGHUP)
            self._reload()
        if signal.SIGUSR2 in self._signals:
            self._signals.discard(signal.SIGUSR2)
            _report()

    def _reload(self) -> None:
        """Read the configuration anew; an invalid one changes nothing and says why."""
        from nova_netagent import conf, local, logs, systemd
        from nova_netagent.api import tls

        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            wanted = local.load(self._files, self._dirs)
            if wanted.api.bind_host is not None:
                tls.server_context(wanted.api)  # what the next start would refuse
            certificates = None if self._tcp is None else self._tcp.renewed()
            logs.renew(self._opts)
        except conf.ConfigError as error:
            LOG.error("the configuration is kept as it was: %s", error)
        else:
            if self._tcp is not None:
                self._tcp.use(certificates)
            ignored = self._engine.reconfigure(wanted)
            if ignored:
                LOG.warning("takes effect at the next start: %s", ", ".join(ignored))
            LOG.info("configuration read anew")
        systemd.notify("READY=1")


def _allow_many_connections() -> None:
    """Let the API have as many descriptors as this process may."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now != most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        except (OSError, ValueError) as error:  # a service manager's seccomp filter may forbid it
            LOG.warning("at most %d connections: %s", now, error)


def _report() -> None:
    """Write a Guru Meditation Report to stderr."""
    from oslo_reports import guru_meditation_report as gmr

    class _Version:
        @staticmethod
        def vendor_string() -> str:
            return "nova-netagent"

        @staticmethod
        def product_string() -> str:
            return "nova-netagent"

        @staticmethod
        def version_string_with_package() -> str:
            return version()

    print(gmr.TextGuruMeditation(_Version).run(), file=sys.stderr)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
