"""Continuous distances between compositions: element mover's distance and distance of Magpie's statistics.

ElMD (Hargreaves et al., Chem. Mater. 32, 10610, 2020) is the earth mover's distance between two compositions as weights
on the modified Pettifor scale, a line of the elements along which neighbors replace each other in crystals (Glawe et
al., New J. Phys. 18, 093011, 2016). On a line it has a closed form: the area between the two cumulative sums. A
composition therefore has coordinates in which ElMD is the sum of absolute differences (`elmd_coordinates`), and what
searches vectors searches compositions. Numbers are those of the `ElMD` package with its default metric; the unit is one
place on the scale: exchanging every atom for the next element.

d_magpie is the Euclidean distance between the 132 statistics of matminer's preset "magpie" (Ward et al. 2016; see
`magpie`) in their own units, as Negishi et al. (arXiv 2510.12405, 2025) take it: melting points in K outweigh the rest.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES
from crysjax.chemistry.elements import SYMBOLS
from crysjax.evaluation.metrics import magpie

_ORDER = """
He Ne Ar Kr Xe Rn Fr Cs Rb K Na Li Ra Ba Sr Ca Eu Yb Lu Tm Y Er Ho Dy Tb Gd Sm Pm Nd Pr Ce La Ac Th Pa U Np Pu Am Cm Bk
Cf Es Fm - - - Sc Zr Hf Ti Ta Nb V Cr Mo W Re Tc Os Ru Ir Rh Pt Pd Au Ag Cu Ni Co Fe Mn Mg Zn Cd Hg Be Al Ga In Tl Pb
Sn Ge Si B C N P As Sb Bi Po Te Se S O At I Br Cl F H
"""  # the dashes are Md, No and Lr, which take their places on the scale
_PLACE = {symbol: place for place, symbol in enumerate(_ORDER.split())}
PETTIFOR = np.array([_PLACE[symbol] for symbol in SYMBOLS])
"""Place of each element on the modified Pettifor scale, 0 (He) to 102 (H): (NUM_SPECIES,), column z - 1."""

_ALONG = np.argsort(PETTIFOR).astype(np.int32)  # JAX takes no other index in single precision
_STEPS = np.diff(PETTIFOR[_ALONG])


def elmd_coordinates(compositions: Array) -> Array:
    """Coordinates whose L1 distance is ElMD: (..., NUM_SPECIES) amounts -> (..., NUM_SPECIES - 1).

    The share of atoms up to each element of the scale times the step to the next. Amounts need not sum to 1; a
    composition of nothing is NaN. NumPy in, NumPy (double precision) out; JAX arrays keep their type.
    """
    xp = jnp if isinstance(compositions, jax.Array) else np
    amounts = compositions if xp is jnp else np.asarray(compositions, np.float64)
    if amounts.shape[-1] != NUM_SPECIES:
        raise ValueError(f"elmd: compositions of shape {amounts.shape}, expected (..., {NUM_SPECIES})")
    below = xp.cumsum(amounts[..., _ALONG], -1)
    steps = xp.asarray(_STEPS, below.dtype).reshape((1,) * (below.ndim - 1) + (-1,))
    with np.errstate(invalid="ignore", divide="ignore"):
        return below[..., :-1] / below[..., -1:] * steps


@jax.jit
def elmd(a: Array, b: Array) -> Array:
    """ElMD of compositions, row by row: (..., NUM_SPECIES) twice -> (...). Differentiable wherever it is smooth.

    For all pairs or nearest neighbors: `distances.pairwise` or `nearest` of `elmd_coordinates`, metric "cityblock".
    """
    return jnp.abs(elmd_coordinates(jnp.asarray(a)) - elmd_coordinates(jnp.asarray(b))).sum(-1)


def magpie_features(compositions: np.ndarray) -> np.ndarray:
    """The 132 Magpie statistics in their own units: (m, NUM_SPECIES) amounts -> (m, 132).

    A statistic of a property that an element lacks is 0. Equal rows, of which data sets are full, are computed once.
    """
    counts = np.asarray(compositions, np.float64)
    distinct, of = np.unique(counts, axis=0, return_inverse=True)
    return np.nan_to_num(magpie.statistics(distinct), nan=0.0)[of.reshape(-1)]


def magpie_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """d_magpie of compositions, row by row: (m, NUM_SPECIES) twice -> (m,)."""
    return np.linalg.norm(magpie_features(a) - magpie_features(b), axis=-1)
