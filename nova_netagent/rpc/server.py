"""Messages in, answers out: oslo.messaging's server, in the order of arrival.

oslo.messaging hands each message to one of many threads, which reorders them. Here one thread
takes them in and gives the engine their requests in the order in which they came; others wait
for the engine, and others answer. So a sender's casts are applied as it sent them, a thousand calls
share the engine's commits, and a caller that does not take its answer keeps nobody waiting.
"""

import logging
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future
from typing import Any, NamedTuple

import oslo_messaging
from oslo_messaging.rpc.dispatcher import RPCDispatcher
from oslo_messaging.rpc.server import RPCServer

from nova_netagent.metrics import Metrics
from nova_netagent.rpc.answers import Answer, Answers
from nova_netagent.rpc.asked import Asked, Method, Request, call
from nova_netagent.rpc.errors import RpcError, as_rpc

LOG = logging.getLogger(__name__)

WAITERS = 64
"""How many calls the engine is waited for at a time: as many as oslo.messaging serves by default."""

UNKNOWN = "unknown"
"""What a method that is none is counted as: its name is the sender's to choose."""

Submit = Callable[[Request], None]
Wire = Callable[[RpcError], RpcError]
"""Makes of an error what the callers of a namespace know."""


class Work(NamedTuple):
    """A call whose requests the engine has."""

    method: str
    asked: Asked
    wire: Wire


class Endpoint:
    """One namespace, as oslo.messaging looks for it: a target, and a method for each of its calls.

    :param methods: what each call comes to.
    """

    def __init__(
        self,
        namespace: str | None,
        version: str,
        methods: Mapping[str, Method],
        submit: Submit,
        wire: Wire = lambda error: error,
    ) -> None:
        self.target = oslo_messaging.Target(namespace=namespace, version=version)
        for name, method in methods.items():
            setattr(self, name, _begin(name, method, submit, wire))


def _begin(name: str, method: Method, submit: Submit, wire: Wire) -> Any:
    def begin(_context: object, /, **arguments: Any) -> Work:
        try:
            asked = call(method, arguments)
        except Exception as error:
            raise _told(name, error, wire) from error
        for request in asked.requests:
            submit(request)
        return Work(name, asked, wire)

    return oslo_messaging.expose(begin)


def _told(name: str, error: Exception, wire: Wire) -> RpcError:
    """What its sender is told of a failure; the log tells the same, for those who sent a cast."""
    found = as_rpc(error)
    if str(found) == str(error):
        LOG.warning("%s: %s", name, found)
    else:
        LOG.error("%s failed", name, exc_info=error)
    return wire(found)


class Server(RPCServer):  # type: ignore[misc]  # oslo.messaging ships no types
    """Takes messages in, in order, and has them answered by threads of its own.

    :param submit: gives the engine a request.
    """

    def __init__(
        self, transport: Any, target: Any, endpoints: Sequence[Endpoint], submit: Submit, metrics: Metrics
    ) -> None:
        policy = oslo_messaging.ExplicitRPCAccessPolicy
        super().__init__(transport, target, RPCDispatcher(list(endpoints), None, policy))
        self._submit = submit
        self._counter = metrics.rpc_messages_total
        self._begun: queue.SimpleQueue[tuple[Any, Work]] = queue.SimpleQueue()
        self._gone: Future[None] = Future()
        self._due = 0
        self._answered = threading.Condition()
        self._answers = Answers(self._done)
        for number in range(WAITERS):
            # Not of a pool: a program's end waits for those.
            threading.Thread(target=self._wait_all, name=f"rpc-{number}", daemon=True).start()

    def begin(self) -> None:
        """Connect, which waits for the broker for ever, and take messages in by one thread.

        :raises Exception: the broker does not have us, or not our queues; this may be called again.
        """
        try:
            self.start(override_pool_size=1)
        except Exception:
            # oslo.messaging starts a server that has not begun once only, and again one that was stopped.
            self.stop()
            self.wait()
            raise

    def abandon(self, error: BaseException) -> None:
        """The engine is gone: whoever waits is told this."""
        if not self._gone.done():
            self._gone.set_exception(error)

    def drain(self) -> None:
        """Wait until the answers that are due are given."""
        with self._answered:
            self._answered.wait_for(lambda: not self._due)

    # --- in

    def _process_incoming(self, incoming: Any) -> None:
        """oslo.messaging's: a message came."""
        message = incoming[0]
        with self._answered:
            self._due += 1
        try:
            work = self.dispatcher.dispatch(message)
        except RpcError as error:
            self._refuse(message, message.message["method"], error.RESULT)
        except Exception as error:
            # No such method or version, or nothing that is a call at all.
            LOG.warning("a message was refused: %s: %s", type(error).__name__, error)
            self._refuse(message, UNKNOWN, "refused")
        else:
            self._begun.put((message, work))

    def _refuse(self, message: Any, method: str, result: str) -> None:
        self._counter.labels(method, result).inc()
        self._answers.send(Answer(message, failure=sys.exc_info()))

    # --- out

    def _wait_all(self) -> None:
        while True:
            message, work = self._begun.get()
            self._answers.send(self._answer(message, work))

    def _answer(self, message: Any, work: Work) -> Answer:
        try:
            result = self._outcome(work.asked)
        except Exception as error:
            told = _told(work.method, error, work.wire)
            self._counter.labels(work.method, told.RESULT).inc()
            return Answer(message, failure=(type(told), told, told.__traceback__))
        self._counter.labels(work.method, "ok").inc()
        return Answer(message, result)

    def _done(self) -> None:
        with self._answered:
            self._due -= 1
            self._answered.notify_all()

    def _outcome(self, asked: Asked) -> object:
        """Wait for the engine, and make the answer of its results; one that asks more is waited for, too."""
        try:
            answer = asked.answer(*[self._wait(each.answer) for each in asked.requests])
        except Exception:
            for request in asked.undo:
                self._submit(request)
            raise
        if not isinstance(answer, Asked):
            return answer
        for request in answer.requests:
            self._submit(request)
        return self._outcome(answer)

    def _wait(self, answer: "Future[Any]") -> Any:
        futures.wait((answer, self._gone), return_when=futures.FIRST_COMPLETED)
        return answer.result() if answer.done() else self._gone.result()
