"""Law 9 in nf_tables: what somebody changes of our tables is put right, told and counted, and nothing else."""

from collections.abc import Callable, Iterator
from threading import Event, Thread

import pytest

from nova_netagent.backend.nft import Batch, Netlink
from nova_netagent.backend.nft.attributes import number, string
from nova_netagent.backend.nft.objects import Family, TableId
from nova_netagent.testing import make_provider_rule
from tests.functional.agent.cloud import CONFIG, Cloud
from tests.functional.agent.kernel import eventually, metric
from tests.functional.agent.nft import W, handle, held, listed, nft
from tests.functional.agent.test_life_drift import furnished
from tests.lab import Lab, Namespace, needs, tcp

pytestmark = needs("nftables", "br_netfilter", "bridge", "program:nft")

INST = f"{W}-inst-a0000001"
NFTABLES = {**CONFIG, "firewall": {"backend": "nftables"}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        yield furnished(Cloud(lab, NFTABLES))


def of_ip(*lines: str) -> Callable[[Namespace], None]:
    """Lines of nft about our IPv4 table."""
    return lambda host: nft(host, *(line.replace("OURS", f"ip {W}").replace("W-", f"{W}-") for line in lines)) and None


def turned(host: Namespace) -> None:
    at = handle(host, f"{W}-sg-fallback", "drop")
    nft(host, f"replace rule ip {W} {W}-sg-fallback handle {at} accept")


def taken_out(host: Namespace) -> None:
    nft(host, f"delete rule ip {W} {INST} handle {handle(host, INST, 'established')}")


def doubled(host: Namespace) -> None:
    nft(host, f"add rule ip {W} {INST} counter jump {W}-provider")


def lookup_taken_out(host: Namespace) -> None:
    nft(host, f"delete rule ip {W} {W}-local handle {handle(host, f'{W}-local', 'vmap')}")


DRIFT: dict[str, Callable[[Namespace], None]] = {
    "the ruleset is flushed": of_ip("flush ruleset"),
    "our table is deleted": of_ip("delete table OURS"),
    "our table is emptied": of_ip("flush table OURS"),
    "our table sleeps": of_ip("add table OURS { flags dormant; }"),
    "IPv6's is deleted": lambda host: nft(host, f"delete table ip6 {W}") and None,
    "a chain is flushed": of_ip("flush chain OURS W-INPUT"),
    "the root is flushed": of_ip("flush chain OURS W-local"),
    "a base chain is flushed": of_ip("flush chain OURS filter-FORWARD"),
    "a base chain is deleted": of_ip("flush chain OURS raw-PREROUTING", "delete chain OURS raw-PREROUTING"),
    "a base chain drops": of_ip("chain OURS filter-OUTPUT { policy drop; }"),
    "a verdict is turned": turned,
    "a rule is taken out": taken_out,
    "a rule is doubled": doubled,
    "a rule comes first": of_ip("insert rule OURS W-local accept"),
    "a rule comes first in an instance's": lambda host: nft(host, f"insert rule ip {W} {INST} accept") and None,
    "a lookup is taken out": lookup_taken_out,
    "an address leads nowhere": of_ip('delete element OURS W-local-hosts { 10.1.0.2 . "br1" }'),
    "an address leads to another": of_ip(
        'delete element OURS W-local-hosts { 10.1.0.2 . "br1" }',
        'add element OURS W-local-hosts { 10.1.0.2 . "br1" : jump W-inst-a0000002 }',
    ),
    "an address that is nobody's": of_ip('add element OURS W-local-hosts { 10.1.0.99 . "br1" : accept }'),
    "every address leads nowhere": of_ip("flush map OURS W-local-hosts"),
    "a map too many": of_ip(
        "add map OURS W-local-nets-24 { type ipv4_addr . ifname : verdict; }",
        'add element OURS W-local-nets-24 { 10.1.0.0 . "br1" : accept }',
    ),
    "a floating IP leads to another": of_ip(
        "delete element OURS W-PREROUTING-floating { 198.51.100.1 }",
        "add element OURS W-PREROUTING-floating { 198.51.100.1 : 10.1.0.3 }",
    ),
    "a floating IP leads nowhere": of_ip("flush map OURS W-nat-OUTPUT-floating"),
    "a fixed IP shows as another": of_ip(
        "add element OURS W-float-snat-fixed-itself { 10.1.0.3 . 10.1.0.3 : 1.2.3.4 }"
    ),
    "the translations are flushed": of_ip("flush chain OURS W-float-snat"),
    "a member is added": of_ip("add element OURS W-g4-b0000001 { 203.0.113.0/24 }"),
    "a member is removed": of_ip("delete element OURS W-g4-b0000001 { 10.1.0.2 }"),
    "a set is flushed": of_ip("flush set OURS W-g4-b0000001"),
    "a chain of our grammar": of_ip("add chain OURS W-inst-deadbeef", "add rule OURS W-inst-deadbeef accept"),
    "a chain of another table's": of_ip("add chain OURS W-out-deadbeef"),
    "a set of our grammar": of_ip("add set OURS W-g4-deadbeef { type ipv4_addr; flags interval; }"),
}


@pytest.mark.parametrize("what", DRIFT)
def test_a_resync_repairs_tells_and_counts(shared: Cloud, what: str) -> None:
    host, agent = shared.host, shared.agent
    agent.resync()
    before, counted = held(host), metric(agent, "drift_repairs_total")
    DRIFT[what](host)
    assert held(host) != before or what == "our table sleeps"
    planned = agent.request("GET", "/v1/plan")[1]["plan"]
    assert planned
    repaired = agent.resync()["repaired"]
    assert repaired
    assert held(host) == before
    assert "dormant" not in listed(host)
    assert "policy drop" not in listed(host, "table", "ip", W)
    assert metric(agent, "drift_repairs_total") > counted
    assert agent.resync()["repaired"] == []


def reaches(cloud: Cloud) -> bool:
    """Whether the outside reaches the second instance where its group lets it."""
    return bool(tcp(cloud.outside, "10.1.0.3", 80, server=cloud.lab.instances[1]))


def test_packets_pass_again(shared: Cloud) -> None:
    for what in ("the ruleset is flushed", "every address leads nowhere", "a lookup is taken out"):
        DRIFT[what](shared.host)
        shared.agent.resync()
        assert reaches(shared)


def test_what_is_right_keeps_its_counters_while_the_rest_is_repaired(shared: Cloud) -> None:
    shared.agent.resync()
    assert reaches(shared)
    chain = f"{W}-inst-a0000002"
    before = _packets(shared.host, chain)
    assert sum(before) > 0
    nft(shared.host, f"insert rule ip {W} {chain} accept", f"add rule ip {W} {chain} accept")
    shared.agent.resync()
    assert _packets(shared.host, chain) == before


def _packets(host: Namespace, chain: str) -> list[int]:
    words = host.run(["nft", "list", "chain", "ip", W, chain]).stdout.split()
    return [int(words[at + 1]) for at, word in enumerate(words) if word == "packets"]


def test_by_itself_as_soon_as_the_kernel_tells_of_it(lab: Lab) -> None:
    """Long before the resync interval is over."""
    cloud = furnished(Cloud(lab, NFTABLES))
    before = held(cloud.host)
    for what in ("the ruleset is flushed", "a verdict is turned", "an address leads to another"):
        DRIFT[what](cloud.host)
        assert held(cloud.host) != before
        eventually(lambda: held(cloud.host) == before, 20)
    eventually(lambda: metric(cloud.agent, "drift_repairs_total") > 50, 5)
    assert "somebody had changed what is ours" in cloud.agent.log
    nft(cloud.host, "add table ip theirs")


# --- others beside us

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
    DRIFT["a verdict is turned"](host)
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


class _Owned(Batch):
    """A table with the owner flag: it goes with the socket, and nobody else may change it meanwhile."""

    def add_table(self, table: TableId, comment: str | None = None) -> None:
        self._add(table, 0, 0x400, string(1, table.name) + number(2, 0x2), "table")


def test_a_table_that_somebody_owns_is_told_and_had_when_he_lets_go(lab: Lab) -> None:
    host = lab.host()
    cloud = furnished(Cloud(lab, NFTABLES, host))
    before = held(host)
    ours, owner = TableId(Family.IP, W), host.call(Netlink)
    batch = _Owned()
    batch.delete_table(ours)
    batch.add_table(ours)
    owner.commit(batch)
    status, answer = cloud.agent.request("POST", "/v1/resync")
    assert status == 503, answer
    assert "Operation not permitted" in str(answer)
    owner.close()
    assert cloud.agent.resync()["repaired"]
    assert held(host) == before


def test_nothing_of_the_legacy_tables_is_loaded(lab: Lab) -> None:
    cloud = furnished(Cloud(lab, NFTABLES, program=True))
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
