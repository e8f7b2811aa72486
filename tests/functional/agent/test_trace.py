"""explain --trace: real packets, and the rules that the kernel says they met."""

import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_rule
from tests.functional.agent.conftest import SiteMaker
from tests.functional.agent.kernel import cleanup, eventually, kernel
from tests.functional.agent.nflog import heard_by_another
from tests.functional.agent.nft import nft
from tests.functional.agent.site import Site
from tests.lab import Namespace, Tcp, arrives, iptables, needs
from tests.lab.probes import IpProbe

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

WEB = make_group(
    1,
    make_rule(1, protocol="tcp", port_range_min=80, port_range_max=80),
    make_rule(2, ethertype="IPv6", protocol="tcp", port_range_min=80, port_range_max=80),
)
QUESTION = {"proto": "tcp", "src": "192.0.2.1:4000", "dst": "10.1.0.2:80"}
TABLE = "nova-netagent-trace"
LOGGERS = "/proc/sys/net/netfilter/nf_log"


@pytest.fixture(autouse=True)
def described(site: Site) -> None:
    site.describe(WEB, make_instance(1, (1,)), make_instance(2), make_floating_ip(1))


def armed(host: Namespace) -> bool:
    """Whether anything of a trace is in the kernel."""
    return TABLE in host.run(["nft", "list", "tables"]).stdout


def loggers(host: Namespace) -> list[str]:
    return [host.run(["cat", f"{LOGGERS}/{family}"]).stdout.strip() for family in (2, 10)]


@contextmanager
def tracing(site: Site, question: dict[str, Any], seconds: int = 1) -> Iterator[dict[str, Any]]:
    """Ask, and go on when packets are watched; the answer is there at the end of the block."""
    answer: dict[str, Any] = {}

    def ask() -> None:
        with suppress(OSError):  # of an agent that is killed
            answer["status"], answer["body"] = site.agent.request("POST", f"/v1/explain?trace={seconds}", question)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        eventually(lambda: armed(site.host) or not asking.is_alive(), 5)
        yield answer
    finally:
        asking.join(seconds + 20)


def traced(site: Site, sender: Namespace, receiver: Namespace, probe: IpProbe, **question: Any) -> dict[str, Any]:
    """Send a packet while its kind is watched; it comes out alone."""
    probe = site.addressed(sender, receiver, probe)
    site.forget_flows()
    with tracing(site, QUESTION | question) as answer:
        arrives(sender, receiver, probe, within=1)
    assert answer["status"] == 200, answer
    trace = answer["body"]["trace"]
    assert trace["notes"] == []
    (packet,) = trace["packets"]
    assert packet["src"].endswith(f":{probe.source_port}")  # type: ignore[attr-defined]
    assert not armed(site.host)
    return {"explained": answer["body"], **packet}


def deciding(rules: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The rules that more than lead on, as both ways of telling them have it."""
    return [
        (each["table"], each["hook"], each["chain"], each["owner"]["text"], each["effect"])
        for each in rules
        if not each["effect"].startswith(("->", "=>"))
    ]


def test_what_passes(site: Site) -> None:
    packet = traced(site, site.outside, site.vm1, Tcp(80))
    assert packet["verdict"] == "ACCEPT"
    assert (packet["in_dev"], packet["out_dev"]) == ("eth0", "br1")
    assert any("security group group1: ingress tcp 80 from anywhere" in each[3] for each in deciding(packet["rules"]))
    assert set(deciding(packet["explained"]["rules"])) <= set(deciding(packet["rules"]))


def test_what_is_refused(site: Site) -> None:
    packet = traced(site, site.outside, site.vm1, Tcp(22), dst="10.1.0.2:22")
    assert packet["verdict"] == "DROP"
    assert packet["rules"][-1]["owner"]["text"] == "instance vm1: fallback"
    assert deciding(packet["rules"])[-1] == deciding(packet["explained"]["rules"])[-1]


def test_what_is_translated(site: Site) -> None:
    packet = traced(site, site.outside, site.vm1, Tcp(80, to="198.51.100.1"), dst="198.51.100.1:80")
    assert (packet["verdict"], packet["dst"], packet["left_dst"]) == ("ACCEPT", "198.51.100.1:80", "10.1.0.2:80")
    assert "floating IP 198.51.100.1" in [each["owner"]["text"] for each in packet["rules"]]


def test_what_is_bridged(site: Site) -> None:
    packet = traced(site, site.vm2, site.vm1, Tcp(80), src="10.1.0.3", dst="10.1.0.2")
    assert packet["verdict"] == "ACCEPT"


def test_over_ipv6(site: Site) -> None:
    source, destination = f"[{site.outside.ip6}]", f"[{site.vm1.ip6}]:80"
    packet = traced(site, site.outside, site.vm1, Tcp(80, family=6), src=source, dst=destination)
    assert packet["verdict"] == "ACCEPT"
    assert any("security group group1" in each["owner"]["text"] for each in packet["rules"])


@pytest.mark.parametrize(
    ("chain", "text"),
    [
        (("type filter hook forward priority 20;", "tcp dport 80 drop"), "tcp dport 80 drop"),
        (("type filter hook forward priority 20; policy drop;", "arp operation request accept"), ""),
    ],
    ids=["rule", "policy"],
)
def test_what_somebody_does_to_frames(site: Site, chain: tuple[str, ...], text: str) -> None:
    arrives(site.vm2, site.vm1, Tcp(80).towards(site.vm1), within=1)  # who has to ask for a MAC asks now
    nft(site.host, "table bridge site {", "chain fw {", *chain, "}", "}")
    try:
        packet = traced(site, site.vm2, site.vm1, Tcp(80), src="10.1.0.3:4000", dst="10.1.0.2:80")
        last = packet["rules"][-1]
        assert (packet["verdict"], last["table"], last["chain"]) == ("DROP", "bridge site", "fw")
        assert not last["owner"]["ours"]
        assert last == packet["explained"]["rules"][-1] | {"packets": last["packets"], "bytes": last["bytes"]}
        assert text in last["rule"]
    finally:
        nft(site.host, "delete table bridge site")


def test_a_foreign_rule_of_nf_tables(site: Site) -> None:
    lines = ("type filter hook forward priority 20;", "tcp dport 80 drop")
    nft(site.host, "table inet site {", "chain fw {", *lines, "}", "}")
    try:
        packet = traced(site, site.outside, site.vm1, Tcp(80))
        last = packet["rules"][-1]
        assert (packet["verdict"], last["table"], last["chain"], last["rule"]) == (
            *("DROP", "inet site", "fw"),
            "tcp dport 80 drop",
        )
        assert last == packet["explained"]["rules"][-1] | {"packets": last["packets"], "bytes": last["bytes"]}
    finally:
        site.host.run(["nft", "delete", "table", "inet", "site"])


def test_a_foreign_rule_of_the_legacy_tables(site: Site) -> None:
    with site.foreign("-t mangle -A FORWARD -p tcp --dport 80 -j DROP", families=(4,)):
        packet = traced(site, site.outside, site.vm1, Tcp(80))
        last = packet["rules"][-1]
        table = "mangle" if site.backend == "iptables" else "iptables-legacy mangle"
        assert (packet["verdict"], last["table"], last["chain"], last["owner"]["ours"]) == (
            *("DROP", table, "FORWARD"),
            False,
        )


def test_no_more_than_its_rate(site: Site) -> None:
    with tracing(site, QUESTION, 1) as answer:
        text = "\n".join(["import socket", "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"])
        send = f"{text}\nfor _ in range(500): s.sendto(b'x', ('10.1.0.2', 80))"
        site.outside.run(["python3", "-c", send])
    assert answer["body"]["trace"]["packets"] == []  # it was TCP that was asked about
    with tracing(site, QUESTION | {"proto": "udp"}, 1) as answer:
        site.outside.run(["python3", "-c", send])
    trace = answer["body"]["trace"]
    assert 10 <= len(trace["packets"]) + trace["more"] <= 20


def test_nothing_stays_and_nothing_else_changes(site: Site) -> None:
    before, logged = kernel(site.host), loggers(site.host)
    with tracing(site, QUESTION):
        assert armed(site.host)
        assert site.agent.resync()["repaired"] == []
        assert armed(site.host)
        status, body = site.agent.request("POST", "/v1/explain?trace=1", QUESTION)
        assert (status, body["error"]["message"]) == (503, "packets are being traced already")
    assert (kernel(site.host), loggers(site.host)) == (before, logged)


@pytest.mark.parametrize("text", ["0", "61", "x"])
def test_no_time_to_watch(site: Site, text: str) -> None:
    status, body = site.agent.request("POST", f"/v1/explain?trace={text}", QUESTION)
    assert (status, body["error"]["field"]) == (400, "trace")


def test_a_group_that_another_program_hears(site: Site) -> None:
    """The legacy tables cannot tell of it; that is said."""
    iptables(site.host, "-t mangle -S")
    with heard_by_another(site.host, 0), tracing(site, QUESTION) as answer:
        pass
    (note,) = answer["body"]["trace"]["notes"]
    assert note == "rules of the legacy tables are not seen: NFLOG: another program hears group 0"


def test_killed_in_the_middle(site: Site) -> None:
    logged = loggers(site.host)
    with tracing(site, QUESTION, 20):
        site.agent.kill9()
    assert not armed(site.host)
    site.agent.start()
    assert loggers(site.host) == logged
    assert not (site.agent.state_path / "trace").exists()


def test_stopped_in_the_middle(site: Site) -> None:
    logged = loggers(site.host)
    with tracing(site, QUESTION, 20) as answer:
        site.agent.stop()
    assert answer["status"] == 200
    assert not armed(site.host)
    assert loggers(site.host) == logged
    site.agent.start()


def test_what_an_older_kernel_would_leave_is_swept(site: Site) -> None:
    """Where tables have no owners one stays when the agent is killed: resync, start and cleanup take it away."""
    nft(site.host, f"table inet {TABLE} {{", "}")
    site.agent.resync()
    assert not armed(site.host)
    site.agent.stop()
    nft(site.host, f"table inet {TABLE} {{", "}")
    site.agent.start()
    assert not armed(site.host)


def test_cleanup_sweeps_it(make_site: SiteMaker) -> None:
    site = make_site({"firewall": {"resync_interval": 3600}})
    site.agent.stop()
    nft(site.host, f"table inet {TABLE} {{", "}")
    before = loggers(site.host)
    site.host.run(["sh", "-c", f"echo nfnetlink_log > {LOGGERS}/2"])
    (site.agent.state_path / "trace").write_text(f"2 {before[0]}\n")
    cleanup(site.agent)
    assert loggers(site.host) == before
    assert not armed(site.host)
    assert not (site.agent.state_path / "trace").exists()


def test_of_an_agent_with_thousands_of_connections(site: Site) -> None:
    """select(2) knows no descriptor from 1024 on."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, limit[1]), limit[1]))
    try:
        with ExitStack() as connections:
            for _ in range(1100):
                each = connections.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                each.connect(str(site.agent.socket))
            eventually(lambda: len(os.listdir(f"/proc/{site.agent.pid}/fd")) > 1100, 5)
            assert traced(site, site.outside, site.vm1, Tcp(80))["verdict"] == "ACCEPT"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
