"""A continuous normalizing flow over crystals: the network of flow matching, with the density of what it samples.

The ordinary differential equation of `flows.torus_flow` and `flows.euclidean_flow` carries noise (t = 1) to
crystals, and the divergence of its velocity carries the log-density (Chen et al. 2018, equation 8; FFJORD, Grathwohl
et al. 2019; training without simulation: Lipman et al. 2023, on the torus: Miller et al. 2024).

It is solved in u = log t, from 0 to log(blur): there the lattice velocity `x - clean(x, t)` and the position velocity
`t v(x, t)` stay bounded, while the lattice's velocity in t grows as 1/t. It ends at t = `blur`, not at 0, because a law
without width has no density: what is sampled and scored is the data with a share `blur` of the noise.

One thing is added to the network of `iterative`: its lattice answer is the mean m of a Gaussian whose variance v a
small read-out gives, and the clean lattice that the velocity needs is the posterior mean of that Gaussian given x_t,
`m + k (x_t - (1 - t) m)` with `k = (1 - t) v / ((1 - t)^2 v + t^2)`. A network that had to copy x_t to its answer to
within t at small t would leave lattices far too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import (
    Condition,
    Generator,
    Network,
    Pack,
    Params,
    Prediction,
    mean_by_crystal,
    num_sites,
    site_mask,
    sum_by_crystal,
)
from crysjax.generators import coordinates
from crysjax.generators.composition import composition
from crysjax.generators.coordinates import Fields, Geometry
from crysjax.generators.coupling import ReadOut
from crysjax.generators.processes.flows import centered, euclidean_flow, torus_flow
from crysjax.geometry import torus

Field = Callable[[Geometry, Array], Geometry]  # (x, u) -> dx/du
TABLEAUS = {"heun": ((0.0, 1.0), (0.5, 0.5)), "rk4": ((0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))}
"""Nodes and weights of methods of order 2 and 4 whose stages build on the one before alone."""


class Scored(NamedTuple):
    """A point on its way, and the integral of the divergence so far."""

    x: Geometry
    divergence: Array  # (b,)


def continuous_flow(
    network: Network,
    *,
    steps: int = 20,
    solver: str = "rk4",
    blur: float = 0.01,
    divergence: str = "hutchinson",
    probes: int = 4,
    max_sites: int = 20,
    seed: int = 0,
    objective: str = "flow_matching",
    width: int = 128,
    lattice_center: tuple[float, ...] = coordinates.LATTICE_CENTER,
    lattice_scale: tuple[float, ...] = coordinates.LATTICE_SCALE,
    property_center: tuple[float, ...] = (),
    property_scale: tuple[float, ...] = (),
    drop_condition: float = 0.15,
    frac_weight: float = 10.0,
    lattice_weight: float = 1.0,
    species_weight: float = 1.0,
) -> Generator:
    """The continuous flow.

    `log_prob(params, pack, condition, template=None, key=None)` is the log-density in nats of a crystal with respect
    to the Lebesgue measure of its fractional coordinates in [0, 1)^3n times that of its six standardized lattice
    coordinates, times the counting measure of the species of those sites that `template` leaves free; without one all
    species count as given. The velocity has no mean over a crystal and the noise is uniform, so the density is one on
    the whole torus that translations do not change: no coordinate is taken out. `key` draws the probes of the
    divergence; without one they follow from `seed`.

    It is the density of `sample` up to the solver's error (order 4 for "rk4", 2 for "heun") and, where the network is
    not smooth, its jumps: `geometry` features of `nets.dense` jump where a neighbor's nearest image changes in a
    skewed cell, so set `network.geometry: 0` for a density.

    Args:
        steps: of the solver; 4 ("rk4") or 2 ("heun") network calls each.
        solver: "rk4" or "heun".
        blur: share of noise that samples keep, between 0 and 1.
        divergence: "exact", 3 max_sites + 6 products per call, or "hutchinson", `probes` of them: unbiased for log p,
            with probes of +-1 that stay the same along the way.
        max_sites: of a crystal, for the exact divergence; larger crystals score NaN.
        seed: of the probes.
        objective: "flow_matching", or "likelihood": maximum likelihood through the solver, slow, for fine-tuning.
        width: hidden features of the network for compositions.
        lattice_center, lattice_scale: mean and standard deviation of the six lattice coordinates in the data.
        property_center, property_scale: the same for the conditioning properties; their number is the model's.
        drop_condition: share of training crystals that lose all conditions together, see `coordinates.drop_condition`.
        frac_weight, lattice_weight: of the squared errors of flow matching, as in `iterative`.
        species_weight: of the species' nats per site.
    """
    _check("solver", solver, tuple(TABLEAUS))
    _check("divergence", divergence, ("exact", "hutchinson"))
    _check("objective", objective, ("flow_matching", "likelihood"))
    if not 0 < blur < 1:
        raise ValueError(f"blur: {blur}; expected a share of noise between 0 and 1")
    species, spread = composition(width=width), ReadOut(6, width)
    scales, end = (lattice_center, lattice_scale), math.log(blur)
    frac, lattice = torus_flow(), euclidean_flow()

    def init(key: Array, pack: Pack, condition: Condition) -> Params:
        keys, static = jax.random.split(key, 3), known(pack, condition)
        time = jnp.ones(len(pack.lattice), pack.frac.dtype)
        context = coordinates.context(time, condition, property_center, property_scale)
        params = network.init(keys[0], pack, context)
        features = jnp.concatenate([network.apply(params, pack, context).crystal, static], -1)
        return {
            "network": params,
            "spread": spread.init(keys[1], features)["params"],
            "species": species.init(keys[2], static),
        }

    def known(pack: Pack, condition: Condition) -> Array:
        return coordinates.given(condition, property_center, property_scale, pack.frac.dtype)

    def predict(params: Params, x: Geometry, t: Array, pack: Pack, condition: Condition) -> Prediction:
        """The network's answer; its lattice is the mean of a Gaussian, of which E[clean | x_t] is the posterior."""
        noisy = coordinates.assemble(Fields(x.frac, x.lattice, pack.occupancy), pack, *scales, limit=None)
        context = coordinates.context(t, condition, property_center, property_scale)
        answer = network.apply(params["network"], noisy, context)
        features = jnp.concatenate([answer.crystal, known(pack, condition)], -1)
        precision = jnp.exp(-spread.apply({"params": params["spread"]}, features))
        t = t[:, None]
        gain = (1 - t) / ((1 - t) ** 2 + t**2 * precision)
        return answer._replace(lattice=answer.lattice + gain * (x.lattice - (1 - t) * answer.lattice))

    def field(params: Params, pack: Pack, condition: Condition) -> Field:
        used = (num_sites(pack) > 0)[:, None]

        def velocity(x: Geometry, u: Array) -> Geometry:
            t = jnp.exp(u)
            answer = predict(params, x, jnp.full(len(pack.lattice), t), pack, condition)
            move = centered(answer.frac, pack)
            towards = jnp.where(used, x.lattice - answer.lattice, 0)
            return Geometry(t * move * site_mask(pack.occupancy)[:, None], towards)

        return velocity

    def trace(velocity: Field, x: Geometry, u: Array, pack: Pack, key: Array) -> tuple[Geometry, Array]:
        at, push = jax.linearize(lambda x: velocity(x, u), x)

        def along(probe: Geometry) -> Array:
            moved = push(probe)
            return sum_by_crystal((probe.frac * moved.frac).sum(-1), pack) + (probe.lattice * moved.lattice).sum(-1)

        if divergence == "exact":
            total = jax.lax.map(along, unit_probes(x, pack, max_sites)).sum(0)
            return at, jnp.where(num_sites(pack) <= max_sites, total, jnp.nan)
        return at, jax.lax.map(along, sign_probes(key, x, probes)).mean(0)

    def score(params: Params, x: Geometry, pack: Pack, condition: Condition, key: Array) -> Array:
        """log p of a point at t = blur, in the coordinates of the solver: (b,)."""
        velocity = field(params, pack, condition)

        def both(state: Scored, u: Array) -> Scored:
            return Scored(*trace(velocity, state.x, u, pack, key))

        start = Scored(x, jnp.zeros_like(x.lattice[:, 0]))
        final = solve(both, start, end, 0.0, steps, solver)
        return jax.scipy.stats.norm.logpdf(final.x.lattice).sum(-1) + final.divergence

    def log_prob(
        params: Params, pack: Pack, condition: Condition, template: Pack | None = None, key: Array | None = None
    ) -> Array:
        x = coordinates.encode(pack, *scales)
        shrunk = Geometry(x.frac, x.lattice * (1 - blur))
        value = score(params, shrunk, pack, condition, jax.random.key(seed) if key is None else key)
        value = jnp.where(num_sites(pack) > 0, value + 6 * math.log(1 - blur), 0)
        if template is None:
            return value
        return value + species.log_prob(params["species"], pack.occupancy, template, known(pack, condition))

    def matching(params: Params, key: Array, pack: Pack, condition: Condition) -> Geometry:
        keys, clean = jax.random.split(key, 3), coordinates.encode(pack, *scales)
        b = len(pack.lattice)
        t = blur + (1 - blur) * ((jax.random.uniform(keys[0], dtype=pack.frac.dtype) + jnp.arange(b) / b) % 1.0)
        frac_t, target = frac.corrupt(keys[1], clean.frac, t[pack.owner][:, None], pack)
        lattice_t, end = lattice.corrupt(keys[2], clean.lattice, t[:, None], pack)
        answer = predict(params, Geometry(frac_t, lattice_t), t, pack, condition)
        of_frac = mean_by_crystal(frac.error(answer.frac, target, frac_t, pack), pack)
        of_lattice = lattice.error(answer.lattice, end, lattice_t, pack)
        return Geometry(frac_weight * of_frac, lattice_weight * of_lattice)

    def likelihood(params: Params, key: Array, pack: Pack, condition: Condition) -> Geometry:
        keys, clean = jax.random.split(key, 3), coordinates.encode(pack, *scales)
        at = jnp.asarray(blur, pack.frac.dtype)
        x = Geometry(*(p.corrupt(k, v, at, pack)[0] for p, k, v in zip((frac, lattice), keys, clean)))
        return Geometry(-score(params, x, pack, condition, keys[2]) / jnp.maximum(num_sites(pack), 1), jnp.zeros(()))

    def loss(params: Params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
        keys = jax.random.split(key, 3)
        condition = coordinates.drop_condition(keys[0], condition, drop_condition)
        errors = (matching if objective == "flow_matching" else likelihood)(params, keys[1], pack, condition)
        template = coordinates.hide_species(keys[2], pack)
        nats = -species.log_prob(params["species"], pack.occupancy, template, known(pack, condition))
        parts = Fields(*errors, species_weight * nats / jnp.maximum(num_sites(pack), 1))
        means = Fields(*(coordinates.mean_over_crystals(jnp.broadcast_to(v, nats.shape), pack) for v in parts))
        return sum(means), means._asdict()

    def noise(key: Array, template: Pack) -> Geometry:
        first, second = jax.random.split(key)
        like = jnp.zeros((len(template.lattice), 6), template.frac.dtype)
        return Geometry(frac.prior(first, template.frac, template), lattice.prior(second, like, template))

    def decode(params: Params, key: Array, noise: Geometry, template: Pack, condition: Condition) -> Pack:
        pack = template._replace(occupancy=species.draw(params["species"], key, template, known(template, condition)))
        x = solve(field(params, pack, condition), noise, 0.0, end, steps, solver)
        placed = Fields(torus.wrap(x.frac), x.lattice / (1 - blur), pack.occupancy)
        return coordinates.assemble(placed, pack, *scales, limit=None)

    def sample(params: Params, key: Array, template: Pack, condition: Condition) -> Pack:
        first, rest = jax.random.split(key)
        return decode(params, rest, noise(first, template), template, condition)

    return Generator(init, loss, noise, decode, sample, log_prob)


def solve(field: Callable, x, start: float, stop: float, steps: int, solver: str):
    """dx/du = field(x, u) from `start` to `stop` in equal steps of an explicit Runge-Kutta method."""
    dtype, h = jax.tree.leaves(x)[0].dtype, (stop - start) / steps
    stages = tuple(jnp.asarray(row, dtype) for row in TABLEAUS[solver])

    def step(x, u: Array):
        def stage(state: tuple, this: tuple[Array, Array]) -> tuple:
            (slope, moved), (node, weight) = state, this
            slope = field(jax.tree.map(lambda v, s: v + h * node * s, x, slope), u + h * node)
            return (slope, jax.tree.map(lambda v, s: v + h * weight * s, moved, slope)), None

        (_, moved), _ = jax.lax.scan(stage, (jax.tree.map(jnp.zeros_like, x), x), stages)  # one copy to compile
        return moved, None

    return jax.lax.scan(jax.checkpoint(step), x, start + h * jnp.arange(steps, dtype=dtype))[0]


def unit_probes(x: Geometry, pack: Pack, max_sites: int) -> Geometry:
    """Every coordinate of a crystal once, of all crystals at the same time: (3 max_sites + 6, ...)."""
    row, m, dtype = jnp.arange(len(x.frac)), 3 * max_sites + 6, x.frac.dtype
    rank = row - jax.ops.segment_min(row, pack.owner, len(pack.lattice))[pack.owner]
    of_site = jnp.eye(m, 3 * max_sites, dtype=dtype).reshape(m, max_sites, 3)
    frac = jnp.take(of_site, rank, axis=1, mode="fill", fill_value=0)
    lattice = jnp.eye(m, 6, -3 * max_sites, dtype=dtype)[:, None]
    return Geometry(frac, jnp.broadcast_to(lattice, (m, *x.lattice.shape)))


def sign_probes(key: Array, x: Geometry, probes: int) -> Geometry:
    """Independent signs for every coordinate (Hutchinson 1989): (probes, ...)."""
    keys = jax.random.split(key, 2)
    return Geometry(*(jax.random.rademacher(k, (probes, *v.shape), v.dtype) for k, v in zip(keys, x)))


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: {value!r}; expected one of {', '.join(allowed)}")
