"""Elasticity by exact second derivatives: stiffness with relaxed ions, and the moduli that follow from it.

The energy of a crystal as a function of a displacement of its ions and a strain of its cell has one Hessian. Its
strain block is the clamped-ion stiffness; ions that follow the strain take away `B^T A^-1 B`, by the implicit function
theorem (Born & Huang 1954; Wu, Vanderbilt & Hamann, Phys. Rev. B 72, 035105 (2005), eq. 19). No strains are drawn, no
forces are fitted, nothing is truncated, and all of it can be differentiated once more.

Voigt order xx, yy, zz, yz, xz, xy with engineering shear strains; stiffness in GPa.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import GPA_PER_EV_A3

DEBYE_K_ANGSTROM_S_PER_KM = 76.38232578
"""hbar / k_B in K Å per km/s: (1.054571817e-34 J s) / (1.380649e-23 J/K) * (1e3 m / 1e-10 m)."""

GPA_PER_AMU_A3_KM2_S2 = 1.66053907
"""1 amu/Å³ times (1 km/s)² in GPa."""

REASONS = ("", "the second derivatives are not finite", "ions in a position that is no minimum (soft internal modes)")
"""What `Elasticity.reason` counts."""


class Elasticity(NamedTuple):
    """Second derivatives of one crystal; where `valid` is False the tensors hold no NaN and mean nothing."""

    tensor: Array  # (6, 6) GPa, ions relaxed
    clamped: Array  # (6, 6) GPa, ions at fixed fractional coordinates
    stress: Array  # (6,) GPa of the state itself: zero where it is relaxed
    softest: (
        Array  # () eV/Å², smallest eigenvalue of the internal Hessian; without meaning for one atom, which has none
    )
    valid: Array  # () bool
    reason: Array  # () int32, into `REASONS`
    mode: Array  # (n, 3) the displacement that belongs to `softest`, of length 1 in all


class Moduli(NamedTuple):
    """Of a polycrystal without texture, GPa where the name does not say otherwise."""

    bulk_voigt: Array
    bulk_reuss: Array
    bulk: Array  # Hill: the mean of both
    shear_voigt: Array
    shear_reuss: Array
    shear: Array
    young: Array
    poisson: Array  # without unit
    anisotropy: Array  # universal index, without unit; 0 = isotropic
    softest: Array  # smallest eigenvalue of the stiffness in Kelvin's notation, which no rotation changes
    stable: Array  # bool: Born's criterion


def strain_matrix(voigt: Array) -> Array:
    """The symmetric strain of six components; shears are halved: (6,) -> (3, 3)."""
    xx, yy, zz, yz, xz, xy = voigt * jnp.asarray([1, 1, 1, 0.5, 0.5, 0.5], voigt.dtype)
    return jnp.stack([jnp.stack([xx, xy, xz]), jnp.stack([xy, yy, yz]), jnp.stack([xz, yz, zz])])


def elastic_tensor(
    energy: Callable[[Array, Array], Array],
    num_atoms: int,
    volume: Array,
    *,
    mask: Array | None = None,
    columns: int = 8,
) -> Elasticity:
    """The stiffness of one crystal at a relaxed state.

    Args:
        energy: (displacement (n, 3) in Å, strain (3, 3)) -> energy in eV; positions become `(x + u) (1 + strain)`.
        num_atoms: `n`, sites of padding included.
        volume: of the cell, Å³; its dtype is that of all derivatives.
        mask: (n,) 1 for an atom, 0 for padding; left out, all are atoms.
        columns: of the Hessian at a time, what memory is spent on.

    Under a residual stress this is the second derivative by the symmetric strain from the state as it is.
    """
    volume = jnp.asarray(volume)
    mask = jnp.ones(num_atoms, volume.dtype) if mask is None else mask.astype(volume.dtype)
    return from_derivatives(*derivatives(energy, num_atoms, volume.dtype, columns), mask, volume)


def from_derivatives(slope: Array, hessian: Array, mask: Array, volume: Array) -> Elasticity:
    """The stiffness from gradient (3n + 6,) and Hessian (3n + 6, 3n + 6) by displacements (Å) and Voigt strains, in eV.

    `mask` (n,) and `volume` are those of `elastic_tensor`.
    """
    finite = jnp.isfinite(hessian).all() & jnp.isfinite(slope).all() & (volume > 0)
    hessian, slope = jnp.where(finite, hessian, 0), jnp.where(finite, slope, 0)
    per_volume = GPA_PER_EV_A3 / jnp.where(finite, volume, 1)
    ions = 3 * len(mask)
    coupling, clamped = hessian[:ions, ions:], hessian[ions:, ions:]
    internal, softest, mode, firm = _invertible(hessian[:ions, :ions], mask)
    relief = coupling.T @ jnp.linalg.solve(internal, coupling)
    tensor = clamped - jnp.where(firm, (relief + relief.T) / 2, 0)
    reason = jnp.where(finite, jnp.where(firm, 0, 2), 1).astype(jnp.int32)
    return Elasticity(
        per_volume * tensor, per_volume * clamped, per_volume * slope[ions:], softest, reason == 0, reason, mode
    )


def derivatives(
    energy: Callable[[Array, Array], Array], num_atoms: int, dtype: jnp.dtype, columns: int
) -> tuple[Array, Array]:
    """Gradient (3n + 6,) and Hessian (3n + 6, 3n + 6) by displacement and Voigt strain, forward over reverse."""
    ions = 3 * num_atoms

    def flat(x: Array) -> Array:
        return energy(x[:ions].reshape(num_atoms, 3), strain_matrix(x[ions:]))

    slope, along = jax.linearize(jax.grad(flat), jnp.zeros(ions + 6, dtype))
    rows = -(-(ions + 6) // columns) * columns  # whole batches: a rest would be a second program
    hessian = jax.lax.map(along, jnp.eye(rows, ions + 6, dtype=dtype), batch_size=columns)[: ions + 6]
    return slope, (hessian + hessian.T) / 2


def _invertible(internal: Array, mask: Array) -> tuple[Array, Array, Array, Array]:
    """The internal Hessian made regular, its smallest eigenvalue and that mode, and whether the ions are in a minimum.

    Translations of the crystal as a whole and sites of padding do not couple to strain; giving them a stiffness that
    is above every other makes the matrix regular and changes nothing else.
    """
    n, dtype = len(mask), internal.dtype
    whole = mask / jnp.sqrt(jnp.maximum(mask.sum(), 1))
    stiff = jax.lax.stop_gradient(1 + jnp.sqrt((internal**2).sum()))
    added = jnp.outer(whole, whole) + jnp.diag(1 - mask)
    regular = internal + stiff * jnp.kron(added, jnp.eye(3, dtype=dtype))
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(regular))
    softest, mode = values[0], vectors[:, 0].reshape(n, 3)
    firm = softest > float(jnp.finfo(dtype).eps) ** 0.5 * stiff  # what rounding can leave of a zero
    return jnp.where(firm, regular, stiff * jnp.eye(3 * n, dtype=dtype)), softest, mode, firm


def moduli(tensor: Array) -> Moduli:
    """Averages of a stiffness (6, 6) in GPa by Voigt, Reuss and Hill (Hill, Proc. Phys. Soc. A 65, 349 (1952)).

    Anisotropy: Ranganathan & Ostoja-Starzewski, Phys. Rev. Lett. 101, 055504 (2008). Stability: a positive definite
    stiffness (Mouhat & Coudert, Phys. Rev. B 90, 224104 (2014)); averages of an unstable crystal are those of the
    formulas. All zeros where the stiffness cannot be inverted.
    """
    tensor = (tensor + tensor.T) / 2
    scale = jnp.maximum(jax.lax.stop_gradient(jnp.abs(tensor).max()), 1e-30)
    kelvin = jnp.asarray([1, 1, 1] + [2**0.5] * 3, tensor.dtype)
    softest = jnp.linalg.eigvalsh(tensor * kelvin[:, None] * kelvin[None])
    regular = jnp.isfinite(scale) & (jnp.abs(softest).min() > 1e-6 * scale)
    eye = jnp.eye(6, dtype=tensor.dtype)
    c = jnp.where(regular, tensor, eye)
    bulk_voigt, shear_voigt = _voigt(c)
    bulk_reuss, shear_reuss = _reuss(jnp.linalg.inv(c))
    bulk, shear = (bulk_voigt + bulk_reuss) / 2, (shear_voigt + shear_reuss) / 2
    young, poisson = 9 * bulk * shear / (3 * bulk + shear), (3 * bulk - 2 * shear) / (2 * (3 * bulk + shear))
    anisotropy = 5 * shear_voigt / shear_reuss + bulk_voigt / bulk_reuss - 6
    found = (bulk_voigt, bulk_reuss, bulk, shear_voigt, shear_reuss, shear, young, poisson, anisotropy, softest[0])
    return Moduli(*(jnp.where(regular, x, 0) for x in found), stable=regular & (softest[0] > 0))


def _voigt(c: Array) -> tuple[Array, Array]:
    """Bulk and shear modulus of uniform strain."""
    along, across, shear = c[:3, :3].trace(), c[0, 1] + c[0, 2] + c[1, 2], c[3:, 3:].trace()
    return (along + 2 * across) / 9, (along - across + 3 * shear) / 15


def _reuss(s: Array) -> tuple[Array, Array]:
    """Bulk and shear modulus of uniform stress, of the compliance."""
    along, across, shear = s[:3, :3].trace(), s[0, 1] + s[0, 2] + s[1, 2], s[3:, 3:].trace()
    return 1 / (along + 2 * across), 15 / (4 * along - 4 * across + 3 * shear)


def debye_temperature(bulk_gpa: Array, shear_gpa: Array, mass_amu: Array, num_atoms: Array, volume: Array) -> Array:
    """Debye temperature in K of the mean sound velocity (Anderson, J. Phys. Chem. Solids 24, 909 (1963)).

    `mass_amu`, `num_atoms` and `volume` (Å³) are of the cell. 0 where a sound wave has no real velocity.
    """
    density = mass_amu / volume * GPA_PER_AMU_A3_KM2_S2  # GPa / (km/s)²
    sound = (shear_gpa > 0) & (bulk_gpa + 4 / 3 * shear_gpa > 0)
    shear, bulk = jnp.where(sound, shear_gpa, 1), jnp.where(sound, bulk_gpa, 1)
    transverse, longitudinal = jnp.sqrt(shear / density), jnp.sqrt((bulk + 4 / 3 * shear) / density)
    mean = ((2 / transverse**3 + 1 / longitudinal**3) / 3) ** (-1 / 3)
    wave = (6 * jnp.pi**2 * num_atoms / volume) ** (1 / 3)  # Å⁻¹, Debye's sphere
    return jnp.where(sound, DEBYE_K_ANGSTROM_S_PER_KM * mean * wave, 0)
