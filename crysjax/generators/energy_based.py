"""An energy-based model: one learned scalar per crystal, whose gradient is the score that a sampler follows.

E(crystal, t | condition) is trained by denoising score matching (Vincent 2011) over noise levels (Song & Ermon 2019),
with the score as the gradient of a network's scalar (Salimans & Ho 2021): -∇E meets the score of the noise, the wrapped
normal's on the torus (DiffCSP, Jiao et al. 2023, eq. 9) and the normal's on the standardized lattice. The field is
therefore conservative, energies may be added, and a move can be accepted or rejected by them, none of which a score
network allows. The price is a second differentiation while training.

E says nothing of species: score matching leaves a constant free for every composition. Sites that are not known are
"any element" at first and are revealed as the noise falls, from the species head of the same network (absorbing
diffusion; Austin et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Condition, Generator, Network, Pack, Params, Process, is_known, mean_by_crystal
from crysjax.generators import coordinates, processes
from crysjax.generators.coordinates import LATTICE_CENTER, LATTICE_SCALE, Fields, Scales, mean_over_crystals
from crysjax.generators.energy_model import EnergyModel, energy_model, of_crystal, scaled
from crysjax.generators.torus_langevin import ChainState, Point, metropolis, propose
from crysjax.geometry import torus


class Moves(NamedTuple):
    """How noise becomes crystals: annealed moves, then adjusted ones at the smallest noise."""

    steps: int
    step_size: float
    corrections: int
    correction_size: float
    denoise: bool
    widest: float  # largest noise of the lattice


class LangevinSteps(NamedTuple):
    """The parts of an `energy_based`."""

    model: EnergyModel
    guided: EnergyModel  # the same parameters, under guidance
    absorbing: Process  # of the species
    scales: Scales
    weights: Fields
    known_fraction: float
    drop_condition: float
    moves: Moves


def energy_based(
    network: Network,
    *,
    steps: int = 100,
    step_size: float = 0.3,
    corrections: int = 20,
    correction_size: float = 0.2,
    denoise: bool = True,
    hidden: int = 64,
    lattice_center: tuple[float, ...] = LATTICE_CENTER,
    lattice_scale: tuple[float, ...] = LATTICE_SCALE,
    property_center: tuple[float, ...] = (),
    property_scale: tuple[float, ...] = (),
    known_fraction: float = 0.5,
    drop_condition: float = 0.15,
    guidance: float = 0.0,
    frac_sigma_min: float = 0.01,
    frac_sigma_max: float = 0.35,
    lattice_sigma_min: float = 0.05,
    lattice_sigma_max: float = 1.5,
    frac_weight: float = 1.0,
    lattice_weight: float = 1.0,
    species_weight: float = 0.2,
) -> Generator:
    """A generator that follows -∇E down the noise levels by Langevin moves (Song & Ermon 2019, Algorithm 1).

    It has no `log_prob`: the energy is not normalized.

    Args:
        network: the backbone; it has to be smooth in positions and lattice, for it is differentiated twice.
        steps: annealed Langevin moves, one per noise level, each of one energy and gradient.
        step_size: step h of a move in units of sigma^2; the sampled variance is about h / 2 too large at every level.
        corrections: Metropolis-adjusted moves at the smallest noise, which sample exp(-E) exactly.
        correction_size: step h of these moves in units of sigma^2.
        denoise: end with the mean of the clean crystal given the noisy one, x - sigma^2 ∇E (Tweedie;
            Jolicoeur-Martineau et al. 2021), instead of a draw at the smallest noise.
        hidden: width of the perceptron that makes the sites' energies.
        lattice_center, lattice_scale, property_center, property_scale: as in `iterative`.
        known_fraction, drop_condition: as in `iterative`.
        guidance: weight w of classifier-free guidance, `(1 + w) E(. | condition) - w E(.)` (Ho & Salimans 2022).
        frac_sigma_min: smallest standard deviation of the noise of positions, in fractions of the cell.
        frac_sigma_max: largest standard deviation of the noise of positions, in fractions of the cell; at 0.35 they are
            all but uniform.
        lattice_sigma_min: smallest noise of the lattice, in standard deviations of its coordinates.
        lattice_sigma_max: largest noise of the lattice, in standard deviations of its coordinates.
        frac_weight: weight of the error of the positions' score in the loss, squared, in units of 1 / sigma (1 for a
            model that has learned nothing, less at noise that goes round the torus).
        lattice_weight: weight of the error of the lattice's score in the loss, squared, in units of 1 / sigma (1 for a
            model that has learned nothing).
        species_weight: weight of the error of the species in the loss, in nats per site (about 4 for a model that has
            learned nothing).
    """
    shared = dict(
        hidden=hidden, lattice_center=lattice_center, lattice_scale=lattice_scale, property_center=property_center,
        property_scale=property_scale, frac_sigma_min=frac_sigma_min, frac_sigma_max=frac_sigma_max,
        lattice_sigma_min=lattice_sigma_min, lattice_sigma_max=lattice_sigma_max,
    )  # fmt: skip
    model, guided = (energy_model(network, **shared, guidance=w) for w in (0.0, guidance))
    parts = LangevinSteps(
        model=model,
        guided=guided,
        absorbing=processes.discrete_flow(),
        scales=Scales(lattice_center, lattice_scale, property_center, property_scale),
        weights=Fields(frac_weight, lattice_weight, species_weight),
        known_fraction=known_fraction,
        drop_condition=drop_condition,
        moves=Moves(steps, step_size, corrections, correction_size, denoise, lattice_sigma_max),
    )
    noise, decode = partial(_noise, parts.absorbing), partial(_decode, parts)
    return Generator(model.init, partial(_loss, parts), noise, decode, coordinates.sampled(noise, decode))


def _loss(parts: LangevinSteps, params: Params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
    model, absorbing = parts.model, parts.absorbing
    keys = jax.random.split(key, 6)
    crystals = pack.lattice.shape[0]
    t = coordinates.stratified_times(keys[0], crystals, pack.frac.dtype)
    all_known = (jax.random.uniform(keys[1], (crystals,)) < parts.known_fraction)[pack.owner]
    condition = coordinates.drop_condition(keys[2], condition, parts.drop_condition)
    point, target = _corrupt(keys[3], parts.scales.encode(pack), model.sigma(t), pack)
    hidden_rows, _ = absorbing.corrupt(keys[4], pack.occupancy, t[pack.owner][:, None], pack)
    rows = jnp.where(all_known[:, None], pack.occupancy, hidden_rows)
    slope, _, logits = model.gradient(params, point, t, pack._replace(occupancy=rows), condition)
    noise = model.sigma(t)
    errors = Fields(
        of_crystal(scaled(slope.frac, noise.frac[pack.owner]) + target.frac, pack),
        jnp.square(scaled(slope.lattice, noise.lattice) + target.lattice).mean(-1),
        mean_by_crystal(absorbing.error(logits, pack.occupancy, rows, pack), pack),
    )
    means = Fields(*(mean_over_crystals(e, pack) for e in errors))
    return sum(w * e for w, e in zip(parts.weights, means)), means._asdict()


def _noise(absorbing: Process, key: Array, template: Pack) -> Fields:
    keys = jax.random.split(key, 3)
    lattice = jax.random.normal(keys[1], (template.lattice.shape[0], 6), template.frac.dtype)
    frac = jax.random.uniform(keys[0], template.frac.shape, template.frac.dtype)
    return Fields(frac, lattice, absorbing.prior(keys[2], template.occupancy, template))


def _decode(
    parts: LangevinSteps, params: Params, key: Array, noise: Fields, template: Pack, condition: Condition
) -> Pack:
    moves, guided = parts.moves, parts.guided
    known, allowed = is_known(template.occupancy)[:, None] > 0, template.occupancy > 0
    ones = jnp.ones_like(template.lattice[:, 0, 0])
    widest = jnp.sqrt(1 + jnp.square(jnp.asarray(moves.widest, ones.dtype)))  # the data's spread and the noise
    start = Fields(noise.frac, noise.lattice * widest, jnp.where(known, template.occupancy, noise.species))

    def at(t: Array, rows: Array) -> Callable:
        pack = template._replace(occupancy=rows)
        return lambda point: guided.gradient(params, point, t * ones, pack, condition)

    def level(x: Fields, this: tuple[Array, Array]) -> tuple[Fields, None]:
        move, reveal = jax.random.split(this[0])
        slope, _, logits = at(this[1], x.species)(Point(*x[:2]))
        h = Point(*(moves.step_size * jnp.square(s) for s in guided.sigma(this[1])))
        frac, lattice = propose(move, Point(*x[:2]), slope, h)
        dt = jnp.asarray(1 / moves.steps, ones.dtype)
        drawn = parts.absorbing.step(reveal, x.species, jnp.where(allowed, logits, -1e9), this[1], dt, template)
        # a cell that a bad gradient threw out of range would stay there
        return Fields(frac, jnp.clip(lattice, -6.0, 6.0), jnp.where(known, template.occupancy, drawn)), None

    t = jnp.linspace(1.0, 1.0 / moves.steps, moves.steps, dtype=ones.dtype)
    first, last = jax.random.split(key)
    x, _ = jax.lax.scan(jax.checkpoint(level), start, (jax.random.split(first, moves.steps), t))
    sigma = guided.sigma(jnp.zeros_like(noise.frac[0, 0]))
    point = _settled(moves, last, Point(*x[:2]), at(jnp.zeros_like(t[0]), x.species), sigma, template)
    return parts.scales.assemble(Fields(*point, coordinates.harden(x.species, template)), template)


def _settled(moves: Moves, key: Array, point: Point, gradient: Callable, sigma: Point, template: Pack) -> Point:
    """Adjusted moves at the smallest noise, `sigma`, and the last denoising."""

    def evaluate(point: Point) -> tuple[Array, Point]:
        slope, value, _ = gradient(point)
        return value, slope

    def move(state: ChainState, key: Array) -> tuple[ChainState, None]:
        return metropolis(key, state, evaluate, h, template)[0], None

    variance = Point(*(jnp.square(s) for s in sigma))
    h = Point(*(moves.correction_size * v for v in variance))
    keys = jax.random.split(key, moves.corrections)
    state, _ = jax.lax.scan(jax.checkpoint(move), ChainState(point, *evaluate(point)), keys)
    if not moves.denoise:
        return state.point
    frac, lattice = (x - v * g for x, v, g in zip(state.point, variance, state.gradient))
    return Point(torus.wrap(frac), lattice)


def _corrupt(key: Array, clean: Fields, sigma: Point, pack: Pack) -> tuple[Point, Point]:
    """The noisy point, and the score of its noise times sigma."""
    keys = jax.random.split(key)
    wide = jnp.broadcast_to(sigma.frac[pack.owner][:, None], clean.frac.shape)
    shift = wide * jax.random.normal(keys[0], clean.frac.shape, clean.frac.dtype)
    draws = jax.random.normal(keys[1], clean.lattice.shape, clean.lattice.dtype)
    target = Point(wide * torus.wrapped_normal_score(shift, wide), -draws)
    return Point(torus.wrap(clean.frac + shift), clean.lattice + sigma.lattice[:, None] * draws), target
