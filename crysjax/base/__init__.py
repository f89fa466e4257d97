"""The types of crysjax and the conventions that every file keeps.

Units: Å, eV, GPa, K. Lattice rows are the vectors a, b, c, so that `cartesian = frac @ lattice`.
Functions are pure; arguments come in the order `(params, key, data, condition)`; keys are explicit and used once.
Lower is better: energies, objectives and losses are minimized.

Two views of the same material:

* `Crystal`: ONE crystal, every leaf float, so that `jax.grad(f)(crystal)` is a `Crystal` again.
* `Pack`: several crystals in one graph of fixed capacity. Networks, losses and samplers take packs, because a
  full pack keeps the matrix products large and wastes nothing on padding. `crysjax.data.batching` packs and unpacks.

A species row (`occupancy`) reads: one-hot = this element; several non-zero entries = partial occupancy, or, in a
template handed to a sampler, "one of these elements"; `UNKNOWN` (all equal) = any element; all zero = an empty slot.
"""

from crysjax.base.contract import Dynamics, Generator, Network, Oracle, Process, Search, Surrogate  # noqa: F401
from crysjax.base.crystals import (  # noqa: F401
    GPA_PER_EV_A3,
    NUM_SPECIES,
    UNKNOWN,
    Condition,
    Crystal,
    Estimate,
    Orbits,
    Pack,
    Params,
    Prediction,
    PyTree,
    Start,
    SymmetricSites,
    Views,
    is_known,
    mean_by_crystal,
    num_sites,
    numbers,
    one_hot,
    site_mask,
    sum_by_crystal,
)
