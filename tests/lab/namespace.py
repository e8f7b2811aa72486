"""A network namespace: a place to run functions, programs and sockets in, held by descriptors."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cached_property
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar

from tests.lab import isolation, syscalls
from tests.lab.echo import Echo
from tests.lab.links import Links
from tests.lab.netlink import Netlink, open_socket
from tests.lab.wire import Wire

P = ParamSpec("P")
T = TypeVar("T")

QUIET_DEFAULTS = {
    # Forwarding first, since changing it resets others; IPv4 values are inherited from the machine's namespace.
    "net.ipv4.ip_forward": "0",
    "net.ipv6.conf.all.forwarding": "0",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.dad_transmits": "0",
    "net.ipv4.icmp_ratelimit": "0",
    "net.ipv6.icmp.ratelimit": "0",
}
"""What every namespace starts with: no waiting for duplicate address detection, no rationed ICMP errors."""

kept: list[str] = []
"""How to enter the namespaces that KEEP_NS=1 kept."""

GRAVES = 800
_graves: list[int] = []
"""Descriptors of namespaces in which nothing runs any more."""

_open: "weakref.WeakSet[Namespace]" = weakref.WeakSet()


class Namespace:
    """A network namespace of its own, with ``lo`` up and a ``/sys`` that shows it.

    It has no name in the system; ``name`` is for people. ``ip4``, ``ip6`` and ``mac`` are what
    the lab gave to its ``eth0``; ``seen_at`` says where a packet counts as arrived: on the wire,
    or, for a host that filters its own input, at a socket.
    """

    def __init__(self, name: str = "namespace", *, seen_at: Literal["wire", "socket"] = "wire") -> None:
        isolation.require()
        self.name = name
        self.seen_at = seen_at
        self.ip4 = ""
        self.ip6 = ""
        self.mac = ""
        self.peers: dict[str, tuple[Namespace, str]] = {}
        self._processes: list[subprocess.Popen[Any]] = []
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._wires: dict[tuple[str, int | None], Wire] = {}
        self._closed = False
        self.fd, self._mount_fd = _in_thread(_make).result()
        self.inode = os.fstat(self.fd).st_ino
        isolation.watch(self.inode)
        _open.add(self)
        self.call(_write_sysctls, QUIET_DEFAULTS)

    def __repr__(self) -> str:
        return f"<Namespace {self.name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # running things

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Start ``function`` in a thread that lives in this namespace."""

        def inside() -> T:
            self._enter()
            return function(*args, **kwargs)

        return _in_thread(inside)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` in here and give back its result, or raise what it raised.

        Sockets that it makes stay in here, whoever uses them later. ``/proc/sys`` is this
        namespace's there; ``/proc/net`` is not (it follows the main thread): read
        ``/proc/thread-self/net``.
        """
        return self.submit(function, *args, **kwargs).result()

    def popen(self, argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        """Start a program in here; it is killed when the namespace closes."""
        options.setdefault("cwd", os.getcwd())
        process = self.call(lambda: subprocess.Popen(list(argv), **options))
        self._processes.append(process)
        return process

    def run(
        self, argv: Sequence[str], *, stdin: str | None = None, check: bool = True, timeout: float = 30, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program in here to its end, capturing what it says; with ``check``, it must succeed."""
        source = subprocess.DEVNULL if stdin is None else subprocess.PIPE
        process = self.popen(argv, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        try:
            output, errors = process.communicate(stdin, timeout=timeout)
        finally:
            if process.poll() is None:
                process.kill()
            self._processes.remove(process)
        if check and process.returncode:
            raise AssertionError(f"{self.name}: {' '.join(argv)} ended with {process.returncode}: {errors or output}")
        return subprocess.CompletedProcess(argv, process.returncode, output, errors)

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Read, or set and read, a setting; with a dot in a device's name write it with slashes."""
        return self.call(_sysctl, name, None if value is None else str(value))

    def socket(self, family: int, kind: int, protocol: int = 0) -> "socket.socket":
        """Open a socket in here, closed with the namespace at the latest."""
        opened = self.call(socket.socket, family, kind, protocol)
        self._sockets.add(opened)
        return opened

    # what it has

    @cached_property
    def links(self) -> Links:
        """Links, addresses, routes and neighbours."""
        self._netlink = Netlink(self.call(open_socket))
        return Links(self._netlink)

    @cached_property
    def echo(self) -> Echo:
        """The servers that answer in here, made on demand."""
        return Echo(self.socket)

    def wire(self, device: str = "eth0", only: int | None = None) -> Wire:
        """The raw Ethernet side of a link; with ``only``, deaf to all other ethertypes."""
        index = self.links.index(device)
        wire = self._wires.get((device, only))
        if wire is None or wire.index != index:
            wire = self._wires[device, only] = Wire(self.socket, device, index, only)
        return wire

    def ip(self, family: int) -> str:
        """The address that the lab gave it."""
        address = self.ip6 if family == 6 else self.ip4
        if not address:
            raise LookupError(f"{self.name} was given no IPv{family} address")
        return address

    def source_address(self, destination: str) -> str:
        """The address that a packet from here to ``destination`` would carry."""
        return self.call(_source_address, destination)

    # the end

    def close(self) -> None:
        """End everything in here. The kernel frees the namespace itself a little later, with others."""
        if self._closed:
            return
        self._closed = True
        _open.discard(self)
        isolation.forget(self.inode)
        if os.environ.get("KEEP_NS") == "1":
            self._keep()
        else:
            self._end_processes()
        self._close_descriptors()

    def processes(self) -> list[int]:
        """The programs that run in here, also those that a daemon left behind."""
        return [pid for pid in _all_processes() if pid != os.getpid() and _lives_in(pid, self.inode)]

    def _end_processes(self) -> None:
        while left := self.processes():
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            for started in self._processes:
                started.poll()
            time.sleep(0.0005)
        for started in self._processes:
            started.wait()

    def _close_descriptors(self) -> None:
        if "echo" in self.__dict__:
            self.echo.close()
        if "links" in self.__dict__:
            self._netlink.close()
        _close_later([*self._sockets])
        if self._mount_fd is not None:
            os.close(self._mount_fd)
        _bury(self.fd)

    def _keep(self) -> None:
        self._closed = False  # so that a program can still be started to hold it
        silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        holder = self.popen(["sleep", "infinity"], start_new_session=True, **silent)
        self._closed = True
        user = "--user --preserve-credentials " if os.stat("/proc/self/ns/user").st_ino != 0xEFFFFFFD else ""
        how = f"{self.name}: nsenter --target {holder.pid} {user}--net --mount (kill {holder.pid} to free it)"
        kept.append(how)
        sys.stderr.write(f"kept namespace {how}\n")

    def _enter(self) -> None:
        if self._closed:
            raise RuntimeError(f"namespace {self.name} is closed")
        syscalls.setns(self.fd, syscalls.CLONE_NEWNET)
        if self._mount_fd is not None:
            here = os.getcwd()
            syscalls.unshare(syscalls.CLONE_FS)  # a thread may change its mounts only when it shares its root with none
            syscalls.setns(self._mount_fd, syscalls.CLONE_NEWNS)
            os.chdir(here)


def holder_of(address: str) -> Namespace | None:
    """The open namespace to which the lab gave this address."""
    return next((namespace for namespace in _open if address in (namespace.ip4, namespace.ip6)), None)


def close_all() -> None:
    """Close every namespace that is still open."""
    for namespace in list(_open):
        namespace.close()


def veth(
    here: Namespace,
    name: str,
    there: Namespace,
    peer_name: str,
    *,
    mac: str | None = None,
    peer_mac: str | None = None,
    mtu: int | None = None,
    up: bool = True,
) -> None:
    """Connect two namespaces by a pair of links."""
    here.links.add_veth(name, peer_name, there.fd, mac=mac, peer_mac=peer_mac, mtu=mtu)
    here.peers[name] = (there, peer_name)
    there.peers[peer_name] = (here, name)
    if up:
        here.links.set(name, up=True)
        there.links.set(peer_name, up=True)


def _in_thread(function: Callable[[], T]) -> "Future[T]":
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # handed over to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def _make() -> tuple[int, int | None]:
    syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS)
    isolation.loopback_up()
    network = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if not isolation.mount_sysfs():
        return network, None
    return network, os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _write_sysctls(settings: dict[str, str]) -> None:
    for name, value in settings.items():
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            _sysctl(name, value)


def _sysctl(name: str, value: str | None) -> str:
    path = "/proc/sys/" + (name if "/" in name else name.replace(".", "/"))
    if value is not None:
        with open(path, "w") as setting:
            setting.write(value)
    with open(path) as setting:
        return setting.read().strip()


def _source_address(destination: str) -> str:
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        asking.connect((destination, 9))
        return str(asking.getsockname()[0])


def _all_processes() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _lives_in(process: int, inode: int) -> bool:
    try:
        return os.stat(f"/proc/{process}/ns/net").st_ino == inode
    except OSError:
        return False  # it has ended, or is not ours


def free_closed() -> None:
    """Let the kernel free all the namespaces that were closed."""
    while _graves:
        os.close(_graves.pop())


def _bury(descriptor: int) -> None:
    """Keep an empty namespace (0.3 MB) a while: as long as the kernel frees one, others wait for 50 to 90 ms."""
    _graves.append(descriptor)
    if len(_graves) >= GRAVES:
        free_closed()


def _close_later(sockets: list[socket.socket]) -> None:
    """Close packet sockets without waiting: the kernel takes some 16 ms for each."""

    def close() -> None:
        for opened in sockets:
            opened.close()

    threading.Thread(target=close, daemon=True).start()
