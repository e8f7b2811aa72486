"""The pytest side of the lab: isolation, what a test needs, fixtures, and the report.

``tests/conftest.py`` imports the hooks and fixtures from here.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import agent, features, isolation, namespace
from tests.lab.namespace import Namespace
from tests.lab.topology import Lab

ISOLATED = ("functional", "benchmarks")
"""The directories below tests/ whose tests only run in a private network namespace."""

TESTS = Path(__file__).resolve().parents[1]


def needs_isolation(path: Path) -> bool:
    """Whether a file holds tests that build labs."""
    return path.is_relative_to(TESTS) and path.relative_to(TESTS).parts[0] in ISOLATED


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line("markers", "needs(*features): skip unless the kernel has these, see tests/lab/features.py")
    config.addinivalue_line(
        "markers", "only(*backends): on these packet filters alone, see tests/functional/conftest.py"
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> None:
    """Leave the machine's own network before the first file that could touch it is imported.

    A run of unit tests alone comes to no such file, and stays as it is.
    """
    if needs_isolation(file_path):
        isolation.enter()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot be isolated, or needs what is not there."""
    if not needs_isolation(item.path):
        return
    if (reason := isolation.enter()) is not None:
        pytest.skip(reason)
    for marker in item.iter_markers("needs"):
        for feature in marker.args:
            if (reason := features.missing(feature)) is not None:
                pytest.skip(reason)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab with nothing but its outside host, closed after the test."""
    with Lab(tmp_path) as built:
        yield built


@pytest.fixture
def new_namespace() -> Iterator[Callable[[str], Namespace]]:
    """Makes single namespaces, closed after the test."""
    made: list[Namespace] = []

    def make(name: str = "namespace") -> Namespace:
        made.append(Namespace(name))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Add the agents' logs to the report of a failure."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed:
        for used in agent.in_use():
            report.sections.append((f"nova-netagent in {used.namespace.name}", used.log_end(200)))
    return report  # type: ignore[return-value]


def pytest_sessionfinish() -> None:
    """Leave nothing behind."""
    namespace.close_all()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was skipped and why, and how to enter what KEEP_NS=1 kept."""
    reasons: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    if reasons:
        terminalreporter.section("skipped, and why")
        for reason, tests in sorted(reasons.items()):
            shown = ", ".join(tests[:3]) + (f" and {len(tests) - 3} more" if len(tests) > 3 else "")
            terminalreporter.line(f"{reason}: {shown}")
    if namespace.kept:
        terminalreporter.section("namespaces kept")
        for how in namespace.kept:
            terminalreporter.line(how)
