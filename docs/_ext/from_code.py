"""Pages made from the code: every option, metric, endpoint and command that exists."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from nova_netagent import conf
from nova_netagent.api.openapi import document_of
from nova_netagent.cmd import agent, ctl
from nova_netagent.metrics import Metrics


def write(folder: Path) -> None:
    """Write the pages into a folder."""
    folder.mkdir(exist_ok=True)
    pages = {"options": options(), "metrics": metrics(), "endpoints": endpoints(), "commands": commands()}
    for name, lines in pages.items():
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n")


def options() -> Iterator[str]:
    """Each group's options with their defaults."""
    yield "# Options"
    for group, known in conf.GROUPS.items():
        yield from ("", f"## [{group}]", "", "| option | default | meaning |", "|---|---|---|")
        for option in known:
            default = option.sample_default if option.sample_default is not None else option.default
            shown = "" if default in (None, [], "") else f"`{default}`"
            yield f"| `{option.name}` | {shown} | {option.help} |"


def metrics() -> Iterator[str]:
    """Each metric with its labels."""
    yield from ("# Metrics", "", "| metric | type | labels | meaning |", "|---|---|---|---|")
    made = Metrics()
    for name, metric in sorted(vars(made).items()):
        if hasattr(metric, "_labelnames"):
            kind = type(metric).__name__.lower()
            labels = ", ".join(metric._labelnames)
            yield f"| `netagent_{name}` | {kind} | {labels} | {metric._documentation} |"


def endpoints() -> Iterator[str]:
    """Each call of the HTTP API."""
    yield from (
        "# HTTP API",
        "",
        "`GET /openapi.json` holds the whole description.",
        "",
        "| call | meaning |",
        "|---|---|",
    )
    for path, calls in document_of(agent.version())["paths"].items():
        for method, call in calls.items():
            if isinstance(call, dict) and "summary" in call:
                yield f"| `{method.upper()} {path}` | {call['summary']} |"


def commands() -> Iterator[str]:
    """The programs' own help."""
    yield "# Commands"
    for made in (agent.parser(), ctl.parser()):
        yield from ("", f"## {made.prog}", "", "```", made.format_help().rstrip(), "```")
        for name, command in _subcommands(made):
            yield from ("", f"### {made.prog} {name}", "", "```", command.format_help().rstrip(), "```")


def _subcommands(made: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()
