"""The crystals that a relaxation works on, on the host: their state between the packs that they pass through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import jax
import numpy as np

from crysjax.crystallography import operations
from crysjax.data import batching, datasets
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset
from crysjax.geometry.neighbors import crystal_edges, needed_images, plane_spacings
from crysjax.geometry.reduction import niggli
from crysjax.geometry.soundness import NOT_FINITE, no_volume
from crysjax.potentials.mlip import unknown
from crysjax.potentials.relax import Relax, Relaxation, Symmetry, start

MOST_IMAGES = 8  # along one axis; a reduced cell that needs more is no crystal
SPARE = 1.05  # of the reach: cells shrink, and images at the very reach are a matter of rounding
SKEWED = 2.0  # longest edge over the distance of its planes; reduced cells reach the root of 2 (face-centered cubic)

_start = jax.jit(start, static_argnums=1)  # one program, not one per operation


class Pool:
    """The state of every crystal, moved in and out of packs.

    With a tolerance of symmetry, the operations that a crystal has at the start are made exact and kept.
    """

    def __init__(self, crystals: Dataset, settings: Relax, reach: float, symmetry_angstrom: float | None = None):
        m = len(crystals)
        self.reach, self.margin = reach, np.full(m, 1.05)  # cells shrink
        self.counted = np.full(m, -1, np.int64)  # edges, until a crystal moves
        frac, lattice = np.array(crystals.frac, np.float32), np.array(crystals.lattice, np.float32)
        self.crystals = replace(crystals, frac=frac, lattice=lattice)
        self.change = reduce_skewed(self.crystals)
        self.kept = [] if symmetry_angstrom is None else _make_symmetric(self.crystals, symmetry_angstrom)
        self.given_lattice = self.crystals.lattice.copy()
        self.energy, self.fmax = np.full(m, np.inf, np.float32), np.full(m, np.inf, np.float32)
        self.steps, self.converged = np.zeros(m, np.int32), np.zeros(m, bool)
        self.valid, self.reason = np.ones(m, bool), np.full(m, "", "<U160")
        self.settings = settings
        self.memory: dict[int, tuple[list, list]] = {}  # of crystals under way: leaves by site, leaves by crystal

    def waiting(self, max_steps: int) -> np.ndarray:
        """Crystals that have to go on, those under way first."""
        left = np.flatnonzero(self.valid & ~self.converged & (self.steps < max_steps))
        return left[np.argsort(self.steps[left] == 0, kind="stable")]

    def edges(self, rows: np.ndarray) -> np.ndarray:
        """Edges within `reach` that the crystals are given room for; 0 for cells that no graph can be made of."""
        new = rows[self.counted[rows] < 0]
        self.counted[new] = 0
        with np.errstate(all="ignore"):
            images = needed_images(self.crystals.lattice[new].astype(float), self.reach * SPARE)
        for row in new[np.isfinite(images).all(-1) & (images <= MOST_IMAGES).all(-1)]:
            frac = self.crystals.frac[datasets.site_index(self.crystals, np.array([row]))]
            if np.isfinite(frac).all():
                self.counted[row] = 2 * len(crystal_edges(frac, self.crystals.lattice[row], self.reach)[0])
        return np.ceil(self.counted[rows] * self.margin[rows]).astype(np.int64)

    def load(self, rows: np.ndarray, shape: Capacity) -> Relaxation:
        """The state of a pack of these crystals."""
        pack = batching.pack_rows(self.crystals, rows, shape)
        symmetry = self._symmetry(rows, shape) if self.kept else None
        state = jax.tree.map(np.array, _start(pack, self.settings, symmetry))
        by_site, by_cell = _leaves(state)
        ends = np.cumsum(self.crystals.num_atoms[rows])
        for slot, (row, end) in enumerate(zip(rows.tolist(), ends)):
            part = slice(end - self.crystals.num_atoms[row], end)
            old_sites, old_cells = self.memory.get(row, ([], []))
            for leaf, old in zip(by_site, old_sites):
                leaf[part] = old
            for leaf, old in zip(by_cell, old_cells):
                leaf[slot] = old
        for leaf, kept in zip((state.energy, state.fmax, state.steps), (self.energy, self.fmax, self.steps)):
            leaf[: len(rows)] = kept[rows]
        return state

    def store(self, rows: np.ndarray, state: Relaxation) -> np.ndarray:
        """Take the pack back; the rows that stopped because their graph did not fit."""
        sites, k = datasets.site_index(self.crystals, rows), len(rows)
        self.crystals.frac[sites] = state.pack.frac[: len(sites)]
        self.crystals.lattice[rows] = state.pack.lattice[:k]
        self.counted[rows] = -1
        for name in ("energy", "fmax", "steps", "converged", "valid"):
            getattr(self, name)[rows] = getattr(state, name)[:k]
        by_site, by_cell = _leaves(state)
        ends = np.cumsum(self.crystals.num_atoms[rows])
        for slot, (row, end) in enumerate(zip(rows.tolist(), ends)):
            part = slice(end - self.crystals.num_atoms[row], end)
            if self.converged[row] or not self.valid[row]:
                self.memory.pop(row, None)
            else:
                self.memory[row] = [leaf[part].copy() for leaf in by_site], [leaf[slot].copy() for leaf in by_cell]
        for row in rows[~state.valid[:k]]:
            self.reason[row] = self._why(row)
        return rows[state.overflow[:k] & state.valid[:k]]

    def give_up(self, rows: np.ndarray, reason: str) -> None:
        self.valid[rows], self.reason[rows] = False, reason

    def refuse_unknown(self, known: Iterable[int]) -> None:
        """Give up crystals with elements that the potential does not know."""
        start, known = datasets.offsets(self.crystals), list(known)
        for site in np.flatnonzero(~np.isin(self.crystals.numbers, known)):
            row = np.searchsorted(start, site, side="right") - 1
            if self.valid[row]:
                self.give_up(np.array([row]), unknown(known, self.crystals.numbers[start[row] : start[row + 1]]))

    def refuse_lonely(self, cutoff_angstrom: float) -> None:
        """Give up crystals at rest because no two of their atoms see one another: no force says that they hold."""
        for row in np.flatnonzero(self.converged & self.valid & (self.fmax == 0)):
            frac = self.crystals.frac[datasets.site_index(self.crystals, np.array([row]))].astype(float)
            if not len(crystal_edges(frac, self.crystals.lattice[row].astype(float), cutoff_angstrom)[0]):
                self.converged[row] = False
                why = f"no two atoms within {cutoff_angstrom:g} Å, the cutoff of the potential: nothing to relax"
                self.give_up(np.array([row]), why)

    def snapshot(self, rows: np.ndarray) -> Dataset:
        """These crystals as they are now, in the cells that they were given in."""
        now = datasets.take(self.crystals, rows)
        return _given_back(now, {i: self.change[row] for i, row in enumerate(rows.tolist()) if row in self.change})

    def _symmetry(self, rows: np.ndarray, shape: Capacity) -> Symmetry:
        """The operations of a pack, padded to the most that any crystal of the pool has."""
        most = max(len(found.rotation) for found in self.kept)
        rotation = np.tile(np.eye(3, dtype=np.float32), (shape.crystals, most, 1, 1))
        image = np.tile(np.arange(shape.sites, dtype=np.int32)[:, None], (1, most))
        weight, first = np.zeros((shape.crystals, most), np.float32), 0
        for slot, row in enumerate(rows):
            found, n = self.kept[row], int(self.crystals.num_atoms[row])
            k = len(found.rotation)
            rotation[slot, :k] = operations.cartesian(found, self.given_lattice[row].astype(float))
            image[first : first + n, :k] = found.image.T + first
            weight[slot, :k] = 1 / k
            first += n
        return Symmetry(rotation, image, weight)

    def _why(self, row: int) -> str:
        """What is wrong with a crystal that broke."""
        sites = datasets.site_index(self.crystals, np.array([row]))
        frac, lattice = (x.astype(float) for x in (self.crystals.frac[sites], self.crystals.lattice[row]))
        if not (np.isfinite(frac).all() and np.isfinite(lattice).all()):
            return NOT_FINITE
        volume, given = (abs(np.linalg.det(x.astype(float))) for x in (lattice, self.given_lattice[row]))
        low, high = self.settings.volume_range
        if given <= 1e-6:
            return no_volume(lattice, len(frac), 1e-6)
        if not low < volume / given < high:
            now = f"{volume / given:.2g} of what it was, {volume / len(frac):.3g} Å³ per atom"
            return f"the volume ran away, to {now}; expected {low:g} to {high:g} times the volume given"
        if len(crystal_edges(frac, lattice, self.settings.closest_angstrom)[0]):
            return f"atoms closer than {self.settings.closest_angstrom} Å"
        return "the potential gives no finite energy: an element that it does not know?"


def too_thin(lattice: np.ndarray, sites: int, reach: float, most: int = MOST_IMAGES) -> str:
    """What is said of a cell (3, 3) of which more than `most` images an axis lie within reach."""
    with np.errstate(all="ignore"):
        apart, volume = plane_spacings(lattice).min(), abs(np.linalg.det(lattice)) / sites
    return (
        f"the cell needs more than {most} images along an axis: {volume:.3g} Å³ per atom, its lattice planes "
        f"{apart:.2g} Å apart; expected at least {reach / (most + 0.5):.2g} Å"
    )


def _leaves(state: Relaxation) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What moves with a crystal from pack to pack: leaves with one row per site, and with one row per crystal."""
    motion = state.motion
    return jax.tree.leaves(motion.memory.sites), [
        motion.deformation,
        motion.lattice_0,
        *jax.tree.leaves(motion.memory.cells),
    ]


def _make_symmetric(crystals: Dataset, tolerance: float) -> list[operations.FoundOperations]:
    """The operations of every crystal, made exact in place."""
    kept = []
    for row, entry in enumerate(datasets.entries(crystals)):
        found = operations.operations(entry, tolerance_angstrom=tolerance)
        if len(found.rotation) > 1:
            sites = datasets.site_index(crystals, np.array([row]))
            crystals.frac[sites], crystals.lattice[row] = operations.symmetrized(entry, found)
        kept.append(found)
    return kept


def reduce_skewed(crystals: Dataset) -> dict[int, np.ndarray]:
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


def _given_back(crystals: Dataset, changes: dict[int, np.ndarray]) -> Dataset:
    """The crystals in the cells that they had before `reduce_skewed`."""
    frac, lattice = crystals.frac.copy(), crystals.lattice.copy()
    for row, change in changes.items():
        sites = datasets.site_index(crystals, np.array([row]))
        frac[sites] = datasets.wrap(frac[sites] @ change)
        lattice[row] = np.linalg.inv(change).round() @ lattice[row]
    return replace(crystals, frac=frac, lattice=lattice)
