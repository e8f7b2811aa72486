"""netagentctl: the operator's tool."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from nova_netagent.ctl import diag, explain, host, objects, offline
from nova_netagent.ctl.graph.command import graph
from nova_netagent.ctl.kinds import kind
from nova_netagent.ctl.outcome import FAILED, HELP, OK, UNREACHABLE, USAGE, Failure
from nova_netagent.ctl.place import CONFIG_FILE, SOCKET
from nova_netagent.ctl.render import render
from nova_netagent.ctl.screen import complain, fall_silent
from nova_netagent.ctl.session import Run, Session

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction["_Parser"]

TABLES = ("filter", "nat", "mangle", "raw")
BACKENDS = ("iptables", "nftables")
TIMEOUT = 120.0
_STATES = ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    # Whoever started us may have closed them.
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal of another encoding shows what it can
    code = OK
    try:
        code = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        fall_silent(sys.stdout)  # whoever read our output has seen enough
    except OSError as error:
        fall_silent(sys.stdout)
        complain(f"{error.filename or 'standard output'}: {error.strerror}")
        return FAILED
    except KeyboardInterrupt:
        return 130
    return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = parser().parse_args(argv)
        return _answered(args.run, Session(args))
    except Failure as failure:
        complain(str(failure))
        return failure.code


def _answered(run: Run, session: Session) -> int:
    """Run it.

    :raises Failure: it cannot go on, also where what was answered is not as the agent answers. Nobody can tell that
        from a fault of our own: both are named, and the line that it was.
    """
    try:
        return run(session)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if session.asked is None:
            raise
        from traceback import extract_tb

        *_, place = extract_tb(error.__traceback__)
        reason = f"{type(error).__name__}: {error}, in {os.path.basename(place.filename)}, line {place.lineno}"
        fault = f"what answers there is not this agent, or netagentctl is at fault ({reason})"
        raise Failure(UNREACHABLE, f"{session.asked}: {fault}") from None


class _Version(argparse.Action):
    """Print it; looked up only then, as that takes longer than most commands."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from nova_netagent.cmd.agent import version

        print(f"{parser.prog} {version()}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """One that refuses in one line."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """A command that is not one: argparse would list all of them, and not say which is nearest."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            from difflib import get_close_matches

            near = get_close_matches(value, action.choices, n=1)
            raise argparse.ArgumentError(None, f"{value!r} is not a command" + (f", but {near[0]} is" if near else ""))
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        complain(f"{message}; see {self.prog} --help")
        raise SystemExit(USAGE)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = _Parser(
        prog="netagentctl",
        description="See and say what the network agent of this host enforces.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.set_defaults(config_file=[], config_dir=[], socket=None, format="table", timeout=TIMEOUT)
    found.set_defaults(url=None, cert=None, key=None, cacert=None)
    found.add_argument("--version", action=_Version, help="print the version, and exit")
    _add_options(found)
    commands: _Commands = found.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_objects(commands)
    _add_host(commands)
    _add_offline(commands)
    return found


def _add_options(to: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """The options of every command; they may stand before it or after it."""
    suppressed = argparse.SUPPRESS
    to = to.add_argument_group("options of every command")
    to.add_argument(
        "--config-file", action="append", metavar="FILE", default=suppressed, help=f"by default {CONFIG_FILE}"
    )
    to.add_argument("--config-dir", action="append", metavar="DIR", default=suppressed, help="further *.conf files")
    to.add_argument("--socket", metavar="PATH", default=suppressed, help=f"by default [api] socket, or {SOCKET}")
    to.add_argument(
        "--url",
        metavar="URL",
        default=suppressed,
        help="over TCP instead, like https://HOST:PORT; a token comes from OS_TOKEN",
    )
    to.add_argument("--cert", metavar="FILE", default=suppressed, help="our certificate, where the agent wants one")
    to.add_argument("--key", metavar="FILE", default=suppressed, help="its key")
    to.add_argument(
        "--cacert", metavar="FILE", default=suppressed, help="who has signed the agent's; by default known ones"
    )
    to.add_argument(
        "--format", choices=("table", "json"), default=suppressed, help="json is the API's own; by default table"
    )
    to.add_argument(
        "--timeout",
        type=_patience,
        metavar="SECONDS",
        default=suppressed,
        help=f"for each answer; by default {TIMEOUT:g}",
    )


def _add(commands: "_Commands", name: str, run: Run, text: str) -> argparse.ArgumentParser:
    found = commands.add_parser(
        name, help=text, description=text, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.set_defaults(run=run)
    _add_options(found)
    return found


def _add_objects(commands: "_Commands") -> None:
    listed = _add(commands, "list", objects.list_objects, "list the objects of a kind and how they fare")
    shown = _add(commands, "show", objects.show, "show one object")
    put = _add(commands, "set", objects.set_objects, "create or replace objects")
    gone = _add(commands, "delete", objects.delete, "delete an object")
    for each in (listed, shown, put, gone):
        each.add_argument("kind", type=kind, metavar="KIND", help="networks, instances, security-groups, …")
    for each in (shown, gone):
        each.add_argument("id", type=_given, metavar="ID", help="its id; a floating IP's is its address")
    _add_file(put, "one object or a list of them, JSON; - is standard input")
    put.add_argument("--no-wait", dest="wait", action="store_false", help="do not wait until the kernel has it")
    gone.add_argument(
        "--revision", type=int, metavar="N", help="remembered, so that an older update does not bring it back"
    )


def _add_host(commands: "_Commands") -> None:
    looked = _add(commands, "status", host.status, "is it enforcing, is anything pending or in error, and why")
    looked.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=2.0,
        metavar="SECONDS",
        help="look again so often; by default every 2 s",
    )
    _add(commands, "export", host.export, "print everything that is described, as apply takes it")
    applied = _add(commands, "apply", host.apply, "make the host match a whole state; prints the plan")
    _add_file(applied, "a state as export prints it; - is standard input")
    applied.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    planned = _add(commands, "plan", host.plan, "print what the agent would change in the kernel now")
    for each in (applied, planned):
        each.add_argument("--exit-code", action="store_true", help="exit with 6 when the printed plan is not empty")
    chains = _add(commands, "chains", host.chains, "print our chains as the kernel has them, with counters and owners")
    _add_part(chains)
    _add_explain(commands)
    _add_graph(commands)
    _add(commands, "resync", host.resync, "read everything back from the kernel now and repair it")


def _add_explain(commands: "_Commands") -> None:
    asked = _add(commands, "explain", explain.explain, "what happens to a packet, rule by rule, and whose each rule is")
    asked.add_argument("--proto", required=True, metavar="PROTO", help="tcp, udp, icmp, … or a number")
    for name, text in (("src", "where it comes from"), ("dst", "where it goes to")):
        asked.add_argument(f"--{name}", required=True, metavar="A[:PORT]", help=f"{text}; IPv6: [A]:PORT")
    asked.add_argument("--in-dev", metavar="D", help="the link by which it comes; by default told from its source")
    asked.add_argument("--out-dev", metavar="D", help="the bridge port of which the copy is meant, if it is for many")
    asked.add_argument(
        "--state",
        type=str.upper,
        choices=_STATES,
        metavar="STATE",
        help=f"{', '.join(_STATES)}; by default a flow's first",
    )
    asked.add_argument("--icmp-type", type=_of_icmp, metavar="N", help="by default an echo request")
    asked.add_argument("--icmp-code", type=_of_icmp, metavar="N", help="by default 0")
    asked.add_argument("--mac", metavar="MAC", help="that it is sent from; by default its sender's own")
    asked.add_argument("--all", action="store_true", help="show the agent's own entrances to its chains as well")
    asked.add_argument("--graph", type=_given, metavar="FILE", help="draw its way as well: FILE.svg or FILE.dot")
    asked.add_argument(
        "--trace", type=_traced, metavar="SECONDS", help="watch real packets of its kind as well, of any source port"
    )
    asked.add_argument("--routed", action="store_true", help="it is sent to the host's MAC, though its end is near")


def _add_graph(commands: "_Commands") -> None:
    drawn = _add(commands, "graph", graph, "draw our live chains, with counters and owners, as SVG or DOT")
    drawn.add_argument("of", nargs="?", metavar="OBJECT", help="an id, a name, a device or an address; by default all")
    drawn.add_argument("-o", "--output", metavar="FILE", help="FILE.svg, or FILE.dot; by default standard output")
    drawn.add_argument("--dot", action="store_true", help="DOT, whatever the file is called")
    _add_part(drawn)
    drawn.add_argument("--whole", action="store_true", help="each chain and each rule, however many there are")


def _add_part(to: argparse.ArgumentParser) -> None:
    to.add_argument("--table", choices=TABLES, help="only this table; by default all")
    _add_family(to)


def _add_family(to: argparse.ArgumentParser) -> None:
    to.add_argument("--family", choices=("4", "6"), help="only IPv4, or only IPv6")


def _add_offline(commands: "_Commands") -> None:
    rendered = _add(commands, "render", render, "print the rules of a state; needs neither agent nor root")
    _add_file(rendered, "a state as export prints it; - is standard input")
    rendered.add_argument("--backend", choices=BACKENDS, help="by default [firewall] backend; for auto, iptables")
    _add_family(rendered)
    _add(commands, "check-config", offline.check_config, "check the configuration files; needs no agent")
    bundled = _add(
        commands, "diag", diag.diag, "gather what a report of a problem needs, without secrets; needs no agent"
    )
    bundled.add_argument("-o", "--output", metavar="FILE", help="by default netagent-diag-HOST-TIME.tar.gz, here")
    bundled.add_argument("--plans", action="store_true", help="only print the last plans and what came of them")
    _add(commands, "cleanup", offline.cleanup, "remove everything of ours from the kernel, without asking")


def _number(text: str) -> float:
    """What it says; nothing that is possible where it says nothing."""
    try:
        return float(text)
    except ValueError:
        return -1.0


def _patience(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is no time to wait: above 0, to 86400 seconds")
    return value


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0.05 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not a time between looks: 0.05 to 86400 seconds")
    return value


def _traced(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{text} is no time to watch packets: 1 to 60 seconds")
    return value


def _of_icmp(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else -1
    if not 0 <= value <= 255:
        raise argparse.ArgumentTypeError("it is not a number from 0 to 255")
    return value


def _given(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def _add_file(to: argparse.ArgumentParser, text: str) -> None:
    to.add_argument("-f", "--file", metavar="FILE", required=True, help=text)


if __name__ == "__main__":
    sys.exit(main())
