"""What we made under wrap names that the configuration had before: it goes once the rules of now are in."""

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from msgspec.structs import replace

from nova_netagent.backend import Backend, BackendError
from nova_netagent.backend.frames.protocol import FramesBackend
from nova_netagent.former import NotedNames
from nova_netagent.host import Leftovers
from nova_netagent.metrics import Metrics
from nova_netagent.netfilter.owner import Owner
from nova_netagent.reconcile.outcome import Outcome
from nova_netagent.reconcile.rules import Rules
from nova_netagent.settings import FirewallSettings

LOG = logging.getLogger(__name__)


class FormerRules:
    """See ``FormerNames``: each packet filter, and the frames, are looked through for every name that is noted.

    :param rules: our own packet filter.
    :param filters: every packet filter, to be opened for rules of other settings.
    :param open_frames: opens the frames of other settings; ``None``: the kernel cannot judge any.
    """

    def __init__(
        self,
        firewall: FirewallSettings,
        noted: NotedNames,
        rules: Backend[Any],
        filters: Callable[[FirewallSettings], Sequence[Leftovers]],
        open_frames: Callable[[FirewallSettings], FramesBackend | None],
        metrics: Metrics,
    ) -> None:
        self._firewall, self._noted, self._rules, self._metrics = firewall, noted, rules, metrics
        self._filters, self._open_frames = filters, open_frames
        self._names = [name for name in noted.read() if name != firewall.wrap_name]

    def note(self) -> None:
        """Have it known that rules are about to be made under the name of now."""
        self._noted.write([*self._names, self._firewall.wrap_name])

    def sweep(self, *, ends: bool = True) -> tuple[Sequence[str], str]:
        """Take away what is left, name by name, and forget those of which nothing is."""
        done: list[str] = []
        for name in tuple(self._names):
            swept = Outcome()
            why = self._sweep(name, swept, ends)
            if lines := list(swept.lines()):
                LOG.info("[firewall] wrap_name was %s: %s", name, "; ".join(lines))
                done += lines
            if why:
                return done, f"[firewall] wrap_name was {name}: {why}"
            self._names.remove(name)
            self.note()
        return done, ""

    def _sweep(self, name: str, swept: Outcome, ends: bool) -> str:
        """Why something of that name is left; empty when nothing is."""
        firewall = replace(self._firewall, wrap_name=name)
        try:
            for leftovers in self._filters(firewall):
                if ends:
                    self._take_over_ends(name, leftovers)
                rules = Rules(firewall, self._rules, leftovers, self._metrics, lambda: None)
                rules.sweep_leftovers({}, swept)
                if rules.left or rules.unseen:
                    return rules.left or rules.unseen
            frames = self._open_frames(firewall)
            if frames is not None:
                with closing(frames):
                    swept.note_lines("frames", frames.remove())
        except BackendError as error:
            return str(error)
        return ""

    def _take_over_ends(self, name: str, leftovers: Leftovers) -> None:
        """Note the ends of flows that were cut under the name of now, where there are sets for them."""
        with leftovers(0.0) as backend:
            noted = {} if backend is None else backend.cut_ends()
        here, now = self._rules.read_sets(), Owner(self._firewall.wrap_name)
        ours = {now.set(each.removeprefix(f"{name}-")): found for each, found in noted.items() if found}
        self._rules.note_cut({each: found for each, found in ours.items() if each in here})
