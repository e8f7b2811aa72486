"""Texts without the secrets in them: rather a word too many is hidden than a part of a secret shown."""

import re
from typing import Any

HIDDEN = "***"

_WORDS = (
    "passw|passphrase|passcode|secret|token|credential|backend_argument"
    "|(?:api|private|access|auth|encryption)[_-]?key|authorization"
)
"""What the names of secrets have in them: of options, of HTTP's headers, of a program's arguments."""

_NAMED = re.compile(
    rf"(?is)((?:(?:{_WORDS})[\w.-]*[\"']*\s*[=:]|--[\w-]*(?:{_WORDS})[\w-]*\s|\bbearer\s|\A[#;]*code\s*[=:])\s*)\S(?:.*\S)?"
)
"""A name and all that follows it. ``code`` is one only as an option: the answers of an API have codes as well."""

_URL = re.compile(r"(?is)(://|%3A%2F%2F).*(@|%40)")
"""From a scheme to the last @: oslo.messaging takes several users and hosts in one URL."""

_USER = re.compile(r"(?<![^\s,=/\"'*])[^\s,=/\"'*:]+:(?!//)(?:[^\s,@]*@)+")
"""What is left of a URL that began on the line before: a word with a colon and then an @."""

_KEY = re.compile(r"(?is)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)")

_OPTION = re.compile(r"(?m)^(?=[#;]*(?:\[|[\w.-]+\s*[=:]))")
"""Where an option begins, also one that is commented out, or a group. All up to the next is its value."""


def line_by_line(text: str) -> str:
    """What programs print: a secret ends with its line."""
    return "\n".join([_hidden(line) for line in _KEY.sub(HIDDEN, text).split("\n")])


def of_options(text: str) -> str:
    """A configuration file: a secret ends where the next option begins."""
    return "".join([_hidden(option) for option in _OPTION.split(_KEY.sub(HIDDEN, text))])


def of_json(value: Any) -> Any:
    """A document: a secret ends with its string, or is what stands under its name."""
    if isinstance(value, dict):
        return {
            name: HIDDEN if re.search(_WORDS, name, re.IGNORECASE) else of_json(each) for name, each in value.items()
        }
    if isinstance(value, list):
        return [of_json(each) for each in value]
    return line_by_line(value) if isinstance(value, str) else value


def _hidden(text: str) -> str:
    return _USER.sub(rf"{HIDDEN}@", _URL.sub(rf"\1{HIDDEN}\2", _NAMED.sub(rf"\1{HIDDEN}", text)))
