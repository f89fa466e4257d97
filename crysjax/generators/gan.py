"""An adversarial network: a Wasserstein critic with gradient penalty, orbits of a space group by construction.

The generator maps a latent vector, the condition and the composition to the free points of the occupied Wyckoff
positions and to a lattice; `orbit_layouts` expands the former and averages the latter over the point group, in the way
of CubicGAN (Zhao et al. 2021) and PGCGM (Zhao et al. 2023). The critic is a scalar on the features of a `Network` and
so, unlike theirs and that of MatGAN (Dan et al. 2020), does not change when sites are renumbered or moved together.

A baseline: one network call per sample and no likelihood, and nothing in the loss asks that every mode be covered.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import (
    NUM_SPECIES,
    UNKNOWN,
    Condition,
    Generator,
    Network,
    Pack,
    Params,
    is_known,
    mean_by_crystal,
    num_sites,
    site_mask,
    sum_by_crystal,
)
from crysjax.constraints import orbit_layouts
from crysjax.constraints.orbit_layouts import Layouts
from crysjax.generators import coordinates
from crysjax.generators.coordinates import LATTICE_CENTER, LATTICE_SCALE, Fields, Scales, mean_over_crystals
from crysjax.geometry import torus


class Latent(NamedTuple):
    """Everything random in a sample; given it, the sample is a function of parameters and condition."""

    crystal: Array  # (b, latent) normal
    site: Array  # (n, site_latent) normal: tells sites of one element apart
    species: Array  # (n, s) Gumbel
    order: Array  # (b, s) uniform: which of two elements that are equally common comes first in a layout
    layout: Array  # (b, l) Gumbel


class Game(NamedTuple):
    """The two players and the settings of `gan`."""

    network: Network  # of the critic
    module: _Generator
    table: Layouts
    log_weight: np.ndarray  # (l,) of the layouts, the last for none
    scales: Scales
    latent: int
    site_latent: int
    known_fraction: float
    drop_condition: float
    penalty: float
    generator_weight: float
    generator_rate: float


def gan(
    network: Network,
    *,
    layouts: tuple[str, ...] = (),
    layout_weights: tuple[float, ...] = (),
    latent: int = 32,
    site_latent: int = 8,
    width: int = 128,
    lattice_center: tuple[float, ...] = LATTICE_CENTER,
    lattice_scale: tuple[float, ...] = LATTICE_SCALE,
    property_center: tuple[float, ...] = (),
    property_scale: tuple[float, ...] = (),
    known_fraction: float = 0.5,
    drop_condition: float = 0.15,
    penalty: float = 10.0,
    generator_weight: float = 1.0,
    generator_rate: float = 0.3,
) -> Generator:
    """A WGAN-GP over crystals (Arjovsky et al. 2017; Gulrajani et al. 2017).

    Parameters are `{"generator", "critic"}`. Both games are one scalar that any optimizer descends, both moving at
    every step: in the critic's part the samples are constants, in the generator's part the critic's parameters are, so
    that the gradient of each part is zero on the parameters of the other. Five critic steps a generator step are
    replaced by a slower generator (two time scales; Heusel et al. 2017): its parameters are `generator_rate` times the
    numbers that are trained, so that an optimizer like Adam, which does not see the weight of a loss, moves it so much
    less.

    Args:
        network: the backbone of the critic; it has to be smooth, for it is differentiated twice.
        layouts: Wyckoff positions that are occupied together, "GROUP LETTER LETTER ...", such as those that are common
            in the training data, for crystals in the primitive cell of the group's standard setting. A crystal takes
            one that fits its species rows and the group that is asked for (`orbit_layouts.place`); where none fits
            every site moves on its own. Layouts are drawn, not learned.
        layout_weights: how often each layout is drawn, relative to the others; empty = all equally often.
        latent: random numbers per crystal that the generator starts from.
        site_latent: random numbers per site that the generator starts from.
        width: width of the generator's hidden layers.
        lattice_center, lattice_scale, property_center, property_scale: as in `iterative`.
        known_fraction, drop_condition: as in `iterative`.
        penalty: weight of the gradient penalty in the loss; gradients are per fraction of the cell and per standard
            deviation of the lattice coordinates.
        generator_weight: weight of the generator's part of the loss, for optimizers that are not scale-invariant.
        generator_rate: learning rate of the generator relative to that of the critic.
    """
    if layout_weights and len(layout_weights) != len(layouts):
        raise ValueError(f"layout_weights: {len(layout_weights)} numbers; expected one a layout, {len(layouts)}")
    game = Game(
        network=network,
        module=_Generator(width),
        table=orbit_layouts.table(layouts),
        log_weight=np.log(np.append(layout_weights or np.ones(len(layouts)), 1.0)),
        scales=Scales(lattice_center, lattice_scale, property_center, property_scale),
        latent=latent,
        site_latent=site_latent,
        known_fraction=known_fraction,
        drop_condition=drop_condition,
        penalty=penalty,
        generator_weight=generator_weight,
        generator_rate=generator_rate,
    )
    noise, decode = partial(_noise, game), partial(_decode, game)
    return Generator(partial(_init, game), partial(_loss, game), noise, decode, coordinates.sampled(noise, decode))


def _init(game: Game, key: Array, pack: Pack, condition: Condition) -> Params:
    keys = jax.random.split(key, 4)
    given = game.scales.given(condition, pack.frac.dtype)
    critic = game.network.init(keys[0], pack, given)
    found = jax.eval_shape(game.network.apply, critic, pack, given).crystal
    head = jax.nn.initializers.lecun_normal()(keys[1], (found.shape[-1], 1), found.dtype)
    raw = game.module.init(keys[2], _noise(game, keys[3], pack), pack, given)["params"]
    generator = jax.tree.map(lambda v: v.astype(pack.frac.dtype) / game.generator_rate, raw)
    return {"generator": generator, "critic": {"network": critic, "head": head}}


def _judge(game: Game, critic: Params, pack: Pack, condition: Condition) -> Array:
    """The critic: (b,)."""
    found = game.network.apply(critic["network"], pack, game.scales.given(condition, pack.frac.dtype))
    return (found.crystal @ critic["head"])[:, 0]


def _noise(game: Game, key: Array, template: Pack) -> Latent:
    keys, b, n = jax.random.split(key, 5), len(template.lattice), len(template.frac)
    dtype, species = template.frac.dtype, template.occupancy.shape[-1]
    return Latent(
        jax.random.normal(keys[0], (b, game.latent), dtype),
        jax.random.normal(keys[1], (n, game.site_latent), dtype),
        jax.random.gumbel(keys[2], (n, species), dtype),
        jax.random.uniform(keys[3], (b, species), dtype),
        jax.random.gumbel(keys[4], (b, len(game.table.size)), dtype),
    )


def _draw(game: Game, generator: Params, noise: Latent, template: Pack, condition: Condition) -> Pack:
    weights = jax.tree.map(lambda v: v * game.generator_rate, generator)
    context = game.scales.given(condition, template.frac.dtype)
    free, logits, lattice = game.module.apply({"params": weights}, noise, template, context)
    allow = jnp.asarray(game.log_weight, free.dtype)
    placed = orbit_layouts.place(game.table, template, condition.space_group, noise.order, noise.layout, allow)
    frac = orbit_layouts.expand(game.table, placed, free, template.owner)
    # one element an orbit; the derivative is that of the soft rows (Gumbel-softmax; Jang et al. 2017)
    soft = jax.nn.softmax(jnp.where(template.occupancy > 0, logits + noise.species, -1e9))[placed.first]
    rows = jnp.where(is_known(template.occupancy)[:, None] > 0, template.occupancy, soft)
    rows = coordinates.harden(rows * site_mask(template.occupancy)[:, None], template)
    pack = game.scales.assemble(Fields(frac, lattice, rows), template)
    return pack._replace(lattice=orbit_layouts.symmetric_lattice(game.table, placed, pack.lattice))


def _loss(game: Game, params: Params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
    keys, scales = jax.random.split(key, 4), game.scales
    condition = coordinates.drop_condition(keys[0], condition, game.drop_condition)
    all_known = (jax.random.uniform(keys[1], (len(pack.lattice),)) < game.known_fraction)[pack.owner]
    unknown = jnp.full_like(pack.occupancy, UNKNOWN) * site_mask(pack.occupancy)[:, None]
    template = pack._replace(occupancy=jnp.where(all_known[:, None], pack.occupancy, unknown))
    fake = _draw(game, params["generator"], _noise(game, keys[2], template), template, condition)
    critic, constant = params["critic"], jax.lax.stop_gradient(fake)
    true, false = (_judge(game, critic, x, condition) for x in (pack, constant))
    apart = mean_over_crystals(true - false, pack)
    ends = [scales.encode(x) for x in (pack, constant)]

    def judge_fields(x: Fields) -> Array:
        return _judge(game, critic, scales.assemble(x, pack, limit=None), condition)

    slope = mean_over_crystals(gradient_penalty(judge_fields, keys[3], *ends, template), pack)
    fooled = mean_over_crystals(_judge(game, jax.lax.stop_gradient(critic), fake, condition), pack)
    total = game.penalty * slope - apart - game.generator_weight * fooled
    return total, {"wasserstein": apart, "penalty": slope, "fooled": fooled}


def _decode(game: Game, params: Params, key: Array, noise: Latent, template: Pack, condition: Condition) -> Pack:
    return _draw(game, params["generator"], noise, template, condition)


def gradient_penalty(critic: Callable[[Fields], Array], key: Array, real: Fields, fake: Fields, pack: Pack) -> Array:
    """`(|gradient| - 1)^2` at a random point of the shortest path from real to fake: (b,).

    Gulrajani et al. 2017, eq. 3, with the straight line taken round the torus: both have their sites in the same order.
    The gradient is by fractions, lattice and the species of those sites whose species the template `pack` leaves open;
    the known ones are the same at both ends.
    """
    t = jax.random.uniform(key, (len(pack.lattice), 1), pack.frac.dtype)
    at = t[pack.owner]
    between = Fields(
        torus.wrap(real.frac + at * torus.log(fake.frac - real.frac)),
        (1 - t) * real.lattice + t * fake.lattice,
        (1 - at) * real.species + at * fake.species,
    )
    slope = jax.grad(lambda x: critic(x).sum())(between)
    species = jnp.square(slope.species).sum(-1) * (1 - is_known(pack.occupancy))
    squared = sum_by_crystal(jnp.square(slope.frac).sum(-1) + species, pack) + jnp.square(slope.lattice).sum(-1)
    return jnp.square(jnp.sqrt(squared + 1e-12) - 1)  # smooth where a new critic has no slope at all


class _Generator(nn.Module):
    """A perceptron a site with one mean over the crystal in between (deep sets; Zaheer et al. 2017)."""

    width: int

    @nn.compact
    def __call__(self, noise: Latent, template: Pack, context: Array) -> tuple[Array, Array, Array]:
        def linear(x: Array, features: int, name: str) -> Array:
            return nn.Dense(features, name=name, dtype=x.dtype, param_dtype=x.dtype)(x)

        composition = mean_by_crystal(template.occupancy, template)
        size = jnp.log(jnp.maximum(num_sites(template), 1))[:, None]
        crystal = linear(jnp.concatenate([noise.crystal, context, composition, size], -1), self.width, "crystal")
        site = linear(jnp.concatenate([noise.site, template.occupancy], -1), self.width, "site")
        hidden = nn.silu(site + crystal[template.owner])
        mean = mean_by_crystal(hidden, template)
        both = jnp.concatenate([hidden, mean[template.owner]], -1)
        hidden = nn.silu(linear(nn.silu(linear(both, self.width, "mixed")), self.width, "deep"))
        whole = nn.silu(linear(jnp.concatenate([mean, crystal], -1), self.width, "whole"))
        return linear(hidden, 3, "free"), linear(hidden, NUM_SPECIES, "species"), linear(whole, 6, "lattice")
