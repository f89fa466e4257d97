"""A full disk is one line; what was written before is whole, and with room again the same command goes on."""

import contextlib
import os
import shutil
import subprocess

import numpy as np
import pytest

from crysjax.campaign import store
from crysjax.data import datasets
from crysjax.evaluation import ledger
from crysjax.models import checkpoint

FULL = r"No space left on device"


@pytest.fixture
def disk(tmp_path):
    """A disk of its own whose size can be changed: `disk(kib)` gives its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")

    def sized(kib: int):
        subprocess.run(["mount", "-o", f"remount,size={kib}k", folder], check=True)
        return folder

    yield sized
    subprocess.run(["umount", folder], check=True)


def no_leftovers(folder) -> bool:
    return not [path for path in folder.rglob("*") if "partial" in path.name or "tmp" in path.name]


def test_prepare(crysjax, one_line, world, disk):
    out = disk(16) / "d.npz"
    crysjax("data", "prepare", f"{world.data}", "--out", out)
    small = datasets.take(datasets.load(world.data), np.arange(3))
    datasets.save(small, out)
    before = out.read_bytes()
    (out.parent / "ballast").write_bytes(bytes(8192))
    one_line(crysjax("data", "prepare", world.data, "--out", out), rf"d\.npz: {FULL}", code=1)
    assert out.read_bytes() == before and no_leftovers(out.parent)
    (out.parent / "ballast").unlink()
    assert crysjax("data", "prepare", world.data, "--out", out).code == 0 and len(datasets.load(out)) == 60


def test_prepare_meets_the_largest_file_allowed(start, world, tmp_path):
    """The same without root: the system refuses to let a file grow."""

    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    code = f"{limit}; from crysjax.cli import main; main()"
    out = tmp_path / "d.npz"
    out.write_bytes(b"before")
    process = start("data", "prepare", world.data, "--out", out, code=code)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert err == f"crysjax: {out}: File too large\n"
    assert out.read_bytes() == b"before" and no_leftovers(tmp_path)


def test_design(crysjax, one_line, plan, designed, disk):
    expected = (designed[0] / "ledger.jsonl").read_bytes()
    out = disk(4) / "out"
    places, rounds = [], []
    for kib in (4, 40, 64, 1024):
        disk(kib)
        answer = crysjax("design", plan, "--out", out)
        if answer.code == 0:
            break
        one_line(answer, rf"disk/out/[\w.]+: {FULL}", code=1)
        places.append(answer.err.split(": ")[1].rsplit("/", 1)[1])
        kept = ledger.read(out / "ledger.jsonl")
        rounds.append(store.load_state(out / "state.npz")[1]["rounds"] if (out / "state.npz").exists() else 0)
        whole = b"".join(ledger.line(row).encode() for row in kept if row.round < rounds[-1])
        assert expected.startswith(whole) and no_leftovers(out)
    assert answer.code == 0, answer.err
    assert "ledger.jsonl" in places and rounds == sorted(rounds) and rounds[-1] > rounds[0]
    assert (out / "ledger.jsonl").read_bytes() == expected
    for name in ("candidates.extxyz", "report.html"):
        assert (out / name).stat().st_size > 1000
    assert (out / "candidates.extxyz").read_bytes() == (designed[0] / "candidates.extxyz").read_bytes()


def test_train(start, train, one_line, world, disk):
    config, out = world.folder / "generator.yaml", disk(450) / "run"
    process = start("train", config, "--out", out)  # what threads print is seen only from outside
    _, err = process.communicate(timeout=600)
    kept = checkpoint.newest(out)
    assert kept in (10, 20)
    assert process.returncode == 1 and err == f"crysjax: {out}/checkpoints/{kept + 10}: {FULL}\n"
    one_line(train(config, "--out", out), FULL, code=1)
    assert checkpoint.newest(out) == kept
    disk(4096)
    answer = train(config, "--out", out)
    assert answer.code == 0, answer.err
    assert no_leftovers(out)
    with np.load(out / "model.npz") as found, np.load(world.generator) as expected:
        for name in set(expected.files) - {"config"}:
            np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("kind", ["heads", "potential"])
def test_the_model_of_a_trained_run_has_no_room(train, one_line, world, disk, kind):
    config, run = world.folder / f"{kind}.yaml", disk(4096) / "run"
    shutil.copytree(getattr(world, kind).parent, run)
    model = (run / "model.npz").read_bytes()
    with contextlib.suppress(OSError), (run.parent / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
    one_line(train(config, "--out", run), rf"run/model\.npz: {FULL}", code=1)
    assert (run / "model.npz").read_bytes() == model
    (run.parent / "ballast").unlink()
    assert train(config, "--out", run).code == 0
