"""Who asks, and what they may do: settled before anything of a request but its head is read."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import falcon

Level = Literal["read", "write", "admin"]

READ: frozenset[Level] = frozenset(("read",))
EVERYTHING: frozenset[Level] = frozenset(("read", "write", "admin"))

PEER = "netagent.peer"
"""Where the environ has the ``Peer`` at the other end of a unix socket."""

CERTIFICATE = "netagent.certificate"
"""Where the environ has the names in a TLS client's certificate, its common name first."""

_READING = frozenset(("GET", "OPTIONS"))


class Peer(NamedTuple):
    """A process at the other end of a unix socket, as the kernel has it (unix(7))."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class Caller(NamedTuple):
    """Who asks, for the log, and what they may do."""

    name: str
    may: frozenset[Level]


class Unauthorized(Exception):
    """It is not known who asks.

    :ivar challenge: what WWW-Authenticate is to say.
    """

    def __init__(self, message: str, challenge: str | None = None) -> None:
        super().__init__(message)
        self.challenge = challenge


class Forbidden(Exception):
    """They may not do this."""


class Undecided(Exception):
    """Whoever knows who it is does not answer."""


Gate = Callable[[Mapping[str, Any]], Caller]
"""Who sends a request, by its environ. Raises ``Unauthorized`` or ``Undecided``."""


def anybody(_environ: Mapping[str, Any]) -> Caller:
    """A gate that is open."""
    return Caller("anybody", EVERYTHING)


def by_peer(group: int) -> Gate:
    """The gate of the unix socket, behind its mode.

    :param group: the socket's group. Its members, the agent's own user and root may do everything; whom the mode
        lets in besides may read.
    """

    def gate(environ: Mapping[str, Any]) -> Caller:
        peer: Peer = environ[PEER]
        trusted = peer.uid in (0, os.geteuid()) or group in (peer.gid, *peer.groups)
        return Caller(f"uid {peer.uid} (process {peer.pid})", EVERYTHING if trusted else READ)

    return gate


def by_certificate(writers: tuple[str, ...]) -> Gate:
    """The gate of mutual TLS: whose certificate the CA has signed may read.

    :param writers: the names that may do everything.
    """

    def gate(environ: Mapping[str, Any]) -> Caller:
        names: tuple[str, ...] = environ[CERTIFICATE]
        may = READ if set(writers).isdisjoint(names) else EVERYTHING
        return Caller(f"certificate {', '.join(names) or 'without a name'}", may)

    return gate


def names_of(certificate: Mapping[str, Any]) -> tuple[str, ...]:
    """The common names and DNS names of a certificate as ``SSLSocket.getpeercert`` gives it."""
    subject = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    others = [value for key, value in certificate.get("subjectAltName", ()) if key == "DNS"]
    return tuple(dict.fromkeys((*subject, *others)))


class Access:
    """Falcon middleware that lets in whom the gate knows, to what they may do.

    A resource names in ``NEEDS`` what a method takes, where reading takes no "read" and changing no "write".
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Find out who it is, whatever the path: a stranger is not told what there is."""
        req.context.caller = self._gate(req.env)

    def process_resource(self, req: falcon.Request, _resp: falcon.Response, resource: Any, _params: object) -> None:
        """Whether they may."""
        method = "GET" if req.method == "HEAD" else req.method
        usual = "read" if method in _READING else "write"
        needed = getattr(resource, "NEEDS", {}).get(method, usual)
        require(req, needed)


def require(req: falcon.Request, level: Level) -> None:
    """Go on only with who may do this.

    :raises Forbidden: they may not.
    """
    if level not in req.context.caller.may:
        raise Forbidden(f"{req.context.caller.name} may not {level} here")
