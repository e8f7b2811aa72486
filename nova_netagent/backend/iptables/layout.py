"""The two entry formats of the kernel's legacy tables, in numbers.

Sources: linux/netfilter_ipv4/ip_tables.h (``ipt_ip``, ``ipt_entry``), linux/netfilter_ipv6/ip6_tables.h
(``ip6t_ip6``, ``ip6t_entry``), linux/netfilter/x_tables.h (``xt_entry_match``, ``xt_entry_target``), for
64-bit little- and big-endian machines alike.
"""

import socket
from dataclasses import dataclass
from struct import Struct

from nova_netagent.netfilter.rule import Family

EXTENSION = Struct("=H29sB")
"""Head of a match or a target: whole size, name, revision; what follows is aligned to 8."""

STANDARD_TARGET = Struct("=H29sBi4x")
"""``xt_standard_target``: the head, then the verdict."""

ERROR_TARGET_SIZE = 64
"""``xt_error_target``: marks where a user-defined chain begins, and the end of a table."""

ERROR_NAME = b"ERROR\0"

ROOM = 96
"""So many bytes stand before a table's entries in a buffer: the longest head of a request for them fits in."""

JUMP_MARK = 0x7FFFFFFF
"""In a jump's verdict, where the kernel has an offset: libiptc puts that in from the chain's name."""

INVERTED_BITS = {
    "in_interface": 0x01,
    "out_interface": 0x02,
    "source": 0x08,
    "destination": 0x10,
    "protocol": 0x40,
}


@dataclass(frozen=True)
class Layout:
    """One family's ``struct ipt_entry``, as far as the codec and the reader must know it."""

    family: Family
    socket_family: int
    level: int
    """The level of getsockopt(2): SOL_IP or SOL_IPV6."""
    address_size: int
    """A header begins with source, destination and their masks."""
    interfaces: Struct
    """Then come both interfaces, their masks, protocol, flags, inverted."""
    protocol_flag: int
    """What ``flags`` has when a protocol is given."""
    goto_flag: int
    nfcache_at: int
    counters_at: int
    size: int
    """Of the entry without matches and target."""

    @property
    def comefrom_at(self) -> int:
        """Where the kernel's own notes begin; they and the counters reach to the end of the header."""
        return self.nfcache_at + 8

    @property
    def mark_size(self) -> int:
        """Of the entry with which a user-defined chain, or the end of a table, begins."""
        return self.size + ERROR_TARGET_SIZE

    @property
    def policy_size(self) -> int:
        """Of the entry that ends a chain."""
        return self.size + STANDARD_TARGET.size


OFFSETS = Struct("=IHH")
"""At ``nfcache_at``: nfcache, offset of the target, offset of the next entry."""

COUNTERS = Struct("=QQ")
"""At ``counters_at``: packets, bytes."""

IPV4 = Layout(
    family=4,
    socket_family=socket.AF_INET,
    level=socket.SOL_IP,
    address_size=4,
    interfaces=Struct("=16s16s16s16sHBB"),
    protocol_flag=0,
    goto_flag=0x02,
    nfcache_at=84,
    counters_at=96,
    size=112,
)
IPV6 = Layout(
    family=6,
    socket_family=socket.AF_INET6,
    level=41,
    address_size=16,
    interfaces=Struct("=16s16s16s16sHxBB3x"),
    protocol_flag=0x01,
    goto_flag=0x04,
    nfcache_at=136,
    counters_at=152,
    size=168,
)
LAYOUTS = {4: IPV4, 6: IPV6}


_PADDING = tuple(bytes(-size % 8) for size in range(8))


def extension(name: bytes, revision: int, data: bytes) -> bytes:
    """A match or a target: its head and its data, padded to the alignment."""
    size = EXTENSION.size + len(data)
    return b"".join((EXTENSION.pack(size + -size % 8, name, revision), data, _PADDING[size % 8]))


def standard_target(name: bytes, verdict: int = 0) -> bytes:
    """A verdict by its name, a jump by its chain's (with ``JUMP_MARK``), or nothing at all."""
    return STANDARD_TARGET.pack(STANDARD_TARGET.size, name, 0, verdict)


def encoded_name(text: str) -> bytes:
    """A name of a chain, an interface or an extension as the kernel has it: any bytes."""
    return text.encode() if text.isascii() else text.encode(errors="surrogateescape")


def decoded_name(field: bytes) -> str:
    """The inverse, from a field that is filled up with zeros."""
    name = field.partition(b"\0")[0]
    return name.decode() if name.isascii() else name.decode(errors="surrogateescape")
