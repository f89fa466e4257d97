"""Lattice constants and bulk moduli by real DFT through `oracles.hosted`, at a cheap and a dear setting.

python experiments/dft/run.py [cheap|dear]
"""

import sys
import time

from ase.build import bulk
from ase.eos import EquationOfState

from crysjax.base import GPA_PER_EV_A3
from crysjax.data.convert import entry_of_atoms
from crysjax.oracles.calculators import named
from crysjax.oracles.hosted import host

SILICON = {"pseudopotentials": {"Si": "Si.pbe-rrkj.UPF"}}
MAGNESIA = {"pseudopotentials": {"Mg": "Mg.pz-n-vbc.UPF", "O": "O.pz-rrkjus.UPF"}}
RUNS = {  # calculator, structure, center in Å, settings at which tests run, converged settings
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


def equation_of_state(
    calculator: str, structure: tuple[str, str], center: float, settings: dict
) -> tuple[float, float]:
    """Lattice constant (Å) and bulk modulus (GPa) by a Birch-Murnaghan fit to five volumes within 6 %."""
    crystals = [bulk(*structure, a=center * scale) for scale in (0.98, 0.99, 1.0, 1.01, 1.02)]
    known = named(calculator, settings)
    work = host(known.make, settings=known.settings, derivatives=False, timeout_seconds=300, memory_gb=4)
    answers = work.ask([entry_of_atoms(atoms, "") for atoms in crystals])
    work.close()
    if any(answer.reason for answer in answers):
        raise SystemExit(f"{calculator}: {[answer.reason for answer in answers]}")
    energies = [answer.single.energy for answer in answers]
    volume, _, modulus = EquationOfState([a.get_volume() for a in crystals], energies, "birchmurnaghan").fit()
    return (4 * volume) ** (1 / 3), modulus * GPA_PER_EV_A3


if __name__ == "__main__":
    dear = sys.argv[1:] == ["dear"]
    for name, (calculator, structure, center, quick, slow) in RUNS.items():
        begin = time.perf_counter()
        a, modulus = equation_of_state(calculator, structure, center, slow if dear else quick)
        seconds = (time.perf_counter() - begin) / 5
        print(f"| {name} | {a:.3f} | {modulus:.0f} | {seconds:.1f} |", flush=True)
