"""The options, by nova's names where nova had one.

``list_opts`` feeds oslo-config-generator, by which the sample file and the documentation of every option are made.
"""

import socket
from collections.abc import Sequence

from oslo_config import cfg

from nova_netagent.conf.types import (
    DOMAIN,
    DROP_ACTION,
    FILE_MODE,
    FILLED,
    INTERFACE,
    INTERFACE_OR_ALL,
    IP,
    IPV4,
    IPV4_CIDR,
    LOG_RATE,
    LOGGED_GROUP,
    MARK,
    REGEX,
    SOCKET_PATH,
    WRAP_NAME,
    Seconds,
)

_DEFAULT: Sequence[cfg.Opt] = (
    cfg.Opt(
        "host",
        type=FILLED,
        default=socket.gethostname(),
        sample_default="<this host's name>",
        help="This host's name.",
    ),
    cfg.Opt("state_path", type=FILLED, default="/var/lib/nova-netagent", help="Where the durable state is kept."),
    cfg.Opt(
        "my_ip",
        type=IPV4,
        sample_default="<the address of the default route's link>",
        help=(
            "This host's own IPv4 address. Found at start; without a default route it is what it was at the last start,"
            " until there is one, and the start is refused if it is needed and was never found."
        ),
    ),
    cfg.BoolOpt(
        "use_ipv6",
        default=True,
        help="Program IPv6 as well. Without it the agent neither filters nor routes instances' IPv6: what it left in"
        " IPv6's tables is taken out at the start, what is others' stays, and no module is loaded.",
    ),
)
_NETWORK: Sequence[cfg.Opt] = (
    cfg.ListOpt(
        "fixed_range",
        item_type=IPV4_CIDR,
        default=[],
        help="Ranges of fixed IPs: their traffic is SNATed; what is outside is not.",
    ),
    cfg.Opt(
        "routing_source_ip",
        type=IPV4,
        sample_default="$my_ip",
        help="The source address of SNATed traffic.",
    ),
    cfg.Opt(
        "public_interface",
        type=INTERFACE,
        help="The interface of floating IPs, and the only one that SNAT applies to.",
    ),
    cfg.ListOpt(
        "force_snat_range",
        item_type=IPV4_CIDR,
        default=[],
        help="Destinations to which a network with an external gateway is SNATed all the same.",
    ),
    cfg.ListOpt("dmz_cidr", item_type=IPV4_CIDR, default=[], help="Destinations that fixed IPs reach without SNAT."),
    cfg.ListOpt(
        "forward_bridge_interface",
        item_type=INTERFACE_OR_ALL,
        default=["all"],
        help="Interfaces that bridges may forward to; 'all' accepts everything.",
    ),
    cfg.Opt(
        "flat_interface",
        type=INTERFACE,
        help="The physical interface of flat networks; wins over a network's bridge_interface.",
    ),
    cfg.Opt(
        "vlan_interface",
        type=INTERFACE,
        help="The physical interface of VLAN networks; wins over a network's bridge_interface.",
    ),
    cfg.BoolOpt("allow_same_net_traffic", default=True, help="Let in whatever comes from the vif's own network."),
    cfg.BoolOpt(
        "send_arp_for_ha",
        default=True,
        help="Announce new addresses by gratuitous ARP, and IPv6 gateways by advertisements.",
    ),
    cfg.IntOpt(
        "send_arp_for_ha_count",
        default=3,
        min=0,
        max=60,
        help="How often a new address is announced, one second apart.",
    ),
    cfg.BoolOpt(
        "share_dhcp_address", default=False, help="All hosts have the same DHCP address; it is kept apart from theirs."
    ),
    cfg.Opt(
        "dhcp_domain",
        type=DOMAIN,
        default="novalocal",
        help="The domain given by DHCP; empty: none.",
    ),
    # The most is what dnsmasq reads by atoi(3).
    cfg.IntOpt("dhcp_lease_time", default=86400, min=120, max=(1 << 31) - 1, help="Lease time in seconds."),
    cfg.StrOpt("dnsmasq_config_file", help="A further configuration file for dnsmasq."),
    cfg.ListOpt("dns_server", item_type=IP, default=[], help="Name servers that dnsmasq forwards to."),
    cfg.IntOpt("network_device_mtu", min=68, max=65535, help="The MTU of networks that name none."),
    cfg.BoolOpt(
        "manage_links",
        default=True,
        help=(
            "Bridges, VLANs, addresses and ports are the agent's to make. Without it links are left "
            "alone and only rules are made."
        ),
    ),
)
_METADATA: Sequence[cfg.Opt] = (
    cfg.Opt(
        "metadata_host",
        type=IP,
        sample_default="$my_ip",
        help=(
            "Where 169.254.169.254:80 leads; 127.0.0.1 is this host by REDIRECT. An IPv6 address is let in, "
            "and nothing leads to it."
        ),
    ),
    cfg.PortOpt("metadata_port", min=1, default=8775, help="The port there."),
)
_FIREWALL: Sequence[cfg.Opt] = (
    cfg.StrOpt(
        "backend",
        default="auto",
        choices=["auto", "iptables", "nftables"],
        help=("The packet filter: the legacy tables of iptables, or nftables. auto follows what the host uses."),
    ),
    cfg.Opt(
        "wrap_name",
        type=WRAP_NAME,
        default="nova-netagent",
        help="What the names of our chains begin with: 1 to 14 letters, digits, _ and -.",
    ),
    cfg.Opt(
        "iptables_drop_action",
        type=DROP_ACTION,
        default="DROP",
        help=(
            "What is done in the filter table to packets that are refused: DROP, REJECT, or the name of"
            " a chain that ends them."
        ),
    ),
    cfg.StrOpt(
        "egress_default",
        default="allow",
        choices=["allow", "deny"],
        help=(
            "allow: as nova-network, egress is free until a group has an egress rule. deny: as neutron,"
            " only what egress rules allow."
        ),
    ),
    cfg.Opt(
        "egress_mark",
        type=MARK,
        default=0x10000000,
        sample_default="0x10000000",
        help="The bit of the packet mark that our chains in mangle PREROUTING use, and clear.",
    ),
    cfg.Opt(
        "iptables_top_regex",
        type=REGEX,
        default="",
        help="Foreign rules of built-in chains that match stay above ours.",
    ),
    cfg.Opt(
        "iptables_bottom_regex",
        type=REGEX,
        default="",
        help="Foreign rules of built-in chains that match stay below ours.",
    ),
    cfg.Opt(
        "lock_timeout", type=Seconds(min=0), default=10.0, help="Seconds to wait for the lock of the packet filter."
    ),
    cfg.Opt(
        "resync_interval",
        type=Seconds(min=1),
        default=180.0,
        mutable=True,
        help="Seconds between two times that everything is read back and repaired.",
    ),
    cfg.Opt(
        "coalesce_interval",
        type=Seconds(min=0, max=60),
        default=0.0,
        mutable=True,
        help=(
            "Seconds to pause between commits. 0: an idle engine starts at once, and what comes during "
            "a commit shares the next."
        ),
    ),
)
_API: Sequence[cfg.Opt] = (
    cfg.Opt(
        "socket",
        type=SOCKET_PATH,
        default="/run/nova-netagent/api.sock",
        help="The unix socket of the API.",
    ),
    cfg.Opt("socket_mode", type=FILE_MODE, default=0o660, sample_default="0660", help="Its file mode."),
    cfg.StrOpt("socket_group", help="Its group."),
    cfg.HostAddressOpt("bind_host", help="The address for TCP; none: TCP is off."),
    cfg.PortOpt("bind_port", min=1, help="The port for TCP."),
    cfg.StrOpt(
        "auth_strategy",
        default="noauth",
        choices=["noauth", "keystone"],
        help=(
            "Who is let in over TCP. keystone: whose token the policy lets in; [keystone_authtoken] and"
            " [oslo_policy] are taken in the same file. noauth: nobody but by mutual TLS. The socket is always guarded"
            " by its mode, and who is neither root nor the agent's user nor in its group may only read there."
        ),
    ),
    cfg.StrOpt("cert_file", help="The agent's certificate, PEM, with what leads to its authority: TCP speaks TLS."),
    cfg.StrOpt("key_file", help="Its private key, PEM, not encrypted."),
    cfg.StrOpt(
        "ca_file",
        help="The authorities, PEM, that must have signed a client's certificate (mutual TLS); it may read then.",
    ),
    cfg.ListOpt(
        "cert_writers",
        default=[],
        help=(
            "With mutual TLS and no Keystone, the clients that may change something: common names or DNS names of"
            " their certificates."
        ),
    ),
    cfg.IntOpt("max_body_size", default=1 << 20, min=1024, help="The most bytes of a body."),
    cfg.IntOpt("max_state_size", default=64 << 20, min=1024, help="The most bytes of a body of /v1/state."),
)
_RPC: Sequence[cfg.Opt] = (
    cfg.BoolOpt(
        "enabled",
        default=False,
        help=(
            "Serve RPC over oslo.messaging. Its own options, transport_url in [DEFAULT] first of all, are taken in the"
            " same file."
        ),
    ),
    cfg.Opt("topic", type=FILLED, default="network", help="The topic to serve."),
    cfg.Opt("exchange", type=FILLED, default="nova", help="The exchange of the topic."),
    cfg.BoolOpt(
        "sync_on_connect",
        default=False,
        help="Ask a controller for the whole state of this host on every (re)connection to the broker.",
    ),
    cfg.Opt(
        "sync_topic",
        type=FILLED,
        default="netagent-controller",
        help=(
            "The topic on which the controller is asked: get_host_state(host), in namespace netagent, version 1.0;"
            " it answers the state, or null when it has none to tell."
        ),
    ),
)

_SECURITY_GROUP_LOG = (
    cfg.ListOpt(
        "groups",
        item_type=LOGGED_GROUP,
        default=[],
        help="The ids of the security groups whose members' packets are logged; all: every group's. Empty: off.",
    ),
    cfg.StrOpt(
        "verdicts",
        default="all",
        choices=["accept", "drop", "all"],
        help=(
            "What is logged: accept, the first packets of flows that a group's rule lets through; drop, what none of"
            " a vif's groups lets through; all, both."
        ),
    ),
    cfg.Opt(
        "rate",
        type=LOG_RATE,
        default=100,
        help="So many packets a second at most, of each rule that logs; a number of which 10000 is a multiple.",
    ),
    cfg.IntOpt("nflog_group", default=6400, min=1, max=65535, help="The group of NFLOG by which the agent is told."),
    cfg.StrOpt(
        "file",
        default="/var/log/nova-netagent/security-groups.log",
        help="Where the log is written, a line a packet. It may be moved away at any time: a new one is begun.",
    ),
)

GROUPS: dict[str, Sequence[cfg.Opt]] = {
    "DEFAULT": _DEFAULT,
    "network": _NETWORK,
    "metadata": _METADATA,
    "firewall": _FIREWALL,
    "security_group_log": _SECURITY_GROUP_LOG,
    "api": _API,
    "rpc": _RPC,
}


def list_opts() -> list[tuple[str, Sequence[cfg.Opt]]]:
    """The options by group, for oslo-config-generator."""
    return list(GROUPS.items())


def global_options() -> cfg.ConfigOpts:
    """The one configuration that oslo.messaging and oslo.reports look at."""
    return cfg.CONF


_QUIETER = ("pyroute2=WARN", "stevedore=ERROR", "oslo_service=WARN")


def new_options() -> cfg.ConfigOpts:
    """A configuration of nobody else's."""
    return cfg.ConfigOpts()


def register(conf: cfg.ConfigOpts) -> None:
    """Register our options and oslo.log's."""
    from oslo_log import log

    log.set_defaults(default_log_levels=[*log.get_default_log_levels(), *_QUIETER])
    log.register_options(conf)
    for group, options in GROUPS.items():
        conf.register_opts(options, group=None if group == "DEFAULT" else group)
