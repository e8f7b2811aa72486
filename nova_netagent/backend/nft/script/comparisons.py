"""What a rule asks of a field, or makes of it, in nft(8)'s words."""

import sys
from collections.abc import Mapping

from nova_netagent.backend.nft.expressions import Compare
from nova_netagent.backend.nft.script import values
from nova_netagent.backend.nft.script.fields import Field

_SIGNS: Mapping[int, str] = {Compare.EQUAL: "", Compare.NOT_EQUAL: "!= "}


class WordlessError(Exception):
    """nft(8) has no words for it, or we do not know them."""


def compared(loaded: Field, operation: int, value: bytes) -> str:
    """The field is so, or is not."""
    sign = _SIGNS.get(operation)
    if sign is None or any(loaded.flip):
        raise WordlessError
    if loaded.address:
        return f"{loaded.text} {sign}{_prefix(loaded, value)}"
    if loaded.mask is None:
        return f"{loaded.text} {sign}{loaded.words(value)}"
    if loaded.any_of and not any(value):
        return f"{loaded.text} {'! ' if operation == Compare.EQUAL else ''}{loaded.words(loaded.mask)}"
    if loaded.any_of:
        raise WordlessError
    if loaded.within is not None:
        return f"{loaded.text} {sign}{loaded.words(value)} / {loaded.words(loaded.mask)}"
    return f"{loaded.text} & {loaded.words(loaded.mask)} {sign or '== '}{loaded.words(value)}"


def between(loaded: Field, low: bytes, high: bytes) -> str:
    """The field lies between these, ends included."""
    if loaded.mask is not None:
        raise WordlessError
    return f"{loaded.text} {loaded.words(low)}-{loaded.words(high)}"


def part(loaded: Field) -> str:
    """The field, as a part of a concatenation."""
    if loaded.mask is None:
        return loaded.text
    if not loaded.address or any(loaded.flip):
        raise WordlessError
    return f"{loaded.text} & {loaded.words(loaded.mask)}"


def edited(loaded: Field) -> str:
    """What becomes of a number: bits that stay, bits that turn over, bits that are set.

    The kernel knows a mask and what is turned over after it (``netlink_parse_bitwise_bool`` in nftables).
    """
    if loaded.mask is None:
        raise WordlessError
    mask, flip = (int.from_bytes(each, sys.byteorder) for each in (loaded.mask, loaded.flip))
    whole = (1 << len(loaded.mask) * 8) - 1
    put = flip & ~mask
    parts = (("&", mask | put, whole), ("^", flip & mask, 0), ("|", put, 0))
    return "".join(f" {sign} {each:#010x}" for sign, each, nothing in parts if each != nothing)


def _prefix(loaded: Field, value: bytes) -> str:
    """The addresses that are so in the bits of the mask, or that begin so."""
    size = loaded.address
    low = value.ljust(size, b"\0")
    rest = bytes(len(value)) if loaded.mask is None else bytes(each ^ 0xFF for each in loaded.mask)
    high = bytes(mine | other for mine, other in zip(low, rest.ljust(size, b"\xff"), strict=True))
    text = values.addresses(low, high)
    if "-" in text:
        raise WordlessError  # the mask is none of a prefix
    return text
