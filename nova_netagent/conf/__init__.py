"""The configuration, and the Settings that it makes. Nobody else reads oslo.config."""

from nova_netagent.conf.loading import PROJECT, ConfigError, NoSuchOption, load, refuse_wrong_messaging
from nova_netagent.conf.options import GROUPS, global_options, list_opts, new_options, register

__all__ = [
    "GROUPS",
    "PROJECT",
    "ConfigError",
    "NoSuchOption",
    "global_options",
    "list_opts",
    "load",
    "new_options",
    "refuse_wrong_messaging",
    "register",
]
