"""use_ipv6 switched off and on again: in IPv6's tables is what is asked for, whatever was asked for before."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from nova_netagent.testing import make_group, make_instance, make_provider_rule, make_rule, make_vif
from tests.functional.agent.cloud import CONFIG
from tests.functional.agent.kernel import ctl, eventually, hindered, kernel, metric, tables
from tests.functional.agent.meddling import DRIFT
from tests.functional.agent.nft import W, held, nft
from tests.functional.agent.test_backends import OTHER
from tests.functional.agent.test_life_restart import Town
from tests.lab import Flood, Icmp, Lab, Namespace, Tcp, connect, iptables, needs, ping, refused
from tests.lab.tables import Family

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "nftables", "program:nft")

NAMES = ("filter", "nat", "mangle", "raw")
NFT_FAMILY = {4: "ip", 6: "ip6"}


@pytest.fixture
def town(lab: Lab, backend: str) -> Town:
    """Two machines that let each other in, and what others have in IPv6's tables."""
    made = Town(lab, firewall={"backend": backend})
    itself = make_group(1).id
    echo = [make_rule(n, ethertype=f"IPv{family}", protocol="icmp") for n, family in ((1, 4), (2, 6))]
    remote = [make_rule(n, ethertype=f"IPv{family}", remote_group_id=itself) for n, family in ((3, 4), (4, 6))]
    made.put(
        make_group(1, *echo, *remote), make_provider_rule(1), make_provider_rule(2, remote_ip_prefix="2001:db8::7")
    )
    iptables(made.host, "-A FORWARD -p gre -j DROP", family=6)
    nft(made.host, "add table ip6 others", "add chain ip6 others idle")
    assert ours(made.host, 6)
    return made


def switch(town: Town, *, use_ipv6: bool, backend: str = "", ready: bool = True, lock_timeout: int = 10) -> None:
    """Change the option and start again."""
    if town.agent.running:
        town.agent.stop()
    firewall = {"backend": backend or town.backend, "lock_timeout": lock_timeout}
    town.agent.configure({**CONFIG, "DEFAULT": {"use_ipv6": use_ipv6}, "firewall": firewall})
    town.agent.start(ready=ready)


def ours(host: Namespace, family: Family) -> dict[str, Any]:
    """What there is of ours in the tables of a family, and of sets for them."""
    found = kernel(host)
    legacy = {name: [line for line in lines if "nova" in line] for name, lines in found[f"IPv{family}"].items()}
    table = f"table {NFT_FAMILY[family]} {W}"
    return {
        **{name: lines for name, lines in legacy.items() if lines},
        **{name: text for name, text in found["nf_tables"].items() if f"{name} ".startswith(f"{table} ")},
        **{name: found["sets"][name] for name in sets(host, family)},
    }


def sets(host: Namespace, family: Family) -> list[str]:
    """Our sets of ipset for a family."""
    heads = (f"{W}-g{family}-", f"{W}-cut{family}")
    return [name for name in kernel(host)["sets"] if name.startswith(heads)]


@contextmanager
def ipv4_untouched(town: Town) -> Iterator[None]:
    """No table of IPv4 is written, and no packet lost: routed, bridged, to a floating IP."""
    before, counted = ours(town.host, 4), 0.0
    with no_packet_lost(town):
        yield
    for name in NAMES:
        counted += metric(town.agent, "applies_total", table=f"IPv4 {name}")
    assert (ours(town.host, 4), counted) == (before, 0)


@contextmanager
def no_packet_lost(town: Town) -> Iterator[None]:
    """Of IPv4; in IPv6 nothing passes meanwhile."""
    routed, bridged = Flood(town.outside, town.vm1), Flood(town.vm1, town.vm2)
    floods = [routed, bridged, Flood(town.outside, "198.51.100.1")]
    with ExitStack() as stack:
        for flood in floods:
            stack.enter_context(flood)
        yield
    assert [(flood.sent > 5, flood.lost) for flood in floods] == [(True, [])] * len(floods)


def plan(town: Town) -> list[str]:
    """What the agent would do."""
    status, body = town.agent.request("GET", "/v1/plan")
    assert status == 200, body
    return list(body["plan"])


def assert_settled(town: Town) -> None:
    """Nobody finds anything to do, or fails to do it."""
    for _ in range(2):
        assert (plan(town), town.agent.resync()["repaired"]) == ([], [])
    assert town.agent.request("GET", "/v1/status")[1]["failure"] == ""


def test_switched_off_nothing_is_left_and_switched_on_it_is_as_before(town: Town) -> None:
    before = ours(town.host, 6)
    with connect(town.vm2, town.vm1, 8080, family=6) as connection:
        with ipv4_untouched(town):
            switch(town, use_ipv6=False)
        assert ours(town.host, 6) == {}
        assert_settled(town)
        assert "nothing of ours has to be in IPv6" in town.agent.log
        assert "is in use" not in town.agent.log
        assert any("gre" in line for line in tables(town.host, 6)["filter"])
        assert "table ip6 others chain idle" in held(town.host)
        assert refused(town.outside, town.vm1, Tcp(22))
        assert not connection.alive(0.5)
        with ipv4_untouched(town):
            switch(town, use_ipv6=True)
        assert ours(town.host, 6) == before
        assert_settled(town)
        assert refused(town.outside, town.vm1, Tcp(22, family=6))
        assert connection.alive(15.0)  # what was sent meanwhile is sent again after ever longer pauses


def test_while_it_is_off_no_vif_with_port_security_sends_or_is_sent_any(town: Town) -> None:
    free = [town.instance(n, (1,), vifs=(make_vif(n, port_security_enabled=False),)) for n in (3, 4)]
    judged = [(town.vm1, town.vm2), (free[0], town.vm1), (town.vm1, free[0])]
    assert all(ping(*each, family=6) for each in judged)
    switch(town, use_ipv6=False)
    for sender, receiver in judged:
        assert refused(sender, receiver, Icmp(family=6))
        assert ping(sender, receiver)
    assert ping(*free, family=6)
    told = json.loads(ctl(town.agent, "--format", "json", "status"))
    assert not [each for each in told["warnings"] if "IPv6" in each], "it was asked for"


def test_how_our_rules_are_seen_names_no_table_that_is_not_there(town: Town) -> None:
    both = town.agent.request("GET", "/v1/status")[1]["see_with"]
    switch(town, use_ipv6=False)
    told = town.agent.request("GET", "/v1/status")[1]["see_with"]
    assert both.startswith(f"{told} (IPv6: ")
    assert f"enforcing with {town.backend}; see the rules with {told}\n" in town.agent.log
    assert W in town.host.run(told.split()).stdout


def test_switched_on_nothing_passes_before_there_are_rules(town: Town) -> None:
    switch(town, use_ipv6=False)
    with hindered(town.host, town.backend) as release:
        switch(town, use_ipv6=True, ready=False, lock_timeout=1)
        eventually(lambda: "next attempt" in town.agent.log, 30)
        assert refused(town.vm1, town.vm2, Icmp(family=6))
        release()
        town.agent.wait_ready()
    assert ping(town.vm1, town.vm2, family=6)


def test_what_is_deleted_while_it_is_off_is_not_there_when_it_is_on_again(town: Town) -> None:
    switch(town, use_ipv6=False)
    town.delete(make_instance(2))
    assert_settled(town)
    assert refused(town.outside, town.vm1, Tcp(22))
    switch(town, use_ipv6=True)
    assert ours(town.host, 6)
    assert "a0000002" not in str(ours(town.host, 6))
    assert_settled(town)


def test_killed_at_any_instant_it_goes_on_where_it_was(town: Town) -> None:
    before = ours(town.host, 6)
    with no_packet_lost(town):
        for delay in (0.0, 0.002, 0.004, 0.008, 0.016):
            switch(town, use_ipv6=False, ready=False)
            eventually(lambda: _is_going(town, before), 2)
            time.sleep(delay)
            town.agent.kill9()
            town.agent.start()
            assert ours(town.host, 6) == {}, delay
            assert_settled(town)
            switch(town, use_ipv6=True)
            assert ours(town.host, 6) == before, delay


def _is_going(town: Town, before: object) -> bool:
    try:
        return ours(town.host, 6) != before
    except AssertionError:
        return True  # ip6tables-save met a rule whose set went before it asked for the set's name


def test_switched_off_with_a_change_of_the_packet_filter(town: Town) -> None:
    with no_packet_lost(town):
        switch(town, use_ipv6=False, backend=OTHER[town.backend])
    assert ours(town.host, 6) == {}
    assert_settled(town)


COMES_BACK: dict[str, Callable[[Namespace], str]] = {
    "iptables": lambda host: iptables(host, f"-N {W}-local", family=6),
    "nftables": lambda host: nft(host, f"add table ip6 {W}", f"add chain ip6 {W} {W}-local"),
}


def test_what_somebody_puts_there_while_it_is_off_is_drift(town: Town) -> None:
    switch(town, use_ipv6=False)
    COMES_BACK[town.backend](town.host)
    found = [f"IPv6 filter: - chain {W}-local"]
    assert (plan(town), town.agent.resync()["repaired"]) == (found, found)
    assert ours(town.host, 6) == {}
    assert_settled(town)


def test_sets_that_were_left_without_rules_are_swept(town: Town) -> None:
    town.agent.stop()
    DRIFT["iptables"]["IPv6 is emptied"](town.host)
    if town.backend == "nftables":
        nft(town.host, f"delete table ip6 {W}")
    assert list(ours(town.host, 6)) == sets(town.host, 6)
    switch(town, use_ipv6=False)
    assert ours(town.host, 6) == {}
    assert_settled(town)
