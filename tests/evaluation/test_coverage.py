"""Coverage against a plain form of CDVAE's rule, fingerprints against matminer's, Voronoi cells against closed forms.

`crystal_nn_reference.npz` holds what matminer made of 12 generated and 12 real crystals, and of 60 compositions; its
entry `made_by` names the versions.
"""

from pathlib import Path

import numpy as np
import pytest

from crysjax.data.datasets import Entry, from_entries
from crysjax.evaluation.metrics import coordination, coverage, magpie
from crysjax.evaluation.metrics.coverage import Cutoffs, Fingerprints
from crysjax.evaluation.metrics.order_parameters import MOTIFS, order_parameters, places

FACES = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
PLACES = places()


def plain(samples: Fingerprints, reference: Fingerprints, cutoffs: Cutoffs) -> tuple[float, float]:
    """CDVAE's rule with all distances at once."""
    from scipy.spatial.distance import cdist

    distances = [cdist(a, b) for a, b in zip(samples, reference)]
    near = [np.all([d.min(axis) <= c for d, c in zip(distances, cutoffs)], axis=0) for axis in (0, 1)]
    return near[0].mean(), near[1].mean()


def drawn(count: int, seed: int, shift: float = 0.0) -> Fingerprints:
    rng = np.random.default_rng(seed)
    return Fingerprints(rng.random((count, 6)) + shift, 10 * rng.random((count, 9)))


def test_equal_to_the_plain_rule():
    samples, reference = drawn(700, 0), drawn(300, 1, shift=0.3)  # more samples than one block
    for cutoffs in (Cutoffs(0.3, 7.0), Cutoffs(0.45, 6.0), Cutoffs(10.0, 5.0)):
        found = coverage.coverage(samples, reference, cutoffs)
        recall, precision = plain(samples, reference, cutoffs)
        assert (found.recall.value, found.precision.value) == (recall, precision)
        assert 0.02 < recall < 0.98 and 0.02 < precision < 0.98 and recall != precision


def test_nearest_equals_scipy_and_is_exact_for_copies():
    from scipy.spatial.distance import cdist

    a, b = 100 + np.random.default_rng(2).random((600, 5)), 100 + np.random.default_rng(3).random((90, 5))
    b[7] = a[500]
    to_b, to_a = coverage.nearest(a, b)
    np.testing.assert_allclose(to_b, cdist(a, b).min(1), rtol=1e-6)
    np.testing.assert_allclose(to_a, cdist(a, b).min(0), rtol=1e-6)
    assert to_b[500] == 0 and to_a[7] == 0


def test_structure_and_composition_may_come_from_different_crystals():
    samples = Fingerprints(np.array([[0.0], [9.0]]), np.array([[9.0], [0.0]]))
    found = coverage.coverage(samples, Fingerprints(np.zeros((1, 1)), np.zeros((1, 1))), Cutoffs(0.1, 0.1))
    assert found.recall.value == 1.0 and found.precision.value == 0.0
    assert found.structure_recall.value == 0.0 and found.structure_precision.value == 4.5


def test_crystals_without_a_fingerprint():
    samples, reference = drawn(10, 4), drawn(5, 4)
    samples.structure[3], reference.structure[1] = np.nan, np.nan
    found = coverage.coverage(samples, reference, Cutoffs(100.0, 100.0))
    assert found.precision.value == 0.9 and found.precision.count == 10  # stays in the total
    assert found.recall.value == 1.0 and (found.recall.count, found.recall.missing) == (4, 1)
    with pytest.raises(ValueError, match="0 samples and 5 reference crystals have"):
        coverage.coverage(Fingerprints(samples.structure[3:4], samples.composition[3:4]), drawn(5, 1))
    with pytest.raises(ValueError, match=r"samples of shapes .* expected \(m, d\)"):
        coverage.coverage(Fingerprints(np.zeros(3), np.zeros((3, 1))), reference)
    with pytest.raises(ValueError, match="fingerprints of 6 and of 2 numbers"):
        coverage.coverage(samples, Fingerprints(np.zeros((1, 2)), np.zeros((1, 9))))


# Fingerprints


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).parent / "crystal_nn_reference.npz") as file:
        return {name: file[name] for name in file.files}


def crystals(reference) -> list[Entry]:
    ends = np.cumsum(reference["num_atoms"])[:-1]
    parts = zip(np.split(reference["numbers"], ends), np.split(reference["frac"], ends), reference["lattice"])
    return [Entry(str(i), numbers, frac, lattice, {}) for i, (numbers, frac, lattice) in enumerate(parts)]


def test_sites_equal_matminer(reference):
    found = np.concatenate(coordination.site_fingerprints(crystals(reference)))
    np.testing.assert_allclose(found, reference["site"], atol=1e-7)
    used = (reference["site"] > 1e-3).any(0)
    assert len(found) > 200 and used[: PLACES[13].start].all()  # every motif occurs in the reference


def test_compositions_equal_matminer(reference):
    found = magpie.statistics(reference["counts"])
    np.testing.assert_allclose(found, reference["magpie"], rtol=1e-12, atol=1e-9)
    assert 5 < np.isnan(found).any(1).sum() < 30  # noble gases among others


def test_scale():
    mean, std = magpie._table()[1:]
    values = np.stack([mean, mean + 2 * std, np.full(132, np.nan)])
    np.testing.assert_allclose(magpie.scaled(values), [[0.0] * 132, [2.0] * 132, [0.0] * 132], atol=1e-12)
    with pytest.raises(ValueError, match="none empty"):
        magpie.statistics(np.zeros((1, 100)))


def test_places_are_the_61_numbers():
    assert PLACES[1] == slice(0, 2) and PLACES[6].start == 22 and PLACES[12] == slice(44, 49)
    assert PLACES[24].stop == coverage.STRUCTURE_FEATURES == 61


IDEAL = {  # motif: coordination number, its place among that number's motifs, directions
    "linear": (2, 4, [[0, 0, 1], [0, 0, -1]]),
    "trigonal planar": (3, 0, [[1, 0, 0], [-0.5, 3**0.5 / 2, 0], [-0.5, -(3**0.5) / 2, 0]]),
    "T": (3, 2, [[1, 0, 0], [-1, 0, 0], [0, 1, 0]]),
    "square": (4, 0, [[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]]),
    "tetrahedron": (4, 1, [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]),
    "trigonal bipyramid": (5, 2, [[1, 0, 0], [-0.5, 3**0.5 / 2, 0], [-0.5, -(3**0.5) / 2, 0], [0, 0, 1], [0, 0, -1]]),
    "octahedron": (6, 1, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1]]),
    "body-centered": (8, 0, [[x, y, z] for x in (1, -1) for y in (1, -1) for z in (1, -1)]),
    "cuboctahedron": (12, 0, [np.roll([0, x, y], k) for x in (1, -1) for y in (1, -1) for k in range(3)]),
}


@pytest.mark.parametrize("name", IDEAL)
def test_ideal_motifs_score_highest_and_turned_ones_the_same(name):
    count, place, directions = IDEAL[name]
    unit = np.array(directions, float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    rng = np.random.default_rng(6)
    bent = unit + 0.3 * rng.normal(size=unit.shape)
    found = order_parameters(np.stack([unit, unit @ turn, bent / np.linalg.norm(bent, axis=1, keepdims=True)]))
    assert found.shape == (3, len(MOTIFS[count]))
    assert found[0, place] > 0.97
    np.testing.assert_allclose(found[1, place], found[0, place], atol=1e-6)
    assert found[2, place] < found[0, place] - 0.05


def test_steinhardt_of_lattices():
    """Published values of fcc (Steinhardt et al. 1983): q4 = 0.1909, q6 = 0.5745."""
    directions = np.array(IDEAL["cuboctahedron"][2], float) / 2**0.5
    np.testing.assert_allclose(order_parameters(directions[None])[0, 1:], [0, 0.19094, 0.57452], atol=2e-5)


def test_voronoi_cells_of_lattices():
    """A cube has 6 faces of a^2, rhombic dodecahedron (fcc) 12 of sqrt(2) a^2 / 8; solid angles share 4 pi."""
    cube = coordination.neighbors(np.zeros((1, 3)), 3.0 * np.eye(3), 7.0)[0]
    index, angle, area = coordination._faces(cube)
    large = area > 1e-6
    np.testing.assert_allclose(area[large], 9.0)
    np.testing.assert_allclose(angle[large], 4 * np.pi / 6)
    assert large.sum() == 6 and sorted(index[large].tolist()) == list(range(6))
    fcc = coordination.neighbors(FACES, 4.0 * np.eye(3), 7.0)[0]
    index, angle, area = coordination._faces(fcc)
    large = area > 1e-6
    np.testing.assert_allclose(area[large], 2**0.5 * 16 / 8)
    assert large.sum() == 12 and angle.sum() == pytest.approx(4 * np.pi)


def test_voronoi_cells_fill_the_crystal():
    """The cells' volumes, a third of area times half distance over all faces, add up to the cell's."""
    rng = np.random.default_rng(7)
    lattice, frac = 6 * np.eye(3) + rng.normal(size=(3, 3)), rng.random((9, 3))
    total = 0.0
    for near in coordination.neighbors(frac, lattice, 12.0):
        index, angle, area = coordination._faces(near)
        assert angle.sum() == pytest.approx(4 * np.pi)
        total += (area * near.distance[index]).sum() / 6
    assert total == pytest.approx(abs(np.linalg.det(lattice)))


def test_neighbors_equal_pymatgen():
    from pymatgen.core import Structure

    rng = np.random.default_rng(8)
    lattice, frac = 4 * np.eye(3) + 0.8 * rng.normal(size=(3, 3)), rng.random((5, 3)) * 3 - 1
    structure = Structure(lattice, ["H"] * 5, frac)
    for i, near in enumerate(coordination.neighbors(frac, lattice, 7.0)):
        expected = sorted(n.nn_distance for n in structure.get_neighbors(structure[i], 7.0))
        np.testing.assert_allclose(near.distance, expected, atol=1e-9)


def test_rock_salt_is_octahedral():
    numbers = np.array([11] * 4 + [17] * 4)
    salt = Entry("NaCl", numbers, np.concatenate([FACES, FACES + np.array([0.5, 0, 0])]), 5.64 * np.eye(3), {})
    (found,) = coordination.site_fingerprints([salt])
    np.testing.assert_allclose(found[:, PLACES[6]][:, [0, 2]], 1.0, atol=1e-3)  # weight, octahedron
    assert np.delete(found, range(PLACES[6].start, PLACES[6].stop), axis=1).max() < 1e-3


def test_sites_that_coincide_have_no_fingerprint(tmp_path):
    good = Entry("CsCl", np.array([55, 17]), np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), 4.12 * np.eye(3), {})
    bad = good._replace(frac=np.zeros((2, 3)))
    found = coverage.fingerprints(from_entries([good, bad, good]), processes=1)
    assert np.isnan(found.structure).all(1).tolist() == [False, True, False]
    assert np.isfinite(found.composition).all()
    np.testing.assert_array_equal(found.structure[0], found.structure[2])
    assert "open" in coordination.site_fingerprints([bad])[0]


def test_cache_asks_only_for_what_is_new(tmp_path, reference, monkeypatch):
    rows, asked = crystals(reference), []
    made = coverage.structure_fingerprints

    def counting(part):
        asked.extend(row.id for row in part)
        return made(part)

    monkeypatch.setattr(coverage, "structure_fingerprints", counting)
    path = tmp_path / "cache.npz"
    first = coverage.fingerprints(from_entries(rows[:4]), processes=1, cache=path)
    second = coverage.fingerprints(from_entries(rows[5:1:-1]), processes=1, cache=path)
    assert asked == ["0", "1", "2", "3", "5", "4"]
    np.testing.assert_array_equal(first.structure[3], second.structure[2])
    np.savez(path, keys=np.array(["a"]), values=np.zeros((1, 3)))
    with pytest.raises(ValueError, match="not a cache of fingerprints"):
        coverage.fingerprints(from_entries(rows[:1]), processes=1, cache=path)


def test_processes_give_the_same_answers(reference, monkeypatch):
    monkeypatch.setattr(coverage, "_INLINE", 0)
    monkeypatch.setattr(coverage, "_CHUNK", 2)
    dataset = from_entries(crystals(reference)[:5])
    alone, together = (coverage.fingerprints(dataset, processes=n) for n in (1, 2))
    np.testing.assert_array_equal(alone.structure, together.structure)
