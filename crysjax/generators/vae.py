"""Variational autoencoder of crystals: a Gaussian latent per crystal, decoded by flow matching or diffusion.

CDVAE (Xie et al. 2022), Cond-CDVAE (Luo et al. 2024); with `prior="learned"` a conditional VAE (Sohn et al. 2015): the
law of the latent depends on what the template knows. Trained at once, in one gradient, on

    denoising errors of the decoder given z ~ q(z | x)  +  kl_weight KL(q(z | x) || p(z | template))  +  property error

The denoising errors stand for -log p(x | z) up to weights, so the sum is shaped like the negative ELBO but bounds no
likelihood, and `log_prob` is None. The loss knows no step, so there is no warm-up of the KL: `free_bits` keeps latents
from collapsing instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Condition, Generator, Network, Pack, Params, Process
from crysjax.generators import autoencoder, coordinates
from crysjax.generators.coordinates import LATTICE_CENTER, LATTICE_SCALE, Fields, Numbers, Scales
from crysjax.generators.iterative import Denoising

ACTIVE_NATS = 0.01
"""A latent dimension is active where its KL exceeds this."""

LOG_STD_REACH = 6.0
"""Logarithms of standard deviations stay within this, so that a KL is finite."""


class Gaussian(NamedTuple):
    """Independent normals."""

    mean: Array  # (b, d)
    log_std: Array  # (b, d)


class Noise(NamedTuple):
    """What a sample is decoded from; `latent` is standard normal whatever the prior."""

    frac: Array  # (n, 3)
    lattice: Array  # (b, 6)
    species: Array  # (n, s)
    latent: Array  # (b, d)


class LatentSpace(NamedTuple):
    """The latent of a `vae`, for encoding, reconstruction and search; `params` are those of the generator."""

    init: Callable[..., Params]  # (key, pack, condition) -> params
    encode: Callable[..., Gaussian]  # (params, pack) -> q(z | x)
    prior: Callable[..., Gaussian]  # (params, template, condition) -> p(z | template)
    predict: Callable[..., Array]  # (params, z) -> (b, k) properties in their own units
    whiten: Callable[..., Array]  # (params, z, template, condition) -> the `Noise.latent` that decodes to z


def kl_divergence(q: Gaussian, p: Gaussian) -> Array:
    """KL(q || p) of each dimension in nats: (b, d)."""
    shift = (q.mean - p.mean) * jnp.exp(-p.log_std)
    change = q.log_std - p.log_std
    return 0.5 * (jnp.exp(2 * change) + jnp.square(shift) - 1) - change


def active_units(kl: Array) -> Array:
    """How many of the dimensions, whose mean KL in nats is (d,), tell anything; 0 is a collapsed latent."""
    return (kl > ACTIVE_NATS).sum().astype(kl.dtype)


def latent_space(
    network: Network,
    *,
    latent: int = 16,
    prior: str = "learned",
    hidden: int = 128,
    property_center: Numbers = (),
    property_scale: Numbers = (),
) -> LatentSpace:
    """The encoder, the prior and the property head of a `vae` of the same settings."""
    if prior not in ("standard", "learned"):
        raise ValueError(f"prior: {prior!r} is neither 'standard' nor 'learned'")
    if latent < 1:
        raise ValueError(f"latent: {latent}; expected at least 1 dimension")
    posterior = autoencoder.encoder(network, outputs=2 * latent, hidden=hidden)
    law = autoencoder.Perceptron(hidden, 2 * latent)
    head = autoencoder.Perceptron(hidden, len(property_center))

    def features(template: Pack, condition: Condition) -> Array:
        return autoencoder.template_features(template, condition, property_center, property_scale)

    def init(key: Array, pack: Pack, condition: Condition) -> Params:
        keys = jax.random.split(key, 3)
        params = {"encoder": posterior.init(keys[0], pack)}
        if prior == "learned":
            params["prior"] = law.init(keys[1], features(pack, condition))["params"]
        if property_center:
            params["head"] = head.init(keys[2], jnp.zeros((1, latent), pack.frac.dtype))["params"]
        return params

    def encode(params: Params, pack: Pack) -> Gaussian:
        return _gaussian(posterior.apply(params["encoder"], pack))

    def prior_of(params: Params, template: Pack, condition: Condition) -> Gaussian:
        if prior == "learned":
            return _gaussian(law.apply({"params": params["prior"]}, features(template, condition)))
        zero = jnp.zeros((template.lattice.shape[0], latent), template.frac.dtype)
        return Gaussian(zero, zero)

    def predict(params: Params, z: Array) -> Array:
        if not property_center:
            return z[:, :0]
        scale, center = (jnp.asarray(v, z.dtype)[None] for v in (property_scale, property_center))
        return head.apply({"params": params["head"]}, z) * scale + center

    def whiten(params: Params, z: Array, template: Pack, condition: Condition) -> Array:
        p = prior_of(params, template, condition)
        return (z - p.mean) * jnp.exp(-p.log_std)

    return LatentSpace(init, encode, prior_of, predict, whiten)


def _gaussian(outputs: Array) -> Gaussian:
    mean, raw = jnp.split(outputs, 2, -1)
    return Gaussian(mean, LOG_STD_REACH * jnp.tanh(raw / LOG_STD_REACH))


class Autoencoder(NamedTuple):
    """The parts of a `vae`, and the weights of what its loss adds to the decoder's."""

    space: LatentSpace
    decoder: Generator
    settings: Denoising
    latent: int
    kl_weight: float
    free_bits: float
    property_weight: float


def vae(
    network: Network,
    *,
    frac: Process,
    lattice: Process,
    species: Process,
    latent: int = 16,
    prior: str = "learned",
    hidden: int = 128,
    kl_weight: float = 0.01,
    free_bits: float = 0.0,
    property_weight: float = 1.0,
    steps: int = 50,
    lattice_center: Numbers = LATTICE_CENTER,
    lattice_scale: Numbers = LATTICE_SCALE,
    property_center: Numbers = (),
    property_scale: Numbers = (),
    known_fraction: float = 0.5,
    drop_condition: float = 0.15,
    frac_weight: float = 10.0,
    lattice_weight: float = 1.0,
    species_weight: float = 0.2,
) -> Generator:
    """A variational autoencoder with an iterative decoder.

    Args:
        network: the backbone of the decoder and, with parameters of its own, of the encoder.
        frac, lattice, species: the process of each field. There is no classifier-free guidance: a property is searched
            for in the latent.
        steps, lattice_center, lattice_scale, property_center, property_scale: as in `iterative`.
        known_fraction, drop_condition, frac_weight, lattice_weight, species_weight: as in `iterative`.
        latent: dimensions of the latent vector z of a crystal.
        prior: "standard", N(0, 1) whatever the template (CDVAE), or "learned", a normal whose mean and deviation a
            perceptron reads off composition, size and condition, without which a known composition and z disagree.
        hidden: width of the perceptrons.
        kl_weight: weight of the KL, in nats per crystal, against the three weighted errors (CDVAE: 0.01).
        free_bits: nats of KL per dimension that cost nothing (Kingma et al. 2016, eq. 15), here of a pack's mean KL.
        property_weight: weight of the squared error, in standard deviations, of the properties that a perceptron
            reads off z; it makes properties searchable in the latent (CDVAE, Xie et al. 2022).

    Metrics: the decoder's errors, `kl` (nats per crystal), `active_units` (dimensions whose KL, to the prior in use,
    is above 0.01 nats; with `free_bits` a dimension may idle at that value), `property` (squared error).

    The decoder's template and the prior's are hidden independently in training: the two terms are expectations
    over templates, so each is estimated without bias.
    """
    scales = Scales(lattice_center, lattice_scale, property_center, property_scale)
    weights = Fields(frac_weight, lattice_weight, species_weight)
    settings = Denoising(scales, weights, steps, known_fraction, drop_condition)
    space = latent_space(
        network,
        latent=latent,
        prior=prior,
        hidden=hidden,
        property_center=property_center,
        property_scale=property_scale,
    )
    decoder = autoencoder.decoder(network, Fields(frac, lattice, species), settings, latent)
    model = Autoencoder(space, decoder, settings, latent, kl_weight, free_bits, property_weight)
    noise, decode = partial(_noise, model), partial(_decode, model)
    return Generator(partial(_init, model), partial(_loss, model), noise, decode, coordinates.sampled(noise, decode))


def _init(model: Autoencoder, key: Array, pack: Pack, condition: Condition) -> Params:
    keys = jax.random.split(key)
    zero = jnp.zeros((pack.lattice.shape[0], model.latent), pack.frac.dtype)
    started = model.decoder.init(keys[0], pack, autoencoder.with_latent(condition, zero))
    return {"decoder": started} | model.space.init(keys[1], pack, condition)


def _loss(model: Autoencoder, params: Params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
    settings = model.settings
    key_z, key_drop, key_hide, key_decoder = jax.random.split(key, 4)
    q = model.space.encode(params, pack)
    z = q.mean + jnp.exp(q.log_std) * jax.random.normal(key_z, q.mean.shape, q.mean.dtype)
    asked = coordinates.drop_condition(key_drop, condition, settings.drop_condition)
    error, metrics = model.decoder.loss(params["decoder"], key_decoder, pack, autoencoder.with_latent(asked, z))
    p = model.space.prior(params, autoencoder.hide_species(key_hide, pack, settings.known_fraction), asked)
    kl = jax.vmap(coordinates.mean_over_crystals, (1, None))(kl_divergence(q, p), pack)
    wrong = _property_error(model.space.predict(params, z), condition, pack, settings.scales)
    total = error + model.kl_weight * jnp.maximum(kl, model.free_bits).sum() + model.property_weight * wrong
    return total, metrics | {"kl": kl.sum(), "active_units": active_units(kl), "property": wrong}


def _property_error(found: Array, condition: Condition, pack: Pack, scales: Scales) -> Array:
    """Squared error of the given properties in standard deviations, summed, mean over crystals: (b, k) -> ()."""
    given = jnp.isfinite(condition.properties)
    scale = jnp.asarray(scales.property_scale, found.dtype)[None]
    error = jnp.where(given, jnp.where(given, condition.properties, 0) - found, 0) / scale
    return coordinates.mean_over_crystals(jnp.square(error).sum(-1), pack)


def _noise(model: Autoencoder, key: Array, template: Pack) -> Noise:
    keys = jax.random.split(key)
    shape = (template.lattice.shape[0], model.latent)
    return Noise(*model.decoder.noise(keys[0], template), jax.random.normal(keys[1], shape, template.frac.dtype))


def _decode(model: Autoencoder, params: Params, key: Array, noise: Noise, template: Pack, condition: Condition) -> Pack:
    p = model.space.prior(params, template, condition)
    z = p.mean + jnp.exp(p.log_std) * noise.latent
    fields = Fields(noise.frac, noise.lattice, noise.species)
    return model.decoder.decode(params["decoder"], key, fields, template, autoencoder.with_latent(condition, z))
