"""What the command line says of labels: while data are prepared, before training, and of elements it never saw."""

import csv

import jax
import numpy as np
import pytest

from crysjax.data import datasets
from crysjax.data.datasets import ENERGY, FORCES, Entry
from crysjax.data.readers.cif import format_p1

GAP = "band_gap_ev"
CONFIG = {"kind": "heads", "network": "graph", "network.width": 8, "network.layers": 1, "network.angular": 2,
          "network.radial_basis": 4, "heads.hidden": 8, "steps": 3, "log_every": 1, "save_every": 3, "tiles": 1,
          "pairs": 64}  # fmt: skip
POTENTIAL = {"kind": "potential", "network": "cluster", "network.cutoff_angstrom": 3.5, "network.radial_basis": 3,
             "network.channels": 4, "network.vectors": 2, "network.width": 4, "network.hidden": 4, "network.layers": 1,
             "steps": 2, "tiles": 1, "pairs": 64}  # fmt: skip


def crystals(changed: dict[int, float], name: str = GAP, forces: str = "", **more) -> datasets.Dataset:
    """40 crystals, the last ten for validation, with some labels changed; `forces`: which splits have them."""
    rng, rows = np.random.default_rng(0), []
    for i in range(40):
        split = "train" if i < 30 else "val"
        values = {name: changed.get(i, float(rng.uniform(0, 4)))}
        own = {FORCES: rng.normal(size=(2, 3))} if split in forces.split() else {}
        rows.append(Entry(f"c{i}", np.array([12, 8]), np.array([[0, 0, 0], [0.5, 0.5, 0.5 + i / 500]]),
                          (3 + i / 50) * np.eye(3), values, own))  # fmt: skip
    return datasets.from_entries(rows, split=["train"] * 30 + ["val"] * 10)


@pytest.fixture
def trained(tmp_path, train, write):
    def run(dataset, config: dict = CONFIG, **changed):
        datasets.save(dataset, tmp_path / "d.npz")
        settings = {"data": str(tmp_path / "d.npz"), "properties": [GAP]} | config | changed
        with jax.numpy_dtype_promotion("standard"):
            return train(write(tmp_path / "c.yaml", settings), "--out", tmp_path / "run")

    return run


def test_prepare_says_what_became_of_every_column(crysjax, tmp_path):
    text = format_p1("MgO", np.array([12, 8]), np.array([[0, 0, 0], [0.5] * 3]), 3 * np.eye(3))
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "made", "band_gap", "density", "formula", "nsites", "dft_band_gap"])
        gaps = ["1.5 eV", *map(str, np.linspace(0, 3, 20)), "-9999", "-9999"]
        writer.writerows([f"m{i}", text, gap, "3.6", "NaN" if i else "InF", "2", gap] for i, gap in enumerate(gaps))
    answer = crysjax("data", "prepare", tmp_path / "t.csv", "--out", tmp_path / "d.npz")
    assert answer.code == 0 and answer.out == f"{tmp_path / 'd.npz'}: 23 crystals, 0 skipped\n"
    told, *lines = answer.err.splitlines()
    assert told == (
        "crysjax: warning: t.csv: column 'band_gap': 1 of 23 cells are no plain numbers and count as missing, "
        "the first in row 1 (id m0): '1.5 eV'"
    )
    assert lines[0] == "t.csv: read: structure from 'made', id from 'material_id', band_gap_ev from 'band_gap', density"
    assert lines[1].startswith("t.csv: not read: 'formula' (1 cells, text, row 1 (id m0): 'InF'), 'nsites' (23 cells, ")
    assert "'dft_band_gap' (23 cells, band_gap_ev is read from column 'band_gap'; 0 of 22 values differ)" in lines[1]
    assert lines[2].startswith("warning: band_gap_ev: -9999 comes 2 times in 22 values") and len(lines) == 3
    again = crysjax("data", "prepare", tmp_path / "d.npz", "--out", tmp_path / "e.npz")
    assert again.err.splitlines() == lines[2:]  # what was said of the columns is kept, not said again


def test_one_absurd_label_stops_training_and_names_itself(trained, one_line, tmp_path):
    answer = trained(crystals({7: 1e30}))
    assert answer.code == 2 and not (tmp_path / "run" / "model.npz").exists()
    assert "warning: band_gap_ev: 1e+30 comes 1 time in 30 values" in answer.err
    assert "property 'band_gap_ev': the value 1e+30 of c7 sets a scale of" in answer.err.splitlines()[-1]


@pytest.mark.parametrize("where", ["energy", "forces"])
def test_one_absurd_label_stops_a_potential(trained, where):
    dataset = crystals({7: -1e30} if where == "energy" else {}, ENERGY, "train val")
    if where == "forces":
        dataset.site_properties[FORCES][14, 1] = 3e30
    answer = trained(dataset, POTENTIAL, properties=[])
    name = {"energy": f"{ENERGY}: the value -1e+30 of c7", "forces": f"{FORCES}: the value 3e+30 in row 44"}[where]
    assert answer.code == 2 and f"{name} sets a scale of" in answer.err.splitlines()[-1]


def test_placeholders_are_named_before_training(trained):
    answer = trained(crystals({i: -9999.0 for i in range(0, 40, 4)}))
    assert answer.code == 0, answer.err
    assert "crysjax: warning: band_gap_ev: -9999 comes 8 times in 30 values, the others run from" in answer.err


@pytest.mark.parametrize("kind", ["heads", "energy", "forces"])
def test_labels_that_validation_lacks_are_an_error_before_training(trained, one_line, tmp_path, kind):
    none = {i: np.nan for i in range(30, 40)}
    if kind == "heads":
        answer, name = trained(crystals(none)), GAP
    elif kind == "energy":
        answer, name = trained(crystals(none, ENERGY), POTENTIAL, properties=[]), ENERGY
    else:
        answer, name = trained(crystals({}, ENERGY, "train"), POTENTIAL, properties=[]), FORCES
    one_line(answer, rf"{name}: no crystal of the validation split 'val' has a value")
    assert not (tmp_path / "run").exists()


def test_a_label_that_no_crystal_has_gives_no_metric(trained, tmp_path):
    from crysjax.models import checkpoint

    answer = trained(crystals({}, ENERGY), POTENTIAL, properties=[])
    assert answer.code == 0, answer.err
    found = checkpoint.read_config(tmp_path / "run" / "model.npz")["card"]["validation"]
    assert sorted(found) == ["loss", f"mae/{ENERGY}"] and np.isfinite(list(found.values())).all()


def test_a_metric_that_is_no_number_is_an_error(trained, one_line, tmp_path, monkeypatch):
    from crysjax.training import train

    monkeypatch.setattr(train, "evaluate", lambda *_: {"loss": 1.0, f"mae/{GAP}": float("nan")})
    one_line(trained(crystals({})), rf"validation: mae/{GAP} is nan; no model was written, the checkpoint in", code=1)
    assert not (tmp_path / "run" / "model.npz").exists() and (tmp_path / "run" / "checkpoints" / "3").exists()


def test_predict_names_elements_that_training_lacked(trained, crysjax, tmp_path):
    assert trained(crystals({})).code == 0
    rows = datasets.entries(crystals({}))[:3]
    strange = [rows[0], *(row._replace(numbers=np.array([26, z])) for row, z in zip(rows[1:], (8, 27)))]
    datasets.save(datasets.from_entries(strange), tmp_path / "s.npz")
    answer = crysjax("predict", tmp_path / "s.npz", "--model", tmp_path / "run" / "model.npz")
    assert answer.code == 0 and len(answer.out.splitlines()) == 4
    said = "the model was not trained on Fe, Co (2 of 3 crystals); such predictions mean little"
    assert answer.err.startswith(f"crysjax: {tmp_path / 's.npz'}: {said}\n")
    assert "crystals are outside the training data: their novelty is above" in answer.err
