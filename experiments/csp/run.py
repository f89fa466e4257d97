"""Structure prediction: sample with several seeds, match, and print the floors that learn nothing beside the model.

    python experiments/csp/run.py --model runs/perov/model.npz --data data/perov_5.npz --split test --out result.json
    python experiments/csp/run.py --samples seed_0.npz seed_1.npz --data data/perov_5.npz --split test --out result.json
    python experiments/csp/run.py --summarize result.json

Composition given, one candidate per row, CDVAE's matcher (stol 0.5, angle 10°, ltol 0.3). The file holds the RMS of
every row, seed and floor (null: no match); model and floor are compared on the same rows by McNemar's exact test, seed
by seed, and by a bootstrap over rows of the difference of their shares.
"""

from __future__ import annotations

import argparse
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, t

from crysjax.campaign.questions import read_samples
from crysjax.crystallography import matching
from crysjax.data import datasets
from crysjax.data.datasets import Dataset
from crysjax.data.readers.part import read_part
from crysjax.evaluation.metrics.distributions import interval
from crysjax.models import registry
from crysjax.reports import record
from crysjax.retrieval import floors
from crysjax.sampling import prediction

Rms = list[list[float | None]]  # of every seed and row; None: no match


def sampled(options: argparse.Namespace, train: Dataset, test: Dataset) -> tuple[Rms, float | None]:
    """The RMS of the model's candidates with every seed, and milliseconds a sample, compilation included."""
    if options.samples:
        return [matched(test, read_samples(path)[0]) for path in options.samples], None
    changes = dict((k, json.loads(v)) for k, v in (text.split("=", 1) for text in options.set))
    model, rms, seconds = registry.load_model(options.model, "generator", changes), [], 0.0
    for seed in options.seeds:
        views = (None,)
        if model.config["settings"].get("family") == "retrieval":
            views = prediction.retrieved(train, test, model.config, count=options.retrieve, seed=seed)
        drawn, took = prediction.candidates(
            model.build, model.params, test, properties=len(model.config["properties"]), seed=seed, views=views,
            pairs=options.pairs,
        )  # fmt: skip
        rms.append(matched(test, drawn[0]))
        seconds += took
    return rms, seconds / len(test) / len(options.seeds) * 1e3


def matched(test: Dataset, candidates: Dataset) -> list[float | None]:
    """The RMS of each row."""
    best = matching.match_pairs(test, candidates).best
    return [round(float(x), 5) if np.isfinite(x) else None for x in best]


def of_floor(name: str, train: Dataset, test: Dataset, seeds: list[int]) -> Rms:
    """The same of a floor, once if it does not draw."""
    make = getattr(floors, name)
    if "seed" not in inspect.signature(make).parameters:
        return [matched(test, make(train, test))]
    return [matched(test, make(train, test, seed=seed)) for seed in seeds]


def line(name: str, rms: Rms) -> dict[str, Any]:
    """Match rate and RMSE, means over seeds, with 95 % intervals over rows (bootstrap) and over seeds (Student's t)."""
    values = np.array(rms, float)  # (seeds, rows)
    hit = np.isfinite(values)
    shares, found = hit.mean(1), interval(hit.mean(0))
    told = {"name": name, "rows": values.shape[1], "seeds": len(rms), "match": found.value}
    told |= {"low": found.low, "high": found.high, "rmse": float(np.mean([np.nanmean(v) for v in values]))}
    if len(rms) > 1:
        half = t.ppf(0.975, len(rms) - 1) * shares.std(ddof=1) / len(rms) ** 0.5
        told |= {"match_of_seeds": shares.tolist(), "half_width_over_seeds": float(half)}
    return told


def paired(name: str, model: Rms, floor: Rms) -> dict[str, Any]:
    """Rows that one of the two matches alone, seed by seed, and the difference of shares over the same rows."""
    ours, theirs = (np.isfinite(np.array(x, float)) for x in (model, floor))
    tests = []
    for k, mine in enumerate(ours):
        other = theirs[min(k, len(theirs) - 1)]
        won, lost = int((mine & ~other).sum()), int((other & ~mine).sum())
        p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
        tests.append({"model_alone": won, "floor_alone": lost, "mcnemar_exact_p": p})
    gap = interval(ours.mean(0) - theirs.mean(0))
    return {"floor": name, "difference": gap.value, "low": gap.low, "high": gap.high, "tests": tests}


def run(options: argparse.Namespace) -> None:
    """Sample, match, write."""
    dataset = datasets.load(options.data)
    known = options.train or [f"{options.data}:{split}" for split in options.train_split.split(",")]
    train = datasets.concatenate([read_part(part) for part in known])
    test = datasets.where_split(dataset, options.split)
    if options.rows:
        test = datasets.take(test, np.random.default_rng(0).permutation(len(test))[: options.rows])
    rms, milliseconds = sampled(options, train, test)
    every = {"model": rms} | {f"floor: {f}": of_floor(f, train, test, options.seeds) for f in options.floors}
    report = record.about(options) | {"milliseconds_a_sample": milliseconds}
    report["table"] = [line(name, values) for name, values in every.items()]
    report["paired"] = [paired(name, rms, values) for name, values in every.items() if name != "model"]
    report["id"] = list(map(str, test.ids))
    for name, values in every.items():
        report |= {f"rms of {name}, seed {options.seeds[k]}": row for k, row in enumerate(values)}
    record.write(options.out, report)
    summarize(report)


def read(path: str) -> dict[str, Any]:
    """The report in a file.

    Raises:
        ValueError: if an earlier version of this script wrote it: one seed, no single rows.
    """
    report = record.read(path)
    if "paired" not in report:
        raise ValueError(f"{path}: written by an earlier version of this script, without rows; see its `table`")
    return report


def summarize(report: dict[str, Any]) -> None:
    """Print the tables of a report."""
    rows = []
    for told in report["table"]:
        spread = f"± {100 * told['half_width_over_seeds']:.1f}" if told["seeds"] > 1 else ""
        share = f"{100 * told['match']:.1f} ({100 * told['low']:.1f} to {100 * told['high']:.1f})"
        rows.append([told["name"], told["rows"], share, spread, f"{told['rmse']:.4f}"])
    over = f"over {len(report['settings']['seeds'])} seeds"
    print(record.table(["", "rows", "match %, 95 % over rows", over, "RMSE"], rows))
    for pair in report["paired"]:
        low, gap, high = (f"{100 * pair[k]:+.2f}" for k in ("low", "difference", "high"))
        each = [
            f"{x['model_alone']} against {x['floor_alone']} (p = {x['mcnemar_exact_p']:.2g})" for x in pair["tests"]
        ]
        print(f"\n{pair['floor']}: {gap} points ({low} to {high}); rows that one alone matches: {'; '.join(each)}")
    if report["milliseconds_a_sample"]:
        print(f"\n{report['milliseconds_a_sample']:.1f} ms a sample, compilation included")


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--summarize", nargs="+", help="files of earlier runs, printed")
    parser.add_argument("--model")
    parser.add_argument("--samples", type=Path, nargs="+", help="instead of --model: of `crysjax sample`")
    parser.add_argument("--data")
    parser.add_argument("--train-split", default="train", help="what floors and retrieval know; train,val for both")
    parser.add_argument("--train", nargs="+", help="PATH[:SPLIT] of that, where it is in other files")
    parser.add_argument("--split", default="test")
    parser.add_argument("--rows", type=int, help="the first so many rows of a fixed shuffle")
    parser.add_argument("--retrieve", type=int, default=5, help="templates that a retrieval-based flow chooses among")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of sampling, and of floors that draw")
    parser.add_argument("--pairs", type=int, default=2048)
    parser.add_argument("--set", action="append", default=[], help="override, such as generator.steps=100")
    parser.add_argument("--floors", nargs="*", default=["random_template"], help="functions of retrieval.floors")
    parser.add_argument("--out")
    options = parser.parse_args()
    if options.summarize:
        try:
            reports = {path: read(path) for path in options.summarize}
        except ValueError as error:
            parser.exit(2, f"error: {error}\n")
        for path, report in reports.items():
            print(f"\n{path}\n")
            summarize(report)
    elif options.data and options.out and (options.model or options.samples):
        if options.samples and len(options.samples) != len(options.seeds):
            parser.error(f"{len(options.samples)} --samples, but {len(options.seeds)} --seeds")
        run(options)
    else:
        parser.error("expected --model or --samples, --data and --out; or --summarize")


if __name__ == "__main__":
    main()
