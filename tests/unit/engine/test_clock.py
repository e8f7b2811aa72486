"""The host's clock is set while the agent runs, or while it does not: a deletion is remembered for seven days."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nova_netagent.events import Delete, LateRevision
from nova_netagent.testing import make_group
from tests.properties.host import Host

DAY = 86400.0
YEAR = 365 * DAY


@pytest.fixture
def pass_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Have seconds go by, whatever the clock says."""
    monotonic, passed = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + sum(passed))
    return passed.append


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.clock = 50 * YEAR
    made.restart()
    return made


def bury(host: Host, number: int = 1) -> None:
    """Delete a group with a revision."""
    host.send(Delete("security_groups", make_group(number).id, revision=5))


def refuses(host: Host, number: int = 1) -> bool:
    """Whether an update that is behind a deletion is refused."""
    try:
        host.put(make_group(number, revision=4))
    except LateRevision:
        return True
    host.delete(make_group(number))
    return False


@pytest.mark.parametrize("step", [-YEAR, DAY, YEAR])
def test_a_deletion_is_remembered_for_seven_days_however_the_clock_is_set(
    host: Host, pass_by: Callable[[float], None], step: float
) -> None:
    bury(host, 1)
    host.clock += step
    bury(host, 2)
    pass_by(6.9 * DAY)
    assert (refuses(host, 1), refuses(host, 2)) == (True, True)
    pass_by(0.2 * DAY)
    assert (refuses(host, 1), refuses(host, 2)) == (False, False)


def test_what_was_deleted_while_the_clock_was_behind_is_remembered_when_it_is_right(host: Host) -> None:
    bury(host, 1)
    host.clock -= YEAR
    host.restart()
    bury(host, 2)
    host.clock += YEAR
    assert refuses(host, 2)
    host.restart()
    assert (refuses(host, 1), refuses(host, 2)) == (True, True)


def test_a_deletion_from_after_now_is_forgotten_in_seven_days(host: Host, pass_by: Callable[[float], None]) -> None:
    host.clock += YEAR
    host.restart()
    bury(host)
    host.clock -= YEAR
    host.restart()
    pass_by(6.9 * DAY)
    assert refuses(host)
    pass_by(0.2 * DAY)
    assert not refuses(host)


def test_a_deletion_grows_old_while_no_agent_runs(host: Host) -> None:
    bury(host)
    host.clock += 8 * DAY
    host.restart()
    assert not refuses(host)
