"""What an agent opens of a host is closed with it."""

import json
import sys
from collections.abc import Callable

import pytest

from tests.lab import Namespace, needs

pytestmark = needs("iptables", "ipset", "nftables", "program:nft")

OURS = (
    ["iptables-legacy", "-N", "nova-netagent-INPUT"],
    ["nft", "add table ip nova-netagent"],
)


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_host_that_is_closed_leaves_nothing_open(new_namespace: Callable[[str], Namespace], backend: str) -> None:
    namespace = new_namespace("closed")
    for command in OURS:
        namespace.run(command)
    done = namespace.run([sys.executable, "-m", "tests.functional.backend.closing", backend])
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["after"] == found["before"]
