"""The autoencoder of `latent_diffusion`: one Gaussian latent per site, by transformers over sites.

The encoder reads sines and cosines of the fractions and six rotation-free lattice coordinates, the decoder answers
points near circles, so that positions live on the torus and no rotation has to be learned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import NUM_SPECIES, Pack, Params, mean_by_crystal, num_sites
from crysjax.generators import coordinates
from crysjax.generators.coordinates import LATTICE_CENTER, LATTICE_SCALE, Numbers
from crysjax.generators.vae import LOG_STD_REACH, Gaussian
from crysjax.geometry import torus
from crysjax.nets.dense import harmonics
from crysjax.nets.site_transformer import site_transformer


class SiteAnswer(NamedTuple):
    """What the decoder says of a pack."""

    circle: Array  # (n, 6) near the cosines and then the sines of 2 pi frac
    lattice: Array  # (b, 6) standardized rotation-free coordinates
    species: Array  # (n, s) logits


class SiteAutoencoder(NamedTuple):
    """The autoencoder of a `latent_diffusion` of the same settings; its parameters are `params["autoencoder"]`."""

    init: Callable[..., Params]  # (key, pack) -> params
    encode: Callable[..., Gaussian]  # (params, pack) -> q(z | x), (n, d)
    decode: Callable[..., SiteAnswer]  # (params, z (n, d), template) -> SiteAnswer; of the template its sizes are read


def fractions(circle: Array) -> Array:
    """Fractional coordinates in [0, 1) of points near circles; the origin means 0, derivative too: (n, 6) -> (n, 3)."""
    cos, sin = jnp.split(circle, 2, -1)
    nowhere = jnp.square(cos) + jnp.square(sin) < 1e-12
    turns = jnp.arctan2(sin, jnp.where(nowhere, 1, cos)) / (2 * jnp.pi)
    return torus.wrap(torus.wrap(turns))  # twice: the first rounds a tiny negative number up to 1


def site_autoencoder(
    *,
    latent: int = 8,
    frequencies: int = 4,
    size: str = "S",
    width: int | None = None,
    layers: int | None = 4,
    heads: int | None = None,
    lattice_center: Numbers = LATTICE_CENTER,
    lattice_scale: Numbers = LATTICE_SCALE,
) -> SiteAutoencoder:
    """An encoder and a decoder of sites; the settings are those of `latent_diffusion`."""
    if latent < 1:
        raise ValueError(f"latent: {latent}; expected at least 1 dimension per site")
    sizes = dict(size=size, width=width, layers=layers, heads=heads)
    encoder = site_transformer(2 * latent, **sizes)
    decoder = site_transformer(6 + 6 + NUM_SPECIES, **sizes)

    def features(pack: Pack) -> Array:
        x = coordinates.encode(pack, lattice_center, lattice_scale)
        return jnp.concatenate([x.species, *harmonics(x.frac, frequencies + 1), x.lattice[pack.owner]], -1)

    def init(key: Array, pack: Pack) -> Params:
        keys = jax.random.split(key)
        z = jnp.zeros((len(pack.frac), latent), pack.frac.dtype)
        return {
            "encoder": encoder.init(keys[0], features(pack), log_sites(pack)),
            "decoder": decoder.init(keys[1], z, log_sites(pack)),
        }

    def encode(params: Params, pack: Pack) -> Gaussian:
        mean, raw = jnp.split(encoder.apply(params["encoder"], features(pack), log_sites(pack), pack), 2, -1)
        return Gaussian(mean, LOG_STD_REACH * jnp.tanh(raw / LOG_STD_REACH))

    def decode(params: Params, z: Array, template: Pack) -> SiteAnswer:
        said = decoder.apply(params["decoder"], z, log_sites(template), template)
        circle, lattice, species = jnp.split(said, (6, 12), -1)
        return SiteAnswer(circle, mean_by_crystal(lattice, template), species)

    return SiteAutoencoder(init, encode, decode)


def log_sites(pack: Pack) -> Array:
    """The logarithm of the size, which attention, a mean, cannot count: (b, 1)."""
    return jnp.log(jnp.maximum(num_sites(pack), 1))[:, None]
