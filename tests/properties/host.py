"""A host under test: the real engine, driven by hand, on the strict fakes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from nova_netagent.backend.conntrack_fake import FakeConntrack
from nova_netagent.backend.fake import FakeBackend
from nova_netagent.backend.frames_fake import FakeFrames
from nova_netagent.backend.links.fake import FakeLinks
from nova_netagent.backend.links.protocol import LinksBackend
from nova_netagent.engine import Answer, Change, Engine
from nova_netagent.events import Delete, Event, Put, Replace
from nova_netagent.host import Host as Adapters
from nova_netagent.metrics import Metrics
from nova_netagent.model import Object, State
from nova_netagent.netfilter.owner import Owner
from nova_netagent.services.fake import FakeDhcpServers, FakeSystem
from nova_netagent.settings import MetadataSettings, NetworkSettings, Settings
from nova_netagent.store import Store

SETTINGS = Settings(
    my_ip="192.0.2.10",
    network=NetworkSettings(
        fixed_range=("10.0.0.0/8",), routing_source_ip="192.0.2.10", public_interface="eth0", send_arp_for_ha=False
    ),
    metadata=MetadataSettings(metadata_host="192.0.2.10"),
)


OWN_ADDRESSES = {("eth1", "203.0.113.7/24")}
OWN_ROUTES = {("eth1", "route:default")}


class Host:
    """A host with eth0 to eth2, of which eth1 holds something, and taps; ``restart`` keeps the disk and the kernel."""

    def __init__(
        self,
        folder: Path,
        settings: Settings = SETTINGS,
        backend: FakeBackend | None = None,
        open_links: Callable[[], LinksBackend] | None = None,
    ) -> None:
        self.folder = folder
        self.settings = settings
        owner = Owner(settings.firewall.wrap_name)
        self.backend = backend or FakeBackend(owns_set=owner.owns_set)
        self.links = FakeLinks()
        self.leftovers: FakeBackend | None = None
        self.frames = FakeFrames(settings.firewall.wrap_name)
        self.system = FakeSystem()
        self.flows = FakeConntrack()
        for name in ("eth0", "eth1", "eth2"):
            self.links.add_link(name)
        self.links.addresses |= OWN_ADDRESSES
        self.links.routes |= OWN_ROUTES
        self.open_links = open_links or (lambda: self.links)
        self.clock = 1_000_000.0
        self.start()

    def start(self) -> None:
        self.metrics = Metrics()
        self.progress = 0
        self.engine = Engine(
            self.settings,
            open_store=lambda: Store(self.folder / "state.db"),
            open_host=self._adapters,
            metrics=self.metrics,
            on_progress=self._progressed,
            clock=lambda: self.clock,
        )
        self.engine.start()

    def _progressed(self) -> None:
        """Count how often whoever waits for the start or the end is told."""
        self.progress += 1

    def _adapters(self) -> Adapters:
        servers = FakeDhcpServers(self.system, clock=partial(next, count(0, 0.3)))
        return Adapters(self.backend, self.open_links(), self.frames, servers, self.flows, self.open_leftovers)

    @contextmanager
    def open_leftovers(self, seconds: float) -> Iterator[FakeBackend | None]:
        """The packet filter that was ours before, however long its lock would be waited for."""
        yield self.leftovers

    def restart(self) -> None:
        self.engine.close()
        self.start()

    def send(self, *events: Event) -> list[Answer]:
        """Serve events as one batch; raises the first failure."""
        changes = [Change(event) for event in events]
        self.engine.serve(changes)
        return [change.answer.result(timeout=0) for change in changes]

    def put(self, *objects: Object) -> list[Answer]:
        return self.send(*(Put(each) for each in objects))

    def delete(self, *objects: Object) -> list[Answer]:
        return self.send(*(Delete(each.KIND, each.id) for each in objects))

    def replace(self, state: State) -> Answer:
        (answer,) = self.send(Replace(state))
        return answer

    def kernel(self) -> dict[str, Any]:
        """Everything of ours, and everybody else's, in the kernel; and what the servers have read."""
        assert self.engine.host.servers.settle(60)
        return {
            "chains": {table: dict(chains) for table, chains in self.backend.chains.items()},
            "sets": {name: each.members for name, each in self.backend.sets.items()},
            "ports": {name: link.master for name, link in self.links.links.items()},
            "addresses": set(self.links.addresses),
            "routes": set(self.links.routes),
            "frames": self.frames.read(),
            "servers": {bridge: (each.arguments, each.hosts) for bridge, each in self.system.processes.items()},
        }
