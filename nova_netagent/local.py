"""Whether a configuration can be used on this host: what its files do not tell by themselves."""

import grp
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nova_netagent import conf, logs
from nova_netagent.conf import ConfigError
from nova_netagent.settings import ApiSettings, Settings


def load(files: Iterable[str | Path], dirs: Iterable[str | Path] = (), opts: Any = None) -> Settings:
    """Read configuration files and check them in full, against this host as well.

    :param opts: where to read them into; by default a throw-away.
    :raises ConfigError: as for ``conf.load``, or something that an option names is not there.
    """
    opts = opts or conf.new_options()
    settings = conf.load(files, dirs, opts)
    logs.judge(opts)
    _judge_socket(settings.api)
    return settings


def _judge_socket(api: ApiSettings) -> None:
    if os.path.isdir(api.socket):
        raise ConfigError(f"[api] socket = {api.socket}: it is a directory")
    if api.socket_group is not None:
        try:
            grp.getgrnam(api.socket_group)
        except KeyError:
            raise ConfigError(f"[api] socket_group = {api.socket_group}: there is no such group") from None
