"""The legacy tables of the kernel: asked for, read, and replaced, each by one call.

Sources: linux/netfilter_ipv4/ip_tables.h (``ipt_getinfo``, ``ipt_get_entries``, ``ipt_replace``),
linux/netfilter/x_tables.h (``xt_counters_info``); ip6_tables.h has the same in other entries.
"""

import socket
from collections.abc import Callable, Mapping
from struct import Struct
from typing import NamedTuple

from nova_netagent.backend import sockopt
from nova_netagent.backend.iptables.image import CountedChain, Image, Keys, counted, image_of
from nova_netagent.backend.iptables.layout import COUNTERS, LAYOUTS, ROOM
from nova_netagent.netfilter.hooks import HOOKS
from nova_netagent.netfilter.rule import Family

_GET_INFO, _GET_ENTRIES = 64, 65
_SET_REPLACE, _ADD_COUNTERS = 64, 65
_INFO = Struct("=32sI5I5III")
_ENTRIES_HEAD = Struct("=32sI4x")
_REPLACE_HEAD = Struct("=32sIII5I5IIQ")
_COUNTERS_HEAD = Struct("=32sI4x")
_READS = 10

assert _REPLACE_HEAD.size == ROOM


class TableInfo(NamedTuple):
    """The outline of a table: cheap to ask for, and any change of its size shows in it."""

    hooks: Mapping[int, int]
    """By number where the chain of each hook begins."""
    entries: int
    size: int


class KernelTables:
    """The tables of one family in the network namespace that the process is in.

    One raw socket is kept open. :raises OSError: of the socket, when the family is absent.
    """

    def __init__(self, family: Family) -> None:
        self.layout = LAYOUTS[family]
        self._socket = socket.socket(self.layout.socket_family, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def info(self, table: str) -> TableInfo:
        """A table's outline. The kernel loads a table that it has and that was not used yet.

        :raises OSError: ENOENT when there is no such table, EPERM without CAP_NET_ADMIN.
        """
        request = bytearray(_INFO.size)
        request[: len(table)] = table.encode()
        sockopt.ask(self._socket, self.layout.level, _GET_INFO, request)
        _name, valid_hooks, *numbers = _INFO.unpack(request)
        hooks = {number: numbers[number] for number in range(len(HOOKS)) if valid_hooks & 1 << number}
        return TableInfo(hooks, entries=numbers[10], size=numbers[11])

    def read(
        self, table: str, previous: Image | None = None, known: Callable[[str], Keys | None] = lambda _: None
    ) -> Image:
        """A table; its chains are the same objects where they are known, or ``previous`` has them alike.

        :param known: a chain as it may be, by its name.
        :raises OSError: EAGAIN when the table kept changing while it was read.
        """
        info, blob = self.entries(table)
        return image_of(blob, info.hooks, self.layout, previous, known)

    def counters(self, table: str) -> dict[str, CountedChain]:
        """A table's chains with counters and policies.

        :raises OSError: see ``read``.
        """
        info, blob = self.entries(table)
        return counted(blob, info.hooks, self.layout)

    def replace(self, table: str, before: Image, after: Image) -> bytearray:
        """Put another table in the place of what is there, all of it or nothing; its counters begin at zero.

        :param before: what is there: the kernel compares the number of its entries.
        :return: the counters that the entries of ``before`` had at last, 16 bytes each.
        :raises OSError: EAGAIN when the number of entries is another one; EINVAL, ELOOP, ENOENT
            and others when the kernel refuses an entry; ENOMEM.
        """
        old = bytearray(before.entries * COUNTERS.size)
        hook_entry, underflow = [0] * len(HOOKS), [0] * len(HOOKS)
        for place, number in enumerate(after.hooks):
            hook_entry[number] = after.starts[place]
            underflow[number] = after.starts[place + 1] - self.layout.policy_size
        head = (table.encode(), sum(1 << number for number in after.hooks), after.entries, after.size)
        request = after.blob
        _REPLACE_HEAD.pack_into(
            request, 0, *head, *hook_entry, *underflow, before.entries, sockopt.address(old) if old else 0
        )
        try:
            sockopt.tell(self._socket, self.layout.level, _SET_REPLACE, request)
        finally:
            request[:ROOM] = bytes(ROOM)
        return old

    def add_counters(self, table: str, counters: bytes) -> None:
        """Add counters, 16 bytes for each entry, to those that the entries of a table have.

        :raises OSError: EINVAL when the table has another number of entries by now.
        """
        request = bytearray(_COUNTERS_HEAD.pack(table.encode(), len(counters) // COUNTERS.size)) + counters
        sockopt.tell(self._socket, self.layout.level, _ADD_COUNTERS, request)

    def entries(self, table: str) -> tuple[TableInfo, bytearray]:
        """A table's outline and all its entries, as the kernel has them, behind ``ROOM``.

        :raises OSError: EAGAIN when the table kept changing while it was read.
        """
        for _ in range(_READS - 1):
            try:
                return self._read_entries(table)
            except BlockingIOError:
                # Its size changed between the two questions.
                continue
        return self._read_entries(table)

    def _read_entries(self, table: str) -> tuple[TableInfo, bytearray]:
        info = self.info(table)
        # A new buffer each time: the kernel does not clear what follows a name.
        request = bytearray(ROOM + info.size)
        start = ROOM - _ENTRIES_HEAD.size
        _ENTRIES_HEAD.pack_into(request, start, table.encode(), info.size)
        sockopt.ask(self._socket, self.layout.level, _GET_ENTRIES, request, start)
        request[:ROOM] = bytes(ROOM)
        return info, request
