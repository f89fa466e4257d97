"""Rejecting by lattices answers as pymatgen's own search does, and the whole as a plain StructureMatcher."""

import itertools

import numpy as np
import pytest

from crysjax.crystallography import equivalence
from crysjax.crystallography.equivalence import CDVAE, Tolerance, matcher, matches, primitive, reduce_cell
from crysjax.crystallography.lattice_match import bases, mappable, parameters
from crysjax.data.datasets import Entry
from crysjax.data.readers.convert import to_structure

LIMITS = {"ltol": 0.3, "angle_degree": 10.0}


def skewed(count: int, seed: int, spread: float = 0.3) -> np.ndarray:
    """Random lattices (count, 3, 3) of all sizes, reduced or not."""
    rng = np.random.default_rng(seed)
    return (np.eye(3) + spread * rng.normal(size=(count, 3, 3))) * np.exp(rng.normal(size=(count, 1, 1)))


def crystal(seed: int) -> Entry:
    """Two to five atoms of one element, so that every size and only equal sizes can match."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 6))
    lattice = skewed(1, seed, 0.15)[0]
    lattice *= np.cbrt(15 * count / abs(np.linalg.det(lattice)))
    return Entry(f"{seed}", np.full(count, 6), rng.random((count, 3)), lattice, {})


def strained(row: Entry, rng) -> Entry:
    """One axis stretched to within some per cent of what ltol 0.3 lets pass, or a shear of about 10 degrees."""
    change, (i, j) = np.eye(3), rng.permutation(3)[:2]
    if rng.random() < 0.5:
        change[i, i] = 1.3**1.5 * rng.uniform(0.9, 1.03)
    else:
        change[i, j] = np.tan(np.radians(rng.uniform(8, 12)))
    return row._replace(lattice=row.lattice @ change)


def doubled(row: Entry, rng) -> Entry:
    """A supercell of two in a sheared basis, sites permuted."""
    axis, (i, j) = np.eye(3)[rng.integers(3)], rng.permutation(3)[:2]
    shear = np.eye(3)
    shear[i, j] = rng.integers(-1, 2)
    frac = np.concatenate([row.frac, row.frac + axis]) / (1 + axis) @ np.linalg.inv(shear)
    order = rng.permutation(len(frac))
    lattice = shear @ (row.lattice * (1 + axis)[:, None])
    return row._replace(numbers=np.tile(row.numbers, 2)[order], frac=frac[order], lattice=lattice)


def shaken(row: Entry, rng) -> Entry:
    """Sites moved by up to about the site tolerance, in a rotated and scaled cell."""
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.7, 1.4)
    frac = row.frac + rng.uniform(0.02, 0.2) * rng.normal(size=row.frac.shape)
    return row._replace(frac=frac, lattice=row.lattice @ rotation)


def copies(count: int) -> list[Entry]:
    """Made crystals and copies near the limits of every tolerance."""
    rng = np.random.default_rng(0)
    rows = [crystal(seed) for seed in range(count)]
    return rows + [change(row, rng) for row in rows for change in (strained, strained, doubled, shaken)]


def test_parameters_of_known_lattices():
    hexagonal = np.array([[1, 0, 0], [-0.5, np.sqrt(0.75), 0], [0, 0, 2]]) * 3
    volume = 27 * 2 * np.sqrt(0.75)
    expected = [*np.log([3, 3, 6] / np.cbrt(volume)), 90, 90, 120]
    np.testing.assert_allclose(parameters(hexagonal), expected, atol=1e-12)
    np.testing.assert_allclose(parameters(np.stack([hexagonal, -hexagonal])), [expected] * 2, atol=1e-12)


def test_bases_of_the_cube():
    tight = np.array([1e-3] * 3 + [0.1] * 3)
    cube = np.array([0, 0, 0, 90, 90, 90.0])
    found = bases(np.eye(3), cube - tight, cube + tight)
    np.testing.assert_allclose(found, np.tile(cube, (24, 1)), atol=1e-12)  # 48 signed permutations, opposite ones once
    sheared = np.array([0, 0, np.log(2) / 2, 90, 45, 90.0])  # a, b, and a diagonal of the face of c and a
    assert len(bases(np.eye(3), sheared - tight, sheared + tight)) == 24
    deeper = np.array([0, 0, np.log(3) / 2, 54.7356, 54.7356, 90.0])
    assert len(bases(np.eye(3), deeper - tight, deeper + tight)) == 24


def test_the_limits_are_where_closed_forms_put_them():
    """At equal volume a cube and a tetragonal cell differ by (c/a)^(2/3) along c and by (c/a)^(1/3) along a."""
    tetragonal = [np.diag([1, 1, 1.3**1.5 * (1 + e)]) for e in (-1e-4, 1e-4)]
    flat = [np.diag([1, 1, 1.3**-1.5 * (1 + e)]) for e in (1e-4, -1e-4)]
    monoclinic = [np.array([[1, 0, 0], [np.cos(g), np.sin(g), 0], [0, 0, 1]]) for g in np.radians([80.01, 79.99])]
    for inside, outside in (tetragonal, flat, monoclinic):
        for size in (0.1, 7.0):  # the volume does not count
            assert mappable(np.eye(3), size * np.stack([inside, outside]), **LIMITS).tolist() == [True, False]


@pytest.mark.parametrize("tolerance", [CDVAE, Tolerance(0.3, 5.0, 0.2), Tolerance(0.1, 2.0, 0.05)])
def test_lattices_equal_pymatgens_search(tolerance):
    from pymatgen.core import Lattice

    def searched(first, other) -> bool:
        one, two = (Lattice(x / np.cbrt(abs(np.linalg.det(x)))) for x in (first, other))
        found = one.find_all_mappings(two, tolerance.ltol, tolerance.angle_degree, skip_rotation_matrix=True)
        return any(abs(abs(np.linalg.det(whole)) - 1) < 0.5 for _, _, whole in found)

    rng, firsts = np.random.default_rng(1), skewed(12, 1)
    shears = [np.eye(3) + np.triu(rng.integers(-1, 2, (3, 3)), 1) for _ in range(12)]
    size = 0.25 * tolerance.ltol
    near = [s @ f @ (np.eye(3) + size * rng.normal(size=(3, 3))) for s, f in zip(shears, firsts)]
    others = np.stack([*skewed(12, 2), *near])
    limits = {"ltol": tolerance.ltol, "angle_degree": tolerance.angle_degree}
    found = np.stack([mappable(first, others, **limits) for first in firsts])
    expected = np.array([[searched(first, other) for other in others] for first in firsts])
    np.testing.assert_array_equal(found, expected)
    assert 4 < expected.sum() < 280


def test_needles_plates_and_nothing():
    needle, plate = np.diag([1, 1, 40.0]), np.diag([30, 30, 1.0])
    assert mappable(needle, np.stack([needle, plate, np.eye(3)]), **LIMITS).tolist() == [True, False, False]
    assert mappable(plate, np.stack([needle, plate, np.eye(3)]), **LIMITS).tolist() == [False, True, False]
    assert mappable(needle, np.zeros((0, 3, 3)), **LIMITS).shape == (0,)


def test_matches_equal_plain_fit_near_every_limit():
    """Supercells, strains, shears and noise about as large as the tolerances, every ordered pair, plain `fit`."""
    rows = copies(6)
    cells, structures = primitive(rows), [to_structure(row) for row in rows]
    found = np.zeros((len(rows),) * 2, bool)
    for i, cell in enumerate(cells):
        found[i, list(matches(cell, cells, CDVAE))] = True
    expected = np.array([[matcher(CDVAE).fit(a, b) for b in structures] for a in structures])
    np.testing.assert_array_equal(found, expected)
    assert expected.diagonal().all() and (expected.sum() > 1.5 * len(rows)) and not expected.all()


def test_the_lattice_test_decides_some_and_never_too_much():
    """A lattice that cannot be mapped is what `matches` leaves out: without it more pairs reach the matcher."""
    cells = primitive(copies(6))
    lattices = np.stack([cell.lattice for cell in cells])
    possible = np.stack([mappable(cell.lattice, lattices, **LIMITS) for cell in cells])
    engine, structures = matcher(CDVAE), [to_structure(cell) for cell in cells]
    for i, j in itertools.product(range(len(cells)), repeat=2):
        accepted = engine.fit(structures[i], structures[j], skip_structure_reduction=True)
        assert possible[i, j] or not accepted, (i, j)
    assert 0 < possible.mean() < 0.9


def test_reduced_cells_are_structure_matchers_own_bit_for_bit():
    for row in copies(4):
        own, cell = matcher(CDVAE)._get_reduced_structure(to_structure(row)), to_structure(reduce_cell(row))
        np.testing.assert_array_equal(own.lattice.matrix, cell.lattice.matrix)
        np.testing.assert_array_equal(own.frac_coords, cell.frac_coords)
        assert own.species == cell.species


def test_a_crystal_is_reduced_once(monkeypatch):
    monkeypatch.setattr(equivalence, "_REMEMBERED", {})
    monkeypatch.setattr(equivalence, "_MOST_REMEMBERED", 2)
    reductions = []

    def run(function, rows):
        reductions.append(len(rows))
        return [function(row) for row in rows]

    a, b, c = (crystal(seed) for seed in range(3))
    first = primitive([a, b, a], run)
    assert first[0] is first[2] and first[0] is not first[1]
    assert primitive([b, a], run)[1] is first[0]
    primitive([a, b, c], run)  # more than are remembered, and every answer is there
    primitive([b, c], run)
    primitive([a], run)  # the oldest was forgotten
    assert reductions == [2, 0, 1, 0, 1]
