"""The lock that iptables takes: both ways."""

import fcntl
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from nova_netagent.backend import Unavailable
from nova_netagent.backend.iptables import IptablesBackend
from nova_netagent.netfilter.rule import DROP, Rule
from nova_netagent.plan.tables import Insert, TablePlan
from tests.functional.backend.legacy import FILTER, encoded, iptables, new_backend, save

LOCK = "/run/xtables.lock"


@contextmanager
def held() -> Iterator[int]:
    """Somebody else holds the lock."""
    descriptor = os.open(LOCK, os.O_RDONLY | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def iptables_kept_out() -> Iterator[None]:
    """An iptables that starts now gets nowhere within the block, and does its work after it."""
    waiting = subprocess.Popen(["iptables-legacy", "-w", "-A", "INPUT", "-j", "DROP"])
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.1)
    yield
    assert waiting.wait(10) == 0


def test_iptables_is_kept_out_while_we_hold_it(backend: IptablesBackend) -> None:
    with ExitStack() as stack, backend.locked():
        stack.enter_context(iptables_kept_out())
        assert save(FILTER) == []
    assert save(FILTER) == ["-A INPUT -j DROP"]


def test_what_is_held_may_be_held_again(backend: IptablesBackend) -> None:
    with ExitStack() as stack, backend.locked():
        with backend.locked():
            pass
        stack.enter_context(iptables_kept_out())


def test_a_timeout_says_what_and_who(backend: IptablesBackend) -> None:
    backend = new_backend(lock_timeout=0.02)
    with held(), pytest.raises(Unavailable, match=rf"{LOCK}.*0\.02 s.*pid {os.getpid()}"), backend.locked():
        pass
    assert backend.lock_wait > 0
    with backend.locked():
        pass


def test_a_commit_takes_the_lock_by_itself(backend: IptablesBackend) -> None:
    backend = new_backend(lock_timeout=0.02)
    (key,) = encoded(backend, FILTER, [Rule(DROP)])
    backend.read(FILTER, fresh=True)
    plan = TablePlan(FILTER, (Insert("INPUT", 0, key),))
    with held(), pytest.raises(Unavailable):
        backend.apply(plan)
    assert save(FILTER) == []
    backend.apply(plan)
    assert save(FILTER) == ["-A INPUT -j DROP"]


def test_waiting_ends_when_the_holder_lets_go(backend: IptablesBackend) -> None:
    with held() as descriptor:
        release = threading.Timer(0.01, lambda: fcntl.flock(descriptor, fcntl.LOCK_UN))
        release.start()
        with backend.locked():
            assert backend.lock_wait > 0
        release.join()


def test_the_lock_is_made_if_it_is_not_there(backend: IptablesBackend) -> None:
    Path(LOCK).unlink(missing_ok=True)
    with backend.locked():
        assert Path(LOCK).stat().st_mode & 0o777 == 0o600
    iptables(FILTER, "-A INPUT -j DROP")


def test_the_environment_names_another_file(
    backend: IptablesBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    with ExitStack() as stack, backend.locked():
        stack.enter_context(iptables_kept_out())


def test_a_lock_that_cannot_be_opened_is_reported(
    backend: IptablesBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "nowhere" / "lock"))
    with pytest.raises(Unavailable, match="nowhere"), backend.locked():
        pass
