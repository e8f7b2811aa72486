"""From files to Settings, with every refusal in words that name the option."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from oslo_config import cfg

from nova_netagent.conf.options import GROUPS, new_options, register
from nova_netagent.conf.own_address import NOWHERE, remembered
from nova_netagent.conf.own_address import of_default_route as _address_of_default_route
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


class ConfigError(Exception):
    """The configuration cannot be used; the message names group, option, value and what is allowed."""


NoSuchOption = cfg.NoSuchOptError


def load(
    files: Iterable[str | Path],
    dirs: Iterable[str | Path] = (),
    conf: cfg.ConfigOpts | None = None,
    *,
    needs_my_ip: bool = True,
) -> Settings:
    """Read configuration files and check them in full.

    :param conf: where to read them into; by default a throw-away.
    :param needs_my_ip: otherwise, where it cannot be found, it is an address that nobody has: for who makes no rules.
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
        _find_my_ip(conf, written, None if needs_my_ip else NOWHERE)
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
        raise ConfigError(f"[DEFAULT] {option.replace('-', '_')}: {_in_plain_words(reason)}") from None


_PLAIN = (
    (r"Failed to parse (.+?): at \1:(\d+), ", r"\1: line \2: "),
    (r"Section must be started before assignment: ''", "an option stands before the first [group]"),
    (r"could not convert string to float: (.+)", r"\1 is not a number"),
    (r"invalid literal for int\(\) with base 10: (.+)", r"\1 is not a whole number"),
    (r"Unexpected boolean value (.+)", r"\1 is neither true nor false"),
    (r"Invalid Boolean value: (.+)", r"'\1' is neither true nor false"),
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


def _find_my_ip(conf: cfg.ConfigOpts, written: _Written, otherwise: str | None) -> None:
    """Give ``my_ip`` its default, which other options may name.

    Without a default route it is what it was at the last start. Where that is not known either there is none, and an
    option that is nothing else but ``$my_ip``, its own default, is as if it were left out.

    :param otherwise: what it is then.
    """
    given, found = "my_ip" in written.get("DEFAULT", {}), _address_of_default_route()
    known = found or (None if given else _remembered(conf)) or otherwise
    conf.set_default("my_ip", known)
    if known is None and not given:
        for group, name in _FOLLOWING_MY_IP:
            if written.get(group, {}).get(name, (None, ""))[1] in ("$my_ip", "${my_ip}"):
                conf.set_override(name, None, group)


def _remembered(conf: cfg.ConfigOpts) -> str | None:
    try:
        return remembered(conf.state_path)
    except cfg.Error:
        return None  # it is told of with the other options


_FOLLOWING_MY_IP = (("network", "routing_source_ip"), ("metadata", "metadata_host"))
"""The options whose default it is."""


def awaits_my_ip(conf: cfg.ConfigOpts) -> bool:
    """Whether ``my_ip`` was loaded from no file, and is not what a default route tells."""
    where, found = conf.get_location("my_ip"), _address_of_default_route()
    given = where is not None and where.location is cfg.Locations.user
    return not given and (found is None or found != conf.my_ip)


def with_my_ip(conf: cfg.ConfigOpts, address: str) -> Settings:
    """The settings of what was loaded without a default route, now that one tells this host's address.

    :raises ConfigError: an option that names it cannot be this.
    """
    conf.set_default("my_ip", address)
    for group, name in _FOLLOWING_MY_IP:
        conf.clear_override(name, group)
    try:
        return _settings(conf)
    except cfg.Error as error:
        raise ConfigError(_in_plain_words(_in_one_line(error))) from error


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
    from oslo_log import _options as log_options  # what its entry point for oslo.config names

    own = {option.dest for option in GROUPS["DEFAULT"]}
    filled = {each.dest for _, options in log_options.list_opts() for each in options if each.default is not None}
    others = (name for name in conf if name not in GROUPS and name not in own)
    yield from (("DEFAULT", name, name not in filled) for name in others)
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
            "[DEFAULT] my_ip: needed as the source of [network] fixed_range's SNAT, and this host has no IPv4"
            " default route to take it from; set my_ip or [network] routing_source_ip"
        )
    if "all" in network.forward_bridge_interface and len(network.forward_bridge_interface) > 1:
        given = ",".join(network.forward_bridge_interface)
        raise ConfigError(f"[network] forward_bridge_interface = {given}: 'all' stands alone; name interfaces or all")
    for option, other in (("bind_host", "bind_port"), ("bind_port", "bind_host")):
        if (value := getattr(api, option)) is not None and getattr(api, other) is None:
            raise ConfigError(f"[api] {other}: needed with {option} = {value}")
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
