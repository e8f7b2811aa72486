"""The tutorial, run from its own page: every command of its console blocks, and what each is shown to print."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.lab import needs

pytestmark = needs("iptables", "ipset", "br_netfilter", "bridge")

PAGE = Path(__file__).resolve().parents[3] / "docs" / "tutorial.md"
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_END = "=== end of command"


@dataclass
class Command:
    """A command as it is typed, and the lines that it is shown to print."""

    typed: list[str]
    shown: list[str] = field(default_factory=list)


def commands(page: str) -> Iterator[Command]:
    """The commands of a page; ``> `` goes on with the one before."""
    for block in _BLOCK.findall(page):
        found: list[Command] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Command([line[2:]]))
            elif line.startswith("> ") and not found[-1].shown:
                found[-1].typed.append(line[2:])
            else:
                found[-1].shown.append(line)
        yield from found


def is_shown(shown: list[str], printed: list[str]) -> bool:
    """Whether what was printed is what is shown; ``…`` is any text, alone on a line any lines."""
    if not shown:
        return not printed
    head, *rest = shown
    if head == "…":
        return any(is_shown(rest, printed[n:]) for n in range(len(printed) + 1))
    if not printed:
        return False
    pattern = ".*".join(map(re.escape, head.rstrip().split("…")))
    return re.fullmatch(pattern, printed[0].rstrip()) is not None and is_shown(rest, printed[1:])


class Shell:
    """The shell of the page: one for all of its commands."""

    def __init__(self, command: str) -> None:
        words = command.removeprefix("sudo ").split()
        bin_ = Path(sys.executable).parent
        env = {**os.environ, "PATH": f"{bin_}:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "COLUMNS": ""}
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
        )

    def run(self, command: Command) -> tuple[int, list[str]]:
        """Exit status and what was printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n".join(command.typed) + f'\necho "{_END} $?"\n')
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.startswith(_END):
                return int(line.split()[-1]), lines
            lines.append(line.rstrip("\n"))
        raise AssertionError(f"the shell ended at {command.typed}: {lines}")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def test_every_command_does_what_the_page_shows() -> None:
    first, *others = commands(PAGE.read_text())
    shell = Shell(first.typed[0])
    try:
        for command in others:
            status, printed = shell.run(command)
            typed = "\n".join(command.typed)
            assert is_shown(command.shown, printed), f"{typed}\n" + "\n".join(printed)
            assert status == 0 or command.shown, f"{typed}: exit status {status}"
    finally:
        shell.run(Command(["kill $(jobs -p) 2> /dev/null; wait"]))
        shell.close()


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (["a"], ["a"], True),
        (["a"], ["a", "b"], False),
        (["a…c"], ["abc"], True),
        (["…", "b"], ["a", "a", "b"], True),
        (["a", "…"], ["a"], True),
        (["a.c"], ["abc"], False),
        (["a"], [], False),
        ([], ["a"], False),
    ],
)
def test_what_is_shown_is_compared(shown: list[str], printed: list[str], same: bool) -> None:
    assert is_shown(shown, printed) is same
