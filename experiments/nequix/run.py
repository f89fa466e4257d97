"""Published Nequix weights in crysjax against the package `nequix`: energies, forces and stresses of the same crystals.

    python experiments/nequix/run.py --weights nequix-mp-1.nqx --data data/mp_20.npz:val \
        --nequix-python PATH/TO/python --out experiments/nequix/nequix-mp-1.json
    python experiments/nequix/run.py --summarize experiments/nequix/*.json

The package needs an environment of its own; this file is run there with `--package`, and imports nothing of crysjax.
Both compute in single precision.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def by_package(weights: str, structures: str) -> dict:
    """What the package says of every crystal in a file; runs in its environment."""
    from importlib.metadata import version

    from ase.io import read
    from nequix.calculator import NequixCalculator

    calculator, rows = NequixCalculator(model_path=weights, use_kernel=False), []
    for atoms in read(structures, ":"):
        atoms.calc = calculator
        rows.append([atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)])
    said = [[float(e), np.asarray(f, float).tolist(), np.asarray(s, float).tolist()] for e, f, s in rows]
    return {"rows": said, "versions": {name: version(name) for name in ("nequix", "jax", "numpy", "ase")}}


def by_crysjax(weights: str, crystals) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """The same by crysjax: energy (eV), forces (eV/Å), stress (eV/Å³) of every crystal, in packs."""
    import jax

    from crysjax.data import batching
    from crysjax.geometry.neighbors import radius_graph_host
    from crysjax.potentials.mlip import load_potential

    potential, params = load_potential(weights)
    shape, found = batching.Capacity(sites=96, pairs=900, crystals=32), {}
    evaluate = jax.jit(potential.energy_forces_stress)
    for group in batching.assign(crystals.num_atoms, shape):
        rows = np.array(group)
        pack = batching.pack_rows(crystals, rows, shape)
        graph = radius_graph_host(pack, potential.cutoff_angstrom, max_edges=8192)
        energy, forces, stress = (np.asarray(x, float) for x in evaluate(params, pack, graph))
        ends = np.cumsum([0, *crystals.num_atoms[rows]])
        for k, row in enumerate(rows):
            found[int(row)] = (float(energy[k]), forces[ends[k] : ends[k + 1]], stress[k])
    return [found[k] for k in range(len(crystals))]


def measure(options: argparse.Namespace) -> dict:
    """The largest differences of every crystal."""
    from crysjax.data import datasets
    from crysjax.data.readers.io import write_crystals
    from crysjax.data.readers.part import read_part
    from crysjax.reports import record

    every = read_part(options.data)
    crystals = datasets.take(every, np.random.default_rng(options.seed).permutation(len(every))[: options.count])
    with tempfile.TemporaryDirectory() as folder:
        structures = str(Path(folder) / "crystals.extxyz")
        write_crystals(crystals, Path(structures))
        command = [options.nequix_python, __file__, "--package", "--weights", options.weights, "--data", structures]
        ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(ran.stderr[-2000:])
    theirs, rows = json.loads(ran.stdout.splitlines()[-1]), []
    for k, (own, said) in enumerate(zip(by_crysjax(options.weights, crystals), theirs["rows"])):
        apart = [float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(own, said)]
        row = {"id": str(crystals.ids[k]), "atoms": int(crystals.num_atoms[k]), "energy_ev": said[0]}
        row |= {"largest_force_ev_per_angstrom": float(np.abs(said[1]).max())}
        row |= {"energy_differs_ev_per_atom": apart[0] / row["atoms"], "forces_differ_ev_per_angstrom": apart[1]}
        rows.append(row | {"stress_differs_ev_per_angstrom3": apart[2]})
    return record.about(options) | {"versions of the package": theirs["versions"], "rows": rows}


def summarize(path: str) -> list[str]:
    """A row of the table: the largest differences."""
    from crysjax.reports import record

    report = record.read(path)
    rows, package = report["rows"], report["versions of the package"]["nequix"]
    worst = {key: max(row[key] for row in rows) for key in rows[0] if "differ" in key}
    names = [report["settings"]["weights"].removesuffix(".nqx"), f"{len(rows)}, nequix {package}"]
    return [*names, *(f"{value:.1e}" for value in worst.values())]


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="a .nqx file")
    parser.add_argument("--data", help="PATH[:SPLIT] of crystals")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nequix-python", default=sys.executable, help="an interpreter that has the nequix package")
    parser.add_argument("--package", action="store_true", help="be the process of the package")
    parser.add_argument("--out")
    parser.add_argument("--summarize", nargs="+", help="files of earlier runs, printed")
    options = parser.parse_args()
    if options.package:
        return print(json.dumps(by_package(options.weights, options.data)))
    from crysjax.reports import record

    if not options.summarize:
        record.write(options.out, measure(options))
    rows = [summarize(path) for path in options.summarize or [options.out]]
    print(record.table(["weights", "crystals, package", "energy, eV/atom", "force, eV/Å", "stress, eV/Å³"], rows))
    return None


if __name__ == "__main__":
    main()
