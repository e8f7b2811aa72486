"""Whose chain is it? The grammar of our names.

A chain is ours when its whole name is ``W-NAME``, where W is the configured wrap name
and NAME is a name of the grammar below; what merely starts alike is somebody else's.
The kernel takes 28 characters, W has at most 14, so NAME has at most 13.

    NAME    = "INPUT" | "FORWARD" | "OUTPUT" | "PREROUTING" | "POSTROUTING"
            | "local" | "ports" | "established" | "discovery" | "provider" | "sg-fallback"
            | "senders" | "no-server" | "unspecified" | "services" | "egress-ok" | "egress-done"
            | "snat" | "float-snat" | "cut" | "zones"
            | KIND "-" 8HEX            an object's chain, by its short id
            | "to-" 8HEX               a node of a dispatch tree
    KIND    = "inst" | "vif" | "net" | "out" | "src" | "sgi" | "sge" | "lgi" | "lge"

(No chain is called "established" any more; one that an older agent left is swept. So is, in our own
tables of nf_tables, one that has the name of iptables' table in its own, as ``W-mangle-ports`` had.)

Sets are named ``W-g4-8HEX`` and ``W-g6-8HEX``, and ``W-cut4`` and ``W-cut6``.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from msgspec import Struct

MAX_CHAIN_NAME = 28
MAX_SET_NAME = 31
SHORT = 8
"""So many digits of an id stand in names."""

_CHAIN = re.compile(
    r"(INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING|local|ports|established|discovery|provider|sg-fallback"
    r"|senders|no-server|unspecified|services|egress-ok|egress-done|snat|float-snat|cut|zones|(inst|vif|net|out|src|sgi|sge|lgi|lge|to)-[0-9a-f]{8})\Z"
)
_FORMER = re.compile(f"(raw|mangle|nat)-{_CHAIN.pattern}")
_SET = re.compile(r"(g[46]-[0-9a-f]{8}|cut[46])\Z")

FILTER_TOP = "nova-filter-top"
POSTROUTING_BOTTOM = "nova-postrouting-bottom"


class Owner(Struct, frozen=True):
    """The names of one agent, by its wrap name."""

    wrap_name: str

    def chain(self, name: str) -> str:
        """The wrapped name of a chain.

        :raises ValueError: the name is not of the grammar: a chain that would never be
            recognised as ours again.
        """
        return _wrapped(self.wrap_name, name)

    def set(self, name: str) -> str:
        """The wrapped name of a set; ``ValueError`` when it is not of the grammar."""
        return _wrapped_set(self.wrap_name, name)

    def owns_chain(self, name: str) -> bool:
        """Whether a chain is ours, also one that the state does not know."""
        head = f"{self.wrap_name}-"
        return name.startswith(head) and _CHAIN.match(name, len(head)) is not None

    def owns_in_own_table(self, name: str) -> bool:
        """Whether a chain of a table that is ours alone is ours, or an older agent's."""
        head = f"{self.wrap_name}-"
        return self.owns_chain(name) or (name.startswith(head) and _FORMER.match(name, len(head)) is not None)

    def owns_set(self, name: str) -> bool:
        """Whether a set is ours, also one that the state does not know."""
        head = f"{self.wrap_name}-"
        return name.startswith(head) and _SET.match(name, len(head)) is not None


@lru_cache(4096)
def _wrapped(wrap_name: str, name: str) -> str:
    if not _CHAIN.match(name):
        raise ValueError(f"{name!r} is not a chain name of ours")
    return f"{wrap_name}-{name}"


@lru_cache(16384)
def _wrapped_set(wrap_name: str, name: str) -> str:
    if not _SET.match(name):
        raise ValueError(f"{name!r} is not a set name of ours")
    return f"{wrap_name}-{name}"


class ShortIds(Struct, frozen=True):
    """The names of ids, looked up one by one: most are simply an id's first digits."""

    exceptions: Mapping[str, str]
    """Of the ids that clash."""

    def __getitem__(self, id_: str) -> str:
        return self.exceptions.get(id_) or id_[:SHORT]


NO_CLASH = ShortIds({})


def short_names(ids: Collection[str]) -> ShortIds:
    """``short_ids`` of ids that are all different; the same value as long as the same ones clash."""
    if len({id_[:SHORT] for id_ in ids}) == len(ids):
        return NO_CLASH
    return ShortIds({id_: name for id_, name in short_ids(ids).items() if name != id_[:SHORT]})


def short_ids(ids: Iterable[str]) -> Mapping[str, str]:
    """For each id the eight hexadecimal digits that stand for it in names.

    They are the id's first eight. Ids that share them take the first eight of the SHA-1
    of the whole id instead, and on a further clash of the SHA-1 of that, and so on: the
    result depends on which ids there are and never on their order.
    """
    digests = {id_: id_ for id_ in ids}
    short = {id_: long[:SHORT] for id_, long in digests.items()}
    while len(set(short.values())) < len(short):
        holders: dict[str, list[str]] = {}
        for id_, name in short.items():
            holders.setdefault(name, []).append(id_)
        for sharing in holders.values():
            if len(sharing) > 1:
                for id_ in sharing:
                    digests[id_] = digest(digests[id_])
                    short[id_] = digests[id_][:SHORT]
    return short


@lru_cache(65536)
def digest(text: str) -> str:
    """The SHA-1 of a text, of which names take their digits."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
