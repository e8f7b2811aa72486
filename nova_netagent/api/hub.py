"""The main thread's event loop: the one file that knows eventlet.

Nothing is monkey-patched. Native threads (the engine's first of all) are waited for
through futures: their done-callbacks put the waiter into a queue and write to an eventfd,
which the loop reads. Signal handlers may poke the same way; they never switch greenlets.
"""

import logging
import os
import re
import select
import signal
import socket
import ssl
import struct
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from email.message import Message
from types import FrameType
from typing import Any, TypeVar

from nova_netagent.api.access import CERTIFICATE, PEER, Peer, names_of
from nova_netagent.api.agent import Asks
from nova_netagent.api.answers import refusal_body

os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")  # a quarter of a second at import, for names we never look up
with warnings.catch_warnings():
    # It is in maintenance; this file is where it would be replaced.
    warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
    import eventlet
    from eventlet import event, greenio, hubs, wsgi
    from eventlet.green import ssl as green_ssl

LOG = logging.getLogger(__name__)
T = TypeVar("T")

CONNECTIONS = 4096
"""How many connections are served at a time; more wait to be accepted."""

SOCKET_TIMEOUT = 30.0
"""Seconds that a client may take over each piece of a request or an answer."""

DAWDLING = 0.05
"""Seconds after which nobody waits any more for who is still asking: a client may take minutes over it."""

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a client may take over the whole of TLS's handshake."""

REQUEST_TIMEOUT = 300.0
"""Seconds within which a whole request has to come, however lively its pieces do."""

OUTSIDE = 4
"""How many wait for somebody outside at a time."""

KEEP_ALIVE = 75.0
"""Seconds that an idle connection is kept."""

LINGER_SECONDS, LINGER_BYTES = 2.0, 256 << 20
"""How much of a refused body is read and dropped, so that its sender gets to read the answer."""


class Hub:
    """Greenthreads and those who wake them. Made and used in the main thread.

    :param submit: hands a request to the engine.
    """

    def __init__(self, submit: Callable[[Any], None]) -> None:
        self._submit = submit
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._arrived: deque[event.Event] = deque()
        self._waiting: set[event.Event] = set()
        self._poke_wanted = False
        self._poked = event.Event()
        self._gone: BaseException | None = None
        self._aside = ThreadPoolExecutor(1, "aside")
        self._outside = ThreadPoolExecutor(OUTSIDE, "outside")
        self._begun: dict[object, float] = {}
        """The greenthreads that read what somebody asks, each with when it began, by time.monotonic()."""
        self._servers: list[Server] = []
        self._leaving = threading.Event()
        # Listened to for good: to begin anew for each answer would be two system calls and two switches.
        loop = hubs.get_hub()
        self._woken = loop.add(loop.READ, self._wake, self._deliver, _ignore, _ignore)

    # --- waiting for native threads

    def submit_and_wait(self, request: Asks[T]) -> T:
        """Hand a request to the engine and wait, greenly, for its answer.

        :raises Exception: what the engine raises, or what ``abandon`` was told.
        """
        if self._gone is not None:
            raise self._gone
        self._submit(request)
        self.came()
        return self.wait(request.answer)

    def comes(self) -> None:
        """The greenthread that runs has begun to read what somebody asks."""
        self._begun[eventlet.getcurrent()] = time.monotonic()

    def came(self) -> None:
        """It is with the engine now, or is no longer to come."""
        self._begun.pop(eventlet.getcurrent(), None)

    def coming(self) -> bool:
        """Whether somebody has just begun to ask, and the engine has not been told yet. For any thread."""
        late = time.monotonic() - DAWDLING
        return any(began > late for began in tuple(self._begun.values())) or any(
            server.has_callers() for server in self._servers
        )

    def offload(self, function: Callable[[], T]) -> T:
        """Run something long in a thread of its own and wait, greenly, for its result."""
        return self.wait(self._aside.submit(function))

    def outside(self, function: Callable[[], T]) -> T:
        """Ask somebody outside, who may not answer for long, in a thread apart, and wait, greenly, for the result."""
        return self.wait(self._outside.submit(function))

    def apart(self, function: Callable[[Callable[[], bool]], T]) -> T:
        """Run something that takes its time in a thread for it alone, and wait, greenly, for its result.

        :param function: is given what tells whether to leave off, as the hub is about to end.
        """
        found: Future[T] = Future()

        def run() -> None:
            try:
                found.set_result(function(self._leaving.is_set))
            except BaseException as error:
                found.set_exception(error)

        threading.Thread(target=run, name="apart", daemon=True).start()
        return self.wait(found)

    def leave_off(self) -> None:
        """Have everything that runs ``apart`` come to an end."""
        self._leaving.set()

    def wait(self, future: "Future[T]") -> T:
        """Wait, greenly, for what a native thread is to resolve."""
        arrived = event.Event()
        self._waiting.add(arrived)
        future.add_done_callback(lambda _: self._post(arrived))
        try:
            arrived.wait()
        finally:
            self._waiting.discard(arrived)
        return future.result()

    def abandon(self, error: BaseException) -> None:
        """The engine is gone: raise this to everybody who waits, and to whoever asks from now on."""
        self._gone = error
        for arrived in tuple(self._waiting):
            if not arrived.ready():
                arrived.send_exception(error)

    def _post(self, arrived: event.Event) -> None:
        self._arrived.append(arrived)
        os.eventfd_write(self._wake, 1)

    def _deliver(self, descriptor: int) -> None:
        """Wake whose answers have come. Called by the loop itself: nothing here may wait."""
        os.eventfd_read(descriptor)
        while self._arrived:
            arrived = self._arrived.popleft()
            if not arrived.ready():
                arrived.send()
        if self._poke_wanted:
            self._poke_wanted = False
            if not self._poked.ready():
                self._poked.send()

    # --- the main loop's rest

    def poke(self) -> None:
        """End a rest. For any thread, and for signal handlers."""
        self._poke_wanted = True
        os.eventfd_write(self._wake, 1)

    def rest(self, seconds: float) -> bool:
        """Let everything else run for some seconds, or until poked; whether it was poked."""
        with eventlet.Timeout(seconds, False):
            self._poked.wait()
        poked: bool = self._poked.ready()
        if poked:
            self._poked = event.Event()
        return poked

    def on_signals(self, numbers: Iterable[signal.Signals], note: Callable[[signal.Signals], None]) -> None:
        """Call ``note`` for signals and end the rest; it may set a flag and no more."""

        def handle(number: int, _frame: FrameType | None) -> None:
            note(signal.Signals(number))
            self.poke()

        for number in numbers:
            signal.signal(number, handle)

    def every(self, seconds: float, function: Callable[[], object]) -> None:
        """Call something again and again; what it raises is logged."""

        def run() -> None:
            while True:
                eventlet.sleep(seconds)
                try:
                    function()
                except Exception:
                    LOG.exception("a timer failed")

        eventlet.spawn(run)

    def serve(
        self, listener: socket.socket, app: Any, tls: "Tls | None" = None, connections: int = CONNECTIONS
    ) -> "Server":
        """Serve a WSGI application on a listening socket.

        :param tls: what to speak TLS with; asked for each connection.
        :param connections: how many are served at a time.
        """
        server = Server(listener, app, tls, connections, self)
        self._servers.append(server)
        return server

    def stop(self, limit: float) -> bool:
        """Stop all servers at the same time; as ``Server.stop``."""
        stopping = [eventlet.spawn(each.stop, limit) for each in self._servers]
        finished = [each.wait() for each in stopping]
        return all(finished)

    def close(self) -> None:
        """Listen no more, and end the threads. The eventfd stays: late answers still write to it."""
        hubs.get_hub().remove(self._woken)
        self._aside.shutdown(wait=False, cancel_futures=True)
        self._outside.shutdown(wait=False, cancel_futures=True)


def _ignore(*_: object) -> None:
    """What the loop calls when a descriptor is closed that is never closed."""


Tls = Callable[[], ssl.SSLContext]


class Server:
    """An HTTP server on one listening socket.

    eventlet.wsgi speaks HTTP; accepting is done here, since its own loop ends for good when
    file descriptors run out, and knows one connection only of a unix socket.
    """

    def __init__(self, listener: socket.socket, app: Any, tls: Tls | None, connections: int, hub: Hub) -> None:
        self._listener = greenio.GreenSocket(listener)
        self._tls = tls
        self._wsgi = wsgi.Server(
            self._listener,
            self._listener.getsockname(),
            app,
            log=_Quiet(),
            protocol=_Protocol,
            debug=False,
            keepalive=KEEP_ALIVE,
            socket_timeout=SOCKET_TIMEOUT,
        )
        self._wsgi.hub = hub
        self._pool = eventlet.GreenPool(connections)
        self._connections: dict[int, list[Any]] = {}
        self._accepting = eventlet.spawn(self._accept)

    def stop(self, limit: float) -> bool:
        """Accept no more, finish the requests in flight, and close.

        :param limit: seconds after which what is not finished is cut off.
        :returns: whether all were finished.
        """
        eventlet.sleep(0)  # those who connected just now are accepted yet
        self._accepting.kill()
        self._listener.close()
        for connection in self._connections.values():
            _, sock, state = connection
            if state == wsgi.STATE_IDLE:
                # A request that is on its way in is still read and answered; then comes the end.
                _shutdown(sock, socket.SHUT_RD)
            else:
                connection[2] = wsgi.STATE_CLOSE
        deadline = time.monotonic() + limit
        while self._connections and time.monotonic() < deadline:
            eventlet.sleep(0.005)
        finished = not self._connections
        for _, sock, _ in self._connections.values():
            _shutdown(sock, socket.SHUT_RDWR)
        return finished

    def listen(self, listener: socket.socket) -> None:
        """Accept on another socket from now on, and close the one before. Connections that there are go on."""
        self._accepting.kill()
        self._listener.close()
        self._listener = greenio.GreenSocket(listener)
        self._accepting = eventlet.spawn(self._accept)

    def has_callers(self) -> bool:
        """Whether somebody waits to be accepted, or has said something that nobody has read yet. For any thread."""
        if self._listener.family != socket.AF_UNIX:
            return False  # strangers keep no commit waiting
        asked = select.poll()
        try:
            asked.register(self._listener.fileno(), select.POLLIN)
            for _, sock, state in tuple(self._connections.values()):
                if state == wsgi.STATE_IDLE:
                    asked.register(sock.fileno(), select.POLLIN)
        except (OSError, ValueError):
            return False  # one was closed this instant
        return any(found == select.POLLIN for _, found in asked.poll(0))

    def _accept(self) -> None:
        while True:
            try:
                sock, address = self._listener.accept()
            except OSError as error:
                LOG.warning("a connection cannot be accepted: %s", error)
                eventlet.sleep(0.1)  # out of descriptors or memory: those who connect wait in the backlog
                continue
            self._pool.spawn_n(self._serve, sock, address)

    def _serve(self, sock: Any, address: object) -> None:
        connection = [address, sock, wsgi.STATE_IDLE]
        self._connections[id(connection)] = connection
        try:
            sock.settimeout(SOCKET_TIMEOUT)
            if self._tls is not None:
                connection[1] = sock = green_ssl.wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False, _context=self._tls()
                )
                with eventlet.Timeout(HANDSHAKE_TIMEOUT, TimeoutError("it took too long")):
                    sock.do_handshake()
            self._wsgi.process_request(connection)
        except ssl.SSLError as error:
            LOG.info("no TLS with %s: %s", address, error.reason or error)
            with suppress(OSError):
                _linger(sock)
        except Exception:
            LOG.debug("a connection ended", exc_info=True)
        finally:
            del self._connections[id(connection)]
            connection[1].close()


def _shutdown(sock: Any, how: int) -> None:
    """End one direction, or both, of what is below TLS: what is on its way is still read and answered."""
    try:
        if isinstance(sock, ssl.SSLSocket):
            socket.socket.shutdown(sock, how)
        else:
            sock.shutdown(how)
    except OSError:
        return


def _linger(connection: Any) -> None:
    """Let a client that is still sending finish, so that it reads the answer and not a reset."""
    below_tls = greenio.GreenSocket(socket.socket(fileno=os.dup(connection.fileno())))
    with closing(below_tls), eventlet.Timeout(LINGER_SECONDS, False):
        below_tls.shutdown(socket.SHUT_WR)
        left = LINGER_BYTES
        while left > 0 and (data := below_tls.recv(1 << 18)):
            left -= len(data)
            eventlet.sleep(0)


class _Protocol(wsgi.HttpProtocol):  # type: ignore[misc]  # eventlet ships no types
    """HTTP/1.1 of one connection: eventlet's, stricter, and in the API's words."""

    application: Any

    def setup(self) -> None:
        self._whole = True
        self._refused_line = False
        super().setup()
        self._identity = _identity(self.connection)

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        if self.headers.get("content-type") is None:
            environ["CONTENT_TYPE"] = ""  # not email's text/plain
        return environ | self._identity

    def parse_request(self) -> bool:
        if PEER in self._identity:  # strangers over TCP keep no commit waiting
            self.server.hub.comes()
        try:
            if not super().parse_request():
                return False
        except wsgi.HeaderLineTooLong:
            self.send_error(431, f"a header has more than {wsgi.MAX_HEADER_LINE} bytes")
            return False
        except wsgi.HeadersTooLarge:
            self.send_error(431, f"the headers have more than {wsgi.MAX_TOTAL_HEADER_SIZE} bytes")
            return False
        wrong = _wrong_headers(self.headers)
        if wrong is not None:
            self.send_error(400, wrong)
        return wrong is None

    def _read_request_line(self) -> bytes:
        line: bytes = super()._read_request_line()
        if len(line) < self.server.url_length_limit:
            return line
        self._refused_line = True
        self.send_error(414, f"the request line has more than {self.server.url_length_limit} bytes")
        return b""

    def handle_one_request(self) -> None:
        self._whole = False
        self.command = None  # not the last request's
        late = hubs.get_hub().schedule_call_global(
            KEEP_ALIVE + REQUEST_TIMEOUT, _shutdown, self.connection, socket.SHUT_RD
        )
        try:
            super().handle_one_request()
        finally:
            late.cancel()
            self.server.hub.came()
        if not self.raw_requestline and not self._refused_line:
            self._whole = True  # the client is gone, or idle for too long

    def handle_one_response(self) -> None:
        application = self.application

        def closing(environ: dict[str, Any], start_response: Any) -> Any:
            body = application(environ, start_response)
            if self._unread():
                self.close_connection = True
            return body

        self.application = closing
        super().handle_one_response()
        self._whole = not self._unread()

    def _unread(self) -> bool:
        """Whether there may be a body, or a part of one, that the application did not read."""
        body = self.environ["eventlet.input"]
        return self.headers.get("transfer-encoding") is not None or body.position < (body.content_length or 0)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What cannot be read as a request is refused in the same shape as everything else.

        Whatever Python's server calls it (505 for an HTTP of the future), it is the sender's fault.
        """
        code = int(code) if code < 500 else 400
        body = refusal_body(code, message or explain or "the request cannot be read")
        head = f"HTTP/1.1 {code} Refused\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        told = b"" if self.command == "HEAD" else body
        self.wfile.write(head.encode() + b"Connection: close\r\n\r\n" + told)
        self.close_connection = True

    def finish(self) -> None:
        if not self._whole:
            with suppress(OSError):
                self.wfile.flush()
                _linger(self.connection)
        try:
            super().finish()
        finally:
            # Where the client is gone its answer cannot be flushed, and the descriptor would stay open with this.
            self.rfile.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        LOG.debug(format, *args)


def _wrong_headers(headers: Message) -> str | None:
    """Why a request's headers cannot be taken: whoever stands between may read them otherwise (RFC 9112, 5 and 6).

    Python's parser gives up at a line that is no header, and would take those behind it for the body.
    """
    if headers.defects or any("\n" in value for value in headers.values()):
        return "a header does not read: NAME: VALUE, each in one line"
    lengths = headers.get_all("content-length", ())
    if len(lengths) > 1:
        return "Content-Length is given twice"
    if lengths and not re.fullmatch("[0-9]{1,18}", lengths[0]):
        return "Content-Length is not a number of bytes"
    if lengths and headers.get("transfer-encoding") is not None:
        return "Content-Length and Transfer-Encoding are not taken together"
    return None


def _identity(connection: Any) -> dict[str, Any]:
    """What is known of the other end, as the environ has it."""
    if connection.family == socket.AF_UNIX:
        return {PEER: _peer_of(connection)}
    certificate = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
    return {CERTIFICATE: names_of(certificate)} if certificate else {}


def _peer_of(connection: Any) -> Peer:
    size = struct.calcsize("3i")
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_SIZE)
    except OSError:  # more groups than Python asks for
        groups = b""
    return Peer(pid, uid, gid, struct.unpack(f"{len(groups) // 4}I", groups))


_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_GROUPS_SIZE = 1024  # the most that Python asks for: 256 groups


class _Quiet:
    """eventlet's log lines, a level lower: our own middleware tells about requests."""

    def info(self, message: str, *args: object) -> None:
        LOG.debug(message.rstrip(), *args)

    debug = info

    def error(self, message: str, *args: object) -> None:
        LOG.warning(message, *args)
