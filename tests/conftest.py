"""Functional tests and benchmarks run in private network namespaces; see tests/lab."""

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
