"""The part of an agent that has rules, in the process and namespace of whoever makes it."""

from dataclasses import replace
from typing import Any, Literal

from nova_netagent import wiring
from nova_netagent.compile import Compiler
from nova_netagent.metrics import Metrics
from nova_netagent.model import DesiredState
from nova_netagent.reconcile import Reconciler
from nova_netagent.settings import FirewallSettings, MetadataSettings, NetworkSettings, Settings


def settings(folder: str, backend: Literal["iptables", "nftables"], **firewall: Any) -> Settings:
    """Those of a host whose links are somebody else's.

    :param folder: where its state is.
    :param firewall: more of ``FirewallSettings``.
    """
    return Settings(
        firewall=FirewallSettings(backend=backend, **firewall),
        state_path=folder,
        network=NetworkSettings(("10.0.0.0/8",), "192.0.2.10", "eth0", manage_links=False),
        metadata=MetadataSettings("192.0.2.10"),
    )


class RulesOnly:
    """Compiler, store and packet filter; no frames, and by its settings no links."""

    def __init__(self, settings: Settings) -> None:
        self._store = wiring.open_store(settings)
        self._host = replace(wiring.open_host(settings, Metrics()), frames=None)
        self._host.rules.tables()  # what the kernel can do is asked at a start, and not by a change
        self._compiler = Compiler(settings)
        self._reconciler = Reconciler(settings.firewall, self._host, self._store, Metrics())

    def apply(self, state: DesiredState, *, verify: bool = False) -> None:
        """From the model in memory to rules in the kernel."""
        self._reconciler.apply(self._compiler.compile(state), verify=verify)

    def plan(self, state: DesiredState) -> list[str]:
        """What ``apply`` with ``verify`` would do, a line each."""
        return self._reconciler.plan(self._compiler.compile(state))

    def close(self) -> None:
        """As an agent that ends: the rules stay."""
        self._host.close()
        self._store.close()
