"""A VLAN tag hides a packet from the IP rules: what is tagged comes neither out of nor into a vif.

The kernel keeps a tag within the frame or beside it; rules must see both.
"""

import struct

import pytest

from nova_netagent.netfilter.frames import Frames
from tests.functional.frames.site import UPLINK, BridgeSite, vlan_offload
from tests.lab import Forged, Frame, Namespace, Udp, frames, needs, veth
from tests.lab.frames import ETH_IPV4, ETH_IPV6, ETH_VLAN, mac_bytes

pytestmark = needs("bridge", "veth", "nftables", "br_netfilter")

ETH_8021AD = 0x88A8
TAGS = {
    "VLAN 7": ((ETH_VLAN, 7),),
    "VLAN 0": ((ETH_VLAN, 0),),
    "priority": ((ETH_VLAN, 7 << 13),),
    "802.1ad": ((ETH_8021AD, 7),),
    "802.1ad 0": ((ETH_8021AD, 0),),
    "two": ((ETH_8021AD, 7), (ETH_VLAN, 7)),
    "two of 0": ((ETH_VLAN, 0), (ETH_VLAN, 0)),
}


def tagged(
    sender: Namespace, receiver: Namespace, tags: tuple[tuple[int, int], ...], *, family: int = 4, device: str = "eth0"
) -> Frame:
    """A datagram from one to another, tagged."""

    def build(token: bytes) -> bytes:
        source, destination = sender.ip(family), receiver.ip(family)
        datagram = frames.udp(source, destination, 999, 999, token)
        inner = struct.pack("!H", ETH_IPV4 if family == 4 else ETH_IPV6)
        inner += frames.ip(source, destination, 17, datagram)
        for ethertype, vlan in reversed(tags):
            inner = struct.pack("!HH", ethertype, vlan) + inner
        source_mac = sender.links.mac(device) if device != "eth0" else sender.mac
        return mac_bytes(receiver.mac) + mac_bytes(source_mac) + inner

    return Frame(build, device)


@pytest.fixture(params=[True, False], ids=["beside", "within"])
def uplink(request: pytest.FixtureRequest, site: BridgeSite) -> BridgeSite:
    """The site, whose uplink gives tags beside or within the frame."""
    switch, port = site.host.peers[UPLINK]
    vlan_offload(switch, port, request.param)
    return site


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_tagged_frames_from_the_uplink_do_not_come_in(
    uplink: BridgeSite, tags: tuple[tuple[int, int], ...], family: int
) -> None:
    uplink.let(Frames(secured=(uplink.secured(uplink.vm1),)))
    control = Forged(Udp(999))
    assert uplink.stops(
        uplink.elsewhere, uplink.vm1, tagged(uplink.elsewhere, uplink.vm1, tags, family=family), control
    )
    assert uplink.passes(uplink.elsewhere, uplink.vm2, tagged(uplink.elsewhere, uplink.vm2, tags, family=family))


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_tagged_frames_from_a_trusted_neighbour_do_not_come_in(
    site: BridgeSite, tags: tuple[tuple[int, int], ...]
) -> None:
    site.let(Frames(secured=(site.secured(site.vm1),)))
    assert site.stops(site.vm3, site.vm1, tagged(site.vm3, site.vm1, tags), Forged(Udp(999)))
    assert site.passes(site.vm3, site.vm2, tagged(site.vm3, site.vm2, tags))


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_tagged_frames_from_the_host_do_not_come_in(site: BridgeSite, tags: tuple[tuple[int, int], ...]) -> None:
    site.let(Frames(secured=(site.secured(site.vm1),)))
    control = Frame(tagged(site.host, site.vm1, (), device="br100").build, "br100")
    assert site.stops(site.host, site.vm1, tagged(site.host, site.vm1, tags, device="br100"), control)
    assert site.passes(site.host, site.vm2, tagged(site.host, site.vm2, tags, device="br100"))


@pytest.mark.parametrize("offload", [True, False], ids=["beside", "within"])
@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_an_instance_that_is_a_switch_itself_sends_nothing_tagged(
    site: BridgeSite, nested: tuple[Namespace, Namespace], tags: tuple[tuple[int, int], ...], offload: bool
) -> None:
    guest, inner = nested
    vlan_offload(guest, "eth0", offload)
    site.let(Frames(secured=(site.secured(guest),)))
    for receiver in (site.vm2, site.elsewhere):
        control = tagged(inner, receiver, ())
        assert site.stops(inner, receiver, tagged(inner, receiver, tags), control)
    site.let(Frames())
    assert site.passes(inner, site.vm2, tagged(inner, site.vm2, tags))


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_other_bridges_carry_tags(site: BridgeSite, tags: tuple[tuple[int, int], ...]) -> None:
    if not site.host.links.exists("foreign0"):
        site.host.links.add_bridge("foreign0")
        site.vm4, site.vm5 = site.instance("foreign0"), site.instance("foreign0")  # type: ignore[attr-defined]
    one, other = site.vm4, site.vm5  # type: ignore[attr-defined]
    site.let_all_be_secured()
    assert site.passes(one, other, tagged(one, other, tags))


@pytest.fixture(scope="module")
def nested(site: BridgeSite) -> tuple[Namespace, Namespace]:
    """An instance that bridges, and a machine behind it that speaks in its name."""
    guest = site.instance()
    inner = site.lab.add(Namespace("inner"))
    veth(inner, "eth0", guest, "inner0")
    guest.links.add_bridge("br0")
    for port in ("inner0", "eth0"):
        guest.links.set(port, master="br0")
    inner.links.wait_running("eth0")
    inner.ip4, inner.ip6, inner.mac = guest.ip4, guest.ip6, guest.mac
    return guest, inner
