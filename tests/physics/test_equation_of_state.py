"""Curves that are known, and ASE's fits of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import GPA_PER_EV_A3
from crysjax.physics.elasticity.equation_of_state import birch_murnaghan, vinet, vinet_energy

V0, E0, BULK, SLOPE = 40.9, -10.8, 0.61, 4.3  # eV and Å³: about two atoms of silicon
VOLUMES = V0 * np.linspace(0.93, 1.09, 9)


def birch(volume):
    """Birch's own form of the curve."""
    x = (V0 / volume) ** (2 / 3)
    return E0 + 9 * V0 * BULK / 16 * ((x - 1) ** 3 * SLOPE + (x - 1) ** 2 * (6 - 4 * x))


def jitted(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


CURVES = {"birch": (birch_murnaghan, birch, "birchmurnaghan"),
          "vinet": (vinet, lambda v: vinet_energy(v, V0, E0, BULK, SLOPE), "vinet")}  # fmt: skip


@pytest.mark.parametrize("name", CURVES)
def test_the_curve_comes_back(name):
    fit, curve, _ = CURVES[name]
    with jax.enable_x64(True):
        found = jitted(fit)(jnp.asarray(VOLUMES), jnp.asarray(curve(VOLUMES)))
    np.testing.assert_allclose(found[:4], [V0, E0, BULK * GPA_PER_EV_A3, SLOPE], rtol=1e-8)
    assert float(found.residual_ev) < 1e-10 and found.valid


@pytest.mark.parametrize("name", CURVES)
def test_single_precision_is_enough(name):
    """Energies to 1e-6 eV of 0.04 eV: four digits of the curvature, two of the third derivative."""
    fit, curve, _ = CURVES[name]
    found = jitted(fit)(jnp.asarray(VOLUMES, jnp.float32), jnp.asarray(curve(VOLUMES), jnp.float32))
    np.testing.assert_allclose(found[:3], [V0, E0, BULK * GPA_PER_EV_A3], rtol=1e-3)
    np.testing.assert_allclose(found.slope, SLOPE, rtol=0.05)


@pytest.mark.parametrize("name", CURVES)
def test_it_is_ases_fit(name):
    """Of energies that no curve fits: noise of 1 meV. ASE minimizes by the simplex of scipy, to about 1e-5."""
    from ase.eos import EquationOfState

    fit, curve, theirs = CURVES[name]
    with jax.enable_x64(True):
        energies = np.array(curve(VOLUMES)) + 1e-3 * np.random.default_rng(0).normal(size=len(VOLUMES))
        known = EquationOfState(VOLUMES, energies, eos=theirs)
        v0, e0, bulk = known.fit(warn=False)
        found = jitted(fit)(jnp.asarray(VOLUMES), jnp.asarray(energies))
    np.testing.assert_allclose(found[:3], [v0, e0, bulk * GPA_PER_EV_A3], rtol=1e-4)
    np.testing.assert_allclose(found.slope, known.eos_parameters[2], rtol=1e-3)


def test_real_energies_of_ase():
    """Copper by effective medium theory, through the whole of ASE."""
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.eos import EquationOfState

    def energy(scale):
        atoms = bulk("Cu", a=3.6 * scale)
        atoms.calc = EMT()
        return atoms.get_volume(), atoms.get_potential_energy()

    volumes, energies = np.array([energy(s) for s in np.linspace(0.98, 1.02, 9)]).T
    known = EquationOfState(volumes, energies, eos="birchmurnaghan").fit(warn=False)
    with jax.enable_x64(True):
        found = jitted(birch_murnaghan)(jnp.asarray(volumes), jnp.asarray(energies))
    np.testing.assert_allclose(found[:3], np.array(known) * [1, 1, GPA_PER_EV_A3], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CURVES)
def test_it_has_derivatives(name):
    """By the energies; a common shift moves nothing, a common factor scales the bulk modulus alone."""
    fit, curve, _ = CURVES[name]
    with jax.enable_x64(True):
        volumes, energies = jnp.asarray(VOLUMES), jnp.asarray(curve(VOLUMES))
        slope = jitted(jax.jacrev(lambda e: jnp.stack(fit(volumes, e)[:4])))(energies)
    slope, energies = np.asarray(slope), np.asarray(energies)
    np.testing.assert_allclose(slope.sum(-1), [0, 1, 0, 0], atol=1e-7)
    np.testing.assert_allclose(slope @ energies, [0, E0, BULK * GPA_PER_EV_A3, 0], atol=1e-6)


@pytest.mark.parametrize("name", CURVES)
def test_what_is_no_minimum_is_told(name):
    fit = CURVES[name][0]
    fitted = jitted(fit)
    v = jnp.asarray(VOLUMES, jnp.float32)
    for energies in (v, -((v - 40) ** 2), jnp.where(v > 41, jnp.nan, v), jnp.zeros_like(v)):
        found = fitted(v, energies)
        assert not found.valid and all(np.isfinite(leaf) for leaf in found)
    with pytest.raises(ValueError, match="expected 4 or more"):
        fit(v[:3], v[:3])
