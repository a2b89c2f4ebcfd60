"""Figures in a terminal."""

from __future__ import annotations

from typing import Literal

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from keras_lc.figures import Figures, Table


def show(figures: Figures) -> None:
    """Print on stdout, as wide as the terminal is."""
    console = Console(highlight=False)
    for part in figures.parts():
        console.print(_table(part) if isinstance(part, Table) else Text(str(part)))


def _table(table: Table) -> RichTable:
    drawn = RichTable(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for column in table.columns:
        side: Literal["right", "left"] = "right" if column.right else "left"
        drawn.add_column(Text(column.title), justify=side, no_wrap=column is not table.columns[-1])
    for number, row in enumerate(table.rows):
        cells = [
            "" if row.get(column.key) is None else Text(column.show(row[column.key]))
            for column in table.columns
        ]
        drawn.add_row(*cells, style="red" if number in table.marked else None)
    return drawn
