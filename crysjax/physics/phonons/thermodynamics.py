"""What follows from phonon frequencies: density of states, its last peak, harmonic free energy, entropy, heat capacity.

Frequencies are in THz, imaginary ones negative, (k, 3n) at k wave vectors of `weight` (k,) that add up to 1.
Quantities are per primitive cell. Modes below `LOWEST_THZ` (the three acoustic ones at Γ, and imaginary ones, which
have no thermal average) are left out of sums over modes; `Thermal.left_out` says what share of all modes that is. Where
more than `MOST_IMAGINARY` of all modes are imaginary there is no harmonic thermodynamics, and the answer is NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

KELVIN_PER_THZ = 6.62607015e-34 * 1e12 / 1.380649e-23  # h / k, 47.992 K
EV_PER_KELVIN = 8.617333262e-5  # Boltzmann's constant
LOWEST_THZ = 1e-2
MOST_IMAGINARY = 0.01  # of all modes; what is left out makes every sum too low by about its share
AT_ONCE = 2**22  # frequencies times points of a density, or temperatures
MANY_PER_PEAK = 0.01  # of the highest peak: lower ripples of a smeared density are not peaks


class Dos(NamedTuple):
    """The phonon density of states; its integral over THz is the number of modes, 3n."""

    frequency: Array  # (f,) THz, evenly spaced
    density: Array  # (f,) modes per THz


class Thermal(NamedTuple):
    """Harmonic thermodynamics of a primitive cell at t temperatures; NaN with too many imaginary modes."""

    temperature: Array  # (t,) K
    free_energy: Array  # (t,) eV, zero-point energy included
    entropy: Array  # (t,) eV/K
    heat_capacity: Array  # (t,) eV/K at constant volume
    left_out: Array  # () share of the modes that are not in the sums
    imaginary: Array  # () share of the modes that are imaginary, at rest with rounding aside


def dos(frequencies: Array, weight: Array, *, grid: Array, width_thz: float) -> Dos:
    """Density of states on an even grid (f,) in THz, each mode a Gaussian of standard deviation `width_thz`."""
    if not width_thz > 0:
        raise ValueError(f"width_thz: {width_thz} is not a positive width")
    scale = width_thz * float(np.sqrt(2 * np.pi))

    def at(point: Array) -> Array:
        gaussian = jnp.exp(-(((point - frequencies) / width_thz) ** 2) / 2) / scale
        return (gaussian.sum(-1) * weight).sum()

    return Dos(grid, jax.lax.map(at, grid, batch_size=_together(frequencies)))


def _together(frequencies: Array) -> int:
    """Points or temperatures at once: memory does not grow with how many there are."""
    return max(AT_ONCE // max(frequencies.size, 1), 1)


def even_grid(frequencies: np.ndarray, width_thz: float, per_width: int = 4) -> np.ndarray:
    """A grid in THz that holds all modes and their tails of 5 widths, `per_width` points a width. Host NumPy."""
    low, high = float(np.min(frequencies)) - 5 * width_thz, float(np.max(frequencies)) + 5 * width_thz
    return np.linspace(low, high, max(int(np.ceil((high - low) / width_thz * per_width)), 2))


def last_peak(found: Dos) -> float:
    """The frequency in THz of the highest-lying peak of the density of states; NaN if it has none. Host.

    A peak is a local maximum of at least a hundredth of the largest one; its place is the vertex of the parabola
    through three points.
    """
    f, g = np.asarray(found.frequency, float), np.asarray(found.density, float)
    inner = (g[1:-1] >= g[:-2]) & (g[1:-1] > g[2:]) & (g[1:-1] > MANY_PER_PEAK * g.max()) & (f[1:-1] > LOWEST_THZ)
    if not inner.any():
        return float("nan")
    k = int(np.flatnonzero(inner)[-1]) + 1
    left, middle, right = g[k - 1 : k + 2]
    return float(f[k] + (f[1] - f[0]) * (left - right) / (2 * (left - 2 * middle + right)))


def thermal(frequencies: Array, weight: Array, temperature: Array) -> Thermal:
    """Free energy, entropy and heat capacity of harmonic modes at temperatures (t,) > 0 in K.

    With x = h f / kT: F = kT Σ x/2 + ln(1 - exp(-x)), S = k Σ x/(exp(x) - 1) - ln(1 - exp(-x)),
    C = k Σ x² exp(x) / (exp(x) - 1)² (Wallace, Thermodynamics of Crystals, 1972, section 11).
    """
    used = frequencies > LOWEST_THZ
    theta = jnp.where(used, frequencies, 1) * KELVIN_PER_THZ  # (k, 3n) in K
    share = jnp.where(used, weight[:, None], 0)

    def at(kelvin: Array) -> tuple[Array, ...]:
        x = theta / kelvin
        gone = -jnp.expm1(-x)  # 1 - exp(-x)
        free = x / 2 + jnp.log(gone)
        entropy = x * jnp.exp(-x) / gone - jnp.log(gone)
        heat = x**2 * jnp.exp(-x) / gone**2
        return tuple((each * share).sum() * EV_PER_KELVIN for each in (free, entropy, heat))

    free, entropy, heat = jax.lax.map(at, temperature, batch_size=_together(frequencies))
    every = weight.sum() * frequencies.shape[-1]
    imaginary = jnp.where(frequencies < -LOWEST_THZ, weight[:, None], 0).sum() / every
    known = jnp.where(imaginary > MOST_IMAGINARY, jnp.nan, 1)
    return Thermal(
        temperature, free * temperature * known, entropy * known, heat * known, 1 - share.sum() / every, imaginary
    )
