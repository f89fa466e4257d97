"""`crysjax train` goes on to the very bits of an uninterrupted run, and only with the settings that it began with."""

import json
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from crysjax.data import datasets
from crysjax.models import checkpoint


def leaves(path) -> dict[str, bytes]:
    """Everything in a model's file but its config, which knows hardware and time."""
    with np.load(path) as file:
        return {name: file[name].tobytes() for name in file.files if name != "config"}


def logged(folder) -> list[dict]:
    """The log without the seconds."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds_a_step"} for row in rows]


@pytest.fixture(scope="module")
def config(world):
    return world.folder / "generator.yaml"


@pytest.fixture
def finished(world, tmp_path):
    """A copy of the finished run of the generator."""
    shutil.copytree(world.generator.parent, tmp_path / "run")
    return tmp_path / "run"


def test_stopped_by_ctrl_c_it_goes_on_to_the_same_bits(start, train, world, config, tmp_path):
    out = tmp_path / "run"
    process = start("train", config, "--out", out, "--set", "save_every=1")
    while process.poll() is None and not (out / "checkpoints" / "3").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=600)
    assert process.returncode == 130, (said, err)
    step = checkpoint.newest(out)
    assert 3 <= step < 30 and not (out / "model.npz").exists()
    assert err == f"crysjax: stopped by Ctrl-C; step {step} in {out} is kept; the same command goes on from there\n"
    answer = train(config, "--out", out)
    assert answer.code == 0, answer.err
    assert leaves(out / "model.npz") == leaves(world.generator)
    assert [row["step"] for row in logged(out)] == [4, 8, 12, 16, 20, 24, 28, 30]


def test_stopped_before_the_first_checkpoint_it_says_so(train, config, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", stop)
    answer = train(config, "--out", tmp_path)
    assert answer.code == 130
    kept = f"no checkpoint was written to {tmp_path} yet; the same command begins again"
    assert answer.err == f"crysjax: stopped by Ctrl-C; {kept}\n"


def test_steps_that_are_done_again_are_logged_once(train, world, config, finished):
    whole = logged(finished)
    shutil.rmtree(finished / "checkpoints" / "30")  # as if it had been killed after step 28 and within the log
    log = (finished / "metrics.jsonl").read_text()
    (finished / "metrics.jsonl").write_text(log + '{"step": 31, "lo')
    assert train(config, "--out", finished).code == 0
    assert logged(finished)[:5] == whole[:5] and [r["step"] for r in logged(finished)] == [r["step"] for r in whole]
    assert leaves(finished / "model.npz") == leaves(world.generator)


@pytest.mark.parametrize("kind", ["generator", "heads", "potential"])
def test_a_finished_run_is_only_exported_again(train, world, kind, tmp_path):
    run, model = tmp_path / "run", getattr(world, kind)
    shutil.copytree(model.parent, run)
    (run / "model.npz").unlink()
    answer = train(world.folder / f"{kind}.yaml", "--out", run)
    assert answer.code == 0 and answer.out == f"{run / 'model.npz'}: done\n", answer.err
    assert leaves(run / "model.npz") == leaves(model)


CHANGED = {
    "network.width=32": r"run: this run began with network\.width = 16, it is now 32; choose another --out",
    "optimizer.learning_rate=0.1": r"began with optimizer\.learning_rate = None, it is now 0\.1",
    "steps=40": r"began with steps = 30, it is now 40",
    "seed=1": r"began with seed = 0, it is now 1",
    "properties=[band_gap_ev]": r"began with properties = \['formation.*\], it is now \['band_gap_ev'\]",
    "train_split=test": r"began with train_split = 'train', it is now 'test'",
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_run_goes_on_only_with_its_own_settings(train, one_line, world, config, finished, change):
    one_line(train(config, "--out", finished, "--set", change), CHANGED[change])
    assert leaves(finished / "model.npz") == leaves(world.generator)


def test_data_that_changed_are_noticed(train, one_line, world, write, finished, crysjax):
    other = finished.parent / "other.npz"
    crysjax("data", "split", world.data, "--out", other, "--by", "random", "--fractions", "train=0.7,val=0.3")
    config = write(finished.parent / "train.yaml", world.config("generator") | {"data": str(other)})
    one_line(train(config, "--out", finished), r"this run began with generator\.\w+ = \[.*\], it is now \[")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 99}', r"config\.json: checkpoints of format 99, this version reads format 1"),
        ('{"form', r"config\.json: cut short or damaged"),
    ],
)
def test_checkpoints_of_another_version(train, one_line, config, finished, content, message):
    (finished / "config.json").write_text(content)
    one_line(train(config, "--out", finished), message)


def cut(checkpoint) -> None:
    for path in checkpoint.rglob("manifest.ocdbt"):
        path.write_bytes(path.read_bytes()[:10])


def test_a_damaged_checkpoint_is_named_and_the_older_one_goes_on(train, one_line, world, config, finished):
    cut(finished / "checkpoints" / "30")
    answer = train(config, "--out", finished)
    said = f"crysjax: {finished}/checkpoints/30: damaged and put aside; going on from step 20\n"
    assert answer.code == 0 and answer.err == said
    assert leaves(finished / "model.npz") == leaves(world.generator)
    for step in ("20", "30"):
        cut(finished / "checkpoints" / step)
    one_line(train(config, "--out", finished), r"checkpoints/30: damaged .*; use a new folder")


def test_the_same_names_with_other_crystals_are_other_data(train, one_line, world, write, finished):
    given = datasets.load(world.data)
    moved = given.frac.copy()
    moved[0, 0] = np.nextafter(moved[0, 0], 1)
    datasets.save(replace(given, frac=moved), finished.parent / "other.npz")
    config = write(
        finished.parent / "train.yaml", world.config("generator") | {"data": str(finished.parent / "other.npz")}
    )
    one_line(train(config, "--out", finished), r"run: this run began with SHA-256 of the data = '.*', it is now '")
    datasets.save(given, finished.parent / "other.npz")  # the same crystals in another place
    assert train(config, "--out", finished).code == 0
