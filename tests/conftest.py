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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where files are kept together xdist knows tests by their ids alone, and runs one of those that share one.

    Those of schemathesis do: the operation is in a test's name, and not in its id.
    """
    asked = getattr(config, "workerinput", {}).get("mainargv", ())  # a worker's own options say nothing of it
    if any("loadfile" in each for each in asked):
        counts = Counter(item.nodeid for item in items)
        if twice := [id_ for id_, count in counts.items() if count > 1]:
            raise pytest.UsageError(f"of several tests each, and only one would run (--dist load): {', '.join(twice)}")
