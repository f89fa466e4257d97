"""Structures from simulated powder patterns: how many are found, against the best of as many random structures.

    python experiments/diffraction/run.py --data data/mp_20_raw.npz --split test --rows 20 --starts 16

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
from crysjax.campaign.solve import RWP, Descent, solve
from crysjax.data import datasets
from crysjax.data.scattering import of_species, scattering
from crysjax.evaluation import matching
from crysjax.properties.diffraction import Shape, indices, pattern, reflections_needed

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


def line(name: str, truth: datasets.Dataset, answers: list[datasets.Dataset], seconds: float) -> str:
    """A row of the table, from the candidates of every crystal."""
    best = datasets.concatenate([datasets.take(answer, np.arange(1)) for answer in answers])
    rms = matching.match_pairs(truth, best, processes=1)
    fits = np.mean([answer.properties[RWP][0] < FITS for answer in answers])
    middle = np.median([answer.properties[RWP][0] for answer in answers])
    single = np.mean([(answer.properties[RWP] < FITS).mean() for answer in answers])
    matched, close = int(np.isfinite(rms.best).sum()), int((np.nan_to_num(rms.best, nan=np.inf) < CLOSE).sum())
    cells = [name, f"{matched} of {len(truth)}", str(close), f"{rms.rmse:.3f}"]
    cells += [f"{100 * share:.1f} %" for share in (fits, middle, single)] + [f"{seconds / len(truth):.1f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
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
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    part = datasets.where_split(datasets.load(arguments.data), arguments.split)
    low, high = arguments.atoms
    sized = np.flatnonzero((part.num_atoms >= low) & (part.num_atoms <= high))
    truth = datasets.take(part, np.random.default_rng(arguments.seed).permutation(sized)[: arguments.rows])
    grid, shape = np.arange(5, 90, arguments.step), Shape(w=arguments.fwhm**2)
    rows = datasets.entries(truth)
    seen = [simulated(row, grid, shape) for row in rows]
    known = "free" if arguments.free else "given"
    print(f"{len(rows)} crystals of {low} to {high} atoms, {arguments.starts} starts, cell {known}\n")
    print("| | solved | RMS < 0.1 | RMSE | explained | median Rwp | starts that explain | processor s per crystal |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.methods:
        begin, answers = time.process_time(), []
        for row, intensity in zip(rows, seen):
            cell = None if arguments.free else row.lattice
            answers.append(solve(grid, intensity, row.numbers, lattice=cell, starts=arguments.starts, shape=shape,
                                 descent=METHODS[name], seed=arguments.seed))  # fmt: skip
        print(line(name, truth, answers, time.process_time() - begin), flush=True)


if __name__ == "__main__":
    main()
