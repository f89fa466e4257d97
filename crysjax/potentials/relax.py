"""Relaxation of a pack of crystals, positions and cells together, by FIRE; each crystal stops by itself.

FIRE: Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), in the semi-implicit form of Guénolé et al., Comput. Mater.
Sci. 175, 109584 (2020). Positions and cell form one vector as in Tadmor et al., Phys. Rev. B 59, 235 (1999): the
deformation `F` of the starting cell, scaled by the number of atoms, and the undeformed positions.

`relax` is one traced program. The radius graph is made with a skin and made anew inside the program when atoms or
cells have moved so far that the skin no longer covers the cutoff. A crystal whose graph no longer fits stops where it
is and is flagged; `relax_dataset` then goes on from there with a larger graph. Nothing is computed on a graph that
lacks edges. A crystal that breaks (touching atoms, runaway volume, a number that is not finite) stops where it broke,
with `valid` False and the energy of its last sound state, and the others in the pack never notice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Pack, Params, num_sites, site_mask, sum_by_crystal
from crysjax.geometry.lattice import inverse
from crysjax.geometry.neighbors import Graph, any_by_owner, edge_vectors, radius_graph

GPA_TO_EV_A3 = 1 / 160.21766208
ForceField = Callable[[Params, Pack, Graph], tuple[Array, Array, Array]]


class Fire(NamedTuple):
    """How far and how fast; the defaults are those of the papers in Å and eV, unit mass."""

    fmax_ev_angstrom: float = 0.05  # largest force, and largest cell force an atom
    pressure_gpa: float = 0.0
    move_cell: bool = True
    step_angstrom: float = 0.1  # largest move of an atom in one step
    dt: float = 0.1
    dt_max: float = 1.0
    closest_angstrom: float = 0.5  # nearer atoms make a structure invalid
    volume_range: tuple[float, float] = (0.3, 4.0)  # of the starting volume


class Relaxation(NamedTuple):
    """Where a pack stands; a row a crystal. It can be handed back to `relax` to go on."""

    pack: Pack
    energy: Array  # (b,) eV, enthalpy where a pressure is set
    fmax: Array  # (b,) eV/Å
    steps: Array  # (b,) int32 evaluations of forces
    converged: Array  # (b,) bool
    valid: Array  # (b,) bool
    overflow: Array  # (b,) bool: stopped because its radius graph did not fit
    motion: Motion


class Motion(NamedTuple):
    """What FIRE remembers."""

    deformation: Array  # (b, 3, 3) F, so that lattice = lattice_0 @ F^T
    velocity: Array  # (n, 3) of the undeformed positions
    cell_velocity: Array  # (b, 3, 3)
    dt: Array  # (b,)
    alpha: Array  # (b,)
    downhill: Array  # (b,) int32 steps downhill in a row
    lattice_0: Array  # (b, 3, 3)


def start(pack: Pack, settings: Fire = Fire()) -> Relaxation:  # noqa: B008 (an immutable default)
    """A relaxation that has not moved yet."""
    b, real = len(pack.lattice), pack.lattice.dtype
    eye = jnp.broadcast_to(jnp.eye(3, dtype=real), (b, 3, 3))
    motion = Motion(
        eye, jnp.zeros_like(pack.frac), jnp.zeros_like(eye), jnp.full(b, settings.dt, real), jnp.full(b, 0.1, real),
        jnp.zeros(b, jnp.int32), pack.lattice,
    )  # fmt: skip
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
    settings: Fire = Fire(),  # noqa: B008
    max_steps: int = 200,
    limit: int = 2**30,
    skin_angstrom: float = 0.5,
) -> Relaxation:
    """Up to `max_steps` further steps as one `lax.while_loop`, until all crystals have converged, broken or overflowed.

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
        return running(carry[0]).any() & (carry[-1] < max_steps)

    state = state._replace(overflow=jnp.zeros_like(state.overflow))
    return jax.lax.while_loop(unfinished, body, (state, *build(state), jnp.int32(0)))[0]


def _only(pack: Pack, kept: Array) -> Pack:
    """The pack with the sites of the other crystals empty."""
    site = kept[pack.owner].astype(pack.frac.dtype)
    return pack._replace(occupancy=pack.occupancy * site[:, None], pair_mask=pack.pair_mask * site[pack.pairs[:, 0]])


def _covered(pack: Pack, built: Pack, cutoff: float, reach: float) -> Array:
    """Whether the graph made for `built` still holds all neighbours of `pack`: (b,) bool.

    A neighbour at r now was at r L^-1 L_0 plus what both atoms moved in the old cell, so
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


def _advance(state: Relaxation, graph: Graph, said: tuple, running: Array, settings: Fire, limit: int) -> Relaxation:
    """Judge the present state by its forces, and move the crystals that go on."""
    pack, motion = state.pack, state.motion
    energy, forces, stress = said
    volume = jnp.abs(jnp.linalg.det(pack.lattice))
    pressure = settings.pressure_gpa * GPA_TO_EV_A3
    enthalpy = energy + pressure * volume
    virial = -volume[:, None, None] * (stress + pressure * jnp.eye(3, dtype=stress.dtype)[None])
    virial = virial if settings.move_cell else jnp.zeros_like(virial)
    atoms = jnp.maximum(num_sites(pack), 1)
    size = jnp.sqrt((forces**2).sum(-1))
    fmax = jnp.maximum(_largest(size, pack), jnp.abs(virial).max((1, 2)) / atoms)
    sound = _is_sound(pack, graph, motion, volume, settings) & jnp.isfinite(enthalpy) & jnp.isfinite(fmax)
    moves = running & sound & (fmax > settings.fmax_ev_angstrom) & (state.steps + 1 < limit)
    moved_pack, motion = _fire(pack, motion, forces, virial, moves, settings)
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


def _is_sound(pack: Pack, graph: Graph, motion: Motion, volume: Array, settings: Fire) -> Array:
    """No touching atoms, a volume in range: (b,) bool."""
    r2 = jnp.where(graph.mask > 0, (edge_vectors(pack, graph) ** 2).sum(-1), jnp.inf)
    nearest = jax.ops.segment_min(r2, pack.owner[graph.receiver], len(pack.lattice))
    ratio = volume / jnp.abs(jnp.linalg.det(motion.lattice_0))
    low, high = settings.volume_range
    return (nearest >= settings.closest_angstrom**2) & (ratio > low) & (ratio < high)


def _fire(
    pack: Pack, motion: Motion, forces: Array, virial: Array, moves: Array, settings: Fire
) -> tuple[Pack, Motion]:
    """One step of FIRE for the crystals that move; the others keep every bit."""
    pull, cell_pull = _generalised_forces(pack, motion, forces, virial, moves)
    v, w = motion.velocity, motion.cell_velocity

    def dot(a: Array, b: Array, c: Array, d: Array) -> Array:
        return sum_by_crystal((a * b).sum(-1), pack) + (c * d).sum((1, 2))

    power = dot(v, pull, w, cell_pull)
    dt, alpha, count = _pace(motion, power > 0, dot(v, v, w, w) == 0, settings)
    keep = (power > 0).astype(v.dtype)  # stop where the last step went uphill
    site_dt, cell_dt = dt[pack.owner, None], dt[:, None, None]
    v, w = v * keep[pack.owner, None] + site_dt * pull, w * keep[:, None, None] + cell_dt * cell_pull
    steer = alpha * jnp.sqrt(dot(v, v, w, w) / jnp.maximum(dot(pull, pull, cell_pull, cell_pull), 1e-20))
    v = (1 - alpha)[pack.owner, None] * v + steer[pack.owner, None] * pull
    w = (1 - alpha)[:, None, None] * w + steer[:, None, None] * cell_pull
    new = motion._replace(velocity=v, cell_velocity=w, dt=dt, alpha=alpha, downhill=count)
    return _choose(moves, *_move(pack, new, settings), pack, motion)


def _generalised_forces(pack: Pack, motion: Motion, forces: Array, virial: Array, moves: Array) -> tuple[Array, Array]:
    """Forces on the undeformed positions and on `atoms * F` (Tadmor et al. 1999), zero where nothing moves."""
    forces = jnp.where(moves[pack.owner, None], forces, 0)
    virial = jnp.where(moves[:, None, None], virial, 0)
    atoms = jnp.maximum(num_sites(pack), 1)[:, None, None]
    pull = jnp.einsum("ni,nij->nj", forces, motion.deformation[pack.owner])
    return pull, (inverse(motion.deformation) @ virial).swapaxes(1, 2) / atoms


def _pace(motion: Motion, downhill: Array, at_rest: Array, settings: Fire) -> tuple[Array, Array, Array]:
    """Time step, mixing and the count of steps downhill; faster after five of them, half as fast after one uphill."""
    count = jnp.where(downhill, motion.downhill + 1, 0)
    faster, uphill = downhill & (count > 5), ~downhill & ~at_rest
    dt = jnp.where(faster, jnp.minimum(motion.dt * 1.1, settings.dt_max), motion.dt)
    alpha = jnp.where(faster, motion.alpha * 0.99, motion.alpha)
    return jnp.where(uphill, dt * 0.5, dt), jnp.where(uphill, 0.1, alpha), count


def _move(pack: Pack, motion: Motion, settings: Fire) -> tuple[Pack, Motion]:
    """Take the step, shortened to the largest one allowed; a cell is strained by 5 % at most."""
    step, cell_step = motion.dt[pack.owner, None] * motion.velocity, motion.dt[:, None, None] * motion.cell_velocity
    atoms = jnp.maximum(num_sites(pack), 1)
    cell_size = jnp.abs(cell_step).max((1, 2))
    longest = jnp.maximum(_largest(jnp.sqrt((step**2).sum(-1)), pack), cell_size)
    shrink = jnp.minimum(1, settings.step_angstrom / jnp.maximum(longest, 1e-20))
    shrink = jnp.minimum(shrink, 0.05 * atoms / jnp.maximum(cell_size, 1e-20))
    deformation = motion.deformation + (shrink / atoms)[:, None, None] * cell_step
    # undeformed positions live in the starting cell: fractional coordinates do not see the deformation
    to_frac = inverse(motion.lattice_0)[pack.owner]
    move = jnp.einsum("ni,nij->nj", shrink[pack.owner, None] * step, to_frac)
    pack = pack._replace(frac=pack.frac + move, lattice=motion.lattice_0 @ deformation.swapaxes(1, 2))
    return pack, motion._replace(deformation=deformation)


def _choose(moves: Array, pack: Pack, motion: Motion, old_pack: Pack, old: Motion) -> tuple[Pack, Motion]:
    """The new state of the crystals that move, the old one of the others."""

    def pick(new: Array, kept: Array, flag: Array) -> Array:
        return jnp.where(flag.reshape((-1,) + (1,) * (new.ndim - 1)), new, kept)

    site = moves[pack.owner]
    velocity = pick(motion.velocity, old.velocity, site)
    motion = jax.tree.map(lambda n, o: pick(n, o, moves), motion._replace(velocity=None), old._replace(velocity=None))
    frac, lattice = pick(pack.frac, old_pack.frac, site), pick(pack.lattice, old_pack.lattice, moves)
    return pack._replace(frac=frac, lattice=lattice), motion._replace(velocity=velocity)
