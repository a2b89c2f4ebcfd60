"""Figures as HTML: for a notebook, and as parts of the page."""

from __future__ import annotations

from html import escape

from keras_lc.figures import Figures, Table


def render(figures: Figures) -> str:
    """Paragraphs and tables; nothing of it is a script."""
    parts = (
        table(part) if isinstance(part, Table) else f"<p>{escape(str(part))}</p>"
        for part in figures.parts()
    )
    return f'<div class="keras-lc">{"".join(parts)}</div>'


def table(content: Table) -> str:
    """A table; what is wider than its place is scrolled."""
    head = "".join(f"<th{_side(c.right)}>{escape(c.title)}</th>" for c in content.columns)
    body = []
    for number, row in enumerate(content.rows):
        cells = "".join(
            f"<td{_side(c.right)}>"
            f"{'' if row.get(c.key) is None else escape(c.show(row[c.key]))}</td>"
            for c in content.columns
        )
        bad = ' style="color:#b3261e"' if number in content.marked else ""
        body.append(f"<tr{bad}>{cells}</tr>")
    return (
        '<div style="overflow-x:auto"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _side(right: bool) -> str:
    return f' style="text-align:{"right" if right else "left"}"'
