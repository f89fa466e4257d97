"""Flow matching and diffusion over crystals as one family: a network and a `Process` a field, denoised together.

One model answers every question that a template can ask: sites with known species are held (crystal structure
prediction), sites whose row allows several elements are drawn among those alone, unknown ones among all (de novo).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

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
    SymmetricSites,
    is_known,
    mean_by_crystal,
    num_sites,
)
from crysjax.constraints import constraint as constraints
from crysjax.constraints import symmetric_sites
from crysjax.constraints.constraint import Constraint, GivenFields
from crysjax.generators import coordinates
from crysjax.generators.classifier_free import Weights, check_weights, guided
from crysjax.generators.coordinates import LATTICE_CENTER, LATTICE_SCALE, Fields, Numbers, Scales
from crysjax.generators.processes.interpolants import asked_twice
from crysjax.generators.processes.samplers import Problem, Sampler, grid
from crysjax.generators.processes.samplers import sampler as named_sampler


class Denoising(NamedTuple):
    """The settings that `iterative`, `vae`, `vq_vae` and `latent_diffusion` share; for the keys see `iterative`."""

    scales: Scales
    weights: Fields  # of the three errors in the loss
    steps: int
    known_fraction: float
    drop_condition: float


class Denoiser(NamedTuple):
    """A network that denoises all fields together, and how it is sampled."""

    network: Network
    processes: Fields
    move: Sampler
    settings: Denoising
    rho: float = 1.0
    guidance: Weights = 0.0
    constraint: Constraint | None = None


def iterative(
    network: Network,
    *,
    frac: Process,
    lattice: Process,
    species: Process,
    steps: int = 50,
    sampler: str = "euler",
    rho: float = 1.0,
    sde_noise: float = 1.0,
    corrector_steps: int = 1,
    corrector_size: float = 0.1,
    lattice_center: Numbers = LATTICE_CENTER,
    lattice_scale: Numbers = LATTICE_SCALE,
    property_center: Numbers = (),
    property_scale: Numbers = (),
    known_fraction: float = 0.5,
    drop_condition: float = 0.15,
    guidance: float | tuple[float, ...] = 0.0,
    frac_weight: float = 10.0,
    lattice_weight: float = 1.0,
    species_weight: float = 0.2,
    constraint: Constraint | None = None,
) -> Generator:
    """A generator that denoises positions, lattice and species together.

    Args:
        network: the backbone.
        frac, lattice, species: the process of each field.
        steps: number of sampler steps; each takes one or two network calls, and one more for each condition that
            guidance weighs.
        sampler: "euler", "heun", "multistep", "predictor_corrector" or "sde" (`processes.samplers`).
        rho: sampler times are `(1 - k / steps)^rho`: 1 is evenly spaced, larger values put more of them near the data.
        sde_noise: noise level eta of the sampler "sde": 0 is the ODE, 1 the usual reverse SDE.
        corrector_steps: Langevin steps before each step of the sampler "predictor_corrector".
        corrector_size: size of these Langevin steps, in units of the squared standard deviation of the noise.
        lattice_center: mean of each of the six lattice coordinates (`geometry.lattice`); a training run measures it.
        lattice_scale: standard deviation of each of the six lattice coordinates; a training run measures it.
        property_center: mean of each conditioning property, in its unit; a training run measures it.
        property_scale: standard deviation of each conditioning property, in its unit; a training run measures it.
        known_fraction: share of training crystals whose species are all given, from 0 to 1; 1 trains for structure
            prediction alone.
        drop_condition: share of training crystals that lose all conditions together, from 0 to 1; of the others each
            condition is left out with the same probability (`coordinates.drop_condition`).
        guidance: weight w of classifier-free guidance, `(1 + w) conditional - w unconditional`; or a weight for each
            property and then for the space group, `free + sum_k w_k (conditional_k - free)` (`classifier_free`).
        frac_weight: weight of the error of the positions in the loss, in squared fractions of the cell (0.067 for a
            model that has learned nothing).
        lattice_weight: weight of the error of the lattice in the loss, in squared standard deviations of its
            coordinates (1 for a model that has learned nothing).
        species_weight: weight of the error of the species in the loss, in nats per site (about 4 for a model that has
            learned nothing).
        constraint: kept exactly by every sample: species are drawn under its rules at every step, and its fixed part
            follows the path of its own noise (replacement: Song et al., Score-Based Generative Modeling
            through Stochastic Differential Equations, 2021, section 5; RePaint, Lugmayr et al. 2022).
    """
    check_weights(guidance, len(property_center))
    processes = Fields(frac, lattice, species)
    move = named_sampler(
        sampler, processes, noise=sde_noise, corrector_steps=corrector_steps, corrector_size=corrector_size
    )
    scales = Scales(lattice_center, lattice_scale, property_center, property_scale)
    weights = Fields(frac_weight, lattice_weight, species_weight)
    settings = Denoising(scales, weights, steps, known_fraction, drop_condition)
    return generator(Denoiser(network, processes, move, settings, rho, guidance, constraint))


def generator(model: Denoiser) -> Generator:
    """The family of functions of one denoiser."""
    if model.processes.frac.answers > 1:
        model = model._replace(network=asked_twice(model.network))
    noise, decode = partial(_noise, model), partial(_decode, model)
    return Generator(partial(_init, model), partial(_loss, model), noise, decode, coordinates.sampled(noise, decode))


def _init(model: Denoiser, key: Array, pack: Pack, condition: Condition) -> Params:
    context = model.settings.scales.context(jnp.zeros(pack.lattice.shape[0]), condition)
    return model.network.init(key, pack, context)


def _times(t: Array, pack: Pack) -> Fields:
    """Times of crystals, shaped for each field: (b,) -> (n, 1), (b, 1), (n, 1)."""
    of_site = t[pack.owner][:, None]
    return Fields(of_site, t[:, None], of_site)


def _loss(model: Denoiser, params: Params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
    settings, processes = model.settings, model.processes
    keys = jax.random.split(key, 6)
    crystals = pack.lattice.shape[0]
    t = jnp.maximum(coordinates.stratified_times(keys[0], crystals), 1e-3)
    all_known = jax.random.uniform(keys[1], (crystals,)) < settings.known_fraction
    condition = coordinates.drop_condition(keys[2], condition, settings.drop_condition)
    clean, at = settings.scales.encode(pack), _times(t, pack)
    noised = [p.corrupt(k, x, s, pack) for p, k, x, s in zip(processes, keys[3:], clean, at)]
    (frac_t, lattice_t, species_t), targets = zip(*noised)
    noisy = Fields(frac_t, lattice_t, jnp.where(all_known[pack.owner][:, None], clean.species, species_t))
    context = settings.scales.context(t, condition)
    prediction = model.network.apply(params, settings.scales.assemble(noisy, pack), context)
    errors = [p.error(getattr(prediction, p.head), y, x, pack) for p, y, x in zip(processes, targets, noisy)]
    asked = jnp.where(all_known[pack.owner], 0.0, errors[2])
    of_crystal = Fields(mean_by_crystal(errors[0], pack), errors[1], mean_by_crystal(asked, pack))
    real = (num_sites(pack) > 0).astype(t.dtype)
    means = Fields(*(jnp.sum(e * real) / jnp.maximum(real.sum(), 1) for e in of_crystal))
    return sum(w * e for w, e in zip(settings.weights, means)), means._asdict()


def _noise(model: Denoiser, key: Array, template: Pack) -> Fields:
    keys = jax.random.split(key, 3)
    like = Fields(template.frac, jnp.zeros((template.lattice.shape[0], 6), template.frac.dtype), template.occupancy)
    return Fields(*(p.prior(k, x, template) for p, k, x in zip(model.processes, keys, like)))


def _predict(model: Denoiser, params: Params, x: Fields, t: Array, template: Pack, condition: Condition) -> Prediction:
    scales = model.settings.scales
    pack = scales.assemble(x, template)
    return guided(lambda asked: model.network.apply(params, pack, scales.context(t, asked)), condition, model.guidance)


def _replaced(model: Denoiser, key: Array, part: GivenFields | None, x: Fields, t: Array, template: Pack) -> Fields:
    """The fields with the fixed part on the path of its own noise."""
    if part is None:
        return x
    (frac, lattice, _), at, keys = model.processes, _times(t, template), jax.random.split(key)
    x = x._replace(frac=jnp.where(part.mask, frac.corrupt(keys[0], part.frac, at.frac, template)[0], x.frac))
    if part.lattice is None:
        return x
    clean = model.settings.scales.encode(template._replace(lattice=part.lattice)).lattice
    return x._replace(lattice=lattice.corrupt(keys[1], clean, at.lattice, template)[0])


def _symmetric(scales: Scales, orbits: SymmetricSites | None, x: Fields, template: Pack) -> Fields:
    """The fields with every site in its orbit and every cell with its group."""
    if orbits is None:
        return x
    cells = symmetric_sites.cells(orbits, scales.assemble(x, template).lattice)
    return x._replace(
        frac=symmetric_sites.positions(orbits, x.frac),
        lattice=scales.encode(template._replace(lattice=cells)).lattice,
    )


def _decode(model: Denoiser, params: Params, key: Array, noise: Fields, template: Pack, condition: Condition) -> Pack:
    scales, steps = model.settings.scales, model.settings.steps
    template = constraints.prepare(model.constraint, template)
    part, rules = constraints.given(model.constraint, template), model.constraint and model.constraint.species
    orbits = condition.sites
    key_plan, key_rules, key_part = (jax.random.fold_in(key, k) for k in (1, 2, 3))
    known = is_known(template.occupancy)[:, None]
    allowed = template.occupancy > 0
    ones = jnp.ones(template.lattice.shape[0], template.frac.dtype)

    def hold(rows: Array) -> Array:
        return symmetric_sites.of_first(orbits, jnp.where(known > 0, template.occupancy, rows))

    def step(carry: tuple, this: tuple[Array, Array, Array]) -> tuple[tuple, None]:
        (x, memory, plan), (key, key_rules, t, dt) = carry, this

        def ask(x: tuple, t: Array) -> tuple[tuple, Any]:
            x = Fields(*x)._replace(species=hold(x[2]))
            said = _predict(model, params, x, t * ones, template, condition)
            said = said._replace(frac=symmetric_sites.average(orbits, said.frac))
            logits = jnp.where(allowed, symmetric_sites.shared(orbits, said.species), -1e9)
            rows = noise.species, x.species
            logits, settled = constraints.conditioned(rules, key_rules, logits, *rows, plan, template)
            return tuple(getattr(said._replace(species=logits), p.head) for p in model.processes), settled

        moved, memory, plan = model.move.advance(problem._replace(ask=ask), key, x, memory, t, dt)
        after = _symmetric(scales, orbits, Fields(*moved)._replace(species=hold(moved[2])), template)
        return (_replaced(model, key_part, part, after, (t - dt) * ones, template), memory, plan), None

    problem = Problem(model.processes, None, lambda t: _times(t * ones, template), template)
    start = _symmetric(scales, orbits, noise._replace(species=hold(noise.species)), template)
    start = _replaced(model, key_part, part, start, ones, template)
    plan = None if rules is None else rules.start(key_plan, template)
    keys = jax.random.split(key, steps), jax.random.split(key_rules, steps)
    first = start, model.move.start(problem, start), plan
    (final, _, _), _ = jax.lax.scan(jax.checkpoint(step), first, (*keys, *grid(steps, model.rho, ones.dtype)))
    final = scales.assemble(final._replace(species=coordinates.harden(final.species, template)), template)
    return constraints.in_place(part, symmetric_sites.settle(orbits, final))
