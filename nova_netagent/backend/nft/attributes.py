"""Netlink attributes: type, length, value, padded to four bytes.

Numbers are big-endian, as everywhere in nf_tables. Sources: linux/netlink.h, lib/nlattr.c.
"""

import struct
from collections.abc import Iterator

_HEADER = struct.Struct("=HH")
_NUMBER = struct.Struct(">I")
_LONG = struct.Struct(">Q")
_TYPE_MASK = 0x3FFF
_NESTED = 0x8000

ROOM = 65000
"""What one attribute can hold: its length has 16 bits."""


def attribute(kind: int, data: bytes) -> bytes:
    """An attribute with these bytes as its value."""
    return _HEADER.pack(_HEADER.size + len(data), kind) + data + bytes(-len(data) % 4)


def aligned(kind: int, data: bytes) -> bytes:
    """The same where the value fills whole words, as attributes do."""
    return _HEADER.pack(_HEADER.size + len(data), kind) + data


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute whose value is attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def string(kind: int, text: str) -> bytes:
    """A text, ended by a zero."""
    return attribute(kind, text.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """A number of 32 bits; a negative one as its complement."""
    return attribute(kind, _NUMBER.pack(value & 0xFFFFFFFF))


def parse(data: bytes) -> dict[int, bytes]:
    """Attributes by type; of several of one type the last."""
    return dict(_items(data))


def parse_list(data: bytes) -> Iterator[bytes]:
    """The values of a list's items, whatever their type."""
    return (value for _, value in _items(data))


def read_number(data: bytes) -> int:
    """The value of ``number``, without its sign."""
    return int(_NUMBER.unpack_from(data)[0])


def read_signed(data: bytes) -> int:
    """The value of ``number``, with its sign."""
    return int.from_bytes(data[:4], "big", signed=True)


def read_long(data: bytes) -> int:
    """A number of 64 bits."""
    return int(_LONG.unpack_from(data)[0])


def read_string(data: bytes) -> str:
    """The value of ``string``; what is no UTF-8 stays recognisable."""
    return data.partition(b"\0")[0].decode(errors="surrogateescape")


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at, end = 0, len(data)
    while at + _HEADER.size <= end:
        size, kind = _HEADER.unpack_from(data, at)
        if size < _HEADER.size:
            return
        yield kind & _TYPE_MASK, data[at + _HEADER.size : at + size]
        at += size + (-size % 4)
