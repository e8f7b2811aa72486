"""linux_net's scenarios (nova/tests/unit/network/test_linux_net.py) of uplinks and VLANs: 17, 18 and 20."""

from nova_netagent.plan.links import ActualLinks
from nova_netagent.testing import make_network
from tests.properties.host import Host

ROUTES = {"route:default_via_192.168.0.1", "route:192.168.100.0/24_via_192.168.0.254"}


def of(host: Host, device: str) -> set[str]:
    return set(host.links.held([device])[device].split())


def test_an_interfaces_addresses_and_routes_are_kept_beside_the_gateways(host: Host) -> None:
    """Scenario 17, (a) to (c). Nothing is taken off for a moment to be first: the order does not matter here."""
    host.links.add_link("br1", kind="bridge")
    host.links.addresses.add(("br1", "192.168.0.1/24"))
    host.links.routes |= {("br1", route) for route in ROUTES}
    host.put(make_network(1))
    assert of(host, "br1") == {"192.168.0.1/24", "10.1.0.1/24", "fd00:1::1/64", *ROUTES}
    assert not any(edit.startswith("- ") for edit in host.links.edits)
    host.delete(make_network(1))
    assert of(host, "br1") == {"192.168.0.1/24", *ROUTES}


def test_an_interface_is_put_on_its_bridge_with_what_it_has(host: Host) -> None:
    """Scenario 18, ensure_bridge with an interface; and back, which nova had not."""
    host.links.addresses.add(("eth0", "192.168.0.1/24"))
    host.links.routes |= {("eth0", route) for route in ROUTES}
    host.put(make_network(1, bridge_interface="eth0"))
    found: ActualLinks = host.links.read()
    assert (found.links["eth0"].master, found.links["br1"].mac) == ("br1", found.links["eth0"].mac)
    assert of(host, "br1") == {"192.168.0.1/24", "10.1.0.1/24", "fd00:1::1/64", *ROUTES}
    host.delete(make_network(1))
    assert of(host, "eth0") == {"192.168.0.1/24", *ROUTES}


def test_what_a_bridge_held_comes_back_also_when_somebody_deleted_it_just_before(host: Host) -> None:
    host.links.addresses.add(("eth0", "192.168.0.1/24"))
    host.put(make_network(1, bridge_interface="eth0"))
    host.links.remove_link("br1")
    host.delete(make_network(1))
    assert of(host, "eth0") == {"192.168.0.1/24"}


def test_a_host_that_is_made_to_forward_goes_on_hearing_its_routers(host: Host) -> None:
    """And whoever comes afterwards is not believed to be one: it may be a tap."""
    host.put(make_network(1))
    sysctls = host.links.sysctls
    assert (sysctls["net/ipv4/ip_forward"], sysctls["net/ipv6/conf/all/forwarding"]) == ("1", "1")
    assert sysctls["net/ipv6/conf/eth0/accept_ra"] == "2"
    host.links.add_link("eth9")
    host.put(make_network(2))
    assert sysctls["net/ipv6/conf/eth9/accept_ra"] == "1"


def test_a_vlan_link_is_made_where_it_is_missing_and_only_its_mtu_is_set_afterwards(host: Host) -> None:
    """Scenario 20. The MTU of one that somebody else made is theirs."""
    host.put(make_network(1, bridge_interface="eth0", vlan=100, mtu=1400))
    made = host.links.links["vlan100"]
    assert (made.parent, made.vlan, made.mtu, made.up) == ("eth0", 100, 1400, True)
    edits = len(host.links.edits)
    host.put(make_network(1, bridge_interface="eth0", vlan=100, mtu=1300))
    assert set(host.links.edits[edits:]) == {"vlan100 mtu 1300", "br1 mtu 1300"}
