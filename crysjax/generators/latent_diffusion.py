"""Latent diffusion of crystals: one Gaussian latent per site from an autoencoder, and a transformer that draws them.

ADiT (Joshi et al. 2025, "All-atom Diffusion Transformers"), on latent diffusion (Rombach et al. 2022) and DiT
(Peebles & Xie 2023). Encoder, decoder and denoiser are transformers over sites (`nets.site_transformer`), with no
symmetry built in but permutation. What differs from ADiT:

* The encoder reads sines and cosines of the fractions and six rotation-free lattice coordinates, the decoder answers
  points near circles, read by atan2, so positions live on the torus and no rotation has to be learned. Translations
  have to be, as in ADiT: every training crystal is shifted at random.
* One stage: both losses are minimized at once, and the denoiser takes its latents as constants, so that the
  autoencoder learns what it would learn alone and the denoiser follows a target that settles.
* The template's species rows go into the denoiser per site, so known species, lists of elements and none at all are one
  model; known species are held. No self-conditioning, no site numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import NUM_SPECIES, Condition, Generator, Pack, Params, is_known, mean_by_crystal, num_sites
from crysjax.generators import coordinates
from crysjax.generators.autoencoder import hide_species
from crysjax.generators.classifier_free import Weights, check_weights, guided
from crysjax.generators.coordinates import LATTICE_CENTER, LATTICE_SCALE, Fields, Numbers
from crysjax.generators.processes.flows import cross_entropy, euclidean_flow
from crysjax.generators.processes.samplers import Problem, grid
from crysjax.generators.processes.samplers import sampler as named_sampler
from crysjax.generators.vae import LOG_STD_REACH, Gaussian, kl_divergence
from crysjax.geometry import torus
from crysjax.nets.dense import harmonics
from crysjax.nets.site_transformer import site_transformer

LEAST_TIME = 0.1
"""Errors of the clean latents weigh `1 / max(t, LEAST_TIME)^2`, as in ADiT's code: those of the velocity, bounded."""


class Answer(NamedTuple):
    """What the decoder says of a pack."""

    circle: Array  # (n, 6) near the cosines and then the sines of 2 pi frac
    lattice: Array  # (b, 6) standardized rotation-free coordinates
    species: Array  # (n, s) logits


class SiteAutoencoder(NamedTuple):
    """The autoencoder of a `latent_diffusion` of the same settings; its parameters are `params["autoencoder"]`."""

    init: Callable[..., Params]  # (key, pack) -> params
    encode: Callable[..., Gaussian]  # (params, pack) -> q(z | x), (n, d)
    decode: Callable[..., Answer]  # (params, z (n, d), template) -> Answer; of the template its sizes are read


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
            "encoder": encoder.init(keys[0], features(pack), _log_sites(pack)),
            "decoder": decoder.init(keys[1], z, _log_sites(pack)),
        }

    def encode(params: Params, pack: Pack) -> Gaussian:
        mean, raw = jnp.split(encoder.apply(params["encoder"], features(pack), _log_sites(pack), pack), 2, -1)
        return Gaussian(mean, LOG_STD_REACH * jnp.tanh(raw / LOG_STD_REACH))

    def decode(params: Params, z: Array, template: Pack) -> Answer:
        said = decoder.apply(params["decoder"], z, _log_sites(template), template)
        circle, lattice, species = jnp.split(said, (6, 12), -1)
        return Answer(circle, mean_by_crystal(lattice, template), species)

    return SiteAutoencoder(init, encode, decode)


def _log_sites(pack: Pack) -> Array:
    """The logarithm of the size, which attention, a mean, cannot count: (b, 1)."""
    return jnp.log(jnp.maximum(num_sites(pack), 1))[:, None]


def latent_diffusion(
    *,
    size: str = "S",
    width: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
    autoencoder_layers: int = 4,
    latent: int = 8,
    latent_scale: float = 1.0,
    frequencies: int = 4,
    kl_weight: float = 1e-4,
    steps: int = 50,
    sampler: str = "euler",
    guidance: Weights = 0.0,
    lattice_center: Numbers = LATTICE_CENTER,
    lattice_scale: Numbers = LATTICE_SCALE,
    property_center: Numbers = (),
    property_scale: Numbers = (),
    known_fraction: float = 0.5,
    drop_condition: float = 0.15,
    frac_weight: float = 10.0,
    lattice_weight: float = 1.0,
    species_weight: float = 1.0,
    denoising_weight: float = 1.0,
) -> Generator:
    """A latent diffusion transformer. `noise` is that of the latents, (n, latent): search and guidance work on it.

    Args:
        size, width, layers, heads: of the denoiser, see `site_transformer`; encoder and decoder share width and heads.
        autoencoder_layers: blocks of the encoder, and of the decoder.
        latent: dimensions per site.
        latent_scale: what latents are divided by before they are noised (Rombach et al. 2022, appendix G). The metric
            `latent_rms` says how large they are after it; 1 is what the noise expects.
        frequencies: sines and cosines of 2 pi k frac, k = 1..frequencies, that the encoder reads.
        kl_weight: of the KL to the standard normal, nats per site (ADiT: 1e-5).
        steps: of the sampler, at one denoiser call or two.
        sampler: see `samplers`; what "euler", "heun" and "multistep" decode is a function of the noise alone.
        guidance: of the conditions, see `iterative`.
        lattice_center, lattice_scale, property_center, property_scale, known_fraction, drop_condition: as in
            `iterative`.
        frac_weight, lattice_weight, species_weight: of the decoder's errors: mean squares on the circles (0.5 for no
            knowledge) and in standard deviations (1), and nats per site (4.6).
        denoising_weight: of the denoiser's error. Nothing but the relative step of two separate models depends on it.
    """
    check_weights(guidance, len(property_center))
    lattice = dict(lattice_center=lattice_center, lattice_scale=lattice_scale)
    sizes = dict(size=size, width=width, heads=heads)
    space = site_autoencoder(latent=latent, frequencies=frequencies, layers=autoencoder_layers, **sizes, **lattice)
    denoiser = site_transformer(latent, layers=layers, **sizes)
    flow = euclidean_flow()
    move = named_sampler(sampler, (flow,))
    weights = Fields(frac_weight, lattice_weight, species_weight)

    def context(t: Array, pack: Pack, condition: Condition) -> Array:
        known = coordinates.context(t, condition, property_center, property_scale)
        return jnp.concatenate([known, _log_sites(pack)], -1)

    def denoise(params: Params, x: Array, t: Array, template: Pack, condition: Condition) -> Array:
        """The clean latents behind those of t (b,): (n, d) -> (n, d)."""
        inputs = jnp.concatenate([x, template.occupancy], -1)
        return denoiser.apply(params, inputs, context(t, template, condition), template)

    def init(key: Array, pack: Pack, condition: Condition) -> Params:
        keys = jax.random.split(key)
        inputs = jnp.zeros((len(pack.frac), latent + NUM_SPECIES), pack.frac.dtype)
        asked = context(jnp.zeros(pack.lattice.shape[0], pack.frac.dtype), pack, condition)
        return {"autoencoder": space.init(keys[0], pack), "denoiser": denoiser.init(keys[1], inputs, asked)}

    def loss(params: Params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
        key_shift, key_z, key_denoise = jax.random.split(key, 3)
        shift = jax.random.uniform(key_shift, (pack.lattice.shape[0], 3), pack.frac.dtype)
        pack = pack._replace(frac=torus.wrap(pack.frac + shift[pack.owner]))
        q = space.encode(params["autoencoder"], pack)
        z = q.mean + jnp.exp(q.log_std) * jax.random.normal(key_z, q.mean.shape, q.mean.dtype)
        errors = _errors(space.decode(params["autoencoder"], z, pack), pack, **lattice)
        kl = _mean(kl_divergence(q, Gaussian(jnp.zeros_like(z), jnp.zeros_like(z))).sum(-1), pack)
        clean = jax.lax.stop_gradient(z) / latent_scale
        missed = denoising_error(params["denoiser"], key_denoise, clean, pack, condition)
        rms = jnp.sqrt(_mean(jnp.square(clean).mean(-1), pack))
        total = sum(w * e for w, e in zip(weights, errors)) + kl_weight * kl + denoising_weight * missed
        return total, errors._asdict() | {"kl": kl, "denoising": missed, "latent_rms": rms}

    def denoising_error(params: Params, key: Array, clean: Array, pack: Pack, condition: Condition) -> Array:
        keys = jax.random.split(key, 4)
        crystals = pack.lattice.shape[0]
        # stratified over the slots: same expectation, less variance
        strata = jnp.arange(crystals, dtype=clean.dtype) / crystals
        t = (jax.random.uniform(keys[0], (), clean.dtype) + strata) % 1
        template = hide_species(keys[1], pack, known_fraction)
        asked = coordinates.drop_condition(keys[2], condition, drop_condition)
        x, target = flow.corrupt(keys[3], clean, t[pack.owner][:, None], pack)
        error = flow.error(denoise(params, x, t, template, asked), target, x, pack)
        return _mean(error / jnp.square(jnp.maximum(t, LEAST_TIME))[pack.owner], pack)

    def noise(key: Array, template: Pack) -> Array:
        return jax.random.normal(key, (len(template.frac), latent), template.frac.dtype)

    def decode(params: Params, key: Array, noise: Array, template: Pack, condition: Condition) -> Pack:
        ones = jnp.ones(template.lattice.shape[0], noise.dtype)

        def ask(x: tuple, t: Array) -> tuple[tuple, None]:
            said = guided(lambda c: denoise(params["denoiser"], x[0], t * ones, template, c), condition, guidance)
            return (said,), None

        def step(carry: tuple, this: tuple[Array, Array, Array]) -> tuple[tuple, None]:
            return move.advance(problem, this[0], *carry, *this[1:])[:2], None

        problem = Problem((flow,), ask, lambda t: ((t * ones)[template.owner][:, None],), template)
        start = (noise,), move.start(problem, (noise,))
        times = jax.random.split(key, steps), *grid(steps, 1.0, noise.dtype)
        (z,), _ = jax.lax.scan(jax.checkpoint(step), start, times)[0]
        return _crystals(space.decode(params["autoencoder"], latent_scale * z, template), template, **lattice)

    def sample(params: Params, key: Array, template: Pack, condition: Condition) -> Pack:
        first, rest = jax.random.split(key)
        return decode(params, rest, noise(first, template), template, condition)

    return Generator(init, loss, noise, decode, sample)


def _mean(of_site: Array, pack: Pack) -> Array:
    return coordinates.mean_over_crystals(mean_by_crystal(of_site, pack), pack)


def _errors(said: Answer, pack: Pack, lattice_center: Numbers, lattice_scale: Numbers) -> Fields:
    """Of the decoder, mean over the crystals of a pack: squares on the circles and of the lattice, and nats."""
    true = coordinates.encode(pack, lattice_center, lattice_scale)
    angle = 2 * jnp.pi * true.frac
    circle = jnp.square(said.circle - jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)).mean(-1)
    cell = coordinates.mean_over_crystals(jnp.square(said.lattice - true.lattice).mean(-1), pack)
    return Fields(_mean(circle, pack), cell, _mean(cross_entropy(said.species, true.species), pack))


def _crystals(said: Answer, template: Pack, lattice_center: Numbers, lattice_scale: Numbers) -> Pack:
    """The crystals that the decoder means: the likeliest allowed species of each site, known ones as they are."""
    rows = jax.nn.softmax(jnp.where(template.occupancy > 0, said.species, -1e9))
    known = is_known(template.occupancy)[:, None] > 0
    rows = jnp.where(known, template.occupancy, coordinates.harden(rows, template))
    fields = Fields(fractions(said.circle), said.lattice, rows)
    return coordinates.assemble(fields, template, lattice_center, lattice_scale)
