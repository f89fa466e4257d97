"""The distance to a convex hull as one more property of a campaign, inside its compiled round.

Where a plan names a hull, its target may speak of `energy_above_hull_ev_per_atom`: what the heads say of the formation
energy, less the hull's energy at the crystal's composition (`physics.hull.traced`), so that guidance sees the slope of
both. After validation it moves as the formation energy does.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from crysjax.base import Estimate, Pack, Params, sum_by_crystal
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.physics.hull.traced import HullTable, hull_energy
from crysjax.predictors.predictor import Predictor

ABOVE_HULL = "energy_above_hull_ev_per_atom"
SPREAD_EV_PER_ATOM = 0.1  # what counts as one unit of the objective: the width of "metastable"


def with_hull(predictor: Predictor, table: HullTable) -> Predictor:
    """The predictor with the distance to the hull as a further column; it needs one of the formation energy."""
    if FORMATION_ENERGY not in predictor.names:
        raise ValueError(f"the heads predict no {FORMATION_ENERGY}, only {', '.join(predictor.names)}")
    column = predictor.names.index(FORMATION_ENERGY)

    def predict(params: Params, pack: Pack) -> Estimate:
        said = predictor.predict(params, pack)
        below, known = jax.vmap(lambda counts: hull_energy(counts, table))(sum_by_crystal(pack.occupancy, pack))
        above = said.value[:, column] - below.astype(said.value.dtype)
        columns = above, said.std[:, column], said.valid[:, column] & known
        return Estimate(*(jnp.concatenate([old, new[:, None]], 1) for old, new in zip(said, columns)))

    return predictor._replace(
        names=(*predictor.names, ABOVE_HULL), center=(*predictor.center, 0.0),
        scale=(*predictor.scale, SPREAD_EV_PER_ATOM), predict=predict,
    )  # fmt: skip
