"""Relaxation of a whole data set: packs are refilled as crystals finish, graphs regrown where they overflow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np

from crysjax.base import Params
from crysjax.data import batching, datasets
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset
from crysjax.geometry.neighbors import crystal_edges, needed_images, plane_spacings, radius_graph_host
from crysjax.geometry.reduction import niggli
from crysjax.potentials.relax import Fire, ForceField, Motion, Relaxation, relax, start

MOST_IMAGES = 8  # along one axis; a reduced cell that needs more is no crystal
SPARE = 1.05  # of the reach: cells shrink, and images at the very reach are a matter of rounding
SKEWED = 2.0  # longest edge over the distance of its planes; reduced cells reach the root of 2 (face-centred cubic)


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
    """Relax every crystal by at most `max_steps` evaluations.

    Badly skewed cells are relaxed in their reduced setting, which needs far fewer images, and handed back in their own.
    Packs of `sites` sites run `chunk` steps at a time; then finished crystals make room for waiting ones. An overflow
    makes the capacity for edges or images larger (which compiles again) and the crystals go on where they stopped.
    `progress` is told how many are done, of how many.
    """
    pool = _Pool(crystals, settings)
    reach = cutoff_angstrom + skin_angstrom
    shape = _shape(crystals.num_atoms, sites)
    grown = _first_size(pool.crystals, reach, shape)
    while len(waiting := pool.waiting(max_steps)):
        waiting = waiting[: shape.crystals]  # no pack holds more
        group = np.array(batching.assign(crystals.num_atoms[waiting], shape, open_packs=1)[0])
        rows = waiting[group]
        go_on = _compiled(energy_forces_stress, cutoff_angstrom, grown, settings, skin_angstrom, chunk)
        done = jax.tree.map(np.asarray, go_on(params, pool.load(rows, shape), max_steps))
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
        images = needed_images(crystals.lattice.astype(float), reach * SPARE)
    sound = np.isfinite(density) & np.isfinite(images).all(-1) & (images <= MOST_IMAGES).all(-1)
    if not sound.any():
        return 64, (1, 1, 1)
    typical = np.quantile(density[sound], 0.8) * 4.19 * (reach * SPARE) ** 3 * shape.sites
    return _even(typical), tuple(int(k) for k in images[sound].max(0))


def _even(edges: float) -> int:
    """Rounded up to one of few sizes, by a quarter at most, so that compiled programs are used again."""
    step = max(256, 2 ** (int(edges).bit_length() - 3))
    return int(-(-edges // step) * step)


@lru_cache(maxsize=16)  # a campaign relaxes a few crystals a round, by the same potential
def _compiled(
    forces: ForceField, cutoff: float, grown: tuple, settings: Fire, skin: float, chunk: int
) -> Callable[[Params, Relaxation, int], Relaxation]:
    edges, images = grown
    return jax.jit(
        lambda params, state, limit: relax(
            forces, params, state, cutoff_angstrom=cutoff, max_edges=edges, max_images=images, settings=settings,
            max_steps=chunk, limit=limit, skin_angstrom=skin,
        )
    )  # fmt: skip


def _grow(pool: _Pool, stuck: np.ndarray, rows: np.ndarray, reach: float, shape: Capacity, grown: tuple) -> tuple:
    """A larger capacity that holds the pack in which crystals got stuck; those that none holds are given up."""
    edges, images = grown
    lattice = pool.crystals.lattice[stuck].astype(float)
    needed = np.nan_to_num(needed_images(lattice, reach * SPARE), nan=np.inf)
    hopeless = (needed > MOST_IMAGES).any(-1)
    pool.give_up(stuck[hopeless], f"the cell needs more than {MOST_IMAGES} images along an axis")
    if hopeless.all():
        return grown
    wider = tuple(int(max(a, b)) for a, b in zip(images, needed[~hopeless].max(0)))
    pack = batching.pack_rows(pool.crystals, rows[pool.valid[rows]], shape)
    wanted = len(radius_graph_host(pack, reach).sender)
    if wanted > edges or wider == images:  # counts at the very cutoff differ by rounding, yet something has to grow
        edges = max(edges + 256, _even(wanted * 1.3))
    return edges, wider


_start = jax.jit(start, static_argnums=1)  # one program, not one an operation


class _Pool:
    """The state of every crystal on the host, moved in and out of packs."""

    def __init__(self, crystals: Dataset, settings: Fire):
        m, n = len(crystals), len(crystals.frac)
        frac, lattice = np.array(crystals.frac, np.float32), np.array(crystals.lattice, np.float32)
        self.crystals = replace(crystals, frac=frac, lattice=lattice)
        self.change = _reduce_skewed(self.crystals)
        self.given_lattice = lattice.copy()
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
        state = jax.tree.map(np.array, _start(pack, self.settings))
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
        for row in rows[~state.valid[:k]]:
            self.reason[row] = self._why(row)
        return rows[state.overflow[:k] & state.valid[:k]]

    def give_up(self, rows: np.ndarray, reason: str) -> None:
        self.valid[rows], self.reason[rows] = False, reason

    def _why(self, row: int) -> str:
        """What is wrong with a crystal that broke."""
        sites = datasets.site_index(self.crystals, np.array([row]))
        frac, lattice = (x.astype(float) for x in (self.crystals.frac[sites], self.crystals.lattice[row]))
        if not (np.isfinite(frac).all() and np.isfinite(lattice).all()):
            return "positions or cell are not finite"
        volume, given = (abs(np.linalg.det(x.astype(float))) for x in (lattice, self.given_lattice[row]))
        low, high = self.settings.volume_range
        if given <= 1e-6:
            return "the cell has no volume"
        if not low < volume / given < high:
            return f"the volume ran away, to {volume / given:.2g} of what it was"
        if len(crystal_edges(frac, lattice, self.settings.closest_angstrom)[0]):
            return f"atoms closer than {self.settings.closest_angstrom} Å"
        return "the potential gives no finite energy: an element that it does not know?"

    def result(self) -> Relaxed:
        for row, change in self.change.items():
            sites = datasets.site_index(self.crystals, np.array([row]))
            self.crystals.frac[sites] = datasets.wrap(self.crystals.frac[sites] @ change)
            self.crystals.lattice[row] = np.linalg.inv(change).round() @ self.crystals.lattice[row]
        energy, fmax = (np.where(np.isfinite(x), x, np.nan) for x in (self.energy, self.fmax))
        return Relaxed(self.crystals, energy, fmax, self.steps, self.converged, self.valid, self.reason)


def _reduce_skewed(crystals: Dataset) -> dict[int, np.ndarray]:
    """Replace badly skewed cells by reduced ones, in place; the whole-number changes of basis, by row."""
    with np.errstate(all="ignore"):
        lattice = crystals.lattice.astype(float)
        skew = (np.linalg.norm(lattice, axis=-1) / plane_spacings(lattice)).max(-1)
    changes, reduce = {}, jax.jit(niggli)
    for row in np.flatnonzero(np.isfinite(skew) & (skew > SKEWED)):
        change = changes[int(row)] = np.asarray(reduce(crystals.lattice[row])[1], float)
        sites = datasets.site_index(crystals, np.array([row]))
        crystals.frac[sites] = datasets.wrap(crystals.frac[sites] @ np.linalg.inv(change).round())
        crystals.lattice[row] = change @ lattice[row]
    return changes


def _cells(motion: Motion) -> tuple[np.ndarray, ...]:
    """The leaves with a row a crystal."""
    return tuple(motion._replace(velocity=None))[:1] + tuple(motion)[2:]
