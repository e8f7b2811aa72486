"""Which of the kernel's two packet filters this host lives in: looks, loads nothing, decides.

Sources: linux/netfilter_ipv4/ip_tables.h (``struct ipt_getinfo``, ``struct ipt_entry``); a table
of legacy iptables is in /proc/net/ip_tables_names once somebody in the namespace has used it.
"""

import errno
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from msgspec import Struct

from nova_netagent.backend import BackendError, Unavailable, sockopt, trace
from nova_netagent.backend.nft import Netlink
from nova_netagent.backend.nft.netlink import lacks_nf_tables
from nova_netagent.backend.nft.objects import Family as NftFamily
from nova_netagent.netfilter.hooks import HOOKS
from nova_netagent.netfilter.owner import FILTER_TOP, POSTROUTING_BOTTOM, Owner

_PROC = Path("/proc")
_SYMBOL = b" nf_tables_newrule"

_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = struct.Struct("=32sI5I5III")
_TABLES = ("filter", "nat", "mangle", "raw", "security")
_DROP = -1
_NF_DROP = 0


class Undecided(BackendError):
    """``backend = auto`` would be a guess."""


class World(Struct, frozen=True):
    """What one of the two packet filters holds in this network namespace."""

    loaded: bool = False
    foreign: int = 0
    """How many rules are not ours."""
    ours: bool = False
    """Whether anything of ours is there."""
    closed: tuple[str, ...] = ()
    """Chains of others whose policy is DROP, for people."""


def choose(iptables: World, nftables: World) -> tuple[str, str]:
    """The backend for a host like this, and why.

    :raises Undecided: as much speaks for one as for the other.
    """
    if iptables.foreign > nftables.foreign:
        return "iptables", f"this host's other rules are in the legacy tables ({iptables.foreign})"
    if nftables.foreign > iptables.foreign:
        return "nftables", f"this host's other rules are in nf_tables ({nftables.foreign})"
    if iptables.foreign:
        raise Undecided(
            f"[firewall] backend = auto: {iptables.foreign} rules of others in the legacy tables and as many"
            " in nf_tables: say iptables or nftables"
        )
    if iptables.ours != nftables.ours:
        return ("iptables" if iptables.ours else "nftables"), "nobody else has rules, and ours are there"
    if iptables.loaded:
        return "iptables", "nobody has rules, and the legacy tables are in this kernel"
    if nftables.loaded:
        return "nftables", "nobody has rules, and this kernel has no legacy tables loaded"
    return "nftables", "nobody has rules, and neither packet filter is loaded"


def warnings(chosen: str, other: World) -> Iterator[str]:
    """What an operator has to know of the other packet filter: both judge every packet."""
    name = "nf_tables" if chosen == "iptables" else "the legacy tables"
    for chain in other.closed:
        yield f"{chain} of {name} drops what it does not allow, also what our rules allow: allow it there as well"
    if other.foreign and not other.closed:
        yield f"{other.foreign} rules of others are in {name}: what they drop is dropped, whatever our rules say"


def look_at_iptables(owner: Owner) -> World:
    """The legacy tables; only those that are in use already are asked."""
    known = {family: _tables_in_use(family) for family in _LAYOUTS}
    foreign, ours, closed = 0, False, []
    for family, names in known.items():
        for table in names or ():
            legacy = _LegacyTable(family, table)
            foreign += legacy.foreign(owner)
            ours |= legacy.is_used(owner)
            closed += legacy.closed()
    return World(any(names is not None for names in known.values()), foreign, ours, tuple(closed))


def look_at_nftables(owner: Owner) -> World:
    """nf_tables; not asked where it shows that the kernel has not loaded it.

    Where that is hidden, as it is from a service with ProtectKernelTunables, the kernel is asked,
    and may load it: it will be needed for frames a moment later.

    :raises Unavailable: it does not answer.
    """
    has = has_nf_tables()
    if has is False:
        return World()
    netlink = Netlink()
    try:
        ours = {(family, owner.wrap_name) for family in (NftFamily.IP, NftFamily.IP6, NftFamily.BRIDGE)}
        filters = ours - {(NftFamily.BRIDGE, owner.wrap_name)}
        ours.add((NftFamily.INET, trace.table_of(owner.wrap_name).name))
        found = netlink.everything()
    except Unavailable as error:
        if has or not lacks_nf_tables(error):
            raise
        return World()
    finally:
        netlink.close()
    foreign = sum(count for table, count in found.rules.items() if table not in ours)
    closed = tuple(
        f"{NftFamily(family).name.lower()} {table} {chain.name}"
        for (family, table), chain in found.base_chains
        if (family, table) not in ours and chain.policy == _NF_DROP
    )
    return World(True, foreign, any(table in filters for table in found.tables), closed)


def has_nf_tables() -> bool | None:
    """Whether the kernel shows that it has nf_tables; nothing is loaded. ``None``: it does not show it."""
    return True if Path("/sys/module/nf_tables").exists() else _is_built_in(_PROC / "kallsyms")


@cache
def _is_built_in(symbols: Path) -> bool | None:
    """Whether nf_tables is in the kernel itself, which does not change; to read all symbols takes 50 ms."""
    try:
        return _SYMBOL in symbols.read_bytes()
    except OSError:
        return None


class _Layout(Struct, frozen=True):
    """Of one family's entries, as far as it takes to find jumps and policies."""

    socket_family: int
    level: int
    offsets_at: int
    size: int


_LAYOUTS: Mapping[int, _Layout] = {
    4: _Layout(socket.AF_INET, socket.SOL_IP, 88, 112),
    6: _Layout(socket.AF_INET6, socket.IPPROTO_IPV6, 140, 168),
}


def _tables_in_use(family: int) -> list[str] | None:
    """The legacy tables of this namespace; ``None`` where the kernel has none at all.

    The kernel lets nobody but root read their names. Who is not root asks for each, which
    loads no module; a table of a module that is there may come to be by it, empty.
    """
    try:
        return _names_file(family).read_text().split()
    except PermissionError:
        return [table for table in _TABLES if _is_there(family, table)]
    except OSError:
        return None


def _names_file(family: int) -> Path:
    return _PROC / "net" / ("ip_tables_names" if family == 4 else "ip6_tables_names")


def _is_there(family: int, table: str) -> bool:
    """Whether the kernel has a table, told by what is wrong with too small a buffer for it."""
    layout = _LAYOUTS[family]
    with socket.socket(layout.socket_family, socket.SOCK_RAW, socket.IPPROTO_RAW) as asking:
        try:
            sockopt.ask(asking, layout.level, _GET_ENTRIES, bytearray(struct.pack("=32sI4x", table.encode(), 0)))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOENT):
                raise
            return error.errno == errno.EAGAIN
    return True


class _Entry(Struct, frozen=True):
    target: str
    verdict: int
    name: str
    """Of the chain that begins here."""


class _LegacyTable:
    """One table as the kernel has it now."""

    def __init__(self, family: int, table: str) -> None:
        self._family, self._table = family, table
        self._layout = _LAYOUTS[family]
        with socket.socket(self._layout.socket_family, socket.SOCK_RAW, socket.IPPROTO_RAW) as asking:
            info = bytearray(table.encode().ljust(_INFO.size, b"\0"))
            sockopt.ask(asking, self._layout.level, _GET_INFO, info)
            _, hooks, *numbers = _INFO.unpack(info)
            entry, underflow, self._size = numbers[:5], numbers[5:10], numbers[11]
            blob = bytearray(struct.pack("=32sI4x", table.encode(), self._size)) + bytearray(self._size)
            sockopt.ask(asking, self._layout.level, _GET_ENTRIES, blob)
        self._blob = bytes(blob[40:])
        self._policies = {
            hook: underflow[hook] for hook in range(5) if hooks >> hook & 1 and entry[hook] <= underflow[hook]
        }
        self._entries = dict(self._walk())

    def _walk(self) -> Iterator[tuple[int, _Entry]]:
        at = 0
        while at < self._size:
            target_at, following = struct.unpack_from("=HH", self._blob, at + self._layout.offsets_at)
            target = at + target_at
            name = self._blob[target + 2 : target + 31].partition(b"\0")[0].decode(errors="replace")
            verdict = struct.unpack_from("=i", self._blob, target + 32)[0] if not name else 0
            chain = ""
            if name == "ERROR":
                chain = self._blob[target + 32 : target + 62].partition(b"\0")[0].decode(errors="replace")
            yield at, _Entry(name, verdict, chain)
            at += following

    def chains(self) -> Mapping[str, Sequence[int]]:
        """Where each chain's rules are; those of built-in chains together, under no name."""
        found: dict[str, list[int]] = {}
        current = ""
        policies = set(self._policies.values())
        for at, each in self._entries.items():
            if each.target == "ERROR":
                current = each.name
                found.setdefault(current, [])
            elif at not in policies:
                found.setdefault(current, []).append(at)
        return {
            name: rules[:-1] if name else rules for name, rules in found.items() if name != "ERROR"
        }  # what ends a chain is no rule

    def foreign(self, owner: Owner) -> int:
        """How many rules are not ours."""
        heads = {at: each.name for at, each in self._entries.items() if each.target == "ERROR"}
        starts = sorted(self._entries)
        after = {starts[index + 1]: name for index, at in enumerate(starts[:-1]) if (name := heads.get(at))}

        def is_ours(at: int) -> bool:
            target = after.get(self._entries[at].verdict, "")
            return owner.owns_chain(target) or target in (FILTER_TOP, POSTROUTING_BOTTOM)

        return sum(
            not is_ours(at) for name, rules in self.chains().items() if not owner.owns_chain(name) for at in rules
        )

    def is_used(self, owner: Owner) -> bool:
        """Whether a chain of ours is there."""
        return any(owner.owns_chain(name) for name in self.chains())

    def closed(self) -> list[str]:
        """Those of its built-in chains whose policy is DROP."""
        return [
            f"IPv{self._family} {self._table} {HOOKS[hook]}"
            for hook, at in self._policies.items()
            if self._entries[at].verdict == _DROP
        ]
