"""What to do about a crystal whose ions are at no minimum: follow its softest internal mode downhill, in its own cell.

`phonons.remedy` does the same for modes of any wave vector; elastic constants only see those of the cell itself.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np

from crysjax.base import Params
from crysjax.data import datasets
from crysjax.data.datasets import Dataset, Entry
from crysjax.physics.elasticity.driver import TIGHT, Elastic, elasticity, relaxed
from crysjax.physics.elasticity.mechanics import REASONS
from crysjax.potentials.mlip import Potential
from crysjax.potentials.relax import Relax

SOFT = REASONS[2]


class Remedied(NamedTuple):
    """The elastic constants again, of lower polymorphs where there are some."""

    found: Elastic
    gain_ev_per_atom: np.ndarray  # (m,) energy that a crystal is lower by, 0 where it is the one that was given


def remedied(
    potential: Potential,
    params: Params,
    found: Elastic,
    *,
    times: int = 1,
    amplitudes_angstrom: tuple[float, ...] = (0.1, 0.3, 0.6),
    least_gain_ev_per_atom: float = 1e-3,
    settings: Relax = TIGHT,
    max_steps: int = 500,
) -> Remedied:
    """Crystals with soft internal modes, displaced along them both ways, relaxed, and asked again, `times` at most.

    `amplitudes_angstrom` is how far the atom moves that moves most. The others stay as they are.
    """
    gain = np.zeros(len(found.crystals))
    for _ in range(times):
        rows = np.flatnonzero(found.reason == SOFT)
        if not len(rows):
            break
        entries = datasets.entries(datasets.take(found.crystals, rows))
        starts = [_displaced(e, found.modes[r], amplitudes_angstrom) for e, r in zip(entries, rows)]
        before = relaxed(potential, params, datasets.from_entries(entries), settings, 1).energy
        ends = relaxed(potential, params, datasets.from_entries(itertools.chain(*starts)), settings, max_steps)
        energy = np.where(ends.reason == "", ends.energy, np.inf).reshape(len(rows), -1)
        best, lower = energy.argmin(1), (before - energy.min(1)) / found.crystals.num_atoms[rows]
        better = lower >= least_gain_ev_per_atom
        reason = found.reason.astype("<U200")
        reason[rows[~better]] = f"{SOFT}; none of {energy.shape[1]} displaced cells relaxed to a lower energy"
        found = found._replace(reason=reason)
        if better.any():
            lowest = datasets.take(ends.crystals, (np.arange(len(rows)) * energy.shape[1] + best)[better])
            again = elasticity(potential, params, lowest, relax=False)
            found = _put(found, again, rows[better])
            gain[rows[better]] += lower[better]
    return Remedied(found, gain)


def _displaced(crystal: Entry, mode: np.ndarray, amplitudes: tuple[float, ...]) -> list[Entry]:
    """The crystal with its ions moved along a mode (n, 3), to both sides."""
    pattern = mode / max(np.linalg.norm(mode, axis=-1).max(), 1e-12) @ np.linalg.inv(crystal.lattice.astype(float))
    return [crystal._replace(frac=crystal.frac + s * a * pattern) for a in amplitudes for s in (1, -1)]


def _put(found: Elastic, again: Elastic, rows: np.ndarray) -> Elastic:
    """The table with some rows replaced."""
    crystals = _put_crystals(found.crystals, again.crystals, rows)
    modes = dict(zip(rows.tolist(), again.modes))
    table, new = ((f._replace(crystals=None, modes=None)) for f in (found, again))

    def put(old: np.ndarray, values: np.ndarray) -> np.ndarray:
        old = old.astype(np.promote_types(old.dtype, values.dtype))
        old[rows] = values
        return old

    table = jax.tree.map(put, table, new)
    return table._replace(crystals=crystals, modes=[modes.get(k, mode) for k, mode in enumerate(found.modes)])


def _put_crystals(crystals: Dataset, new: Dataset, rows: np.ndarray) -> Dataset:
    """Other positions and cells of some crystals."""
    frac, lattice = crystals.frac.copy(), crystals.lattice.copy()
    frac[datasets.site_index(crystals, rows)], lattice[rows] = new.frac, new.lattice
    return replace(crystals, frac=frac, lattice=lattice)
