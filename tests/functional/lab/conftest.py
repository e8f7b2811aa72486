"""The labs that the lab's own tests share."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest

from tests.lab import Lab, Namespace, iptables

Dropping = Callable[..., AbstractContextManager[None]]


@dataclass
class Bridged:
    """A host with a bridge, two instances on it, and the outside."""

    lab: Lab
    host: Namespace
    vm1: Namespace
    vm2: Namespace
    outside: Namespace

    @contextmanager
    def dropping(self, rule: str, *, at: Namespace | None = None) -> Iterator[None]:
        """Drop what the rule names, in both families where it exists in both."""
        families = (4,) if "icmp " in f"{rule} " or "." in rule else (6,) if "icmpv6" in rule else (4, 6)
        for family in families:
            iptables(at or self.host, f"-I {rule} -j DROP", family=family)  # type: ignore[arg-type]
        yield
        for family in families:
            iptables(at or self.host, f"-D {rule} -j DROP", family=family)  # type: ignore[arg-type]


@pytest.fixture
def bridged(lab: Lab) -> Bridged:
    """Instances on a bridge of a routing host, unfiltered."""
    host = lab.host()
    lab.bridge(host)
    return Bridged(lab, host, lab.instance(host, bridge="br100"), lab.instance(host, bridge="br100"), lab.outside)


@pytest.fixture(params=[4, 6])
def family(request: pytest.FixtureRequest) -> int:
    """Both families, one after the other."""
    return int(request.param)
