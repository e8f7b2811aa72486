"""Answers out: each caller's one after another, so that one who takes none keeps nobody else waiting.

oslo.messaging sends an answer until the broker says that it has it. Of a reply queue that is gone
it asks for a minute, and of a quorum queue that has lost its leader for ever; each time it holds a
thread and a connection.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple

LOG = logging.getLogger(__name__)

SENDERS = 32
"""How many callers are answered at a time; oslo.messaging keeps 30 connections by default."""

WAITING = 1000
"""How many answers wait for a caller that takes none; the oldest go first, as whoever asked has given up by then."""


class Answer(NamedTuple):
    """What a message is answered: a result, or a failure as ``sys.exc_info`` tells it."""

    message: Any
    result: object = None
    failure: Any = None


class Answers:
    """Sends answers by threads of its own, at most one at a time to each reply queue.

    :param on_done: called after each answer that was sent, and each that was given up.
    """

    def __init__(self, on_done: Callable[[], None]) -> None:
        self._on_done = on_done
        self._lock = threading.Lock()
        self._waiting: dict[str | None, deque[Answer]] = {}
        self._callers: SimpleQueue[str | None] = SimpleQueue()
        for number in range(SENDERS):
            # Not of a pool: a program's end waits for those, and an answer may wait for a broker for ever.
            threading.Thread(target=self._send_all, name=f"rpc-out-{number}", daemon=True).start()

    def send(self, answer: Answer) -> None:
        """Have it sent; to a cast nothing is. Nobody waits."""
        caller = getattr(answer.message, "reply_q", None)
        with self._lock:
            waiting = self._waiting.get(caller)
            if waiting is None:
                self._waiting[caller] = deque((answer,))
                self._callers.put(caller)
                return
            waiting.append(answer)
            given_up = len(waiting) > WAITING
            if given_up:
                waiting.popleft()
        if given_up:
            LOG.warning("an answer was given up: %d wait for %s, which takes none", WAITING, caller)
            self._on_done()

    def _send_all(self) -> None:
        while True:
            caller = self._callers.get()
            with self._lock:
                answer = self._waiting[caller].popleft()
            _reply(answer)
            self._on_done()
            with self._lock:
                if self._waiting[caller]:
                    self._callers.put(caller)
                else:
                    del self._waiting[caller]


def _reply(answer: Answer) -> None:
    try:
        answer.message.reply(answer.result, answer.failure)
    except Exception:
        LOG.exception("an answer could not be sent")
