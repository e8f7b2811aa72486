"""The usual lab: hosts and an outside host on one segment, instances behind the hosts.

::

    outside 192.0.2.1 ──┐ segment "public"            ┌── vm1 198.51.100.11
                        ├── eth0 host 192.0.2.10 ─────┤   (tap-vm1 in the host)
    other hosts ────────┘        192.0.2.11, ...      └── vm2 198.51.100.12

Only documentation addresses: the public segment is 192.0.2.0/24 and 2001:db8:2::/64, the
instances' network 198.51.100.0/24 and 2001:db8:198::/64, floating IPs are of 203.0.113.0/24.
The outside host looks for floating IPs on the segment, and for the instances behind the first
host. What an agent would make (bridges, gateway addresses) is only made when asked for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab.agent import Agent
from tests.lab.namespace import Namespace, veth

PUBLIC4, PUBLIC6 = "192.0.2.{}/24", "2001:db8:2::{}/64"
FIXED4, FIXED6 = "198.51.100.{}/24", "2001:db8:198::{}/64"
FIXED_RANGE4, FIXED_RANGE6 = "198.51.100.0/24", "2001:db8:198::/64"
FLOATING_RANGE = "203.0.113.0/24"
GATEWAY4, GATEWAY6 = "198.51.100.1", "2001:db8:198::1"


class Lab:
    """Namespaces that belong together; closing it frees them all."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self.namespaces: list[Namespace] = []
        self.agents: list[Agent] = []
        self.hosts: list[Namespace] = []
        self.instances: list[Namespace] = []
        self._segments: dict[str, Namespace] = {}
        self.outside = self.station("outside", "1")
        self.outside.links.add_route(FLOATING_RANGE, device="eth0")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill the agents and free the namespaces."""
        for agent in self.agents:
            agent.close()
        for namespace in self.namespaces:
            namespace.close()

    def add(self, namespace: Namespace) -> Namespace:
        """Close this namespace with the lab."""
        self.namespaces.append(namespace)
        return namespace

    def segment(self, name: str = "public") -> Namespace:
        """An Ethernet switch: a bridge ``switch`` in a namespace of its own that filters nothing."""
        if name not in self._segments:
            switch = self.add(Namespace(f"segment-{name}"))
            for what in ("iptables", "ip6tables", "arptables"):
                if _has_bridge_filter(switch):
                    switch.sysctl(f"net.bridge.bridge-nf-call-{what}", 0)
            switch.links.add_bridge("switch")
            self._segments[name] = switch
        return self._segments[name]

    def plug(self, namespace: Namespace, device: str, segment: str = "public", *, mac: str | None = None) -> None:
        """Make ``device`` in the namespace, up and connected to a segment."""
        switch = self.segment(segment)
        port = f"port{len(switch.peers)}"
        veth(namespace, device, switch, port, mac=mac)
        switch.links.set(port, master="switch")
        namespace.links.wait_running(device)

    def station(self, name: str, number: str, *, segment: str = "public", mac: str | None = None) -> Namespace:
        """A plain machine on a segment, with address ``number`` of the public networks on its eth0."""
        station = self.add(Namespace(name))
        self.plug(station, "eth0", segment, mac=mac)
        _give(station, "eth0", [PUBLIC4.format(number), PUBLIC6.format(number)])
        return station

    def host(self, name: str | None = None, *, uplinks: Mapping[str, str] | None = None) -> Namespace:
        """A compute node, 192.0.2.10 the first; ``uplinks`` are further devices and their segments, without addresses.

        What arrives for itself is judged at its sockets, behind the INPUT chain.
        """
        host = self.station(name or f"host{len(self.hosts) + 1}", str(10 + len(self.hosts)))
        host.seen_at = "socket"
        host.links.add_route("default", via=self.outside.ip4)
        host.links.add_route("default6", via=self.outside.ip6)
        for device, segment in (uplinks or {}).items():
            self.plug(host, device, segment)
        if not self.hosts:
            self.outside.links.add_route(FIXED_RANGE4, via=host.ip4)
            self.outside.links.add_route(FIXED_RANGE6, via=host.ip6)
        self.hosts.append(host)
        return host

    def bridge(
        self,
        host: Namespace,
        name: str = "br100",
        *,
        addresses: Sequence[str] = (f"{GATEWAY4}/24", f"{GATEWAY6}/64"),
        ports: Sequence[str] = (),
        forwarding: bool = True,
    ) -> None:
        """Make what the agent would make of a network: its bridge, its gateways, forwarding."""
        if forwarding:
            host.sysctl("net.ipv4.ip_forward", 1)
            host.sysctl("net.ipv6.conf.all.forwarding", 1)
        host.links.add_bridge(name)
        for port in ports:
            host.links.set(port, master=name)
        for address in addresses:
            host.links.add_address(name, address)

    def instance(
        self,
        host: Namespace,
        name: str | None = None,
        *,
        tap: str | None = None,
        mac: str | None = None,
        addresses: Sequence[str] | None = None,
        gateways: Sequence[str] = (GATEWAY4, GATEWAY6),
        bridge: str | None = None,
        mtu: int | None = None,
    ) -> Namespace:
        """A guest whose eth0 is the other end of ``tap`` in the host, addressed and routed by hand.

        The n-th instance has, unless told otherwise, the name vm{n}, the tap tap-vm{n}, the MAC
        fa:16:3e:00:00:{n} and the fixed addresses 198.51.100.{10+n} and 2001:db8:198::{10+n}.
        (there is room for 244 of these). Its tap is put on ``bridge`` only when that is given.
        """
        number = len(self.instances) + 1
        name = name or f"vm{number}"
        guest = self.add(Namespace(name))
        tap = tap or f"tap-{name}"
        mac = mac or f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}"
        veth(guest, "eth0", host, tap, mac=mac, mtu=mtu)
        if bridge:
            host.links.set(tap, master=bridge)
        if addresses is None:
            addresses = [FIXED4.format(10 + number), FIXED6.format(10 + number)]
        _give(guest, "eth0", addresses)
        if guest.ip6:
            # Routed by hand: what is advertised on one network must not lead it astray on the next.
            guest.sysctl("net/ipv6/conf/eth0/accept_ra", 0)
        guest.mac = mac
        for gateway in gateways:
            family6 = ":" in gateway
            if guest.ip6 if family6 else guest.ip4:
                guest.links.add_route("default6" if family6 else "default", via=gateway, device="eth0")
        guest.links.wait_running("eth0")
        host.links.wait_running(tap)
        self.instances.append(guest)
        return guest

    def agent(
        self,
        host: Namespace,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        kind: type[Agent] = Agent,
        **options: Any,
    ) -> Agent:
        """Start the daemon under test in a host, its files below the lab's directory."""
        if self._directory is None:
            raise ValueError("a lab with agents needs a directory: Lab(tmp_path)")
        agent = kind(host, self._directory / host.name, config, **options)
        self.agents.append(agent)
        agent.start()
        return agent


def _give(namespace: Namespace, device: str, addresses: Sequence[str]) -> None:
    """Add addresses; the first of each family is the one by which the namespace is known."""
    for address in addresses:
        namespace.links.add_address(device, address)
        bare = address.split("/")[0]
        if ":" in bare:
            namespace.ip6 = namespace.ip6 or bare
        else:
            namespace.ip4 = namespace.ip4 or bare
    namespace.mac = namespace.links.mac(device)
    namespace.call(_ask_neighbours_quickly, device)


def _ask_neighbours_quickly(device: str) -> None:
    """Repeat an unanswered ARP or neighbour solicitation after 50 ms, and believe a gratuitous one at once."""
    settings = {"ipv4": {"retrans_time_ms": "50", "locktime": "0"}, "ipv6": {"retrans_time_ms": "50"}}
    for family, values in settings.items():
        for name, value in values.items():
            Path(f"/proc/sys/net/{family}/neigh/{device}/{name}").write_text(value)


def _has_bridge_filter(namespace: Namespace) -> bool:
    return namespace.call(Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists)
