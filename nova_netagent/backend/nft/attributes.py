"""What nf_tables puts into netlink attributes; its numbers are big-endian everywhere."""

import struct
from collections.abc import Iterator

from nova_netagent.backend.netlink import ATTRIBUTE, NESTED, attributes
from nova_netagent.backend.netlink import attribute as attribute
from nova_netagent.backend.netlink import parse as parse

_NUMBER = struct.Struct(">I")
_LONG = struct.Struct(">Q")
_ENDS = (bytes(4), bytes(3), bytes(2), bytes(1))
"""The zero after a text, and what fills the last word, by the letters in that word."""

ROOM = 65000
"""What one attribute can hold: its length has 16 bits."""


def aligned(kind: int, data: bytes) -> bytes:
    """``attribute`` where the value fills whole words, as attributes do."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(data), kind) + data


def nested(kind: int, *items: bytes) -> bytes:
    """An attribute whose value is attributes."""
    return attribute(kind | NESTED, b"".join(items))


def string(kind: int, text: str) -> bytes:
    """A text, ended by a zero."""
    data = text.encode()
    return ATTRIBUTE.pack(ATTRIBUTE.size + 1 + len(data), kind) + data + _ENDS[len(data) & 3]


def number(kind: int, value: int) -> bytes:
    """A number of 32 bits; a negative one as its complement."""
    return attribute(kind, _NUMBER.pack(value & 0xFFFFFFFF))


def parse_list(data: bytes) -> Iterator[bytes]:
    """The values of a list's items, whatever their type."""
    return (value for _, value in attributes(data))


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
