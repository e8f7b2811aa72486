"""Address sets: actual against desired gives a plan. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from nova_netagent.model.lineage import changed
from nova_netagent.netfilter.rule import IpSet


@dataclass(frozen=True)
class SetPlan:
    """The edits of the sets, in the two halves that go before and after the tables."""

    create: tuple[IpSet, ...] = ()
    add: Mapping[str, frozenset[str]] = field(default_factory=dict)
    remove: Mapping[str, frozenset[str]] = field(default_factory=dict)
    destroy: tuple[str, ...] = ()
    keep: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """All that a set holds afterwards that loses members: one that goes may say what one that stays says as well."""

    def __bool__(self) -> bool:
        return bool(self.create or self.add or self.remove or self.destroy)

    def lines(self) -> Iterator[str]:
        """The plan for people, an edit a line."""
        for each in self.create:
            yield f"set: + {each.name} ({len(each.members)} members)"
        for sign, edits in (("+", self.add), ("-", self.remove)):
            for name, members in edits.items():
                for member in sorted(members):
                    yield f"set: {sign} {name} {member}"
        for name in self.destroy:
            yield f"set: - {name}"


def plan_sets(desired: Mapping[str, IpSet], actual: Mapping[str, IpSet], owns: Callable[[str], bool]) -> SetPlan:
    """The edits that make the sets of ours hold what is desired; one of another type is made anew."""
    others = sorted(changed(actual, desired))
    new = [(desired[name], actual.get(name)) for name in others if name in desired]
    common = [(each, old) for each, old in new if old is not None and old.type == each.type]
    return SetPlan(
        create=tuple(each for each, old in new if old is None or old.type != each.type),
        add={each.name: each.members - old.members for each, old in common if each.members - old.members},
        remove={each.name: old.members - each.members for each, old in common if old.members - each.members},
        destroy=tuple(name for name in others if name not in desired and owns(name)),
        keep={each.name: each.members for each, old in common if old.members - each.members},
    )
