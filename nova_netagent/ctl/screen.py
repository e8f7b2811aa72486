"""What a person reads: aligned columns, states in colour, errors in one line."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

_COLOURS = {"done": "32", "pending": "33", "error": "31", "yes": "32", "no": "31"}
GAP = "  "
_LEAST = 12


class Screen:
    """Standard output, for a person or for a program.

    :param json: print the API's own JSON and nothing else.
    """

    def __init__(self, *, json: bool) -> None:
        self.json = json
        tty = sys.stdout.isatty()
        self._colours = tty and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._width = _width() if tty else None

    def line(self, text: str = "") -> None:
        """One line."""
        print(text)

    def body(self, data: bytes) -> None:
        """JSON for a program, the API's as it came: UTF-8."""
        sys.stdout.flush()
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.buffer.flush()

    def progress(self, text: str) -> None:
        """What takes a while, or that there is nothing, where somebody looks on: on standard error, being no answer."""
        if sys.stderr.isatty() and not self.json:
            print(text, file=sys.stderr)

    def clear(self) -> None:
        """Begin again at the top of the terminal; elsewhere a line between."""
        sys.stdout.write("\x1b[H\x1b[2J\x1b[3J" if sys.stdout.isatty() else "\n")

    def state(self, text: str) -> str:
        """A state, in its colour where there are colours."""
        colour = _COLOURS.get(text)
        return f"\x1b[{colour}m{text}\x1b[0m" if colour and self._colours else text

    def verdict(self, text: str, good: bool) -> str:
        """A verdict, in green or red where there are colours."""
        return f"\x1b[{32 if good else 31}m{text}\x1b[0m" if self._colours else text

    def fits(self, text: str) -> bool:
        """Whether it stands in one line; where there is no terminal a line has no end."""
        return self._width is None or len(text) <= self._width

    def wrapped(self, text: str, *, indent: str = "", further: str = "    ") -> None:
        """A text that goes on in the next line, further in, where the terminal ends; nothing is cut."""
        if self._width is None or self.fits(indent + text) or self._width < 2 * _LEAST:
            self.line(indent + text)
            return
        import textwrap

        lines = textwrap.wrap(
            text,
            self._width,
            initial_indent=indent,
            subsequent_indent=" " * len(indent) + further,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for each in lines:
            self.line(each)

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[Any]], *, indent: str = "", right: str = "") -> None:
        """Columns under their titles; columns that are empty in every row are left out.

        Nothing is cut. Where the terminal has no room for all columns side by side, what is long has lines of its
        own: first the reason, below its row, then the id, above; in the end each row is told line by line.

        :param right: the titles of the columns that are numbers, separated by blanks.
        """
        cells = [[_cell(value) for value in row] for row in rows]
        kept = [n for n, title in enumerate(titles) if title in ("ID", "STATE") or any(row[n] for row in cells)]
        widths = {n: max(len(titles[n]), *(len(row[n]) for row in cells)) if cells else len(titles[n]) for n in kept}
        before, after, inner = None, None, indent
        if titles[kept[-1]] == "REASON" and not self._has_room(inner, [widths[n] for n in kept]):
            after = kept.pop()
        if titles[kept[0]] == "ID" and not self._has_room(inner, [widths[n] for n in kept]):
            before, inner = kept.pop(0), indent + GAP
        if not self._has_room(inner, [widths[n] for n in kept]):
            self._records([(title, n) for n, title in enumerate(titles) if n in widths], cells, indent)
            return
        for number, row in enumerate([list(titles), *cells]):
            if before is not None:
                self.line(indent + row[before])
            line = GAP.join(self._padded(row[n], widths[n], titles[n], right.split()) for n in kept)
            self.line(f"{inner}{line}".rstrip())
            if after is not None and number:
                self.wrapped(row[after], indent=inner + 2 * GAP)

    def _records(self, columns: Sequence[tuple[str, int]], cells: Sequence[Sequence[str]], indent: str) -> None:
        """Each row as lines of a title and its value."""
        width = max(len(title) for title, _ in columns)
        for number, row in enumerate(cells):
            if number:
                self.line()
            for title, n in columns:
                if row[n]:
                    value = self.state(row[n]) if title == "STATE" else row[n]
                    self.wrapped(f"{title:{width}}{GAP}{value}", indent=indent, further=" " * (width + len(GAP)))

    def _has_room(self, indent: str, widths: Sequence[int]) -> bool:
        """Whether columns so wide stand side by side in a line."""
        return self.fits(indent + GAP.join(" " * width for width in widths))

    def _padded(self, text: str, width: int, title: str, numbers: Sequence[str]) -> str:
        padding = " " * (width - len(text))
        if title in numbers:
            return padding + text
        return (self.state(text) if title == "STATE" else text) + padding


@contextmanager
def seen_or_not() -> Iterator[None]:
    """Print what those who read may have seen enough of, while there is more to do than to print."""
    try:
        yield
    except BrokenPipeError:
        fall_silent(sys.stdout)


def fall_silent(stream: TextIO) -> None:
    """Print nothing there any more, nor at the exit what is left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def complain(text: str) -> None:
    """One line on standard error; where nobody reads it the exit status tells alone."""
    try:
        print(f"netagentctl: {' '.join(text.split())}", file=sys.stderr)
    except OSError:
        fall_silent(sys.stderr)


def _width() -> int | None:
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(map(_cell, value))
    if isinstance(value, dict):
        return " ".join(f"{key}={_cell(each)}" for key, each in value.items())
    return str(value)
