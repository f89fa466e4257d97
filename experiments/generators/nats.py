"""What a Wyckoff transformer has learned and what it knows by heart: nats per crystal, part by part.

    python experiments/generators/nats.py --model mp_20_wyckoff --data data/mp_20_16k.npz --out nats.json

The loss of the model as it is, without exchanged elements or shifts, on the same number of training and of validation
crystals: minus the logarithm of a mass (group, letters, species) or of a density (coordinates, lattice), so that the
sums mean nothing by themselves; their difference between the two parts is what was learned by heart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np

from crysjax.crystallography.wyckoff_view import wyckoff_view
from crysjax.data import batching, datasets
from crysjax.data.datasets import Dataset
from crysjax.models import registry
from crysjax.reports import record
from crysjax.training import tasks

PLAIN = ("generator.exchange", "generator.jitter")


def nats(model: registry.Model, part: Dataset, repeats: int = 2) -> dict[str, float]:
    """The mean of every part over the crystals; known and free species by turns, as in training."""
    names, shape = tuple(model.config["properties"]), batching.capacity(part.num_atoms, 2048)
    loss = jax.jit(tasks.generator_loss(model.build))
    view, total, crystals = wyckoff_view(part), {}, 0
    for k, group in enumerate(batching.shuffled_groups(part.num_atoms, shape, 0, 0)):
        one = jax.tree.map(lambda leaf: leaf[0], tasks.labeled(part, [group], shape, names, view))
        for again in range(repeats):
            _, found = loss(model.params, jax.random.key(repeats * k + again), *one)
            total = {name: total.get(name, 0.0) + len(group) * float(value) for name, value in found.items()}
            crystals += len(group)
    return {name: value / crystals for name, value in total.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--crystals", type=int, default=808)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    known = registry.read_config(registry.model_path(options.model, "generator"), "generator")["settings"]
    model = registry.load_model(options.model, "generator", {name: 0.0 for name in PLAIN if name in known})
    rows = []
    for name in ("train", "val"):
        part = datasets.where_split(datasets.load(options.data), name)
        part = datasets.take(part, np.random.default_rng(0).permutation(len(part))[: options.crystals])
        found = nats(model, part)
        rows.append({"part": name, "crystals": len(part), "sum": sum(found.values())} | found)
        print({key: value if isinstance(value, str) else round(value, 2) for key, value in rows[-1].items()})
    record.write(options.out, record.about(options) | {"rows": rows})


if __name__ == "__main__":
    main()
