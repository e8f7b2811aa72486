"""Stands in for the daemon: enough of its API to test how the lab drives it."""

import configparser
import http.server
import json
import os
import signal
import socketserver
import sys

config = configparser.ConfigParser()
config.read(sys.argv[sys.argv.index("--config-file") + 1])
objects: dict[str, dict[str, object]] = {}
readiness = iter([503, 503])


class Api(http.server.BaseHTTPRequestHandler):
    """Stores what it is sent."""

    def answer(self, status: int, body: object = None) -> None:
        """Send a JSON answer."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if status != 204:
            self.wfile.write(data)

    def do_GET(self) -> None:
        """Readiness, state, one object or a list."""
        if self.path == "/readyz":
            self.answer(next(readiness, 200), {"reason": "the state is not applied yet"})
        elif self.path == "/v1/state":
            self.answer(200, objects)
        elif self.path == "/v1/security-groups":
            self.answer(200, {"security_groups": list(objects.values())})
        else:
            self.answer(200 if self.path in objects else 404, objects.get(self.path))

    def do_PUT(self) -> None:
        """Store, unless the body is bad."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "bad" in body:
            self.answer(400, {"error": {"field": "bad"}})
            return
        path, _, query = self.path.partition("?")
        objects[path] = body
        self.answer(202 if query else 200, {**body, "status": {"state": "done"}})

    def do_DELETE(self) -> None:
        """Forget."""
        self.answer(204 if objects.pop(self.path, None) else 404)

    def address_string(self) -> str:
        """A unix client has no address."""
        return "unix"


print("listening in", os.readlink("/proc/self/ns/net"), sorted(os.listdir("/sys/class/net")), flush=True)
if config.getboolean("DEFAULT", "broken", fallback=False):
    sys.exit("refused: [DEFAULT] broken")
path = config["api"]["socket"]
if os.path.exists(path):
    os.unlink(path)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(config.getint("DEFAULT", "exit_code", fallback=0)))
socketserver.UnixStreamServer(path, Api).serve_forever(0.01)
