"""The codec: a rule as one entry of a legacy table, and back.

The bytes are those that libiptc's append takes: verdicts and jumps by name, and zero where
the kernel keeps its own notes (``nfcache``, ``comefrom``, the counters). The reader brings
what it reads into the same form, so equal rules are equal bytes.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from socket import inet_pton

from nova_netagent.backend.iptables.layout import INVERTED_BITS, LAYOUTS, OFFSETS, Layout, decoded_name
from nova_netagent.backend.iptables.matches import (
    AUTHENTICATED,
    SetIndex,
    SetName,
    decode_matches,
    encode_match,
    encode_set,
    interface,
    match_set_indexes,
)
from nova_netagent.backend.iptables.targets import decode_target, encode_jump, encode_target, jump_chain
from nova_netagent.model import values
from nova_netagent.model.protocols import AH
from nova_netagent.netfilter.rule import Family, InSet, Jump, Opaque, Rule

FOREIGN_HEADER = "ip header"
"""A pseudo match that keeps a header which the five fields cannot say (``-f``, a mask with holes)."""

_Fields = tuple[str | None, str | None, str | None, str | None, int | None]
_FIELDS = ("source", "destination", "in_interface", "out_interface", "protocol")

_NO_INTERFACE = (b"", b"")
_NO_ADDRESS = {family: (bytes(layout.address_size),) * 2 for family, layout in LAYOUTS.items()}
_NO_ADDRESSES = {family: bytes(4 * layout.address_size) for family, layout in LAYOUTS.items()}
_MASKS = {
    family: tuple((((1 << length) - 1) << (bits - length)).to_bytes(bits // 8, "big") for length in range(bits + 1))
    for family, bits in values.FAMILY_BITS.items()
}
_HOSTS = {
    family: (LAYOUTS[family].socket_family, f"/{bits}", _MASKS[family][-1])
    for family, bits in values.FAMILY_BITS.items()
}
"""How a host is told from a network: its address family, how its text ends, its mask."""
_KERNEL_NOTES = {family: bytes(layout.size - layout.comefrom_at) for family, layout in LAYOUTS.items()}


def encode(rule: Rule, family: Family, set_index: SetIndex) -> bytes:
    """A rule's bytes.

    :param set_index: gives the kernel's index of a set by name.
    :raises ValueError: the rule cannot be said in bytes, or would mean something else.
    """
    try:
        goto = False
        if type(rule.target) is Jump:
            target, goto = encode_jump(rule.target.chain), rule.target.goto
        else:
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
        protocol = rule.protocol
        if protocol == AH and family == 6 and header is None and "protocol" not in rule.inverted:
            # As a protocol ip6tables looks past it, to what it authenticates.
            protocol, matches = None, AUTHENTICATED + matches
        target_at = LAYOUTS[family].size + len(matches)
        end = target_at + len(target)
        if header is not None:
            return b"".join((header, OFFSETS.pack(0, target_at, end), _KERNEL_NOTES[family], matches, target))
        fields = (rule.source, rule.destination, rule.in_interface, rule.out_interface, protocol)
        bits = _inverted_bits(fields, rule.inverted) if rule.inverted else 0
        rest = _rest(fields[2], fields[3], fields[4], bits, goto, target_at, end, family)
        return b"".join((_addresses(fields[0], fields[1], family), rest, matches, target))
    except (KeyError, OverflowError, struct.error) as e:
        raise ValueError(f"a value is out of range: {e} in {rule}") from e


def _inverted_bits(fields: _Fields, inverted: frozenset[str]) -> int:
    return sum(INVERTED_BITS[name] for name, value in zip(_FIELDS, fields, strict=True) if value and name in inverted)


def _addresses(source: str | None, destination: str | None, family: Family) -> bytes:
    """How every header begins: source, destination, their masks."""
    if source is destination is None:
        return _NO_ADDRESSES[family]
    first, first_mask = _NO_ADDRESS[family] if source is None else _address(source, family)
    second, second_mask = _NO_ADDRESS[family] if destination is None else _address(destination, family)
    return b"".join((first, second, first_mask, second_mask))


@lru_cache(4096)
def _rest(
    incoming: str | None,
    outgoing: str | None,
    protocol: int | None,
    bits: int,
    goto: bool,
    target_at: int,
    end: int,
    family: Family,
) -> bytes:
    """What stands between an entry's addresses and its matches: most rules have one of a few."""
    interfaces = _interfaces(incoming, outgoing, protocol, bits, goto, LAYOUTS[family])
    return b"".join((interfaces, OFFSETS.pack(0, target_at, end), _KERNEL_NOTES[family]))


def _interfaces(
    incoming: str | None, outgoing: str | None, protocol: int | None, bits: int, goto: bool, layout: Layout
) -> bytes:
    """How every header ends."""
    flags, number = 0, 0
    if protocol is not None:
        flags, number = layout.protocol_flag, _protocol(protocol)
    if goto:
        flags |= layout.goto_flag
    into, into_mask = _NO_INTERFACE if incoming is None else interface(incoming)
    out, out_mask = _NO_INTERFACE if outgoing is None else interface(outgoing)
    return layout.interfaces.pack(into, out, into_mask, out_mask, number, flags, bits)


def _protocol(number: int) -> int:
    if not 1 <= number <= 255:
        # 0 is "any" to the kernel: a wider rule than was asked for.
        raise ValueError(f"protocol {number} cannot be matched: 1 to 255")
    return number


def _address(text: str, family: Family) -> tuple[bytes, bytes]:
    """A prefix and its mask."""
    socket_family, of_a_host, its_mask = _HOSTS[family]
    if text.endswith(of_a_host):
        try:
            return inet_pton(socket_family, text[: -len(of_a_host)]), its_mask
        except OSError:
            pass
    return _prefix(text, family)


@lru_cache(4096)
def _prefix(text: str, family: Family) -> tuple[bytes, bytes]:
    prefix = values.prefix(text)
    if prefix.family != family:
        raise ValueError(f"{text!r} is not an IPv{family} prefix")
    return prefix.value.to_bytes(LAYOUTS[family].address_size, "big"), _MASKS[family][prefix.length]


def decode(entry: bytes, family: Family, set_name: SetName) -> Rule:
    """The rule that an entry is; what our values cannot say is ``Opaque`` and keeps its bytes.

    :param set_name: gives a set's name by the kernel's index, ``None`` when there is none.
    """
    layout = LAYOUTS[family]
    _nfcache, target_at, _end = OFFSETS.unpack_from(entry, layout.nfcache_at)
    header = entry[: layout.nfcache_at]
    fields, inverted, goto, foreign = _unpack_header(header, family)
    encoded = entry[layout.size : target_at]
    if family == 6 and fields[-1] is None and encoded.startswith(AUTHENTICATED):
        fields, encoded = (*fields[:-1], AH), encoded[len(AUTHENTICATED) :]
    matches = tuple(decode_matches(encoded, family, set_name))
    target = decode_target(entry[target_at:], family, goto)
    if foreign or (goto and not isinstance(target, Jump)):
        matches = (Opaque(FOREIGN_HEADER, 0, header), *matches)
    return Rule(target, *fields, matches=matches, inverted=inverted)


@lru_cache(16384)
def _unpack_header(header: bytes, family: Family) -> tuple[_Fields, frozenset[str], bool, bool]:
    """The header's fields, which of them are inverted, whether a jump is a goto, and whether that is not all."""
    layout = LAYOUTS[family]
    size = layout.address_size
    source, destination, source_mask, mask = (header[at : at + size] for at in range(0, 4 * size, size))
    incoming, outgoing, _in, _out, protocol, flags, bits = layout.interfaces.unpack_from(header, 4 * size)
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
        interfaces = _interfaces(*fields[2:], _inverted_bits(fields, inverted), goto, layout)
        foreign = _addresses(*fields[:2], family) + interfaces != header or (family, protocol) == (6, AH)
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
