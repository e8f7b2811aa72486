"""[security_group_log]: what groups let in and out, and what none does, in a file."""

import gzip
import itertools
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nova_netagent.testing import group_id, make_group, make_instance, make_rule
from nova_netagent.testing import instance_id as id_of
from tests.functional.agent.conftest import SiteMaker
from tests.functional.agent.kernel import eventually
from tests.functional.agent.nflog import heard_by_another
from tests.functional.agent.site import Site
from tests.lab import Namespace, Tcp, Udp, needs
from tests.lab.agent import REPOSITORY

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

WEB = make_group(
    1,
    make_rule(1, protocol="tcp", port_range_min=80, port_range_max=80),
    make_rule(2, protocol="tcp", port_range_min=443, port_range_max=443, remote_ip_prefix="192.0.2.0/24"),
    make_rule(3, ethertype="IPv6", protocol="tcp", port_range_min=80, port_range_max=80),
    make_rule(4, protocol="tcp", port_range_min=81, port_range_max=90),
    make_rule(5, direction="egress", protocol="tcp", port_range_min=25, port_range_max=25),
)
QUIET = make_group(2, make_rule(11, protocol="udp"))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("log")
    directory.chmod(0o777)  # the agent may be another user
    return directory / "groups.log"


@pytest.fixture(scope="module")
def logging(make_site: SiteMaker, log: Path, backend: str) -> Site:
    log.unlink(missing_ok=True)
    site = make_site({"security_group_log": {"groups": [group_id(1)], "file": log}})
    site.describe(WEB, QUIET, make_instance(1, (1,)), make_instance(2, (2,)))
    return site


def told(log: Path, act: Callable[[], object], lines: int = 1) -> list[str]:
    """What is written while something is done, without the time."""

    def whole() -> list[str]:
        lines = log.read_text().splitlines() if log.exists() else []
        return [each for each in lines if "dst=ff" not in each]  # nobody asked for their own multicast

    before = len(whole())
    act()

    def new() -> list[str]:
        return whole()[before:]

    eventually(lambda: len(new()) >= lines, 5)
    found = new()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", each) for each in found)
    return [each.partition(" ")[2] for each in found]


def sent(site: Site, sender: Namespace, receiver: Namespace, probe: Tcp | Udp, *, passes: bool) -> Callable[[], None]:
    def act() -> None:
        site.forget_flows()
        assert bool(site.judge(sender, receiver, probe)) == passes

    return act


@pytest.mark.parametrize(("port", "rule"), [(80, 1), (443, 2), (85, 4)])
def test_what_a_group_lets_in(logging: Site, log: Path, port: int, rule: int) -> None:
    site = logging
    (line,) = told(log, sent(site, site.outside, site.vm1, Tcp(port, source_port=4000 + port), passes=True))
    rule_id = next(each.id for each in WEB.rules if each.id == make_rule(rule).id)
    assert line == (
        f"ACCEPT ingress group={group_id(1)} rule={rule_id} instance={id_of(1)} proto=tcp"
        f" src=192.0.2.1:{4000 + port} dst=10.1.0.2:{port}"
    )


def test_over_ipv6(logging: Site, log: Path) -> None:
    site = logging
    (line,) = told(log, sent(site, site.outside, site.vm1, Tcp(80, family=6, source_port=4001), passes=True))
    assert line.startswith(
        f"ACCEPT ingress group={group_id(1)} rule={make_rule(3).id} instance={id_of(1)} proto=tcp src=["
    )


def test_what_no_group_lets_in(logging: Site, log: Path) -> None:
    site = logging
    (line,) = told(log, sent(site, site.outside, site.vm1, Tcp(22, source_port=4002), passes=False))
    assert line == (
        f"DROP ingress group={group_id(1)} rule=none instance={id_of(1)} proto=tcp src=192.0.2.1:4002 dst=10.1.0.2:22"
    )


def test_what_is_sent(logging: Site, log: Path) -> None:
    site = logging
    (line,) = told(log, sent(site, site.vm1, site.outside, Tcp(25, source_port=4003), passes=True))
    assert line.startswith(f"ACCEPT egress group={group_id(1)} rule={make_rule(5).id} instance={id_of(1)} proto=tcp")
    (line,) = told(log, sent(site, site.vm1, site.outside, Tcp(26, source_port=4004), passes=False))
    assert line.startswith(f"DROP egress group={group_id(1)} rule=none instance={id_of(1)} proto=tcp")


def test_other_groups_are_not_logged(logging: Site, log: Path) -> None:
    site = logging

    def act() -> None:
        sent(site, site.outside, site.vm2, Udp(53), passes=True)()
        sent(site, site.outside, site.vm2, Tcp(22), passes=False)()
        sent(site, site.outside, site.vm1, Tcp(80), passes=True)()

    (line,) = told(log, act)
    assert id_of(1) in line


def test_a_file_that_is_moved_away_is_begun_anew(logging: Site, log: Path) -> None:
    site = logging
    told(log, sent(site, site.outside, site.vm1, Tcp(80), passes=True))
    moved = log.with_suffix(".1")
    log.rename(moved)
    (line,) = told(log, sent(site, site.outside, site.vm1, Tcp(81), passes=True))
    assert line.startswith("ACCEPT")
    log.unlink()
    log.mkdir()  # and what cannot be written costs nothing but the lines
    sent(site, site.outside, site.vm1, Tcp(82), passes=True)()
    log.rmdir()
    assert told(log, sent(site, site.outside, site.vm1, Tcp(83), passes=True))


@pytest.mark.skipif(shutil.which("logrotate") is None, reason="logrotate(8) is not installed")
def test_the_packages_logrotate_loses_no_line(make_site: SiteMaker, tmp_path: Path) -> None:
    """Rotated again and again, while packets are logged."""
    directory = tmp_path / "log"
    directory.mkdir()
    directory.chmod(0o777)  # the agent may be another user
    tmp_path.chmod(0o755)
    file = directory / "groups.log"
    site = make_site({"security_group_log": {"groups": ["all"], "verdicts": "drop", "rate": 10000, "file": file}})
    text = (REPOSITORY / "packaging" / "logrotate").read_text()
    text = text.replace("/var/log/nova-netagent", str(directory)).replace(
        "su nova-netagent nova-netagent", "su root root"
    )
    (tmp_path / "rotate.conf").write_text(text)
    (tmp_path / "rotate.conf").chmod(0o644)
    site.describe(WEB, make_instance(1, (1,)))
    rotate = ["logrotate", "--force", "--state", str(tmp_path / "state"), str(tmp_path / "rotate.conf")]
    for _ in range(5):
        flood(site, 100)
        subprocess.run(rotate, check=True, capture_output=True)
    flood(site, 100)

    def lines() -> int:
        kept = [gzip.decompress(each.read_bytes()) for each in directory.glob("*.gz")]
        return b"".join([*kept, *(each.read_bytes() for each in directory.glob("*") if each.suffix != ".gz")]).count(
            b"DROP"
        )

    eventually(lambda: lines() == 600, 5)
    assert len(list(directory.glob("groups.log.*.gz"))) >= 2
    assert "cannot be written" not in site.agent.log


def test_no_more_than_its_rate(make_site: SiteMaker, log: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    file = tmp_path / "slow.log"
    site = make_site({"security_group_log": {"groups": ["all"], "verdicts": "drop", "rate": 4, "file": file}})
    site.describe(WEB, make_instance(1, (1,)))
    send = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    send += "for _ in range(300): s.sendto(b'x', ('10.1.0.2', 53))"
    lines = told(file, lambda: site.outside.run(["python3", "-c", send]), 4)
    assert all(each.startswith("DROP ingress") for each in lines)
    assert len(lines) <= 12
    assert bool(site.judge(site.outside, site.vm1, Tcp(80)))
    assert not any("ACCEPT" in each for each in file.read_text().splitlines())


def kept_out(site: Site) -> dict[str, int]:
    """What the metrics say of the log."""
    text = str(site.agent.request("GET", "/metrics")[1])
    found = re.findall(r'netagent_security_group_log_packets_total{result="(\w+)"} (\d+)', text)
    return {result: int(number) for result, number in found}


def flood(site: Site, count: int) -> None:
    """So many packets from outside to where no group lets them in."""
    site.outside.run(
        [
            "python3",
            "-c",
            "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            f"for _ in range({count}): s.sendto(b'x', ('10.1.0.2', 53))",
        ]
    )


def test_every_packet_is_counted_once(make_site: SiteMaker, tmp_path: Path) -> None:
    """Logged, kept out by the rate, lost by an agent that was too slow, or unwritten: together all that there were."""
    tmp_path.chmod(0o777)
    file = tmp_path / "groups.log"
    options = {"groups": ["all"], "verdicts": "drop", "rate": 10000, "file": file}
    site = make_site({"security_group_log": options})
    site.describe(WEB, make_instance(1, (1,)))
    site.agent.resync()  # from now on it is known what was kept out
    before = kept_out(site)
    site.agent.signal(signal.SIGSTOP)
    flood(site, 40_000)
    site.agent.signal(signal.SIGCONT)
    sent = itertools.count(40_001)

    def counted() -> bool:
        flood(site, 1)  # whose number tells what was lost before
        number = next(sent)
        site.agent.resync()
        now = kept_out(site)
        found = {result: now.get(result, 0) - before.get(result, 0) for result in ("logged", "lost", "limited")}
        return sum(found.values()) == number and all(found.values())

    eventually(counted, 5)
    lines = file.read_text().splitlines()
    lost = [each for each in lines if " LOST " in each]
    assert sum(int(each.split()[2]) for each in lost) == kept_out(site)["lost"]
    assert len(lines) - len(lost) == kept_out(site)["logged"]


def test_a_log_that_cannot_be_written_is_told_of_at_the_start(make_site: SiteMaker, tmp_path: Path) -> None:
    site = make_site({"security_group_log": {"groups": ["all"], "file": "/nowhere/groups.log"}})
    said = (
        "[security_group_log] file: the log of security groups cannot be written: [Errno 2] No such file or directory"
    )
    assert said in site.agent.log
    site.describe(WEB, make_instance(1, (1,)))
    assert bool(site.judge(site.outside, site.vm1, Tcp(80)))
    eventually(lambda: kept_out(site).get("unwritten", 0) >= 1, 5)


def test_a_restart_changes_no_rule_and_off_there_are_none(logging: Site, make_site: SiteMaker) -> None:
    site = logging
    site.agent.restart()
    assert site.agent.resync()["repaired"] == []
    assert site.agent.request("GET", "/v1/plan")[1] == {"plan": []}
    off = make_site()
    off.describe(WEB, make_instance(1, (1,)))
    assert "NFLOG" not in off.agent.iptables_save()
    assert "log" not in off.host.run(["nft", "list", "ruleset"]).stdout


def test_a_group_of_nflog_that_another_program_hears(make_site: SiteMaker, logging: Site, log: Path) -> None:
    """The agent enforces all the same, logs nothing and says so."""
    site = logging
    site.agent.stop()
    try:
        with heard_by_another(site.host, 6400):
            site.agent.start()
            assert bool(site.judge(site.outside, site.vm1, Tcp(80)))
            assert "NFLOG" not in site.agent.iptables_save()
            assert "security groups are not logged" in site.agent.log_file.read_text()
    finally:
        site.agent.restart()
