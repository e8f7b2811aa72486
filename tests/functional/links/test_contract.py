"""The kernel does what every backend of links does."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nova_netagent.backend.links import KernelLinks, holdings
from nova_netagent.plan.links import ActualLinks
from tests.lab import Namespace, features, needs, veth
from tests.unit.links.contract import LinksContract

pytestmark = needs("bridge", "ipv6", "program:ip")


class Inside:
    """A backend whose every call is made in a namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._links = namespace.call(KernelLinks, announcements=0)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._links, name)
        return lambda *args, **kwargs: self._namespace.call(method, *args, **kwargs)

    def read_sysctls(self, names: Any) -> Any:
        """The names are told in the engine's thread, as a generator's are that reads links."""
        return self._namespace.call(self._links.read_sysctls, list(names))


class KernelWorld:
    """A namespace's links, and what ip(8) does to them."""

    def __init__(self, namespace: Namespace, behind: Namespace) -> None:
        self._namespace = namespace
        self._image: Any = None
        for name in ("eth0", "eth1", "eth2"):
            veth(namespace, name, behind, name)
        self._reader = Inside(namespace)

    def close(self) -> None:
        self._reader.close()

    def open(self) -> Any:
        return Inside(self._namespace)

    def read(self) -> ActualLinks:
        found: ActualLinks = self._reader.read()
        return found

    def sysctl(self, name: str) -> str:
        return self._namespace.sysctl(name)

    def set_sysctl(self, name: str, value: str) -> None:
        self._namespace.sysctl(name, value)

    def add_bridge(self, name: str) -> None:
        self._ip(f"link add {name} type bridge")
        self._ip(f"link set {name} up")

    def add_vlan(self, name: str, interface: str, number: int) -> None:
        self._ip(f"link add link {interface} name {name} type vlan id {number}")
        self._ip(f"link set {name} up")

    def delete(self, name: str) -> None:
        self._ip(f"link del {name}")

    def set_master(self, name: str, master: str | None) -> None:
        self._ip(f"link set {name} {'nomaster' if master is None else f'master {master}'}")

    def set_down(self, name: str) -> None:
        self._ip(f"link set {name} down")

    def rename(self, name: str, new: str) -> None:
        for what in ("down", f"name {new}"):
            self._ip(f"link set {name} {what}")
        self._ip(f"link set {new} up")

    def set_mtu(self, name: str, mtu: int) -> None:
        self._ip(f"link set {name} mtu {mtu}")

    def give(self, name: str, *things: str) -> None:
        for thing in things:
            if _is_route(thing):
                self._ip(f"route add {thing} dev {name}")
            else:
                self._ip(f"addr add {thing} dev {name} {'nodad' if ':' in thing else ''}")

    def take(self, name: str, *things: str) -> None:
        for thing in things:
            self._ip(f"{'route' if _is_route(thing) else 'addr'} del {thing} dev {name}")

    def lose_routes(self, name: str) -> None:
        for family in ("-4", "-6"):
            self._ip(f"{family} route flush dev {name}")

    def answered(self, bridge: str, address: str, mac: str, *, permanent: bool = False) -> None:
        # A carrier that was lost is digested later, and takes the neighbours along; whoever asks for the link has it
        # digested at once (linkwatch_sync_dev, called by rtnl_getlink in net/core/rtnetlink.c).
        self._ip(f"link show {bridge}")
        state = "permanent" if permanent else "reachable" if mac else "failed"
        self._ip(f"neigh add {address} {'lladdr' if mac else ''} {mac} dev {bridge} nud {state}")

    def neighbours(self) -> set[tuple[str, str, str]]:
        """But for those that the ends of the lab's own links find of each other, now or a little later."""
        lines = self._namespace.run(["ip", "neigh", "show"]).stdout.splitlines()
        found = [words for words in map(str.split, lines) if "lladdr" in words]
        return {(words[2], words[0], words[4]) for words in found if not words[0].startswith("fe80:")}

    def held(self, name: str) -> set[str]:
        found = set()
        for family in ("-4", "-6"):
            shown = self._namespace.run(["ip", family, "-o", "addr", "show", "dev", name, "scope", "global"]).stdout
            found |= {line.split()[3] for line in shown.splitlines()}
            shown = self._namespace.run(["ip", family, "route", "show", "dev", name]).stdout
            routes = [line.split(" metric ")[0] for line in shown.splitlines() if "proto kernel" not in line]
            found |= {
                " ".join(word for word in route.split() if word not in ("scope", "link", "linkdown"))
                for route in routes
            }
        return found

    def _ip(self, command: str) -> None:
        self._namespace.run(["ip", *command.split()])


def _is_route(thing: str) -> bool:
    return " via " in thing or thing.endswith(".0/24")


@pytest.fixture
def links() -> Iterator[KernelWorld]:
    with Namespace("host") as host, Namespace("behind") as behind:
        world = KernelWorld(host, behind)
        yield world
        world.close()


@pytest.fixture
def vlans(links: KernelWorld) -> KernelWorld:
    why = features.missing("vlan")
    if why is not None:
        pytest.skip(f"{why}; test_vlans has these tests run on a kernel that has them")
    return links


class TestKernel(LinksContract):
    @contextmanager
    def failing(self, links: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        def move(*_: object) -> None:
            raise holdings.MoveFailed(f"a route cannot be moved: {errno.errorcode[errno.EINVAL]}")

        with monkeypatch.context() as patch:
            patch.setattr(holdings, "move", move)
            yield
