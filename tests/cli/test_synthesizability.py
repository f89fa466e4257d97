"""`crysjax train` and `predict` on a made-up world where what has been made is known: crystals that hold fluorine."""

import csv
import io
import json
import shutil

import numpy as np
import pytest

from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.models import registry
from crysjax.predictors import synthesizability as pu

MEANING = (
    "probability-like score of resembling crystals that have been made, given prior 0.5; "
    "not a probability of synthesis, and not the distance to the convex hull"
)
CONFIG = {
    "kind": "synthesizability", "properties": ["observed"], "steps": 120, "tiles": 1, "pairs": 64, "save_every": 40,
    "ema_decay": 0.9, "network": "graph", "network.width": 16, "network.layers": 1, "network.angular": 4,
    "network.radial_basis": 6, "pu.prior": 0.5, "pu.hidden": 8, "ensemble.members": 2,
    "optimizer.learning_rate": 0.005,
}  # fmt: skip


def made_up() -> datasets.Dataset:
    """Fluorides and oxides of magnesium, and of the fluorides every other one is known; `made` is the truth."""
    rng, rows = np.random.default_rng(0), []
    for i in range(120):
        made = i % 3 != 0
        numbers = np.array([9 if made else 8, 12])
        truth = {"made": float(made), "observed": 1.0 if i % 3 == 1 else (np.nan if i % 2 else 0.0)}
        lattice = np.diag(rng.uniform(3.0, 4.0, 3))
        rows.append(Entry(f"c{i:03d}", numbers, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), lattice, truth))
    return datasets.from_entries(rows, split=["train"] * 60 + ["val"] * 30 + ["test"] * 30)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, train, write):
    """The folder of a finished run, its config and its data set."""
    folder = tmp_path_factory.mktemp("synthesizability")
    datasets.save(made_up(), folder / "data.npz")
    config = write(folder / "config.yaml", CONFIG | {"data": str(folder / "data.npz")})
    answer = train(config, "--out", folder / "run")
    assert answer.code == 0, answer.err
    return folder


def leaves(path) -> dict[str, bytes]:
    with np.load(path) as file:
        return {name: file[name].tobytes() for name in file.files if name != "config"}


def test_hidden_ones_are_told_from_the_others(trained):
    """Trained without one negative label: every fluoride of the test split is above every oxide, known or not."""
    test = datasets.where_split(datasets.load(trained / "data.npz"), "test")
    score = pu.ask(registry.load_synthesizability(str(trained / "run" / "model.npz")), test).value
    made = test.properties["made"] == 1
    assert score[made].min() > 0.7 and score[~made].max() < 0.3


def test_it_goes_on_to_the_same_bits(trained, train, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    (tmp_path / "run" / "model.npz").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "120")  # as if it had been stopped after step 80
    answer = train(trained / "config.yaml", "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    assert leaves(tmp_path / "run" / "model.npz") == leaves(trained / "run" / "model.npz")


def test_predict_prints_scores_with_what_they_mean(trained, crysjax, tmp_path):
    model, data = trained / "run" / "model.npz", f"{trained / 'data.npz'}:test"
    answer = crysjax("predict", data, "--model", model)
    assert answer.code == 0 and answer.err == f"crysjax: synthesizability_score: {MEANING}\n"
    printed = list(csv.DictReader(io.StringIO(answer.out)))
    assert list(printed[0]) == ["id", "synthesizability_score", "synthesizability_score_std"]
    test = datasets.where_split(datasets.load(trained / "data.npz"), "test")
    said = pu.ask(registry.load_synthesizability(str(model)), test)
    for column, exact in (("synthesizability_score", said.value), ("synthesizability_score_std", said.std)):
        np.testing.assert_allclose([float(row[column]) for row in printed], exact, rtol=1e-3, atol=1e-5)
    assert min(said.std) > 0
    crysjax("predict", data, "--model", model, "--out", tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row.pop("meaning") for row in written] == [MEANING] * 30 and written == printed


def test_the_card_says_what_it_means_and_what_can_be_known(trained, crysjax):
    found = json.loads(crysjax("models", "card", trained / "run" / "model.npz").out)["synthesizability"]
    assert found["meaning"] == MEANING and (found["observed"], found["unlabelled"]) == (10, 20)
    # 10 of the 20 unlabeled are fluorides
    assert found["recall_of_observed"] == 1 and found["unlabelled_above_half"] == 0.5
    rest = datasets.where_split(datasets.load(trained / "data.npz"), "val")
    rest = datasets.take(rest, rest.properties["observed"] != 1)
    mean = pu.ask(registry.load_synthesizability(str(trained / "run" / "model.npz")), rest).value.mean()
    assert abs(found["mean_score_of_unlabelled"] - mean) < 0.01  # the file rounds weights to 8 bits


def test_it_is_neither_a_generator_nor_heads_for_a_campaign(trained, crysjax, one_line, tmp_path):
    model = trained / "run" / "model.npz"
    answer = crysjax("sample", model, "--out", tmp_path / "s.npz")
    one_line(answer, r"a model of kind 'synthesizability'; expected one of kind 'generator'")
    with pytest.raises(ValueError, match="of kind 'synthesizability'; expected one of kind 'heads'"):
        registry.load_predictor(str(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("properties=[]", r"properties: \[\]; expected one column, which says what has been made"),
        ("properties=[observed, made]", r"properties: \['observed', 'made'\]; expected one column"),
        ("properties=[known]", r"property 'known' is not in the data set, which has \['made', 'observed'\]"),
        ("pu.prior=null", r"pu\.prior: None; expected a number"),
        ("pu.prior=1.5", r"pu: prior: 1\.5; expected a number above 0 and below 1"),
        ("pu.risk=pn", r"pu: risk: 'pn'; expected one of non_negative, unbiased, ratio"),
        ("heads.hidden=8", r"heads\.hidden: a model of synthesizability has no such setting"),
    ],
)
def test_mistakes(trained, train, one_line, tmp_path, change, message):
    one_line(train(trained / "config.yaml", "--out", tmp_path, "--set", change), message)


def test_packs_that_hardly_ever_hold_both_kinds(trained, train, one_line, tmp_path):
    rare = made_up()
    rare.properties["observed"][:] = np.arange(120) % 30 == 1
    datasets.save(rare, tmp_path / "rare.npz")
    changes = ("--set", f"data={tmp_path / 'rare.npz'}", "--set", "pairs=1")
    answer = train(trained / "config.yaml", "--out", tmp_path, *changes)
    one_line(answer, r"pairs: a pack holds 4\.0 crystals and of these 0\.13 of the rarer kind")
