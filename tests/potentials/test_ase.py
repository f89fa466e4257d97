"""Derivatives and optimizers of ASE see the potential through a calculator."""

import ase.optimize
import jax
import numpy as np
import pytest
from ase.calculators.calculator import CalculationFailed
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.stress import full_3x3_to_voigt_6_stress

from crysjax.data.readers.io import to_atoms
from crysjax.potentials.ase import calculator
from crysjax.potentials.mlip import mlip


@pytest.fixture(scope="module")
def network(toys):
    return calculator(*toys.potentials["cluster"])


def test_a_calculator_answers_what_the_potential_says(toys, network):
    potential, params = toys.potentials["cluster"]
    evaluate = jax.jit(potential.energy_forces_stress, compiler_options=toys.fast)
    for n in (1, 3, 4):
        crystal = toys.draw_crystal(n, 0)
        pack = toys.make_pack([crystal])
        said = toys.answers(evaluate(params, pack, toys.make_graph(pack, potential.cutoff_angstrom)), [crystal])[0]
        atoms = to_atoms(crystal)
        atoms.calc = network
        # another padding, another compilation: rounding
        np.testing.assert_allclose(atoms.get_potential_energy(), said.energy, rtol=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), said.forces, atol=1e-5)
        np.testing.assert_allclose(atoms.get_stress(), full_3x3_to_voigt_6_stress(said.stress), atol=1e-6)
        assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


def test_signs_and_units_are_those_that_ase_expects(toys, network):
    """By ASE's own differences of the energy: its rounding, 1e-6 eV over steps of 0.02 Å or 2 %, leaves 1 %."""
    atoms = to_atoms(toys.draw_crystal(3, 0))
    atoms.calc = network
    forces, stress = atoms.get_forces(), atoms.get_stress()
    numeric = calculate_numerical_forces(atoms, eps=0.01)
    np.testing.assert_allclose(forces, numeric, atol=0.01 * np.abs(forces).max())
    numeric = calculate_numerical_stress(atoms, eps=0.01)
    np.testing.assert_allclose(stress, numeric, atol=0.01 * np.abs(stress).max())


def test_an_optimizer_of_ase_finds_a_known_minimum():
    """A pair of argon atoms in a box: 2^(1/6) sigma apart, at minus epsilon."""
    argon = mlip(network="lennard_jones", numbers=(18,), cutoff_angstrom=8.5)
    atoms = ase.Atoms(
        "Ar2", [[0.2, 0, 0], [3.4, 1.5, 0.4]], cell=[17, 18, 19], pbc=True, calculator=calculator(argon, ())
    )
    assert ase.optimize.BFGS(atoms, logfile=None).run(fmax=1e-5, steps=60)
    np.testing.assert_allclose(atoms.get_distance(0, 1), 2 ** (1 / 6) * 3.4, rtol=1e-4)  # 1e-5 / (57 epsilon / sigma^2)
    np.testing.assert_allclose(atoms.get_potential_energy(), -0.0104, rtol=1e-6)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda atoms: atoms.set_pbc([True, True, False]),
        lambda atoms: atoms.set_atomic_numbers([1, 8, 84]),  # unknown to the potential
        lambda atoms: atoms.set_positions(atoms.positions[[0, 0, 1]]),
        lambda atoms: atoms.set_positions(atoms.positions * np.nan),
        lambda atoms: atoms.set_cell(atoms.cell * [[1], [1], [0]], scale_atoms=True),
        lambda atoms: atoms.set_cell(atoms.cell * [[1], [1], [1e-3]], scale_atoms=True),
    ],
    ids=["a slab", "unknown element", "touching atoms", "no numbers", "no cell", "needs too many images"],
)
def test_what_cannot_be_computed_raises_as_ase_expects(toys, network, spoil):
    atoms = to_atoms(toys.draw_crystal(3, 0))
    atoms.calc = network
    before = atoms.get_potential_energy()
    good = atoms.copy()
    spoil(atoms)
    with pytest.raises(CalculationFailed):
        atoms.get_potential_energy()
    good.calc = network  # and nothing of it is left behind
    assert good.get_potential_energy() == before
