"""What a server needs of the system: processes and files. The real one, of this host.

A dnsmasq is ours when its command line has the pid file of our directory, by whole name, and
it leads its session, as we start it: those it forks for a TCP query do not. So it is known
again without a pid file, before it wrote one, and whoever has its old number is not taken for it.
"""

import contextlib
import errno
import os
import pwd
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from nova_netagent.services import release

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CAP_SETGID, _CAP_SETUID = 1 << 6, 1 << 7
_USERS = ("dnsmasq", "nobody")
HOSTS, DNS_HOSTS, LEASES, PID, STDERR, UNREAD = "dhcp-hosts", "dns-hosts", "leases", "pid", "stderr", "unread"
"""The files of a bridge by suffix; the first four are those of ``compile.dhcp.files``."""
SUFFIXES = (HOSTS, DNS_HOSTS, LEASES, PID, STDERR, UNREAD)


class StartFailed(Exception):
    """The program could not be started; the message says why."""


class Process(Protocol):
    """One dnsmasq."""

    pid: int
    arguments: tuple[str, ...]
    """Its command line without the program and the user that it becomes."""

    def ended(self) -> str | None:
        """How it ended; ``None``: it lives."""

    def ready(self) -> bool:
        """Whether it has bound its sockets: before that it dies of a SIGHUP."""

    def idle(self) -> bool:
        """Whether it has done what it was asked for, signals included, and waits for more."""

    def signal(self, number: int) -> None:
        """Send a signal; to one that ended it does nothing."""

    def close(self) -> None:
        """Let go of it."""


class System(Protocol):
    """Processes and files of one agent's dnsmasqs. Files are named by bridge and suffix."""

    def find(self) -> Mapping[str, Process]:
        """Those that run, by bridge. What else of ours runs is left over by one that died, and is killed."""

    def start(self, bridge: str, arguments: Sequence[str]) -> Process:
        """Start one, without waiting for it.

        :raises StartFailed: there is no such program, or no permission.
        """

    def bridges(self) -> frozenset[str]:
        """The bridges that have files."""

    def read(self, bridge: str, suffix: str) -> str | None:
        """The text of a file; ``None``: there is none."""

    def is_quiet(self, bridge: str, suffix: str, seconds: float) -> bool:
        """Whether a file has not changed for some time."""

    def write(self, bridge: str, suffix: str, text: str) -> None:
        """Have a file hold a text, all of it or what it held before.

        :raises OSError: it could not be written.
        """

    def remove(self, bridge: str, suffix: str) -> None:
        """Remove a file where there is one."""

    def release(self, bridge: str, server: str, address: str, mac: str) -> None:
        """Give an address back in the name of a MAC; whether it was heard is not known.

        :raises OSError: it could not be sent.
        """


class HostSystem:
    """The processes and files of this host.

    :param directory: where the files are; every other file there is left alone.
    """

    def __init__(self, directory: Path, program: str = "dnsmasq") -> None:
        if not directory.is_absolute():
            raise ValueError(
                f"{directory}: dnsmasq works from the root directory, so the path of its files begins there"
            )
        self._directory = directory
        self._program = program
        self._make_directory()
        self._user = user_arguments(directory)

    def _make_directory(self) -> None:
        """Whoever deletes the files while we run may delete it with them."""
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)

    def find(self) -> Mapping[str, Process]:
        """The session leaders with our pid file; orphans of a TCP query still hold the sockets."""
        leaders: dict[str, int] = {}
        others: list[tuple[int, int, str]] = []
        for pid, bridge in self._candidates():
            session = _session(pid)
            if session == pid and bridge not in leaders:
                leaders[bridge] = pid
            else:
                others.append((pid, session, bridge))
        for pid, session, bridge in others:
            if session != leaders.get(bridge):
                self._kill(pid, bridge)
        found: dict[str, Process] = {}
        for bridge, pid in leaders.items():
            process = self._open(pid, bridge)
            if process is not None:
                found[bridge] = process
        return found

    def start(self, bridge: str, arguments: Sequence[str]) -> Process:
        """Start it in a session of its own, with nothing of ours but a file for what it complains of."""
        path = shutil.which(self._program, path=f"{os.environ.get('PATH', '')}:{_PATH}")
        if path is None:
            raise StartFailed(f"there is no {self._program}: install dnsmasq-base")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        # A blocked signal stays blocked through exec, and this thread may have blocked some.
        blocked = signal.pthread_sigmask(signal.SIG_SETMASK, ())
        try:
            self._make_directory()
            words = os.open(self._path(bridge, STDERR), flags, 0o644)
            try:
                popen = subprocess.Popen(
                    [path, *arguments, *self._user],
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=words,
                    cwd="/",
                    env={"PATH": _PATH, "LC_ALL": "C"},
                    start_new_session=True,
                )
            finally:
                os.close(words)
            try:
                descriptor = os.pidfd_open(popen.pid)
            except OSError:
                popen.kill()  # nobody would look after it
                popen.wait()
                raise
        except OSError as error:
            raise StartFailed(f"{path}: {error}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return HostProcess(popen.pid, descriptor, tuple(arguments), self._path(bridge, PID), popen)

    def bridges(self) -> frozenset[str]:
        """By the names of the files that could be ours."""
        self._make_directory()
        names = (name.rpartition(".") for name in os.listdir(self._directory))
        return frozenset(stem for stem, _, suffix in names if stem and suffix in SUFFIXES)

    def read(self, bridge: str, suffix: str) -> str | None:
        """Read a file; one that cannot be read is as good as none."""
        try:
            return self._path(bridge, suffix).read_text(errors="replace")
        except OSError:
            return None

    def is_quiet(self, bridge: str, suffix: str, seconds: float) -> bool:
        """By the time of its last change."""
        try:
            age = time.time() - self._path(bridge, suffix).stat().st_mtime
        except OSError:
            return True
        return not 0 <= age < seconds

    def write(self, bridge: str, suffix: str, text: str) -> None:
        """Write beside it and rename.

        Not synced: after a power cut there is no dnsmasq, and before one is started its files
        are compared with what they should be.
        """
        self._make_directory()
        path = self._path(bridge, suffix)
        beside = path.with_name(f".{path.name}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with open(descriptor, "w") as file:
            os.fchmod(descriptor, 0o644)  # whatever the umask: dnsmasq reads it as somebody else
            file.write(text)
        beside.rename(path)

    def remove(self, bridge: str, suffix: str) -> None:
        """Remove a file."""
        with contextlib.suppress(FileNotFoundError):
            self._path(bridge, suffix).unlink()

    def release(self, bridge: str, server: str, address: str, mac: str) -> None:
        """Send a DHCPRELEASE."""
        release.send(bridge, server, address, mac)

    def _path(self, bridge: str, suffix: str) -> Path:
        return self._directory / f"{bridge}.{suffix}"

    def _candidates(self) -> Iterator[tuple[int, str]]:
        """Every process with a pid file of ours in its command line, in order of number."""
        begin, end = f"--pid-file={self._directory}/", f".{PID}"
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            for word in _command_line(pid):
                if word.startswith(begin) and word.endswith(end):
                    bridge = word[len(begin) : -len(end)]
                    if bridge and "/" not in bridge:
                        yield pid, bridge
                    break

    def _is(self, pid: int, bridge: str) -> bool:
        return f"--pid-file={self._path(bridge, PID)}" in _command_line(pid)

    def _open(self, pid: int, bridge: str) -> "HostProcess | None":
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return None
        words = _command_line(pid)
        if not self._is(pid, bridge):  # it ended while we looked, and another has its number
            os.close(descriptor)
            return None
        arguments = words[1:]
        if self._user and arguments[-len(self._user) :] == self._user:
            arguments = arguments[: -len(self._user)]
        return HostProcess(pid, descriptor, arguments, self._path(bridge, PID))

    def _kill(self, pid: int, bridge: str) -> None:
        process = self._open(pid, bridge)
        if process is not None:
            process.signal(signal.SIGKILL)
            process.close()


class HostProcess:
    """A process by its descriptor: no signal reaches another that has its number later.

    :param popen: it is a child of ours, to be waited for.
    """

    def __init__(
        self,
        pid: int,
        descriptor: int,
        arguments: tuple[str, ...],
        pid_file: Path,
        popen: "subprocess.Popen[bytes] | None" = None,
    ) -> None:
        self.pid = pid
        self.arguments = arguments
        self.descriptor = descriptor
        self._pid_file = pid_file
        self._popen = popen
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def ended(self) -> str | None:
        """Look at the descriptor, and wait for it where it is our child."""
        if not self._poll.poll(0):
            return None
        code = None if self._popen is None else self._popen.wait()
        if code is None:
            return "ended"
        if code >= 0:
            return f"ended with exit code {code}"
        names = {each.value: each.name for each in signal.Signals}  # of the real-time ones two have one
        return f"was killed by {names.get(-code, f'signal {-code}')}"

    def ready(self) -> bool:
        """It writes its pid file when its sockets are bound, and then reads its hosts."""
        try:
            return self._pid_file.read_text().strip() == str(self.pid)
        except OSError:
            return False

    def idle(self) -> bool:
        """By proc(5): it sleeps, and no signal is pending; one that may not be looked at is taken to."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return True
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        return fields["State"].startswith("S") and not any(int(fields[each], 16) for each in ("SigPnd", "ShdPnd"))

    def signal(self, number: int) -> None:
        """Send a signal."""
        try:
            signal.pidfd_send_signal(self.descriptor, number)
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


def user_arguments(directory: Path) -> tuple[str, ...]:
    """The user that dnsmasq becomes when root starts it: one that may nothing, where that is possible.

    It needs CAP_SETUID and CAP_SETGID, which a service manager may have taken from us, and a
    directory that this user can reach. Without them it stays what it is; and the empty group keeps
    dnsmasq from changing that, which it would try even as root, and fail.
    """
    if os.geteuid() != 0:
        return ()
    for name in _USERS:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        if _may_change_user() and _reaches(user.pw_uid, directory):
            return (f"--user={name}",)
    return ("--user=root", "--group=")


def _may_change_user() -> bool:
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            wanted = _CAP_SETUID | _CAP_SETGID
            return int(line.split()[1], 16) & wanted == wanted
    return False


def _reaches(uid: int, directory: Path) -> bool:
    for each in (directory, *directory.parents):
        found = each.stat()
        if not found.st_mode & (0o100 if found.st_uid == uid else 0o001):
            return False
    return True


def _command_line(pid: int) -> tuple[str, ...]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in words[:-1])


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1
