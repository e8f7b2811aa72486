"""Functional tests and benchmarks run in private network namespaces; see tests/lab."""

from collections import Counter

import pytest
from hypothesis import settings

from tests.lab.plugin import (
    lab,
    new_namespace,
    pytest_collect_file,
    pytest_configure,
    pytest_runtest_makereport,
    pytest_runtest_setup,
    pytest_sessionfinish,
    pytest_terminal_summary,
)

__all__ = [
    "lab",
    "new_namespace",
    "pytest_collect_file",
    "pytest_configure",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
]

settings.register_profile("patient", deadline=None)  # no test asserts a time: the machine may be busy
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """xdist and --last-failed know tests by their ids alone: of several that share one they run one, and say nothing.

    Since pytest makes ids of parameters, those of schemathesis lack the operation, which is in the test's name.
    """
    for item in items:
        if item.parent is not None and item.name not in item.nodeid:
            item._id = item.parent.id.child(item.name)
    counts = Counter(item.nodeid for item in items)
    if twice := [id_ for id_, count in counts.items() if count > 1]:
        raise ValueError(f"several tests each: {', '.join(twice)}")  # of a worker's usage errors xdist shows none
