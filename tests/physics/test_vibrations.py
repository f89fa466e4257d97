"""Vibrations of lattices of springs whose frequencies are known, and of argon beside phonopy."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.geometry.neighbors import crystal_edges
from crysjax.geometry.supercells import Images, SiteMaps, Supercell, nearest_images, partners, site_maps, supercell
from crysjax.physics.phonons import vibrations
from crysjax.physics.phonons.vibrations import THZ

FCC = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
FAST = {"xla_backend_optimization_level": 0}
EXACT = 1e-6  # THz: frequencies are square roots, so that rounding of 1e-15 in their squares is 3e-8 near 0


class Lattice(NamedTuple):
    """A crystal and one of its supercells, with what is needed for its frequencies."""

    frac: np.ndarray
    lattice: np.ndarray
    numbers: np.ndarray
    masses: np.ndarray
    cell: Supercell
    images: Images
    maps: SiteMaps


def lattice_of(frac, lattice, numbers, repeats, operations=None, masses=None) -> Lattice:
    frac, lattice, numbers = np.array(frac, float), np.array(lattice, float), np.array(numbers)
    if operations is None:
        operations = np.eye(3, dtype=int)[None], np.zeros((1, 3))
    cell = supercell(frac, lattice, repeats)
    maps = site_maps(frac, lattice, numbers, *operations, repeats)
    return Lattice(
        frac, lattice, numbers, numbers.astype(float) if masses is None else masses, cell, nearest_images(cell), maps
    )


def spglib_operations(frac, lattice, numbers) -> tuple[np.ndarray, np.ndarray]:
    import spglib

    found = spglib.get_symmetry((np.array(lattice), np.array(frac), np.array(numbers)), symprec=1e-5)
    return found["rotations"], found["translations"]


def springs(cell: Supercell, reach: float, strength: Callable[[np.ndarray], np.ndarray] = np.ones_like) -> Callable:
    """Energy of springs at their natural length between all atoms nearer than `reach`, of `strength(length)` eV/Å²."""
    pair, shift = crystal_edges(cell.frac, cell.lattice, reach)
    rest = (cell.frac[pair[:, 1]] - cell.frac[pair[:, 0]] + shift) @ cell.lattice
    length = np.linalg.norm(rest, axis=-1)
    stiff = strength(length)

    def energy(d):
        bond = jnp.asarray(rest, d.dtype) + d[pair[:, 1]] - d[pair[:, 0]]
        stretch = jnp.sqrt((bond**2).sum(-1)) - jnp.asarray(length, d.dtype)
        return (jnp.asarray(stiff, d.dtype) * stretch**2).sum() / 2

    return energy


def constants_of(one: Lattice, energy: Callable) -> np.ndarray:
    """Force constants in double precision."""
    with jax.enable_x64(True):
        run = lambda: vibrations.force_constants(energy, one.cell, one.maps, dtype=jnp.float64)  # noqa: E731
        return np.asarray(jax.jit(run, compiler_options=FAST)())


def solved(one: Lattice, energy: Callable, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Force constants and frequencies at wave vectors, in double precision."""
    with jax.enable_x64(True):
        run = jax.jit(
            lambda q: (
                c := vibrations.force_constants(energy, one.cell, one.maps, dtype=jnp.float64),
                vibrations.frequencies(c, jnp.asarray(one.masses), q, one.cell, one.images),
            ),
            compiler_options=FAST,
        )
        return tuple(np.asarray(x) for x in run(jnp.asarray(q, jnp.float64)))


TRICLINIC = (
    np.array([[0.1, 0.05, 0], [0.55, 0.4, 0.3], [0.25, 0.8, 0.7]]),
    np.array([[4, 0, 0], [0.7, 4.3, 0], [-0.5, 0.6, 3.8]]),
)
SOFTER = lambda length: np.exp(-length)  # noqa: E731


@pytest.fixture(scope="module")
def odd() -> tuple[Lattice, np.ndarray]:
    """Three atoms without symmetry, and their force constants."""
    one = lattice_of(*TRICLINIC, [6, 8, 14], (2, 2, 2))
    return one, solved(one, springs(one.cell, 3.9, SOFTER), np.zeros((1, 3)))[0]


@pytest.mark.parametrize("repeats", [(2, 2, 2), (4, 3, 2)])
def test_face_centered_cubic_springs(repeats):
    """ω² m/k is 8, 4, 4 at X and 8, 2, 2 at L (Ashcroft, Mermin, Solid State Physics, problem 22.5).

    In any supercell, also one so small that a spring leads to an atom's own copy on the other side.
    """
    edge, k, m = 5.0, 0.7, 40.0
    operations = spglib_operations(np.zeros((1, 3)), edge * FCC, [18])
    one = lattice_of(np.zeros((1, 3)), edge * FCC, [18], repeats, operations, np.array([m]))
    assert len(vibrations.plan(one.maps, one.cell).atom) == (1 if repeats == (2, 2, 2) else 3)
    energy = springs(one.cell, 0.8 * edge, lambda length: np.full_like(length, k))
    _, found = solved(one, energy, np.array([[0, 0.5, 0.5], [0.5, 0.5, 0.5], [0.0, 0, 0]]))
    known = np.sqrt(np.array([[4, 4, 8], [2, 2, 8], [0, 0, 0]]) * k / m) * THZ
    np.testing.assert_allclose(found, known, atol=EXACT)


def test_instability_and_its_slope():
    """Springs that push, k < 0: at X the squares are 8, 4, 4 times k/m, so a third of 16 |k|/m; none if they pull."""
    edge, m = 5.0, 40.0
    one = lattice_of(np.zeros((1, 3)), edge * FCC, [18], (2, 2, 2), masses=np.array([m]))
    constants = constants_of(one, springs(one.cell, 0.8 * edge))
    with jax.enable_x64(True):

        def penalty(k):
            x = jnp.array([[0, 0.5, 0.5]])
            found = vibrations.frequencies(k * jnp.asarray(constants), jnp.array([m]), x, one.cell, one.images)
            return vibrations.instability(found, jnp.ones(1))

        run = jax.jit(jax.value_and_grad(penalty), compiler_options=FAST)
        pushed, pulled = (tuple(map(float, run(jnp.float64(k)))) for k in (-0.7, 0.7))
    slope = -16 / 3 / m * THZ**2
    np.testing.assert_allclose(pushed, (-0.7 * slope, slope), rtol=1e-9)
    assert pulled == (0, 0)


def test_a_chain_of_two_kinds():
    """ω² = k (1/m + 1/M) ± k √((1/m + 1/M)² - 4 sin²(qa/2) / mM), and nothing across the chain."""
    k, m, heavy = 1.3, 10.0, 25.0
    one = lattice_of([[0, 0, 0], [0.5, 0, 0]], np.diag([4.0, 9, 9]), [1, 2], (3, 1, 1), masses=np.array([m, heavy]))
    q = np.linspace(0, 0.5, 7)
    energy = springs(one.cell, 2.5, lambda length: np.full_like(length, k))
    _, found = solved(one, energy, np.stack([q, 0 * q, 0 * q], -1))
    total = 1 / m + 1 / heavy
    root = np.sqrt(np.maximum(total**2 - 4 * np.sin(np.pi * q) ** 2 / (m * heavy), 0))
    known = np.sqrt(np.maximum(k * np.stack([total - root, total + root], -1), 0)) * THZ
    np.testing.assert_allclose(found[:, 4:], known, atol=EXACT)
    np.testing.assert_allclose(found[:, :4], 0, atol=EXACT)


def test_sound_has_the_speed_of_the_elastic_constants():
    """Springs in face-centered cubic give C11 = 2k/a and C44 = k/a; v = √(C/ρ), in SI units.

    At q a/2π = 0.01 the dispersion takes (2π 0.01)² / 96 = 4e-5 off.
    """
    edge, k, m, step = 5.0, 0.7, 40.0, 0.01
    one = lattice_of(np.zeros((1, 3)), edge * FCC, [18], (2, 2, 2), masses=np.array([m]))
    energy = springs(one.cell, 0.8 * edge, lambda length: np.full_like(length, k))
    _, found = solved(one, energy, step * np.array([[0, 0.5, 0.5]]))
    speed = found[0] * 1e12 / (step / (edge * 1e-10))
    pascal, density = k * 16.02176634 / (edge * 1e-10), 4 * m * 1.66053906660e-27 / (edge * 1e-10) ** 3
    np.testing.assert_allclose(speed, np.sqrt(pascal * np.array([1, 1, 2]) / density), rtol=1e-4)


def test_the_dynamical_matrix_is_hermitian_and_a_shift_costs_nothing(odd):
    one, constants = odd
    with jax.enable_x64(True):
        at = lambda q: np.asarray(  # noqa: E731
            vibrations.dynamical_matrix(
                jnp.asarray(constants), jnp.asarray(one.masses), jnp.asarray(q), one.cell, one.images
            )
        )
        general, rest = at(np.array([0.13, -0.37, 0.29])), at(np.zeros(3))
    np.testing.assert_array_equal(general, general.conj().T)
    shift = np.kron(np.sqrt(one.masses), np.eye(3))
    np.testing.assert_allclose(rest @ shift.T, 0, atol=1e-14)
    assert np.abs(general @ shift.T).max() > 1e-3


def test_noise_is_made_symmetric_and_what_is_symmetric_stays(odd):
    """Both sum rules and the order of derivatives, whatever came in; a projection, applied twice it does no more."""
    one, constants = odd
    noise = np.random.default_rng(0).normal(size=constants.shape)
    with jax.enable_x64(True):
        clean = jax.jit(lambda c: vibrations.symmetrized(c, one.cell), compiler_options=FAST)
        once, own = (np.asarray(clean(jnp.asarray(c))) for c in (noise, constants))
        twice = np.asarray(clean(jnp.asarray(once)))
    atom, other = partners(one.cell)
    np.testing.assert_allclose(once[atom, other].swapaxes(-1, -2), once, atol=1e-13)
    np.testing.assert_allclose(once.sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(twice, once, atol=1e-13)
    np.testing.assert_allclose(own, constants, atol=1e-13)


def test_symmetry_saves_products_and_changes_nothing():
    """Diamond needs one product, rock salt two, three atoms on crossing mirrors three; without symmetry 3 per atom."""
    cases = [
        ([[0, 0, 0], [0.25] * 3], 3.6 * FCC, [6, 6], 1),
        ([[0, 0, 0], [0.5] * 3], 5.6 * FCC, [11, 17], 2),
        ([[0, 0, 0.1], [0.5, 0.5, 0.4], [0.5, 0, 0.62]], np.diag([3.0, 3.2, 3.7]), [5, 7, 9], 3),
    ]
    for frac, lattice, numbers, products in cases:
        few = lattice_of(frac, lattice, numbers, (2, 2, 2), spglib_operations(frac, lattice, numbers))
        every = few._replace(maps=lattice_of(frac, lattice, numbers, (2, 2, 2)).maps)
        energy = springs(few.cell, 3.5, SOFTER)
        assert len(vibrations.plan(few.maps, few.cell).atom) == products
        assert len(vibrations.plan(every.maps, few.cell).atom) == 3 * len(numbers)
        np.testing.assert_allclose(constants_of(few, energy), constants_of(every, energy), atol=1e-12)


def test_neither_rotation_nor_the_choice_of_cell_matters(odd):
    """q goes with the cell: phases q · r are what they were."""
    one, _ = odd
    q = np.array([[0.13, -0.37, 0.29], [0.5, 0.5, 0]])
    angle = 0.7
    turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    turn = turn @ turn[[2, 0, 1]][:, [2, 0, 1]]
    change = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]])
    other = lattice_of(one.frac @ np.linalg.inv(change) + 0.3, change @ one.lattice @ turn, one.numbers, (2, 2, 2))
    here, there = (solved(x, springs(x.cell, 3.9, SOFTER), k)[1] for x, k in ((one, q), (other, q @ change.T)))
    np.testing.assert_allclose(here, there, atol=EXACT)


def test_a_displaced_mode_has_the_energy_of_its_frequency(odd):
    """E = Σ m ω² u² / 2 at a wave vector that fits, for every mode: checks patterns, phases and units together."""
    one, constants = odd
    q, tiny, energy = np.array([0.5, 0, 0.5]), 1e-3, springs(one.cell, 3.9, SOFTER)
    with jax.enable_x64(True):
        heavy, wave = jnp.asarray(one.masses), jnp.asarray(q)
        matrix = vibrations.dynamical_matrix(jnp.asarray(constants), heavy, wave, one.cell, one.images)
        thz, vectors = vibrations.modes(matrix)
        run = jax.jit(
            lambda v: (u := tiny * vibrations.displacement(v, heavy, wave, one.cell), energy(u) + energy(-u)),
            compiler_options=FAST,
        )
        for k in range(9):
            u, found = run(vectors[:, k])
            known = (one.masses[one.cell.atom][:, None] * np.asarray(u) ** 2).sum() * (float(thz[k]) / THZ) ** 2
            np.testing.assert_allclose(found, known, rtol=1e-4)  # cubic terms cancel, quartic ones are (u/length)²
            assert np.linalg.norm(u, axis=-1).max() == pytest.approx(tiny)
            turned = np.asarray(run(vectors[:, k] * jnp.exp(jnp.complex128(1.3j)))[0])
            assert min(np.abs(turned - u).max(), np.abs(turned + u).max()) < 1e-9 * tiny  # whatever phase eigh gave it


def test_the_mesh_stands_for_the_whole_zone(odd):
    """One of q and -q with twice the weight: moments of the frequencies are those of all points."""
    one, constants = odd
    q, weight = vibrations.mesh(one.lattice, 0.09)
    size = np.ceil(np.linalg.norm(np.linalg.inv(one.lattice), axis=0) / 0.09).astype(int)
    every = np.array(list(itertools.product(*map(range, size)))) / size
    assert len(q) < len(every) and weight.sum() == pytest.approx(1)
    with jax.enable_x64(True):
        at = jax.jit(
            lambda q: vibrations.frequencies(jnp.asarray(constants), jnp.asarray(one.masses), q, one.cell, one.images),
            compiler_options=FAST,
        )
        few, many = (np.asarray(at(jnp.asarray(k))) for k in (q, every))
    np.testing.assert_allclose((weight[:, None] * few**3).sum(), (many**3).mean(0).sum(), rtol=1e-10)
    with pytest.raises(ValueError, match="spacing_per_angstrom"):
        vibrations.mesh(one.lattice, 0.0)
    with pytest.raises(ValueError, match="wave vectors; expected 1,000,000 at most"):
        vibrations.mesh(one.lattice, 0.001)


def lennard_jones(cell: Supercell, reach: float, edge):
    """Energy of a supercell of argon, cut at `reach`, as a function of displacements, at any cube edge."""
    pair, shift = crystal_edges(cell.frac, cell.lattice, reach)
    delta = cell.frac[pair[:, 1]] - cell.frac[pair[:, 0]] + shift
    unit = delta @ cell.lattice / EDGE

    def energy(d):
        r2 = ((jnp.asarray(unit, d.dtype) * edge + d[pair[:, 1]] - d[pair[:, 0]]) ** 2).sum(-1)
        sixth = (3.4**2 / r2) ** 3
        return 4 * 0.0104 * (sixth**2 - sixth).sum()

    return energy


EDGE = 5.3


@pytest.fixture(scope="module")
def argon() -> Lattice:
    operations = spglib_operations(np.zeros((1, 3)), EDGE * FCC, [18])
    return lattice_of(np.zeros((1, 3)), EDGE * FCC, [18], (3, 3, 3), operations, np.array([39.948]))


def test_frequencies_are_differentiable_in_the_lattice(argon):
    """Against central differences of step h in double precision; degenerate modes by their sum.

    The truncation is h²/6 of the third derivative, some (12/a)² h² / 6 = 1e-7 of the first.
    """
    q = np.array([[0.5, 0.5, 0.5], [0.1, 0.2, 0.35]])

    def total(edge):
        energy = lennard_jones(argon.cell, 6.0, edge)
        constants = vibrations.force_constants(energy, argon.cell, argon.maps, dtype=jnp.float64)
        found = vibrations.frequencies(constants, jnp.asarray(argon.masses), jnp.asarray(q), argon.cell, argon.images)
        return (found * jnp.asarray([1.0, 1.0, 3.0])[None]).sum()

    with jax.enable_x64(True):
        value_and_slope = jax.jit(jax.value_and_grad(total), compiler_options=FAST)
        step, slope = 3e-4, value_and_slope(jnp.float64(EDGE))[1]
        high, low = (value_and_slope(jnp.float64(EDGE + s))[0] for s in (step, -step))
    assert slope < -1  # a stretched crystal is softer
    np.testing.assert_allclose(slope, (high - low) / (2 * step), rtol=1e-6)


def test_phonopy_says_the_same(argon):
    """Its displacements u, both ways, leave u²/6 of the fourth derivative, of r^-12 15 · 14 / r² force constants.

    A frequency has half of that relative error, 15 · 14 / 12 (u/r)²: 1e-4, and a hundredth of it with u = 0.001 Å.
    """
    phonopy = pytest.importorskip("phonopy", reason="phonopy is not installed")
    from phonopy.structure.atoms import PhonopyAtoms

    q = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.25, 0.1, 0.4], [1 / 3, 1 / 3, 1 / 3]])
    energy = lennard_jones(argon.cell, 6.0, EDGE)
    _, own = solved(argon, energy, q)
    cell = PhonopyAtoms(symbols=["Ar"], cell=argon.lattice, scaled_positions=argon.frac, masses=argon.masses)
    theirs = phonopy.Phonopy(cell, np.diag(argon.cell.repeats), primitive_matrix=np.eye(3))
    places = np.round(theirs.supercell.scaled_positions * 3).astype(int) % 3
    order = places @ np.array([9, 3, 1])  # where phonopy's atoms are in our list
    for distance in (0.01, 0.001):
        theirs.generate_displacements(distance=distance, is_plusminus=True)
        forces = []
        with jax.enable_x64(True):
            force = jax.jit(lambda d: -jax.grad(energy)(d), compiler_options=FAST)
            for moved in theirs.supercells_with_displacements:
                d = np.zeros((27, 3))
                d[order] = moved.positions - theirs.supercell.positions
                forces.append(np.asarray(force(jnp.asarray(d)))[order])
        theirs.forces = np.array(forces)
        theirs.produce_force_constants()
        found = theirs.run_qpoints(q).frequencies
        np.testing.assert_allclose(own, found, atol=own.max() * 15 * 14 / 12 * (distance / 3.75) ** 2)
