"""What a program needs to work on this host, put together from its settings."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nova_netagent.backend import Backend
from nova_netagent.backend.frames.protocol import FramesBackend
from nova_netagent.backend.links.protocol import LinksBackend
from nova_netagent.compile.dhcp import directory
from nova_netagent.engine import Engine
from nova_netagent.host import Host
from nova_netagent.metrics import Metrics
from nova_netagent.netfilter.owner import Owner
from nova_netagent.services import DnsmasqServers
from nova_netagent.settings import Settings
from nova_netagent.store import Store

LOG = logging.getLogger(__name__)


def open_store(settings: Settings) -> Store:
    """The durable state in ``state_path``."""
    store = Store(Path(settings.state_path) / "state.db")
    store.begin_boot(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    return store


def open_backend(settings: Settings) -> Backend[Any]:
    """The packet filter that is configured; called in the thread that will use it."""
    firewall = settings.firewall
    if firewall.backend == "nftables":
        from nova_netagent.backend.nftables import NftablesBackend

        return NftablesBackend(firewall.wrap_name, Owner(firewall.wrap_name).owns_set)
    from nova_netagent.backend.iptables import IptablesBackend  # imports libiptc: slow, and for one thread

    return IptablesBackend(lock_timeout=firewall.lock_timeout, owns_set=Owner(firewall.wrap_name).owns_set)


def open_links(settings: Settings, on_change: Callable[[], None] | None = None) -> LinksBackend:
    """The host's links; called in the thread that will use them."""
    from nova_netagent.backend.links import KernelLinks

    announcements = settings.network.send_arp_for_ha_count if settings.network.send_arp_for_ha else 0
    return KernelLinks(announcements, on_change)


def open_frames(settings: Settings) -> FramesBackend | None:
    """What judges frames below IP; ``None``, and a warning, where the kernel cannot."""
    from nova_netagent.backend.frames import KernelFrames

    frames = KernelFrames(settings.firewall.wrap_name)
    reason = frames.supported()
    if reason is None:
        return frames
    frames.close()
    LOG.warning("instances can lie in ARP, and ports that are nobody's are heard: %s", reason)
    return None


def open_host(settings: Settings, metrics: Metrics, on_change: Callable[[], None] | None = None) -> Host:
    """Everything of the host that is ours to edit; called in the thread that will use it.

    :param on_change: called from other threads when links changed or a server ended.
    """
    events = metrics.dnsmasq_events_total
    return Host(
        rules=open_backend(settings),
        links=open_links(settings, on_change),
        frames=open_frames(settings),
        servers=DnsmasqServers(Path(directory(settings.state_path)), on_change, lambda what: events.labels(what).inc()),
    )


def make_engine(settings: Settings, metrics: Metrics, on_progress: Callable[[], None] = lambda: None) -> Engine:
    """An engine on this host's kernel, not running yet."""
    engine = Engine(
        settings,
        open_store=lambda: open_store(settings),
        open_host=lambda: open_host(settings, metrics, engine.wake),
        metrics=metrics,
        on_progress=on_progress,
    )
    return engine
