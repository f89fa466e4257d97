"""Relaxation of a whole data set: packs are refilled as crystals finish, graphs regrown where they overflow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from crysjax.base import Params
from crysjax.data import batching, datasets
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset
from crysjax.geometry.neighbors import needed_images, radius_graph_host
from crysjax.potentials.relax import Fire, ForceField, Motion, Relaxation, relax, start

MOST_IMAGES = 8  # along one axis; a cell that needs more is no crystal


class Relaxed(NamedTuple):
    """A row a crystal of the data set; NaN energy and forces where nothing could be computed."""

    crystals: Dataset
    energy: np.ndarray  # (m,) eV, enthalpy where a pressure is set
    fmax: np.ndarray  # (m,) eV/Å
    steps: np.ndarray  # (m,) evaluations of energy, forces and stress
    converged: np.ndarray  # (m,) bool
    valid: np.ndarray  # (m,) bool
    reason: np.ndarray  # (m,) str: why not valid, "" where it is


def relax_dataset(
    energy_forces_stress: ForceField,
    params: Params,
    crystals: Dataset,
    *,
    cutoff_angstrom: float,
    settings: Fire = Fire(),  # noqa: B008 (an immutable default)
    max_steps: int = 200,
    skin_angstrom: float = 0.5,
    sites: int = 64,
    chunk: int = 20,
    progress: Callable[[int, int], None] | None = None,
) -> Relaxed:
    """Relax every crystal by at most `max_steps` steps.

    Packs of `sites` sites run `chunk` steps at a time; then finished crystals make room for waiting ones. An overflow
    makes the capacity for edges or images larger (which compiles again) and the crystals go on where they stopped.
    `progress` is told how many are done, of how many.
    """
    pool = _Pool(crystals, settings)
    reach = cutoff_angstrom + skin_angstrom
    shape = _shape(crystals.num_atoms, sites)
    grown = _first_size(pool.crystals, reach, shape)
    steps: dict[tuple, Callable] = {}
    while len(waiting := pool.waiting(max_steps)):
        group = np.array(batching.assign(crystals.num_atoms[waiting], shape, open_packs=1)[0])
        rows = waiting[group]
        if grown not in steps:
            steps[grown] = _compiled(energy_forces_stress, cutoff_angstrom, grown, settings, chunk, skin_angstrom)
        done = jax.tree.map(np.asarray, steps[grown](params, pool.load(rows, shape)))
        stuck = pool.store(rows, done)
        if len(stuck):
            grown = _grow(pool, stuck, rows, reach, shape, grown)
        if progress is not None:
            progress(len(crystals) - len(pool.waiting(max_steps)), len(crystals))
    return pool.result()


def _shape(num_atoms: np.ndarray, sites: int) -> Capacity:
    """A pack of about `sites` sites, large enough for the largest crystal, with room for many small ones."""
    sites = max(sites, int(num_atoms.max(initial=1)))
    return Capacity(sites, max(sites * (min(sites, int(num_atoms.max(initial=1))) - 1) // 2, 1), max(sites // 3, 1))


def _first_size(crystals: Dataset, reach: float, shape: Capacity) -> tuple[int, tuple[int, int, int]]:
    """Edges and images that hold a typical full pack of these crystals, with some room to shrink."""
    with np.errstate(all="ignore"):
        volume = np.abs(np.linalg.det(crystals.lattice.astype(float)))
        density = crystals.num_atoms / volume
        images = needed_images(crystals.lattice.astype(float), reach * 1.05)
    sound = np.isfinite(density) & np.isfinite(images).all(-1) & (images <= MOST_IMAGES).all(-1)
    if not sound.any():
        return 64, (1, 1, 1)
    typical = np.quantile(density[sound], 0.8) * 4.19 * reach**3 * shape.sites
    return _even(typical), tuple(int(k) for k in images[sound].max(0))


def _even(edges: float) -> int:
    return int(-(-edges // 256) * 256)


def _compiled(
    forces: ForceField, cutoff: float, grown: tuple, settings: Fire, chunk: int, skin: float
) -> Callable[[Params, Relaxation], Relaxation]:
    edges, images = grown
    return jax.jit(
        lambda params, state: relax(
            forces, params, state, cutoff_angstrom=cutoff, max_edges=edges, max_images=images, settings=settings,
            max_steps=chunk, skin_angstrom=skin,
        )
    )  # fmt: skip


def _grow(pool: _Pool, stuck: np.ndarray, rows: np.ndarray, reach: float, shape: Capacity, grown: tuple) -> tuple:
    """A capacity that holds the pack in which crystals got stuck; those that no capacity holds are given up."""
    edges, images = grown
    needed = np.nan_to_num(needed_images(pool.crystals.lattice[stuck].astype(float), reach), nan=np.inf)
    hopeless = (needed > MOST_IMAGES).any(-1)
    pool.give_up(stuck[hopeless], f"the cell needs more than {MOST_IMAGES} images along an axis")
    if hopeless.all():
        return grown
    images = tuple(int(max(a, b)) for a, b in zip(images, needed[~hopeless].max(0)))
    rows = rows[pool.valid[rows]]
    pack = batching.pack_rows(pool.crystals, rows, shape)
    wanted = len(radius_graph_host(pack, reach).sender)
    return (max(edges, _even(wanted * 1.3)) if wanted > edges else edges), images


class _Pool:
    """The state of every crystal on the host, moved in and out of packs."""

    def __init__(self, crystals: Dataset, settings: Fire):
        m, n = len(crystals), len(crystals.frac)
        frac, lattice = np.array(crystals.frac, np.float32), np.array(crystals.lattice, np.float32)
        self.crystals = replace(crystals, frac=frac, lattice=lattice)
        self.energy, self.fmax = np.full(m, np.inf, np.float32), np.full(m, np.inf, np.float32)
        self.steps, self.converged = np.zeros(m, np.int32), np.zeros(m, bool)
        self.valid, self.reason = np.ones(m, bool), np.full(m, "", "<U80")
        self.settings, self.velocity = settings, np.zeros((n, 3), np.float32)
        self.motion: dict[int, list[np.ndarray]] = {}

    def waiting(self, max_steps: int) -> np.ndarray:
        """Crystals that have to go on, those under way first."""
        left = np.flatnonzero(self.valid & ~self.converged & (self.steps < max_steps))
        return left[np.argsort(self.steps[left] == 0, kind="stable")]

    def load(self, rows: np.ndarray, shape: Capacity) -> Relaxation:
        """The state of a pack of these crystals."""
        pack = batching.pack_rows(self.crystals, rows, shape)
        state = jax.tree.map(np.array, start(jax.tree.map(jnp.asarray, pack), self.settings))
        sites = datasets.site_index(self.crystals, rows)
        state.motion.velocity[: len(sites)] = self.velocity[sites]
        for slot, row in enumerate(rows):
            for leaf, kept in zip(_cells(state.motion), self.motion.get(int(row), [])):
                leaf[slot] = kept
        for leaf, kept in zip((state.energy, state.fmax, state.steps), (self.energy, self.fmax, self.steps)):
            leaf[: len(rows)] = kept[rows]
        return state

    def store(self, rows: np.ndarray, state: Relaxation) -> np.ndarray:
        """Take the pack back; the rows that stopped because their graph did not fit."""
        sites, k = datasets.site_index(self.crystals, rows), len(rows)
        self.crystals.frac[sites] = state.pack.frac[: len(sites)]
        self.crystals.lattice[rows] = state.pack.lattice[:k]
        self.velocity[sites] = state.motion.velocity[: len(sites)]
        self.motion |= {int(row): [leaf[slot] for leaf in _cells(state.motion)] for slot, row in enumerate(rows)}
        for name in ("energy", "fmax", "steps", "converged", "valid"):
            getattr(self, name)[rows] = getattr(state, name)[:k]
        self.reason[rows[~state.valid[:k]]] = "touching atoms, a runaway volume or numbers that are not finite"
        return rows[state.overflow[:k] & state.valid[:k]]

    def give_up(self, rows: np.ndarray, reason: str) -> None:
        self.valid[rows], self.reason[rows] = False, reason

    def result(self) -> Relaxed:
        energy, fmax = (np.where(np.isfinite(x), x, np.nan) for x in (self.energy, self.fmax))
        return Relaxed(self.crystals, energy, fmax, self.steps, self.converged, self.valid, self.reason)


def _cells(motion: Motion) -> tuple[np.ndarray, ...]:
    """The leaves with a row a crystal."""
    return tuple(motion._replace(velocity=None))[:1] + tuple(motion)[2:]
