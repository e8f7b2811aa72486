"""DHCP servers: actual against desired gives a plan. Pure.

A dnsmasq is restarted when its command line is to be another, and only told to read its files
again (SIGHUP) when nothing but these changed.
"""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from nova_netagent.compile.dhcp import DhcpService
from nova_netagent.plan.links import ActualLinks


class ActualService(Struct, frozen=True):
    """The dnsmasq of a bridge: the one that runs, or that is on its way."""

    arguments: tuple[str, ...] | None
    """Its command line as in ``DhcpService``; ``None``: none runs, there are only files."""
    hosts: str | None
    """What it has read, or will read before it answers; ``None``: not known."""
    dns_hosts: str | None


class Edit(Struct, frozen=True):
    """What is done about a service, and why."""

    service: DhcpService
    why: str


class Reload(Struct, frozen=True):
    """A service whose files changed."""

    service: DhcpService
    before: ActualService

    @property
    def why(self) -> str:
        """What changed, counted when somebody asks: that takes longer than to plan it."""
        if self.before.hosts is None or self.before.dns_hosts is None:
            return "it is not known what it has read"
        old = {*self.before.hosts.splitlines(), *self.before.dns_hosts.splitlines()}
        new = {*self.service.hosts.splitlines(), *self.service.dns_hosts.splitlines()}
        return f"{len(new - old)} lines come, {len(old - new)} go"


class DhcpPlan(Struct, frozen=True):
    """The edits of DHCP servers.

    To be applied also when there is none: ``keep`` tells a server that was found running,
    or waits to be started again, what it is for.
    """

    start: tuple[Edit, ...] = ()
    restart: tuple[Edit, ...] = ()
    reload: tuple[Reload, ...] = ()
    keep: tuple[DhcpService, ...] = ()
    wait: Mapping[str, Edit] = {}
    """By bridge, what cannot be served yet; one that runs is stopped, its files stay."""
    remove: tuple[str, ...] = ()
    """Bridges that nobody serves any more: process and files go."""
    stop: tuple[str, ...] = ()
    """Bridges whose process ends and whose files stay."""

    def __bool__(self) -> bool:
        return bool(self.start or self.restart or self.reload or self.remove or self.stop)

    def lines(self) -> Iterator[str]:
        """The plan for people, an edit a line."""
        yield from (f"dhcp: - {bridge}" for bridge in self.remove)
        yield from (f"dhcp: stop {bridge}: {self.wait[bridge].why}" for bridge in self.stop)
        yield from (f"dhcp: + {edit.service.bridge}" for edit in self.start)
        yield from (f"dhcp: restart {edit.service.bridge}: {edit.why}" for edit in self.restart)
        yield from (f"dhcp: reload {edit.service.bridge}: {edit.why}" for edit in self.reload)


def plan_dhcp(desired: Mapping[str, DhcpService], actual: Mapping[str, ActualService], links: ActualLinks) -> DhcpPlan:
    """The edits that make the DHCP servers as desired.

    :param desired: by bridge, as ``compile.dhcp.services`` gives it.
    :param links: the host's links and addresses after those that are desired were made.
    """
    start, restart, reload, keep, stop = [], [], [], [], []
    wait: dict[str, Edit] = {}
    for bridge, service in sorted(desired.items()):
        found = actual.get(bridge)
        running = found is not None and found.arguments is not None
        missing = _missing(service, links)
        if missing and (bridge not in links.links or not running):
            wait[bridge] = Edit(service, missing)
            if running:
                stop.append(bridge)
        elif found is None or found.arguments is None:
            start.append(Edit(service, "it does not run"))
        elif found.arguments != service.arguments:
            restart.append(Edit(service, _difference(found.arguments, service.arguments)))
        elif (found.hosts, found.dns_hosts) != (service.hosts, service.dns_hosts):
            reload.append(Reload(service, found))
        else:
            keep.append(service)
    return DhcpPlan(
        start=tuple(start),
        restart=tuple(restart),
        reload=tuple(reload),
        keep=tuple(keep),
        wait=wait,
        remove=tuple(sorted(bridge for bridge in actual if bridge not in desired)),
        stop=tuple(stop),
    )


def _missing(service: DhcpService, links: ActualLinks) -> str:
    """What a dnsmasq needs to be started and does not find: it binds itself to a bridge that has an address."""
    if service.bridge not in links.links:
        return f"waits for bridge {service.bridge}"
    there = {cidr.partition("/")[0] for device, cidr in links.addresses if device == service.bridge}
    if there.isdisjoint(service.addresses):
        return f"waits for {' or '.join(service.addresses)} on {service.bridge}"
    return ""


def _difference(old: tuple[str, ...], new: tuple[str, ...]) -> str:
    """The first words by which two command lines differ."""
    gone = [f"-{word}" for word in old if word not in new]
    come = [f"+{word}" for word in new if word not in old]
    words = [*gone, *come]
    return " ".join(words[:6]) + (f" and {len(words) - 6} more" if len(words) > 6 else "") or "another order"
