"""The MTUs of our bridges and VLANs."""

from collections.abc import Collection, Container, Mapping

from nova_netagent.compile.links import Bridge, Links, Vlan
from nova_netagent.plan.links.actual import ActualLinks, Made

_ETHERNET_MTU = 1500


def mtus(
    desired: Links, actual: ActualLinks, made: Mapping[Made, str], going: Collection[Made], coming: Mapping[str, str]
) -> dict[str, int]:
    """The links of ours whose MTU is another than it should be.

    One that we set and that nobody asks for any more is what the kernel would choose, now and when
    ports come and go: a bridge that was told an MTU follows them no more (br_mtu_auto_adjust).

    :param coming: the bridge of each port that joins one by this plan.
    """
    ours = [each for each in sizable(desired) if each.name in actual.links and is_ours(each, made)]
    wanted = {each.name: each.mtu for each in ours if each.mtu}
    left = [each for each in ours if not each.mtu and ("mtu", each.name) in made]
    if left:
        carriers = {name: each.interface for name, each in desired.vlans.items()}
        now = {name: link.mtu for name, link in actual.links.items()} | wanted
        vlans = [each.name for each in left if isinstance(each, Vlan)] + [name for name in coming if name not in now]
        wanted |= {name: now[carriers[name]] for name in vlans if carriers[name] in now}
        smallest = _smallest_ports(actual, now | wanted, going, coming)
        wanted |= {each.name: smallest.get(each.name, _ETHERNET_MTU) for each in left if isinstance(each, Bridge)}
    return {name: mtu for name, mtu in wanted.items() if name in actual.links and actual.links[name].mtu != mtu}


def _smallest_ports(
    actual: ActualLinks, mtus: Mapping[str, int], going: Collection[Made], coming: Mapping[str, str]
) -> Mapping[str, int]:
    """By bridge, the least MTU of its ports, once those that go have gone and those that come are there."""
    leaving = {name.split(" ")[0] for kind, name in going if kind in ("port", "uplink")}
    staying = {link.name: link.master for link in actual.links.values() if link.name not in leaving}
    found: dict[str, int] = {}
    for port, bridge in {**staying, **coming}.items():
        if bridge is not None and port in mtus:
            found[bridge] = min(mtus[port], found.get(bridge, mtus[port]))
    return found


def sizable(desired: Links) -> tuple[Bridge | Vlan, ...]:
    """What may have an MTU of ours."""
    return *desired.vlans.values(), *desired.bridges.values()


def is_ours(each: Bridge | Vlan, made: Container[Made]) -> bool:
    """Whether we made it."""
    return ("vlan" if isinstance(each, Vlan) else "bridge", each.name) in made
