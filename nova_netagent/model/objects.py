"""What a controller describes: networks, instances, groups, floating IPs, provider rules.

Every class is frozen and validates itself in full when it is made, so that an object
that exists is a valid one; its text is canonical, so that equal objects are equal.
The OpenAPI description is generated from these classes. Names of fields are those of
nova's network model and neutron's API.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Annotated, Any, ClassVar, Literal, TypeVar, overload

from msgspec import Meta, Struct
from msgspec.structs import asdict, force_setattr

from nova_netagent.model import protocols, values

T = TypeVar("T")


class Invalid(ValueError):
    """A field does not hold what it must.

    ``field`` is its name, dotted and indexed below the object (``vifs[0].address``).
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def _described(text: str, **schema: object) -> Meta:
    return Meta(description=text, extra_json_schema=schema or None)


Uuid = Annotated[str, _described("A UUID", format="uuid")]
Ip = Annotated[str, _described("An IPv4 or IPv6 address that a host can have")]
Ipv4 = Annotated[str, _described("An IPv4 address that a host can have", format="ipv4")]
Ipv6 = Annotated[str, _described("An IPv6 address", format="ipv6")]
Cidr = Annotated[str, _described("A prefix in CIDR notation; a bare address is a host prefix")]
Mac = Annotated[str, _described("A unicast Ethernet address", pattern="^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$")]
Interface = Annotated[str, _described("The name of a network interface")]
Hostname = Annotated[str, _described("The name of a host", maxLength=255)]
Text = Annotated[str, _described("Up to 255 printable characters", maxLength=255)]
Revision = Annotated[int, Meta(ge=0, le=2**63 - 1, description="The sender's own counter of this object's changes")]
Protocol = Annotated[str | int, _described("A protocol's name as neutron spells it, or its number, 0 to 255")]
Ethertype = Literal["IPv4", "IPv6"]

FAMILIES: dict[str, int] = {"IPv4": 4, "IPv6": 6}
ETHERTYPES: dict[int, Ethertype] = {4: "IPv4", 6: "IPv6"}


class Body(Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What all described objects share: how a field is made canonical or refused."""

    def _set(self, field: str, parse: Callable[[T], T]) -> None:
        value = getattr(self, field)
        if value is None:
            return
        try:
            canonical = parse(value)
        except ValueError as error:
            raise Invalid(field, str(error)) from None
        if canonical is not value:
            force_setattr(self, field, canonical)

    def _set_each(self, field: str, parse: Callable[[T], T]) -> None:
        """Make a list canonical and without repetitions."""
        given = getattr(self, field)
        canonical = []
        for index, item in enumerate(given):
            try:
                canonical.append(parse(item))
            except ValueError as error:
                raise Invalid(f"{field}[{index}]", str(error)) from None
        force_setattr(self, field, tuple(dict.fromkeys(canonical)))

    def _default(self, field: str, value: object) -> None:
        """A null means the default, as if the field had been left out."""
        if getattr(self, field) is None:
            force_setattr(self, field, value)


def _distinct(items: Collection[object], where: Callable[[int], str]) -> None:
    """Refuse what is given twice; where an item stands is asked only then."""
    if len(set(items)) == len(items):
        return
    seen: dict[object, int] = {}
    for index, value in enumerate(items):
        if value in seen:
            raise Invalid(where(index), f"{value} is given twice: {where(seen[value])} has it too")
        seen[value] = index


class Network(Body, frozen=True, kw_only=True):
    """A nova network: its bridge on this host, its ranges and who routes and serves them."""

    KIND: ClassVar[str] = "networks"

    id: Uuid
    label: Text
    bridge: Interface
    bridge_interface: Interface | None = None
    vlan: Annotated[int, Meta(ge=1, le=4094)] | None = None
    cidr: Cidr | None = None
    gateway: Ipv4 | None = None
    dhcp_server: Ipv4 | None = None
    dhcp_start: Ipv4 | None = None
    enable_dhcp: bool | None = True
    dns1: Ip | None = None
    dns2: Ip | None = None
    cidr_v6: Cidr | None = None
    gateway_v6: Ipv6 | None = None
    mtu: Annotated[int, Meta(ge=68, le=65535)] | None = None
    multi_host: bool | None = False
    share_address: bool | None = False
    project_id: Text | None = None
    nova_id: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    revision: Revision | None = None

    def __post_init__(self) -> None:
        self._set("id", values.uuid)
        self._set("label", values.printable)
        self._set("bridge", values.interface)
        self._set("bridge_interface", values.interface)
        self._set("cidr", values.cidr)
        self._set("cidr_v6", values.cidr)
        for field in ("gateway", "dhcp_server", "dhcp_start"):
            self._set(field, values.host_ipv4)
        for field in ("dns1", "dns2"):
            self._set(field, values.host_ip)
        self._set("gateway_v6", values.ipv6)
        self._set("gateway_v6", values.host_ip)
        self._set("project_id", values.printable)
        self._default("enable_dhcp", True)
        self._default("multi_host", False)
        self._default("share_address", False)
        self._check_ranges()
        if self.bridge_interface == self.bridge:
            raise Invalid("bridge_interface", "a bridge cannot be a port of itself")

    def _check_ranges(self) -> None:
        if self.cidr is not None and values.prefix(self.cidr).family != 4:
            raise Invalid("cidr", f"{self.cidr} is not an IPv4 prefix")
        for field in ("cidr", "cidr_v6"):
            cidr = getattr(self, field)
            if cidr is not None and (values.prefix(cidr).length == 0 or _overlaps_multicast(cidr)):
                raise Invalid(field, f"{cidr} is not a range that hosts can be in")
        if self.cidr_v6 is not None and values.prefix(self.cidr_v6).family != 6:
            raise Invalid("cidr_v6", f"{self.cidr_v6} is not an IPv6 prefix")
        for field in ("gateway", "dhcp_server", "dhcp_start"):
            address = getattr(self, field)
            if address is not None:
                _check_inside(field, address, "cidr", self.cidr)
        if self.gateway_v6 is not None and not _inside(self.gateway_v6, "fe80::/10"):
            _check_inside("gateway_v6", self.gateway_v6, "cidr_v6", self.cidr_v6)
        if self.cidr_v6 is not None and self.mtu is not None and self.mtu < 1280:
            raise Invalid("mtu", "at least 1280 with IPv6 (RFC 8200, section 5)")

    @property
    def server(self) -> str | None:
        """The host's own IPv4 address on the bridge: ``dhcp_server``, by default ``gateway``."""
        return self.dhcp_server or self.gateway

    @property
    def vlan_link(self) -> str | None:
        """The VLAN device of this network, named as nova named it."""
        return None if self.vlan is None else f"vlan{self.vlan}"

    @property
    def external_gateway(self) -> bool:
        """Whether somebody else routes this network (nova: ``gateway`` is not ``dhcp_server``)."""
        return self.gateway is not None and self.gateway != self.server

    def range(self, family: int) -> str | None:
        """The network's own prefix of a family (4 or 6)."""
        return self.cidr if family == 4 else self.cidr_v6

    def routed(self, family: int) -> bool:
        """Whether this host is the gateway of the network's range of a family.

        A network with a router of its own (``gateway`` other than ``dhcp_server``) is
        routed here too: nova forwards for it, and its floating IPs need it.
        """
        if family == 4:
            return self.cidr is not None and self.gateway is not None
        return self.cidr_v6 is not None and self.gateway_v6 is not None

    @property
    def routers_v6(self) -> str | None:
        """The IPv6 address by which the range's routers take what is sent to it: its first (RFC 4291, section 2.6.1).

        ``None`` where nobody routes the range here, or it has but two addresses (RFC 6164).
        """
        if self.cidr_v6 is None or not self.routed(6):
            return None
        range_ = values.prefix(self.cidr_v6)
        return values.address_text(6, range_.value) if range_.length < 127 else None

    @property
    def serves_dhcp(self) -> bool:
        """Whether this host answers DHCP on the bridge."""
        return bool(self.enable_dhcp) and self.server is not None


def _inside(address: str, cidr: str) -> bool:
    return values.prefix(cidr).contains(values.prefix(address))


def _check_inside(field: str, address: str, range_field: str, cidr: str | None) -> None:
    if cidr is None:
        raise Invalid(field, f"{address} needs a {range_field} to be in")
    if not _inside(address, cidr):
        raise Invalid(field, f"{address} is outside the network's {range_field} {cidr}")
    if not values.prefix(cidr).has_host(values.prefix(address)):
        raise Invalid(field, f"{address} is the first or the last address of {cidr}: no host can have it")


def _overlaps_multicast(cidr: str) -> bool:
    return any(values.prefix(cidr).overlaps(values.prefix(each)) for each in ("224.0.0.0/4", "ff00::/8"))


class AllowedAddressPair(Body, frozen=True, kw_only=True):
    """An address beyond its own that a vif may use, as neutron has it."""

    ip_address: Cidr
    mac_address: Mac | None = None

    def __post_init__(self) -> None:
        self._set("ip_address", values.cidr)
        self._set("mac_address", values.mac)


class Vif(Body, frozen=True, kw_only=True):
    """A virtual interface of an instance: one tap device on one network's bridge."""

    id: Uuid
    address: Mac
    network_id: Uuid
    devname: Interface | None = None
    fixed_ips: tuple[Ip, ...] = ()
    security_groups: tuple[Uuid, ...] | None = None
    port_security_enabled: bool | None = True
    allowed_address_pairs: tuple[AllowedAddressPair, ...] | None = ()

    def __post_init__(self) -> None:
        self._set("id", values.uuid)
        self._set("address", values.mac)
        self._set("network_id", values.uuid)
        self._set("devname", values.interface)
        # nova's and neutron's own name for the tap of a vif (NIC_NAME_LEN is 14).
        self._default("devname", f"tap{self.id}"[:14])
        self._set_each("fixed_ips", values.host_ip)
        if self.security_groups is not None:
            self._set_each("security_groups", values.uuid)
        self._default("port_security_enabled", True)
        self._default("allowed_address_pairs", ())

    @property
    def device(self) -> str:
        """The name of the tap device on this host."""
        assert self.devname is not None  # set by default when the vif is made
        return self.devname

    @property
    def pairs(self) -> tuple[AllowedAddressPair, ...]:
        """The allowed address pairs."""
        return self.allowed_address_pairs or ()


class Instance(Body, frozen=True, kw_only=True):
    """A virtual machine on this host, with its vifs and its security groups."""

    KIND: ClassVar[str] = "instances"

    id: Uuid
    hostname: Hostname | None = None
    project_id: Text | None = None
    security_groups: tuple[Uuid, ...]
    vifs: tuple[Vif, ...]
    revision: Revision | None = None

    def __post_init__(self) -> None:
        self._set("id", values.uuid)
        self._set("hostname", values.hostname)
        self._set("project_id", values.printable)
        self._set_each("security_groups", values.uuid)
        _distinct([vif.id for vif in self.vifs], "vifs[{}].id".format)
        _distinct([vif.devname for vif in self.vifs], "vifs[{}].devname".format)
        fixed = [f"{address} on network {vif.network_id}" for vif in self.vifs for address in vif.fixed_ips]
        _distinct(fixed, self._place_of_fixed_ip)

    def _place_of_fixed_ip(self, index: int) -> str:
        """Where a fixed IP of the instance stands, of all of its vifs'."""
        places = [(i, j) for i, vif in enumerate(self.vifs) for j in range(len(vif.fixed_ips))]
        return "vifs[{}].fixed_ips[{}]".format(*places[index])

    def groups_of(self, vif: Vif) -> tuple[str, ...]:
        """The security groups that judge a vif: its own list where it has one."""
        return self.security_groups if vif.security_groups is None else vif.security_groups


class _Ported(Body, frozen=True, kw_only=True):
    """The part of a rule that names a protocol and its ports, or its ICMP type and code."""

    protocol: Protocol | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None

    def _check_ports(self, family: int) -> int | None:
        """Make the protocol canonical and check its ports; its number in a family."""
        self._set("protocol", protocols.parse)
        number = protocols.number(self.protocol, family)
        low, high = self.port_range_min, self.port_range_max
        if number in protocols.WITH_TYPES:
            if low is None and high is not None:
                raise Invalid("port_range_max", "an ICMP code needs a type in port_range_min")
            for field, value in (("port_range_min", low), ("port_range_max", high)):
                if value is not None and not 0 <= value <= 255:
                    raise Invalid(field, f"{values.shown(value)} is not an ICMP type or code: 0 to 255")
            if family == 4 and number == protocols.ICMPV6 and low is not None:
                raise Invalid("port_range_min", "ICMPv6 has types in an IPv6 rule only")
            if number == protocols.ICMP and low == 255:
                raise Invalid("port_range_min", "255 is reserved as an ICMP type; in the kernel it would mean any")
        else:
            _check_range("port_range", low, high, self.protocol, number)
        return number


def _check_range(field: str, low: int | None, high: int | None, protocol: str | int | None, number: int | None) -> None:
    if low is None and high is None:
        return
    if number not in protocols.WITH_PORTS:
        reason = "ports need a protocol, like tcp" if protocol is None else f"protocol {protocol} has no ports"
        raise Invalid(f"{field}_min" if low is not None else f"{field}_max", reason)
    for end, value in (("min", low), ("max", high)):
        if value is None:
            raise Invalid(f"{field}_{end}", "a port range needs both ends")
        if not 0 <= value <= 65535:
            raise Invalid(f"{field}_{end}", f"{values.shown(value)} is not a port: 0 to 65535")
    assert low is not None
    assert high is not None
    if low > high:
        raise Invalid(f"{field}_max", f"the range is reversed: {low} is above {high}")


class SecurityGroupRule(_Ported, frozen=True, kw_only=True):
    """What a group lets in or out. ICMP's type and code stand in the port range, as in neutron."""

    id: Uuid
    direction: Literal["ingress", "egress"]
    ethertype: Ethertype
    source_port_range_min: int | None = None
    source_port_range_max: int | None = None
    remote_ip_prefix: Cidr | None = None
    remote_group_id: Uuid | None = None

    def __post_init__(self) -> None:
        self._set("id", values.uuid)
        self._set("remote_ip_prefix", values.cidr)
        self._set("remote_group_id", values.uuid)
        family = self.family
        number = self._check_ports(family)
        low, high = self.source_port_range_min, self.source_port_range_max
        _check_range("source_port_range", low, high, self.protocol, number)
        if self.remote_ip_prefix is not None:
            if self.remote_group_id is not None:
                raise Invalid("remote_group_id", "a rule has a remote_ip_prefix or a remote_group_id, not both")
            if values.prefix(self.remote_ip_prefix).family != family:
                raise Invalid("remote_ip_prefix", f"{self.remote_ip_prefix} is not {self.ethertype}")

    @property
    def family(self) -> int:
        """4 or 6."""
        return FAMILIES[self.ethertype]


class SecurityGroup(Body, frozen=True, kw_only=True):
    """A set of rules that its members share, and its members on other hosts."""

    KIND: ClassVar[str] = "security_groups"

    id: Uuid
    name: Text | None = None
    project_id: Text | None = None
    stateful: bool | None = True
    members: tuple[Cidr, ...] | None = ()
    rules: tuple[SecurityGroupRule, ...]
    revision: Revision | None = None

    def __post_init__(self) -> None:
        self._set("id", values.uuid)
        self._set("name", values.printable)
        self._set("project_id", values.printable)
        self._default("stateful", True)
        self._default("members", ())
        self._set_each("members", values.cidr)
        _distinct([rule.id for rule in self.rules], "rules[{}].id".format)


class FloatingIP(Body, frozen=True, kw_only=True):
    """A public address that stands for a fixed IP. Its id is the address."""

    KIND: ClassVar[str] = "floating_ips"

    id: Ipv4
    fixed_ip_address: Ipv4
    interface: Interface | None = None
    instance_id: Uuid | None = None
    project_id: Text | None = None
    revision: Revision | None = None

    def __post_init__(self) -> None:
        self._set("id", values.host_ipv4)
        self._set("fixed_ip_address", values.host_ipv4)
        self._set("interface", values.interface)
        self._set("instance_id", values.uuid)
        self._set("project_id", values.printable)
        if self.id == self.fixed_ip_address:
            raise Invalid("fixed_ip_address", f"{self.id} cannot stand for itself")


class ProviderRule(_Ported, frozen=True, kw_only=True):
    """What the provider drops for every instance, before the instance's own rules."""

    KIND: ClassVar[str] = "provider_rules"

    id: Uuid
    remote_ip_prefix: Cidr
    ethertype: Ethertype | None = None
    revision: Revision | None = None

    def __post_init__(self) -> None:
        self._set("id", values.uuid)
        self._set("remote_ip_prefix", values.cidr)
        family = values.prefix(self.remote_ip_prefix).family
        self._default("ethertype", ETHERTYPES[family])
        if self.ethertype != ETHERTYPES[family]:
            raise Invalid("remote_ip_prefix", f"{self.remote_ip_prefix} is not {self.ethertype}")
        self._check_ports(family)

    @property
    def family(self) -> int:
        """4 or 6."""
        return values.prefix(self.remote_ip_prefix).family


Object = Network | Instance | SecurityGroup | FloatingIP | ProviderRule
TYPES: tuple[type[Object], ...] = (Network, SecurityGroup, ProviderRule, Instance, FloatingIP)
KINDS: dict[str, type[Object]] = {cls.KIND: cls for cls in TYPES}


_UNORDERED = ("members", "rules", "security_groups", "allowed_address_pairs")
"""Lists that are sets by nature: a database gives them as it likes."""


def says_the_same(one: Object, other: Object) -> bool:
    """Whether two objects are equal but for the order of what is a set by nature.

    The order of vifs and of their fixed IPs counts: DHCP gives the first.
    """
    return one == other or (type(one) is type(other) and _without_order(one) == _without_order(other))


def _without_order(item: Body) -> dict[str, object]:
    found: dict[str, object] = asdict(item)
    for field in _UNORDERED:
        if found.get(field) is not None:
            found[field] = frozenset(getattr(item, field))
    if isinstance(item, Instance):
        found["vifs"] = [_without_order(vif) for vif in item.vifs]
    return found


class State(Body, frozen=True, kw_only=True):
    """Everything that a host must enforce, as one body."""

    networks: tuple[Network, ...] | None = ()
    instances: tuple[Instance, ...] | None = ()
    security_groups: tuple[SecurityGroup, ...] | None = ()
    floating_ips: tuple[FloatingIP, ...] | None = ()
    provider_rules: tuple[ProviderRule, ...] | None = ()

    def __post_init__(self) -> None:
        for kind in KINDS:
            self._default(kind, ())
            _distinct([item.id for item in getattr(self, kind)], f"{kind}[{{}}].id".format)

    def objects(self) -> Iterable[Object]:
        """Every object, those that others refer to first."""
        for kind in KINDS:
            yield from getattr(self, kind)


@overload
def document(item: Body) -> dict[str, Any]: ...


@overload
def document(item: object) -> object: ...


def document(item: object) -> object:
    """An object as JSON-ready builtins, with its defaults written out and no nulls."""
    if isinstance(item, Struct):
        fields = asdict(item).items()
        return {name: value if type(value) in _FLAT else document(value) for name, value in fields if value is not None}
    if isinstance(item, tuple):
        return [document(each) for each in item]
    return item


_FLAT = frozenset((str, int, bool))
"""The types of most values, which are as they are."""
