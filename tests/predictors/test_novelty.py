"""Distance from the training data: closed forms, and a std that grows with it."""

import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import NUM_SPECIES, Estimate, Pack, one_hot
from crysjax.crystallography.contacts import radii_angstrom
from crysjax.predictors import novelty
from crysjax.predictors.heads import Heads, aware


def pack_of(numbers: list[int], edge: float | None = None) -> Pack:
    """Two crystals of two sites each, and an unused slot; cubes with one and a half times the largest bond as edge.

    With an `edge` in Å, the first crystal has that one.
    """
    radii = radii_angstrom()[np.asarray(numbers) - 1]
    edges = np.array([2 * radii[:2].max(), 2 * radii[2:].max(), 1.0])
    edges[0] = edges[0] if edge is None else edge
    frac = jnp.asarray([[0.0] * 3, [0.5] * 3, [0.0] * 3, [0.5] * 3, [0.0] * 3])
    return Pack(one_hot(jnp.asarray([*numbers, 0])), frac, jnp.asarray(edges[:, None, None] * np.eye(3), jnp.float32),
                jnp.asarray([0, 0, 1, 1, 2]), jnp.asarray([[0, 1], [2, 3]]), jnp.ones(2))  # fmt: skip


def stats(count: int = 4000) -> dict:
    """Features of variances 4 and 0.25, correlated; hydrogen in all crystals, helium in 50, nothing else."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, 2)) @ np.array([[2.0, 0.3], [0.0, 0.4]]) + np.array([1.0, -2.0])
    contains = np.zeros((count, NUM_SPECIES), bool)
    contains[:, 0], contains[:50, 1] = True, True
    return {k: jnp.asarray(v, jnp.float32) for k, v in novelty.known(features, contains).items()} | {"raw": features}


def test_squared_distance_is_one_on_average_over_the_training_set():
    """Mahalanobis' distances average to the width, here divided by it; the shrinkage of 1 % lowers it a little."""
    known = stats()
    moved = (known["raw"] - np.asarray(known["center"])) @ np.asarray(known["root"]).T
    assert 0.9 < np.square(moved).mean() <= 1


def test_score_by_hand():
    known = stats()
    away = jnp.asarray(np.asarray(known["center"]) + np.array([3.0, 0.5]), jnp.float32)
    features = jnp.stack([away, away, away])
    found = novelty.score(known, features, pack_of([1, 1, 1, 2]))
    length = np.square((np.asarray(away) - np.asarray(known["center"])) @ np.asarray(known["root"]).T).mean()
    np.testing.assert_allclose(found, [0.5 * np.log(length), 0.5 * np.log(length) + np.log(101 / 51), 0], rtol=1e-4)


def test_an_unseen_element_is_far_and_a_missing_feature_is_not_a_number():
    known = stats()
    features = jnp.tile(known["center"] + 1, (3, 1))
    seen, unseen = (float(novelty.score(known, features, pack_of(n))[0]) for n in ([1, 1, 1, 1], [1, 3, 1, 1]))
    np.testing.assert_allclose(unseen - seen, np.log(101), rtol=1e-5)
    refused = novelty.score(known, features.at[0].set(jnp.nan), pack_of([1, 1, 1, 1]))
    assert np.isfinite(np.asarray(refused)).all()


def test_fused_and_scattered_atoms_are_far_whatever_their_features_say():
    """8 per e-fold of the closest contact outside 0.67 to 1.35 sums of the radii; nothing within."""
    known, radius = stats(), float(radii_angstrom()[0])
    features = jnp.tile(known["center"] + 1, (3, 1))

    def score(closeness: float) -> float:
        """Of hydrogen in a body-centered cube: the edge is shorter than twice the diagonal's half, 0.866 of it."""
        edge = closeness * 2 * radius / (3**0.5 / 2)
        return float(novelty.score(known, features, pack_of([1, 1, 1, 1], edge))[0])

    usual = score(1.0)
    assert score(0.68) == score(1.34) == usual
    np.testing.assert_allclose(score(0.335) - usual, 8 * np.log(2), rtol=1e-4)
    np.testing.assert_allclose(score(2.7) - usual, 8 * np.log(2), rtol=1e-4)


def test_std_grows_with_the_novelty_and_not_below_the_usual():
    far = jnp.asarray([0.0, 1.0, 3.0])
    plain = Estimate(jnp.ones((3, 2)), jnp.full((3, 2), 0.5), jnp.ones((3, 2), bool))
    heads = Heads(("a", "b"), None, None, lambda params, pack: plain, None, lambda params, pack: far)
    said = aware(heads, slope=(0.0, 2.0), usual=1.0, limit=2.0).predict({}, None)
    np.testing.assert_allclose(said.std, [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5 * np.exp(4.0)]], rtol=1e-6)
    np.testing.assert_array_equal(said.value, plain.value)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"slope": (1.0,), "usual": 0.0, "limit": 1.0}, "slope is"),
        ({"slope": (1.0, -1.0), "usual": 0.0, "limit": 1.0}, "slope is"),
        ({"slope": (1.0, 1.0), "usual": 2.0, "limit": 1.0}, "limit is 1.0; expected at least usual, 2.0"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ValueError, match=said):
        aware(Heads(("a", "b"), None, None, None, None, None), **settings)


def test_elements_of_each_crystal():
    found = novelty.contained(np.array([8, 8, 12]), np.array([1, 2]))
    assert [np.flatnonzero(row + 0).tolist() for row in found] == [[7], [7, 11]]
