"""The options, by nova's names where nova had one, and the Settings they make.

Nobody else reads oslo.config. ``list_opts`` feeds oslo-config-generator, by which the
sample file and the documentation of every option are made.
"""

import math
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from oslo_config import cfg, types

from nova_netagent.model import values
from nova_netagent.settings import (
    ApiSettings,
    FirewallSettings,
    MetadataSettings,
    NetworkSettings,
    RpcSettings,
    SecurityGroupLogSettings,
    Settings,
)

PROJECT = "nova-netagent"


class ConfigError(Exception):
    """The configuration cannot be used; the message names group, option, value and what is allowed."""


NoSuchOption = cfg.NoSuchOptError


class _Checked(types.ConfigType):
    """An option type made of a parser that raises ValueError, as oslo.config wants one."""

    def __init__(self, parse: Callable[[str], Any], name: str) -> None:
        super().__init__(type_name=name)
        self._parse = parse

    def __call__(self, value: Any) -> Any:
        return self._parse(value) if isinstance(value, str) else value

    def __repr__(self) -> str:
        return str(self.type_name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Checked) and other.type_name == self.type_name

    __hash__ = None  # type: ignore[assignment]

    def _formatter(self, value: Any) -> str:
        return str(value)


class _Seconds(types.Float):
    """A number that is one: float(3) reads nan and inf as well, and no limit keeps nan out."""

    def __call__(self, value: Any) -> float | None:
        number = super().__call__(value)
        if number is not None and not math.isfinite(number):
            raise ValueError(f"{value} is not a number of seconds")
        return number


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("it may not be empty")
    return text


def _socket_path(text: str) -> str:
    if len(os.fsencode(_filled(text))) > _LONGEST_SOCKET_PATH:
        raise ValueError(f"the path of a unix socket has at most {_LONGEST_SOCKET_PATH} bytes")
    return text


_LONGEST_SOCKET_PATH = 107
"""unix(7)"""
_LOOPBACK = (values.prefix("127.0.0.0/8"), values.prefix("::1"))


def _address(text: str) -> str:
    """One that something can listen on: what is on this host only is good for services that are there, too."""
    canonical = values.ip(text)
    return canonical if any(each.contains(values.prefix(canonical)) for each in _LOOPBACK) else values.host_ip(text)


def _ipv4_address(text: str) -> str:
    return _address(values.ipv4(text))


def _ipv4_cidr(text: str) -> str:
    if ":" in text:
        raise ValueError(f"{text!r} is not an IPv4 CIDR")
    return values.cidr(text)


_TABLES_OF_IPTABLES = ("filter", "nat", "mangle", "raw", "security", "broute")
"""iptables-nft and ebtables-nft keep them under these names: with either backend a table of frames would be ebtables',
and go with what is in it; with nftables a chain ``filter-INPUT`` would be two."""


def _wrap_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,14}", text):
        raise ValueError(f"{text!r} is not a wrap name: 1 to 14 letters, digits, _ and -")
    if text in _TABLES_OF_IPTABLES:
        raise ValueError(
            f"{text!r} is not a wrap name: in nf_tables it would be the table of iptables or ebtables of that name;"
            f" anything but {', '.join(_TABLES_OF_IPTABLES)}"
        )
    if text.endswith("-float"):
        raise ValueError(
            f"{text!r} is not a wrap name: its snat would be the float-snat of {text.removesuffix('-float')!r}"
        )
    return text


def _log_rate(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 10_000 or 10_000 % int(text):
        raise ValueError("1 to 10000, and 10000 a multiple of it")
    return int(text)


def _logged_group(text: str) -> str:
    if text == "all":
        return text
    try:
        return values.uuid(text)
    except ValueError:
        raise ValueError(f"{text!r} is not the id of a security group, nor all") from None


def _drop_action(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,28}", text):
        raise ValueError(f"{text!r} is not DROP, REJECT or the name of a chain")
    return text


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"it is not a regular expression: {error}") from None
    return text


def _octal(text: str) -> int:
    if not re.fullmatch(r"0?o?[0-7]{3,4}", text):
        raise ValueError(f"{text!r} is not a file mode like 0660")
    return int(text.replace("o", ""), 8)


def _mark(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = 0
    if not 0 < value < 2**32:
        raise ValueError(f"{text!r} is not a mark: one or more bits of 32, like 0x10000000")
    return value


_CIDR = _Checked(values.cidr, "CIDR")
_IPV4_CIDR = _Checked(_ipv4_cidr, "IPv4 CIDR")
_INTERFACE = _Checked(values.interface, "interface")
_IP = _Checked(_address, "IP address")
_IPV4 = _Checked(_ipv4_address, "IPv4 address")
_FILLED = _Checked(_filled, "string value")

_DEFAULT: Sequence[cfg.Opt] = (
    cfg.Opt(
        "host",
        type=_FILLED,
        default=socket.gethostname(),
        sample_default="<this host's name>",
        help="This host's name.",
    ),
    cfg.Opt("state_path", type=_FILLED, default="/var/lib/nova-netagent", help="Where the durable state is kept."),
    cfg.Opt(
        "my_ip",
        type=_IPV4,
        sample_default="<the address of the default route's link>",
        help=("This host's own IPv4 address. Found at start; refused then if it is needed and cannot be found."),
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
        item_type=_IPV4_CIDR,
        default=[],
        help="Ranges of fixed IPs: their traffic is SNATed; what is outside is not.",
    ),
    cfg.Opt(
        "routing_source_ip",
        type=_IPV4,
        sample_default="$my_ip",
        help="The source address of SNATed traffic.",
    ),
    cfg.Opt(
        "public_interface",
        type=_INTERFACE,
        help="The interface of floating IPs, and the only one that SNAT applies to.",
    ),
    cfg.ListOpt(
        "force_snat_range",
        item_type=_IPV4_CIDR,
        default=[],
        help="Destinations to which a network with an external gateway is SNATed all the same.",
    ),
    cfg.ListOpt("dmz_cidr", item_type=_IPV4_CIDR, default=[], help="Destinations that fixed IPs reach without SNAT."),
    cfg.ListOpt(
        "forward_bridge_interface",
        default=["all"],
        help="Interfaces that bridges may forward to; 'all' accepts everything.",
    ),
    cfg.Opt(
        "flat_interface",
        type=_INTERFACE,
        help="The physical interface of flat networks; wins over a network's bridge_interface.",
    ),
    cfg.Opt(
        "vlan_interface",
        type=_INTERFACE,
        help="The physical interface of VLAN networks; wins over a network's bridge_interface.",
    ),
    cfg.BoolOpt("allow_same_net_traffic", default=True, help="Let in whatever comes from the vif's own network."),
    cfg.BoolOpt("send_arp_for_ha", default=True, help="Announce new addresses by gratuitous ARP."),
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
        type=_Checked(values.domain, "domain"),
        default="novalocal",
        help="The domain given by DHCP; empty: none.",
    ),
    # The most is what dnsmasq reads by atoi(3).
    cfg.IntOpt("dhcp_lease_time", default=86400, min=120, max=(1 << 31) - 1, help="Lease time in seconds."),
    cfg.StrOpt("dnsmasq_config_file", help="A further configuration file for dnsmasq."),
    cfg.ListOpt("dns_server", item_type=_IP, default=[], help="Name servers that dnsmasq forwards to."),
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
        type=_IP,
        sample_default="$my_ip",
        help="Where 169.254.169.254:80 leads; 127.0.0.1 is this host by REDIRECT.",
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
        type=_Checked(_wrap_name, "wrap name"),
        default="nova-netagent",
        help="What the names of our chains begin with: 1 to 14 letters, digits, _ and -.",
    ),
    cfg.Opt(
        "iptables_drop_action",
        type=_Checked(_drop_action, "target"),
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
        type=_Checked(_mark, "mark"),
        default=0x10000000,
        sample_default="0x10000000",
        help="The bit of the packet mark that our chains in mangle PREROUTING use, and clear.",
    ),
    cfg.Opt(
        "iptables_top_regex",
        type=_Checked(_regex, "regular expression"),
        default="",
        help="Foreign rules of built-in chains that match stay above ours.",
    ),
    cfg.Opt(
        "iptables_bottom_regex",
        type=_Checked(_regex, "regular expression"),
        default="",
        help="Foreign rules of built-in chains that match stay below ours.",
    ),
    cfg.Opt(
        "lock_timeout", type=_Seconds(min=0), default=10.0, help="Seconds to wait for the lock of the packet filter."
    ),
    cfg.Opt(
        "resync_interval",
        type=_Seconds(min=1),
        default=180.0,
        mutable=True,
        help="Seconds between two times that everything is read back and repaired.",
    ),
    cfg.Opt(
        "coalesce_interval",
        type=_Seconds(min=0, max=60),
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
        type=_Checked(_socket_path, "string value"),
        default="/run/nova-netagent/api.sock",
        help="The unix socket of the API.",
    ),
    cfg.Opt(
        "socket_mode", type=_Checked(_octal, "file mode"), default=0o660, sample_default="0660", help="Its file mode."
    ),
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
    cfg.Opt("topic", type=_FILLED, default="network", help="The topic to serve."),
    cfg.Opt("exchange", type=_FILLED, default="nova", help="The exchange of the topic."),
    cfg.BoolOpt(
        "sync_on_connect",
        default=False,
        help="Ask a controller for the whole state of this host on every (re)connection to the broker.",
    ),
    cfg.Opt(
        "sync_topic",
        type=_FILLED,
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
        item_type=_Checked(_logged_group, "id"),
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
        type=_Checked(_log_rate, "rate"),
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

# oslo.messaging registers these itself, and takes half a second to import.
_MESSAGING = frozenset(
    [
        "transport_url",
        "control_exchange",
        "rpc_response_timeout",
        "rpc_conn_pool_size",
        "executor_thread_pool_size",
        "conn_pool_min_size",
        "conn_pool_ttl",
        "rpc_ping_enabled",
    ]
)


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


def load(files: Iterable[str | Path], dirs: Iterable[str | Path] = (), conf: cfg.ConfigOpts | None = None) -> Settings:
    """Read configuration files and check them in full.

    :param conf: where to read them into; by default a throw-away.
    :raises ConfigError: a file does not read, or an option is unknown, wrong or contradictory.
    """
    files, dirs = tuple(files), tuple(dirs)
    _refuse_unreadable(files, dirs)
    conf = conf or new_options()
    register(conf)
    args = [f"--config-file={file}" for file in files] + [f"--config-dir={each}" for each in dirs]
    try:
        _read(conf, args)
        written = _written(_all_files(files, dirs))
        _refuse_unknown(conf, written)
        _find_my_ip(conf, written)
        _refuse_wrong(conf, written)
        settings = _settings(conf)
        _refuse_no_broker(settings, written)
        _refuse_no_keystone(settings, written)
        return settings
    except cfg.ConfigFilesNotFoundError as error:
        raise ConfigError(f"no such configuration file: {', '.join(error.config_files)}") from error
    except (cfg.NoSuchOptError, RecursionError) as error:
        raise ConfigError(_names_nothing(error, _written(_all_files(files, dirs)))) from None
    except cfg.Error as error:
        raise ConfigError(_in_plain_words(_in_one_line(error))) from error


def _read(conf: cfg.ConfigOpts, args: list[str]) -> None:
    """Have oslo.config read the files. What may be on its command line as well ends the process when it is wrong."""
    said = StringIO()
    try:
        with redirect_stderr(said):
            conf(args, project=PROJECT, default_config_files=[], default_config_dirs=[])
    except SystemExit:
        option, _, reason = said.getvalue().strip().removeprefix("argument --").partition(": ")
        raise ConfigError(f"[DEFAULT] {option.replace('-', '_')}: {reason}") from None


_PLAIN = (
    (r"Failed to parse (.+?): at \1:(\d+), ", r"\1: line \2: "),
    (r"Section must be started before assignment: ''", "an option stands before the first [group]"),
    (r"could not convert string to float: (.+)", r"\1 is not a number"),
    (r"invalid literal for int\(\) with base 10: (.+)", r"\1 is not a whole number"),
)
"""What the parsers of Python and oslo.config say, and what an operator understands."""


def _in_plain_words(text: str) -> str:
    for said, meant in _PLAIN:
        text = re.sub(said, meant, text)
    return text


def _all_files(files: Iterable[str | Path], dirs: Iterable[str | Path]) -> Iterator[Path]:
    """The files in the order in which oslo.config reads them."""
    yield from map(Path, files)
    for each in dirs:
        yield from sorted(Path(each).glob("*.conf"))


def _refuse_unreadable(files: Iterable[str | Path], dirs: Iterable[str | Path]) -> None:
    """oslo.config would end in whatever exception it meets; what is not there it tells well."""
    for each in dirs:
        try:
            os.listdir(each)  # glob() takes one that it may not read for an empty one
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(f"{each}: {error.strerror}") from error
    for file in _all_files(files, dirs):
        try:
            file.read_text()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}: is no text: {error}") from error


def _in_one_line(error: cfg.Error) -> str:
    return " ".join(str(error).split())


_Written = dict[str, dict[str, tuple[Path, str]]]
"""By group and option the file that sets it, and the text there."""


def _written(files: Iterable[Path]) -> _Written:
    found: _Written = {}
    for file in files:
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(str(file), sections).parse()
        for group, options in sections.items():
            for name, lines in options.items():
                found.setdefault(group, {})[name.replace("-", "_")] = (file, lines[-1])
    return found


_NAMES_NOTHING = "it names an option that is not there, or itself"


def _names_nothing(error: Exception, written: _Written) -> str:
    """What to say of options that oslo.config reads with the files: it does not tell whose value it was.

    Their names only: one of the values may be a password.
    """
    named = re.compile(r"\$\{?" + re.escape(getattr(error, "opt_name", "")))
    names = (
        f"[{group}] {name}" for group, each in written.items() for name, (_, text) in each.items() if named.search(text)
    )
    return f"{', '.join(names)}: {_NAMES_NOTHING}"


def _refuse_unknown(conf: cfg.ConfigOpts, written: _Written) -> None:
    known = {group: {option.dest for option in options} for group, options in GROUPS.items()}
    known["DEFAULT"] |= _MESSAGING | {name for name in conf if name not in GROUPS}
    for group, options in written.items():
        if group.startswith("oslo_") or group == "keystone_authtoken":
            continue
        for name, (file, _) in options.items():
            if group not in known:
                raise ConfigError(f"{file}: [{group}] is not a group: {', '.join(known)} are")
            if name not in known[group]:
                raise ConfigError(f"{file}: [{group}] {name} is not an option; see the sample configuration")


def _find_my_ip(conf: cfg.ConfigOpts, written: _Written) -> None:
    """Give ``my_ip`` its default, which other options may name.

    Without a default route there is none, and an option that is nothing else but ``$my_ip``, its own default, is
    as if it were left out.
    """
    found = _address_of_default_route()
    conf.set_default("my_ip", found)
    if found is None and "my_ip" not in written.get("DEFAULT", {}):
        for group, name in (("network", "routing_source_ip"), ("metadata", "metadata_host")):
            if written.get(group, {}).get(name, (None, ""))[1] in ("$my_ip", "${my_ip}"):
                conf.set_override(name, None, group)


def _refuse_wrong(conf: cfg.ConfigOpts, written: _Written) -> None:
    """Read every option once, oslo.log's as well: oslo.config judges a value when it is read."""
    for group, name, optional in _options(conf):
        file, text = written.get(group, {}).get(name, (None, ""))
        try:
            value = conf[name] if group == "DEFAULT" else conf[group][name]
        except cfg.ConfigFileValueError as error:
            reason = _in_plain_words(_in_one_line(error).partition(" is not valid: ")[2])
        except (cfg.NoSuchOptError, cfg.TemplateSubstitutionError):
            reason = _NAMES_NOTHING
        else:
            if value is not None or text or file is None or optional:
                continue
            reason = "it may not be empty"  # oslo.config takes an empty number for none
        where = f"[{group}] {name}" if file is None else f"{file}: [{group}] {name} = {_shown(text)}"
        raise ConfigError(f"{where}: {reason}")


def _shown(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}…"


def _options(conf: cfg.ConfigOpts) -> Iterator[tuple[str, str, bool]]:
    """Group and name of every option, and whether there need be no value."""
    own = {option.dest for option in _DEFAULT}
    yield from (("DEFAULT", name, True) for name in conf if name not in GROUPS and name not in own)
    for group, options in GROUPS.items():
        yield from ((group, option.dest, option.default is None) for option in options)


def _settings(conf: cfg.ConfigOpts) -> Settings:
    my_ip = conf.my_ip
    network = _group(conf, "network", NetworkSettings)
    metadata = _group(conf, "metadata", MetadataSettings)
    settings = Settings(
        host=conf.host,
        state_path=conf.state_path,
        my_ip=my_ip,
        use_ipv6=conf.use_ipv6,
        network=NetworkSettings(**{**network, "routing_source_ip": network["routing_source_ip"] or my_ip}),
        metadata=MetadataSettings(**{**metadata, "metadata_host": metadata["metadata_host"] or my_ip}),
        firewall=FirewallSettings(**_group(conf, "firewall", FirewallSettings)),
        security_group_log=SecurityGroupLogSettings(**_group(conf, "security_group_log", SecurityGroupLogSettings)),
        api=ApiSettings(**_group(conf, "api", ApiSettings)),
        rpc=RpcSettings(**_group(conf, "rpc", RpcSettings)),
    )
    _refuse_contradictions(settings)
    return settings


def _group(conf: cfg.ConfigOpts, group: str, cls: type[Any]) -> dict[str, Any]:
    found = {name: conf[group][name] for name in cls.__struct_fields__}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _refuse_contradictions(settings: Settings) -> None:
    network, api = settings.network, settings.api
    if network.fixed_range and network.routing_source_ip is None:
        raise ConfigError(
            "[DEFAULT] my_ip: needed as the source of [network] fixed_range's SNAT, and this host has no default"
            " route to take it from; set my_ip or [network] routing_source_ip"
        )
    if "all" in network.forward_bridge_interface and len(network.forward_bridge_interface) > 1:
        raise ConfigError("[network] forward_bridge_interface: 'all' stands alone; name interfaces or all")
    for interface in network.forward_bridge_interface:
        try:
            if interface != "all":
                values.interface(interface)
        except ValueError as error:
            raise ConfigError(f"[network] forward_bridge_interface: {error}") from None
    if (api.bind_host is None) != (api.bind_port is None):
        raise ConfigError("[api] bind_host, bind_port: TCP needs both")
    for option, other in (("cert_file", "key_file"), ("key_file", "cert_file"), ("ca_file", "cert_file")):
        if getattr(api, option) is not None and getattr(api, other) is None:
            raise ConfigError(f"[api] {other}: needed with {option}")
    if api.bind_host is not None and api.auth_strategy == "noauth" and api.ca_file is None:
        raise ConfigError(
            "[api] auth_strategy: noauth is for the socket only; TCP on bind_host requires keystone, or mutual TLS by"
            " cert_file, key_file and ca_file"
        )
    if api.cert_writers and (api.ca_file is None or api.auth_strategy == "keystone"):
        raise ConfigError("[api] cert_writers: for mutual TLS by ca_file; with keystone the policy says who may write")


def _refuse_no_broker(settings: Settings, written: _Written) -> None:
    """oslo.messaging would fall back to rabbit on localhost, and wait for it for ever."""
    if not settings.rpc.enabled:
        return
    file, url = written.get("DEFAULT", {}).get("transport_url", (None, ""))
    if file is None:
        raise ConfigError("[DEFAULT] transport_url: RPC is enabled and needs a broker, like rabbit://user:pass@host/")
    scheme = url.partition("://")[0].partition("+")[0]
    if "://" not in url or scheme not in _DRIVERS:
        # The URL itself has a password.
        raise ConfigError(f"{file}: [DEFAULT] transport_url: begins with none of {'://, '.join(_DRIVERS)}://")


def _refuse_no_keystone(settings: Settings, written: _Written) -> None:
    """The middleware would start, and refuse everybody."""
    given = written.get("keystone_authtoken", {})
    if settings.api.bind_host is not None and settings.api.auth_strategy == "keystone":
        for option in ("auth_type", "auth_url"):
            if option not in given and "auth_section" not in given:
                raise ConfigError(f"[keystone_authtoken] {option}: needed with [api] auth_strategy = keystone")


def refuse_wrong_messaging(conf: cfg.ConfigOpts) -> None:
    """Judge oslo.messaging's own options, once it has registered them.

    :raises ConfigError: one of them cannot be used; it would only show when a broker is there.
    """
    for group in [name for name in conf if name.startswith("oslo_messaging_")]:
        for name in conf[group]:
            try:
                _ = conf[group][name]
            except cfg.ConfigFileValueError as error:
                reason = _in_one_line(error).partition(" is not valid: ")[2]
                raise ConfigError(f"[{group}] {name}: {_in_plain_words(reason)}") from error


_DRIVERS = ("rabbit", "kafka", "fake")
"""oslo.messaging's, by the schemes of their URLs."""

_NOWHERE = "192.0.0.8"
"""The dummy address (RFC 7600): nobody has it, so that a packet to it would take the default route."""


def _address_of_default_route() -> str | None:
    """The source address that the kernel would choose towards the outside; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_NOWHERE, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return None
