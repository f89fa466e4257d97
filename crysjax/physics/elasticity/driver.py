"""Elastic constants and equations of state of crystals by an interatomic potential.

`stiffness` is one crystal, traced: it can be differentiated by the cell, the positions and the potential's parameters.
`elasticity` and `equations_of_state` answer for a whole data set, one row per crystal, with a reason where they cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Pack, Params, num_sites
from crysjax.chemistry.element_properties import G_CM3_PER_AMU_ANGSTROM3, cell_masses_amu
from crysjax.data import batching, datasets
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset, Entry
from crysjax.geometry import soundness
from crysjax.geometry.neighbors import Graph, crystal_edges, needed_images, radius_graph_host
from crysjax.physics.elasticity import frames
from crysjax.physics.elasticity.equation_of_state import EquationOfState, birch_murnaghan
from crysjax.physics.elasticity.mechanics import (
    REASONS,
    Elasticity,
    Moduli,
    debye_temperature,
    from_derivatives,
    moduli,
    strain_matrix,
)
from crysjax.potentials.mlip import TOUCHING_ANGSTROM, Potential, unknown
from crysjax.potentials.pool import reduce_skewed, too_thin
from crysjax.potentials.relax import Relax
from crysjax.potentials.relax_dataset import RelaxedSet, relax_dataset

SKIN_ANGSTROM = 1e-3  # derivatives see no other neighbors; this is for the rounding of positions
SLOTS_STEP = 4  # sizes are rounded up to few, each of which compiles once
EnergyOf = Callable[[Params, Pack, Graph], Array]
TIGHT = Relax(fmax_ev_angstrom=0.01)


class Elastic(NamedTuple):
    """One row per crystal, NaN where `valid` is False. Tensors lie along `axes`: what a crystal fixes, see `frames`."""

    crystals: Dataset  # relaxed
    tensor_gpa: np.ndarray  # (m, 6, 6) with ions relaxed, Voigt
    clamped_gpa: np.ndarray  # (m, 6, 6)
    stress_gpa: np.ndarray  # (m, 6) what the relaxation left
    axes: np.ndarray  # (m, 3, 3) rows x1, x2, x3 in the Cartesian frame of `crystals`
    system: np.ndarray  # (m,) str: the crystal system, a key of `frames.RULES`
    moduli: Moduli  # each (m,)
    debye_temperature_k: np.ndarray  # (m,)
    density: np.ndarray  # (m,) g/cm³
    valid: np.ndarray  # (m,) bool
    reason: np.ndarray  # (m,) str: why not valid, "" where it is
    modes: list[np.ndarray]  # (n, 3) each: the softest displacement of the ions in the Cartesian frame, 0 if unknown


class Curves(NamedTuple):
    """Energies over volumes, and the Birch-Murnaghan curve through them; NaN where `valid` is False."""

    volume: np.ndarray  # (m, k) Å³ per cell
    energy: np.ndarray  # (m, k) eV per cell
    fit: EquationOfState  # each (m,)
    valid: np.ndarray  # (m,) bool
    reason: np.ndarray  # (m,) str


def stiffness(energy: EnergyOf, params: Params, pack: Pack, graph: Graph, *, slots: int) -> Elasticity:
    """Second derivatives of every crystal of a pack, each leaf (b, ...), by the `energy` of a `Potential`.

    Crystals do not see one another, so one product of the Hessian serves all of them: `3 slots + 6` products in all,
    where `slots` is the size of the largest crystal or more. Traced, and differentiable by `params`, positions and
    cells; such a derivative is that of the stiffness where the crystal is: that a relaxed crystal moves with its
    potential is not in it. The graph has to hold all edges of the cutoff.
    """
    pack = jax.tree.map(jnp.asarray, pack)
    n, b, dtype = len(pack.frac), len(pack.lattice), pack.frac.dtype
    to_frac = jnp.linalg.inv(pack.lattice)
    site, mask = members(pack, slots)

    def total(moved: Array, voigt: Array) -> tuple[Array, Array]:
        """Energies at displacements (n, 3) in Å and strains (b, 6); a broken crystal adds nothing."""
        strain = jnp.eye(3, dtype=dtype)[None] + jax.vmap(strain_matrix)(voigt)
        frac = pack.frac + jnp.einsum("ni,nij->nj", moved, to_frac[pack.owner])
        said = energy(params, pack._replace(frac=frac, lattice=pack.lattice @ strain), graph)
        return jnp.where(jnp.isfinite(said), said, 0).sum(), jnp.isfinite(said)

    def by_crystal(moved: Array, voigt: Array) -> Array:
        return jnp.concatenate([(moved[site] * mask[..., None]).reshape(b, -1), voigt], -1)

    def direction(k: Array) -> tuple[Array, Array]:
        """The k-th coordinate of every crystal at once."""
        one = jax.nn.one_hot(k, 3 * slots + 6, dtype=dtype)
        moved = one[: 3 * slots].reshape(slots, 3)[None] * mask[..., None]
        strains = jnp.broadcast_to(one[3 * slots :][None], (b, 6))
        return jnp.zeros((n, 3), dtype).at[site.reshape(-1)].add(moved.reshape(-1, 3)), strains

    still = jnp.zeros((n, 3), dtype), jnp.zeros((b, 6), dtype)
    slope, along, sound = jax.linearize(jax.grad(total, (0, 1), has_aux=True), *still, has_aux=True)
    hessian = jax.lax.map(lambda k: by_crystal(*along(*direction(k))), jnp.arange(3 * slots + 6)).swapaxes(0, 1)
    slope = jnp.where(sound[:, None], by_crystal(*slope), jnp.nan)
    hessian, volume = (hessian + hessian.swapaxes(1, 2)) / 2, jnp.abs(jnp.linalg.det(pack.lattice))
    return jax.vmap(from_derivatives)(slope, hessian, mask, volume)


def members(pack: Pack, slots: int) -> tuple[Array, Array]:
    """Sites of each crystal, (b, slots) int, and 1 where a slot has one, (b, slots); sites lie in order of crystals."""
    count = num_sites(pack).astype(jnp.int32)
    place = jnp.arange(slots, dtype=jnp.int32)[None]
    first = jnp.cumsum(count, dtype=jnp.int32) - count
    return jnp.minimum(first[:, None] + place, len(pack.frac) - 1), (place < count[:, None]).astype(pack.frac.dtype)


@lru_cache(maxsize=8)
def _compiled(energy: EnergyOf, slots: int) -> Callable:
    def answer(params: Params, pack: Pack, graph: Graph) -> tuple[Elasticity, Moduli]:
        found = stiffness(energy, params, pack, graph, slots=slots)
        return found, jax.vmap(moduli)(found.tensor)

    return jax.jit(answer)


def elasticity(
    potential: Potential,
    params: Params,
    crystals: Dataset,
    *,
    relax: bool = True,
    settings: Relax = TIGHT,
    max_steps: int = 500,
    sites: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Elastic:
    """Elastic constants of every crystal at zero stress; `relax=False` takes the crystals for relaxed already.

    One that breaks, or does not come to rest within `max_steps` evaluations, has a reason and no numbers. Crystals of
    like size share packs of about `sites` sites.
    """
    done = relaxed(potential, params, crystals, settings, max_steps) if relax else _as_given(crystals)
    rows, reason = [None] * len(crystals), done.reason.astype("<U120")
    cells = replace(done.crystals, frac=done.crystals.frac.copy(), lattice=done.crystals.lattice.copy())
    reduce_skewed(cells)  # fewer images; the tensor does not see the choice of the cell
    for row in range(len(crystals)):
        reason[row] = reason[row] or _why_not(cells, row, potential)
    good = np.flatnonzero(reason == "")
    for group, pack, graph, slots in _packs(cells, good, potential.cutoff_angstrom + SKIN_ANGSTROM, sites):
        found = jax.tree.map(np.asarray, _compiled(potential.energy, slots)(params, pack, graph))
        for k, row in enumerate(group):
            rows[row] = jax.tree.map(lambda leaf, k=k: leaf[k], found)
            reason[row] = REASONS[int(rows[row][0].reason)]
        progress(sum(r is not None for r in rows), len(good))
    return _table(done.crystals, rows, reason)


def _packs(crystals: Dataset, good: np.ndarray, reach: float, sites: int) -> Iterator[tuple]:
    """(rows, pack, graph, slots) of crystals of like size; shapes are few, for each is compiled once."""
    if not len(good):
        return
    good = good[np.argsort(crystals.num_atoms[good], kind="stable")]
    counts = np.array([2 * len(crystal_edges(e.frac, e.lattice, reach)[0]) for e in _entries(crystals, good)])
    sites = max(min(sites, _coarse(crystals.num_atoms[good].sum())), int(crystals.num_atoms[good].max()))
    room = _coarse(max(counts.max(), sites * np.quantile(counts / crystals.num_atoms[good], 0.8)))
    shape = Capacity(sites, sites * (sites - 1) // 2, max(sites // 2, 1))
    slots = -(-crystals.num_atoms[good] // SLOTS_STEP) * SLOTS_STEP
    for size in np.unique(slots):
        same = np.flatnonzero(slots == size)
        for group in batching.assign(crystals.num_atoms[good[same]], shape, edges=counts[same], max_edges=room):
            rows = good[same[group]]
            pack = batching.pack_rows(crystals, rows, shape)
            yield rows, pack, radius_graph_host(pack, reach, max_edges=room), int(size)


def relaxed(potential: Potential, params: Params, crystals: Dataset, settings: Relax, max_steps: int) -> RelaxedSet:
    """Relaxed crystals, with a reason where one did not come to rest."""
    done = relax_dataset(
        potential.energy_forces_stress, params, crystals, cutoff_angstrom=potential.cutoff_angstrom,
        known=potential.numbers, settings=settings,
        max_steps=max_steps,
    )  # fmt: skip
    late = done.valid & ~done.converged
    why = np.array([f"not at rest after {n} steps, {f:.3g} eV/Å left" for n, f in zip(done.steps, done.fmax)], "<U120")
    return done._replace(reason=np.where(late, why, done.reason))


def _as_given(crystals: Dataset) -> RelaxedSet:
    m = len(crystals)
    nothing, no = np.full(m, np.nan), np.zeros(m, bool)
    return RelaxedSet(crystals, nothing, nothing, np.zeros(m, np.int32), ~no, ~no, np.full(m, "", "<U120"))


def _entries(crystals: Dataset, rows: np.ndarray) -> Iterator[Entry]:
    return datasets.entries(datasets.take(crystals, rows))


def _why_not(crystals: Dataset, row: int, potential: Potential) -> str:
    """What keeps a crystal from being computed, "" where nothing does."""
    entry = next(iter(_entries(crystals, np.array([row]))))
    lattice = entry.lattice.astype(float)
    if wrong := soundness.why_not(entry.frac, lattice):
        return wrong
    if (needed_images(lattice, potential.cutoff_angstrom + SKIN_ANGSTROM) > soundness.MOST_IMAGES).any():
        return too_thin(lattice, len(entry.frac), potential.cutoff_angstrom + SKIN_ANGSTROM, soundness.MOST_IMAGES)
    if reason := unknown(potential.numbers, entry.numbers):
        return reason
    if len(crystal_edges(entry.frac.astype(float), lattice, TOUCHING_ANGSTROM)[0]):
        return f"atoms closer than {TOUCHING_ANGSTROM} Å"
    return ""


def _coarse(size: float) -> int:
    """Rounded up by a half at most, to a power of two or three quarters of one."""
    power = 2 ** max(int(np.ceil(np.log2(size))), 2)
    return power * 3 // 4 if size <= power * 3 // 4 else power


def _table(crystals: Dataset, rows: list, reason: np.ndarray) -> Elastic:
    """Rows of one crystal each as arrays, NaN where there is a reason."""
    m, bad = len(crystals), reason != ""
    blank = (np.full((6, 6), np.nan), np.full((6, 6), np.nan), np.full(6, np.nan))
    given = [frames.frame(entry) if not bad[k] else frames.Frame("", np.eye(3)[None])
             for k, entry in enumerate(datasets.entries(crystals))]  # fmt: skip
    axes = np.stack([f.axes[0] if bad[k] else frames.chosen(rows[k][0].tensor, f) for k, f in enumerate(given)])
    tensors = [blank if bad[k] else _along(rows[k][0], axes[k]) for k in range(m)]
    tensor, clamped, stress = (np.stack([t[j] for t in tensors]) for j in range(3))
    modes = [np.zeros((n, 3)) if row is None else row[0].mode[:n] for n, row in zip(crystals.num_atoms, rows)]
    nan = Moduli(*[np.nan] * (len(Moduli._fields) - 1), stable=False)
    means = Moduli(*(np.array(x) for x in zip(*(nan if bad[k] else rows[k][1] for k in range(m)))))
    volume, mass = (
        np.abs(np.linalg.det(crystals.lattice.astype(float))),
        cell_masses_amu(crystals.numbers, crystals.num_atoms),
    )
    of_cell = (means.bulk, means.shear, mass, crystals.num_atoms, volume)
    debye = np.asarray(debye_temperature(*(jnp.asarray(x, jnp.float32) for x in of_cell)), float)
    with np.errstate(all="ignore"):
        debye, density = np.where(bad, np.nan, [debye, G_CM3_PER_AMU_ANGSTROM3 * mass / volume])
    system = np.array([f.system for f in given])
    return Elastic(crystals, tensor, clamped, stress, axes, system, means, debye, density, ~bad, reason, modes)


def _along(found: Elasticity, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stiffness with ions relaxed, with ions clamped, and stress, along these axes."""
    turned = (frames.turn_stiffness(tensor, axes) for tensor in (found.tensor, found.clamped))
    return *turned, frames.turn_stress(found.stress, axes)


def equations_of_state(
    potential: Potential,
    params: Params,
    crystals: Dataset,
    *,
    strain: float = 0.06,
    points: int = 9,
    relax_ions: bool = True,
    settings: Relax = TIGHT,
    max_steps: int = 200,
) -> Curves:
    """Energies of every crystal with its cell scaled to volumes from `1 - strain` to `1 + strain`, and the fit.

    The shape of the cell stays; ions are relaxed at each volume, or keep their fractional coordinates.
    """
    if points < 4 or not 0 < strain < 0.5:
        raise ValueError(f"equations of state: strain {strain}, points {points}; expected 0 to 0.5 and 4 or more")
    m, scale = len(crystals), np.linspace(1 - strain, 1 + strain, points)
    every = datasets.take(crystals, np.repeat(np.arange(m), points))
    every = replace(every, lattice=(every.lattice * np.tile(scale ** (1 / 3), m)[:, None, None]).astype(np.float32))
    fixed = settings._replace(move_cell=False)
    done = relaxed(potential, params, every, fixed, max_steps if relax_ions else 1)
    energy = done.energy.reshape(m, points).astype(float)
    volume = np.abs(np.linalg.det(every.lattice.astype(float))).reshape(m, points)
    why = done.reason if relax_ions else np.where(done.valid, "", done.reason)
    lost = np.array([next(filter(None, of_one), "") for of_one in why.reshape(m, points)])
    fit = jax.tree.map(np.asarray, _fits(*(jnp.asarray(x, jnp.float32) for x in (volume, energy))))
    reason = np.where((lost == "") & ~fit.valid, "no minimum of the energy within these volumes", lost)
    nan = [np.where(reason == "", x, np.nan) for x in fit[:-1]]
    return Curves(volume, energy, EquationOfState(*nan, fit.valid), reason == "", reason)


_fits = jax.jit(jax.vmap(birch_murnaghan))
