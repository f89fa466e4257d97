"""`crysjax compare`: one table with floors, models trained once, and mistakes told before anything runs."""

import json
import shutil
import signal
import time
from pathlib import Path

import jax
import pytest

from crysjax.data import files
from crysjax.evaluation.metrics.distributions import Interval
from crysjax.reports import comparison


@pytest.fixture(scope="module")
def compared(world, crysjax, write, tmp_path_factory):
    """Structure prediction and free samples, the generator of the world loaded and one trained on the spot."""
    folder = tmp_path_factory.mktemp("compare")
    quick = write(folder / "quick.yaml", world.config("generator") | {"steps": 3, "properties": []})
    both = {"data": str(world.data), "models": {"loaded": str(world.generator), "quick": str(quick)}}
    first = write(folder / "csp.yaml", both | {"rows": 6, "seeds": [0, 1], "steps": [1, 2], "tries": 2})
    free = {"rows": 8, "task": "de novo", "hull": [str(world.data)], "potential": "student"}
    changed = {"loaded": str(world.generator), "quick": {"config": str(quick), "steps": 2, "ema_decay": None}}
    second = write(folder / "free.yaml", both | free | {"models": changed})
    with jax.numpy_dtype_promotion("standard"):  # for the training inside; optax mixes floats and whole numbers
        answer = crysjax("compare", first, second, "--out", folder / "out")
    shutil.copy(folder / "out" / "table.json", folder / "table.json")  # other tests write into the folder again
    return folder / "out", (first, second), answer


def test_the_table_has_every_model_and_floor_with_its_cost(compared):
    out, _, answer = compared
    assert answer.code == 0, answer.err
    lines = json.loads((out / "table.json").read_text())["lines"]
    assert [line["name"] for line in lines] == [
        "random template", "nearest template", "loaded", "quick", "substitution", "loaded", "quick",
    ]  # fmt: skip
    csp, free = lines[2], lines[5]
    names = ("match", "mean RMSE", "cRMSE")
    assert set(csp["metrics"]) == {f"{name}, {tries}" for name in names for tries in ("1 try", "2 tries")}
    assert csp["metrics"]["cRMSE, 1 try"]["value"] == pytest.approx(corrected(csp["metrics"], "1 try"))
    assert csp["metrics"]["match, 1 try"]["count"] == 6 and set(csp["spread"]) == set(csp["metrics"])
    free_ones = {
        "validity",
        "uniqueness",
        "novelty",
        "stability, expected",
        "COV-R (CDVAE)",
        "P1 share",
        "distance of density_g_cm3",
    }
    assert free_ones <= set(free["metrics"])
    for line in (csp, free):
        assert min(line["facts"][name] for name in ("parameters", "training seconds", "ms a sample")) > 0
    text = (out / "table.md").read_text()
    assert text in answer.out and text.count("| quick | iterative |") == 2


def corrected(metrics, tries):
    """By hand: what does not match counts as the tolerance of 0.5."""
    share, rmse = (metrics[f"{name}, {tries}"]["value"] for name in ("match", "mean RMSE"))
    return 0.5 if share == 0 else share * rmse + (1 - share) * 0.5


def test_quality_against_steps_is_drawn(compared):
    out, *_ = compared
    curves = json.loads((out / "table.json").read_text())["curves"]
    assert [[steps for steps, _ in curve] for curve in curves["data, csp"].values()] == [[1, 2], [1, 2]]
    page = (out / "report.html").read_text()
    assert page.count('class="curve ') == 2 and "random template" in page


def test_a_model_is_trained_once(compared, crysjax):
    out, (_, second), _ = compared
    models = sorted((out / "models").glob("quick-*/model.npz"))
    before = [model.stat().st_mtime_ns for model in models]
    answer = crysjax("compare", second, "--out", out)
    assert answer.code == 0 and [model.stat().st_mtime_ns for model in models] == before and len(models) == 2
    assert "training" not in answer.err


KILLED_AT = ("quick: training", "csp: quick, seed 1", "de novo: loaded, seed 0", "de novo: quick, seed 0")


def table_without_times(folder):
    table = json.loads((folder / "table.json").read_text())
    for line in table["lines"]:
        line["facts"] = {"parameters": line["facts"].get("parameters")}
    return table


def test_killed_at_several_points_it_comes_to_the_same_table(compared, start, crysjax, tmp_path):
    """SIGKILL in the middle of training, sampling and judging, each time in the folder that the last kill left."""
    out, plans, _ = compared
    for number, place in enumerate(KILLED_AT):
        process = start("compare", *plans, "--out", tmp_path)
        for line in process.stderr:
            if place in line:
                time.sleep(0.3 * number)
                process.kill()
                break
        process.communicate(timeout=600)
        assert process.returncode == -signal.SIGKILL, place
    with jax.numpy_dtype_promotion("standard"):
        answer = crysjax("compare", *plans, "--out", tmp_path)
    assert answer.code == 0 and "training" not in answer.err
    assert table_without_times(tmp_path) == table_without_times(out.parent)
    assert not list(tmp_path.rglob(f"*{files.PARTIAL}"))


def test_two_at_once_in_one_folder_are_refused(compared, start, tmp_path):
    _, plans, _ = compared
    with files.alone(tmp_path):
        process = start("compare", *plans, "--out", tmp_path)
        _, err = process.communicate(timeout=600)
    assert process.returncode == 2
    assert err.startswith(f"crysjax: {tmp_path}: another process is writing there") and err.count("\n") == 1


def test_a_config_that_says_something_else_is_another_model(compared, world, crysjax, write):
    """Two data sets may both call a model `flow`, and a config may change between two runs."""
    out, (_, second), _ = compared
    quick = write(second.parent / "changed.yaml", world.config("generator") | {"steps": 4, "properties": []})
    plan = {"data": str(world.data), "task": "de novo", "rows": 4, "models": {"quick": str(quick)}}
    with jax.numpy_dtype_promotion("standard"):
        answer = crysjax("compare", write(second.parent / "third.yaml", plan), "--out", out)
    assert answer.code == 0 and "quick: training" in answer.err
    assert len(list((out / "models").glob("quick-*/model.npz"))) == 3


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"task": "denovo"}, "task: 'denovo'; expected one of csp, de novo"),
        ({"floors": ["nearest"]}, "floors: 'nearest'; expected one of random_template"),
        ({"rows": 0}, "rows, tries, retrieve, steps: expected whole numbers of at least 1"),
        ({"modles": {}}, "modles: unknown key; expected one of"),
        (
            {"models": {"a": {"steps": 3}}},
            "models: a: expected a model, a config.yaml, or {config: config.yaml, KEY: V",
        ),
    ],
)
def test_mistakes_are_one_line_that_names_the_file(world, crysjax, write, tmp_path, changed, said):
    path = write(tmp_path / "plan.yaml", {"data": str(world.data), "models": {}} | changed)
    answer = crysjax("compare", path, "--out", tmp_path / "out")
    assert answer.code == 2 and answer.err.startswith(f"crysjax: {path}: {said}") and answer.err.count("\n") == 1


def test_over_seeds_is_the_mean_and_the_spread():
    shares = [{"match": Interval(v, v - 0.1, v + 0.2, 10, 0)} for v in (0.4, 0.6)]
    means, spread = comparison.over_seeds(shares)
    assert means["match"].value == pytest.approx(0.5)
    assert (means["match"].low, means["match"].high) == pytest.approx((0.4, 0.7))
    assert spread["match"] == pytest.approx(0.2 / 2**0.5)


def test_data_that_does_not_ship_is_one_line_that_says_how_to_get_it(one_line, crysjax, tmp_path, monkeypatch):
    """From a fresh clone: every shipped comparison, before anything is read or written."""
    configs = sorted((Path(__file__).parents[2] / "configs" / "compare").glob("*.yaml"))
    monkeypatch.chdir(tmp_path)
    assert len(configs) >= 5
    for config in configs:
        answer = crysjax("compare", config, "--out", "out")
        one_line(
            answer, rf"{config.name}: data: data/\w+\.npz is not here and does not ship; make it by `crysjax data "
        )
    assert not (tmp_path / "out" / "table.md").exists()
