"""Lists of rtnetlink(7): links, addresses, routes, neighbours."""

import errno
import struct
from typing import NamedTuple

from nova_netagent.backend import netlink
from nova_netagent.backend.links import question

_ERROR, _DONE = 2, 3
_REQUEST_DUMP = 0x301
_INTERRUPTED = 0x10
"""NLM_F_DUMP_INTR: something changed while it was listed, and something else may be missing."""
_ATTEMPTS = 4
"""How often it is listed anew while things change."""
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12
_RECEIVED = 1 << 18


class Listing(NamedTuple):
    """What the kernel listed."""

    messages: list[tuple[int, memoryview]]
    """Kind and body of each."""
    whole: bool
    """Whether that was all; not where things kept changing."""


def listing(kind: int, body: bytes, *, strict: bool = False) -> Listing:
    """Everything that a request asks for, in the network namespace that the thread is in.

    :param strict: the kernel itself leaves out what the request does not ask for.
    :raises OSError: the kernel does not tell.
    """
    found = _listed(kind, body, strict)
    for _ in range(_ATTEMPTS - 1):
        if found.whole:
            break
        found = _listed(kind, body, strict)
    return found


def _listed(kind: int, body: bytes, strict: bool) -> Listing:
    found: list[tuple[int, memoryview]] = []
    whole = True
    with question.opened() as once:
        if strict:
            once.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
        once.send(netlink.message(kind, _REQUEST_DUMP, 1, body))
        while True:
            for answer, flags, _, content in netlink.messages(memoryview(once.recv(_RECEIVED))):
                whole &= not flags & _INTERRUPTED
                if answer in (_DONE, _ERROR):
                    code = -struct.unpack_from("=i", content)[0] if len(content) >= 4 else 0
                    if code:
                        raise OSError(code, f"rtnetlink: {errno.errorcode.get(code, code)}")
                    return Listing(found, whole)
                found.append((answer, content))
