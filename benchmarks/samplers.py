"""Every sampler against exact draws: Gaussian mixtures whose velocity and score are known, so that no network errs.

    python benchmarks/samplers.py

Positions: crystals of two sites whose difference is, along each axis, a mixture of two wrapped normals. Lattices: six
standardized coordinates, each a mixture of two normals. The error is the 1-Wasserstein distance between the samples of
all axes and as many exact draws, in cell lengths or standard deviations; the last line of a case is that of other exact
draws, below which nothing can be told apart. `tests/generators/test_samplers.py` fits the orders of convergence on the
same cases.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Pack, Process, one_hot
from crysjax.generators import processes
from crysjax.generators.processes.samplers import NEED_SCORE, SAMPLERS, Problem, grid, sampler
from crysjax.geometry import torus

MEANS, WIDTH, SHARES = (0.15, -0.2), 0.08, (0.6, 0.4)  # of the difference of two sites, in cell lengths
LATTICE_MEANS, LATTICE_WIDTH = (
    (-0.9, 0.9),
    0.4,
)  # even shares; mean 0 and nearly unit variance, as standardized data has


class Case(NamedTuple):
    """A process and the prediction of a perfect network for it."""

    process: Process
    answer: Callable[[Array, Array], Array]  # (x, t) -> prediction
    sites: int = 1  # of a crystal


def _mixture(x: Array, means: Array, shares: Array, variance: Array, windings: int = 3) -> tuple[Array, Array]:
    """Weights of each (component, winding) and the distance from it: x (...) -> (m, w, ...), (m, w, ...)."""
    around = jnp.arange(-windings, windings + 1, dtype=x.dtype)
    ones = (1,) * x.ndim
    away = x[None, None] - means.reshape(-1, 1, *ones) + around.reshape(1, -1, *ones)
    logits = jnp.log(shares).reshape(-1, 1, *ones) - 0.5 * jnp.square(away) / variance
    return jax.nn.softmax(logits.reshape(-1, *x.shape), 0).reshape(logits.shape), away


def wrapped_case(process: Process) -> Case:
    """Wrapped diffusion of one site per crystal, whose position is the mixture."""

    def answer(x: Array, t: Array) -> Array:
        spread = process.dynamics.spread(t)
        variance = jnp.broadcast_to(WIDTH**2 + jnp.square(spread), x.shape)[None, None]
        weight, away = _mixture(x, jnp.asarray(MEANS, x.dtype), jnp.asarray(SHARES, x.dtype), variance)
        noise = (weight * away).sum((0, 1)) * spread / variance[0, 0]
        return noise / process.dynamics.noise(x, jnp.ones_like(x), t, None)  # in the units the process reads

    return Case(process, answer)


def path_case(process: Process, gamma: float, nodes: int = 65) -> Case:
    """Flows and interpolants of two sites per crystal: an integral over the displacement, whose law is triangular."""

    def answer(x: Array, t: Array) -> Array:
        pair, time = x.reshape(-1, 2, 3), t.reshape(-1, 2, 1)[:, 0]
        difference = (pair[:, 0] - pair[:, 1])[None, None, None]
        size = gamma * jnp.sin(jnp.pi * time)
        variance = WIDTH**2 + 2 * jnp.square(size)
        (
            w,
            means,
            shares,
            around,
        ) = (  # displacement, component and winding, before the crystals and the axes of the cell
            jnp.asarray(values, x.dtype).reshape(shape)
            for values, shape in (
                (np.linspace(-1, 1, nodes)[1:-1], (-1, 1, 1, 1, 1)),
                (MEANS, (1, -1, 1, 1, 1)),
                (SHARES, (1, -1, 1, 1, 1)),
                ((-1, 0, 1), (1, 1, -1, 1, 1)),
            )
        )
        away = torus.log(difference - time[None, None, None] * w) - means + around
        weight = shares * (1 - jnp.abs(w)) * jnp.exp(-0.5 * jnp.square(away) / variance[None, None, None])
        total = weight.sum((0, 1, 2))
        path = (weight * w).sum((0, 1, 2)) / total / 2
        z = (weight * away).sum((0, 1, 2)) / total * size / variance
        both = jnp.concatenate([path, z], -1)[:, : 3 * process.answers]
        return jnp.stack([both, -both], 1).reshape(len(x), -1)

    return Case(process, answer, sites=2)


def lattice_case(process: Process, signal: Callable, kind: str) -> Case:
    """Six independent coordinates `signal(t) x_0 + spread(t) z`; `kind` is what the network predicts."""

    def answer(x: Array, t: Array) -> Array:
        a, b = signal(t), process.dynamics.spread(t)
        variance = jnp.square(a * LATTICE_WIDTH) + jnp.square(b)
        means = jnp.asarray(LATTICE_MEANS, x.dtype)[:, None, None]
        away = x[None] - a[None] * means
        weight = jax.nn.softmax(-0.5 * jnp.square(away) / variance[None], 0)
        clean = (weight * (means + a[None] * LATTICE_WIDTH**2 * away / variance[None])).sum(0)
        z = (weight * b[None] * away / variance[None]).sum(0)
        return {"clean": clean, "noise": z, "f": b * clean - a * z}[kind]

    return Case(process, answer)


def cases(gamma: float = 0.1) -> dict[str, Case]:
    """All continuous processes: those with `churn` as the ODE."""

    def cosine(t: Array) -> Array:
        return jnp.cos(0.5 * jnp.pi * t)

    edm = processes.euclidean_edm()
    wide = dict(sigma_max=0.8, churn=0.0)  # so wide that the start is uniform to 1e-5
    return {
        "positions, flow": path_case(processes.torus_flow(), 0.0),
        "positions, interpolant": path_case(processes.torus_interpolant(gamma=gamma), gamma),
        "positions, diffusion": wrapped_case(processes.torus_diffusion(**wide)),
        "positions, edm": wrapped_case(processes.torus_edm(**wide)),
        "lattice, flow": lattice_case(processes.euclidean_flow(), lambda t: 1 - t, "clean"),
        "lattice, interpolant": lattice_case(processes.euclidean_interpolant(), lambda t: 1 - t, "clean"),
        "lattice, diffusion": lattice_case(processes.euclidean_diffusion(churn=0.0), cosine, "noise"),
        "lattice, edm": lattice_case(edm, lambda t: jnp.cos(edm.dynamics.clock(t)), "f"),
    }


def pack_of(crystals: int, sites: int, dtype) -> Pack:
    """Crystals of one or two carbon atoms; pairs are not needed here."""
    n = crystals * sites
    lattice = jnp.tile(jnp.eye(3, dtype=dtype)[None], (crystals, 1, 1))
    owner, pairs = jnp.arange(n, dtype=jnp.int32) // sites, jnp.zeros((1, 2), jnp.int32)
    return Pack(one_hot(jnp.full(n, 6), dtype), jnp.zeros((n, 3), dtype), lattice, owner, pairs, jnp.zeros(1, dtype))


MOST_STEPS = 256


def drawer(case: Case, name: str, crystals: int, dtype=jnp.float32, **settings) -> Callable[..., Array]:
    """`(key, steps, rho=1) -> x`, positions (differences where a crystal has two sites) or lattice coordinates.

    (crystals, 3 or 6); compiled once for all numbers of steps.
    """
    process = case.process
    positions, rows = process.head == "frac", crystals * case.sites
    pack = pack_of(crystals, case.sites, dtype)

    def at(t: Array) -> tuple:
        return (t * jnp.ones((rows, 1), dtype),)

    problem = Problem((process,), lambda x, t: ((case.answer(x[0], at(t)[0]),), None), at, pack)
    move = sampler(name, (process,), **settings)

    @jax.jit
    def run(key: Array, steps: Array, t: Array, dt: Array) -> Array:
        first, rest = jax.random.split(key)
        x = (process.prior(first, pack.frac if positions else jnp.zeros((rows, 6), dtype), pack),)

        def body(k: Array, carry: tuple) -> tuple:
            return move.advance(problem, jax.random.fold_in(rest, k), *carry, t[k], dt[k])[:2]

        return jax.lax.fori_loop(0, steps, body, (x, move.start(problem, x)))[0][0]

    def draw(key: Array, steps: int, rho: float = 1.0) -> Array:
        times = (jnp.pad(times, (0, MOST_STEPS - steps)) for times in grid(steps, rho, dtype))
        x = run(key, jnp.asarray(steps, jnp.int32), *times)
        x = x.reshape(-1, 2, 3)[:, 0] - x.reshape(-1, 2, 3)[:, 1] if case.sites == 2 else x
        return torus.wrap(x) if positions else x

    return draw


def exact(case: Case, count: int, seed: int) -> np.ndarray:
    """Draws of the mixture, (count,)."""
    rng, positions = np.random.default_rng(seed), case.process.head == "frac"
    which = rng.random(count) < (SHARES[1] if positions else 0.5)
    means, width = (MEANS, WIDTH) if positions else (LATTICE_MEANS, LATTICE_WIDTH)
    x = np.asarray(means)[which.astype(int)] + width * rng.standard_normal(count)
    return x % 1 if positions else x


def wasserstein(case: Case, x: np.ndarray, y: np.ndarray) -> float:
    """Mean distance of the sorted values; on the circle the least over rotations of the order (Delon et al. 2010)."""
    x, y = np.sort(x.ravel()), np.sort(y.ravel())
    if case.process.head != "frac":
        return float(np.abs(x - y).mean())
    grid_ = np.linspace(0, 1, 4001)
    gap = np.searchsorted(x, grid_) / len(x) - np.searchsorted(y, grid_) / len(y)
    return float(np.abs(gap - np.median(gap)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, default=20000)
    parser.add_argument("--calls", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="network calls")
    args = parser.parse_args()
    print("| field, process | sampler | " + " | ".join(f"{n} calls" for n in args.calls) + " |")
    print("| --- | --- |" + " --- |" * len(args.calls))
    for label, case in cases().items():
        axes = 3 if case.process.head == "frac" else 6
        target = exact(case, axes * args.crystals, 1)
        for name in SAMPLERS:
            if name in NEED_SCORE and case.process.dynamics.noise is None:
                continue
            cost = 2 if name in ("heun", "predictor_corrector") else 1
            draw = drawer(case, name, args.crystals)
            row = [draw(jax.random.key(0), n // cost) for n in args.calls]
            row = [wasserstein(case, np.asarray(x), target) for x in row]
            print(f"| {label} | {name} | " + " | ".join(f"{w:.4f}" for w in row) + " |", flush=True)
        floor = wasserstein(case, exact(case, axes * args.crystals, 2), target)
        print(f"| {label} | exact draws | {floor:.4f} |" + " |" * (len(args.calls) - 1), flush=True)


if __name__ == "__main__":
    main()
