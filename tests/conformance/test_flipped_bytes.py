"""200 random bytes of data at rest are flipped, one at a time: all are noticed by what reads them.

Noticed is: an error, or for what can be made again (a kept verdict) or has an older copy (a checkpoint), that.
"""

import random
import shutil
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.campaign import outcomes as memory
from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.evaluation import kept, ledger
from crysjax.evaluation.ledger import Row
from crysjax.evaluation.stages import verdict
from crysjax.models import checkpoint
from crysjax.training import loop

FLIPS = {"checkpoint": 50, "model": 30, "data set": 30, "ledger": 30, "state": 30, "kept stage": 30}


def crystals() -> datasets.Dataset:
    rng = np.random.default_rng(0)
    rows = [Entry(f"c{i}", rng.integers(1, 90, 3), rng.random((3, 3)), 4 * np.eye(3), {"gap": 1.5}) for i in range(20)]
    return datasets.from_entries(rows)


def of_checkpoint(folder):
    state = loop.initial({"w": jnp.arange(600.0).reshape(20, 30)}, loop.adamw(steps=10), jax.random.key(0))
    checkpoint.save(folder, state, {})
    newer = state._replace(step=jnp.int32(10))
    checkpoint.save(folder, newer, {})

    def noticed() -> bool:
        said = []
        found = checkpoint.restore(folder, state, said.append)
        assert int(found.step) == (0 if said else 10)
        return bool(said)

    return folder / "checkpoints" / "10", noticed


def of_model(folder):
    path = checkpoint.export(folder / "m.npz", {"kind": "heads"}, {"layer": {"w": jnp.arange(600.0)}})
    return path, lambda: raises(lambda: (checkpoint.read_config(path), checkpoint.read_params(path)))


def of_data_set(folder):
    path = datasets.save(crystals(), folder / "d.npz")
    return path, lambda: raises(lambda: datasets.load(path))


def campaign(folder):
    rows = [Row(f"0-{i}", "sampled", 0, 0, "atoms", 2.0, None, "", True, 0.1) for i in range(20)]
    ledger.append(folder / memory.LEDGER, rows, {})
    found = memory.extend(
        memory.empty(2, 4), crystals(),
        **{name: np.random.default_rng(1).random((20, *getattr(memory.empty(2, 4), name).shape[1:]), np.float32)
           for name in memory.COLUMNS},
    )  # fmt: skip
    memory.save(found._replace(rounds=1), folder, {"seed": 1}, {})
    return lambda: raises(lambda: memory.load(folder, {"seed": 1}, {}, print))


def of_ledger(folder):
    return folder / memory.LEDGER, campaign(folder)


def of_state(folder):
    noticed = campaign(folder)
    return folder / memory.STATE, noticed


def of_kept_stage(folder):
    path, made = folder / "valid.npz", []

    def make():
        made.append(1)
        return verdict(np.arange(50) % 2 == 0, ["no"] * 50, "level", {"x": np.arange(50.0)}), {"calls": 0}

    kept.verdict(path, "key", make)

    def noticed() -> bool:
        made.clear()
        kept.verdict(path, "key", make)
        return bool(made)

    return path, noticed


def raises(read) -> bool:
    try:
        read()
    except ValueError:
        return True
    return False


KINDS = dict(zip(FLIPS, (of_checkpoint, of_model, of_data_set, of_ledger, of_state, of_kept_stage)))


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes_are_noticed(kind, tmp_path):
    good = tmp_path / "good"
    good.mkdir()
    KINDS[kind](good)
    drawn, count = random.Random(0), Counter()
    work = tmp_path / "work"
    work.mkdir()
    target, noticed = KINDS[kind](work)
    assert not noticed()  # as it was written
    for _ in range(FLIPS[kind]):
        shutil.rmtree(work)
        shutil.copytree(good, work)
        files = sorted(p for p in target.rglob("*") if p.is_file()) if target.is_dir() else [target]
        (file,) = drawn.choices(files, [p.stat().st_size for p in files])
        content = bytearray(file.read_bytes())
        content[drawn.randrange(len(content))] ^= drawn.randrange(1, 256)
        file.write_bytes(content)
        count[noticed()] += 1
    print(f"{kind}: {count[True]} of {FLIPS[kind]} flips noticed")
    assert count[True] == FLIPS[kind]


def test_there_are_two_hundred():
    assert sum(FLIPS.values()) == 200
