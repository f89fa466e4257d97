"""One crystal in many cells ends in one cell; nothing is turned, mirrored or lost on the way."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from crysjax.chemistry.elements import formula
from crysjax.crystallography.standard_cells import standard_cell, standardized
from crysjax.data.datasets import Dataset, Entry, entries, from_entries, take

beside = runpy.run_path(str(Path(__file__).with_name("quartz.py")))  # this folder is no package
QUARTZ, ROCK_SALT, space_group = beside["QUARTZ"], beside["ROCK_SALT"], beside["space_group"]


def supercell(entry: Entry, change) -> Entry:
    """The crystal in the cell `change @ lattice`, of whole numbers of any determinant but 0; forces go along."""
    change = np.asarray(change)
    corners = np.array(list(np.ndindex(*(2 * int(np.abs(change).sum()) + 1,) * 3))) - int(np.abs(change).sum())
    frac = (entry.frac[None] + corners[:, None]).reshape(-1, 3) @ np.linalg.inv(change)
    inside = ((frac > -1e-6) & (frac < 1 - 1e-6)).all(1)
    numbers = np.tile(entry.numbers, len(corners))[inside]
    sites = {k: np.tile(v, (len(corners), *(1,) * (v.ndim - 1)))[inside] for k, v in entry.site_properties.items()}
    assert len(numbers) == round(abs(np.linalg.det(change)) * len(entry.numbers))
    return entry._replace(numbers=numbers, frac=frac[inside], lattice=change @ entry.lattice, site_properties=sites)


CHANGES = {
    "as it is": np.eye(3, dtype=int),
    "named otherwise": np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
    "left-handed": np.diag([1, 1, -1]),
    "mirrored names": np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "sheared": np.array([[1, 2, 0], [0, 1, 0], [-1, 0, 1]]),
    "doubled": np.diag([2, 1, 1]),
    "sheared, sixfold and left-handed": np.array([[2, 1, 0], [0, 1, 1], [0, 1, -2]]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("crystal", [QUARTZ, ROCK_SALT], ids=["quartz", "rock salt"])
def test_every_cell_of_a_crystal_gives_one_cell_of_the_same_hand(crystal, change):
    wanted, found = (standard_cell(row).entry for row in (crystal, supercell(crystal, change)))
    assert len(found.numbers) == {"quartz": 9, "rock-salt": 2}[crystal.id]
    assert formula(found.numbers) == formula(crystal.numbers)
    assert np.linalg.det(found.lattice) > 0
    assert space_group(found) == space_group(crystal) == {"quartz": "P3_121", "rock-salt": "Fm-3m"}[crystal.id]
    np.testing.assert_allclose(found.lattice @ found.lattice.T, wanted.lattice @ wanted.lattice.T, atol=1e-4)


def random_dataset(count: int = 20) -> Dataset:
    rng = np.random.default_rng(3)
    rows = []
    for i in range(count):
        n = int(rng.integers(1, 6))
        lattice = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(3, 6, (3, 1)) + 0.4 * rng.normal(size=(3, 3))
        forces = {"forces_ev_per_a": rng.normal(size=(n, 3)), "charge": rng.normal(size=n)}
        small = Entry(f"r{i}", rng.integers(1, 90, n), rng.random((n, 3)), lattice, {"band_gap_ev": float(i)}, forces)
        rows.append(supercell(small, list(CHANGES.values())[i % len(CHANGES)]))
    return from_entries(rows)


def test_a_second_call_changes_nothing_and_labels_stay():
    dataset = random_dataset()
    once = standardized(dataset)
    assert standardized(once) is once
    assert once.provenance["cells"]["made_primitive"] == sum(i % len(CHANGES) >= 5 for i in range(20))
    assert once.provenance["cells"]["not_reduced"] == []
    assert once.ids.tolist() == dataset.ids.tolist()
    np.testing.assert_array_equal(once.properties["band_gap_ev"], dataset.properties["band_gap_ev"])
    again = standardized(take(dataset, np.arange(20)))
    np.testing.assert_array_equal(again.frac, once.frac)


def test_crystals_are_not_turned_so_that_forces_stand():
    for before, after in zip(entries(random_dataset()), entries(standardized(random_dataset()))):
        place = np.linalg.inv(after.lattice.astype(float))
        for row in range(len(before.numbers)):
            there = before.frac[row].astype(float) @ before.lattice @ place
            off = there - after.frac
            near = np.linalg.norm((off - np.round(off)) @ after.lattice, axis=1) < 1e-3
            same = near & (after.numbers == before.numbers[row])
            assert same.sum() == 1
            for name in ("forces_ev_per_a", "charge"):
                np.testing.assert_allclose(
                    after.site_properties[name][same][0], before.site_properties[name][row], atol=1e-5
                )


def test_merged_sites_that_differ_lose_the_property_and_forces_are_averaged():
    forces = np.tile(np.arange(6.0).reshape(2, 3), (2, 1))
    forces[2:] += 0.1
    frac = np.array([[0, 0, 0], [0.2, 0.5, 0.5], [0.5, 0, 0], [0.7, 0.5, 0.5]])
    of_sites = {"magmom": np.array([4.0, 0, -4, 0]), "forces_ev_per_a": forces}
    antiferromagnet = Entry("afm", np.array([26, 8, 26, 8]), frac, np.diag([6.0, 3.1, 3.2]), {}, of_sites)
    found = standardized(from_entries([antiferromagnet]))
    assert found.provenance["cells"]["site_properties_dropped"] == {"magmom": 1}
    assert np.isnan(found.site_properties["magmom"]).all()
    np.testing.assert_allclose(found.site_properties["forces_ev_per_a"], forces[:2] + 0.05, rtol=1e-6)


def test_atoms_are_merged_within_the_tolerance_alone():
    double = supercell(QUARTZ, np.diag([1, 1, 2]))
    moved = double._replace(frac=double.frac + np.eye(18, 3) * 0.02 / np.linalg.norm(double.lattice[0]))  # 0.02 Å
    assert len(standard_cell(moved).entry.numbers) == 18
    assert len(standard_cell(moved, symprec=0.05).entry.numbers) == 9
    with pytest.raises(ValueError, match="symprec: nan Å"):
        standard_cell(QUARTZ, symprec=float("nan"))


def test_what_is_no_crystal_is_counted_and_left_alone():
    dataset = from_entries([QUARTZ, supercell(ROCK_SALT, np.diag([2, 1, 1]))])
    dataset.lattice[0] = np.nan
    found = standardized(dataset)
    assert found.provenance["cells"]["not_reduced"] == ["quartz"]
    assert found.num_atoms.tolist() == [9, 2]
    np.testing.assert_array_equal(found.frac[:9], dataset.frac[:9])
    assert standardized(found) is found
