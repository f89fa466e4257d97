"""The report that goes into a model's card."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from crysjax.base import Estimate
from crysjax.data import batching, datasets
from crysjax.data.entry import Entry
from crysjax.predictors.heads import Heads
from crysjax.training.recalibrate import calibrate


def test_the_bias_of_heads_that_are_too_high_is_positive():
    """Heads that say 2 where labels are about 0.5: prediction - truth is 1.5; one half of them fits the other half."""
    places = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    rows = [Entry(str(k), np.array([11, 17]), places, 4 * np.eye(3), {}) for k in range(80)]
    labels = 0.5 + 0.1 * np.random.default_rng(0).normal(size=len(rows))
    held_out = replace(datasets.from_entries(rows), properties={"gap": labels})

    def predict(params, pack):
        value = jnp.full((len(pack.lattice), 1), 2.0)
        return Estimate(value, jnp.ones_like(value), value == value)

    never = lambda *_: None  # noqa: E731
    heads = Heads(("gap",), never, never, predict, never, lambda params, pack: jnp.zeros(len(pack.lattice)))
    settings, report = calibrate(heads, {}, {}, held_out, batching.capacity(held_out.num_atoms))
    assert abs(report["gap"]["bias"] - 1.5) < 0.1  # of 40 labels or so: six standard errors
    np.testing.assert_allclose(settings["heads.std"], np.sqrt(np.mean(np.square(2 - labels))), rtol=1e-5)
