"""Security groups by side, and what they lack whose rules name others."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from nova_netagent.compile.memo import Memo
from nova_netagent.compile.resolve.resolved import Direction, Group, Judge, Problem, Side
from nova_netagent.model import DesiredState, Key, Object, SecurityGroup, SecurityGroupRule, protocols
from nova_netagent.model.objects import ETHERTYPES
from nova_netagent.netfilter.rule import FAMILIES, Family


def resolve_groups(state: DesiredState, refused: Mapping[Key, str], memo: Memo) -> Mapping[str, Group]:
    """The groups that the kernel has not refused."""
    made = memo.each("groups", state.security_groups, (), lambda _, entry, last: _make_group(entry.object, last))
    if not any(kind == SecurityGroup.KIND for kind, _ in refused):
        return made

    def left() -> dict[str, Group]:
        return {id_: group for id_, group in made.items() if (SecurityGroup.KIND, id_) not in refused}

    return memo.get("groups left", (made, refused), left)


_SIDES: Mapping[Direction, Mapping[str, Side]] = {
    direction: {ETHERTYPES[family]: (direction, family) for family in FAMILIES} for direction in ("ingress", "egress")
}


def _make_group(definition: Object, before: Group | None) -> Group:
    assert isinstance(definition, SecurityGroup)
    rules: defaultdict[Side, list[SecurityGroupRule]] = defaultdict(list)
    open_egress: set[Family] = set()
    remotes: dict[Side, dict[str, None]] = {}
    for rule in definition.rules:
        side = _SIDES[rule.direction][rule.ethertype]
        rules[side].append(rule)
        if rule.remote_group_id is not None:
            remotes.setdefault(side, {})[rule.remote_group_id] = None
        elif rule.direction == "egress" and _is_open(rule):
            open_egress.add(side[1])
    named = {side: tuple(ids) for side, ids in remotes.items()}
    judge = Judge(definition.id, bool(definition.stateful), frozenset(rules), frozenset(open_egress))
    if before is not None and before.judge == judge:
        judge = before.judge  # the same object: its members' chains stay as they are
    return Group(judge, named, {side: tuple(its) for side, its in rules.items()}, definition.rules)


def _is_open(rule: SecurityGroupRule) -> bool:
    """Whether a rule without a remote group allows everything."""
    return protocols.number(rule.protocol, rule.family) is None and (rule.remote_ip_prefix or "/0").endswith("/0")


def who_names(groups: Mapping[str, Group], memo: Memo) -> Mapping[str, Collection[str]]:
    """By group the groups whose rules name it."""
    return memo.index("naming groups", groups, lambda _, group: _remotes(group))


def _remotes(group: Group) -> Iterable[str]:
    return {remote: None for remotes in group.remotes.values() for remote in remotes}


def missing_groups(
    groups: Mapping[str, Group], described: frozenset[str], naming: Mapping[str, Collection[str]], memo: Memo
) -> Mapping[Key, tuple[Problem, ...]]:
    """What the groups lack whose rules name groups that are not described.

    :param naming: as ``who_names`` tells.
    """

    def lacks(_id: str, group: Group, _last: tuple[Problem, ...] | None) -> tuple[Problem, ...]:
        return tuple(_missing_remotes(group, described))

    def missing(_id: str, group: Group) -> tuple[object, ...]:
        return tuple(id_ for id_ in _remotes(group) if id_ not in described)

    def concerned(before: tuple[Any, ...]) -> Iterable[str]:
        return (id_ for remote in before[0] ^ described for id_ in naming.get(remote, ()))

    lacking = memo.each("lacking", groups, (described,), lacks, missing, concerned)
    return memo.get(
        "missing",
        (lacking,),
        lambda: {(SecurityGroup.KIND, id_): problems for id_, problems in lacking.items() if problems},
    )


def _missing_remotes(group: Group, described: frozenset[str]) -> Iterable[Problem]:
    return [
        ("pending", f"rule {rule.id} waits for security group {rule.remote_group_id}")
        for rule in group.described
        if rule.remote_group_id is not None and rule.remote_group_id not in described
    ]
