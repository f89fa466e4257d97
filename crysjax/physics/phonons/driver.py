"""Phonons of a crystal by an interatomic potential, and what to do about a soft mode.

The host chooses cells, symmetry and the one radius graph of the supercell; Hessian-vector products are one compiled
program for a shape of it, and shapes are rounded up so that many crystals share one. A supercell shorter than twice the
reach of the potential (its cutoff times its layers) folds force constants onto each other: the frequencies are then
exact at wave vectors that fit into it and interpolated elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Pack, Params
from crysjax.chemistry.element_properties import masses_amu
from crysjax.crystallography import symmetry_finder
from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.data.readers.convert import as_entry
from crysjax.geometry import supercells
from crysjax.geometry.lattice import inverse
from crysjax.geometry.neighbors import Graph, radius_graph_host
from crysjax.geometry.supercells import Images, Supercell
from crysjax.physics.phonons import vibrations
from crysjax.potentials.mlip import Potential, unknown
from crysjax.potentials.relax import Relax
from crysjax.potentials.relax_dataset import relax_dataset

STABLE_THZ = -0.1
"""Lower (more imaginary) frequencies are instabilities; nearer to 0 they are rounding or interpolation."""
TIGHT = Relax(fmax_ev_angstrom=0.003)


class Phonons(NamedTuple):
    """The harmonic lattice of a crystal; host arrays in double precision. Not `valid`: see `reason`, no modes."""

    crystal: Entry  # the primitive, reduced, idealized cell that everything else refers to
    cell: Supercell
    images: Images
    masses: np.ndarray  # (n,) amu
    constants: np.ndarray  # (n, N, 3, 3) eV/Å²
    q: np.ndarray  # (k, 3) mesh of wave vectors, in reciprocal fractions
    weight: np.ndarray  # (k,)
    frequencies: np.ndarray  # (k, 3n) THz, imaginary ones negative
    energy_ev_per_atom: float
    products: int  # Hessian-vector products that were computed
    valid: bool
    reason: str


def phonons(
    potential: Potential,
    params: Params,
    crystal: Entry,
    *,
    length_angstrom: float = 10.0,
    mesh_per_angstrom: float = 0.02,
    tolerance_angstrom: float = 0.01,
    largest_force_ev_angstrom: float = 0.05,
    together: int = 1,
) -> Phonons:
    """Force constants of a relaxed crystal and its frequencies on a mesh of wave vectors.

    `length_angstrom` is the least edge of the supercell, `mesh_per_angstrom` the step between wave vectors (without
    2π), `tolerance_angstrom` spglib's. A crystal with forces above the limit is at no minimum and not valid, as is one
    for which the potential gives no finite answer. `together` products are computed at once, which takes memory.
    """
    entry, rotations, translations = primitive(crystal, tolerance_angstrom)
    repeats = supercells.repeats_for(entry.lattice, length_angstrom)
    cell = supercells.supercell(entry.frac, entry.lattice, repeats)
    maps = supercells.site_maps(entry.frac, entry.lattice, entry.numbers, rotations, translations, repeats)
    todo = vibrations.plan(maps, cell)
    rows, slope, energy = _rows(potential, params, entry, cell, todo, together)
    reason = unknown(potential.numbers, entry.numbers) or _wrong(rows, slope, energy, largest_force_ev_angstrom)
    with jax.enable_x64(True):
        constants = vibrations.complete(*_double(np.nan_to_num(rows)), todo)
        constants = np.asarray(vibrations.symmetrized(constants, cell))
    q, weight = vibrations.mesh(entry.lattice, mesh_per_angstrom)
    found = Phonons(
        entry, cell, supercells.nearest_images(cell), masses_amu()[np.asarray(entry.numbers) - 1], constants, q, weight,
        np.full((len(q), 3 * len(entry.frac)), np.nan), energy / len(cell.atom), len(rows), not reason, reason,
    )  # fmt: skip
    return found._replace(frequencies=frequencies_at(found, q)) if found.valid else found


def _wrong(rows: np.ndarray, slope: np.ndarray, energy: float, limit: float) -> str:
    """Why these are no force constants, "" where they are."""
    if not (np.isfinite(energy) and np.isfinite(rows).all()):
        return "the potential gives no finite answer: touching atoms?"
    largest = np.linalg.norm(slope, axis=-1).max()
    return "" if largest <= limit else f"forces of {largest:.3g} eV/Å remain; relax the crystal first"


def primitive(crystal: Entry, tolerance_angstrom: float) -> tuple[Entry, np.ndarray, np.ndarray]:
    """The primitive, idealized, Niggli-reduced cell with its operations W (g, 3, 3) and w (g, 3)."""
    given = as_entry(crystal)
    cell = given.lattice, given.frac, given.numbers
    cell, why = symmetry_finder.ask("standardize_cell", cell, tolerance_angstrom, to_primitive=True, no_idealize=False)
    reduced = None if cell is None else symmetry_finder.niggli_reduced(cell[0])
    if reduced is None:
        why = why if why and not why.startswith("spglib") else "spglib finds no primitive cell"
        raise ValueError(f"{given.id or 'crystal'}: {why} at {tolerance_angstrom} Å")
    frac = np.mod(cell[1] @ cell[0] @ np.linalg.inv(reduced), 1.0)
    found, _ = symmetry_finder.ask("get_symmetry", (reduced, frac, cell[2]), tolerance_angstrom)
    if found is None:
        raise ValueError(f"{given.id or 'crystal'}: spglib finds no symmetry at {tolerance_angstrom} Å")
    return Entry(given.id, np.asarray(cell[2]), frac, reduced, {}), found["rotations"], found["translations"]


def frequencies_at(found: Phonons, q: np.ndarray) -> np.ndarray:
    """Frequencies in THz at wave vectors (k, 3) in fractions of the reciprocal lattice of `found.crystal`: (k, 3n)."""
    with jax.enable_x64(True):
        run = jax.jit(partial(vibrations.frequencies, cell=found.cell, images=found.images))
        return np.asarray(run(*_double(found.constants, found.masses, q)))


def modes_at(found: Phonons, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (3n,) in THz and eigenvectors (3n, 3n), in columns, at one wave vector (3,)."""
    with jax.enable_x64(True):
        given = _double(found.constants, found.masses, q)
        found = vibrations.modes(vibrations.dynamical_matrix(*given, found.cell, found.images))
        return tuple(np.asarray(x) for x in found)


def _double(*arrays: np.ndarray) -> list[Array]:
    return [jnp.asarray(x, jnp.float64) for x in arrays]


# Hessian-vector products of a potential


def _rows(
    potential: Potential, params: Params, entry: Entry, cell: Supercell, todo: vibrations.Displacements, together: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """The plan's Hessian rows (h, N, 3), the slope (N, 3) in eV/Å, and the energy in eV of the supercell."""
    n, sites = len(cell.atom), _room(len(cell.atom), 64)
    pack, graph = supercell_graph(entry, cell, potential.cutoff_angstrom, sites)
    products = _products(potential.energy, together)
    wanted = vibrations.tangents(todo, sites).astype(np.float32)
    parts, slope, energy = [], np.zeros((sites, 3)), np.nan
    for first in range(0, len(wanted), together):
        chunk = np.zeros((together, sites, 3), np.float32)
        chunk[: len(wanted) - first] = wanted[first : first + together]
        rows, slope, energy = (np.asarray(x) for x in products(params, pack, graph, chunk))
        parts.append(rows[: len(wanted) - first, :n])
        if not np.isfinite(energy):
            break
    return np.concatenate(parts), slope[:n], float(energy)


def supercell_graph(entry: Entry, cell: Supercell, cutoff_angstrom: float, sites: int) -> tuple[Pack, Graph]:
    """A supercell as a pack of one crystal with `sites` slots, and its radius graph with room rounded up."""
    n = len(cell.atom)
    occupancy, frac = np.zeros((sites, NUM_SPECIES)), np.zeros((sites, 3))
    occupancy[np.arange(n), np.asarray(entry.numbers)[cell.atom] - 1] = 1
    frac[:n] = cell.frac
    no_pairs = np.zeros((1, 2), np.int32), np.zeros(1, np.float32)  # only a traced graph would read them
    pack = Pack(occupancy, frac, cell.lattice[None], np.zeros(sites, np.int32), *no_pairs)
    graph = radius_graph_host(pack, cutoff_angstrom)
    spare = (_room(len(graph.sender), 1024) - len(graph.sender)) // 2
    padded = [_padded(leaf, spare, n - 1) for leaf in graph[:2]] + [_padded(leaf, spare, 0) for leaf in graph[2:4]]
    pack = Pack(*(x.astype(np.float32) if x.dtype == float else x for x in pack))
    return pack, Graph(*padded[:3], padded[3].astype(np.float32), graph.overflow)


def _room(count: int, least: int) -> int:
    """The next power of two: few sizes, so that compiled programs, which are slow to make, are used again."""
    return max(least, 2 ** int(count - 1).bit_length())


def _padded(leaf: np.ndarray, spare: int, fill: int) -> np.ndarray:
    """Both halves of a list of edges, each with `spare` more rows: opposite edges stay half the list apart."""
    more = np.full((spare, *leaf.shape[1:]), fill, leaf.dtype)
    first, second = np.split(leaf, 2)
    return np.concatenate([first, more, second, more])


@lru_cache(maxsize=4)
def _products(energy: Callable, together: int) -> Callable:
    """(params, pack, graph, tangents) -> Hessian rows, slope, energy; one program per potential and shape."""

    def rows(params: Params, pack: Pack, graph: Graph, tangents: Array) -> tuple[Array, Array, Array]:
        back = inverse(pack.lattice[0])

        def displaced(d: Array) -> Array:
            return energy(params, pack._replace(frac=pack.frac + d @ back), graph)[0]

        return vibrations.hessian_rows(displaced, tangents, together=together)

    return jax.jit(rows)


# Relaxation, and what to do about a soft mode


def relaxed(
    potential: Potential,
    params: Params,
    crystals: list[Entry],
    *,
    settings: Relax = TIGHT,
    max_steps: int = 400,
    keep_symmetry_angstrom: float | None = 0.01,
) -> list[tuple[Entry, float, str]]:
    """Each crystal relaxed, its energy in eV per atom (NaN without one), and why it is no minimum ("" where it is)."""
    given = datasets.from_entries(crystals)
    found = relax_dataset(
        potential.energy_forces_stress, params, given, cutoff_angstrom=potential.cutoff_angstrom,
        known=potential.numbers, settings=settings,
        max_steps=max_steps, keep_symmetry_angstrom=keep_symmetry_angstrom,
    )  # fmt: skip
    energy = found.energy / given.num_atoms
    late = [f"not relaxed after {s} steps, largest force {f:.3g} eV/Å" for s, f in zip(found.steps, found.fmax)]
    reasons = [r or ("" if done else slow) for r, done, slow in zip(found.reason, found.converged, late)]
    return list(zip(datasets.entries(found.crystals), energy.astype(float).tolist(), map(str, reasons)))


class Remedy(NamedTuple):
    """Where a crystal with a soft mode goes."""

    phonons: Phonons  # of the polymorph; of the crystal itself where nothing lower was found
    gain_ev_per_atom: float  # energy that it is lower by, 0 where nothing was found
    q: np.ndarray  # (3,) wave vector of the softest mode that fits into the supercell
    frequency_thz: float  # of that mode, negative = imaginary
    reason: str  # "" where a lower polymorph was found


def softest(found: Phonons) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The softest modes at a wave vector that fits into the supercell: q (3,), THz (3n,), vectors (3n, 3n)."""
    q = supercells.commensurate(found.cell.repeats)
    q = q[frequencies_at(found, q)[:, 0].argmin()]
    return q, *modes_at(found, q)


def remedy(
    potential: Potential,
    params: Params,
    found: Phonons,
    *,
    amplitudes_angstrom: tuple[float, ...] = (0.1, 0.3, 0.6),
    least_gain_ev_per_atom: float = 1e-3,
    settings: Relax = TIGHT,
    max_steps: int = 800,
    **asked,
) -> Remedy:
    """Follow the softest mode downhill: displaced supercells are relaxed, the lowest one is the new polymorph.

    All modes that are degenerate with it, and the sum of them, are tried at each amplitude and, where the wave is
    complex, at two phases. `asked` is handed on to `phonons` for the polymorph, which may have soft modes again: call
    `remedy` with its phonons.
    """
    q, thz, vectors = softest(found)
    if thz[0] > STABLE_THZ:
        return Remedy(found, 0.0, q, float(thz[0]), "no soft mode fits into the supercell")
    starts = _displaced(found, q, vectors[:, thz < thz[0] + 1e-3], amplitudes_angstrom)
    ends = relaxed(potential, params, starts, settings=settings, max_steps=max_steps, keep_symmetry_angstrom=None)
    ends = [end for end in ends if not end[2]]
    best = min(ends, key=lambda end: end[1], default=None)
    gain = 0.0 if best is None else found.energy_ev_per_atom - best[1]
    if gain < least_gain_ev_per_atom:
        return Remedy(found, 0.0, q, float(thz[0]), f"none of {len(starts)} displaced cells relaxed to a lower energy")
    return Remedy(phonons(potential, params, best[0], **asked), gain, q, float(thz[0]), "")


def _displaced(found: Phonons, q: np.ndarray, soft: np.ndarray, amplitudes: tuple[float, ...]) -> list[Entry]:
    """Supercells that q fits into, displaced along the soft modes (3n, m)."""
    repeats = tuple(int(n // np.gcd(round(n * k), n)) for n, k in zip(found.cell.repeats, q))
    cell, entry = supercells.supercell(found.crystal.frac, found.crystal.lattice, repeats), found.crystal
    waves = [*soft.T, soft.sum(1)] if soft.shape[1] > 1 else [soft[:, 0]]
    phases = (0.0,) if np.abs(2 * q - np.round(2 * q)).max() < 1e-6 else (0.0, np.pi / 4)
    starts = []
    for wave, phase, amplitude in itertools.product(waves, phases, amplitudes):
        with jax.enable_x64(True):
            moved = vibrations.displacement(*map(jnp.asarray, (wave, found.masses, q)), cell, phase)
        frac = cell.frac + amplitude * np.asarray(moved) @ np.linalg.inv(cell.lattice)
        starts.append(Entry(f"{entry.id}-{len(starts)}", entry.numbers[cell.atom], frac, cell.lattice, {}))
    return starts
