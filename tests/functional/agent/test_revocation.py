"""What is revoked stops at once, whichever end speaks next; what is beside it goes on."""

import errno
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_network
from typing import Any

import pytest
from msgspec.structs import replace

from nova_netagent.events import Put, fold
from nova_netagent.model import AllowedAddressPair, Instance, SecurityGroup, State, document
from nova_netagent.store import Store
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
from tests.functional.agent.flows import talking
from tests.functional.agent.kernel import eventually
from tests.functional.agent.meddling import DRIFT
from tests.functional.agent.nft import W, listed, nft
from tests.functional.agent.site import ETHERTYPES, NETWORKS, Site
from tests.lab import Namespace, Udp, arrives, connect, iptables, needs, ping, refused, udp
from tests.lab.clients import ADDRESS_FAMILIES

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

CONFIG = {"network": {"fixed_range": "10.0.0.0/8"}}
FIRST, SECOND = "198.51.100.1", "198.51.100.2"


def ports(family: int, *numbers: int, group: int = 1, **fields: object) -> SecurityGroup:
    """A group that lets in these ports of TCP and UDP."""
    rules = [
        make_rule(
            2 * n + (protocol == "udp") + 1000 * group,
            ethertype=ETHERTYPES[family],
            protocol=protocol,
            port_range_min=n,
            port_range_max=n,
            **fields,
        )
        for n in numbers
        for protocol in ("tcp", "udp")
    ]
    return make_group(group, *rules)


def cut(site: Site) -> int:
    """How many flows the agent has cut."""
    _, text = site.agent.request("GET", "/metrics")
    found = re.search(r"^netagent_conntrack_deleted_total (\S+)", str(text), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


# --- rules


def test_a_rule_is_removed(site: Site, family: int) -> None:
    site.describe(ports(family, 80, 81), make_instance(1, (1,)), make_instance(2))
    with (
        talking(site.outside, site.vm1, 80, family) as routed,
        talking(site.vm2, site.vm1, 80, family) as bridged,
        talking(site.outside, site.vm1, 81, family) as beside,
        talking(site.vm1, site.outside, 80, family) as out,
    ):
        site.put(ports(family, 81))
        assert routed.is_dead()
        assert bridged.is_dead()
        assert beside.lives()
        assert out.lives()


def test_a_rule_is_narrowed(site: Site, family: int) -> None:
    site.describe(ports(family, 80), make_instance(1, (1,)))
    with (
        talking(site.elsewhere, site.vm1, 80, family) as revoked,
        talking(site.outside, site.vm1, 80, family) as beside,
    ):
        bits = 32 if family == 4 else 128
        site.put(ports(family, 80, remote_ip_prefix=f"{site.outside.ip(family)}/{bits}"))
        assert revoked.is_dead()
        assert beside.lives()


def test_an_egress_rule_is_removed(site: Site, family: int) -> None:
    let_in = make_group(2, make_rule(1, ethertype=ETHERTYPES[family]))
    site.describe(ports(family, 80, 81, direction="egress"), let_in, make_instance(1, (1, 2)))
    with (
        talking(site.vm1, site.outside, 80, family) as revoked,
        talking(site.vm1, site.host, 80, family, to=f"{'10.1.0.1' if family == 4 else 'fd00:1::1'}") as to_host,
        talking(site.vm1, site.outside, 81, family) as beside,
    ):
        site.put(ports(family, 81, direction="egress"))
        assert revoked.is_dead()
        assert to_host.is_dead()
        assert beside.lives()


def test_what_the_host_itself_may_no_longer_say(site: Site, family: int) -> None:
    site.describe(ports(family, 80, 81), make_instance(1, (1,)))
    with talking(site.host, site.vm1, 80, family) as revoked, talking(site.host, site.vm1, 81, family) as beside:
        site.put(ports(family, 81))
        assert revoked.is_dead()
        assert beside.lives()


def test_what_the_host_says_and_is_told_where_nothing_is_routed(site: Site) -> None:
    """These flows have no zone, and others on that bridge have one."""
    network = make_network(1, gateway=None, dhcp_server="10.1.0.1", gateway_v6=None)
    groups = ports(4, 80, 81), ports(4, 80, 81, group=2, direction="egress")
    site.describe(network, *groups, make_instance(1, (1, 2)))
    with (
        talking(site.host, site.vm1, 80) as said,
        talking(site.vm1, site.host, 80, to="10.1.0.1") as told,
        talking(site.host, site.vm1, 81) as said_beside,
        talking(site.vm1, site.host, 81, to="10.1.0.1") as told_beside,
    ):
        site.put(ports(4, 81))
        assert said.is_dead()
        assert all(each.lives() for each in (told, said_beside, told_beside))
        site.put(ports(4, 81, group=2, direction="egress"))
        assert told.is_dead()
        assert all(each.lives() for each in (said_beside, told_beside))


def test_a_group_is_taken_from_an_instance(site: Site, family: int) -> None:
    groups = ports(family, 80), ports(family, 81, group=2)
    site.describe(*groups, make_instance(1, (1, 2)), make_instance(2, (1,)))
    with (
        talking(site.outside, site.vm1, 80, family) as revoked,
        talking(site.outside, site.vm1, 81, family) as other_group,
        talking(site.outside, site.vm2, 80, family) as other_instance,
    ):
        site.put(make_instance(1, (2,)))
        assert revoked.is_dead()
        assert other_group.lives()
        assert other_instance.lives()


def test_a_group_is_deleted(site: Site, family: int) -> None:
    group = ports(family, 80)
    site.describe(group, ports(family, 81, group=2), make_instance(1, (1, 2)))
    with (
        talking(site.outside, site.vm1, 80, family) as revoked,
        talking(site.outside, site.vm1, 81, family) as beside,
    ):
        site.delete(group)
        assert revoked.is_dead()
        assert beside.lives()


@pytest.mark.parametrize("leaving", ["group", "host"])
def test_a_member_leaves_a_remote_group(site: Site, family: int, leaving: str) -> None:
    members = [f"{site.elsewhere.ip(family)}/{32 if family == 4 else 128}"]
    site.describe(
        ports(family, 80, remote_group_id=group_id(2)),
        make_group(2, members=members),
        make_instance(1, (1,)),
        make_instance(2, (2,)),
        make_instance(3, (2,), 2),
    )
    leaver = site.vm2 if leaving == "group" else site.elsewhere
    with (
        talking(leaver, site.vm1, 80, family) as revoked,
        talking(site.vm3, site.vm1, 80, family) as beside,
    ):
        site.put(make_instance(2) if leaving == "group" else make_group(2))
        assert revoked.is_dead()
        assert beside.lives()


def test_a_member_leaves_while_the_groups_set_gets_another_name(site: Site, family: int) -> None:
    """As another group comes whose id begins alike, in the same commit."""
    member = f"{site.elsewhere.ip(family)}/{32 if family == 4 else 128}"
    remote, alike = make_group(2), make_group(2, id=f"{group_id(2)[:-1]}f")
    let_in = ports(family, 80, remote_group_id=remote.id)
    let_alike = ports(family, 81, group=3, remote_group_id=alike.id)
    instance = make_instance(1, (1, 3))
    site.describe(let_in, let_alike, replace(remote, members=(member,)), instance)
    with talking(site.elsewhere, site.vm1, 80, family) as revoked:
        wanted = State(networks=NETWORKS, security_groups=(let_in, let_alike, remote, alike), instances=(instance,))
        site.agent.state(document(wanted))
        assert revoked.is_dead()


def test_a_provider_rule_is_added(site: Site, family: int) -> None:
    site.describe(ports(family, 80), make_instance(1, (1,)))
    with (
        talking(site.elsewhere, site.vm1, 80, family) as revoked,
        talking(site.outside, site.vm1, 80, family) as beside,
    ):
        bits = 32 if family == 4 else 128
        site.put(make_provider_rule(1, remote_ip_prefix=f"{site.elsewhere.ip(family)}/{bits}"))
        assert revoked.is_dead()
        assert beside.lives()


# --- instances


def unsecured(**fields: Any) -> Instance:
    return make_instance(1, (1,), vifs=(make_vif(1, **fields),))


def test_port_security_is_switched_on(site: Site, family: int) -> None:
    site.describe(ports(family, 81), unsecured(port_security_enabled=False))
    with (
        talking(site.outside, site.vm1, 80, family) as revoked,
        talking(site.outside, site.vm1, 81, family) as beside,
    ):
        site.put(unsecured())
        assert revoked.is_dead()
        assert beside.lives()


@contextmanager
def another_address(site: Site, family: int) -> Iterator[str]:
    """An address that the machine of instance 1 has besides its own."""
    address, length = ("10.1.0.100", 24) if family == 4 else ("fd00:1::100", 64)
    site.vm1.links.add_address("eth0", f"{address}/{length}")
    try:
        yield address
    finally:
        site.vm1.links.delete_address("eth0", f"{address}/{length}")


WAYS = ("fixed IP", "pair", "prefix of a pair")


def with_another(address: str, way: str = "pair", groups: tuple[int, ...] = ()) -> Instance:
    """Instance 1 with one address more, in one of these ways."""
    pair = address if way == "pair" else str(ip_network(f"{address}/{124 if ':' in address else 28}", strict=False))
    more: dict[str, Any] = {"allowed_address_pairs": (AllowedAddressPair(ip_address=pair),)}
    if way == "fixed IP":
        more = {"fixed_ips": (*make_vif(1).fixed_ips, address)}
    return make_instance(1, groups, vifs=(make_vif(1, **more),))


def test_an_allowed_pair_is_removed(site: Site, family: int) -> None:
    with another_address(site, family) as address:
        site.describe(ports(family, 80), unsecured(allowed_address_pairs=({"ip_address": address},)))
        with (
            talking(site.outside, site.vm1, 80, family, to=address) as revoked,
            talking(site.outside, site.vm1, 80, family) as beside,
        ):
            before = cut(site)
            site.put(unsecured())
            assert cut(site) - before == 3
            assert not any(each.alive(0.3) for each in (*revoked.connections, revoked.datagrams))
            assert beside.lives()


def test_a_rule_is_removed_that_let_in_to_an_allowed_pair(site: Site, family: int) -> None:
    with another_address(site, family) as address:
        site.describe(ports(family, 80, 81), with_another(address, groups=(1,)))
        with (
            talking(site.outside, site.vm1, 80, family, to=address) as revoked,
            talking(site.outside, site.vm1, 81, family, to=address) as beside,
        ):
            site.put(ports(family, 81))
            assert revoked.is_dead()
            assert beside.lives()


def test_an_instance_is_deleted(site: Site, family: int) -> None:
    site.describe(ports(family, 80), make_instance(1, (1,)), make_instance(2, (1,)))
    with (
        talking(site.outside, site.vm1, 80, family) as inward,
        talking(site.vm1, site.vm2, 80, family) as between,
        talking(site.outside, site.vm2, 80, family) as beside,
    ):
        before = cut(site)
        site.delete(make_instance(1))
        assert cut(site) - before >= 6
        assert inward.is_dead()
        assert between.is_dead()
        assert beside.lives()


def test_an_address_is_used_again_within_a_second(site: Site, family: int) -> None:
    """By an instance that may have what its predecessor had: it is nobody's heir."""
    heir = make_instance(9, (1,), vifs=(make_vif(9, fixed_ips=make_vif(1).fixed_ips),))
    site.describe(ports(family, 80), make_instance(1, (1,)))
    machine = site.machine(9)
    with talking(site.outside, site.vm1, 80, family) as old:
        before = cut(site)
        site.delete(make_instance(1))
        site.put(heir)
        assert cut(site) - before >= 3
        assert old.is_dead()
    address = site.vm1.ip(family)
    own = f"{address}/{24 if family == 4 else 64}"
    machine.links.add_address("eth0", own)
    site.host.links.delete_neighbour("br1", address)
    try:
        with talking(site.outside, machine, 80, family, to=address) as new:
            assert new.lives()
    finally:
        machine.links.delete_address("eth0", own)


def test_who_comes_to_an_address_cannot_answer_what_was_sent_to_it_before(site: Site, family: int) -> None:
    """A flow that nobody judged, since the address was nobody's: it would be a way around the egress rules."""
    site.describe(ports(family, 80, direction="egress"), make_instance(2))
    asked, answer = Udp(53, source_port=4000, family=family), Udp(4000, source_port=53, family=family)
    site.host.run(["ip", "neighbour", "flush", "dev", "br1"])
    # Not by ``refused``, which makes flows of its own.
    assert not arrives(site.outside, site.vm1, asked, within=0.3)
    site.put(make_instance(1, (1,)))
    assert not arrives(site.vm1, site.outside, answer, within=0.3)
    assert not arrives(site.outside, site.vm1, asked, within=0.3)
    assert arrives(site.vm1, site.outside, Udp(80, family=family))


@pytest.mark.parametrize("way", WAYS)
def test_who_gets_one_more_address_is_not_reached_by_who_asked_for_it_before(site: Site, family: int, way: str) -> None:
    """A connection of which nobody was asked waits for an answer to ARP, and opens with it."""
    site.describe(make_instance(1))
    with another_address(site, family) as address:
        site.host.run(["ip", "neighbour", "flush", "dev", "br1"])
        with site.outside.socket(ADDRESS_FAMILIES[family], socket.SOCK_STREAM) as client:
            site.vm1.echo.serve("tcp", family, 80)
            client.setblocking(False)
            client.connect_ex((address, 80))
            time.sleep(0.1)
            site.put(with_another(address, way))
            time.sleep(1.2)  # the host asks once a second
            assert client.connect_ex((address, 80)) not in (0, errno.EISCONN)


@pytest.mark.parametrize("way", WAYS)
def test_who_claims_an_address_all_the_time_has_it_when_there_are_rules_for_it(site: Site, way: str) -> None:
    """A vif that is here gets one more: who sends to it meets its groups from the first packet on."""
    address = "10.1.0.100"
    site.describe(make_instance(1))
    site.vm1.links.add_address("eth0", f"{address}/32")
    try:
        with nobody_reached(site, address) as asked:
            for _ in range(5):
                site.put(make_instance(1))
                asked(with_another(address, way))
    finally:
        site.vm1.links.delete_address("eth0", f"{address}/32")


def test_whose_tap_is_on_the_bridge_before_him_claims_nothing_before_his_rules(site: Site) -> None:
    """Somebody else put it there: closed as nobody's, it stays so until there are rules."""
    device = make_vif(1).device
    site.describe(make_instance(1))
    with nobody_reached(site, "10.1.0.2") as asked:
        for _ in range(5):
            site.delete(make_instance(1))
            site.host.links.set(device, master="br1")
            eventually(lambda: device in listed(site.host, "set", "bridge", W, "closed"), 2)
            asked(make_instance(1))


def test_what_was_saved_when_the_agent_was_killed_is_claimed_after_its_rules(site: Site) -> None:
    """Between saving a change and carrying it out: the next start finds frames that know nothing of it."""
    address = "10.1.0.100"
    site.describe(make_instance(1))
    site.vm1.links.add_address("eth0", f"{address}/32")
    try:
        with nobody_reached(site, address, partial(killed_before, site)) as asked:
            for _ in range(3):
                site.put(make_instance(1))
                asked(with_another(address))
    finally:
        site.vm1.links.delete_address("eth0", f"{address}/32")


def killed_before(site: Site, instance: Instance) -> None:
    """The agent is killed when it has saved an instance, and not carried it out; it is started again."""
    site.agent.kill9()
    store = Store(site.agent.state_path / "state.db")
    state = store.load()
    store.save(state, fold(state, Put(instance), time.time()))
    store.close()
    site.agent.start()


@contextmanager
def nobody_reached(
    site: Site, address: str, put: Callable[[Instance], object] | None = None
) -> Iterator[Callable[[Instance], None]]:
    """Instance 1 claims an address all the time; described while it is sent to, it must not hear of it.

    :param put: how it is described; by default over HTTP.
    """
    with (
        claiming(site.vm1, make_vif(1).address, address, str(site.gateway_mac(site.vm1))),
        site.vm1.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        site.outside.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind((address, 53))
        server.settimeout(0.1)

        def describe(instance: Instance) -> None:
            with again(lambda: client.sendto(b"?", (address, 53))):
                (put or site.put)(instance)
            with pytest.raises(TimeoutError):
                server.recv(1)

        yield describe


@contextmanager
def again(function: Callable[[], object]) -> Iterator[None]:
    """Meanwhile something is done a thousand times a second."""
    enough = threading.Event()

    def run() -> None:
        while not enough.wait(0.001):
            function()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


@contextmanager
def claiming(machine: Namespace, mac: str, address: str, to: str) -> Iterator[None]:
    """Meanwhile a machine says by ARP that it has an address."""
    own, other = bytes.fromhex(mac.replace(":", "")), bytes.fromhex(to.replace(":", ""))
    said = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 2, own, socket.inet_aton(address), other, bytes(4))
    with machine.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0x806))
        with again(lambda: raw.send(other + own + b"\x08\x06" + said)):
            yield


@pytest.mark.parametrize("way", WAYS)
def test_an_address_that_is_taken_away_leads_to_nobody(site: Site, family: int, way: str) -> None:
    """The host knows its MAC for a minute; no group is asked about an address that is nobody's."""
    with another_address(site, family) as address:
        site.describe(ports(family, 80), with_another(address, way, (1,)))
        with talking(site.outside, site.vm1, 80, family, to=address):
            site.put(make_instance(1, (1,)))
            for port in (80, 53):
                assert not arrives(site.outside, site.vm1, Udp(port, to=address, family=family), within=0.3)


def test_an_address_that_was_taken_away_when_the_agent_was_killed_leads_to_nobody(site: Site, family: int) -> None:
    with another_address(site, family) as address:
        site.describe(ports(family, 80), with_another(address, groups=(1,)))
        with talking(site.outside, site.vm1, 80, family, to=address):
            killed_before(site, make_instance(1, (1,)))
            assert not arrives(site.outside, site.vm1, Udp(53, to=address, family=family), within=0.3)


# --- migration


def test_an_instance_that_was_migrated_in_keeps_its_connections(site: Site, family: int) -> None:
    """Whichever end speaks first: this host has seen nothing of them."""
    site.describe(ports(family, 80), make_instance(1, (1,)), make_instance(2))
    with (
        talking(site.outside, site.vm1, 80, family) as inward,
        talking(site.vm1, site.outside, 81, family) as outward,
        talking(site.vm2, site.vm1, 80, family) as between,
    ):
        site.delete(make_instance(1))
        site.forget_flows()
        site.put(make_instance(1, (1,)))
        assert inward.lives()
        assert outward.lives()
        assert between.lives()


# --- what was cut stays cut


def test_a_new_connection_is_judged_by_the_rules_alone(site: Site, family: int) -> None:
    """And what was cut does not come to life when the rule comes back."""
    site.describe(ports(family, 80, 81), make_instance(1, (1,)))
    with talking(site.outside, site.vm1, 80, family) as old:
        site.put(ports(family, 81))
        site.put(ports(family, 80, 81))
        with talking(site.outside, site.vm1, 80, family) as new:
            assert all(not each.alive(0.3) for each in old.connections)
            assert new.lives()


def test_nothing_is_cut_when_nothing_is_narrowed(site: Site) -> None:
    site.describe(ports(4, 80), make_instance(1, (1,)))
    with talking(site.outside, site.vm1, 80) as talk:
        before = cut(site)
        site.put(ports(4, 80, 81), make_instance(2, (1,)), make_floating_ip(1), make_network(3))
        site.agent.resync()
        assert talk.lives()
        assert cut(site) == before


@pytest.mark.parametrize("by", ["resync", "change"])
def test_flows_that_were_let_in_while_the_rules_were_gone(site: Site, by: str) -> None:
    site.describe(ports(4, 81), make_instance(1, (1,)))
    with talking(site.outside, site.vm1, 81) as allowed:
        if site.backend == "nftables":
            site.host.run(["nft", "flush", "chain", "ip", "nova-netagent", "filter-FORWARD"])
        else:
            iptables(site.host, "-t filter -F FORWARD")
        with talking(site.outside, site.vm1, 80) as stray:
            if by == "change":
                site.put(make_instance(2, (1,)))
            else:
                site.agent.resync()
            assert stray.is_dead()
        assert allowed.lives()


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_repair_cuts_no_connection_to_the_metadata_service(site: Site, direction: str) -> None:
    """Egress rules are asked for the address that was sent to, and not for where it leads."""
    site.describe(
        ports(4, 80, direction="egress"), make_group(2), make_instance(1, (1 if direction == "egress" else 2,))
    )
    with connect(site.vm1, "169.254.169.254", 80, server=site.host, server_port=8775) as metadata:
        DRIFT[site.backend]["a verdict is turned"](site.host)
        with talking(site.outside, site.vm1, 81) as stray:
            site.agent.resync()
            assert stray.is_dead()
        assert metadata.alive()


def test_a_restart_cuts_nothing_and_forgets_nothing(site: Site) -> None:
    site.describe(ports(4, 80, 81), make_instance(1, (1,)), make_floating_ip(1))
    with (
        talking(site.outside, site.vm1, 80) as revoked,
        talking(site.outside, site.vm1, 81) as direct,
        talking(site.outside, site.vm1, 81, to=FIRST) as floating,
        talking(site.vm1, site.outside, 80) as out,
    ):
        site.put(ports(4, 81))
        site.agent.restart()
        assert revoked.is_dead()
        assert all(each.lives() for each in (direct, floating, out))


FORGETTING: dict[str, tuple[tuple[str, ...], ...]] = {
    "iptables": (
        ("the sets are destroyed",),
        ("every table is emptied", "IPv6 is emptied", "all sets are flushed"),
    ),
    "nftables": (
        ("the ruleset is flushed",),
        ("our table is deleted", "IPv6's is deleted"),
    ),
}
"""Ways to take our rules away and what the sets remember, as DRIFT names them."""


@contextmanager
def tracked_by_others(site: Site) -> Iterator[None]:
    """Meanwhile a rule of an operator's uses connection tracking, in the packet filter that is not ours."""
    if site.backend == "nftables":
        with site.foreign("-t filter -A INPUT -m conntrack --ctstate INVALID -j ACCEPT"):
            yield
        return
    nft(site.host, "add table inet operators", "add chain inet operators c", "add rule inet operators c ct state new")
    try:
        yield
    finally:
        nft(site.host, "delete table inet operators")


@pytest.mark.parametrize("way", [0, 1])
def test_flows_that_were_let_in_while_only_others_tracked_them(site: Site, family: int, way: int) -> None:
    """With no rule at all that uses connection tracking the kernel makes no entry of them, and there is none to cut."""
    from_anybody = make_group(2, make_rule(1, ethertype=ETHERTYPES[family]))
    site.describe(ports(family, 81), from_anybody, make_instance(1, (1,)), make_instance(2, (2,)))
    with tracked_by_others(site), talking(site.vm2, site.vm1, 81, family) as allowed:
        for each in FORGETTING[site.backend][way]:
            DRIFT[site.backend][each](site.host)
        with talking(site.vm2, site.vm1, 80, family) as stray:
            site.agent.resync()
            assert stray.is_dead()
        assert allowed.lives()


@pytest.mark.parametrize("speaking", [False, True], ids=["silent", "speaking"])
@pytest.mark.parametrize("way", [0, 1])
def test_what_was_cut_stays_cut_when_others_take_rules_and_sets_away(
    site: Site, family: int, way: int, speaking: bool
) -> None:
    """Also what speaks while they are gone."""
    from_anybody = make_group(2, make_rule(1, ethertype=ETHERTYPES[family]))
    site.describe(ports(family, 80, 81), from_anybody, make_instance(1, (1,)), make_instance(2, (2,)))
    with (
        talking(site.vm2, site.vm1, 80, family) as revoked,
        talking(site.vm2, site.vm1, 81, family) as beside,
    ):
        site.put(ports(family, 81))
        for each in FORGETTING[site.backend][way]:
            DRIFT[site.backend][each](site.host)
        if speaking:
            assert all(each.alive() for each in revoked.connections)
        site.agent.resync()
        assert revoked.is_dead()
        assert beside.lives()


@pytest.mark.parametrize("restarted", [False, True], ids=["here", "restarted"])
def test_what_was_cut_stays_cut_when_a_change_finds_rules_and_sets_gone(
    site: Site, family: int, restarted: bool
) -> None:
    """Before a repair does: its rules look into a set, and so all is made anew with them.

    :param restarted: it was another agent that cut it.
    """
    from_anybody = make_group(2, make_rule(1, ethertype=ETHERTYPES[family]))
    from_members = ports(family, 81, group=3, remote_group_id=group_id(2))
    site.describe(ports(family, 80), from_anybody, from_members, make_instance(1, (1, 3)), make_instance(2, (2,)))
    with talking(site.vm2, site.vm1, 80, family) as revoked:
        site.put(ports(family))
        if restarted:
            site.agent.restart()
        for each in FORGETTING[site.backend][0]:
            DRIFT[site.backend][each](site.host)
        site.put(make_provider_rule(1, remote_ip_prefix="203.0.113.0/24" if family == 4 else "2001:db8:99::/48"))
        assert revoked.is_dead()
    assert site.agent.resync()["repaired"] == []


# --- floating IPs


def test_a_floating_ip_is_removed(site: Site) -> None:
    site.describe(ports(4, 80), make_instance(1, (1,)), make_instance(2, (1,)), make_floating_ip(1))
    with (
        talking(site.outside, site.vm1, 80, to=FIRST) as inward,
        talking(site.vm2, site.vm1, 80, to=FIRST) as from_beside,
        talking(site.vm1, site.outside, 81) as outward,
        talking(site.elsewhere, site.vm1, 80) as by_fixed_ip,
        talking(site.vm2, site.outside, 81) as beside,
    ):
        site.delete(make_floating_ip(1))
        for each in (inward, from_beside, outward):
            assert all(not c.alive(0.3) for c in each.connections)
        assert not inward.datagrams.alive(0.3)
        assert by_fixed_ip.lives()
        assert beside.lives()


def test_a_floating_ip_moves_while_connections_are_open(site: Site) -> None:
    site.describe(ports(4, 80), make_instance(1, (1,)), make_instance(2, (1,)), make_floating_ip(1))
    with (
        talking(site.outside, site.vm1, 80, to=FIRST) as inward,
        talking(site.vm1, site.outside, 81) as outward,
        talking(site.elsewhere, site.vm1, 80) as by_fixed_ip,
    ):
        site.put(make_floating_ip(1, instance=2))
        assert all(not c.alive(0.3) for each in (inward, outward) for c in each.connections)
        with talking(site.outside, site.vm2, 80, to=FIRST) as new:
            assert new.lives()
        assert by_fixed_ip.lives()


@pytest.mark.parametrize("caller", ["outside", "vm2"])
def test_who_goes_on_writing_to_a_floating_ip_reaches_it_when_it_is_back(site: Site, caller: str) -> None:
    """Also what is sent from the same port as what went astray meanwhile, as by whoever pings all the time."""
    site.describe(ports(4, 80), make_instance(1, (1,)), make_instance(2), make_floating_ip(1))
    with talking(getattr(site, caller), site.vm1, 80, to=FIRST) as talk:
        site.delete(make_floating_ip(1))
        assert not talk.datagrams.alive(0.3)
        site.put(make_floating_ip(1))
        assert talk.datagrams.alive()


def test_one_of_two_floating_ips_on_a_fixed_ip_is_removed(site: Site) -> None:
    site.describe(ports(4, 80), make_instance(1, (1,)), make_floating_ip(1), make_floating_ip(2))
    with (
        talking(site.outside, site.vm1, 80, to=FIRST) as lower,
        talking(site.outside, site.vm1, 80, to=SECOND) as higher,
        talking(site.vm1, site.outside, 81) as outward,
    ):
        site.delete(make_floating_ip(2))
        assert all(not c.alive(0.3) for c in higher.connections)
        assert lower.lives()
        assert outward.lives()


def test_a_rule_is_removed_that_let_in_by_a_floating_ip(site: Site) -> None:
    site.describe(
        ports(4, 80, 81), make_instance(1, (1,)), make_instance(2), make_floating_ip(1), make_floating_ip(2, instance=2)
    )
    callers: list[Namespace] = [site.outside, site.vm2, site.host]
    for caller in callers:
        site.put(ports(4, 80, 81))
        with (
            talking(caller, site.vm1, 80, to=FIRST) as revoked,
            talking(caller, site.vm1, 81, to=FIRST) as beside,
        ):
            site.put(ports(4, 81))
            assert revoked.is_dead()
            assert beside.lives()


def test_an_instance_that_calls_itself_by_its_floating_ip(site: Site) -> None:
    site.describe(ports(4, 80, 81), make_instance(1, (1,)), make_floating_ip(1))
    with (
        talking(site.vm1, site.vm1, 80, to=FIRST) as revoked,
        talking(site.vm1, site.vm1, 81, to=FIRST) as beside,
    ):
        site.put(ports(4, 81))
        assert revoked.is_dead()
        assert beside.lives()


# --- errors about a flow go with it


def test_pings_go_on_or_not_as_the_rules_say(site: Site, family: int) -> None:
    echo = make_group(2, make_rule(1, ethertype=ETHERTYPES[family], protocol="icmp"))
    site.describe(echo, make_instance(1, (2,)))
    assert ping(site.outside, site.vm1, family=family)
    site.put(make_group(2))
    assert not ping(site.outside, site.vm1, family=family, timeout=0.2)


# --- networks of one range that this host only bridges


def test_flows_of_one_network_are_not_anothers(site: Site, family: int) -> None:
    """Two pairs of the same addresses: what one may answer, the other may not."""
    own, peer = ("10.3.0.5", "10.3.0.6") if family == 4 else ("fd00:3::5", "fd00:3::6")
    bits = 24 if family == 4 else 64
    machines: dict[tuple[str, str], Namespace] = {}
    bridged: dict[str, Any] = {"gateway": None, "gateway_v6": None, "cidr": "10.3.0.0/24", "cidr_v6": "fd00:3::/64"}
    described = [make_network(number, **bridged) for number in (3, 4)]
    instances = []
    for network, name in ((3, "here"), (4, "there")):
        for address, end in ((own, "asks"), (peer, "answers")):
            number = 10 * network + len(machines) + (100 if family == 6 else 0)
            machine = site.guest(number, 3, (f"{address}/{bits}",))
            machines[name, end] = machine
            vif = make_vif(number, network, fixed_ips=(address,))
            groups = (1,) if (name, end) == ("here", "answers") else ()
            instances.append(make_instance(number, groups, vifs=(vif,)))
    site.describe(*described, ports(family, 53), *instances)
    assert udp(machines["here", "asks"], machines["here", "answers"], 53, family=family, source_port=5000)
    assert refused(machines["there", "answers"], machines["there", "asks"], Udp(5000, source_port=53, family=family))
    with talking(machines["here", "asks"], machines["here", "answers"], 53, family) as talk:
        site.delete(instances[2])
        assert talk.lives()
        site.put(ports(family, 54))
        assert talk.is_dead()
