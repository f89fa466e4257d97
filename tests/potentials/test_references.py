"""Element references with a known answer: formation energies that were made from known energies of the elements."""

import json
from dataclasses import replace

import numpy as np
import pytest

from crysjax.base import NUM_SPECIES
from crysjax.data import datasets
from crysjax.data.datasets import ENERGY, Entry
from crysjax.data.readers import reading
from crysjax.models import references, registry
from crysjax.potentials.label import label
from crysjax.potentials.mlip import mlip, save_potential

KNOWN = {12: -1.5, 20: -2.0, 8: -4.0}  # eV per atom


@pytest.fixture(scope="module")
def spheres():
    """Soft spheres of Mg, Ca and O, which are enough for an energy."""
    potential = mlip(network="soft_sphere", numbers=(8, 12, 20))
    return potential, potential.init(None)


@pytest.fixture(scope="module")
def crystals(spheres):
    """Twelve compressed crystals whose formation energies follow from the potential and `KNOWN`."""
    pairs = [(12, 8), (20, 8), (12, 20)] * 4
    rows = [Entry(f"c{k}", np.array(z), np.array([[0, 0, 0], [0.5, 0.5, 0.5 - 0.01 * k]]), (2.6 + 0.05 * k) * np.eye(3),
                  {}) for k, z in enumerate(pairs)]  # fmt: skip
    made = datasets.from_entries(rows)
    element = np.full(NUM_SPECIES, np.nan)
    element[np.array(list(KNOWN)) - 1] = list(KNOWN.values())
    energy = label(made, *spheres).properties[ENERGY]
    formation = energy - references.element_energy(made, element)
    return replace(
        made, properties={references.FORMATION_ENERGY: formation}, split=np.array(["train"] * 9 + ["val"] * 3)
    )


def test_fitted_energies_are_those_that_the_data_were_made_from(spheres, crystals):
    found = references.fitted(datasets.where_split(crystals, "train"), *spheres)
    for z, energy in KNOWN.items():
        assert found[z - 1] == pytest.approx(energy, abs=1e-3)
    assert np.isnan(found[0]) and np.isfinite(found).sum() == 3
    left = references.error(datasets.where_split(crystals, "val"), found, *spheres)
    assert len(left) == 3 and np.abs(left).max() < 1e-3
    few = references.fitted(datasets.take(crystals, np.arange(2)), *spheres)
    assert np.isnan(few).all()  # one crystal of an element is not enough


def test_relaxed_energies_are_the_lowest_of_each_element(spheres):
    """Spheres that do not touch have no energy; touching ones relax to it; a compound is passed over."""
    one, cell = np.zeros((1, 3)), np.eye(3)
    rows = [Entry("near", np.array([12]), one, 2.4 * cell, {}), Entry("far", np.array([12]), one, 4.5 * cell, {}),
            Entry("mgo", np.array([12, 8]), np.array([[0, 0, 0], [0.5] * 3]), 4 * cell, {})]  # fmt: skip
    found, lost = references.relaxed(datasets.from_entries(rows), *spheres)
    assert found[11] == pytest.approx(0, abs=1e-3) and np.isfinite(found).sum() == 1 and set(lost) <= {"near"}
    with pytest.raises(ValueError, match="no crystal of a single element"):
        references.relaxed(datasets.from_entries(rows[2:]), *spheres)


def test_the_command_writes_what_the_campaign_reads(spheres, crystals, tmp_path, capsys):
    from crysjax.cli.app import main

    model, data = tmp_path / "spheres.npz", tmp_path / "data.npz"
    save_potential(model, *spheres)
    datasets.save(crystals, data)
    assert references.read_reference(model) is None
    with pytest.raises(SystemExit) as code:
        main(["models", "references", "--potential", str(model), "--fit", f"{data}:train", "--check", f"{data}:val"])
    said = capsys.readouterr()
    assert not code.value.code and "3 elements; formation energies of 3 held-out crystals" in said.out, said.err
    written = json.loads((tmp_path / "spheres.references.json").read_text())
    assert written["potential_sha256"] == reading.digest(model) and written["method"] == "fitted"
    found = references.read_reference(model)
    assert found.element_ev[7] == pytest.approx(-4, abs=1e-3) and found.std_ev_per_atom < 1e-3
    save_potential(model, mlip(network="soft_sphere", numbers=(8, 12, 20), stiffness_ev=5.0), spheres[1])
    with pytest.raises(ValueError, match=r"of another potential than spheres\.npz; make them anew"):
        references.read_reference(model)


def test_the_shipped_references_are_found():
    found = references.read_reference(registry.model_path("student"))
    assert found.element_ev[7] == pytest.approx(-3.9258) and found.std_ev_per_atom == pytest.approx(0.1574)
