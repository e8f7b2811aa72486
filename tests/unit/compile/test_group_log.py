"""[security_group_log]: rules that tell, and that change no verdict."""

from typing import Any, Literal

import pytest

from nova_netagent.netfilter.rule import Log
from nova_netagent.settings import SecurityGroupLogSettings
from nova_netagent.testing import group_id, make_group, make_instance, make_network, make_rule
from tests.unit.compile.world import OUTSIDE, World, make_settings, vm

GROUPS = (
    make_group(1, make_rule(1, protocol="tcp"), make_rule(2, direction="egress", protocol="udp")),
    make_group(2, make_rule(3, protocol="icmp"), make_rule(4, direction="egress", protocol="icmp")),
)


def world(*groups: str, verdicts: Literal["accept", "drop", "all"] = "all") -> World:
    log = SecurityGroupLogSettings(groups=groups, verdicts=verdicts)
    settings = make_settings(allow_same_net_traffic=False, egress_default="deny", security_group_log=log)
    return World(make_network(1), *GROUPS, make_instance(1, (1,)), make_instance(2, (2,)), settings=settings)


def told(found: World) -> set[tuple[str, str]]:
    """Each rule that tells: its chain, and what it tells it as but for whose it is."""
    return {
        (name.removeprefix("nova-netagent-"), rule.target.prefix.rpartition(" ")[0])
        for table in found.compiled.ruleset.tables.values()
        for name, chain in table.chains.items()
        for rule in chain.rules
        if isinstance(rule.target, Log)
    }


def kinds(found: World) -> set[tuple[str, str]]:
    return {(name.partition("-")[0], what) for name, what in told(found)}


def test_off_there_is_nothing_of_it() -> None:
    plain = World(
        make_network(1),
        *GROUPS,
        make_instance(1, (1,)),
        make_instance(2, (2,)),
        settings=make_settings(allow_same_net_traffic=False, egress_default="deny"),
    )
    assert told(world()) == set()
    assert world().compiled.ruleset == plain.compiled.ruleset
    assert world("another").compiled.ruleset == plain.compiled.ruleset


ACCEPTED = {("lgi", "accept ingress"), ("lge", "accept egress")}
DROPPED = {("inst", "drop ingress"), ("out", "drop egress")}


@pytest.mark.parametrize(
    ("verdicts", "expected"), [("accept", ACCEPTED), ("drop", DROPPED), ("all", ACCEPTED | DROPPED)]
)
def test_what_is_told(verdicts: Literal["accept", "drop", "all"], expected: set[tuple[str, str]]) -> None:
    assert kinds(world("all", verdicts=verdicts)) == expected


def test_a_group_that_is_not_named_costs_its_members_nothing() -> None:
    one, everybody = told(world(group_id(1))), told(world("all"))
    assert len(everybody) == 2 * len(one)
    quiet, plain = _chains(world(group_id(1))), _chains(world())
    assert quiet
    assert quiet == plain


def _chains(found: World) -> list[Any]:
    """The chains of the second instance and its group."""
    return [
        (str(id_), name, chain.rules)
        for id_, table in found.compiled.ruleset.tables.items()
        for name, chain in table.chains.items()
        if name.endswith("0000002")
    ]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("packet", [{"protocol": 6, "port": 80}, {"protocol": 17, "port": 53}])
def test_it_changes_no_verdict(family: Any, packet: dict[str, Any]) -> None:
    for ends in ((OUTSIDE, vm(1)), (vm(1), OUTSIDE), (vm(1), vm(2)), (vm(2), OUTSIDE)):
        verdicts = {each.passes(*ends, family=family, **packet) for each in (world(), world("all"))}
        assert len(verdicts) == 1, (ends, packet)
