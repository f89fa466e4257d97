"""Soft spheres: atoms that overlap push each other apart, and nothing else happens; the cheapest first relaxation.

O'Hern et al., Phys. Rev. E 68, 011306 (2003), equation 1, with the covalent radii of Cordero et al., Dalton Trans.
2832 (2008), from H to Cm (low spin, C with three or four neighbors alike); elements beyond Cm, for which there is
none, have 2 Å.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Params
from crysjax.geometry.neighbors import Graph
from crysjax.potentials.pair import as_params, edge_lengths, halved, in_dtype, pair_fade

_RADII = """
0.31 0.28 1.28 0.96 0.84 0.76 0.71 0.66 0.57 0.58 1.66 1.41 1.21 1.11 1.07 1.05 1.02 1.06 2.03 1.76 1.70 1.60 1.53 1.39
1.39 1.32 1.26 1.24 1.32 1.22 1.22 1.20 1.19 1.20 1.20 1.16 2.20 1.95 1.90 1.75 1.64 1.54 1.47 1.46 1.42 1.39 1.45 1.44
1.42 1.39 1.39 1.38 1.39 1.40 2.44 2.15 2.07 2.04 2.03 2.01 1.99 1.98 1.98 1.96 1.94 1.92 1.92 1.89 1.90 1.87 1.87 1.75
1.70 1.62 1.51 1.44 1.41 1.36 1.36 1.32 1.45 1.46 1.48 1.40 1.50 1.50 2.60 2.21 2.15 2.06 2.00 1.96 1.90 1.87 1.80 1.69
2.00 2.00 2.00 2.00
"""
COVALENT_RADII_ANGSTROM: tuple[float, ...] = tuple(float(x) for x in _RADII.split())
"""`COVALENT_RADII_ANGSTROM[z - 1]` belongs to atomic number `z`, from H to Fm."""


def soft_sphere(
    *,
    numbers: tuple[int, ...],
    radii_angstrom: tuple[float, ...] | None = None,
    scale: float = 0.9,
    stiffness_ev: float = 10.0,
    exponent: float = 2.0,
    cutoff_angstrom: float = 4.7,
) -> tuple[Callable, Callable]:
    """`(init, site_energies)` as `nequip`, of `stiffness (1 - r / d)^exponent / exponent` where `r < d`, else 0.

    The contact distance `d` of two atoms is the sum of their radii times `scale`.

    Args:
        numbers: atomic numbers of the elements that the potential is for.
        radii_angstrom: radius of each of `numbers`, Å; null takes covalent radii (Cordero et al. 2008).
        scale: factor of the radii. Bonds are as long as the sum of the covalent radii, so that atoms closer than 0.9 of
            it are too close.
        stiffness_ev: energy scale of an overlap, eV.
        exponent: power of the overlap `1 - r / d`; 2 is a harmonic repulsion.
        cutoff_angstrom: distance from which on the energy of a pair is zero, Å; the longest contact of covalent radii
            is that of two Fr, 4.68 Å, and longer ones are faded out.
    """
    columns = np.asarray(numbers, np.int32) - 1
    radii = [COVALENT_RADII_ANGSTROM[k] for k in columns] if radii_angstrom is None else list(radii_angstrom)
    if len(radii) != len(numbers) or not all(x > 0 for x in radii):
        raise ValueError(f"radii_angstrom: {radii}; expected a positive one for each of the elements {list(numbers)}")
    settings = {"radii_angstrom": [scale * x for x in radii], "stiffness_ev": stiffness_ev}

    def site_energies(params: Params, occupancy: Array, vectors: Array, graph: Graph) -> Array:
        p, r = in_dtype(params, vectors.dtype), edge_lengths(vectors)
        radius = occupancy[:, columns] @ p["radii_angstrom"]
        contact = radius[graph.receiver] + radius[graph.sender]
        apart = (contact <= r) | (graph.mask == 0)
        overlap = 1 - r / jnp.where(apart, 2 * r, contact)  # 1/2 where it does not matter: its power has a slope
        pair = jnp.where(apart, 0, p["stiffness_ev"] / exponent * overlap**exponent)
        return halved(pair * pair_fade(r / cutoff_angstrom), graph, len(occupancy))

    return lambda key: as_params(settings), site_energies
