"""Links, addresses, routes and neighbours of one namespace."""

import ipaddress
import socket
import time
from collections.abc import Callable
from typing import Any

from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from tests.lab.netlink import CREATE, EXCLUSIVE, REPLACE, Netlink

NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30

IFF_UP, IFF_RUNNING = 0x1, 0x40
IFA_F_NODAD = 0x2
NUD_PERMANENT = 0x80
STATES = {0: "none", 1: "incomplete", 2: "reachable", 4: "stale", 8: "delay", 16: "probe", 32: "failed", 64: "noarp"}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

Described = dict[str, Any]


class Links:
    """What ``ip link``, ``ip addr``, ``ip route`` and ``ip neigh`` do, for one namespace."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    # links

    def add_veth(
        self,
        name: str,
        peer_name: str,
        peer_fd: int,
        *,
        mac: str | None = None,
        peer_mac: str | None = None,
        mtu: int | None = None,
    ) -> None:
        """Make a pair, of which one end is here and the other in the namespace held by ``peer_fd``."""
        peer = [("IFLA_IFNAME", peer_name), ("IFLA_NET_NS_FD", peer_fd), *_optional(peer_mac, mtu)]
        data = ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]})
        self._add(name, "veth", [data], *_optional(mac, mtu))

    def add_bridge(self, name: str, *, mac: str | None = None, up: bool = True) -> None:
        """Make a bridge without spanning tree: its ports forward as soon as they are up."""
        self._add(name, "bridge", [], *_optional(mac, None))
        if up:
            self.set(name, up=True)

    def add(self, name: str, kind: str) -> None:
        """Make a link of a kind that needs nothing but a name, such as dummy."""
        self._add(name, kind, [])

    def add_vlan(self, name: str, device: str, vlan: int) -> None:
        """Make the link that carries one VLAN of ``device``."""
        data = ("IFLA_INFO_DATA", {"attrs": [("IFLA_VLAN_ID", vlan)]})
        self._add(name, "vlan", [data], ("IFLA_LINK", self.index(device)))

    def set(
        self,
        name: str,
        *,
        up: bool | None = None,
        master: str | None = None,
        mac: str | None = None,
        mtu: int | None = None,
        rename: str | None = None,
        namespace: int | None = None,
    ) -> None:
        """Change what is given; ``master=""`` takes a port off its bridge, ``namespace`` is a descriptor."""
        message = self._link(name)
        if up is not None:
            message["flags"], message["change"] = (IFF_UP if up else 0), IFF_UP
        attributes = _optional(mac, mtu)
        if master is not None:
            attributes.append(("IFLA_MASTER", self.index(master) if master else 0))
        if rename is not None:
            attributes.append(("IFLA_IFNAME", rename))
        if namespace is not None:
            attributes.append(("IFLA_NET_NS_FD", namespace))
        message["attrs"] = attributes
        self._change(message, NEWLINK, 0, f"set {name}")

    def delete(self, name: str) -> None:
        """Delete a link (the other end of a pair goes with it)."""
        self._change(self._link(name), DELLINK, 0, f"delete {name}")

    def index(self, name: str) -> int:
        """The kernel's number for a link."""
        return int(self._described(name)["index"])

    def show(self, name: str) -> Described:
        """One link as a dict: name, index, mac, mtu, up, running, master, kind."""
        return self._readable(self._described(name))

    def all(self) -> dict[str, Described]:
        """Every link of the namespace, by name."""
        described = [self._readable(message) for message in self._netlink.dump(ifinfmsg(), GETLINK)]
        names = {link["index"]: link["name"] for link in described}
        return {link["name"]: {**link, "master": names.get(link["master_index"])} for link in described}

    def exists(self, name: str) -> bool:
        """Whether there is such a link."""
        try:
            self._described(name)
        except OSError:
            return False
        return True

    def mac(self, name: str) -> str:
        """The link's Ethernet address."""
        return str(self.show(name)["mac"])

    def wait_running(self, *names: str, within: float = 5.0) -> None:
        """Wait until the links are up, have a carrier and a queue: until then they lose packets silently."""
        deadline = time.monotonic() + within
        for name in names:
            while not self.show(name)["running"]:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name} is not running after {within} s")
                time.sleep(0.0005)

    # addresses

    def add_address(self, device: str, address: str) -> None:
        """Add ``address/prefix``, usable at once: without duplicate address detection."""
        message = self._address(device, address)
        if message["family"] == socket.AF_INET6:
            message["attrs"].append(("IFA_FLAGS", IFA_F_NODAD))
        self._change(message, NEWADDR, CREATE | EXCLUSIVE, f"add {address} to {device}")

    def delete_address(self, device: str, address: str) -> None:
        """Take ``address/prefix`` away."""
        self._change(self._address(device, address), DELADDR, 0, f"delete {address} of {device}")

    def addresses(self, device: str | None = None) -> list[Described]:
        """Addresses as dicts: device, address, prefix, family, scope (``global``, ``link``, ...)."""
        names = {link["index"]: name for name, link in self.all().items()}
        described = [_readable_address(message, names) for message in self._netlink.dump(ifaddrmsg(), GETADDR)]
        return [address for address in described if device in (None, address["device"])]

    def has_address(self, device: str, address: str) -> bool:
        """Whether the device has exactly this ``address/prefix``."""
        wanted = str(ipaddress.ip_interface(address))
        return wanted in {f"{known['address']}/{known['prefix']}" for known in self.addresses(device)}

    # routes and neighbours

    def add_route(self, destination: str, *, via: str | None = None, device: str | None = None) -> None:
        """Add a route; ``destination`` may be ``default`` or, for IPv6, ``default6``."""
        message = self._route(destination, via, device)
        self._change(message, NEWROUTE, CREATE | REPLACE, f"add route {destination} via {via or device}")

    def delete_route(self, destination: str, *, via: str | None = None, device: str | None = None) -> None:
        """Take a route away."""
        self._change(self._route(destination, via, device), DELROUTE, 0, f"delete route {destination}")

    def routes(self, family: int = 4) -> list[Described]:
        """Routes of the main table as dicts: destination, via, device."""
        names = {link["index"]: name for name, link in self.all().items()}
        message = rtmsg()
        message["family"] = FAMILIES[family]
        dumped = self._netlink.dump(message, GETROUTE)
        return [_readable_route(route, names) for route in dumped if route.get_attr("RTA_TABLE") == 254]

    def add_neighbour(self, device: str, address: str, mac: str) -> None:
        """Say for good which Ethernet address an IP address has."""
        message = self._neighbour(device, address)
        message["state"] = NUD_PERMANENT
        message["attrs"].append(("NDA_LLADDR", mac))
        self._change(message, NEWNEIGH, CREATE | REPLACE, f"add neighbour {address}")

    def delete_neighbour(self, device: str, address: str) -> None:
        """Forget a neighbour, so that the next packet asks anew."""
        self._change(self._neighbour(device, address), DELNEIGH, 0, f"delete neighbour {address}")

    def neighbours(self, device: str | None = None) -> list[Described]:
        """Neighbours as dicts: device, address, mac, state."""
        names = {link["index"]: name for name, link in self.all().items()}
        known = [_readable_neighbour(message, names) for message in self._netlink.dump(ndmsg(), GETNEIGH)]
        return [neighbour for neighbour in known if device in (None, neighbour["device"])]

    # messages

    def _add(self, name: str, kind: str, info: list[Any], *attributes: tuple[str, Any]) -> None:
        message = ifinfmsg()
        linkinfo = ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind), *info]})
        message["attrs"] = [("IFLA_IFNAME", name), *attributes, linkinfo]
        self._change(message, NEWLINK, CREATE | EXCLUSIVE, f"add {kind} {name}")

    def _link(self, name: str) -> nlmsg:
        message = ifinfmsg()
        message["index"] = self.index(name)
        return message

    def _described(self, name: str) -> Any:
        message = ifinfmsg()
        message["attrs"] = [("IFLA_IFNAME", name)]
        return self._explained(lambda: self._netlink.ask(message, GETLINK), f"link {name}")

    def _readable(self, message: Any) -> Described:
        info = message.get_attr("IFLA_LINKINFO")
        return {
            "name": message.get_attr("IFLA_IFNAME"),
            "index": message["index"],
            "mac": message.get_attr("IFLA_ADDRESS"),
            "mtu": message.get_attr("IFLA_MTU"),
            "up": bool(message["flags"] & IFF_UP),
            "running": bool(message["flags"] & IFF_RUNNING) and message.get_attr("IFLA_QDISC") != "noop",
            "master_index": message.get_attr("IFLA_MASTER"),
            "kind": info.get_attr("IFLA_INFO_KIND") if info else None,
        }

    def _address(self, device: str, address: str) -> nlmsg:
        interface = ipaddress.ip_interface(address)
        message = ifaddrmsg()
        message["family"] = FAMILIES[interface.version]
        message["prefixlen"] = interface.network.prefixlen
        message["index"] = self.index(device)
        message["attrs"] = [("IFA_LOCAL", str(interface.ip)), ("IFA_ADDRESS", str(interface.ip))]
        return message

    def _route(self, destination: str, via: str | None, device: str | None) -> nlmsg:
        network = ipaddress.ip_network({"default": "0.0.0.0/0", "default6": "::/0"}.get(destination, destination))
        message = rtmsg()
        message["family"] = FAMILIES[network.version]
        message["dst_len"] = network.prefixlen
        message["table"], message["proto"], message["type"] = 254, 3, 1
        message["scope"] = 0 if via or network.version == 6 else 253
        message["attrs"] = [("RTA_TABLE", 254)]
        if network.prefixlen:
            message["attrs"].append(("RTA_DST", str(network.network_address)))
        if via:
            message["attrs"].append(("RTA_GATEWAY", via))
        if device:
            message["attrs"].append(("RTA_OIF", self.index(device)))
        return message

    def _neighbour(self, device: str, address: str) -> nlmsg:
        message = ndmsg()
        message["family"] = FAMILIES[ipaddress.ip_address(address).version]
        message["ifindex"] = self.index(device)
        message["attrs"] = [("NDA_DST", address)]
        return message

    def _change(self, message: nlmsg, kind: int, flags: int, what: str) -> None:
        self._explained(lambda: self._netlink.change(message, kind, flags), what)

    def _explained(self, request: Callable[[], Any], what: str) -> Any:
        try:
            return request()
        except OSError as error:
            raise OSError(error.errno, f"{what}: {error.strerror}") from None


def _optional(mac: str | None, mtu: int | None) -> list[tuple[str, Any]]:
    attributes: list[tuple[str, Any]] = []
    if mac is not None:
        attributes.append(("IFLA_ADDRESS", mac))
    if mtu is not None:
        attributes.append(("IFLA_MTU", mtu))
    return attributes


def _readable_address(message: Any, names: dict[int, str]) -> Described:
    return {
        "device": names.get(message["index"]),
        "address": message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"),
        "prefix": message["prefixlen"],
        "family": 6 if message["family"] == socket.AF_INET6 else 4,
        "scope": {0: "global", 200: "site", 253: "link", 254: "host"}.get(message["scope"], message["scope"]),
        "flags": message.get_attr("IFA_FLAGS") or message["flags"],
    }


def _readable_route(message: Any, names: dict[int, str]) -> Described:
    network = message.get_attr("RTA_DST")
    return {
        "destination": f"{network}/{message['dst_len']}" if network else "default",
        "via": message.get_attr("RTA_GATEWAY"),
        "device": names.get(message.get_attr("RTA_OIF")),
    }


def _readable_neighbour(message: Any, names: dict[int, str]) -> Described:
    return {
        "device": names.get(message["ifindex"]),
        "address": message.get_attr("NDA_DST"),
        "mac": message.get_attr("NDA_LLADDR"),
        "state": "permanent" if message["state"] == NUD_PERMANENT else STATES.get(message["state"], message["state"]),
    }
