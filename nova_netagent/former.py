"""The wrap names under which this agent has made rules: those of another one than now are swept once ours are in."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nova_netagent.conf.types import WRAP_NAME
from nova_netagent.files import write_whole

LOG = logging.getLogger(__name__)


class FormerNames(Protocol):
    """What is left in the kernel of our rules under names that the configuration had before."""

    def note(self) -> None:
        """Have it known that rules are about to be made under the name of now."""

    def sweep(self, *, ends: bool = True) -> tuple[Sequence[str], str]:
        """Take away what is left, and forget those names.

        :param ends: the ends of flows that were cut are noted under the name of now first.
        :returns: what was done, a line each, and why what is still there is, if it is.
        """


class NoFormerNames:
    """There was never another name."""

    def note(self) -> None:
        """Nothing to note."""

    def sweep(self, *, ends: bool = True) -> tuple[Sequence[str], str]:
        """Nothing is left."""
        return (), ""


class NotedNames:
    """A file with a name a line."""

    def __init__(self, state_path: str) -> None:
        self._file = Path(state_path) / "wrap_names"

    def read(self) -> list[str]:
        """The names; none where they cannot be read. What the option would refuse may be the name of others' tables."""
        try:
            return [name for name in self._file.read_text().split() if _is_name(name)]
        except (OSError, UnicodeDecodeError):
            return []

    def write(self, names: Sequence[str]) -> None:
        """Have these be the names. A full disk hinders nothing."""
        if names == self.read():
            return
        try:
            write_whole(self._file, "".join(f"{name}\n" for name in names))
        except OSError as error:
            LOG.warning("%s: %s: a change of [firewall] wrap_name will not be noticed", self._file, error.strerror)


def _is_name(word: str) -> bool:
    try:
        WRAP_NAME(word)
    except ValueError:
        return False
    return True
