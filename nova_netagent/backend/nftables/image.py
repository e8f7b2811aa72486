"""Our table of one family as the kernel has it, and the tables of the compiler that are in it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from msgspec import Struct
from msgspec.structs import replace as replace_struct

from nova_netagent.backend import TableChanged
from nova_netagent.backend.nft.netlink import ListedChain, ListedRule, ListedSet, Netlink
from nova_netagent.backend.nft.objects import DORMANT, Element, Set, SetFlag, TableId
from nova_netagent.backend.nft.watch import Touched
from nova_netagent.backend.nftables import keys
from nova_netagent.backend.nftables.names import BASE_CHAINS, Names
from nova_netagent.netfilter.text import BUILTIN_CHAINS

_ACCEPT = 1
_MANY_CHAINS = 10_000
"""From so many on chains are listed one by one: to list a whole table takes the square of its rules."""
_WHOLE_ATTEMPTS = 3
"""How often a whole table is listed, which anybody's commit disturbs; then its chains are, one by one."""
_MANY_TOUCHED = 500
"""From so many on the whole table is listed again."""

Keys = tuple[bytes, ...]
Elements = Mapping[tuple[bytes, bool], Element]
"""By key, and whether the element closes a range."""


class HeldChain(Struct, frozen=True, gc=False):
    """A chain in nf_tables."""

    rules: Keys = ()
    handles: tuple[int, ...] | None = ()
    """The rules' handles; ``None`` where we made rules since, and did not ask."""
    right: bool = True
    """Whether it is hooked in as it should be."""


class HeldSet(Struct, frozen=True, gc=False):
    """A set or map in nf_tables."""

    elements: Elements
    flags: SetFlag
    key_size: int
    data_size: int
    size: int | None = None
    """How many elements it has room for; ``None``: as many as come."""

    def fits(self, described: Set) -> bool:
        """Whether it is of the kind that it should be."""
        data_size = 0 if described.data is None else described.data.size
        kind = described.flags, described.key_size, data_size, described.size
        return (self.flags, self.key_size, self.data_size, self.size) == kind


@dataclass
class Image:
    """Our table of one family. Its chains and sets are replaced, never changed: copies are cheap."""

    table: TableId
    exists: bool = False
    awake: bool = True
    goes: bool = False
    """Whether there is a table that goes with whatever is in it, before another one comes."""
    chains: dict[str, HeldChain] = field(default_factory=dict)
    sets: dict[str, HeldSet] = field(default_factory=dict)

    def differs(self, other: "Image") -> bool:
        """Whether the other one holds anything else."""
        if (self.exists, self.awake) != (other.exists, other.awake) or self.chains.keys() != other.chains.keys():
            return True
        return _contents(self) != _contents(other)

    def adopt_rules(self, name: str, rules: Keys) -> None:
        """Hold these equal rules of a chain instead: there need not be two of them."""
        self.chains[name] = replace_struct(self.chains[name], rules=rules)

    def adopt_elements(self, name: str, elements: Elements) -> None:
        """The same of a set's elements; what is said beside them does not count."""
        self.sets[name] = replace_struct(self.sets[name], elements=elements)

    def copy(self) -> "Image":
        """One that can be edited."""
        return replace(self, chains=dict(self.chains), sets=dict(self.sets))


def _contents(image: Image) -> tuple[object, object]:
    rules = {name: (each.rules, each.right) for name, each in image.chains.items()}
    elements = {
        name: {key: (one.end, one.data) for key, one in each.elements.items()} for name, each in image.sets.items()
    }
    return rules, elements


def read(netlink: Netlink, table: TableId) -> Image:
    """Read the table from the kernel."""
    flags = netlink.table_flags(table)
    if flags is None:
        return Image(table)
    listed = netlink.chains(table)
    same = Same()
    sets = {each.name: read_set(netlink, table, each, same) for each in netlink.sets(table)}
    rules = _rules(netlink, table, [each.name for each in listed])
    chains = {each.name: chain_of(each, rules[each.name], same) for each in listed}
    return Image(table, exists=True, awake=not flags & DORMANT, chains=chains, sets=sets)


def _rules(netlink: Netlink, table: TableId, chains: Sequence[str]) -> Mapping[str, Sequence[ListedRule]]:
    if len(chains) < _MANY_CHAINS:
        with suppress(TableChanged):
            return _by_chain(netlink.rules(table, attempts=_WHOLE_ATTEMPTS), chains)
    # A chain is listed before even the busiest of others commit again; what they change of ours is heard.
    return {name: netlink.rules(table, name) for name in chains}


def _by_chain(rules: Iterable[ListedRule], chains: Iterable[str]) -> Mapping[str, Sequence[ListedRule]]:
    found: dict[str, list[ListedRule]] = {name: [] for name in chains}
    for rule in rules:
        found.setdefault(rule.chain, []).append(rule)
    return found


def read_again(netlink: Netlink, known: Image, touched: Touched) -> Image:
    """The table, of which others touched but a part."""
    # Of a chain that was renamed the kernel tells the new name alone, and not who led to it and says that now.
    unknown = touched.chains - known.chains.keys()
    if touched.whole or unknown or not known.exists or len(touched.chains) > _MANY_TOUCHED:
        return read(netlink, known.table)
    again = known.copy()
    for name in touched.chains:
        chain = netlink.chain(known.table, name)
        if chain is None:
            again.chains.pop(name, None)
        else:
            again.chains[name] = chain_of(chain, netlink.rules(known.table, name), Same())
    listed = {each.name: each for each in netlink.sets(known.table)} if touched.sets else {}
    for name in touched.sets:
        again.sets.pop(name, None)
        if name in listed:
            again.sets[name] = read_set(netlink, known.table, listed[name], Same())
    return again


class Same:
    """Equal rules and elements of a listing become one object: most chains and sets have much in common."""

    def __init__(self) -> None:
        self._rules: dict[bytes, bytes] = {}
        self._elements: dict[tuple[object, ...], tuple[tuple[bytes, bool], Element]] = {}

    def rule(self, listed: ListedRule) -> bytes:
        """The key of a rule."""
        key = keys.uncounted(listed.expressions)
        return self._rules.setdefault(key, key)

    def element(self, listed: Element) -> tuple[tuple[bytes, bool], Element]:
        """An element by its place in a set; what is said beside it is left out."""
        what = listed.key, listed.end, listed.data, listed.closes
        found = self._elements.get(what)
        if found is None:
            found = self._elements[what] = (listed.key, listed.closes), replace_struct(listed, comment=None)
        return found


def chain_of(listed: ListedChain, rules: Sequence[ListedRule], same: Same) -> HeldChain:
    """A chain as it was listed."""
    return HeldChain(tuple(map(same.rule, rules)), tuple(rule.handle for rule in rules), is_right(listed))


def read_set(netlink: Netlink, table: TableId, listed: ListedSet, same: Same) -> HeldSet:
    """A set with its elements; those that are forgotten after a while are not looked at."""
    elements = () if listed.flags & SetFlag.TIMEOUT else netlink.elements(table, listed.name)
    found = dict(map(same.element, elements))
    return HeldSet(found, listed.flags, listed.key_size, listed.data_size, listed.size)


def held(described: Set) -> HeldSet:
    """A new set."""
    data_size = 0 if described.data is None else described.data.size
    return HeldSet({}, described.flags, described.key_size, data_size, described.size)


def is_right(listed: ListedChain) -> bool:
    """Whether a chain is hooked in where it should be, and lets on what it does not decide."""
    wanted = BASE_CHAINS.get(listed.name)
    if wanted is None or wanted.hook is None:
        return listed.hook is None  # none of ours is; whether it is of ours or somebody else's is told by its name
    hook = wanted.hook
    return (listed.hook, listed.priority, listed.type, listed.policy) == (hook.hook, hook.priority, hook.type, _ACCEPT)


def logical_chains(image: Image, table: str, names: Names, encoded: Callable[[str], Keys | None]) -> dict[str, Keys]:
    """A table's chains as the compiler knows them, but for what is in maps.

    Built-in chains are always there; one that is not hooked in right, or sleeps, holds nothing.

    :param encoded: the keys of a chain as they were encoded last: what is the same becomes the same object, in the
        image too.
    """
    found: dict[str, Keys] = dict.fromkeys(BUILTIN_CHAINS[table], ())
    for physical, chain in image.chains.items():
        of, name = names.logical(physical)
        if of != table:
            continue
        works = chain.right and (image.awake or physical not in BASE_CHAINS)
        found[name] = known = recognized(chain.rules, encoded(name)) if works else ()
        if known == chain.rules:
            image.adopt_rules(physical, known)
    return found


def recognized(rules: Keys, encoded: Keys | None) -> Keys:
    """Listed rules, as the keys that we have for them."""
    if encoded is None or rules == encoded:
        return rules if encoded is None else encoded
    by_bytes = {bytes(each): each for each in encoded}
    return tuple(by_bytes.get(rule) or _like(rule, encoded) for rule in rules)


def _like(rule: bytes, encoded: Iterable[bytes]) -> bytes:
    return next((each for each in encoded if keys.alike(each, rule)), rule)
