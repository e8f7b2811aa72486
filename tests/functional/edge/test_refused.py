"""What TCP cannot be served with: each file that is no good is named with its option."""

import subprocess
import sys
from pathlib import Path

import pytest

from nova_netagent.api.agent import at_once
from nova_netagent.api.tcp import gate
from nova_netagent.api.tls import server_context
from nova_netagent.conf import ConfigError
from nova_netagent.settings import ApiSettings
from tests.functional.edge.conftest import Site


def refusal(**files: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        server_context(ApiSettings(**{name: str(path) for name, path in files.items()}))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_files_that_cannot_be_used(site: Site, tmp_path: Path) -> None:
    cert, key = site.server
    text, encrypted = tmp_path / "text", tmp_path / "encrypted"
    text.write_text("no certificate")
    command = ["openssl", "pkey", "-in", str(key), "-aes128", "-passout", "pass:secret", "-out", str(encrypted)]
    subprocess.run(command, check=True)
    both = "[api] cert_file = {}, key_file = {}: "
    assert refusal(cert_file=cert, key_file=tmp_path).startswith(f"[api] key_file = {tmp_path}: Is a directory")
    assert refusal(cert_file=cert, key_file=Path("/none")) == "[api] key_file = /none: No such file or directory"
    assert refusal(cert_file=cert, key_file=key, ca_file=Path("/none")).startswith("[api] ca_file = /none: No such")
    assert refusal(cert_file=cert, key_file=site.reader.key).startswith(both.format(cert, site.reader.key))
    assert refusal(cert_file=text, key_file=key).startswith(both.format(text, key))
    assert refusal(cert_file=cert, key_file=encrypted).endswith("the key is encrypted")
    assert refusal(cert_file=cert, key_file=key, ca_file=text).startswith(f"[api] ca_file = {text}: no certificates")


def test_keystone_without_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keystonemiddleware", None)
    monkeypatch.delitem(sys.modules, "nova_netagent.api.keystone", raising=False)
    with pytest.raises(
        ConfigError, match=r"keystonemiddleware is not installed; pip install nova-netagent\[keystone\]"
    ):
        gate(ApiSettings(auth_strategy="keystone"), None, at_once)
