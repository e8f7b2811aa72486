"""Where boxes stand: each table a band, in it columns by how far a chain is from its hook."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from nova_netagent.ctl.graph.picture import Box, Key, Picture, tables_of

CHARACTER, LINE, PADDING = 6.7, 15, 6
"""Width of a character of the font, height of a line and the space around text, in pixels."""
COLUMN_GAP, BOX_GAP, BAND_GAP, MARGIN, HEADING = 70, 16, 40, 20, 26
MOST_CHARACTERS = 64


class Placed(NamedTuple):
    """A box with its corner and size, in pixels."""

    box: Box
    x: float
    y: float
    width: float
    height: float


class Band(NamedTuple):
    """A table's part of the drawing."""

    title: str
    y: float
    height: float


class Drawing(NamedTuple):
    """Everything with its place."""

    title: str
    width: float
    height: float
    bands: tuple[Band, ...]
    boxes: Mapping[Key, Placed]


def lay_out(picture: Picture) -> Drawing:
    """Give every box a place; no two overlap."""
    y = float(MARGIN + HEADING + LINE)
    right = 0.0
    bands: list[Band] = []
    placed: dict[Key, Placed] = {}
    for family, table in tables_of(picture.boxes):
        boxes = [box for box in picture.boxes if box.key[:2] == (family, table)]
        top = y + HEADING
        bottom = top
        x = float(MARGIN + PADDING)
        for column in _columns(boxes):
            width = max(_width(box) for box in column)
            at = top
            for box in column:
                height = box_height(box)
                placed[box.key] = Placed(box, x, at, width, height)
                at += height + BOX_GAP
            bottom = max(bottom, at)
            x += width + COLUMN_GAP
        right = max(right, x)
        bands.append(Band(f"IPv{family} {table}", y, bottom - y))
        y = bottom + BAND_GAP
    return Drawing(picture.title, right + MARGIN, y, tuple(bands), placed)


def box_height(box: Box) -> float:
    """Of a box: its title and its rows, in which an owner takes a line of its own."""
    return LINE + PADDING + sum(row_height(row.owner) for row in box.rows) + PADDING


def row_height(owner: str) -> float:
    """Of a row, in pixels."""
    return LINE * (2 if owner else 1)


def _width(box: Box) -> float:
    texts = [box.title, *(f"{row.text}12345678" for row in box.rows), *(f"  {row.owner}" for row in box.rows)]
    return min(max(map(len, texts)), MOST_CHARACTERS + 8) * CHARACTER + 2 * PADDING


def _columns(boxes: Sequence[Box]) -> list[list[Box]]:
    """By the longest way from a chain that nobody jumps to; in a column as they are first jumped to."""
    by_key = {box.key: box for box in boxes}
    depth: dict[Key, int] = {}

    def visit(key: Key, at: int, above: frozenset[Key]) -> None:
        if key in above or depth.get(key, -1) >= at:
            return
        depth[key] = at
        for target in _targets(by_key[key]):
            if target in by_key:
                visit(target, at + 1, above | {key})

    called = {target for box in boxes for target in _targets(box)}
    for box in boxes:
        if box.key not in called:
            visit(box.key, 0, frozenset())
    for box in boxes:
        depth.setdefault(box.key, 0)
    columns: list[list[Box]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for box in sorted(boxes, key=lambda box: not box.key[2].isupper()):
        if depth[box.key] == 0:
            columns[0].append(box)
    for number in range(1, len(columns)):
        order: dict[Key, None] = {}
        for earlier in columns[number - 1]:
            order |= dict.fromkeys(target for target in _targets(earlier) if depth.get(target) == number)
        order |= dict.fromkeys(box.key for box in boxes if depth[box.key] == number)
        columns[number] = [by_key[key] for key in order]
    return columns


def _targets(box: Box) -> Iterable[Key]:
    return dict.fromkeys(row.target for row in box.rows if row.target is not None)
