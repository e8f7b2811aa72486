"""A transaction of nf_tables: messages that the kernel carries out together or not at all."""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import count, repeat
from struct import Struct as Layout

from msgspec import Struct, structs

from nova_netagent.backend.netlink import ATTRIBUTE, NESTED
from nova_netagent.backend.nft import attributes, expressions, objects, userdata
from nova_netagent.backend.nft.attributes import nested, number, parse, read_string, string
from nova_netagent.backend.nft.objects import Chain, Element, Family, Set, TableId, element_text
from nova_netagent.backend.nft.statements import Rule

SUBSYSTEM = 10
HEAD = Layout("=IHHIIBBH")
"""nlmsghdr and nfgenmsg: size, type, flags, sequence, port; family, version, resource (big-endian)."""
_RULE_HEAD = Layout("=I4sI8sHH")
"""The same, with what is alike in thousands of rules as bytes, and the head of the expressions."""

REQUEST, ACKNOWLEDGE, DUMP = 0x1, 0x4, 0x300
_EXCLUSIVE, _CREATE, _APPEND = 0x200, 0x400, 0x800
_BEGIN, _END = 16, 17
NEW_TABLE, _DELETE_TABLE = 0, 2
NEW_CHAIN, _DELETE_CHAIN = 3, 5
NEW_RULE, _DELETE_RULE = 6, 8
NEW_SET, _DELETE_SET = 9, 11
NEW_ELEMENTS, _DELETE_ELEMENTS = 12, 14
_APPENDED_RULE = Layout("=HH").pack(SUBSYSTEM << 8 | NEW_RULE, _CREATE | _APPEND | REQUEST)
_INTERVAL_END, _CATCH_ALL = 1, 2
_OWNED = 0x2


_FIRST = 0x8000_0000
"""From here on the messages of transactions are numbered, from 1 on those of questions."""
_ROOM, _TRANSACTIONS = 1 << 20, 1 << 11
_PAGE = 1 << 22
"""Of so many bytes on a new page is begun: what is much longer is moved about in memory as it grows.

Not of fewer: from 4 MiB on (``cmd.agent.return_memory``) the C library gives a page back as soon as it is sent.
Smaller ones leave holes that stay: of 3,000 instances 184 MiB were resident instead of 166.
"""
_BEGUN = count()

What = str | Callable[[int], str]
"""What a message is, for people; of several messages by number."""


class _Several(Struct, gc=False):
    """Messages that were added together, and where the first one begins."""

    page: bytearray
    at: int
    what: What
    elements: tuple[Set, Sequence[Element]] | None


class Batch:
    """The messages of one transaction, in order; nothing is sent here.

    What refers to something comes after it, and what is referred to is deleted after what
    refers to it. Each message knows what it is, so that the kernel's refusal can be told.
    """

    def __init__(self) -> None:
        self.first = _FIRST + next(_BEGUN) % _TRANSACTIONS * _ROOM
        """The number of the message that opens the transaction; the others count on from it."""
        self._pages: list[bytearray] = []
        self._count = 0
        self._last = 0
        """Where in the last page the last message begins."""
        self._added: list[_Several] = []
        self._added_at = array("I")
        """The first message of each."""
        self._sets = 0

    def __len__(self) -> int:
        return self._count

    def what(self, index: int, offset: int | None = None) -> str:
        """What a message is, for people.

        :param offset: where in the message the kernel found fault, if it said so.
        """
        if not 0 <= index < len(self):
            return "the transaction"
        at = bisect_right(self._added_at, index) - 1
        added = self._added[at]
        family, _, body = self._message(index)
        what = added.what if isinstance(added.what, str) else added.what(index - self._added_at[at])
        words = f"{family.name.lower()} {what}"
        if added.elements is None or offset is None:
            return words
        described, elements = added.elements
        element = _element_at(body, offset - HEAD.size)
        return words if element is None else f"{words}: {element_text(described, elements[element])}"

    def table(self, index: int) -> TableId | None:
        """The table that a message is about."""
        if not 0 <= index < len(self):
            return None
        family, _, body = self._message(index)
        return TableId(family, read_string(parse(body)[1]))

    def deletes(self, index: int) -> bool:
        """Whether a message takes a chain or a set away."""
        return 0 <= index < len(self) and self._message(index)[1] in (_DELETE_CHAIN, _DELETE_SET)

    def messages(self) -> Iterator[tuple[int, Family, bytes]]:
        """Of each message its kind, its family and its attributes, in order."""
        for page in self._pages:
            at = 0
            while at < len(page):
                size, kind, _, _, _, family, _, _ = HEAD.unpack_from(page, at)
                yield kind & 0xFF, Family(family), bytes(page[at + HEAD.size : at + size])
                at += size

    def _message(self, index: int) -> tuple[Family, int, bytes]:
        """The family of a message, its kind and its body."""
        several = bisect_right(self._added_at, index) - 1
        page, at = self._added[several].page, self._added[several].at
        for _ in range(index - self._added_at[several]):
            at += HEAD.unpack_from(page, at)[0]
        size, kind, _, _, _, family, _, _ = HEAD.unpack_from(page, at)
        return Family(family), kind & 0xFF, bytes(page[at + HEAD.size : at + size])

    # objects

    def add_table(self, table: TableId, comment: str | None = None, *, owned: bool = False) -> None:
        """Have the table, awake; it may be there.

        :param owned: it goes when the socket that sends this is closed, however that comes about.
        """
        note = userdata.comment(comment)
        body = (
            string(1, table.name) + number(2, _OWNED if owned else 0) + (attributes.attribute(6, note) if note else b"")
        )
        self._add(table, NEW_TABLE, _CREATE, body, f"table {table.name}")

    def delete_table(self, table: TableId) -> None:
        """Delete the table with everything in it; it must be there."""
        self._add(table, _DELETE_TABLE, 0, string(1, table.name), f"delete table {table.name}")

    def add_chain(self, table: TableId, chain: Chain) -> None:
        """Make a chain, which may not be there."""
        body = _table_head(table.name) + string(3, chain.name)
        if chain.hook is not None:
            body += nested(4, number(1, chain.hook.hook), number(2, chain.hook.priority))
            body += number(5, 1) + string(7, chain.hook.type)
        if chain.comment is not None:
            body += attributes.attribute(12, userdata.comment(chain.comment))
        self._add(table, NEW_CHAIN, _CREATE | _EXCLUSIVE, body, f"chain {chain.name}")

    def delete_chain(self, table: TableId, name: str) -> None:
        """Delete a chain that nothing jumps to any more, with its rules."""
        body = string(1, table.name) + string(3, name)
        self._add(table, _DELETE_CHAIN, 0, body, f"delete chain {name}")

    def add_rule(self, table: TableId, chain: str, rule: Rule) -> None:
        """Append a rule to a chain."""
        body = string(1, table.name) + string(2, chain) + nested(4, expressions.encode(rule.expressions))
        if rule.comment is not None:
            body += attributes.attribute(7, userdata.comment(rule.comment))
        self._add(table, NEW_RULE, _CREATE | _APPEND, body, f"rule {chain}: {rule.text}")

    def add_encoded_rule(
        self,
        table: TableId,
        chain: str,
        encoded: bytes,
        note: bytes = b"",
        *,
        before: int | None = None,
        what: Callable[[], str],
    ) -> None:
        """Append a rule to a chain, or put it in.

        :param encoded: its expressions as bytes.
        :param note: its comment as ``userdata`` has it.
        :param before: the handle of the rule before which it shall stand.
        :param what: what it is, for people; asked only when the kernel refuses it.
        """
        body = _chain_head(table.name, chain) + attributes.aligned(4, encoded)
        if before is not None:
            body += attributes.attribute(6, before.to_bytes(8, "big"))
        flags = _CREATE if before is not None else _CREATE | _APPEND
        self._add(table, NEW_RULE, flags, body + note, lambda _: what())

    def add_encoded_rules(
        self,
        table: TableId,
        chain: str,
        rules: Sequence[bytes],
        notes: Sequence[bytes],
        what: Callable[[int], str],
    ) -> None:
        """Append rules to a chain.

        :param rules: of each its expressions as bytes.
        :param notes: of each its comment as ``userdata`` has it; nothing for none.
        :param what: what the rule of a number is, for people; asked only when the kernel refuses it.
        """
        if not rules:
            return
        page = self._page(what)
        pack, kind, family = _RULE_HEAD.pack, _APPENDED_RULE, bytes((0, 0, 0, 0, table.family, 0, 0, 0))
        names = _chain_head(table.name, chain)
        number_, fixed = self.first + self._count, _RULE_HEAD.size + len(names)
        pieces: list[bytes] = []
        size = 0
        for encoded, note in zip(rules, notes, strict=True):
            number_ += 1
            length = len(encoded)
            size = fixed + length + len(note)
            pieces += (pack(size, kind, number_, family, ATTRIBUTE.size + length, 4), encoded, names, note)
        page += b"".join(pieces)
        self._last = len(page) - size
        self._count += len(rules)

    def delete_rule(self, table: TableId, chain: str, handle: int) -> None:
        """Delete a rule by its handle."""
        body = string(1, table.name) + string(2, chain) + attributes.attribute(3, handle.to_bytes(8, "big"))
        self._add(table, _DELETE_RULE, 0, body, f"delete rule {chain}: handle {handle}")

    def flush_rules(self, table: TableId, chain: str | None = None) -> None:
        """Delete every rule of a chain, or of the table."""
        body = string(1, table.name) + (b"" if chain is None else string(2, chain))
        self._add(table, _DELETE_RULE, 0, body, f"flush {chain or table.name}")

    def add_set(self, table: TableId, described: Set) -> None:
        """Make a set without elements, which may not be there."""
        self._sets += 1
        known = _kind_of_set(structs.replace(described, name=""))
        body = _chain_head(table.name, described.name) + number(10, self._sets) + known
        self._add(table, NEW_SET, _CREATE | _EXCLUSIVE, body, f"set {described.name}")

    def delete_set(self, table: TableId, name: str) -> None:
        """Delete a set that no rule looks into any more."""
        body = string(1, table.name) + string(2, name)
        self._add(table, _DELETE_SET, 0, body, f"delete set {name}")

    def flush_elements(self, table: TableId, name: str) -> None:
        """Delete every element of a set."""
        self._add(table, _DELETE_ELEMENTS, 0, string(1, table.name) + string(2, name), f"flush set {name}")

    def add_elements(
        self,
        table: TableId,
        described: Set,
        elements: Sequence[Element],
        notes: Sequence[bytes] | None = None,
    ) -> None:
        """Add elements; ones that are there with the same data do not matter.

        :param notes: of each its comment as ``userdata`` has it, where the elements do not say it themselves.
        """
        if notes is None:
            notes = [b"" if each.comment is None else userdata.element_comment(each.comment) for each in elements]
        self._elements(table, NEW_ELEMENTS, described, elements, notes)

    def delete_elements(self, table: TableId, described: Set, elements: Sequence[Element]) -> None:
        """Delete elements that are there."""
        self._elements(table, _DELETE_ELEMENTS, described, elements, repeat(b""))

    # messages

    def encode(self, *, generation: int | None, commit: bool) -> list[bytes | bytearray]:
        """The whole transaction as bytes, in pieces.

        :param generation: the generation of the ruleset on which it builds; the kernel refuses
            it on any other.
        :param commit: without it the kernel tries everything and keeps nothing.
        """
        guard = b"" if generation is None else number(1, generation)
        subsystem = SUBSYSTEM << 8  # in network byte order
        begin = HEAD.pack(HEAD.size + len(guard), _BEGIN, REQUEST, self.first, 0, 0, 0, subsystem) + guard
        if self._count:  # the last one is acknowledged
            size, kind, flags, *rest = HEAD.unpack_from(self._pages[-1], self._last)
            HEAD.pack_into(self._pages[-1], self._last, size, kind, flags | ACKNOWLEDGE, *rest)
        end = HEAD.pack(HEAD.size, _END, REQUEST, self.first + len(self) + 1, 0, 0, 0, subsystem)
        return [begin, *self._pages, end] if commit else [begin, *self._pages]

    def _elements(
        self, table: TableId, kind: int, described: Set, elements: Sequence[Element], notes: Iterable[bytes]
    ) -> None:
        add = kind == NEW_ELEMENTS
        head = _chain_head(table.name, described.name)
        what = f"{'add to' if add else 'delete from'} set {described.name}"
        verdicts = described.data is not None and described.data.number == objects.VERDICT.number
        # Of a concatenation of ranges nft(8) takes the end of the next element for that of one that says none.
        ranges = described.interval and len(described.key) > 1
        done = 0
        for taken, room in _rooms(elements, notes, whole=add, verdicts=verdicts, ranges=ranges):
            carried = described, elements[done : done + taken]
            self._add(table, kind, _CREATE if add else 0, head + nested(3, room), what, carried)
            done += taken

    def _add(
        self,
        table: TableId,
        kind: int,
        flags: int,
        body: bytes,
        what: What,
        elements: tuple[Set, Sequence[Element]] | None = None,
    ) -> None:
        page = self._page(what, elements)
        self._count += 1
        self._last = len(page)
        size, kind_ = HEAD.size + len(body), SUBSYSTEM << 8 | kind
        page += HEAD.pack(size, kind_, flags | REQUEST, self.first + self._count, 0, table.family, 0, 0) + body

    def _page(self, what: What, elements: tuple[Set, Sequence[Element]] | None = None) -> bytearray:
        """The page to which the next messages are added.

        :param what: what they are.
        """
        if not self._pages or len(self._pages[-1]) >= _PAGE:
            self._pages.append(bytearray())
        page = self._pages[-1]
        self._added_at.append(self._count)
        self._added.append(_Several(page, len(page), what, elements))
        return page


def _chain_head(table: str, chain: str) -> bytes:
    return _table_head(table) + string(2, chain)


@lru_cache(16)
def _table_head(table: str) -> bytes:
    return string(1, table)


@lru_cache(64)
def _kind_of_set(described: Set) -> bytes:
    """What a message says of a set besides its name."""
    body = number(3, described.flags) + number(4, _type_number(described)) + number(5, described.key_size)
    if described.data is not None:
        body += number(6, described.data.number) + number(7, described.data.size)
    if len(described.key) > 1 and described.interval:
        fields = (nested(1, number(1, each.size)) for each in described.key)
        body += nested(9, nested(2, *fields))
    if described.size is not None:
        body += nested(9, number(1, described.size))
    if described.timeout is not None:
        body += attributes.attribute(11, (described.timeout * 1000).to_bytes(8, "big"))
    return body + attributes.attribute(13, userdata.of_set(described))


def _rooms(
    elements: Iterable[Element], notes: Iterable[bytes], *, whole: bool, verdicts: bool, ranges: bool
) -> Iterator[tuple[int, bytes]]:
    """How many elements go into one message, and these as bytes.

    :param whole: with what they hold.
    :param verdicts: that is what becomes of a packet.
    :param ranges: each has an end, also one that is its own.
    """
    room: list[bytes] = []
    size = count = 0
    pack = ATTRIBUTE.pack
    for element, note in zip(elements, notes, strict=False):
        body = _bounds(element.key, element.key if ranges and element.end is None else element.end)
        if element.closes:
            body += number(3, _INTERVAL_END)
        if whole and element.data is not None:
            body += nested(2, nested(2, element.data) if verdicts else attributes.attribute(1, element.data))
        length = ATTRIBUTE.size + len(body) + len(note)
        if size + length > attributes.ROOM:
            yield count, b"".join(room)
            room, size, count = [], 0, 0
        room += (pack(length, 1 | NESTED), body, note)
        size += length
        count += 1
    if count:
        yield count, b"".join(room)


def _element_at(body: bytes, offset: int) -> int | None:
    """The number of the element in which this byte of a message's body is."""
    at = len(body) - len(attributes.parse(body)[3])
    for number_, value in enumerate(attributes.parse_list(body[at:])):
        at += 4 + len(value) + (-len(value) % 4)
        if offset < at:
            return number_
    return None


@lru_cache(1 << 13)
def _bounds(key: bytes, end: bytes | None) -> bytes:
    """An element's key, and where it ends; the catch-all has none."""
    if not key:
        return number(3, _CATCH_ALL)
    return _key(1, key) if end is None else _key(1, key) + _key(10, end)


def _key(kind: int, value: bytes) -> bytes:
    size = len(value)
    return nested(kind, attributes.attribute(1, value)) if size % 4 else _key_head(kind, size) + value


@lru_cache(64)
def _key_head(kind: int, size: int) -> bytes:
    """What is before a value that fills whole words."""
    return (
        nested(kind, attributes.attribute(1, bytes(size)))[:-size]
        if size
        else nested(kind, attributes.attribute(1, b""))
    )


def _type_number(described: Set) -> int:
    """The types of a key in one number, as nft(8) packs them."""
    packed = 0
    for each in described.key:
        packed = packed << 6 | each.number
    return packed
