"""Which of the kernel's features and of the system's programs are there: found out once, by use."""

import fcntl
import functools
import os
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from tests.lab import syscalls
from tests.lab.namespace import Namespace

Check = Callable[[Namespace], None]

TABLE_INFO = 64
"""IPT_SO_GET_INFO and IP6T_SO_GET_INFO."""


@functools.cache
def missing(feature: str) -> str | None:
    """None when the feature is there, else why not.

    A feature is a name of ``CHECKS``, or ``program:NAME``.
    """
    if feature.startswith("program:"):
        program = feature.removeprefix("program:")
        return None if shutil.which(program) else f"{program} is not installed"
    check = CHECKS.get(feature)
    if check is None:
        raise LookupError(f"unknown feature {feature!r}: known are {', '.join(sorted(CHECKS))} and program:NAME")
    with Namespace(f"probe-{feature}") as namespace:
        try:
            check(namespace)
        except OSError as error:
            return f"no {feature}: {error}"
    return None


def _legacy_table(family: int, level: int, table: str, namespace: Namespace) -> None:
    with namespace.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as asking:
        # The name goes in and the table's description comes back in its place.
        syscalls.getsockopt(asking, level, TABLE_INFO, table.encode().ljust(84, b"\0"))


def _iptables(namespace: Namespace) -> None:
    for table in ("filter", "nat", "mangle", "raw"):
        _legacy_table(socket.AF_INET, socket.IPPROTO_IP, table, namespace)


def _ip6tables(namespace: Namespace) -> None:
    for table in ("filter", "nat", "mangle", "raw"):
        _legacy_table(socket.AF_INET6, socket.IPPROTO_IPV6, table, namespace)


def _netfilter(subsystem: int, command: int, flags: int = 0, attributes: bytes = b"") -> Check:
    def check(namespace: Namespace) -> None:
        with namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as asking:
            body = struct.pack("=BBH", socket.AF_INET, 0, 0) + attributes
            header = struct.pack("=IHHII", 16 + len(body), subsystem << 8 | command, 0x5 | flags, 1, 0)
            asking.send(header + body)
            answer = asking.recv(65536)
        kind, error = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)[0]
        if kind == 2 and error:
            raise OSError(-error, os.strerror(-error))

    return check


def _link(kind: str) -> Check:
    def check(namespace: Namespace) -> None:
        namespace.links.add("probe", kind)

    return check


def _vlan(namespace: Namespace) -> None:
    namespace.links.add("under", "veth")
    namespace.links.add_vlan("probe", "under", 7)


def _tap(namespace: Namespace) -> None:
    def open_tap() -> None:
        tunsetiff, iff_tap, iff_no_pi = 0x400454CA, 0x2, 0x1000
        with open("/dev/net/tun", "r+b", buffering=0) as device:
            fcntl.ioctl(device, tunsetiff, struct.pack("16sH22x", b"probe", iff_tap | iff_no_pi))

    namespace.call(open_tap)


def _br_netfilter(namespace: Namespace) -> None:
    namespace.call(Path("/proc/sys/net/bridge/bridge-nf-call-iptables").read_text)


def _ipv6(namespace: Namespace) -> None:
    namespace.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()


def _real_root(namespace: Namespace) -> None:
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        raise PermissionError("only root of a user namespace")


def _setgroups(namespace: Namespace) -> None:
    """Programs that begin as root and go on as somebody else need it: dnsmasq does."""
    if Path("/proc/self/setgroups").read_text().strip() == "deny":
        raise PermissionError("a user namespace that was not made by root has one user and no groups")


CHECKS: dict[str, Check] = {
    "iptables": _iptables,
    "ip6tables": _ip6tables,
    "nftables": _netfilter(10, 16),
    "ipset": _netfilter(6, 1, attributes=struct.pack("=HHB3x", 5, 1, 7)),
    "conntrack": _netfilter(1, 1, 0x300),
    "br_netfilter": _br_netfilter,
    "bridge": _link("bridge"),
    "veth": _link("veth"),
    "dummy": _link("dummy"),
    "vlan": _vlan,
    "tap": _tap,
    "ipv6": _ipv6,
    "real_root": _real_root,
    "setgroups": _setgroups,
}
