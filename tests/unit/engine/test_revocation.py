"""What the engine does with flows: cuts what a change revoked, and never fails a change for it."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from nova_netagent import revocation
from nova_netagent.backend import BackendError, RuleRefused, Unavailable
from nova_netagent.backend.fake import FakeBackend
from nova_netagent.compile.zones import zones
from nova_netagent.engine import Change, NotApplied
from nova_netagent.events import Delete, Put
from nova_netagent.model import AllowedAddressPair, Instance
from nova_netagent.netfilter.flow import EXPECTED, Addresses, Flow, Side
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import CUT_SECONDS, Rule, TableId
from nova_netagent.netfilter.text import BUILTIN_CHAINS
from nova_netagent.plan.sets import SetPlan
from nova_netagent.revoke import EVERYBODY
from nova_netagent.settings import MetadataSettings, Settings
from nova_netagent.store import StoreError
from nova_netagent.testing import (
    group_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    make_vif,
)
from tests.properties.host import SETTINGS, Host

WEB = make_rule(1, protocol="tcp", port_range_min=80, port_range_max=80)
SSH = make_rule(2, protocol="tcp", port_range_min=22, port_range_max=22)
OUTSIDE = "203.0.113.7"


def tcp(source: str, destination: str, port: int = 80, source_port: int = 40000, **fields: object) -> Flow:
    """A connection without NAT."""
    original = Side(source, destination, source_port, port)
    fields = {"family": 4, "protocol": 6, "reply": Side(destination, source, port, source_port)} | fields
    return Flow(original=original, **fields)  # type: ignore[arg-type]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.put(make_network(1), make_group(1, WEB, SSH), make_instance(1, (1,)), make_instance(2, (1,)))
    made.flows.looks.clear()
    return made


def cut_total(host: Host) -> float:
    value = host.metrics.registry.get_sample_value("netagent_conntrack_deleted_total")
    assert value is not None
    return value


def test_what_is_revoked_is_deleted_and_remembered_and_counted(host: Host) -> None:
    web, ssh = tcp(OUTSIDE, "10.1.0.2"), tcp(OUTSIDE, "10.1.0.2", 22)
    host.flows.tracked = [web, ssh]
    host.put(make_group(1, SSH))
    assert host.flows.tracked == [ssh]
    assert host.backend.cut == {"nova-netagent-cut4": {f"{OUTSIDE},tcp:40000,10.1.0.2"}}
    assert cut_total(host) == 1


@pytest.mark.parametrize(
    "change",
    [
        make_group(1, WEB, SSH, make_rule(3, protocol="udp")),
        make_group(2, WEB),
        make_network(2),
        make_instance(1, (1,), hostname="other"),
    ],
    ids=["a rule more", "a group more", "a network more", "a name"],
)
def test_what_narrows_nothing_does_not_even_look(host: Host, change: object) -> None:
    host.put(change)  # type: ignore[arg-type]
    assert host.flows.looks == []


def test_only_those_concerned_are_looked_at(host: Host) -> None:
    host.put(make_instance(2, ()))
    assert host.flows.looks == [Addresses(frozenset({"10.1.0.3", "fd00:1::3", "fe80::f816:3eff:fe00:2"}))]
    host.put(make_group(1, SSH))
    assert host.flows.looks[1:] == [Addresses(frozenset({"10.1.0.2"}))]


def test_a_table_that_cannot_be_read_is_told_and_tried_again(host: Host) -> None:
    web = tcp(OUTSIDE, "10.1.0.2")
    host.flows.tracked, host.flows.broken = [web], 1
    (answer,) = host.put(make_group(1, SSH))
    assert answer.status is not None
    assert answer.status.state == "done"
    assert "cannot be read" in host.engine.view.revocation_failure
    host.engine.serve([])
    assert host.flows.tracked == [web]
    host.engine._revocation.due = time.monotonic()
    host.engine.serve([])
    assert host.flows.tracked == []
    assert host.engine.view.revocation_failure == ""


def test_what_was_not_cut_is_cut_with_the_next_change(host: Host) -> None:
    web = tcp(OUTSIDE, "10.1.0.2")
    host.flows.tracked, host.flows.stuck = [web], 1
    host.put(make_group(1, SSH))
    assert host.flows.tracked == [web]
    host.put(make_network(2))
    assert host.flows.tracked == []


def test_a_set_that_is_gone_is_a_failure_like_others(host: Host) -> None:
    web = tcp(OUTSIDE, "10.1.0.2")
    host.flows.tracked = [web]
    del host.backend.sets["nova-netagent-cut4"]
    host.put(make_group(1, SSH))
    assert host.flows.tracked == [web]
    assert "no set" in host.engine.view.revocation_failure


def test_killed_between_the_rules_and_the_cut(host: Host) -> None:
    """It is made good for when it comes back."""
    web, ssh = tcp(OUTSIDE, "10.1.0.2"), tcp(OUTSIDE, "10.1.0.2", 22)
    host.flows.tracked, host.flows.broken = [web, ssh], 1
    host.put(make_group(1, SSH))
    host.restart()
    assert host.flows.tracked == [ssh]


def flush_forward(host: Host) -> None:
    host.backend.change(TableId(4, "filter"), "FORWARD", [])


def let_into_the_sets(host: Host) -> None:
    for name, each in host.backend.sets.items():
        if each.family == 4 and each.type == "hash:net":
            host.backend.sets[name] = replace(each, members=each.members | {f"{OUTSIDE}/32"})


@pytest.mark.parametrize("by", ["resync", "change"])
@pytest.mark.parametrize("meddle", [flush_forward, let_into_the_sets])
def test_killed_between_a_repair_and_the_cut(host: Host, by: str, meddle: Callable[[Host], None]) -> None:
    """It is made good for when it comes back, and finds the rules as they should be."""
    host.put(make_group(2, make_rule(5, remote_group_id=group_id(1))), make_instance(1, (1, 2)))
    host.flows.tracked = [tcp(OUTSIDE, "10.1.0.2", 99), web := tcp(OUTSIDE, "10.1.0.2")]
    meddle(host)
    host.flows.broken = 1
    if by == "resync":
        host.engine.resync()
    else:
        host.put(make_network(2), make_instance(9))
    host.restart()
    host.engine.resync()
    assert host.flows.tracked == [web]


def test_what_was_sent_to_a_floating_ip_before_it_was_there_begins_anew(host: Host) -> None:
    """It would go on to where it went, as only the first packet of a flow is translated."""
    reply = Side("10.1.0.2", OUTSIDE, 80, 40000)
    astray, led, beside = (
        tcp(OUTSIDE, "198.51.100.1"),
        tcp(OUTSIDE, "198.51.100.1", reply=reply),
        tcp(OUTSIDE, "10.1.0.2"),
    )
    host.flows.tracked = [astray, led, beside]
    host.put(make_floating_ip(1))
    assert host.flows.looks == [Addresses(frozenset({"198.51.100.1"}))]
    assert host.flows.tracked == [led, beside]
    assert host.backend.cut == {}, "it is not forbidden"
    host.put(make_floating_ip(1, project_id="other"))
    assert len(host.flows.looks) == 1


def test_what_went_past_a_floating_ip_while_the_rules_were_gone_begins_anew(host: Host) -> None:
    host.put(make_floating_ip(1))
    host.flows.tracked = [tcp(OUTSIDE, "198.51.100.1")]
    host.backend.change(TableId(4, "nat"), "PREROUTING", [])
    host.engine.resync()
    assert host.flows.tracked == []


def test_killed_between_the_rules_of_a_floating_ip_and_the_cut(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it was ours is known by the note of its address, when the agent died before it took that away."""
    host.put(make_floating_ip(1))
    called = tcp(OUTSIDE, "198.51.100.1", reply=Side("10.1.0.2", OUTSIDE, 80, 40000))
    direct = tcp(OUTSIDE, "10.1.0.2")
    somebodys = tcp(OUTSIDE, "192.0.2.77", 8080, reply=Side("10.1.0.2", OUTSIDE, 80, 40000))
    host.flows.tracked = [called, direct, somebodys]
    with monkeypatch.context() as killed:
        killed.setattr(host.engine, "_apply", lambda verify: None)
        host.delete(make_floating_ip(1))
    host.restart()
    assert host.flows.tracked == [direct, somebodys]


def by_floating_ip(fixed_ip: str = "10.1.0.2") -> Flow:
    """A connection by the first floating IP, which led to an address."""
    return tcp(OUTSIDE, "198.51.100.1", reply=Side(fixed_ip, OUTSIDE, 80, 40000))


def test_what_a_floating_ip_led_is_cut_with_it_and_known_by_each_of_its_ends(host: Host) -> None:
    host.put(make_floating_ip(1))
    host.flows.tracked = [by_floating_ip(), direct := tcp(OUTSIDE, "10.1.0.2", source_port=40001)]
    host.put(make_provider_rule(1, remote_ip_prefix="0.0.0.0/0", protocol="udp"))
    assert len(host.flows.tracked) == 2, "looked at, and let be while it leads there"
    host.delete(make_floating_ip(1))
    assert host.flows.tracked == [direct]
    assert host.backend.cut == {CUT4: {f"{OUTSIDE},tcp:40000,{server}" for server in ("198.51.100.1", "10.1.0.2")}}


def test_what_a_floating_ip_leads_elsewhere_by_now_is_cut_when_nobody_knows_what_was(host: Host) -> None:
    host.put(make_floating_ip(1), make_instance(2, (1,)))
    host.flows.tracked = [led := by_floating_ip(), by_floating_ip("10.1.0.3")]
    host.backend.change(TableId(4, "filter"), "FORWARD", [])
    host.engine.resync()
    assert host.flows.tracked == [led]


def test_a_start_with_other_rules_cuts_what_was_led_elsewhere(host: Host) -> None:
    """To the metadata service; who lent an address of ours otherwise, as a gateway's, is somebody else."""
    metadata = tcp("10.1.0.2", "169.254.169.254", reply=Side("192.0.2.10", "10.1.0.2", 8775, 40000))
    masqueraded = tcp(OUTSIDE, "10.1.0.2", reply=Side("10.1.0.2", "10.1.0.1", 80, 40000))
    host.flows.tracked = [metadata, masqueraded]
    host.backend.change(TableId(4, "mangle"), "PREROUTING", [])
    host.restart()
    assert host.flows.tracked == [metadata, masqueraded]
    host.settings = replace(host.settings, metadata=MetadataSettings(metadata_host="192.0.2.11"))
    host.restart()
    assert host.flows.tracked == [masqueraded]


def test_a_metadata_service_on_loopback_answers_by_the_hosts_addresses(tmp_path: Path) -> None:
    host = Host(tmp_path, replace(SETTINGS, metadata=MetadataSettings(metadata_host="127.0.0.1")))
    host.put(make_network(1), make_instance(1))
    redirected = tcp("10.1.0.2", "169.254.169.254", reply=Side("10.1.0.1", "10.1.0.2", 8775, 40000))
    elsewhere = tcp("10.1.0.2", "169.254.169.254", reply=Side("192.0.2.99", "10.1.0.2", 8775, 40000))
    host.flows.tracked = [redirected, elsewhere]
    host.backend.change(TableId(4, "mangle"), "PREROUTING", [])
    host.restart()
    assert host.flows.tracked == [redirected]


def test_egress_is_judged_by_what_was_sent_to(host: Host) -> None:
    """Before anybody translates it: the metadata service, and an operator's proxy."""
    to_web = make_rule(70, direction="egress", protocol="tcp", port_range_min=80, port_range_max=80)
    host.put(make_group(7, to_web), make_instance(1, (7,)))
    metadata = tcp("10.1.0.2", "169.254.169.254", reply=Side("192.0.2.10", "10.1.0.2", 8775, 40000))
    proxied, refused = (
        tcp("10.1.0.2", OUTSIDE, port, reply=Side("192.0.2.50", "10.1.0.2", behind, 40000))
        for port, behind in ((80, 3128), (3128, 80))
    )
    host.flows.tracked = [metadata, proxied, refused]
    host.backend.change(TableId(4, "mangle"), "PREROUTING", [])
    host.engine.resync()
    assert host.flows.tracked == [metadata, proxied]


def test_a_restart_with_nothing_owed_does_not_look(host: Host) -> None:
    host.restart()
    assert host.flows.looks == []


def test_somebody_flushed_the_rules(host: Host) -> None:
    stray, web = tcp(OUTSIDE, "10.1.0.2", 99), tcp(OUTSIDE, "10.1.0.2")
    for table in list(host.backend.chains):
        host.backend.change(table, "PREROUTING" if table.name != "filter" else "FORWARD", [])
    docker = tcp("172.17.0.2", OUTSIDE, reply=Side(OUTSIDE, "192.0.2.10", 80, 40000))
    hosts = tcp(OUTSIDE, "192.0.2.10", 22)
    host.flows.tracked = [stray, web, docker, hosts]
    host.engine.resync()
    assert host.flows.tracked == [web, docker, hosts]


def test_somebody_flushed_the_rules_and_a_change_repairs_them(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.flows.tracked = [tcp(OUTSIDE, "10.1.0.2", 99), web := tcp(OUTSIDE, "10.1.0.2")]
    host.backend.change(TableId(4, "filter"), "FORWARD", [])
    host.put(make_instance(3, (1,)))
    assert host.flows.tracked == [web]
    repaired = host.metrics.registry.get_sample_value("netagent_drift_repairs_total", {"what": "insert"})
    assert repaired == 2
    (told,) = (each.getMessage() for each in caplog.records if "had changed what is ours" in each.getMessage())
    assert told.startswith("somebody had changed what is ours; repaired with a change: IPv4 filter: + FORWARD")
    assert "a0000003" not in told, "that is the change"


def test_what_the_kernel_took_a_part_of_and_is_wanted_no_more_is_nobodys_drift(host: Host) -> None:
    def busy(rule: Rule) -> bool:
        if rule.destination == "10.1.0.4/32":
            raise Unavailable("out of memory")
        return False

    host.backend.refuse = busy
    with pytest.raises(NotApplied):
        host.put(make_instance(3, (1,)))
    host.delete(make_instance(3))
    assert EVERYBODY not in host.flows.looks


def test_somebody_flushed_the_rules_and_the_repair_came_to_no_end(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreError("disk full")

    host.flows.tracked = [tcp(OUTSIDE, "10.1.0.2", 99)]
    host.backend.change(TableId(4, "filter"), "FORWARD", [])
    monkeypatch.setattr(host.engine.store, "forget_made", full)
    host.engine.resync()
    assert "disk full" in host.engine.view.failure
    monkeypatch.undo()
    host.engine.resync()
    assert host.flows.tracked == []


@pytest.mark.parametrize("error", [RuleRefused, Unavailable])
def test_somebody_flushed_the_rules_and_a_change_that_failed_repairs_them(
    host: Host, error: type[BackendError]
) -> None:
    """Part of it is in by then; what the kernel refuses is left out, and what it cannot take now is tried again."""

    def refuse(rule: Rule) -> bool:
        if rule.destination == "10.1.0.4/32":
            raise error("not this one")
        return False

    host.flows.tracked = [tcp(OUTSIDE, "10.1.0.2", 99), web := tcp(OUTSIDE, "10.1.0.2")]
    host.backend.change(TableId(4, "filter"), "FORWARD", [])
    host.backend.refuse = refuse
    host.engine.serve([Change(Put(make_instance(3, (1,))))])
    host.backend.refuse = lambda rule: False
    host.engine.resync()
    assert host.flows.tracked == [web]


def test_what_the_kernel_refused_repaired_nothing(host: Host) -> None:
    """A repair was counted, and told of, once for each time that the table was tried."""
    host.backend.change(TableId(4, "filter"), "FORWARD", [])
    host.backend.refuse = lambda rule: rule.destination == "10.1.0.4/32"
    host.engine.serve([Change(Put(make_instance(3, (1,))))])
    repaired = host.metrics.registry.get_sample_value("netagent_drift_repairs_total", {"what": "insert"})
    assert repaired == 2


def test_somebody_flushed_the_rules_and_the_repair_broke_off(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in by then, and the next attempt finds nothing to repair."""

    def busy(_: SetPlan) -> None:
        raise Unavailable("out of memory")

    host.flows.tracked = [tcp(OUTSIDE, "10.1.0.2", 99), web := tcp(OUTSIDE, "10.1.0.2")]
    host.backend.change(TableId(4, "filter"), "FORWARD", [])
    monkeypatch.setattr(host.backend, "finish_sets", busy)
    host.engine.resync()
    assert host.engine.view.failure == "out of memory"
    monkeypatch.undo()
    host.engine.resync()
    assert host.flows.tracked == [web]
    host.flows.looks.clear()
    host.put(make_network(2))
    assert host.flows.looks == [], "it was made good for"


def test_one_that_announced_itself_goes_with_its_instance_only(host: Host) -> None:
    data = tcp(OUTSIDE, "10.1.0.2", 50000, status=EXPECTED)
    host.flows.tracked = [data]
    host.put(make_group(1))
    assert host.flows.tracked == [data]
    host.delete(make_instance(1, (1,)))
    assert host.flows.tracked == []
    assert host.backend.cut == {}


def test_one_that_announced_itself_keeps_none_of_those_after_it(host: Host) -> None:
    data, web = tcp(OUTSIDE, "10.1.0.2", 50000, status=EXPECTED), tcp(OUTSIDE, "10.1.0.2")
    host.flows.tracked = [data, web]
    host.put(make_group(1, SSH))
    assert host.flows.tracked == [data]


def test_a_member_elsewhere_goes_from_one_remote_group_to_another_in_the_same_batch(host: Host) -> None:
    """Each is a set of its own, and only one of them has lost him."""
    by_group = (
        make_rule(8, protocol="tcp", port_range_min=80, port_range_max=80, remote_group_id=group_id(8)),
        make_rule(9, protocol="tcp", port_range_min=22, port_range_max=22, remote_group_id=group_id(9)),
    )
    member = (f"{OUTSIDE}/32",)
    host.put(make_group(8, members=member), make_group(9), make_group(1, *by_group))
    host.flows.tracked = [tcp(OUTSIDE, "10.1.0.2"), ssh := tcp(OUTSIDE, "10.1.0.2", 22)]
    host.put(make_group(8), make_group(9, members=member))
    assert host.flows.tracked == [ssh]


def test_who_was_let_in_by_the_other_direction_is_let_be_while_he_is(host: Host) -> None:
    """Connection tracking may have taken the server for the client, and not have told so."""
    turned = tcp(OUTSIDE, "10.1.0.2", 40000, 443)
    host.flows.tracked = [turned]
    host.put(make_group(1, WEB))
    assert host.flows.looks
    assert host.flows.tracked == [turned]


def test_another_instance_gets_the_address_in_the_same_batch(host: Host) -> None:
    host.flows.tracked = [tcp(OUTSIDE, "10.1.0.2"), tcp(OUTSIDE, "10.1.0.3")]
    heir = make_instance(5, (1,), vifs=(make_vif(5, fixed_ips=("10.1.0.2",)),))
    host.send(Delete("instances", make_instance(1).id), Put(heir))
    assert host.flows.tracked == [tcp(OUTSIDE, "10.1.0.3")]


def test_an_instance_that_arrives_has_no_flows_that_nobody_judged(host: Host) -> None:
    host.put(make_instance(8, (1,)))
    assert host.flows.looks == []


@pytest.mark.parametrize("manage_links", [True, False])
def test_an_instance_that_was_not_filtered_keeps_what_either_direction_may(tmp_path: Path, manage_links: bool) -> None:
    """The table may take the client for the server: this host has not seen how the connection began.

    On a bridge of ours its egress has to be judged: the address was nobody's, and what was sent to it was let on.
    """
    host = Host(tmp_path, replace(SETTINGS, network=replace(SETTINGS.network, manage_links=manage_links)))
    host.put(make_network(1))
    opened, answered = tcp(OUTSIDE, "10.1.0.9", 5000), tcp(OUTSIDE, "10.1.0.9", 40000, 80, picked_up=True)
    host.flows.tracked = [opened, answered]
    to_web = make_rule(70, direction="egress", protocol="tcp", port_range_min=80, port_range_max=80)
    host.put(make_group(7, to_web), make_instance(8, (7,)))
    assert host.flows.tracked == [answered]


def test_a_connection_that_was_picked_up_is_judged_as_it_was_opened(host: Host) -> None:
    """The server's segment came first: the rule that let the client in is what it lives by."""
    picked_up = tcp("10.1.0.2", OUTSIDE, 40000, 80, picked_up=True)
    own = tcp("10.1.0.2", OUTSIDE, 443, 40000, picked_up=True)
    host.flows.tracked = [picked_up, own]
    host.put(make_group(1, SSH))
    assert host.flows.tracked == [own]


def test_zones_are_kept_apart(tmp_path: Path) -> None:
    """Two bridged networks of one range: the same addresses are other instances'."""
    network = replace(SETTINGS.network, allow_same_net_traffic=False)
    host = Host(tmp_path, replace(SETTINGS, network=network))
    bridged = {"gateway": None, "gateway_v6": None, "cidr": "10.1.0.0/24"}
    twin = make_vif(2, 2, fixed_ips=("10.1.0.2",))
    host.put(
        make_network(1, **bridged),
        make_network(2, **bridged),
        make_group(1, make_rule(1, remote_group_id=group_id(1))),
        make_group(2, make_rule(2)),
        make_instance(1, (1,)),
        make_instance(2, (2,), vifs=(twin,)),
        make_instance(3, (1,)),
        make_instance(4, (2,), vifs=(make_vif(4, 2, fixed_ips=("10.1.0.4",)),)),
    )
    numbers = zones(host.engine._compiled.scope.resolved, 4)
    assert len({numbers["br1"], numbers["br2"], 0}) == 3
    here, there = (tcp("10.1.0.4", "10.1.0.2", zone=numbers[bridge]) for bridge in ("br1", "br2"))
    elsewhere = tcp("10.1.0.4", "10.1.0.2", zone=max(numbers.values()) + 1)
    remote = tcp("10.1.0.99", "10.1.0.2", zone=numbers["br1"])
    host.flows.tracked = [here, there, elsewhere, remote]
    host.put(make_instance(3, ()))
    assert host.flows.tracked == [there, elsewhere, remote]
    host.backend.change(TableId(4, "mangle"), "PREROUTING", [])
    host.engine.resync()
    assert host.flows.tracked == [there, elsewhere]


# --- what was cut stays cut

CUT4 = "nova-netagent-cut4"
END = f"{OUTSIDE},tcp:40000,10.1.0.2"


def cut_one(host: Host) -> None:
    """Revoke what a connection lives by."""
    host.flows.tracked = [tcp(OUTSIDE, "10.1.0.2")]
    host.put(make_group(1, SSH))
    assert host.backend.cut == {CUT4: {END}}


def flush(host: Host) -> None:
    """Somebody takes all rules away, and what the sets remember."""
    for table, chains in host.backend.chains.items():
        for chain in list(chains):
            host.backend.change(table, chain, () if chain in BUILTIN_CHAINS[table.name] else None)
    host.backend.sets.clear()
    host.backend.cut.clear()


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """It is so many seconds later for whoever asks."""
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + seconds)


def test_what_a_repair_finds_forgotten_is_noted_again(host: Host) -> None:
    cut_one(host)
    for _ in range(2):
        flush(host)
        host.engine.resync()
        assert host.backend.cut == {CUT4: {END}}
    assert host.engine._revocation.cut_by(END) == {("security_groups", group_id(1))}


@pytest.mark.parametrize("failures", [0, 1])
def test_what_a_change_finds_forgotten_is_noted_again(host: Host, failures: int) -> None:
    """It comes before the repair, and has the sets made anew; also where the flows cannot be looked at at once."""
    cut_one(host)
    flush(host)
    host.flows.tracked, host.flows.broken = [tcp(OUTSIDE, "10.1.0.2", picked_up=True)], failures
    host.put(make_network(2))
    assert host.backend.cut == {CUT4: {END}}
    if failures:
        host.engine._revocation.due = time.monotonic()
        host.engine.serve([])
    assert host.flows.tracked == []
    host.put(make_network(3))
    assert len(host.flows.looks) == 2 + failures


def test_what_the_sets_have_does_not_begin_anew(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """``explain`` tells how long ago it was."""
    cut_one(host)
    host.backend.change(TableId(4, "mangle"), "PREROUTING", [])
    with monkeypatch.context() as watched:
        watched.setattr(host.backend, "note_cut", lambda ends: pytest.fail(f"noted: {ends}"))
        host.engine.resync()
    assert host.engine.view.revocation_failure == ""


def test_what_an_operator_has_it_forget_stays_forgotten(host: Host) -> None:
    cut_one(host)
    host.backend.cut.clear()
    host.engine.resync()
    assert host.backend.cut == {}


def test_what_was_cut_too_long_ago_is_not_noted_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_one(host)
    later(monkeypatch, CUT_SECONDS)
    host.flows.tracked = [tcp("203.0.113.8", "10.1.0.2", 22)]
    host.put(make_group(1))
    flush(host)
    host.engine.resync()
    assert host.backend.cut == {CUT4: {"203.0.113.8,tcp:40000,10.1.0.2"}}


def test_of_many_the_last_are_noted_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation, "MOST_REMEMBERED", 1)
    cut_one(host)
    host.flows.tracked = [tcp(OUTSIDE, "10.1.0.2", 22, 40001)]
    host.put(make_group(1))
    flush(host)
    host.engine.resync()
    assert host.backend.cut == {CUT4: {f"{OUTSIDE},tcp:40001,10.1.0.2"}}


def test_what_a_repair_cut_is_noted_again_as_well(host: Host) -> None:
    """No change is to blame for it."""
    for _ in range(2):
        host.flows.tracked = [tcp(OUTSIDE, "10.1.0.2", 99)]
        flush(host)
        host.engine.resync()
        host.flows.tracked = []
        flush(host)
        host.engine.resync()
        assert host.backend.cut == {CUT4: {END}}
    assert not host.engine._revocation.cut_by(END)


def test_what_is_cut_again_by_nobodys_change_was_cut_by_the_one_before(host: Host) -> None:
    cut_one(host)
    host.flows.tracked = [tcp(OUTSIDE, "10.1.0.2")]
    host.backend.change(TableId(4, "mangle"), "PREROUTING", [])
    host.engine.resync()
    assert host.flows.tracked == []
    assert host.engine._revocation.cut_by(END) == {("security_groups", group_id(1))}


def test_what_cannot_be_noted_again_is_told_and_tried_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_one(host)
    flush(host)

    def fails(*_: object) -> None:
        raise Unavailable("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(host.backend, "note_cut", fails)
        host.engine.resync()
    assert "no memory" in host.engine.view.revocation_failure
    host.engine._revocation.due = time.monotonic()
    host.engine.serve([])
    assert host.backend.cut == {CUT4: {END}}
    assert host.engine.view.revocation_failure == ""


@pytest.mark.parametrize("speaks", ["client", "server"])
def test_what_spoke_while_the_rules_were_gone_is_cut_again(host: Host, speaks: str) -> None:
    """The instance may say to its client what it likes, and what is picked up may be that."""
    cut_one(host)
    flush(host)
    back = tcp(OUTSIDE, "10.1.0.2", picked_up=True)
    if speaks == "server":
        back = replace(back, original=back.reply, reply=back.original)
    anew = tcp(OUTSIDE, "10.1.0.2", 22)
    other = tcp("10.1.0.2", OUTSIDE, 443, 50000, picked_up=True)
    host.flows.tracked = [back, anew, other]
    host.engine.resync()
    assert host.flows.tracked == [anew, other]
    assert host.backend.cut == {CUT4: {END}}


def test_what_spoke_meanwhile_is_known_by_each_of_its_translated_ends(host: Host) -> None:
    host.put(make_floating_ip(1))
    called = tcp(OUTSIDE, "198.51.100.1", reply=Side("10.1.0.2", OUTSIDE, 80, 40000))
    host.flows.tracked = [called]
    host.put(make_group(1, SSH))
    flush(host)
    host.flows.tracked = [
        replace(called, picked_up=True),
        replace(called, original=called.reply, reply=called.original, picked_up=True),
    ]
    host.engine.resync()
    assert host.flows.tracked == []


# --- the packet filter is another one


def switched(host: Host, settings: Settings | None = None) -> tuple[FakeBackend, FakeBackend]:
    """The other packet filter, the agent not yet started, and the one that was ours."""
    owner = Owner(host.settings.firewall.wrap_name)
    host.engine.close()
    host.settings = settings or host.settings
    host.leftovers, host.backend = host.backend, FakeBackend(owns_set=owner.owns_set)
    return host.backend, host.leftovers


def test_what_was_cut_is_noted_in_another_packet_filter(host: Host) -> None:
    cut_one(host)
    new, old = switched(host)
    host.start()
    assert new.cut[CUT4] == {END}
    assert not old.cut
    assert not old.sets


@pytest.mark.parametrize("who", ["the old one's sets", "the new one's sets", "the old one's rules"])
def test_what_cannot_be_noted_there_yet_is_not_swept(
    host: Host, who: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cut_one(host)
    new, old = switched(host)

    def fails(*_: object) -> None:
        raise Unavailable("no memory")

    with monkeypatch.context() as patch:
        if who == "the old one's rules":
            old.unavailable = 1
        else:
            patch.setattr(*((old, "cut_ends") if who == "the old one's sets" else (new, "note_cut")), fails)
        host.start()
    assert old.cut == {CUT4: {END}}
    assert "what is left of ours in fake is swept later" in caplog.text
    host.engine.resync()
    assert new.cut[CUT4] == {END}
    assert not old.cut
    assert not old.sets


def test_ends_of_a_family_that_is_filtered_no_more_keep_nobody_from_sweeping(host: Host) -> None:
    host.put(make_group(1, replace(WEB, id=make_rule(3).id, ethertype="IPv6"), WEB))
    host.flows.tracked = [tcp("2001:db8::1", "fd00:1::2", family=6), tcp(OUTSIDE, "10.1.0.2")]
    host.put(make_group(1))
    assert len(host.backend.cut) == 2
    new, old = switched(host, replace(host.settings, use_ipv6=False))
    host.start()
    assert new.cut[CUT4] == {END}
    assert not old.cut
    assert not old.sets


# --- who is where


def with_pair(prefix: str) -> Instance:
    return make_instance(1, (1,), vifs=(make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address=prefix),)),))


@pytest.mark.parametrize(
    ("prefix", "goes"), [("10.9.0.5/32", True), ("10.9.0.0/24", True), ("0.0.0.0/0", False)], ids=["one", "some", "all"]
)
def test_an_allowed_pair_is_removed(host: Host, prefix: str, goes: bool) -> None:
    """One with everybody says of nobody that he was behind it."""
    host.put(with_pair(prefix))
    paired, other = tcp(OUTSIDE, "10.9.0.5"), tcp(OUTSIDE, "10.1.0.3")
    host.flows.tracked = [paired, other]
    host.put(make_instance(1, (1,)))
    assert host.flows.tracked == ([other] if goes else [paired, other])


def test_a_provider_rule_for_everybody_has_everybody_looked_at(host: Host) -> None:
    web, own = tcp(OUTSIDE, "10.1.0.2"), tcp("10.1.0.2", OUTSIDE, 443)
    host.flows.tracked = [web, own]
    host.put(make_provider_rule(1, remote_ip_prefix="0.0.0.0/0", protocol="tcp", port_range_min=80, port_range_max=80))
    assert host.flows.looks == [Addresses(everybody=True)]
    assert host.flows.tracked == [own]


def test_a_network_is_routed_no_longer(host: Host) -> None:
    """Also what lives elsewhere and was only routed here."""
    host.put(make_network(2, bridge_interface="eth1"))
    remote = tcp("10.2.0.200", OUTSIDE)
    host.flows.tracked = [remote]
    host.put(make_network(2, bridge_interface="eth1", gateway=None))
    assert host.flows.tracked == []


def test_where_nothing_is_routed_the_hosts_own_flows_are_judged_too(tmp_path: Path) -> None:
    """They have no zone. Those of others without one are not of this bridge."""
    host = Host(tmp_path, replace(SETTINGS, network=replace(SETTINGS.network, allow_same_net_traffic=False)))
    served = make_network(1, gateway=None, dhcp_server="10.1.0.1")
    host.put(served, make_group(1, WEB, SSH), make_instance(1, (1,)), make_instance(2))
    zone = zones(host.engine._compiled.scope.resolved, 4)["br1"]
    web, ssh = tcp("10.1.0.1", "10.1.0.2"), tcp("10.1.0.1", "10.1.0.2", 22)
    bridged, other = tcp("10.1.0.3", "10.1.0.2", zone=zone), tcp(OUTSIDE, "10.1.0.2")
    host.flows.tracked = [web, ssh, bridged, other]
    host.put(make_group(1, SSH))
    assert host.flows.tracked == [ssh, other]


def test_other_peoples_translations_are_judged_by_where_they_lead(host: Host) -> None:
    """An operator's own port forwarding, and the metadata service."""
    to_ssh, to_web = (
        tcp("203.0.113.8", "192.0.2.77", 2000 + port, reply=Side("10.1.0.2", "203.0.113.8", port, 40000))
        for port in (22, 80)
    )
    metadata = tcp("10.1.0.2", "169.254.169.254", reply=Side("192.0.2.10", "10.1.0.2", 8775, 40000))
    host.flows.tracked = [to_ssh, to_web, metadata]
    host.put(make_group(1, WEB))
    assert host.flows.tracked == [to_web, metadata]


def test_behind_a_bridge_of_somebody_elses_there_may_be_anybody(tmp_path: Path) -> None:
    """Its uplink has no name here, and its network no route: all the same they are let in by the rules."""
    network = replace(SETTINGS.network, manage_links=False, allow_same_net_traffic=False)
    host = Host(tmp_path, replace(SETTINGS, network=network))
    host.put(make_network(1, gateway=None, gateway_v6=None), make_group(1, WEB, SSH), make_instance(1, (1,)))
    zone = zones(host.engine._compiled.scope.resolved, 4)["br1"]
    web, ssh = (tcp("10.1.0.200", "10.1.0.2", port, zone=zone) for port in (80, 2222))
    host.flows.tracked = [web, ssh]
    host.backend.change(TableId(4, "mangle"), "PREROUTING", [])
    host.engine.resync()
    assert host.flows.tracked == [web]
    host.put(make_group(1, SSH))
    assert host.flows.tracked == []


def test_behind_a_vif_without_port_security_there_may_be_anybody(host: Host) -> None:
    router = make_instance(7, (), vifs=(make_vif(7, port_security_enabled=False),))
    host.put(router)
    through = tcp("10.1.0.77", OUTSIDE)
    host.flows.tracked = [through]
    host.backend.change(TableId(4, "mangle"), "PREROUTING", [])
    host.engine.resync()
    assert host.flows.tracked == [through]
