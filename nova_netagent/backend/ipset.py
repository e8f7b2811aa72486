"""ipset's netlink protocol, spoken with the standard library's socket: many members a message.

Sources: linux/netfilter/ipset/ip_set.h, linux/netfilter/nfnetlink.h, net/netfilter/ipset/ip_set_core.c.
"""

import errno
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from struct import Struct
from typing import NamedTuple

from nova_netagent.backend import sockopt
from nova_netagent.backend.netlink import NESTED, attribute, attributes, messages, parse
from nova_netagent.model import values
from nova_netagent.netfilter.rule import CUT_FLOWS, CUT_SECONDS, Family, SetType

PREFIXES: SetType = "hash:net"
ENDS: SetType = "hash:ip,port,ip"
NO_MATCH = " nomatch"
"""Follows a member that is an exception from a wider one; we make none, others may."""

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 6 << 8
_CREATE, _DESTROY, _LIST, _ADD, _DELETE, _TEST, _TYPE = 2, 3, 7, 9, 10, 11, 13

_REQUEST, _ACKNOWLEDGE, _EXCLUSIVE, _DUMP = 0x01, 0x04, 0x200, 0x300
_ERROR, _DONE = 2, 3
_BIG_ENDIAN = 0x4000

_ATTR_PROTOCOL, _ATTR_SETNAME, _ATTR_TYPENAME, _ATTR_REVISION, _ATTR_FAMILY, _ATTR_FLAGS = range(1, 7)
_ATTR_DATA, _ATTR_ADT, _ATTR_LINENO, _ATTR_REVISION_MIN = range(7, 11)
_DATA_IP, _DATA_CIDR, _DATA_PORT, _DATA_TIMEOUT, _DATA_PROTO, _DATA_FLAGS, _DATA_LINENO = 1, 3, 4, 6, 7, 8, 9
_DATA_HASHSIZE, _DATA_MAXELEM, _DATA_IP2 = 18, 19, 20
_HEADERS_ONLY = 4
_NOT_IN = 4103
"""IPSET_ERR_EXIST: what TEST answers of what is not in the set."""
_FLAG_NO_MATCH, _FLAG_FORCE_ADD = 1 << 2, 1 << 5

_PROTOCOL = 6
"""The lowest version: every kernel speaks it."""
_NEWEST_REVISIONS: Mapping[SetType, int] = {PREFIXES: 6, ENDS: 5}
"""Newer ones bring nothing for us, and an older ipset(8) could not list them."""
_MAX_MEMBERS = 1 << 20
_LEAST_BUCKETS = 64
_MESSAGE_ROOM = 65000
"""Members of one message stand in one attribute, whose length has 16 bits."""
_BUFFER = 1 << 17

_HEAD = Struct("=IHHIIBBH")
_SIGNED = Struct("=i")
_NUMBER = Struct("=I")
_BIG_NUMBER = Struct(">I")
_INDEX_REQUEST = Struct("=II32s")
_BY_NAME, _BY_INDEX = 6, 7
_SO_IP_SET = 83
_NO_INDEX = 65535


NO_SUBSYSTEM = errno.EINVAL
"""The answer of a kernel without ipset to any of our messages."""
PROTOCOL_ERROR, NO_TYPE, TOO_MANY, BUSY, BAD_LENGTH, BAD_FAMILY, FULL = 4097, 4098, 4099, 4100, 4104, 4106, 4352
_WORDS = {
    PROTOCOL_ERROR: "the kernel does not understand it, as with an address of the other family",
    NO_TYPE: "the kernel has no sets of this type",
    TOO_MANY: "there are too many sets",
    BUSY: "it is in use",
    BAD_LENGTH: "the prefix length is wrong",
    BAD_FAMILY: "the address family is wrong",
    FULL: "it is full",
}


class IpsetError(OSError):
    """The kernel refused; ``errno`` may be one of ipset's own numbers, such as ``BUSY``."""


class SetHeader(NamedTuple):
    """What a set is, without its members."""

    name: str
    type: str
    family: Family


class Ipset:
    """The sets of the network namespace that the process is in."""

    def __init__(self) -> None:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._netlink.bind((0, 0))
        self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._sequence = 0
        self._revisions: dict[tuple[SetType, Family], int] = {}

    def close(self) -> None:
        """Close the sockets."""
        self._netlink.close()
        self._raw.close()

    def create(self, name: str, family: Family, members: int = 0, type_: SetType = PREFIXES) -> None:
        """Make an empty set.

        :param members: how many are expected; one of prefixes may hold a million and grows by itself.
        :raises IpsetError: EEXIST when there is a set of this name, of whatever type.
        """
        buckets = _LEAST_BUCKETS
        while buckets * 4 < members:
            buckets *= 2
        numbers = {_DATA_HASHSIZE: buckets, _DATA_MAXELEM: max(_MAX_MEMBERS, 2 * members)}
        if type_ == ENDS:
            numbers |= {_DATA_MAXELEM: CUT_FLOWS, _DATA_TIMEOUT: CUT_SECONDS, _DATA_FLAGS: _FLAG_FORCE_ADD}
        options = b"".join(attribute(kind | _BIG_ENDIAN, _BIG_NUMBER.pack(each)) for kind, each in numbers.items())
        body = (
            _set_name(name)
            + attribute(_ATTR_TYPENAME, type_.encode() + b"\0")
            + attribute(_ATTR_REVISION, bytes([self._revision(type_, family)]))
            + attribute(_ATTR_FAMILY, bytes([values.SOCKET_FAMILY[family]]))
            + attribute(_ATTR_DATA | NESTED, options)
        )
        self._command(_CREATE, body, f"cannot make the set {name}", flags=_EXCLUSIVE)

    def destroy(self, name: str) -> None:
        """Remove a set with its members; one that is not there does not matter.

        :raises IpsetError: ``BUSY`` when a rule or another set refers to it.
        """
        self._command(_DESTROY, _set_name(name), f"cannot remove the set {name}")

    def add(self, name: str, members: Iterable[str]) -> None:
        """Add members; those that are there already stay.

        :raises IpsetError: ``FULL``, or ENOENT when there is no such set.
        """
        self._change(_ADD, name, members)

    def delete(self, name: str, members: Iterable[str]) -> None:
        """Take members away; those that are not there do not matter.

        :raises IpsetError: ENOENT when there is no such set.
        """
        self._change(_DELETE, name, members)

    def headers(self) -> list[SetHeader]:
        """Every set, ours and others'."""
        body = attribute(_ATTR_FLAGS | _BIG_ENDIAN, _BIG_NUMBER.pack(_HEADERS_ONLY))
        found = {}
        for message in self._ask(_LIST, body, "cannot list the sets", flags=_DUMP):
            if _ATTR_TYPENAME in message:
                header = _header(message)
                found[header.name] = header
        return list(found.values())

    def members(self, name: str) -> frozenset[str]:
        """The members of a ``hash:net`` set.

        :raises IpsetError: ENOENT when there is no such set.
        """
        return frozenset(map(_member, self._listed(name, f"cannot list the set {name}")))

    def ends(self, name: str) -> frozenset[str]:
        """The ends of flows that are in a ``hash:ip,port,ip`` set, but for those of other protocols than TCP.

        :raises IpsetError: ENOENT when there is no such set.
        """
        listed = self._listed(name, f"cannot list the set {name}")
        return frozenset(_end(fields) for fields in listed if fields[_DATA_PROTO][0] == socket.IPPROTO_TCP)

    def remaining(self, name: str, end: str) -> float | None:
        """In how many seconds an end of a flow is forgotten; ``None`` when it is not in the set, or there is no set.

        :raises IpsetError: it is a set of another type.
        """
        doing = f"cannot ask the set {name}"
        try:
            self._command(_TEST, _set_name(name) + _encode_end(end, 0), doing)
        except IpsetError as e:
            if e.errno in (_NOT_IN, errno.ENOENT, NO_SUBSYSTEM):
                return None
            raise
        for fields in self._listed(name, doing):
            if _is_end(fields, end) and _DATA_TIMEOUT in fields:
                return float(_BIG_NUMBER.unpack(fields[_DATA_TIMEOUT])[0])
        return None

    def index(self, name: str) -> int | None:
        """The kernel's index of a set, which is what a rule has; ``None`` when there is no such set."""
        raw = name.encode()
        answer = self._index_request(_BY_NAME, raw.ljust(32, b"\0"))
        index = None if answer is None else int.from_bytes(answer[:2], sys.byteorder)
        return None if index == _NO_INDEX else index

    def name(self, index: int) -> str | None:
        """The name of the set that has an index; ``None`` when there is none."""
        answer = self._index_request(_BY_INDEX, index.to_bytes(2, sys.byteorder).ljust(32, b"\0"))
        return None if answer is None else answer.partition(b"\0")[0].decode(errors="surrogateescape") or None

    def _listed(self, name: str, doing: str) -> Iterator[dict[int, bytes]]:
        """Each member of a set."""
        for message in self._ask(_LIST, _set_name(name), doing, flags=_DUMP):
            for _, data in attributes(message.get(_ATTR_ADT, b"")):
                yield parse(data)

    def _index_request(self, operation: int, operand: bytes) -> bytes | None:
        request = bytearray(_INDEX_REQUEST.pack(operation, _PROTOCOL, operand))
        try:
            sockopt.ask(self._raw, socket.SOL_IP, _SO_IP_SET, request)
        except OSError as e:
            # The option comes with the ip_set module, and the module with the first set.
            if e.errno == errno.ENOPROTOOPT:
                return None
            raise
        return bytes(request[8:])

    def _revision(self, type_: SetType, family: Family) -> int:
        known = self._revisions.get((type_, family))
        if known is None:
            body = attribute(_ATTR_TYPENAME, type_.encode() + b"\0") + attribute(
                _ATTR_FAMILY, bytes([values.SOCKET_FAMILY[family]])
            )
            answer = next(iter(self._ask(_TYPE, body, f"cannot use {type_}")))
            highest, lowest = answer[_ATTR_REVISION][0], answer[_ATTR_REVISION_MIN][0]
            known = self._revisions[type_, family] = max(lowest, min(highest, _NEWEST_REVISIONS[type_]))
        return known

    def _change(self, command: int, name: str, members: Iterable[str]) -> None:
        doing = f"cannot {'add to' if command == _ADD else 'take from'} the set {name}"
        for batch, encoded in _batches(members):
            body = (
                _set_name(name)
                + attribute(_ATTR_LINENO, _NUMBER.pack(0))
                + attribute(_ATTR_ADT | NESTED, b"".join(encoded))
            )
            self._command(command, body, doing, batch=batch)

    def _command(self, command: int, body: bytes, doing: str, *, flags: int = 0, batch: Sequence[str] = ()) -> None:
        for _ in self._ask(command, body, doing, flags=flags | _ACKNOWLEDGE, batch=batch):
            pass

    def _ask(
        self, command: int, body: bytes, doing: str, *, flags: int = 0, batch: Sequence[str] = ()
    ) -> Iterator[dict[int, bytes]]:
        self._sequence += 1
        payload = attribute(_ATTR_PROTOCOL, bytes([_PROTOCOL])) + body
        size = _HEAD.size + len(payload)
        head = _HEAD.pack(size, _SUBSYSTEM | command, _REQUEST | flags, self._sequence, 0, socket.AF_INET, 0, 0)
        self._netlink.send(head + payload)
        multipart = flags & _DUMP == _DUMP
        while True:
            answers = self._netlink.recv(_BUFFER)
            for kind, _, sequence, content in messages(answers):
                if sequence != self._sequence:
                    continue
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    _raise(content, doing, batch)
                    return
                yield parse(content[4:])
                if not multipart and not flags & _ACKNOWLEDGE:
                    return


def _raise(content: bytes, doing: str, batch: Sequence[str]) -> None:
    number = -_SIGNED.unpack_from(content)[0]
    if number == 0:
        return
    culprit = _culprit(content, batch)
    words = _WORDS.get(number) or (os.strerror(number) if number < 4096 else f"ipset error {number}")
    raise IpsetError(number, f"{doing}{culprit}: {words}")


def _culprit(content: bytes, batch: Sequence[str]) -> str:
    """The member that was refused: the kernel sends our message back with its number in it."""
    if not batch or len(content) < 4 + _HEAD.size:
        return ""
    line = parse(content[4 + _HEAD.size :]).get(_ATTR_LINENO)
    number = _NUMBER.unpack(line)[0] if line else 0
    return f" the member {batch[number - 1]}" if 1 <= number <= len(batch) else ""


def _set_name(name: str) -> bytes:
    return attribute(_ATTR_SETNAME, name.encode() + b"\0")


def _header(message: dict[int, bytes]) -> SetHeader:
    families: dict[int, Family] = {socket.AF_INET: 4, socket.AF_INET6: 6}
    return SetHeader(
        message[_ATTR_SETNAME].rstrip(b"\0").decode(errors="surrogateescape"),
        message[_ATTR_TYPENAME].rstrip(b"\0").decode(errors="surrogateescape"),
        families.get(message[_ATTR_FAMILY][0], 4),
    )


def _batches(members: Iterable[str]) -> Iterator[tuple[list[str], list[bytes]]]:
    batch: list[str] = []
    encoded: list[bytes] = []
    size = 0
    for member in members:
        data = _encode_member(member, len(batch) + 1)
        if size + len(data) > _MESSAGE_ROOM:
            yield batch, encoded
            batch, encoded, size = [], [], 0
            data = _encode_member(member, 1)
        batch.append(member)
        encoded.append(data)
        size += len(data)
    if batch:
        yield batch, encoded


_MEMBER_4 = Struct("=HHHHHH4sHHB3xHHI")
_MEMBER_6 = Struct("=HHHHHH16sHHB3xHHI")


def _encode_member(member: str, number: int) -> bytes:
    if "," in member:
        return _encode_end(member, number)
    prefix = values.prefix(member)
    layout, size = (_MEMBER_4, 4) if prefix.family == 4 else (_MEMBER_6, 16)
    return layout.pack(
        layout.size, _ATTR_DATA | NESTED,
        size + 8, _DATA_IP | NESTED,
        size + 4, (1 if size == 4 else 2) | _BIG_ENDIAN,
        prefix.value.to_bytes(size, "big"),
        5, _DATA_CIDR, prefix.length,
        8, _DATA_LINENO, number,
    )  # fmt: skip


def _encode_end(member: str, number: int) -> bytes:
    address, port, peer = member.split(",")
    body = (
        _address(_DATA_IP, address)
        + attribute(_DATA_PORT | _BIG_ENDIAN, int(port.removeprefix("tcp:")).to_bytes(2, "big"))
        + attribute(_DATA_PROTO, bytes([socket.IPPROTO_TCP]))
        + _address(_DATA_IP2, peer)
        + attribute(_DATA_LINENO, _NUMBER.pack(number))
    )
    return attribute(_ATTR_DATA | NESTED, body)


def _is_end(fields: dict[int, bytes], end: str) -> bool:
    address, port, peer = end.split(",")
    here, there = (fields[kind][4:] for kind in (_DATA_IP, _DATA_IP2))
    wanted = (values.packed(address), values.packed(peer), int(port.removeprefix("tcp:")))
    return (here, there, int.from_bytes(fields[_DATA_PORT], "big")) == wanted


def _address(kind: int, text: str) -> bytes:
    packed = values.packed(text)
    inner = (1 if len(packed) == 4 else 2) | _BIG_ENDIAN
    return attribute(kind | NESTED, attribute(inner, packed))


def _end(fields: dict[int, bytes]) -> str:
    port = int.from_bytes(fields[_DATA_PORT], "big")
    return f"{_text(fields[_DATA_IP])},tcp:{port},{_text(fields[_DATA_IP2])}"


def _text(address: bytes) -> str:
    return values.unpacked(address[4:])


def _member(fields: dict[int, bytes]) -> str:
    address = fields[_DATA_IP]
    length = fields[_DATA_CIDR][0] if _DATA_CIDR in fields else len(address[4:]) * 8
    text = f"{_text(address)}/{length}"
    flags = fields.get(_DATA_FLAGS)
    return text + NO_MATCH if flags and _BIG_NUMBER.unpack(flags)[0] & _FLAG_NO_MATCH else text
