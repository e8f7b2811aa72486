"""What attempts to make the kernel agree did: told to the log, the metrics and the history."""

import logging
import time
from collections.abc import Callable, Iterable
from itertools import chain, islice

from nova_netagent.backend import RuleRefused, TableChanged, Unavailable
from nova_netagent.history import History, Why
from nova_netagent.metrics import Metrics
from nova_netagent.reconcile import Outcome

LOG = logging.getLogger(__name__)

_REASONS = ((TableChanged, "changed"), (Unavailable, "unavailable"), (RuleRefused, "refused"))
_SOME = 20
"""So many lines of a long list are told."""


class Journal:
    """Tells of one attempt after the other. Engine thread only.

    :param clock: the time of day, in seconds.
    :ivar why: why the kernel is made to agree.
    """

    def __init__(self, history: History, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._history = history
        self._metrics = metrics
        self._clock = clock
        self._began = time.monotonic()
        self.why: Why = "start"

    def begin(self, why: Why) -> None:
        """An attempt begins."""
        self._began, self.why = time.monotonic(), why

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def done(self, outcome: Outcome) -> None:
        """It came to its end."""
        self._history.done(self._clock(), self.why, sum(outcome.edits.values()), self.seconds, outcome.lines)

    def failed(self, error: Exception, delay: float) -> None:
        """It did not.

        :param delay: seconds to the next one.
        """
        reason = next((name for kind, name in _REASONS if isinstance(error, kind)), "store")
        self._metrics.apply_errors_total.labels(reason).inc()
        LOG.error("the kernel does not have the state: %s; next attempt in %.1f s", error, delay)
        self._history.failed(self._clock(), self.why, str(error), self.seconds)

    def refused(self, error: Exception) -> None:
        """The kernel refused rules, and it is sought whose."""
        LOG.error("the kernel refused the rules: %s", error)
        self._metrics.apply_errors_total.labels("refused").inc()

    def edited(self, outcome: Outcome, *, verified: bool) -> None:
        """What was edited, by us or to undo what others did."""
        for op, count in outcome.edits.items():
            self._metrics.edits_total.labels(op).inc(count)
        if outcome:
            LOG.info("%d edits%s", sum(outcome.edits.values()), " after reading everything back" if verified else "")
        if LOG.isEnabledFor(logging.DEBUG):
            for line in outcome.lines():
                LOG.debug("%s", line)

    def linked(self, outcome: Outcome) -> None:
        """What was done about links that came, went or changed."""
        if outcome:
            LOG.info("links: %s", _some(outcome.lines()))
        if outcome.links_again:
            self._metrics.drift_repairs_total.labels("link").inc(outcome.links_again)

    def repaired(self, outcome: Outcome) -> None:
        """All of it undid what others had done."""
        self._count(outcome.edits.items())
        LOG.warning("somebody had changed what is ours; repaired: %s", _some(outcome.lines()))

    def repaired_with_a_change(self, outcome: Outcome) -> None:
        """Some of it did: the rest was asked for."""
        self._count(chain.from_iterable(each.edits.items() for each in outcome.drift))
        lines = chain.from_iterable(each.lines() for each in outcome.drift)
        LOG.warning("somebody had changed what is ours; repaired with a change: %s", _some(lines))

    def _count(self, edits: Iterable[tuple[str, int]]) -> None:
        for op, count in edits:
            self._metrics.drift_repairs_total.labels(op).inc(count)


def _some(lines: Iterable[str]) -> str:
    """The first lines of a long list, in one."""
    return "; ".join(islice(lines, _SOME))
