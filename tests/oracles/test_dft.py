"""Density functional theory for real, through the oracle: silicon and a rock salt by GPAW and by Quantum ESPRESSO.

The settings are the cheapest that keep a lattice constant within 1 % of the converged one (`experiments/dft`).
"""

import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.eos import EquationOfState

from crysjax.base import GPA_PER_EV_A3, Crystal
from crysjax.data.readers.convert import entry_of_atoms, from_atoms
from crysjax.oracles import supervisor
from crysjax.oracles.calculators import named
from crysjax.oracles.hosted import Host, host, hosted

pytestmark = pytest.mark.dft

SILICON = {"pseudopotentials": {"Si": "Si.pbe-rrkj.UPF"}, "cutoff_ev": 270.0, "kpoints": (4, 4, 4)}
MAGNESIA = {
    "pseudopotentials": {"Mg": "Mg.pz-n-vbc.UPF", "O": "O.pz-rrkjus.UPF"}, "cutoff_ev": 400.0,
    "density_cutoff_ev": 3200.0, "kpoints": (3, 3, 3),
}  # fmt: skip


@pytest.fixture
def start():
    """`start(name, settings, **limits)`: a calculator at work; the test is skipped, with the reason, without it."""
    working = []

    def made(name: str, settings: dict, **limits) -> Host:
        try:
            known = named(name, settings)
        except ValueError as missing:
            pytest.skip(str(missing))
        working.append(host(known.make, settings=known.settings, timeout_seconds=600, memory_gb=4, **limits))
        return working[-1]

    yield made
    for work in working:
        work.close()


def stacked(atoms: list) -> Crystal:
    return Crystal(*(jnp.stack([jnp.asarray(x) for x in leaf]) for leaf in zip(*map(from_atoms, atoms))))


def lattice_and_modulus(work, structure: tuple[str, str], center: float) -> tuple[float, float]:
    """Lattice constant (Å) and bulk modulus (GPa) of a cubic crystal of two atoms, by energies of the oracle."""
    crystals = [bulk(*structure, a=center * scale) for scale in (0.98, 0.99, 1.0, 1.01, 1.02)]
    found = hosted(work).batch(stacked(crystals))
    assert found.valid.all()
    volumes = [atoms.get_volume() for atoms in crystals]
    volume, _, modulus = EquationOfState(volumes, 2 * np.asarray(found.value, float), "birchmurnaghan").fit()
    return (4 * volume) ** (1 / 3), modulus * GPA_PER_EV_A3


def check_derivatives(work, atoms) -> None:
    """Forces against the difference of energies along a displacement of 0.02 Å; 3 % is what anharmonicity leaves."""
    moved = [atoms.copy() for _ in range(3)]
    for k, one in enumerate(moved):
        one.positions[1] += np.array([0.1 + 0.02 * (k - 1), 0, 0])
    answers = work.ask([entry_of_atoms(one, "") for one in moved])
    assert [a.reason for a in answers] == [""] * 3
    slope = (answers[2].single.energy - answers[0].single.energy) / 0.04
    np.testing.assert_allclose(answers[1].single.forces[1, 0], -slope, rtol=0.03)
    np.testing.assert_allclose(answers[1].single.forces.sum(0), 0, atol=0.03)
    np.testing.assert_allclose(answers[1].single.stress, answers[1].single.stress.T, atol=1e-6)


@pytest.mark.parametrize(
    ("structure", "settings", "expected_angstrom", "tolerance", "modulus_gpa"),
    [
        (("Si", "diamond"), {"cutoff_ev": 250.0, "kpoints": (4, 4, 4)}, 5.469, 0.01, 89),
        (("NaCl", "rocksalt"), {"cutoff_ev": 350.0, "kpoints": (2, 2, 2)}, 5.70, 0.01, 24),
    ],
    ids=["silicon", "rock salt"],
)
def test_gpaw_finds_the_lattice_constants_of_pbe(start, structure, settings, expected_angstrom, tolerance, modulus_gpa):
    """Against converged PBE of the literature; the bulk modulus within 15 %."""
    work = start("gpaw", settings | {"derivatives": False}, derivatives=False)
    a, modulus = lattice_and_modulus(work, structure, expected_angstrom)
    np.testing.assert_allclose(a, expected_angstrom, rtol=tolerance)
    np.testing.assert_allclose(modulus, modulus_gpa, rtol=0.15)


@pytest.mark.parametrize(
    ("structure", "settings", "expected_angstrom", "tolerance"),
    [(("Si", "diamond"), SILICON, 5.469, 0.01), (("MgO", "rocksalt"), MAGNESIA, 4.17, 0.015)],
    ids=["silicon by PBE", "magnesia by LDA"],
)
def test_quantum_espresso_finds_the_lattice_constants(start, structure, settings, expected_angstrom, tolerance):
    """Against converged PBE (Si) and LDA (MgO) of the literature."""
    a, modulus = lattice_and_modulus(start("espresso", settings, derivatives=False), structure, expected_angstrom)
    np.testing.assert_allclose(a, expected_angstrom, rtol=tolerance)
    assert {"Si": 75, "MgO": 140}[structure[0]] < modulus < {"Si": 100, "MgO": 210}[structure[0]]


def test_forces_and_stress_of_gpaw(start):
    check_derivatives(start("gpaw", {"cutoff_ev": 250.0, "kpoints": (2, 2, 2)}), bulk("Si", "diamond", a=5.47))


def test_forces_and_stress_of_quantum_espresso(start):
    settings = SILICON | {"kpoints": None, "kpoint_density": 1.0}  # 2 x 2 x 2
    check_derivatives(start("espresso", settings), bulk("Si", "diamond", a=5.47))


def test_a_calculation_that_cannot_be_done_is_a_reason(start):
    """An element without a pseudopotential among those that have one; the others are not touched."""
    work = start("espresso", SILICON | {"kpoints": (1, 1, 1), "cutoff_ev": 100.0}, derivatives=False)
    silicon, unknown = (entry_of_atoms(bulk(name, "diamond", a=5.5), name) for name in ("Si", "Ge"))
    first, lost, second = work.ask([silicon, unknown, silicon])
    assert first.reason == second.reason == "" and first.single.energy == second.single.energy
    assert lost.single is None and lost.reason


def test_a_calculation_that_takes_too_long_is_killed_with_its_program(start, tmp_path):
    """A dense grid by pw.x, three seconds for it: when the answer is there, pw.x is gone."""
    script, note = tmp_path / "slow-pw.x", tmp_path / "pid"
    script.write_text(f'#!/bin/sh\necho $$ > {note}\nexec pw.x "$@"\n')
    script.chmod(0o755)
    settings = SILICON | {"kpoints": (16, 16, 16), "cutoff_ev": 1500.0}
    start("espresso", settings)  # skips without pw.x
    known = named("espresso", settings | {"command": str(script)})
    work = host(known.make, settings=known.settings, timeout_seconds=3)
    (answer,) = work.ask([entry_of_atoms(bulk("Si", "diamond", a=5.47), "")])
    work.close()
    assert answer.reason == "no answer within 3 s"
    assert int(note.read_text()) not in supervisor.table()
