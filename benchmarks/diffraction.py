"""Powder patterns: ours beside pymatgen's XRDCalculator, peak by peak.

    python benchmarks/diffraction.py --data data/mp_20_raw.npz --count 1000

Crystals of the test split, drawn at random, 2θ from 0 to 90 degrees, Cu Kα, scaled intensities, no symmetry search
(symprec 0, pymatgen's default). Each side runs in a process of its own, in turns; it reads the data set, imports what
it needs and then is timed from the crystals of the data set to their peaks, first call, nothing warmed up. Least of
the turns. Run it with OMP_NUM_THREADS=1 as well: without, the threads of BLAS slow pymatgen's small products down.
`traced` is the compiled, differentiable function: intensities of all reflections of a batch in single precision, once
with its compilation and once without; merging reflections into peaks is not part of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

CHUNK = 128  # reflections a row of the traced function
TOLERANCE = {"two_theta": 1e-4, "intensity": 1e-3}  # degrees, and of 100


def clock() -> np.ndarray:
    """Wall and processor seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def crystals(args):
    from crysjax.data import datasets

    test = datasets.where_split(datasets.load(args.data), "test")
    return datasets.take(test, np.random.default_rng(0).permutation(len(test))[: args.count])


def pymatgen(args) -> dict:
    """A plain loop over structures."""
    from pymatgen.analysis.diffraction.xrd import XRDCalculator
    from pymatgen.core import Lattice, Structure

    from crysjax.data.datasets import entries

    dataset, calculator = crystals(args), XRDCalculator("CuKa")
    begin = clock()
    made = [Structure(Lattice(row.lattice.astype(float)), row.numbers, row.frac.astype(float))
            for row in entries(dataset)]  # fmt: skip
    ready = clock()
    found = [calculator.get_pattern(structure) for structure in made]
    end = clock()
    keep(args, "pymatgen", [pattern.x for pattern in found], [pattern.y for pattern in found])
    return {"pymatgen": (end - ready).tolist(), "pymatgen, structures made": (end - begin).tolist()}


def crysjax(args) -> dict:
    from crysjax.chemistry.scattering import scattering
    from crysjax.physics.diffraction.peaks import peaks

    dataset = crystals(args)
    begin = clock()
    found = peaks(dataset, scattering("CuKa", dtype=np.float64))
    end = clock()
    keep(args, "crysjax", [peak.two_theta for peak in found], [peak.intensity for peak in found])
    return {"crysjax": (end - begin).tolist()}


def traced(args) -> dict:
    """Intensities of all reflections, `CHUNK` of one crystal per row, by the function that has derivatives."""
    import jax
    import jax.numpy as jnp

    from crysjax.base import Crystal
    from crysjax.chemistry.scattering import of_species, scattering
    from crysjax.data.datasets import entries
    from crysjax.physics.diffraction.pattern import Indices, indices, reflections, reflections_needed, within

    rows, table = entries(crystals(args)), scattering()
    angle = {"wavelength_angstrom": 1.54184, "two_theta_max_degree": 90.0}
    species = [np.unique(row.numbers, return_inverse=True) for row in rows]
    most, kinds = max(len(row.numbers) for row in rows), max(len(found) for found, _ in species)

    def one(crystal: Crystal, columns, hkl):
        return reflections(
            crystal, columns, Indices(hkl, jnp.full(3, 10**4))
        ).intensity  # the host's lists are complete

    @jax.jit
    def run(batch: Crystal, columns, owner, hkl):
        shared = columns._replace(wavelength=None, polarized=None)
        own = jax.tree.map(lambda leaf: leaf[owner], (batch, shared))
        both = own[1]._replace(wavelength=columns.wavelength, polarized=columns.polarized)
        axes = both._replace(**dict.fromkeys(both._fields, 0))._replace(wavelength=None, polarized=None)
        return jax.vmap(one, in_axes=(0, axes, 0))(own[0], both, hkl)

    def go() -> np.ndarray:
        begin = clock()
        batch = Crystal(np.zeros((len(rows), most, kinds), np.float32), np.zeros((len(rows), most, 3), np.float32),
                        np.stack([row.lattice for row in rows]))  # fmt: skip
        numbers, lists, owner = np.zeros((len(rows), kinds), int), [], []
        for i, (row, (found, index)) in enumerate(zip(rows, species)):
            n = len(row.numbers)
            batch.occupancy[i, np.arange(n), index], batch.frac[i, :n], numbers[i, : len(found)] = 1, row.frac, found
            hkl = within(indices(reflections_needed(row.lattice, **angle)), row.lattice, **angle).hkl
            lists.append(np.pad(hkl, ((0, -len(hkl) % CHUNK), (0, 0))).reshape(-1, CHUNK, 3))
            owner += [i] * len(lists[-1])
        run(batch, of_species(table, numbers), np.array(owner), np.concatenate(lists)).block_until_ready()
        return clock() - begin

    return {"crysjax, traced, first call": go().tolist(), "crysjax, traced, again": go().tolist()}


def keep(args, name: str, x: list, y: list) -> None:
    sizes = [len(row) for row in x]
    np.savez(args.work / f"{name}.npz", sizes=sizes, x=np.concatenate(x), y=np.concatenate(y))


def compare(work: Path) -> str:
    """One sentence on whether both found the same peaks."""
    ours, theirs = (np.load(work / f"{name}.npz") for name in ("crysjax", "pymatgen"))
    other = int((ours["sizes"] != theirs["sizes"]).sum())
    if other:
        return f"{other} of {len(ours['sizes'])} patterns differ in their number of peaks"
    angle, intensity = (float(np.abs(ours[k] - theirs[k]).max()) for k in "xy")
    same = angle <= TOLERANCE["two_theta"] and intensity <= TOLERANCE["intensity"]
    verdict = "equal" if same else "NOT equal"
    return (f"{len(ours['sizes']):,} patterns, {len(ours['x']):,} peaks, {verdict}: largest difference "
            f"{angle:.0e} degrees, {intensity:.0e} of 100")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/mp_20_raw.npz"))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="raw result, JSON: seconds (wall, processor) of every repeat")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.only:
        print(json.dumps({"pymatgen": pymatgen, "crysjax": crysjax, "traced": traced}[args.only](args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        times: dict[str, list] = {}
        for _ in range(args.repeats):
            for side in ("pymatgen", "crysjax", "traced"):
                command = [sys.executable, __file__, "--only", side, "--work", folder, "--data", str(args.data),
                           "--count", str(args.count)]  # fmt: skip
                said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                for name, seconds in json.loads(said.splitlines()[-1]).items():
                    times.setdefault(name, []).append(seconds)
        best = {name: np.min(rows, axis=0) for name, rows in times.items()}
        print("| | wall s | processor s | ms per crystal | times ours (wall) | times ours (processor) |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name, (wall, cpu) in best.items():
            ratio = " | ".join(f"{a / b:.1f}" for a, b in zip((wall, cpu), best["crysjax"]))
            print(f"| {name} | {wall:.2f} | {cpu:.2f} | {1e3 * cpu / args.count:.2f} | {ratio} |")
        said = compare(Path(folder))
        print(f"\n{said}.")
        if args.out:
            from crysjax.reports import record

            record.write(args.out, record.about(args) | {"agreement": said, "seconds": times})


if __name__ == "__main__":
    main()
