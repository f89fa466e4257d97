"""Crystal structure prediction: train, sample, match, and print the no-learning floors beside the model.

    python experiments/csp/run.py --model runs/perov/model.npz --data data/perov_5.npz --split test --out result.json

One candidate a row (or `--tries`), composition given, CDVAE's matcher (stol 0.5, angle 10°, ltol 0.3).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from crysjax.campaign import prediction
from crysjax.cli import registry
from crysjax.data import datasets, standard_cells
from crysjax.evaluation import floors, matching


def interval(matched: np.ndarray) -> float:
    """Half width of the 95 % interval of a share."""
    return 1.96 * float(np.sqrt(matched.mean() * (1 - matched.mean()) / len(matched)))


def row(name: str, result: matching.MatchResult) -> dict:
    """One line of the table."""
    hit = np.isfinite(result.best)
    return {"name": name, "match": result.rate, "plus_minus": interval(hit), "rmse": result.rmse, "rows": len(hit)}


def main() -> None:
    """Print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--train-split", default="train", help="what floors and retrieval know; train,val for both")
    parser.add_argument("--split", default="test")
    parser.add_argument("--rows", type=int, help="the first so many rows of a fixed shuffle")
    parser.add_argument("--tries", type=int, default=1)
    parser.add_argument("--retrieve", type=int, default=5, help="templates that a retrieval-based flow chooses among")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=2048)
    parser.add_argument("--set", action="append", default=[], help="override, such as generator.steps=100")
    parser.add_argument("--floors", nargs="*", default=["random_template"], help="functions of evaluation.floors")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    changes = dict((k, json.loads(v)) for k, v in (text.split("=", 1) for text in arguments.set))
    model = registry.load_model(arguments.model, "generator", changes)
    dataset = datasets.load(arguments.data)
    known = [datasets.where_split(dataset, s) for s in arguments.train_split.split(",")]
    train, test = datasets.concatenate(known), datasets.where_split(dataset, arguments.split)
    if arguments.rows:
        test = datasets.take(test, np.random.default_rng(0).permutation(len(test))[: arguments.rows])
    views = (None,)
    if model.config["settings"].get("family") == "retrieval":
        reduced = standard_cells.standardized(train)  # as in the pairs that the flow learned from
        views = prediction.retrieved(reduced, test, model.config, count=arguments.retrieve, tries=arguments.tries)
    drawn, seconds = prediction.candidates(
        model.build, model.params, test, properties=len(model.config["properties"]), tries=arguments.tries,
        seed=arguments.seed, views=views, pairs=arguments.pairs,
    )  # fmt: skip
    table = [row(f"model, {arguments.tries} tries", matching.match_pairs(test, drawn))]
    for name in arguments.floors:
        table.append(row(f"floor: {name}", matching.match_pairs(test, getattr(floors, name)(train, test))))
    per_crystal = seconds / len(test) / arguments.tries * 1e3
    report = {"arguments": vars(arguments), "milliseconds_a_sample": per_crystal, "table": table}
    for line in table:
        share, error = 100 * line["match"], 100 * line["plus_minus"]
        print(f"{line['name']:32s} {share:6.2f} ± {error:.2f} %   RMSE {line['rmse']:.4f}")
    print(f"{per_crystal:.1f} ms a sample, compilation included")
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
