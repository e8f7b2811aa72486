"""docs/compatibility.md and tests/MUTANTS.md name tests and options: they must be there."""

import ast
import re
from pathlib import Path

import pytest

from nova_netagent import conf

TESTS = Path(__file__).resolve().parents[2]
TEXT = (TESTS.parent / "docs" / "compatibility.md").read_text()
MUTANTS = (TESTS / "MUTANTS.md").read_text()


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def section(title: str) -> str:
    """The text below a heading, to the next of its kind."""
    return re.split(r"^## ", TEXT.partition(f"## {title}\n")[2], flags=re.M)[0]


def test_every_test_that_is_named_exists() -> None:
    files = [*TESTS.rglob("test_*.py"), *TESTS.rglob("contract.py")]
    known = {name for path in files for name in functions(path)}
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 60
    assert named <= known


def test_every_test_that_is_named_with_its_file_is_there() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", MUTANTS + TEXT))
    assert len(named) > 30
    missing = {f"{path}::{name}" for path, name in named if name not in functions(TESTS.parent / path)}
    assert not missing


def test_there_is_a_mutant_of_every_law() -> None:
    laws = {int(number) for number in re.findall(r"^\| (\d+)\b", MUTANTS, re.M)}
    assert laws >= set(range(1, 11))
    assert all(f"\n| {part} |" in MUTANTS for part in ("backend", "store", "api"))


def test_every_scenario_has_its_row_and_every_row_its_test_or_its_reason() -> None:
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in section("nova's unit tests").splitlines()[6:]]
    rows = [row for row in rows if row and row[0][:1].isdigit()]
    assert {int(row[0].split()[0]) for row in rows} == set(range(1, 37))
    assert all("::" in tests or reason for _, _, tests, reason in rows)
    shown = "".join(tests for _, _, tests, _ in rows)
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (ast.get_docstring(node) or "").startswith("Scenario "):
                assert f"::{node.name}`" in shown


@pytest.mark.parametrize("part", ["Same name", "Changed"])
def test_the_options_that_stayed_exist(part: str) -> None:
    options = {option.dest for group in conf.GROUPS.values() for option in group}
    rows = section("Options").partition(part)[2].partition("\n\n")[2].partition("\n\n")[0]
    first_cells = [row.split("|")[1] for row in rows.splitlines()]
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} - {
        "network_manager",
        "networks_path",
    }
    assert named
    assert named <= options


def test_the_options_that_are_gone_do_not_exist() -> None:
    options = {option.dest for group in conf.GROUPS.values() for option in group}
    rows = section("Options").partition("Gone:")[2]
    named = {
        name for row in rows.splitlines() if row.startswith("| `") for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert len(named) > 40
    assert not named & options
