"""What is done about DHCP servers, and why."""

import pytest
from msgspec.structs import replace

from nova_netagent.compile.dhcp import DhcpService
from nova_netagent.plan.links import ActualLinks
from nova_netagent.services.plan import ActualService, DhcpPlan, Edit, Reload, plan_dhcp
from nova_netagent.testing import make_instance, make_network
from tests.unit.dhcp.world import links_of, services_of

DESIRED = services_of(make_network(1), make_network(2), make_instance(1))
BR1, BR2 = DESIRED["br1"], DESIRED["br2"]
LINKS = links_of(("br1", "10.1.0.1/24"), ("br2", "10.2.0.1/24"))


def actual_of(service: DhcpService, **changes: object) -> ActualService:
    return replace(ActualService(service.arguments, service.hosts, service.dns_hosts), **changes)


def plan(actual: dict[str, ActualService], links: ActualLinks = LINKS) -> DhcpPlan:
    return plan_dhcp({"br1": BR1}, actual, links)


def test_what_runs_as_it_should_is_left_alone() -> None:
    found = plan({"br1": actual_of(BR1)})
    assert found == DhcpPlan(keep=(BR1,))
    assert not found
    assert list(found.lines()) == []


@pytest.mark.parametrize("actual", [{}, {"br1": ActualService(None, None, None)}])
def test_what_does_not_run_is_started(actual: dict[str, ActualService]) -> None:
    found = plan(actual)
    assert found == DhcpPlan(start=(Edit(BR1, "it does not run"),))
    assert list(found.lines()) == ["dhcp: + br1"]


def test_another_command_line_is_a_restart_and_says_by_what() -> None:
    old = tuple(word.replace("86400s", "120s") for word in BR1.arguments)
    (edit,) = plan({"br1": actual_of(BR1, arguments=old, hosts="other")}).restart
    assert edit.why == (
        "---dhcp-range=10.1.0.0,static,255.255.255.0,120s ---dhcp-range=fd00:1::,static,64,120s"
        " +--dhcp-range=10.1.0.0,static,255.255.255.0,86400s +--dhcp-range=fd00:1::,static,64,86400s"
    )
    assert plan({"br1": actual_of(BR1, arguments=tuple(reversed(BR1.arguments)))}).restart[0].why == "another order"
    assert plan({"br1": actual_of(BR1, arguments=())}).restart[0].why.endswith(" more")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hosts": ""}, "1 lines come, 0 go"),
        ({"dns_hosts": f"{BR1.dns_hosts}10.1.0.9\tother\n"}, "0 lines come, 1 go"),
        ({"hosts": None}, "it is not known what it has read"),
    ],
)
def test_other_files_are_a_reload(changes: dict[str, object], why: str) -> None:
    before = actual_of(BR1, **changes)
    found = plan({"br1": before})
    assert found == DhcpPlan(reload=(Reload(BR1, before),))
    assert list(found.lines()) == [f"dhcp: reload br1: {why}"]


def test_what_nobody_wants_goes() -> None:
    found = plan({"br1": actual_of(BR1), "br2": actual_of(BR2), "br3": ActualService(None, None, None)})
    assert found == DhcpPlan(keep=(BR1,), remove=("br2", "br3"))
    assert list(found.lines()) == ["dhcp: - br2", "dhcp: - br3"]


@pytest.mark.parametrize(
    ("links", "why"),
    [
        (links_of(("eth0", "10.1.0.1/24")), "waits for bridge br1"),
        (links_of(("br1", "")), "waits for 10.1.0.1 or fd00:1::1 on br1"),
        (links_of(("br1", "10.1.0.2/24"), ("eth0", "10.1.0.1/24")), "waits for 10.1.0.1 or fd00:1::1 on br1"),
    ],
)
def test_what_has_no_place_yet_waits(links: ActualLinks, why: str) -> None:
    found = plan({}, links)
    assert found == DhcpPlan(wait={"br1": Edit(BR1, why)})
    assert not found


@pytest.mark.parametrize("cidr", ["10.1.0.1/24", "10.1.0.1/16", "fd00:1::1/64"])
def test_one_address_is_enough(cidr: str) -> None:
    assert plan({}, links_of(("br1", cidr))).start


def test_one_that_lost_its_bridge_is_stopped() -> None:
    found = plan({"br1": actual_of(BR1)}, links_of(("eth0", "")))
    assert found == DhcpPlan(wait={"br1": Edit(BR1, "waits for bridge br1")}, stop=("br1",))
    assert list(found.lines()) == ["dhcp: stop br1: waits for bridge br1"]


def test_one_that_lost_its_addresses_for_a_moment_goes_on() -> None:
    assert plan({"br1": actual_of(BR1)}, links_of(("br1", ""))) == DhcpPlan(keep=(BR1,))


def test_the_order_is_that_of_names() -> None:
    found = plan_dhcp({"br2": BR2, "br1": BR1}, {}, LINKS)
    assert [edit.service.bridge for edit in found.start] == ["br1", "br2"]
