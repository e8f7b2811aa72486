"""Tables, chains, sets and their elements, as values."""

import socket
from collections.abc import Iterable
from enum import IntEnum, IntFlag

from msgspec import Struct

from nova_netagent.backend.nft import expressions
from nova_netagent.backend.nft.expressions import Base, Meta
from nova_netagent.backend.nft.statements import Field

COMMENT_LIMIT = 128
"""nft(8)'s own limit for a comment, its zero included."""


DORMANT = 0x1
"""A flag of tables that are asleep: their chains judge nothing (linux/netfilter/nf_tables.h)."""


class Family(IntEnum):
    """The families of tables."""

    INET = 1
    IP = 2
    ARP = 3
    NETDEV = 5
    BRIDGE = 7
    IP6 = 10


class TableId(Struct, frozen=True):
    """A table by its family and name."""

    family: Family
    name: str


class BaseHook(Struct, frozen=True):
    """Where a base chain is hooked in; what it does not decide is accepted."""

    hook: int
    priority: int
    type: str = "filter"


class Chain(Struct, frozen=True):
    """A chain without its rules; with a hook it is a base chain."""

    name: str
    hook: BaseHook | None = None
    comment: str | None = None


class DataType(Struct, frozen=True):
    """What a set's elements are made of.

    ``number`` and ``byte_order`` (1 is the host's, 2 the network's) are nft(8)'s own, which
    needs them to print elements; the kernel knows bytes only.
    """

    number: int
    size: int
    byte_order: int = 2
    field: Field | None = None
    """For bytes that nft has no type for: where they come from."""
    alike: "DataType | None" = None
    """For the same: what they are nevertheless."""


IPV4_ADDRESS = DataType(7, 4)
IPV6_ADDRESS = DataType(8, 16)
ETHER_ADDRESS = DataType(9, 6)
ETHERNET_TYPE = DataType(10, 2)
INET_PROTOCOL = DataType(12, 1)
INET_SERVICE = DataType(13, 2)
INTERFACE_NAME = DataType(41, 16, byte_order=1)
VERDICT = DataType(0xFFFFFF00, 16, byte_order=0)
"""What becomes of a packet: an element's data are the attributes of a verdict."""
ETHERNET_TYPES = {"ip": b"\x08\x00", "ip6": b"\x86\xdd"}
"""Those that nft(8) has words for, and we use."""


def raw(field: Field, alike: DataType) -> DataType:
    """The bytes of a field that nft(8) does not know; it prints them as a number."""
    return DataType(4, field.size, field=field, alike=alike)


class SetFlag(IntFlag):
    """What kind of set it is."""

    ANONYMOUS = 0x1
    INTERVAL = 0x4
    MAP = 0x8
    TIMEOUT = 0x10
    CONCATENATED = 0x80


class Set(Struct, frozen=True):
    """A set, or with ``data`` a map, without its elements.

    With ``interval`` each field of an element is a range, and elements may not overlap.
    """

    name: str
    key: tuple[DataType, ...]
    data: DataType | None = None
    interval: bool = False
    comment: str | None = None
    timeout: int | None = None
    """Seconds after which an element is forgotten."""
    size: int | None = None
    """How many elements it can have, at most."""

    @property
    def key_size(self) -> int:
        """Bytes of a key: each field fills whole registers."""
        return sum(padded(each.size) for each in self.key) if len(self.key) > 1 else self.key[0].size

    @property
    def flags(self) -> SetFlag:
        """The kernel's flags."""
        flags = SetFlag(0)
        if self.interval:
            flags |= SetFlag.INTERVAL
        if self.interval and len(self.key) > 1:
            flags |= SetFlag.CONCATENATED
        if self.data is not None:
            flags |= SetFlag.MAP
        if self.timeout is not None:
            flags |= SetFlag.TIMEOUT
        return flags


class Element(Struct, frozen=True, gc=False):
    """An element of a set.

    ``end`` is the upper end of a range; of a plain element, and of one that is its own end,
    it is ``None``. A set of ranges of one field has two elements for each: where it begins,
    and one that ``closes`` it, the first key that is no longer in it. A set's catch-all has
    an empty key.
    """

    key: bytes
    end: bytes | None = None
    data: bytes | None = None
    comment: str | None = None
    closes: bool = False


def element_text(described: Set, element: Element) -> str:
    """An element as nft(8) prints it, but for ranges that it would call a prefix."""
    at, words = 0, []
    for each in described.key:
        low = element.key[at : at + each.size]
        high = low if element.end is None else element.end[at : at + each.size]
        words.append(_text(each, low) if low == high else f"{_text(each, low)}-{_text(each, high)}")
        at += padded(each.size)
    text = " . ".join(words)
    if described.data is not None and element.data is not None:
        text += f" : {_text(described.data, element.data)}"
    return text


def comment(text: str) -> str | None:
    """A text as a comment: quotes and what is no printable ASCII would not survive nft(8)."""
    if not text.isascii() or '"' in text:
        text = text.encode("ascii", "replace").decode().replace('"', "'")
    return (text if len(text) < COMMENT_LIMIT else text[: COMMENT_LIMIT - 1]) or None


def key(parts: Iterable[bytes]) -> bytes:
    """The key of a concatenation."""
    return b"".join(part + bytes(-len(part) % 4) for part in parts)


def interface_name(device: str) -> bytes:
    """A device's name as the kernel compares it."""
    return device.encode().ljust(INTERFACE_NAME.size, b"\0")


def padded(size: int) -> int:
    """Bytes that a value takes in registers."""
    return -(-size // 4) * 4


def _text(type_: DataType, value: bytes) -> str:
    if type_ == VERDICT:
        return expressions.verdict_text(value)
    if len(value) != type_.size:
        return value.hex()  # of an element that the kernel refuses
    match type_.alike or type_:
        case DataType(number=41):
            return value.rstrip(b"\0").decode(errors="surrogateescape")
        case DataType(number=7):
            return socket.inet_ntop(socket.AF_INET, value)
        case DataType(number=8):
            return socket.inet_ntop(socket.AF_INET6, value)
        case DataType(number=10):
            return next((name for name, each in ETHERNET_TYPES.items() if each == value), f"0x{value.hex()}")
        case _:
            return value.hex(":")


IIFNAME = Field("iifname", 16, key=Meta.IIFNAME)
OIFNAME = Field("oifname", 16, key=Meta.OIFNAME)
ETHER_SOURCE = Field("ether saddr", 6, base=Base.LINK, offset=6)
ETHER_DESTINATION = Field("ether daddr", 6, base=Base.LINK, offset=0)
ETHER_TYPE = Field("ether type", 2, base=Base.LINK, offset=12)
