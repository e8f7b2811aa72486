"""What functions of ours remember of what they answered is bounded, each and all together."""

import functools
import importlib
import pkgutil
from typing import Any

import nova_netagent

ENTRIES = 560_000
"""All together. An entry takes some 300 bytes, and a host fills those of one packet filter only."""

WITHOUT_ARGUMENTS = {
    "nova_netagent.api.openapi._examples",
    "nova_netagent.api.openapi.description",
    "nova_netagent.backend.iptables.libiptc._library",
    "nova_netagent.backend.worlds._is_built_in",
}
"""Or next to none: which library, which file."""


def remembering() -> dict[str, "functools._lru_cache_wrapper[Any]"]:
    found = {}
    for module in pkgutil.walk_packages(nova_netagent.__path__, "nova_netagent."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, functools._lru_cache_wrapper) and value.__module__ == module.name:
                found[f"{module.name}.{name}"] = value
    return found


def test_each_is_bounded_and_so_are_all_together() -> None:
    bounds = {name: each.cache_parameters()["maxsize"] for name, each in remembering().items()}
    assert {name for name, bound in bounds.items() if bound is None} == WITHOUT_ARGUMENTS
    assert sum(bound for bound in bounds.values() if bound is not None) <= ENTRIES
