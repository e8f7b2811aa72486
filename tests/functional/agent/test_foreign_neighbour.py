"""Another agent of nova's kind on the same host: two chains are shared, and each keeps to its own jump in them."""

from pathlib import Path
from typing import Any

import pytest

from nova_netagent.testing import make_network
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.foreign import NOVA_COMPUTE
from tests.functional.agent.forkserver import ForkedAgent
from tests.functional.agent.kernel import chains, cleanup, kernel
from tests.functional.agent.test_foreign_rules import counts, order_in, plain, restore, saved, use
from tests.functional.conftest import ON_IPTABLES
from tests.lab import Lab, Namespace, iptables, needs

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter")


@pytest.fixture
def host(lab: Lab) -> Namespace:
    """A host where nova-compute is."""
    host = lab.host()
    restore(host, NOVA_COMPUTE)
    return host


Counted = dict[tuple[str, str], int]


def theirs(host: Namespace) -> Counted:
    """The neighbour's rules and those that lead to the shared chains, with the packets that they counted."""
    lines = [(name, line) for (family, name), lines in saved(host).items() for line in lines if family == 4]
    return {(name, plain(line)): counts(line)[0] for name, line in lines if line[0] == "[" and "netagent" not in line}


def intact(before: Counted, host: Namespace) -> bool:
    now = theirs(host)
    assert all(now[line] >= packets for line, packets in before.items())
    return True


def test_nothing_of_theirs_is_changed_and_no_counter_goes_back(lab: Lab, host: Namespace, backend: str) -> None:
    before = theirs(host)
    cloud = Cloud(lab, host=host, backend=backend)
    assert intact(before, host)
    use(cloud)
    cloud.agent.kill9()
    cloud.agent.start()
    cloud.agent.resync()
    assert intact(before, host)


@ON_IPTABLES
def test_the_shared_snat_stays_behind_their_exemptions(lab: Lab, host: Namespace) -> None:
    """As in nova: nova-postrouting-bottom is there so that SNAT comes after everybody's POSTROUTING."""
    cloud = Cloud(lab, host=host)
    expected = ["nova-netagent-POSTROUTING", "nova-compute-POSTROUTING", "nova-postrouting-bottom"]
    assert order_in(host, "nat", "POSTROUTING") == [f"-j {name}" for name in expected]
    assert cloud.agent.resync()["repaired"] == []
    assert order_in(host, "filter", "FORWARD")[:2] == ["-j nova-filter-top", "-j nova-netagent-FORWARD"]
    assert sorted(order_in(host, "filter", "nova-filter-top")) == ["-j nova-compute-local", "-j nova-netagent-local"]


def test_cleanup_leaves_everything_of_theirs_where_it_was(lab: Lab, host: Namespace, backend: str) -> None:
    before, whole = saved(host), kernel(host)
    cloud = Cloud(lab, host=host, backend=backend)
    use(cloud)
    cloud.agent.stop()
    cleanup(cloud.agent)
    assert [[plain(x) for x in lines] for lines in saved(host).values()] == [
        [plain(x) for x in lines] for lines in before.values()
    ]
    for name in ("tap1", "tap2"):
        host.links.delete(name)
    assert kernel(host) == whole


@ON_IPTABLES
def test_when_they_come_later_and_we_go_first(lab: Lab) -> None:
    host = lab.host()
    cloud = Cloud(lab, host=host)
    iptables(host, "-N nova-compute-local")
    iptables(host, "-A nova-filter-top -j nova-compute-local")
    iptables(host, "-t nat -N nova-compute-snat")
    iptables(host, "-t nat -A nova-postrouting-bottom -j nova-compute-snat")
    assert cloud.agent.resync()["repaired"] == []
    cloud.agent.stop()
    cleanup(cloud.agent)
    assert order_in(host, "filter", "FORWARD") == ["-j nova-filter-top"]
    assert order_in(host, "filter", "OUTPUT") == ["-j nova-filter-top"]
    assert order_in(host, "filter", "nova-filter-top") == ["-j nova-compute-local"]
    assert order_in(host, "nat", "POSTROUTING") == ["-j nova-postrouting-bottom"]
    assert order_in(host, "nat", "nova-postrouting-bottom") == ["-j nova-compute-snat"]


@ON_IPTABLES
def test_when_they_go_first(lab: Lab, host: Namespace) -> None:
    cloud = Cloud(lab, host=host)
    iptables(host, "-D nova-filter-top -j nova-compute-local")
    cloud.agent.resync()
    assert order_in(host, "filter", "nova-filter-top") == ["-j nova-netagent-local"]
    cloud.agent.stop()
    cleanup(cloud.agent)
    assert "nova-filter-top" not in str(saved(host)[4, "filter"])
    assert "nova-postrouting-bottom" in str(saved(host)[4, "nat"])


def test_two_of_us_with_different_names(lab: Lab, tmp_path: Path, backend: str) -> None:
    host = lab.host()
    before = kernel(host)
    first = Cloud(lab, host=host, backend=backend)
    config: dict[str, dict[str, Any]] = {
        "firewall": {"wrap_name": "second", "backend": backend},
        "network": {"manage_links": False},
    }
    second = ForkedAgent(host, tmp_path / "second", config)
    lab.agents.append(second)
    second.start()
    use(first)
    second.put("networks", {"id": make_network(5).id, "label": "five", "bridge": "br5", "cidr": "10.5.0.0/24"})
    assert {"nova-netagent-local", "second-local"} <= chains(host)
    if backend == "iptables":
        with_both = order_in(host, "filter", "nova-filter-top")
        assert sorted(with_both) == ["-j nova-netagent-local", "-j second-local"]
    first.agent.stop()
    cleanup(first.agent)
    left = str(kernel(host))
    assert "nova-netagent-" not in left
    assert " nova-netagent'" not in left, "a table"
    assert second.resync()["repaired"] == []
    second.stop()
    cleanup(second)
    for name in ("tap1", "tap2"):
        host.links.delete(name)
    assert kernel(host) == before
