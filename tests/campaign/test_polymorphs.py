"""The search for polymorphs: duplicates by hand, and a whole one by a shipped generator that is stopped and goes on."""

import csv
import json
import shutil

import numpy as np
import pytest

from crysjax.campaign import polymorphs
from crysjax.campaign.polymorphs import PolymorphSearch, distinct, find
from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.data.readers import io
from crysjax.models import registry


def test_matches_of_one_energy_are_one_polymorph_and_others_are_not():
    """Two clusters of matching structures; the first holds two energies 0.1 eV/atom apart, each twice."""
    energy = np.array([-5.0, -4.999, -4.95, -4.9, -4.899, -4.8])
    group = np.array([0, 0, 2, 0, 0, 2])
    assert distinct(group, energy).tolist() == [0, 0, 2, 3, 3, 5]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"formula": "SrTiO3", "units": 9}, "9 of 5 atoms; mp_20_wyckoff knows up to 20 atoms, expected at most 4"),
        ({"formula": ""}, "formula: empty"),
        ({"formula": "MgO", "count": 0}, "count: 0; expected 1 to"),
        ({"formula": "MgO", "space_groups": (231,)}, "space groups: 231"),
        ({"formula": "Mg0"}, "expected numbers from 1"),
        ({"formula": "Xx"}, "^formula: 'Xx'; expected a chemical element"),
        ({"formula": "MgO", "count": 2.5}, "^count: 2.5; expected a whole number$"),
        ({"formula": "MgO", "space_groups": (225.0,)}, "^space groups: 225.0; expected a whole number$"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_before_anything_is_written(tmp_path, asked, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        find(PolymorphSearch(**asked), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_folder_holds_one_content_of_each_file(tmp_path):
    """Models, what is beside the generator, and templates: each changed under the same name."""
    model, out = registry.model_path("mp_20_wyckoff"), tmp_path / "out"
    shutil.copy(model, tmp_path / "generator.npz")
    generator, defaults, templates = (tmp_path / name for name in ("generator.npz", "sampling.json", "templates.npz"))
    rows = [Entry("a", np.array([12, 8]), np.array([[0, 0, 0], [0.5] * 3]), a * np.eye(3), {}) for a in (4.0, 4.1)]
    changes = {
        "generator": lambda turn: shutil.copy(model, generator) if not turn else generator.write_bytes(b"other"),
        "sampling.json": lambda turn: defaults.write_text(f'{{"free": {{}}, "like": {{}}, "turn": {turn}}}'),
        "templates": lambda turn: datasets.save(datasets.from_entries([rows[turn]]), templates),
    }
    for change in changes.values():
        change(0)
    asked = PolymorphSearch("MgO", generator=str(generator), templates=str(templates))
    polymorphs._same_search(asked, out)
    polymorphs._same_search(asked, out)
    for name, change in changes.items():
        change(1)
        with pytest.raises(ValueError, match=f"out: holds a search with another content of {name}; choose another"):
            polymorphs._same_search(asked, out)
        change(0)
    polymorphs._same_search(asked, out)
    with pytest.raises(ValueError, match="holds a search with another seed"):
        polymorphs._same_search(asked._replace(seed=1), out)


def test_a_search_is_ranked_kept_and_goes_on(tmp_path, monkeypatch):
    asked = PolymorphSearch("MgO", count=4, units=2, steps=40, batch=2)
    relaxed, made = polymorphs.relax_dataset, []

    def stopped(*given, **settings):
        made.append(len(given[2]))
        if len(made) == 2:
            raise KeyboardInterrupt
        return relaxed(*given, **settings)

    monkeypatch.setattr(polymorphs, "relax_dataset", stopped)
    with pytest.raises(KeyboardInterrupt):
        find(asked, tmp_path)
    found = find(asked, tmp_path)  # the first batch is not relaxed a second time
    assert made == [2, 2, 2] and found.counts["sampled"] == 4
    above = found.crystals.properties["energy_above_lowest_ev_per_atom"]
    assert above[0] == 0 and (np.diff(above) >= 0).all()
    assert found.crystals.properties["times_found"].sum() == found.counts["relaxed"] == 4
    rows = list(csv.DictReader((tmp_path / "polymorphs.csv").open()))
    assert len(rows) == found.counts["distinct"] == len(list((tmp_path / "crystals").iterdir()))
    assert all((tmp_path / row["file"]).is_file() and row["formula_units"] in "12" for row in rows)
    assert io.read(tmp_path / "polymorphs.extxyz").ids.tolist() == [row["id"] for row in rows]
    page = (tmp_path / "report.html").read_text()
    assert page.count("<circle") == len(rows) and "no DFT" in page and "Polymorphs of MgO" in page
    assert json.loads((tmp_path / "summary.json").read_text())["distinct"] == len(rows)
    again = find(asked, tmp_path)
    assert made == [2, 2, 2] and again.crystals.ids.tolist() == found.crystals.ids.tolist()
    with pytest.raises(ValueError, match="holds a search with another seed"):
        find(asked._replace(seed=1), tmp_path)
