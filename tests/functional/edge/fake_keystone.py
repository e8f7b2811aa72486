"""As much of Keystone as keystonemiddleware asks for, over HTTP: discovery, a service's token, whose a token is."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PASSWORD = "the-password-of-the-service"


class Keystone:
    """A server on loopback.

    :ivar asked: the tokens that it was asked about, in order.
    :ivar answering: cleared, nobody gets an answer.
    :ivar waiting: how many have not got theirs.
    """

    def __init__(self) -> None:
        self._tokens: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.waiting = 0
        self.answering = threading.Event()
        self.answering.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def issue(self, token: str, *roles: str, system: bool = False, seconds: float = 3600) -> str:
        """Have a token known, with roles in a project or on the system."""
        scope: dict[str, Any] = {"system": {"all": True}} if system else {"project": _named("a-project")}
        self._tokens[token] = self._body(roles, scope, seconds)
        return token

    def config(self) -> dict[str, str]:
        """The group keystone_authtoken of a service."""
        return {
            "auth_type": "password",
            "auth_url": self.url,
            "www_authenticate_uri": "http://keystone.example.com",
            "username": "nova-netagent",
            "password": PASSWORD,
            "project_name": "service",
            "user_domain_id": "default",
            "project_domain_id": "default",
        }

    def close(self) -> None:
        """Answer nobody any more: connections are refused."""
        self.answering.set()
        self._server.shutdown()
        self._server.server_close()

    def _body(self, roles: tuple[str, ...], scope: dict[str, Any], seconds: float) -> dict[str, Any]:
        now = datetime.now(UTC)
        endpoint = {"interface": "internal", "region": "r", "region_id": "r", "id": "e", "url": f"{self.url}/v3"}
        return {
            "token": {
                "methods": ["password"],
                "user": {**_named("a-user"), "password_expires_at": None},
                "roles": [_named(role) for role in roles],
                "issued_at": _written(now),
                "expires_at": _written(now + timedelta(seconds=seconds)),
                "audit_ids": ["x"],
                "catalog": [{"type": "identity", "name": "keystone", "id": "k", "endpoints": [endpoint]}],
                **scope,
            }
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        keystone = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                keystone.waiting += 1
                keystone.answering.wait()
                keystone.waiting -= 1
                if not self.path.startswith("/v3/auth/tokens"):
                    links = [{"rel": "self", "href": f"{keystone.url}/v3/"}]
                    version = {"id": "v3.14", "status": "stable", "links": links, "media-types": []}
                    whole = {"version": version} if "v3" in self.path else {"versions": {"values": [version]}}
                    return self._answer(200, whole)
                token = self.headers["X-Subject-Token"]
                keystone.asked.append(token)
                found = keystone._tokens.get(token)
                if found is None:
                    return self._answer(404, {"error": {"code": 404, "title": "Not Found", "message": "no token"}})
                return self._answer(200, found, token)

            def do_POST(self) -> None:
                keystone.answering.wait()
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                right = body["auth"]["identity"]["password"]["user"]["password"] == PASSWORD
                made = keystone._body(("service",), {"project": _named("service")}, 3600)
                self._answer(201 if right else 401, made if right else {}, "token-of-the-service")

            def _answer(self, code: int, body: object, token: str | None = None) -> None:
                data = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                if token is not None:
                    self.send_header("X-Subject-Token", token)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_args: object) -> None:
                return

        return Handler


def _named(name: str) -> dict[str, Any]:
    return {"id": name, "name": name, "domain": {"id": "default", "name": "Default"}}


def _written(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
