"""Figures as plain columns, for scripts: whole numbers, no colour, `-` for what there is not."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from keras_lc.figures import Figures, Note, Table


def render(figures: Figures) -> str:
    """Lines and tables; blanks are only between the columns, but for the last one."""
    parts = (part for part in figures.parts() if not isinstance(part, Note))
    return "\n".join(_table(part) if isinstance(part, Table) else part for part in parts)


def _table(table: Table) -> str:
    last = len(table.columns) - 1
    lines = [[column.key for column in table.columns]]
    for row in table.rows:
        cells = (_cell(row.get(column.key)) for column in table.columns)
        lines.append(
            [cell if i == last else "_".join(cell.split()) for i, cell in enumerate(cells)]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, table.columns, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value)) or "-"
    return str(value)
