"""Functional tests and benchmarks run in private network namespaces; see tests/lab."""

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
