"""A state with its references resolved."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Literal

from msgspec import Struct

from nova_netagent.compile.uplinks import Uplink
from nova_netagent.model import FloatingIP, Key, Network, ProviderRule, SecurityGroupRule, Vif
from nova_netagent.netfilter.rule import Family

Problem = tuple[Literal["pending", "error"], str]
Direction = Literal["ingress", "egress"]
Side = tuple[Direction, Family]


class Judge(Struct, frozen=True, gc=False):
    """What a vif must know of one of its groups: the same value as long as its rules are about the same."""

    id: str
    stateful: bool
    sides: frozenset[Side]
    """The directions and families in which it has rules."""
    open_egress: frozenset[Family]
    """The families in which a rule allows everything out."""

    @property
    def restricts_egress(self) -> bool:
        """Whether it has a say in what its members may send."""
        return ("egress", 4) in self.sides or ("egress", 6) in self.sides


_is_stateful = attrgetter("stateful")


class Group(Struct, frozen=True, gc=False):
    """The rules of a security group, and what they are about: looked up once for thousands of members."""

    judge: Judge
    remotes: Mapping[Side, tuple[str, ...]]
    """The groups that its rules name, by side."""
    rules: Mapping[Side, tuple[SecurityGroupRule, ...]]
    """Its rules by side."""
    described: tuple[SecurityGroupRule, ...]
    """All of them, in the order in which they were described."""


class Port(Struct, frozen=True, gc=False):
    """A vif and what it may be: its network, its addresses, who judges it."""

    vif: Vif
    instance_id: str
    network: Network | None
    """``None``: the vif passes nothing."""
    holds_device: bool
    """Whether the tap of that name is this vif's and not an older one's."""
    addresses: tuple[str, ...]
    """The fixed IPs that are valid and its own."""
    groups: tuple[Judge, ...]
    missing_group: bool
    problems: tuple[Problem, ...]

    @property
    def stateful(self) -> bool:
        """Judged flow by flow: unless every group of a vif that has some is stateless."""
        return not self.groups or any(map(_is_stateful, self.groups))


class Resolved(Struct, frozen=True, gc=False):
    """The state with its references resolved."""

    networks: Mapping[str, Network]
    ports: Mapping[str, tuple[Port, ...]]
    """By instance, in the order of the instance's vifs."""
    groups: Mapping[str, Group]
    """The same object as long as no rule is another, whoever is a member."""
    known_groups: frozenset[str]
    """Their ids: the same object as long as they are the same."""
    floating_ips: tuple[FloatingIP, ...]
    provider_rules: tuple[ProviderRule, ...]
    problems: Mapping[Key, tuple[Problem, ...]]
    """For each object that is not simply done."""
    uplinks: Mapping[str, Uplink]
    """By device, the links that are ports of the networks' bridges; none where links are somebody else's."""
