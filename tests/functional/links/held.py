"""What a link holds, as ip(8) tells it, and a link that holds something of every kind."""

import re
import struct
from collections.abc import Collection

from tests.lab import Namespace
from tests.lab.frames import ETH_IPV6, ICMPV6, ethernet, icmp, ip, packed

ROUTER = "fe80::99"
Held = tuple[list[str], list[str]]


def held(host: Namespace, device: str, without: Collection[str] = ()) -> Held:
    """Addresses and routes of a link without its name, each with all that is told of it but times that run down.

    :param without: addresses that are left out, and the kernel's own routes by them.
    """
    addresses, routes = [], []
    for family in ("-4", "-6"):
        shown = host.run(["ip", family, "-o", "-d", "addr", "show", "dev", device, "scope", "global"]).stdout
        lines = [line.split(None, 2)[2].replace("\\", " ") for line in shown.splitlines()]
        addresses += [" ".join(line.split()) for line in lines if line.split()[1] not in without]
        shown = host.run(["ip", family, "route", "show", "table", "all", "dev", device]).stdout
        routes += [" ".join(line.split()) for line in shown.splitlines()]
    routes = [line for line in routes if "proto kernel" not in line and not line.startswith("multicast")]
    told = [re.sub(r"\d+sec", "Nsec", re.sub(rf"\b{device}\b(:\d+)?", "", line)).rstrip() for line in addresses]
    return sorted(told), sorted(re.sub(r"\d+sec", "Nsec", line).replace(" linkdown", "") for line in routes)


def furnish(host: Namespace, device: str = "eth0") -> None:
    """Give a link of a host of the lab addresses and routes of every kind that an operator may have."""
    for command in (
        f"addr add 192.0.2.77/24 dev {device} label {device}:1",
        f"addr add 10.77.0.1/16 dev {device} metric 300 valid_lft 5000 preferred_lft 4000",
        f"addr add 2001:db8:77::1/64 dev {device} nodad",
        f"addr add 203.0.113.9/32 dev {device} scope global",
        f"route replace default via 192.0.2.1 dev {device} metric 50 mtu 1400",
        f"route add 198.18.0.0/15 via 10.77.0.254 dev {device} src 192.0.2.77 table 100",
        f"route add 198.51.100.0/24 dev {device}",
        f"-6 route replace default via 2001:db8:2::1 dev {device} metric 77",
        f"-6 route add 2001:db8:99::/48 via 2001:db8:77::99 dev {device}",
        "route add unreachable 172.31.0.0/16",
    ):
        host.run(["ip", *command.split()])


def advertise(
    router: Namespace, lifetime: int = 1800, *, prefix: str | None = None, valid: int = 0, autonomous: bool = True
) -> None:
    """Send a router advertisement with a default route of so many seconds (RFC 4861, section 4.2).

    :param prefix: a /64 that is on the link, for so many seconds.
    :param autonomous: whether addresses are made of the prefix.
    """
    content = bytes(8)
    if prefix is not None:
        flags = 0x80 | (0x40 if autonomous else 0)
        content += struct.pack("!BBBBIIxxxx", 3, 4, 64, flags, valid, valid) + packed(prefix)
    message = icmp(ROUTER, "ff02::1", 134, 0, content, rest=64 << 24 | lifetime)
    packet = ip(ROUTER, "ff02::1", ICMPV6, message, ttl=255)
    router.wire().send(ethernet("33:33:00:00:00:01", router.mac, ETH_IPV6, packet))
