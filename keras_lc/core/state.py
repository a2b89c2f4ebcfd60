"""The state of a chain of deltas, the same on the writing and on the reading side.

Each tile of a tensor is held as its last codec left it (`Exact`, `Lattice`, `LogLevel`,
`Scaled`), and `Chain.change` moves it on by one delta. Encoder and decoder both go through
here, so that they cannot disagree. States are never changed, only replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import repeat
from math import prod
from typing import Any

import numpy as np

from keras_lc import workers
from keras_lc.core import blob as blobs
from keras_lc.core.codecs import blocks, buckets, exact, first, lattice, outer, second, update
from keras_lc.core.codecs.outer import Scale
from keras_lc.core.floats import is_float, is_roomy, real_dtype
from keras_lc.core.matrix import Matrix, view
from keras_lc.core.pages import copied
from keras_lc.core.spec import TensorTable
from keras_lc.core.tiles import ALL, every
from keras_lc.errors import DamagedError, MismatchError

Change = Callable[[int, "np.ndarray | None"], None]  # moves a tile on by its symbols
Places = Iterable["np.ndarray | None"]  # flat memory for arrays
State = Any  # Absent, Exact, Lattice, LogLevel or Scaled: with .value(part) and .place(out)


class Absent:
    """A tile of a tensor of the base whose values nobody is to ask for."""

    def value(self, part: slice = ALL) -> np.ndarray:
        raise MismatchError("a delta builds on a tensor of the base that was left out.")


class Reconstruction(Mapping[str, np.ndarray]):
    """A state as a decoder sees it; each array is made when asked for, and read-only."""

    def __init__(
        self,
        table: TensorTable,
        tensors: Sequence[Sequence[State]],
        untouched: Sequence[np.ndarray | None],
    ):
        self._table = table
        self._tensors = tensors
        self._untouched = untouched

    def __getitem__(self, name: str) -> np.ndarray:
        i = self._table.index[name]
        if self._untouched[i] is None and len(self._tensors[i]) > 1:
            return next(self.several([name]))
        (piece,) = self._pieces(i)
        return self._shaped(i, piece())

    def several(self, names: Iterable[str], places: Places | None = None) -> Iterator[np.ndarray]:
        """The arrays of these names; threads are ahead by no more than a few tiles."""
        numbers = [self._table.index[name] for name in names]
        pairs = zip(numbers, places or repeat(None), strict=False)
        pieces = (piece for i, place in pairs for piece in self._pieces(i, place))
        with workers.start() as threads:
            made = workers.ordered(threads, _call, pieces)
            yield from map(self._shaped, numbers, (flat for flat in made if flat is not None))

    def _shaped(self, i: int, flat: np.ndarray | None) -> np.ndarray:
        assert flat is not None
        array = flat.reshape(self._table.shapes[i]).view()
        array.flags.writeable = False
        return array

    def _pieces(
        self, i: int, place: np.ndarray | None = None
    ) -> Iterator[Callable[[], np.ndarray | None]]:
        """What is to be done for tensor `i`; the last piece gives it, flat."""
        tensor, untouched = self._tensors[i], self._untouched[i]
        if place is None and untouched is not None:
            yield lambda: untouched
        elif place is None and len(tensor) == 1:
            yield tensor[0].value
        else:
            size, dtype = self._table.sizes[i], self._table.dtypes[i]
            out = np.empty(size, dtype) if place is None else place
            for state, tile in zip(tensor, self._table.tiles[i], strict=True):
                yield partial(_place, state, out[tile], out if tile.stop == out.size else None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.names)

    def __len__(self) -> int:
        return len(self._table.names)


def several(
    arrays: Mapping[str, np.ndarray], names: Iterable[str], places: Places | None = None
) -> Iterator[np.ndarray]:
    """Some of the arrays, one after another; those of a reconstruction are made by several
    threads, which are ahead with the next ones.

    Args:
        arrays: name to array.
        names: which.
        places: for each, flat memory of its size and dtype to which it is written, or None;
            asked for as there is room.
    """
    if isinstance(arrays, Reconstruction):
        return arrays.several(names, places)
    pairs = zip(names, places or repeat(None), strict=False)
    return (_put(arrays[name], place) for name, place in pairs)


def _put(array: np.ndarray, place: np.ndarray | None) -> np.ndarray:
    if place is None:
        return array
    place[:] = array.reshape(-1)
    return place.reshape(array.shape)


def _call(piece: Callable[[], np.ndarray | None]) -> np.ndarray | None:
    return piece()


def _place(state: State, part: np.ndarray, whole: np.ndarray | None) -> np.ndarray | None:
    if is_float(part.dtype) and part.dtype == real_dtype(part.dtype):
        state.place(part)
    else:
        part[:] = state.value()
    return whole


class Chain:
    """The state of a chain of deltas, the same on the writing and on the reading side."""

    def __init__(
        self, base: Mapping[str, np.ndarray], copy: bool = True, absent: Container[str] = ()
    ):
        self.table = TensorTable(base)
        self.tensors: list[list[State]] = []
        # tensors that no delta has changed yet, in one piece
        self.untouched: list[np.ndarray | None] = []
        # tensors of the base that are as they were, or anchors
        self.anchored: list[bool] = []
        for name, tiles in zip(self.table.names, self.table.tiles, strict=True):
            self.anchored.append(True)
            if name in absent:
                self.tensors.append([Absent()] * len(tiles))
                self.untouched.append(None)
                continue
            array = copied(np.asarray(base[name])) if copy else np.ascontiguousarray(base[name])
            flat = array.reshape(-1)
            self.tensors.append([exact.Exact(flat[tile]) for tile in tiles])
            self.untouched.append(flat)
        self.references = [-1] * len(self.table.names)
        self.sequence = 0

    @property
    def reconstruction(self) -> Reconstruction:
        """The state now; later deltas do not change it."""
        tensors = [tuple(tensor) for tensor in self.tensors]
        return Reconstruction(self.table, tensors, tuple(self.untouched))

    def sample(self, i: int, step: int) -> np.ndarray:
        """Every `step`-th value of tensor `i`."""
        pairs = zip(self.table.tiles[i], self.tensors[i], strict=True)
        return np.concatenate([state.value(every(step, tile)) for tile, state in pairs])

    def refer(self, references: list[int]) -> None:
        """Say which tensors are coded with the help of which others (-1: none)."""
        for i, of in enumerate(references):
            if of >= 0 and not (
                self.table.shapes[of] == self.table.shapes[i] and is_float(self.table.dtypes[of])
            ):
                raise DamagedError(
                    f"{self.table.names[i]!r} refers to {self.table.names[of]!r}, which is no "
                    "float tensor of its shape."
                )
        self.references = references

    def levels(self) -> list[list[int]]:
        """Tensors by level, so that each comes on a later one than that which it refers to."""
        levels: list[list[int]] = [[], [], []]
        for i in range(len(self.references)):
            depth, at = 0, i
            while self.references[at] >= 0:
                depth, at = depth + 1, self.references[at]
                if depth > 2:
                    raise DamagedError("the tensors of a delta refer to each other in a ring.")
            levels[depth].append(i)
        return levels

    def reference(self, i: int, j: int) -> State | None:
        """State of the moment that tile `j` of tensor `i` is coded with: the second moment of
        a first moment, the first moment of a weight."""
        return self.tensors[self.references[i]][j] if self.references[i] >= 0 else None

    def direction(self, i: int, j: int) -> np.ndarray | None:
        """The integers of the first moment in tile `j` of weight `i`, where there are any."""
        moment = self.reference(i, j)
        return moment.integers() if isinstance(moment, first.Scaled) else None

    def foreseen(self, i: int, j: int, params: list[Any]) -> np.ndarray:
        """Tile `j` of weight `i` after a step of the optimizer, by its moments as they are."""
        moment = self.reference(i, j)
        if moment is None:
            raise DamagedError("an update is foreseen from a moment that is not there.")
        scale = self.reference(self.references[i], j)
        v = scale.value() if scale is not None else None
        return update.predict(self.tensors[i][j].value(), moment.value(), v, params)

    def as_lattice(self, i: int, j: int) -> lattice.Lattice:
        state = self.tensors[i][j]
        return state if isinstance(state, lattice.Lattice) else lattice.start(state.value())

    def as_levels(self, i: int, j: int) -> second.LogLevel | np.ndarray:
        """The levels of a tile of second moment `i`, or its exact values where it has none."""
        state = self.tensors[i][j]
        return state if isinstance(state, second.LogLevel) else state.value()

    def keep(self, i: int, array: np.ndarray) -> Change:
        """As `change`, where a delta stores tensor `i` bit for bit: its values are those of a flat
        array, which is not copied."""

        def change(j: int, symbols: np.ndarray | None) -> None:
            self.tensors[i][j] = exact.Exact(array[self.table.tiles[i][j]])

        self.untouched[i] = None
        self.anchored[i] = False
        return change

    def change(
        self, i: int, entry: blobs.Entry, shared: Sequence[np.ndarray], own: bool = False
    ) -> Change:
        """How a delta changes tensor `i`: a function that moves tile `j` on by its symbols.

        Args:
            i: number of the tensor.
            entry: what the delta says of it.
            shared: the symbols that are not of single tiles.
            own: whether those of tiles may be overwritten.
        """
        tensor, tiles = self.tensors[i], self.table.tiles[i]
        dtype, matrix = self.table.dtypes[i], view(self.table.shapes[i])
        if entry.kind in LOSSY and not is_roomy(dtype):
            raise DamagedError(f"{self.table.names[i]!r}, a tensor of {dtype}, cannot be lossy.")
        move: Callable[[int, Any], State]
        moored = False
        match entry.kind:
            case "plain":

                def move(j: int, symbols: np.ndarray) -> State:
                    return exact.decode(symbols, dtype, None, own)

            case "difference":

                def move(j: int, symbols: np.ndarray) -> State:
                    return exact.decode(symbols, dtype, tensor[j].value(), own)

            case "update":

                def move(j: int, symbols: np.ndarray) -> State:
                    return exact.decode(symbols, dtype, self.foreseen(i, j, entry.params), own)

            case "lattice":
                step = lattice.Step.read(entry.params, matrix)
                moored = not step.rebase
                factors = outer.read(step.scale, list(shared), matrix) if step.scale else None

                def move(j: int, symbols: np.ndarray | None) -> State:
                    direction = self.direction(i, j) if step.beta else None
                    before = self.as_lattice(i, j)
                    return lattice.advance(before, step, symbols, direction, factors, tiles[j])

            case "jump":
                jump = lattice.Jump.read(entry.params)
                moored = not jump.anchored

                def move(j: int, symbols: np.ndarray) -> State:
                    before = self.as_lattice(i, j)
                    if jump.anchored:
                        each = exact.symbol_count(dtype)
                        part = shared[0][each * tiles[j].start : each * tiles[j].stop]
                        before = lattice.start(exact.decode(part, dtype, None).value())
                    return lattice.jump(before, jump, symbols)

            case "second":
                factor, anew = entry.params

                def move(j: int, symbols: np.ndarray) -> State:
                    blank = second.blank(matrix, tiles[j], dtype) if anew else None
                    before = blank or self.as_levels(i, j)
                    return second.advance(before, matrix, tiles[j], factor, shared[0], symbols)

            case "first":

                def move(j: int, symbols: np.ndarray) -> State:
                    scale = self.reference(i, j)
                    return first.advance(symbols, entry.params[0], scale, dtype, tiles[j])

            case "outer":
                scale = Scale.read(entry.params, matrix)
                moment = outer.read(scale, list(shared), matrix)

                def move(j: int, symbols: None) -> State:
                    return first.advance(moment, scale.unit, self.reference(i, j), dtype, tiles[j])

            case "buckets":

                def move(j: int, symbols: np.ndarray) -> State:
                    return buckets.advance(tensor[j].value(), entry.params, symbols)

            case "blocks":

                def move(j: int, symbols: np.ndarray) -> State:
                    first = tiles[j].start // blocks.BLOCK
                    scales = shared[0][first : first + blocks.blocks(symbols.size)]
                    return blocks.advance(scales, symbols, dtype)

        def change(j: int, symbols: np.ndarray | None) -> None:
            tensor[j] = move(j, symbols)

        self.untouched[i] = None
        self.anchored[i] &= moored
        return change


def builds_on(entry: blobs.Entry) -> bool:
    """Whether a tensor coded like this builds on what it was before."""
    anew = entry.kind == "second" and bool(entry.params[1:2] == [1])
    return not (anew or entry.kind in ("plain", "first", "outer", "blocks"))


LOSSY = ("lattice", "jump", "second", "first", "outer", "buckets", "blocks")
_INT16, _INT32 = np.dtype(np.int16), np.dtype(np.int32)
Part = tuple[str, np.dtype[Any], int]  # pool, dtype and number of symbols


def shared_parts(entry: blobs.Entry, dtype: np.dtype[Any], shape: tuple[int, ...]) -> list[Part]:
    """The symbols of a tensor coded as `entry` says that are not of single tiles."""
    matrix = view(shape)
    match entry.kind:
        case "lattice":
            scale = lattice.Step.read(entry.params, matrix).scale
            return _sides("weight", scale, matrix) if scale else []
        case "jump":
            if not lattice.Jump.read(entry.params).anchored:
                return []
            return [_exact("plain", dtype, prod(shape))]
        case "second":
            return [("axes", _INT16, matrix.sides)]
        case "outer":
            return _sides("first", Scale.read(entry.params, matrix), matrix)
        case "blocks":
            bits = np.dtype(f"i{real_dtype(dtype).itemsize}")
            return [(f"scale{8 * bits.itemsize}", bits, blocks.blocks(prod(shape)))]
    return []


def tile_part(entry: blobs.Entry, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Part | None:
    """The symbols that are: the number is that of each value."""
    match entry.kind:
        case "same" | "outer":
            return None
        case "lattice":
            step = lattice.Step.read(entry.params, view(shape))
            return ("weight", _INT32, 1) if step.corrected else None
        case "jump":
            return "way", _INT32, 1
        case "first" | "second" | "buckets" | "blocks":
            return entry.kind, _INT16, 1
    return _exact(entry.kind, dtype, 1)


def _exact(kind: str, dtype: np.dtype[Any], size: int) -> Part:
    count = size * exact.symbol_count(dtype)
    return f"{kind}{exact.width(dtype)}", exact.symbol_dtype(dtype), count


def _sides(pool: str, scale: Scale, matrix: Matrix) -> list[Part]:
    return [
        (f"{pool}{octave}", _INT32, count * length)
        for length in (matrix.rows, matrix.columns)
        for octave, count in scale.classes(length)
    ]
