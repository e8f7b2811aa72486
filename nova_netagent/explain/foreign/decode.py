"""A rule of somebody's in nf_tables: what it asks, what it does, and how nft(8) would write it.

The kernel runs a rule's expressions over registers; here each register holds what was loaded into
it, to be looked at when there is a packet. Source: net/netfilter/nft_*.c.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from nova_netagent.backend.iptables.layout import extension
from nova_netagent.backend.iptables.targets import decode_target
from nova_netagent.backend.nft.attributes import parse, parse_list, read_number, read_string
from nova_netagent.backend.nft.expressions import Nat
from nova_netagent.backend.nft.objects import padded
from nova_netagent.explain.foreign import fields
from nova_netagent.explain.foreign.decoded import UNKNOWN, Act, Decoded, Judge, target_of
from nova_netagent.explain.foreign.fields import Around, Field, NoMatchError, value_text
from nova_netagent.explain.foreign.sets import OtherSet, verdict_of
from nova_netagent.explain.foreign.words import (
    EQUAL,
    Loaded,
    compared_text,
    flipped_text,
    set_text,
    verdict_text,
    written,
)
from nova_netagent.netfilter import foreign
from nova_netagent.netfilter.packet import PASSING, Packet
from nova_netagent.netfilter.rule import Dnat, Family, Opaque, Redirect, Reject, Snat, Target
from nova_netagent.netfilter.text import target_text

_INVERTED, _QUEUE = 1, 3
_SILENT = frozenset({"last", "log", "dup", "flow_offload"})
"""Expressions after which a rule goes on, and which change nothing that a rule asks; a counter is not even said."""


def decode(expressions: bytes, family: int, sets: Mapping[str, OtherSet]) -> Decoded:
    """A rule as it was listed.

    :param family: the addresses that its table sees, 4 or 6; 0: both.
    """
    decoder = _Decoder(family, sets)
    for each in parse_list(expressions):
        known = parse(each)
        name = read_string(known[1])
        try:
            decoder.take(name, known.get(2, b""))
        except (KeyError, IndexError, ValueError, UnicodeError):
            decoder.unknown(f"({name})")
    return decoder.found


class _Decoder:
    def __init__(self, family: int, sets: Mapping[str, OtherSet]) -> None:
        self._family = family
        self._sets = sets
        self._slots: dict[int, Loaded] = {}
        self._protocol = ""
        self.found = Decoded()

    def take(self, name: str, data: bytes) -> None:
        """Read one expression."""
        known = parse(data)
        read = getattr(self, f"_{name}", None)
        if read is not None:
            read(known)
        elif name in _SILENT:
            self._say(name)
        elif name != "counter":
            self.unknown(f"({name})")

    def unknown(self, text: str) -> None:
        """Something that a packet does not tell."""
        self._test(text, lambda packet, around: None)

    # --- loads

    def _meta(self, known: dict[int, bytes]) -> None:
        key = read_number(known[2])
        if 1 in known:
            self._load(known[1], fields.meta(key))
            return
        what = self._slots.get(_slot(known[3]))
        if key == 3:
            self._say(f"meta mark set {written(what, 'mark')}")
            self.found.mark = (lambda packet, around: None) if what is None else what.field.read
        elif key != 12:
            self._say(f"meta key {key} set")

    def _payload(self, known: dict[int, bytes]) -> None:
        base, offset, size = (read_number(known[kind]) for kind in (2, 3, 4))
        found = fields.payload(base, offset, size, self._family)
        if found.text in ("sport", "dport"):
            found = replace(found, text=f"{self._protocol or 'th'} {found.text}")
        if 1 in known:
            self._load(known[1], found)
            return
        self._say(f"{found.text} set {written(self._slots.get(_slot(known[5])), found.kind)}")
        self.found.rewrites |= found.kind != "hex"

    def _ct(self, known: dict[int, bytes]) -> None:
        key = read_number(known[2])
        if 1 in known:
            self._load(known[1], fields.ct(key))
        else:
            self._say(f"ct key {key} set")

    def _fib(self, known: dict[int, bytes]) -> None:
        self._load(known[1], fields.fib(read_number(known[3]), read_number(known[2])))

    def _immediate(self, known: dict[int, bytes]) -> None:
        data = parse(known[2])
        if read_number(known[1]) == 0:
            code, chain = verdict_of(data[2])
            self._verdict(code, chain)
            return
        self._slots[_slot(known[1])] = _constant(data[1])

    def _bitwise(self, known: dict[int, bytes]) -> None:
        source, size = self._slots.get(_slot(known[1])), read_number(known[3])
        if source is None or read_number(known.get(6, bytes(4))) or 4 not in known:
            self._load(known[2], fields.unknown("(bitwise)", size))
            return
        mask, flip = parse(known[4])[1], parse(known[5])[1]
        whole = source.field.read

        def masked(packet: Packet, around: Around) -> bytes | None:
            value = whole(packet, around)
            return None if value is None else _xor(_and(value, mask), flip)

        changed = replace(source.field, read=masked)
        if any(flip):
            changed = replace(changed, text=flipped_text(source.field, mask, flip))
        self._slots[_slot(known[2])] = Loaded(changed, None if any(flip) else mask)

    def _byteorder(self, known: dict[int, bytes]) -> None:
        source, size = self._slots.get(_slot(known[1])), read_number(known[5])
        if source is None or fields.HOST == "big":
            return
        whole = source.field.read

        def turned(packet: Packet, around: Around) -> bytes | None:
            value = whole(packet, around)
            if value is None:
                return None
            return b"".join(value[at : at + size][::-1] for at in range(0, len(value), size))

        self._slots[_slot(known[2])] = Loaded(Field(source.field.text, "hex", source.field.size, turned))

    def _load(self, register: bytes, what: Field) -> None:
        self._slots[_slot(register)] = Loaded(what)

    # --- tests

    def _cmp(self, known: dict[int, bytes]) -> None:
        operation, value = read_number(known[2]), parse(known[3])[1]
        loaded = self._slots.get(_slot(known[1]))
        if loaded is None:
            self.unknown("(cmp)")
            return
        read = loaded.field.read

        def compared(packet: Packet, around: Around) -> bool | None:
            found = read(packet, around)
            return None if found is None else _compare(operation, found[: len(value)], value)

        self._note_protocol(loaded.field, operation, value)
        self._test(compared_text(loaded, operation, value), compared)

    def _range(self, known: dict[int, bytes]) -> None:
        low, high = parse(known[3])[1], parse(known[4])[1]
        inverted = read_number(known[2]) == _INVERTED
        loaded = self._slots.get(_slot(known[1]))
        if loaded is None:
            self.unknown("(range)")
            return
        kind, read = loaded.field.kind, loaded.field.read

        def between(packet: Packet, around: Around) -> bool | None:
            found = read(packet, around)
            return None if found is None else (low <= found[: len(low)] <= high) != inverted

        words = f"{value_text(kind, low)}-{value_text(kind, high)}"
        self._test(f"{loaded.field.text} {'!= ' if inverted else ''}{words}", between)

    def _lookup(self, known: dict[int, bytes]) -> None:
        name = read_string(known[1])
        inverted = bool(read_number(known.get(5, bytes(4))) & _INVERTED)
        described = self._sets.get(name)
        size = described.listed.key_size if described is not None else 0
        loaded = self._row(_slot(known[2]), size)
        key, text = _joined(loaded), " . ".join(each.field.text for each in loaded)

        def find(packet: Packet, around: Around) -> tuple[bool, bytes | None] | None:
            wanted = None if described is None else key(packet, around)
            if described is None or wanted is None:
                return None
            element = described.find(wanted)
            return element is not None, None if element is None else element.data

        if 3 not in known:
            shown = set_text(name, described, [each.field for each in loaded])

            def held(packet: Packet, around: Around) -> bool | None:
                found = find(packet, around)
                return None if found is None else found[0] != inverted

            self._test(f"{text} {'!= ' if inverted else ''}{shown}", held)
        elif read_number(known[3]) == 0:
            self._say(f"{text} vmap {set_text(name, described, [each.field for each in loaded])}")
            self.found.act = _from_map(find)
        else:
            self._load(known[3], Field(f"{text} map @{name}", "hex", 16, _data_from_map(find)))

    def _row(self, slot: int, size: int) -> list[Loaded]:
        """What stands in the registers from one on, as many as a key of so many bytes fills."""
        found, at = [], 0
        while at < max(size, 1):
            each = self._slots.get(slot + at // 4) or Loaded(fields.unknown("?"))
            found.append(each)
            at += padded(each.field.size)
        return found

    def _match(self, known: dict[int, bytes]) -> None:
        match = Opaque(read_string(known[1]), read_number(known[2]), known.get(3, b""))
        if match.name == "comment":
            return
        self._test(
            foreign.match_text(match) or f"-m {match.name}",
            lambda packet, around: foreign.applies(match, packet, around.surroundings),
        )

    def _limit(self, known: dict[int, bytes]) -> None:
        self.unknown(f"limit rate {'over ' if read_number(known.get(5, bytes(4))) & 1 else ''}…")

    def _dynset(self, known: dict[int, bytes]) -> None:
        self._say(f"(changes @{read_string(known[1])})")
        if 7 in known or 10 in known:
            self.unknown("(with a limit)")

    def _objref(self, known: dict[int, bytes]) -> None:
        if read_number(known.get(1, bytes(4))) not in (1, 3):  # a counter; what helps connection tracking
            self.unknown("(an object)")

    def _exthdr(self, known: dict[int, bytes]) -> None:
        if 1 in known:
            self._load(known[1], fields.unknown("(option)"))
        else:
            self._say("(sets an option)")

    def _rt(self, known: dict[int, bytes]) -> None:
        self._load(known[1], fields.unknown("(rt)"))

    def _socket(self, known: dict[int, bytes]) -> None:
        self._load(known[2], fields.unknown("(socket)"))

    def _numgen(self, known: dict[int, bytes]) -> None:
        self._load(known[1], fields.unknown("numgen"))

    def _hash(self, known: dict[int, bytes]) -> None:
        self._load(known[2], fields.unknown("(hash)"))

    # --- what is done

    def _verdict(self, code: int, chain: str | None) -> None:
        target = target_of(code, chain) or UNKNOWN
        self._say(verdict_text(code, chain))
        self.found.act = lambda packet, around: target

    def _reject(self, known: dict[int, bytes]) -> None:
        self._say("reject with tcp reset" if read_number(known[1]) == 1 else "reject")
        self.found.act = lambda packet, around: Reject()

    def _nat(self, known: dict[int, bytes]) -> None:
        address = self._row(_slot(known[3]), 1)[0] if 3 in known else None
        port = self._row(_slot(known[5]), 1)[0] if 5 in known else None
        is_source = read_number(known[1]) == Nat.SOURCE
        family = 6 if read_number(known[2]) == 10 else 4

        def translated(packet: Packet, around: Around) -> Target | None:
            to = packet.source if is_source else packet.destination
            if address is not None:
                value = address.field.read(packet, around)
                if value is None:
                    return None
                to = value_text(f"ip{family}", value[: 4 if family == 4 else 16])
            number = None if port is None else port.field.read(packet, around)
            if port is not None and number is None:
                return None
            return Snat(to) if is_source else Dnat(to, None if number is None else int.from_bytes(number[:2], "big"))

        ends = [written(each, kind) for each, kind in ((address, f"ip{family}"), (port, "port")) if each is not None]
        self._say(f"{'snat' if is_source else 'dnat'} to {':'.join(ends)}")
        self.found.act = translated

    def _masq(self, known: dict[int, bytes]) -> None:
        self._say("masquerade")
        self.found.act = lambda packet, around: Opaque("MASQUERADE", 0, b"")

    def _redir(self, known: dict[int, bytes]) -> None:
        port = self._row(_slot(known[1]), 1)[0] if 1 in known else None
        self._say("redirect" if port is None else f"redirect to :{written(port, 'port')}")

        def redirected(packet: Packet, around: Around) -> Target | None:
            if port is None:
                return None if packet.destination_port is None else Redirect(packet.destination_port)
            value = port.field.read(packet, around)
            return None if value is None else Redirect(int.from_bytes(value[:2], "big"))

        self.found.act = redirected

    def _queue(self, known: dict[int, bytes]) -> None:
        self._say("queue")
        self.found.act = lambda packet, around: UNKNOWN

    _tproxy = _synproxy = _queue

    def _notrack(self, known: dict[int, bytes]) -> None:
        self._say("notrack")
        self.found.untracks = True

    def _fwd(self, known: dict[int, bytes]) -> None:
        """It goes out by another link, and no further here."""
        self._say("fwd")
        self.found.act = lambda packet, around: UNKNOWN

    # (their names are the kernel's)

    def _target(self, known: dict[int, bytes]) -> None:
        family: Family = 6 if self._family == 6 else 4
        whole = extension(known[1].rstrip(b"\0"), read_number(known[2]), known.get(3, b""))
        target = decode_target(whole, family, goto=False)
        self._say(target_text(target, family))
        known_one = not isinstance(target, Opaque) or target.name in PASSING | {"REJECT", "MASQUERADE", "SNAT"}
        self.found.act = lambda packet, around: target if known_one else UNKNOWN

    # --- words

    def _say(self, text: str) -> None:
        self.found.words.append(text)

    def _test(self, text: str, judge: Judge) -> None:
        self._say(text)
        self.found.tests.append(judge)

    def _note_protocol(self, of: Field, operation: int, value: bytes) -> None:
        """Remember which ports are meant, and whose addresses."""
        if of.kind == "protocol" and operation == EQUAL:
            self._protocol = value_text("protocol", value)
        elif of.kind == "nfproto" and operation == EQUAL:
            self._family = {2: 4, 10: 6}.get(value[0], 0)


def _slot(register: bytes) -> int:
    """A register of four bytes, by either of its names."""
    number = read_number(register)
    return (number - 1) * 4 if number <= 4 else number - 8


def _constant(value: bytes) -> Loaded:
    return Loaded(Field(f"0x{value.hex()}", "hex", len(value), lambda packet, around: value), constant=value)


def _xor(value: bytes, flip: bytes) -> bytes:
    return bytes(left ^ right for left, right in zip(value, flip, strict=False))


def _and(value: bytes, mask: bytes) -> bytes:
    return bytes(left & right for left, right in zip(value, mask, strict=False))


def _compare(operation: int, left: bytes, right: bytes) -> bool:
    match operation:
        case 0:
            return left == right
        case 1:
            return left != right
        case 2:
            return left < right
        case 3:
            return left <= right
        case 4:
            return left > right
        case _:
            return left >= right


def _joined(loaded: Sequence[Loaded]) -> Callable[[Packet, Around], bytes | None]:
    def read(packet: Packet, around: Around) -> bytes | None:
        parts = []
        for each in loaded:
            value = each.field.read(packet, around)
            if value is None:
                return None
            parts.append(value + bytes(-len(value) % 4) if len(loaded) > 1 else value)
        return b"".join(parts)

    return read


_Find = Callable[[Packet, Around], tuple[bool, bytes | None] | None]


def _from_map(find: _Find) -> Act:
    def act(packet: Packet, around: Around) -> Target | bool | None:
        try:
            found = find(packet, around)
        except NoMatchError:
            return False
        if found is None:
            return None
        there, data = found
        return False if not there or data is None else target_of(*verdict_of(data)) or UNKNOWN

    return act


def _data_from_map(find: _Find) -> fields.Read:
    def read(packet: Packet, around: Around) -> bytes | None:
        found = find(packet, around)
        if found is None:
            return None
        if not found[0]:
            raise NoMatchError
        return found[1]

    return read
