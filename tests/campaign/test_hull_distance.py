"""The distance to a hull as a property of a campaign: the host's answer, its slope, and how validation moves it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Crystal, Estimate, Pack, mean_by_crystal, one_hot
from crysjax.campaign import goals as targets
from crysjax.campaign.hull_distance import ABOVE_HULL, with_hull
from crysjax.campaign.plan import Goal
from crysjax.campaign.validate import Reference, judge
from crysjax.data import batching, datasets
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.physics.hull import hull
from crysjax.predictors.predictor import Predictor

ENTRIES = {"MgO": -3.0, "TiO2": -3.2, "MgTiO3": -3.4, "Mg2TiO4": -3.1, "Ti": 0.0}
ELEMENTS = (8, 12, 22)


@pytest.fixture(scope="module")
def known() -> hull.Hull:
    counts = np.stack([hull.composition(name) for name in ENTRIES])
    return hull.hull(counts, np.array(list(ENTRIES.values())), level=hull.MATERIALS_PROJECT_2021, source="by hand")


def linear(params: jax.Array, pack: Pack) -> Estimate:
    """A formation energy that is linear in the composition, and a gap."""
    share = mean_by_crystal(pack.occupancy, pack)
    value = jnp.stack([share @ params, jnp.ones(len(share), share.dtype)], -1)
    return Estimate(value, 0.1 * jnp.ones_like(value), jnp.isfinite(value))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    params = jnp.zeros(100).at[jnp.array([7, 11, 21])].set(jnp.array([-5.0, -0.5, -1.0]))
    return Predictor((FORMATION_ENERGY, "gap"), (-2.0, 1.0), (1.0, 1.0), linear, lambda p, x: x.frac[:1], 3, params)


@pytest.fixture(scope="module")
def crystals() -> datasets.Dataset:
    rng = np.random.default_rng(0)
    numbers = [[12, 8], [22, 8, 8], [12, 22, 8, 8, 8], [12, 12, 8], [22, 22, 22, 8], [8]]
    return datasets.from_entries(
        datasets.Entry(f"c{i}", np.array(z), rng.random((len(z), 3)), 4 * np.eye(3), {}) for i, z in enumerate(numbers)
    )


def test_the_new_column_is_the_hosts_distance(known, predictor, crystals):
    table = hull.traced(known, level=known.level, elements=("O", "Mg", "Ti"))
    more = with_hull(predictor, table)
    assert more.names == (FORMATION_ENERGY, "gap", ABOVE_HULL)
    batch = batching.pack_dataset(crystals, batching.capacity(crystals.num_atoms, 16))
    pack = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), batch.pack)
    said = jax.jit(more.predict)(more.params, pack)
    rows = batch.index[0][batch.index[0] >= 0]
    part = datasets.take(crystals, rows)
    energies = np.asarray(said.value[: len(rows), 0])
    above = hull.energy_above_hull(hull.compositions(part), energies, known, level=known.level)
    np.testing.assert_allclose(said.value[: len(rows), 2], above, atol=2e-6)
    assert said.valid[: len(rows), 2].all() and not said.valid[len(rows) :, 2].any(), "unused slots have no answer"


def test_guidance_sees_the_slope_of_the_hull_too(known, predictor):
    """A little titanium for magnesium in MgO: the slope of the head less that of the hull, by differences."""
    more = with_hull(predictor, hull.traced(known, level=known.level, elements=("O", "Mg", "Ti")))

    def above(x: jax.Array) -> jax.Array:
        occupancy = (1 - x) * one_hot(jnp.array([12, 8])) + x * one_hot(jnp.array([22, 8]))
        pack = batching.pack_one(Crystal(occupancy, jnp.zeros((2, 3)), 4 * jnp.eye(3)))
        return more.predict(more.params, pack).value[0, 2]

    h, x = 1e-2, 0.2
    slope = (float(above(jnp.float32(x + h))) - float(above(jnp.float32(x - h)))) / (2 * h)
    assert jax.grad(above)(jnp.float32(x)) == pytest.approx(slope, abs=1e-3)
    assert abs(slope - (-1.0 + 0.5) / 2) > 0.05, "the head alone has another slope"


def test_validation_moves_it_with_the_formation_energy(known, predictor, crystals):
    more = with_hull(predictor, hull.traced(known, level=known.level, elements=("O", "Mg", "Ti")))
    goals = targets.goals({ABOVE_HULL: Goal("minimise"), FORMATION_ENERGY: Goal("minimise")}, more.names, more.scale)
    elements = np.full(100, np.nan, np.float32)
    elements[np.array(ELEMENTS) - 1] = [-1.0, -2.0, -3.0]
    shape = batching.capacity(crystals.num_atoms, 16)
    energy = np.linspace(-6, -4, len(crystals)).astype(np.float32)
    judged = judge(goals, more, shape, Reference(elements, 0.3))(crystals, energy)
    formation = energy - np.array([elements[e.numbers - 1].mean() for e in datasets.entries(crystals)])
    np.testing.assert_allclose(judged.value[:, 1], formation, atol=1e-5)
    above = hull.energy_above_hull(hull.compositions(crystals), formation, known, level=known.level)
    np.testing.assert_allclose(judged.value[:, 0], above, atol=1e-5)
    assert judged.valid.all() and (judged.std == np.float32(0.3)).all()


def test_heads_without_a_formation_energy_are_refused(known, predictor):
    table = hull.traced(known, level=known.level)
    with pytest.raises(ValueError, match="the heads predict no formation_energy_ev_per_atom, only gap"):
        with_hull(predictor._replace(names=("gap",)), table)
