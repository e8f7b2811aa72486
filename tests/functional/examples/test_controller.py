"""examples/controller.py says in a line what is wrong with its file; what it does is in tests/functional/rpc."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.agent import REPOSITORY


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "No such file or directory"), ("{", "Expecting property name"), ("{}", "'hosts'"), ("[]", "list indices")],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str | None, said: str) -> None:
    cloud = tmp_path / "cloud.json"
    if text is not None:
        cloud.write_text(text)
    words = ["--transport-url", "rabbit://guest:guest@127.0.0.1:1/", "--cloud", str(cloud), "apply"]
    program = [sys.executable, "-W", "ignore", str(REPOSITORY / "examples/controller.py"), *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"controller.py: error: --cloud {cloud}: ")
    assert said in last
    assert "Traceback" not in done.stderr
