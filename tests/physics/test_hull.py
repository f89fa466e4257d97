"""The hull against closed forms, pymatgen's PhaseDiagram, SciPy's HiGHS and the Materials Project's own values."""

import csv
import gzip
import json
from itertools import combinations

import numpy as np
import pytest

from crysjax.base import NUM_SPECIES
from crysjax.data.datasets import Entry, from_entries
from crysjax.physics.hull import hull as hulls
from crysjax.physics.hull.simplex import least_energies

LEVEL = hulls.Level("PBE", "none")


def of(*formulas: str) -> np.ndarray:
    return np.stack([hulls.composition(formula) for formula in formulas])


def small_hull() -> hulls.Hull:
    """Two stable oxides of iron, one unstable one, one of positive energy, a worse polymorph, one without energy."""
    formulas = ("FeO", "Fe2O3", "Fe3O4", "FeO2", "Fe2O3", "Fe4O5")
    energies = np.array([-1.5, -1.6, -1.1, 0.3, -1.5, np.nan])
    return hulls.hull(of(*formulas), energies, level=LEVEL, source="made", names=formulas)


def test_closed_form_of_a_binary():
    """Straight lines between O (0), Fe2O3, FeO and Fe (0)."""
    asked = of("FeO", "Fe2O3", "Fe3O4", "FeO3", "Fe3O", "Fe")
    expected = [-1.5, -1.6, (-1.5 * 2 - 1.6 * 5) / 7, -1.6 * 0.25 / 0.4, -1.5 * 0.25 / 0.5, 0.0]
    found, reason = hulls.hull_energy(asked, small_hull())
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert set(reason) == {""}
    above = hulls.energy_above_hull(asked, np.array([-1.4, -1.6, -1.1, -1.2, 0.0, 0.05]), small_hull(), level=LEVEL)
    np.testing.assert_allclose(above, [0.1, 0, -1.1 - expected[2], -0.2, 0.75, 0.05], atol=1e-12)


def test_counts_and_fractions_are_one():
    asked = of("Fe3O4", "Fe6O8") * np.array([[1 / 7], [1.0]])
    found, _ = hulls.hull_energy(asked, small_hull())
    assert found[0] == pytest.approx(found[1], abs=1e-14)


def test_margin():
    above = np.array([-0.2, 0.0, 5e-7, 0.02, 0.1, 0.1001, np.nan])
    assert hulls.is_stable(above).tolist() == [True] * 5 + [False] * 2
    assert hulls.is_stable(above, margin_ev_per_atom=0.0).tolist() == [True] * 3 + [False] * 4
    assert hulls.is_stable(above, margin_ev_per_atom=0.05).tolist() == [True] * 4 + [False] * 3


def test_missing_elements_and_energies_are_nan_with_a_reason():
    asked = of("FeO", "NaCl", "FeCl2", "Fe2O3")
    found = hulls.stability(asked, np.array([-1.0, -2.0, -1.0, np.nan]), small_hull(), level=LEVEL)
    assert np.isnan(found.above).tolist() == [False, True, True, True]
    assert found.reason.tolist() == [
        "",
        "no entry of Na, Cl in the hull",
        "no entry of Cl in the hull",
        "the energy is not finite",
    ]
    assert found.hull_energy[3] == pytest.approx(-1.6)


@pytest.mark.parametrize("other", [LEVEL._replace(theory="r2SCAN"), LEVEL._replace(corrections="MP2020")])
def test_another_level_is_an_error(other):
    with pytest.raises(ValueError, match=r"of the energies, .* of the hull"):
        hulls.energy_above_hull(of("FeO"), np.array([-1.0]), small_hull(), level=other)
    with pytest.raises(ValueError, match=r"traced: .* of the energies, .* of the hull"):
        hulls.traced(small_hull(), level=other)
    assert len(hulls.traced(small_hull(), level=LEVEL, max_elements=2).energies) == 2


@pytest.mark.parametrize(
    ("compositions", "energies", "said"),
    [
        (np.zeros((1, NUM_SPECIES)), np.zeros(1), "composition 0 has negative, infinite or no amounts"),
        (-of("FeO"), np.zeros(1), "composition 0 has"),
        (np.ones((1, 3)), np.zeros(1), r"shape \(1, 3\), expected \(m, 100\)"),
        (of("FeO"), np.zeros(2), r"1 compositions, but energies of shape \(2,\)"),
    ],
)
def test_bad_arrays_are_errors(compositions, energies, said):
    with pytest.raises(ValueError, match=said):
        hulls.energy_above_hull(compositions, energies, small_hull(), level=LEVEL)


def test_a_hull_needs_energies():
    with pytest.raises(ValueError, match="no entry with a finite"):
        hulls.hull(of("FeO"), np.array([np.nan]), level=LEVEL, source="")
    with pytest.raises(ValueError, match="1 compositions, 2 energies"):
        hulls.hull(of("FeO"), np.zeros(2), level=LEVEL, source="")


def by_pymatgen(compositions: np.ndarray, energies: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`get_e_above_hull(allow_negative=True)` of rows, each in the phase diagram of its own chemical system."""
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition, Element

    def entry(counts, energy):
        found = {Element.from_Z(int(i) + 1): float(counts[i]) for i in np.flatnonzero(counts)}
        return PDEntry(Composition(found), energy * counts.sum())

    answers = []
    for i in rows:
        elements = np.flatnonzero(compositions[i])
        inside = ~np.delete(compositions, elements, axis=1).any(1)
        inside[rows] = False  # the asked entries are no part of the hull, so that negative answers occur
        pure = [entry(np.eye(NUM_SPECIES)[z], 0.0) for z in elements]
        diagram = PhaseDiagram(pure + [entry(compositions[j], energies[j]) for j in np.flatnonzero(inside)])
        answers.append(diagram.get_e_above_hull(entry(compositions[i], energies[i]), allow_negative=True))
    return np.array(answers)


def check_against_pymatgen(compositions: np.ndarray, energies: np.ndarray, rows: np.ndarray) -> np.ndarray:
    rest = np.setdiff1d(np.arange(len(energies)), rows)
    everything = np.concatenate([compositions[rest], np.eye(NUM_SPECIES)[compositions[rows].any(0)]])
    hull = hulls.hull(everything, np.pad(energies[rest], (0, len(everything) - len(rest))), level=LEVEL, source="")
    found = hulls.energy_above_hull(compositions[rows], energies[rows], hull, level=LEVEL)
    np.testing.assert_allclose(found, by_pymatgen(compositions, energies, rows), atol=1e-6)
    return found


def test_equal_to_phase_diagram_on_made_entries():
    """240 entries of up to five of six elements; energies that make some entries the deepest and some positive."""
    rng = np.random.default_rng(0)
    systems = [s for size in range(1, 6) for s in combinations((2, 7, 10, 16, 25, 33), size)]
    compositions = np.zeros((240, NUM_SPECIES))
    for row in compositions:
        elements = list(systems[rng.integers(len(systems))])
        row[elements] = rng.integers(1, 6, len(elements))
    fractions = compositions / compositions.sum(1, keepdims=True)
    energies = -1.5 * (1 - (fractions**2).sum(1)) + 0.3 * rng.normal(size=240)
    found = check_against_pymatgen(compositions, energies, rng.permutation(240)[:60])
    assert (found < -0.01).sum() > 5 and (found > 0.01).sum() > 20


@pytest.fixture(scope="module")
def mp_20(data_dir):
    return hulls.read_cache(*(data_dir / "mp_20" / split for split in ("train", "val", "test")))


def test_equal_to_phase_diagram_on_mp_20(mp_20):
    compositions, energies, _ = mp_20
    rows = np.random.default_rng(1).permutation(len(energies))[:210]
    systems = {tuple(np.flatnonzero(row)) for row in compositions[rows]}
    assert len(systems) > 180 and {len(s) for s in systems} >= {2, 3, 4, 5}
    check_against_pymatgen(compositions, energies, rows)


def test_mp_20_against_the_materials_project(mp_20, data_dir):
    """Competitors outside MP-20 are missing, so that the hull of MP-20 can lie above the full one and never below."""
    compositions, energies, ids = mp_20
    hull = hulls.hull(compositions, energies, level=hulls.MATERIALS_PROJECT_2021, source="MP-20", names=ids)
    assert len(energies) == 45_229
    published = {}
    for split in ("val", "test"):
        with gzip.open(data_dir / f"mp_20_small/{split}.csv.gz", "rt") as file:
            published |= {row["material_id"]: float(row["e_above_hull"]) for row in csv.DictReader(file)}
    where = {str(name): i for i, name in enumerate(ids)}
    rows = np.array([where[name] for name in published])
    above = hulls.energy_above_hull(compositions[rows], energies[rows], hull, level=hulls.MATERIALS_PROJECT_2021)
    difference = above - np.array(list(published.values()))
    assert above.min() > -1e-12
    assert len(difference) == 14_258
    assert (difference > 1e-9).sum() == 3 and difference.max() < 6e-5  # their energies differ in the fifth digit
    share = np.mean(np.abs(difference) <= 1e-3)
    print(f"within 1 meV/atom of the Materials Project: {share:.4f} of {len(difference)} binaries and ternaries")
    assert share == pytest.approx(0.8821, abs=5e-4)


def test_simplex_equals_highs_on_degenerate_programs():
    """Compositions that coincide with columns, columns of equal cost, duplicates: where pivots tie."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(2)
    targets, columns, costs, expected = [], [], [], []
    for i in range(150):
        d = 2 + i % 6
        mixed = rng.integers(0, 4, (d, 3 * d))
        mixed = mixed[:, mixed.any(0)]
        a = np.concatenate([np.eye(d), mixed / mixed.sum(0)], axis=1)
        c = np.concatenate([np.zeros(d), -rng.integers(0, 4, mixed.shape[1]) / 2])
        full = np.flatnonzero((a > 0).all(0))
        x = a[:, full[0]] if len(full) and i % 2 else np.full(d, 1 / d)
        targets.append(x), columns.append(a), costs.append(c)
        expected.append(linprog(c, A_eq=a, b_eq=x, method="highs").fun)
    np.testing.assert_allclose(least_energies(targets, columns, costs), expected, atol=1e-9)


def test_programs_that_do_not_end_go_to_highs(monkeypatch):
    asked = of("Fe3O4", "FeO3")
    expected, _ = hulls.hull_energy(asked, small_hull())
    monkeypatch.setattr("crysjax.physics.hull.simplex._MOST_STEPS", 1)
    np.testing.assert_allclose(hulls.hull_energy(asked, small_hull())[0], expected, atol=1e-9)


def test_many_elements():
    """Beyond twelve elements the sub-systems are found another way: here only the pair Fe-O lowers the energy."""
    counts = hulls.composition("FeOHLiBeBCNNaMgAlSiPS")
    rest = np.flatnonzero(counts)
    hull = hulls.hull(np.concatenate([np.eye(NUM_SPECIES)[rest], of("FeO", "FeF")]),
                      np.array([0.0] * len(rest) + [-1.0, -9.0]), level=LEVEL, source="")  # fmt: skip
    assert hulls.hull_energy(counts[None], hull)[0] == pytest.approx([-2 / 14])


def test_entries_of_files_and_data_sets(tmp_path):
    table = "id,composition,formation_energy_ev_per_atom\na,Ca(OH)2,-1.5\n,Fe2O3,-1.6\n"
    (tmp_path / "a.csv").write_text(table)
    counts, energies, names = hulls.read_entries(tmp_path / "a.csv")
    assert counts[0, [19, 7, 0]].tolist() == [1, 2, 2] and energies.tolist() == [-1.5, -1.6]
    assert names.tolist() == ["a", "row 2"]
    rows = [{"composition": {"Fe": 2, "O": 3}, "formation_energy_ev_per_atom": -1.6}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    np.testing.assert_array_equal(hulls.read_entries(tmp_path / "a.json")[0], counts[1:])
    crystal = Entry("x", np.array([26, 8, 8]), np.random.rand(3, 3), 4 * np.eye(3), {hulls.FORMATION_ENERGY: -0.5})  # noqa: NPY002
    counts, energies, names = hulls.dataset_entries(from_entries([crystal]))
    np.testing.assert_array_equal(counts, of("FeO2"))
    assert energies.tolist() == [-0.5] and names.tolist() == ["x"]
    with pytest.raises(ValueError, match="no property 'formation_energy_ev_per_atom', only"):
        hulls.dataset_entries(from_entries([crystal._replace(properties={"gap": 1.0})]))


def test_level_of_a_table(tmp_path):
    (tmp_path / "a.csv").write_text("composition,formation_energy_ev_per_atom\nFeO,-1\n")
    assert hulls.read_level(tmp_path / "a.csv") is None
    row = {"composition": "FeO", "formation_energy_ev_per_atom": -1.5, "theory": "PBE", "corrections": "none"}
    (tmp_path / "a.json").write_text(json.dumps([row, row]))
    assert hulls.read_level(tmp_path / "a.json") == LEVEL
    for other in ({"theory": "r2SCAN"}, {"corrections": "MP2020"}, {"theory": "", "corrections": None}):
        (tmp_path / "a.json").write_text(json.dumps([row, row | other]))
        with pytest.raises(ValueError, match=r"entry 2 is of Level.*; expected one level for all"):
            hulls.read_entries(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps([row | {"corrections": ""}]))
    with pytest.raises(ValueError, match=r"entry 1 is of .*, and all of it"):
        hulls.read_level(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "composition,e\nFeO,1\n", "entry 1: no column 'formation_energy_ev_per_atom'"),
        ("a.csv", "composition,formation_energy_ev_per_atom\nFeO,1\nFeO,x\n", "entry 2: could not convert"),
        ("a.csv", "composition,formation_energy_ev_per_atom\nFe2Xx,1\n", "entry 1: "),
        ("a.csv", "composition,formation_energy_ev_per_atom\n", "at least one row"),
        ("a.json", '{"composition": 1}', "expected a table"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        hulls.read_entries(tmp_path / name)


def test_a_folder_that_is_no_cache(tmp_path):
    with pytest.raises(ValueError, match=r"not a cache folder, num_atoms\.npy is missing"):
        hulls.read_cache(tmp_path)
