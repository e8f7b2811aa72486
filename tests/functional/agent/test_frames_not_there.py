"""A kernel that cannot judge frames: it is said, at start and for as long as it is so; everything else holds."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nova_netagent.testing import make_group, make_instance, make_network, make_rule
from tests.functional.agent.frameless_agent import REASON
from tests.functional.agent.kernel import cleanup, ctl
from tests.functional.agent.site import Site
from tests.lab import Agent, Forged, Lab, Namespace, Udp, arp_request, arrives, needs, refused

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "setgroups")


class Frameless(Agent):
    """The daemon, by a program that takes frames from it."""

    def __init__(self, namespace: Namespace, directory: Path, config: dict[str, dict[str, str]]) -> None:
        command = [sys.executable, str(Path(__file__).with_name("frameless_agent.py"))]
        super().__init__(namespace, directory, config, command=command)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[Site]:
    with Lab(tmp_path_factory.mktemp("frameless")) as lab:
        made = Site(lab, kind=Frameless, backend=backend)
        rules = (make_rule(1), make_rule(2, ethertype="IPv6"))
        made.describe(make_group(1, *rules), make_instance(1, (1,)), make_instance(2, (1,)))
        yield made


def test_it_is_said_at_start_and_in_the_status(site: Site) -> None:
    (line,) = (line for line in site.agent.log.splitlines() if "frames are not judged" in line)
    assert " WARNING " in line
    assert line.endswith(REASON)
    report = site.agent.request("GET", "/v1/status")[1]
    assert report["enforcing"]
    (warning,) = report["warnings"]
    assert warning.startswith("frames are not judged, so that instances can lie in ARP")
    assert warning.endswith(REASON)
    assert f"warning    {warning}\n" in ctl(site.agent, "status")


def test_what_iptables_sees_is_judged_all_the_same(site: Site) -> None:
    assert site.passes(site.vm1, site.vm2, Udp(53))
    assert site.stops(site.vm1, site.vm2, Forged(Udp(53), source="10.1.0.99"))
    assert arrives(site.vm1, site.vm2, arp_request(site.vm1, wanted=site.vm2.ip4, claimed="10.1.0.1"))


def test_plan_resync_and_cleanup_work(site: Site) -> None:
    assert ctl(site.agent, "plan") == "nothing to change\n"
    site.put(make_network(3))
    site.agent.resync()
    site.agent.stop()
    assert "bridge nova-netagent: " not in cleanup(site.agent)
    assert refused(site.vm1, site.vm2, Udp(53))
    site.agent.start()
    assert site.passes(site.vm1, site.vm2, Udp(53))
