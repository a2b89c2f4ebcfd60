"""One checkpoint: what it is, what it builds on, and what is in it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime

from keras_lc.errors import CheckpointError, DamagedError
from keras_lc.figures import Column, Figures, Table, words
from keras_lc.references import Found, find
from keras_lc.report.catalog import full_sizes
from keras_lc.store import chain
from keras_lc.store.index import Stored


@dataclass(frozen=True)
class Link:
    """A record that is read to restore a checkpoint."""

    file: str
    kind: str
    codec: str | None
    nbytes: int


@dataclass(frozen=True)
class Tensor:
    """A tensor of the decoded state.

    Attributes:
        kind: how the checkpoint stores it, by the names in FORMAT.md; None in a base.
        bound: no value is further from what was saved, where the record tells it.
    """

    name: str
    label: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    kind: str | None
    bound: float | None


@dataclass(frozen=True)
class Detail(Figures):
    """What `keras-lc info` shows.

    Attributes:
        id, path, file, kind, epoch, batch, step, logs, saved_at, codec, digest: of the record.
        nbytes: size of the record.
        chain: what is read to restore it, in this order.
        read: bytes of all of these.
        full: what a whole checkpoint takes.
        state: bytes of the decoded arrays, if they were decoded.
        aim: the error of the weights (root mean square, tensor by tensor) that the codec does not
            mean to exceed, as a share of the weights; 0 is bit for bit, None where it has none.
        error: the error that was made, measured on a sample when it was saved; None of a base, and
            where the record does not tell.
        children: names of the checkpoints that build on it.
        tensors: if they were decoded.
        damaged: why it cannot be restored, as far as was read.
    """

    verb = "info"
    id: str
    path: str
    file: str
    kind: str
    epoch: int
    batch: int
    step: int
    logs: dict[str, float]
    saved_at: datetime
    codec: str | None
    digest: str
    nbytes: int
    chain: tuple[Link, ...]
    read: int
    full: int | None
    aim: float | None
    error: float | None
    children: tuple[str, ...]
    state: int | None
    tensors: tuple[Tensor, ...] | None
    damaged: str | None

    @property
    def fault(self) -> type[CheckpointError] | None:
        return DamagedError if self.damaged else None

    def parts(self) -> Iterator[str | Table]:
        place = f"epoch {self.epoch}" + (f", batch {self.batch}" if self.batch else "")
        saved = self.saved_at.isoformat(" ", "seconds")
        yield f"{self.path}: {self.kind}, {place}, step {self.step}, saved {saved}"
        if self.damaged:
            yield f"damaged: {self.damaged}"
        if self.logs:
            yield ", ".join(f"{name} {words.number(value)}" for name, value in self.logs.items())
        yield f"codec: {self.codec or 'whole'}; {self._accuracy()}"
        smaller = f", {words.ratio(self.full / self.nbytes)} smaller" if self.full else ""
        yield f"stored: {words.size(self.nbytes)}{smaller}; digest {self.digest[:12]}"
        if len(self.chain) == 1 and self.kind == "delta" and self.damaged:
            return  # no chain leads here
        read = f"{words.size(self.read)} in {words.count(len(self.chain), 'record')}"
        yield f"chain: {read} to restore {words.size(self.state) if self.state else 'it'}"
        yield _table(self.chain)
        if self.children:
            yield f"built on by {', '.join(self.children)}"
        if self.tensors:
            yield _tensors(self.tensors)

    def _accuracy(self) -> str:
        if self.aim == 0:
            return "bit for bit"
        most = self.aim and f"about {words.share(self.aim)} at most, tensor by tensor"
        if self.error is None:
            return f"error of the weights {most}" if most else "no bound of the error"
        made = f"error of the weights {words.share(self.error)}"
        return f"{made} ({most})" if most else f"{made}, without a bound"


def _table(links: tuple[Link, ...]) -> Table:
    columns = [
        Column("kind", "kind"),
        Column("nbytes", "size", words.size, right=True),
        Column("codec", "codec"),
        Column("file", "file"),
    ]
    return Table(columns, [asdict(link) for link in links])


def _tensors(tensors: tuple[Tensor, ...]) -> Table:
    columns = [
        Column("name", "tensor"),
        Column("dtype", "dtype"),
        Column("shape", "shape", lambda shape: "x".join(map(str, shape)) or "-"),
        Column("nbytes", "size", words.size, right=True),
        Column("kind", "stored as"),
        Column("bound", "within", words.number, right=True),
        Column("label", "variable"),
    ]
    return Table(columns, [asdict(tensor) for tensor in tensors])


def detail(reference: str | os.PathLike[str], tensors: bool = False) -> Detail:
    """One checkpoint; only headers are read, unless the tensors are asked for.

    Args:
        reference: as for `references.find`.
        tensors: whether to decode it.

    Raises:
        NotFoundError, OptionError, DamagedError, FormatError: as for `references.find`.
    """
    found = find(reference)
    stored, header = found.stored, found.stored.header
    route, damaged = [stored], None
    try:
        route = chain.ancestry(found.contents, stored)
    except DamagedError as error:
        damaged = str(error)
    decoded: tuple[Tensor, ...] | None = None
    if tensors and damaged is None:
        from keras_lc.report.contents import tensors_of  # brings numpy and HDF5

        try:
            decoded = tensors_of(found)
        except DamagedError as error:
            damaged = str(error)
    return Detail(
        id=stored.name,
        path=found.path,
        file=stored.file,
        kind="base" if stored.parent is None else "delta",
        epoch=header["epoch"],
        batch=header["batch"],
        step=header["step"],
        logs={name: float(value) for name, value in header["logs"].items()},
        saved_at=datetime.fromisoformat(header["saved_at"]),
        codec=header.get("codec"),
        digest=stored.digest,
        nbytes=stored.nbytes,
        chain=tuple(map(_link, route)),
        read=sum(one.nbytes for one in route),
        full=full_sizes(found.contents).get(stored.digest),
        aim=_aim(stored),
        error=_error(stored),
        children=_children(found),
        state=None if decoded is None else sum(tensor.nbytes for tensor in decoded),
        tensors=decoded,
        damaged=damaged,
    )


def _link(stored: Stored) -> Link:
    kind = str(stored.header.get("kind") or ("delta" if stored.parent else "base"))
    codec = None if kind == "shortcut" else stored.header.get("codec")
    return Link(stored.where, kind, codec, stored.nbytes)


def _children(found: Found) -> tuple[str, ...]:
    below = chain.children(found.contents).get(found.stored.digest, [])
    return tuple(child.name for child in below)


def _aim(stored: Stored) -> float | None:
    """The error that the codec does not mean to exceed."""
    codec = stored.header.get("codec")
    if stored.parent is None or codec == "lossless":
        return 0.0
    return _SHARES.get(str(codec))


def _error(stored: Stored) -> float | None:
    """The error that was made, as far as the record tells."""
    error = stored.header.get("error")
    if isinstance(error, bool) or not isinstance(error, (int, float)):
        return None
    return float(error) if 0 <= error < math.inf else None


# `largest_share` of the presets; a test compares them with `core.presets`, which need numpy
_SHARES = {"balanced": 0.035, "fast": 0.035, "smallest": 0.042}
