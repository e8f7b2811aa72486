"""What DHCP servers do, the real ones and the fake alike."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from nova_netagent.compile.dhcp import DhcpService, pairs
from nova_netagent.model import Object
from nova_netagent.plan.links import ActualLinks
from nova_netagent.services import DhcpServers, plan_dhcp
from nova_netagent.testing import make_instance, make_network, make_vif, network_id
from tests.unit.dhcp.world import services_of

MAC1, MAC2 = make_vif(1).address, make_vif(2).address


class World(Protocol):
    """Servers on a host with bridges br1 and br2 and their addresses, and what others do to it."""

    servers: DhcpServers
    counts: Counter[str]
    options: Mapping[str, Any]
    """Settings by name."""

    @property
    def links(self) -> ActualLinks:
        """The links of the host."""

    def pids(self) -> Mapping[str, int]:
        """The processes by bridge; a second one of a bridge is a failure."""

    def kill(self, bridge: str) -> None:
        """Kill one with no chance to clean up."""

    def restart_agent(self) -> None:
        """Have new servers that know nothing of the old ones."""

    def lease(self, bridge: str, address: str, mac: str) -> None:
        """An instance takes its address."""

    def leases(self, bridge: str) -> set[str]:
        """The addresses that are leased."""

    def files(self) -> set[str]:
        """The names of all files."""

    def write(self, bridge: str, suffix: str, text: str) -> None:
        """Somebody writes a file of ours."""

    def break_configuration(self) -> None:
        """From now on dnsmasq_config_file is one that dnsmasq refuses."""


class ServersContract:
    """Everything that holds for both."""

    @staticmethod
    def desired(world: World, *objects: Object, **options: Any) -> Mapping[str, DhcpService]:
        return services_of(*objects, **(dict(world.options) | options))

    def serve(self, world: World, *objects: Object, settle: bool = True, **options: Any) -> list[str]:
        """Describe objects, and wait until they are served; what the plan said."""
        plan = plan_dhcp(self.desired(world, *objects, **options), world.servers.read(), world.links)
        world.servers.apply(plan)
        if settle:
            assert world.servers.settle(10), world.servers.troubles()
        return list(plan.lines())

    def test_nothing_to_serve_is_nothing_to_do(self, world: World) -> None:
        assert self.serve(world) == []
        assert (world.pids(), world.files(), world.counts) == ({}, set(), {})
        assert world.servers.next_due() is None

    def test_each_bridge_has_one_process(self, world: World) -> None:
        assert self.serve(world, make_network(1), make_network(2)) == ["dhcp: + br1", "dhcp: + br2"]
        assert set(world.pids()) == {"br1", "br2"}
        assert world.counts == {"starts": 2}
        assert world.servers.troubles() == {}

    def test_serving_again_does_nothing(self, world: World) -> None:
        objects = (make_network(1), make_instance(1))
        self.serve(world, *objects)
        before = world.pids()
        assert self.serve(world, *objects) == []
        assert world.pids() == before
        assert world.counts == {"starts": 1}

    def test_a_new_instance_is_a_reload(self, world: World) -> None:
        self.serve(world, make_network(1), make_instance(1))
        before = world.pids()
        assert self.serve(world, make_network(1), make_instance(1), make_instance(2)) == [
            "dhcp: reload br1: 3 lines come, 0 go"
        ]
        assert world.pids() == before
        assert world.counts == {"starts": 1, "reloads": 1}

    def test_another_option_is_one_restart(self, world: World) -> None:
        self.serve(world, make_network(1), make_network(2), make_instance(1))
        before = world.pids()
        (line,) = self.serve(world, make_network(1, dns1="192.0.2.53"), make_network(2), make_instance(1))
        assert line.startswith("dhcp: restart br1: ")
        after = world.pids()
        assert (after["br2"], after["br1"] == before["br1"]) == (before["br2"], False)
        assert world.counts == {"starts": 3, "stops": 1}

    def test_a_network_that_goes_takes_everything_with_it(self, world: World) -> None:
        self.serve(world, make_network(1), make_network(2), make_instance(1))
        assert self.serve(world, make_network(2)) == ["dhcp: - br1"]
        assert set(world.pids()) == {"br2"}
        assert not any(name.startswith("br1") for name in world.files())
        self.serve(world)
        assert (world.pids(), world.files()) == ({}, set())

    def test_a_network_that_goes_and_comes_at_once(self, world: World) -> None:
        self.serve(world, make_network(1), make_instance(1))
        self.serve(world, settle=False)
        self.serve(world, make_network(1), make_instance(2))
        assert set(world.pids()) == {"br1"}
        assert pairs(self._hosts(world)) == {("10.1.0.3", MAC2), ("fd00:1::3", MAC2)}

    @staticmethod
    def _hosts(world: World, bridge: str = "br1") -> str:
        found = world.servers.read(fresh=True)[bridge].hosts
        assert found is not None
        return found

    def test_changes_that_come_quickly_share_a_reload(self, world: World) -> None:
        self.serve(world, make_network(1))
        objects: list[Object] = [make_network(1)]
        for number in range(1, 21):
            objects.append(make_instance(number))
            self.serve(world, *objects, settle=False)
        assert world.servers.settle(5)
        assert world.counts["reloads"] == 2
        assert len(pairs(self._hosts(world))) == 40

    def test_a_killed_one_is_started_again(self, world: World) -> None:
        self.serve(world, make_network(1), make_instance(1))
        world.lease("br1", "10.1.0.2", MAC1)
        world.kill("br1")
        assert world.pids() == {}
        world.servers.do_due()
        assert world.servers.settle(5)
        assert set(world.pids()) == {"br1"}
        assert world.leases("br1") == {"10.1.0.2"}
        assert world.counts == {"starts": 2, "crashes": 1}
        assert world.servers.troubles() == {}

    def test_one_that_was_killed_unnoticed_is_in_the_plan(self, world: World) -> None:
        self.serve(world, make_network(1))
        world.kill("br1")
        assert self.serve(world, make_network(1)) == ["dhcp: + br1"]
        assert set(world.pids()) == {"br1"}

    def test_one_that_will_not_start_is_told_and_tried_again_later_and_later(self, world: World) -> None:
        self.serve(world, make_network(2))
        good = dict(world.options)
        world.break_configuration()
        self.serve(world, make_network(1), make_network(2), settle=False)
        began_with = world.counts["crashes"]
        assert not world.servers.settle(1.2)
        # At once, at once again, after half a second, after one more: network 2 is refused like network 1.
        assert 4 <= world.counts["crashes"] - began_with <= 7
        kind, why = world.servers.troubles()[network_id(1)]
        assert kind == "error"
        assert "ended with exit code 1" in why
        assert "bad option" in why
        assert "next attempt in" in why
        assert world.pids() == {}
        world.options = good
        self.serve(world, make_network(1), make_network(2))
        assert set(world.pids()) == {"br1", "br2"}
        assert world.servers.troubles() == {}

    def test_retry_does_not_wait(self, world: World) -> None:
        world.break_configuration()
        self.serve(world, make_network(1), settle=False)
        world.servers.settle(0.8)
        before = world.counts["starts"]
        world.servers.retry()
        assert world.counts["starts"] == before + 1

    def test_those_that_run_are_found_again(self, world: World) -> None:
        objects = (make_network(1), make_network(2), make_instance(1))
        self.serve(world, *objects)
        before = world.pids()
        world.restart_agent()
        assert self.serve(world, *objects) == []
        assert world.pids() == before
        assert world.counts == {"starts": 2, "adoptions": 2}

    def test_one_that_was_found_again_is_looked_after(self, world: World) -> None:
        objects = (make_network(1), make_instance(1))
        self.serve(world, *objects)
        world.restart_agent()
        self.serve(world, *objects)
        before = world.pids()
        self.serve(world, *objects, make_instance(2))
        assert world.pids() == before
        world.kill("br1")
        world.servers.do_due()
        assert world.servers.settle(5)
        assert set(world.pids()) == {"br1"}
        assert world.counts == {"starts": 2, "adoptions": 1, "reloads": 1, "crashes": 1}

    def test_what_changed_meanwhile_is_made_up_for(self, world: World) -> None:
        self.serve(world, make_network(1), make_network(2), make_instance(1))
        before = world.pids()
        world.restart_agent()
        lines = self.serve(world, make_network(1), make_instance(2))
        assert lines == ["dhcp: - br2", "dhcp: reload br1: 3 lines come, 3 go"]
        assert world.pids() == {"br1": before["br1"]}
        world.restart_agent()
        (line,) = self.serve(world, make_network(1, mtu=1400), make_instance(2))
        assert line.startswith("dhcp: restart br1: ")
        assert world.pids() != {"br1": before["br1"]}

    def test_one_that_died_with_the_agent_leaves_files_only(self, world: World) -> None:
        self.serve(world, make_network(1), make_network(2), make_instance(1))
        world.lease("br1", "10.1.0.2", MAC1)
        world.kill("br1")
        world.kill("br2")
        world.restart_agent()
        assert self.serve(world, make_network(1), make_instance(1)) == ["dhcp: - br2", "dhcp: + br1"]
        assert set(world.pids()) == {"br1"}
        assert world.leases("br1") == {"10.1.0.2"}
        assert not any(name.startswith("br2") for name in world.files())

    def test_an_agent_that_died_between_writing_and_telling(self, world: World) -> None:
        objects = (make_network(1), make_instance(1))
        self.serve(world, *objects)
        world.write("br1", "unread", "")
        world.restart_agent()
        assert self.serve(world, *objects) == ["dhcp: reload br1: it is not known what it has read"]
        assert not any(name.endswith("unread") for name in world.files())
        world.restart_agent()
        assert self.serve(world, *objects) == []

    def test_files_that_somebody_changed_are_put_right(self, world: World) -> None:
        objects = (make_network(1), make_instance(1))
        self.serve(world, *objects)
        world.write("br1", "dhcp-hosts", "fa:16:3e:00:00:99,10.1.0.99\n")
        desired = self.desired(world, *objects)
        assert not plan_dhcp(desired, world.servers.read(), world.links)
        plan = plan_dhcp(desired, world.servers.read(fresh=True), world.links)
        assert list(plan.lines()) == ["dhcp: reload br1: it is not known what it has read"]
        world.servers.apply(plan)
        assert world.servers.settle(5)
        assert self._hosts(world) == desired["br1"].hosts
        assert not plan_dhcp(desired, world.servers.read(fresh=True), world.links)

    def test_reading_changes_nothing(self, world: World) -> None:
        self.serve(world, make_network(1))
        world.kill("br1")
        for _ in range(3):
            assert world.servers.read(fresh=True)["br1"].arguments is None
        assert world.pids() == {}

    def test_one_without_a_bridge_waits_for_it(self, world: World) -> None:
        objects = (make_network(3), make_network(1))
        assert self.serve(world, *objects) == ["dhcp: + br1"]
        assert world.servers.troubles() == {network_id(3): ("pending", "waits for bridge br3")}
        self.serve(world, make_network(1))
        assert world.servers.troubles() == {}

    # --- leases

    def test_the_lease_of_a_deleted_instance_is_given_up(self, world: World) -> None:
        self.serve(world, make_network(1), make_instance(1), make_instance(2))
        world.lease("br1", "10.1.0.2", MAC1)
        world.lease("br1", "10.1.0.3", MAC2)
        before = world.pids()
        self.serve(world, make_network(1), make_instance(2))
        assert world.leases("br1") == {"10.1.0.3"}
        assert world.pids() == before

    def test_an_address_that_moves_is_free_at_once(self, world: World) -> None:
        self.serve(world, make_network(1), make_instance(1))
        world.lease("br1", "10.1.0.2", MAC1)
        moved = make_instance(2, vifs=(make_vif(2, fixed_ips=("10.1.0.2",)),))
        self.serve(world, make_network(1), moved)
        assert world.leases("br1") == set()
        world.lease("br1", "10.1.0.2", MAC2)
        assert world.leases("br1") == {"10.1.0.2"}

    def test_an_ipv6_address_that_moves_is_free_at_once(self, world: World) -> None:
        self.serve(world, make_network(1), make_instance(1))
        world.lease("br1", "fd00:1::2", MAC1)
        moved = make_instance(2, vifs=(make_vif(2, fixed_ips=("fd00:1::2",)),))
        self.serve(world, make_network(1), moved)
        assert world.leases("br1") == set()
        world.lease("br1", "fd00:1::2", MAC2)
        assert world.leases("br1") == {"fd00:1::2"}

    def test_a_release_that_was_asked_for(self, world: World) -> None:
        self.serve(world, make_network(1), make_instance(1))
        world.lease("br1", "10.1.0.2", MAC1)
        world.lease("br1", "fd00:1::2", MAC1)
        before = world.pids()
        world.servers.release("br1", "10.1.0.2", MAC1.upper())
        assert world.servers.settle(5)
        assert world.leases("br1") == {"fd00:1::2"}
        assert world.pids() == before
        world.servers.release("br1", "fd00:1::2", MAC1)
        assert world.servers.settle(5)
        assert world.leases("br1") == set()
        world.servers.release("br1", "10.1.0.77", MAC1)
        world.servers.release("br9", "10.9.0.2", MAC1)
        assert world.servers.settle(5)

    def test_leases_survive_a_restart(self, world: World) -> None:
        self.serve(world, make_network(1), make_instance(1))
        world.lease("br1", "10.1.0.2", MAC1)
        world.lease("br1", "fd00:1::2", MAC1)
        self.serve(world, make_network(1, dns1="192.0.2.53"), make_instance(1))
        assert world.leases("br1") == {"10.1.0.2", "fd00:1::2"}

    def test_nobody_keeps_a_lease_that_is_not_his_over_a_restart(self, world: World) -> None:
        self.serve(world, make_network(1), make_instance(1), make_instance(2))
        for address, mac in (("10.1.0.2", MAC1), ("fd00:1::2", MAC1), ("10.1.0.3", MAC2), ("fd00:1::3", MAC2)):
            world.lease("br1", address, mac)
        self.serve(world, make_network(1, dns1="192.0.2.53"), make_instance(2))
        assert world.leases("br1") == {"10.1.0.3", "fd00:1::3"}
