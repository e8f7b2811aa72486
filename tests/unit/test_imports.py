"""Imports run downwards only, and what is pure stays so: read off the syntax trees of the package."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "nova_netagent"

RANKS: Mapping[str, int] = {
    "model": 0, "settings": 0, "systemd": 0, "capabilities": 0, "files": 0,
    "netfilter": 1, "testing": 1, "conf": 1,
    "logs": 2,
    "events": 2, "compile": 2,
    "local": 3,
    "plan": 3, "whereabouts": 3,
    "backend": 4, "revoke": 4,
    "services": 4,
    "store": 5, "status": 5, "metrics": 5, "host": 5, "former": 4, "history": 5,
    "reconcile": 6, "revocation": 6, "explain": 6, "grouplog": 6,
    "engine": 7,
    "api": 8,
    "rpc": 9,
    "wiring": 9,
    "cleanup": 10,
    "ctl": 11,
    "cmd": 12,
}  # fmt: skip
"""A room may import rooms of lower rank, and itself."""

PURE = (
    "model",
    "netfilter",
    "events",
    "compile",
    "plan",
    "settings",
    "whereabouts",
    "revoke",
    "engine/culprits",
    "engine/troubles",
)
IMPURE = {
    "subprocess",
    "socket",
    "os",
    "iptc",
    "pyroute2",
    "eventlet",
    "time",
    "datetime",
    "random",
    "secrets",
    "logging",
}
IMPURE |= {"threading", "asyncio", "ctypes", "fcntl", "select", "sqlite3", "pathlib", "io"}
ALLOWED = {("model/values.py", "socket")}
"""inet_pton(3) and inet_ntop(3)."""

Imports = list[tuple[Path, str]]


def imports_of(package: Path) -> Imports:
    """Each file and each module that it imports, also inside of functions; relative ones in full."""
    return [(path, name) for path in sorted(package.rglob("*.py")) for name in _names(path, package)]


def _names(path: Path, package: Path) -> Iterator[str]:
    here = (package.name, *path.relative_to(package).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: -node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room_of(path: Path, package: Path) -> str:
    """The first word of a file's place in the package."""
    return path.relative_to(package).with_suffix("").parts[0]


def upward(package: Path) -> list[str]:
    """The imports that do not run downwards."""
    found = []
    for path, name in imports_of(package):
        words = name.split(".")
        room = room_of(path, package)
        if words[0] != package.name or len(words) < 2 or room == "__init__" or words[1] == room:
            continue
        if room not in RANKS or words[1] not in RANKS:
            found.append(f"{path.relative_to(package)} imports {name}: a room without a rank")
        elif RANKS[words[1]] >= RANKS[room]:
            found.append(f"{path.relative_to(package)} imports {name}")
    return found


def impure(package: Path) -> list[str]:
    """What a pure room imports that has to do with the world outside."""
    return [
        f"{place} imports {name}"
        for path, name in imports_of(package)
        if (place := path.relative_to(package).as_posix()).removesuffix(".py") in PURE
        or place.partition("/")[0] in PURE
        if ((first := name.split(".")[0]) in IMPURE or first.startswith("oslo")) and (place, first) not in ALLOWED
    ]


def importers(package: Path, *modules: str) -> set[str]:
    """The files that import one of these modules or of what is below them."""
    return {
        path.relative_to(package).as_posix()
        for path, name in imports_of(package)
        if any(name == module or name.startswith(f"{module}.") for module in modules)
    }


def test_imports_run_downwards_only() -> None:
    assert upward(PACKAGE) == []


def test_every_room_has_a_rank() -> None:
    rooms = {room_of(path, PACKAGE) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms <= RANKS.keys()


def test_what_is_pure_knows_nothing_of_the_world() -> None:
    assert impure(PACKAGE) == []


def test_only_the_backends_speak_to_the_kernel() -> None:
    for path in importers(PACKAGE, "iptc", "pyroute2"):
        assert path.startswith("backend/"), path


def test_no_process_is_started_to_program_the_kernel() -> None:
    """To read what only others' programs can spell is another matter."""
    for path in importers(PACKAGE, "subprocess", "os.system", "os.popen") - {"backend/iptables/saved.py"}:
        assert not path.startswith("backend/iptables/"), path
        assert path.startswith(("backend/", "services/", "ctl/", "cmd/")), path


def test_only_conf_reads_the_options() -> None:
    assert importers(PACKAGE, "oslo_config") == {"conf/loading.py", "conf/options.py", "conf/types.py"}


def test_only_the_hub_knows_eventlet() -> None:
    """So eventlet can be taken out one day by rewriting one file."""
    assert importers(PACKAGE, "eventlet", "greenlet") == {"api/hub.py"}


def test_only_rpc_knows_oslo_messaging() -> None:
    """Its import costs half a second: an agent without RPC does not pay it."""
    files = {"rpc/server.py", "rpc/service.py", "rpc/controller.py", "rpc/transport.py"}
    assert importers(PACKAGE, "oslo_messaging", "kombu") == files


def test_rpc_is_imported_only_where_it_is_on() -> None:
    others = {path for path in importers(PACKAGE, "nova_netagent.rpc") if not path.startswith("rpc/")}
    assert others == {"cmd/agent.py", "ctl/offline.py"}
    tops = [node for path in others for node in ast.parse((PACKAGE / path).read_text()).body]
    assert not any("nova_netagent.rpc" in ast.unparse(node) for node in tops if isinstance(node, ast.ImportFrom))


def test_only_one_file_knows_keystone_and_it_is_imported_only_where_it_is_on() -> None:
    assert importers(PACKAGE, "keystonemiddleware", "keystoneauth1") == {"api/keystone.py"}
    assert importers(PACKAGE, "oslo_policy") == {"api/keystone.py", "api/policies.py"}
    assert importers(PACKAGE, "nova_netagent.api.keystone") == {"api/tcp.py"}
    assert importers(PACKAGE, "nova_netagent.api.policies") == {"api/keystone.py"}
    tops = ast.parse((PACKAGE / "api/tcp.py").read_text()).body
    assert not any("keystone" in ast.unparse(node) for node in tops if isinstance(node, ast.ImportFrom))


def test_nothing_of_the_tests_is_imported() -> None:
    assert importers(PACKAGE, "tests", "pytest", "hypothesis", "unittest") == set()


# --- that this file would notice


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A package in which everything that is forbidden is done once."""
    files = {
        "__init__.py": "",
        "model/__init__.py": "from nova_netagent.netfilter import rule\n",
        "model/values.py": "import socket\nimport time\n",
        "netfilter/rule.py": "from nova_netagent.model import values\n",
        "compile/late.py": "def make():\n    from ..backend import iptables\n",
        "plan.py": "import os.path\nfrom oslo_log import log\n",
        "events.py": "import nova_netagent.plan\n",
        "backend/iptables.py": "import iptc\n",
        "engine.py": "import iptc.ip4tc\nfrom oslo_config import cfg\nfrom eventlet.green import socket\n",
        "api/objects.py": "from nova_netagent import engine\n",
        "attic.py": "import nova_netagent.model\n",
    }
    for name, text in files.items():
        path = tmp_path / "nova_netagent" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "nova_netagent"


def test_a_broken_package_is_noticed(broken: Path) -> None:
    assert upward(broken) == [
        "attic.py imports nova_netagent.model: a room without a rank",
        "compile/late.py imports nova_netagent.backend.iptables",
        "events.py imports nova_netagent.plan",
        "model/__init__.py imports nova_netagent.netfilter.rule",
    ]
    assert impure(broken) == ["model/values.py imports time", "plan.py imports os.path", "plan.py imports oslo_log.log"]
    assert importers(broken, "iptc") == {"backend/iptables.py", "engine.py"}
    assert importers(broken, "oslo_config") == {"engine.py"}
    assert importers(broken, "eventlet") == {"engine.py"}
