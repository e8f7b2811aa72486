"""Again, when somebody changed in between what was planned on."""

import time
from collections.abc import Callable

from nova_netagent.backend import TableChanged
from nova_netagent.metrics import Metrics

ATTEMPTS = 6
"""How often it is read anew when somebody keeps changing it."""


def persist(apply: Callable[[bool], None], verify: bool, metrics: Metrics) -> None:
    """Apply, and again when somebody changed a table in between: then everything is read anew.

    :raises TableChanged: somebody kept doing so through every attempt.
    """
    for attempt in range(ATTEMPTS):
        try:
            apply(verify or attempt > 0)
            return
        except TableChanged:
            metrics.apply_retries_total.inc()
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.001 * 2**attempt)
