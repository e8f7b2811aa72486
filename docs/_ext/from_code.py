"""Pages made from the code: every option, metric, endpoint and command that exists."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nova_netagent import conf, testing
from nova_netagent.api.openapi import document_of
from nova_netagent.cmd import agent, ctl
from nova_netagent.compile import Compiler
from nova_netagent.ctl.graph.picture import picture
from nova_netagent.ctl.graph.svg import svg
from nova_netagent.events import Replace, fold
from nova_netagent.explain.owners import holder
from nova_netagent.metrics import Metrics
from nova_netagent.model import DesiredState, State
from nova_netagent.netfilter.packet import chains_of
from nova_netagent.netfilter.rule import Jump, Rule
from nova_netagent.netfilter.text import rule_text
from nova_netagent.settings import MetadataSettings, NetworkSettings, Settings


def write(folder: Path) -> None:
    """Write the pages into a folder."""
    folder.mkdir(exist_ok=True)
    pages = {"options": options(), "metrics": metrics(), "endpoints": endpoints(), "commands": commands()}
    for name, lines in pages.items():
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n")
    (folder / "chains.svg").write_text(svg(picture("One instance, one group, one floating IP", chains())))


def chains() -> list[dict[str, Any]]:
    """The IPv4 chains of a small host, as the API gives live ones."""
    web = testing.make_rule(1, protocol="tcp", port_range_min=443, port_range_max=443)
    names = testing.make_rule(2, direction="egress", protocol="udp", port_range_min=53, port_range_max=53)
    state = State(
        networks=(testing.make_network(1),),
        instances=(testing.make_instance(1, (1,), hostname="web"),),
        security_groups=(testing.make_group(1, web, names, name="web"),),
        floating_ips=(testing.make_floating_ip(1),),
        provider_rules=(testing.make_provider_rule(1),),
    )
    settings = Settings(
        network=NetworkSettings(fixed_range=("10.0.0.0/8",), routing_source_ip="192.0.2.10", public_interface="eth0"),
        metadata=MetadataSettings(metadata_host="192.0.2.10"),
    )
    desired = fold(DesiredState(), Replace(state), 0.0)
    tables = Compiler(settings).compile(desired).ruleset.tables
    return [
        {
            "family": id_.family,
            "table": id_.name,
            "chain": name,
            "policy": None,
            "rules": [_live(desired, rule) for rule in rules],
        }
        for id_, table in tables.items()
        if id_.family == 4
        for name, rules in {**chains_of(table), **{each.name: each.explained for each in table.chains.values()}}.items()
    ]


def _live(state: DesiredState, rule: Rule) -> dict[str, Any]:
    return {
        "packets": 0,
        "rule": rule_text(rule, 4),
        "origin": rule.origin,
        "owner": None if rule.origin is None else holder(state, rule.origin).text,
        "target": rule.target.chain if isinstance(rule.target, Jump) else None,
    }


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
        "`GET /openapi.json` holds the whole description, {doc}`../objects` what the bodies mean.",
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
