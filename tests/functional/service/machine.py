"""A machine with a real systemd: namespaces of its own, this machine's files below a layer that is thrown away.

Its root is an overlay whose changes live in memory, its network has nothing but a loopback. What runs
in it sees this machine's programs, and changes nothing of this machine.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.functional.agent.kernel import eventually
from tests.lab.agent import REPOSITORY

SYSTEMD = Path("/lib/systemd/systemd")
SOURCE, ENVIRONMENT = Path("/opt/lab/source"), Path("/opt/lab/environment")
"""Where the machine has this repository and the Python environment of the tests."""

MASKED = """
    systemd-udevd systemd-timesyncd systemd-networkd systemd-resolved systemd-logind getty@tty1 console-getty
    rabbitmq-server systemd-sysctl systemd-networkd-wait-online networking ifupdown-wait-online
"""

ENTER = r"""
set -e
lab=$1; root=$lab/root
mount --make-rprivate /
mount -t tmpfs tmpfs "$lab"
mkdir "$lab"/{changes,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$lab/changes,workdir=$lab/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for each in null zero full random urandom tty; do
    touch "$root/dev/$each"; mount --bind "/dev/$each" "$root/dev/$each"
done
mkdir "$root"/dev/{shm,pts}
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs tmpfs "$root/dev/shm"
mkdir -p "$root/opt/lab/source" "$root/opt/lab/environment"
mount --bind "$2" "$root/opt/lab/source"
mount --bind "$3" "$root/opt/lab/environment"
ip link set lo up
for each in $4; do ln -sf /dev/null "$root/etc/systemd/system/$each.service"; done
rm -rf "$root"/etc/systemd/system/*.wants "$root/etc/machine-id" "$root"/var/log/journal
printf '[Unit]\nDescription=The lab\nRequires=systemd-journald.service\nAfter=systemd-journald.service\n' \
    >"$root/etc/systemd/system/lab.target"
mkdir -p "$root/etc/tmpfiles.d"; : >"$root/etc/tmpfiles.d/tmp.conf"  # /tmp is not emptied: the source may be in it
echo lab >"$root/etc/hostname"; : >"$root/etc/fstab"; : >"$root/etc/machine-id"
cd "$root"; mkdir -p before; pivot_root . before
export container=lab; unset INVOCATION_ID NOTIFY_SOCKET
umount -l /before
exec /lib/systemd/systemd --system --unit=lab.target --show-status=no --log-target=journal-or-kmsg
"""


def missing() -> str | None:
    """Why no machine can be had here."""
    if not SYSTEMD.exists():
        return "systemd is not installed"
    if "cgroup2" not in Path("/proc/filesystems").read_text():
        return "the kernel has no cgroup v2"
    return None


class Machine:
    """One machine, running from the beginning; closing it frees everything."""

    def __init__(self, directory: Path, environment: Path) -> None:
        root = directory / "machine"
        root.mkdir()
        hierarchy = directory / "cgroup"
        hierarchy.mkdir()
        # The tests have mounts of their own: this one is seen by nobody else.
        subprocess.run(["mount", "-t", "cgroup2", "none", hierarchy], check=True)
        self._group = hierarchy / f"netagent-{os.getpid()}-{id(self)}"
        self._group.mkdir()
        # The first process to be in the group, so that its namespace has the group as its root.
        enter = ["bash", "-c", ENTER, "enter", str(root), str(REPOSITORY), str(environment), " ".join(MASKED.split())]
        begin = f'echo $$ >"{self._group}/cgroup.procs" && exec "$@"'
        unshare = ["unshare", "--pid", "--mount", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]
        self._log = directory / "machine.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", begin, "begin", *unshare, *enter],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        eventually(self._booted, within=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def run(self, *argv: str | Path, check: bool = True, input: str | None = None) -> str:  # noqa: A002 - subprocess's
        """Run a command as root in the machine: its output, errors included."""
        done = self._run(argv, input)
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} ended with {done.returncode}:\n{done.stdout}\n{self.journal()[-6000:]}")
        return done.stdout

    def fails(self, *argv: str | Path) -> bool:
        """Run a command; whether it failed."""
        return self._run(argv, None).returncode != 0

    def write(self, path: str, text: str) -> None:
        """Write a file, and what directories it needs."""
        self.run("mkdir", "-p", str(Path(path).parent))
        self.run("tee", path, input=text)

    def journal(self, unit: str = "nova-netagent") -> str:
        """What a unit and its manager said."""
        return self._run(["journalctl", "--no-pager", "-o", "cat", "-u", unit], None).stdout

    def show(self, name: str, unit: str = "nova-netagent") -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def close(self) -> None:
        """End everything in it."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        eventually(lambda: not self._populated(), within=20)
        for path in sorted(self._group.rglob("*"), key=lambda each: -len(each.parts)):
            if path.is_dir():
                path.rmdir()
        self._group.rmdir()
        subprocess.run(["umount", "--lazy", self._group.parent], check=True)

    def _populated(self) -> bool:
        kill = self._group / "cgroup.kill"
        if kill.exists():
            kill.write_text("1")
        return "populated 1" in (self._group / "cgroup.events").read_text()

    def _run(self, argv: Sequence[str | Path], given: str | None) -> "subprocess.CompletedProcess[str]":
        command = ["nsenter", "-t", str(self._init()), "-a", *map(str, argv)]
        return subprocess.run(
            command,
            input=given,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        )

    def _init(self) -> int:
        """The machine's first process, as this machine counts it."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0])

    def _booted(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"the machine ended: {self._log.read_text()}")
        try:
            return self._run(["systemctl", "is-active", "lab.target"], None).stdout.strip() == "active"
        except (IndexError, FileNotFoundError):
            return False
