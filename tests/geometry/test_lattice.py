"""Lattices against pymatgen and spglib, round trips, and derivatives against finite differences."""

import ase.cell
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import spglib
from pymatgen.core import Lattice

from crysjax.geometry import lattice as lattices
from crysjax.geometry.reduction import niggli

reduce = jax.jit(niggli)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def draw_lattices(count: int, seed: int = 0) -> np.ndarray:
    """Random triclinic cells of 3 to 8 Å, right-handed: (count, 3, 3)."""
    rng = np.random.default_rng(seed)
    lengths, angles = rng.uniform(3, 8, (count, 3)), rng.uniform(60, 115, (count, 3))
    return np.stack([Lattice.from_parameters(*l, *a).matrix for l, a in zip(lengths, angles)])


def draw_changes(count: int, seed: int = 1) -> np.ndarray:
    """Random whole-number matrices of determinant 1 with entries up to about 30: (count, 3, 3)."""
    rng = np.random.default_rng(seed)
    changes = np.tile(np.eye(3), (count, 1, 1))
    for change in changes:
        for _ in range(4):
            i, j = rng.permutation(3)[:2]
            change[i] += rng.integers(-3, 4) * change[j]
    return changes


def test_parameters_are_those_of_pymatgen():
    cells = draw_lattices(50)
    lengths, angles = lattices.to_parameters(jnp.asarray(cells))
    expected = np.array([Lattice(c).parameters for c in cells])
    np.testing.assert_allclose(np.concatenate([lengths, angles], -1), expected, rtol=1e-12)


def test_matrix_of_parameters_is_that_of_ase():
    lengths, angles = lattices.to_parameters(jnp.asarray(draw_lattices(50)))
    found = lattices.from_parameters(lengths, angles)
    expected = [ase.cell.Cell.fromcellpar(p).array for p in np.concatenate([lengths, angles], -1)]
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_volume_metric_and_inverse():
    cells = draw_lattices(50)
    np.testing.assert_allclose(lattices.volume(jnp.asarray(cells)), np.abs(np.linalg.det(cells)), rtol=1e-12)
    np.testing.assert_allclose(lattices.metric(jnp.asarray(cells)), np.einsum("bij,bkj->bik", cells, cells), rtol=1e-12)
    np.testing.assert_allclose(lattices.inverse(jnp.asarray(cells)), np.linalg.inv(cells), rtol=1e-10, atol=1e-14)


def test_basis_is_orthonormal_and_its_last_matrix_is_the_volume():
    np.testing.assert_allclose(np.einsum("kij,lij->kl", lattices.BASIS, lattices.BASIS), np.eye(6), atol=1e-15)
    cells, atoms = jnp.asarray(draw_lattices(10)), jnp.arange(1.0, 11.0)
    per_atom = lattices.volume(cells) / atoms
    np.testing.assert_allclose(lattices.encode(cells, atoms)[:, 5], np.log(per_atom) / np.sqrt(3), rtol=1e-12)


def test_decode_inverts_encode_up_to_a_rotation():
    cells, atoms = jnp.asarray(draw_lattices(50)), jnp.full(50, 7.0)
    decoded = lattices.decode(lattices.encode(cells, atoms), atoms)
    np.testing.assert_allclose(lattices.metric(decoded), lattices.metric(cells), rtol=2e-6, atol=1e-5)
    np.testing.assert_allclose(lattices.encode(decoded, atoms), lattices.encode(cells, atoms), atol=2e-6)


@pytest.mark.parametrize("ratio", [1, 10, 500])
def test_polar_factors_are_those_of_the_singular_values(ratio):
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(20, 3, 3)))[0] for _ in range(2))
    values = np.array([1.0, ratio**0.5, ratio])
    cells = (u * values) @ v
    s, q = lattices.polar(jnp.asarray(cells))
    np.testing.assert_allclose(q, u @ v, atol=1e-9)
    np.testing.assert_allclose(s, (u * values) @ np.swapaxes(u, 1, 2), atol=1e-9 * ratio)


def test_polar_can_be_differentiated_for_a_cubic_cell():
    """Eigenvectors would give NaN here. d(trace S)/dL = Q, as S is the root of L L^T."""
    cell = 4.0 * jnp.eye(3)
    grad = jax.grad(lambda x: jnp.trace(lattices.polar(x)[0]))(cell)
    np.testing.assert_allclose(grad, np.eye(3), atol=1e-12)


def test_derivatives_of_decode_are_finite_differences():
    x, atoms, h = jnp.array([0.3, -0.1, 0.2, 0.05, -0.3, 1.6]), jnp.array(5.0), 1e-6
    jacobian = jax.jacfwd(lattices.decode)(x, atoms)
    rows = [(lattices.decode(x + h * e, atoms) - lattices.decode(x - h * e, atoms)) / (2 * h) for e in jnp.eye(6)]
    np.testing.assert_allclose(jacobian, np.stack(rows, -1), rtol=1e-6, atol=1e-7)


def special_lattices() -> np.ndarray:
    """Primitive cells whose Niggli conditions hold with equality."""
    a = 4.05
    fcc, bcc = [[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]], a / 2 * (np.ones((3, 3)) - 2 * np.eye(3))
    hexagonal = Lattice.hexagonal(3.2, 5.2).matrix
    return np.stack([fcc, bcc, hexagonal, a * np.eye(3), np.diag([3.0, 3.0, 7.0]), Lattice.rhombohedral(5, 55).matrix])


def test_niggli_cells_are_those_of_spglib():
    """200 random cells, and cells of high symmetry, each in a skewed setting: same lengths and angles."""
    cells = np.concatenate([draw_lattices(200), special_lattices()])
    skewed = draw_changes(len(cells)) @ cells
    reduced, change = reduce(jnp.asarray(skewed), 1e-8)  # no generic cell is this near to a tie
    np.testing.assert_allclose(np.linalg.det(change), 1, atol=1e-9)
    np.testing.assert_array_equal(change, np.round(change))
    np.testing.assert_allclose(change @ skewed, reduced, atol=1e-9)
    found = np.concatenate(lattices.to_parameters(reduced), -1)
    expected = np.array([Lattice(spglib.niggli_reduce(c, eps=1e-8)).parameters for c in skewed])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_niggli_cells_are_those_of_pymatgen():
    cells = draw_lattices(30, seed=5)
    found = np.concatenate(lattices.to_parameters(reduce(jnp.asarray(cells))[0]), -1)
    expected = np.array([Lattice(c).get_niggli_reduced_lattice().parameters for c in cells])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_niggli_reduction_in_single_precision():
    """float32 finds the same cell of a skewed setting to its rounding, amplified by the skew (about 30)."""
    cells = draw_lattices(200)
    skewed = (draw_changes(200) @ cells).astype(np.float32)
    single = np.sort(np.concatenate(lattices.to_parameters(reduce(jnp.asarray(skewed))[0]), -1)[:, :3])
    double = np.sort(np.concatenate(lattices.to_parameters(reduce(jnp.asarray(cells))[0]), -1)[:, :3])
    np.testing.assert_allclose(single, double, rtol=3e-5)
