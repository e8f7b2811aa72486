"""Man pages and shell completion, made from the parsers: ``python -m tools.manual`` writes man/ and completion/."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from nova_netagent.cmd import agent, ctl
from nova_netagent.ctl.kinds import KINDS

ROOT = Path(__file__).resolve().parents[1]
_SECTIONS = {"nova-netagent": 8, "netagentctl": 8}
_SEE = {"nova-netagent": "netagentctl", "netagentctl": "nova-netagent"}
_FILES = (
    ("/etc/nova-netagent/nova-netagent.conf", "The configuration."),
    ("/run/nova-netagent/api.sock", "Where the agent is spoken to."),
    ("/var/lib/nova-netagent/state.db", "What was described, on disk."),
)
_SIGNALS = (
    ("SIGTERM, SIGINT", "Requests in flight finish; every rule, link and address stays."),
    ("SIGHUP", "The configuration is read anew; one that cannot be used is refused and the old one kept."),
    ("SIGUSR2", "A Guru Meditation Report on standard error."),
)
_ABOUT = {
    "nova-netagent": "the network agent of a compute node",
    "netagentctl": "see and say what the network agent of this host enforces",
}


def main() -> None:
    """Write every file."""
    for path, text in files().items():
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_text(text)


def files() -> dict[str, str]:
    """Each file's path and what it must hold."""
    programs = (agent.parser(), ctl.parser())
    found = {f"man/{each.prog}.{_SECTIONS[each.prog]}": "\n".join(_page(each)) + "\n" for each in programs}
    return {**found, "completion/netagentctl.bash": "\n".join(_bash(ctl.parser())) + "\n"}


# --- man pages (man-pages(7), groff_man(7))


def _page(program: argparse.ArgumentParser) -> Iterator[str]:
    name, section = program.prog, _SECTIONS[program.prog]
    yield f'.TH {name} {section} "" nova-netagent "System administration"'
    yield from (".SH NAME", f"{name} \\- {_ABOUT[name]}", ".SH SYNOPSIS", f".B {name}")
    yield _roff(_usage(program))
    yield from (".SH DESCRIPTION", _roff(program.description or ""))
    yield ".SH OPTIONS"
    yield from _options(program)
    commands = _commands(program)
    if commands:
        yield ".SH COMMANDS"
    for word, command in commands.items():
        yield from (f".SS {_roff(_own_usage(word, command, program))}", _roff(_sentence(command.description or "")))
        yield from _options(command, but=program)
    if program.epilog:
        yield ".SH EXIT STATUS"
        for code, text in re.findall(r"^  (\d)  (.*)$", program.epilog, re.MULTILINE):
            yield from (".TP", code, _roff(_sentence(text)))
    if name == "nova-netagent":
        yield ".SH SIGNALS"
        yield from _listed(_SIGNALS)
    yield ".SH FILES"
    yield from _listed(_FILES)
    yield from (".SH SEE ALSO", f".BR {_SEE[name]} ({_SECTIONS[_SEE[name]]}),", ".BR iptables (8),", ".BR nft (8)")


def _listed(items: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for name, text in items:
        yield from (".TP", f".B {_roff(name)}", _roff(text))


def _options(parser: argparse.ArgumentParser, but: argparse.ArgumentParser | None = None) -> Iterator[str]:
    """Each option and argument; those that every command has are told once."""
    known = {option for action in but._actions for option in action.option_strings} if but else set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or set(action.option_strings) & known:
            continue
        yield from (".TP", _marked(action), _roff(_sentence(_help(action))))


def _marked(action: argparse.Action) -> str:
    """An option in bold and its value in italics."""
    names = ", ".join(action.option_strings)
    if not names:
        return f"\\fI{_roff(_value(action))}\\fR"
    value = f" \\fI{_roff(_value(action))}\\fR" if action.nargs != 0 else ""
    return f"\\fB{_roff(names)}\\fR{value}"


def _usage(parser: argparse.ArgumentParser) -> str:
    return " ".join(parser.format_usage().split()).removeprefix("usage: ").removeprefix(parser.prog).strip()


def _own_usage(word: str, command: argparse.ArgumentParser, program: argparse.ArgumentParser) -> str:
    """A command's own arguments; what every command takes is not told again."""
    known = {option for action in program._actions for option in action.option_strings}
    words = [word]
    for action in command._actions:
        if set(action.option_strings) & known:
            continue
        told = " ".join((*action.option_strings[-1:], *(() if action.nargs == 0 else (_value(action),))))
        words.append(told if action.required else f"[{told}]")
    return " ".join(words)


def _value(action: argparse.Action) -> str:
    if action.metavar:
        return str(action.metavar)
    return "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()


def _help(action: argparse.Action) -> str:
    if action.help and action.help is not argparse.SUPPRESS:
        return action.help.replace("%%", "%")
    return f"One of {', '.join(map(str, action.choices))}." if action.choices else ""


def _sentence(text: str) -> str:
    return text if not text or text.endswith((".", "…")) else f"{text}."


def _roff(text: str) -> str:
    """Text for groff: a line that begins with a dot, hyphens that are to be copied, characters beyond ASCII."""
    escaped = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


# --- bash


_PATHS = {"--config-file", "--config-dir", "--socket", "-f", "--file", "-o", "--output", "--graph"}


def _bash(program: argparse.ArgumentParser) -> Iterator[str]:
    commands = _commands(program)
    kinds = " ".join(kind.replace("_", "-") for kind in KINDS)
    yield "# Completion of netagentctl for bash, made by tools/manual.py from its parser: source it, or put it into"
    yield "# /usr/share/bash-completion/completions/netagentctl. In zsh: autoload bashcompinit && bashcompinit first."
    yield from ("_netagentctl()", "{", "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}")
    yield "    local command= kind= i"
    yield "    for ((i = 1; i < COMP_CWORD; i++)); do"
    yield "        case ${COMP_WORDS[i]} in"
    yield f"            {'|'.join(commands)}) command=${{COMP_WORDS[i]}}; kind=${{COMP_WORDS[i+1]}}; break ;;"
    yield "        esac"
    yield "    done"
    yield "    COMPREPLY=()"
    yield "    case $before in"
    yield f'        {"|".join(sorted(_PATHS))}) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;'
    for options, choices in _choices(program):
        yield f'        {options}) mapfile -t COMPREPLY < <(compgen -W {_shell(choices)} -- "$word"); return ;;'
    yield "    esac"
    yield "    case $command in"
    first = _shell(" ".join((*_names(program), *commands)))
    yield f"        '') mapfile -t COMPREPLY < <(compgen -W {first} -- \"$word\") ;;"
    for name, command in commands.items():
        words = _shell(" ".join(_names(command)))
        takes = {action.dest for action in command._actions if not action.option_strings}
        if "kind" in takes:
            yield f"        {name})"
            yield '            if [[ $before == "$command" ]]; then'
            yield f'                mapfile -t COMPREPLY < <(compgen -W {_shell(kinds)} -- "$word")'
            if "id" in takes:
                yield '            elif [[ $before == "$kind" ]]; then'
                yield '                mapfile -t COMPREPLY < <(compgen -W "$(netagentctl list "$kind" 2>/dev/null |'
                yield '                    awk \'NR > 1 { print $1 }\')" -- "$word")'
            yield "            else"
            yield f'                mapfile -t COMPREPLY < <(compgen -W {words} -- "$word")'
            yield "            fi ;;"
        else:
            yield f'        {name}) mapfile -t COMPREPLY < <(compgen -W {words} -- "$word") ;;'
    yield from ("    esac", "}", "complete -F _netagentctl netagentctl")


def _choices(program: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    found: dict[str, str] = {}
    for parser in (program, *_commands(program).values()):
        for action in parser._actions:
            if action.choices and action.option_strings:
                found["|".join(action.option_strings)] = " ".join(map(str, action.choices))
    yield from found.items()


def _names(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


def _shell(text: str) -> str:
    return f"'{text}'"


def _commands(program: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in program._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


if __name__ == "__main__":
    main()
