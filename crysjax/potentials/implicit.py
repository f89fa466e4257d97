"""The derivative of a relaxed crystal, positions and cell, by what it was relaxed with: the implicit function theorem.

At a minimum the slope of the enthalpy H(z; theta) by the coordinates z is zero, whatever theta is, so that
dz/dtheta = -(d2H/dz2)^-1 d2H/dz dtheta (for example Blondel et al., NeurIPS 2022, eq. 2). Nothing is differentiated
through the steps that led there. The linear system is solved by conjugate gradients with Hessian-vector products, all
crystals of a pack at once, each with its own step lengths.

Coordinates are displacements of the sites and a symmetric strain: a rotation of the crystal is no coordinate, and its
translation is projected out.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import GPA_PER_EV_A3, Pack, Params, mean_by_crystal, num_sites, site_mask
from crysjax.geometry.lattice import inverse, volume
from crysjax.geometry.neighbors import Graph
from crysjax.potentials.descent import Vector, dot, plus, times

Energy = Callable[[Params, Pack, Graph], Array]


def at_minimum(
    energy: Energy,
    *,
    pressure_gpa: float = 0.0,
    move_cell: bool = True,
    max_iterations: int = 200,
    tolerance: float = 1e-6,
) -> Callable[[Params, Pack, Graph], Pack]:
    """`(params, pack, graph) -> pack`: the relaxed pack itself, which now knows how it depends on what relaxed it.

    Its positions and cells have derivatives with respect to `params` and to the occupancy (composition), as reverse
    mode sees them; those by the given positions and cells are zero, since a minimum does not depend on where one came
    from. `energy` is that of `Potential`, the graph one of at least its cutoff. A crystal that is not at a minimum
    (a direction of negative curvature turns up), or cannot be computed, has the derivative zero.
    """

    def enthalpy(params: Params, occupancy: Array, z: Vector, pack: Pack, graph: Graph) -> Array:
        moved = displaced(pack._replace(occupancy=occupancy), z)
        total = energy(params, moved, graph)
        total = jnp.where(jnp.isfinite(total), total, 0)
        return (total + pressure_gpa / GPA_PER_EV_A3 * volume(moved.lattice)).sum()

    def slope(params: Params, occupancy: Array, z: Vector, pack: Pack, graph: Graph) -> Vector:
        return free(jax.grad(enthalpy, 2)(params, occupancy, z, pack, graph), pack, move_cell)

    @jax.custom_vjp
    def place(params: Params, occupancy: Array, pack: Pack, graph: Graph) -> tuple[Array, Array]:
        return pack.frac, pack.lattice

    def forward(params: Params, occupancy: Array, pack: Pack, graph: Graph) -> tuple:
        return (pack.frac, pack.lattice), (params, occupancy, pack, graph)

    def backward(kept: tuple, cotangent: tuple[Array, Array]) -> tuple:
        params, occupancy, pack, graph = kept
        still = Vector(jnp.zeros_like(pack.frac), jnp.zeros_like(pack.lattice))
        _, pull = jax.vjp(lambda z: displaced(pack, z)[1:3], still)
        wanted = free(pull(cotangent)[0], pack, move_cell)

        def hessian(v: Vector) -> Vector:
            return jax.jvp(lambda z: slope(params, occupancy, z, pack, graph), (still,), (v,))[1]

        answer, _ = solve(hessian, wanted, pack, max_iterations, tolerance)
        _, pull = jax.vjp(lambda p, o: slope(p, o, still, pack, graph), params, occupancy)
        return (*pull(jax.tree.map(jnp.negative, answer)), None, None)

    place.defvjp(forward, backward)

    def known(params: Params, pack: Pack, graph: Graph) -> Pack:
        pack = jax.tree.map(jnp.asarray, pack)
        frac, lattice = place(params, pack.occupancy, pack, graph)
        return pack._replace(frac=frac, lattice=lattice)

    return known


def displaced(pack: Pack, z: Vector) -> Pack:
    """The pack after displacements of its sites in Å, and a strain of its cells that counts the root of their atoms."""
    weight = jnp.sqrt(jnp.maximum(num_sites(pack), 1))[:, None, None]
    strain = (z.cells + z.cells.swapaxes(1, 2)) / (2 * weight)
    move = jnp.einsum("ni,nij->nj", z.sites, inverse(pack.lattice)[pack.owner])
    return pack._replace(frac=pack.frac + move, lattice=pack.lattice + pack.lattice @ strain)


def free(x: Vector, pack: Pack, move_cell: bool) -> Vector:
    """Without what is no coordinate: empty sites, the translation of a crystal, and cells that are kept."""
    sites = x.sites * site_mask(pack.occupancy)[:, None]
    sites = (sites - mean_by_crystal(sites, pack)[pack.owner]) * site_mask(pack.occupancy)[:, None]
    used = (num_sites(pack) > 0).astype(x.cells.dtype)[:, None, None]
    return Vector(sites, used * x.cells if move_cell else jnp.zeros_like(x.cells))


def solve(
    hessian: Callable[[Vector], Vector], wanted: Vector, pack: Pack, max_iterations: int, tolerance: float
) -> tuple[Vector, Array]:
    """`hessian(x) = wanted` by conjugate gradients (Nocedal & Wright, algorithm 5.2), each crystal by itself.

    Zero for a crystal with a direction of negative curvature, or whose residual is still above `tolerance` of what is
    wanted after `max_iterations`; and which crystals have an answer: (b,) bool.
    """
    size = dot(wanted, wanted, pack)
    goal = tolerance**2 * size

    def unfinished(state: tuple) -> Array:
        _, _, _, left, sound, count = state
        return (sound & (left > goal)).any() & (count < max_iterations)

    def body(state: tuple) -> tuple:
        x, rest, direction, left, sound, count = state
        turned = hessian(direction)
        curvature = dot(direction, turned, pack)
        going = sound & (left > goal)
        sound &= ~going | (curvature > 0)
        going &= sound
        amount = jnp.where(going, left / jnp.where(going, curvature, 1), 0)
        x, rest = plus(x, times(amount, direction, pack)), plus(rest, times(-amount, turned, pack))
        now = jnp.where(going, dot(rest, rest, pack), left)
        keep = jnp.where(going, now / jnp.where(going, left, 1), 0)
        return x, rest, plus(rest, times(keep, direction, pack)), now, sound, count + 1

    nothing = jax.tree.map(jnp.zeros_like, wanted)
    sound = jnp.isfinite(size)
    state = (nothing, wanted, wanted, size, sound, jnp.int32(0))
    x, _, _, left, sound, _ = jax.lax.while_loop(unfinished, body, state)
    sound &= left <= goal
    return Vector(
        jnp.where(sound[pack.owner, None], x.sites, 0), jnp.where(sound[:, None, None], x.cells, 0)
    ), sound  # fmt: skip
