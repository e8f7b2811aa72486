"""Who of the instances has what several claim: the oldest."""

from collections.abc import Mapping

from msgspec import Struct

from nova_netagent.compile.interfaces import Oldest
from nova_netagent.model import Claim, DesiredState, Entry
from nova_netagent.model.lineage import changed


class Claimed(Struct, frozen=True, gc=False):
    """What the described instances claim."""

    instances: Mapping[str, Entry]
    oldest: Oldest
    holders: Mapping[Claim, Claim]
    """For each contested thing the claim that is the oldest; what is not contested is left out."""


def claimed_things(state: DesiredState, last: Claimed | None) -> Claimed:
    """What the instances claim; made from that of last time where nothing is contested."""
    if last is not None and not last.holders:
        oldest = _claimed_anew(state, last)
        if oldest is not None:
            return Claimed(state.instances, oldest, {})
    first: dict[Claim, tuple[int, Claim]] = {}
    contested: set[Claim] = set()
    for entry in state.instances.values():
        for claim, since in entry.since.items():
            thing = claim[:-1]
            other = first.setdefault(thing, (since, claim))
            if other[1] != claim:
                first[thing] = min(other, (since, claim))
                contested.add(thing)
    return Claimed(state.instances, first, {thing: first[thing][1] for thing in contested})


def _claimed_anew(state: DesiredState, last: Claimed) -> Oldest | None:
    """The claims of last time, changed by those that came and went; ``None`` where one is contested."""
    oldest = dict(last.oldest)
    before, after = last.instances, state.instances
    others = changed(before, after)
    for id_ in others:
        for claim in before[id_].since if id_ in before else ():
            del oldest[claim[:-1]]
    for id_ in others:
        for claim, since in after[id_].since.items() if id_ in after else ():
            if oldest.setdefault(claim[:-1], (since, claim))[1] is not claim:
                return None
    return oldest
