"""Equations of state: volume, energy, bulk modulus and its slope at zero pressure from a curve E(V).

Birch and Murnaghan, third order: E is a cubic polynomial of `V^(-2/3)` (Birch, Phys. Rev. 71, 809 (1947); Hebbache &
Zemzemi, Phys. Rev. B 70, 224107 (2004)), so the fit is one linear least squares. Vinet et al., J. Phys. C 19, L467
(1986): Gauss-Newton from there. Both are traced and can be differentiated by the energies.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import GPA_PER_EV_A3


class EquationOfState(NamedTuple):
    """The minimum of a fitted curve; where `valid` is False the numbers hold no NaN and mean nothing."""

    volume: Array  # () Å³
    energy: Array  # () eV
    bulk_gpa: Array  # () bulk modulus
    slope: Array  # () its derivative by pressure
    residual_ev: Array  # () root mean square of what the curve leaves
    valid: Array  # () bool: finite input, convex in the middle, a minimum within the volumes


def birch_murnaghan(volume: Array, energy: Array) -> EquationOfState:
    """Least squares over at least four volumes (Å³) and their energies (eV): (m,), (m,)."""
    _check(volume, energy)
    sound = jnp.isfinite(energy).all() & jnp.isfinite(volume).all() & (volume > 0).all()
    v, e = jnp.where(sound, volume, jnp.linspace(1, 2, len(volume), dtype=volume.dtype)), jnp.where(sound, energy, 0)
    middle, offset = jax.lax.stop_gradient((v.min() + v.max()) / 2), jax.lax.stop_gradient(e.mean())
    y = (v / middle) ** (-2 / 3) - 1
    width = jax.lax.stop_gradient(jnp.abs(y).max())
    powers = (y / width)[:, None] ** jnp.arange(4)[None].astype(y.dtype)
    q, r = jnp.linalg.qr(powers)
    c = jax.scipy.linalg.solve_triangular(r, q.T @ (e - offset))
    bend = c[2] ** 2 - 3 * c[1] * c[3]
    convex = (c[2] > 0) & (bend > 0)
    root, top = jnp.sqrt(jnp.where(convex, bend, 1)), jnp.where(convex, c[2], 1)
    t = jnp.where(convex, -c[1] / (top + root), 0)  # where the slope is zero and the curvature, 2 root, is not
    x = 1 + width * t
    least = middle * jnp.maximum(x, 1e-3) ** -1.5
    second, third = 2 * root / width**2, 6 * c[3] / width**3  # by (V / middle)^(-2/3)
    bulk = GPA_PER_EV_A3 * 4 / 9 * second * x**2 / least  # the chain rule, with dE/dV = 0
    slope = 4 + 2 / 3 * x * third / second
    value = offset + c[0] + t * (c[1] + t * (c[2] + t * c[3]))
    residual = jnp.sqrt(jnp.maximum(((powers @ c - (e - offset)) ** 2).mean(), 1e-30))
    valid = sound & convex & (least >= v.min()) & (least <= v.max())
    return EquationOfState(least, value, bulk, slope, residual, valid)


def vinet(volume: Array, energy: Array, *, steps: int = 12) -> EquationOfState:
    """The same by Vinet's curve, which stays right further from the minimum."""
    first = birch_murnaghan(volume, energy)
    offset, size = jax.lax.stop_gradient((first.energy, jnp.maximum(jnp.abs(energy - first.energy).max(), 1e-6)))
    scale = jnp.stack([first.volume, size, first.bulk_gpa / GPA_PER_EV_A3, jnp.ones_like(size)])
    scale = jax.lax.stop_gradient(jnp.where(first.valid, scale, 1))

    def misfit(x: Array) -> Array:
        v0, shift, bulk, slope = x * scale
        return (vinet_energy(volume, v0, shift, bulk, slope) - (energy - offset)) / size

    def step(x: Array, _: None) -> tuple[Array, None]:
        q, r = jnp.linalg.qr(jax.jacfwd(misfit)(x))
        return x - jax.scipy.linalg.solve_triangular(r, q.T @ misfit(x)), None

    one = jnp.ones_like(size)
    start = jax.lax.stop_gradient(jnp.stack([one, 0 * one, one, jnp.clip(first.slope, 2, 8)]))
    x = jax.lax.scan(step, start, length=steps)[0]
    valid = first.valid & jnp.isfinite(x).all() & (x[2] > 0) & (jnp.abs(x[3] - 1) > 1e-3)
    x = jnp.where(valid, x, start)
    residual = jnp.sqrt(jnp.maximum((misfit(x) ** 2).mean(), 1e-30)) * size
    x = x * scale
    return EquationOfState(x[0], offset + x[1], x[2] * GPA_PER_EV_A3, x[3], jnp.where(valid, residual, 0), valid)


def vinet_energy(volume: Array, v0: Array, e0: Array, bulk: Array, slope: Array) -> Array:
    """Vinet's E(V), eV; `bulk` in eV/Å³."""
    x = (volume / v0) ** (1 / 3) - 1
    fall = jnp.exp(-1.5 * (slope - 1) * x)
    return e0 + 2 * bulk * v0 / (slope - 1) ** 2 * (2 - (2 + 3 * (slope - 1) * x) * fall)


def _check(volume: Array, energy: Array) -> None:
    if volume.ndim != 1 or volume.shape != energy.shape or len(volume) < 4:
        raise ValueError(f"equation of state: volumes {volume.shape}, energies {energy.shape}; expected 4 or more each")
