"""The retrieval-based flow from the command line: pairs, training, samples from templates, and refusals."""

import json

import numpy as np
import pytest

from crysjax.chemistry.elements import counts
from crysjax.chemistry.oxidation import common_states
from crysjax.constraints.feasible import neutral
from crysjax.data import datasets

FEW = {"family": "retrieval", "steps": 3, "properties": [], "network": "dense", "network.width": 8,
       "network.layers": 1, "network.frequencies": 2}  # fmt: skip


@pytest.fixture(scope="module")
def made(world, crysjax, train, write, tmp_path_factory):
    """The paired data and a model that has hardly been trained."""
    folder = tmp_path_factory.mktemp("retrieval")
    answer = crysjax("data", "pairs", world.data, "--out", folder / "pairs.npz", "--tries", 2)
    assert answer.code == 0, answer.err
    common = {"kind": "generator", "data": str(folder / "pairs.npz"), "tiles": 1, "pairs": 64}
    answer = train(write(folder / "c.yaml", common | FEW), "--out", folder / "run")
    assert answer.code == 0, answer.err
    return folder


def test_pairs_say_that_their_cells_are_reduced(made):
    assert "cells" in datasets.load(made / "pairs.npz").provenance


def test_a_model_knows_its_metric_of_elements(made):
    with np.load(made / "run" / "model.npz") as file:
        settings = json.loads(bytes(file["config"]).decode())["settings"]
    assert np.shape(settings["generator.elements"]) == (100, 8)


def test_samples_carry_the_compositions_asked_for_in_cells_of_templates(made, world, crysjax, tmp_path):
    out = tmp_path / "s.npz"
    where = ["--like", f"{world.data}:test", "--templates", f"{world.data}:train", "--out", out]
    answer = crysjax("sample", made / "run" / "model.npz", *where)
    assert answer.code == 0, answer.err
    drawn, given = datasets.load(out), datasets.where_split(datasets.load(world.data), "test")
    assert np.array_equal(drawn.numbers, given.numbers) and drawn.ids.tolist() == given.ids.tolist()
    assert not np.allclose(drawn.lattice, given.lattice, atol=0.01)


@pytest.mark.parametrize("options", [["-n", 3], ["--like"]])
def test_without_templates_it_is_refused(made, world, crysjax, one_line, tmp_path, options):
    given = [*options, f"{world.data}:test"] if options == ["--like"] else options
    answer = crysjax("sample", made / "run" / "model.npz", *given, "--out", tmp_path / "s.npz")
    one_line(answer, "needs --templates")


def test_without_compositions_elements_are_exchanged(made, crysjax, tmp_path):
    out = tmp_path / "s.npz"
    where = ["--templates", "aflow-prototypes", "-n", 6, "--elements", "Mg,Ca,Ti,O", "--neutral", "--max-atoms", 6]
    answer = crysjax("sample", made / "run" / "model.npz", *where, "--out", out)
    assert answer.code == 0, answer.err
    drawn = datasets.load(out)
    assert len(drawn) == 6 and drawn.num_atoms.max() <= 6
    assert set(drawn.numbers.tolist()) <= {8, 12, 20, 22}
    assert all(neutral(counts(row.numbers), common_states()) for row in datasets.entries(drawn))


def test_a_formula_beside_templates_is_refused(made, crysjax, one_line, tmp_path):
    where = ["--templates", "aflow-prototypes", "-n", 2, "--formula", "MgO", "--out", tmp_path / "s.npz"]
    one_line(crysjax("sample", made / "run" / "model.npz", *where), "expected no formula")


def test_templates_for_another_family_are_refused(world, crysjax, one_line, tmp_path):
    where = ["--templates", f"{world.data}:train", "--out", tmp_path / "s.npz"]
    one_line(crysjax("sample", world.generator, *where), "others take no --templates")


def test_data_without_pairs_is_refused(world, train, write, one_line, tmp_path):
    common = {"kind": "generator", "data": str(world.data), "tiles": 1, "pairs": 64}
    answer = train(write(tmp_path / "c.yaml", common | FEW), "--out", tmp_path / "run")
    one_line(answer, "crysjax data pairs")
