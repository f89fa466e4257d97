"""Harmonic thermodynamics: a single oscillator, its limits, and the identities of thermodynamics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.physics.phonons import thermodynamics as module
from crysjax.physics.phonons.thermodynamics import (
    EV_PER_KELVIN,
    KELVIN_PER_THZ,
    Dos,
    dos,
    even_grid,
    last_peak,
    thermal,
)

H_EV_PER_THZ = 4.135667696e-3  # Planck's constant, CODATA 2018
MODES = np.array([[0.0, 0.0, 0.0, 5.0, 5.0, 7.0], [1.0, 2.0, 2.5, 4.0, 5.5, 6.0]])
WEIGHT = np.array([0.25, 0.75])


def double(function, *given):
    """A function in double precision, compiled lightly; NumPy comes back."""
    with jax.enable_x64(True):
        run = jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})
        return jax.tree.map(np.asarray, run(*(jnp.asarray(x, jnp.float64) for x in given)))


def test_one_einstein_oscillator():
    """By the sum over its levels hν(n + 1/2), cut off where exp(-x n) is below rounding."""
    nu, t = 3.0, np.array([20.0, 150.0, 900.0])
    found = double(thermal, [[nu]], [1], t)
    level = H_EV_PER_THZ * nu * (np.arange(3000) + 0.5)
    boltzmann = np.exp(-(level - level[0])[None] / (EV_PER_KELVIN * t[:, None]))
    z = boltzmann.sum(-1)
    mean, square = ((boltzmann * level**p).sum(-1) / z for p in (1, 2))
    free = level[0] - EV_PER_KELVIN * t * np.log(z)
    np.testing.assert_allclose(found.free_energy, free, rtol=1e-7)  # constants are given to nine digits
    np.testing.assert_allclose(found.entropy, (mean - free) / t, rtol=1e-6)
    np.testing.assert_allclose(found.heat_capacity, (square - mean**2) / (EV_PER_KELVIN * t**2), rtol=1e-6)
    np.testing.assert_allclose(KELVIN_PER_THZ * EV_PER_KELVIN, H_EV_PER_THZ, rtol=1e-8)


def test_dulong_petit_and_the_cold():
    """C -> k a mode with an error of x²/12; at 0.5 K nothing is left but the zero point energy."""
    hot, cold = 1e5, 0.5
    found = double(thermal, MODES, WEIGHT, [cold, hot])
    counted = 6 - 3 * 0.25  # the three modes at rest are left out
    x = KELVIN_PER_THZ * 7 / hot
    np.testing.assert_allclose(found.heat_capacity[1], counted * EV_PER_KELVIN, rtol=x**2 / 12)
    zero_point = H_EV_PER_THZ / 2 * (MODES.sum(-1) * WEIGHT).sum()
    np.testing.assert_allclose(found.free_energy[0], zero_point, rtol=1e-8)
    assert abs(found.entropy[0]) < 1e-30 and abs(found.heat_capacity[0]) < 1e-30
    np.testing.assert_allclose(found.left_out, 3 * 0.25 / 6, rtol=1e-12)


def test_entropy_and_heat_capacity_are_derivatives():
    """S = -dF/dT and C = T dS/dT, by automatic differentiation; single precision stays near double."""
    t = 200.0
    at = lambda t: thermal(jnp.asarray(MODES), jnp.asarray(WEIGHT), t[None])  # noqa: E731
    found, slope = double(at, t), double(jax.jacfwd(at), t)
    np.testing.assert_allclose(-slope.free_energy, found.entropy, rtol=1e-9)
    np.testing.assert_allclose(t * slope.entropy, found.heat_capacity, rtol=1e-9)
    softer = double(jax.grad(lambda f, w: thermal(f, w, jnp.full(1, t)).free_energy.sum()), MODES, WEIGHT)
    assert np.isfinite(softer).all() and (softer[0, :3] == 0).all()
    single = jax.jit(thermal)(*(jnp.asarray(x, jnp.float32) for x in (MODES, WEIGHT, [t])))
    for name in ("free_energy", "entropy", "heat_capacity"):
        np.testing.assert_allclose(getattr(single, name), getattr(found, name), rtol=2e-6)


def test_too_many_imaginary_modes_give_no_number():
    """Sums over what is left would be too low by the share of them, 1.5 of 12 here; below 1 % they stand."""
    unstable = MODES.copy()
    unstable[1, 0] = -2.0
    found = double(thermal, unstable, WEIGHT, [300.0])
    np.testing.assert_allclose([found.imaginary, found.left_out], [0.75 / 6, (0.75 + 0.75) / 6], rtol=1e-12)
    assert np.isnan([found.free_energy, found.entropy, found.heat_capacity]).all()
    few = double(thermal, unstable, [0.95, 0.05], [300.0])
    assert 0 < few.imaginary < 0.01 and np.isfinite([few.free_energy, few.entropy, few.heat_capacity]).all()
    assert double(thermal, MODES, WEIGHT, [300.0]).imaginary == 0  # modes at rest are not imaginary


def test_the_density_of_states_counts_modes():
    """Gaussians 5 widths from the ends: 6e-7 of each is cut off; the trapezium rule is exact far beyond that."""
    grid = even_grid(MODES, 0.1)
    found = double(lambda f, w, grid: dos(f, w, grid=grid, width_thz=0.1), MODES, WEIGHT, grid)
    assert np.sum(found.density) * (grid[1] - grid[0]) == pytest.approx(6, rel=1e-6)
    with pytest.raises(ValueError, match="width_thz"):
        dos(jnp.asarray(MODES), jnp.asarray(WEIGHT), grid=jnp.asarray(grid), width_thz=0.0)


def test_memory_does_not_grow_with_points_or_temperatures(monkeypatch):
    """Worked through in parts, the same numbers; a compiled program that holds no array of both."""
    t, grid = np.linspace(50, 1000, 5), even_grid(MODES, 0.1)
    whole = (
        double(thermal, MODES, WEIGHT, t),
        double(lambda f, w, g: dos(f, w, grid=g, width_thz=0.1), MODES, WEIGHT, grid),
    )
    monkeypatch.setattr(module, "AT_ONCE", 2 * MODES.size)
    parts = (
        double(thermal, MODES, WEIGHT, t),
        double(lambda f, w, g: dos(f, w, grid=g, width_thz=0.1), MODES, WEIGHT, grid),
    )
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts)):
        np.testing.assert_allclose(b, a, rtol=1e-12)
    frequencies, weight, many = jnp.ones((500, 12)), jnp.ones(500) / 500, jnp.ones(2000)
    for run in (jax.jit(thermal), jax.jit(lambda f, w, g: dos(f, w, grid=g, width_thz=0.1))):
        takes = run.lower(frequencies, weight, many).compile().memory_analysis().temp_size_in_bytes
        assert takes < 4e6  # and 48 MB an array of all


def test_the_last_peak():
    """Of two bands, the upper one however low; not its ripples, and nothing where there is no peak."""
    f = np.linspace(-1, 12, 1301)
    bell = lambda at, wide: np.exp(-(((f - at) / wide) ** 2) / 2)  # noqa: E731
    two = bell(3, 0.5) + 0.05 * bell(9.123, 0.3)
    assert last_peak(Dos(f, two)) == pytest.approx(9.123, abs=1e-4)  # the parabola's error: (df/width)² df / 10
    assert last_peak(Dos(f, two + 0.001 * bell(11, 0.1))) == pytest.approx(9.123, abs=1e-4)
    assert np.isnan(last_peak(Dos(f, bell(-0.5, 0.1))))  # imaginary modes alone
    assert np.isnan(last_peak(Dos(f, f + 1)))
