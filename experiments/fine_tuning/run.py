"""What fine-tuning the shipped generator on a few hundred bulk moduli gains: none, condition and lora beside the base.

python experiments/fine_tuning/run.py --data data/mp_20_16k.npz --out runs/fine_tuning
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np

from crysjax.config import read_yaml
from crysjax.data import batching, datasets
from crysjax.models import registry
from crysjax.predictors.predictor import estimate
from crysjax.sampling import draws as sampling
from crysjax.training import tasks, train

PROPERTY, BASE, HERE = "bulk_modulus_gpa", "mp_20_generator", Path(__file__).parent
RATES = {"none": 1e-4, "condition": 1e-2, "lora": 1e-3}  # chosen beforehand: the fewer numbers, the larger steps
DRAWS, ASKED = 8, (50.0, 100.0, 200.0)


def subset(path: str, rows: int, seed: int, out: Path) -> datasets.Dataset:
    """Crystals with a bulk modulus: `rows` of the training split, and all of the validation split."""
    whole = datasets.load(path)
    known = np.isfinite(whole.properties[PROPERTY])
    train_rows, held_out = (np.flatnonzero(known & (whole.split == name)) for name in ("train", "val"))
    chosen = np.sort(np.random.default_rng(seed).permutation(train_rows)[:rows])
    part = datasets.take(whole, np.concatenate([chosen, held_out]))
    datasets.save(part, out)
    return datasets.where_split(part, "val")


def held_out_loss(model: registry.Model, part: datasets.Dataset, given: bool) -> dict[str, float]:
    """Mean loss over `DRAWS` draws of time and noise, the same for every model; the bulk modulus given or not."""
    build = registry.build_generator(model.config["settings"] | {"generator.drop_condition": 0.0})
    names = tuple(model.config["properties"])
    shape = batching.capacity(part.num_atoms, 1024)
    batch = batching.pack_dataset(part, shape)
    labels = batching.labels(part, names, batch.index, group=True)
    if not given and PROPERTY in names:
        labels.properties[..., names.index(PROPERTY)] = np.nan
    packs = [jax.tree.map(lambda leaf, i=i: leaf[i], (batch.pack, labels)) for i in range(len(batch.index))]
    loss = tasks.generator_loss(build)
    return train.evaluate(loss, model.params, jax.random.key(0), packs * DRAWS)


def achieved(model: registry.Model, config: dict, asked: float, count: int) -> list[float]:
    """Quartiles of the bulk modulus that the shipped heads see in samples that were asked for `asked`."""
    heads = registry.load_model("mp_20_heads", "heads")
    templates = sampling.blank(sampling.draw_sizes(0, {int(n): c for n, c in config["sizes"].items()}, count))
    names = model.config["properties"]
    values = np.full((count, len(names)), np.nan, np.float32)
    if PROPERTY in names:
        values[:, names.index(PROPERTY)] = asked
    drawn = sampling.sample(model.build, model.params, jax.random.key(1), templates, values)
    found = estimate(heads.build.predict, heads.params, drawn, batching.capacity(drawn.num_atoms))
    column = heads.config["properties"].index(PROPERTY)
    seen = found.value[:, column][np.isfinite(found.value[:, column])]
    return [round(float(q), 1) for q in np.quantile(seen, (0.25, 0.5, 0.75))]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--data", default="data/mp_20_16k.npz")
    arguments.add_argument("--out", type=Path, default=Path("runs/fine_tuning"))
    arguments.add_argument("--rows", type=int, default=600)
    arguments.add_argument("--steps", type=int, default=300)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--samples", type=int, default=128)
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    held_out = subset(given.data, given.rows, given.seed, given.out / "data.npz")
    config = given.out / "fine_tune.yaml"
    plain = {"data": str(given.out / "data.npz"), "properties": [PROPERTY], "steps": given.steps, "seed": given.seed}
    told = read_yaml(HERE.parents[1] / "configs/fine_tune.yaml") | plain
    told = {k: v for k, v in told.items() if not k.startswith("adapter")}
    config.write_text(json.dumps(told))  # JSON is YAML
    rows, steer = {}, {"generator.steps": 25, "generator.guidance": 1.0}
    for name in ("base", *RATES):
        begun, path = time.process_time(), given.out / name / "model.npz"
        if name != "base":
            train.train(config, given.out / name, [f"adapter={name}", f"optimizer.learning_rate={RATES[name]}"])
        seconds = time.process_time() - begun
        model = registry.load_model(BASE if name == "base" else str(path), "generator", steer)
        row = {"processor_seconds": round(seconds, 1), "card": model.config["card"].get("start", {})}
        row |= {"loss": held_out_loss(model, held_out, True), "not_given": held_out_loss(model, held_out, False)}
        wanted = ASKED if name != "base" else (float("nan"),)
        row["achieved"] = {str(w): achieved(model, model.config, w, given.samples) for w in wanted}
        rows[name] = row
        print(name, json.dumps(row), flush=True)
    told = {k: v for k, v in told.items() if k != "data"} | {"rows": given.rows, "samples": given.samples}
    about = {"settings": told, "rates": RATES, "held_out": len(held_out), "jax": jax.__version__}
    (HERE / "results.json").write_text(json.dumps(about | {"models": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
