"""Lennard-Jones against the lattice sums of argon and against ASE; Morse against ASE."""

import ase
import ase.neighborlist
import jax
import numpy as np
import pytest
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential
from scipy.integrate import quad

from crysjax.base import Crystal, one_hot
from crysjax.data.batching import Capacity
from crysjax.potentials.mlip import mlip
from crysjax.potentials.pair import pair_fade

A12, A6 = 12.13188, 14.45392  # sums over the face-centered cubic lattice in units of the nearest distance
NEAREST = (2 * A12 / A6) ** (1 / 6)  # where they are least: 1.0902 sigma
FACES = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2**0.5  # primitive cell, neighbors at distance 1
CUBE = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


@pytest.fixture(scope="module")
def evaluate(toys):
    """Energy, forces and stress in float64; lengths in sigma, energies in epsilon."""

    def said(frac: np.ndarray, lattice: np.ndarray, cutoff: float) -> tuple[float, np.ndarray, np.ndarray]:
        potential = mlip(
            network="lennard_jones", numbers=(18,), epsilon_ev=1.0, sigma_angstrom=1.0, cutoff_angstrom=cutoff
        )
        n = len(frac)
        crystal = Crystal(np.asarray(one_hot(np.full(n, 18)), float), frac, lattice)
        pack = toys.make_pack([crystal], Capacity(n, n * n, 1), float)
        graph = toys.make_graph(pack, cutoff, None)
        with jax.enable_x64(True):
            energy, forces, stress = jax.jit(potential.energy_forces_stress)((), pack, graph)
            return float(energy[0]), np.asarray(forces), np.asarray(stress[0])

    return said


def pair(r: float) -> float:
    return 4 * (r**-12 - r**-6)


@pytest.mark.parametrize("nearest", [1.0, NEAREST, 1.2])
def test_lattice_energy_is_that_of_the_known_sums(evaluate, nearest):
    """2 epsilon (A12 / d^12 - A6 / d^6) an atom, at least -8.610 epsilon, for a pair potential without end.

    What the fade takes away is that of a uniform medium from 7.2 sigma on; that atoms sit on a lattice there changes
    little, as the fade is as wide as a shell. The six digits of A6 leave 1e-5.
    """
    lattice = FACES * nearest
    energy, forces, stress = evaluate(np.zeros((1, 3)), lattice, 8.0)
    density = 1 / abs(np.linalg.det(lattice))
    missing, _ = quad(lambda r: 2 * np.pi * density * r**2 * pair(r) * (1 - float(pair_fade(r / 8.0))), 7.2, 8.0)
    missing += 2 * np.pi * density * (4 / 9 * 8.0**-9 - 4 / 3 * 8.0**-3)
    expected = 2 * (A12 / nearest**12 - A6 / nearest**6)
    assert 0.01 < abs(missing) < 0.05
    np.testing.assert_allclose(energy + missing, expected, rtol=5e-5)
    assert not forces.any()
    np.testing.assert_allclose(stress, stress[0, 0] * np.eye(3), atol=1e-10)
    if nearest == NEAREST:
        np.testing.assert_allclose(expected, -8.610, atol=5e-4)


def test_agrees_with_ase_where_no_pair_is_in_the_fade(evaluate):
    """ASE cuts at the cutoff and shifts each pair by its energy there; else it is the same function.

    The cutoff lies between the first two shells of a rattled crystal, whose distances all fall below the fade.
    """
    cutoff, lattice = 1.35, np.eye(3) * 2**0.5 * 1.05
    frac = CUBE + np.random.default_rng(0).uniform(-0.02, 0.02, CUBE.shape)
    lattice = lattice @ (np.eye(3) + np.array([[0.01, 0.02, 0], [0.02, -0.01, 0.01], [0, 0.01, 0.02]]))
    atoms = ase.Atoms("Ar4", scaled_positions=frac, cell=lattice, pbc=True)
    distances = ase.neighborlist.neighbor_list("d", atoms, 2.0)
    assert not ((distances > 0.9 * cutoff) & (distances < cutoff)).any()
    pairs = (distances < cutoff).sum() / 2
    assert pairs == 24  # twelve neighbors each
    atoms.calc = LennardJones(sigma=1, epsilon=1, rc=cutoff)
    energy, forces, stress = evaluate(frac, lattice, cutoff)
    np.testing.assert_allclose(energy, atoms.get_potential_energy() + pairs * pair(cutoff), rtol=1e-12)
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), rtol=1e-9, atol=1e-11)


def test_a_drop_in_a_box_agrees_with_ase(evaluate):
    """Six atoms nearer to each other than the fade begins: 15 pairs."""
    rng = np.random.default_rng(1)
    octahedron = np.concatenate([np.eye(3), -np.eye(3)]) * 0.8 + rng.uniform(-0.1, 0.1, (6, 3))
    lattice = np.eye(3) * 9
    atoms = ase.Atoms("Ar6", octahedron + 4, cell=lattice, pbc=True, calculator=LennardJones(sigma=1, epsilon=1, rc=3))
    energy, forces, _ = evaluate(atoms.get_scaled_positions(), lattice, 3.0)
    assert atoms.get_all_distances().max() < 2.7
    np.testing.assert_allclose(energy, atoms.get_potential_energy() + 15 * pair(3.0), rtol=1e-12)
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=1e-9, atol=1e-11)


def test_lennard_jones_without_parameters_has_those_of_its_settings(toys):
    """And their slopes: the energy is linear in epsilon, and of the lengths only ratios matter."""
    potential = mlip(network="lennard_jones", numbers=(18,), epsilon_ev=0.7, sigma_angstrom=2.9)
    energy = jax.jit(jax.value_and_grad(lambda p, *where: potential.energy(p, *where)[0]), compiler_options=toys.fast)
    frac = np.array([[0.0, 0, 0], [0, 0, 0.27]])
    pack = toys.make_pack(
        [Crystal(np.asarray(one_hot(np.full(2, 18)), float), frac, 12 * np.eye(3))], Capacity(2, 4, 1), float
    )
    r = 0.27 * 12
    with jax.enable_x64(True):
        graph = toys.make_graph(pack, 8.5, 16)
        value, slope = energy(potential.init(jax.random.key(0)), pack, graph)
        same = energy((), pack, graph)[0]
    x = 2.9 / r
    np.testing.assert_allclose(same, 2.8 * (x**12 - x**6), rtol=1e-10)
    np.testing.assert_allclose(value, same, rtol=1e-12)
    np.testing.assert_allclose(slope["epsilon_ev"], float(value) / 0.7, rtol=1e-10)
    np.testing.assert_allclose(slope["sigma_angstrom"], 2.8 / 2.9 * (12 * x**12 - 6 * x**6), rtol=1e-10)


def test_morse_agrees_with_ase_and_its_own_minimum(toys):
    """A drop of two elements, ASE's function for the only listed pair alike; ASE fades from 1.9 lengths on."""
    depth, slope, length = 0.8, 1.7, 2.1
    rng = np.random.default_rng(2)
    octahedron = (np.concatenate([np.eye(3), -np.eye(3)]) + rng.uniform(-0.1, 0.1, (6, 3))) * 1.5
    calculator = MorsePotential(epsilon=depth, r0=length, rho0=slope * length)
    atoms = ase.Atoms("Cu6", octahedron + 6, cell=14 * np.eye(3), pbc=True, calculator=calculator)
    assert atoms.get_all_distances().max() < 1.9 * length
    potential = mlip(network="morse", numbers=(29, 47), pairs=((29, 29, depth, slope, length),))
    evaluate = jax.jit(potential.energy_forces_stress, compiler_options=toys.fast)

    def said(z: list[int], positions: np.ndarray) -> tuple:
        crystal = Crystal(np.asarray(one_hot(np.array(z)), float), positions / 14, 14 * np.eye(3))
        pack = toys.make_pack([crystal], Capacity(6, 15, 1), float)
        with jax.enable_x64(True):
            params = potential.init(jax.random.key(0))
            return evaluate(params, pack, toys.make_graph(pack, 8.0, 64))

    energy, forces, _ = said([29] * 6, atoms.positions)
    np.testing.assert_allclose(energy[0], atoms.get_potential_energy(), rtol=1e-10)
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=1e-8, atol=1e-10)
    two = np.array([[1.0, 1, 1], [1, 1, 1 + length]])
    energy, forces, _ = said([29, 29], two)
    np.testing.assert_allclose(energy[0], -depth, rtol=1e-12)
    np.testing.assert_allclose(forces, 0, atol=1e-12)
    assert not said([29, 47], two)[0].any()  # a pair that is not listed
