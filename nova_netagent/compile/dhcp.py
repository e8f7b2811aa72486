"""DHCP, DNS and router advertisements: what dnsmasq is started with and the files it reads.

One dnsmasq serves a bridge: the one network on it, or the several that share it. It knows the
instances of this host and nobody else.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

from msgspec import Struct

from nova_netagent.compile.memo import Memo
from nova_netagent.compile.metadata import METADATA_IP
from nova_netagent.compile.parts import Scope
from nova_netagent.compile.resolve import Port
from nova_netagent.model import DesiredState, Instance, Network, values
from nova_netagent.settings import Settings

MOST_LEASES = 65536
LEAST_IPV6_MTU = 1280
_SLAAC_LENGTH = 64
_INTERFACE_ID = (1 << 64) - 1
_RA_INTERVAL, _RA_LIFETIME = 600, 1800
"""Seconds between unasked router advertisements and how long each is good for: dnsmasq's own defaults."""

Pair = tuple[str, str]
"""An address and the MAC that it is given to."""

Ipv6Mode = Literal["slaac", "dhcp", "advertise"]
"""``slaac``: instances make their address, DHCPv6 tells the rest; ``dhcp``: DHCPv6 gives it;
``advertise``: as ``slaac`` and no DHCPv6."""


class Files(Struct, frozen=True):
    """Where the files of one bridge's dnsmasq are."""

    hosts: str
    """``--dhcp-hostsfile``."""
    dns_hosts: str
    """``--addn-hosts``."""
    leases: str
    pid: str


def directory(state_path: str) -> str:
    """Where dnsmasq's files are."""
    return f"{state_path.rstrip('/')}/networks"


def files(state_path: str, bridge: str) -> Files:
    """The files of a bridge's dnsmasq."""
    stem = f"{directory(state_path)}/{bridge}"
    return Files(f"{stem}.dhcp-hosts", f"{stem}.dns-hosts", f"{stem}.leases", f"{stem}.pid")


class DhcpService(Struct, frozen=True):
    """One dnsmasq: everything that it is started with, and what it reads."""

    bridge: str
    networks: tuple[str, ...]
    """The ids of the networks that it serves."""
    arguments: tuple[str, ...]
    """Its command line, but for the program and the user that it becomes."""
    hosts: str
    """The text of its ``--dhcp-hostsfile``: who gets which address."""
    dns_hosts: str
    """The text of its ``--addn-hosts``."""
    addresses: tuple[str, ...]
    """The host's own on the bridge: dnsmasq binds itself to the bridge only if one is there when it starts."""
    servers: tuple[tuple[str, str], ...]
    """Each IPv4 range that it serves and the server's address there."""

    def server_of(self, address: str) -> str | None:
        """The server's own address in the range of an IPv4 address."""
        wanted = values.prefix(address)
        return next((server for cidr, server in self.servers if values.prefix(cidr).contains(wanted)), None)


class _Client(Struct, frozen=True):
    """A vif as dnsmasq sees it."""

    network: Network
    mac: str
    addresses: tuple[str, ...]
    name: str | None


def services(scope: Scope, state: DesiredState, memo: Memo) -> Mapping[str, DhcpService]:
    """The dnsmasq of each bridge that wants one."""
    served: dict[str, list[Network]] = {}
    for network in sorted(scope.resolved.networks.values(), key=lambda each: each.id):
        if network.serves_dhcp or (6 in scope.families and network.routed(6)):
            served.setdefault(network.bridge, []).append(network)
    clients: dict[str, list[_Client]] = {bridge: [] for bridge in served}
    for id_, ports in scope.resolved.ports.items() if served else ():
        instance = state.get(Instance, id_)
        make = partial(_clients, ports, None if instance is None else instance.hostname)
        for client in memo.get(("dhcp client", id_), (ports, instance), make):
            if client.network.bridge in clients:
                clients[client.network.bridge].append(client)
    found = {}
    for bridge, networks in sorted(served.items()):
        depends_on = (*networks, *clients[bridge])
        build = partial(_service, bridge, networks, clients[bridge], scope)
        service = memo.get(("dhcp service", bridge), depends_on, build)
        if service is not None:
            found[bridge] = service
    return found


def pairs(hosts: str) -> frozenset[Pair]:
    """The addresses that a ``--dhcp-hostsfile`` of ours gives, each with its MAC."""
    found = []
    for line in hosts.splitlines():
        mac, *words = line.split(",")
        found += [(word, mac) for word in words if word[:1].isdigit() and word.count(".") == 3]
        found += [(word[1:-1], mac) for word in words if word.startswith("[")]
    return frozenset(found)


def host_name(text: str | None) -> str | None:
    """The name that an instance has in DHCP and DNS: one label (RFC 1035), shortened as nova does.

    nova, bug 1238910: of more than 63 characters the first two, a dash and the last sixty.
    """
    if text is None:
        return None
    label = re.sub(r"[^A-Za-z0-9-]", "-", text)
    if len(label) > 63:
        label = f"{label[:2]}-{label[-60:]}"
    return label.strip("-") or None


def domain_name(text: str) -> str:
    """``dhcp_domain`` as dnsmasq takes it; empty where it is none, so that nothing can be smuggled in by it."""
    stripped = text.strip(".")
    return stripped if re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", stripped) else ""


# --- clients


def _clients(ports: Iterable[Port], hostname: str | None) -> tuple[_Client, ...]:
    name = host_name(hostname)
    return tuple(
        _Client(port.network, port.vif.address, port.addresses, name)
        for port in ports
        if port.network is not None and port.addresses
    )


class _Ipv6(Struct, frozen=True):
    """How IPv6 is given out on a network."""

    mode: Ipv6Mode
    prefix: values.Prefix
    """What is served of the network's range."""


def _ipv6(network: Network, clients: Sequence[_Client], scope: Scope) -> _Ipv6 | None:
    """Whether we are the router, and by what means instances get the addresses that they shall have.

    Who has the EUI-64 address of his MAC (as all of nova's have) makes it from the advertised
    prefix. Nobody can be told another one in that way: then DHCPv6 gives all of them, and the
    advertisement forbids to make one. That needs to be one way for the whole link.
    """
    if 6 not in scope.families or not network.routed(6):
        return None
    assert network.cidr_v6 is not None
    assert network.gateway_v6 is not None
    prefix = _served_prefix(values.prefix(network.cidr_v6), values.prefix(network.gateway_v6))
    wanted = [
        (client.mac, ipv6)
        for client in clients
        if client.network is network and (ipv6 := [each for each in client.addresses if ":" in each])
    ]
    can_make = prefix.length == _SLAAC_LENGTH and bool(wanted)
    if can_make and all(_eui64(prefix, mac) in addresses for mac, addresses in wanted):
        return _Ipv6("slaac" if network.enable_dhcp else "advertise", prefix)
    return _Ipv6("dhcp", prefix) if network.enable_dhcp else None


def _served_prefix(range_: values.Prefix, gateway: values.Prefix) -> values.Prefix:
    """The range, or, as dnsmasq takes no prefix shorter than /64, the /64 of it that the host is in."""
    if range_.length >= _SLAAC_LENGTH:
        return range_
    inside = gateway if range_.contains(gateway) else range_
    return values.Prefix(6, inside.value >> 64 << 64, _SLAAC_LENGTH)


def _eui64(prefix: values.Prefix, mac: str) -> str:
    interface_id = values.prefix(values.link_local(mac)).value & _INTERFACE_ID
    return values.address_text(6, prefix.value | interface_id)


# --- one bridge


def _service(bridge: str, networks: Sequence[Network], clients: Sequence[_Client], scope: Scope) -> DhcpService | None:
    settings = scope.settings
    ipv4 = [network for network in networks if network.serves_dhcp]
    ipv6 = {network.id: how for network in networks if (how := _ipv6(network, clients, scope)) is not None}
    if not ipv4 and not ipv6:
        return None
    serving = [network for network in networks if network in ipv4 or network.id in ipv6]
    domain = domain_name(settings.network.dhcp_domain)
    where = files(settings.state_path, bridge)
    arguments = [
        *_always(bridge, where, settings),
        *_dns(serving, where, domain, settings),
        f"--dhcp-lease-max={_lease_max(ipv4, ipv6)}",
    ]
    for network in serving:
        tag = f"tag:{network.id}," if len(serving) > 1 else ""
        if network in ipv4:
            arguments += _ipv4_arguments(network, tag, settings)
        if network.id in ipv6:
            arguments += _ipv6_arguments(network, ipv6[network.id], tag, settings, domain)
    arguments += _advertisements(bridge, [network for network in serving if network.id in ipv6], settings)
    return DhcpService(
        bridge=bridge,
        networks=tuple(network.id for network in serving),
        arguments=tuple(arguments),
        hosts=_hosts(clients, ipv4, ipv6, domain),
        dns_hosts=_dns_hosts(clients, serving, domain),
        addresses=tuple(_own_addresses(ipv4, ipv6, serving)),
        servers=tuple((network.cidr, network.server) for network in ipv4 if network.cidr and network.server),
    )


def _own_addresses(ipv4: Sequence[Network], ipv6: Mapping[str, _Ipv6], serving: Sequence[Network]) -> Iterator[str]:
    for network in serving:
        if network in ipv4 and network.server is not None:
            yield network.server
        if network.id in ipv6 and network.gateway_v6 is not None:
            yield network.gateway_v6


def _always(bridge: str, where: Files, settings: Settings) -> Iterator[str]:
    yield f"--conf-file={settings.network.dnsmasq_config_file or '/dev/null'}"
    yield "--keep-in-foreground"
    # Unlike --bind-interfaces it looks at the interface that a query came by: the outside
    # cannot ask the address of an inner bridge; and it notices addresses that come later.
    yield "--bind-dynamic"
    yield f"--interface={bridge}"
    yield "--except-interface=lo"
    yield f"--pid-file={where.pid}"
    yield f"--dhcp-leasefile={where.leases}"
    yield f"--dhcp-hostsfile={where.hosts}"
    # Whom we do not know is another host's, or nobody's.
    yield "--dhcp-ignore=tag:!known"
    # An instance that gives itself a name would have it in everybody's DNS.
    yield "--dhcp-ignore-names"
    # A client whose lease we do not know (it came by migration, the file was lost) is served at once.
    yield "--dhcp-authoritative"


def _dns(networks: Sequence[Network], where: Files, domain: str, settings: Settings) -> Iterator[str]:
    if not any(network.enable_dhcp for network in networks):
        yield "--port=0"
        return
    yield "--no-hosts"
    yield "--strict-order"
    yield f"--addn-hosts={where.dns_hosts}"
    if domain:
        yield f"--domain={domain}"
    servers = _upstream(networks, settings)
    if servers:
        yield "--no-resolv"
    for server in servers:
        yield f"--server={server}"


def _upstream(networks: Sequence[Network], settings: Settings) -> Sequence[str]:
    """Whom dnsmasq asks: ``dns_server``, else the networks' own; none: whom the host asks."""
    own = {address for network in networks for address in (network.server, network.gateway_v6)}
    given = settings.network.dns_server or [
        address for network in networks for address in (network.dns1, network.dns2) if address is not None
    ]
    return [address for address in dict.fromkeys(given) if address not in own]


def _lease_max(ipv4: Sequence[Network], ipv6: Mapping[str, _Ipv6]) -> int:
    """nova: the number of addresses; dnsmasq's 150 starved larger networks."""
    if any(how.mode == "dhcp" for how in ipv6.values()):
        return MOST_LEASES
    size = sum(1 << (32 - values.prefix(network.cidr).length) for network in ipv4 if network.cidr)
    return min(max(size, 1), MOST_LEASES)


def _range_tag(tag: str) -> str:
    return tag.replace("tag:", "set:", 1)


# --- IPv4


def _ipv4_arguments(network: Network, tag: str, settings: Settings) -> Iterator[str]:
    assert network.cidr is not None
    assert network.server is not None
    prefix = values.prefix(network.cidr)
    start = values.address_text(4, prefix.value)
    mask = values.address_text(4, (1 << 32) - (1 << (32 - prefix.length)))
    # static: an address only for whom the hosts file names, wherever dhcp_start is.
    yield f"--dhcp-range={_range_tag(tag)}{start},static,{mask},{settings.network.dhcp_lease_time}s"
    router = router_of(network, settings)
    # Without an option 3 dnsmasq gives itself; an empty one is none.
    yield f"--dhcp-option={tag}option:router{f',{router}' if router else ''}"
    yield f"--dhcp-option={tag}option:dns-server,{','.join(_name_servers(network, 4))}"
    mtu = _mtu(network, settings)
    if mtu is not None:
        # Forced: a guest that does not ask for it would send frames that nobody can carry.
        yield f"--dhcp-option-force={tag}option:mtu,{mtu}"
    if settings.metadata.metadata_host is not None and router != network.server:
        routes = [f"{METADATA_IP},{network.server}", *([f"0.0.0.0/0,{router}"] if router else [])]
        # Who heeds this option does not look at option 3 (RFC 3442): so the default is in it too.
        yield f"--dhcp-option={tag}option:classless-static-route,{','.join(routes)}"


def router_of(network: Network, settings: Settings) -> str | None:
    """The IPv4 router that instances are told of.

    With multi_host each host routes for its own instances, unless all have the same address.
    """
    if network.gateway is None:
        return None
    shared = network.share_address or settings.network.share_dhcp_address
    return network.server if network.multi_host and not shared else network.gateway


def _name_servers(network: Network, family: int) -> list[str]:
    """The network's own ``dns1`` and ``dns2``, else this host."""
    given = [each for each in (network.dns1, network.dns2) if each is not None and (":" in each) == (family == 6)]
    own = network.server if family == 4 else network.gateway_v6
    assert own is not None
    return list(dict.fromkeys(given)) or [own]


def _mtu(network: Network, settings: Settings) -> int | None:
    return network.mtu or settings.network.network_device_mtu


# --- IPv6


def _ipv6_arguments(network: Network, how: _Ipv6, tag: str, settings: Settings, domain: str) -> Iterator[str]:
    start = values.address_text(6, how.prefix.value)
    mode = {"slaac": "ra-stateless", "dhcp": "static", "advertise": "ra-only"}[how.mode]
    lease = f"{how.prefix.length},{settings.network.dhcp_lease_time}s"
    yield f"--dhcp-range={_range_tag(tag)}{start},{mode},{lease}"
    # For DHCPv6, and as RDNSS and DNSSL in the advertisement (RFC 8106).
    servers = _name_servers(network, 6)
    if network.enable_dhcp or servers != [network.gateway_v6]:
        yield f"--dhcp-option={tag}option6:dns-server,{','.join(f'[{each}]' for each in servers)}"
    if domain and network.enable_dhcp:
        yield f"--dhcp-option={tag}option6:domain-search,{domain}"


def _advertisements(bridge: str, networks: Sequence[Network], settings: Settings) -> Iterator[str]:
    if not networks:
        return
    yield "--enable-ra"
    sizes = [mtu for network in networks if (mtu := _mtu(network, settings)) is not None and mtu >= LEAST_IPV6_MTU]
    if sizes:
        yield f"--ra-param={bridge},mtu:{min(sizes)},{_RA_INTERVAL},{_RA_LIFETIME}"


# --- files


def _hosts(clients: Sequence[_Client], ipv4: Sequence[Network], ipv6: Mapping[str, _Ipv6], domain: str) -> str:
    """Who gets which address: for each MAC the first of each family, as DHCP can give only one.

    No tag is ever set here: dnsmasq 2.90 crashes at the next SIGHUP if one is.
    """
    names: dict[str, str | None] = {}
    given: dict[tuple[str, int], str] = {}
    for client in clients:
        how = ipv6.get(client.network.id)
        gives4 = client.network in ipv4
        gives6 = how is not None and how.mode == "dhcp"
        if gives4 or (how is not None and how.mode != "advertise"):
            names.setdefault(client.mac, client.name)
        for address in client.addresses:
            own = values.prefix(address)
            if gives4 if own.family == 4 else gives6 and how is not None and how.prefix.contains(own):
                given.setdefault((client.mac, own.family), address)
    return "".join(sorted(_host(mac, name, given, domain) for mac, name in names.items()))


def _host(mac: str, name: str | None, given: Mapping[tuple[str, int], str], domain: str) -> str:
    words = [mac, *_dhcp_name(name, domain)]
    if (mac, 4) in given:
        words.append(given[mac, 4])
    if (mac, 6) in given:
        words.append(f"[{given[mac, 6]}]")
    return f"{','.join(words)}\n"


def _dhcp_name(name: str | None, domain: str) -> Iterator[str]:
    """A name in the words of ``--dhcp-host``, where a bare one may mean something else: 12h, ignore."""
    if name is None:
        return
    if domain:
        yield f"{name}.{domain}"
    elif not re.fullmatch(r"[0-9]+[wdhms]?|ignore|infinite", name, re.IGNORECASE):
        yield name


def _dns_hosts(clients: Sequence[_Client], serving: Sequence[Network], domain: str) -> str:
    """The names of this host's instances, with every fixed IP that they have on the bridge."""
    lines: dict[values.Prefix, str] = {}
    for client in clients:
        if client.name is None or client.network not in serving or not client.network.enable_dhcp:
            continue
        names = f"{client.name}.{domain} {client.name}" if domain else client.name
        for address in client.addresses:
            lines.setdefault(values.prefix(address), f"{address}\t{names}\n")
    return "".join(lines[key] for key in sorted(lines))
