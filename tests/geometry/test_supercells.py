"""Supercells against brute force, multiplicities that can be counted by hand, and operations as permutations."""

import itertools

import numpy as np
import pytest

from crysjax.geometry.supercells import (
    commensurate,
    index_of,
    moved,
    nearest_images,
    partners,
    repeats_for,
    site_maps,
    supercell,
)


def cubic_operations() -> np.ndarray:
    """The 48 rotations of a cube: signed permutations."""
    signs = itertools.product((1, -1), repeat=3)
    return np.array([np.eye(3, dtype=int)[list(p)] * s for s in signs for p in itertools.permutations(range(3))])


def triclinic(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((3, 3)), 4 * np.eye(3) + rng.uniform(-1, 1, (3, 3))


def test_repeats_reach_the_length_and_no_farther():
    lattice = np.diag([3.0, 5.0, 12.0])
    assert repeats_for(lattice, 10.0) == (4, 2, 1)
    assert repeats_for(lattice, 9.0) == (3, 2, 1)  # an edge that is exactly long enough
    with pytest.raises(ValueError, match="length_angstrom"):
        repeats_for(lattice, 0.0)


def test_atoms_are_copies_of_the_primitive_cell():
    frac, lattice = triclinic(0)
    cell = supercell(frac, lattice, (2, 3, 1))
    np.testing.assert_allclose(cell.frac @ cell.lattice, (frac[cell.atom] + cell.cell) @ lattice, atol=1e-12)
    np.testing.assert_array_equal(cell.atom[:3], range(3))
    assert not cell.cell[:3].any() and len(np.unique(cell.cell, axis=0)) == 6
    np.testing.assert_array_equal(index_of(cell.atom, cell.cell + np.array([4, -3, 7]), (2, 3, 1), 3), range(18))
    with pytest.raises(ValueError, match="repeats"):
        supercell(frac, lattice, (2, 0, 1))


def test_the_partner_of_the_partner_is_the_pair_itself():
    cell = supercell(*triclinic(1), (2, 3, 2))
    atom, other = partners(cell)
    back = atom[atom, other], other[atom, other]
    np.testing.assert_array_equal(back[0], np.broadcast_to(np.arange(3)[:, None], back[0].shape))
    np.testing.assert_array_equal(back[1], np.broadcast_to(np.arange(36), back[1].shape))


@pytest.mark.parametrize("shear", [0, 3])
def test_nearest_images_are_those_of_brute_force(shear):
    """Also in a cell so skewed that the nearest copy is several cells away."""
    frac, lattice = triclinic(2)
    lattice = np.array([[1, 0, 0], [shear, 1, 0], [0, -shear, 1]]) @ lattice
    cell = supercell(frac, lattice, (2, 2, 1))
    found = nearest_images(cell)
    shifts = np.array(list(itertools.product(range(-9, 10), repeat=3)))
    off = ((cell.frac[None] - cell.frac[:3, None])[:, :, None] + shifts) @ cell.lattice
    expected = np.linalg.norm(off, axis=-1).min(-1)
    distance = np.linalg.norm(found.vector @ lattice, axis=-1)
    np.testing.assert_allclose(
        np.where(found.weight > 0, distance, expected[..., None]) - expected[..., None], 0, atol=1e-9
    )
    np.testing.assert_allclose(found.weight.sum(-1), 1, atol=1e-12)
    whole = (
        found.vector + frac[:, None, None] - frac[cell.atom][None, :, None] - cell.cell[None, :, None]
    ) / cell.repeats
    np.testing.assert_allclose(whole - np.round(whole), 0, atol=1e-9)  # the copies are those of the supercell


def test_multiplicities_of_a_doubled_cube():
    """One step away along k axes, an atom is seen on 2^k sides."""
    cell = supercell(np.zeros((1, 3)), np.eye(3), (2, 2, 2))
    sides = (nearest_images(cell).weight > 0).sum(-1)[0]
    np.testing.assert_array_equal(sides, 2 ** cell.cell.sum(-1))


def test_operations_permute_atoms_and_keep_distances():
    """Caesium chloride: the images of two atoms are as far apart as they were."""
    frac, numbers = np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([55, 17])
    operations = cubic_operations()
    cell = supercell(frac, 4.0 * np.eye(3), (2, 2, 2))
    maps = site_maps(frac, 4.0 * np.eye(3), numbers, operations, np.zeros((48, 3)), cell.repeats)
    assert len(maps.image) == 48
    images = nearest_images(cell)
    distance = np.linalg.norm(images.vector, axis=-1).min(-1, where=images.weight > 0, initial=9.0)
    for g, atom in itertools.product(range(0, 48, 5), range(2)):
        to = moved(maps, g, atom, cell)
        np.testing.assert_array_equal(np.sort(to), range(16))
        np.testing.assert_allclose(distance[maps.image[g, atom], to], distance[atom], atol=1e-12)
        np.testing.assert_allclose(maps.cartesian[g], operations[g], atol=1e-12)


def test_operations_that_the_supercell_lacks_are_left_out():
    one = np.zeros((1, 3)), 4.0 * np.eye(3), np.array([6])
    many = cubic_operations(), np.zeros((48, 3))
    assert len(site_maps(*one, *many, (2, 2, 1)).image) == 16  # those that keep the third axis
    assert len(site_maps(*one, *many, (3, 2, 1)).image) == 8
    moved_off = np.array([[0, 0, 0], [0.3, 0.1, 0.2]]), 4.0 * np.eye(3), np.array([6, 6])
    assert len(site_maps(*moved_off, *many, (2, 2, 2)).image) == 1
    with pytest.raises(ValueError, match="no operation"):
        site_maps(*moved_off, many[0][1:], many[1][1:], (2, 2, 2))


def test_commensurate_waves_repeat_with_the_supercell():
    q = commensurate((2, 3, 4))
    assert len(np.unique(q, axis=0)) == 24 and (q > -0.5).all() and (q <= 0.5).all()
    np.testing.assert_allclose(q * [2, 3, 4], np.round(q * [2, 3, 4]), atol=1e-12)
