"""Which legacy tables this network namespace uses, asked so that the kernel loads no module for it.

A table is in /proc/net/ip_tables_names once somebody in the namespace has used it, which the kernel tells root only.
Sources: linux/netfilter_ipv4/ip_tables.h (``struct ipt_get_entries``), net/netfilter/x_tables.c.
"""

import errno
import socket
from collections.abc import Iterable
from pathlib import Path
from struct import Struct

from nova_netagent.backend import sockopt
from nova_netagent.netfilter.rule import Family

NAMES: dict[Family, Path] = {4: Path("/proc/net/ip_tables_names"), 6: Path("/proc/net/ip6_tables_names")}
LEVELS: dict[Family, tuple[int, int]] = {
    4: (socket.AF_INET, socket.SOL_IP),
    6: (socket.AF_INET6, socket.IPPROTO_IPV6),
}
"""The address family and the level of getsockopt(2)."""
ABSENT = frozenset({errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.ENOENT, errno.ENOPROTOOPT})
"""What the kernel answers who asks for a table that it does not have."""
_GET_ENTRIES = 65
_HEAD = Struct("=32sI4x")


def in_use(family: Family, names: Iterable[str]) -> list[str] | None:
    """The tables of a family that are in use; ``None`` where the kernel has none at all.

    :param names: those to be asked for where the kernel does not tell: then one of a module that is there may
        come to be by that, empty.
    :raises OSError: no permission to ask for them either.
    """
    try:
        return NAMES[family].read_text().split()
    except PermissionError:
        return [name for name in names if _is_there(family, name)]
    except OSError:
        return None


def _is_there(family: Family, name: str) -> bool:
    """Whether the kernel has a table, told by what is wrong with too small a buffer for it."""
    address_family, level = LEVELS[family]
    try:
        with socket.socket(address_family, socket.SOCK_RAW, socket.IPPROTO_RAW) as asking:
            sockopt.ask(asking, level, _GET_ENTRIES, bytearray(_HEAD.pack(name.encode(), 0)))
    except OSError as error:
        if error.errno not in ABSENT | {errno.EAGAIN}:
            raise
        return error.errno == errno.EAGAIN
    return True
