"""Figures in a terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator

import click

from keras_lc.figures import Figures, Table

_ROOM = 20  # characters from which on the last column is wrapped in its place


def show(figures: Figures) -> None:
    """Print on stdout, as wide as the terminal is."""
    width = shutil.get_terminal_size().columns
    for part in figures.parts():
        lines = _table(part, width) if isinstance(part, Table) else iter([str(part)])
        click.echo("\n".join(lines))


def _table(table: Table, width: int) -> Iterator[str]:
    """A line a row, and more where the last column does not fit."""
    columns = table.columns
    rows = [
        ["" if row.get(column.key) is None else column.show(row[column.key]) for column in columns]
        for row in table.rows
    ]
    head = [column.title for column in columns]
    widths = [max(map(len, cells)) for cells in zip(head, *rows, strict=True)]
    before = sum(widths[:-1]) + len(widths) - 1
    room = width - before if width - before >= _ROOM else max(1, widths[-1])
    widths[-1] = min(widths[-1], room)
    for number, row in enumerate([head, *rows]):
        *cells, last = row
        for part in textwrap.wrap(last, room) or [""]:
            aligned = (
                cell.rjust(size) if column.right else cell.ljust(size)
                for cell, size, column in zip([*cells, part], widths, columns, strict=True)
            )
            line = " ".join(aligned).rstrip()
            bad = number - 1 in table.marked
            yield click.style(line, dim=number == 0 or None, fg="red" if bad else None)
            cells = [""] * len(cells)
