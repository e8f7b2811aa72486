"""What a configuration asks of this host: found at the start, at SIGHUP and by check-config, not later."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_log import handlers

from nova_netagent import conf, local, logs

APPENDED = """[loggers]
keys = root
[handlers]
keys = one
[formatters]
keys =
[logger_root]
level = WARNING
handlers = one
[handler_one]
class = {handler}
args = {args}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The configuration."""
    return tmp_path / "agent.conf"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[DEFAULT]\ndefault_log_levels = junk\n", "default_log_levels = junk: it is not like NAME=INFO"),
        ("[DEFAULT]\ndefault_log_levels = a=INFO,b=LOUD\n", "default_log_levels = b=LOUD: it is not like NAME=INFO"),
        ("[DEFAULT]\nuse_syslog = true\nsyslog_log_facility = bogus\n", "syslog_log_facility = bogus: none of auth,"),
        ("[DEFAULT]\nlog_config_append = {tmp}/none\n", "log_config_append = {tmp}/none: No such file or directory"),
        ("[DEFAULT]\nlog_config_append = {tmp}\n", "log_config_append = {tmp}: Is a directory"),
        ("[DEFAULT]\nlog_config_append = {tmp}/junk\n", "log_config_append = {tmp}/junk: File contains no section"),
        ("[DEFAULT]\nlog_config_append = {tmp}/empty\n", "log_config_append = {tmp}/empty: No section: 'loggers'"),
        ("[DEFAULT]\nlog_config_append = {tmp}/bytes\n", "log_config_append = {tmp}/bytes: 'utf-8'"),
        ("[DEFAULT]\nlog_file = /nowhere/log\n", "log_file = /nowhere/log: No such file or directory"),
        ("[DEFAULT]\nlog_dir = /nowhere\nlog_file = log\n", "log_file = log: No such file or directory"),
        ("[DEFAULT]\nlog_file = {tmp}\n", "log_file = {tmp}: Is a directory"),
        ("[DEFAULT]\nlog_dir = {tmp}/junk\n", "log_dir = {tmp}/junk: Not a directory"),
        ("[DEFAULT]\nlog_dir = /nowhere\n", "log_dir = /nowhere: No such file or directory"),
        ("[api]\nsocket = {tmp}\n", "[api] socket = {tmp}: it is a directory"),
        ("[api]\nsocket_group = no-such-group\n", "[api] socket_group = no-such-group: there is no such group"),
    ],
)
def test_what_this_host_lacks_is_refused_in_one_line(tmp_path: Path, file: Path, text: str, said: str) -> None:
    (tmp_path / "junk").write_text("junk\n")
    (tmp_path / "empty").touch()
    (tmp_path / "bytes").write_bytes(b"\xff")
    file.write_text(text.format(tmp=tmp_path))
    with pytest.raises(conf.ConfigError) as refused:
        local.load([file])
    assert said.format(tmp=tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_journal_is_refused_without_systemd_s_module(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("[DEFAULT]\nuse_journal = true\n")
    monkeypatch.setattr(handlers, "journal", None)
    with pytest.raises(conf.ConfigError, match=r"use_journal = true: this host has no systemd\.journal"):
        local.load([file])
    monkeypatch.setattr(handlers, "journal", object())
    local.load([file])


def test_what_there_is_is_taken(tmp_path: Path, file: Path) -> None:
    file.write_text(
        f"[DEFAULT]\nlog_dir = {tmp_path}\nlog_file = x\nuse_syslog = true\nsyslog_log_facility = LOG_LOCAL1\n"
        f"default_log_levels = a=DEBUG,b=5\n[api]\nsocket = {tmp_path}/api.sock\nsocket_group = root\n"
    )
    assert local.load([file]).api.socket == f"{tmp_path}/api.sock"


# --- the log


def test_others_are_quieter_unless_it_is_said_otherwise(file: Path) -> None:
    opts = conf.new_options()
    file.write_text("[DEFAULT]\n")
    local.load([file], (), opts)
    assert {"amqp=WARN", "pyroute2=WARN", "stevedore=ERROR"} <= set(opts.default_log_levels)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back afterwards."""
    found = logging.getLogger()
    handlers, level = found.handlers, found.level
    found.handlers = [logging.NullHandler()]
    yield found
    found.handlers = handlers
    found.setLevel(level)


def test_what_is_wrong_is_said_once(tmp_path: Path, file: Path, root: logging.Logger) -> None:
    opts, written = conf.new_options(), tmp_path / "log"
    file.write_text(f"[DEFAULT]\nlog_file = {written}\n")
    local.load([file], (), opts)
    logs.setup(opts)
    ours, others = logging.getLogger("nova_netagent.engine"), logging.getLogger("amqp")
    try:
        raise OSError("the disk is full")
    except OSError as error:
        ours.error("it failed: %s", error)
        others.error("it failed")
        ours.error("a fault", exc_info=True)
    ours.error("nothing was wrong: ")
    said = [line.partition("[-] ")[2] for line in written.read_text().splitlines()]
    assert said[:3] == [
        "it failed: the disk is full",
        "it failed: OSError: the disk is full",
        "a fault: OSError: the disk is full",
    ]
    assert said[-1] == "nothing was wrong: "


BAD_HANDLERS = {
    "no class": ("no.such.Handler", "()"),
    "no arguments": ("StreamHandler", "(nowhere,)"),
    "no expression": ("StreamHandler", "("),
    "no file": ("FileHandler", "('/nowhere/log',)"),
}


@pytest.mark.parametrize("bad", BAD_HANDLERS)
def test_a_log_that_cannot_be_renewed_is_as_it_was(tmp_path: Path, file: Path, root: logging.Logger, bad: str) -> None:
    opts, appended = conf.new_options(), tmp_path / "appended"
    file.write_text("[DEFAULT]\n")
    local.load([file], (), opts)
    root.setLevel(logging.INFO)
    before = list(root.handlers)
    handler, args = BAD_HANDLERS[bad]
    appended.write_text(APPENDED.format(handler=handler, args=args))
    file.write_text(f"[DEFAULT]\ndebug = true\nlog_config_append = {appended}\n")
    for _ in range(2):
        with pytest.raises(conf.ConfigError, match=rf"log_config_append = {appended}: .*[a-z]"):
            logs.renew(opts)
        assert (root.handlers, root.level) == (before, logging.INFO)
    appended.write_text(APPENDED.format(handler="NullHandler", args="()"))
    logs.renew(opts)
    assert root.handlers != before
    assert root.level == logging.WARNING


def test_after_a_log_that_could_not_be_the_rest_is_taken_over(file: Path, root: logging.Logger) -> None:
    opts = conf.new_options()
    file.write_text("[DEFAULT]\n")
    local.load([file], (), opts)
    file.write_text("[DEFAULT]\ndebug = true\nlog_config_append = /nowhere\n")
    with pytest.raises(conf.ConfigError):
        logs.renew(opts)
    file.write_text("[DEFAULT]\ndebug = true\n")
    logs.renew(opts)
    assert root.level == logging.DEBUG


@pytest.mark.parametrize("bad", BAD_HANDLERS)
def test_a_log_that_cannot_be_set_up_is_refused(tmp_path: Path, file: Path, root: logging.Logger, bad: str) -> None:
    opts, appended = conf.new_options(), tmp_path / "appended"
    handler, args = BAD_HANDLERS[bad]
    appended.write_text(APPENDED.format(handler=handler, args=args))
    file.write_text(f"[DEFAULT]\nlog_config_append = {appended}\n")
    local.load([file], (), opts)
    with pytest.raises(conf.ConfigError, match=f"log_config_append = {appended}: "):
        logs.setup(opts)
