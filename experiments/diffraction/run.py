"""Structures from simulated powder patterns: how many are found, against the best of as many random structures.

    python experiments/diffraction/run.py --data data/mp_20_raw.npz --rows 20 --starts 16 --out given.json
    python experiments/diffraction/run.py --summarize given.json

Crystals of few atoms, drawn at random; their profiles (Cu Kα, 5 to 90 degrees) are all that is known besides the
composition of the cell and, without `--free`, the cell. A crystal counts as solved if the candidate of lowest Rwp
matches it (CDVAE's StructureMatcher: stol 0.5, angle 10°, ltol 0.3). That is loose where the cell is given and atoms
are few, so matches with an RMS below 0.1 are counted too.
"""

from __future__ import annotations

import argparse
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from crysjax.base import Crystal
from crysjax.chemistry.scattering import of_species, scattering
from crysjax.crystallography import matching
from crysjax.data import datasets
from crysjax.evaluation.metrics.distributions import wilson
from crysjax.physics.diffraction.pattern import Shape, indices, pattern, reflections_needed
from crysjax.physics.diffraction.solve import RWP, Descent, solve
from crysjax.reports import record

CLOSE = 0.1  # RMS, of (V / n)^(1/3)
FITS = 0.05  # Rwp below which a pattern counts as explained
METHODS = {
    "random": Descent(blur_degree=(0.0,), damping_angstrom2=(0.0,), steps=1),  # one evaluation: the starts themselves
    "adam": Descent(),
    "adam, no annealing": Descent(blur_degree=(0.0,), damping_angstrom2=(0.0,), steps=400),
    "langevin": Descent(method="langevin"),
}


def simulated(row: datasets.Entry, grid: np.ndarray, shape: Shape) -> np.ndarray:
    """The profile of a crystal."""
    found, species = np.unique(row.numbers, return_inverse=True)
    crystal = Crystal(*(jnp.asarray(a, jnp.float32) for a in (np.eye(len(found))[species], row.frac, row.lattice)))
    end = {"two_theta_max_degree": float(grid[-1]) + 1}
    given = indices(reflections_needed(row.lattice, wavelength_angstrom=1.54184, **end))
    run = jax.jit(lambda c: pattern(c, of_species(scattering(), found), given, jnp.float32(grid), shape, **end).value)
    return np.asarray(run(crystal), float)


def solved(
    truth: datasets.Dataset, seen: list[np.ndarray], grid: np.ndarray, name: str, options: argparse.Namespace
) -> dict:
    """What one method finds: RMS of the best candidate of every crystal (null: no match), Rwp of every start."""
    shape, begin, answers = Shape(w=options.fwhm**2), time.process_time(), []
    for row, intensity in zip(datasets.entries(truth), seen):
        cell = None if options.free else row.lattice
        answers.append(solve(grid, intensity, row.numbers, lattice=cell, starts=options.starts, shape=shape,
                             descent=METHODS[name], seed=options.seed))  # fmt: skip
    seconds = time.process_time() - begin
    best = datasets.concatenate([datasets.take(answer, np.arange(1)) for answer in answers])
    rms = matching.match_pairs(truth, best, processes=1).best
    found = {"method": name, "processor_seconds": round(seconds, 1)}
    found |= {"rms": [round(float(x), 5) if np.isfinite(x) else None for x in rms]}
    return found | {"rwp": [[round(float(x), 5) for x in answer.properties[RWP]] for answer in answers]}


def line(found: dict) -> list[str]:
    """A row of the table; of a crystal's Rwp the first is the best."""
    rms, rwp = np.array(found["rms"], float), [np.array(starts) for starts in found["rwp"]]
    lowest = np.array([starts[0] for starts in rwp])
    matched, close = np.isfinite(rms), np.nan_to_num(rms, nan=np.inf) < CLOSE
    low, high = wilson(int(close.sum()), len(rms))
    shares = (np.mean(lowest < FITS), np.median(lowest), np.mean([(starts < FITS).mean() for starts in rwp]))
    cells = [
        found["method"],
        f"{matched.sum()} of {len(rms)}",
        f"{close.sum()} ({100 * low:.0f} to {100 * high:.0f} %)",
    ]
    cells += [f"{rms[matched].mean():.3f}", *(f"{100 * share:.1f} %" for share in shares)]
    return [*cells, f"{found['processor_seconds'] / len(rms):.1f}"]


def summarize(report: dict) -> None:
    """Print the table of a report."""
    asked = report["settings"]
    low, high = asked["atoms"]
    known = "free" if asked["free"] else "given"
    print(f"{len(report['id'])} crystals of {low} to {high} atoms, {asked['starts']} starts, cell {known}\n")
    head = ["", "solved", "RMS < 0.1 (95 %)", "RMSE", "explained", "median Rwp", "starts that explain"]
    print(record.table([*head, "processor s a crystal"], [line(found) for found in report["methods"]]))


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="data/mp_20_raw.npz")
    parser.add_argument("--split", default="test")
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--atoms", type=int, nargs=2, default=(2, 8), help="fewest and most")
    parser.add_argument("--starts", type=int, default=16)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--free", action="store_true", help="the cell is not given")
    parser.add_argument("--fwhm", type=float, default=0.2)
    parser.add_argument("--step", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    parser.add_argument("--summarize", help="a file of an earlier run, printed")
    options = parser.parse_args()
    if options.summarize:
        return summarize(record.read(options.summarize))
    warnings.simplefilter("ignore")
    part = datasets.where_split(datasets.load(options.data), options.split)
    low, high = options.atoms
    sized = np.flatnonzero((part.num_atoms >= low) & (part.num_atoms <= high))
    truth = datasets.take(part, np.random.default_rng(options.seed).permutation(sized)[: options.rows])
    grid, shape = np.arange(5, 90, options.step), Shape(w=options.fwhm**2)
    seen = [simulated(row, grid, shape) for row in datasets.entries(truth)]
    report = record.about(options) | {"id": list(map(str, truth.ids)), "methods": []}
    for name in options.methods:
        report["methods"].append(solved(truth, seen, grid, name, options))
        print(name, flush=True)
        if options.out:
            record.write(options.out, report)
    return summarize(report)


if __name__ == "__main__":
    main()
