"""What a round costs and what its drafts bring, learnt from the rounds that were done.

Plain arithmetic on a few numbers: it is asked and told once a round, between two model calls.
Rows: how many decode together. K: the drafted tokens asked of each row, 0 for plain decoding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

_NUM_FEATURES = 4
_NEWEST = 16
_HALF_LIFE_ROUNDS = 256
_FEW = 4
_SOLVE_EVERY = 16
_FIRST_OUTLIER = 3.0


class RobustMean:
    """The mean of the middle half of the newest 16 values: odd ones are not in it.

    A round 20 times as slow as the others changes nothing, and a lasting change is followed in
    about 8 values. Of two values it is the lesser: a first call is often a slow one.
    """

    __slots__ = ("_newest", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._newest: deque[float] = deque(maxlen=_NEWEST)

    def __len__(self) -> int:
        return len(self._newest)

    def add(self, value: float) -> None:
        """Learn a value that is not negative."""
        self._newest.append(value)
        ordered = sorted(self._newest)
        count = len(ordered)
        middle = ordered[count // 4 : max(count - (count + 1) // 4, count // 4 + 1)]
        if count == 2:
            middle = ordered[:1]
        self.value = sum(middle) / len(middle)


class RoundCosts:
    """Seconds of a round by rows and K.

    Each (rows, K) that was seen lately is its own running mean. The others come from a model, by
    least squares with forgetting, of ``a + b rows + c K + d rows K``, scaled so that it fits what
    was seen with these rows. The first values of a pair count as at most three times what was
    expected, so that one odd round does not give a K a bad name. With one number of rows seen so
    far the model is about proportional to them.
    """

    def __init__(self) -> None:
        self._model = _LeastSquares()
        self._seen: dict[int, dict[int, tuple[RobustMean, int]]] = {}
        self._now = 0

    def observe(self, rows: int, num_tokens: int, seconds: float) -> None:
        """Learn a round; a time that is zero or less (a clock too coarse) says nothing."""
        if seconds <= 0:
            return
        self._now += 1
        by_length = self._seen.setdefault(rows, {})
        mean = by_length[num_tokens][0] if num_tokens in by_length else RobustMean()
        if by_length and len(mean) < _FEW:
            expected = self.predict(rows, (0, num_tokens))
            seconds = clipped(seconds, expected[1], _FIRST_OUTLIER) if expected else seconds
        mean.add(seconds)
        by_length[num_tokens] = (mean, self._now)
        # The mean, not the time itself, which may be an odd one.
        self._model.add(_features(rows, num_tokens), mean.value)

    def predict(self, rows: int, lengths: Sequence[int]) -> list[float] | None:
        """Seconds of a round at each K of ``lengths``, the first of which is 0.

        None while no round was seen. Not less at a greater K: a draft is work.
        """
        if self._now == 0:
            return None
        model = [max(self._model.predict(_features(rows, k)), 0.0) for k in lengths]
        seen = self._seen.get(rows, {})
        weights = {k: self._weight(mean, at) for k, (mean, at) in seen.items()}
        total = sum(weights.values())
        scale = 1.0
        if total:
            by_model = {k: max(self._model.predict(_features(rows, k)), 0.0) for k in seen}
            modelled = sum(weights[k] * by_model[k] for k in seen)
            if modelled > 0:
                scale = sum(weights[k] * seen[k][0].value for k in seen) / modelled
        costs: list[float] = []
        for k, by_model_s in zip(lengths, model):
            weight = weights.get(k, 0.0)
            local = seen[k][0].value if weight else 0.0
            cost = (weight * local + scale * by_model_s) / (weight + 1)
            costs.append(max(cost, costs[0]) if costs else cost)
        return costs

    def _weight(self, mean: RobustMean, at: int) -> float:
        """Of a running mean against the model: more with values, less with age."""
        return len(mean) * 0.5 ** ((self._now - at) / _HALF_LIFE_ROUNDS)


class AcceptanceModel:
    """How many drafted tokens are kept of a block of K, by the positions within blocks.

    Position i has the share, among lately asked blocks that kept i - 1 tokens, of those that kept
    one more; they multiply. Each position begins with the share of the position before it, worth
    ``prior_blocks`` blocks, so a few bad blocks do not condemn drafting, and positions that were
    never asked for continue the trend. What was asked but not drafted, as the proposer had nothing
    or was not sure, was not kept: the answer is to "what does it bring to ask for K?".
    """

    def __init__(
        self,
        max_tokens: int,
        *,
        prior_share: float = 0.7,
        prior_blocks: float = 3.0,
        memory_blocks: float = 100.0,
    ) -> None:
        self._prior_share = prior_share
        self._prior_blocks = prior_blocks
        self._keep = 1 - 1 / memory_blocks
        self._reached = [0.0] * max_tokens
        self._passed = [0.0] * max_tokens

    def observe(self, asked: int, accepted: Sequence[int]) -> None:
        """Learn the tokens kept of each block of ``asked`` tokens."""
        reached, passed, keep = self._reached, self._passed, self._keep
        for num_accepted in accepted:
            for i in range(min(asked, num_accepted + 1)):
                reached[i] = reached[i] * keep + 1
                passed[i] = passed[i] * keep + (i < num_accepted)

    def fade(self, share: float) -> None:
        """Forget so much of what was learnt: it is from long ago."""
        self._reached = [weight * (1 - share) for weight in self._reached]
        self._passed = [weight * (1 - share) for weight in self._passed]

    def expected(self) -> list[float]:
        """Mean tokens kept of a block of K, for each K from 0 on."""
        share, survival, mean = self._prior_share, 1.0, 0.0
        means = [0.0]
        for reached, passed in zip(self._reached, self._passed):
            share = (passed + self._prior_blocks * share) / (reached + self._prior_blocks)
            survival *= share
            mean += survival
            means.append(mean)
        return means


class _LeastSquares:
    """Linear least squares with forgetting, by the normal equations; a little ridge decides what
    the data leave open."""

    def __init__(self) -> None:
        self._keep = 1 - 1 / 300
        self._num_added = 0
        self._products = [[0.0] * (_NUM_FEATURES + 1) for _ in range(_NUM_FEATURES)]
        self._weights: list[float] | None = None

    def add(self, features: Sequence[float], value: float) -> None:
        row = (*features, value)
        keep = self._keep
        for products, feature in zip(self._products, features):
            for j, other in enumerate(row):
                products[j] = products[j] * keep + feature * other
        self._num_added += 1
        if self._num_added <= 2 * _SOLVE_EVERY or self._num_added % _SOLVE_EVERY == 0:
            self._weights = None

    def predict(self, features: Sequence[float]) -> float:
        if self._weights is None:
            self._weights = self._solve()
        return sum(weight * feature for weight, feature in zip(self._weights, features))

    def _solve(self) -> list[float]:
        """Gaussian elimination; the ridge keeps the diagonal positive."""
        ridge = 1e-4 * max(products[i] for i, products in enumerate(self._products)) + 1e-12
        rows = [list(products) for products in self._products]
        for i, row in enumerate(rows):
            row[i] += ridge
        for i, pivot in enumerate(rows):
            for row in rows[i + 1 :]:
                factor = row[i] / pivot[i]
                for j in range(i, _NUM_FEATURES + 1):
                    row[j] -= factor * pivot[j]
        weights = [0.0] * _NUM_FEATURES
        for i in reversed(range(_NUM_FEATURES)):
            known = sum(rows[i][j] * weights[j] for j in range(i + 1, _NUM_FEATURES))
            weights[i] = (rows[i][-1] - known) / rows[i][i]
        return weights


def clipped(value: float, usual: float, factor: float) -> float:
    """At most ``factor`` times what is usual, and at least that part of it."""
    return min(max(value, usual / factor), usual * factor)


def _features(rows: int, num_tokens: int) -> tuple[float, ...]:
    """Of the order of one each, so that the ridge weighs on them alike."""
    return (1.0, rows / 8, num_tokens / 8, rows * num_tokens / 64)
