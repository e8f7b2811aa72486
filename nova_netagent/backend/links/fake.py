"""Links in memory, for tests: refuses what the kernel refuses, fails where it is told to."""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from msgspec.structs import replace

from nova_netagent.backend.links.passable import Passable
from nova_netagent.backend.links.protocol import LEAST_MTU_OF_IPV6, LinksFailed, too_small_for_ipv6
from nova_netagent.backend.links.routes import Asked, Route
from nova_netagent.compile.links import Bridge, Vlan
from nova_netagent.model import values
from nova_netagent.plan.links import ActualLinks, Join, Link, LinkPlan, Release, accept_ra, led_out
from nova_netagent.plan.neighbours import Had, Neighbours

_SYSCTLS = {
    "net/ipv4/ip_forward": "0",
    "net/ipv6/conf/all/forwarding": "0",
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
}
VLAN_NUMBERS = range(1, 4095)


class Refused(Exception):
    """What the kernel answers to a request that it does not carry out."""


class FakeLinks:
    """A host with ``lo`` and whatever ``add_link`` gives it."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self.addresses: set[tuple[str, str]] = set()
        self.routes: set[tuple[str, str]] = set()
        """Interface and route of all that somebody set."""
        self.unled_addresses: set[tuple[str, str]] = set()
        """Those whose route to their network somebody took away."""
        self.sysctls: dict[str, str] = dict(_SYSCTLS)
        self.neighbours: dict[tuple[str, str], str] = {}
        """By link and address, the MAC that answered last; empty: nobody did."""
        self.written_down: set[tuple[str, str]] = set()
        """Those neighbours that an operator wrote down."""
        self.waiting: set[tuple[str, str]] = set()
        """By link and address, those neighbours for whose answer something waits."""
        self.edits: list[str] = []
        """Every edit that was made, in order."""
        self.fail: dict[str, str] = {}
        """Links whose edits fail, and the reason."""
        self._remembered: dict[str, tuple[set[str], int | None]] = {}
        """By bridge what it held, and the index of the link that has it; none where it was recalled."""
        self._made = 0
        self._told: set[str] = set()
        """The bridges that were told an MTU: others follow their ports."""
        self.default: str | None = None
        """The link by which everything is reached that is not near."""
        self.add_link("lo")

    def add_link(self, name: str, kind: str | None = None, master: str | None = None, up: bool = True) -> None:
        """Give the host a link, as an operator or a hypervisor would."""
        if name in self.links:
            raise Refused("EEXIST")
        self._made += 1
        mac = f"02:00:00:00:{self._made >> 8:02x}:{self._made & 255:02x}"
        self.links[name] = Link(self._made, name, kind, master, up, 1500, mac)
        self.sysctls.setdefault(accept_ra(name), "1")
        self._follow_ports(master)

    def remove_link(self, name: str) -> None:
        """Take a link away, with its addresses, routes and ports, and the VLANs that it carries."""
        bridge = self.links.pop(name).master
        self._told.discard(name)
        self._follow_ports(bridge)
        self.sysctls.pop(accept_ra(name), None)
        self.addresses = {each for each in self.addresses if each[0] != name}
        self.routes = {each for each in self.routes if each[0] != name}
        for port, link in list(self.links.items()):
            if link.master == name:
                self.links[port] = replace(link, master=None)
            if link.parent == name:
                self.remove_link(port)

    def rename(self, name: str, new: str) -> None:
        """Give a link that holds nothing another name."""
        if new in self.links:
            raise Refused("EEXIST")
        self.links[new] = replace(self.links.pop(name), name=new)

    def set_mtu(self, name: str, mtu: int) -> None:
        """Give a link another MTU, as whoever it is: no VLAN has more than what carries it."""
        parent = self.links[name].parent
        if parent is not None and mtu > self.links[parent].mtu:
            raise Refused("ERANGE")
        self._told.add(name)
        self._resize(name, mtu)

    def set_master(self, device: str, master: str | None) -> None:
        """Put a port on a bridge, or take it off."""
        assert master is None or self.links[master].kind == "bridge", f"{master} is no bridge"
        before = self.links[device].master
        self._set(device, master=master)
        self._follow_ports(before)
        self._follow_ports(master)

    def read(self) -> ActualLinks:
        """The links as they are."""
        wide = (device for device, cidr in self.addresses if not cidr.startswith("fe80:"))
        return ActualLinks(dict(self.links), frozenset(self.addresses), frozenset(wide))

    def read_sysctls(self, names: Iterable[str]) -> Mapping[str, str]:
        """The sysctls that the host has."""
        return {name: self.sysctls[name] for name in names if name in self.sysctls}

    def held(self, names: Iterable[str]) -> Mapping[str, str]:
        """What links hold; a route between spaces as one word."""
        return {name: " ".join(sorted(self._holdings(name))) for name in names if name in self.links}

    def unled(self, addresses: Collection[tuple[str, str]]) -> Collection[tuple[str, str]]:
        """Those whose route was taken away."""
        return [each for each in addresses if each in self.unled_addresses]

    def remember(self, bridges: Mapping[str, Collection[str]], uplinks: Mapping[str, str]) -> Mapping[str, str]:
        """Keep in mind what bridges hold."""
        joined = led_out(uplinks, self.read())
        known = {name: each for name, each in self._remembered.items() if name in bridges}
        for name, ours in bridges.items():
            if name in self.links and self.links[name].up:
                index = self.links[name].index
                if name in joined or name not in known or known[name][1] == index:
                    known[name] = self._holdings(name) - set(ours), index
        self._remembered = known
        return {name: ",".join((str(has), *sorted(things))) for name, (things, has) in known.items()}

    def recall(self, remembered: Mapping[str, str]) -> None:
        """Keep in mind what was remembered before a restart."""
        up = {name: str(link.index) for name, link in self.links.items() if link.up}
        for name, text in remembered.items():
            has, *things = text.split(",")
            if up.get(name) != has:
                self._remembered[name] = set(things), None

    def route(self, asked: Asked) -> Route:
        """By its own addresses, and by ``default`` for everything else."""
        wanted = values.prefix(asked.destination)
        on = {cidr.partition("/")[0]: name for name, cidr in self.addresses}
        if asked.destination in on:
            return Route("local", "lo")
        near = [(values.prefix(cidr), name) for name, cidr in self.addresses if values.prefix(cidr).contains(wanted)]
        if near:
            return Route("unicast", max(near, key=lambda each: each[0].length)[1])
        return Route("unicast", self.default) if self.default else Route("unreachable", reason="there is no route")

    def passable(self, name: str) -> Passable | None:
        """Whatever is there lets frames pass."""
        return Passable() if name in self.links else None

    def behind(self, bridge: str, mac: str) -> str | None:
        """No bridge has learned anything."""
        return None

    def prepare(self, plan: LinkPlan) -> None:
        """What goes before the rules."""
        failures: dict[str, str] = {}
        for device in plan.remove_ports:
            self._edit(failures, device, f"- port {device}", partial(self.set_master, device, None))
        for each in plan.remove_addresses:
            self._edit(failures, each[0], f"- {each[1]}", partial(self.addresses.remove, each))
        self._write_sysctls(plan.sysctls_before)
        _raise(failures)

    def finish(self, plan: LinkPlan) -> None:
        """What comes after the rules."""
        failures: dict[str, str] = {}
        for release in plan.release:
            edit = f"- uplink {release.device}"
            self._edit(failures, release.device, edit, partial(self._release, release))
        for name in plan.remake_vlans:
            self._edit(failures, name, f"- vlan {name}", partial(self.remove_link, name))
        for vlan in plan.add_vlans:
            self._edit(failures, vlan.name, f"+ vlan {vlan.name}", partial(self._add_vlan, vlan))
        for bridge in plan.add_bridges:
            self._edit(failures, bridge.name, f"+ bridge {bridge.name}", partial(self._add_bridge, bridge))
        for name, new in plan.set_mac.items():
            self._edit(failures, name, f"{name} mac {new.mac}", partial(self._set, name, mac=new.mac))
        for name, mtu in plan.set_mtu.items():
            self._edit(failures, name, f"{name} mtu {mtu}", partial(self.set_mtu, name, mtu))
        for name in plan.set_up:
            self._edit(failures, name, f"up {name}", partial(self._set_up, name))
        for join in plan.join:
            self._edit(failures, join.device, f"+ uplink {join.device}", partial(self._join, join))
        for address in plan.add_addresses:
            key = (address.interface, address.cidr)
            self._edit(failures, key[0], f"+ {key[1]}", partial(self._add_address, key))
        for each in plan.add_routes:
            edit = f"+ network of {each[1]}"
            self._edit(failures, each[0], edit, partial(self._lead, each))
        for device, master in plan.add_ports.items():
            edit = f"+ port {device}"
            self._edit(failures, device, edit, partial(self.set_master, device, master))
        self._write_sysctls(plan.sysctls_after)
        unreleased = {each.bridge: each.device for each in plan.release if each.device in failures}
        for name in plan.remove_bridges:
            if name in unreleased:
                failures[name] = f"{unreleased[name]} could not leave it"
            else:
                self._edit(failures, name, f"- bridge {name}", partial(self.remove_link, name))
        for name in plan.remove_vlans:
            self._edit(failures, name, f"- vlan {name}", partial(self.remove_link, name))
        _raise(failures)

    def known_neighbours(self, bridges: Collection[str]) -> Neighbours:
        """Who answered for which address there."""
        return {key: mac for key, mac in self.neighbours.items() if key[0] in bridges and mac}

    def refuse_waiting(self, now: Neighbours) -> None:
        """Throw away what waits."""
        for key in sorted(self.waiting):
            if any(_means(asked, key) for asked in now):
                self.waiting.remove(key)
                self.edits.append(f"- waiting for {key[1]}")

    def forget(self, gone: Collection[Had]) -> None:
        """Forget who had these addresses."""
        for key in self.neighbours.keys() - self.written_down:
            if any(mac == self.neighbours[key] and _means((bridge, asked), key) for bridge, asked, mac in gone):
                del self.neighbours[key]

    def introduce(self, now: Neighbours) -> None:
        """Put right who has these addresses."""
        self.neighbours |= {key: now[key] for key in self.neighbours.keys() & now.keys() - self.written_down}

    def next_due(self) -> float | None:
        """Nothing is ever due."""
        return None

    def do_due(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Nothing to close, and what was remembered is forgotten."""
        self._remembered = {}

    def _edit(self, failures: dict[str, str], name: str, text: str, edit: Callable[[], object]) -> None:
        if name in self.fail:
            failures[name] = self.fail[name]
            return
        try:
            edit()
        except Refused as error:
            if str(error) != "EEXIST":  # done already, by somebody else
                failures[name] = str(error)
            return
        self.edits.append(text)

    def _holdings(self, name: str) -> set[str]:
        addresses = {cidr for device, cidr in self.addresses if device == name and not cidr.startswith("fe80:")}
        return addresses | {route for device, route in self.routes if device == name}

    def _give(self, name: str, things: Iterable[str]) -> None:
        for thing in things:
            (self.addresses if _is_address(thing) else self.routes).add((name, thing))

    def _take(self, name: str, things: Iterable[str]) -> None:
        for thing in things:
            (self.addresses if _is_address(thing) else self.routes).remove((name, thing))

    def _release(self, release: Release) -> None:
        bridge = self.links.get(release.bridge)
        known, has = self._remembered.pop(release.bridge, (set[str](), None))
        if release.deafen:
            self.sysctls[accept_ra(release.bridge)] = "0"
        moved = self._holdings(release.bridge) - set(release.keep)
        if moved or known:
            self._set_up(release.device)
        is_another = bridge is None or has != bridge.index
        if is_another and any(map(_is_address, (self._holdings(release.device) | moved) - known)):
            known = set()
        self._give(release.device, moved | (known if bridge is None or is_another or not bridge.up else set()))
        self._take(release.bridge, moved)
        if self.links[release.device].master == release.bridge:
            self.set_master(release.device, None)

    def _join(self, join: Join) -> None:
        if join.device not in self.links:
            return
        if self.links[join.device].kind == "bridge" or join.device == "lo":
            raise Refused("ELOOP" if join.device != "lo" else "EINVAL")
        assert self.links[join.device].master in (None, join.bridge), f"{join.device} was taken from its bridge"
        if join.accept_ra:
            self.sysctls[accept_ra(join.bridge)] = "2"
        self._set_up(join.device)
        self.set_master(join.device, join.bridge)
        moved = self._holdings(join.device)
        self._give(join.bridge, moved)
        self._take(join.device, moved)
        known, has = self._remembered.get(join.bridge, (set[str](), 0))
        if has is None and any(map(_is_address, moved - known)):
            del self._remembered[join.bridge]
        self._give_again(join.bridge)

    def _give_again(self, bridge: str) -> None:
        if bridge in self._remembered:
            things, _ = self._remembered[bridge]
            self._give(bridge, things)
            self._remembered[bridge] = things, self.links[bridge].index

    def _add_bridge(self, bridge: Bridge) -> None:
        self.add_link(bridge.name, "bridge")
        self.sysctls[accept_ra(bridge.name)] = "0"
        if bridge.uplink in self.links:
            self._set(bridge.name, mac=self.links[bridge.uplink].mac)
        if bridge.mtu:
            self.set_mtu(bridge.name, bridge.mtu)

    def _add_vlan(self, vlan: Vlan) -> None:
        if any((link.parent, link.vlan) == (vlan.interface, vlan.number) for link in self.links.values()):
            raise Refused("EEXIST")
        if vlan.number not in VLAN_NUMBERS:
            raise Refused("ERANGE")
        self._set_up(vlan.interface)
        self.add_link(vlan.name, "vlan", up=False)
        mac = f"02:00:00:01:{vlan.number >> 8:02x}:{vlan.number & 255:02x}"
        mtu = self.links[vlan.interface].mtu
        self._set(vlan.name, parent=vlan.interface, vlan=vlan.number, mtu=mtu, mac=mac)
        self._set_up(vlan.name)
        if vlan.mtu:
            self.set_mtu(vlan.name, vlan.mtu)

    def _set(self, name: str, **fields: object) -> None:
        self.links[name] = replace(self.links[name], **fields)

    def _resize(self, name: str, mtu: int) -> None:
        self._set(name, mtu=mtu)
        self._follow_ports(self.links[name].master)
        for link in list(self.links.values()):
            if link.parent == name and link.mtu > mtu:
                self._resize(link.name, mtu)

    def _follow_ports(self, bridge: str | None) -> None:
        """A bridge that was told no MTU has that of its smallest port (br_mtu_auto_adjust)."""
        if bridge in self.links and bridge not in self._told:
            ports = (link.mtu for link in self.links.values() if link.master == bridge)
            self._resize(bridge, min(ports, default=1500))

    def _set_up(self, name: str) -> None:
        parent = self.links[name].parent
        if parent is not None and not self.links[parent].up:
            raise Refused("ENETDOWN")
        self._set(name, up=True)
        self._give_again(name)

    def _add_address(self, key: tuple[str, str]) -> None:
        assert key[0] in self.links, f"there is no {key[0]}"
        assert key not in self.addresses, f"{key} is there already"
        if ":" in key[1] and self.links[key[0]].mtu < LEAST_MTU_OF_IPV6:
            raise Refused(too_small_for_ipv6(self.links[key[0]].mtu))
        self.addresses.add(key)

    def _lead(self, key: tuple[str, str]) -> None:
        assert key in self.addresses, f"{key} has gone, and a route to its network would stay"
        self.unled_addresses.remove(key)

    def _write_sysctls(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            assert name in self.sysctls, f"there is no sysctl {name}"
            self.sysctls[name] = value
            self.edits.append(f"{name} = {value}")


def _is_address(thing: str) -> bool:
    return not thing.startswith("route:")


def _means(asked: tuple[str, str], key: tuple[str, str]) -> bool:
    """Whether a bridge and an address, or a prefix of several, are said of another one's neighbour."""
    return asked[0] == key[0] and values.prefix(asked[1]).contains(values.prefix(key[1]))


def _raise(failures: Mapping[str, str]) -> None:
    if failures:
        raise LinksFailed(failures)
