"""Beside others in nf_tables: what is theirs stays, a busy one delays nobody, and one who owns our table is told of."""

from collections.abc import Iterator
from threading import Event, Thread

import pytest

from nova_netagent.testing import make_instance, make_provider_rule
from tests.functional.agent.cloud import CONFIG, Cloud
from tests.functional.agent.meddling import DRIFT
from tests.functional.agent.nft import W, held, nft, table_owned
from tests.functional.agent.test_life_drift import furnished, reaches
from tests.functional.conftest import ON_NFTABLES
from tests.lab import Lab, Namespace, connect, needs, privileges

pytestmark = [needs("nftables", "br_netfilter", "bridge", "program:nft"), ON_NFTABLES]

NFTABLES = {**CONFIG, "firewall": {"backend": "nftables"}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        yield furnished(Cloud(lab, NFTABLES))


# --- others beside us, and in our tables


def test_what_others_put_among_ours_keeps_nobody_waiting(lab: Lab) -> None:
    """The kernel takes no edit any more that removes the chain: all is made anew, and nobody is blamed for it."""
    cloud = furnished(Cloud(lab, NFTABLES))
    nft(cloud.host, f"add map ip {W} theirs {{ type ipv4_addr : verdict; }}")
    nft(cloud.host, f"add element ip {W} theirs {{ 192.0.2.7 : jump {W}-inst-a0000002 }}")
    with connect(cloud.outside, cloud.lab.instances[0], 80) as connection:
        cloud.delete(make_instance(2))
        assert connection.alive()
    assert "theirs" not in nft(cloud.host, f"list table ip {W}")
    assert cloud.status(make_instance(1))["state"] == "done"
    assert reaches(cloud)
    assert cloud.agent.resync()["repaired"] == []


FOREIGN = """
table inet docker {
    set s {
        type ipv4_addr
        elements = { 192.0.2.7 }
    }
    chain forward {
        type filter hook forward priority 0; policy accept;
        counter packets 5 bytes 500 comment "nova-netagent-local"
    }
    chain nova-netagent-local {
        counter packets 7 bytes 70 drop
    }
}
table ip nova-netagent-2 {
    chain nova-netagent-inst-a0000001 {
        counter packets 1 bytes 2 accept
    }
}
"""


def test_tables_of_others_survive_all_that_we_do(lab: Lab) -> None:
    host = lab.host()
    nft(host, FOREIGN)
    before = [_with_counters(host, "inet", "docker"), _with_counters(host, "ip", "nova-netagent-2")]
    cloud = furnished(Cloud(lab, NFTABLES, host))
    DRIFT["nftables"]["a verdict is turned"](host)
    cloud.agent.resync()
    cloud.agent.stop()
    host.run(["nft", "delete", "table", "ip", W])
    cloud.agent.start()
    assert [_with_counters(host, "inet", "docker"), _with_counters(host, "ip", "nova-netagent-2")] == before


def _with_counters(host: Namespace, *table: str) -> str:
    return host.run(["nft", "list", "table", *table]).stdout


def test_chains_of_others_in_our_table_stay(shared: Cloud) -> None:
    nft(shared.host, f"add chain ip {W} theirs", f"add rule ip {W} theirs counter packets 3 bytes 30 drop")
    shared.agent.resync()
    assert "packets 3 bytes 30 drop" in shared.host.run(["nft", "list", "chain", "ip", W, "theirs"]).stdout
    nft(shared.host, f"delete chain ip {W} theirs")


def test_a_busy_neighbour_delays_nobody(shared: Cloud) -> None:
    """Whoever changes his own tables all the time makes no transaction of ours fail."""
    host, agent = shared.host, shared.agent
    nft(host, "add table ip busy", "add set ip busy s { type ipv4_addr; }")
    stop = Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number = number % 250 + 1
            nft(host, f"add element ip busy s {{ 192.0.2.{number} }}", "flush set ip busy s")

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        for number in range(1, 15):
            shared.put(make_provider_rule(number))
            shared.delete(make_provider_rule(number))
    finally:
        stop.set()
        thread.join()
        nft(host, "delete table ip busy")
    assert agent.resync()["repaired"] == []


def test_a_table_that_somebody_owns_is_told_and_had_when_he_lets_go(lab: Lab) -> None:
    host = lab.host()
    cloud = furnished(Cloud(lab, NFTABLES, host))
    before = held(host)
    with table_owned(host):
        status, answer = cloud.agent.request("POST", "/v1/resync")
        assert status == 503, answer
        assert "another program owns the table" in str(answer)
    assert cloud.agent.resync()["repaired"]
    assert held(host) == before


@pytest.mark.parametrize("configured", ["nftables", "auto"])
def test_nothing_of_the_legacy_tables_is_loaded(lab: Lab, configured: str) -> None:
    cloud = Cloud(lab, NFTABLES, program=True)
    cloud.agent.restart({**CONFIG, "firewall": {"backend": configured}})
    assert cloud.agent.request("GET", "/v1/status")[1]["backend"] == "nftables"
    furnished(cloud)
    if privileges.wanted():
        # The kernel tells root only which there are: who is not asks for each, and by that it is there, empty.
        saved = [cloud.host.run([f"{each}-save"]).stdout for each in ("iptables-legacy", "ip6tables-legacy")]
        assert not [line for each in saved for line in each.splitlines() if line.startswith(("-A", ":nova"))]
    else:
        names = cloud.host.run(["cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]).stdout.split()
        assert not names
    maps = cloud.host.run(["cat", f"/proc/{cloud.agent.process.pid}/maps"]).stdout if cloud.agent.process else ""
    assert maps
    assert "libip4tc" not in maps
    assert "libxtables" not in maps


def test_the_chains_are_shown_with_counters_and_what_they_are_for(shared: Cloud) -> None:
    assert reaches(shared)
    chains = shared.agent.request("GET", "/v1/chains")[1]["chains"]
    found = {(each["family"], each["table"], each["chain"]): each["rules"] for each in chains}
    by_text = {rule["rule"]: rule for rule in found[4, "filter", f"{W}-sgi-b0000001"]}
    assert by_text["-p tcp -m tcp --dport 80 -j ACCEPT"]["packets"] > 0
    assert by_text["-p tcp -m tcp --dport 80 -j ACCEPT"]["origin"][0] == "security_groups"
    (to_fixed,) = [rule for rule in found[4, "nat", f"{W}-PREROUTING"] if "198.51.100.1" in rule["rule"]]
    assert to_fixed["rule"] == "-d 198.51.100.1/32 -j DNAT --to-destination 10.1.0.2"
    assert [rule["rule"] for rule in found[4, "filter", "FORWARD"]] == ["-j nova-filter-top", f"-j {W}-FORWARD"]
