"""Space groups against pymatgen's SpacegroupAnalyzer and textbook crystals; failures carry a reason."""

import numpy as np
import pytest

from crysjax.data.datasets import Entry, entries, from_entries, take
from crysjax.data.readers.io import read, to_structure
from crysjax.evaluation.metrics import symmetry

FACES = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
SALT = Entry(
    "NaCl", np.array([11] * 4 + [17] * 4), np.concatenate([FACES, FACES + np.array([0.5, 0, 0])]), 5.64 * np.eye(3), {}
)
CESIUM = Entry("CsCl", np.array([55, 17]), np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), 4.12 * np.eye(3), {})
DIAMOND = Entry("C", np.array([6] * 8), np.concatenate([FACES, FACES + 0.25]), 3.57 * np.eye(3), {})
ZINC_BLENDE = DIAMOND._replace(numbers=np.array([30] * 4 + [16] * 4))
HCP = Entry("Mg", np.array([12, 12]), np.array([[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]),
            np.array([[3.21, 0, 0], [-1.605, 3.21 * 3**0.5 / 2, 0], [0, 0, 5.21]]), {})  # fmt: skip
TEXTBOOK = {
    "NaCl": (SALT, 225),
    "CsCl": (CESIUM, 221),
    "C": (DIAMOND, 227),
    "ZnS": (ZINC_BLENDE, 216),
    "Mg": (HCP, 194),
}


@pytest.mark.parametrize("name", TEXTBOOK)
def test_textbook_crystals(name):
    row, number = TEXTBOOK[name]
    assert symmetry.space_group(row) == (number, "")


def test_tolerance_decides():
    """Cl moved by 0.03 Å along a: tetragonal at 0.01 Å, cubic at 0.1 Å."""
    moved = CESIUM._replace(frac=CESIUM.frac + np.array([[0, 0, 0], [0.03 / 4.12, 0, 0]]))
    found = symmetry.space_groups(from_entries([moved, CESIUM]), tolerance_angstrom=[0.01, 0.1], processes=1)
    assert found.number.tolist() == [[99, 221], [221, 221]]
    assert found.tolerance_angstrom.tolist() == [0.01, 0.1] and (found.reason == "").all()


def test_failures_are_zero_with_a_reason():
    clash = CESIUM._replace(frac=np.zeros((2, 3)), numbers=np.array([55, 55]))
    dataset = from_entries([clash, CESIUM, CESIUM])
    dataset.lattice[2] = np.nan
    found = symmetry.space_groups(dataset, processes=1)
    assert found.number.tolist() == [[0], [221], [0]]
    assert "spglib" in found.reason[0, 0] and found.reason[1, 0] == ""
    assert found.reason[2, 0] == "positions or cell are not finite"
    for wrong in ([], [0.1, -1.0], np.nan):
        with pytest.raises(ValueError, match="expected positive"):
            symmetry.space_groups(dataset, tolerance_angstrom=wrong)


def by_pymatgen(row: Entry, tolerance: float) -> tuple[int, str]:
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    found = SpacegroupAnalyzer(to_structure(row), symprec=tolerance)
    return found.get_space_group_number(), found.get_crystal_system()


def test_equal_to_pymatgen_on_real_and_generated_crystals(data_dir):
    rng = np.random.default_rng(0)
    real = read(data_dir / "mp_20/val", format="mattergen")
    made = read(data_dir / "samples/DiffCSP_mp_20_10k.npz")
    for dataset in (real, made):
        part = take(dataset, rng.choice(len(dataset), 110, replace=False))
        found = symmetry.space_groups(part, tolerance_angstrom=[0.1, 0.01], processes=1)
        for k, tolerance in enumerate(found.tolerance_angstrom):
            expected = [by_pymatgen(row, tolerance) for row in entries(part)]
            assert found.number[:, k].tolist() == [number for number, _ in expected]
            assert symmetry.crystal_system(found.number[:, k]).tolist() == [system for _, system in expected]
        assert len(set(found.number[:, 0].tolist())) > 15


def test_processes_give_the_same_answers(monkeypatch):
    monkeypatch.setattr(symmetry, "_INLINE", 0)
    rng = np.random.default_rng(1)
    rows = [TEXTBOOK[name][0] for name in rng.choice(list(TEXTBOOK), 150)]
    rows = [r._replace(frac=r.frac + rng.choice([0, 0.03]) * rng.normal(size=r.frac.shape)) for r in rows]
    dataset = from_entries(rows)
    alone, together = (symmetry.space_groups(dataset, processes=n) for n in (1, 2))
    np.testing.assert_array_equal(alone.number, together.number)
    assert 25 < (alone.number > 194).sum() < 125


def test_crystal_systems_are_all_numbers_once():
    """The number of space groups in each system is in the International Tables."""
    names, counts = np.unique(symmetry.crystal_system(np.arange(1, 231)), return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist())) == {
        "triclinic": 2, "monoclinic": 13, "orthorhombic": 59, "tetragonal": 68, "trigonal": 25, "hexagonal": 27,
        "cubic": 36,
    }  # fmt: skip
    assert symmetry.crystal_system(np.array([0, 230])).tolist() == ["", "cubic"]
    with pytest.raises(ValueError, match=r"1\.\.230"):
        symmetry.crystal_system(np.array([231]))


def test_shares_and_summary():
    number = np.array([1, 1, 0, 225, 194, 1, 62, 1, 2, 227])
    shares = symmetry.crystal_system_shares(number)
    assert {k: v.value for k, v in shares.items() if v.value} == {
        "triclinic": 0.5, "orthorhombic": 0.1, "hexagonal": 0.1, "cubic": 0.2, "none": 0.1,
    }  # fmt: skip
    p1 = symmetry.p1_share(number)
    assert p1.value == pytest.approx(4 / 9) and p1.low < 4 / 9 < p1.high and p1.count == 9
    assert symmetry.no_group_share(number).value == 0.1
    found = symmetry.SpaceGroups(np.array([0.1]), number[:, None], np.full((10, 1), ""))
    (line,) = symmetry.summary(found)
    assert line.startswith("symmetry tolerance 0.1 Å: P1 44.4% [") and "6 space groups among 10" in line
