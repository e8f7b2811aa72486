"""What others change in nf_tables, as the kernel tells it.

Sources: linux/netfilter/nfnetlink_compat.h (``NFNLGRP_NFTABLES``), net/netfilter/nf_tables_api.c
(``nf_tables_commit_notify``, ``nf_tables_gen_notify``): each transaction ends with the number of
the generation that it made.
"""

import socket
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from nova_netagent.backend.netlink import let_wait, messages, readable
from nova_netagent.backend.nft.attributes import parse, read_number, read_string
from nova_netagent.backend.nft.objects import TableId

_NETLINK_NETFILTER, _SOL_NETLINK = 12, 270
_JOIN, _LEAVE = 1, 2
_GROUP = 7
_ROOM = 8 << 20
_READ = 1 << 16
_SUBSYSTEM = 10
_NEW_TABLE, _DELETE_TABLE, _NEW_GENERATION = 0, 2, 15
_CHAINS = (3, 5)
_RULES = (6, 8)
_SETS = (9, 11, 12, 14)
_WAIT = 1.0
"""Seconds: the kernel counts a generation before it tells of it."""


@dataclass
class Touched:
    """What of a table was changed."""

    whole: bool = False
    chains: set[str] = field(default_factory=set)
    sets: set[str] = field(default_factory=set)


Changes = dict[TableId, Touched]


class Watch:
    """Hears every change of the nf_tables of the network namespace in which it is made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        let_wait(self._socket, _ROOM)
        self._hears = False
        self.join()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def join(self) -> None:
        """Hear from now on; what was heard before is forgotten."""
        self._drain()
        self._socket.setsockopt(_SOL_NETLINK, _JOIN, _GROUP)
        self._hears = True

    def leave(self) -> None:
        """Hear nothing for a while: what nobody hears the kernel need not tell."""
        self._socket.setsockopt(_SOL_NETLINK, _LEAVE, _GROUP)
        self._hears = False

    def skip(self, generation: int) -> bool:
        """Pass over what was changed up to a generation of our own making; hear again from here.

        :returns: whether nothing went unheard, as far as that can be known here.
        """
        if self._hears:
            return self.changes(generation, ()) is not None
        self.join()
        return False

    def changes(self, generation: int, tables: Collection[TableId]) -> Changes | None:
        """What was changed of these tables up to a generation; ``None`` when something went unheard."""
        found: Changes = {}
        end = time.monotonic() + _WAIT
        while True:
            try:
                data = self._socket.recv(_READ)
            except BlockingIOError:
                if not readable([self._socket], max(0.0, end - time.monotonic())):
                    return None
                continue
            except OSError:
                return None  # more than there is room for
            for kind, family, content in _told(data):
                if kind == _NEW_GENERATION:
                    if read_number(parse(content)[1]) == generation:
                        return found
                    continue
                if not tables:
                    continue
                known = parse(content)
                table = next((each for each in tables if each.family == family and _is_of(each, known)), None)
                if table is not None:
                    _note(found.setdefault(table, Touched()), kind, known)

    def _drain(self) -> None:
        while True:
            try:
                self._socket.recv(_READ)
            except BlockingIOError:
                return
            except OSError:
                continue  # that something was lost is told once


def _is_of(table: TableId, known: dict[int, bytes]) -> bool:
    return 1 in known and read_string(known[1]) == table.name


def _note(touched: Touched, kind: int, known: dict[int, bytes]) -> None:
    if kind in _CHAINS:
        touched.chains.add(read_string(known[3]))
    elif kind in _RULES:
        touched.chains.add(read_string(known[2]))
    elif kind in _SETS:
        touched.sets.add(read_string(known[2]))
    else:
        touched.whole = True


def _told(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Of each notice of nf_tables: what it is about, the family, and the attributes."""
    for kind, _, _, body in messages(data):
        if kind >> 8 == _SUBSYSTEM:
            yield kind & 0xFF, body[0], body[4:]
