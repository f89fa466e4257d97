"""Ionic crystals: point charges, and the repulsion and dispersion of Buckingham between ions.

The Coulomb energy is a sum over one sphere around every ion, Wolf et al., J. Chem. Phys. 110, 8254 (1999): each charge
in the sphere has an opposite image on its surface, the ion in the middle too, and 1/r is damped by erfc(alpha r). Here
the force is shifted as well (Fennell and Gezelter, J. Chem. Phys. 124, 234104 (2006)), so that both energy and force
end at zero. The second derivative still jumps there.

For a neutral crystal it differs from Ewald's sum by about erfc(alpha cutoff), from what lies outside the sphere, and by
exp(-G^2 / 4 alpha^2), from the waves that are left out, with G the shortest reciprocal vector at which the charges
diffract. A crystal that is not neutral gets the energy that this sum gives, which means little. A site of partial
occupancy has the mean charge of its elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import erfc

from crysjax.base import Params
from crysjax.geometry.neighbors import Graph
from crysjax.potentials.cluster import COULOMB_EV_ANGSTROM
from crysjax.potentials.pair import as_params, edge_lengths, halved, in_dtype, listed_pairs, pair_fade, pair_weights


def coulomb(
    *,
    numbers: tuple[int, ...],
    charges: tuple[float, ...],
    alpha_per_angstrom: float = 0.25,
    cutoff_angstrom: float = 12.0,
) -> tuple[Callable, Callable]:
    """`(init, site_energies)` as `nequip`, of point charges, one for each of `numbers`.

    Args:
        numbers: atomic numbers of the elements that the potential is for.
        charges: charge of each of `numbers`, in elementary charges.
        alpha_per_angstrom: damping of the charges, 1/Å. Fennell and Gezelter recommend 0.2 with a cutoff of 12 Å for
            liquids; a little more is better for crystals, whose charges have no long waves. Cells of many formula units
            need a smaller value and a larger cutoff.
        cutoff_angstrom: radius of the sphere of charges around each ion, Å.
    """
    columns, settings = np.asarray(numbers, np.int32) - 1, {"charges": _one_each(charges, numbers)}

    def site_energies(params: Params, occupancy: Array, vectors: Array, graph: Graph) -> Array:
        charge = occupancy[:, columns] @ in_dtype(params, vectors.dtype)["charges"]
        return wolf_energies(charge, edge_lengths(vectors), graph, alpha_per_angstrom, cutoff_angstrom)

    return lambda key: as_params(settings), site_energies


def buckingham(
    *,
    numbers: tuple[int, ...],
    charges: tuple[float, ...],
    pairs: tuple[tuple[float, ...], ...],
    alpha_per_angstrom: float = 0.25,
    cutoff_angstrom: float = 12.0,
) -> tuple[Callable, Callable]:
    """`(init, site_energies)` as `coulomb`, with `A exp(-r / rho) - C / r^6` between the elements of listed pairs.

    Buckingham, Proc. R. Soc. Lond. A 168, 264 (1938). This part is faded to zero over the last tenth of the cutoff.
    Where C is not zero, ions that are squeezed beyond the maximum fall into each other: push them apart first
    (`soft_sphere`).

    Args:
        numbers: atomic numbers of the elements that the potential is for.
        charges: charge of each of `numbers`, in elementary charges.
        pairs: one row per pair of elements, `(z1, z2, A in eV, rho in Å, C in eV Å^6)` with atomic numbers z1 and z2;
            pairs that are not listed interact by their charges alone.
        alpha_per_angstrom: damping of the charges, 1/Å (see `coulomb`).
        cutoff_angstrom: radius of the sphere of charges around each ion, and end of the pair energies, Å.
    """
    ends, settings = listed_pairs(pairs, numbers, ("repulsion_ev", "decay_angstrom", "dispersion_ev_angstrom6"))
    of_charges = coulomb(
        numbers=numbers, charges=charges, alpha_per_angstrom=alpha_per_angstrom, cutoff_angstrom=cutoff_angstrom
    )[1]
    settings = settings | {"charges": _one_each(charges, numbers)}

    def site_energies(params: Params, occupancy: Array, vectors: Array, graph: Graph) -> Array:
        p, r = in_dtype(params, vectors.dtype), edge_lengths(vectors)
        short = p["repulsion_ev"][None] * jnp.exp(-r[:, None] / p["decay_angstrom"][None])
        short = short - p["dispersion_ev_angstrom6"][None] / r[:, None] ** 6
        short = (pair_weights(occupancy, graph, ends) * short).sum(-1) * pair_fade(r / cutoff_angstrom)
        charged = of_charges({"charges": p["charges"]}, occupancy, vectors, graph)
        return halved(short, graph, len(occupancy)) + charged

    return lambda key: as_params(settings), site_energies


def wolf_energies(charge: Array, r: Array, graph: Graph, alpha: float, cutoff: float) -> Array:
    """Energy of every ion among the charges and images of its sphere, eV: (n,), (e,) -> (n,)."""
    gauss = 2 * alpha / math.pi**0.5
    end = math.erfc(alpha * cutoff) / cutoff
    slope = (end + gauss * math.exp(-((alpha * cutoff) ** 2))) / cutoff
    pair = charge[graph.receiver] * charge[graph.sender] * (erfc(alpha * r) / r - end + slope * (r - cutoff))
    itself = gauss + end + slope * cutoff  # the damping at its own place, and its own image
    return COULOMB_EV_ANGSTROM * (halved(pair, graph, len(charge)) - itself / 2 * charge**2)


def _one_each(charges: tuple[float, ...], numbers: tuple[int, ...]) -> list[float]:
    if len(charges) != len(numbers):
        raise ValueError(f"charges: {list(charges)}; expected one for each of the elements {list(numbers)}")
    return [float(q) for q in charges]
