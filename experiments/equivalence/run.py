"""Do predictions depend on the description of a crystal?

    python experiments/equivalence/run.py --data data/mp_20.npz:test --candidates runs/quickstart/candidates.extxyz

Every shipped predictor is asked about crystals in 14 kinds of equivalent descriptions (`tests/support.py`), and about
the quickstart's validated candidates under the 24 namings of their axes (6 orders, 4 choices of sign up to a turn).
Writes `results.json`: the largest change over the standard deviation that the model states, and how many candidates
keep their verdict "inside the window" under all namings.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jax
import numpy as np

from crysjax.base import Crystal
from crysjax.data import batching, datasets
from crysjax.data.datasets import Dataset, Entry
from crysjax.data.readers.part import read_part
from crysjax.models import registry
from crysjax.reports import record

WINDOW_EV = (1.0, 2.0)


def _support() -> ModuleType:
    """`tests/support.py` of this clone, by its path: an installed package may have the name `tests` too."""
    file = Path(__file__).parents[2] / "tests" / "support.py"
    spec = importlib.util.spec_from_file_location("equivalent_descriptions", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


support = _support()


def described(rows: list[Entry], change: Callable[[Crystal], Crystal]) -> Dataset:
    """The same crystals in other words."""
    found = []
    for row in rows:
        new = change(support.crystal(row.numbers, row.frac, row.lattice))
        found.append(Entry(row.id, new.occupancy.argmax(-1) + 1, new.frac, new.lattice, {}))
    return datasets.from_entries(found)


def namings() -> list[Callable[[Crystal], Crystal]]:
    """The 24 orders and signs of three axes, of either hand."""
    out = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=2):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = (*signs, 1)
            out.append(support.basis(matrix.tolist()))
    return out


def asked(model: registry.Model, dataset: Dataset, compiled: dict) -> tuple[np.ndarray, np.ndarray]:
    """Value and std of every crystal."""
    predict = compiled.setdefault("predict", jax.jit(model.build.predict))
    shape = batching.Capacity(320, 26_000, 4)
    said = batching.each_crystal(lambda pack: predict(model.params, pack), dataset, shape)
    return np.where(said.valid, said.value, np.nan), said.std


def changes(model: registry.Model, rows: list[Entry]) -> dict[str, float]:
    """The largest change of each kind of description, in units of the stated std."""
    compiled: dict = {}
    value, std = asked(model, described(rows, lambda c: c), compiled)
    found = {"refused": int(np.isnan(value).any(-1).sum())}
    for name, change in support.EQUIVALENT.items():
        other, _ = asked(model, described(rows, change), compiled)
        assert (np.isnan(other) == np.isnan(value)).all(), name
        found[name] = float(np.nanmax(np.abs(other - value) / std))
    return found


def verdicts(model: registry.Model, rows: list[Entry]) -> dict[str, float]:
    """How many candidates lie on one side of the window under all namings of their axes."""
    compiled, column = {}, model.build.names.index("band_gap_ev")
    gaps = np.stack([asked(model, described(rows, naming), compiled)[0][:, column] for naming in namings()])
    inside = (gaps >= WINDOW_EV[0]) & (gaps <= WINDOW_EV[1])
    return {
        "candidates": len(rows), "namings": len(gaps), "unchanged": int((inside == inside[:1]).all(0).sum()),
        "inside": int(inside[0].sum()), "largest_range_ev": float(np.ptp(gaps, axis=0).max()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["mp_20_heads"])
    parser.add_argument("--data", default="data/mp_20.npz:test")
    parser.add_argument("--crystals", type=int, default=50)
    parser.add_argument("--candidates", default="")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    given = parser.parse_args()
    whole = datasets.entries(read_part(given.data))
    rows = [whole[k] for k in np.random.default_rng(0).choice(len(whole), given.crystals, replace=False)]
    models = {name: registry.load_scorer(name) for name in given.models}
    changed = [{"model": name} | changes(model, rows) for name, model in models.items()]
    found = record.about(given) | {"crystals": len(rows), "largest_change_over_std": changed}
    if given.candidates:
        found["quickstart"] = verdicts(models["mp_20_heads"], datasets.entries(read_part(given.candidates)))
    record.write(given.out, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
