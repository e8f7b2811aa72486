"""DHCP clients, the router advertisements and the DNS, as an instance sees them."""

import contextlib
import os
import socket
import struct
import subprocess
import time
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path

from tests.lab import Namespace, syscalls
from tests.lab.syscalls import readable

Answer = dict[str, str]
ALL_ROUTERS, ALL_NODES = "ff02::2", "ff02::1"
RS, RA = 133, 134
_MS_BIND = 0x1000
_ENVIRONMENT = {"PATH": os.environ["PATH"]}


def _script(directory: Path) -> tuple[Path, Path]:
    """A script that appends its environment to a file, with a line between two runs."""
    directory.mkdir(parents=True, exist_ok=True)
    script, output = directory / "script", directory / "environment"
    script.write_text(f'#!/bin/sh\n{{ echo "event=$1"; env; echo "--"; }} >> {output}\n')
    script.chmod(0o755)
    output.unlink(missing_ok=True)
    return script, output


def _events(output: Path) -> list[Answer]:
    if not output.exists():
        return []
    blocks = output.read_text().split("--\n")
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks if block]


# --- clients


def udhcpc(guest: Namespace, directory: Path, *options: str, tries: int = 8) -> Answer | None:
    """What busybox's client is given; ``None``: nothing in ``tries`` seconds."""
    script, output = _script(directory / "udhcpc")
    argv = [
        "busybox",
        "udhcpc",
        "-i",
        "eth0",
        "-n",
        "-q",
        "-f",
        "-s",
        str(script),
        "-t",
        str(tries),
        "-T",
        "1",
        *options,
    ]
    print(guest.run(argv, check=False, env=_ENVIRONMENT).stderr)  # shown where the test fails
    bound = [each for each in _events(output) if each["event"] == "bound"]
    return bound[-1] if bound else None


def dhclient(guest: Namespace, directory: Path, *options: str, family: int = 4, within: float = 8) -> Answer | None:
    """What ISC's client is given, by its script's variables without ``new_``; it is ended when it has an answer."""
    place = directory / f"dhclient{family}"
    script, output = _script(place)
    leases, pid = place / "leases", place / "pid"
    configuration = place / "dhclient.conf"
    wanted = "subnet-mask, broadcast-address, routers, domain-name, domain-name-servers, host-name, interface-mtu"
    if family == 4:
        configuration.write_text(
            f"request {wanted}, dhcp-lease-time, rfc3442-classless-static-routes;\n"
            "option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;\n"
        )
    else:
        configuration.write_text("also request dhcp6.name-servers, dhcp6.domain-search, dhcp6.fqdn;\n")
    argv = [
        "dhclient",
        f"-{family}",
        "-1",
        "-d",
        "-cf",
        str(configuration),
        "-lf",
        str(leases),
        "-pf",
        str(pid),
        "-sf",
        str(script),
    ]
    process = guest.popen(
        [*argv, *options, "eth0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_ENVIRONMENT
    )
    try:
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            for event in reversed(_events(output)):
                if event.get("reason") in ("BOUND", "REBOOT", "BOUND6", "REBIND6", "RENEW", "RENEW6"):
                    return {
                        name.removeprefix("new_"): value for name, value in event.items() if name.startswith("new_")
                    }
            if process.poll() is not None:
                return None
            time.sleep(0.02)
        return None
    finally:
        process.kill()
        process.wait()


def dhcpcd(guest: Namespace, directory: Path, *options: str, family: int = 4, within: float = 12) -> Answer | None:
    """What dhcpcd is given, by its script's variables without ``new_``."""
    place = directory / f"dhcpcd{family}"
    script, output = _script(place)
    for name in ("/var/lib/dhcpcd", "/run/dhcpcd"):  # private to the guest's mounts
        own = place / name.strip("/").replace("/", "-")
        own.mkdir(exist_ok=True)
        own.chmod(0o777)
        guest.call(_mount_over, own, name)
    configuration = place / "dhcpcd.conf"
    configuration.write_text("option domain_name_servers, domain_name, interface_mtu, routers, host_name\nnoarp\n")
    argv = [
        "dhcpcd",
        f"-{family}",
        "-B",
        "-1",
        "-t",
        str(within),
        "-f",
        str(configuration),
        "-c",
        str(script),
        *options,
    ]
    guest.run([*argv, "eth0"], check=False, timeout=within + 5, env=_ENVIRONMENT)
    for event in reversed(_events(output)):
        if event.get("reason") in ("BOUND", "BOUND6", "REBOOT", "ROUTERADVERT"):
            return {name.removeprefix("new_"): value for name, value in event.items() if name.startswith("new_")}
    return None


def _mount_over(directory: Path, place: str) -> None:
    Path(place).mkdir(parents=True, exist_ok=True)
    syscalls.mount(str(directory), place, None, _MS_BIND)


# --- router advertisements


@dataclass
class Prefix:
    prefix: str
    on_link: bool
    autonomous: bool
    valid: int
    preferred: int


@dataclass
class Advertisement:
    """A router advertisement, as RFC 4861 and 8106 have it."""

    source: str
    managed: bool
    other: bool
    lifetime: int
    prefixes: list[Prefix] = field(default_factory=list)
    mtu: int | None = None
    name_servers: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)
    link_address: str | None = None


def parse_advertisement(source: str, data: bytes) -> Advertisement:
    flags, lifetime = data[5], int.from_bytes(data[6:8], "big")
    found = Advertisement(source, bool(flags & 0x80), bool(flags & 0x40), lifetime)
    at = 16
    while at < len(data):
        kind, length = data[at], data[at + 1] * 8
        body = data[at : at + length]
        if kind == 1:
            found.link_address = body[2:8].hex(":")
        elif kind == 3:
            valid, preferred = struct.unpack_from("!II", body, 4)
            text = f"{IPv6Address(body[16:32])}/{body[2]}"
            found.prefixes.append(Prefix(text, bool(body[3] & 0x80), bool(body[3] & 0x40), valid, preferred))
        elif kind == 5:
            found.mtu = int.from_bytes(body[4:8], "big")
        elif kind == 25:
            found.name_servers += [str(IPv6Address(body[i : i + 16])) for i in range(8, length, 16)]
        elif kind == 31:
            found.search += _names(body[8:])
        at += length
    return found


def _names(data: bytes) -> list[str]:
    found: list[str] = []
    labels: list[str] = []
    at = 0
    while at < len(data):
        length = data[at]
        if length == 0:
            if labels:
                found.append(".".join(labels))
            labels, at = [], at + 1
            continue
        labels.append(data[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return found


def solicit(guest: Namespace, within: float = 2.0, device: str = "eth0") -> Advertisement | None:
    """Ask for a router advertisement, more than once, and give back the first that comes."""
    index = guest.links.index(device)
    client = guest.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # its own address is a moment away
            client.sendto(struct.pack("!BBHI", RS, 0, 0, 0), (ALL_ROUTERS, 0, 0, index))
        while readable(client, 0.3):
            data, sender = client.recvfrom(4096)
            if data[0] == RA:
                return parse_advertisement(sender[0].partition("%")[0], data)
    return None


# --- DNS


def resolve(
    guest: Namespace, server: str, name: str, kind: str = "A", *, within: float = 2.0, tcp: bool = False
) -> list[str] | None:
    """The addresses (or, for PTR, the names) that a server gives; ``None``: it does not answer."""
    number = {"A": 1, "AAAA": 28, "PTR": 12}[kind]
    query = os.urandom(2) + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0)
    query += b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split(".")) + b"\0"
    query += struct.pack("!HH", number, 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    client = guest.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    client.settimeout(within)
    try:
        client.connect((server, 53))
        client.send(len(query).to_bytes(2, "big") + query if tcp else query)
        answer = client.recv(4096)
    except OSError:
        return None
    finally:
        client.close()
    return _records(answer[2:] if tcp else answer, number) if answer else None


def _records(message: bytes, kind: int) -> list[str]:
    _, _, questions, answers, _, _ = struct.unpack_from("!HHHHHH", message)
    at = 12
    for _ in range(questions):
        at = _skip_name(message, at) + 4
    found = []
    for _ in range(answers):
        at = _skip_name(message, at)
        type_, _, _, length = struct.unpack_from("!HHIH", message, at)
        at += 10
        if type_ == kind == 12:
            found.append(_name(message, at))
        elif type_ == kind:
            found.append(socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, message[at : at + length]))
        at += length
    return found


def _name(message: bytes, at: int) -> str:
    labels = []
    while message[at]:
        if message[at] & 0xC0:
            at = int.from_bytes(message[at : at + 2], "big") & 0x3FFF
            continue
        labels.append(message[at + 1 : at + 1 + message[at]].decode())
        at += 1 + message[at]
    return ".".join(labels)


def _skip_name(message: bytes, at: int) -> int:
    while message[at]:
        if message[at] & 0xC0:
            return at + 2
        at += 1 + message[at]
    return at + 1
