"""Selling's reduction: the same lattice, no acute angle, and one cell to each side is enough."""

import itertools

import jax
import numpy as np
import pytest

from crysjax.geometry.selling import selling


@pytest.fixture(scope="module")
def skewed():
    """500 random lattices, sheared by whole numbers again and again."""
    draw = np.random.default_rng(0)
    cells = 3 * np.eye(3) + draw.normal(0, 1.5, (500, 3, 3))
    for _ in range(4):
        shear, (i, j) = np.tile(np.eye(3), (500, 1, 1)), draw.permutation(3)[:2]
        shear[:, i, j] = draw.integers(-4, 5, 500)
        cells = shear @ cells
    return cells.astype(np.float32)


def test_the_reduced_basis_spans_the_same_lattice(skewed):
    _, change = jax.jit(selling)(skewed)
    np.testing.assert_array_equal(change, np.round(change))
    np.testing.assert_allclose(np.abs(np.linalg.det(np.asarray(change, float))), 1, atol=1e-6)


def test_one_cell_to_each_side_is_enough(skewed):
    reduced = np.asarray(jax.jit(selling)(skewed)[0], float)
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (500, 3))

    def least(reach):
        images = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3)))
        return np.linalg.norm((points[:, None] + images) @ reduced, axis=-1).min(1)

    np.testing.assert_allclose(least(1), least(3), rtol=1e-12)


def test_a_cell_that_is_not_finite_ends(skewed):
    reduced, _ = jax.jit(selling)(skewed[:2] * np.nan)
    assert np.isnan(np.asarray(reduced)).all()
