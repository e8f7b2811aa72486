"""The lease file of dnsmasq: who has which address until when.

Lines are ``EXPIRY MAC ADDRESS NAME CLIENT-ID``; after a line ``duid SERVER-DUID`` those of
DHCPv6, ``EXPIRY IAID ADDRESS NAME CLIENT-DUID`` (dnsmasq 2.90, lease.c).
"""

import re
from collections.abc import Callable, Iterator

from msgspec import Struct

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class Lease(Struct, frozen=True):
    """An address that a client has."""

    address: str
    mac: str | None
    """``None`` for DHCPv6, where a client is known by an identifier of its own making."""


def leases(text: str) -> Iterator[Lease]:
    """The leases of a file; lines that are none are skipped."""
    for line in text.splitlines():
        lease = _lease(line)
        if lease is not None:
            yield lease


def without(text: str, stale: Callable[[Lease], bool]) -> str:
    """The file without the leases that are stale; every other line is kept as it is."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if (lease := _lease(line)) is None or not stale(lease))


def _lease(line: str) -> Lease | None:
    words = line.split()
    if len(words) != 5 or not words[0].isdigit():
        return None
    _, owner, address, _, _ = words
    if ":" in address:
        return Lease(address, None)
    return Lease(address, owner) if _MAC.fullmatch(owner) else None
