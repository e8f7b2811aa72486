"""check-config and cleanup, which need no agent."""

import json
import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from nova_netagent.api.sockets import ListenFailed, UnixListener
from nova_netagent.cmd import ctl as program
from nova_netagent.conf import ConfigError, load
from nova_netagent.settings import Settings
from tests.unit.ctl.test_ctl import Ctl


def test_check_config(tmp_path: Path) -> None:
    file = tmp_path / "agent.conf"
    file.write_text("[firewall]\nbackend = iptables\n")
    assert Ctl("--config-file", str(file))("check-config").said == (0, f"{file}: ok\n", "")
    told = Ctl("--config-file", str(file))("check-config", "--format", "json").out
    assert json.loads(told) == {"ok": True, "files": [str(file)]}
    file.write_text("[firewall]\nbackend = ebtables\n")
    ctl = Ctl("--config-file", str(file))("check-config")
    assert (ctl.code, ctl.out, ctl.err.count("\n")) == (2, "", 1)
    assert "backend" in ctl.err
    assert "ebtables" in ctl.err
    assert Ctl("--config-file", str(tmp_path / "missing"))("check-config").code == 2


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("rabbit://guest:secret@192.0.2.1/?nope=1", "no such option nope in group [oslo_messaging_rabbit]"),
        ("rabbit://guest:secret@192.0.2.1/?heartbeat_rate=x", "ValueError: it cannot be used"),
        ("rabbit://guest:se$cret@192.0.2.1/", "what follows a $ is no option; a $ itself is written $$"),
        ("rabbit://guest:secret@192.0.2.1:port/", "ValueError: it cannot be used"),
        pytest.param(
            "kafka://guest:secret@192.0.2.1/",
            "its driver cannot be had: No module named 'confluent_kafka'",
            marks=pytest.mark.skipif(find_spec("confluent_kafka") is not None, reason="it is there"),
        ),
    ],
)
def test_check_config_judges_the_broker_where_rpc_is_on(tmp_path: Path, url: str, said: str) -> None:
    file = tmp_path / "agent.conf"
    file.write_text(f"[DEFAULT]\ntransport_url = {url}\n[rpc]\nenabled = true\n")
    expected = (2, "", f"netagentctl: [DEFAULT] transport_url: {said}\n")
    assert Ctl("--config-file", str(file))("check-config").said == expected
    file.write_text(f"[DEFAULT]\ntransport_url = {url}\n")
    assert Ctl("--config-file", str(file))("check-config").said == (0, f"{file}: ok\n", "")


def test_check_config_of_a_broker_that_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "agent.conf"
    file.write_text("[DEFAULT]\ntransport_url = rabbit://guest:secret@192.0.2.1/\n[rpc]\nenabled = true\n")
    assert Ctl("--config-file", str(file))("check-config").said == (0, f"{file}: ok\n", "")


@pytest.mark.parametrize(
    ("key", "said"), [("none", "No such file or directory"), ("junk", "no certificate and its key: ")]
)
def test_check_config_looks_at_the_certificates(tmp_path: Path, key: str, said: str) -> None:
    """The agent is refused at its start by the same words."""
    file = tmp_path / "agent.conf"
    (tmp_path / "junk").write_text("junk\n")
    names = "".join(f"{name}_file = {tmp_path}/{key}\n" for name in ("cert", "key", "ca"))
    file.write_text(f"[api]\nbind_host = 127.0.0.1\nbind_port = 8778\n{names}")
    code, printed, complained = Ctl("--config-file", str(file))("check-config").said
    assert (code, printed) == (2, "")
    assert complained.startswith(f"netagentctl: [api] cert_file = {tmp_path}/{key}")
    assert said in complained


def test_check_config_looks_for_what_keystone_needs(tmp_path: Path) -> None:
    file = tmp_path / "agent.conf"
    file.write_text(
        "[api]\nbind_host = 127.0.0.1\nbind_port = 8778\nauth_strategy = keystone\n"
        "[keystone_authtoken]\nauth_type = password\nauth_url = http://127.0.0.1:5000\n"
    )
    (tmp_path / "keystonemiddleware.py").write_text("raise ModuleNotFoundError(name=__name__)\n")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    found = Ctl("--config-file", str(file))("check-config", env={"PYTHONPATH": path}).said
    missing = "keystonemiddleware is not installed; pip install nova-netagent[keystone]"
    assert found == (2, "", f"netagentctl: [api] auth_strategy = keystone: {missing}\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain", "it is there already and is no socket"),
        ("link", "it is there already and is no socket"),
        ("plain/api.sock", "Not a directory"),
    ],
)
def test_check_config_says_what_the_start_would_not_replace_by_its_socket(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "plain").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "plain")
    file, path = tmp_path / "agent.conf", tmp_path / name
    file.write_text(f"[api]\nsocket = {path}\n")
    with pytest.raises(ListenFailed) as failed:
        UnixListener(str(path))
    assert str(failed.value) == f"[api] socket = {path}: {said}"
    assert Ctl("--config-file", str(file))("check-config").said == (2, "", f"netagentctl: {failed.value}\n")


def test_check_config_takes_a_socket_that_is_there(tmp_path: Path) -> None:
    file, path = tmp_path / "agent.conf", tmp_path / "api.sock"
    file.write_text(f"[api]\nsocket = {path}\n")
    listener = UnixListener(str(path))
    assert Ctl("--config-file", str(file))("check-config").said == (0, f"{file}: ok\n", "")
    listener.socket.close()
    assert Ctl("--config-file", str(file))("check-config").said == (0, f"{file}: ok\n", "")


def test_only_check_config_minds_what_this_host_lacks(tmp_path: Path) -> None:
    """Rules are printed, and taken out of the kernel, where a group or a log is not as well."""
    state, file = tmp_path / "state.json", tmp_path / "agent.conf"
    state.write_text("{}")
    file.write_text("[DEFAULT]\nlog_dir = /nowhere\n[api]\nsocket_group = no-such-group\n")
    ctl = Ctl("--config-file", str(file))
    assert ctl("check-config").said == (2, "", "netagentctl: [DEFAULT] log_dir = /nowhere: No such file or directory\n")
    assert ctl("render", "-f", str(state)).code == 0


@pytest.fixture
def nobody() -> Iterator[None]:
    """Be somebody who may not look everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.mark.parametrize("command", [["check-config"], ["render", "-f", "/dev/null"], ["status"]])
@pytest.mark.parametrize("option", ["--config-file", "--config-dir"])
def test_a_configuration_that_may_not_be_looked_for_is_2(
    command: list[str], option: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        closed = Path(folder, "closed")
        hidden = closed / ("agent.conf" if option == "--config-file" else "conf.d")
        hidden.mkdir(parents=True) if option == "--config-dir" else closed.mkdir()
        if option == "--config-file":
            hidden.write_text("[DEFAULT]\n")
        closed.chmod(0)
        Path(folder).chmod(0o755)
        request.getfixturevalue("nobody")
        assert program.main([option, str(hidden), *command]) == 2
        assert capsys.readouterr() == ("", f"netagentctl: {hidden}: Permission denied\n")
        with pytest.raises(ConfigError, match="Permission denied"):
            load([hidden], []) if option == "--config-file" else load([], [hidden])
        if os.getuid() == 0:
            os.seteuid(0)
        closed.chmod(0o700)


def test_a_directory_that_may_not_be_read_is_not_an_empty_one(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o311)
        request.getfixturevalue("nobody")
        with pytest.raises(ConfigError, match=f"{folder}: Permission denied"):
            load([], [folder])
        if os.getuid() == 0:
            os.seteuid(0)
        Path(folder).chmod(0o700)


def test_cleanup_tells_what_it_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a kernel: what is asked of cmd.cleanup, and what is made of its answer."""
    cleanup = pytest.importorskip("nova_netagent.cleanup")
    file = tmp_path / "agent.conf"
    file.write_text(f"[firewall]\nwrap_name = mine\n[api]\nsocket = {tmp_path}/api.sock\n")
    asked: list[Settings] = []

    def run(settings: Settings) -> list[str]:
        asked.append(settings)
        return ["IPv4 filter: -X mine-INPUT"]

    monkeypatch.setattr(cleanup, "run", run)
    assert program.main(["--config-file", str(file), "cleanup"]) == 0
    assert capsys.readouterr() == ("IPv4 filter: -X mine-INPUT\n", "")
    assert asked[0].firewall.wrap_name == "mine"
    monkeypatch.setattr(cleanup, "run", lambda _: [])
    assert program.main(["--config-file", str(file), "--format", "json", "cleanup"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": []}


def test_cleanup_that_the_kernel_refuses_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nova_netagent.backend import Unavailable

    cleanup = pytest.importorskip("nova_netagent.cleanup")
    file = tmp_path / "agent.conf"
    file.write_text(f"[api]\nsocket = {tmp_path}/api.sock\n")

    def run(_: Settings) -> list[str]:
        raise Unavailable("permission denied: be root")

    monkeypatch.setattr(cleanup, "run", run)
    assert program.main(["--config-file", str(file), "cleanup"]) == 1
    assert capsys.readouterr().err == "netagentctl: permission denied: be root\n"


@pytest.mark.parametrize(
    ("done", "table", "removed"), [(["- renamed"], "- renamed\n", ["- renamed"]), ([], "", [])], ids=["some", "none"]
)
def test_cleanup_that_leaves_something_tells_what_it_removed_and_is_1(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    done: list[str],
    table: str,
    removed: list[str],
) -> None:
    cleanup = pytest.importorskip("nova_netagent.cleanup")
    file = tmp_path / "agent.conf"
    file.write_text(f"[api]\nsocket = {tmp_path}/api.sock\n")

    def run(_: Settings) -> list[str]:
        raise cleanup.Unfinished("[firewall] wrap_name was older: locked", done)

    monkeypatch.setattr(cleanup, "run", run)
    assert program.main(["--config-file", str(file), "cleanup"]) == 1
    assert capsys.readouterr() == (table, "netagentctl: [firewall] wrap_name was older: locked\n")
    assert program.main(["--config-file", str(file), "--format", "json", "cleanup"]) == 1
    assert json.loads(capsys.readouterr().out) == {"removed": removed}


def test_cleanup_beside_a_running_agent_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleanup = pytest.importorskip("nova_netagent.cleanup")
    file, path = tmp_path / "agent.conf", tmp_path / "api.sock"
    file.write_text(f"[api]\nsocket = {path}\n")
    listener = UnixListener(str(path))
    monkeypatch.setattr(cleanup, "run", lambda _: [])
    assert program.main(["--config-file", str(file), "cleanup"]) == 0
    assert capsys.readouterr().err == f"netagentctl: an agent is running ({path}) and will put everything back\n"
    listener.socket.close()
