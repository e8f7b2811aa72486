"""Which objects are to blame when the kernel refuses the rules of all of them. Pure."""

from collections.abc import Callable, Iterable

from nova_netagent.model import Key

DEPENDED_ON_LAST = (("floating_ips", "provider_rules"), ("security_groups",), ("instances",), ("networks",))


def to_blame(
    everything: frozenset[Key],
    can_be_said: Callable[[Iterable[Key]], bool],
    works: Callable[[Iterable[Key]], bool],
    start_over: Callable[[], bool],
    suspects: Callable[[], Iterable[frozenset[Key]]],
) -> frozenset[Key] | None:
    """The objects whose rules are refused; ``None`` where it is not one of them. What is left works, and is in.

    Nobody is left out on trial whose rules the kernel holds already: it would lose packets.

    :param can_be_said: whether the rules can be said to the kernel without some objects; it is not told them.
    :param works: whether the kernel takes the rules without some objects; it is told them.
    :param start_over: has everything of ours made anew when the kernel is told next, whatever others put among it;
        whether that can be done.
    :param suspects: those that can be to blame where the kernel refuses what can be said, the likeliest first.
    """
    if not can_be_said(everything):
        return None
    guilty = culprits(everything, can_be_said)
    if works(guilty) or (start_over() and works(guilty)):
        return guilty
    for some in suspects():
        some -= guilty
        if some and works(guilty | some):
            guilty |= culprits(some, lambda keys, known=guilty: works(known | set(keys)))  # type: ignore[misc]
            return guilty if works(guilty) else None
    return None


def culprits(candidates: frozenset[Key], works: Callable[[Iterable[Key]], bool]) -> frozenset[Key]:
    """The candidates without which it works; it works without all of them.

    Who is left out takes along what refers to it: a network must not be blamed for an instance.
    """
    if works(()):
        return frozenset()
    for kinds in DEPENDED_ON_LAST:
        part = sorted(key for key in candidates if key[0] in kinds)
        if part and works(part):
            return _halved(part, works)
    return _halved(sorted(candidates), works)


def _halved(candidates: list[Key], works: Callable[[Iterable[Key]], bool]) -> frozenset[Key]:
    """The candidates without which it works, found by halving; it works without all of them."""

    def search(part: list[Key], excluded: frozenset[Key]) -> frozenset[Key]:
        """The culprits of a part, when everything else that is suspect is excluded."""
        if works(excluded):
            return frozenset()
        if len(part) == 1:
            return frozenset(part)
        middle = len(part) // 2
        first, second = part[:middle], part[middle:]
        found = search(first, excluded | set(second))
        return found | search(second, excluded | found)

    return search(candidates, frozenset())
