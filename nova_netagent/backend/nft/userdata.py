"""What nft(8) keeps beside objects for itself, and the kernel only stores: comments, types.

Sources: libnftnl's include/libnftnl/udata.h, nftables' include/expression.h and src/mnl.c.
Numbers here are in the host's byte order.
"""

import sys
from collections.abc import Sequence
from functools import lru_cache
from struct import Struct

from nova_netagent.backend.nft import objects
from nova_netagent.backend.nft.objects import COMMENT_LIMIT, DataType, Set
from nova_netagent.backend.nft.statements import Field

COMMENT = 0
"""The comment of tables, chains, rules and elements."""
SET_COMMENT = 7
"""That of sets."""
_SET_KEY_ORDER, _SET_DATA_ORDER, _SET_KEY_TYPE_OF = 0, 1, 3
_EXPRESSION, _EXPRESSION_DATA = 0, 1
_COMMENT_HEAD = Struct("=HHBB")
_RULE_HEADS, _ELEMENT_HEADS = (
    [_COMMENT_HEAD.pack(7 + size, attribute, COMMENT, 1 + size) for size in range(COMMENT_LIMIT)]
    for attribute in (7, 6)
)
"""What is before a comment of so many letters: the attribute's head, and nft(8)'s."""
_ENDS = [bytes(1 + -(7 + size) % 4) for size in range(COMMENT_LIMIT)]
"""The zero after it, and what fills the last word."""
_PAYLOAD, _META, _CONCATENATION = 7, 9, 13


def comment(text: str | None, kind: int = COMMENT) -> bytes:
    """A comment, or nothing."""
    return b"" if text is None else _item(kind, text.encode() + b"\0")


def rule_comment(text: str) -> bytes:
    """A rule's comment with its attribute; nothing for no text."""
    return _noted(_RULE_HEADS, text)


def element_comment(text: str) -> bytes:
    """An element's comment with its attribute; nothing for no text."""
    return _noted(_ELEMENT_HEADS, text)


def rule_comments(about: str, parts: tuple[str, ...]) -> list[bytes]:
    """Comments of rules that begin alike, with their attributes.

    :param parts: what of each follows, after a space; nothing may.
    """
    frames = _frames(len(about), parts) if _is_clean(about) else None
    if frames is None:
        return [rule_comment(f"{about} {part}" if part else about) for part in parts]
    begin = about.encode()
    return [head + begin + tail for head, tail in frames]


def element_comments(about: str, parts: Sequence[str]) -> list[bytes]:
    """The same of elements; their parts are mostly ids, in no other comment."""
    sizes = set(map(len, parts))
    begin = f"{about} ".encode()
    if 0 in sizes or len(begin) + max(sizes, default=0) >= COMMENT_LIMIT or not _is_clean(about + "".join(parts)):
        return [element_comment(f"{about} {part}" if part else about) for part in parts]
    heads = {size: _ELEMENT_HEADS[len(begin) + size] + begin for size in sizes}
    ends = {size: _ENDS[len(begin) + size] for size in sizes}
    return [heads[len(part)] + part.encode() + ends[len(part)] for part in parts]


@lru_cache(256)
def _frames(size: int, parts: tuple[str, ...]) -> tuple[tuple[bytes, bytes], ...] | None:
    """What is around a text of so many letters in comments that go on so; ``None`` if one is no plain text."""
    tails = [f" {part}" if part else "" for part in parts]
    sizes = [size + len(tail) for tail in tails]
    if not size or max(sizes, default=0) >= COMMENT_LIMIT or not _is_clean("".join(parts)):
        return None
    return tuple((_RULE_HEADS[whole], tail.encode() + _ENDS[whole]) for whole, tail in zip(sizes, tails, strict=True))


def _noted(heads: Sequence[bytes], text: str) -> bytes:
    if len(text) >= COMMENT_LIMIT or not _is_clean(text):
        text = objects.comment(text) or ""
    size = len(text)
    return heads[size] + text.encode() + _ENDS[size] if size else b""


def _is_clean(text: str) -> bool:
    """Whether a text survives as it is, unless it is too long."""
    return text.isascii() and '"' not in text


def of_set(described: Set) -> bytes:
    """What nft(8) needs to print a set's elements as what they are."""
    order = described.key[0].byte_order if len(described.key) == 1 else 0
    data = _item(_SET_KEY_ORDER, _number(order))
    if described.data is not None:
        data += _item(_SET_DATA_ORDER, _number(described.data.byte_order))
    if any(each.field is not None for each in described.key):
        data += _item(_SET_KEY_TYPE_OF, _type_of(described.key))
    return data + comment(described.comment, SET_COMMENT)


def read_comment(data: bytes, wanted: int = COMMENT) -> str | None:
    """The comment among what is kept beside an object, if it has one.

    :param wanted: under which number this kind of object has it.
    """
    at = 0
    while at + 2 <= len(data):
        kind, size = data[at], data[at + 1]
        if kind == wanted:
            return data[at + 2 : at + 2 + size].rstrip(b"\0").decode(errors="surrogateescape")
        at += 2 + size
    return None


def _type_of(key: Sequence[DataType]) -> bytes:
    parts = [_expression(each.field) for each in key if each.field is not None]
    if len(parts) != len(key):
        raise ValueError("of a set with raw bytes in its key, every part has to name its field")
    if len(parts) == 1:
        return parts[0]
    numbered = b"".join(_item(number, part) for number, part in enumerate(parts))
    return _item(_EXPRESSION, _number(_CONCATENATION)) + _item(_EXPRESSION_DATA, numbered)


def _expression(field: Field) -> bytes:
    if field.key is not None:
        kind, data = _META, _item(0, _number(field.key))
    else:
        # No description and no template: raw bytes. nft counts its bases from 1, and in bits.
        numbers = (0, 0, field.base + 1, field.offset * 8, field.size * 8)
        kind, data = _PAYLOAD, b"".join(_item(at, _number(each)) for at, each in enumerate(numbers))
    return _item(_EXPRESSION, _number(kind)) + _item(_EXPRESSION_DATA, data)


def _item(kind: int, data: bytes) -> bytes:
    return bytes((kind, len(data))) + data


def _number(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)
