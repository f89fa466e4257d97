"""Phonons by an interatomic potential against density-functional perturbation theory: matbench_phonons.

    python experiments/phonons/run.py --data shared/data/phonons/matbench_phonons.json.gz --potential nequix-mp-1.nqx \
        --out experiments/phonons/nequix-mp-1.json --count 80 --seconds 3600
    python experiments/phonons/run.py --summarize experiments/phonons/nequix-mp-1.json
    python experiments/phonons/run.py --potential nequix-mp-1.nqx --phonopy

The set gives the frequency of the last peak of the phonon density of states, in cm⁻¹, of 1,265 crystals (Petretto et
al., Scientific Data 5, 180065 (2018); Dunn et al., npj Comput. Mater. 6, 138 (2020)). Crystals are a seeded random
order of those whose primitive cell has at most `--atoms` atoms and whose supercell has at most `--supercell`. Each is
relaxed, keeping its symmetry, and its force constants computed; what is in the file is not computed again, so the same
command goes on where it stopped. `--summarize` writes the figures of a file into the README, with 95 % intervals by a
bootstrap over crystals. The reference's values are not in the file, and relaxed crystals are kept in OUT.relaxed.json,
which is not committed: they are, or derive from, another's data.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import time
from pathlib import Path

import jax
import numpy as np

from crysjax.chemistry.elements import SYMBOLS, formula
from crysjax.data import files
from crysjax.data.datasets import Entry
from crysjax.evaluation.metrics.distributions import interval
from crysjax.geometry.supercells import repeats_for
from crysjax.physics.phonons import driver, thermodynamics
from crysjax.physics.phonons.vibrations import PER_CM
from crysjax.potentials.mlip import Potential, load_potential, load_student
from crysjax.reports import record

README = Path(__file__).with_name("README.md")
WIDTH_THZ = 0.15  # Gaussians of the density of states, 5 cm⁻¹
BLOCK = 32  # crystals relaxed together
MEASURES = {"peak_cm": "last peak", "highest_cm": "highest frequency"}
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def read(path: Path) -> list[tuple[Entry, float]]:
    """All crystals with the last peak in cm⁻¹."""
    from pymatgen.core import Structure

    from crysjax.data.readers.convert import entry_of_structure

    table = json.loads(gzip.decompress(path.read_bytes()))
    rows = zip(table["index"], table["data"])
    return [(entry_of_structure(Structure.from_dict(s), f"mb-phonons-{i:04d}", {}), float(y)) for i, (s, y) in rows]


def chosen(
    rows: list[tuple[Entry, float]], args: argparse.Namespace, potential: Potential
) -> list[tuple[Entry, float]]:
    """The first `count` crystals, in a seeded random order, that are small enough and of known elements."""
    order, kept = np.random.default_rng(args.seed).permutation(len(rows)), []
    for i in order:
        entry, target = rows[i]
        if not set(entry.numbers.tolist()) <= set(potential.numbers):
            continue
        cell = driver.primitive(entry, args.tolerance)[0]
        atoms = len(cell.numbers) * np.prod(repeats_for(cell.lattice, args.length))
        if len(cell.numbers) <= args.atoms and atoms <= args.supercell:
            kept.append((cell, target))
        if len(kept) == args.count:
            break
    return kept


def measured(potential: Potential, params: dict, entry: Entry, args: argparse.Namespace) -> dict:
    """The last peak and what else is known of a relaxed crystal's phonons."""
    try:
        found = driver.phonons(
            potential, params, entry, length_angstrom=args.length, mesh_per_angstrom=args.mesh,
            tolerance_angstrom=args.tolerance,
        )  # fmt: skip
    except ValueError as error:  # what spglib does not understand
        return {"reason": str(error)}
    known = {"supercell": len(found.cell.atom), "products": found.products, "reason": found.reason}
    if not found.valid:
        return known
    grid = thermodynamics.even_grid(found.frequencies, WIDTH_THZ)
    with jax.enable_x64(True):
        density = thermodynamics.dos(*map(jax.numpy.asarray, (found.frequencies, found.weight)), grid=grid,
                                     width_thz=WIDTH_THZ)  # fmt: skip
    thz = {
        "peak": thermodynamics.last_peak(density),
        "highest": found.frequencies.max(),
        "lowest": found.frequencies.min(),
    }
    return known | {f"{name}_cm": round(float(v) * PER_CM, 3) for name, v in thz.items()}


def compute(args: argparse.Namespace) -> None:
    """Rows for the chosen crystals that have none, until `seconds` are over; then the errors."""
    begun, beside = time.monotonic(), args.out.with_suffix(".relaxed.json")
    potential, params = load_potential(args.potential)
    todo = chosen(read(args.data), args, potential)
    report = record.read(args.out) if args.out.exists() else record.about(args) | {"rows": []}
    kept = record.read(beside)["rows"] if beside.exists() else []
    for first in range(0, len(todo), BLOCK):
        done = {row["id"] for row in report["rows"]}
        block = [entry for entry, _ in todo[first : first + BLOCK] if entry.id not in done]
        if not block or time.monotonic() - begun > args.seconds:
            continue
        ends = relaxed(potential, params, block, kept)
        record.write(beside, {"rows": kept})
        for entry in block:
            if time.monotonic() - begun < args.seconds:
                report["rows"].append(row_of(potential, params, entry, ends[entry.id], args))
                record.write(args.out, report)
                print(report["rows"][-1], flush=True)
    record.write(args.out, report | {"table": compared(report["rows"], {entry.id: y for entry, y in todo})})


def row_of(potential: Potential, params: dict, entry: Entry, end: tuple, args: argparse.Namespace) -> dict:
    """What is kept of a crystal."""
    crystal, energy, reason = end
    start = time.monotonic()
    row = {"id": entry.id, "formula": formula(entry.numbers), "atoms": len(entry.numbers)}
    strain = abs(np.linalg.det(crystal.lattice)) / abs(np.linalg.det(entry.lattice))
    row |= {"energy_ev_per_atom": energy, "volume_ratio": round(float(strain), 5), "relaxation": reason}
    row |= measured(potential, params, crystal, args) if np.isfinite(energy) else {"reason": reason}
    return row | {"seconds": round(time.monotonic() - start, 1)}


def relaxed(potential: Potential, params: dict, crystals: list[Entry], kept: list[dict]) -> dict[str, tuple]:
    """Relaxed crystal, energy and reason of each, by id; what is in `kept` is taken from there, the rest put there."""
    known = {row["id"] for row in kept}
    new = [entry for entry in crystals if entry.id not in known]
    for end, energy, reason in driver.relaxed(potential, params, new) if new else []:
        row = {"id": end.id, "numbers": end.numbers.tolist(), "frac": np.round(end.frac, 6).tolist()}
        lattice = np.round(end.lattice, 5).tolist()
        kept.append(row | {"lattice": lattice, "energy_ev_per_atom": energy, "reason": reason})
    return {
        row["id"]: (
            Entry(row["id"], *(np.array(row[k]) for k in ("numbers", "frac", "lattice")), {}),
            row["energy_ev_per_atom"],
            row["reason"],
        )
        for row in kept
    }


def compared(rows: list[dict], targets: dict[str, float]) -> list[dict]:
    """Errors of all, of stable and of unstable crystals."""
    good = [row for row in rows if "peak_cm" in row and np.isfinite(row["peak_cm"])]
    stable = [row for row in good if row["lowest_cm"] > driver.STABLE_THZ * PER_CM]
    unstable = [row for row in good if row not in stable]
    parts = {"all with an answer": good, "no imaginary mode": stable, "imaginary modes": unstable}
    table = []
    for (name, part), key in itertools.product(parts.items(), MEASURES):
        found, target = np.array([row[key] for row in part]), np.array([targets[row["id"]] for row in part])
        line = {"crystals": name, "by": key, "rows": len(part)}
        table.append(line | (errors(found, target) if len(part) > 2 else {}))
    return table


def errors(found: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Rank correlation; mean absolute error and mean signed error with 95 % intervals; median and relative errors."""
    from scipy.stats import spearmanr

    off = found - target
    size, signed = interval(np.abs(off)), interval(off)
    told = {"spearman": float(spearmanr(found, target).statistic), "mae": size.value, "low": size.low}
    told |= {
        "high": size.high,
        "median": float(np.median(np.abs(off))),
        "relative": float(np.mean(np.abs(off) / target)),
    }
    return told | {"signed": signed.value, "signed_low": signed.low, "signed_high": signed.high}


def figures(report: dict, potential: str) -> str:
    """Markdown of a report."""
    measures = ["Spearman", "MAE, cm⁻¹ (95 %)", "median error", "mean relative error", "mean signed, cm⁻¹ (95 %)"]
    lines = []
    for x in report["table"]:
        cells = ["-"] * 5 if "mae" not in x else [
            f"{x['spearman']:.3f}", f"{x['mae']:.1f} ({x['low']:.1f} to {x['high']:.1f})", f"{x['median']:.1f}",
            f"{x['relative']:.3f}", f"{x['signed']:+.1f} ({x['signed_low']:+.1f} to {x['signed_high']:+.1f})",
        ]  # fmt: skip
        lines.append([x["crystals"], MEASURES[x["by"]], x["rows"], *cells])
    rows = report["rows"]
    failed = [f"{row['id']} {row['formula']}: {row['reason']}" for row in rows if "peak_cm" not in row]
    seconds = np.median([row["seconds"] for row in rows])
    told = f"{potential}, {len(rows)} crystals, {seconds:.0f} s a crystal (median). Without an answer: "
    return f"{told}{'; '.join(failed) or 'none'}.\n\n{record.table(['crystals', 'by', 'rows', *measures], lines)}\n"


def summarize(path: Path) -> None:
    """Write the figures of a report between the marks in the README, in place of this potential's earlier ones."""
    report = record.read(path)
    if "table" not in report:
        raise SystemExit(f"{path}: {len(report['rows'])} rows of a run that was not finished; the same command goes on")
    name = Path(report["settings"]["potential"]).stem
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    sections = {s.partition("\n")[0]: s for s in old.split("### ") if s.strip()}
    sections[name] = f"{name}\n\n{figures(report, name)}\n"
    body = "".join(f"### {sections[k].strip()}\n\n" for k in sorted(sections))
    files.write(README, f"{before}{BEGIN}\n\n{body}{END}{after}")
    print(sections[name])


def beside_phonopy(args: argparse.Namespace) -> None:
    """Silicon and rock salt by phonopy, from displacements of 0.01 Å both ways in double precision, and by us."""
    fcc = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    silicon = Entry("Si", np.array([14, 14]), np.array([[0, 0, 0], [0.25] * 3]), 5.46 * fcc, {})
    salt = Entry("NaCl", np.array([11, 17]), np.array([[0, 0, 0], [0.5] * 3]), 5.69 * fcc, {})
    potential, params = load_potential(args.potential) if args.potential else load_student()
    wide = lambda tree: jax.tree.map(lambda x: jax.numpy.asarray(x, float), tree)  # noqa: E731
    for entry, _, reason in driver.relaxed(potential, params, [silicon, salt]):
        found = driver.phonons(potential, params, entry, length_angstrom=args.length, mesh_per_angstrom=0.1)
        assert not reason and found.valid, (reason, found.reason)
        theirs, order = phonopy_of(found)
        pack, graph = driver.supercell_graph(
            found.crystal, found.cell, potential.cutoff_angstrom + 0.1, len(found.cell.atom)
        )
        with jax.enable_x64(True):
            run, forces = jax.jit(lambda p, pack, g: potential.energy_forces_stress(p, pack, g)[1]), []
            graph = graph._replace(mask=np.asarray(graph.mask, float))
            for displaced in theirs.supercells_with_displacements:
                frac = np.array(found.cell.frac)
                frac[order] += (displaced.positions - theirs.supercell.positions) @ np.linalg.inv(found.cell.lattice)
                moved = pack._replace(
                    frac=frac, lattice=found.cell.lattice[None], occupancy=pack.occupancy.astype(float)
                )
                forces.append(np.asarray(run(wide(params), moved, graph))[order])
        theirs.forces = np.array(forces)
        theirs.produce_force_constants()
        theirs.symmetrize_force_constants()
        own, other = found.frequencies, theirs.run_qpoints(found.q).frequencies
        constants = np.abs(theirs.force_constants[theirs.primitive.p2s_map] - found.constants[:, order])
        print(
            f"{entry.id}: {found.products} products, {len(forces)} displacements, {len(order)} atoms; largest "
            f"difference of force constants {constants.max():.1e} of {np.abs(found.constants).max():.1f} eV/Å², of "
            f"{own.size} frequencies {np.abs(own - other).max():.1e} of {own.max():.2f} THz"
        )


def phonopy_of(found: driver.Phonons) -> tuple:
    """phonopy with its displacements, and where its supercell atoms are in our list."""
    import phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    symbols, size = [SYMBOLS[z - 1] for z in found.crystal.numbers], np.array(found.cell.repeats)
    crystal = PhonopyAtoms(symbols=symbols, cell=found.crystal.lattice, scaled_positions=found.crystal.frac,
                           masses=found.masses)  # fmt: skip
    theirs = phonopy.Phonopy(crystal, np.diag(size), primitive_matrix=np.eye(3))
    off = theirs.supercell.scaled_positions[:, None] - found.cell.frac[None]
    order = np.abs(off - np.round(off)).max(-1).argmin(-1)
    theirs.generate_displacements(distance=0.01, is_plusminus=True)
    return theirs, order


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="matbench_phonons.json.gz")
    parser.add_argument("--potential", type=Path, help="file of a potential")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=1e6, help="begin no crystal later")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atoms", type=int, default=6, help="most atoms of a primitive cell")
    parser.add_argument("--supercell", type=int, default=128, help="most atoms of a supercell")
    parser.add_argument("--length", type=float, default=8.0, help="least edge of a supercell, Å")
    parser.add_argument("--mesh", type=float, default=0.02, help="step of the mesh of q, Å⁻¹ without 2π")
    parser.add_argument("--tolerance", type=float, default=0.01, help="of the symmetry, Å")
    parser.add_argument("--summarize", type=Path, help="a file of an earlier run, written into the README")
    parser.add_argument(
        "--phonopy", action="store_true", help="compare with phonopy instead, which has to be installed"
    )
    args = parser.parse_args()
    if args.summarize or args.phonopy:
        return summarize(args.summarize) if args.summarize else beside_phonopy(args)
    if not (args.data and args.potential and args.out):
        parser.error("expected --data, --potential and --out, or --summarize, or --phonopy")
    return compute(args)


if __name__ == "__main__":
    main()
