"""The configuration: read in full, refused in one line, and documented from the options."""

import subprocess
import sys
from pathlib import Path

import pytest

from nova_netagent import conf
from nova_netagent.conf import loading

ROOT = Path(__file__).parents[2]
SECONDS = ("lock_timeout", "resync_interval", "coalesce_interval")


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    settings = conf.load([_written(tmp_path, "[DEFAULT]\nmy_ip = 192.0.2.10\n")])
    assert settings.network.routing_source_ip == "192.0.2.10"
    assert settings.metadata.metadata_host == "192.0.2.10"
    assert settings.firewall.wrap_name == "nova-netagent"
    assert settings.api.socket_mode == 0o660
    assert settings.network.manage_links


def _written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "a.conf"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[firewall]\nwrap_name = longer-than-14-c\n", ("[firewall] wrap_name", "longer-than-14-c", "1 to 14")),
        *(
            (f"[firewall]\nbackend = {backend}\nwrap_name = {name}\n", ("[firewall] wrap_name", name, "anything but"))
            for backend in ("auto", "iptables", "nftables")
            for name in ("filter", "nat", "mangle", "raw", "security", "broute")
        ),
        ("[firewall]\nwrap_name = w-float\n", ("[firewall] wrap_name", "float-snat")),
        ("[firewall]\nwrap_nam = x\n", ("[firewall] wrap_nam", "not an option")),
        ("[fire]\nx = 1\n", ("[fire]", "not a group")),
        ("[network]\nfixed_range = 10.0.0.0/33\n", ("[network] fixed_range", "10.0.0.0/33", "0 to 32")),
        ("[network]\nfixed_range = fd00::/8\n", ("[network] fixed_range", "fd00::/8", "IPv4")),
        ("[network]\nsend_arp_for_ha_count = many\n", ("[network] send_arp_for_ha_count", "many")),
        ("[metadata]\nmetadata_port = 99999\n", ("[metadata] metadata_port", "99999", "65535")),
        ("[metadata]\nmetadata_host = example.com\n", ("[metadata] metadata_host", "example.com")),
        ("[firewall]\nbackend = ebtables\n", ("[firewall] backend", "ebtables", "nftables")),
        ("[firewall]\niptables_top_regex = (\n", ("[firewall] iptables_top_regex", "(", "regular expression")),
        ("[firewall]\negress_mark = 0\n", ("[firewall] egress_mark", "0x10000000")),
        ("[api]\nsocket_mode = 9\n", ("[api] socket_mode", "9", "0660")),
        ("[api]\nbind_host = 192.0.2.1\n", ("[api] bind_port", "needed with bind_host = 192.0.2.1")),
        ("[api]\nbind_port = 80\n", ("[api] bind_host", "needed with bind_port = 80")),
        ("[api]\nbind_host = 192.0.2.1\nbind_port = 80\n", ("[api] auth_strategy", "keystone", "ca_file")),
        (
            "[api]\nbind_host = ::1\nbind_port = 80\ncert_file = c\nkey_file = k\n",
            ("[api] auth_strategy", "keystone", "ca_file"),
        ),
        ("[api]\nbind_host = ::1\nbind_port = 80\ncert_file = c\n", ("[api] key_file", "cert_file")),
        ("[api]\nbind_host = ::1\nbind_port = 80\nca_file = c\n", ("[api] cert_file", "ca_file")),
        ("[api]\nbind_host = ::1\nbind_port = 0\n", ("[api] bind_port", "0")),
        ("[api]\ncert_writers = a\n", ("[api] cert_writers", "ca_file")),
        (
            "[api]\nbind_host = ::1\nbind_port = 80\nauth_strategy = keystone\n"
            "[keystone_authtoken]\nauth_type = password\n",
            ("[keystone_authtoken] auth_url", "auth_strategy"),
        ),
        ("[network]\nforward_bridge_interface = all,eth0\n", ("[network] forward_bridge_interface = all,eth0", "all")),
        (
            "[network]\nforward_bridge_interface = eth0,eth1+\n",
            ("[network] forward_bridge_interface = eth0,eth1+", "'eth1+'", "letters", "all"),
        ),
        ("[DEFAULT]\nrate_limit_burst =\n", ("[DEFAULT] rate_limit_burst = ", "it may not be empty")),
        ("[DEFAULT]\nmy_ip = 192.0.2\n", ("[DEFAULT] my_ip", "192.0.2")),
        ("not an ini file", ("line 1: ", "not an ini file")),
        ("[DEFAULT]\ndebug = maybe\n", ("[DEFAULT] debug", "'maybe' is neither true nor false")),
        ("[DEFAULT]\nuse_ipv6 = maybe\n", ("[DEFAULT] use_ipv6 = maybe", "'maybe' is neither true nor false")),
        ("[rpc]\nenabled = 2\n", ("[rpc] enabled = 2", "'2' is neither true nor false")),
        *(
            (
                f"[firewall]\niptables_drop_action = {verdict}\n",
                (f"[firewall] iptables_drop_action = {verdict}", "DROP, REJECT"),
            )
            for verdict in ("ACCEPT", "RETURN", "QUEUE")
        ),
        ("[firewall]\nlock_timeout = ten\n", ("[firewall] lock_timeout", "'ten' is not a number")),
        ("[security_group_log]\ngroups = web\n", ("[security_group_log] groups", "'web'", "all")),
        ("[firewall]\niptables_top_regex = a{99999999999}\n", ("[firewall] iptables_top_regex", "too large")),
        (
            f"[firewall]\niptables_bottom_regex = {'(' * 5000}{')' * 5000}\n",
            ("[firewall] iptables_bottom_regex", "regular expression"),
        ),
        *((f"[firewall]\n{name} = nan\n", (f"[firewall] {name} = nan", "not a number")) for name in SECONDS),
        *((f"[firewall]\n{name} = 1e400\n", (f"[firewall] {name} = 1e400",)) for name in SECONDS),
        ("[firewall]\nlock_timeout = inf\n", ("[firewall] lock_timeout = inf", "not a number")),
        ("[firewall]\nlock_timeout =\n", ("[firewall] lock_timeout", "empty")),
        ("[metadata]\nmetadata_port =\n", ("[metadata] metadata_port", "empty")),
        ("[network]\ndhcp_domain = a b\n", ("[network] dhcp_domain = a b", "not a domain")),
        ("[network]\ndhcp_lease_time = 2147483648\n", ("[network] dhcp_lease_time = 2147483648", "less")),
        *(
            (
                f"[{group}]\n{name} = {address}\n",
                (f"[{group}] {name} = {address}", "not an address that a host can have"),
            )
            for group, name in (
                ("network", "routing_source_ip"),
                ("metadata", "metadata_host"),
                ("network", "dns_server"),
            )
            for address in ("0.0.0.0", "224.0.0.1", "255.255.255.255")
        ),
        ("[DEFAULT]\nmy_ip = 0.0.0.0\n", ("[DEFAULT] my_ip = 0.0.0.0", "not an address that a host can have")),
        ("[metadata]\nmetadata_host = ff02::1\n", ("[metadata] metadata_host = ff02::1",)),
        ("[DEFAULT]\nhost =\n", ("[DEFAULT] host", "empty")),
        ("[DEFAULT]\nstate_path =\n", ("[DEFAULT] state_path", "empty")),
        ("[api]\nsocket =\n", ("[api] socket", "empty")),
        (f"[api]\nsocket = /{'x' * 107}\n", ("[api] socket", "107 bytes")),
        *((f"[rpc]\n{name} =\n", (f"[rpc] {name}", "empty")) for name in ("topic", "exchange", "sync_topic")),
        ("[network]\nrouting_source_ip = $nope\n", ("[network] routing_source_ip = $nope", "names an option")),
        ("[network]\ndns_server = 192.0.2.1,$nope\n", ("[network] dns_server = 192.0.2.1,$nope", "names an option")),
        ("[DEFAULT]\nhost = $host\n", ("[DEFAULT] host = $host", "itself")),
        ("[DEFAULT]\nlog_file = $log_file\n", ("[DEFAULT] log_file", "itself")),
        ("[DEFAULT]\nlog_dir = $nope\nhost = ${state_path}\n", ("[DEFAULT] log_dir: ", "names an option")),
        ("[DEFAULT]\nrate_limit_interval = x\n", ("[DEFAULT] rate_limit_interval = x", "whole number")),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    if "[DEFAULT]" not in text and text.startswith("["):
        text = f"[DEFAULT]\nmy_ip = 192.0.2.10\n{text}"
    with pytest.raises(conf.ConfigError) as refused:
        conf.load([_written(tmp_path, text)])
    message = str(refused.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(conf.ConfigError, match=r"none\.conf"):
        conf.load([tmp_path / "none.conf"])


def _find(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    """Have a default route tell an address, or none, and nothing be known of the last start, which is the machine's."""
    monkeypatch.setattr(loading, "_address_of_default_route", lambda: address)
    monkeypatch.setattr(loading, "remembered", lambda state_path: None)


def test_my_ip_is_refused_when_it_is_needed_and_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _find(monkeypatch, None)
    assert conf.load([_written(tmp_path, "[DEFAULT]\n")]).my_ip is None
    with pytest.raises(conf.ConfigError, match=r"\[DEFAULT\] my_ip"):
        conf.load([_written(tmp_path, "[network]\nfixed_range = 10.0.0.0/8\n")])
    text = "[network]\nfixed_range = 10.0.0.0/8\nrouting_source_ip = 192.0.2.9\n"
    assert conf.load([_written(tmp_path, text)]).network.routing_source_ip == "192.0.2.9"


@pytest.mark.parametrize("found", ["192.0.2.7", None])
@pytest.mark.parametrize("spelt", ["$my_ip", "${my_ip}"])
def test_my_ip_may_be_named_as_if_it_were_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelt: str, found: str | None
) -> None:
    _find(monkeypatch, found)
    text = f"[network]\nrouting_source_ip = {spelt}\n[metadata]\nmetadata_host = {spelt}\n"
    assert conf.load([_written(tmp_path, text)]) == conf.load([_written(tmp_path, "[DEFAULT]\n")])
    given = conf.load([_written(tmp_path, f"[DEFAULT]\nmy_ip = 192.0.2.8\n{text}")])
    assert (given.network.routing_source_ip, given.metadata.metadata_host) == ("192.0.2.8", "192.0.2.8")
    with pytest.raises(conf.ConfigError, match="routing_source_ip = : '' is not an IP address"):
        conf.load([_written(tmp_path, "[network]\nrouting_source_ip =\n")])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[network]\ndhcp_domain = .cloud.example.\n", "cloud.example"),
        ("[network]\ndhcp_domain =\n", ""),
        ("[network]\ndhcp_lease_time = 2147483647\n", 2147483647),
        ("[network]\ndns_server = 127.0.0.53,::1\n", ("127.0.0.53", "::1")),
        ("[metadata]\nmetadata_host = 127.0.0.1\n", "127.0.0.1"),
        (f"[api]\nsocket = /{'x' * 106}\n", f"/{'x' * 106}"),
        ("[firewall]\nresync_interval = 1\n", 1.0),
    ],
)
def test_what_is_useful_is_taken(tmp_path: Path, text: str, value: object) -> None:
    group, _, rest = text[1:].partition("]\n")
    settings = conf.load([_written(tmp_path, text)])
    assert getattr(getattr(settings, group), rest.split()[0]) == value


def test_no_password_is_told_with_an_option_that_names_nothing(tmp_path: Path) -> None:
    text = "[DEFAULT]\ntransport_url = rabbit://u:secret$log_file@h/\nlog_file = $log_file\n"
    with pytest.raises(conf.ConfigError) as refused:
        conf.load([_written(tmp_path, text)])
    assert "secret" not in str(refused.value)


def test_a_directory_of_files_is_read_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "1.conf").write_text("[DEFAULT]\nmy_ip = 192.0.2.1\n[firewall]\nwrap_name = one\n")
    (folder / "2.conf").write_text("[firewall]\nwrap_name = two\n")
    (folder / "ignored.txt").write_text("[nonsense")
    settings = conf.load([], [folder])
    assert (settings.my_ip, settings.firewall.wrap_name) == ("192.0.2.1", "two")


def test_options_of_oslo_messaging_and_oslo_log_are_known(tmp_path: Path) -> None:
    text = (
        "[DEFAULT]\nmy_ip = 192.0.2.1\ndebug = true\ntransport_url = rabbit://h/\n[oslo_messaging_rabbit]\nssl = true\n"
    )
    conf.load([_written(tmp_path, text)])


@pytest.mark.parametrize("url", ["", "transport_url = rabbit//h/", "transport_url = amqp2://guest:secret@h/"])
def test_rpc_without_a_broker_to_connect_to_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(conf.ConfigError, match=r"\[DEFAULT\] transport_url") as raised:
        conf.load([_written(tmp_path, f"[DEFAULT]\nmy_ip = 192.0.2.1\n{url}\n[rpc]\nenabled = true\n")])
    assert "secret" not in str(raised.value)


def test_the_sample_configuration_is_up_to_date(tmp_path: Path) -> None:
    generator = (ROOT / "etc/nova-netagent/config-generator.conf").read_text()
    copy = tmp_path / "generator.conf"
    made = tmp_path / "sample.conf"
    copy.write_text(generator.replace("etc/nova-netagent/nova-netagent.conf.sample", str(made)))
    program = Path(sys.executable).with_name("oslo-config-generator")
    subprocess.run([program, "--config-file", copy], check=True, cwd=ROOT)
    sample = ROOT / "etc/nova-netagent/nova-netagent.conf.sample"
    assert sample.read_text() == made.read_text(), "stale: run tox -e genconfig"


def test_the_sample_policy_is_up_to_date(tmp_path: Path) -> None:
    pytest.importorskip("oslo_policy")
    generator = (ROOT / "etc/nova-netagent/policy-generator.conf").read_text()
    copy, made = tmp_path / "generator.conf", tmp_path / "sample.yaml"
    copy.write_text(generator.replace("etc/nova-netagent/policy.yaml.sample", str(made)))
    program = Path(sys.executable).with_name("oslopolicy-sample-generator")
    subprocess.run([program, "--config-file", copy], check=True, cwd=ROOT)
    assert (ROOT / "etc/nova-netagent/policy.yaml.sample").read_text() == made.read_text(), "stale: tox -e genpolicy"


def test_every_option_of_the_settings_has_an_option_and_the_reverse() -> None:
    from nova_netagent.settings import Settings

    settings = Settings()
    for group, options in conf.GROUPS.items():
        fields = (
            set(settings.__struct_fields__) if group == "DEFAULT" else set(getattr(settings, group).__struct_fields__)
        )
        assert {option.dest for option in options} == fields - set(conf.GROUPS)
