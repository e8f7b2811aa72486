"""The daemon under test, as a program in a namespace, driven through its API socket."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.lab import privileges, tables, unix_http
from tests.lab.namespace import Namespace

Config = Mapping[str, Mapping[str, Any]]

REPOSITORY = Path(__file__).resolve().parents[2]
LONGEST_SOCKET_PATH = 107
POLL = 0.005
PATIENCE = 30.0
"""Seconds after which an agent that does not answer hangs."""
BACKENDS = sorted(os.environ.get("NETAGENT_BACKEND", "iptables,nftables").split(","))
"""The packet filters on which packet tests run; the first one is that of agents that are not told another.

Where iptables is among them it is that one, and a test of the legacy tables need not ask for it.
"""
BACKEND = BACKENDS[0]


_in_use: "list[Agent]" = []


class AgentError(AssertionError):
    """The daemon did not do what was asked; the text holds the end of its log."""


class Agent:
    """nova-netagent in one namespace, its state, configuration and log in ``directory``.

    ``config`` is ``{"section": {"option": value}}``; lists are joined by commas. ``command`` is
    another program to start in place of the daemon; ``--config-file FILE`` is added to it.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        config: Config | None = None,
        *,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.namespace = namespace
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.state_path = directory / "state"
        self.state_path.mkdir(exist_ok=True)
        self.socket = _short(directory / "api.sock")
        self.config_file = directory / "nova-netagent.conf"
        self.log_file = directory / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = list(command or daemon_command())
        self._environment = dict(environment or {})
        self._aborting = threading.Lock()
        self._last_words = ""
        self.configure(config or {})

    # its life

    def configure(self, config: Config) -> None:
        """Write the configuration file; a running daemon reads it at SIGHUP or restart."""
        defaults: dict[str, dict[str, Any]] = {
            "DEFAULT": {"host": self.namespace.name, "state_path": self.state_path},
            "api": {"socket": self.socket},
            "firewall": {"backend": BACKEND},
        }
        sections = [*defaults, *(section for section in config if section not in defaults)]
        merged = {section: {**defaults.get(section, {}), **config.get(section, {})} for section in sections}
        self.config_file.write_text(render_ini(merged))

    def start(self, *, ready: bool = True, within: float = 30) -> None:
        """Start the daemon and, unless told otherwise, wait until it is ready."""
        if self.running:
            raise RuntimeError("the agent runs already")
        if self not in _in_use:
            _in_use.append(self)
        if privileges.wanted():
            privileges.give(self.directory, self.socket.parent)
        self.process = self._launch()
        if ready:
            self.wait_ready(within)

    def _launch(self) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **self._environment}
        command = [*self._command, "--config-file", str(self.config_file)]
        with self.log_file.open("ab") as log:
            return self.namespace.popen(
                privileges.command(command) if privileges.wanted() else command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=REPOSITORY,
            )

    def wait_ready(self, within: float = 30) -> None:
        """Wait until ``GET /readyz`` answers 200."""
        deadline = time.monotonic() + within
        while (why := self._not_ready()) is not None:
            if not self.running:
                raise AgentError(f"the agent ended with {self.exit_code} before it was ready\n{self.log_end()}")
            if time.monotonic() > deadline:
                raise AgentError(f"the agent is not ready after {within} s: {why}\n{self.log_end()}")
            time.sleep(POLL)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._started().pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, or None."""
        return None if self.process is None else self.process.poll()

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._started().send_signal(number)

    def wait(self, within: float = 20) -> int:
        """Wait for the end of the process, and give its exit code."""
        try:
            return self._started().wait(within)
        except subprocess.TimeoutExpired:
            raise AgentError(f"the agent still runs after {within} s\n{self.log_end()}") from None

    def stop(self, within: float = 20) -> None:
        """Ask it to stop and see it end cleanly."""
        self.signal(signal.SIGTERM)
        code = self.wait(within)
        if code != 0:
            raise AgentError(f"the agent ended with {code} after SIGTERM\n{self.log_end()}")

    def kill9(self) -> None:
        """Kill it as a crash would."""
        self._started().kill()
        self._started().wait()

    def restart(self, config: Config | None = None) -> None:
        """Stop it cleanly and start it again, maybe with another configuration."""
        self.stop()
        if config is not None:
            self.configure(config)
        self.start()

    def close(self) -> None:
        """End it without ceremony, at the end of a test; with KEEP_NS=1 it stays."""
        if self in _in_use:
            _in_use.remove(self)
        if self.running and os.environ.get("KEEP_NS") != "1":
            self.kill9()

    # its API

    def request(self, method: str, path: str, body: Any = None, *, timeout: float = PATIENCE) -> tuple[int, Any]:
        """Send a request; status and parsed body, whatever they are. Of one that hangs it is told where."""
        try:
            return unix_http.request(self.socket, method, path, body, timeout=timeout)
        except TimeoutError as error:
            if timeout < PATIENCE:
                raise
            raise AgentError(f"{method} {path} was not answered within {timeout} s\n{self.abort()}") from error

    def abort(self) -> str:
        """End it; where each of its threads was, in the kernel and in Python (by faulthandler, which needs none)."""
        with self._aborting:  # of several who wait in vain the first one finds out
            if self.running:
                before = len(self.log)
                in_kernel = "\n".join(self._kernel_stacks())
                self.signal(signal.SIGABRT)
                self.wait()
                self._last_words = f"{in_kernel}\n{self.log[before:]}"
            return self._last_words

    def _kernel_stacks(self) -> Iterator[str]:
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            name = (thread / "comm").read_text().strip()
            try:
                calls = [line.split()[1] for line in (thread / "stack").read_text().splitlines()]
            except OSError as error:  # of another user namespace than the machine's, who may not see it
                calls = [error.strerror or ""]
            yield f"{name} ({thread.name}) in the kernel: {' < '.join(calls)}"

    def put(self, kind: str, body: Mapping[str, Any], *, wait: bool = True) -> dict[str, Any]:
        """Create or replace one object and give back the answer; a refusal is an AgentError."""
        path = f"/v1/{kind}/{quote(str(body['id']), safe='')}" + ("" if wait else "?wait=false")
        return dict(self._accepted("PUT", path, body))

    def delete(self, kind: str, object_id: str, *, revision: int | None = None) -> None:
        """Delete one object, which must be there."""
        query = "" if revision is None else f"?revision={revision}"
        self._accepted("DELETE", f"/v1/{kind}/{quote(object_id, safe='')}{query}")

    def get(self, kind: str, object_id: str | None = None) -> Any:
        """One object, or all of a kind as a list."""
        if object_id is not None:
            return self._accepted("GET", f"/v1/{kind}/{quote(object_id, safe='')}")
        return self._accepted("GET", f"/v1/{kind}")[kind.replace("-", "_")]

    def state(self, desired: Mapping[str, Any] | None = None, *, dry_run: bool = False) -> dict[str, Any]:
        """The whole desired state; with ``desired``, replace it and give back the answer."""
        if desired is None:
            return dict(self._accepted("GET", "/v1/state"))
        return dict(self._accepted("PUT", "/v1/state" + ("?dry_run=true" if dry_run else ""), desired))

    def resync(self) -> Any:
        """Have it compare the kernel with the desired state now."""
        return self._accepted("POST", "/v1/resync")

    def explain(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What it says becomes of a packet."""
        return dict(self._accepted("POST", "/v1/explain", question))

    def _accepted(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.request(method, path, body)
        if not 200 <= status < 300:
            raise AgentError(f"{method} {path} was answered with {status}: {answer}")
        return answer

    # what it left behind

    @property
    def log(self) -> str:
        """All that it said, over all its lives."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def log_end(self, lines: int = 60) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.splitlines()[-lines:])

    def iptables_save(self, *, counters: bool = False, family: tables.Family = 4, table: str | None = None) -> str:
        """The legacy tables of its namespace as text."""
        return tables.iptables_save(self.namespace, counters=counters, family=family, table=table)

    def ipsets(self) -> dict[str, set[str]]:
        """The members of the ipsets of its namespace, by set."""
        return tables.ipsets(self.namespace)

    def _started(self) -> "subprocess.Popen[bytes]":
        if self.process is None:
            raise RuntimeError("the agent was not started")
        return self.process

    def _not_ready(self) -> str | None:
        try:
            status, answer = self.request("GET", "/readyz", timeout=5)
        except OSError as error:
            return str(error)
        return None if status == 200 else f"{status} {answer}"


def in_use() -> "list[Agent]":
    """The agents that were started and not closed yet, running or not."""
    return list(_in_use)


def daemon_command() -> list[str]:
    """The daemon of the environment that runs the tests, installed or not."""
    installed = Path(sys.executable).with_name("nova-netagent")
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "nova_netagent.cmd.agent"]


def render_ini(config: Config) -> str:
    """A configuration as an INI file."""
    lines: list[str] = []
    for section, options in config.items():
        lines.append(f"[{section}]")
        lines += [f"{option} = {_ini_value(value)}" for option, value in options.items() if value is not None]
    return "\n".join(lines) + "\n"


def _ini_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def _short(path: Path) -> Path:
    """The path, or one in a directory of a short name, as the kernel allows a socket's path 107 bytes."""
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    return Path(tempfile.mkdtemp(prefix="netagent-", dir="/run")) / "api.sock"
