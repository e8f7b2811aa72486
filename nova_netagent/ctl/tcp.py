"""The agent's API over TCP, as netagentctl reaches it. Imported only with ``--url``: ssl costs 10 ms to import."""

import os
import socket
import ssl
from argparse import Namespace
from urllib.parse import urlsplit

from nova_netagent.ctl.client import Client
from nova_netagent.ctl.outcome import USAGE, Failure

TOKEN = "OS_TOKEN"
"""The environment's name for a token of Keystone's, as OpenStack's own clients have it."""


def client(args: Namespace) -> Client:
    """The agent at ``--url``, with the certificates of the command line and the token of the environment.

    :raises Failure: it is no URL of one, or a file cannot be used.
    """
    try:
        url = urlsplit(args.url)
        host, port = url.hostname, url.port
    except ValueError:
        host = port = None
    if not host or not port or url.scheme not in ("https", "http") or url.path.strip("/"):
        raise Failure(USAGE, f"--url {args.url}: is not like https://HOST:PORT")
    name, number = host, port
    tls = _tls(args) if url.scheme == "https" else None

    def connect(timeout: float) -> socket.socket:
        sock = socket.create_connection((name, number), timeout)
        try:
            return sock if tls is None else tls.wrap_socket(sock, server_hostname=name)
        except OSError:
            sock.close()
            raise

    token = os.environ.get(TOKEN)
    return Client(args.url, args.timeout, connect, () if token is None else (f"X-Auth-Token: {token}",))


def _tls(args: Namespace) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=args.cacert)
    except OSError as error:
        raise Failure(USAGE, f"--cacert {args.cacert}: {error.strerror or error}") from None
    if args.cert is not None:
        try:
            context.load_cert_chain(args.cert, args.key)
        except OSError as error:
            given = f"--cert {args.cert}" + ("" if args.key is None else f", --key {args.key}")
            raise Failure(USAGE, f"{given}: {error.strerror or error}") from None
    return context
