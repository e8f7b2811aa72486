"""A drawing as SVG: plain shapes and text, for a browser, a wiki or a ticket."""

from collections.abc import Iterator, Mapping

from nova_netagent.ctl.graph.layout import (
    CHARACTER,
    HEADING,
    LINE,
    MARGIN,
    MOST_CHARACTERS,
    PADDING,
    Drawing,
    Placed,
    lay_out,
    row_height,
)
from nova_netagent.ctl.graph.picture import Key, Picture, Row

COLOURS = {
    "instances": "#2563eb",
    "security_groups": "#15803d",
    "floating_ips": "#b45309",
    "networks": "#7c3aed",
    "provider_rules": "#b91c1c",
    "agent": "#475569",
    "foreign": "#9f1239",
}
_LEGEND = {
    "instances": "instance",
    "security_groups": "security group",
    "floating_ips": "floating IP",
    "networks": "network",
    "provider_rules": "provider rule",
    "agent": "the agent, for all",
    "foreign": "foreign, policies",
}
_VERDICTS = {"ACCEPT": "#15803d", "DROP": "#b91c1c", "REJECT": "#b91c1c"}
_MET = "#fde68a"
_STYLE = "text{font:11px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}"
_STYLE += ".t{font-weight:bold}.b{fill:none;stroke:#94a3b8;stroke-width:1}.e{fill:none;stroke:#94a3b8}"
_STYLE += ".m{stroke:#d97706;stroke-width:2.5}.n{fill:#64748b}"


def svg(picture: Picture) -> str:
    """A picture as an SVG document."""
    return "\n".join(_lines(lay_out(picture))) + "\n"


def _lines(drawing: Drawing) -> Iterator[str]:
    legend = MARGIN * 2 + sum((len(text) + 4) * CHARACTER for text in _LEGEND.values())
    width, height = max(drawing.width, legend), drawing.height
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}">'
    )
    yield f"<title>{_escaped(drawing.title)}</title>"
    yield f"<style>{_STYLE}</style>"
    yield '<rect width="100%" height="100%" fill="#ffffff"/>'
    yield _text(MARGIN, MARGIN + LINE - 4, drawing.title, "t")
    yield from _legend()
    for band in drawing.bands:
        yield (
            f'<rect x="{MARGIN / 2:.0f}" y="{band.y:.1f}" width="{width - MARGIN:.1f}" height="{band.height:.1f}"'
            ' rx="4" fill="#f8fafc"/>'
        )
        yield _text(MARGIN, band.y + HEADING - 9, band.title, "t n")
    for placed in drawing.boxes.values():
        yield from _edges(placed, drawing.boxes)
    for placed in drawing.boxes.values():
        yield from _box(placed)
    yield "</svg>"


def _legend() -> Iterator[str]:
    x = float(MARGIN)
    for kind, text in _LEGEND.items():
        yield f'<rect x="{x:.1f}" y="{MARGIN + LINE + 4}" width="9" height="9" fill="{COLOURS[kind]}"/>'
        yield _text(x + 13, MARGIN + LINE + 13, text, "n")
        x += (len(text) + 4) * CHARACTER


def _box(placed: Placed) -> Iterator[str]:
    box = placed.box
    yield (
        f'<rect x="{placed.x:.1f}" y="{placed.y:.1f}" width="{placed.width:.1f}" height="{placed.height:.1f}"'
        f' rx="3" style="fill:#fff" class="b{" m" if box.met else ""}"/>'
    )
    yield (
        f'<rect x="{placed.x + 1:.1f}" y="{placed.y + 1:.1f}" width="{placed.width - 2:.1f}" height="{LINE + 3}"'
        ' fill="#e2e8f0"/>'
    )
    yield _text(placed.x + PADDING, placed.y + LINE - 1, box.title, "t")
    for row, y in _rows(placed):
        yield from _row(placed, row, y)


def _rows(placed: Placed) -> Iterator[tuple[Row, float]]:
    """Each row with the height at which it begins."""
    y = placed.y + LINE + PADDING
    for row in placed.box.rows:
        yield row, y
        y += row_height(row.owner)


def _row(placed: Placed, row: Row, y: float) -> Iterator[str]:
    if row.met:
        height = row_height(row.owner)
        yield (
            f'<rect x="{placed.x + 1:.1f}" y="{y:.1f}" width="{placed.width - 2:.1f}" height="{height:.1f}"'
            f' fill="{_MET}"/>'
        )
    colour = COLOURS.get(row.kind, COLOURS["agent"])
    yield f'<rect x="{placed.x + 1:.1f}" y="{y + 2:.1f}" width="3" height="{LINE - 4}" fill="{colour}"/>'
    shown = row.text if len(row.text) <= MOST_CHARACTERS else f"{row.text[: MOST_CHARACTERS - 1]}…"
    ink = _VERDICTS.get(row.verdict)
    yield _text(placed.x + PADDING + 2, y + LINE - 4, shown or "(every packet)", ink=ink, hover=row.text)
    if row.packets:
        right = placed.x + placed.width - PADDING
        yield _text(right, y + LINE - 4, _short(row.packets), "n", end=True)
    if row.owner:
        owner = row.owner if len(row.owner) <= MOST_CHARACTERS else f"{row.owner[: MOST_CHARACTERS - 1]}…"
        yield _text(placed.x + PADDING + 2, y + 2 * LINE - 5, f"  {owner}", ink=colour, hover=row.owner)


def _edges(placed: Placed, boxes: Mapping[Key, Placed]) -> Iterator[str]:
    for row, y in _rows(placed):
        target = None if row.target is None else boxes.get(row.target)
        if target is None:
            continue
        x1, y1 = placed.x + placed.width, y + LINE / 2
        x2, y2 = target.x, target.y + LINE / 2 + 2
        bend = max(30.0, abs(x2 - x1) / 2)
        mark = " m" if row.met else ""
        yield (
            f'<path class="e{mark}" d="M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f}'
            f' {x2:.1f} {y2:.1f}"/>'
        )
        yield f'<path d="M{x2 - 6:.1f} {y2 - 3:.1f}L{x2:.1f} {y2:.1f}L{x2 - 6:.1f} {y2 + 3:.1f}z" fill="#64748b"/>'


def _text(
    x: float, y: float, text: str, style: str = "", *, ink: str | None = None, end: bool = False, hover: str = ""
) -> str:
    attributes = f' class="{style}"' if style else ""
    attributes += f' fill="{ink}"' if ink else ""
    attributes += ' text-anchor="end"' if end else ""
    more = f"<title>{_escaped(hover)}</title>" if hover and hover != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{more}{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    for char, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(char, written)
    return "".join(char for char in text if char.isprintable())


def _short(number: int) -> str:
    for unit in ("", "K", "M", "G"):
        if number < 10_000:
            return f"{number}{unit}"
        number = (number + 500) // 1000
    return f"{number}T"
