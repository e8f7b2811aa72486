"""A picture in Graphviz' language, for who wants to lay it out otherwise. Graphviz itself is not needed."""

from collections.abc import Iterator

from nova_netagent.ctl.graph.picture import Box, Key, Picture, tables_of
from nova_netagent.ctl.graph.svg import COLOURS


def dot(picture: Picture) -> str:
    """A picture as a DOT document."""
    return "\n".join(_lines(picture)) + "\n"


def _lines(picture: Picture) -> Iterator[str]:
    names = {box.key: f"c{number}" for number, box in enumerate(picture.boxes)}
    yield f"digraph {_quoted(picture.title)} {{"
    yield "  rankdir=LR;"
    yield '  node [shape=plain fontname="monospace" fontsize=10];'
    for family, table in tables_of(picture.boxes):
        yield f"  subgraph {_quoted(f'cluster IPv{family} {table}')} {{"
        yield f"    label={_quoted(f'IPv{family} {table}')};"
        for box in picture.boxes:
            if box.key[:2] == (family, table):
                yield f"    {names[box.key]} [label=<{_table(box)}>];"
        yield "  }"
    for box in picture.boxes:
        yield from _edges(box, names)
    yield "}"


def _table(box: Box) -> str:
    border = "#d97706" if box.met else "#94a3b8"
    rows = [f'<tr><td port="t" bgcolor="#e2e8f0"><b>{_escaped(box.title)}</b></td></tr>']
    for number, row in enumerate(box.rows):
        colour = COLOURS.get(row.kind, COLOURS["agent"])
        ground = ' bgcolor="#fde68a"' if row.met else ""
        counted = f" [{row.packets}]" if row.packets else ""
        owner = f'<br align="left"/>  {_escaped(row.owner)}' if row.owner else ""
        text = f"{_escaped(row.text) or '(every packet)'}{counted}{owner}"
        cell = f'<td port="r{number}" align="left" balign="left"{ground}>'
        rows.append(f'<tr>{cell}<font color="{colour}">{text}</font></td></tr>')
    return f'<table border="0" cellborder="1" cellspacing="0" color="{border}">{"".join(rows)}</table>'


def _edges(box: Box, names: dict[Key, str]) -> Iterator[str]:
    for number, row in enumerate(box.rows):
        if row.target in names:
            style = ' [color="#d97706" penwidth=2]' if row.met else ""
            yield f"  {names[box.key]}:r{number}:e -> {names[row.target]}:t:w{style};"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _escaped(text: str) -> str:
    for char, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(char, written)
    return text
