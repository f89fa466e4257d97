"""Every traced oracle in one table: broken crystals stay in their row, gradients are those of finite differences.

A new oracle is a line in `ORACLES` (and its crystals, where these will not do).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from crysjax.base import NUM_SPECIES, UNKNOWN, Crystal, Estimate, Oracle
from crysjax.chemistry import element_properties as tables
from crysjax.chemistry.scattering import scattering
from crysjax.geometry import lattice as lattices
from crysjax.oracles import by_potential
from crysjax.oracles.traced import traced
from crysjax.physics import density
from crysjax.physics.diffraction import pattern
from crysjax.physics.hull import traced as hull
from crysjax.physics.pair_distribution import pair_distribution
from crysjax.potentials.mlip import mlip

ELEMENTS = (8, 11, 17, 26)  # O, Na, Cl, Fe


def drawn(rng: np.random.Generator) -> Crystal:
    """Three sites, each mostly of one element, and an empty slot, in a skewed cell; float64 arrays of the host.

    Mixed, so that nothing is at an edge, neither of what an occupancy may be nor of a hull.
    """
    occupancy, columns = np.zeros((4, NUM_SPECIES)), np.array(ELEMENTS) - 1
    occupancy[:3, columns] = 0.3 * rng.dirichlet(np.ones(4), 3)
    occupancy[np.arange(3), rng.permutation(columns)[:3]] += 0.7
    return Crystal(occupancy, rng.random((4, 3)), 4 * np.eye(3) + 0.3 * rng.normal(size=(3, 3)))


class Row(NamedTuple):
    """An oracle under test. `fn` is made under the test's own precision."""

    fn: Callable[[], Callable[[Crystal], Estimate]]
    crystal: Callable[[np.random.Generator], Crystal] = drawn
    moves: tuple[str, ...] = ("occupancy", "lattice")  # fields that the value depends on; of the others it may not
    step: float = 1e-5  # of the finite difference, in the units of each field
    tolerance: float = 1e-8  # of the directional derivative, relative to its size plus 1
    any_element: bool = False  # whether sites of any element are answered


def above_hull() -> Callable[[Crystal], Estimate]:
    """A made energy over a made hull of seven elements, so that entries are looked up by their hash."""
    rng, entries = np.random.default_rng(0), np.zeros((60, NUM_SPECIES))
    for row in entries:
        row[rng.permutation([7, 10, 16, 25, 2, 33, 14])[: rng.integers(2, 4)]] += rng.integers(1, 4)
    table = hull.table(entries, -rng.random(60), max_elements=4)

    def energy(crystal: Crystal) -> Estimate:
        value = jnp.log(lattices.volume(crystal.lattice)) * jnp.square(crystal.occupancy.sum(0)).sum()
        return Estimate(value, jnp.zeros_like(value), value > -10)

    return hull.above_hull(energy, table)


def spaced(rng: np.random.Generator) -> Crystal:
    """The elements of `drawn` on three corners of a face-centered cube, shaken and strained: nothing touches."""
    mixed, corners = drawn(rng), np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.3, 0.3, 0.3]])
    cell = 4.4 * (np.eye(3) + rng.uniform(-0.02, 0.02, (3, 3)))
    return mixed._replace(frac=corners + rng.uniform(-0.02, 0.02, (4, 3)), lattice=cell)


def by_morse(of: Callable) -> Callable[[Crystal], Estimate]:
    """A pair potential between all of the elements, of about equal length, so that every mixture is a solid."""
    pairs = [(a, b, 0.3 + 0.01 * a, 1.4, 2.9) for i, a in enumerate(ELEMENTS) for b in ELEMENTS[i:]]
    potential = mlip(network="morse", numbers=ELEMENTS, pairs=tuple(pairs), cutoff_angstrom=6.0)
    return of(potential, potential.init(jax.random.key(0)), max_edges=1024, max_images=3)


def weighed(fn: Callable[[Crystal], Estimate], size: int) -> Callable[[Crystal], Estimate]:
    """One number of an oracle that answers many: all of them, randomly weighted."""
    weights = np.random.default_rng(3).normal(size=size)

    def one(crystal: Crystal) -> Estimate:
        said = fn(crystal)
        value = (jnp.asarray(weights, said.value.dtype) * said.value).sum()
        return Estimate(value, jnp.zeros_like(value), said.valid)

    return one


def powder() -> Callable[[Crystal], Estimate]:
    grid, wide = np.linspace(10, 60, 50), pattern.Shape(w=1.0)  # degrees, far from where reflections end
    table, limits = scattering("CuKa"), pattern.indices((5, 5, 5))

    def one(crystal: Crystal) -> Estimate:
        points = jnp.asarray(grid, crystal.frac.dtype)
        said = pattern.pattern(crystal, table, limits, points, wide)
        return said._replace(value=said.value / 1e4)  # counts are large

    return weighed(one, 50)


def pairs() -> Callable[[Crystal], Estimate]:
    r = np.linspace(2, 5, 40)
    return weighed(lambda crystal: pair_distribution(crystal, r, max_edges=512, max_images=(2, 2, 2)), 40)


ALL = ("occupancy", "frac", "lattice")
ORACLES = {
    "density_g_cm3": Row(lambda: density.density_g_cm3(tables.masses_amu())),
    "volume_per_atom_angstrom3": Row(lambda: density.volume_per_atom_angstrom3, any_element=True),
    "packing_fraction": Row(lambda: density.packing_fraction(tables.covalent_radii_angstrom())),
    "energy_above_hull_ev_per_atom": Row(above_hull, tolerance=1e-6),  # 1e-11 of the hull over the step
    "energy_ev_per_atom": Row(lambda: by_morse(by_potential.energy_ev_per_atom), spaced, ALL, tolerance=1e-6),
    "pressure_gpa": Row(lambda: by_morse(by_potential.pressure_gpa), spaced, ALL, tolerance=1e-5),
    "bulk_modulus_gpa": Row(lambda: by_morse(by_potential.bulk_modulus_gpa), spaced, ALL, 1e-6, 1e-5),
    "powder_pattern": Row(powder, spaced, ALL, 1e-6, 1e-5),
    "pair_distribution": Row(pairs, spaced, ALL, tolerance=1e-5, any_element=True),
}


def oracle_of(name: str) -> Oracle:
    return traced(ORACLES[name].fn(), name=name, unit="", cost=1e-5)


def asked(oracle: Oracle) -> Callable[[Crystal], tuple[Estimate, Crystal]]:
    """Answers to a stacked crystal and the gradients of its values, in one compilation."""

    def total(crystals: Crystal) -> tuple[Array, Estimate]:
        said = oracle.batch(crystals)
        return said.value.sum(), said

    both = jax.jit(jax.grad(total, has_aux=True), compiler_options={"xla_backend_optimization_level": 0})
    return lambda crystals: both(crystals)[::-1]


def stacked(crystals: list[Crystal], dtype: type) -> Crystal:
    return Crystal(*(jnp.asarray(np.stack(leaves), dtype) for leaves in zip(*crystals)))


def broken(crystal: Crystal, kind: int) -> Crystal:
    """Not finite positions, a flat cell, no atoms, sites of any element."""
    occupancy, frac, lattice = (np.array(leaf) for leaf in crystal)
    if kind == 0:
        frac[1] = np.nan
    elif kind == 1:
        lattice[2] = lattice[1]
    elif kind == 2:
        occupancy[:] = 0
    else:
        occupancy[:3] = UNKNOWN
    return Crystal(occupancy, frac, lattice)


@pytest.mark.parametrize("name", ORACLES)
def test_broken_crystals_stay_in_their_row(name):
    """A batch of 64 with 16 broken crystals: the other 48 have the bits that they have in a batch without."""
    rng, ask = np.random.default_rng(1), asked(oracle_of(name))
    crystals = [ORACLES[name].crystal(rng) for _ in range(64)]
    places = rng.permutation(64)[:16]
    mixed = list(crystals)
    for i, place in enumerate(places):
        mixed[place] = broken(mixed[place], i % 4)
    (clean, _), (found, slope) = (ask(stacked(part, np.float32)) for part in (crystals, mixed))
    rest = np.delete(np.arange(64), places)
    assert clean.valid.all()
    for before, after in zip(clean, found):
        np.testing.assert_array_equal(np.asarray(before)[rest], np.asarray(after)[rest])
        assert np.isfinite(np.asarray(after)).all()
    lost = places[[i % 4 < 3 or not ORACLES[name].any_element for i in range(16)]]
    assert not np.asarray(found.valid)[lost].any() and (np.asarray(found.value)[lost] == 0).all()
    for leaf in map(np.asarray, slope):
        assert np.isfinite(leaf).all() and (leaf[lost] == 0).all()


@pytest.mark.parametrize("name", ORACLES)
def test_gradients_are_those_of_finite_differences(name):
    """Directional derivatives in float64, by the field; those of fields that do not move it are zero exactly."""
    row = ORACLES[name]
    with jax.enable_x64(True):
        rng, ask = np.random.default_rng(2), asked(oracle_of(name))
        crystals = stacked([row.crystal(rng) for _ in range(8)], np.float64)
        slope = ask(crystals)[1]
        for field in Crystal._fields:
            here = getattr(crystals, field)
            along = jnp.asarray(rng.normal(size=here.shape))
            along = jnp.where(here > 0, along, 0) if field == "occupancy" else along
            moved = [ask(crystals._replace(**{field: here + s * row.step * along}))[0] for s in (1, -1)]
            assert moved[0].valid.all() and moved[1].valid.all()
            expected = np.asarray(moved[0].value - moved[1].value) / (2 * row.step)
            found = np.asarray((getattr(slope, field) * along).sum((1, 2)))
            np.testing.assert_allclose(found, expected, rtol=row.tolerance, atol=row.tolerance)
            assert (np.abs(expected).max() > 1e-3) == (field in row.moves)


@pytest.mark.parametrize("size", [0.8, 1.1])
def test_pressure_is_minus_the_slope_of_the_energy_by_the_volume(size):
    """P = -dE/dV, all edges growing alike: a compressed crystal pushes, an expanded one pulls."""
    with jax.enable_x64(True):
        energy = jax.jit(by_morse(by_potential.energy_ev_per_atom))
        pressure = jax.jit(by_morse(by_potential.pressure_gpa))
        crystal = jax.tree.map(jnp.asarray, spaced(np.random.default_rng(4)))
        crystal = crystal._replace(lattice=size * crystal.lattice)
        ends = [crystal._replace(lattice=(1 + s * 1e-4) * crystal.lattice) for s in (1, -1)]
        energies = [3 * float(energy(end).value) for end in ends]  # of three atoms
        volumes = [float(abs(np.linalg.det(end.lattice))) for end in ends]
        found = float(pressure(crystal).value)
    slope = (energies[0] - energies[1]) / (volumes[0] - volumes[1])  # off by the cubic term: 1e-8 times some tens
    assert found == pytest.approx(-slope * 160.21766208, rel=1e-5) and (found > 0) == (size < 1)  # GPa an eV/Å³


def test_what_is_not_finite_is_not_valid():
    def fn(crystal: Crystal) -> Estimate:
        size = jnp.log(crystal.lattice[0, 0] - 4)
        return Estimate(jnp.stack([size, size]), jnp.zeros(2), jnp.bool_(True))

    cells = np.stack([5 * np.eye(3), 3 * np.eye(3)])
    crystals = Crystal(np.ones((2, 1, NUM_SPECIES)) * np.eye(NUM_SPECIES)[0], np.zeros((2, 1, 3)), cells)
    found = traced(fn, name="size", unit="", cost=1).batch(Crystal(*(jnp.asarray(a, jnp.float32) for a in crystals)))
    assert found.valid.tolist() == [True, False] and found.value.tolist() == [[0, 0], [0, 0]]


def test_mistakes_are_errors():
    with pytest.raises(ValueError, match="cost 0; expected a name and seconds above 0"):
        traced(density.volume_per_atom_angstrom3, name="volume", unit="", cost=0)
    oracle = traced(density.volume_per_atom_angstrom3, name="volume", unit="", cost=1)
    with pytest.raises(ValueError, match=r"volume: lattice of shape \(3, 3\); expected stacked"):
        oracle.batch(Crystal(*(jnp.asarray(leaf) for leaf in drawn(np.random.default_rng(0)))))
