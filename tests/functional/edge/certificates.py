"""Certificate authorities of the tests' own, by the openssl program."""

import subprocess
from pathlib import Path
from typing import NamedTuple

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Pair(NamedTuple):
    """A certificate and its key, PEM."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        self.cert, self._key = directory / "ca.pem", directory / "ca.key"
        _openssl("req", "-x509", *_KEY, "-keyout", self._key, "-out", self.cert, "-days", "2", "-subj", "/CN=authority")

    def sign(self, name: str, *, days: int = 2) -> Pair:
        """A certificate for a name; with days below 0 one that has expired."""
        cert, key, request = (self._directory / f"{name}{suffix}" for suffix in (".pem", ".key", ".csr"))
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName = DNS:{name}.example.com, IP:127.0.0.1\n")
        _openssl("req", *_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        by = ("-CA", self.cert, "-CAkey", self._key, "-extfile", extensions)
        _openssl("x509", "-req", "-in", request, *by, "-out", cert, "-days", str(days))
        return Pair(cert, key)


def _openssl(*arguments: str | Path) -> None:
    ended = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
