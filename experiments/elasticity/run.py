"""Bulk and shear moduli of AFLOW crystals by foundation potentials: how near, how often, how long?

    python experiments/elasticity/run.py --aflow ELASTICITY_FOLDER --potential nequix-mp-1.nqx --out nequix-mp-1.json
    python experiments/elasticity/run.py --summarize nequix-mp-1.json

Crystals of AFLOW's test file are made primitive, relaxed, and their elastic tensors computed by exact second
derivatives. Each block of crystals is written to the file when it is done, one row per crystal, failures with their
reason; a run that was stopped goes on where it was. Which crystals are drawn depends on the seed alone; small cells
come first, so that compiled programs serve many. Errors with intervals by a bootstrap over crystals, those of floors
on the same crystals and the paired differences are in the file too; `--summarize` prints them. AFLOW's own values are
not: they are AFLOW's.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np

from crysjax.chemistry.elements import formula
from crysjax.data import batching, datasets
from crysjax.data.datasets import Dataset, Entry
from crysjax.data.readers import io
from crysjax.evaluation.metrics.distributions import interval
from crysjax.models import registry
from crysjax.physics.elasticity.driver import Elastic, elasticity
from crysjax.potentials.relax import Relax
from crysjax.predictors.predictor import estimate
from crysjax.reports import record

NAMES = {"bulk_gpa": "bulk_modulus", "shear_gpa": "shear_modulus", "debye_k": "debye_temperature"}
TITLES = {"bulk_gpa": "bulk modulus, GPa", "shear_gpa": "shear modulus, GPa", "debye_k": "Debye temperature, K"}


def read(folder: Path, part: str) -> tuple[list[str], dict[str, str], dict[str, dict[str, float]]]:
    """Ids, CIF texts, and what AFLOW says; ids that are in all three files."""
    said: dict[str, dict[str, float]] = {}
    cifs: dict[str, str] = {}
    for ours, theirs in NAMES.items():
        with gzip.open(folder / f"{theirs}_{part}.csv.gz", "rt", newline="") as file:
            for row in csv.DictReader(file):
                cifs[row[""]] = row["cif"]
                said.setdefault(row[""], {})[ours] = float(row[theirs])
    ids = [name for name in cifs if len(said[name]) == len(NAMES)]
    return ids, cifs, said


def primitive(name: str, cif: str) -> Entry:
    """The primitive cell of a CIF, or the cell as it is where none is found."""
    import spglib

    entry = io.parse_cif(name, cif)
    found = spglib.find_primitive((entry.lattice, entry.frac, entry.numbers), symprec=1e-3)
    return entry if found is None else Entry(name, found[2], found[1], found[0], {})


def chosen(folder: Path, count: int, seed: int, most_atoms: int) -> Dataset:
    """`count` random crystals (0: all) of at most `most_atoms` atoms, in order of size and volume per atom."""
    ids, cifs, _ = read(folder, "test")
    drawn = np.random.default_rng(seed).permutation(len(ids))[: count or None]
    entries = [primitive(ids[k], cifs[ids[k]]) for k in drawn]
    entries = [e for e in entries if len(e.numbers) <= most_atoms]
    entries.sort(key=lambda e: (len(e.numbers), abs(np.linalg.det(e.lattice)) / len(e.numbers)))
    return datasets.from_entries(entries)


def rows(found: Elastic, given: Dataset, seconds: float) -> list[dict]:
    """What is kept of a block."""
    out = []
    volume = [np.abs(np.linalg.det(d.lattice.astype(float))) / d.num_atoms for d in (given, found.crystals)]
    for k, entry in enumerate(datasets.entries(found.crystals)):
        row = {"id": entry.id, "formula": formula(entry.numbers), "atoms": len(entry.numbers)}
        row |= {"reason": str(found.reason[k]), "seconds": round(seconds, 2)}
        if found.valid[k]:
            m = {name: round(float(x[k]), 4) for name, x in found.moduli._asdict().items()}
            row |= {
                "bulk_gpa": m["bulk"],
                "shear_gpa": m["shear"],
                "debye_k": round(float(found.debye_temperature_k[k]), 2),
            }
            row |= {"stable": bool(m["stable"]), "moduli": m, "tensor_gpa": found.tensor_gpa[k].round(2).tolist()}
            row |= {"stress_gpa": found.stress_gpa[k].round(3).tolist()}
            row |= {"volume_of_aflow": round(volume[1][k] / volume[0][k], 4)}
        out.append(row)
    return out


def run(options: argparse.Namespace) -> None:
    """Block by block, until all are done or the time is up; then the floors."""
    start = time.monotonic()
    potential, params, _ = registry.load_potential(options.potential)
    report = record.read(options.out) if options.out.exists() else record.about(options) | {"rows": []}
    done = {row["id"] for row in report["rows"]}
    todo = chosen(options.aflow, options.count, options.seed, options.most_atoms)
    report["drawn"] = len(todo)
    todo = datasets.take(todo, np.array([name not in done for name in todo.ids], bool))
    print(f"{len(done)} done, {len(todo)} to do", flush=True)
    settings = Relax(fmax_ev_angstrom=options.fmax)
    for first in range(0, len(todo), options.block):
        if time.monotonic() - start > options.seconds:
            print("time is up; the same command goes on", flush=True)
            break
        block, began = datasets.take(todo, np.arange(first, min(first + options.block, len(todo)))), time.monotonic()
        found = elasticity(potential, params, block, settings=settings, max_steps=options.steps)
        seconds = (time.monotonic() - began) / len(block)
        report["rows"] += rows(found, block, seconds)
        record.write(options.out, report)
        good = int(found.valid.sum())
        print(f"{first + len(block)}/{len(todo)}: {good} of {len(block)}, {seconds:.1f} s a crystal", flush=True)
    record.write(options.out, report | compared(report["rows"], options.aflow))


def fractions(numbers: np.ndarray) -> np.ndarray:
    """The share of each element: (100,)."""
    return np.bincount(np.asarray(numbers, int) - 1, minlength=100)[:100] / len(numbers)


def floors(folder: Path, ids: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """What can be said without any potential: the training mean, and the nearest composition of the training file."""
    known, cifs, said = read(folder, "train")
    _, test_cifs, _ = read(folder, "test")
    shares = np.stack([fractions(io.parse_cif(k, cifs[k]).numbers) for k in known])
    own = np.stack([fractions(io.parse_cif(k, test_cifs[k]).numbers) for k in ids])
    gap = np.abs(own[:, None] - shares[None]).sum(-1)
    nearest = gap < gap.min(1, keepdims=True) + 1e-6
    values = {name: np.array([said[k][name] for k in known]) for name in NAMES}
    crystals = datasets.from_entries([io.parse_cif(k, test_cifs[k]) for k in ids])
    heads = registry.load_model("mp_20_heads", "heads")
    column = heads.config["properties"].index("bulk_modulus_gpa")
    shape = batching.capacity(crystals.num_atoms)
    by_heads = estimate(heads.build.predict, heads.params, crystals, shape).value[:, column]
    return {
        "mp_20_heads, of the crystal as given": {"bulk_gpa": by_heads.astype(float)},
        "mean of the training file": {name: np.full(len(ids), v.mean()) for name, v in values.items()},
        "nearest composition in the training file": {
            name: (nearest * v[None]).sum(1) / nearest.sum(1) for name, v in values.items()
        },
    }


def compared(every: list[dict], folder: Path) -> dict[str, list[dict]]:
    """Errors of the potential and of the floors on the crystals with a stable tensor, and their paired differences."""
    stable = [row for row in every if row.get("stable")]
    said = read(folder, "test")[2]
    beside, table, paired = floors(folder, [row["id"] for row in stable]), [], []
    for key in TITLES:
        truth = np.array([said[row["id"]][key] for row in stable])
        own = np.array([row[key] for row in stable])
        table.append({"quantity": key, "by": "potential"} | errors(own, truth))
        for name in (name for name in beside if key in beside[name]):
            other = beside[name][key]
            table.append({"quantity": key, "by": name} | errors(other, truth))
            gap = interval(np.abs(own - truth) - np.abs(other - truth))
            paired.append(
                {"quantity": key, "floor": name, "mae_less_floor": gap.value, "low": gap.low, "high": gap.high}
            )
    return {"table": table, "paired": paired}


def errors(found: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """Rank correlation (null of a constant), mean absolute error with its interval, mean relative error, bias."""
    from scipy.stats import spearmanr

    off, mean = found - truth, interval(np.abs(found - truth))
    rank = float(spearmanr(found, truth).statistic) if np.ptp(found) > 0 else None
    told = {"spearman": rank, "mae": mean.value, "low": mean.low, "high": mean.high}
    return told | {"relative": float(np.abs(off / truth).mean()), "bias": float(off.mean())}


def summarize(report: dict) -> None:
    """Markdown of a report."""
    every, stable = report["rows"], [row for row in report["rows"] if row.get("stable")]
    seconds, atoms = (np.array([row[name] for row in every]) for name in ("seconds", "atoms"))
    name = Path(report["settings"]["potential"]).stem
    print(f"{name}: {len(every)} of {report['drawn']} crystals, of {atoms.min()} to {atoms.max()} atoms; ", end="")
    print(f"{len(stable)} have a stable tensor, {len(every) - len(stable)} no answer; ", end="")
    print(f"{np.median(seconds):.1f} s a crystal (median of blocks), {seconds.sum() / 60:.0f} min in all\n")
    for reason, count in Counter(_kind(row["reason"]) for row in every if not row.get("stable")).most_common():
        print(f"* {count}: {reason}")
    lines = []
    for x in report["table"]:
        rank = "-" if x["spearman"] is None else f"{x['spearman']:.3f}"
        cells = [rank, f"{x['mae']:.1f} ({x['low']:.1f} to {x['high']:.1f})", f"{100 * x['relative']:.1f} %"]
        by = name if x["by"] == "potential" else x["by"]
        lines.append([f"{TITLES[x['quantity']]}: {by}", *cells, f"{x['bias']:+.1f}"])
    head = ["", "Spearman", "mean absolute error (95 %)", "mean relative error", "bias"]
    print(f"\n{record.table(head, lines)}\n\nMean absolute error of {name} less that of:\n")
    for x in report["paired"]:
        gap = f"{x['mae_less_floor']:+.1f} ({x['low']:+.1f} to {x['high']:+.1f})"
        print(f"* {TITLES[x['quantity']]}, {x['floor']}: {gap}")


def _kind(reason: str) -> str:
    """A reason without its numbers."""
    return reason.split(" after ")[0].split(", to ")[0].split(" [")[0] or "elastically unstable"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--aflow", type=Path, help="folder with bulk_modulus_test.csv.gz and its like")
    ask.add_argument("--potential", default="nequix-mp-1", help="name of a model that is here, or a path")
    ask.add_argument("--out", type=Path)
    ask.add_argument("--count", type=int, default=0, help="random crystals; 0: all")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--most-atoms", type=int, default=6, help="of the primitive cell")
    ask.add_argument("--block", type=int, default=16, help="crystals relaxed together")
    ask.add_argument("--fmax", type=float, default=0.01, help="eV/Å")
    ask.add_argument("--steps", type=int, default=300)
    ask.add_argument("--seconds", type=float, default=float("inf"), help="no block begins after them")
    ask.add_argument("--compiled", type=Path, help="folder that keeps compiled programs for the next run")
    ask.add_argument("--summarize", type=Path, help="a file of an earlier run, printed")
    options = ask.parse_args()
    if options.compiled:
        jax.config.update("jax_compilation_cache_dir", str(options.compiled))
    if options.summarize:
        return summarize(record.read(options.summarize))
    if not (options.aflow and options.out):
        ask.error("expected --aflow and --out, or --summarize")
    return run(options)


if __name__ == "__main__":
    main()
