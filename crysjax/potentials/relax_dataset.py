"""Relaxation of a whole data set: packs are refilled as crystals finish, graphs regrown where they overflow."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import numpy as np

from crysjax.base import Params
from crysjax.data import batching
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset
from crysjax.data.reasons import codes
from crysjax.geometry.neighbors import needed_images
from crysjax.potentials.pool import MOST_IMAGES, SPARE, Pool, too_thin
from crysjax.potentials.relax import AS_USUAL, ForceField, Relax, Relaxation, checked, relax

ON_CPU = 64  # sites of a pack whose arrays stay in the cache
MOVES = {"energy", "enthalpy", "force", "forces", "fmax", "stress", "virial", "virials", "pressure", "potential",
         "hull", "volume", "density"}  # fmt: skip
"""Words in names of columns that belong to positions and cell: a crystal that moves does not keep them as labels."""


class Size(NamedTuple):
    """What a pack has room for."""

    shape: Capacity
    edges: int
    images: tuple[int, int, int]


class RelaxedSet(NamedTuple):
    """One row per crystal of the data set; NaN energy and forces where nothing could be computed."""

    crystals: Dataset
    energy: np.ndarray  # (m,) eV, enthalpy where a pressure is set
    fmax: np.ndarray  # (m,) eV/Å
    steps: np.ndarray  # (m,) evaluations of energy, forces and stress
    converged: np.ndarray  # (m,) bool
    valid: np.ndarray  # (m,) bool
    reason: np.ndarray  # (m,) str: why not valid, "" where it is
    energy_std: np.ndarray | None = None  # (m,) eV, by an ensemble: how far its members are apart

    @property
    def code(self) -> np.ndarray:
        """The codes of the reasons (`data.reasons`), "not_converged" where the steps were used up: (m,) str."""
        return np.where(self.valid & ~self.converged, "not_converged", codes(self.reason))


def relax_dataset(
    energy_forces_stress: ForceField,
    params: Params,
    crystals: Dataset,
    *,
    cutoff_angstrom: float,
    known: tuple[int, ...] | None = None,
    settings: Relax = AS_USUAL,
    max_steps: int = 200,
    skin_angstrom: float = 0.3,
    keep_symmetry_angstrom: float | None = None,
    sites: int | None = None,
    chunk: int = 20,
    progress: Callable[[int, int], None] | None = None,
    record: Callable[[np.ndarray, np.ndarray, Dataset], None] | None = None,
) -> RelaxedSet:
    """Relax every crystal by at most `max_steps` evaluations; one with an element that is not `known` has a reason.

    So has one in which no two atoms are within the cutoff, given so or fallen apart: it is at rest and not relaxed.

    The relaxed crystals do not keep what was known of the given positions and cells: see `unlabeled`.
    Badly skewed cells are relaxed in their reduced setting, which needs far fewer images, and handed back in their own.
    With `keep_symmetry_angstrom`, the operations that spglib finds within that tolerance are made exact and kept.
    Packs of `sites` sites (None: as the memory at hand allows) run up to `chunk` steps at a time, as many packs at once
    as a CPU has cores (up to four); when a third of a pack is done, waiting crystals take the room. An overflow makes
    the capacity for edges or images larger (which compiles again), a lack of memory makes packs half as large, and the
    crystals go on where they stopped. `progress` is told how many are done, of how many; `record`, after every chunk,
    which rows moved, their energies in eV and their crystals: trajectories.

    The same call gives the same bits. With other crystals beside it, or in another order, a crystal has another place
    in a pack or a pack of another size, and compiled sums may be taken in another order: forces then differ by rounding
    in single precision, and a descent carries that on. Where both runs end in one minimum they agree to 1e-6 eV/atom,
    1e-5 in fractions and 1e-4 Å in the cell (measured with the student: 4e-7, 8e-6 and 7e-6).
    """
    pool = Pool(unlabeled(crystals), checked(settings), cutoff_angstrom + skin_angstrom, keep_symmetry_angstrom)
    if known is not None:
        pool.refuse_unknown(known)
    size = _first_size(pool, sites or ON_CPU)

    def go_on(size: Size, rows: np.ndarray, left_over: bool) -> Relaxation:
        run = _compiled(energy_forces_stress, cutoff_angstrom, size[1:], settings, skin_angstrom, chunk)
        least = int(crystals.num_atoms[rows].sum()) * 2 // 3 if left_over else 1
        return jax.tree.map(np.asarray, run(params, pool.load(rows, size.shape), max_steps, least))

    if sites is None and jax.default_backend() != "cpu" and len(crystals):
        run = _compiled(energy_forces_stress, cutoff_angstrom, size[1:], settings, skin_angstrom, chunk)
        state = pool.load(np.arange(1), size.shape)
        size = _first_size(pool, _fitting_sites(run, params, state, size.shape.sites, len(crystals.frac)))
    with ThreadPoolExecutor(_together()) as workers:
        while len(waiting := pool.waiting(max_steps)):
            groups = _groups(pool, waiting, size)[: _together()]
            left_over = len(waiting) > sum(map(len, groups))
            try:
                found = list(workers.map(partial(go_on, size, left_over=left_over), groups))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or size.shape.sites == int(crystals.num_atoms.max()):
                    raise
                size = _first_size(pool, size.shape.sites // 2)
                continue
            for rows, done in zip(groups, found):
                before = pool.steps[rows]
                stuck = pool.store(rows, done)
                size = _grown(pool, stuck, size) if len(stuck) else size
                moved = rows[pool.steps[rows] > before]
                if record is not None and len(moved):
                    record(moved, pool.energy[moved], pool.snapshot(moved))
            if progress is not None:
                progress(len(crystals) - len(pool.waiting(max_steps)), len(crystals))
    pool.refuse_lonely(cutoff_angstrom)
    energy, fmax = (np.where(np.isfinite(x), x, np.nan) for x in (pool.energy, pool.fmax))
    relaxed = pool.snapshot(np.arange(len(crystals)))
    return RelaxedSet(relaxed, energy, fmax, pool.steps, pool.converged, pool.valid, pool.reason)


def unlabeled(crystals: Dataset) -> Dataset:
    """The crystals without energies, forces, stresses and whatever else names one of `MOVES`."""

    def kept(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: x for name, x in columns.items() if not MOVES & set(re.split(r"[\W_]+", name.lower()))}

    return replace(crystals, properties=kept(crystals.properties), site_properties=kept(crystals.site_properties))


def _together() -> int:
    """Packs at once: an accelerator is filled by one, and one on a CPU does not fill its cores."""
    return min(os.cpu_count() or 1, 4) if jax.default_backend() == "cpu" else 1


def _groups(pool: Pool, waiting: np.ndarray, size: Size) -> list[np.ndarray]:
    """Waiting crystals in packs of this size, those under way first; the last pack may not be full."""
    waiting = waiting[: 4 * _together() * size.shape.crystals]  # more than the next packs hold
    need = np.minimum(pool.edges(waiting), size.edges)
    atoms = pool.crystals.num_atoms[waiting]
    packed = batching.assign(atoms, size.shape, open_packs=4, edges=need, max_edges=size.edges)
    return [waiting[np.array(group)] for group in packed]


def _fitting_sites(program: Callable, params: Params, state: Relaxation, sites: int, most: int) -> int:
    """Sites of a pack that takes up to half of an accelerator's memory, as the compiler counts what `sites` take."""
    memory = jax.local_devices()[0].memory_stats() or {}
    takes = program.lower(params, state, 0, 1).compile().memory_analysis().temp_size_in_bytes
    return int(min(max(sites * (memory.get("bytes_limit", 0) // 2) // max(takes, 1), sites), most))


def _shape(num_atoms: np.ndarray, sites: int) -> Capacity:
    """A pack of about `sites` sites, large enough for the largest crystal, with room for many small ones."""
    largest = int(num_atoms.max(initial=1))
    sites = max(sites, largest)
    if _are_few(num_atoms, sites):
        largest = min(max(_power_of_two(largest), 16), sites)
    return Capacity(sites, max(sites * (largest - 1) // 2, 1), max(sites // 3, 1))


def _are_few(num_atoms: np.ndarray, sites: int) -> bool:
    """Whether compiling takes longer than relaxing: then sizes are coarse, so that the next few find them compiled."""
    return int(num_atoms.sum()) <= 2 * sites


def _power_of_two(size: float) -> int:
    return 1 << (max(int(np.ceil(size)), 1) - 1).bit_length()


def _first_size(pool: Pool, sites: int) -> Size:
    """Room for typical full packs, for the crystal of most edges that is not out of all proportion, and its images."""
    atoms, lattice = pool.crystals.num_atoms, pool.crystals.lattice.astype(float)
    shape, edges = _shape(atoms, sites), pool.edges(np.arange(len(atoms)))
    sound = edges > 0
    if not sound.any():
        return Size(shape, 64, (1, 1, 1))
    typical = edges[sound].sum() / atoms[sound].sum() * shape.sites
    usual = edges[edges <= 4 * typical].max(initial=0)
    images = np.maximum(needed_images(lattice[sound], pool.reach * SPARE).max(0), 2)  # fewer would soon be too few
    rounded = _power_of_two if _are_few(atoms, shape.sites) else _even
    return Size(shape, rounded(max(typical, usual)), tuple(int(k) for k in images))


def _even(edges: float) -> int:
    """Rounded up to one of few sizes, by a quarter at most, so that compiled programs are used again."""
    step = max(256, 2 ** (int(edges).bit_length() - 3))
    return int(-(-edges // step) * step)


@lru_cache(maxsize=16)  # a campaign relaxes a few crystals per round, by the same potential
def _compiled(
    forces: ForceField, cutoff: float, grown: tuple, settings: Relax, skin: float, chunk: int
) -> Callable[[Params, Relaxation, int, int], Relaxation]:
    edges, images = grown
    return jax.jit(
        lambda params, state, limit, least: relax(
            forces, params, state, cutoff_angstrom=cutoff, max_edges=edges, max_images=images, settings=settings,
            max_steps=chunk, limit=limit, least_running=least, skin_angstrom=skin,
        )
    )  # fmt: skip


def _grown(pool: Pool, stuck: np.ndarray, size: Size) -> Size:
    """A size in which crystals that got stuck can go on; those that none holds are given up.

    Their next pack has more room for each of them; the capacity for edges grows where one alone needs more.
    """
    needed = np.nan_to_num(needed_images(pool.crystals.lattice[stuck].astype(float), pool.reach * SPARE), nan=np.inf)
    hopeless = (needed > MOST_IMAGES).any(-1)
    for row in stuck[hopeless]:
        lattice, sites = pool.crystals.lattice[row].astype(float), int(pool.crystals.num_atoms[row])
        pool.give_up(np.array([row]), too_thin(lattice, sites, pool.reach * SPARE))
    if hopeless.all():
        return size
    images = tuple(int(max(a, b)) for a, b in zip(size.images, needed[~hopeless].max(0)))
    pool.margin[stuck] *= 1.15  # counts at the very cutoff differ by rounding, yet something has to grow
    wanted = int(pool.edges(stuck[~hopeless]).max())
    return size._replace(edges=size.edges if wanted <= size.edges else _even(wanted * 1.1), images=images)
