"""What the engine tells of itself, and what it asks, however many changes it serves."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from nova_netagent.backend.fake import FakeBackend
from nova_netagent.engine import schedule
from nova_netagent.engine.requests import Wake
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import TableId
from nova_netagent.testing import make_group, make_network, make_rule
from tests.properties.host import SETTINGS, Host


class Telling(FakeBackend):
    """A packet filter that tells whether somebody meddled, and counts who asks."""

    def __init__(self) -> None:
        super().__init__(owns_set=Owner(SETTINGS.firewall.wrap_name).owns_set)
        self.asked = 0
        self.was_meddled_with = False

    def meddled(self) -> bool:
        self.asked += 1
        found, self.was_meddled_with = self.was_meddled_with, False
        return found


def test_whoever_waits_for_the_start_is_told_once(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert (host.progress, host.engine.view.ready) == (1, True)
    host.put(make_network(1))
    host.put(make_network(1, label="another"))
    host.engine.resync()
    assert host.progress == 1
    host.restart()
    assert host.progress == 1, "of the new life"


def test_whoever_waits_for_the_end_is_told(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.engine.close()
    host.engine.stop()
    host.engine.run()
    assert host.progress == 2, "ready, and at the end"


def test_a_start_that_fails_tells_no_progress_until_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "RETRY_FIRST", 0.0)
    backend = Telling()
    backend.unavailable = 1
    host = Host(tmp_path, backend=backend)
    assert (host.progress, host.engine.view.ready) == (0, False)
    host.engine.serve([])
    assert (host.progress, host.engine.view.ready) == (1, True)


def test_the_kernel_is_not_asked_once_more_for_each_change_whether_somebody_meddled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "LOOK_SECONDS", 3600.0)
    backend = Telling()
    host = Host(tmp_path, backend=backend)
    for number in range(1, 9):
        host.put(make_group(1, make_rule(number)))
    assert backend.asked == 1


def test_what_somebody_changed_is_repaired_when_they_have_had_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(schedule, "MEDDLING_SECONDS", 0.0)
    backend = Telling()
    host = Host(tmp_path, backend=backend)
    host.put(make_network(1))
    whole = host.kernel()
    backend.change(TableId(4, "nat"), "nova-netagent-snat", [])
    host.engine.serve([])
    assert host.kernel() != whole, "nobody told"
    backend.was_meddled_with = True
    host.engine.serve([])
    assert host.kernel() == whole


def test_a_reload_and_an_address_that_came_do_not_undo_each_other(tmp_path: Path) -> None:
    """Both come from the main thread, before the engine has turned."""
    host = Host(tmp_path)
    moved = replace(SETTINGS, my_ip="192.0.2.11")
    host.engine.move(moved)
    paused = replace(moved, firewall=replace(moved.firewall, coalesce_interval=3.0))
    assert host.engine.reconfigure(paused) == []
    host.engine.serve([Wake()])
    found = host.engine.inspect()
    assert found.settings == paused
    assert host.engine._compiler.settings.my_ip == "192.0.2.11"
