"""Frames: the part of an attempt that comes before the rules, but for what must not be claimed before them."""

from collections.abc import Callable, Collection

from msgspec.structs import replace

from nova_netagent.compile.frames import WantedFrames
from nova_netagent.host import Host
from nova_netagent.metrics import Metrics
from nova_netagent.netfilter.frames import Frames
from nova_netagent.plan.frames import frames_on, narrowed
from nova_netagent.plan.links import ActualLinks
from nova_netagent.reconcile.attempts import persist
from nova_netagent.reconcile.outcome import Outcome


class OwnFrames:
    """Makes the frames of one host be as compiled, if its kernel can judge any. Engine thread only."""

    def __init__(self, host: Host, metrics: Metrics) -> None:
        self._backend = host.frames
        self._links = host.links
        self._metrics = metrics
        self._here: tuple[WantedFrames, ActualLinks, Frames] | None = None
        self._passing: Frames | None = None
        """What passes since it was all that was wanted, rules and all; ``None`` at the start."""

    def plan(self, wanted: WantedFrames, leaving: Collection[str]) -> list[str]:
        """What makes the frames be as desired, an edit a line.

        :param leaving: the ports that leave their bridges before.
        """
        if self._backend is None:
            return []
        actual = self._links.read()
        links = {name: replace(each, master=None) if name in leaving else each for name, each in actual.links.items()}
        return self._backend.plan(frames_on(wanted, replace(actual, links=links)))

    def apply(self, wanted: WantedFrames, outcome: Outcome) -> None:
        """Pass what is wanted, and nothing else. :raises BackendError: the frames cannot be judged so."""
        self._apply(lambda: self._on_host(wanted), outcome)
        self.settle(wanted)

    def settle(self, wanted: WantedFrames) -> None:
        """Take it that there are rules for all that passes."""
        self._passing = self._on_host(wanted)

    def narrow(self, wanted: WantedFrames, changing: Collection[str], outcome: Outcome) -> Collection[str]:
        """Pass what is wanted, but of some ports no more than before; the devices whose vifs wait for the rest.

        :param changing: the devices of vifs that may claim more when there are rules for it; at the start any may.
        :raises BackendError: the frames cannot be judged so.
        """
        before = self._passing
        if before is None:
            before, changing = self._found(wanted), [each.device for each in self._on_host(wanted).secured]
        if before is None or not changing:
            self._apply(lambda: self._on_host(wanted), outcome)
            return ()
        less = self._apply(lambda: self._narrowed(wanted, before, changing), outcome)
        whole = self._on_host(wanted)
        if less == whole:
            return ()
        if less.unjudged != whole.unjudged:  # no vif may send anything of a family yet
            return {each.device for each in whole.secured}
        others = {each.device for each in {*less.secured} ^ {*whole.secured}}
        return others | {each.device for each in {*less.closed} ^ {*whole.closed}}

    def remove(self, outcome: Outcome) -> None:
        """Judge no frames any more."""
        if self._backend is not None:
            outcome.note_lines("frames", self._backend.remove())

    def _apply(self, desired: Callable[[], Frames], outcome: Outcome) -> Frames:
        """Have the kernel hold frames; these, as they were desired of the host as it was then."""
        backend = self._backend

        def carry_out(_: bool) -> Frames:
            frames = desired()
            if backend is not None:
                outcome.note_lines("frames", backend.apply(frames))
            return frames

        # The kernel counts its changes: nothing has to be read back to be sure.
        return persist(carry_out, True, self._metrics)

    def _narrowed(self, wanted: WantedFrames, before: Frames, changing: Collection[str]) -> Frames:
        links = self._links.read().links
        ports = {device for device in changing if device in links and links[device].master in wanted.bridges}
        return narrowed(self._on_host(wanted), before, changing, ports)

    def _found(self, wanted: WantedFrames) -> Frames | None:
        """What an agent before us let pass: it may have been killed before it came to the rules."""
        backend = self._backend
        if backend is None:
            return None
        return persist(lambda _: backend.passing(self._on_host(wanted)), True, self._metrics)

    def _on_host(self, wanted: WantedFrames) -> Frames:
        """The frames that this host shall pass: the same object as long as it is of the same."""
        actual, known = self._links.read(), self._here
        if known is None or known[0] is not wanted or known[1] is not actual:
            self._here = known = wanted, actual, frames_on(wanted, actual)
        return known[2]
