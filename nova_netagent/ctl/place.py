"""Where the agent's configuration and its socket are, found without oslo.config."""

import os
from collections.abc import Sequence
from pathlib import Path

from nova_netagent.ctl.outcome import USAGE, Failure

CONFIG_FILE = "/etc/nova-netagent/nova-netagent.conf"
SOCKET = "/run/nova-netagent/api.sock"
_STATE_PATH = "/var/lib/nova-netagent"
_LOG = "nova-netagent.log"
"""What oslo.log calls it in a directory, after the program."""


def config_files(given: Sequence[str]) -> list[str]:
    """The configuration files to read: those given, else the usual one if it is there.

    :raises Failure: one that is given is not there.
    """
    for file in given:
        if not _exists(file):
            raise Failure(USAGE, f"{file}: No such file or directory")
    return list(given) or ([CONFIG_FILE] if _exists(CONFIG_FILE) else [])


def _exists(file: str) -> bool:
    """Whether it is there, or may be: who may not look is told so when it is read."""
    try:
        os.stat(file)
    except OSError as error:
        return not isinstance(error, FileNotFoundError | NotADirectoryError)
    return True


def files_of(directories: Sequence[str]) -> list[str]:
    """The configuration files of directories, in the order in which oslo.config reads them.

    :raises Failure: one of the directories is not there, or may not be read.
    """
    found = []
    for directory in directories:
        try:
            names = os.listdir(directory)
        except (FileNotFoundError, NotADirectoryError):
            raise Failure(USAGE, f"{directory}: no such directory") from None
        except OSError as error:
            raise Failure(USAGE, f"{directory}: {error.strerror}") from None
        found += [str(Path(directory, name)) for name in sorted(names) if name.endswith(".conf")]
    return found


def socket_path(given: str | None, files: Sequence[str]) -> str:
    """The path of the API's socket.

    :param given: from the command line.
    :param files: the configuration files; the last one that sets ``[api] socket`` says it.
    :raises Failure: a file does not read.
    """
    if given is not None:
        return given
    if not files:
        return SOCKET
    api, default = _sections(files)
    return _substituted(api.get("socket", SOCKET), {"state_path": _STATE_PATH} | default | api)


def log_file(files: Sequence[str]) -> str | None:
    """The file that the agent's log is written to, if it is one.

    :param files: the configuration files.
    :raises Failure: a file does not read.
    """
    default = _sections(files)[1] if files else {}
    directory = default.get("log_dir", default.get("logdir", ""))
    name = default.get("log_file", default.get("logfile", _LOG if directory else ""))
    if not name:
        return None
    values = {"state_path": _STATE_PATH} | default
    return str(Path(_substituted(directory, values), _substituted(name, values)))


def _sections(files: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    from configparser import ConfigParser, Error

    # To oslo.config [DEFAULT] is a group like any other; a default section that nobody has makes it one.
    parser = ConfigParser(interpolation=None, strict=False, default_section="\0", allow_no_value=True)
    for file in files:
        try:
            with Path(file).open(encoding="utf-8") as lines:
                parser.read_file(lines)
        except OSError as error:
            raise Failure(USAGE, f"{file}: {error.strerror}") from None
        except (Error, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise Failure(USAGE, f"{file}: {reason}") from None
    return _section(parser, "api"), _section(parser, "DEFAULT")


def _section(parser: object, name: str) -> dict[str, str]:
    from configparser import ConfigParser

    assert isinstance(parser, ConfigParser)
    if not parser.has_section(name):
        return {}
    return {option: value for option, value in parser.items(name) if value}


def _substituted(text: str, values: dict[str, str]) -> str:
    """A value with its ``$option``s replaced, as oslo.config does it."""
    if "$" not in text:
        return text
    from string import Template

    return Template(text).safe_substitute(values)
