"""Sphinx's configuration: pages are Markdown, references are made from the code before they are read."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parent.parent)]

import from_code  # noqa: E402 - found in docs/_ext

project = "nova-netagent"
copyright = "nova-netagent contributors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "requirements.txt"]
html_theme = "alabaster"

from_code.write(Path(__file__).parent / "generated")
