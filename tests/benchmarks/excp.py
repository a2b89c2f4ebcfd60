"""ExCP's rule, to compare with; not a codec of the package.

The method of "ExCP: Extreme LLM Checkpoint Compression via Weight-Momentum Joint Shrinking"
(Li et al., ICML 2024, https://arxiv.org/abs/2406.11257): of each weight the difference to the
reconstructed previous checkpoint, where it is large; of its moments the values where both the
first moment and that difference are; all else is zero. What is left becomes one of
`2**bits - 1` centres a tensor, by k-means. Thresholds and their cap are those of its published
code, https://github.com/Gaffey/ExCP.

Sizes are the order-0 entropy of the indices and 32 bits a centre, no names and no headers. That
flatters the method: it is what an ideal coder of single indices would need, where the paper
packs two of them into a byte and calls 7zip.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from keras_lc.core import TensorSpec
from keras_lc.core.floats import is_float, real_dtype
from keras_lc.core.spec import TensorTable

SMALLEST = 16  # tensors of fewer values are stored exactly
CAP = 2.5  # the threshold of differences, in medians, is never higher
SAMPLE, ITERATIONS = 20_000, 10


class ExCP:
    """Encodes each state against what a decoder has; used like `DeltaEncoder`.

    A weight without second moment has `CAP` medians as threshold; a second moment without
    first is kept where the difference is; a moment without weight is stored exactly.

    Args:
        base: name to array; it is copied.
        specs: the role of each tensor.
        alpha: differences are kept above `alpha / sqrt(mean(v))` medians, `CAP` at most.
        beta: moments are kept where the first is above `beta` times the mean of its absolute
            values, and the difference was kept.
        bits: of an index.
        cap_only: the threshold of differences is `CAP` medians always.
    """

    def __init__(
        self,
        base: Mapping[str, np.ndarray],
        specs: Iterable[TensorSpec],
        alpha: float = 5e-5,
        beta: float = 2.0,
        bits: int = 4,
        cap_only: bool = False,
    ):
        self._table = TensorTable(base)
        self._alpha, self._beta, self._cap_only = alpha, beta, cap_only
        self._centres = 2**bits - 1
        #: What a decoder has after the last checkpoint, name to array.
        self.reconstruction = {name: np.array(base[name]) for name in self._table.names}
        lossy = {
            spec.name: spec
            for spec in self._table.resolve(specs)
            if is_float(self.reconstruction[spec.name].dtype)
            and self.reconstruction[spec.name].size >= SMALLEST
        }
        self._weights = [name for name, spec in lossy.items() if spec.role == "weight"]
        self._moments = {
            (spec.of, spec.role): name
            for name, spec in lossy.items()
            if spec.of in self._weights
            and self.reconstruction[spec.of].shape == self.reconstruction[name].shape
        }

    def encode(self, state: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Bits that a checkpoint takes, by role."""
        arrays = dict(zip(self._table.names, self._table.check(state), strict=True))
        bits = dict.fromkeys(("weight", "first_moment", "second_moment", "exact"), 0.0)
        after: dict[str, np.ndarray] = {}

        def store(role: str, name: str, kept: np.ndarray, before: np.ndarray | None) -> None:
            """What is kept of a tensor, as centres, on top of what there was."""
            values, taken = quantised(kept, self._centres)
            values = values if before is None else before + values
            after[name] = values.astype(arrays[name].dtype)
            bits[role] += taken

        for name in self._weights:
            m, v = (self._moments.get((name, role)) for role in ("first_moment", "second_moment"))
            before = _real(self.reconstruction[name])
            residual = _real(arrays[name]) - before
            size = np.abs(residual)
            kept = size > self._factor(None if v is None else arrays[v]) * np.median(size)
            store("weight", name, np.where(kept, residual, 0), before)
            if m is not None:
                size = np.abs(_real(arrays[m]))
                kept &= size > self._beta * size.mean()
                store("first_moment", m, np.where(kept, _real(arrays[m]), 0), None)
            if v is not None:
                store("second_moment", v, np.where(kept, _real(arrays[v]), 0), None)
        for name in arrays.keys() - after.keys():
            after[name] = np.array(arrays[name])
            bits["exact"] += 8 * arrays[name].nbytes
        self.reconstruction = after
        return bits

    def _factor(self, v: np.ndarray | None) -> float:
        """The threshold of differences, in medians."""
        mean = 0.0 if v is None or self._cap_only else float(_real(v).mean(dtype=np.float64))
        return min(CAP, self._alpha / mean**0.5) if mean else CAP


def quantised(values: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """The values, all but zeros replaced by the nearest of `count` centres, and the bits that
    indices and centres take."""
    kept = values != 0
    some = values[kept]
    centres = k_means(some, count).astype(np.float32)
    index = np.searchsorted((centres[1:] + centres[:-1]) / 2, some)
    counts = np.append(np.bincount(index, minlength=centres.size), values.size - some.size)
    counts = counts[counts > 0]
    out = np.zeros_like(values)
    out[kept] = centres[index]
    return out, float(counts @ np.log2(values.size / counts)) + 32 * centres.size


def k_means(values: np.ndarray, count: int) -> np.ndarray:
    """Centres of one-dimensional clusters, ascending: Lloyd's algorithm from quantiles, on a
    sample. Fewer where there are not as many different values."""
    sample = np.sort(values[:: -(-values.size // SAMPLE) or 1]).astype(np.float64)
    if values.size <= count:
        return np.unique(sample)
    shares = (np.arange(count) + 0.5) / count
    centres = np.unique(np.quantile(sample, shares, method="inverted_cdf"))
    for _ in range(ITERATIONS):
        inner = np.searchsorted(sample, (centres[1:] + centres[:-1]) / 2, side="right")
        edges = np.concatenate([[0], inner, [sample.size]])
        sizes = np.diff(edges)
        filled = sizes > 0  # the others are left out
        centres = np.add.reduceat(sample, edges[:-1][filled]) / sizes[filled]
    return centres


def _real(array: np.ndarray) -> np.ndarray:
    return array.astype(real_dtype(array.dtype), copy=False)
