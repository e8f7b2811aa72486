"""What any backend of frames does, the kernel's and the fake's alike."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from nova_netagent.netfilter.frames import Frames


class FramesBackend(Protocol):
    """What may pass the bridges of one network namespace. One thread only."""

    def supported(self) -> str | None:
        """Why this kernel cannot hold it; ``None`` when it can. Leaves nothing behind."""

    def read(self) -> Mapping[str, frozenset[str]]:
        """What the kernel holds now: by set, the elements as people read them; empty without a table.

        :raises Unavailable: the kernel does not say.
        """

    def passing(self, asked: Frames) -> Frames | None:
        """What the vifs of these frames may claim of it already, and who of them is closed; ``None``: none is judged.

        :raises Unavailable: the kernel does not say.
        :raises TableChanged: it keeps changing.
        """

    def plan(self, desired: Frames) -> list[str]:
        """What ``apply`` would do, an edit a line. Changes nothing.

        :raises Unavailable: the kernel does not say.
        """

    def apply(self, desired: Frames) -> list[str]:
        """Make the kernel hold what is desired, all at once; the edits, one a line.

        What drifted is put right in the same transaction. Nothing to do writes nothing, and reads
        nothing back as long as nobody else has changed anything of nf_tables: the kernel counts that.

        :raises TableChanged: somebody did so in between: call again.
        :raises RuleRefused: the kernel refuses it, and says what of it.
        :raises Unavailable: the kernel cannot do it now.
        """

    def meddled(self) -> bool:
        """Whether others changed what is ours since it held what was desired; told once.

        Nothing is read back as long as nobody else has changed anything of nf_tables.

        :raises TableChanged: it keeps changing; asked again, it is told all the same.
        :raises Unavailable: the kernel does not say; likewise.
        """

    def remove(self) -> list[str]:
        """Take everything away; the edits, one a line. Raises what ``apply`` does."""

    def counters(self) -> Mapping[str, Sequence[tuple[int, int, str]]]:
        """By chain: packets, bytes and text of each rule; a rule that does not count has zeros.

        :raises Unavailable: the kernel does not say.
        """

    def close(self) -> None:
        """Close the sockets; nothing in the kernel changes."""
