"""What becomes of uplinks and VLANs on every backend of links, the kernel's and the fake alike.

The engine is the real one and the rules are fake. The host has eth1 and eth2, up and without
addresses; a test gives them some, as an operator would.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from nova_netagent.backend.links.protocol import LinksBackend
from nova_netagent.engine import NotApplied
from nova_netagent.metrics import Metrics
from nova_netagent.model import AllowedAddressPair, Object
from nova_netagent.plan.links import ActualLinks
from nova_netagent.reconcile import Reconciler
from nova_netagent.status import Status
from nova_netagent.testing import make_instance, make_network, make_vif
from tests.properties.host import SETTINGS, Host

OWN = ("192.0.2.7/24", "2001:db8:7::7/64")
ROUTES = ("198.18.0.0/15 via 192.0.2.1", "2001:db8:99::/48 via 2001:db8:7::1")
HELD = {*OWN, *ROUTES}
GIVEN = {"10.1.0.1/24", "fd00:1::1/64"}


def fared(host: Host, item: Object) -> Status:
    """Describe an object: how it fares."""
    (answer,) = host.put(item)
    assert answer.status is not None
    return answer.status


class LinksWorld(Protocol):
    """A host's links, and what others do to them."""

    def open(self) -> LinksBackend:
        """The backend under test."""

    def read(self) -> ActualLinks:
        """The links as they are."""

    def sysctl(self, name: str) -> str:
        """A setting, by its path below /proc/sys."""

    def add_bridge(self, name: str) -> None:
        """Somebody makes a bridge."""

    def delete(self, name: str) -> None:
        """Somebody deletes a link."""

    def set_master(self, name: str, master: str | None) -> None:
        """Somebody puts a port on a bridge, or takes it off."""

    def set_down(self, name: str) -> None:
        """Somebody takes a link down."""

    def rename(self, name: str, new: str) -> None:
        """Somebody gives a link another name."""

    def set_mtu(self, name: str, mtu: int) -> None:
        """Somebody gives a link another MTU."""

    def give(self, name: str, *things: str) -> None:
        """Somebody gives a link addresses and routes."""

    def take(self, name: str, *things: str) -> None:
        """Somebody takes them away."""

    def lose_routes(self, name: str) -> None:
        """Somebody takes a link's routes away, the kernel's own as well."""

    def answered(self, bridge: str, address: str, mac: str, *, permanent: bool = False) -> None:
        """Somebody answered for an address, or without ``mac`` nobody; ``permanent``: an operator wrote it down."""

    def neighbours(self) -> set[tuple[str, str, str]]:
        """Who answered last: bridge, address and MAC."""

    def held(self, name: str) -> set[str]:
        """The addresses and routes of a link that are not the kernel's own."""


Open = Callable[..., Host]


class LinksContract:
    """Run with a fixture ``links``, the world of a backend."""

    @pytest.fixture
    def host(self, links: LinksWorld, tmp_path: Path) -> Host:
        return Host(tmp_path, open_links=links.open)

    @pytest.fixture
    def flat(self, links: LinksWorld, host: Host) -> Object:
        """A flat network whose uplink had addresses and routes."""
        links.give("eth1", *OWN, *ROUTES)
        network = make_network(1, bridge_interface="eth1")
        host.put(network)
        return network

    def look(self, host: Host) -> None:
        """As the engine does when it is told of a change."""
        host.engine._look_at_links()

    def steady(self, host: Host) -> bool:
        """Whether nothing is left to do, also for one who looks closely."""
        return [
            line for line in host.engine.inspect().plan() if line.startswith(("link", "address", "route", "sysctl"))
        ] == []

    def clean_up(self, host: Host) -> None:
        engine = host.engine
        Reconciler(SETTINGS.firewall, engine.host, engine.store, Metrics()).remove_everything(engine._compiled.ruleset)

    # joining and leaving

    def test_an_uplink_brings_what_it_holds_and_takes_it_back(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        found = links.read().links
        assert (found["eth1"].master, found["br1"].mac) == ("br1", found["eth1"].mac)
        assert links.held("eth1") == set()
        assert links.held("br1") == HELD | GIVEN
        assert self.steady(host)
        host.delete(flat)
        found = links.read().links
        assert ("br1" in found, found["eth1"].master) == (False, None)
        assert links.held("eth1") == HELD
        assert self.steady(host)

    def test_cleanup_gives_it_back(self, links: LinksWorld, host: Host, flat: Object) -> None:
        self.clean_up(host)
        assert ("br1" in links.read().links, links.held("eth1")) == (False, HELD)

    def test_a_restart_changes_nothing_and_the_way_back_is_known(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        host.restart()
        assert self.steady(host)
        host.delete(flat)
        assert links.held("eth1") == HELD

    def test_what_the_operator_gave_the_bridge_meanwhile_goes_to_the_uplink(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        links.give("br1", "203.0.113.5/32")
        links.take("br1", ROUTES[0])
        host.delete(flat)
        assert links.held("eth1") == HELD - {ROUTES[0]} | {"203.0.113.5/32"}

    def test_a_bridge_that_was_there_keeps_its_own(self, links: LinksWorld, host: Host) -> None:
        links.add_bridge("br1")
        links.give("br1", "203.0.113.5/24", "198.51.100.0/24 via 203.0.113.1")
        links.give("eth1", *OWN, *ROUTES)
        before = links.read().links["br1"]
        network = make_network(1, bridge_interface="eth1", mtu=1400)
        host.put(network)
        assert links.read().links["br1"].mtu == before.mtu
        assert links.held("br1") == HELD | GIVEN | {"203.0.113.5/24", "198.51.100.0/24 via 203.0.113.1"}
        host.restart()
        host.delete(network)
        assert links.held("br1") == {"203.0.113.5/24", "198.51.100.0/24 via 203.0.113.1"}
        assert links.held("eth1") == HELD

    def test_a_port_that_was_there_is_used_and_left(self, links: LinksWorld, host: Host) -> None:
        links.add_bridge("br1")
        links.set_master("eth1", "br1")
        links.give("eth1", OWN[0])
        network = make_network(1, bridge_interface="eth1")
        host.put(network)
        assert links.held("eth1") == {OWN[0]}
        assert self.steady(host)
        host.delete(network)
        self.clean_up(host)
        assert links.read().links["eth1"].master == "br1"
        assert links.held("eth1") == {OWN[0]}

    def test_a_port_of_another_bridge_is_not_stolen_and_taken_when_it_is_free(
        self, links: LinksWorld, host: Host
    ) -> None:
        links.add_bridge("br9")
        links.set_master("eth1", "br9")
        network = make_network(1, bridge_interface="eth1")
        (answer,) = host.put(network)
        assert answer.status is not None
        assert (answer.status.state, answer.status.message) == ("error", "eth1: it is a port of br9 already")
        assert links.read().links["eth1"].master == "br9"
        links.set_master("eth1", None)
        self.look(host)
        assert links.read().links["eth1"].master == "br1"
        status = host.engine.view.status(("networks", network.id))
        assert status is not None
        assert status.state == "done"

    def test_an_uplink_that_is_not_there(self, links: LinksWorld, host: Host) -> None:
        (answer,) = host.put(make_network(1, bridge_interface="eth9"))
        assert answer.status is not None
        assert (answer.status.state, answer.status.message) == ("error", "eth9: there is no such interface")
        assert links.held("br1") == GIVEN

    def test_the_routes_to_our_networks_come_back(self, links: LinksWorld, host: Host, flat: Object) -> None:
        links.lose_routes("br1")
        assert not self.steady(host)
        assert {"route: + network of 10.1.0.1/24 on br1", "route: + network of fd00:1::1/64 on br1"} <= set(
            host.engine.resync()
        )
        assert self.steady(host)
        assert links.held("br1") == GIVEN | set(OWN), "what the host held by others' routes is not ours to make"

    def test_the_route_of_an_address_that_goes_does_not_come_back(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        other = make_network(2, bridge="br1", bridge_interface="eth1")
        host.put(other)
        host.backend.unavailable = 1
        with pytest.raises(NotApplied):
            host.put(make_instance(1))
        links.lose_routes("br1")
        host.delete(other)
        assert links.held("br1") == GIVEN | set(OWN)
        assert fared(host, flat).state == "done"
        assert self.steady(host)

    def test_an_mtu_that_is_too_small_for_ipv6_is_told(self, links: LinksWorld, host: Host) -> None:
        links.set_mtu("eth1", 1279)
        status = fared(host, make_network(1, bridge_interface="eth1"))
        assert status.state == "error"
        assert status.message.startswith("br1: its MTU is 1279, and IPv6 needs 1280")
        assert links.held("br1") == {"10.1.0.1/24"}
        links.set_mtu("eth1", 1280)
        self.look(host)
        assert links.held("br1") == GIVEN
        assert self.steady(host)

    def test_what_cannot_be_a_port_is_told(self, links: LinksWorld, host: Host) -> None:
        links.add_bridge("br9")
        (answer,) = host.put(make_network(1, bridge_interface="br9"))
        assert answer.status is not None
        assert answer.status.state == "error"
        assert "ELOOP" in answer.status.message
        host.delete(make_network(1))
        assert "br1" not in links.read().links

    def test_another_uplink_takes_its_place(self, links: LinksWorld, host: Host, flat: Object) -> None:
        links.give("eth2", "203.0.113.5/24")
        host.put(make_network(1, bridge_interface="eth2"))
        found = links.read().links
        assert (found["eth1"].master, found["eth2"].master) == (None, "br1")
        assert found["br1"].mac == found["eth2"].mac
        assert links.held("eth1") == HELD
        assert links.held("br1") == GIVEN | {"203.0.113.5/24"}

    def test_the_uplink_moves_to_another_bridge(self, links: LinksWorld, host: Host, flat: Object) -> None:
        host.put(make_network(1, bridge="other", bridge_interface="eth1"))
        assert ("br1" in links.read().links, links.held("other")) == (False, HELD | GIVEN)
        host.delete(flat)
        assert links.held("eth1") == HELD

    def test_an_uplink_that_comes_to_a_bridge_that_is_there(self, links: LinksWorld, host: Host) -> None:
        host.put(make_network(1))
        links.give("eth1", *OWN, *ROUTES)
        host.put(make_network(1, bridge_interface="eth1"))
        assert links.held("br1") == HELD | GIVEN
        assert links.read().links["br1"].mac == links.read().links["eth1"].mac
        host.put(make_network(1))
        assert (links.held("br1"), links.held("eth1")) == (GIVEN, HELD)

    def test_an_uplink_that_was_given_another_name_takes_back_what_it_brought(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        links.rename("eth1", "ens1")
        self.look(host)
        assert links.held("br1") == HELD | GIVEN
        host.delete(flat)
        assert ("br1" in links.read().links, links.held("ens1")) == (False, HELD)
        assert links.read().links["ens1"].master is None

    def test_an_uplink_is_asked_for_by_its_new_name(self, links: LinksWorld, host: Host, flat: Object) -> None:
        links.rename("eth1", "ens1")
        network = make_network(1, bridge_interface="ens1")
        host.put(network)
        assert (links.read().links["ens1"].master, links.held("br1")) == ("br1", HELD | GIVEN)
        assert self.steady(host)
        host.restart()
        self.clean_up(host)
        assert ("br1" in links.read().links, links.held("ens1")) == (False, HELD)

    def test_the_gateways_address_that_the_uplink_had_is_the_hosts(self, links: LinksWorld, host: Host) -> None:
        links.give("eth1", "10.1.0.1/24")
        network = make_network(1, bridge_interface="eth1")
        host.put(network)
        assert links.held("br1") == GIVEN
        host.delete(network)
        assert links.held("eth1") == {"10.1.0.1/24"}

    def test_ours_that_was_first_of_its_prefix_takes_nobody_along(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        """The kernel takes the other addresses of a prefix away with the first (promote_secondaries)."""
        links.give("br1", "10.1.0.77/24")
        host.delete(flat)
        assert links.held("eth1") == HELD | {"10.1.0.77/24"}

    def test_a_bridge_stays_while_its_uplink_cannot_leave_it(
        self, links: LinksWorld, host: Host, flat: Object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with self.failing(links, monkeypatch):
            host.delete(flat)
            assert links.read().links["eth1"].master == "br1"
        host.engine.resync()
        assert ("br1" in links.read().links, links.held("eth1")) == (False, HELD)

    def failing(self, links: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Have releases of eth1 fail meanwhile."""
        raise NotImplementedError

    # router advertisements

    @pytest.mark.parametrize(("before", "after"), [("0", "0"), ("1", "2"), ("2", "2")])
    def test_the_bridge_listens_to_routers_as_its_uplink_did(
        self, links: Any, host: Host, before: str, after: str
    ) -> None:
        links.set_sysctl("net/ipv6/conf/eth1/accept_ra", before)
        host.put(make_network(1, bridge_interface="eth1"))
        assert links.sysctl("net/ipv6/conf/br1/accept_ra") == after
        links.delete("br1")
        self.look(host)
        assert links.sysctl("net/ipv6/conf/br1/accept_ra") == after

    def test_the_bridge_listens_to_no_router_without_its_uplink(self, links: Any, host: Host) -> None:
        links.set_sysctl("net/ipv6/conf/eth1/accept_ra", "2")
        host.put(make_network(1, bridge_interface="eth1"))
        host.put(make_network(1))
        assert links.sysctl("net/ipv6/conf/br1/accept_ra") == "0", "only instances are left to tell it of a route"
        host.put(make_network(1, bridge_interface="eth1"))
        assert links.sysctl("net/ipv6/conf/br1/accept_ra") == "2"

    # drift

    def test_a_bridge_that_somebody_deletes_comes_back_with_what_it_held(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        links.delete("br1")
        self.look(host)
        assert links.read().links["eth1"].master == "br1"
        assert links.held("br1") == HELD | GIVEN
        assert host.metrics.drift_repairs_total.labels("link")._value.get() > 0
        host.delete(flat)
        assert links.held("eth1") == HELD

    def test_a_bridge_that_went_while_nobody_looked_comes_back_with_what_it_held(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        links.give("br1", "203.0.113.5/32")
        host.engine.resync()
        for _ in range(2):
            host.engine.close()
            links.delete("br1")
            host.start()
            assert links.held("br1") == HELD | GIVEN | {"203.0.113.5/32"}
            assert self.steady(host)
        host.delete(flat)
        assert links.held("eth1") == HELD | {"203.0.113.5/32"}

    def test_a_bridge_that_is_down_since_nobody_looked_has_again_what_it_held(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        host.engine.close()
        links.set_down("br1")
        host.start()
        assert links.held("br1") == HELD | GIVEN
        assert self.steady(host)

    @pytest.mark.parametrize("undo", ["delete", "set_down"])
    @pytest.mark.parametrize("looked", [True, False])
    def test_cleanup_gives_back_what_a_bridge_held_that_is_gone_or_down(
        self, links: LinksWorld, host: Host, flat: Object, undo: str, looked: bool
    ) -> None:
        if not looked:
            host.engine.close()
        getattr(links, undo)("br1")
        if not looked:
            host.engine.open()
        self.clean_up(host)
        assert ("br1" in links.read().links, links.held("eth1")) == (False, HELD)

    @pytest.fixture
    def bare(self, links: LinksWorld, host: Host, flat: Object) -> None:
        """The bridge was made anew while its uplink was another's, and nobody has looked since."""
        links.add_bridge("br9")
        links.set_master("eth1", "br9")
        links.delete("br1")
        self.look(host)
        assert links.held("br1") == GIVEN
        host.engine.close()
        links.delete("br9")

    @pytest.mark.usefixtures("bare")
    def test_a_bridge_that_was_made_anew_before_a_restart_has_what_it_held_with_its_uplink(
        self, links: LinksWorld, host: Host
    ) -> None:
        host.start()
        assert (links.held("br1"), links.held("eth1")) == (HELD | GIVEN, set())
        assert self.steady(host)

    @pytest.mark.usefixtures("bare")
    def test_cleanup_gives_back_what_a_bridge_held_that_was_made_anew(self, links: LinksWorld, host: Host) -> None:
        host.engine.open()
        self.clean_up(host)
        assert links.held("eth1") == HELD

    def test_a_bridge_that_has_again_what_it_held_is_believed_about_that(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        """Also while its uplink is another's: what somebody takes from it is not given to the uplink."""
        links.add_bridge("br9")
        links.set_master("eth1", "br9")
        host.engine.close()
        links.set_down("br1")
        host.start()
        assert links.held("br1") == HELD | GIVEN
        links.take("br1", OWN[1], ROUTES[1])
        self.look(host)
        links.delete("br9")
        self.clean_up(host)
        assert links.held("eth1") == {OWN[0], ROUTES[0]}

    def test_cleanup_gives_nothing_back_where_somebody_knew_better(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        host.engine.close()
        links.delete("br1")
        links.give("eth1", "192.0.2.8/24")
        host.engine.open()
        self.clean_up(host)
        assert links.held("eth1") == {"192.0.2.8/24"}

    def test_an_uplink_that_is_down_takes_everything_back(self, links: LinksWorld, host: Host, flat: Object) -> None:
        links.set_down("eth1")
        self.clean_up(host)
        assert ("br1" in links.read().links, links.held("eth1")) == (False, HELD)

    def test_an_uplink_that_is_down_and_gets_nothing_back_stays_down(self, links: LinksWorld, host: Host) -> None:
        host.put(make_network(1, bridge_interface="eth1"))
        links.set_down("eth1")
        self.clean_up(host)
        assert links.read().links["eth1"].up is False

    def test_who_gave_the_uplink_some_of_its_own_again_knew_nothing_better(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        """A DHCP client, which does not know of what was given by hand."""
        for _ in range(2):
            host.engine.close()
            links.delete("br1")
            links.give("eth1", OWN[0])
            host.start()
            assert links.held("br1") == HELD | GIVEN
        host.engine.close()
        links.delete("br1")
        links.give("eth1", OWN[0])
        host.engine.open()
        self.clean_up(host)
        assert links.held("eth1") == HELD

    def test_who_gave_the_uplink_addresses_meanwhile_knew_better(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        host.engine.close()
        links.delete("br1")
        links.give("eth1", "192.0.2.8/24")
        host.start()
        assert links.held("br1") == {"192.0.2.8/24"} | GIVEN
        assert links.held("eth1") == set()

    def test_what_was_released_is_not_given_again_after_a_restart(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        host.delete(flat)
        links.take("eth1", *ROUTES, *OWN)
        host.restart()
        host.put(flat)
        assert links.held("br1") == GIVEN

    def test_what_was_released_is_not_given_again(self, links: LinksWorld, host: Host, flat: Object) -> None:
        host.put(make_network(1, bridge_interface="eth2"))
        links.delete("br1")
        self.look(host)
        assert links.held("br1") == GIVEN

    def test_a_bridge_that_somebody_takes_down(self, links: LinksWorld, host: Host, flat: Object) -> None:
        links.set_down("br1")
        self.look(host)
        assert links.read().links["br1"].up
        assert links.held("br1") == HELD | GIVEN

    def test_an_uplink_that_somebody_takes_out_or_down(self, links: LinksWorld, host: Host, flat: Object) -> None:
        links.set_master("eth1", None)
        self.look(host)
        assert links.read().links["eth1"].master == "br1"
        links.set_down("eth1")
        self.look(host)
        assert links.read().links["eth1"].up
        assert links.held("br1") == HELD | GIVEN

    def test_what_somebody_gives_the_uplink_goes_to_the_bridge(
        self, links: LinksWorld, host: Host, flat: Object
    ) -> None:
        """A DHCP client that knows only its interface."""
        links.give("eth1", "203.0.113.5/32")
        self.look(host)
        assert links.held("eth1") == set()
        assert links.held("br1") == HELD | GIVEN | {"203.0.113.5/32"}
        links.give("eth1", "203.0.113.0/24")
        self.look(host)
        assert links.held("eth1") == {"203.0.113.0/24"}, "a route is not told of"
        host.engine.resync()
        assert links.held("eth1") == set()
        assert "203.0.113.0/24" in links.held("br1")

    def test_the_host_knows_who_has_an_address_when_another_comes_to_it(self, links: LinksWorld, host: Host) -> None:
        host.put(make_network(1))
        old, mine, other = "02:00:00:00:00:77", make_vif(1).address, make_vif(3).address
        links.answered("br1", "10.1.0.2", old)
        links.answered("br1", "fd00:1::2", mine)
        links.answered("br1", "10.1.0.4", other)
        links.answered("br1", "fd00:1::4", old, permanent=True)
        links.answered("br1", "10.1.0.6", "")
        host.put(make_instance(1), make_instance(3), make_instance(5))
        assert links.neighbours() == {
            ("br1", "10.1.0.2", mine),
            ("br1", "fd00:1::2", mine),
            ("br1", "10.1.0.4", other),
            ("br1", "fd00:1::4", old),
            ("br1", "10.1.0.6", make_vif(5).address),
        }

    @pytest.mark.parametrize("pair", ["10.1.0.100", "10.1.0.96/28", "0.0.0.0/0"])
    def test_the_host_forgets_who_had_what_a_pair_gives_up(self, links: LinksWorld, host: Host, pair: str) -> None:
        held = make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address=pair),))
        host.put(make_network(1), make_network(2), make_instance(1, vifs=(held,)))
        mine, other = held.address, make_vif(3).address
        links.answered("br1", "10.1.0.100", mine)
        kept = {
            ("br1", "10.1.0.101", other),
            ("br1", "fd00:1::100", mine),
            ("br1", "10.1.0.102", mine),
            ("br2", "10.1.0.103", mine),
        }
        for bridge, address, mac in kept:
            links.answered(bridge, address, mac, permanent=address == "10.1.0.102")
        host.put(make_instance(1))
        assert links.neighbours() == kept

    # VLANs

    def test_a_vlan_link_is_made_joined_and_removed(self, vlans: LinksWorld, host: Host) -> None:
        network = make_network(1, bridge_interface="eth1", vlan=7, mtu=1400)
        host.put(network)
        found = vlans.read().links
        made = found["vlan7"]
        assert (made.kind, made.parent, made.vlan, made.mtu) == ("vlan", "eth1", 7, 1400)
        assert (made.up, made.master) == (True, "br1")
        assert (found["br1"].mac, found["br1"].mtu) == (made.mac, 1400)
        assert made.mac != found["eth1"].mac
        assert found["eth1"].master is None
        assert self.steady(host)
        host.put(make_network(1, bridge_interface="eth1", vlan=7, mtu=1300))
        assert vlans.read().links["vlan7"].mtu == 1300
        vlans.delete("vlan7")
        self.look(host)
        assert vlans.read().links["vlan7"].master == "br1"
        host.delete(network)
        assert not {"vlan7", "br1"} & set(vlans.read().links)

    # MTU

    def mtus(self, links: LinksWorld, *names: str) -> list[int]:
        found = links.read().links
        return [found[name].mtu for name in names]

    def test_a_bridge_of_which_no_mtu_was_asked_follows_its_ports(self, links: LinksWorld, host: Host) -> None:
        host.put(make_network(1, bridge_interface="eth1"))
        for mtu in (1400, 1450):
            links.set_mtu("eth1", mtu)
            self.look(host)
            assert self.mtus(links, "br1") == [mtu]
        links.set_mtu("br1", 1300)
        assert self.steady(host), "an operator's own"

    def test_an_mtu_that_is_no_longer_asked_for_is_what_it_would_be_without(
        self, links: LinksWorld, host: Host
    ) -> None:
        host.put(make_network(1, mtu=1400))
        host.put(make_network(1))
        assert self.mtus(links, "br1") == [1500]
        host.put(make_network(1, mtu=1300))
        links.set_mtu("eth1", 1450)
        host.put(make_network(1, bridge_interface="eth1"))
        assert self.mtus(links, "br1") == [1450], "the smallest port's, which comes with the same change"
        assert self.steady(host)
        host.restart()
        assert self.steady(host)
        for mtu in (1350, 1500):
            links.set_mtu("eth1", mtu)
            self.look(host)
            assert self.mtus(links, "br1") == [mtu]
        host.put(make_network(1))
        assert self.mtus(links, "br1") == [1500]
        assert self.steady(host)

    def test_the_mtu_of_a_bridge_that_is_made_anew_is_the_kernels(self, links: LinksWorld, host: Host) -> None:
        host.put(make_network(1, mtu=1400))
        host.put(make_network(1))
        links.delete("br1")
        self.look(host)
        assert self.mtus(links, "br1") == [1500]
        assert self.steady(host)

    def test_a_vlan_link_has_again_what_carries_it_has(self, vlans: LinksWorld, host: Host) -> None:
        host.put(make_network(1, bridge_interface="eth1", vlan=7, mtu=1400))
        assert self.mtus(vlans, "vlan7", "br1") == [1400, 1400]
        host.put(make_network(1, bridge_interface="eth1", vlan=7))
        assert self.mtus(vlans, "vlan7", "br1") == [1500, 1500]
        assert self.steady(host)
        vlans.set_mtu("eth1", 1450)
        self.look(host)
        assert self.mtus(vlans, "vlan7", "br1") == [1450, 1450]
        host.restart()
        assert self.steady(host)

    def test_a_vlan_link_follows_its_network_to_another_interface(self, vlans: LinksWorld, host: Host) -> None:
        host.put(make_network(1, bridge_interface="eth1", vlan=7))
        moved = make_network(1, bridge_interface="eth2", vlan=7)
        assert fared(host, moved).state == "done"
        found = vlans.read().links["vlan7"]
        assert (found.parent, found.vlan, found.up, found.master) == ("eth2", 7, True, "br1")
        assert host.engine.resync() == []
        host.delete(moved)
        assert not {"vlan7", "br1"} & {*vlans.read().links}

    def test_a_vlan_link_stays_where_it_is_while_it_cannot_be_had_elsewhere(
        self, vlans: LinksWorld, host: Host
    ) -> None:
        host.put(make_network(1, bridge_interface="eth1", vlan=7))
        before = vlans.read().links["vlan7"]
        assert fared(host, make_network(1, bridge_interface="eth9", vlan=7)).state == "error"
        assert vlans.read().links["vlan7"] == before

    def test_a_vlan_link_that_was_there_is_used_and_left(self, vlans: Any, host: Host) -> None:
        vlans.add_vlan("vlan7", "eth1", 7)
        vlans.give("vlan7", OWN[0])
        network = make_network(1, bridge_interface="eth1", vlan=7)
        host.put(network)
        assert vlans.read().links["vlan7"].master == "br1"
        host.delete(network)
        assert vlans.read().links["vlan7"].master is None
        assert vlans.held("vlan7") == {OWN[0]}

    def test_a_link_that_only_has_the_name_of_a_vlan(self, vlans: Any, host: Host) -> None:
        vlans.add_vlan("vlan7", "eth1", 8)
        status = fared(host, make_network(1, bridge_interface="eth1", vlan=7))
        assert status.message == "vlan7: there is a link of this name that is not VLAN 7 of eth1"
        assert vlans.read().links["vlan7"].master is None

    def test_a_vlan_that_the_kernel_refuses_is_an_error_of_its_network_alone(self, vlans: Any, host: Host) -> None:
        """Somebody has the same VLAN by another name; and an MTU that the carrier does not have."""
        vlans.add_vlan("other", "eth1", 7)
        status = fared(host, make_network(1, bridge_interface="eth1", vlan=7))
        assert status.message == "vlan7: VLAN 7 of eth1 is other already"
        status = fared(host, make_network(2, bridge_interface="eth1", vlan=8, mtu=9000))
        assert status.state == "error"
        assert "ERANGE" in status.message
        assert fared(host, make_network(3, bridge_interface="eth1", vlan=9)).state == "done"

    def test_flat_and_vlans_on_one_interface(self, vlans: LinksWorld, host: Host) -> None:
        vlans.give("eth1", *OWN, *ROUTES)
        networks = [make_network(1, bridge_interface="eth1"), make_network(2, bridge_interface="eth1", vlan=7)]
        host.put(*networks)
        found = vlans.read().links
        assert (found["eth1"].master, found["vlan7"].master) == ("br1", "br2")
        assert vlans.held("br1") == HELD | GIVEN
        host.delete(*networks)
        assert vlans.held("eth1") == HELD
        assert "vlan7" not in vlans.read().links
