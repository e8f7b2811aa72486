"""The kernel's nf_tables, asked and told through netlink.

Sources: linux/netfilter/nfnetlink.h, net/netfilter/nfnetlink.c (``nfnetlink_rcv_batch``),
net/netfilter/nf_tables_api.c.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from struct import Struct as Layout
from typing import NamedTuple, TypeVar

from nova_netagent.backend import BackendError, RuleRefused, TableChanged, Unavailable
from nova_netagent.backend.netlink import ATTRIBUTE, HEADER, let_wait, messages
from nova_netagent.backend.nft import attributes, userdata
from nova_netagent.backend.nft.attributes import nested, parse, parse_list, read_number, read_signed, read_string
from nova_netagent.backend.nft.batch import DUMP, HEAD, REQUEST, SUBSYSTEM, Batch
from nova_netagent.backend.nft.objects import Element, Family, SetFlag, TableId

T = TypeVar("T")

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _SHORT_ANSWERS, _LONG_REASONS = 270, 10, 11
"""NETLINK_CAP_ACK and NETLINK_EXT_ACK."""
_SO_SNDBUFFORCE = 32
_RECEIVE_BUFFER = 8 << 20
_READ = 1 << 16
"""No message of a dump is longer: the kernel makes them 32 KiB at most."""

_HOOK = 4
"""NFTA_CHAIN_HOOK"""
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_SET, _GET_ELEMENTS, _GET_GENERATION = 1, 4, 7, 10, 13, 16
_ERROR, _DONE = 2, 3
_INTERRUPTED, _REASONS_FOLLOW = 0x10, 0x200
_REASON_TEXT, _REASON_OFFSET = 1, 2
_INTERVAL_END = 1
_SIGNED = Layout("=i")
_NATIVE = Layout("=I")
_ATTEMPTS = 20
"""How often a dump is begun anew when others keep changing the ruleset."""

_CHANGED = {errno.ERESTART, errno.EBUSY, errno.EAGAIN}
"""The ruleset is not what the transaction was made from, or the last one is not quite over."""
_PERHAPS_CHANGED = {errno.ENOENT, errno.EEXIST}
"""The same, unless the kernel was told on which generation the transaction builds."""
_NO_NF_TABLES = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
_NOT_NOW = {errno.EPERM, errno.EACCES, errno.ENOMEM, errno.ENOBUFS, errno.EINTR, errno.EMSGSIZE}


class ListedChain(NamedTuple):
    """A chain as the kernel lists it."""

    name: str
    hook: int | None
    priority: int
    type: str
    policy: int
    devices: tuple[str, ...] = ()
    """The links whose frames it is asked about, where it is not about all of them."""


class ListedRule(NamedTuple):
    """A rule as the kernel lists it; its expressions are read by nft.expressions."""

    chain: str
    handle: int
    expressions: bytes
    comment: str | None
    """nft(8)'s comment."""


class ListedSet(NamedTuple):
    """A set as the kernel lists it, without its elements."""

    name: str
    flags: SetFlag
    key_size: int
    data_size: int
    fields: tuple[int, ...]
    """The sizes of a concatenation's fields, of sets with ranges."""
    data_type: int = 0
    """Of a map, by nft(8)'s number; verdicts have one of their own."""
    size: int | None = None
    """How many elements it has room for; ``None``: as many as come."""


class _Fault(NamedTuple):
    at: int
    """The number of the message, -1 for the transaction as a whole."""
    errno: int
    words: str
    offset: int | None


class Disturbed(Exception):
    """The ruleset changed during a dump."""


def lacks_nf_tables(error: Unavailable) -> bool:
    """Whether the kernel, asked for nf_tables, refused because it has none."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_NF_TABLES


class Netlink:
    """A socket to the nf_tables of the network namespace in which it is made. One thread only.

    :param recalls: of each set the last listing is kept: for who lists the same ones again and again.
    :raises Unavailable: there is none to be had.
    """

    def __init__(self, *, recalls: bool = False) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            self._socket.bind((0, 0))
            for option in (_SHORT_ANSWERS, _LONG_REASONS):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        except OSError as error:
            raise Unavailable(f"cannot reach nf_tables: {error.strerror}") from error
        self._send_room = 0
        let_wait(self._socket, _RECEIVE_BUFFER)
        self._sequence = 0
        self._elements: dict[tuple[TableId, str], tuple[list[bytes], tuple[Element, ...]]] = {}
        """Of each set the last listing, as bytes and taken apart: mostly it is the same again."""
        self._recalls = recalls

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    # changes

    def commit(self, batch: Batch, *, generation: int | None = None) -> None:
        """Carry a transaction out, all of it or nothing.

        :param generation: refuse it unless the ruleset is still of this generation.
        :raises TableChanged: it is not, or an object that the transaction builds on is not there.
        :raises RuleRefused: the kernel refuses it as it stands.
        :raises Unavailable: the kernel cannot do it now.
        """
        self._transact(batch, generation, commit=True)

    def check(self, batch: Batch) -> None:
        """Let the kernel try a transaction and keep nothing of it; raises what ``commit`` would."""
        self._transact(batch, None, commit=False)

    # questions

    def steadily(self, read: Callable[[], T]) -> tuple[int, T]:
        """What ``read`` finds, and the generation of the ruleset in which it was so from first to last.

        The kernel marks a listing that was disturbed only where it shows between two of its
        messages: a change during the last one goes unmarked.

        :raises TableChanged: others keep changing the ruleset.
        """
        generation = self.generation()
        for _ in range(_ATTEMPTS):
            found = read()
            before, generation = generation, self.generation()
            if generation == before:
                return generation, found
        raise TableChanged("the ruleset keeps changing while it is read")

    def generation(self) -> int:
        """A number that every change of this namespace's ruleset counts up, whoever makes it.

        :raises Unavailable: the kernel does not say.
        """
        answer = next(self._ask(_GET_GENERATION, Family.INET, b"", 0))
        return read_number(answer[1])

    def table_flags(self, table: TableId) -> int | None:
        """The flags of a table; ``None`` when there is no such table."""
        try:
            answer = next(self._ask(_GET_TABLE, table.family, attributes.string(1, table.name), 0))
        except _NotThereError:
            return None
        return read_number(answer[2]) if 2 in answer else 0

    def owner(self, table: TableId) -> int | None:
        """The netlink port, mostly a process's number, of who alone may change a table; ``None``: that is no one."""
        answer = next(self._ask(_GET_TABLE, table.family, attributes.string(1, table.name), 0))
        return read_number(answer[7]) if 7 in answer else None

    def tables(self) -> list[TableId]:
        """Everybody's tables.

        :raises Unavailable: the kernel does not say.
        """
        return [
            TableId(family, read_string(each[1]))
            for family in Family
            for each in self._dump(_GET_TABLE, TableId(family, ""), b"")
        ]

    def chains(self, table: TableId) -> list[ListedChain]:
        """A table's chains."""
        return [_chain(each) for each in self._dump(_GET_CHAIN, table, b"") if read_string(each[1]) == table.name]

    def hooked(self, families: Iterable[Family] = Family) -> list[tuple[TableId, ListedChain]]:
        """Every base chain of some families, whoever's it is, with its table."""
        return [
            (TableId(family, read_string(each[1])), _chain(each))
            for family in families
            for each in self._dump(_GET_CHAIN, TableId(family, ""), b"")
            if _HOOK in each
        ]

    def chain(self, table: TableId, name: str) -> ListedChain | None:
        """One chain of a table."""
        body = attributes.string(1, table.name) + attributes.string(3, name)
        try:
            return _chain(next(self._ask(_GET_CHAIN, table.family, body, 0)))
        except _NotThereError:
            return None

    def rules(self, table: TableId, chain: str | None = None, *, attempts: int = _ATTEMPTS) -> list[ListedRule]:
        """A table's rules, in order by chain, or those of one chain.

        For whole tables of few rules: the kernel's time is quadratic.

        :raises TableChanged: somebody committed during each attempt.
        """
        body = attributes.string(1, table.name) + (b"" if chain is None else attributes.string(2, chain))
        return [_rule(each) for each in self._dump(_GET_RULE, table, body, attempts)]

    def handles(self, table: TableId, chain: str) -> tuple[int, ...]:
        """The handles of a chain's rules, in order."""
        body = attributes.string(1, table.name) + attributes.string(2, chain)
        return tuple(attributes.read_long(each[3]) for each in self._dump(_GET_RULE, table, body))

    def count_rules(self, table: TableId) -> int:
        """How many rules a table has."""
        return len(self._dump(_GET_RULE, table, attributes.string(1, table.name)))

    def sets(self, table: TableId) -> list[ListedSet]:
        """A table's sets and maps."""
        return [_set(each) for each in self._dump(_GET_SET, table, attributes.string(1, table.name))]

    def elements(self, table: TableId, set_name: str) -> list[Element]:
        """A set's elements; none when there is no such set."""
        body = attributes.string(1, table.name) + attributes.string(2, set_name)
        raw = [answer[3] for answer in self._dump(_GET_ELEMENTS, table, body) if 3 in answer]
        known = self._elements.get((table, set_name))
        if known is not None and known[0] == raw:
            return list(known[1])
        found = [read_element(each) for listed in raw for each in parse_list(listed)]
        if self._recalls:
            self._elements[table, set_name] = raw, tuple(found)
        return found

    def remaining(self, table: TableId, set_name: str, key: bytes) -> float | None:
        """In how many seconds an element is forgotten; ``None`` when it is not there, or stays.

        :raises Unavailable: the kernel does not say.
        """
        key_ = nested(1, nested(1, attributes.attribute(1, key)))
        body = attributes.string(1, table.name) + attributes.string(2, set_name) + nested(3, key_)
        try:
            answer = next(self._ask(_GET_ELEMENTS, table.family, body, 0))
        except _NotThereError:
            return None
        known = parse(next(parse_list(answer[3])))
        return attributes.read_long(known[5]) / 1000 if 5 in known else None

    # transactions

    def _transact(self, batch: Batch, generation: int | None, *, commit: bool) -> None:
        if not len(batch):
            return
        data = batch.encode(generation=generation, commit=commit)
        try:
            self._make_room(sum(map(len, data)))
            self._socket.sendmsg(data)
            faults = self._faults(batch.first, len(batch))
        except OSError as error:
            raise _translated(error.errno or 0, f"the transaction: {error.strerror}", sure=True) from error
        if faults:
            fault = min(faults, key=lambda each: each.at < 0)
            what = batch.what(fault.at, fault.offset)
            sure = generation is not None
            if sure and fault.errno == errno.EBUSY and batch.deletes(fault.at):
                raise RuleRefused(f"{what}: it is in use")
            raise _translated(fault.errno, f"{what}: {fault.words}{self._forbidden(batch, fault)}", sure=sure)

    def _forbidden(self, batch: Batch, fault: _Fault) -> str:
        """Who it is that owns a table which we may not change: the kernel says no more than that we may not."""
        table = batch.table(fault.at) if fault.errno == errno.EPERM else None
        owner = None
        with suppress(BackendError, _NotThereError):
            owner = None if table is None else self.owner(table)
        return "" if owner is None else f": another program owns the table (netlink port {owner})"

    def _make_room(self, size: int) -> None:
        """A transaction is one message, which has to fit into the send buffer."""
        size += 4096
        if size <= self._send_room:
            return
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        self._send_room = size

    def _faults(self, first: int, count: int) -> list[_Fault]:
        """What the kernel found wrong; its answers are there when ``send`` returns.

        A transaction whose last message is not acknowledged was cut short.
        """
        faults: list[_Fault] = []
        acknowledged = False
        while True:
            try:
                data = self._socket.recv(_READ, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            for kind, flags, sequence, content in messages(data):
                index = sequence - first - 1
                if kind != _ERROR or not -1 <= index <= count:
                    continue
                number = -_SIGNED.unpack_from(content)[0]
                if number == 0:
                    acknowledged = True
                else:
                    faults.append(_fault(index, number, content, bool(flags & _REASONS_FOLLOW)))
        if not faults and not acknowledged:
            faults.append(_Fault(-1, errno.ENOBUFS, "the kernel did not answer", None))
        return faults

    # dumps

    def _dump(self, kind: int, table: TableId, body: bytes, attempts: int = _ATTEMPTS) -> list[dict[int, bytes]]:
        for _ in range(attempts):
            try:
                return list(self._ask(kind, table.family, body, DUMP))
            except _NotThereError:
                return []
            except Disturbed:
                continue
        raise TableChanged("the ruleset keeps changing while it is listed")

    def _ask(self, kind: int, family: Family, body: bytes, flags: int) -> Iterator[dict[int, bytes]]:
        sequence = self._next_sequence(1)
        size = HEAD.size + len(body)
        request = HEAD.pack(size, SUBSYSTEM << 8 | kind, REQUEST | flags, sequence, 0, family, 0, 0)
        try:
            self._socket.send(request + body)
            yield from self._answers(sequence, multipart=flags & DUMP == DUMP)
        except OSError as error:
            raise Unavailable(f"the kernel does not list its nf_tables: {error.strerror}") from error

    def _answers(self, sequence: int, *, multipart: bool) -> Iterator[dict[int, bytes]]:
        interrupted = False
        while True:
            # Several messages, of which the last may be the end of the dump.
            for kind, flags, answered, content in messages(self._socket.recv(_READ)):
                if answered != sequence:
                    continue  # of an earlier dump that was given up
                interrupted |= bool(flags & _INTERRUPTED)
                if kind in (_ERROR, _DONE):
                    _raise_unless_done(content)
                    if interrupted:
                        raise Disturbed
                    return
                yield parse(content[4:])
                if not multipart:
                    return

    def _next_sequence(self, count: int) -> int:
        if self._sequence + count > 0x7FFFFFFF:
            self._sequence = 0
        self._sequence += count
        return self._sequence - count + 1


class _NotThereError(Exception):
    """What was asked for is not there."""


def _raise_unless_done(content: bytes) -> None:
    number = -_SIGNED.unpack_from(content)[0] if len(content) >= _SIGNED.size else 0
    if number == errno.ENOENT:
        raise _NotThereError
    if number == errno.EINTR:
        raise Disturbed
    if number:
        raise OSError(number, os.strerror(number))


def _fault(index: int, number: int, content: bytes, reasons: bool) -> _Fault:
    words, offset = os.strerror(number), None
    if reasons:
        known = parse(content[_SIGNED.size + HEADER.size :])
        if _REASON_TEXT in known:
            words = f"{words} ({read_string(known[_REASON_TEXT])})"
        if _REASON_OFFSET in known:
            offset = int(_NATIVE.unpack(known[_REASON_OFFSET])[0])
    return _Fault(index, number, words, offset)


def _translated(number: int, words: str, *, sure: bool) -> BackendError:
    if number in _CHANGED or (number in _PERHAPS_CHANGED and not sure):
        return TableChanged(words)
    return Unavailable(words) if number in _NOT_NOW else RuleRefused(words)


def _chain(answer: dict[int, bytes]) -> ListedChain:
    name = read_string(answer[3])
    if _HOOK not in answer:
        return ListedChain(name, None, 0, "", 1)
    hook = parse(answer[_HOOK])
    devices = (
        [parse(each).get(1, each) for each in parse_list(hook[4])] if 4 in hook else [hook[3]] if 3 in hook else []
    )
    return ListedChain(
        name,
        read_number(hook[1]),
        read_signed(hook[2]),
        read_string(answer.get(7, b"")),
        read_number(answer[5]) if 5 in answer else 1,
        tuple(map(read_string, devices)),
    )


def _rule(answer: dict[int, bytes]) -> ListedRule:
    comment = userdata.read_comment(answer[7]) if 7 in answer else None
    return ListedRule(read_string(answer[2]), attributes.read_long(answer[3]), answer.get(4, b""), comment)


def _set(answer: dict[int, bytes]) -> ListedSet:
    description = parse(answer[9]) if 9 in answer else {}
    return ListedSet(
        read_string(answer[2]),
        SetFlag(read_number(answer[3]) if 3 in answer else 0),
        read_number(answer[5]),
        read_number(answer[7]) if 7 in answer else 0,
        tuple(read_number(parse(field)[1]) for field in parse_list(description.get(2, b""))),
        read_number(answer[6]) if 6 in answer else 0,
        read_number(description[1]) if 1 in description else None,
    )


def _value(data: bytes) -> bytes:
    """What stands in an NFTA_DATA_VALUE, which is all that a key has."""
    size, _ = ATTRIBUTE.unpack_from(data)
    return data[ATTRIBUTE.size : size]


def read_element(data: bytes) -> Element:
    """An element as it stands in a message, whoever wrote that."""
    known = parse(data)
    key = _value(known[1]) if 1 in known else b""
    end = _value(known[10]) if 10 in known else None
    held = parse(known[2]) if 2 in known else {}
    return Element(
        key,
        None if end == key else end,
        held.get(1, held.get(2)),
        userdata.read_comment(known[6]) if 6 in known else None,
        3 in known and bool(read_number(known[3]) & _INTERVAL_END),
    )
