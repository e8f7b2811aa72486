"""What a legacy table holds, taken apart into chains in the codec's form.

Sources: linux/netfilter_ipv4/ip_tables.h and libiptc, for how built-in and user-defined
chains lie in a table.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from struct import Struct
from typing import NamedTuple

from nova_netagent.backend import Count
from nova_netagent.backend.iptables.layout import (
    COUNTERS,
    ERROR_NAME,
    EXTENSION,
    OFFSETS,
    ROOM,
    Layout,
    decoded_name,
    standard_target,
)
from nova_netagent.backend.iptables.targets import FALL_THROUGH, VERDICTS, jump
from nova_netagent.netfilter.hooks import HOOKS

Keys = tuple[bytes, ...]
Chains = Mapping[str, Keys]

_VERDICT = Struct("=i")

_STANDARD = {number: standard_target(name.encode()) for name, number in VERDICTS.items()}
_POLICIES = {VERDICTS["ACCEPT"]: "ACCEPT", VERDICTS["DROP"]: "DROP"}


class CountedRule(NamedTuple):
    """A rule with its counters."""

    counted: Count
    key: bytes


class CountedChain(NamedTuple):
    """A chain as an operator looks at it; ``policy`` is ``None`` for a user-defined one."""

    policy: str | None
    rules: tuple[CountedRule, ...]


@dataclass(frozen=True)
class Image:
    """A table as it was read, or as a commit of ours left it."""

    blob: bytearray
    """Its entries in the kernel's own bytes, with the counters of then, behind room for a request's head."""
    hooks: tuple[int, ...]
    """The numbers of the hooks, in the order of the chains; each has a built-in chain."""
    names: tuple[str, ...]
    """Its chains in order, the built-in ones first."""
    starts: tuple[int, ...]
    """Where each begins, counted without the room; then where the last one ends."""
    chains: Chains

    @property
    def size(self) -> int:
        """Of the entries, in bytes."""
        return len(self.blob) - ROOM

    @property
    def entries(self) -> int:
        """How many there are: rules, policies, the marks where chains begin and the one at the end."""
        return sum(map(len, self.chains.values())) + 2 * len(self.names) - len(self.hooks) + 1

    def span(self, number: int) -> slice:
        """Where a chain is in the blob."""
        return slice(ROOM + self.starts[number], ROOM + self.starts[number + 1])


def image_of(
    blob: bytearray,
    hooks: Mapping[int, int],
    layout: Layout,
    previous: Image | None = None,
    known: Callable[[str], Keys | None] = lambda _: None,
) -> Image:
    """Take a table apart; chains that are known, or that ``previous`` has alike, are the same objects.

    :param hooks: by number where the chain of a hook begins.
    :param known: a chain as it may be, by its name: what is alike is not held twice, not even for a moment.
    """
    if previous is not None and _same(blob, previous, layout):
        return replace(previous, blob=blob)
    places = _places(blob, layout)
    masked = bytes(_masked(blob, places.starts[:-1], layout))
    old = previous.chains if previous is not None else {}
    chains: dict[str, Keys] = {}
    starts = []
    for chain in _chains(masked, places, _names(hooks), layout):
        kept = (known(chain.name), old.get(chain.name))
        chains[chain.name] = next((keys for keys in kept if keys == chain.keys), chain.keys)
        starts.append(places.starts[chain.begin])
    end = places.starts[-2]
    return Image(
        blob=blob,
        hooks=tuple(sorted(hooks, key=lambda number: hooks[number])),
        names=tuple(chains),
        starts=tuple(start - ROOM for start in (*starts, end)),
        chains=chains,
    )


def counted(blob: bytearray, hooks: Mapping[int, int], layout: Layout) -> dict[str, CountedChain]:
    """A table's chains with counters and policies."""
    places = _places(blob, layout)
    starts = places.starts[:-1]
    counts = [COUNTERS.unpack_from(blob, start + layout.counters_at) for start in starts]
    masked = bytes(_masked(blob, starts, layout))
    names = _names(hooks)
    chains = {}
    for chain in _chains(masked, places, names, layout):
        verdict = _VERDICT.unpack_from(blob, places.targets[chain.last] + EXTENSION.size)[0]
        policy = _POLICIES.get(verdict) if chain.name in names.values() else None
        rules = tuple(
            CountedRule(Count(packets, octets), key)
            for (packets, octets), key in zip(counts[chain.first : chain.last], chain.keys, strict=True)
        )
        chains[chain.name] = CountedChain(policy, rules)
    return chains


def _names(hooks: Mapping[int, int]) -> dict[int, str]:
    """By place in the blob the built-in chain that begins there."""
    return {ROOM + offset: HOOKS[number] for number, offset in hooks.items()}


class _Places(NamedTuple):
    """Where the entries of a table are. Plain lists of numbers: the garbage collector need not look into them."""

    starts: list[int]
    """With the end of the last entry at the end."""
    targets: list[int]


def _places(blob: bytearray, layout: Layout) -> _Places:
    unpack = OFFSETS.unpack_from
    nfcache_at = layout.nfcache_at
    starts, targets = [ROOM], []
    start, size = ROOM, len(blob)
    while start < size:
        _nfcache, target_at, length = unpack(blob, start + nfcache_at)
        targets.append(start + target_at)
        start += length
        starts.append(start)
    return _Places(starts, targets)


def _masked(blob: bytearray, starts: Sequence[int], layout: Layout) -> bytearray:
    """A copy without what the kernel and other programs noted in entries, the counters included."""
    masked = blob[:]
    low, high = layout.comefrom_at, layout.size
    nothing = bytes(high - low)
    cache_low, cache_high = layout.nfcache_at, layout.nfcache_at + 4
    no_cache = bytes(4)
    for start in starts:
        masked[start + low : start + high] = nothing
        masked[start + cache_low : start + cache_high] = no_cache
    return masked


def _same(blob: bytearray, previous: Image, layout: Layout) -> bool:
    """Whether a table is what it was, but for what is masked. What nobody used meanwhile is compared as it is."""
    old = previous.blob
    if len(blob) != len(old):
        return False
    if blob == old:
        return True
    bounds = [ROOM + start for start in previous.starts]
    bounds.append(len(blob))
    for low, high in pairwise(bounds):
        now, then = blob[low:high], old[low:high]
        if now != then and _alone(now, layout) != _alone(then, layout):
            return False
    return True


def _alone(entries: bytearray, layout: Layout) -> bytearray:
    """The entries of one chain, masked."""
    starts = []
    start = 0
    while start < len(entries):
        starts.append(start)
        start += OFFSETS.unpack_from(entries, start + layout.nfcache_at)[2]
    return _masked(entries, starts, layout)


class _Chain(NamedTuple):
    """A chain by the numbers of its entries."""

    name: str
    begin: int
    """Its first entry, which in a user-defined chain is a mark with its name."""
    first: int
    """Its first rule, or its policy when it has no rule."""
    last: int
    """Its policy."""
    keys: Keys


class _Head(NamedTuple):
    name: bytes
    begin: int
    first: int


def _chains(blob: bytes, places: _Places, builtin: Mapping[int, str], layout: Layout) -> Iterator[_Chain]:
    heads = list(_heads(blob, places, builtin, layout))
    jumps = {places.starts[head.first] - ROOM: jump(head.name) for head in heads[:-1] if head.first != head.begin}
    targets = {**_STANDARD, **jumps}
    # The last head is the end of the table.
    for head, following in pairwise(heads):
        last = following.begin - 1
        keys = tuple(_rules(blob, places, range(head.first, last), targets))
        yield _Chain(decoded_name(head.name), head.begin, head.first, last, keys)


def _heads(blob: bytes, places: _Places, builtin: Mapping[int, str], layout: Layout) -> Iterator[_Head]:
    for number, (start, end) in enumerate(pairwise(places.starts)):
        if start in builtin:
            yield _Head(builtin[start].encode(), number, number)
        elif end - start == layout.mark_size and blob.startswith(ERROR_NAME, places.targets[number] + 2):
            name = blob[start + layout.size + EXTENSION.size : end].partition(b"\0")[0]
            yield _Head(name, number, number + 1)


def _rules(blob: bytes, places: _Places, numbers: range, targets: Mapping[int, bytes]) -> Iterator[bytes]:
    verdict_of = _VERDICT.unpack_from
    for number in numbers:
        start, target_at, end = places.starts[number], places.targets[number], places.starts[number + 1]
        if blob[target_at + 2]:
            yield blob[start:end]
            continue
        verdict = verdict_of(blob, target_at + EXTENSION.size)[0]
        target = targets.get(verdict)
        if target is None:
            target = FALL_THROUGH if verdict == end - ROOM else blob[target_at:end]
        yield blob[start:target_at] + target
