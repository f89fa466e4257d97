"""Derivatives through a relaxed state against finite differences of relaxing again, in float64."""

import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Crystal, Pack
from crysjax.data.batching import Capacity
from crysjax.potentials.descent import Vector, dot
from crysjax.potentials.implicit import at_minimum, displaced, solve
from crysjax.potentials.mlip import mlip
from crysjax.potentials.relax import Relax, relax, start

MORSE = dict(
    network="morse", numbers=(13, 28), cutoff_angstrom=5.5,
    pairs=((13, 13, 0.27, 1.17, 3.25), (13, 28, 0.40, 1.35, 2.72), (28, 28, 0.42, 1.42, 2.78)),
)  # fmt: skip
SHAPE = Capacity(8, 16, 3)
STEP = 1e-4  # of central differences; what is left of third order is 1e-7 of the derivative


def alloys() -> list[Crystal]:
    """A B2 cell, an L1_2 cell and one atom, all strained and shaken so that nothing is fixed by symmetry."""
    rng, species = np.random.default_rng(0), np.eye(100)
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    parts = [
        (species[[12, 27]], np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), 2.95 * np.eye(3)),
        (species[[27, 12, 12, 12]], corners, 3.95 * np.eye(3)),
        (species[[27]], np.zeros((1, 3)), 3.7 / 2 * (np.ones((3, 3)) - np.eye(3))),
    ]
    shaken = [(o, f + rng.uniform(-0.01, 0.01, f.shape), c @ (np.eye(3) + rng.uniform(-0.01, 0.01, (3, 3))))
              for o, f, c in parts]  # fmt: skip
    return [Crystal(*part) for part in shaken]


def in_double(pack: Pack) -> Pack:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64 if x.dtype.kind == "f" else x.dtype), pack)


class Case(NamedTuple):
    pack: object  # relaxed
    graph: object
    params: object
    again: object  # (params, occupancy) -> the pack relaxed once more
    known: object  # at_minimum
    weights: Vector  # of the observable below


@pytest.fixture(scope="module", params=["free", "pressure", "cell kept"])
def case(request, toys) -> Case:
    pressure, move = (5.0 if request.param == "pressure" else 0.0), request.param != "cell kept"
    potential = mlip(**MORSE)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), potential.init(jax.random.key(0)))
        settings = Relax(fmax_ev_angstrom=1e-9, pressure_gpa=pressure, move_cell=move)
        pack = in_double(toys.make_pack(alloys(), SHAPE, float))
        graph = jax.tree.map(jnp.asarray, toys.make_graph(jax.tree.map(np.asarray, pack), 6.0, 1600))

        @partial(jax.jit, compiler_options=toys.fast)
        def again(params, occupancy, pack):
            run = partial(relax, potential.energy_forces_stress, params, cutoff_angstrom=5.5, max_edges=1600)
            state = start(pack._replace(occupancy=occupancy), settings)
            return run(state, max_images=(3, 3, 3), settings=settings, max_steps=300)

        found = again(params, pack.occupancy, pack)
        assert found.converged.all(), "a case that means something"
        rng = np.random.default_rng(1)
        weights = Vector(jnp.asarray(rng.normal(size=pack.frac.shape)), jnp.asarray(rng.normal(size=(3, 3, 3))))
        known = at_minimum(potential.energy, pressure_gpa=pressure, move_cell=move, tolerance=1e-12)
    return Case(found.pack, graph, params, lambda p, o: again(p, o, found.pack).pack, known, weights)


def observable(pack, weights: Vector, reference) -> jax.Array:
    """Bond vectors and the metric of every cell, randomly weighted: neither sees a translation or a rotation."""
    metric = pack.lattice @ pack.lattice.swapaxes(1, 2)
    first = jnp.asarray(np.array([0, 0, 2, 2, 2, 2, 6, 6]))
    apart = pack.frac - pack.frac[first] - (reference.frac - reference.frac[first])
    return (weights.sites * apart).sum() + (weights.cells * metric).sum()


def test_by_every_parameter_of_the_potential(case, toys):
    with jax.enable_x64(True):
        value = lambda p: observable(case.known(p, case.pack, case.graph), case.weights, case.pack)  # noqa: E731
        slopes = jax.jit(jax.grad(value), compiler_options=toys.fast)(case.params)
        for name, array in case.params.items():
            for k in range(len(array)):
                h = STEP * jnp.zeros_like(array).at[k].set(1)
                ends = [case.again(case.params | {name: array + s * h}, case.pack.occupancy) for s in (1, -1)]
                up, down = (observable(end, case.weights, case.pack) for end in ends)
                np.testing.assert_allclose(slopes[name][k], (up - down) / (2 * STEP), rtol=1e-5, atol=1e-5)


def test_by_the_composition(case, toys):
    """A little nickel on aluminum's site, and the other way round."""
    with jax.enable_x64(True):
        value = lambda o: observable(  # noqa: E731
            case.known(case.params, case.pack._replace(occupancy=o), case.graph), case.weights, case.pack
        )
        slopes = jax.jit(jax.grad(value), compiler_options=toys.fast)(case.pack.occupancy)
        for site in (0, 1, 3, 6):
            swap = jnp.zeros_like(case.pack.occupancy).at[site, 12].set(1.0).at[site, 27].set(-1.0)
            ends = [case.again(case.params, case.pack.occupancy + s * STEP * swap) for s in (1, -1)]
            up, down = (observable(end, case.weights, case.pack) for end in ends)
            np.testing.assert_allclose((slopes * swap).sum(), (up - down) / (2 * STEP), rtol=1e-5, atol=1e-5)


def test_broken_and_unstable_crystals_have_no_derivative_and_others_their_bits(case, toys):
    """In place of the middle crystal: touching atoms; one that is not at a minimum (far stretched)."""
    with jax.enable_x64(True):
        occupancy = case.pack.occupancy
        value = lambda pack: jax.grad(  # noqa: E731
            lambda o: observable(case.known(case.params, pack._replace(occupancy=o), case.graph), case.weights, pack)
        )(occupancy)
        value = jax.jit(value, compiler_options=toys.fast)
        whole = value(case.pack)
        touching = case.pack._replace(frac=case.pack.frac.at[3].set(case.pack.frac[2] + 0.001))
        torn = displaced(case.pack, Vector(jnp.zeros((8, 3)), jnp.zeros((3, 3, 3)).at[1].set(0.5 * jnp.eye(3))))
        for broken in (touching, torn):
            slopes = value(broken)
            np.testing.assert_array_equal(slopes[2:6], 0)
            np.testing.assert_array_equal(slopes[jnp.array([0, 1, 6])], whole[jnp.array([0, 1, 6])])


def test_conjugate_gradients_solve_each_system(toys):
    """Random positive matrices, one per crystal, against a direct solution; an indefinite one has no answer."""
    rng, sizes = np.random.default_rng(2), [2, 4, 1]
    with jax.enable_x64(True):
        pack = in_double(toys.make_pack(alloys(), SHAPE, float))
        roots = [rng.normal(size=(3 * n + 9, 3 * n + 9)) for n in sizes]
        matrices = [r @ r.T + 0.1 * np.eye(len(r)) for r in roots]
        matrices[2] -= 30 * np.eye(len(matrices[2]))
        ends = np.cumsum([0, *sizes])
        parts = lambda x: [jnp.concatenate([x.sites[a:b].ravel(), x.cells[k].ravel()])  # noqa: E731
                           for k, (a, b) in enumerate(itertools.pairwise(ends))]  # fmt: skip

        def hessian(x: Vector) -> Vector:
            out = [m @ v for m, v in zip(matrices, parts(x))]
            sites = jnp.concatenate([o[: 3 * n].reshape(n, 3) for o, n in zip(out, sizes)] + [jnp.zeros((1, 3))])
            return Vector(sites, jnp.stack([o[3 * n :].reshape(3, 3) for o, n in zip(out, sizes)]))

        wanted = Vector(jnp.asarray(rng.normal(size=(8, 3))).at[7].set(0), jnp.asarray(rng.normal(size=(3, 3, 3))))
        x, sound = jax.jit(lambda w: solve(hessian, w, pack, 200, 1e-12))(wanted)
        np.testing.assert_array_equal(sound, [True, True, False])
        for k in (0, 1):
            np.testing.assert_allclose(parts(x)[k], np.linalg.solve(matrices[k], parts(wanted)[k]), rtol=1e-8)
        assert not parts(x)[2].any() and dot(x, x, pack)[2] == 0
