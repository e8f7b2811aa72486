"""The codec: a rule as one entry of a legacy table, and back.

The bytes are those that libiptc's append takes: verdicts and jumps by name, and zero where
the kernel keeps its own notes (``nfcache``, ``comefrom``, the counters). The reader brings
what it reads into the same form, so equal rules are equal bytes.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache

from nova_netagent.backend.iptables.layout import INVERTED_BITS, LAYOUTS, OFFSETS, Layout, decoded_name
from nova_netagent.backend.iptables.matches import (
    SetIndex,
    SetName,
    decode_matches,
    encode_match,
    encode_set,
    interface,
    match_set_indexes,
)
from nova_netagent.backend.iptables.targets import decode_target, encode_target, jump_chain
from nova_netagent.model import values
from nova_netagent.netfilter.rule import Family, InSet, Jump, Opaque, Rule

FOREIGN_HEADER = "ip header"
"""A pseudo match that keeps a header which the five fields cannot say (``-f``, a mask with holes)."""

_Fields = tuple[str | None, str | None, str | None, str | None, int | None]
_FIELDS = ("source", "destination", "in_interface", "out_interface", "protocol")

_NO_INTERFACE = (bytes(16), bytes(16))
_NO_ADDRESS = {4: (bytes(4), bytes(4)), 6: (bytes(16), bytes(16))}
_KERNEL_NOTES = {family: bytes(layout.size - layout.comefrom_at) for family, layout in LAYOUTS.items()}


def encode(rule: Rule, family: Family, set_index: SetIndex) -> bytes:
    """A rule's bytes.

    :param set_index: gives the kernel's index of a set by name.
    :raises ValueError: the rule cannot be said in bytes, or would mean something else.
    """
    try:
        return _encode(rule, family, set_index)
    except (KeyError, OverflowError, struct.error) as e:
        raise ValueError(f"a value is out of range: {e} in {rule}") from e


def _encode(rule: Rule, family: Family, set_index: SetIndex) -> bytes:
    layout = LAYOUTS[family]
    target = encode_target(rule.target, family)
    header = None
    matches = b""
    for match in rule.matches:
        if type(match) is InSet:
            matches += encode_set(set_index(match.name), match.direction)
        elif type(match) is Opaque and match.name == FOREIGN_HEADER:
            header = match.data
        else:
            matches += encode_match(match, family)
    target_at = layout.size + len(matches)
    offsets = OFFSETS.pack(0, target_at, target_at + len(target))
    return b"".join((header or _header(rule, layout), offsets, _KERNEL_NOTES[family], matches, target))


def _header(rule: Rule, layout: Layout) -> bytes:
    goto = type(rule.target) is Jump and rule.target.goto
    fields = (rule.source, rule.destination, rule.in_interface, rule.out_interface, rule.protocol)
    if fields[0] is fields[1] is None:
        return _common_header(fields, rule.inverted, goto, layout.family)
    return _pack_header(fields, rule.inverted, goto, layout)


@lru_cache(1024)
def _common_header(fields: _Fields, inverted: frozenset[str], goto: bool, family: Family) -> bytes:
    """Without an address: there are few such headers, and most rules have one."""
    return _pack_header(fields, inverted, goto, LAYOUTS[family])


def _pack_header(fields: _Fields, inverted: frozenset[str], goto: bool, layout: Layout) -> bytes:
    family = layout.family
    source, source_mask = _NO_ADDRESS[family] if fields[0] is None else _address(fields[0], family)
    destination, mask = _NO_ADDRESS[family] if fields[1] is None else _address(fields[1], family)
    incoming, in_mask = _NO_INTERFACE if fields[2] is None else interface(fields[2])
    outgoing, out_mask = _NO_INTERFACE if fields[3] is None else interface(fields[3])
    flags, protocol = 0, 0
    if fields[4] is not None:
        flags, protocol = layout.protocol_flag, _protocol(fields[4])
    if goto:
        flags |= layout.goto_flag
    bits = 0
    if inverted:
        bits = sum(
            INVERTED_BITS[name] for name, value in zip(_FIELDS, fields, strict=True) if value and name in inverted
        )
    return layout.addresses.pack(
        source, destination, source_mask, mask, incoming, outgoing, in_mask, out_mask, protocol, flags, bits
    )


def _protocol(number: int) -> int:
    if not 1 <= number <= 255:
        # 0 is "any" to the kernel: a wider rule than was asked for.
        raise ValueError(f"protocol {number} cannot be matched: 1 to 255")
    return number


@lru_cache(4096)
def _address(text: str, family: Family) -> tuple[bytes, bytes]:
    prefix = values.prefix(text)
    if prefix.family != family:
        raise ValueError(f"{text!r} is not an IPv{family} prefix")
    bits = values.FAMILY_BITS[family]
    mask = (1 << bits) - (1 << (bits - prefix.length))
    return prefix.value.to_bytes(bits // 8, "big"), mask.to_bytes(bits // 8, "big")


def decode(entry: bytes, family: Family, set_name: SetName) -> Rule:
    """The rule that an entry is; what our values cannot say is ``Opaque`` and keeps its bytes.

    :param set_name: gives a set's name by the kernel's index, ``None`` when there is none.
    """
    layout = LAYOUTS[family]
    _nfcache, target_at, _end = OFFSETS.unpack_from(entry, layout.nfcache_at)
    header = entry[: layout.nfcache_at]
    fields, inverted, goto, foreign = _unpack_header(header, family)
    matches = tuple(decode_matches(entry[layout.size : target_at], family, set_name))
    target = decode_target(entry[target_at:], family, goto)
    if foreign or (goto and not isinstance(target, Jump)):
        matches = (Opaque(FOREIGN_HEADER, 0, header), *matches)
    return Rule(target, *fields, matches=matches, inverted=inverted)


@lru_cache(16384)
def _unpack_header(header: bytes, family: Family) -> tuple[_Fields, frozenset[str], bool, bool]:
    """The header's fields, which of them are inverted, whether a jump is a goto, and whether that is not all."""
    layout = LAYOUTS[family]
    source, destination, source_mask, mask, incoming, outgoing, _in, _out, protocol, flags, bits = (
        layout.addresses.unpack(header)
    )
    inverted = frozenset(name for name, bit in INVERTED_BITS.items() if bits & bit)
    goto = bool(flags & layout.goto_flag)
    fields = (
        _prefix_text(source, source_mask, "source" in inverted),
        _prefix_text(destination, mask, "destination" in inverted),
        decoded_name(incoming) or None,
        decoded_name(outgoing) or None,
        protocol or None,
    )
    inverted -= {name for name, value in zip(_FIELDS, fields, strict=True) if value is None}
    try:
        foreign = _pack_header(fields, inverted, goto, layout) != header
    except ValueError:
        foreign = True
    return fields, inverted, goto, foreign


def _prefix_text(address: bytes, mask: bytes, inverted: bool) -> str | None:
    length = int.from_bytes(mask, "big").bit_count()
    if length == 0 and not inverted:
        return None
    family = 4 if len(address) == 4 else 6
    return values.cidr(f"{values.address_text(family, int.from_bytes(address, 'big'))}/{length}")


def jumps_to(entry: bytes) -> str | None:
    """The chain that an entry of either family jumps or goes to."""
    target_at = OFFSETS.unpack_from(entry, LAYOUTS[family_of(entry)].nfcache_at)[1]
    return jump_chain(entry[target_at:])


def family_of(entry: bytes) -> Family:
    """The family of an entry: its own length stands where the family has it."""
    # In IPv6 the same two bytes are an interface's name, whose characters make another number.
    return 4 if OFFSETS.unpack_from(entry, LAYOUTS[4].nfcache_at)[2] == len(entry) else 6


def set_indexes(entry: bytes, family: Family) -> Iterator[int]:
    """The indexes of the sets that an entry refers to, as far as its matches are ours."""
    layout = LAYOUTS[family]
    target_at = OFFSETS.unpack_from(entry, layout.nfcache_at)[1]
    yield from match_set_indexes(entry[layout.size : target_at])
