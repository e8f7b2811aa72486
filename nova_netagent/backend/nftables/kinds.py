"""Which chains of the compiler stand in nf_tables otherwise than they are, told by their names."""

import re
from enum import Enum, auto

from nova_netagent.backend.nftables.names import FILTER


class Kind(Enum):
    """Of what kind a chain is."""

    PLAIN = auto()
    """Its rules are its rules."""
    ROOT = auto()
    """W-local, which looks into the maps of the dispatch."""
    NODE = auto()
    """A node of a tree: of addresses, which is no chain in the kernel, or of bridge ports, which is one."""
    TRANSLATIONS = auto()
    """Floating IPs are maps."""
    INGRESS = auto()
    """What a group allows in is a set."""
    EGRESS = auto()
    """What a group allows out is a set."""


LAID = (Kind.TRANSLATIONS, Kind.INGRESS, Kind.EGRESS)
"""What stands with sets or maps beside it."""

_ID = re.compile(r"[0-9a-f]{8}\Z")
_NUMBERED = {"sgi-": Kind.INGRESS, "sge-": Kind.EGRESS, "to-": Kind.NODE}
_TRANSLATING = ("PREROUTING", "OUTPUT", "POSTROUTING", "float-snat")
FORMER_TRANSLATING = "nat-OUTPUT"
"""What an older agent called nat's ``W-OUTPUT``: to this one it is a chain of filter's that nobody asks for."""


def kind(table: str, chain: str, head: str) -> Kind:
    """Of what kind a chain is.

    :param head: the wrap name and a dash.
    """
    if not chain.startswith(head):
        return Kind.PLAIN
    if table == "nat":
        return Kind.TRANSLATIONS if chain[len(head) :] in _TRANSLATING else Kind.PLAIN
    if table == FILTER and chain[len(head) :] == FORMER_TRANSLATING:
        return Kind.TRANSLATIONS
    stem = chain[len(head) : -8]
    found = _NUMBERED.get(stem)
    if found is not None and _ID.match(chain, len(head) + len(stem)):
        return found if found is not Kind.NODE or table == FILTER else Kind.PLAIN
    return Kind.ROOT if table == FILTER and chain[len(head) :] == "local" else Kind.PLAIN
