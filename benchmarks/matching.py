"""Uniqueness, novelty and validity by StructureMatcher: ours beside pymatgen's own loops, verdict by verdict.

    python benchmarks/matching.py --carbon data/carbon_24.npz --samples data/diffcsp_samples.npz \
        --references data/mp_20_raw.npz

The three data sets are crysjax files (`crysjax data prepare`). The hard case for uniqueness is Carbon-24, where every
pair has one formula: its first `--count` crystals, all pairs. The usual case is a set of samples against the data that
a model was trained on, most of it of formulas that occur once.

Every row runs in a process of its own, one after the other; its wall time includes the start of the process. The
processor time of all its processes together is the fairer one on a machine shared with other work. The plain loop over
all pairs takes most of an hour: it is timed over every pair of `--rows` rows and scaled to all pairs. Verdicts of all
pairs are compared with those of `fit` on structures that were reduced beforehand, which is what pymatgen's
`group_structures` does, and with those of the plain loop wherever it ran.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

TOLERANCES = {"stol": 0.5, "angle_tol": 10, "ltol": 0.3}  # CDVAE's, which are crysjax's defaults


def load(path: Path, count: int | None = None):
    from crysjax.data import datasets

    dataset = datasets.load(path)
    return dataset if count is None else datasets.take(dataset, np.arange(min(count, len(dataset))))


def structures(dataset) -> list:
    """pymatgen structures, made by pymatgen alone."""
    from pymatgen.core import Lattice, Structure

    from crysjax.data.datasets import entries

    return [Structure(Lattice(row.lattice.astype(float)), row.numbers, row.frac.astype(float))
            for row in entries(dataset)]  # fmt: skip


def matcher():
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(**TOLERANCES)


# --- one composition: every pair --------------------------------------------------------------------------------------


def plain_pairs(args) -> dict:
    """`fit` of structures as they are: all later partners of `--rows` rows drawn at random."""
    crystals, engine = structures(load(args.carbon, args.count)), matcher()
    total = len(crystals) * (len(crystals) - 1) // 2
    drawn = np.sort(np.random.default_rng(0).choice(len(crystals) - 1, min(args.rows, len(crystals) - 1), False))
    start, verdicts = clock(), []
    for i in drawn.tolist():
        verdicts += [(i, j, engine.fit(crystals[i], crystals[j])) for j in range(i + 1, len(crystals))]
    wall, cpu = clock() - start
    share = len(verdicts) / total
    np.savez(args.work / "plain.npz", pairs=np.array(verdicts, int))
    return {"wall_s": wall / share, "cpu_s": cpu / share, "note": f"from {len(verdicts)} of {total} pairs"}


def reduced_pairs(args) -> dict:
    """`fit` of all pairs of structures that were reduced beforehand."""
    crystals, engine = structures(load(args.carbon, args.count)), matcher()
    cells = [engine._get_reduced_structure(crystal) for crystal in crystals]
    equal = np.zeros((len(cells),) * 2, bool)
    for i, first in enumerate(cells):
        for j in range(i + 1, len(cells)):
            equal[i, j] = engine.fit(first, cells[j], skip_structure_reduction=True)
    np.savez(args.work / "reduced.npz", equal=equal)
    return {"note": f"{equal.sum()} pairs match"}


def group_structures(args) -> dict:
    """pymatgen's clusters, as the index of each cluster's first member."""
    crystals = structures(load(args.carbon, args.count))
    place, labels = {id(crystal): i for i, crystal in enumerate(crystals)}, np.zeros(len(crystals), int)
    for group in matcher().group_structures(crystals):
        members = [place[id(crystal)] for crystal in group]
        labels[members] = min(members)
    np.savez(args.work / "groups.npz", labels=labels)
    return {"note": f"{len(set(labels.tolist()))} unique"}


def our_pairs(args) -> dict:
    from crysjax.crystallography.matching import pair_matrix

    equal = pair_matrix(load(args.carbon, args.count), processes=args.processes)
    np.savez(args.work / "our_pairs.npz", equal=equal)
    return {"note": f"{np.triu(equal, 1).sum()} pairs match"}


def our_groups(args) -> dict:
    from crysjax.crystallography.matching import groups

    labels = groups(load(args.carbon, args.count), processes=args.processes)
    np.savez(args.work / "our_groups.npz", labels=labels)
    return {"note": f"{len(set(labels.tolist()))} unique"}


# --- samples: uniqueness, novelty, validity ---------------------------------------------------------------------------


def plain_samples(args) -> dict:
    """Clusters and novelty by `fit` of structures as they are, within equal reduced formulas."""
    engine, samples, known = matcher(), *(structures(load(path)) for path in (args.samples, args.references))
    by_formula: dict[str, list] = {}
    for structure in known:
        by_formula.setdefault(structure.composition.reduced_formula, []).append(structure)
    labels, firsts, new = np.arange(len(samples)), {}, np.ones(len(samples), bool)
    for i, structure in enumerate(samples):
        name = structure.composition.reduced_formula
        before = firsts.setdefault(name, [])
        labels[i] = next((j for j in before if engine.fit(samples[j], structure)), i)
        before += [i] if labels[i] == i else []
        new[i] = not any(engine.fit(structure, other) for other in by_formula.get(name, []))
    np.savez(args.work / "samples.npz", labels=labels, new=new)
    return {"note": "no validity"}


def our_samples(args) -> dict:
    from crysjax.crystallography.matching import groups, novel
    from crysjax.evaluation.validity import validity

    samples, known = load(args.samples), load(args.references)
    valid = validity(samples)["valid"]
    labels = groups(samples, processes=args.processes)
    new = novel(samples, known, processes=args.processes)
    np.savez(args.work / "our_samples.npz", labels=labels, new=new)
    shares = {"valid": valid, "unique": labels == np.arange(len(labels)), "novel": new}
    return {"note": ", ".join(f"{name} {share.mean():.2%}" for name, share in shares.items())}


# --- the table --------------------------------------------------------------------------------------------------------

ROWS = {
    "every pair, plain `fit`": plain_pairs,
    "every pair, `fit` of reduced": reduced_pairs,
    "every pair, crysjax": our_pairs,
    "clusters, `group_structures`": group_structures,
    "clusters, crysjax": our_groups,
    "samples, plain `fit`": plain_samples,
    "samples, crysjax": our_samples,
}


def clock() -> np.ndarray:
    """(wall, processor) seconds; the latter of this process and of all that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(u.ru_utime + u.ru_stime for u in used)])


def peak_mb() -> dict:
    """The most resident memory of this process, and of the largest of those it started, in MB (10^6 bytes)."""
    who = {"mb": resource.RUSAGE_SELF, "worker_mb": resource.RUSAGE_CHILDREN}
    return {name: resource.getrusage(which).ru_maxrss * 1.024e-3 for name, which in who.items()}


def run_row(name: str, options: list[str]) -> dict:
    """One row in its own process, timed from outside unless the row extrapolates."""
    start = clock()
    done = subprocess.run([sys.executable, __file__, *options, "--row", name], capture_output=True, text=True)
    wall, cpu = clock() - start
    if done.returncode:
        raise SystemExit(f"{name}: the row failed\n{done.stderr[-2000:]}")
    row = {"name": name, "wall_s": wall, "cpu_s": cpu} | json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(row), flush=True)
    return row


def differences(work: Path) -> dict[str, int]:
    """How many verdicts differ, of those that were made."""
    at = {path.stem: dict(np.load(path)) for path in work.glob("*.npz")}
    ours, above = at["our_pairs"]["equal"], np.triu_indices(len(at["our_pairs"]["equal"]), 1)
    i, j, fit = at["plain"]["pairs"].T
    found = {"pairs, plain": (ours[i, j] != fit), "pairs, reduced": ours[above] != at["reduced"]["equal"][above]}
    found["clusters"] = at["our_groups"]["labels"] != at["groups"]["labels"]
    for name in ("labels", "new"):
        found[f"samples, {name}"] = at["our_samples"][name] != at["samples"][name]
    return {f"{name} ({differ.size})": int(differ.sum()) for name, differ in found.items()}


def table(rows: list[dict]) -> list[str]:
    """Markdown: one line per row, its times over those of ours of the same task."""
    lines = ["| | wall s | processor s | times ours | peak MB | largest worker MB | |", "|" + "---|" * 7]
    ours = {row["name"].split(",")[0]: row for row in rows if row["name"].endswith("crysjax")}
    for row in rows:
        times = row["cpu_s"] / ours[row["name"].split(",")[0]]["cpu_s"]
        numbers = f"{row['wall_s']:.1f} | {row['cpu_s']:.1f} | {times:.1f} | {row['mb']:.0f} | {row['worker_mb']:.0f}"
        lines.append(f"| {row['name']} | {numbers} | {row['note']} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("carbon", "samples", "references"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="a crysjax data set (.npz)")
    parser.add_argument("--count", type=int, default=1000, help="how many crystals of --carbon")
    parser.add_argument("--rows", type=int, default=8, help="of the plain loop over pairs")
    parser.add_argument("--processes", type=int, default=2, help="of ours")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        warnings.filterwarnings("ignore")
        result = ROWS[args.row](args)
        print(json.dumps(peak_mb() | result))
        return
    with tempfile.TemporaryDirectory() as work:
        rows = [run_row(name, [*sys.argv[1:], "--work", work]) for name in ROWS]
        print("\n".join(["", *table(rows), "", "verdicts that differ: " + json.dumps(differences(Path(work)))]))


if __name__ == "__main__":
    main()
