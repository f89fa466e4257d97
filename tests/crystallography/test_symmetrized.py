"""Symmetrized crystals: known groups, orbits and letters, the hand of a crystal, and what readers make of the CIF."""

import numpy as np
import pytest

from crysjax.crystallography import symmetrized
from crysjax.crystallography.symmetrized import cif_of, quoted, xyz
from crysjax.data.datasets import Entry
from crysjax.data.readers import cif

# alpha quartz (Levien, Prewitt and Weidner 1980), P3(2)21 (154): Si 3a, O 6c
A, C, U, (X, Y, Z) = 4.916, 5.4054, 0.4697, (0.4135, 0.2669, 0.1191 + 2 / 3)
HEXAGONAL = np.array([[A, 0, 0], [-A / 2, A * 3**0.5 / 2, 0], [0, 0, C]])


def quartz() -> Entry:
    silicon = [(U, 0, 2 / 3), (0, U, 1 / 3), (-U, -U, 0)]
    oxygen = [(X, Y, Z), (-Y, X - Y, Z + 2 / 3), (-X + Y, -X, Z + 1 / 3), (Y, X, -Z), (X - Y, -Y, -Z + 1 / 3),
              (-X, -X + Y, -Z + 2 / 3)]  # fmt: skip
    return Entry("quartz", np.array([14] * 3 + [8] * 6), np.array(silicon + oxygen) % 1, HEXAGONAL, {})


def test_quartz_has_its_group_and_orbits_whatever_the_hand_of_its_axes():
    entry = quartz()
    turned = entry._replace(frac=-entry.frac, lattice=-entry.lattice)  # the same atoms in the same places
    mirrored = entry._replace(lattice=entry.lattice * [1, 1, -1])  # the other hand of the crystal
    for one, number in ((entry, 154), (turned, 154), (mirrored, 152)):
        found, why = symmetrized.symmetrized(one)
        assert why == "" and found.number == number and found.moved_angstrom < 1e-3
        assert sorted(zip(found.letters, found.multiplicity.tolist())) == [("a", 3), ("c", 6)]


def test_displaced_atoms_are_moved_back_and_how_far_is_said():
    entry = quartz()
    shift = np.zeros((9, 3))
    shift[4] = 0.03, 0, 0  # Å
    found, _ = symmetrized.symmetrized(entry._replace(frac=entry.frac + shift @ np.linalg.inv(HEXAGONAL)))
    assert found.number == 154 and 0.02 < found.moved_angstrom < 0.03
    tight, _ = symmetrized.symmetrized(
        entry._replace(frac=entry.frac + shift @ np.linalg.inv(HEXAGONAL)), tolerance_angstrom=1e-3
    )
    assert tight.number == 1 and tight.moved_angstrom < 1e-5


def test_how_far_atoms_are_moved_is_the_same_in_another_cell():
    shift = np.zeros((9, 3))
    shift[4] = 0.03, 0.01, 0  # Å
    entry = quartz()
    entry = entry._replace(frac=entry.frac + shift @ np.linalg.inv(HEXAGONAL))
    change = np.array([[1, 0, 0], [1, 1, 0], [0, 2, 1]])  # not its own transpose
    other = entry._replace(lattice=change @ entry.lattice, frac=entry.frac @ np.linalg.inv(change))
    one, two = (symmetrized.symmetrized(each)[0].moved_angstrom for each in (entry, other))
    assert 0.02 < one < 0.04 and two == pytest.approx(one, abs=1e-3)


def test_the_cif_is_read_back_as_the_same_crystal_by_three_readers():
    import io

    from ase.io import read
    from pymatgen.core import Structure

    found, _ = symmetrized.symmetrized(quartz())
    text = cif_of(quartz(), found, formula="SiO2", items={"gap_ev": 1.5, "note": "it's"})
    mine = cif.parse("x", text)
    assert np.bincount(mine.numbers)[[8, 14]].tolist() == [6, 3]
    assert "_crysjax_gap_ev   1.5" in text and '_crysjax_note   "it\'s"' in text
    theirs = Structure.from_str(text, fmt="cif")
    for cell, numbers in ((theirs.lattice.matrix, theirs.atomic_numbers), (np.array(read(io.StringIO(text), format="cif").cell), read(io.StringIO(text), format="cif").numbers)):  # fmt: skip  # noqa: E501
        assert sorted(numbers) == sorted(mine.numbers)
        np.testing.assert_allclose(np.linalg.det(cell), np.linalg.det(HEXAGONAL), rtol=1e-6)
    shortest = np.sort(theirs.distance_matrix[theirs.distance_matrix > 0.1])[:12]
    assert shortest.min() == pytest.approx(1.605, abs=0.005)  # Si-O of the paper: 1.605 and 1.614 Å


def test_what_is_no_crystal_is_written_in_p1_with_the_reason():
    flat = quartz()._replace(lattice=np.array([[1, 0, 0], [2, 0, 0], [0, 0, 5.0]]))
    found, why = symmetrized.symmetrized(flat)
    assert found is None and why.startswith("the cell has no volume: 0 Å³ per atom")
    text = cif_of(quartz(), None, formula="SiO2", items={}, why=why)
    assert "_crysjax_symmetry   'not found: the cell has no volume: 0 A^3 per atom; " in text
    assert len(cif.parse("x", text).numbers) == 9


def test_operations_and_texts_are_spelled_as_cif_wants_them():
    assert xyz(np.array([[0, -1, 0], [1, -1, 0], [0, 0, 1]]), np.array([0, 0.5, 1 / 3])) == "-y, x-y+1/2, z+1/3"
    assert xyz(np.eye(3), np.array([1.0, -0.25, 1e-12])) == "x, y+3/4, z"
    assert quoted("a b") == "'a b'" and quoted('3 2"') == "'3 2\"'" and quoted("a\nb'\"") == "'a?b`\"'"
