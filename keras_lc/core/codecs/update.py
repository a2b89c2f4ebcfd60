"""Weights bit for bit, as what the optimizer's own arithmetic does not foresee.

After one step the new weights follow from the old ones and the new moments, and a decoder
has both. Adam (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980) moves a weight by
`rate * m / (sqrt(v) + epsilon)`; AdamW (Loshchilov & Hutter, https://arxiv.org/abs/1711.05101)
shrinks it by a share of itself first; momentum moves it by `m`, Nesterov's by more of `m` and
by the gradient, which is what `m` has gained. A tensor then costs four numbers, and the few
values whose last bits they miss.

The formulas are those of Keras (`keras/src/optimizers`), one IEEE operation after the other
in the tensor's own precision, so that all machines agree. The numbers are found from the data
alone, by least squares over a sample with the rounding of the formula left in: where the
sample agrees in every bit, nothing is left to fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import inf

import numpy as np

from keras_lc.core.floats import is_roomy
from keras_lc.errors import DamagedError

MOMENTUM, ADAM, NESTEROV, NESTEROV_APART = range(4)
_RATES = {MOMENTUM: -1.0, ADAM: 0.0, NESTEROV: 0.9, NESTEROV_APART: 0.9}  # to start from
_EPSILONS = (1e-7, 1e-8)  # of Keras, and of others
_SAMPLE, _PROBE = 4096, 256
_FEW = 16  # values that are not worth a search, or do not allow one
_FINE, _FAIR = 0.001, 0.01  # shares of missed values that end a search, or make it needless
_FAR = 100  # units in the last place between a weight and a formula that is not its own
_ROUNDS = 6
_LARGEST = 1e300


def predict(
    before: np.ndarray,
    m: np.ndarray,
    v: np.ndarray | None,
    params: Sequence[float],
    m_before: np.ndarray | None = None,
) -> np.ndarray:
    """The weights after a step, as far as the formula of the optimizer tells.

    Args:
        before: the weights before the step, flat.
        m: the first moments after it, flat.
        v: the second moments after it, flat; None where there are none.
        params: form, rate, epsilon and decay, as `fit` found them.
        m_before: the first moments before the step, flat; only Nesterov's forms need them.

    Raises:
        DamagedError: `params` are none that `fit` returns for such arrays.
    """
    form = _form(params)
    other = {MOMENTUM: m, ADAM: v}.get(form, m_before)
    if other is None or not _alike(before, m, other):
        raise DamagedError(f"an update of form {form} is impossible for this tensor.")
    with np.errstate(all="ignore"):
        w, m, other = (a.astype(before.dtype, copy=False) for a in (before, m, other))
        return _step(w, m, other, params).astype(before.dtype, copy=False)


def fit(
    now: np.ndarray,
    before: np.ndarray,
    m: np.ndarray,
    v: np.ndarray | None,
    m_before: np.ndarray | None = None,
    known: Iterable[Sequence[float]] = (),
) -> list[float] | None:
    """The `params` with which `predict` comes nearest to `now`.

    Args:
        now: the weights after the step, flat.
        before, m, v, m_before: as in `predict`.
        known: what was found for other tensors of the same step, tried first; that saves the
            search, and a tensor of a few values has no other way.

    Returns:
        Form, rate, epsilon and decay, or None where the weights do not follow from them.
    """
    if v is not None:
        others = {ADAM: v}
    elif m_before is not None:
        others = {MOMENTUM: m, NESTEROV: m_before, NESTEROV_APART: m_before}
    else:
        others = {MOMENTUM: m}
    if not _alike(now, before, m, *others.values()):
        return None
    with np.errstate(all="ignore"):
        searches = {form: _Search(form, now, before, m, other) for form, other in others.items()}
        for params in known:
            search = searches.get(_form(params))
            if search is not None and search.takes(list(params), _FAIR, _FEW):
                return search.params
        for search in searches.values():
            if search.probe().is_promising() and search.run():
                break
    return min(searches.values(), key=lambda search: search.missed).params


def _form(params: Sequence[float]) -> int:
    numbers = [type(x) in (int, float) and abs(x) <= _LARGEST for x in params]
    if len(numbers) != 4 or not all(numbers) or params[0] not in _RATES:
        raise DamagedError(f"an update by {list(params)} is impossible.")
    return int(params[0])


def _alike(*arrays: np.ndarray) -> bool:
    return all(is_roomy(a.dtype) and a.shape == arrays[0].shape for a in arrays)


def _step(w: np.ndarray, m: np.ndarray, other: np.ndarray, params: Sequence[float]) -> np.ndarray:
    """`other` is the second moment for Adam, the old first one for Nesterov."""
    rate, epsilon, decay = (w.dtype.type(float(x)) for x in params[1:])
    if decay:
        w = w - w * decay
    move = m * rate
    match params[0]:
        case 0:
            return w - move
        case 1:
            root = np.sqrt(other)
            root += epsilon
            move /= root
            return w - move
        case 2:
            return w + (move - (other * rate - m))
    return (w - (other * rate - m)) + move  # Keras on PyTorch


class _Search:
    """The numbers of one form that come nearest to a sample of a tensor.

    Least squares are in double precision, and in units of the last place of the weights.
    """

    def __init__(
        self, form: int, now: np.ndarray, before: np.ndarray, m: np.ndarray, other: np.ndarray
    ):
        step = now.size // _SAMPLE | 1
        sample = [a[::step].astype(now.dtype) for a in (now, before, m, other)]
        finite = np.logical_and.reduce([np.isfinite(a) for a in sample])
        if form == ADAM:
            finite &= sample[-1] >= 0
        self.form = form
        self.now, self.w, self.m, self.other = (a[finite] for a in sample)
        self.moved = self.now != self.w
        self.count = int(np.count_nonzero(self.moved))
        self.params: list[float] | None = None
        self.missed = self.count / 2  # values, by `params`; with more there are none

        now, w, m, other = (a[finite].astype(np.float64) for a in sample)
        largest = np.maximum(np.abs(self.now), np.abs(self.w))
        # a weight that is kept at zero says nothing
        self._unit = np.where(largest > 0, np.spacing(largest).astype(np.float64), inf)
        self._now, self._w, self._m = now / self._unit, w / self._unit, m / self._unit
        self._other = np.sqrt(other) if form == ADAM else other / self._unit

    def takes(self, params: list[float], share: float = _FINE, few: int = 0) -> bool:
        """Keep these numbers if they are the best so far; whether the best are good enough:
        they miss no more than a share of the moved values, or a few."""
        step = _step(self.w, self.m, self.other, params)
        missed = int(np.count_nonzero(step != self.now))
        if missed < self.missed:
            self.params, self.missed = params, missed
        return self.params is not None and self.missed <= max(few, share * self.count)

    def probe(self) -> _Search:
        """The same on a few of the values that have moved."""
        rows = np.flatnonzero(self.moved)[:: self.count // _PROBE | 1]
        return _Search(self.form, *(a[rows] for a in (self.now, self.w, self.m, self.other)))

    def is_promising(self) -> bool:
        """Whether some numbers come near."""
        if self.count < _FEW:
            return False
        for epsilon in (self._epsilon(), *_EPSILONS[: self.form == ADAM]):
            params = self._start(epsilon)
            for i in range(4):
                params, error = self._refine(params, with_decay=True, trim=i > 0)
            if error < _FAR:
                return True
        return False

    def run(self) -> bool:
        """Look for the best numbers, the plain ones first; whether they are as good as any."""
        for epsilon in self._epsilons():
            for with_decay in (False, True):
                if self._descend(self._start(epsilon), with_decay):
                    return True
            if self.missed <= _FAIR * self.count:
                break
        return False

    def _epsilons(self) -> Iterator[float]:
        if self.form != ADAM:
            yield 0.0
            return
        yield from _EPSILONS
        free = self._epsilon()
        yield float(f"{free:.0e}")
        yield free

    def _start(self, epsilon: float) -> list[float]:
        return [self.form, _RATES[self.form], epsilon, 0.0]

    def _descend(self, params: list[float], with_decay: bool) -> bool:
        for i in range(_ROUNDS):
            if self.takes(params):
                return True
            last = params
            params, error = self._refine(params, with_decay, trim=i > 0)
            if i > 1 and error > _FAR:
                return False
            if params == last:
                break
        form, rate, *rest = params
        own = self.now.dtype.type
        for toward in (inf, -inf):  # rounding hides which of these it was
            near = own(rate)
            for _ in range(2):
                near = np.nextafter(near, own(toward))
                if self.takes([form, self._short(near), *rest]):
                    return True
        return False

    def _refine(
        self, params: list[float], with_decay: bool, trim: bool
    ) -> tuple[list[float], float]:
        """The next step of least squares, and the error (a median) before it."""
        form, rate, epsilon, decay = params
        step = _step(self.w, self.m, self.other, params)
        error = self._now - step.astype(np.float64) / self._unit
        size = np.abs(error)
        median = float(np.median(size[self.moved]))
        held = size <= (4 * median + 2 if trim else inf)  # others follow from something else
        slopes = [self._slope(epsilon), -self._w][: 1 + with_decay]
        gain = _solve([np.where(held, a, 0) for a in slopes], np.where(held, error, 0))
        rate, decay = self._short(rate + gain[0]), self._short(decay + sum(gain[1:]))
        return [form, rate, epsilon, decay], median

    def _slope(self, epsilon: float) -> np.ndarray:
        """By how much the new weights grow with the rate."""
        if self.form == ADAM:
            return -self._m / np.maximum(self._other + epsilon, 1 / _LARGEST)
        return -self._m if self.form == MOMENTUM else self._m - self._other

    def _epsilon(self) -> float:
        """From `d * root = rate * m - epsilon * d + decay * root * w + epsilon * decay * w`,
        where `d` is by how much a weight has shrunk."""
        rows = self.moved & (self._other > 0)
        if self.form != ADAM or not rows.any():
            return 0.0
        m, w, root = self._m[rows], self._w[rows], self._other[rows]
        d = w - self._now[rows]
        epsilon = float(np.median(root))
        for _ in range(2):
            even = 1 / (root + epsilon)  # as noisy as `d`
            columns = [m * even, -d * even, root * w * even, w * even]
            epsilon = max(_solve(columns, d * root * even)[1], 0.0)
        return self._short(epsilon)

    def _short(self, x: float) -> float:
        """The shortest number that is `x` in the precision of the weights."""
        x = float(str(self.now.dtype.type(x)))
        return x if abs(x) <= _LARGEST else 0.0


def _solve(columns: list[np.ndarray], target: np.ndarray) -> list[float]:
    """Least squares; zeros where that has no answer."""
    matrix = np.stack([*columns, target])
    lengths = np.sqrt((matrix * matrix).sum(axis=1))
    lengths[lengths == 0] = 1
    matrix /= lengths[:, None]
    gram = matrix @ matrix.T
    if not np.isfinite(gram).all():
        return [0.0] * len(columns)
    values, vectors = np.linalg.eigh(gram[:-1, :-1])
    inverse = np.where(values > 1e-13, 1 / values, 0.0)
    solution = vectors @ (inverse * (vectors.T @ gram[:-1, -1]))
    return [float(x) for x in solution * lengths[-1] / lengths[:-1]]
