"""Frames on a host: its ports, and the MACs that its bridges have now."""

from nova_netagent.compile.frames import BridgePorts, WantedFrames
from nova_netagent.netfilter.frames import Closed, Frames, Gateway, Secured
from nova_netagent.plan.frames import frames_on, narrowed
from nova_netagent.plan.links import ActualLinks, Link

VIF = Secured("tap1", "fa:16:3e:00:00:01")
ONE_VIF = Frames(secured=(VIF,))
NOBODYS = ("networks", "", "unknown port")


def host(**masters: str | None) -> ActualLinks:
    """A host with bridges br1 and br2 and these links, each on a bridge or on none."""
    links = {
        name: Link(index, name, "bridge", None, True, 1500, f"02:00:00:00:00:0{index}")
        for index, name in enumerate(("br1", "br2"), 1)
    }
    for index, (name, master) in enumerate(masters.items(), 3):
        links[name] = Link(index, name, "veth", master, True, 1500, None)
    return ActualLinks(links, frozenset())


def wanted(frames: Frames = ONE_VIF, **known: set[str]) -> WantedFrames:
    return WantedFrames(frames, {bridge: BridgePorts(frozenset(ports), frozenset()) for bridge, ports in known.items()})


def test_where_no_bridge_is_ours_frames_are_what_is_asked_for() -> None:
    asked = wanted()
    assert frames_on(asked, host(tap9="br1")) is asked.frames


def test_a_port_that_is_nobodys_is_closed() -> None:
    found = frames_on(wanted(br1={"tap1", "eth1"}), host(tap1="br1", eth1="br1", tap9="br1"))
    assert found == Frames(secured=(VIF,), closed=(Closed("tap9", NOBODYS),))


def test_ports_of_other_bridges_and_of_none_are_left_alone() -> None:
    found = frames_on(wanted(br1={"tap1"}), host(tap7="br2", tap8=None, tap9="virbr0"))
    assert found.closed == ()


def test_a_port_that_belongs_to_another_bridge_is_nobodys_here() -> None:
    """Nothing may pass it, also not as the vif that it will be where it belongs."""
    found = frames_on(wanted(br1={"tap1"}, br2={"tap2"}), host(tap1="br2", tap2="br2"))
    assert found == Frames(closed=(Closed("tap1", NOBODYS),))


def test_what_was_closed_by_name_stays_closed_beside_it() -> None:
    asked = wanted(Frames(closed=(Closed("tap5"),)), br1=set())
    assert [each.device for each in frames_on(asked, host(tap9="br1")).closed] == ["tap5", "tap9"]


def test_gateways_have_the_mac_that_their_bridge_has_now() -> None:
    ports = {"br1": BridgePorts(frozenset({"tap1", "tap2"}), frozenset({"tap2", "tap1"}))}
    found = frames_on(WantedFrames(Frames(), ports), host(tap1="br1"))
    mac = "02:00:00:00:00:01"
    assert found.gateways == (Gateway("tap1", mac), Gateway("tap2", mac)), "by name: before the tap is there"


def test_without_the_bridge_there_is_no_mac_to_redirect_to() -> None:
    ports = {"br9": BridgePorts(frozenset({"tap1"}), frozenset({"tap1"}))}
    assert frames_on(WantedFrames(Frames(), ports), host()).gateways == ()


def secured(*addresses: str) -> Frames:
    return Frames(secured=(Secured("tap1", VIF.mac, tuple((each, VIF.mac) for each in addresses)), OTHER))


OTHER = Secured("tap2", "fa:16:3e:00:00:02")


def test_of_who_changes_nothing_passes_that_did_not_before() -> None:
    both, more = secured("10.1.0.2", "10.1.0.3"), secured("10.1.0.3", "10.1.0.4")
    assert narrowed(more, both, {"tap1"}, {"tap1"}) == secured("10.1.0.3")
    assert narrowed(more, both, {"tap2"}, {"tap2"}) == more, "who does not change is let be"
    assert narrowed(secured("10.1.0.2"), both, {"tap1"}, ()) == secured("10.1.0.2"), "what goes is gone"


def test_who_was_closed_stays_so() -> None:
    closed = Frames(secured=(OTHER,), closed=(Closed("tap1", NOBODYS),))
    assert narrowed(secured("10.1.0.2"), closed, {"tap1"}, ()) == closed
    assert narrowed(closed, closed, {"tap1"}, ()) == closed
    not_yet = Frames(secured=(OTHER,))
    assert narrowed(secured("10.1.0.2"), not_yet, {"tap1"}, {"tap1"}) == closed, "the host has not told of it yet"


def test_who_was_not_here_is_not_narrowed() -> None:
    new = secured("10.1.0.2")
    assert narrowed(new, Frames(secured=(OTHER,)), {"tap1"}, ()) is new
