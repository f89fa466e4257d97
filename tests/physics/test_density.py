"""Densities against pymatgen's, and what is tabulated of each element."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import NUM_SPECIES, Crystal, one_hot
from crysjax.chemistry import element_properties as tables
from crysjax.physics import density

jitted = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def crystal_of(numbers, lattice, frac=None) -> Crystal:
    frac = np.zeros((len(numbers), 3)) if frac is None else frac
    return Crystal(one_hot(jnp.asarray(numbers)), jnp.asarray(frac, jnp.float32), jnp.asarray(lattice, jnp.float32))


def test_density_is_pymatgens():
    """Random skewed cells; float32 rounds mass, volume and ratio, each by parts in 1e7 of the larger terms."""
    from pymatgen.core import Structure

    head = jitted(density.density_g_cm3(tables.masses_amu()))
    rng = np.random.default_rng(0)
    for _ in range(10):
        numbers, lattice = rng.integers(1, 95, 5), 5 * np.eye(3) + rng.normal(size=(3, 3))
        frac = rng.random((5, 3))
        found = head(crystal_of(np.append(numbers, 0), lattice, np.append(frac, np.zeros((1, 3)), 0)))
        assert found.valid and found.std == 0
        expected = float(Structure(lattice, numbers, frac).density)
        assert float(found.value) == pytest.approx(expected, rel=1e-5)


def test_partial_occupancy_counts_by_its_share():
    """Pymatgen's density and volume of a disordered site, a vacancy in it."""
    from pymatgen.core import Structure

    structure = Structure(4 * np.eye(3), [{"Fe": 0.5, "Ni": 0.25}, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    rows = np.zeros((2, NUM_SPECIES))
    rows[0, [25, 27]], rows[1, 7] = [0.5, 0.25], 1
    crystal = crystal_of([0, 0], 4 * np.eye(3))._replace(occupancy=jnp.asarray(rows, jnp.float32))
    found = jitted(density.density_g_cm3(tables.masses_amu()))(crystal)
    assert float(found.value) == pytest.approx(float(structure.density), rel=1e-6)
    volume = jitted(density.volume_per_atom_angstrom3)(crystal)
    assert float(volume.value) == pytest.approx(64 / 1.75, rel=1e-6)


def test_packing_of_touching_spheres():
    """Close-packed copper: pi / (3 sqrt 2) where spheres touch, and twice as much volume per atom in half the cell."""
    edge = 2 * np.sqrt(2) * tables.covalent_radii_angstrom()[28]
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    head = jitted(density.packing_fraction(tables.covalent_radii_angstrom()))
    found = head(crystal_of([29] * 4, edge * np.eye(3), sites))
    assert float(found.value) == pytest.approx(np.pi / (3 * np.sqrt(2)), rel=1e-6)
    flat = head(crystal_of([29] * 4, edge * np.diag([1, 1, 0.5]), sites))
    assert float(flat.value) == pytest.approx(2 * np.pi / (3 * np.sqrt(2)), rel=1e-6)  # overlaps count twice


def test_elements_without_a_number_are_not_valid():
    head = jitted(density.packing_fraction(tables.covalent_radii_angstrom()))
    assert head(crystal_of([96], 5 * np.eye(3))).valid and not head(crystal_of([97], 5 * np.eye(3))).valid
    with pytest.raises(ValueError, match=r"radii_angstrom: shape \(3,\); expected \(100,\)"):
        density.packing_fraction(np.ones(3))
    with pytest.raises(ValueError, match="masses_amu"):
        density.density_g_cm3(np.full(NUM_SPECIES, np.nan))


def test_tables_of_the_elements():
    """Known entries: hydrogen, iron, chlorine; which elements have none."""
    assert tables.masses_amu()[[0, 25]] == pytest.approx([1.008, 55.845], rel=1e-4)
    assert tables.covalent_radii_angstrom()[25] == 1.32 and np.isnan(tables.covalent_radii_angstrom()[96:]).all()
    assert tables.electronegativities()[16] == pytest.approx(3.16) and np.isnan(tables.electronegativities()[1])
    assert tables.ionic_radii_angstrom()[10] == pytest.approx(1.16) and np.isnan(tables.ionic_radii_angstrom()[1])
