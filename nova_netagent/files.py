"""Small files of ours in ``state_path``."""

import os
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Have a file hold a text, all of it or what it held before: beside it first, then renamed (rename(2)).

    Not synced: who reads it has to bear with what a power cut leaves of it.

    :raises OSError: it could not be written.
    """
    new = file.with_suffix(".new")
    new.write_text(text)
    os.replace(new, file)
