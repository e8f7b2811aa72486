"""What the engine does about frames and DHCP servers: in their place, repaired, told, retried."""

from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as changed

from nova_netagent.backend.nft.objects import Element
from nova_netagent.compile import empty_ruleset
from nova_netagent.engine import NotApplied
from nova_netagent.events import Delete
from nova_netagent.host import Host as Adapters
from nova_netagent.testing import make_instance, make_network, make_vif
from tests.properties.host import SETTINGS, Host

MAC = make_vif(2).address


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def status(host: Host, item: object) -> tuple[str, str]:
    found = host.engine.view.status((item.KIND, item.id))  # type: ignore[attr-defined]
    assert found is not None
    return found.state, found.message


def wake(host: Host) -> None:
    """As the kernel's own notice does."""
    host.engine.wake()
    host.engine.serve(host.engine._take())


# --- frames


def test_an_element_that_the_kernel_refuses_fails_its_own_object(host: Host) -> None:
    def is_second(_: str, element: Element) -> bool:
        return bytes.fromhex(MAC.replace(":", "")) in element.key

    host.frames.refuse = is_second
    host.put(make_network(1), make_instance(1), make_instance(2), make_instance(3))
    assert status(host, make_instance(2))[0] == "error"
    assert [status(host, make_instance(number))[0] for number in (1, 3)] == ["done", "done"]
    held = host.frames.read()["secured"]
    assert any("tap1" in each for each in held)
    assert not any("tap2" in each for each in held)
    host.frames.refuse = lambda *_: False
    host.engine.resync()
    assert status(host, make_instance(2)) == ("done", "")


def test_a_bridge_that_was_just_made_is_redirected_to(host: Host) -> None:
    """Its MAC is known only after the rules are in; no notice of the kernel's is waited for."""
    network = make_network(1, dhcp_server="10.1.0.1", gateway="10.1.0.9")
    host.put(network, make_instance(1))
    assert host.frames.read()["gateways"] == {f"tap1 : {host.links.links['br1'].mac}"}


def test_somebody_who_is_faster_is_waited_for(host: Host) -> None:
    def meddle() -> None:
        host.frames.generation += 1
        host.frames.before_commit = lambda: None

    host.frames.before_commit = meddle
    host.put(make_network(1), make_instance(1))
    assert status(host, make_instance(1)) == ("done", "")


def test_somebody_who_is_always_faster_is_given_up_for_now(host: Host) -> None:
    def meddle() -> None:
        host.frames.generation += 1

    host.frames.before_commit = meddle
    with pytest.raises(NotApplied):
        host.put(make_network(1), make_instance(1))
    host.frames.before_commit = lambda: None
    host.engine.resync()
    assert status(host, make_instance(1)) == ("done", "")


def test_rules_do_not_come_before_frames(host: Host) -> None:
    """A vif that could not lie in IP could in ARP."""
    host.put(make_network(1))
    before = {table: dict(chains) for table, chains in host.backend.chains.items()}
    host.frames.unavailable = 1
    with pytest.raises(NotApplied):
        host.put(make_instance(1))
    assert {table: dict(chains) for table, chains in host.backend.chains.items()} == before
    host.engine.resync()
    assert status(host, make_instance(1)) == ("done", "")


def test_a_strangers_port_is_closed_when_it_comes_and_opened_when_it_is_described(host: Host) -> None:
    host.put(make_network(1))
    host.links.add_link("tap1", master="br1")
    wake(host)
    assert host.frames.read()["closed"] == {"tap1"}
    host.put(make_instance(1))
    assert host.frames.read()["closed"] == frozenset()
    assert host.frames.read()["secured"] == {"tap1"}
    host.delete(make_instance(1))
    assert host.frames.read()["ports"] == frozenset()


def test_who_gets_one_more_address_may_claim_it_when_his_rules_are_in(host: Host) -> None:
    host.links.add_link("tap1")
    host.put(make_network(1), make_instance(1))
    host.put(make_instance(1, vifs=(make_vif(1, fixed_ips=("10.1.0.2", "10.1.0.99", "fd00:1::2")),)))
    assert any("10.1.0.99" in each for each in host.frames.read()["arp-hosts"])


def test_a_family_that_meets_rules_again_passes_when_they_are_in(tmp_path: Path) -> None:
    """Also where there is nothing else to do."""
    host = Host(tmp_path, changed(SETTINGS, use_ipv6=False))
    host.links.add_link("tap1")
    host.put(make_network(1, cidr_v6=None, gateway_v6=None), make_instance(1))
    assert host.frames.read()["unjudged"] == {"ip6"}
    host.settings = SETTINGS
    host.restart()
    assert host.frames.read()["unjudged"] == frozenset()


def test_what_is_planned_is_what_is_done_when_a_port_leaves(host: Host) -> None:
    host.links.add_link("tap1")
    host.put(make_network(1), make_instance(1))
    planned = host.engine.inspect().plan(Delete("instances", make_instance(1).id))
    assert "bridge nova-netagent: - secured tap1" in planned
    assert not any("closed" in line for line in planned)


def test_frames_that_cannot_be_judged_for_now_are_told_and_retried_when_a_link_comes(host: Host) -> None:
    host.put(make_network(1))
    host.links.add_link("tap1", master="br1")
    host.frames.unavailable = 1
    wake(host)
    assert host.engine.view.failure == "cannot reach nf_tables"
    host.engine.resync()
    assert host.engine.view.failure == ""
    assert host.frames.read()["closed"] == {"tap1"}


def test_a_kernel_that_cannot_judge_frames_is_told_and_works(tmp_path: Path) -> None:
    class Frameless(Host):
        def _adapters(self) -> Adapters:
            return replace(super()._adapters(), frames=None, warnings=("frames are not judged: no such family",))

    host = Frameless(tmp_path)
    host.put(make_network(1), make_instance(1))
    host.links.add_link("tap9", master="br1")
    wake(host)
    assert host.engine.view.warnings == ("frames are not judged: no such family",)
    assert host.frames.table is None
    assert host.engine.inspect().plan() == []
    assert host.engine.resync() == []
    host.engine.reconciler.remove_everything(empty_ruleset(SETTINGS))
    assert host.frames.commits == 0
    host.restart()
    assert host.engine.view.warnings == ("frames are not judged: no such family",)


def test_a_public_interface_that_is_not_there_is_told_as_long_as_it_is_not(tmp_path: Path) -> None:
    network = changed(SETTINGS.network, public_interface="eth7")
    host = Host(tmp_path, changed(SETTINGS, network=network))
    (warning,) = host.engine.view.warnings
    assert warning.startswith("[network] public_interface = eth7: there is no such interface")
    host.links.add_link("eth7")
    host.engine.resync()
    assert host.engine.view.warnings == ()


def test_no_way_to_a_metadata_service_is_told(tmp_path: Path) -> None:
    host = Host(tmp_path, changed(SETTINGS, my_ip=None, metadata=changed(SETTINGS.metadata, metadata_host=None)))
    (warning,) = host.engine.view.warnings
    assert "[metadata] metadata_host" in warning
    assert "[DEFAULT] my_ip" in warning


def test_a_metadata_service_that_has_an_ipv6_address_is_told_to_be_led_to_by_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path, changed(SETTINGS, metadata=changed(SETTINGS.metadata, metadata_host="2001:db8::1")))
    (warning,) = host.engine.view.warnings
    assert warning == (
        "[metadata] metadata_host = 2001:db8::1: 169.254.169.254 cannot lead to an IPv6 address:"
        " no metadata service there"
    )


def test_a_kernel_that_can_has_no_warnings(host: Host) -> None:
    assert host.engine.view.warnings == ()


def test_a_host_without_frames_can_be_closed(host: Host) -> None:
    replace(host.engine.host, frames=None).close()


# --- servers


def test_a_server_that_ended_is_planned_to_come_back(host: Host) -> None:
    host.put(make_network(1))
    host.engine.host.servers.settle(60)
    assert host.engine.inspect().plan() == []
    host.system.processes["br1"].end("was killed by SIGKILL")
    assert host.engine.inspect().plan() == ["dhcp: + br1"]


def test_what_servers_are_told_is_compiled_while_the_kernel_takes_the_tables(host: Host) -> None:
    compiled: list[bool] = []
    host.backend.before_commit = lambda table: compiled.append("servers" in vars(host.engine._compiled))
    host.put(make_network(1))
    assert (compiled[0], compiled[-1]) == (False, True)


def test_a_server_that_cannot_be_started_puts_its_networks_in_error_and_holds_nothing_up(host: Host) -> None:
    host.system.no_program = True
    host.put(make_network(1), make_instance(1))
    state, message = status(host, make_network(1))
    assert state == "error"
    assert message.startswith("there is no dnsmasq: install dnsmasq-base; next attempt in")
    assert status(host, make_instance(1)) == ("done", "")
    assert host.frames.read()["secured"] == {"tap1"}
    host.system.no_program = False
    assert host.engine.host.servers.settle(60)
    host.engine.serve([])
    assert status(host, make_network(1)) == ("done", "")


def test_a_question_does_not_keep_what_became_of_a_server_from_being_told(host: Host) -> None:
    host.system.no_program = True
    host.put(make_network(1))
    host.system.no_program = False
    assert host.engine.host.servers.settle(60)
    host.engine.inspect()
    host.engine.serve([])
    assert status(host, make_network(1)) == ("done", "")


def test_what_a_server_complains_of_is_told_until_it_is_well(host: Host) -> None:
    host.put(make_network(1), make_network(2))
    host.engine.host.servers.settle(60)
    host.system.fail["--interface=br1"] = "bad option at line 1"
    host.system.processes["br1"].end("was killed by SIGKILL")
    for _ in range(6):
        host.engine.serve([])
    state, message = status(host, make_network(1))
    assert (state, "bad option at line 1" in message) == ("error", True)
    assert status(host, make_network(2)) == ("done", "")
    host.system.fail.clear()
    for _ in range(20):
        host.engine.serve([])
    assert status(host, make_network(1)) == ("done", "")


def test_a_link_in_error_matters_more_than_its_server(host: Host) -> None:
    host.system.no_program = True
    host.links.add_link("br1", kind="dummy")
    host.put(make_network(1))
    assert "not a bridge" in status(host, make_network(1))[1]


def test_a_network_that_is_gone_has_no_trouble(host: Host) -> None:
    host.system.no_program = True
    host.put(make_network(1))
    host.delete(make_network(1))
    host.engine.serve([])
    assert host.engine.view.troubles == {}


def test_cleanup_ends_servers_and_takes_frames(host: Host) -> None:
    host.put(make_network(1), make_instance(1))
    host.engine.host.servers.settle(60)
    lines = list(host.engine.reconciler.remove_everything(empty_ruleset(SETTINGS)).lines())
    assert {"dhcp: - br1", "bridge nova-netagent: - table"} <= set(lines)
    assert host.system.processes == {}
    assert host.system.files == {}
    assert host.frames.table is None
