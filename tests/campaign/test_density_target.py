"""The density as a target: exact, with a slope, whatever the heads predict, and moved by relaxation alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Crystal, one_hot
from crysjax.campaign import goals as targets
from crysjax.campaign.density_target import DENSITY, RELAXATION_G_CM3, with_density
from crysjax.campaign.plan import Goal
from crysjax.campaign.propose import energy
from crysjax.campaign.validate import judge, judge_error
from crysjax.data import batching
from tests.support import beside

hulls = beside(__file__, "test_hull_distance")
predictor, crystals = hulls.predictor, hulls.crystals

MGO = 40.304 / 6.02214076e23 * 1e24 / 4.0**3  # g/cm³ of one MgO in a cube of 4 Å


def mgo(edge: float) -> Crystal:
    return Crystal(one_hot(jnp.array([12, 8])), jnp.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), edge * jnp.eye(3))


def test_it_is_exact_and_validation_needs_no_heads(predictor, crystals):
    more = with_density(predictor)
    assert more.names == (*predictor.names, DENSITY) and with_density(more).names == more.names
    goals = targets.goals({DENSITY: Goal("window", 1.0, 2.0), "gap": Goal("minimise")}, more.names, more.scale)
    said = judge(goals, more, batching.capacity(crystals.num_atoms, 16), None)(crystals, np.zeros(len(crystals)))
    assert said.value[0, 0] == pytest.approx(MGO, rel=1e-5) and said.valid.all() and (said.std[:, 0] == 0).all()
    assert targets.meets(goals, said.value)[0] == (1 <= MGO <= 2)
    assert judge_error(goals, None) == (RELAXATION_G_CM3, 0.0)


def test_guidance_sees_its_slope(predictor):
    """Above a window the objective is (density - high) / spread, and the density falls as the cube of the edge."""
    more = with_density(predictor)
    goals = targets.goals({DENSITY: Goal("window", high=0.5)}, more.names, more.scale)
    aim = jax.grad(lambda edge: energy(more, more.params, goals)(batching.pack_one(mgo(edge)))[0])
    assert float(aim(jnp.float32(4.0))) == pytest.approx(-3 * MGO / 4.0 / more.scale[-1], rel=1e-4)


def test_unused_slots_have_no_density(predictor, crystals):
    more = with_density(predictor)
    batch = batching.pack_dataset(crystals, batching.capacity(crystals.num_atoms, 16))
    said = more.predict(more.params, jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), batch.pack))
    np.testing.assert_array_equal(said.valid[:, -1], batch.index[0] >= 0)


def test_what_nobody_predicts_names_the_density_too(predictor):
    with pytest.raises(ValueError, match=r"target\.mass: .*expected one of .*gap, density_g_cm3"):
        targets.goals({"mass": Goal("minimise")}, predictor.names, predictor.scale)
