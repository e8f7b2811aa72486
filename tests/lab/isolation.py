"""Takes this process out of the machine's own network, once, before a test touches any.

The process gets private network and mount namespaces (and, without root, a user namespace
in which it is root), a private ``/run`` with its own ``xtables.lock``, and a sysfs that shows
the private network. Nothing is executed again: ``unshare`` works on the running process, so
that arguments, output and exit code are those of the one pytest that was started. (A second
``exec`` from a conftest would lose its output in pytest's capture, which is on by then.)
"""

import fcntl
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from tests.lab import syscalls

MARK = "NETAGENT_LAB_NETNS"
"""Set to the private namespace's inode, so that a pytest started by a test knows it is isolated already."""

_undertaker: subprocess.Popen[bytes] | None = None
_refusal: str | None = None


class NotIsolatedError(RuntimeError):
    """Somebody wants to build a lab in the machine's own network namespace."""


def active() -> bool:
    """Whether this process is in a private network namespace made by ``enter``."""
    return os.environ.get(MARK) == str(network_inode())


def network_inode(of: str = "thread-self") -> int:
    """The number of the network namespace of ``/proc/{of}``."""
    return os.stat(f"/proc/{of}/ns/net").st_ino


def enter() -> str | None:
    """Isolate this process; the answer is None, or the reason why it cannot be done."""
    global _refusal
    if active():
        return None
    if _refusal is None:
        _refusal = _rehearse()
    if _refusal is None:
        _unshare()
        os.environ[MARK] = str(network_inode())
        _allow_many_files()
        # Where iptables and ipset are, also for those who are not root.
        os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        _start_undertaker()
        watch(network_inode())
    return _refusal


def require() -> None:
    """Raise NotIsolatedError unless ``enter`` was called and worked."""
    if not active():
        raise NotIsolatedError(
            "the lab is only built in a private network namespace: call tests.lab.isolation.enter() first"
        )


def watch(inode: int) -> None:
    """From now on the undertaker kills what runs in this namespace, should we die."""
    _tell(f"+{inode}\n")


def forget(inode: int) -> None:
    """The namespace is closed, or is to be kept after our end."""
    _tell(f"-{inode}\n")


def _rehearse() -> str | None:
    """Try it in a child, since a process that fails half-way could not go back."""
    if os.geteuid() != 0 and threading.active_count() > 1:
        return "private namespaces without root need a process with one thread"
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _rehearse_in_child(writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        reason = answer.read().decode()
    os.waitpid(child, 0)
    return f"no private network namespace: {reason}" if reason else None


def _rehearse_in_child(writer: int) -> None:
    try:
        _unshare()
    except BaseException as error:  # whatever it is, the child must not go on as a second pytest
        os.write(writer, str(error).encode() or b"unknown")
    os._exit(0)


def _unshare() -> None:
    if os.geteuid() == 0:
        syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS)
    else:
        _unshare_as_root_of_user_namespace()
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", "/run", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0755")
    for directory in ("/run/lock", "/run/netns"):
        os.mkdir(directory)
    mount_sysfs()
    loopback_up()


def _unshare_as_root_of_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    # By this name pytest makes its directory, and the real root's is not ours.
    os.environ["LOGNAME"] = f"uid-{uid}"
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    # Only now: files of /proc/net belong to who is root when their namespace is made.
    syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS)


def mount_sysfs() -> bool:
    """Make ``/sys/class/net`` show the calling thread's network, where the kernel allows it."""
    try:
        syscalls.mount("sysfs", "/sys", "sysfs", 0)
    except PermissionError:
        return False  # in a user namespace, when parts of /sys are hidden, as in containers
    return True


def loopback_up() -> None:
    """Set ``lo`` up in the calling thread's network namespace."""
    siocgifflags, siocsifflags, iff_up = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, siocgifflags, struct.pack("16sh22x", b"lo", 0))
        flags = struct.unpack_from("16sh", answer)[1]
        fcntl.ioctl(control, siocsifflags, struct.pack("16sh22x", b"lo", flags | iff_up))


def _allow_many_files() -> None:
    """A namespace is a descriptor or two, its sockets are more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _start_undertaker() -> None:
    global _undertaker
    program = Path(__file__).with_name("undertaker.py")
    _undertaker = subprocess.Popen(
        [sys.executable, "-I", "-S", str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _tell(line: str) -> None:
    if _undertaker is None or _undertaker.stdin is None:
        return
    try:
        _undertaker.stdin.write(line.encode())
        _undertaker.stdin.flush()
    except BrokenPipeError:
        pass  # nobody cleans up after a crash any more, which is no reason to fail a test
