"""Killed between any two messages to the kernel, the next start finishes what was begun, and nothing is lost.

The agent is killed at random elsewhere; here at every instant that there is, one after the other.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.backend.links import adapter, holdings
from nova_netagent.testing import make_network
from tests.functional.links.held import furnish, held
from tests.functional.links.test_contract import Inside
from tests.lab import Lab, Namespace, needs
from tests.properties.host import Host

pytestmark = needs("bridge", "ipv6", "program:ip")

FLAT = make_network(1, bridge_interface="eth0")
OURS = ["10.1.0.1/24", "fd00:1::1/64"]


class Killed(BaseException):
    """What nothing of ours catches."""


class Fuse:
    """Lets so many messages pass, and then kills; ``left`` is what of them was not sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 10**9
        for place, name in ((holdings, "_send"), (holdings, "_learn"), (adapter.KernelLinks, "_set"),
                            (adapter.KernelLinks, "_remove"), (adapter.KernelLinks, "_write_sysctls")):  # fmt: skip
            monkeypatch.setattr(place, name, self._guarded(getattr(place, name)))

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.left == 0:
                raise Killed
            self.left -= 1
            return function(*args, **kwargs)

        return guarded


@pytest.fixture
def namespace(lab: Lab) -> Namespace:
    host = lab.host()
    furnish(host)
    return host


@pytest.fixture
def host(namespace: Namespace, tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path, open_links=lambda: Inside(namespace))
    yield made
    made.engine.close()


def until_it_lives(fuse: Fuse, host: Host, change: Callable[[], object], undo: Callable[[], object],
                   check: Callable[[], None]) -> int:  # fmt: skip
    """Kill at the first message, then at the second and so on; start again and look each time."""
    for instant in range(200):
        fuse.left = instant
        try:
            change()
        except Killed:
            pass
        else:
            fuse.left = 10**9
            return instant
        fuse.left = 10**9
        host.restart()
        check()
        undo()
    raise AssertionError("it never came to an end")


def test_at_every_instant_of_joining_and_of_leaving(
    namespace: Namespace, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, fuse = held(namespace, "eth0"), Fuse(monkeypatch)

    def is_joined() -> None:
        assert held(namespace, "eth0") == ([], [])
        assert held(namespace, "br1", without=OURS) == before

    def is_free() -> None:
        assert not namespace.links.exists("br1")
        assert held(namespace, "eth0") == before
        assert namespace.links.all()["eth0"]["master"] is None

    def join() -> None:
        host.put(FLAT)

    def leave() -> None:
        host.delete(FLAT)

    instants = until_it_lives(fuse, host, join, leave, is_joined)
    is_joined()
    instants += until_it_lives(fuse, host, leave, join, is_free)
    is_free()
    assert instants > 40


def test_at_every_instant_of_making_a_bridge_anew(
    namespace: Namespace, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, fuse = held(namespace, "eth0"), Fuse(monkeypatch)
    host.put(FLAT)

    def repair() -> None:
        namespace.links.delete("br1")
        host.engine.resync()

    def is_as_before() -> None:
        assert held(namespace, "eth0") == ([], [])
        assert held(namespace, "br1", without=OURS) == before

    assert until_it_lives(fuse, host, repair, lambda: None, is_as_before) > 15
    is_as_before()
