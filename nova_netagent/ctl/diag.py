"""diag: what a report of a problem needs, in one file and without secrets."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nova_netagent.ctl import redaction
from nova_netagent.ctl.outcome import FAILED, OK, Failure
from nova_netagent.ctl.place import log_file
from nova_netagent.ctl.session import Session

if TYPE_CHECKING:
    import tarfile

_CALLS = {
    "status.json": "/v1/status",
    "plans.json": "/v1/plans",
    "plan.json": "/v1/plan",
    "chains.json": "/v1/chains",
    "state.json": "/v1/state",
    "metrics.txt": "/metrics",
}
_COMMANDS = {
    "uname.txt": "uname -a",
    "iptables-legacy-save.txt": "iptables-legacy-save -c",
    "ip6tables-legacy-save.txt": "ip6tables-legacy-save -c",
    "nft.txt": "nft list ruleset",
    "ipset.txt": "ipset list",
    "link.txt": "ip -details -statistics link",
    "address.txt": "ip address",
    "rule.txt": "ip rule",
    "route.txt": "ip route show table all",
    "neighbour.txt": "ip neighbour",
    "fdb.txt": "bridge fdb",
    "vlan.txt": "bridge vlan",
    "conntrack.txt": "conntrack -C",
    "journal.txt": "journalctl -u nova-netagent -n 2000 --no-pager",
}
_FILES = (
    "/proc/net/ip_tables_names",
    "/proc/net/ip6_tables_names",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv6/conf/all/forwarding",
    "/proc/sys/net/bridge/bridge-nf-call-iptables",
    "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
    "/proc/sys/net/netfilter/nf_conntrack_count",
    "/proc/sys/net/netfilter/nf_conntrack_max",
    "/proc/modules",
    "/etc/os-release",
)
_SECONDS = 20.0
_LOG_BYTES = 1 << 20


def diag(session: Session) -> int:
    """``diag``: the bundle, or with ``--plans`` only the last plans."""
    if session.args.plans:
        return _print_plans(session)
    import tarfile

    output = Path(session.args.output or _file_name())
    found = list(_gathered(session))
    try:
        with tarfile.open(output, "w:gz") as bundle:
            for name, text in found:
                _add(bundle, f"{output.name.removesuffix('.tar.gz')}/{name}", text.encode())
        output.chmod(0o600)
    except OSError as error:
        raise Failure(FAILED, f"{output}: {error.strerror}") from None
    if session.screen.json:
        import json

        session.screen.line(json.dumps({"file": str(output), "contents": [name for name, _ in found]}))
    else:
        session.screen.line(f"{output}: {len(found)} files, without passwords; it names addresses and instances")
    return OK


def _print_plans(session: Session) -> int:
    answer, screen = session.agent.get("/v1/plans"), session.screen
    plans: list[dict[str, Any]] = answer.having("plans")["plans"]
    if screen.json:
        screen.body(answer.body)
        return OK
    for plan in plans:
        result = screen.verdict(plan["result"], plan["result"] == "done")
        edits = f"{plan['edits']} edit{'' if plan['edits'] == 1 else 's'}"
        said = plan["message"] or f"{edits} in {plan['seconds'] * 1000:.0f} ms"
        screen.wrapped(f"{plan['at']}  {plan['why']}: {result}, {said}")
        for line in plan["plan"]:
            screen.wrapped(line, indent="    ")
        if plan["edits"] > len(plan["plan"]):
            screen.line(f"    … {plan['edits'] - len(plan['plan'])} more")
    if not plans:
        screen.line("nothing was changed since the agent started")
    return OK


def _file_name() -> str:
    import platform
    import time

    return f"netagent-diag-{platform.node()}-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz"


def _gathered(session: Session) -> Iterator[tuple[str, str]]:
    """Names and contents without secrets; what cannot be had says why."""
    agent = session.agent
    for name, target in _CALLS.items():
        yield name, _without_secrets(_tried(lambda target=target: agent.get(target).body.decode()))
    for file in session.all_config_files:
        # Without a "..", at which tar cuts a name off.
        yield f"config{os.path.abspath(file)}", redaction.of_options(_tried(lambda file=file: Path(file).read_text()))
    yield "log.txt", redaction.line_by_line(_tried(lambda: _end_of_log(session.all_config_files)))
    for name, command in _COMMANDS.items():
        yield name, redaction.line_by_line(_output(command))
    yield "proc.txt", "".join(f"# {file}\n{_tried(lambda file=file: Path(file).read_text())}\n" for file in _FILES)


def _without_secrets(answer: str) -> str:
    """An answer of the agent's, a document or lines."""
    import json

    try:
        return json.dumps(redaction.of_json(json.loads(answer)), ensure_ascii=False)
    except ValueError:
        return redaction.line_by_line(answer)


def _tried(read: Any) -> str:
    try:
        return str(read())
    except (Failure, OSError, UnicodeDecodeError) as error:
        return f"not to be had: {error}\n"


def _end_of_log(files: list[str]) -> str:
    """The last lines of the log's file."""
    path = log_file(files)
    if path is None:
        return "not a file: see journal.txt\n"
    with Path(path).open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(0, size - _LOG_BYTES))
        text = log.read().decode(errors="replace")
    return text if size <= _LOG_BYTES else text.partition("\n")[2]


def _output(command: str) -> str:
    import subprocess

    try:
        done = subprocess.run(command.split(), capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not to be had: {error}\n"
    return done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")


def _add(bundle: "tarfile.TarFile", name: str, data: bytes) -> None:
    import io
    import tarfile
    import time

    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
    bundle.addfile(info, io.BytesIO(data))
