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
from functools import partial
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
    Process,
    mean_by_crystal,
    num_sites,
    site_mask,
)
from crysjax.generators import coordinates
from crysjax.generators.composition import Composition, composition
from crysjax.generators.coordinates import Fields, Geometry, Scales
from crysjax.generators.coupling import ReadOut
from crysjax.generators.flow_solver import TABLEAUS, Field, Scored, Solver, solve, trace
from crysjax.generators.processes.flows import centered, euclidean_flow, torus_flow
from crysjax.geometry import torus


class Flow(NamedTuple):
    """The parts of a `continuous_flow`, in the names of their parameters, and its settings."""

    network: Network
    spread: ReadOut
    species: Composition
    processes: tuple[Process, Process]  # of positions and lattice
    scales: Scales
    solver: Solver
    objective: str
    drop_condition: float
    weights: Fields


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
        steps: steps of the solver, of 4 ("rk4") or 2 ("heun") network calls each.
        solver: "rk4" (order 4) or "heun" (order 2).
        blur: share of noise that samples keep, between 0 and 1.
        divergence: "exact", 3 max_sites + 6 products per call, or "hutchinson", `probes` of them: unbiased for log p,
            with probes of +-1 that stay the same along the way.
        probes: random vectors of +-1 that estimate the divergence, for "hutchinson".
        max_sites: largest number of sites of a crystal for the exact divergence; the log-density of larger ones is NaN.
        seed: random seed of the probes where no key is given.
        objective: "flow_matching", or "likelihood": maximum likelihood through the solver, slow, for fine-tuning.
        width: hidden features of the network for compositions.
        lattice_center, lattice_scale, property_center, property_scale: as in `iterative`.
        drop_condition: as in `iterative`.
        frac_weight, lattice_weight: as in `iterative`.
        species_weight: weight of the species in the loss, in nats per site.
    """
    _check("solver", solver, tuple(TABLEAUS))
    _check("divergence", divergence, ("exact", "hutchinson"))
    _check("objective", objective, ("flow_matching", "likelihood"))
    if not 0 < blur < 1:
        raise ValueError(f"blur: {blur}; expected a share of noise between 0 and 1")
    flow = Flow(
        network=network,
        spread=ReadOut(6, width),
        species=composition(width=width),
        processes=(torus_flow(), euclidean_flow()),
        scales=Scales(lattice_center, lattice_scale, property_center, property_scale),
        solver=Solver(steps, solver, blur, divergence, probes, max_sites, seed),
        objective=objective,
        drop_condition=drop_condition,
        weights=Fields(frac_weight, lattice_weight, species_weight),
    )
    noise, decode = partial(_noise, flow), partial(_decode, flow)
    sample, log_prob = coordinates.sampled(noise, decode), partial(_log_prob, flow)
    return Generator(partial(_init, flow), partial(_loss, flow), noise, decode, sample, log_prob)


def _init(flow: Flow, key: Array, pack: Pack, condition: Condition) -> Params:
    keys, static = jax.random.split(key, 3), flow.scales.given(condition, pack.frac.dtype)
    context = flow.scales.context(jnp.ones(len(pack.lattice), pack.frac.dtype), condition)
    params = flow.network.init(keys[0], pack, context)
    features = jnp.concatenate([flow.network.apply(params, pack, context).crystal, static], -1)
    return {
        "network": params,
        "spread": flow.spread.init(keys[1], features)["params"],
        "species": flow.species.init(keys[2], static),
    }


def _predict(flow: Flow, params: Params, x: Geometry, t: Array, pack: Pack, condition: Condition) -> Prediction:
    """The network's answer; its lattice is the mean of a Gaussian, of which E[clean | x_t] is the posterior."""
    noisy = flow.scales.assemble(Fields(x.frac, x.lattice, pack.occupancy), pack, limit=None)
    answer = flow.network.apply(params["network"], noisy, flow.scales.context(t, condition))
    features = jnp.concatenate([answer.crystal, flow.scales.given(condition, pack.frac.dtype)], -1)
    precision = jnp.exp(-flow.spread.apply({"params": params["spread"]}, features))
    t = t[:, None]
    gain = (1 - t) / ((1 - t) ** 2 + t**2 * precision)
    return answer._replace(lattice=answer.lattice + gain * (x.lattice - (1 - t) * answer.lattice))


def _field(flow: Flow, params: Params, pack: Pack, condition: Condition) -> Field:
    """The velocity in u = log t."""
    used = (num_sites(pack) > 0)[:, None]

    def velocity(x: Geometry, u: Array) -> Geometry:
        t = jnp.exp(u)
        answer = _predict(flow, params, x, jnp.full(len(pack.lattice), t), pack, condition)
        move = centered(answer.frac, pack)
        towards = jnp.where(used, x.lattice - answer.lattice, 0)
        return Geometry(t * move * site_mask(pack.occupancy)[:, None], towards)

    return velocity


def _score(flow: Flow, params: Params, x: Geometry, pack: Pack, condition: Condition, key: Array) -> Array:
    """log p of a point at t = blur, in the coordinates of the solver: (b,)."""
    velocity, solver = _field(flow, params, pack, condition), flow.solver

    def both(state: Scored, u: Array) -> Scored:
        return Scored(*trace(solver, velocity, state.x, u, pack, key))

    start = Scored(x, jnp.zeros_like(x.lattice[:, 0]))
    final = solve(both, start, math.log(solver.blur), 0.0, solver.steps, solver.name)
    return jax.scipy.stats.norm.logpdf(final.x.lattice).sum(-1) + final.divergence


def _log_prob(
    flow: Flow, params: Params, pack: Pack, condition: Condition, template: Pack | None = None, key: Array | None = None
) -> Array:
    x, blur = flow.scales.encode(pack), flow.solver.blur
    shrunk = Geometry(x.frac, x.lattice * (1 - blur))
    value = _score(flow, params, shrunk, pack, condition, jax.random.key(flow.solver.seed) if key is None else key)
    value = jnp.where(num_sites(pack) > 0, value + 6 * math.log(1 - blur), 0)
    if template is None:
        return value
    known = flow.scales.given(condition, pack.frac.dtype)
    return value + flow.species.log_prob(params["species"], pack.occupancy, template, known)


def _matching(flow: Flow, params: Params, key: Array, pack: Pack, condition: Condition) -> Geometry:
    """The weighted errors of flow matching, (b,) each."""
    keys, clean, blur = jax.random.split(key, 3), flow.scales.encode(pack), flow.solver.blur
    frac, lattice = flow.processes
    t = blur + (1 - blur) * coordinates.stratified_times(keys[0], len(pack.lattice), pack.frac.dtype)
    frac_t, target = frac.corrupt(keys[1], clean.frac, t[pack.owner][:, None], pack)
    lattice_t, end = lattice.corrupt(keys[2], clean.lattice, t[:, None], pack)
    answer = _predict(flow, params, Geometry(frac_t, lattice_t), t, pack, condition)
    of_frac = mean_by_crystal(frac.error(answer.frac, target, frac_t, pack), pack)
    of_lattice = lattice.error(answer.lattice, end, lattice_t, pack)
    return Geometry(flow.weights.frac * of_frac, flow.weights.lattice * of_lattice)


def _likelihood(flow: Flow, params: Params, key: Array, pack: Pack, condition: Condition) -> Geometry:
    """Nats per site of positions and lattice together, (b,), through the solver."""
    keys, clean = jax.random.split(key, 3), flow.scales.encode(pack)
    at = jnp.asarray(flow.solver.blur, pack.frac.dtype)
    x = Geometry(*(p.corrupt(k, v, at, pack)[0] for p, k, v in zip(flow.processes, keys, clean)))
    nats = -_score(flow, params, x, pack, condition, keys[2])
    return Geometry(nats / jnp.maximum(num_sites(pack), 1), jnp.zeros(()))


def _loss(flow: Flow, params: Params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
    keys = jax.random.split(key, 3)
    condition = coordinates.drop_condition(keys[0], condition, flow.drop_condition)
    errors = _matching if flow.objective == "flow_matching" else _likelihood
    geometry = errors(flow, params, keys[1], pack, condition)
    template, known = coordinates.hide_species(keys[2], pack), flow.scales.given(condition, pack.frac.dtype)
    nats = -flow.species.log_prob(params["species"], pack.occupancy, template, known)
    parts = Fields(*geometry, flow.weights.species * nats / jnp.maximum(num_sites(pack), 1))
    means = Fields(*(coordinates.mean_over_crystals(jnp.broadcast_to(v, nats.shape), pack) for v in parts))
    return sum(means), means._asdict()


def _noise(flow: Flow, key: Array, template: Pack) -> Geometry:
    (frac, lattice), (first, second) = flow.processes, jax.random.split(key)
    like = jnp.zeros((len(template.lattice), 6), template.frac.dtype)
    return Geometry(frac.prior(first, template.frac, template), lattice.prior(second, like, template))


def _decode(flow: Flow, params: Params, key: Array, noise: Geometry, template: Pack, condition: Condition) -> Pack:
    solver, known = flow.solver, flow.scales.given(condition, template.frac.dtype)
    pack = template._replace(occupancy=flow.species.draw(params["species"], key, template, known))
    x = solve(_field(flow, params, pack, condition), noise, 0.0, math.log(solver.blur), solver.steps, solver.name)
    placed = Fields(torus.wrap(x.frac), x.lattice / (1 - solver.blur), pack.occupancy)
    return flow.scales.assemble(placed, pack, limit=None)


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: {value!r}; expected one of {', '.join(allowed)}")
