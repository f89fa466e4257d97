"""Oxidation states and electronegativity of one crystal's atoms: how likely its charges balance.

Each atom draws a state q of its element z with probability p(q | z), independently. The likelihood of the best
assignment without net charge, or of all of them together, follows from one pass over the atoms that keeps a value for
each charge reached so far: the Viterbi and the forward algorithm. Atoms of one element may differ, as in Fe3O4.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Crystal, Estimate, site_mask
from crysjax.physics import sound
from crysjax.physics.density import Head, column, exact

_NEVER = -1e9  # log-probability of a charge that no assignment reaches; finite, so that its gradient is 0 and not NaN


def log_probabilities(counts: np.ndarray) -> np.ndarray:
    """log p(q | z) from how often each state of each element was seen (NUM_SPECIES, q), with one added to each.

    Laplace's rule: a state never seen is unlikely and not impossible. NaN for elements never seen at all.
    """
    counts = np.asarray(counts, float)
    if counts.ndim != 2 or len(counts) != NUM_SPECIES or not (np.isfinite(counts) & (counts >= 0)).all():
        raise ValueError(f"counts: shape {counts.shape}; expected ({NUM_SPECIES}, states), all of them at least 0")
    total = counts.sum(1, keepdims=True)
    return np.where(total > 0, np.log((counts + 1) / (total + counts.shape[1])), np.nan)


def charge_balance_log_likelihood(counts: np.ndarray, states: tuple[int, ...], *, all_together: bool = False) -> Head:
    """Log-likelihood an atom, in nat, of the charge-neutral assignment of oxidation states that is the likeliest.

    Args:
        counts: how often element z - 1 was seen in each of the `states`: (NUM_SPECIES, len(states)).
        all_together: instead the log-probability that the charges cancel, summed over all assignments: smooth, where
            the best one has kinks.

    Valid where every site has an element that was seen; where no assignment is neutral, as for an element that
    cannot be neutral by itself, it is not valid. Linear in the occupancies of a site, whose rows weigh the logarithms.
    """
    table = log_probabilities(counts)
    known, shifts = np.isfinite(table).all(1), np.asarray(states)
    if table.shape[1] != len(states) or len(set(states)) != len(states):
        raise ValueError(f"states: {len(states)} of them, all different, for {table.shape[1]} columns of counts")
    table, reach = np.nan_to_num(table), max(abs(q) for q in states)

    def head(crystal: Crystal) -> Estimate:
        good = sound.is_sound(crystal)
        safe = sound.harmless(crystal, good)
        rows = safe.occupancy @ jnp.asarray(table, safe.occupancy.dtype)
        used = site_mask(safe.occupancy)
        best = neutral(rows, used > 0, shifts, len(used) * reach, all_together=all_together)
        good &= sound.all_known(safe.occupancy, jnp.asarray(known)) & (best > _NEVER / 2)
        return exact(best / used.sum(), good)

    return head


def neutral(rows: Array, used: Array, states: np.ndarray, span: int, *, all_together: bool) -> Array:
    """Log-likelihood of no net charge: log-probabilities (n, q) of the states (q,), used (n,) bool -> ().

    `span` is the largest charge, of either sign, that may occur on the way.
    """
    charge = np.arange(-span, span + 1)
    source = charge[:, None] - states[None, :] + span  # where each charge comes from, by each state
    inside = jnp.asarray((source >= 0) & (source <= 2 * span))
    source = jnp.asarray(np.clip(source, 0, 2 * span), jnp.int32)
    combine = jax.nn.logsumexp if all_together else jnp.max

    def add(reached: Array, site: tuple[Array, Array]) -> tuple[Array, None]:
        row, present = site
        moved = combine(jnp.where(inside, reached[source] + row[None, :], _NEVER), axis=1)
        return jnp.where(present, jnp.maximum(moved, _NEVER), reached), None

    start = jnp.where(jnp.asarray(charge == 0), 0, _NEVER).astype(rows.dtype)
    return jax.lax.scan(add, start, (rows, used))[0][span]


def electronegativity_difference(electronegativities: np.ndarray) -> Head:
    """Largest minus smallest electronegativity of the sites, on the scale of the column (NUM_SPECIES,).

    A site of mixed occupancy has the mean of its elements.
    """
    scale, known = column("electronegativities", electronegativities)

    def head(crystal: Crystal) -> Estimate:
        good = sound.is_sound(crystal)
        safe = sound.harmless(crystal, good)
        used = site_mask(safe.occupancy) > 0
        total = jnp.where(used, safe.occupancy.sum(-1), 1)
        of_site = safe.occupancy @ jnp.asarray(scale, safe.occupancy.dtype) / total
        most, least = jnp.where(used, of_site, -jnp.inf).max(), jnp.where(used, of_site, jnp.inf).min()
        return exact(most - least, good & sound.all_known(safe.occupancy, jnp.asarray(known)))

    return head
