"""Relaxing crystals with the published Nequix weights: all at once by crysjax, one after another through ASE.

    python benchmarks/relax.py --weights PATH/TO/nequix-mp-1.nqx --data data/mp_20_raw.npz:test --count 256 \
        --nequix-python PATH/TO/python

Every mode is a process of its own and counts everything from its start: imports, compilation, relaxation. Through ASE,
the `nequix` package's calculator and ours, each with FIRE on `FrechetCellFilter`, the field's usual recipe; they relax
the first `--peers` crystals of the same random selection, and their time is scaled to all. The same largest force (0.05
eV/Å, of atoms and of the cell), the same cap of steps. Energies where both converged are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

FMAX, STEPS = 0.05, 300


def chosen(data: str, count: int) -> tuple:
    """The first `count` crystals of a fixed random order, the same ones for every mode."""
    from crysjax.data import datasets

    path, _, split = data.partition(":")
    every = datasets.load(path)
    every = datasets.where_split(every, split) if split else every
    order = np.random.default_rng(0).permutation(len(every))
    return datasets.take(every, order[:count])


def ours(weights: str, data: str, count: int) -> dict:
    from crysjax.potentials.mlip import load_potential
    from crysjax.potentials.relax import Relax
    from crysjax.potentials.relax_dataset import relax_dataset

    potential, params = load_potential(weights)
    found = relax_dataset(
        potential.energy_forces_stress, params, chosen(data, count), cutoff_angstrom=potential.cutoff_angstrom,
        settings=Relax(fmax_ev_angstrom=FMAX), max_steps=STEPS,
    )  # fmt: skip
    energy = np.where(found.converged, found.energy / found.crystals.num_atoms, np.nan)
    return {"energy": energy.tolist(), "steps": found.steps.tolist(), "converged": int(found.converged.sum())}


def through_ase(calculator, atoms_list: list) -> dict:
    """FIRE with the cell, one crystal after another."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    energy, steps = [], []
    for atoms in atoms_list:
        atoms.calc = calculator
        run = FIRE(FrechetCellFilter(atoms), logfile=None)
        converged = run.run(fmax=FMAX, steps=STEPS)
        energy.append(atoms.get_potential_energy() / len(atoms) if converged else np.nan)
        steps.append(run.get_number_of_steps() + 1)
    return {"energy": energy, "steps": steps, "converged": int(np.isfinite(energy).sum())}


def ase_ours(weights: str, structures: str) -> dict:
    from ase.io import read

    from crysjax.potentials.ase import calculator
    from crysjax.potentials.mlip import load_potential

    return through_ase(calculator(*load_potential(weights)), read(structures, ":"))


def ase_nequix(weights: str, structures: str) -> dict:
    from ase.io import read
    from nequix.calculator import NequixCalculator

    return through_ase(NequixCalculator(model_path=weights, use_kernel=False), read(structures, ":"))


def timed(python: str, mode: str, *arguments: str) -> dict:
    """Run a mode in a process of its own."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run([python, __file__, "--mode", mode, *arguments], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{mode} failed:\n{run.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = json.loads(run.stdout.splitlines()[-1])
    return found | {"wall": time.perf_counter() - start, "processor": used}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--peers", type=int, default=12)
    parser.add_argument("--nequix-python", help="an interpreter that has the nequix package")
    parser.add_argument("--structures", default="/tmp/relax_benchmark.extxyz")
    parser.add_argument("--out", help="raw result, JSON: energies and steps of every crystal")
    parser.add_argument("--mode", choices=["ours", "ase_ours", "ase_nequix"])
    a = parser.parse_args()
    if a.mode:
        found = ours(a.weights, a.data, a.count) if a.mode == "ours" else globals()[a.mode](a.weights, a.structures)
        print(json.dumps(found))
        return
    from crysjax.data.readers.io import write_crystals

    write_crystals(chosen(a.data, a.peers), Path(a.structures))
    rows = {"ours": timed(sys.executable, "ours", "--weights", a.weights, "--data", a.data, "--count", str(a.count))}
    peers = ["--weights", a.weights, "--structures", a.structures]
    rows["ase_ours"] = timed(sys.executable, "ase_ours", *peers)
    if a.nequix_python:
        rows["ase_nequix"] = timed(a.nequix_python, "ase_nequix", *peers)
    if a.out:
        from crysjax.reports import record

        record.write(a.out, record.about(a) | {"rows": [{"name": name} | row for name, row in rows.items()]})
    print(f"{os.cpu_count()} cores, {a.count} crystals, the first {a.peers} through ASE\n")
    print(
        "| | wall s per crystal | all, s | times ours | processor s per crystal | evaluations per crystal | converged |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    base = rows["ours"]["wall"] / a.count
    for name, row in rows.items():
        n = len(row["steps"])
        each = row["wall"] / n
        print(f"| {name} | {each:.2f} | {each * a.count:.0f} | {each / base:.1f} | {row['processor'] / n:.2f} "
              f"| {np.mean(row['steps']):.1f} | {row['converged']} of {n} |")  # fmt: skip
        apart = np.abs(np.array(row["energy"]) - np.array(rows["ours"]["energy"][:n])) * 1e3
        print(f"  energies against ours, meV/atom: median {np.nanmedian(apart):.2f}, largest {np.nanmax(apart):.2f}",
              file=sys.stderr)  # fmt: skip


if __name__ == "__main__":
    main()
