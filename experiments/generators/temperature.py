"""Which temperature should free samples be drawn at? Their elements beside those of the data, several seeds.

    python experiments/generators/temperature.py --model mp_20_generator --data data/mp_20_16k.npz --key \
species.temperature --at 0.25,0.35,0.5 --out experiments/generators/temperature.json

The row of the data is as many training crystals per seed, drawn at random. After every set the file is written anew.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from crysjax.chemistry.elements import formula
from crysjax.crystallography import matching
from crysjax.data import datasets, files
from crysjax.data.datasets import Dataset
from crysjax.evaluation.metrics.distributions import emd, num_elements
from crysjax.evaluation.validity import validity
from crysjax.models import registry
from crysjax.sampling import prediction


def described(drawn: Dataset, data: Dataset) -> dict[str, float]:
    """What is asked of one set of samples; shares are of all of them."""
    elements, count, valid = num_elements(drawn), len(drawn), validity(drawn)
    formulas = {formula(entry.numbers) for entry in datasets.entries(drawn)}
    return {
        "elements, median": float(np.median(elements)),
        "elements, mean": float(elements.mean()),
        "elements, most": int(elements.max()),
        "above 5 elements": float((elements > 5).mean()),
        "distance of num_elements": float(emd(elements, num_elements(data))),
        "fail SMACT": float(1 - valid["composition"].mean()),
        "structure validity": float(valid["structure"].mean()),
        "unique": len(np.unique(matching.groups(drawn, processes=1))) / count,
        "different formulas": len(formulas) / count,
        "elements used": len(np.unique(drawn.numbers)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "data", "key", "at", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    train, rows = datasets.where_split(datasets.load(asked.data), "train"), []

    def add(what: str, seed: int, drawn: Dataset, begun: float) -> None:
        row = {"drawn": what, "seed": seed} | described(drawn, train)
        rows.append(row | {"seconds": time.perf_counter() - begun})
        print(rows[-1], flush=True)
        about = {"model": asked.model, "key": asked.key, "count": asked.count}
        files.write(asked.out, json.dumps({"about": about, "rows": rows}, indent=1) + "\n")

    for seed in range(asked.seeds):
        chosen = np.random.default_rng(seed).permutation(len(train))[: asked.count]
        add("data", seed, datasets.take(train, chosen), time.perf_counter())
    for at in asked.at.split(","):
        model = registry.load_model(asked.model, "generator", {asked.key: float(at)})
        for seed in range(asked.seeds):
            begun = time.perf_counter()
            drawn = prediction.free(model.build, model.params, model.config, asked.count, seed=seed)
            add(at, seed, drawn, begun)


if __name__ == "__main__":
    main()
