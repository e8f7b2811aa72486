"""169.254.169.254 leads to the metadata service, wherever it is, and the service sees who asks."""

import pytest

from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_rule
from tests.functional.agent.conftest import SiteMaker
from tests.functional.agent.site import Site
from tests.lab import Answer, Forged, Namespace, Tcp, Udp, needs, tcp

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

METADATA, PORT = "169.254.169.254", 8775
HOST, ELSEWHERE = "192.0.2.10", "192.0.2.77"
RANGE = {"fixed_range": "10.0.0.0/8"}
INSTANCES = (make_instance(1), make_instance(2), make_instance(3, network=2))


@pytest.fixture(scope="module")
def away(make_site: SiteMaker) -> Site:
    """The service is on another machine of the public segment."""
    return make_site({"network": RANGE, "metadata": {"metadata_host": ELSEWHERE}})


@pytest.fixture(scope="module")
def here(make_site: SiteMaker) -> Site:
    """The service is on this host, by default at my_ip."""
    return make_site({"network": RANGE})


@pytest.fixture(scope="module")
def inside(make_site: SiteMaker) -> Site:
    """The service is on this host, said to be at 127.0.0.1."""
    return make_site({"network": RANGE, "metadata": {"metadata_host": "127.0.0.1", "metadata_port": 8776}})


def asks(machine: Namespace, service: Namespace, port: int = PORT, *, to: str = METADATA, at: int = 80) -> Answer:
    return tcp(machine, to, at, server=service, server_port=port, timeout=0.3)


# --- elsewhere


def test_a_service_elsewhere_sees_the_instances_own_address(away: Site) -> None:
    """Though whatever else it says out there is translated."""
    away.describe(*INSTANCES)
    for machine in (away.vm1, away.vm2, away.vm3):
        answer = asks(machine, away.elsewhere)
        assert answer
        assert answer.seen_as is not None
        assert answer.seen_as[0] == machine.ip4


def test_the_packet_that_asks(away: Site) -> None:
    away.describe(*INSTANCES)
    seen = away.passes(away.vm1, away.elsewhere, Tcp(80, to=METADATA))
    assert seen is not None
    assert (seen.source, seen.destination, seen.destination_port) == (away.vm1.ip4, ELSEWHERE, PORT)


@pytest.mark.parametrize("probe", [Tcp(81, to=METADATA), Udp(80, to=METADATA), Tcp(443, to=METADATA)], ids=repr)
def test_only_its_port_leads_there(away: Site, probe: Tcp) -> None:
    away.describe(*INSTANCES)
    assert away.stops(away.vm1, away.elsewhere, probe)


@pytest.mark.parametrize(
    ("probe", "source"), [(Tcp(PORT), "10.1.0.2"), (Tcp(80), HOST), (Udp(PORT), HOST), (Tcp(22), HOST)], ids=repr
)
def test_other_ports_of_the_machine_are_outside_like_any_other(away: Site, probe: Tcp, source: str) -> None:
    """nova exempts the whole machine from SNAT."""
    away.describe(*INSTANCES)
    seen = away.passes(away.vm1, away.elsewhere, probe)
    assert seen is not None
    assert seen.source == source


def test_the_same_port_of_another_machine_is_outside(away: Site) -> None:
    away.describe(*INSTANCES)
    seen = away.passes(away.vm1, away.outside, Tcp(PORT))
    assert seen is not None
    assert seen.source == HOST


def test_a_floating_ip_does_not_hide_who_asks(away: Site) -> None:
    away.describe(*INSTANCES, make_floating_ip(1))
    answer = asks(away.vm1, away.elsewhere)
    assert answer.seen_as is not None
    assert answer.seen_as[0] == away.vm1.ip4
    for probe, source in ((Tcp(80), "198.51.100.1"), (Udp(PORT), "198.51.100.1")):
        seen = away.passes(away.vm1, away.elsewhere, probe)
        assert seen is not None
        assert seen.source == source


def test_egress_rules_do_not_keep_anybody_from_it(away: Site) -> None:
    nothing = make_group(1, make_rule(1, direction="egress", protocol=200))
    away.describe(nothing, make_instance(1, (1,)))
    assert asks(away.vm1, away.elsewhere)
    assert not asks(away.vm1, away.elsewhere, to=ELSEWHERE, at=PORT)


def test_nobody_pretends_to_ask_for_another(away: Site) -> None:
    away.describe(*INSTANCES)
    assert away.stops(away.vm1, away.elsewhere, Forged(Tcp(80, to=METADATA), source="10.1.0.3"))


# --- here


def test_a_service_on_this_host(here: Site) -> None:
    here.describe(*INSTANCES)
    for machine in (here.vm1, here.vm3):
        answer = asks(machine, here.host)
        assert answer.seen_as is not None
        assert answer.seen_as[0] == machine.ip4


def test_a_service_on_this_host_behind_a_closed_input(here: Site) -> None:
    here.describe(*INSTANCES)
    with here.closed_input():
        assert asks(here.vm1, here.host)
        seen = here.passes(here.vm1, here.host, Tcp(80, to=METADATA))
        assert seen is not None
        assert (seen.source, seen.destination, seen.destination_port) == (here.vm1.ip4, HOST, PORT)
        for probe in (Tcp(81, to=METADATA), Udp(80, to=METADATA), Tcp(80, to=HOST), Tcp(PORT, to="10.1.0.1")):
            assert here.stops(here.vm1, here.host, probe)


def test_with_a_floating_ip(here: Site) -> None:
    here.describe(*INSTANCES, make_floating_ip(1))
    answer = asks(here.vm1, here.host)
    assert answer.seen_as is not None
    assert answer.seen_as[0] == here.vm1.ip4


# --- on loopback


def test_a_service_on_loopback_is_reached_by_redirect(inside: Site) -> None:
    inside.describe(*INSTANCES)
    for machine in (inside.vm1, inside.vm3):
        answer = asks(machine, inside.host, 8776)
        assert answer.seen_as is not None
        assert answer.seen_as[0] == machine.ip4


def test_a_service_on_loopback_behind_a_closed_input(inside: Site) -> None:
    inside.describe(*INSTANCES)
    with inside.closed_input():
        assert asks(inside.vm1, inside.host, 8776)
        assert inside.stops(inside.vm1, inside.host, Tcp(81, to=METADATA))
        assert inside.stops(inside.vm1, inside.host, Udp(80, to=METADATA))
        assert inside.stops(inside.vm1, inside.host, Tcp(80, to="10.1.0.1"))
