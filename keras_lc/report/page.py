"""A page to share: one file, with nothing to be loaded from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from keras_lc.errors import CheckpointError
from keras_lc.figures import Figures, Table, html, words
from keras_lc.report.catalog import Catalog, Row, catalog
from keras_lc.report.history import history
from keras_lc.report.plot import free, pictures

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1b1f; background: #f6f6f8; margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 16px 40px; }
h1 { font-size: 1.4rem; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 28px 0 8px; }
p { margin: 0 0 8px; color: #5a5960; }
.tiles, .plots { display: grid; gap: 12px; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); margin-top: 14px; }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); }
.card { background: #fff; border: 1px solid #e3e2e8; border-radius: 8px; padding: 10px 12px; }
.card b { display: block; font-size: 1.25rem; }
.card svg { width: 100%; height: auto; display: block; }
.chain { display: flex; flex-wrap: wrap; gap: 3px; align-items: center; margin: 0 0 6px; }
.chain i { width: 12px; height: 14px; border-radius: 2px; background: #8fb8de; }
.chain i.base { width: 30px; background: #1f5f99; }
.chain i.damaged { background: #b3261e; }
.chain i.marked { outline: 2px solid #e08a00; outline-offset: 1px; }
.key { display: inline-flex; align-items: center; gap: 6px; margin-right: 14px; }
.key .chain { margin: 0 3px; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
.card table { width: 100%; }
th, td { padding: 3px 8px; white-space: nowrap; border-bottom: 1px solid #eeedf2; }
th { color: #5a5960; font-weight: 600; position: sticky; top: 0; background: #fff; }
.scroll { max-height: 560px; overflow: auto; }
"""


@dataclass(frozen=True)
class Page(Figures):
    """What `keras-lc report` shows: the file, its size, and what it tells of."""

    verb = "report"
    target: str
    nbytes: int
    catalog: Catalog

    @property
    def fault(self) -> type[CheckpointError] | None:
        return self.catalog.fault

    def parts(self) -> Iterator[str]:
        count = words.count(len(self.catalog.checkpoints), "checkpoint")
        yield f"{self.target}: {count}, {words.size(self.nbytes)}"


def page(
    directory: str | os.PathLike[str],
    target: str | os.PathLike[str],
    monitor: str | None = None,
    overwrite: bool = False,
) -> Page:
    """Write a page with the checkpoints of a directory, their chains, and the plots.

    Args:
        directory: a path or URL.
        target: the `.html` file to write.
        monitor: as for `catalog`.
        overwrite: whether a file that is there already may be replaced.

    Raises:
        NotFoundError: there is no such directory, or it holds no checkpoint.
        OptionError: matplotlib is missing, or no checkpoint has that metric.
        StoreError: there is such a file, or it cannot be written.
    """
    text = os.fspath(target)
    place, name = free(text, overwrite)
    listed = catalog(directory, monitor)
    document = _document(listed, pictures(history(directory))).encode()
    with place.write_once(name) as file:
        file.write(document)
    return Page(text, len(document), listed)


def _document(listed: Catalog, drawn: dict[str, str]) -> str:
    name = os.path.basename(listed.directory.rstrip("/")) or listed.directory
    rows = [part for part in listed.parts() if isinstance(part, Table)]
    plots = "".join(f'<div class="card">{svg}</div>' for svg in drawn.values())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(name)}: checkpoints</title><style>{_STYLE}</style></head><body><main>
<h1>{escape(name)}</h1><p>{escape(listed.directory)}</p>
<div class="tiles">{"".join(_tiles(listed))}</div>
<h2>Over time</h2><div class="plots">{plots}</div>
<h2>Chains</h2><div class="card">{"".join(_chains(listed))}{_KEY}</div>
<h2>Checkpoints</h2><div class="card scroll">{"".join(map(html.table, rows))}</div>
</main></body></html>
"""


_KEY = """<p style="margin:10px 0 0">
<span class="key"><span class="chain"><i class="base"></i></span>base</span>
<span class="key"><span class="chain"><i></i></span>delta</span>
<span class="key"><span class="chain"><i class="marked"></i></span>latest, best</span>
<span class="key"><span class="chain"><i class="damaged"></i></span>damaged</span></p>"""


def _tiles(listed: Catalog) -> Iterator[str]:
    rows = [row for row in listed.checkpoints if row.kind != "damaged"]
    told = {"checkpoints": f"{len(rows):,}", "stored": words.size(listed.nbytes)}
    told["whole ones would take"] = words.size(listed.full)
    if listed.nbytes:
        told["times smaller"] = f"{listed.full / listed.nbytes:.1f}"
    for row in rows:
        if row.best and row.value is not None:
            told[f"best {listed.monitor}, {row.id}"] = words.number(row.value)
    damaged = sum(row.damaged is not None for row in listed.checkpoints)
    told["damaged"] = f"{damaged:,}"
    for title, value in told.items():
        yield f'<div class="card"><b>{escape(value)}</b>{escape(title)}</div>'


def _chains(listed: Catalog) -> Iterator[str]:
    """A line a base, with what builds on it; one that cannot be read is in its own."""
    lines: list[list[Row]] = []
    line_of: dict[str, list[Row]] = {}
    for row in listed.checkpoints:
        line = line_of.get(row.parent or "")
        if line is None:
            lines.append(line := [])
        line.append(row)
        line_of[row.id] = line
    for line in lines:
        yield f'<div class="chain">{"".join(map(_block, line))}</div>'


def _block(row: Row) -> str:
    classes = [row.kind] if row.kind == "base" else []
    classes += ["damaged"] if row.damaged else []
    classes += ["marked"] if row.latest or row.best else []
    size = "" if row.nbytes is None else f", {words.size(row.nbytes)}"
    title = escape(f"{row.id}{size}{', ' + row.damaged if row.damaged else ''}", quote=True)
    return f'<i class="{" ".join(classes)}" title="{title}"></i>'
