"""Generators learn from standard cells: the description that a file has does not reach the network."""

import itertools
import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from crysjax.crystallography.standard_cells import standardized
from crysjax.data import batching, datasets
from crysjax.data.datasets import Entry
from crysjax.models import cells, checkpoint
from crysjax.sampling.keeping import wanted
from crysjax.sampling.options import Options
from crysjax.training import tasks
from tests.support import EQUIVALENT, crystal

ELEMENTS = (8, 12, 20)
KINDS = ("doubled along one axis", "sheared", "axes renamed in a cycle", "a sheared supercell", "all axes turned round")
FEW = {"kind": "generator", "network": "dense", "network.width": 8, "network.layers": 1, "network.frequencies": 2,
       "properties": ["band_gap_ev"], "steps": 2, "log_every": 1, "save_every": 1, "tiles": 1, "pairs": 20,
       "frac": "flow", "lattice": "flow", "species": "discrete"}  # fmt: skip


def plain() -> datasets.Dataset:
    """24 crystals without symmetry, in standard cells all of whose edges and angles are far from equal or right."""
    rng, rows = np.random.default_rng(5), []
    cell = np.array([[4.0, 0, 0], [0.8, 4.6, 0], [1.0, 1.3, 5.3]])
    for i in range(24):
        n = 2 + i % 3
        sites = {"charge": rng.normal(size=n)}
        lattice = cell @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3)))
        rows.append(
            Entry(f"c{i}", rng.choice(ELEMENTS, n), rng.random((n, 3)), lattice, {"band_gap_ev": rng.random()}, sites)
        )
    found = datasets.from_entries(rows, split=["train"] * 18 + ["val"] * 6)
    return replace(standardized(found), provenance={})


def described(dataset: datasets.Dataset, kind: str) -> datasets.Dataset:
    """The same crystals in other cells; the label of a site goes with its copies."""
    rows = []
    for row in datasets.entries(dataset):
        new = EQUIVALENT[kind](crystal(row.numbers, row.frac, row.lattice))
        copies = len(new.frac) // len(row.frac)  # supercells repeat each site in place
        sites = {name: np.repeat(values, copies) for name, values in row.site_properties.items()}
        rows.append(Entry(row.id, new.occupancy.argmax(-1) + 1, new.frac, new.lattice, row.properties, sites))
    return datasets.from_entries(rows, split=dataset.split.tolist())


@pytest.fixture(scope="module")
def first(train, write, tmp_path_factory):
    """The plain crystals, and the run that learned from them."""
    return run(plain(), train, write, tmp_path_factory.mktemp("plain"))


def run(dataset, train, write, folder):
    datasets.save(dataset, folder / "data.npz")
    config = write(folder / "c.yaml", FEW | {"data": str(folder / "data.npz")})
    return folder, train(config, "--out", folder / "run")


def logged(folder) -> np.ndarray:
    return np.array([json.loads(line)["loss"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()])


@pytest.mark.parametrize("kind", KINDS)
def test_packs_are_those_of_one_description(kind):
    """Packs, labels and sites, to the rounding of fractions and of vectors of 5 Å in float32 through a few products."""
    streams, changed = [], described(plain(), kind)
    for dataset in (plain(), changed):
        parts, _ = cells.of_training({}, *(datasets.where_split(dataset, split) for split in ("train", "val")))
        shape = batching.capacity(parts[0].num_atoms, 20)
        streams.append((parts, list(itertools.islice(tasks.stream(parts[0], shape, 1, 0, ("band_gap_ev",))(0), 4))))
    (parts, expected), (others, found) = streams
    for (one, labels), (other, more) in zip(expected, found):
        np.testing.assert_array_equal(more.properties, labels.properties)
        np.testing.assert_allclose(other.lattice, one.lattice, atol=1e-5)
        off = np.asarray(other.frac) - np.asarray(one.frac)
        np.testing.assert_allclose(off - np.round(off), 0, atol=1e-5)
        for name in ("occupancy", "owner", "pairs", "pair_mask"):
            np.testing.assert_array_equal(getattr(other, name), getattr(one, name))
    np.testing.assert_allclose(others[0].site_properties["charge"], parts[0].site_properties["charge"], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_training_does_not_see_the_description_and_goes_on(first, train, write, tmp_path, kind):
    folder, answer = first
    assert answer.code == 0 and "cells:" not in answer.err, answer.err
    other, said = run(described(plain(), kind), train, write, tmp_path)
    smaller = 24 if "doubled" in kind else 0
    line = f"crysjax: cells: 24 of 24 crystals were given another cell, {cells.KIND}; {smaller} of these have fewer"
    assert said.code == 0 and said.err.count("cells:") == 1 and line in said.err, said.err
    np.testing.assert_allclose(logged(other), logged(folder), rtol=1e-4)
    config = checkpoint.read_config(other / "run" / "model.npz")
    assert config["sizes"] == checkpoint.read_config(folder / "run" / "model.npz")["sizes"]
    assert config["card"]["cells"] == cells.KIND and "not invariant to the choice" in config["card"]["symmetry"]
    assert config["card"]["provenance"]["cells"]["made_primitive"] == smaller * 18 // 24
    assert train(other / "c.yaml", "--out", other / "run").code == 0  # the same run: digests and cells agree
    config = json.loads((other / "run" / "config.json").read_text())
    assert line.removeprefix("crysjax: cells: ") in json.dumps(config)


OTHERS = {
    "heads": {"network": "graph", "network.width": 8, "network.layers": 1, "network.angular": 2,
              "network.radial_basis": 4, "heads.hidden": 8, "properties": ["band_gap_ev"]},
    "potential": {"network": "cluster", "network.cutoff_angstrom": 3.5, "network.radial_basis": 3, "network.layers": 1,
                  "network.channels": 4, "network.vectors": 2, "network.width": 4, "network.hidden": 4},
}  # fmt: skip


def test_predictors_and_potentials_get_their_cells_as_given(train, write, tmp_path):
    """Of 24 doubled crystals the validation part is judged in the cells that it has: nothing is said of cells."""
    doubled = described(plain(), "doubled along one axis")
    energy = {datasets.ENERGY: doubled.properties["band_gap_ev"]}
    datasets.save(replace(doubled, properties=doubled.properties | energy), tmp_path / "d.npz")
    for kind, own in OTHERS.items():
        given = {"kind": kind, "data": str(tmp_path / "d.npz"), "steps": 2, "pairs": 128, "tiles": 1} | own
        answer = train(write(tmp_path / f"{kind}.yaml", given), "--out", tmp_path / kind)
        assert answer.code == 0 and "cells:" not in answer.err, answer.err


def test_what_cannot_be_reduced_and_what_is_lost_is_in_the_line(capsys):
    row = datasets.entries(plain())[0]
    pair = described(datasets.from_entries([row]), "doubled along one axis")
    pair.site_properties["charge"][0] += 1
    flat = datasets.from_entries([row._replace(id="flat")])
    flat.lattice[0, 2] = flat.lattice[0, 1]
    _, line = cells.standard("here", pair, flat)
    assert line == (
        f"1 of 2 crystals were given another cell, {cells.KIND}; 1 of these have fewer atoms there; 1 of 2 have no "
        "such cell and stay as they are: flat; charge is missing now in 1 of them, whose merged atoms differ in it"
    )
    assert capsys.readouterr().err == f"crysjax: here: {line}\n"


def test_pairs_of_cells_as_given_are_refused():
    row = datasets.entries(plain())[0]
    sites = {"start_frac": row.frac, "start_lattice": np.tile(row.lattice, (len(row.frac), 1, 1))}
    pairs = datasets.from_entries([row._replace(site_properties=sites)])
    with pytest.raises(ValueError, match="make them again with `crysjax data pairs`"):
        cells.of_training({"family": "retrieval"}, pairs, pairs)
    with pytest.raises(ValueError, match="the retrieval-based flow alone"):
        cells.of_training({}, pairs, pairs)
    good = replace(pairs, provenance={"cells": ""})
    assert cells.of_training({"family": "retrieval"}, good, good) == ([good, good], "")


def test_fixed_atoms_come_in_the_reduced_cell_and_stay_where_they_are(tmp_path, capsys):
    (row,) = datasets.entries(datasets.take(plain(), [1]))
    (other,) = datasets.entries(described(datasets.from_entries([row]), "sheared"))
    datasets.save(datasets.from_entries([other]), tmp_path / "fix.npz")
    found = wanted(Options(fix=str(tmp_path / "fix.npz"), fix_cell=True), list(ELEMENTS)).fixed
    np.testing.assert_allclose(found.lattice, row.lattice, atol=1e-5)
    place = (found.frac - other.frac @ other.lattice @ np.linalg.inv(found.lattice)).astype(float)
    np.testing.assert_allclose(place, np.round(place), atol=1e-5)
    assert "its cell is not reduced" in capsys.readouterr().err
    doubled = described(datasets.from_entries([row]), "doubled along one axis")
    datasets.save(doubled, tmp_path / "fix.npz")
    assert len(wanted(Options(fix=str(tmp_path / "fix.npz")), list(ELEMENTS)).fixed.numbers) == 2 * len(row.numbers)
    assert jax.tree.leaves(capsys.readouterr().out) == [""]
