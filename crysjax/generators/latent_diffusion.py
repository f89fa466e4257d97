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

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import (
    NUM_SPECIES,
    Condition,
    Generator,
    Pack,
    Params,
    Process,
    is_known,
    mean_by_crystal,
)
from crysjax.generators import coordinates
from crysjax.generators.autoencoder import hide_species
from crysjax.generators.classifier_free import Weights, check_weights, guided
from crysjax.generators.coordinates import LATTICE_CENTER, LATTICE_SCALE, Fields, Numbers, Scales
from crysjax.generators.iterative import Denoising
from crysjax.generators.processes.flows import cross_entropy, euclidean_flow
from crysjax.generators.processes.samplers import Problem, Sampler, grid
from crysjax.generators.processes.samplers import sampler as named_sampler
from crysjax.generators.site_autoencoder import SiteAnswer, SiteAutoencoder, fractions, log_sites, site_autoencoder
from crysjax.generators.vae import Gaussian, kl_divergence
from crysjax.geometry import torus
from crysjax.nets.site_transformer import SiteTransformer, site_transformer

LEAST_TIME = 0.1
"""Errors of the clean latents weigh `1 / max(t, LEAST_TIME)^2`, as in ADiT's code: those of the velocity, bounded."""


class LatentDenoiser(NamedTuple):
    """The parts of a `latent_diffusion`; its two sets of parameters have the names of `space` and `network` there."""

    space: SiteAutoencoder
    network: SiteTransformer
    flow: Process  # of the latents
    move: Sampler
    settings: Denoising
    latent: int
    latent_scale: float
    kl_weight: float
    denoising_weight: float
    guidance: Weights


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
        size: "S", "B" or "L": width, layers and heads of the denoiser of (384, 12, 6), (768, 12, 12) or (1024, 24, 16).
        width: features per site of denoiser, encoder and decoder, in place of that of the size.
        layers: blocks of the denoiser, in place of those of the size.
        heads: attention heads of denoiser, encoder and decoder, in place of those of the size.
        autoencoder_layers: blocks of the encoder, and of the decoder.
        latent: dimensions of the latent vector of a site.
        latent_scale: what latents are divided by before they are noised (Rombach et al. 2022, appendix G). The metric
            `latent_rms` says how large they are after it; 1 is what the noise expects.
        frequencies: sines and cosines of 2 pi k frac, k = 1..frequencies, that the encoder reads.
        kl_weight: weight of the KL to the standard normal in the loss, in nats per site (ADiT: 1e-5).
        steps: number of sampler steps, of one or two denoiser calls each.
        sampler: "euler", "heun", "multistep", "predictor_corrector" or "sde" (`processes.samplers`); what the first
            three decode is a function of the noise alone.
        guidance, lattice_center, lattice_scale, property_center, property_scale: as in `iterative`.
        known_fraction, drop_condition: as in `iterative`.
        frac_weight: weight of the decoder's error of the positions in the loss, a mean square on the circle of each
            coordinate (0.5 for a model that has learned nothing).
        lattice_weight: weight of the decoder's error of the lattice in the loss, in squared standard deviations of its
            coordinates (1 for a model that has learned nothing).
        species_weight: weight of the decoder's error of the species in the loss, in nats per site (4.6 for a model that
            has learned nothing).
        denoising_weight: weight of the denoiser's error in the loss. Nothing but the relative step of two separate
            models depends on it.
    """
    check_weights(guidance, len(property_center))
    lattice = dict(lattice_center=lattice_center, lattice_scale=lattice_scale)
    sizes = dict(size=size, width=width, heads=heads)
    scales = Scales(lattice_center, lattice_scale, property_center, property_scale)
    weights, flow = Fields(frac_weight, lattice_weight, species_weight), euclidean_flow()
    model = LatentDenoiser(
        space=site_autoencoder(latent=latent, frequencies=frequencies, layers=autoencoder_layers, **sizes, **lattice),
        network=site_transformer(latent, layers=layers, **sizes),
        flow=flow,
        move=named_sampler(sampler, (flow,)),
        settings=Denoising(scales, weights, steps, known_fraction, drop_condition),
        latent=latent,
        latent_scale=latent_scale,
        kl_weight=kl_weight,
        denoising_weight=denoising_weight,
        guidance=guidance,
    )
    noise, decode = partial(_noise, model), partial(_decode, model)
    return Generator(partial(_init, model), partial(_loss, model), noise, decode, coordinates.sampled(noise, decode))


def _context(model: LatentDenoiser, t: Array, pack: Pack, condition: Condition) -> Array:
    return jnp.concatenate([model.settings.scales.context(t, condition), log_sites(pack)], -1)


def _denoise(model: LatentDenoiser, params: Params, x: Array, t: Array, template: Pack, condition: Condition) -> Array:
    """The clean latents behind those of t (b,): (n, d) -> (n, d)."""
    inputs = jnp.concatenate([x, template.occupancy], -1)
    return model.network.apply(params, inputs, _context(model, t, template, condition), template)


def _init(model: LatentDenoiser, key: Array, pack: Pack, condition: Condition) -> Params:
    keys = jax.random.split(key)
    inputs = jnp.zeros((len(pack.frac), model.latent + NUM_SPECIES), pack.frac.dtype)
    asked = _context(model, jnp.zeros(pack.lattice.shape[0], pack.frac.dtype), pack, condition)
    return {"autoencoder": model.space.init(keys[0], pack), "denoiser": model.network.init(keys[1], inputs, asked)}


def _loss(model: LatentDenoiser, params: Params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
    key_shift, key_z, key_denoise = jax.random.split(key, 3)
    shift = jax.random.uniform(key_shift, (pack.lattice.shape[0], 3), pack.frac.dtype)
    pack = pack._replace(frac=torus.wrap(pack.frac + shift[pack.owner]))
    q = model.space.encode(params["autoencoder"], pack)
    z = q.mean + jnp.exp(q.log_std) * jax.random.normal(key_z, q.mean.shape, q.mean.dtype)
    errors = _errors(model.space.decode(params["autoencoder"], z, pack), pack, model.settings.scales)
    kl = _mean(kl_divergence(q, Gaussian(jnp.zeros_like(z), jnp.zeros_like(z))).sum(-1), pack)
    clean = jax.lax.stop_gradient(z) / model.latent_scale
    missed = _denoising_error(model, params["denoiser"], key_denoise, clean, pack, condition)
    rms = jnp.sqrt(_mean(jnp.square(clean).mean(-1), pack))
    weighted = sum(w * e for w, e in zip(model.settings.weights, errors))
    total = weighted + model.kl_weight * kl + model.denoising_weight * missed
    return total, errors._asdict() | {"kl": kl, "denoising": missed, "latent_rms": rms}


def _denoising_error(
    model: LatentDenoiser, params: Params, key: Array, clean: Array, pack: Pack, condition: Condition
) -> Array:
    keys = jax.random.split(key, 4)
    t = coordinates.stratified_times(keys[0], pack.lattice.shape[0], clean.dtype)
    template = hide_species(keys[1], pack, model.settings.known_fraction)
    asked = coordinates.drop_condition(keys[2], condition, model.settings.drop_condition)
    x, target = model.flow.corrupt(keys[3], clean, t[pack.owner][:, None], pack)
    error = model.flow.error(_denoise(model, params, x, t, template, asked), target, x, pack)
    return _mean(error / jnp.square(jnp.maximum(t, LEAST_TIME))[pack.owner], pack)


def _noise(model: LatentDenoiser, key: Array, template: Pack) -> Array:
    return jax.random.normal(key, (len(template.frac), model.latent), template.frac.dtype)


def _decode(
    model: LatentDenoiser, params: Params, key: Array, noise: Array, template: Pack, condition: Condition
) -> Pack:
    ones, steps = jnp.ones(template.lattice.shape[0], noise.dtype), model.settings.steps

    def denoised(x: Array, t: Array) -> Array:
        return guided(
            lambda c: _denoise(model, params["denoiser"], x, t * ones, template, c), condition, model.guidance
        )

    def step(carry: tuple, this: tuple[Array, Array, Array]) -> tuple[tuple, None]:
        return model.move.advance(problem, this[0], *carry, *this[1:])[:2], None

    problem = Problem(
        (model.flow,),
        lambda x, t: ((denoised(x[0], t),), None),
        lambda t: ((t * ones)[template.owner][:, None],),
        template,
    )
    start = (noise,), model.move.start(problem, (noise,))
    times = jax.random.split(key, steps), *grid(steps, 1.0, noise.dtype)
    (z,), _ = jax.lax.scan(jax.checkpoint(step), start, times)[0]
    said = model.space.decode(params["autoencoder"], model.latent_scale * z, template)
    return _crystals(said, template, model.settings.scales)


def _mean(of_site: Array, pack: Pack) -> Array:
    return coordinates.mean_over_crystals(mean_by_crystal(of_site, pack), pack)


def _errors(said: SiteAnswer, pack: Pack, scales: Scales) -> Fields:
    """Of the decoder, mean over the crystals of a pack: squares on the circles and of the lattice, and nats."""
    true = scales.encode(pack)
    angle = 2 * jnp.pi * true.frac
    circle = jnp.square(said.circle - jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)).mean(-1)
    cell = coordinates.mean_over_crystals(jnp.square(said.lattice - true.lattice).mean(-1), pack)
    return Fields(_mean(circle, pack), cell, _mean(cross_entropy(said.species, true.species), pack))


def _crystals(said: SiteAnswer, template: Pack, scales: Scales) -> Pack:
    """The crystals that the decoder means: the likeliest allowed species of each site, known ones as they are."""
    rows = jax.nn.softmax(jnp.where(template.occupancy > 0, said.species, -1e9))
    known = is_known(template.occupancy)[:, None] > 0
    rows = jnp.where(known, template.occupancy, coordinates.harden(rows, template))
    fields = Fields(fractions(said.circle), said.lattice, rows)
    return scales.assemble(fields, template)
