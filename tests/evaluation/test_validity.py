"""Validity against SMACT's own enumeration, pymatgen's distances, and the published shares of real data."""

import itertools

import numpy as np
import pytest

from crysjax.data.datasets import Dataset
from crysjax.evaluation import validity

KNOWN = {
    "NaCl": ([11, 17], [1, 1], True),
    "TiO2": ([22, 8], [1, 2], True),
    "Fe3O4": ([26, 8], [3, 4], False),  # one oxidation state per element cannot be mixed-valent
    "one element": ([8], [3], True),
    "alloy": ([29, 30], [5, 8], True),
    "no electronegativity": ([61, 8], [2, 3], False),  # Pm
    "no oxidation state": ([2, 8], [1, 1], False),  # He
    "NaCl2": ([11, 17], [1, 2], False),
}


def enumerated(rows, counts) -> bool:
    """CDVAE's test as published: the product of all oxidation states, neutrality, then every pair."""
    table = validity.oxidation_table()
    if len(rows) == 1 or table.metal[rows].all():
        return True
    scale = table.electronegativity[rows]
    for states in itertools.product(*[table.states[r][table.known[r]].tolist() for r in rows]):
        if sum(q * n for q, n in zip(states, counts)) or np.isnan(scale).any():
            continue
        pairs = itertools.permutations(zip(states, scale.tolist()), 2)
        if all(not (q > 0 > p and e >= f) for (q, e), (p, f) in pairs):
            return True
    return False


def random_compositions(count):
    draw = np.random.default_rng(0)
    for _ in range(count):
        kinds = draw.integers(1, 5)
        yield draw.choice(94, kinds, replace=False), draw.integers(1, 6, kinds)


@pytest.mark.parametrize("name", KNOWN)
def test_known_compositions(name):
    numbers, counts, expected = KNOWN[name]
    assert validity.smact_valid(np.repeat(numbers, counts)) is expected


def test_cuts_equal_enumeration():
    for rows, counts in random_compositions(600):
        assert validity.smact_valid(np.repeat(rows + 1, counts)) == enumerated(rows, counts), (rows, counts)


def test_distances_equal_pymatgen():
    structures = pytest.importorskip("pymatgen.core")
    draw = np.random.default_rng(1)
    for _ in range(40):
        lattice = 3 * np.eye(3) + draw.normal(0, 0.7, (3, 3))
        frac = draw.random((draw.integers(2, 8), 3))
        crystal = structures.Structure(lattice, ["H"] * len(frac), frac)
        distances = crystal.distance_matrix[np.triu_indices(len(frac), 1)]
        assert validity.min_distance(frac, lattice) == pytest.approx(distances.min(), rel=1e-9)


def test_structures_on_the_edge():
    cube, pair = 3.0 * np.eye(3), np.zeros((2, 3))
    pair[1, 0] = 0.97
    assert not validity.structure_valid(pair, cube)  # 0.09 Å through the cell face
    pair[1, 0] = 0.5 / 3 + 1e-6
    assert validity.structure_valid(pair, cube)
    assert validity.structure_valid(pair[:1], 0.47 * np.eye(3))  # 0.104 Å^3
    assert not validity.structure_valid(pair[:1], 0.46 * np.eye(3))  # 0.097 Å^3
    assert not validity.structure_valid(pair * np.nan, cube)


def test_share_of_mp_20(data_dir):
    folder = data_dir / "mp_20" / "val"
    numbers, ends = np.load(folder / "atomic_numbers.npy"), np.cumsum(np.load(folder / "num_atoms.npy"))
    valid = [validity.smact_valid(part) for part in np.split(numbers, ends[:-1])]
    assert np.mean(valid) == pytest.approx(0.905383, abs=5e-7)


def test_share_of_diffcsp_samples(data_dir):
    from pymatgen.core import Lattice

    file = np.load(data_dir / "samples" / "DiffCSP_mp_20_10k.npz")
    cells = np.stack([Lattice.from_parameters(*a, *b).matrix for a, b in zip(file["lengths"], file["angles"])])
    count, frac = file["num_atoms"].astype(np.int32), file["frac_coords"]
    blank = np.full(len(count), "")
    samples = Dataset(blank, count, file["atom_types"], frac, cells.astype(np.float32), {}, blank, {})
    shares = {name: found.mean() for name, found in validity.validity(samples).items()}
    assert shares == {"structure": 1.0, "composition": pytest.approx(0.8322), "valid": pytest.approx(0.8322)}
