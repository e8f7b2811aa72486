"""The values that bodies are made of: addresses, prefixes, MACs, names, ids.

Each parser returns the canonical text of its value or raises ``ValueError`` with
a reason fit for an API answer. Canonical text is what the kernel prints back, so
two spellings of one value are equal everywhere behind this module.
"""

import re
import socket
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import NamedTuple

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
# Narrower than the kernel's dev_valid_name(): '+' would be a wildcard in an
# iptables rule, and quotes or '!' would not survive iptables-save.
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@=-]{0,14}\Z")
_NO_INTERFACE = frozenset({"all", "default", "lo"})
"""Names that mean something else below /proc/sys/net, and the one that cannot be a port or a bridge."""
# nova cuts host names to 63 characters itself when it writes them; these are safe in any file.
_HOSTNAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,253}[A-Za-z0-9_])?\Z")
_DOMAIN = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\Z")
_LENGTH = re.compile(r"[0-9]{1,3}\Z")

_OF_NO_MAC = 0xFE80_0000_0000_0000_0200_00FF_FE00_0000
"""The link-local address of a MAC of zeros: all but the bits in which a MAC has ones."""
SHOWN = 80
"""How much of what was given is repeated in a refusal, in characters."""
FAMILY_BITS = {4: 32, 6: 128}
SOCKET_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


class Prefix(NamedTuple):
    """A network prefix in numbers: what compilers compute with."""

    family: int
    """4 or 6."""
    value: int
    """The network address as an unsigned integer, host bits zero."""
    length: int
    """Prefix length in bits."""

    def contains(self, other: "Prefix") -> bool:
        """Whether every address of ``other`` is one of ours."""
        if self.family != other.family or self.length > other.length:
            return False
        return (self.value ^ other.value) >> (FAMILY_BITS[self.family] - self.length) == 0

    def among(self, hosts: Collection["Prefix"]) -> Iterable["Prefix"]:
        """Those of some hosts that are of ours; a host is not compared with each of them, as most prefixes are one.

        :param hosts: in a set or mapping.
        """
        return filter(self.contains, hosts) if not self.is_host else (self,) if self in hosts else ()

    def within(self, length: int) -> "Prefix":
        """The prefix of so many bits in which it is.

        :param length: no more than its own.
        """
        rest = FAMILY_BITS[self.family] - length
        return Prefix(self.family, self.value >> rest << rest, length)

    @property
    def is_host(self) -> bool:
        """Whether it is a single address."""
        return self.length == FAMILY_BITS[self.family]

    def overlaps(self, other: "Prefix") -> bool:
        """Whether any address is in both."""
        return self.contains(other) or other.contains(self)

    @property
    def last(self) -> int:
        """The highest address, as an unsigned integer (IPv4: the broadcast address)."""
        return self.value | ((1 << (FAMILY_BITS[self.family] - self.length)) - 1)

    def has_host(self, address: "Prefix") -> bool:
        """Whether a host can have an address of ours: not IPv4's first and last, if there are others (RFC 3021)."""
        return self.family != 4 or self.length >= 31 or address.value not in (self.value, self.last)


def shown(value: object) -> str:
    """What was given, as a refusal repeats it: not a megabyte of it."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def uuid(text: str) -> str:
    """A UUID in its RFC 4122 text form, lower case."""
    if _UUID.match(text):
        return text
    lowered = text.lower()
    if not _UUID.match(lowered):
        raise ValueError(f"{shown(text)} is not a UUID")
    return lowered


@lru_cache(32768)
def ip(text: str) -> str:
    """An IPv4 or IPv6 address in canonical form (inet_ntop(3))."""
    try:
        return unpacked(packed(text))
    except (OSError, ValueError):
        raise ValueError(f"{shown(text)} is not an IP address") from None


def packed(address: str) -> bytes:
    """An address as packets have it.

    :raises OSError: it is none.
    """
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def unpacked(octets: bytes | memoryview) -> str:
    """The canonical text of an address as packets have it, of 4 or 16 bytes."""
    return socket.inet_ntop(socket.AF_INET if len(octets) == 4 else socket.AF_INET6, octets)


def ipv4(text: str) -> str:
    """An IPv4 address in canonical form."""
    if ":" in text:
        raise ValueError(f"{shown(text)} is not an IPv4 address")
    return ip(text)


def ipv6(text: str) -> str:
    """An IPv6 address in canonical form."""
    if ":" not in text:
        raise ValueError(f"{shown(text)} is not an IPv6 address")
    return ip(text)


@lru_cache(32768)
def prefix(text: str) -> Prefix:
    """A prefix in numbers; a bare address is a host prefix, host bits are masked."""
    address, slash, length_text = text.partition("/")
    family = 6 if ":" in address else 4
    bits = FAMILY_BITS[family]
    length = bits
    if slash:
        if not _LENGTH.match(length_text) or int(length_text) > bits:
            raise ValueError(f"{shown(text)} is not a CIDR: the prefix length is 0 to {bits}")
        length = int(length_text)
    try:
        value = int.from_bytes(packed(address), "big")
    except (OSError, ValueError):
        raise ValueError(f"{shown(text)} is not a CIDR") from None
    host_bits = bits - length
    return Prefix(family, value >> host_bits << host_bits, length)


_NO_HOST = tuple(
    prefix(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255", "::/128", "::1", "ff00::/8")
)


def address_text(family: int, value: int) -> str:
    """The canonical text of an address given as an unsigned integer."""
    return unpacked(value.to_bytes(FAMILY_BITS[family] // 8, "big"))


@lru_cache(32768)
def prefix_text(value: Prefix) -> str:
    """``address/length``, as iptables-save and ipset write it."""
    return f"{address_text(value.family, value.value)}/{value.length}"


def cidr(text: str) -> str:
    """A prefix in canonical text: host bits masked, the length always written."""
    return prefix_text(prefix(text))


def host(address: str) -> str:
    """The host prefix of an address: ``/32`` or ``/128``."""
    return f"{address}/{128 if ':' in address else 32}"


def host_ip(text: str) -> str:
    """An address that a host can have: not unspecified, loopback, multicast or broadcast."""
    canonical = ip(text)
    own = prefix(canonical)
    if any(each.contains(own) for each in _NO_HOST):
        raise ValueError(f"{canonical} is not an address that a host can have")
    return canonical


def host_ipv4(text: str) -> str:
    """An IPv4 address that a host can have."""
    return host_ip(ipv4(text))


def mac(text: str) -> str:
    """A unicast Ethernet address, lower case with colons."""
    lowered = text.lower()
    if not _MAC.match(lowered):
        raise ValueError(f"{shown(text)} is not a MAC address like fa:16:3e:00:00:01")
    if int(lowered[:2], 16) & 1 or lowered == "00:00:00:00:00:00":
        raise ValueError(f"{shown(text)} is not a unicast address")
    return lowered


def hostname(text: str) -> str:
    """The name of a host, as DNS and dnsmasq's files take it."""
    if not _HOSTNAME.match(text):
        raise ValueError(
            f"{shown(text)} is not a host name: up to 255 letters, digits and any of - _ .,"
            " the first and the last a letter, a digit or _"
        )
    return text


def domain(text: str) -> str:
    """The name of a domain without dots at its ends, as dnsmasq takes it; empty for none."""
    stripped = text.strip(".")
    if stripped and (len(stripped) > 253 or not _DOMAIN.match(stripped)):
        raise ValueError(
            f"{shown(text)} is not a domain: up to 253 letters, digits and any of - _ ., no more than 63 between dots"
        )
    return stripped


def interface(text: str) -> str:
    """The name of a network interface: 1 to 15 characters (netdevice(7) IFNAMSIZ)."""
    if text in _NO_INTERFACE:
        raise ValueError(f"{shown(text)} is not the name of an interface that can be used here")
    if not _INTERFACE.match(text):
        raise ValueError(
            f"{shown(text)} is not an interface name: 1 to 15 letters, digits and any of _ . @ = -,"
            " the first a letter, a digit or _"
        )
    return text


def printable(text: str) -> str:
    """Free text of a person: at most 255 printable characters."""
    if len(text) > 255 or not text.isprintable():
        raise ValueError(f"{shown(text)} is not a text of at most 255 printable characters")
    return text


def link_local(mac_address: str) -> str:
    """The EUI-64 link-local address that a MAC gives (RFC 4291, appendix A)."""
    return address_text(6, link_local_prefix(mac_address).value)


def link_local_prefix(mac_address: str) -> Prefix:
    """The same as a host prefix in numbers."""
    octets = int(mac_address.replace(":", ""), 16)
    return Prefix(6, _OF_NO_MAC ^ ((octets >> 24) << 40 | octets & 0xFFFFFF), 128)
