"""Verdicts on crystals, not on descriptions: 24 namings of the axes leave every answer of the judge as it was.

With a network that sees the crystal alone (`nets/equivariant`, small, random weights): the heads that a campaign judges
by have to be built on such a one.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.campaign import goals as targets
from crysjax.campaign.inspect import inspector
from crysjax.campaign.plan import Goal
from crysjax.campaign.validate import Reference, judge
from crysjax.data import batching, datasets
from crysjax.data.datasets import Dataset, Entry
from crysjax.evaluation.gates import gates
from crysjax.nets.equivariant import equivariant
from crysjax.predictors.heads import heads
from crysjax.predictors.predictor import Predictor

ENERGY, GAP = "formation_energy_ev_per_atom", "band_gap_ev"
CRYSTALS, SHAPE = 12, batching.Capacity(sites=40, pairs=64, crystals=12)
NAMINGS = [(list(p), np.array(s)) for p in itertools.permutations(range(3)) for s in
           ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))]  # fmt: skip


def crystals() -> list[Entry]:
    """Skewed cells of two to four atoms; the last two are fused and too thin."""
    rng, rows = np.random.default_rng(0), []
    for i in range(CRYSTALS):
        n = 2 + i % 3
        cell = 3.0 * n ** (1 / 3) * (np.eye(3) + 0.15 * rng.normal(size=(3, 3))) * (4 if i == CRYSTALS - 1 else 1)
        frac = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0, 0.5, 0.5]])[:n] + 0.05 * rng.normal(size=(n, 3))
        if i == CRYSTALS - 2:
            frac[1] = frac[0] + 0.15
        rows.append(Entry(f"c{i}", rng.choice([3, 8, 12, 22, 38], n), frac, cell, {}))
    return rows


def named(rows: list[Entry], order: list[int], sign: np.ndarray) -> Dataset:
    """The same crystals with their axes in another order, some of them backwards."""
    return datasets.from_entries(
        row._replace(frac=(row.frac * sign)[:, order], lattice=(row.lattice * sign[:, None])[order]) for row in rows
    )


@pytest.fixture(scope="module")
def ask():
    """Crystals -> values, std, reasons and probabilities of a hit."""
    network = equivariant(hidden_irreps="8x0e + 4x1o + 2x2e", layers=1, neighbors=8.0, max_neighbors=24, radial_width=8)
    model = heads(network, names=(GAP, ENERGY), center=(1.5, -2.0), scale=(1.0, 1.0), std=(0.2, 0.1), hidden=8)
    goals = targets.goals({GAP: Goal("window", 1.0, 2.0), ENERGY: Goal("minimise")}, (GAP, ENERGY), (1.0, 1.0))
    pack = jax.tree.map(
        lambda leaf: jnp.asarray(leaf[0]), batching.pack_dataset(named(crystals(), *NAMINGS[0]), SHAPE).pack
    )
    drawn = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.4 * drawn.normal(size=leaf.shape), leaf.dtype),
                          jax.eval_shape(model.init, jax.random.key(0), pack))  # fmt: skip
    predictor = Predictor((GAP, ENERGY), (1.5, -2.0), (1.0, 1.0), model.predict, model.features, 0, params)
    judged = judge(goals, predictor, SHAPE, Reference(np.full(100, -1.0, np.float32), 0.1))
    inspect = inspector(gates(max_atoms=4), SHAPE)

    def answer(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
        said = judged(dataset, np.full(len(dataset), -3.0, np.float32))
        return (
            said.value,
            said.std,
            inspect(dataset).reason.tolist(),
            targets.hit_probability(goals, said.value, said.std),
        )

    return answer


def test_no_naming_of_the_axes_changes_a_verdict(ask):
    value, std, reason, p_hit = ask(named(crystals(), *NAMINGS[0]))
    assert np.ptp(value[:, 0]) > 0.1 and np.ptp(p_hit) > 0.03, "verdicts that are all alike show nothing"
    assert reason[-2].startswith("sites too close") and reason[-1].startswith("volume") and reason.count("") >= 4
    for order, sign in NAMINGS[1:]:
        again = ask(named(crystals(), order, sign))
        np.testing.assert_allclose(again[0], value, atol=1e-4)
        np.testing.assert_array_equal(again[1], std)
        assert again[2] == reason, (order, sign)
        np.testing.assert_allclose(again[3], p_hit, atol=1e-4)
