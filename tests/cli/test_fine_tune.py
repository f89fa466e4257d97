"""A property of one's own: the README's commands, word for word, on a tiny base; and what a start promises."""

import csv
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from crysjax.data import datasets
from crysjax.data.readers import cif
from crysjax.models import checkpoint, registry
from crysjax.sampling.sample import wanted_properties
from crysjax.training.train import parse

ROOT = Path(__file__).parents[2]
README, CONFIG = (ROOT / "README.md").read_text(), ROOT / "configs" / "fine_tune.yaml"
OWN = "hardness_gpa"


def commands() -> list[list[str]]:
    """The lines of the section's block of commands."""
    section = README.split("## Your own property in five steps")[1].split("\n## ")[0]
    lines = re.search(r"```sh\n(.*?)```", section, re.S)[1].strip().splitlines()
    return [shlex.split(part) for line in lines for part in line.split(" && ")]


def small(world, **changed) -> dict:
    """The shipped config with a tiny base and a few steps."""
    tiny = {"start": str(world.generator), "steps": 6, "pairs": 64, "log_every": 6, "adapter.rank": 2}
    return yaml.safe_load(CONFIG.read_text()) | tiny | changed


@pytest.fixture(scope="module")
def place(world, write, tmp_path_factory):
    """A folder with `mine.csv` and `configs/fine_tune.yaml`: the whole of what a user brings."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "configs").mkdir()
    with (folder / "mine.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["material_id", "cif", OWN])
        for entry in datasets.entries(datasets.load(world.data)):
            text = cif.format_p1(entry.id, entry.numbers, entry.frac, entry.lattice)
            rows.writerow([entry.id, text, round(float(entry.numbers.mean()), 2)])
    write(folder / "configs" / "fine_tune.yaml", small(world))
    tiny = {"steps": 6, "pairs": 64, "log_every": 6, "network.width": 8, "network.layers": 1, "heads.hidden": 8}
    heads = yaml.safe_load((ROOT / "configs" / "own_heads.yaml").read_text())
    write(folder / "configs" / "own_heads.yaml", heads | tiny)
    return folder


@pytest.fixture(scope="module")
def walked(place, crysjax, train):
    """The folder after all commands, and what they said."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name, *arguments in commands():
            assert name == "crysjax"
            answer = train(*arguments[1:]) if arguments[0] == "train" else crysjax(*arguments)
            assert answer.code == 0, (arguments, answer.err)
            said.append(answer)
    return place, said


def test_the_five_steps_of_the_readme_end_in_a_report(walked):
    folder, said = walked
    assert len(said) == 6
    told = said[-1].out
    assert re.search(
        r"hard: hardness_gpa: \d+% of 100 predicted within 15\.\d* to (19\.\d*|20) \(the range of what was", told
    )
    assert "predicted minus asked" in told and "not predicted" not in said[-1].err
    hard = datasets.load(folder / "hard.npz").properties[f"asked_{OWN}"]
    assert hard.min() >= 15 and hard.max() <= 20 and len(set(hard.tolist())) > 50
    rows = list(csv.DictReader((folder / "runs/mine/report/hard/asked.csv").open()))
    np.testing.assert_allclose([float(row[f"asked_{OWN}"]) for row in rows], hard, rtol=1e-6)
    assert (folder / "runs/mine/report/hard/asked.html").read_text().count("<circle") == 200
    report = (folder / "runs" / "mine" / "report" / "report.html").read_text()
    assert "hard" in report and (folder / "runs" / "mine" / "report" / "metrics.json").exists()
    assert len(datasets.load(folder / "hard.npz")) == 100


def test_the_model_is_an_ordinary_one_that_knows_its_own_property_last(walked, world):
    model = registry.load_model(str(walked[0] / "runs" / "mine" / "model.npz"), "generator")
    base = registry.load_model(str(world.generator), "generator")
    assert model.config["properties"] == [*base.config["properties"], OWN]
    for key in ("lattice_center", "lattice_scale"):
        assert model.config["settings"][f"generator.{key}"] == base.config["settings"][f"generator.{key}"]
    for key in ("property_center", "property_scale"):
        mine, its = (m.config["settings"][f"generator.{key}"] for m in (model, base))
        assert mine[:2] == its and len(mine) == 3
    started = model.config["card"]["start"]
    assert started["adapter"] == "lora" and 0 < started["trained_parameters"] < model.config["card"]["parameters"]


def tuned(train, write, folder: Path, settings: dict):
    """The parameters of a run with these settings, and what it said."""
    answer = train(write(folder / "config.yaml", settings), "--out", folder / "run")
    assert answer.code == 0, answer.err
    return checkpoint.read_params(folder / "run" / "model.npz"), answer


def test_under_condition_nothing_but_the_new_inputs_changes(walked, train, world, write, tmp_path):
    changed = {"data": str(walked[0] / "mine.npz"), "adapter": "condition", "optimizer.learning_rate": 0.1}
    settings = {k: v for k, v in (small(world) | changed).items() if not k.startswith("adapter.")}
    params, answer = tuned(train, write, tmp_path, settings)
    assert answer.err.startswith("crysjax: starts from model; trains 32 numbers, the model has ")  # 2 inputs, width 16
    base = checkpoint.read_params(world.generator)
    mine, its = (np.asarray(p["context"].pop("kernel")) for p in (params, base))
    for leaf, other in zip(*(map(np.asarray, _leaves(tree)) for tree in (params, base))):
        np.testing.assert_array_equal(leaf, other)
    new = [33 + 2, 33 + 3 + 2]  # after 33 features of time: three values, then whether each is given
    np.testing.assert_array_equal(np.delete(mine, new, 0), its)
    assert (np.abs(mine[new]).max(1) > 0).all()


def _leaves(tree) -> list:
    return [leaf for node in tree.values() for leaf in (_leaves(node) if isinstance(node, dict) else [node])]


def test_a_run_from_a_start_goes_on_bit_for_bit(walked, train, world, write, tmp_path):
    """The trained part alone is in the checkpoint."""
    settings = small(world, data=str(walked[0] / "mine.npz"), save_every=3)
    tuned(train, write, tmp_path, settings)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    whole = checkpoint.read_params(tmp_path / "run" / "model.npz")
    again, _ = tuned(train, write, tmp_path, settings)
    for leaf, other in zip(_leaves(whole), _leaves(again)):
        np.testing.assert_array_equal(leaf, other)


def test_the_shipped_config_is_one():
    run, build = parse(yaml.safe_load(CONFIG.read_text()))
    assert run.start in registry.installed()
    assert run.properties == [OWN] and build["adapter"] == "lora"


MISTAKES = {
    "adapter: loar": ({"adapter": "loar"}, r"adapter: 'loar'; expected one of none, .* \(did you mean lora\?\)"),
    "no start": ({"start": None}, r"adapter: needs a model to adapt; expected start: MODEL"),
    "rank 0": ({"adapter.rank": 0}, r"adapter: rank: 0, scale: 1.0; expected a rank of at least 1"),
    "a key of none": ({"adapter": "none"}, r"adapter\.rank: adapter is none; expected adapter: one of condition, lora"),
    "no such model": ({"start": "mp_20"}, r"'mp_20' is neither a file nor a model"),
    "another network": ({"network.width": 32}, r"start: .*model\.npz has no weight of the name and shape of "),
    "heads": ({"kind": "heads"}, r"start: .*; a run of kind 'heads' cannot start from a model"),
    "no such column": ({"properties": ["hardness"]}, r"property 'hardness': no crystal has a value"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(walked, train, one_line, world, write, tmp_path, name):
    changed, message = MISTAKES[name]
    settings = small(world, data=str(walked[0] / "mine.npz"), **changed)
    one_line(train(write(tmp_path / "config.yaml", settings), "--out", tmp_path / "run"), message)


ASKING = {
    "--property hardness_gpa=5:": r"--property hardness_gpa=5:: expected NAME=NUMBER or NAME=LOW:HIGH",
    "--property hardness_gpa=9:5": r"--property hardness_gpa=9:5: low is above high; expected NAME=LOW:HIGH",
    "--property space_group=231": r"expected a space group from 1 to 230",
    "--guidance -1": r"--guidance -1: expected WEIGHT, or NAME=WEIGHT",
    "--guidance band_gap_ev=1": r"--guidance band_gap_ev=1: expected .* with a --property for each name",
}


@pytest.mark.parametrize("options", ASKING)
def test_wrong_questions_are_one_line(walked, crysjax, one_line, tmp_path, options):
    model = walked[0] / "runs" / "mine" / "model.npz"
    one_line(crysjax("sample", model, *options.split(), "--out", tmp_path / "s.npz"), ASKING[options])


def test_several_conditions_with_a_weight_each(walked, crysjax, tmp_path):
    model, out = walked[0] / "runs" / "mine" / "model.npz", tmp_path / "s.npz"
    asked = ["--property", f"{OWN}=10:20", "--property", "band_gap_ev=1", "--property", "space_group=221"]
    options = [*asked, "--guidance", f"{OWN}=1,space_group=2", "--steps", 2, "-n", 5, "--out", out]
    answer = crysjax("sample", model, *options)
    assert answer.code == 0 and len(datasets.load(out)) == 5, answer.err


def test_a_range_is_a_value_a_crystal():
    asked = wanted_properties({"b": (2, 4), "a": 1}, ["a", "b", "space_group"], 4000, 7)
    np.testing.assert_array_equal(asked[:, 0], 1)
    assert np.isnan(asked[:, 2]).all() and asked[:, 1].min() >= 2 and asked[:, 1].max() <= 4
    np.testing.assert_allclose(asked[:, 1].mean(), 3, atol=4 / np.sqrt(3 * 4000))  # four standard errors of U(2, 4)
