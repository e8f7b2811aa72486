"""What a program needs to work on this host, put together from its settings."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from nova_netagent.backend import Backend, BackendError, Unavailable, worlds
from nova_netagent.backend.conntrack import Conntrack
from nova_netagent.backend.frames.protocol import FramesBackend
from nova_netagent.backend.links.protocol import LinksBackend
from nova_netagent.backend.nft.commits import Commits
from nova_netagent.backend.nft.netlink import lacks_nf_tables
from nova_netagent.backend.nft.others import OtherTable, other_tables
from nova_netagent.compile.dhcp import directory
from nova_netagent.engine import Engine
from nova_netagent.former import NotedNames
from nova_netagent.host import Host, Others
from nova_netagent.metrics import Metrics
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import FAMILIES
from nova_netagent.reconcile.former import FormerRules
from nova_netagent.services import DnsmasqServers
from nova_netagent.settings import FirewallSettings, Settings
from nova_netagent.store import Store

if TYPE_CHECKING:
    from nova_netagent.backend.iptables import IptablesBackend
    from nova_netagent.backend.nftables import NftablesBackend

UNJUDGED = "frames are not judged, so that instances can lie in ARP and by VLAN tags, and strangers' ports are heard"

LOG = logging.getLogger(__name__)


def open_store(settings: Settings) -> Store:
    """The durable state in ``state_path``."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Store(Path(settings.state_path) / "state.db", boot)


def _choose_backend(settings: Settings) -> tuple[str, str]:
    """Which packet filter it shall be, and why.

    :raises Undecided: it is left to us, and cannot be known.
    """
    owner, configured = Owner(settings.firewall.wrap_name), settings.firewall.backend
    if configured != "auto":
        return str(configured), "so it is configured"
    try:
        found = worlds.look_at_iptables(owner), worlds.look_at_nftables(owner)
    except (OSError, BackendError) as error:
        raise worlds.Undecided(f"[firewall] backend = auto: cannot see what this host has: {error}") from error
    return worlds.choose(*found)


def _in_the_way(chosen: str, owner: Owner, closed: Callable[[], Sequence[str]]) -> Sequence[str]:
    """See ``Host.in_the_way``.

    :param closed: sees which base chains of others in nf_tables drop what they do not decide.
    :raises Unavailable: it cannot be seen.
    """
    try:
        if chosen == "iptables":
            return list(worlds.warnings(chosen, worlds.look_at_nftables(owner)))
        return list(worlds.warnings(chosen, worlds.look_at_iptables(owner), closed()))
    except (OSError, BackendError) as error:
        raise Unavailable(f"cannot see whether rules of others are in the way: {error}") from error


def _open_backend(
    name: str, firewall: FirewallSettings, commits: Commits | None = None
) -> "IptablesBackend | NftablesBackend":
    owns_set = Owner(firewall.wrap_name).owns_set
    if name == "nftables":
        from nova_netagent.backend.nftables import NftablesBackend

        return NftablesBackend(firewall.wrap_name, owns_set, commits)
    from nova_netagent.backend.iptables import IptablesBackend

    return IptablesBackend(lock_timeout=firewall.lock_timeout, owns_set=owns_set)


@contextmanager
def _open_leftovers(name: str, firewall: FirewallSettings, seconds: float) -> Iterator[Backend[Any] | None]:
    """See ``Leftovers``: looks into the packet filter of that name.

    :raises Unavailable: it cannot be seen.
    """
    look = {"iptables": worlds.ours_in_iptables, "nftables": worlds.ours_in_nftables}[name]
    try:
        found = look(Owner(firewall.wrap_name))
    except (OSError, BackendError) as error:
        raise Unavailable(f"cannot see whether rules of ours are left in {name}: {error}") from error
    if not found:
        yield None
        return
    with closing(_open_backend(name, replace(firewall, lock_timeout=seconds))) as backend:
        yield backend


def open_links(settings: Settings, on_change: Callable[[], None] | None = None) -> LinksBackend:
    """The host's links; called in the thread that will use them."""
    from nova_netagent.backend.links import KernelLinks

    announcements = settings.network.send_arp_for_ha_count if settings.network.send_arp_for_ha else 0
    return KernelLinks(settings.host, announcements, on_change)


def open_frames(settings: Settings, commits: Commits | None = None) -> tuple[FramesBackend | None, tuple[str, ...]]:
    """What judges frames below IP, or a warning where the kernel cannot; called in the thread that will use it."""
    from nova_netagent.backend.frames import KernelFrames

    frames = KernelFrames(settings.firewall.wrap_name, commits)
    reason = frames.supported()
    if reason is None:
        return frames, ()
    frames.close()
    return None, (f"{UNJUDGED}: {reason}",)


class _OthersRules:
    """Reads what judges packets beside the tables that our own rules are in."""

    def __init__(self, chosen: str, owner: Owner) -> None:
        self._chosen = chosen
        self._is_ours = worlds.is_ours(owner)
        self._legacy: Backend[Any] | None = None

    def __call__(self) -> Others:
        if self._chosen == "nftables" and self._legacy is None:
            from nova_netagent.backend.iptables import IptablesBackend  # imports libiptc

            self._legacy = IptablesBackend(lock_timeout=0.0, owns_set=lambda name: False)
        return Others(self._tables(), self._legacy)

    def close(self) -> None:
        """Close what the legacy tables were read by."""
        if self._legacy is not None:
            self._legacy.close()
            self._legacy = None

    def _tables(self) -> Sequence[OtherTable]:
        has = worlds.has_nf_tables()
        try:
            return () if has is False else other_tables(self._is_ours)
        except Unavailable as error:
            if has or not lacks_nf_tables(error):
                raise
            return ()


def open_host(settings: Settings, metrics: Metrics, on_change: Callable[[], None] | None = None) -> Host:
    """Everything of the host that is ours to edit; called in the thread that will use it.

    :param on_change: called from other threads when links changed or a server ended.
    """
    events = metrics.dnsmasq_events_total
    chosen, why = _choose_backend(settings)
    owner = Owner(settings.firewall.wrap_name)
    commits = Commits()
    rules = _open_backend(chosen, settings.firewall, commits)
    ipv4 = FAMILIES[:1]  # whether the kernel has IPv6's tables is not known yet
    LOG.info("the packet filter is %s: %s; see our rules with %s", chosen, why, rules.see_with(ipv4))
    frames, warnings = open_frames(settings, commits)
    return Host(
        rules=rules,
        leftovers=partial(_open_leftovers, "iptables" if chosen == "nftables" else "nftables", settings.firewall),
        former=FormerRules(
            settings.firewall,
            NotedNames(settings.state_path),
            rules,
            lambda firewall: [partial(_open_leftovers, each, firewall) for each in ("iptables", "nftables")],
            lambda firewall: open_frames(replace(settings, firewall=firewall))[0],
            metrics,
        ),
        links=open_links(settings, on_change),
        frames=frames,
        others=_OthersRules(chosen, owner),
        can_trace=frames is not None or worlds.has_nf_tables() is not False,
        servers=DnsmasqServers(Path(directory(settings.state_path)), on_change, lambda what: events.labels(what).inc()),
        flows=Conntrack(),
        warnings=warnings,
        in_the_way=partial(_in_the_way, chosen, owner, worlds.ClosedInNftables(owner)),
    )


def make_engine(
    settings: Settings,
    metrics: Metrics,
    on_progress: Callable[[], None] = lambda: None,
    coming: Callable[[], bool] = lambda: False,
    *,
    awaits_my_ip: bool = False,
) -> Engine:
    """An engine on this host's kernel, not running yet."""
    engine = Engine(
        settings,
        open_store=lambda: open_store(settings),
        open_host=lambda: open_host(settings, metrics, engine.wake),
        metrics=metrics,
        on_progress=on_progress,
        coming=coming,
        awaits_my_ip=awaits_my_ip,
    )
    return engine
