"""From described objects to the services that they ask for."""

from collections.abc import Mapping
from typing import Any

from nova_netagent.compile import dhcp
from nova_netagent.compile.dhcp import DhcpService
from nova_netagent.compile.memo import Memo
from nova_netagent.compile.parts import Scope, names_of
from nova_netagent.compile.resolve import resolve
from nova_netagent.model import DesiredState, Object
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import FAMILIES, Family
from nova_netagent.plan.links import ActualLinks, Link
from nova_netagent.settings import Settings
from tests.unit.compile.world import make_settings, state_of


class Compiling:
    """The part of the compiler that is about DHCP, with its memory."""

    def __init__(self, settings: Settings | None = None, families: tuple[Family, ...] = FAMILIES) -> None:
        self.settings = settings or make_settings(state_path="/state")
        self.families = families
        self._memo = Memo()

    def compile(self, state: DesiredState) -> Mapping[str, DhcpService]:
        """The services of a state."""
        resolved = resolve(state, self.settings, {}, self._memo)
        owner = Owner(self.settings.firewall.wrap_name)
        scope = Scope(resolved, self.settings, owner, names_of(resolved, self._memo), self.families)
        found = dhcp.services(scope, state, self._memo)
        self._memo.forget_unused()
        return found


def services_of(*objects: Object, families: tuple[Family, ...] = FAMILIES, **options: Any) -> Mapping[str, DhcpService]:
    """The services that these objects ask for; options by name, whatever their group."""
    settings = make_settings(**({"state_path": "/state"} | options))
    return Compiling(settings, families).compile(state_of(*objects))


def links_of(*addresses: tuple[str, str]) -> ActualLinks:
    """A host with these addresses, each on a link of that name; one may be empty."""
    names = dict.fromkeys(device for device, _ in addresses)
    links = {name: Link(index, name, "bridge", None, True, 1500, None) for index, name in enumerate(names, 1)}
    return ActualLinks(links, frozenset(each for each in addresses if each[1]))
