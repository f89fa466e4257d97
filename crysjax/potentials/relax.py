"""Relaxation of a pack of crystals, positions and cells together, by FIRE or L-BFGS; each crystal stops by itself.

Positions and cell form one vector as in Tadmor et al., Phys. Rev. B 59, 235 (1999): the deformation `F` of the
starting cell and the undeformed positions. `F` counts the root of the number of atoms in Å, and not their number as
there: both kinds of coordinate are then about equally stiff, which saves a third of the steps. How it moves is
`descent`.

`relax` is one traced program. The radius graph is made with a skin and made anew inside the program when atoms or
cells have moved so far that the skin no longer covers the cutoff. A crystal whose graph no longer fits stops where it
is and is flagged; `relax_dataset` then goes on from there with a larger graph. Nothing is computed on a graph that
lacks edges. A crystal that breaks (touching atoms, runaway volume, a number that is not finite) stops where it broke,
with `valid` False and the energy of its last sound state, and the others in the pack never notice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import GPA_PER_EV_A3, Pack, Params, num_sites, site_mask
from crysjax.geometry.lattice import inverse
from crysjax.geometry.neighbors import Graph, any_by_owner, edge_vectors, radius_graph
from crysjax.potentials.descent import METHODS, Memory, Vector, times

ForceField = Callable[[Params, Pack, Graph], tuple[Array, Array, Array]]


class Relax(NamedTuple):
    """How, how far and how fast."""

    method: str = "lbfgs"  # one of `descent.METHODS`
    fmax_ev_angstrom: float = 0.05  # largest force, and largest cell force per atom
    pressure_gpa: float = 0.0
    move_cell: bool = True
    step_angstrom: float = 0.1  # largest move of an atom in one step
    closest_angstrom: float = 0.5  # nearer atoms make a structure invalid
    volume_range: tuple[float, float] = (0.3, 4.0)  # of the starting volume


class Symmetry(NamedTuple):
    """Operations that a relaxation keeps, `k` a crystal; unused ones have weight 0. None at all: nothing is kept."""

    rotation: Array  # (b, k, 3, 3) Cartesian, of row vectors in the starting cell: v -> v @ rotation
    image: Array  # (n, k) int32 the site of the pack that a site is taken to
    weight: Array  # (b, k) 1 / number of operations, or 0


class Relaxation(NamedTuple):
    """Where a pack stands; one row per crystal. It can be handed back to `relax` to go on."""

    pack: Pack
    energy: Array  # (b,) eV, enthalpy where a pressure is set
    fmax: Array  # (b,) eV/Å
    steps: Array  # (b,) int32 evaluations of forces
    converged: Array  # (b,) bool
    valid: Array  # (b,) bool
    overflow: Array  # (b,) bool: stopped because its radius graph did not fit
    motion: Motion


class Motion(NamedTuple):
    """How a pack got where it is."""

    deformation: Array  # (b, 3, 3) F, so that lattice = lattice_0 @ F^T
    lattice_0: Array  # (b, 3, 3)
    memory: Memory  # of the method
    symmetry: Symmetry | None = None


AS_USUAL = Relax()


def checked(settings: Relax) -> Relax:
    """The settings, or an error that names the one that is none: each would look like a fault of every crystal."""
    if settings.method not in METHODS:
        raise ValueError(f"relax: method {settings.method!r} is not one of {', '.join(METHODS)}")
    if not math.isfinite(settings.pressure_gpa):
        raise ValueError(f"relax: pressure_gpa is {settings.pressure_gpa}; expected a finite pressure in GPa")
    for name in ("fmax_ev_angstrom", "step_angstrom", "closest_angstrom"):
        if not 0 <= getattr(settings, name) < math.inf:
            raise ValueError(f"relax: {name} is {getattr(settings, name)}; expected a finite number from 0 on")
    low, high = settings.volume_range
    if not 0 <= low < 1 < high:
        raise ValueError(f"relax: volume_range is {low}, {high}; expected one from below 1 to above 1")
    return settings


def start(pack: Pack, settings: Relax = AS_USUAL, symmetry: Symmetry | None = None) -> Relaxation:
    """A relaxation that has not moved yet."""
    b, real = len(pack.lattice), pack.lattice.dtype
    checked(settings)
    pack = jax.tree.map(jnp.asarray, pack)
    eye = jnp.broadcast_to(jnp.eye(3, dtype=real), (b, 3, 3))
    motion = Motion(eye, pack.lattice, METHODS[settings.method]().init(pack), symmetry)
    no, unknown = jnp.zeros(b, bool), jnp.full(b, jnp.inf, real)
    strange = ~jnp.isfinite(pack.frac).all(-1) & (site_mask(pack.occupancy) > 0)
    valid = ~any_by_owner(strange, pack.owner, b)
    valid &= jnp.isfinite(pack.lattice).all((1, 2)) & (jnp.abs(jnp.linalg.det(pack.lattice)) > 1e-6)
    return Relaxation(pack, unknown, unknown, jnp.zeros(b, jnp.int32), no, valid, no, motion)


def relax(
    energy_forces_stress: ForceField,
    params: Params,
    state: Relaxation,
    *,
    cutoff_angstrom: float,
    max_edges: int,
    max_images: tuple[int, int, int] | int,
    settings: Relax = AS_USUAL,
    max_steps: int = 200,
    limit: int = 2**30,
    least_running: int = 1,
    skin_angstrom: float = 0.3,
) -> Relaxation:
    """Up to `max_steps` further steps as one `lax.while_loop`, until all crystals have converged, broken or overflowed.

    It also ends when fewer than `least_running` sites still move, for others to take the room of those that are done.
    A crystal that has had `limit` evaluations in all stops too, where it was evaluated last; without a limit, one that
    has not converged is already moved to where the next call begins.
    `energy_forces_stress` is any pure function of (params, pack, graph); a crystal with NaN energy counts as broken.
    `max_edges` and `max_images` have to hold the graph of `cutoff_angstrom + skin_angstrom`. To jit it, close over
    everything but `params` and `state`.
    """
    reach = cutoff_angstrom + skin_angstrom

    def build(state: Relaxation) -> tuple[Graph, Pack]:
        pack = _only(state.pack, running(state))  # the others need no edges, and must not take up room
        return radius_graph(pack, reach, max_edges=max_edges, max_images=max_images), state.pack

    def running(state: Relaxation) -> Array:
        going = ~state.converged & state.valid & ~state.overflow & (state.steps < limit)
        return going & (num_sites(state.pack) > 0)

    def body(carry: tuple) -> tuple:
        state, graph, built, step = carry
        stale = (running(state) & ~_covered(state.pack, built, cutoff_angstrom, reach)).any()
        graph, built = jax.lax.cond(stale, build, lambda _: (graph, built), state)
        state = state._replace(overflow=state.overflow | (running(state) & graph.overflow))
        said = energy_forces_stress(params, state.pack, graph)
        return _advance(state, graph, said, running(state), settings, limit), graph, built, step + 1

    def unfinished(carry: tuple) -> Array:
        moving = jnp.where(running(carry[0]), num_sites(carry[0].pack).astype(jnp.int32), 0).sum()
        return (moving >= least_running) & (moving > 0) & (carry[-1] < max_steps)

    state = state._replace(overflow=jnp.zeros_like(state.overflow))
    return jax.lax.while_loop(unfinished, body, (state, *build(state), jnp.int32(0)))[0]


def _only(pack: Pack, kept: Array) -> Pack:
    """The pack with the sites of the other crystals empty."""
    site = kept[pack.owner].astype(pack.frac.dtype)
    return pack._replace(occupancy=pack.occupancy * site[:, None], pair_mask=pack.pair_mask * site[pack.pairs[:, 0]])


def _covered(pack: Pack, built: Pack, cutoff: float, reach: float) -> Array:
    """Whether the graph made for `built` still holds all neighbors of `pack`: (b,) bool.

    A neighbor at r now was at r L^-1 L_0 plus what both atoms moved in the old cell, so
    s (cutoff + 2 move) <= reach, with s the largest stretch of L^-1 L_0 (bounded by its Frobenius norm), suffices.
    """
    back = inverse(pack.lattice) @ built.lattice
    stretch = back - jnp.eye(3, dtype=back.dtype)[None]
    s = 1 + jnp.sqrt((stretch**2).sum((1, 2)))
    move = jnp.einsum("ni,nij->nj", pack.frac - built.frac, pack.lattice[pack.owner])
    return s * (cutoff + 2 * _largest(jnp.sqrt((move**2).sum(-1)), pack)) <= reach


def _largest(values: Array, pack: Pack) -> Array:
    """Largest of a non-negative site quantity in each crystal: (n,) -> (b,)."""
    kept = values * site_mask(pack.occupancy)
    return jnp.maximum(jax.ops.segment_max(kept, pack.owner, len(pack.lattice)), 0)


def _advance(state: Relaxation, graph: Graph, said: tuple, running: Array, settings: Relax, limit: int) -> Relaxation:
    """Judge the present state by its forces, and move the crystals that go on."""
    pack, motion = state.pack, state.motion
    energy, forces, stress = said
    volume = jnp.abs(jnp.linalg.det(pack.lattice))
    pressure = settings.pressure_gpa / GPA_PER_EV_A3
    enthalpy = energy + pressure * volume
    virial = -volume[:, None, None] * (stress + pressure * jnp.eye(3, dtype=stress.dtype)[None])
    virial = virial if settings.move_cell else jnp.zeros_like(virial)
    atoms = jnp.maximum(num_sites(pack), 1)
    size = jnp.sqrt((forces**2).sum(-1))
    fmax = jnp.maximum(_largest(size, pack), jnp.abs(virial).max((1, 2)) / atoms)
    sound = _is_sound(pack, graph, motion, volume, settings) & jnp.isfinite(enthalpy) & jnp.isfinite(fmax)
    moves = running & sound & (fmax > settings.fmax_ev_angstrom) & (state.steps + 1 < limit)
    moved_pack, motion = _descend(pack, motion, forces, virial, moves, settings)
    told = running & sound
    return state._replace(
        pack=moved_pack,
        motion=motion,
        energy=jnp.where(told, enthalpy, state.energy),
        fmax=jnp.where(told, fmax, state.fmax),
        steps=state.steps + running.astype(jnp.int32),
        converged=state.converged | (told & (fmax <= settings.fmax_ev_angstrom)),
        valid=state.valid & (sound | ~running),
    )


def _is_sound(pack: Pack, graph: Graph, motion: Motion, volume: Array, settings: Relax) -> Array:
    """No touching atoms, a volume in range: (b,) bool."""
    r2 = jnp.where(graph.mask > 0, (edge_vectors(pack, graph) ** 2).sum(-1), jnp.inf)
    nearest = jax.ops.segment_min(r2, pack.owner[graph.receiver], len(pack.lattice))
    ratio = volume / jnp.abs(jnp.linalg.det(motion.lattice_0))
    low, high = settings.volume_range
    return (nearest >= settings.closest_angstrom**2) & (ratio > low) & (ratio < high)


def _descend(
    pack: Pack, motion: Motion, forces: Array, virial: Array, moves: Array, settings: Relax
) -> tuple[Pack, Motion]:
    """One step of the crystals that move; the others keep every bit."""
    pull = _kept_symmetric(_generalized_forces(pack, motion, forces, virial, moves), pack, motion.symmetry)
    method = METHODS[settings.method]()
    step, memory = method.step(motion.memory, pull, pack, lambda step: _shortened(step, pack, settings))
    new = motion._replace(memory=memory)
    return _choose(moves, *_move(pack, new, step), pack, motion)


def _generalized_forces(pack: Pack, motion: Motion, forces: Array, virial: Array, moves: Array) -> Vector:
    """Forces on the undeformed positions and on the weighted F, zero where nothing moves."""
    forces = jnp.where(moves[pack.owner, None], forces, 0)
    virial = jnp.where(moves[:, None, None], virial, 0)
    weight = _weight(pack)[:, None, None]
    pull = jnp.einsum("ni,nij->nj", forces, motion.deformation[pack.owner])
    return Vector(pull, (inverse(motion.deformation) @ virial).swapaxes(1, 2) / weight)


def _kept_symmetric(pull: Vector, pack: Pack, symmetry: Symmetry | None) -> Vector:
    """The mean of the pull over the operations of each crystal: what is left breaks none of them."""
    if symmetry is None:
        return pull
    rotation, weight = symmetry.rotation, symmetry.weight
    # F at the image is F turned, so turning it back gives F again
    sites = jnp.einsum("nkj,nkij,nk->ni", pull.sites[symmetry.image], rotation[pack.owner], weight[pack.owner])
    cells = jnp.einsum("bkji,bjl,bklm,bk->bim", rotation, pull.cells, rotation, weight)
    any_kept = weight.sum(-1) > 0
    sites = jnp.where(any_kept[pack.owner, None], sites, pull.sites)
    return Vector(sites, jnp.where(any_kept[:, None, None], cells, pull.cells))


def _shortened(step: Vector, pack: Pack, settings: Relax) -> Vector:
    """The step, cut to the largest one allowed; a cell is strained by 5 % at most."""
    weight = _weight(pack)
    cell_size = jnp.abs(step.cells).max((1, 2))
    longest = jnp.maximum(_largest(jnp.sqrt((step.sites**2).sum(-1)), pack), cell_size)
    shrink = jnp.minimum(1, settings.step_angstrom / jnp.maximum(longest, 1e-20))
    shrink = jnp.minimum(shrink, 0.05 * weight / jnp.maximum(cell_size, 1e-20))
    return times(shrink, step, pack)


def _move(pack: Pack, motion: Motion, step: Vector) -> tuple[Pack, Motion]:
    """Take the step. Undeformed positions live in the starting cell: fractional coordinates do not see the cell's."""
    weight = _weight(pack)
    deformation = motion.deformation + step.cells / weight[:, None, None]
    move = jnp.einsum("ni,nij->nj", step.sites, inverse(motion.lattice_0)[pack.owner])
    pack = pack._replace(frac=pack.frac + move, lattice=motion.lattice_0 @ deformation.swapaxes(1, 2))
    return pack, motion._replace(deformation=deformation)


def _choose(moves: Array, pack: Pack, motion: Motion, old_pack: Pack, old: Motion) -> tuple[Pack, Motion]:
    """The new state of the crystals that move, the old one of the others."""

    def pick(flag: Array) -> Callable[[Array, Array], Array]:
        return lambda new, kept: jnp.where(flag.reshape((-1,) + (1,) * (new.ndim - 1)), new, kept)

    by_site, by_cell = pick(moves[pack.owner]), pick(moves)
    memory = Memory(
        jax.tree.map(by_site, motion.memory.sites, old.memory.sites),
        jax.tree.map(by_cell, motion.memory.cells, old.memory.cells),
    )
    frac, lattice = by_site(pack.frac, old_pack.frac), by_cell(pack.lattice, old_pack.lattice)
    deformation = by_cell(motion.deformation, old.deformation)
    return pack._replace(frac=frac, lattice=lattice), old._replace(deformation=deformation, memory=memory)


def _weight(pack: Pack) -> Array:
    """What a deformation counts, in Å: (b,). Strained, n atoms are n times as stiff as one that moves."""
    return jnp.sqrt(jnp.maximum(num_sites(pack), 1))
