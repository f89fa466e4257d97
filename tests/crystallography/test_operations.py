"""The operations of a group, told from crystals in closed form and against spglib."""

import numpy as np
import pytest
import spglib

from crysjax.crystallography.operations import has_group
from crysjax.data.datasets import Entry
from crysjax.geometry.symmetry import primitive_operations

SALT = Entry("NaCl", np.array([11, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]),
             2.82 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]), {})  # fmt: skip


def test_rock_salt_has_its_group_and_those_within_it():
    assert all(has_group(SALT, group) for group in (1, 225))
    assert not has_group(SALT, 227)


@pytest.mark.parametrize("field", ["frac", "lattice", "numbers"])
def test_what_is_off_by_more_than_the_tolerance_is_told(field):
    moved = {"frac": np.array([[0, 0, 0], [0.504, 0.5, 0.5]]), "lattice": SALT.lattice * [[1, 1, 1.01]],
             "numbers": np.array([11, 11])}  # fmt: skip
    off = SALT._replace(**{field: moved[field]})
    assert has_group(off, 225) == (field == "numbers")  # like atoms at both sites have all of it, and more
    assert has_group(off._replace(frac=np.full((2, 3), np.nan)), 225) is False


@pytest.mark.parametrize("group", [1, 2, 5, 14, 62, 88, 139, 146, 166, 194, 198, 221, 225, 227, 230])
def test_operations_are_those_that_spglib_finds(group):
    """Of an orbit in general position in a cell that the group allows, made by the operations themselves."""
    rng = np.random.default_rng(group)
    rotations, translations = primitive_operations(group)
    metric = rng.normal(size=(3, 3))
    metric = metric @ metric.T + 3 * np.eye(3)
    metric = np.mean(rotations.transpose(0, 2, 1) @ metric @ rotations, 0)
    lattice = np.linalg.cholesky(9 * metric)
    sites = np.concatenate([np.einsum("kij,j->ki", rotations, rng.random(3)) + translations for _ in range(2)])
    numbers = np.repeat([14, 8], len(rotations))
    assert spglib.get_symmetry_dataset((lattice, sites, numbers), symprec=1e-4).number == group
    assert has_group(Entry("x", numbers, sites % 1, lattice, {}), group)
