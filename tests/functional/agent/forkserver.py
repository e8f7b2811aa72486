"""The daemon, started in milliseconds: forked from a process that has imported everything.

A start takes half a second, nearly all of it imports. Tests that start the daemon again and
again have one server fork it into the host's namespaces: what then runs is the daemon's main().
"""

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from typing import Any

from tests.lab import Agent, privileges, syscalls
from tests.lab.agent import REPOSITORY

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
    """An Agent whose every start is a fork of the server."""

    def _launch(self) -> Any:
        return _Process(_server(), self)


class _Process:
    """As much of subprocess.Popen as an Agent needs, for a child of the server."""

    def __init__(self, server: "_Server", agent: Agent) -> None:
        here, host = f"/proc/{os.getpid()}/fd", agent.namespace
        namespaces = [(f"{here}/{host.fd}", syscalls.CLONE_NEWNET)]
        if host._mount_fd is not None:
            namespaces.append((f"{here}/{host._mount_fd}", syscalls.CLONE_NEWNS))
        self._server = server
        self.pid = server.ask(config=str(agent.config_file), log=str(agent.log_file), namespaces=namespaces)
        self._descriptor = os.pidfd_open(self.pid)
        self._code: int | None = None

    def __del__(self) -> None:
        os.close(self._descriptor)

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            ended = select.poll()  # select(2) knows no descriptor from 1024 on, and a whole run has as many
            ended.register(self._descriptor, select.POLLIN)
            if not ended.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("the forked daemon", timeout or 0)
            self._code = self._server.ask(ended=self.pid)
        return self._code

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        signal.pidfd_send_signal(self._descriptor, number)


class _Server:
    """The process that forks, in no host's namespaces."""

    def __init__(self) -> None:
        argv = [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=REPOSITORY
        )
        self._lock = threading.Lock()

    def ask(self, **request: Any) -> int:
        """Have a daemon forked, and get its process id; or learn how one ended."""
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            return int(self._process.stdout.readline())


_running: list[_Server] = []


def _server() -> _Server:
    if not _running:
        _running.append(_Server())
    return _running[0]


def serve() -> None:
    """Answer the requests on standard input, to its end."""
    for name in IMPORTED:
        importlib.import_module(name)
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "ended" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["ended"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _become_daemon(**request)
        print(answer, flush=True)


def _become_daemon(config: str, log: str, namespaces: list[tuple[str, int]]) -> None:
    from nova_netagent.cmd.agent import main

    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(written, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    opened = [(os.open(path, os.O_RDONLY), kind) for path, kind in namespaces]
    for descriptor, kind in opened:
        syscalls.setns(descriptor, kind)
        os.close(descriptor)
    os.chdir(REPOSITORY)
    if privileges.wanted():
        privileges.become()
    code = 1
    try:
        code = main(["--config-file", config])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
