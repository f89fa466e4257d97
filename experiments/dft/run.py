"""Lattice constants and bulk moduli by real DFT through `oracles.hosted`, at the settings of the tests and converged.

    python experiments/dft/run.py --out experiments/dft/results.json [--settings tests converged]
    python experiments/dft/run.py --summarize experiments/dft/results.json

What is in the file is not computed again, so a run that was stopped goes on with the same command.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ase.build import bulk
from ase.eos import EquationOfState

from crysjax.base import GPA_PER_EV_A3
from crysjax.data.readers.convert import entry_of_atoms
from crysjax.oracles.calculators import named
from crysjax.oracles.hosted import host
from crysjax.reports import record

SCALES = (0.98, 0.99, 1.0, 1.01, 1.02)
LITERATURE = {"Si, PBE": 5.47, "MgO, PBE": 4.26, "NaCl, PBE": 5.70, "MgO, LDA": 4.17}  # Å, Csonka et al. 2009
SILICON = {"pseudopotentials": {"Si": "Si.pbe-rrkj.UPF"}}
MAGNESIA = {"pseudopotentials": {"Mg": "Mg.pz-n-vbc.UPF", "O": "O.pz-rrkjus.UPF"}}
RUNS = {  # calculator, structure, center in Å, settings of the tests, converged settings
    "Si, PBE, GPAW": ("gpaw", ("Si", "diamond"), 5.47, {"cutoff_ev": 250, "kpoints": (4, 4, 4)},
                      {"cutoff_ev": 600, "kpoints": (8, 8, 8)}),
    "MgO, PBE, GPAW": ("gpaw", ("MgO", "rocksalt"), 4.25, {"cutoff_ev": 600, "kpoints": (3, 3, 3)},
                       {"cutoff_ev": 800, "kpoints": (6, 6, 6)}),
    "NaCl, PBE, GPAW": ("gpaw", ("NaCl", "rocksalt"), 5.70, {"cutoff_ev": 350, "kpoints": (2, 2, 2)},
                        {"cutoff_ev": 700, "kpoints": (4, 4, 4)}),
    "Si, PBE, Quantum ESPRESSO": ("espresso", ("Si", "diamond"), 5.47,
                                  SILICON | {"cutoff_ev": 270, "kpoints": (4, 4, 4)},
                                  SILICON | {"cutoff_ev": 600, "kpoints": (8, 8, 8)}),
    "MgO, LDA, Quantum ESPRESSO": ("espresso", ("MgO", "rocksalt"), 4.17,
                                   MAGNESIA | {"cutoff_ev": 400, "density_cutoff_ev": 3200, "kpoints": (3, 3, 3)},
                                   MAGNESIA | {"cutoff_ev": 700, "density_cutoff_ev": 5600, "kpoints": (6, 6, 6)}),
}  # fmt: skip


def equation_of_state(calculator: str, structure: tuple[str, str], center: float, settings: dict) -> dict:
    """Energies at five volumes within 6 %, and what a Birch-Murnaghan fit makes of them (Å, GPa)."""
    crystals = [bulk(*structure, a=center * scale) for scale in SCALES]
    known, begin = named(calculator, settings), time.perf_counter()
    work = host(known.make, settings=known.settings, derivatives=False, timeout_seconds=600, memory_gb=4)
    answers = work.ask([entry_of_atoms(atoms, "") for atoms in crystals])
    work.close()
    if any(answer.reason for answer in answers):
        return {"reason": [answer.reason for answer in answers]}
    energies = [float(answer.single.energy) for answer in answers]
    volumes = [float(atoms.get_volume()) for atoms in crystals]
    volume, _, modulus = EquationOfState(volumes, energies, "birchmurnaghan").fit()
    found = {"volume_angstrom3": volumes, "energy_ev": energies, "lattice_constant_angstrom": (4 * volume) ** (1 / 3)}
    found |= {"bulk_modulus_gpa": modulus * GPA_PER_EV_A3}
    return found | {"seconds_a_crystal": round((time.perf_counter() - begin) / len(crystals), 1)}


def summarize(report: dict) -> None:
    """Print the table."""
    rows, found = [], {(row["crystal"], row["settings"]): row for row in report["rows"]}
    for name in RUNS:
        cells = []
        for kind in ("tests", "converged"):
            row = found.get((name, kind), {"reason": "not run"})
            cells.append(said(row["parameters"]) if "parameters" in row else "")
            cells += ["none", "none"] if "reason" in row else [
                f"{row['lattice_constant_angstrom']:.3f}", f"{row['bulk_modulus_gpa']:.0f}",
            ]  # fmt: skip
        rows.append([name, *cells, f"{LITERATURE[name.rpartition(',')[0]]:.2f}"])
    head = ["crystal, functional, program", "settings of the tests", "a, Å", "B, GPa"]
    print(record.table([*head, "converged settings", "a, Å", "B, GPa", "literature a, Å"], rows))


def said(parameters: dict) -> str:
    return f"{parameters['cutoff_ev']} eV, {' × '.join(map(str, parameters['kpoints']))}"


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--settings", nargs="+", default=["tests", "converged"], choices=["tests", "converged"])
    parser.add_argument("--summarize", type=Path)
    options = parser.parse_args()
    if options.summarize:
        return summarize(record.read(options.summarize))
    if not options.out:
        parser.error("expected --out or --summarize")
    report = record.read(options.out) if options.out.exists() else record.about(options) | {"rows": []}
    done = {(row["crystal"], row["settings"]) for row in report["rows"]}
    for kind in options.settings:
        for name, (calculator, structure, center, *choices) in RUNS.items():
            parameters = choices[kind == "converged"]
            if (name, kind) not in done:
                row = {"crystal": name, "settings": kind, "parameters": parameters}
                report["rows"].append(row | equation_of_state(calculator, structure, center, parameters))
                record.write(options.out, report)
                print(report["rows"][-1], flush=True)
    return summarize(report)


if __name__ == "__main__":
    main()
