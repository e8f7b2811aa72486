"""What a command works with: its arguments, the agent, and where it prints."""

from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nova_netagent.ctl.client import Client
from nova_netagent.ctl.outcome import FAILED, USAGE, Failure
from nova_netagent.ctl.place import config_files, files_of, socket_path
from nova_netagent.ctl.screen import Screen

if TYPE_CHECKING:
    from nova_netagent.settings import Settings

Run = Callable[["Session"], int]
"""A command: it prints, and gives its exit status."""


class Session:
    """One run of netagentctl.

    :ivar args: the parsed command line.
    """

    def __init__(self, args: Namespace) -> None:
        self.args = args
        self.screen = Screen(json=args.format == "json")
        self._agent: Client | None = None

    @property
    def config_files(self) -> list[str]:
        """The configuration files to read, without those of directories."""
        return config_files(self.args.config_file)

    @property
    def all_config_files(self) -> list[str]:
        """All configuration files, in the order in which they are read."""
        return self.config_files + files_of(self.args.config_dir)

    def settings(self, *, needs_my_ip: bool = True) -> "Settings":
        """What is configured; the agent's own modules are imported for that.

        :param needs_my_ip: see ``conf.load``.
        :raises Failure: it cannot be used.
        """
        from nova_netagent import conf

        try:
            return conf.load(self.config_files, self.args.config_dir, needs_my_ip=needs_my_ip)
        except conf.ConfigError as error:
            raise Failure(USAGE, str(error)) from None

    @property
    def agent(self) -> Client:
        """The agent at its socket, or with ``--url`` over TCP."""
        if self._agent is None:
            self._agent = self._client()
        return self._agent

    @property
    def asked(self) -> str | None:
        """Where an agent was asked; ``None``: none was."""
        return None if self._agent is None else self._agent.at

    def _client(self) -> Client:
        if self.args.url is not None:
            from nova_netagent.ctl import tcp

            return tcp.client(self.args)
        return Client(socket_path(self.args.socket, self.all_config_files), self.args.timeout)

    def read_input(self) -> bytes:
        """The file of ``-f``, or standard input for ``-``.

        :raises Failure: it does not read.
        """
        import sys
        from pathlib import Path

        name = self.args.file
        if name == "-" and sys.stdin is None:
            raise Failure(USAGE, f"--file {self.input_name}: it is closed")
        try:
            return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            raise Failure(USAGE, f"--file {self.input_name}: {error.strerror}") from None

    @property
    def input_name(self) -> str:
        """What the input is called in messages."""
        return "standard input" if self.args.file == "-" else str(self.args.file)


def parse(data: bytes, name: str) -> Any:
    """JSON of a file.

    :raises Failure: it is no JSON, or has a key twice in one object.
    """
    import json

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise Failure(FAILED, f"{name}: {twice}: the key is given twice in one object")
        return found

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError:
        raise Failure(FAILED, f"{name}: not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise Failure(FAILED, f"{name}: not JSON: {error}") from None
