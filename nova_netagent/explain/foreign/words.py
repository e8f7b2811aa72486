"""The words of rules in nf_tables as nft(8) would write them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from nova_netagent.backend.nft.objects import Element, padded
from nova_netagent.explain.foreign import fields
from nova_netagent.explain.foreign.fields import Field, value_text
from nova_netagent.explain.foreign.sets import OtherSet, verdict_of

EQUAL, NOT_EQUAL, _LESS, _AT_MOST, _MORE, _AT_LEAST = range(6)
_OPERATORS = {EQUAL: "", NOT_EQUAL: "!= ", _LESS: "< ", _AT_MOST: "<= ", _MORE: "> ", _AT_LEAST: ">= "}
_SHOWN = 8
"""So many of a set's elements are written."""


@dataclass(frozen=True)
class Loaded:
    """What a register holds."""

    field: Field
    mask: bytes | None = None
    constant: bytes | None = None


def written(loaded: Loaded | None, kind: str) -> str:
    """What a register holds, or where it is from."""
    if loaded is None:
        return "?"
    if loaded.constant is not None:
        return value_text(kind, loaded.constant)
    return loaded.field.text if loaded.mask is None else f"{loaded.field.text} & {value_text(kind, loaded.mask)}"


def flipped_text(of: Field, mask: bytes, flip: bytes) -> str:
    """A field of which bits are kept, set or turned (nft_bitwise.c)."""
    flipped = value_text(of.kind, flip)
    if mask == bytes(each ^ 0xFF for each in flip):
        return f"{of.text} | {flipped}"
    return f"{of.text} ^ {flipped}" if set(mask) == {0xFF} else f"{of.text} & {value_text(of.kind, mask)} ^ {flipped}"


def compared_text(loaded: Loaded, operation: int, value: bytes) -> str:
    """A comparison (nft_cmp.c)."""
    kind, text, mask = loaded.field.kind, loaded.field.text, loaded.mask
    if mask is None:
        return f"{text} {_OPERATORS.get(operation, '')}{value_text(kind, value)}"
    if kind in ("ip4", "ip6") and operation in (EQUAL, NOT_EQUAL):
        bits = "".join(f"{each:08b}" for each in mask)
        length = len(list(takewhile(lambda bit: bit == "1", bits)))
        if "1" not in bits[length:]:
            return f"{text} {_OPERATORS[operation]}{fields.prefix_text(kind, value, length)}"
    if kind.startswith("ct") and not any(value):
        return f"{text} {'' if operation == NOT_EQUAL else '!= '}{value_text(kind, mask)}"
    operator = _OPERATORS.get(operation) or "== "
    return f"{text} & {value_text(kind, mask)} {operator}{value_text(kind, value)}"


def verdict_text(code: int, chain: str | None) -> str:
    """A verdict, with the chain that it leads to."""
    known = {0: "drop", 1: "accept", -1: "continue", -3: "jump", -4: "goto", -5: "return"}
    word = known.get(code, "queue")
    return word if chain is None else f"{word} {chain}"


def set_text(name: str, described: OtherSet | None, loaded: Sequence[Field]) -> str:
    """A set by its name, or what an anonymous one holds."""
    if described is None or not described.is_anonymous:
        return f"@{name}"
    shown = [_element_text(each, loaded, described) for each in described.in_order() if not each.closes]
    rest = f", … ({len(shown)} in all)" if len(shown) > _SHOWN else ""
    return f"{{ {', '.join(shown[:_SHOWN])}{rest} }}"


def _element_text(element: Element, loaded: Sequence[Field], described: OtherSet) -> str:
    low, high = element.key, described.end_of(element)
    at, parts = 0, []
    for each in loaded:
        part = slice(at, at + each.size)
        ends = dict.fromkeys((value_text(each.kind, low[part]), value_text(each.kind, high[part])))
        parts.append("-".join(ends))
        at += padded(each.size)
    text = " . ".join(parts) if low else "*"
    if element.data is None or not described.holds_verdicts:
        return text
    return f"{text} : {verdict_text(*verdict_of(element.data))}"
