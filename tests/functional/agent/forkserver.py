"""The daemon, started in milliseconds: forked from a process that has imported everything.

A start takes half a second, nearly all of it imports. A test that starts the daemon hundreds of
times lets a server in the same namespace fork it: what then runs is the daemon's own main().
"""

import contextlib
import importlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.lab import Agent, Lab, Namespace

IMPORTED = (
    "nova_netagent.api.app",
    "nova_netagent.api.hub",
    "nova_netagent.backend.iptables",
    "nova_netagent.conf",
    "nova_netagent.systemd",
    "nova_netagent.wiring",
    "oslo_log.log",
    "pyroute2.iproute.linux",
)
"""What takes the time."""


class ForkedAgent(Agent):
    """An Agent whose every start is a fork of its server."""

    def __init__(self, lab: Lab, namespace: Namespace, directory: Path, config: dict[str, dict[str, object]]) -> None:
        super().__init__(namespace, directory, config)
        lab.agents.append(self)
        argv = [sys.executable, "-m", __name__]
        self._server = namespace.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout.readline() == "ready\n"

    def start(self, *, ready: bool = True, within: float = 30) -> None:
        """Have it forked and, unless told otherwise, wait until it is ready."""
        self._server.stdin.write(f"{self.config_file}\n")
        self._server.stdin.flush()
        self.process = _Process(int(self._server.stdout.readline()))  # type: ignore[assignment]
        if ready:
            self.wait_ready(within)

    @property
    def log(self) -> str:
        """All that it said, over all its lives."""
        file = self.config_file.with_suffix(".log")
        return file.read_text(errors="replace") if file.exists() else ""


class _Process:
    """As much of subprocess.Popen as an Agent needs, for somebody else's child."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def poll(self) -> int | None:
        return -1 if select.select([self._descriptor], [], [], 0)[0] else None

    def wait(self, timeout: float | None = None) -> int:
        if not select.select([self._descriptor], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("the forked daemon", timeout or 0)
        return -1

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        signal.pidfd_send_signal(self._descriptor, number)


def serve() -> None:
    """Fork a daemon for each line of standard input, which names its configuration file."""
    for name in IMPORTED:
        importlib.import_module(name)
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            _become_daemon(line.strip())
        print(pid, flush=True)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _become_daemon(config_file: str) -> None:
    from nova_netagent.cmd.agent import main

    log = os.open(str(Path(config_file).with_suffix(".log")), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os._exit(main(["--config-file", config_file]))


if __name__ == "__main__":
    serve()
