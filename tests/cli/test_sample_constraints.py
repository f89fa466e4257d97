"""`crysjax sample` under constraints: every sample keeps them, and what contradicts itself is one line."""

import numpy as np
import pytest

from crysjax.chemistry.oxidation import common_states
from crysjax.constraints.feasible import neutral
from crysjax.crystallography.operations import has_group
from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.geometry.neighbors import crystal_edges
from crysjax.splits import grouped

CELL = np.array([[4.0, 0, 0], [0, 4.2, 0], [0, 0, 4.4]], np.float32)


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    """A file with Ti and O in a cell."""
    path = tmp_path_factory.mktemp("seed") / "seed.npz"
    entry = Entry("seed", np.array([22, 8]), np.array([[0, 0, 0], [0.5, 0.5, 0.1]]), CELL, {})
    datasets.save(datasets.from_entries([entry]), path)
    return path


def test_every_sample_keeps_what_was_asked(crysjax, world, seed, tmp_path):
    out = tmp_path / "s.npz"
    options = ["--fix", seed, "--fix-cell", "--forbid", "Sr,Pb", "--neutral", "--num-elements", "2:3", "-n", 20]
    answer = crysjax("sample", world.generator, "--out", out, "--steps", 2, *options)
    assert answer.code == 0 and answer.err == "", answer.err
    found = datasets.load(out)
    for row in datasets.entries(found):
        counts = {z: int((row.numbers == z).sum()) for z in set(row.numbers.tolist())}
        assert neutral(counts, common_states()) and 2 <= len(counts) <= 3 and 38 not in counts
        assert row.numbers[:2].tolist() == [22, 8]
        np.testing.assert_array_equal(row.frac[:2], datasets.load(seed).frac)
        np.testing.assert_array_equal(row.lattice, CELL)


def test_a_formula_and_distances(crysjax, world, tmp_path):
    out = tmp_path / "s.npz"
    options = ["--formula", "TiO", "--min-distance", 1.8, "-n", 10]
    assert crysjax("sample", world.generator, "--out", out, "--steps", 2, *options).code == 0
    found = datasets.load(out)
    assert len(found) == 10 and set(found.num_atoms.tolist()) <= {2, 4}
    assert all(sorted(row.numbers.tolist()) == [8] * (n // 2) + [22] * (n // 2)
               for row, n in zip(datasets.entries(found), found.num_atoms))  # fmt: skip


def test_a_space_group(crysjax, world, tmp_path):
    out = tmp_path / "s.npz"
    answer = crysjax(
        "sample", world.generator, "--out", out, "--steps", 2, "--space-group", 221, "--forbid", "Sr", "-n", 12
    )
    assert answer.code == 0 and "left out" not in answer.err, answer.err
    found = datasets.entries(datasets.load(out))
    assert len(found) == 12 and all(has_group(row, 221) and 38 not in row.numbers for row in found)
    options = ["--space-group", 225, "--formula", "TiO", "-n", 5]
    assert crysjax("sample", world.generator, "--out", out, "--steps", 2, *options).code == 0
    assert all((row.numbers == 8).mean() == 0.5 and has_group(row, 225) for row in datasets.entries(datasets.load(out)))


def test_a_space_group_with_what_is_kept_by_drawing_again(crysjax, world, tmp_path):
    """Two elements, neutral, with distances: all at once, without a formula; what is left holds exactly."""
    out = tmp_path / "s.npz"
    options = ["--space-group", 221, "--num-elements", 2, "--neutral", "--min-distance", 1.0, "-n", 8]
    answer = crysjax("sample", world.generator, "--out", out, "--steps", 2, *options)
    assert answer.code == 0, answer.err
    found = datasets.load(out)
    assert 1 <= len(found) <= 8 and (found.properties["asked_space_group"] == 221).all()
    for row in datasets.entries(found):
        counts = {z: int((row.numbers == z).sum()) for z in set(row.numbers.tolist())}
        assert has_group(row, 221) and len(counts) == 2 and neutral(counts, common_states())
        assert not len(crystal_edges(row.frac.astype(float), row.lattice.astype(float), 1.0)[0])


REFUSED = {
    "--space-group 227 --formula TiO2": r"--space-group: 227; no positions add up to TiO2 in 3 to 3 atoms; groups that",
    "--crystal-system cubix": r"--crystal-system: 'cubix'; expected one of triclinic, .*cubic",
    "--crystal-system cubic --require Ti": r"--crystal-system: expected no --require beside it, unless a --formula",
    "--space-group 221 --fix data.npz": r"--space-group: expected no --fix beside it, .*; leave out --fix, or draw",
    "--formula Ti2x": r"--formula: 'Ti2x'; expected symbols and whole numbers",
    "--formula FeO": r"--formula: Fe; the model was not trained on it",
    "--formula TiO4": r"--formula: a unit has 5 atoms; the model draws cells of 2 to 4 atoms here",
    "--formula TiO --forbid O": r"--forbid: O is in the formula too; expected it in one of them",
    "--formula MgO2 --neutral --max-atoms 3": r"no choice of the declared oxidation states is neutral",
    "--forbid Xx": r"--forbid: 'Xx'; expected a chemical element from H to Fm, or one of all, earth-abundant",
    "--require Na": r"--require: Na; the model was not trained on it",
    "--require O --elements Ti,Mg": r"--require: O is not among the elements that may occur; expected it in --elements",
    "--require O,Mg,Ca,Ti,Sr": r"needs at least 5 atoms; the model draws cells of 2 to 4 atoms here",
    "--density-g-cm3 5:3": r"--density-g-cm3: '5:3'; low is not below high; expected LOW:HIGH in g/cm³;.*",
    "--min-atoms 9": r"--min-atoms: 9; expected a number up to 4",
    "--elements O --forbid O": r"--forbid: O is in --elements too; expected it in one of them",
    "--elements Mg,Ca --neutral": r"neutrality: no composition of \d atoms meets it; of Mg, Ca",
    "--num-elements three": r"--num-elements: 'three'; expected a number from 1 to 20, or LOW:HIGH",
    "--num-elements 5": r"needs at least 5 atoms; the model draws cells of 2 to 4 atoms here",
    "--num-elements 3 --elements O,Ti": r"number of elements: 3, but only 2 may appear",
    "--fix-cell": r"--fix-cell: expected --fix FILE beside it",
    "--like data.npz --neutral": r"--like: gives the composition; expected no --neutral beside it",
}


@pytest.mark.parametrize("options", REFUSED)
def test_a_contradiction_is_one_line(one_line, crysjax, world, options, tmp_path):
    one_line(crysjax("sample", world.generator, "--out", tmp_path / "s.npz", *options.split()), REFUSED[options])
    assert list(tmp_path.iterdir()) == []


def test_required_elements_of_a_list(crysjax, world, tmp_path):
    """Of a list, what the model does not know is left out and said; the others may occur, the required ones have to."""
    out = tmp_path / "s.npz"
    options = ["--elements", "earth-abundant", "--require", "Ti,O", "--min-atoms", 3, "-n", 8]
    answer = crysjax("sample", world.generator, "--out", out, "--steps", 2, *options)
    assert answer.code == 0 and "--elements: 22 of the 27 elements of earth-abundant are left out" in answer.err
    found = datasets.entries(datasets.load(out))
    assert len(found) == 8 and all({8, 22} <= set(row.numbers.tolist()) and len(row.numbers) >= 3 for row in found)


def test_a_system_and_a_density(crysjax, world, tmp_path):
    """Densities outside are drawn again; what is left has both, by spglib and by the masses of two elements."""
    out = tmp_path / "s.npz"
    options = ["--crystal-system", "cubic", "--formula", "MgO", "--density-g-cm3", ":6", "-n", 6]
    answer = crysjax("sample", world.generator, "--out", out, "--steps", 2, *options)
    assert answer.code == 0, answer.err
    found = datasets.load(out)
    assert 1 <= len(found) <= 6 and (grouped.space_groups(found) >= 195).all()
    mass = (24.305 + 15.999) / 2 * found.num_atoms
    assert (1.66054 * mass / abs(np.linalg.det(found.lattice.astype(float))) <= 6.0).all()


def test_a_seed_that_does_not_fit(one_line, crysjax, world, seed, tmp_path):
    command = ["sample", world.generator, "--out", tmp_path / "s.npz", "--fix", seed]
    one_line(crysjax(*command, "--forbid", "Ti"), r"fixed part: Ti is not among")
    one_line(crysjax(*command, "--fix-cell", "--min-distance", 3.5), r"fixed part: has atoms closer than the 3\.5 Å")
    command[-1] = world.data
    one_line(crysjax(*command), r"--fix .*data\.npz: 60 crystals; expected one")
