"""The state of a DHCP server, moment by moment: on a clock that the test turns."""

import signal
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from nova_netagent.compile.dhcp import DhcpService
from nova_netagent.model import Object
from nova_netagent.plan.links import ActualLinks
from nova_netagent.services import plan_dhcp
from nova_netagent.services.dnsmasq import STARTS_PER_TURN
from nova_netagent.services.fake import FakeDhcpServers, FakeProcess, FakeSystem
from nova_netagent.services.server import (
    BACK_OFF,
    LOOKS,
    PATIENCE,
    QUIET,
    RELEASE_PAUSE,
    RELOAD_PAUSE,
    STABLE,
    STUMBLED,
)
from nova_netagent.services.system import LEASES
from nova_netagent.testing import make_instance, make_network, make_vif, network_id
from tests.unit.dhcp.world import links_of, services_of

MAC1, MAC2 = make_vif(1).address, make_vif(2).address
LINKS = links_of(*((f"br{number}", f"10.{number}.0.1/24") for number in range(1, 21)))


class Host:
    """Servers, and time that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.system = FakeSystem()
        self.counts: Counter[str] = Counter()
        self.starts: list[float] = []
        self.restart_agent()

    def restart_agent(self) -> None:
        def count(what: str) -> None:
            self.counts[what] += 1
            if what == "starts":
                self.starts.append(self.now)

        self.servers = FakeDhcpServers(self.system, count, lambda: self.now)

    def serve(self, *objects: Object, links: ActualLinks = LINKS, **options: Any) -> None:
        desired = services_of(*objects, **options)
        self.servers.apply(plan_dhcp(desired, self.servers.read(), links))

    def wait(self, seconds: float) -> None:
        """Let time go on from one thing that is due to the next."""
        end = self.now + seconds
        while (due := self.servers.next_due()) is not None and due <= end:
            before = due
            self.now = max(self.now, due)
            self.servers.do_due()
            following = self.servers.next_due()
            assert following is None or following >= before, "it would turn for ever"
            if following == before:
                self.now += 1e-6
        self.now = end
        self.servers.do_due()

    @property
    def process(self) -> FakeProcess:
        (found,) = self.system.processes.values()
        return found

    def trouble(self, number: int = 1) -> str:
        return self.servers.troubles()[network_id(number)][1]


@pytest.fixture
def host() -> Host:
    return Host()


def moved(address: str) -> Object:
    """Instance 2 with an address that was another's."""
    return make_instance(2, vifs=(make_vif(2, fixed_ips=(address,)),))


# --- starting


def test_nothing_is_due_when_everything_is_in_place(host: Host) -> None:
    host.serve(make_network(1), make_instance(1))
    host.wait(1)
    assert host.servers.next_due() is None
    assert host.process.hosts == services_of(make_network(1), make_instance(1))["br1"].hosts


def test_no_more_than_some_are_started_at_once(host: Host) -> None:
    networks = [make_network(number) for number in range(1, 11)]
    host.serve(*networks)
    assert len(host.system.processes) == STARTS_PER_TURN
    due = host.servers.next_due()
    assert due is not None
    assert due <= host.now
    host.servers.do_due()
    assert len(host.system.processes) == 2 * STARTS_PER_TURN
    host.servers.do_due()
    assert len(host.system.processes) == 10


def test_one_that_starts_slowly_is_not_told_to_reload_before_it_is_ready(host: Host) -> None:
    host.system.slow = True
    host.serve(make_network(1))
    host.serve(make_network(1), make_instance(1))
    host.wait(1)
    assert host.process.signals == []
    host.process.begin()
    assert host.process.hosts == "", "what it read when it began"
    host.wait(1)
    assert host.process.signals == [signal.SIGHUP]
    assert "10.1.0.2" in host.process.hosts


def test_one_that_never_writes_its_pid_file_is_taken_for_ready(host: Host) -> None:
    """dnsmasq_config_file may name another."""
    host.system.slow = True
    host.serve(make_network(1))
    host.wait(4)
    assert host.servers.next_due() is not None
    host.wait(2)
    assert host.servers.next_due() is None


def test_without_the_program_it_is_told_and_tried_again(host: Host) -> None:
    host.system.no_program = True
    host.serve(make_network(1))
    assert host.trouble() == "there is no dnsmasq: install dnsmasq-base; next attempt in 0 s"
    host.wait(3)
    host.system.no_program = False
    host.wait(BACK_OFF[-1])
    assert set(host.system.processes) == {"br1"}
    assert host.servers.troubles() == {}


def test_a_file_that_cannot_be_removed_is_tried_again(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.serve(make_network(1))
    host.system.stuck = {("br1", LEASES)}
    host.serve()
    host.wait(STUMBLED / 2)
    assert "dnsmasq of br1 cannot be looked after: [Errno 13] Permission denied: 'br1.leases'" in caplog.text
    assert host.system.processes == {}
    host.serve(make_network(1))
    host.system.stuck = set()
    host.wait(STUMBLED)
    assert set(host.system.processes) == {"br1"}
    assert host.servers.troubles() == {}
    host.serve()
    host.wait(STUMBLED)
    assert not host.system.files


def test_a_disk_that_is_full_is_told_and_tried_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(bridge: str, suffix: str, text: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(host.system, "write", full)
        host.serve(make_network(1))
        assert "No space left" in host.trouble()
    host.wait(BACK_OFF[-1])
    with monkeypatch.context() as patched:
        patched.setattr(host.system, "write", full)
        host.serve(make_network(1), make_instance(1))
        host.wait(1)
        assert "No space left" in host.trouble()
    host.wait(1)
    assert host.servers.troubles() == {}
    assert "10.1.0.2" in host.process.hosts


# --- failing


def test_the_pauses_grow_and_end_with_the_first_success(host: Host) -> None:
    host.system.fail["--interface=br1"] = "bad option at line 3 of /etc/dnsmasq-nova.conf"
    host.serve(make_network(1))
    host.wait(sum(BACK_OFF) + BACK_OFF[-1] + 1)
    pauses = [later - earlier for earlier, later in pairwise(host.starts)]
    assert pauses == pytest.approx([*BACK_OFF, BACK_OFF[-1]], abs=0.02)
    host.servers.do_due()
    assert host.trouble() == (
        "dnsmasq of br1 ended with exit code 1: dnsmasq: bad option at line 3 of /etc/dnsmasq-nova.conf;"
        " next attempt in 29 s"
    )
    host.system.fail.clear()
    host.wait(30)
    assert host.servers.troubles() == {}
    host.wait(STABLE)
    host.system.crash("br1")
    host.servers.do_due()
    assert set(host.system.processes) == {"br1"}, "after a good time it is started at once"


def test_one_that_crashes_soon_after_every_start_is_not_started_without_pause(host: Host) -> None:
    host.serve(make_network(1))
    for pause in BACK_OFF[:6]:
        host.wait(0.1)
        host.system.crash("br1")
        host.servers.do_due()
        if pause:
            assert "was killed by SIGSEGV" in host.trouble()
        host.wait(pause)
        assert set(host.system.processes) == {"br1"}
    pauses = [later - earlier for earlier, later in pairwise(host.starts)]
    assert pauses == pytest.approx([0.1 + pause for pause in BACK_OFF[:6]], abs=0.02)


def test_another_description_is_tried_at_once(host: Host) -> None:
    host.system.fail["/broken"] = "bad option"
    host.serve(make_network(1), dnsmasq_config_file="/broken")
    host.wait(5)
    assert host.system.processes == {}
    host.serve(make_network(1))
    assert set(host.system.processes) == {"br1"}
    assert host.servers.troubles() == {}


def test_a_network_that_goes_while_its_server_fails(host: Host) -> None:
    host.system.fail["--interface=br1"] = "bad option"
    host.serve(make_network(1))
    host.wait(1)
    host.serve()
    assert host.servers.next_due() is None
    assert host.system.files == {}
    assert host.servers.read() == {}


def test_before_a_crashed_one_is_started_its_orphans_are_looked_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    find = host.system.find
    host.serve(make_network(1), make_network(2))
    host.wait(STABLE)
    monkeypatch.setattr(host.system, "find", lambda: found.append(1) or find())  # type: ignore[func-returns-value]
    host.system.crash("br1")
    host.servers.do_due()
    assert len(found) == 1
    host.serve(make_network(1, mtu=1400), make_network(2))
    host.wait(1)
    assert len(found) == 1
    assert set(host.system.processes) == {"br1", "br2"}


# --- ending


def test_one_that_does_not_end_is_killed(host: Host) -> None:
    host.serve(make_network(1))
    host.system.stubborn = True
    host.serve(make_network(1, mtu=1400))
    assert host.process.signals == [signal.SIGTERM]
    host.wait(PATIENCE - 0.1)
    assert len(host.system.started) == 1
    host.wait(0.2)
    assert len(host.system.started) == 2
    assert host.counts == {"starts": 2, "stops": 1}


def test_one_that_ends_is_not_started_for_a_network_that_is_gone(host: Host) -> None:
    host.serve(make_network(1))
    host.system.stubborn = True
    host.serve(make_network(1, mtu=1400))
    host.serve()
    host.wait(PATIENCE + 0.1)
    assert (host.system.processes, host.system.files) == ({}, {})
    assert len(host.system.started) == 1


def test_while_one_ends_the_plan_has_nothing_more_to_do(host: Host) -> None:
    host.serve(make_network(1))
    host.system.stubborn = True
    host.serve(make_network(1, mtu=1400))
    desired = services_of(make_network(1, mtu=1400))
    assert not plan_dhcp(desired, host.servers.read(), LINKS)


def test_one_that_lost_its_bridge_keeps_its_leases_and_comes_back_with_it(host: Host) -> None:
    objects = (make_network(1), make_instance(1))
    host.serve(*objects)
    host.system.lease("br1", ("10.1.0.2", MAC1))
    host.serve(*objects, links=links_of(("eth0", "")))
    assert host.system.processes == {}
    assert host.servers.troubles() == {network_id(1): ("pending", "waits for bridge br1")}
    assert host.servers.next_due() is None
    host.serve(*objects)
    assert host.system.leased("br1") == {"10.1.0.2"}
    assert host.servers.troubles() == {}
    assert host.counts["crashes"] == 0


# --- reloading


def test_reloads_are_not_more_than_five_a_second(host: Host) -> None:
    host.serve(make_network(1))
    host.wait(1)
    objects: list[Object] = [make_network(1)]
    for number in range(1, 101):
        objects.append(make_instance(number))
        host.serve(*objects)
        host.wait(0.02)
    host.wait(RELOAD_PAUSE)
    assert host.process.signals.count(signal.SIGHUP) == 11
    assert host.process.hosts.count("\n") == 100


def test_the_note_of_what_was_not_read_is_there_only_for_a_moment(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.serve(make_network(1))
    seen = []
    signalled = FakeProcess.signal

    def look(process: FakeProcess, number: int) -> None:
        seen.append(("br1", "unread") in host.system.files)
        signalled(process, number)

    monkeypatch.setattr(FakeProcess, "signal", look)
    host.serve(make_network(1), make_instance(1))
    assert seen == [True]
    assert ("br1", "unread") not in host.system.files


def test_one_that_was_found_dying_is_started_though_nobody_told_it(host: Host) -> None:
    """Found running, and dead before the first plan is applied."""
    host.serve(make_network(1))
    host.restart_agent()
    assert host.servers.read()["br1"].arguments is not None
    host.system.crash("br1")
    host.servers.do_due()
    assert host.servers.next_due() is None
    host.serve(make_network(1))
    assert set(host.system.processes) == {"br1"}


# --- leases


def test_an_address_is_free_though_nobody_hears_its_release(host: Host) -> None:
    host.serve(make_network(1), make_instance(1))
    host.system.lease("br1", ("10.1.0.2", MAC1))
    host.system.deaf = True
    host.serve(make_network(1), moved("10.1.0.2"))
    assert host.system.released == [("br1", "10.1.0.1", "10.1.0.2", MAC1)]
    assert host.system.leased("br1") == {"10.1.0.2"}
    host.wait(RELEASE_PAUSE)
    assert host.system.leased("br1") == set()
    assert host.counts == {"starts": 2, "stops": 1, "reloads": 1}
    host.wait(5)
    assert host.counts["starts"] == 2


def test_the_lease_of_one_who_is_gone_is_no_reason_to_restart(host: Host) -> None:
    host.serve(make_network(1), make_instance(1))
    host.system.lease("br1", ("10.1.0.2", MAC1), ("fd00:1::2", MAC1))
    host.system.deaf = True
    host.serve(make_network(1))
    host.wait(5)
    assert host.counts == {"starts": 1, "reloads": 1}
    host.serve(make_network(1), moved("10.1.0.2"))
    host.wait(5)
    assert host.system.leased("br1") == set(), "now it is"


def test_a_lease_file_that_is_being_written_is_looked_at_again(host: Host) -> None:
    host.serve(make_network(1), make_instance(1))
    host.system.lease("br1", ("10.1.0.2", MAC1))
    host.system.busy = True
    host.serve(make_network(1))
    host.wait(QUIET * 3)
    assert host.system.released == []
    host.system.busy = False
    host.wait(QUIET)
    assert [each[2] for each in host.system.released] == ["10.1.0.2"]


def test_a_lease_that_is_not_written_yet_is_waited_for(host: Host) -> None:
    host.serve(make_network(1), make_instance(1))
    host.process.at_work = True
    host.serve(make_network(1), moved("10.1.0.2"))
    host.wait(QUIET * 3)
    assert host.system.released == []
    host.system.files["br1", LEASES] = f"1795411200 {MAC1} 10.1.0.2 * 01:{MAC1}\n"
    host.process.at_work = False
    host.wait(QUIET)
    assert [each[2] for each in host.system.released] == ["10.1.0.2"]
    assert host.system.leased("br1") == set()


def test_a_lease_file_that_is_always_written_is_taken_as_it_is_in_the_end(host: Host) -> None:
    host.serve(make_network(1), make_instance(1))
    host.system.lease("br1", ("10.1.0.2", MAC1))
    host.system.busy = True
    host.serve(make_network(1))
    host.wait(QUIET * (LOOKS + 2))
    assert [each[2] for each in host.system.released] == ["10.1.0.2"]
    assert host.servers.next_due() is None


def test_two_reloads_that_share_a_look_at_the_leases(host: Host) -> None:
    """The address was taken away in the first, and given to another in the second."""
    host.serve(make_network(1), make_instance(1))
    host.system.lease("br1", ("fd00:1::2", MAC1))
    host.system.busy = True
    host.serve(make_network(1), make_instance(3))
    host.wait(RELOAD_PAUSE / 2)
    host.serve(make_network(1), moved("fd00:1::2"))
    host.wait(RELOAD_PAUSE / 2)
    host.system.busy = False
    host.wait(1)
    assert host.system.leased("br1") == set()


def test_a_release_is_enforced_for_one_who_does_not_run(host: Host) -> None:
    objects = (make_network(1), make_instance(1))
    host.serve(*objects)
    host.system.lease("br1", ("10.1.0.2", MAC1))
    host.serve(*objects, links=links_of(("eth0", "")))
    host.servers.release("br1", "10.1.0.2", MAC1)
    host.serve(*objects)
    assert host.system.leased("br1") == set()


def test_closing_leaves_them_running(host: Host) -> None:
    host.serve(make_network(1))
    service: DhcpService = services_of(make_network(1))["br1"]
    host.servers.close()
    assert host.process.arguments == service.arguments
