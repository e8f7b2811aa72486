"""Which of the kernel's two packet filters this host lives in: looks, loads nothing, decides.

Source: linux/netfilter_ipv4/ip_tables.h (``struct ipt_getinfo``, ``struct ipt_entry``).
"""

import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from msgspec import Struct

from nova_netagent.backend import BackendError, Unavailable, legacy, sockopt, trace
from nova_netagent.backend.ipset import Ipset
from nova_netagent.backend.nft import Netlink
from nova_netagent.backend.nft.netlink import lacks_nf_tables
from nova_netagent.backend.nft.objects import DORMANT
from nova_netagent.backend.nft.objects import Family as NftFamily
from nova_netagent.backend.nft.objects import TableId as NftTable
from nova_netagent.backend.nftables.names import Names
from nova_netagent.netfilter.hooks import HOOKS
from nova_netagent.netfilter.owner import FILTER_TOP, POSTROUTING_BOTTOM, Owner
from nova_netagent.netfilter.rule import FAMILIES, Family

_IP_SET = Path("/sys/module/ip_set")
_SYMBOL = b" nf_tables_newrule"

_GET_INFO, _GET_ENTRIES = 64, 65
_LOOKS = 10
"""How often a table is read anew when somebody changes it between the two."""
_INFO = struct.Struct("=32sI5I5III")
_TABLES = ("filter", "nat", "mangle", "raw", "security")
_TARGET_NAME, _TARGET_DATA = 2, 32
"""Where they are in ``struct xt_entry_target``."""
_OF_IP = (NftFamily.INET, NftFamily.IP, NftFamily.IP6)
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


def warnings(chosen: str, other: World, beside: Iterable[str] = ()) -> Iterator[str]:
    """What an operator has to know of the other packet filter: both judge every packet.

    :param beside: chains of others whose policy is DROP in the packet filter that was chosen, if they judge
        what ours have judged; a legacy table's own do not.
    """
    name = "nf_tables" if chosen == "iptables" else "the legacy tables"
    for world, closed in ((name, other.closed), ("nf_tables", beside)):
        for chain in closed:
            yield f"{chain} of {world} drops what it does not allow, also what our rules allow: allow it there as well"
    if other.foreign and not other.closed:
        yield f"rules of others are in {name}: what they drop is dropped, whatever our rules say"


def look_at_iptables(owner: Owner) -> World:
    """The legacy tables; only those that are in use already are asked."""
    known = {family: legacy.in_use(family, _TABLES) for family in FAMILIES}
    foreign, ours, closed = 0, False, []
    for family, names in known.items():
        for table in names or ():
            found = _LegacyTable(family, table, owner)
            foreign += found.foreign()
            ours |= found.is_used()
            closed += found.closed()
    loaded = any(names is not None for names in known.values())
    return World(loaded, foreign, ours, tuple(closed))


def _has_sets(owner: Owner) -> bool:
    """Whether a set of ipset is ours; not asked where the kernel has not loaded it."""
    if not _IP_SET.exists():
        return False
    ipset = Ipset()
    try:
        return any(owner.owns_set(header.name) for header in ipset.headers())
    finally:
        ipset.close()


def ours_in_iptables(owner: Owner) -> bool:
    """Whether chains or sets of ours are in the legacy world; only tables that are in use already are asked.

    :raises OSError: no permission to ask.
    :raises BackendError: the kernel does not list its sets.
    """
    known = ((family, legacy.in_use(family, _TABLES)) for family in FAMILIES)
    tables = (_LegacyTable(family, table, owner) for family, names in known for table in names or ())
    return _has_sets(owner) or any(table.is_used() for table in tables)


def ours_in_nftables(owner: Owner) -> bool:
    """Whether a table of IP has our name; the kernel is asked as ``look_at_nftables`` asks it.

    It is asked for the tables by name: a list would be disturbed by whoever changes others meanwhile.

    :raises Unavailable: it does not answer.
    """
    has = has_nf_tables()
    if has is False:
        return False
    netlink = Netlink()
    try:
        return any(netlink.table_flags(table) is not None for table in _filters(owner))
    except Unavailable as error:
        if has or not lacks_nf_tables(error):
            raise
        return False
    finally:
        netlink.close()


def look_at_nftables(owner: Owner) -> World:
    """nf_tables; not asked where it shows that the kernel has not loaded it.

    What others have there below IP says nothing of where this host's IP rules are: ebtables and arptables are
    there beside legacy tables, too, and so are our own agents' frames. Tables that are asleep judge nothing.
    Where that is hidden, as it is from a service with ProtectKernelTunables, the kernel is asked,
    and may load it: it will be needed for frames a moment later.

    :raises Unavailable: it does not answer.
    """
    has = has_nf_tables()
    if has is False:
        return World()
    netlink = Netlink()
    try:
        ours = any(netlink.table_flags(table) is not None for table in _filters(owner))
        awake = _awake(netlink)
        others = (table for table in awake if table.family in _OF_IP and table not in _ours(owner))
        foreign = sum(netlink.count_rules(table) for table in others)
        closed = _closed(netlink, awake, owner)
    except Unavailable as error:
        if has or not lacks_nf_tables(error):
            raise
        return World()
    finally:
        netlink.close()
    return World(True, foreign, ours, closed)


class ClosedInNftables:
    """The base chains of others whose policy is DROP, for people; of a kernel that has nf_tables.

    Looked for again when anybody has changed anything: the kernel lists base chains among all others, and of ours
    there are thousands.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._known: tuple[int, tuple[str, ...]] | None = None

    def __call__(self) -> tuple[str, ...]:
        """:raises Unavailable: the kernel does not answer."""
        netlink = Netlink()
        try:
            generation = netlink.generation()
            if self._known is None or self._known[0] != generation:
                self._known = generation, _closed(netlink, _awake(netlink), self._owner)
            return self._known[1]
        finally:
            netlink.close()


def is_ours(owner: Owner) -> Callable[[NftTable, str], bool]:
    """Tells whether a chain, set or map is ours, by its table and its name: others may have some in our tables."""
    filters, names = _filters(owner), Names(owner.wrap_name)
    whole = _ours(owner) - filters
    return lambda table, name: table in whole or (table in filters and names.known(name))


def _awake(netlink: Netlink) -> set[NftTable]:
    """The tables that are not asleep."""
    return {table for table in netlink.tables() if not (netlink.table_flags(table) or 0) & DORMANT}


def _filters(owner: Owner) -> set[NftTable]:
    """The tables of nf_tables that are ours where it is our packet filter."""
    return {NftTable(family, owner.wrap_name) for family in (NftFamily.IP, NftFamily.IP6)}


def _ours(owner: Owner) -> set[NftTable]:
    """All tables of nf_tables that may be ours."""
    return {*_filters(owner), NftTable(NftFamily.BRIDGE, owner.wrap_name), trace.table_of(owner.wrap_name)}


def _closed(netlink: Netlink, awake: Collection[NftTable], owner: Owner) -> tuple[str, ...]:
    ours = is_ours(owner)
    return tuple(
        f"{table.family.name.lower()} {table.name} {chain.name}"
        for table, chain in netlink.hooked(sorted({table.family for table in awake}))
        if table in awake and chain.policy == _NF_DROP and not ours(table, chain.name)
    )


def has_nf_tables() -> bool | None:
    """Whether the kernel shows that it has nf_tables; nothing is loaded. ``None``: it does not show it."""
    return True if Path("/sys/module/nf_tables").exists() else _is_built_in(Path("/proc/kallsyms"))


@cache
def _is_built_in(symbols: Path) -> bool | None:
    """Whether nf_tables is in the kernel itself, which does not change; to read all symbols takes 50 ms."""
    try:
        return _SYMBOL in symbols.read_bytes()
    except OSError:
        return None


_OFFSETS_AT: Mapping[Family, int] = {4: 88, 6: 140}
"""Where an entry says how far it is to its target, and to the next one."""


_Ask = Callable[[int, bytearray], None]
_Read = tuple[int, Sequence[int], Sequence[int], bytes]


def _read_legacy(ask: _Ask, table: bytes) -> _Read:
    """A table's hooks, where their chains begin and end, and its entries; again when it changes in between.

    :raises OSError: with the kernel's errno.
    """
    for _ in range(_LOOKS - 1):
        with suppress(BlockingIOError):
            return _read_once(ask, table)
    return _read_once(ask, table)


def _read_once(ask: _Ask, table: bytes) -> _Read:
    info = bytearray(table.ljust(_INFO.size, b"\0"))
    ask(_GET_INFO, info)
    _, hooks, *numbers = _INFO.unpack(info)
    blob = bytearray(struct.pack("=32sI4x", table, numbers[11])) + bytearray(numbers[11])
    ask(_GET_ENTRIES, blob)
    return hooks, numbers[:5], numbers[5:10], bytes(blob[40:])


class _LegacyTable:
    """One table as the kernel has it now. Into our own chains, which may be thousands, nobody looks."""

    def __init__(self, family: Family, table: str, owner: Owner) -> None:
        self._family, self._table, self._owner = family, table, owner
        self._offsets_at = _OFFSETS_AT[family]
        address_family, level = legacy.LEVELS[family]
        with socket.socket(address_family, socket.SOCK_RAW, socket.IPPROTO_RAW) as asking:
            hooks, entry, underflow, self._blob = _read_legacy(partial(sockopt.ask, asking, level), table.encode())
        self._policies = {
            hook: underflow[hook] for hook in range(5) if hooks >> hook & 1 and entry[hook] <= underflow[hook]
        }
        self._begins: dict[int, str] = {}
        """By its first rule, each user-defined chain."""
        self._rules: list[int] = []
        """Where the rules are that are in no chain of ours."""
        self._walk()

    def _walk(self) -> None:
        blob, unpack, offsets_at = self._blob, struct.Struct("=HH").unpack_from, self._offsets_at
        policies = set(self._policies.values())
        at, size, chain, ours = 0, len(blob), "", False
        while at < size:
            target_at, length = unpack(blob, at + offsets_at)
            if blob.startswith(b"ERROR\0", at + target_at + _TARGET_NAME):
                if chain and not ours:
                    self._rules.pop()  # what ends a chain is no rule
                name = at + target_at + _TARGET_DATA
                chain = blob[name : name + 30].partition(b"\0")[0].decode(errors="replace")
                self._begins[at + length] = chain
                ours = self._owner.owns_chain(chain)
            elif not ours and at not in policies:
                self._rules.append(at)
            at += length

    def foreign(self) -> int:
        """How many rules are not ours."""
        return sum(not self._is_ours(at) for at in self._rules)

    def _is_ours(self, rule: int) -> bool:
        target = self._begins.get(self._verdict(rule) or 0, "")
        return self._owner.owns_chain(target) or target in (FILTER_TOP, POSTROUTING_BOTTOM)

    def _verdict(self, rule: int) -> int | None:
        """Where a rule leads or what it decides; ``None``: its target is an extension."""
        target = rule + struct.unpack_from("=H", self._blob, rule + self._offsets_at)[0]
        if self._blob[target + _TARGET_NAME]:
            return None
        verdict: int = struct.unpack_from("=i", self._blob, target + _TARGET_DATA)[0]
        return verdict

    def is_used(self) -> bool:
        """Whether a chain of ours is there."""
        return any(map(self._owner.owns_chain, self._begins.values()))

    def closed(self) -> list[str]:
        """Those of its built-in chains whose policy is DROP."""
        return [
            f"IPv{self._family} {self._table} {HOOKS[hook]}"
            for hook, at in self._policies.items()
            if self._verdict(at) == _DROP
        ]
