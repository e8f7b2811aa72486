"""What an engine leaves behind on a host, told by a process of its own: ``python -m tests.functional.agent.growing``.

As arguments: the packet filter, and how many events there are in each part.
"""

import functools
import gc
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, Literal

from nova_netagent import wiring
from nova_netagent.engine.requests import Change
from nova_netagent.events import Put
from nova_netagent.metrics import Metrics
from nova_netagent.model import Object
from nova_netagent.settings import FirewallSettings, MetadataSettings, NetworkSettings, Settings
from nova_netagent.testing import make_group, make_instance, make_network, make_rule

PARTS = 4


def caches() -> Iterator["functools._lru_cache_wrapper[Any]"]:
    """Everything of ours that remembers what a function answered."""
    for name, module in list(sys.modules.items()):
        if name.startswith("nova_netagent"):
            for each in vars(module).values():
                if isinstance(each, functools._lru_cache_wrapper) and each.__module__ == name:
                    yield each


class Growing:
    """Groups whose rules are ever new, in use by an instance each."""

    _GROUPS = 4

    def __init__(self, backend: Literal["iptables", "nftables"], folder: str) -> None:
        network = NetworkSettings(("10.0.0.0/8",), "192.0.2.1", "eth0", manage_links=False)
        firewall = FirewallSettings(backend=backend)
        settings = Settings(
            firewall=firewall, state_path=folder, network=network, metadata=MetadataSettings("192.0.2.1")
        )
        self._engine = wiring.make_engine(settings, Metrics())
        threading.Thread(target=self._engine.run, daemon=True).start()
        self._events = 0
        self._put(make_network(1))
        for number in range(1, self._GROUPS + 1):
            self._put(make_group(number))
            self._put(make_instance(number, (number,)))

    def some(self, events: int) -> None:
        """So many events, of three rules each that nobody has seen before."""
        for _ in range(events):
            self._events += 1
            rules = [
                make_rule(
                    each,
                    protocol="tcp",
                    port_range_min=1 + self._events,
                    port_range_max=1 + self._events,
                    remote_ip_prefix=f"10.{self._events >> 8}.{self._events & 255}.{each}/32",
                )
                for each in range(3)
            ]
            self._put(make_group(1 + self._events % self._GROUPS, *rules))

    def _put(self, item: Object) -> None:
        request = Change(Put(item))
        self._engine.submit(request)
        request.answer.result(60)


def main(backend: Literal["iptables", "nftables"], events: int) -> None:
    """Print for each part how many objects there are without what is remembered, and how many were in cycles."""
    gc.disable()
    with tempfile.TemporaryDirectory() as folder:
        growing = Growing(backend, folder)
        growing.some(events)  # all that comes once
        gc.collect()
        found = []
        for _ in range(PARTS):
            growing.some(events)
            in_cycles = gc.collect()
            remembered = sum(each.cache_info().currsize for each in caches())
            for each in caches():
                each.cache_clear()
            gc.collect()
            found.append({"objects": len(gc.get_objects()), "in_cycles": in_cycles, "remembered": remembered})
        print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))  # type: ignore[arg-type]
