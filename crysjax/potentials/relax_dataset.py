"""Relaxation of a whole data set: packs are refilled as crystals finish, graphs regrown where they overflow."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np

from crysjax.base import Params
from crysjax.data import batching
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset
from crysjax.geometry.neighbors import needed_images, radius_graph_host
from crysjax.potentials.pool import Pool
from crysjax.potentials.relax import AS_USUAL, ForceField, Relax, Relaxation, relax

MOST_IMAGES = 8  # along one axis; a reduced cell that needs more is no crystal
ON_CPU = 64  # sites of a pack whose arrays stay in the cache
SPARE = 1.05  # of the reach: cells shrink, and images at the very reach are a matter of rounding


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
    settings: Relax = AS_USUAL,
    max_steps: int = 200,
    skin_angstrom: float = 0.5,
    keep_symmetry_angstrom: float | None = None,
    sites: int | None = None,
    chunk: int = 20,
    progress: Callable[[int, int], None] | None = None,
    record: Callable[[np.ndarray, np.ndarray, Dataset], None] | None = None,
) -> Relaxed:
    """Relax every crystal by at most `max_steps` evaluations.

    Badly skewed cells are relaxed in their reduced setting, which needs far fewer images, and handed back in their own.
    With `keep_symmetry_angstrom`, the operations that spglib finds within that tolerance are made exact and kept.
    Packs of `sites` sites (None: as the memory at hand allows) run `chunk` steps at a time; then finished crystals make
    room for waiting ones. An overflow makes the capacity for edges or images larger (which compiles again), a lack of
    memory makes packs half as large, and the crystals go on where they stopped. `progress` is told how many are done,
    of how many; `record`, after every chunk, which rows moved, their energies in eV and their crystals: trajectories.
    """
    pool = Pool(crystals, settings, keep_symmetry_angstrom)
    reach = cutoff_angstrom + skin_angstrom
    shape = _shape(crystals.num_atoms, sites or ON_CPU)
    grown = _first_size(pool.crystals, reach, shape)

    def program() -> Callable:
        return _compiled(energy_forces_stress, cutoff_angstrom, grown, settings, skin_angstrom, chunk)

    if sites is None and jax.default_backend() != "cpu" and len(crystals):
        wider = _fitting_sites(program(), params, pool.load(np.arange(1), shape), shape.sites, len(crystals.frac))
        shape = _shape(crystals.num_atoms, wider)
        grown = _first_size(pool.crystals, reach, shape)
    while len(waiting := pool.waiting(max_steps)):
        waiting = waiting[: shape.crystals]  # no pack holds more
        group = np.array(batching.assign(crystals.num_atoms[waiting], shape, open_packs=1)[0])
        rows = waiting[group]
        try:
            done = jax.tree.map(np.asarray, program()(params, pool.load(rows, shape), max_steps))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or shape.sites == int(crystals.num_atoms.max()):
                raise
            shape = _shape(crystals.num_atoms, shape.sites // 2)
            grown = _first_size(pool.crystals, reach, shape)
            continue
        stuck = pool.store(rows, done)
        if len(stuck):
            grown = _grow(pool, stuck, rows, reach, shape, grown)
        if record is not None:
            record(rows, pool.energy[rows], pool.snapshot(rows))
        if progress is not None:
            progress(len(crystals) - len(pool.waiting(max_steps)), len(crystals))
    energy, fmax = (np.where(np.isfinite(x), x, np.nan) for x in (pool.energy, pool.fmax))
    relaxed = pool.snapshot(np.arange(len(crystals)))
    return Relaxed(relaxed, energy, fmax, pool.steps, pool.converged, pool.valid, pool.reason)


def _fitting_sites(program: Callable, params: Params, state: Relaxation, sites: int, most: int) -> int:
    """Sites of a pack that takes up to half of an accelerator's memory, as the compiler counts what `sites` take."""
    memory = jax.local_devices()[0].memory_stats() or {}
    takes = program.lower(params, state, 0).compile().memory_analysis().temp_size_in_bytes
    return int(min(max(sites * (memory.get("bytes_limit", 0) // 2) // max(takes, 1), sites), most))


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
    forces: ForceField, cutoff: float, grown: tuple, settings: Relax, skin: float, chunk: int
) -> Callable[[Params, Relaxation, int], Relaxation]:
    edges, images = grown
    return jax.jit(
        lambda params, state, limit: relax(
            forces, params, state, cutoff_angstrom=cutoff, max_edges=edges, max_images=images, settings=settings,
            max_steps=chunk, limit=limit, skin_angstrom=skin,
        )
    )  # fmt: skip


def _grow(pool: Pool, stuck: np.ndarray, rows: np.ndarray, reach: float, shape: Capacity, grown: tuple) -> tuple:
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
