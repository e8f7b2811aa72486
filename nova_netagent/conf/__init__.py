"""The configuration, and the Settings that it makes. Nobody else reads oslo.config.

What is judged where: ``conf.load``, what the files say by themselves; ``local.load``, after it, what of that has to be
on this host, and by ``logs.judge`` whether the log can be set up. What only a library can tell that is not always
loaded is judged where that is made: ``rpc.transport``, ``api.tls``, ``api.tcp.gate``. A start and ``check-config``
(``ctl/offline.py``) ask all of them, a reload all but those of RPC and of Keystone.
"""

from nova_netagent.conf.loading import (
    PROJECT,
    ConfigError,
    NoSuchOption,
    awaits_my_ip,
    load,
    refuse_wrong_messaging,
    with_my_ip,
)
from nova_netagent.conf.options import GROUPS, global_options, list_opts, new_options, register

__all__ = [
    "GROUPS",
    "PROJECT",
    "ConfigError",
    "NoSuchOption",
    "awaits_my_ip",
    "global_options",
    "list_opts",
    "load",
    "new_options",
    "refuse_wrong_messaging",
    "register",
    "with_my_ip",
]
