"""The kernel does what every backend of frames does."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nova_netagent.backend.frames import KernelFrames
from nova_netagent.backend.nft import Batch
from tests.lab import Namespace, needs
from tests.unit.frames.contract import FramesContract

pytestmark = needs("nftables", "program:nft")

TABLE = "bridge nova-netagent"
FIRST_RULE = "iifname . ether saddr != @macs counter drop"
COMMANDS = {
    "table deleted": f"delete table {TABLE}",
    "ruleset flushed": "flush ruleset",
    "table asleep": f"add table {TABLE} {{ flags dormant; }}",
    "rule deleted": f"delete rule {TABLE} from-vif handle {{handle}}",
    "rule added": f"insert rule {TABLE} from-vif accept",
    "rule replaced": f"replace rule {TABLE} from-vif handle {{handle}} iifname . ether saddr @macs counter drop",
    "rules swapped": f"delete rule {TABLE} from-vif handle {{handle}}; add rule {TABLE} from-vif {FIRST_RULE}",
    "chain flushed": f"flush chain {TABLE} from-vif",
    "chain added": f"add chain {TABLE} strange; add rule {TABLE} to-vif jump strange",
    "policy changed": f"chain {TABLE} prerouting {{ policy drop; }}",
    "chain hooked in elsewhere": f"delete chain {TABLE} prerouting;"
    f" add chain {TABLE} prerouting {{ type filter hook prerouting priority 0; }};"
    f" add rule {TABLE} prerouting iifname @ports goto from-port",
    "set of another kind": f"flush chain {TABLE} dhcp; delete set {TABLE} uplinks;"
    f" add set {TABLE} uplinks {{ type mark; }}",
    "set added": f"add set {TABLE} strange {{ type ifname; }}; add rule {TABLE} to-vif iifname @strange drop",
    "set flushed": f"flush set {TABLE} macs",
    "element deleted": f'delete element {TABLE} macs {{ "tap1" . fa:16:3e:00:00:01 }}',
    "element added": f'add element {TABLE} closed {{ "x" }}',
    "element of a range added": f'add element {TABLE} arp-prefixes {{ "x" . fa:16:3e:00:00:01 . 10.0.0.0/8 }}',
    "value changed": f'delete element {TABLE} gateways {{ "tap1" }};'
    f' add element {TABLE} gateways {{ "tap1" : 02:00:00:00:00:99 }}',
}


class Inside:
    """A backend whose every call is made in a namespace."""

    def __init__(self, namespace: Namespace, frames: KernelFrames) -> None:
        self._namespace, self._frames = namespace, frames

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._frames, name)
        return lambda *args, **kwargs: self._namespace.call(method, *args, **kwargs)


class KernelWorld:
    """A namespace's nf_tables, and what nft(8) does to them."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.kernel = KernelFrames("nova-netagent")
        self.frames: Any = Inside(namespace, self.kernel)

    def nft(self, *commands: str) -> str:
        return self.namespace.run(["nft", *commands]).stdout

    def drift(self, what: str) -> None:
        listed = self.nft("-a", "list", "chain", *TABLE.split(), "from-vif")
        handle = re.findall(r"# handle (\d+)", listed)[1]
        self.nft(COMMANDS[what].format(handle=handle) if "{handle}" in COMMANDS[what] else _plain(COMMANDS[what]))

    def touch(self) -> None:
        self.nft("add table ip foreign; add counter ip foreign c; delete table ip foreign")

    def generation(self) -> int:
        return self.namespace.call(lambda: self.kernel._kernel.generation())

    @contextmanager
    def somebody_is_faster(self) -> Iterator[None]:
        netlink = self.kernel._kernel
        commit = netlink.commit

        def too_late(batch: Batch, *, generation: int | None = None) -> None:
            self.touch()
            commit(batch, generation=generation)

        netlink.commit = too_late  # type: ignore[method-assign]
        yield
        netlink.commit = commit  # type: ignore[method-assign]


def _plain(command: str) -> str:
    return command.replace("{{", "{").replace("}}", "}")


@pytest.fixture
def world(new_namespace: Callable[[str], Namespace]) -> Iterator[KernelWorld]:
    made = KernelWorld(new_namespace("frames"))
    yield made
    made.kernel.close()


class TestKernelFrames(FramesContract):
    """All of it."""
