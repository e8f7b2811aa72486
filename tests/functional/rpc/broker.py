"""RabbitMQ on the loopback of the tests' own namespace, with its own node name, ports and files.

Nothing of a broker that this machine may have is used or seen: not its files, not its epmd.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.functional.agent.kernel import eventually

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
CTL = Path("/usr/lib/rabbitmq/bin/rabbitmqctl")
AS_USER = ("setpriv", "--reuid=rabbitmq", "--regid=rabbitmq", "--clear-groups")
PORT, DISTRIBUTION_PORT, EPMD_PORT = 25672, 25673, 25674
URL = "rabbit://guest:guest@127.0.0.1:{}/"


def missing() -> str | None:
    """Why there can be no broker here."""
    if not SERVER.exists() or shutil.which("epmd") is None:
        return "rabbitmq-server is not installed"
    return None


class Broker:
    """One RabbitMQ, started by hand as its own user."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="netagent-rabbit-", dir="/var/tmp"))
        (self._directory / "rabbit.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{PORT}\nlog.file.level = warning\nvm_memory_high_watermark.absolute = 512MB\n"
        )
        (self._directory / "plugins").write_text("[].\n")
        self._environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self._directory),
            "RABBITMQ_NODENAME": "netagent@localhost",
            "RABBITMQ_MNESIA_BASE": str(self._directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._directory / "log"),
            "RABBITMQ_PID_FILE": str(self._directory / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self._directory / "rabbit"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._directory / "plugins"),
            "RABBITMQ_DIST_PORT": str(DISTRIBUTION_PORT),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(EPMD_PORT),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        shutil.chown(self._directory, "rabbitmq", "rabbitmq")
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start it; ``wait`` waits until it takes connections."""
        if not self._processes:  # or a daemon would be started, and stay
            self._run("epmd", "-port", str(EPMD_PORT), "-address", "127.0.0.1")
            eventually(lambda: _listens(EPMD_PORT), within=10)
        self._run(str(SERVER))

    def wait(self) -> None:
        """Wait until it takes connections."""
        eventually(lambda: _listens(PORT), within=60)

    def wait_kept(self, queue: str) -> None:
        """Wait until a quorum queue of the virtual host / would outlive ``kill``.

        One does not that was declared within the second before: RabbitMQ 3.10 writes down which member of a
        queue is its own half a second after the last look at any (ra's names.dets), and starts those that it does
        not find as new ones, which elect no leader. From then on the queue takes and gives nothing.
        """
        names = f"mnesia/{self._environment['RABBITMQ_NODENAME']}/quorum/*/names.dets"
        eventually(
            lambda: any(f"%2F_{queue}".encode() in each.read_bytes() for each in self._directory.glob(names)), within=30
        )

    def _run(self, *argv: str) -> None:
        with (self._directory / "output").open("ab") as output:
            self._processes.append(
                subprocess.Popen(
                    (*AS_USER, *argv),
                    env=self._environment,
                    cwd=self._directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def ctl(self, *words: str) -> str:
        """``rabbitmqctl``: what it says."""
        command = [*AS_USER, str(CTL), "-n", self._environment["RABBITMQ_NODENAME"], "-q", *words]
        environment = {**self._environment, "LANG": "C.UTF-8"}
        return subprocess.run(
            command, env=environment, cwd=self._directory, check=True, capture_output=True, text=True
        ).stdout

    def kill(self) -> None:
        """End it at once, as a power cut would; what is durable comes back with ``start``."""
        server = self._processes.pop()
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        eventually(lambda: not _listens(PORT), within=10)

    def close(self) -> None:
        """End it, and leave no file behind."""
        for each in reversed(self._processes):
            os.killpg(each.pid, signal.SIGKILL)
            each.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0
