"""What the autoencoders share: an encoder of whole crystals, what a template says, and the decoder's condition.

The decoder is `iterative` as it stands: a latent enters its context as further properties, standardized already, that
are always given. The encoder is a `Network` of its own, whose crystal features no rotation, translation or permutation
changes. CDVAE (Xie et al. 2022) differs: it reads size, lattice and composition off the latent in one step each and
denoises positions and species from there; here the template says the size and all the rest is denoised together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import (
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
)
from crysjax.generators import coordinates
from crysjax.generators.coordinates import Fields, Numbers
from crysjax.generators.iterative import Denoiser, Denoising, generator
from crysjax.generators.processes.samplers import sampler


class Perceptron(nn.Module):
    """One hidden layer: (b, f) -> (b, outputs), in the type of its input."""

    hidden: int
    outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.silu(self._linear("first", x, self.hidden))
        return self._linear("second", h, self.outputs)

    def _linear(self, name: str, x: Array, features: int) -> Array:
        kernel = self.param(name, nn.initializers.lecun_normal(), (x.shape[-1], features), x.dtype)
        return x @ kernel + self.param(f"{name}_bias", nn.initializers.zeros, (features,), x.dtype)[None]


class Encoder(NamedTuple):
    """A crystal as a vector."""

    init: Callable[..., Params]  # (key, pack) -> params
    apply: Callable[..., Array]  # (params, pack) -> (b, outputs)


def encoder(network: Network, *, outputs: int, hidden: int = 128) -> Encoder:
    """The crystal features of a network, read by a perceptron. The network's context is a constant."""
    perceptron = Perceptron(hidden, outputs)

    def features(params: Params, pack: Pack) -> Array:
        return network.apply(params, pack, jnp.ones((pack.lattice.shape[0], 1), pack.frac.dtype)).crystal

    def init(key: Array, pack: Pack) -> Params:
        keys = jax.random.split(key)
        backbone = network.init(keys[0], pack, jnp.ones((pack.lattice.shape[0], 1), pack.frac.dtype))
        like = jax.eval_shape(features, backbone, pack)
        head = perceptron.init(keys[1], jnp.zeros(like.shape, like.dtype))["params"]
        return {"network": backbone, "head": head}

    def apply(params: Params, pack: Pack) -> Array:
        return perceptron.apply({"params": params["head"]}, features(params["network"], pack))

    return Encoder(init, apply)


def template_features(template: Pack, condition: Condition, center: Numbers, scale: Numbers) -> Array:
    """What is known before a crystal is drawn: (b, s + 2 + 2 k + 231).

    The mean species row, the share of known sites, the logarithm of the size, and the condition.
    """
    known = mean_by_crystal(is_known(template.occupancy), template)
    numbers = jnp.stack([known, jnp.log(jnp.maximum(num_sites(template), 1))], -1)
    asked = coordinates.given(condition, center, scale, template.frac.dtype)
    return jnp.concatenate([mean_by_crystal(template.occupancy, template), numbers, asked], -1)


def hide_species(key: Array, pack: Pack, known_fraction: float) -> Pack:
    """The template of training crystals: a share `known_fraction` keep their species, the others lose them all."""
    kept = jax.random.uniform(key, pack.lattice.shape[:1]) < known_fraction
    unknown = UNKNOWN * site_mask(pack.occupancy)[:, None]
    return pack._replace(occupancy=jnp.where(kept[pack.owner][:, None], pack.occupancy, unknown))


def decoder(network: Network, processes: Fields, settings: Denoising, latent: int) -> Generator:
    """`iterative` under a condition of `with_latent`, which an autoencoder drops (or not) itself."""
    scales = settings.scales
    wide = scales._replace(
        property_center=(*scales.property_center, *(0.0,) * latent),
        property_scale=(*scales.property_scale, *(1.0,) * latent),
    )
    settings = settings._replace(scales=wide, drop_condition=0.0)
    return generator(Denoiser(network, processes, sampler("euler", processes), settings))


def with_latent(condition: Condition, z: Array) -> Condition:
    """The decoder's condition: the latent (b, d) as further properties."""
    return condition._replace(properties=jnp.concatenate([condition.properties.astype(z.dtype), z], -1))
