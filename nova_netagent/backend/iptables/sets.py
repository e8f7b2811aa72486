"""Our sets as the plan speaks of them: /0 members, sets of another type, indexes."""

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from nova_netagent.backend import RuleRefused, TableChanged, Unavailable
from nova_netagent.backend.ipset import (
    BUSY,
    ENDS,
    NO_MATCH,
    NO_SUBSYSTEM,
    PREFIXES,
    Ipset,
    IpsetError,
    SetHeader,
)
from nova_netagent.netfilter.rule import CUT_SECONDS, IpSet
from nova_netagent.netfilter.text import HALVES
from nova_netagent.plan.sets import SetPlan

_WIDE = frozenset(HALVES).union(*HALVES.values())

_NOT_NOW = {errno.EPERM, errno.EACCES, errno.ENOMEM, errno.ENOBUFS, errno.EINTR}
_TOP_INDEX = 65534


class KernelSets:
    """The sets of ours in the network namespace that the process is in.

    The kernel's ``hash:net`` has no /0: it is kept as its two halves, and nobody sees that.

    :param owns: whether a set is ours by its name.
    """

    def __init__(self, owns: Callable[[str], bool]) -> None:
        self.generation = 0
        """Counts up whenever an index that was given out may no longer be right."""
        self._owns = owns
        self._ipset: Ipset | None = None
        self._indexes: dict[str, int] = {}
        self._absent: dict[int, str] = {}

    def close(self) -> None:
        """Close the sockets."""
        if self._ipset is not None:
            self._ipset.close()
            self._ipset = None

    def read(self, wanted: Mapping[str, IpSet]) -> dict[str, IpSet]:
        """The sets that are ours by name; one of another type than ours is not worth the name.

        :param wanted: what they should be: who asks for /0 and for a half of it leaves the same two halves.
        :raises Unavailable: the kernel does not list them.
        """
        try:
            found = {header.name: self._read(header, wanted.get(header.name)) for header in self._ours()}
        except OSError as e:
            raise _translated(e) from e
        self._forget_indexes((*self._indexes, *self._absent.values()))
        return found

    def prepare(self, plan: SetPlan) -> None:
        """Make new sets and add members.

        :raises RuleRefused: a member is refused, or the name is taken by a set that is in use.
        :raises TableChanged: a set is gone since it was read.
        """
        try:
            for each in plan.create:
                self._create(each)
            for name, members in plan.add.items():
                self._kernel.add(name, _expanded(members))
        except OSError as e:
            raise _translated(e) from e
        finally:
            if plan.create:
                self._forget_indexes(each.name for each in plan.create)

    def finish(self, plan: SetPlan) -> None:
        """Take members and sets away; a set in use does not keep the others.

        :raises RuleRefused: a set that must go is in use.
        :raises TableChanged: a set that must lose members is gone.
        """
        in_use = []
        try:
            for name, members in plan.remove.items():
                self._kernel.delete(name, _going(members, plan.keep.get(name, frozenset())))
            for name in plan.destroy:
                try:
                    self._kernel.destroy(name)
                except IpsetError as e:
                    if e.errno != BUSY:
                        raise
                    in_use.append(name)
        except OSError as e:
            raise _translated(e) from e
        finally:
            if plan.destroy:
                self._forget_indexes(plan.destroy)
        if in_use:
            raise RuleRefused(f"cannot remove the set {', '.join(in_use)}: it is in use")

    def note_cut(self, ends: Mapping[str, Collection[str]]) -> None:
        """Remember ends of flows that were cut, by the set.

        :raises TableChanged: a set is gone.
        """
        try:
            for name, members in ends.items():
                self._kernel.add(name, members)
        except OSError as e:
            raise _translated(e) from e

    def cut_ends(self) -> dict[str, frozenset[str]]:
        """The ends that are noted, by the set.

        :raises Unavailable: the kernel does not list them.
        :raises TableChanged: a set is gone meanwhile.
        """
        try:
            return {header.name: self._kernel.ends(header.name) for header in self._ours() if header.type == ENDS}
        except OSError as e:
            raise _translated(e) from e

    def cut_ago(self, name: str, end: str) -> float | None:
        """How long ago a flow with this end was cut, in seconds. :raises Unavailable: the kernel does not say."""
        try:
            left = self._kernel.remaining(name, end)
        except OSError as e:
            raise Unavailable(e.strerror or str(e)) from e
        return None if left is None else CUT_SECONDS - left

    def index(self, name: str) -> int:
        """The index that a rule has for a set; one that no set has, when the set is not there (yet)."""
        index = self._indexes.get(name)
        if index is None:
            try:
                found = self._kernel.index(name)
            except OSError as e:
                raise Unavailable(f"cannot ask for the set {name}: {e.strerror}") from e
            index = self._absent_index(name) if found is None else found
            self._indexes[name] = index
        return index

    def name(self, index: int) -> str | None:
        """The name of the set with an index."""
        return self._absent.get(index) or self._kernel.name(index)

    def absent(self, indexes: Iterable[int]) -> str | None:
        """The first of the sets that is not there."""
        return next((self._absent[index] for index in indexes if index in self._absent), None)

    def has_absent(self) -> bool:
        """Whether any index was given out for a set that is not there."""
        return bool(self._absent)

    @property
    def _kernel(self) -> Ipset:
        if self._ipset is None:
            try:
                self._ipset = Ipset()
            except OSError as e:
                raise Unavailable(f"cannot use ipset: {e.strerror}") from e
        return self._ipset

    def _ours(self) -> list[SetHeader]:
        try:
            headers = self._kernel.headers()
        except IpsetError as e:
            if e.errno == NO_SUBSYSTEM:
                return []
            raise
        return [header for header in headers if header.type in (PREFIXES, ENDS) and self._owns(header.name)]

    def _read(self, header: SetHeader, wanted: IpSet | None) -> IpSet:
        if header.type == ENDS:
            return IpSet(header.name, header.family, frozenset(), type=ENDS)
        members = self._kernel.members(header.name)
        return IpSet(header.name, header.family, _told(members, frozenset() if wanted is None else wanted.members))

    def _create(self, each: IpSet) -> None:
        try:
            self._kernel.create(each.name, each.family, len(each.members), each.type)
        except IpsetError as e:
            if e.errno != errno.EEXIST:
                raise
            self._replace(each)
        self._kernel.add(each.name, _expanded(each.members))

    def _replace(self, each: IpSet) -> None:
        try:
            self._kernel.destroy(each.name)
        except IpsetError as e:
            if e.errno == BUSY:
                raise RuleRefused(
                    f"the set {each.name} is there with another type or family, and is in use: it cannot be replaced"
                ) from e
            raise
        self._kernel.create(each.name, each.family, len(each.members), each.type)

    def _absent_index(self, name: str) -> int:
        index = next(
            (i for i, other in self._absent.items() if other == name),
            min(self._absent, default=_TOP_INDEX + 1) - 1,
        )
        self._absent[index] = name
        return index

    def _forget_indexes(self, names: Iterable[str]) -> None:
        gone = set(names)
        for name in gone:
            self._indexes.pop(name, None)
        self._absent = {index: name for index, name in self._absent.items() if name not in gone}
        self.generation += 1


def _expanded(members: Iterable[str]) -> Iterator[str]:
    for member in members:
        yield from HALVES.get(member, (member,))


def _told(members: frozenset[str], wanted: frozenset[str]) -> frozenset[str]:
    """A kernel's members as they are wanted, as far as /0 and its halves go, if they can be that; otherwise with /0."""
    held, asked = members & _WIDE, wanted & _WIDE
    if held != frozenset(_expanded(asked)):
        asked = next((frozenset({whole}) for whole, halves in HALVES.items() if held == halves), held)
    return members - held | asked


def _going(members: frozenset[str], kept: frozenset[str]) -> Iterator[str]:
    """The members to take from the kernel's set: not those that another member still stands for."""
    staying = frozenset(_expanded(kept & _WIDE))
    for member in _expanded(members):
        plain = member.removesuffix(NO_MATCH)
        if plain not in staying and plain not in kept:
            yield plain


def _translated(error: OSError) -> TableChanged | RuleRefused | Unavailable:
    words = error.strerror or str(error)
    if not isinstance(error, IpsetError) or error.errno in _NOT_NOW:
        return Unavailable(words)
    return TableChanged(words) if error.errno == errno.ENOENT else RuleRefused(words)
