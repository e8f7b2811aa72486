"""A kernel without legacy tables: nftables is found, and whoever asks for iptables is told."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nova_netagent.testing import make_group, make_instance, make_network, make_rule
from tests.functional.agent.cloud import CONFIG
from tests.functional.agent.site import Site
from tests.lab import Agent, Forged, Lab, Namespace, Udp, needs
from tests.lab.agent import REPOSITORY

pytestmark = needs("nftables", "br_netfilter", "bridge", "program:nft", "setgroups")

PROGRAM = [sys.executable, str(Path(__file__).with_name("legacyless.py"))]


class Legacyless(Agent):
    """The daemon on such a kernel."""

    def __init__(self, namespace: Namespace, directory: Path, config: dict[str, dict[str, str]]) -> None:
        super().__init__(namespace, directory, config, command=[*PROGRAM, "nova_netagent.cmd.agent"])

    def ctl(self, *words: str) -> str:
        """What ``netagentctl`` says there."""
        argv = [*PROGRAM, "nova_netagent.cmd.ctl", "--config-file", str(self.config_file), *words]
        return self.namespace.run(argv, cwd=REPOSITORY).stdout


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Lab(tmp_path_factory.mktemp("legacyless")) as lab:
        made = Site(lab, kind=Legacyless, backend="auto")
        rules = (make_rule(1), make_rule(2, ethertype="IPv6"))
        made.describe(
            make_group(1, *rules), make_instance(1, (1,)), make_instance(2, (1,)), make_instance(3, network=2)
        )
        yield made


def test_nftables_is_found_and_everything_holds(site: Site) -> None:
    agent = site.agent
    assert isinstance(agent, Legacyless)
    assert "this kernel has no legacy tables loaded" in agent.log
    report = agent.request("GET", "/v1/status")[1]
    assert (report["backend"], report["enforcing"], report["warnings"]) == ("nftables", True, [])
    for family in (4, 6):
        assert site.passes(site.vm1, site.vm2, Udp(53, family=family))
        assert site.stops(site.vm1, site.vm3, Udp(53, family=family))
    assert site.stops(site.vm1, site.vm2, Forged(Udp(53), source="10.1.0.99"))
    site.put(make_network(3))
    assert agent.resync()["repaired"] == []
    assert "DROP" in agent.ctl("explain", "--proto", "udp", "--src", "10.1.0.2:4000", "--dst", "10.2.0.4:53")
    agent.restart()
    agent.stop()
    assert "nova-netagent-local" in agent.ctl("cleanup")
    assert agent.ctl("cleanup") == "there was nothing of ours\n"


def test_who_asks_for_iptables_is_told_that_there_is_none(lab: Lab, tmp_path: Path) -> None:
    config = {**CONFIG, "firewall": {"backend": "iptables"}}
    agent = Legacyless(lab.host(), tmp_path / "iptables", config)
    lab.agents.append(agent)
    agent.start(ready=False)
    assert agent.wait() == 1
    assert "[firewall] backend = iptables: this kernel lacks a table of IPv4 filter" in agent.log_end(50)
