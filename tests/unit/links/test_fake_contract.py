"""The fake does what every backend of links does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nova_netagent.backend.links.fake import FakeLinks
from nova_netagent.model import AllowedAddressPair
from nova_netagent.plan.links import ActualLinks
from nova_netagent.testing import make_instance, make_network, make_vif
from tests.properties.host import Host
from tests.unit.links.contract import LinksContract


class FakeWorld:
    """The fake, and what others do to it."""

    def __init__(self) -> None:
        self.links = FakeLinks()
        for name in ("eth0", "eth1", "eth2"):
            self.links.add_link(name)

    def open(self) -> FakeLinks:
        return self.links

    def read(self) -> ActualLinks:
        return self.links.read()

    def sysctl(self, name: str) -> str:
        return self.links.sysctls[name]

    def set_sysctl(self, name: str, value: str) -> None:
        self.links.sysctls[name] = value

    def add_bridge(self, name: str) -> None:
        self.links.add_link(name, "bridge")

    def add_vlan(self, name: str, interface: str, number: int) -> None:
        self.links.add_link(name, "vlan")
        self.links.links[name] = replace(self.links.links[name], parent=interface, vlan=number)

    def delete(self, name: str) -> None:
        self.links.remove_link(name)

    def set_master(self, name: str, master: str | None) -> None:
        self.links.set_master(name, master)

    def set_down(self, name: str) -> None:
        """IPv6 addresses and all routes go with it."""
        self.links.links[name] = replace(self.links.links[name], up=False)
        self.links.routes = {each for each in self.links.routes if each[0] != name}
        self.links.addresses = {each for each in self.links.addresses if each[0] != name or ":" not in each[1]}

    def rename(self, name: str, new: str) -> None:
        self.links.rename(name, new)

    def set_mtu(self, name: str, mtu: int) -> None:
        self.links.set_mtu(name, mtu)

    def give(self, name: str, *things: str) -> None:
        self.links._give(name, map(_named, things))

    def take(self, name: str, *things: str) -> None:
        self.links._take(name, map(_named, things))

    def lose_routes(self, name: str) -> None:
        self.links.routes = {each for each in self.links.routes if each[0] != name}
        self.links.unled_addresses |= {each for each in self.links.addresses if each[0] == name}

    def answered(self, bridge: str, address: str, mac: str, *, permanent: bool = False) -> None:
        self.links.neighbours[bridge, address] = mac
        if permanent:
            self.links.written_down.add((bridge, address))

    def neighbours(self) -> set[tuple[str, str, str]]:
        return {(*key, mac) for key, mac in self.links.neighbours.items()}

    def held(self, name: str) -> set[str]:
        return {each.removeprefix("route:").replace("_", " ") for each in self.links._holdings(name)}


def _named(thing: str) -> str:
    """As the fake has it: a route is one word that no address is."""
    is_route = " via " in thing or thing.endswith(".0/24")
    return "route:" + thing.replace(" ", "_") if is_route else thing


@pytest.fixture
def links() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def vlans(links: FakeWorld) -> FakeWorld:
    return links


class TestFake(LinksContract):
    @contextmanager
    def failing(self, links: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        links.links.fail["eth1"] = "the test"
        yield
        del links.links.fail["eth1"]


class TestWaiting:
    """What was sent to an address before it was somebody's; on the kernel test_default_deny sends it."""

    @pytest.fixture
    def host(self, links: FakeWorld, tmp_path: Path) -> Host:
        links.links.add_link("tap1")
        host = Host(tmp_path, open_links=links.open)
        host.put(make_network(1))
        links.links.waiting = {("br1", "10.1.0.2"), ("br1", "10.1.0.4")}
        return host

    def test_it_is_thrown_away_before_anybody_can_answer(self, links: FakeWorld, host: Host) -> None:
        host.put(make_instance(1))
        edits = links.links.edits
        assert edits.index("- waiting for 10.1.0.2") < edits.index("+ port tap1")

    def test_what_waits_for_others_is_left(self, links: FakeWorld, host: Host) -> None:
        host.put(make_instance(1))
        assert links.links.waiting == {("br1", "10.1.0.4")}

    def test_a_prefix_of_a_pair_is_any_of_its_addresses(self, links: FakeWorld, host: Host) -> None:
        host.put(
            make_instance(1, vifs=(make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address="10.1.0.4/30"),)),))
        )
        assert links.links.waiting == set()

    def test_what_was_judged_already_is_left(self, links: FakeWorld, host: Host) -> None:
        host.put(make_instance(1))
        links.links.waiting = {("br1", "10.1.0.2")}
        host.put(make_instance(1, (1,)))
        host.restart()
        assert links.links.waiting == {("br1", "10.1.0.2")}
