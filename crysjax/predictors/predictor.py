"""Property heads with their parameters, as campaigns and evaluation ask them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import Array

from crysjax.base import Estimate, Pack, Params
from crysjax.data import batching
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset
from crysjax.predictors.heads import Whole


class Predictor(NamedTuple):
    """Property heads with their parameters, and the learned features that surrogates work on."""

    names: tuple[str, ...]
    center: tuple[float, ...]  # mean and spread of each property in the training data
    scale: tuple[float, ...]
    predict: Callable[[Params, Pack], Estimate]  # (params, pack) -> (b, k)
    features: Callable[[Params, Pack], Array]  # (params, pack) -> (b, width)
    width: int
    params: Params
    novelty: Callable[[Params, Pack], Array] | None = None  # (params, pack) -> (b,), see `predictors.novelty`
    limit: float = math.inf  # of the novelty, beyond which a crystal is outside the training data; infinite: not known
    whole: Callable[[Params, Pack], Whole] | None = None  # the three functions above together, see `Heads.together`

    def together(self, params: Params, pack: Pack) -> tuple[Estimate, Array | None, Array]:
        """Predictions, novelty (None where it is not known) and features, for one pass of the network if it can be."""
        if self.whole is None:
            novelty = None if self.novelty is None else self.novelty(params, pack)
            return self.predict(params, pack), novelty, self.features(params, pack)
        said = self.whole(params, pack)
        return said.estimate, None if self.novelty is None else said.novelty, said.features


def estimate(
    predict: Callable[[Params, Pack], Estimate], params: Params, crystals: Dataset, shape: Capacity
) -> Estimate:
    """What heads say of a data set: host arrays (m, k)."""
    predict = jax.jit(predict)
    return batching.each_crystal(lambda pack: predict(params, pack), crystals, shape)
