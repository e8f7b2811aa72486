"""Man pages and completion are those of the parsers as they are now."""

import re
import shutil
import subprocess

import pytest

from nova_netagent.cmd import ctl
from tools import manual


def test_what_is_checked_in_is_what_the_parsers_say() -> None:
    for path, text in manual.files().items():
        assert (manual.ROOT / path).read_text() == text, "run python -m tools.manual"


def test_every_command_and_option_is_in_the_page() -> None:
    page = manual.files()["man/netagentctl.8"].replace("\\-", "-")
    for name, command in manual._commands(ctl.parser()).items():
        assert re.search(rf"^\.SS {name}\b", page, re.MULTILINE)
        assert all(option in page for option in manual._names(command))


@pytest.mark.parametrize("path", [path for path in manual.files() if path.startswith("man/")])
def test_no_section_is_empty(path: str) -> None:
    sections = re.split(r"^\.SH (.+)$", manual.files()[path], flags=re.MULTILINE)[1:]
    assert [name for name, text in zip(sections[::2], sections[1::2], strict=True) if not text.strip()] == []


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("path", [path for path in manual.files() if path.startswith("man/")])
def test_groff_has_nothing_to_say(path: str) -> None:
    words = ["groff", "-man", "-Tutf8", "-ww", "-k", str(manual.ROOT / path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def complete(*words: str) -> list[str]:
    """What bash offers for the last of the words."""
    line = " ".join(f'"{word}"' for word in words)
    script = f"source completion/netagentctl.bash; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _netagentctl;"
    done = subprocess.run(
        ["bash", "-c", f'{script} printf "%s\\n" "${{COMPREPLY[@]}}"'],
        cwd=manual.ROOT,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("netagentctl", "exp"), ["export", "explain"]),
        (("netagentctl", "--fo"), ["--format"]),
        (("netagentctl", "--format", ""), ["table", "json"]),
        (("netagentctl", "list", "net"), ["networks"]),
        (("netagentctl", "--format", "json", "set", "sec"), ["security-groups"]),
        (("netagentctl", "explain", "--in"), ["--in-dev"]),
        (("netagentctl", "explain", "--state", "N"), ["NEW"]),
        (("netagentctl", "chains", "--table", "ma"), ["mangle"]),
        (("netagentctl", "status", "--w"), ["--watch"]),
        (("netagentctl", "apply", "-f", "README"), ["README.md"]),
    ],
)
def test_bash_completes(words: tuple[str, ...], offered: list[str]) -> None:
    assert complete(*words) == offered
