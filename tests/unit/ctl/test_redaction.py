"""A support bundle is sent to strangers: by no way does a secret get into it."""

import importlib.metadata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keystoneauth1 import loading

from nova_netagent.ctl.redaction import line_by_line, of_json, of_options

SECRET = "S3CRET"

OPTIONS = [
    "password = S3CRET",
    "password=S3CRET",
    "password: S3CRET",
    "Password = S3CRET with words = and more: S3CRET",
    "#password = S3CRET",
    "# password = S3CRET",
    ";password = S3CRET",
    "# password =\n#   S3CRET",
    "  password = S3CRET",
    "password =\n  S3CRET",
    "password = a\n\tS3CRET\n\n  S3CRET",
    "password = a\n# a comment\n  S3CRET",
    "password = a\n#a comment\n  S3CRET",
    "password = a\x0bS3CRET\x0cS3CRET\u2028S3CRET",
    'password = "S3CRET" S3CRET',
    "rabbit_password = S3CRET",
    "memcache_secret_key = S3CRET",
    "service_token = S3CRET",
    "admin-token = S3CRET",
    "api_key = S3CRET",
    "application_credential_secret = S3CRET",
    "code = S3CRET",
    "backend_argument = db:S3CRET",
    "hosts = one\n  password = S3CRET",
    "hosts = one\n  password =\n  S3CRET",
    "transport_url = rabbit://u:S3CRET@h:5672/v",
    "transport_url = rabbit://u1:S3CRET@h1:5672,u2:S3CRET@h2:5672/v",
    "transport_url = rabbit://u1:S3CRET@h1, u2:S3CRET@h2/",
    "transport_url = rabbit://S3CRET@h/",
    "transport_url = rabbit://:S3CRET@h/",
    "transport_url = rabbit://u:a@S3CRET#a/S3CRET@h/",
    "transport_url = rabbit://u:%40S3CRET@h/",
    "transport_url =\n  rabbit://u1:S3CRET@h1,\n  u2:S3CRET@h2/",
    "transport_url = rabbit://u1:a@h1,\n  u2:S3CRET@h2/",
    "transport_url = rabbit://u1:S3CRET\n  @h1/",
    "#transport_url = rabbit://u1:a@h1,u2:S3CRET@h2/",
    "# transport_url = rabbit://u1:a@h1,\n#   u2:S3CRET@h2/",
    "transport_url = u1:S3CRET@h1,u2:S3CRET@h2",
    "transport_url = rabbit%3A%2F%2Fu%3AS3CRET%40h",
    "backends = redis://h/0?password=S3CRET&db=1",
    "memcached_servers = a,\n  redis://u:S3CRET@b",
    "ca =\n  -----BEGIN RSA PRIVATE KEY-----\nS3CRET\nS3CRET=\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nS3CRET=\n",
]

LINES = [
    "2026-01-01 ERROR cannot reach rabbit://u1:S3CRET@h1,u2:S3CRET@h2/",
    "agent[7]:   rabbit://u1:a@h1,\nagent[7]:   u2:S3CRET@h2/",
    "agent[7]:   u2:a/S3CRET@h2/",
    "agent[7]: transport_url = rabbit://u1:S3CRET@h1, u2:S3CRET@h2/",
    "agent[7]: keystone_authtoken.password = S3CRET S3CRET",
    "agent[7]: {'password': 'S3CRET', 'X-Auth-Token': 'S3CRET'}",
    'agent[7]: {"auth": {"password": "S3CRET"}}',
    "agent[7]: X-Auth-Token: S3CRET",
    "agent[7]: X-Service-Token: S3CRET",
    "agent[7]: Authorization: Basic S3CRET",
    "agent[7]: sent Bearer S3CRET",
    "COMMAND=/usr/bin/openstack --os-password S3CRET network list",
    "COMMAND=/usr/bin/openstack --os-password=S3CRET network list",
    "COMMAND=/usr/bin/openstack --os-token S3CRET",
    "OS_PASSWORD=S3CRET OS_TOKEN=S3CRET netagentctl status",
    "GET /callback?access_token=S3CRET",
    "-----BEGIN EC PRIVATE KEY-----\nS3CRET\n-----END EC PRIVATE KEY-----",
]


@pytest.mark.parametrize("text", OPTIONS)
def test_no_secret_of_a_configuration(text: str) -> None:
    around = f"[keystone_authtoken]\nusername = nova\n{text}\n[network]\nmy_ip = 192.0.2.1\n"
    found = of_options(around)
    assert SECRET not in found
    assert found.startswith("[keystone_authtoken]\nusername = nova\n")
    if not text.endswith("=\n"):  # of a key without an end all is hidden
        assert found.endswith("[network]\nmy_ip = 192.0.2.1\n")
    assert SECRET not in of_options(around.replace("\n", "\r\n"))


@pytest.mark.parametrize("text", LINES)
def test_no_secret_that_a_program_prints(text: str) -> None:
    found = line_by_line(f"one\n{text}\ntwo\n")
    assert SECRET not in found
    assert found.startswith("one\n")
    assert found.endswith("\ntwo\n")


@pytest.mark.parametrize("text", LINES)
def test_no_secret_of_a_document(text: str) -> None:
    assert of_json({"a": [text, 5, None], "b": "kept"}) == {"a": [line_by_line(text), 5, None], "b": "kept"}
    assert of_json([{"password": text, "api-key": [text], "rules": {"token": 5}}]) == [
        {"password": "***", "api-key": "***", "rules": {"token": "***"}}
    ]


def test_what_is_no_secret_stays() -> None:
    for text in (
        "# A comment with an address, a@b, and words\nfixed_range =\n  10.1.0.0/24,\n  10.2.0.0/24\nmy_ip = x\n",
        "auth_url = https://keystone.example.com:5000/v3\nlog_file = x\n",
    ):
        assert of_options(text) == text
    text = '2: br1@eth0: <UP> mtu 1500\n    inet 10.1.0.1/24\n-A FORWARD -m comment --comment "x:y" -j DROP\n'
    assert line_by_line(text) == text
    assert of_options("transport_url = rabbit://u:S3CRET@h1:5672/v\n") == "transport_url = rabbit://***@h1:5672/v\n"


def secret_options() -> list[str]:
    """Those that the libraries of OpenStack, which share our file, hold for secret."""
    found = set()
    for library in ("oslo.messaging", "keystonemiddleware.auth_token", "oslo.cache"):
        for entry in importlib.metadata.entry_points(group="oslo.config.opts", name=library):
            listed: Any = entry.load()()
            found |= {option.name for _, options in listed for option in options if option.secret}
    loaders: dict[str, Any] = loading.get_available_plugin_loaders()
    for loader in loaders.values():
        found |= {option.name for option in loader.get_options() if option.secret}
    return sorted(found)


def test_every_option_that_a_library_holds_for_secret() -> None:
    names = secret_options()
    assert {"password", "transport_url", "memcache_secret_key"} <= set(names)
    for name in names:
        value = f"rabbit://u:{SECRET}@h/" if name == "transport_url" else SECRET
        for text in (f"{name} = {value}\n", f"{name.replace('-', '_')} =\n  {value}\n"):
            assert SECRET not in of_options(text), name


passwords = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1).map(
    lambda text: f"{SECRET}{text}"
)


@given(passwords, st.sampled_from(["{}", "#{}", "a,\n  {}", "a\n\n\t{}\n  b"]))
def test_whatever_a_password_is(password: str, where: str) -> None:
    found = of_options(f"[a]\npassword = {where.format(password)}{SECRET}\nlast = 1\n")
    assert SECRET not in found
    assert found.endswith("last = 1\n")


@given(st.lists(passwords.map(lambda text: "".join(text.split())), min_size=1))
def test_whatever_the_passwords_of_a_url_are(found: list[str]) -> None:
    users = [f"u{number}:{password}@h{number}" for number, password in enumerate(found)]
    for joined in (",".join(users), ", ".join(users), ",\n  ".join(users)):
        assert SECRET not in of_options(f"transport_url = rabbit://{joined}/v\n")


@pytest.mark.parametrize("text", ["a:" * 20_000, "x" * 200_000, ";".join(["2001:db8:1:2:3:4:5:6"] * 3_000)])
def test_a_long_word_is_looked_through_once(text: str) -> None:
    """Where each letter were tried as a beginning this would take minutes."""
    assert line_by_line(text) == text
