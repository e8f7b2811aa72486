"""DHCP, DNS and router advertisements: what dnsmasq is started with and the files it reads.

One dnsmasq serves a bridge: the one network on it, or the several that share it. It knows the
instances of this host and nobody else.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from operator import attrgetter, itemgetter
from typing import Literal

from msgspec import Struct

from nova_netagent.compile.memo import Memo
from nova_netagent.compile.metadata import METADATA_IP
from nova_netagent.compile.parts import Scope
from nova_netagent.compile.resolve import Port
from nova_netagent.model import DesiredState, Entry, Instance, Network, values
from nova_netagent.settings import Settings

MOST_LEASES = 65536
LEAST_IPV6_MTU = 1280
_SLAAC_LENGTH = 64
_INTERFACE_ID = (1 << 64) - 1
_NOT_IN_A_LABEL = re.compile(r"[^A-Za-z0-9-]")
_NO_NAME = re.compile(r"[0-9]+[wdhms]?|ignore|infinite", re.IGNORECASE)
_RA_INTERVAL, _RA_LIFETIME = 600, 1800
"""Seconds between unasked router advertisements and how long each is good for: dnsmasq's own defaults."""

Pair = tuple[str, str]
"""An address and the MAC that it is given to."""

Ipv6Mode = Literal["slaac", "dhcp", "advertise"]
"""``slaac``: instances make their address, DHCPv6 tells the rest; ``dhcp``: DHCPv6 gives it;
``advertise``: as ``slaac`` and no DHCPv6."""


class Files(Struct, frozen=True, gc=False):
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


class DhcpService(Struct, frozen=True, gc=False):
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


class _Client(Struct, frozen=True, gc=False):
    """A vif as dnsmasq sees it, in the words of its files."""

    network: Network
    mac: str
    host: str
    """The beginning of its line in ``--dhcp-hostsfile``: MAC and name."""
    ipv4: str | None
    """The address that DHCP gives it."""
    ipv6: str | None
    """The address that DHCPv6 gives it."""
    makes_ipv6: bool | None
    """Whether it makes an address of its own that it may have; ``None``: it shall have none."""
    dns: tuple[str, ...]
    """Its lines in ``--addn-hosts``."""


class _Serving(Struct, frozen=True, gc=False):
    """What networks are given, by their ids."""

    dhcp: frozenset[str]
    """Those whose clients get IPv4 addresses."""
    modes: Mapping[str, Ipv6Mode]
    names: frozenset[str]
    """Those whose clients have names."""


_Line = tuple[str, str, str]
"""A line of a file: its bridge, by what it is sorted there, and itself."""


class _Lines(Struct, frozen=True, gc=False):
    """What an instance has in the files of its bridges."""

    hosts: tuple[_Line, ...]
    """In ``--dhcp-hostsfile``, by MAC: of several vifs with one MAC the first is served."""
    dns: tuple[_Line, ...]
    """In ``--addn-hosts``."""


def services(scope: Scope, state: DesiredState, memo: Memo) -> Mapping[str, DhcpService]:
    """The dnsmasq of each bridge that wants one."""
    part = memo.part("servers")
    served = [
        network for network in scope.networks if network.serves_dhcp or (6 in scope.families and network.routed(6))
    ]
    domain = scope.settings.network.dhcp_domain
    owners = part.paired("owners", scope.resolved.ports if served else {}, state.instances)
    clients = part.each("clients", owners, (domain,), partial(_clients, domain))
    serving = part.intern("serving", _serving(served, clients, scope, part))
    lines = part.each("lines", clients, (serving,), partial(_lines, serving))
    hosts = part.in_order("hosts", lines, attrgetter("hosts"), itemgetter(0, 1))
    names = part.in_order("names", lines, attrgetter("dns"), itemgetter(0, 1))
    by_bridge: dict[str, list[Network]] = {}
    for network in served:
        if network.id in serving.dhcp or network.id in serving.modes:
            by_bridge.setdefault(network.bridge, []).append(network)
    found = {}
    for bridge, networks in sorted(by_bridge.items()):
        modes = {network.id: serving.modes[network.id] for network in networks if network.id in serving.modes}
        texts = _text(hosts.beginning(bridge).distinct()), _text(names.beginning(bridge).items)
        depends_on = (*networks, *[modes.get(network.id) for network in networks], *texts)
        build = partial(_service, bridge, networks, modes, *texts, scope.settings)
        found[bridge] = part.get(("dhcp service", bridge), depends_on, build)
    return found


@lru_cache(4)
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
    label = _NOT_IN_A_LABEL.sub("-", text)
    if len(label) > 63:
        label = f"{label[:2]}-{label[-60:]}"
    return label.strip("-") or None


# --- clients


def _clients(domain: str, _id: str, owner: tuple[tuple[Port, ...], Entry | None], _last: object) -> tuple[_Client, ...]:
    ports, entry = owner
    assert entry is not None
    assert isinstance(entry.object, Instance)
    name = host_name(entry.object.hostname)
    return tuple(
        [_client(port.network, port, name, domain) for port in ports if port.network is not None and port.addresses]
    )


def _client(network: Network, port: Port, name: str | None, domain: str) -> _Client:
    """A vif that has addresses: DHCP gives the first of each family, as it can give only one."""
    mac = port.vif.address
    prefix = _served_prefix(network)
    ipv4 = [address for address in port.addresses if ":" not in address]
    ipv6 = [address for address in port.addresses if ":" in address]
    within = [address for address in ipv6 if prefix is not None and prefix.contains(values.prefix(address))]
    names = None if name is None else f"{name}.{domain} {name}" if domain else name
    called = _dhcp_name(name, domain)
    return _Client(
        network=network,
        mac=mac,
        host=mac if called is None else f"{mac},{called}",
        ipv4=ipv4[0] if ipv4 else None,
        ipv6=within[0] if within else None,
        makes_ipv6=prefix is not None and _eui64(prefix, mac) in ipv6 if ipv6 else None,
        dns=() if names is None else tuple([f"{address}\t{names}\n" for address in port.addresses]),
    )


def _dhcp_name(name: str | None, domain: str) -> str | None:
    """A name in the words of ``--dhcp-host``, where a bare one may mean something else: 12h, ignore."""
    if name is None:
        return None
    if domain:
        return f"{name}.{domain}"
    return None if _NO_NAME.fullmatch(name) else name


def _served_prefix(network: Network) -> values.Prefix | None:
    """What is served of a network's IPv6 range: as dnsmasq takes no prefix shorter than /64, the /64 we are in."""
    if network.cidr_v6 is None or network.gateway_v6 is None:
        return None
    range_, gateway = values.prefix(network.cidr_v6), values.prefix(network.gateway_v6)
    if range_.length >= _SLAAC_LENGTH:
        return range_
    inside = gateway if range_.contains(gateway) else range_
    return values.Prefix(6, inside.value >> 64 << 64, _SLAAC_LENGTH)


def _eui64(prefix: values.Prefix, mac: str) -> str | None:
    """The address that a MAC makes of an advertised prefix."""
    if prefix.length != _SLAAC_LENGTH:
        return None
    interface_id = values.prefix(values.link_local(mac)).value & _INTERFACE_ID
    return values.address_text(6, prefix.value | interface_id)


# --- all bridges


def _serving(
    networks: Sequence[Network], clients: Mapping[str, tuple[_Client, ...]], scope: Scope, memo: Memo
) -> _Serving:
    """What each of these networks is given."""
    able = memo.index("who can make his address", clients, partial(_making, True))
    unable = memo.index("who cannot make his address", clients, partial(_making, False))
    dhcp = frozenset([each.id for each in networks if each.serves_dhcp])
    modes = {
        each.id: mode
        for each in networks
        if (mode := _ipv6_mode(each, each.id in able and each.id not in unable, scope)) is not None
    }
    names = [each.id for each in networks if each.enable_dhcp and (each.id in dhcp or each.id in modes)]
    return _Serving(dhcp, modes, frozenset(names))


def _making(able: bool, _id: str, clients: tuple[_Client, ...]) -> Sequence[str]:
    """The networks in which an instance can, or cannot, make itself the address that it shall have."""
    return [client.network.id for client in clients if client.makes_ipv6 is able]


def _ipv6_mode(network: Network, all_able: bool, scope: Scope) -> Ipv6Mode | None:
    """Whether we are the router, and by what means instances get the addresses that they shall have.

    Who has the EUI-64 address of his MAC (as all of nova's have) makes it from the advertised
    prefix. Nobody can be told another one in that way: then DHCPv6 gives all of them, and the
    advertisement forbids to make one. That needs to be one way for the whole link.

    :param all_able: somebody shall have an address, and all who shall can make it.
    """
    if 6 not in scope.families or not network.routed(6):
        return None
    if all_able:
        return "slaac" if network.enable_dhcp else "advertise"
    return "dhcp" if network.enable_dhcp else None


def _lines(serving: _Serving, _id: str, clients: tuple[_Client, ...], _last: object) -> _Lines:
    """What an instance has in files.

    No tag is ever set here: dnsmasq 2.90 crashes at the next SIGHUP if one is.
    """
    hosts = []
    dns: list[_Line] = []
    for client in clients:
        bridge, network_id = client.network.bridge, client.network.id
        mode = serving.modes.get(network_id)
        gives4 = network_id in serving.dhcp
        if gives4 or mode in ("slaac", "dhcp"):
            first = f",{client.ipv4}" if gives4 and client.ipv4 is not None else ""
            second = f",[{client.ipv6}]" if mode == "dhcp" and client.ipv6 is not None else ""
            hosts.append((bridge, client.mac, f"{client.host}{first}{second}\n"))
        if network_id in serving.names:
            dns += [(bridge, line, line) for line in client.dns]
    return _Lines(tuple(hosts), tuple(dns))


def _text(lines: Iterable[_Line]) -> str:
    return "".join([line[-1] for line in lines])


# --- one bridge


def _service(
    bridge: str,
    networks: Sequence[Network],
    modes: Mapping[str, Ipv6Mode],
    hosts: str,
    dns_hosts: str,
    settings: Settings,
) -> DhcpService:
    ipv4 = [network for network in networks if network.serves_dhcp]
    domain = settings.network.dhcp_domain
    where = files(settings.state_path, bridge)
    arguments = [
        *_always(bridge, where, settings),
        *_dns(networks, where, domain, settings),
        f"--dhcp-lease-max={_lease_max(ipv4, modes)}",
    ]
    for network in networks:
        tag = f"tag:{network.id}," if len(networks) > 1 else ""
        if network in ipv4:
            arguments += _ipv4_arguments(network, tag, settings)
        if network.id in modes:
            arguments += _ipv6_arguments(network, modes[network.id], tag, settings, domain)
    arguments += _advertisements(bridge, [network for network in networks if network.id in modes], settings)
    return DhcpService(
        bridge=bridge,
        networks=tuple(network.id for network in networks),
        arguments=tuple(arguments),
        hosts=hosts,
        dns_hosts=dns_hosts,
        addresses=tuple(_own_addresses(ipv4, modes, networks)),
        servers=tuple((network.cidr, network.server) for network in ipv4 if network.cidr and network.server),
    )


def _own_addresses(ipv4: Sequence[Network], ipv6: Mapping[str, Ipv6Mode], serving: Sequence[Network]) -> Iterator[str]:
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


def _lease_max(ipv4: Sequence[Network], ipv6: Mapping[str, Ipv6Mode]) -> int:
    """nova: the number of addresses; dnsmasq's 150 starved larger networks."""
    if "dhcp" in ipv6.values():
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


def _ipv6_arguments(network: Network, mode: Ipv6Mode, tag: str, settings: Settings, domain: str) -> Iterator[str]:
    prefix = _served_prefix(network)
    assert prefix is not None
    word = {"slaac": "ra-stateless", "dhcp": "static", "advertise": "ra-only"}[mode]
    start = values.address_text(6, prefix.value)
    yield f"--dhcp-range={_range_tag(tag)}{start},{word},{prefix.length},{settings.network.dhcp_lease_time}s"
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
