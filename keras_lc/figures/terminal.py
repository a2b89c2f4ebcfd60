"""Figures in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from keras_lc.figures import Figures, Table

_ROOM = 20  # characters that the last column has at least, where it needs them


def show(figures: Figures) -> None:
    """Print on stdout, as wide as the terminal is, or as it takes to cut nothing off."""
    console = Console(highlight=False)
    for part in figures.parts():
        if isinstance(part, Table):
            _print(part, console)
        else:
            console.print(Text(part), soft_wrap=True)


def _print(table: Table, console: Console) -> None:
    """Of its columns only the last one is wrapped."""
    grid = Grid(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    columns = [
        ["" if row.get(column.key) is None else column.show(row[column.key]) for row in table.rows]
        for column in table.columns
    ]
    widths = [
        max(map(len, [column.title, *cells]))
        for column, cells in zip(table.columns, columns, strict=True)
    ]
    widths[-1] = min(widths[-1], _ROOM)
    for column, width in zip(table.columns, widths, strict=True):
        grid.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            min_width=width,
            no_wrap=column is not table.columns[-1],
            overflow="fold",
        )
    for number, row in enumerate(zip(*columns, strict=True)):
        grid.add_row(*map(Text, row), style="red" if number in table.marked else None)
    console.width = max(console.width, sum(widths) + len(widths))
    console.print(grid)
