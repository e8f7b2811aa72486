"""The compiler: desired state and settings in, rules and links out. Pure, ordered once, memoised."""

from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from nova_netagent.compile import (
    fixed_range,
    floating_ip,
    instance,
    links,
    metadata,
    network,
    security_group,
    skeleton,
)
from nova_netagent.compile.links import Links
from nova_netagent.compile.memo import Memo
from nova_netagent.compile.parts import Placed, Scope, names_of
from nova_netagent.compile.resolve import Problem, resolve
from nova_netagent.model import DesiredState, Key
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import FAMILIES, Chain, Family, IpSet, Ruleset, Table, TableId
from nova_netagent.settings import Settings


class Compiled(Struct, frozen=True):
    """What a state asks of the kernel, and what of it cannot be."""

    ruleset: Ruleset
    links: Links
    problems: Mapping[Key, tuple[Problem, ...]]
    """For each object that is not simply done, what is wrong."""


class Compiler:
    """Compiles one state after another, remembering what did not change.

    :param families: the address families whose tables the kernel has and the operator wants.
    """

    def __init__(self, settings: Settings, families: Iterable[Family] = FAMILIES) -> None:
        self._settings = settings
        self.families = tuple(families)
        self._memo = Memo()

    def compile(self, state: DesiredState, refused: Mapping[Key, str] | None = None) -> Compiled:
        """Compile a state.

        :param refused: objects that the kernel refused, with its reason: they pass nothing.
        """
        memo = self._memo
        resolved = resolve(state, self._settings, refused or {}, memo)
        scope = Scope(
            resolved=resolved,
            settings=self._settings,
            owner=Owner(self._settings.firewall.wrap_name),
            names=names_of(resolved),
            families=self.families,
        )
        placed = Placed()
        skeleton.place(scope, placed)
        metadata.place(scope, placed)
        fixed_range.place(scope, placed)
        network.place(scope, placed)
        security_group.place_provider(scope, placed)
        used = instance.place(scope, memo, placed)
        sets = security_group.place(scope, memo, placed, used)
        floating_ip.place(scope, placed)
        compiled = Compiled(
            ruleset=_gather(scope, memo, placed, sets),
            links=links.links_of(scope),
            problems=resolved.problems,
        )
        memo.forget_unused()
        return compiled


def _gather(scope: Scope, memo: Memo, placed: Placed, sets: Mapping[str, IpSet]) -> Ruleset:
    tables = {}
    for family in scope.families:
        for name in skeleton.TABLES:
            id_ = TableId(family, name)
            chains = dict(placed.chains.get(id_, {}))
            for chain, rules in placed.rules[id_].items():
                chains[chain] = memo.intern((id_, chain), Chain(chain, tuple(rules)))
            tables[id_] = Table(id_, chains, skeleton.hooks(name, scope.owner))
    return Ruleset(tables, sets)


Status = Literal["done", "pending", "error"]


def empty_ruleset(settings: Settings, families: Iterable[Family] = FAMILIES) -> Ruleset:
    """The skeleton alone: what ``cleanup`` takes out again."""
    return Compiler(settings, families).compile(DesiredState()).ruleset
