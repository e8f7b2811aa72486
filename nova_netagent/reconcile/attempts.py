"""Again, when somebody changed what was planned on, in between or unseen."""

import time
from collections.abc import Callable
from typing import TypeVar

from nova_netagent.backend import RuleRefused, TableChanged
from nova_netagent.metrics import Metrics

ATTEMPTS = 6
"""How often it is read anew when somebody keeps changing it."""


T = TypeVar("T")


def persist(apply: Callable[[bool], T], verify: bool, metrics: Metrics) -> T:
    """Apply, and again when somebody changed a table in between: then everything is read anew.

    What is refused is tried once more as well: perhaps a set that was remembered is gone.

    :raises TableChanged: somebody kept doing so through every attempt.
    :raises RuleRefused: it is refused, whatever there is.
    """
    attempt = 0
    while True:
        anew = verify or attempt > 0
        try:
            return apply(anew)
        except (TableChanged, RuleRefused) as error:
            if attempt == ATTEMPTS - 1 or (anew and isinstance(error, RuleRefused)):
                raise
        metrics.apply_retries_total.inc()
        time.sleep(0.001 * 2**attempt)
        attempt += 1
