"""The density as one more property of a campaign: exact from the crystal, whatever the heads predict.

A target may speak of `density_g_cm3` with any heads. Its slope steers like that of a prediction. What is uncertain
about a crystal as drawn is how far relaxation will move it; after relaxation nothing is.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from crysjax.base import Estimate, Pack, Params
from crysjax.chemistry.element_properties import masses_amu
from crysjax.physics.density import of_pack_g_cm3
from crysjax.predictors.predictor import Predictor

DENSITY = "density_g_cm3"
RELAXATION_G_CM3 = 1.3
"""Standard deviation of what relaxation changes: 1.48 times the median, 0.87, of 61 free samples of mp_20_wyckoff with
up to 8 atoms, relaxed by the student for 100 steps; for mp_20_generator the median is 0.67. The tails are wider: root
mean squares are 2.5 and 1.5. No raw result was kept.
"""
CENTER, SPREAD = 6.71, 2.98  # g/cm³: mean and standard deviation of the 9047 crystals of MP-20's validation part


def with_density(predictor: Predictor) -> Predictor:
    """The predictor with the density as a further column, or in the place of what the heads say of it."""
    density, heads = of_pack_g_cm3(masses_amu()), [k for k, name in enumerate(predictor.names) if name != DENSITY]

    def predict(params: Params, pack: Pack) -> Estimate:
        said = predictor.predict(params, pack)
        value = density(pack).astype(said.value.dtype)
        columns = value, jnp.zeros_like(value), jnp.isfinite(value) & (value > 0)  # unused slots weigh nothing
        rest = (leaf[:, np.array(heads, int)] for leaf in said)
        return Estimate(*(jnp.concatenate([old, new[:, None]], 1) for old, new in zip(rest, columns)))

    return predictor._replace(
        names=(*(predictor.names[k] for k in heads), DENSITY), center=(*(predictor.center[k] for k in heads), CENTER),
        scale=(*(predictor.scale[k] for k in heads), SPREAD), predict=predict,
    )  # fmt: skip
