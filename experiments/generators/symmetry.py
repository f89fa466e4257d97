"""Is the space group that was asked for found again? A Wyckoff transformer, judged by spglib.

    python experiments/generators/symmetry.py --model MODEL --data data/mp_20_16k.npz --count 1000 --out wyckoff.json

Groups and sizes are those of validation crystals; a second set asks for nothing. Samples whose group is another one,
which always contains the one asked for, are drawn again up to `--rounds` times, as `crysjax sample` does.
"""

from __future__ import annotations

import argparse
import json
import time

import jax
import numpy as np

from crysjax.data import datasets, files
from crysjax.data.datasets import Dataset
from crysjax.evaluation.validity import validity
from crysjax.models import registry
from crysjax.sampling import draws, prediction
from crysjax.splits import grouped

TOLERANCES_ANGSTROM = (0.1, 0.01)


def found(crystals: Dataset) -> dict[float, np.ndarray]:
    """The group of each crystal at both tolerances, 0 where spglib finds none."""
    groups = {t: grouped.space_groups(crystals, symprec_angstrom=t) for t in TOLERANCES_ANGSTROM}
    return {t: np.nan_to_num(numbers).astype(int) for t, numbers in groups.items()}


def asked_again(model: registry.Model, like: Dataset, group: np.ndarray, rounds: int) -> list[dict[str, float]]:
    """Shares of samples with exactly the group asked for, after each round, at both tolerances; and validity."""
    rows, valid, told = np.arange(len(like)), np.zeros(len(like)), []
    now = {t: np.zeros(len(like), int) for t in TOLERANCES_ANGSTROM}
    for k in range(rounds):
        drawn = draws.sample(
            model.build, model.params, jax.random.key(k), draws.blank(like.num_atoms[rows]),
            np.full((len(rows), len(model.config["properties"])), np.nan), space_group=group[rows],
        )  # fmt: skip
        for t, numbers in found(drawn).items():
            now[t][rows] = numbers
        valid[rows] = validity(drawn)["structure"]
        left = {f"found at {t} Å": float((now[t] == group).mean()) for t in TOLERANCES_ANGSTROM}
        told.append({"round": k + 1, "drawn": len(rows)} | left | {"structure validity": float(valid.mean())})
        print(told[-1], flush=True)
        rows = np.flatnonzero(now[TOLERANCES_ANGSTROM[0]] != group)
        if not len(rows):
            break
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    model, begun = registry.load_model(arguments.model, "generator"), time.perf_counter()
    train, held_out = (datasets.where_split(datasets.load(arguments.data), s) for s in ("train", "val"))
    rows = np.random.default_rng(0).integers(len(held_out), size=arguments.count)
    like = datasets.take(held_out, rows)
    told = asked_again(model, like, np.nan_to_num(like.properties["space_group"]).astype(int), arguments.rounds)
    free = prediction.free(model.build, model.params, model.config, arguments.count)
    p1 = {f"P1 at {t} Å": float((numbers == 1).mean()) for t, numbers in found(free).items()}
    of_data = datasets.take(train, np.random.default_rng(1).permutation(len(train))[: arguments.count])
    p1 |= {f"P1 of the data at {t} Å": float((numbers == 1).mean()) for t, numbers in found(of_data).items()}
    p1["structure validity"] = float(validity(free)["structure"].mean())
    print(p1)
    about = {"model": model.config.get("card", {}), "count": arguments.count, "seconds": time.perf_counter() - begun}
    if arguments.out:
        files.write(arguments.out, json.dumps({"asked": told, "free": p1, "about": about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
