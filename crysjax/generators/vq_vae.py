"""Vector-quantized autoencoder of crystals: a few discrete codes per crystal, decoded by flow matching or diffusion.

VQ-VAE (van den Oord et al. 2017); VQCrystal (Qiu et al. 2024) for crystals, whose codes are the genes of a genetic
search. The encoder's crystal vector is cut into M groups, each replaced by the nearest of the K vectors of that group's
own codebook; an autoregressive prior over the codes, which reads what the template knows, is trained along with it
(van den Oord et al. train it afterwards) and sees codes alone, so that it does not pull on them. Both are for crystals
of any template; VQCrystal quantizes sites as well, which no template of exchangeable sites could draw.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Condition, Generator, Network, Pack, Params, Process
from crysjax.generators import autoencoder, codebooks, coordinates
from crysjax.generators.coordinates import LATTICE_CENTER, LATTICE_SCALE, Fields, Numbers, Scales
from crysjax.generators.iterative import Denoising

INITIAL_SPREAD = 0.1
"""Deviation of the first entries around the vectors that they start from."""

DRAW = -1
"""A gene of this value is drawn from the prior, given the genes before it."""


class CodeNoise(NamedTuple):
    """What a sample is decoded from. `codes` are all `DRAW` as drawn; a search writes its genes there."""

    frac: Array  # (n, 3)
    lattice: Array  # (b, 6)
    species: Array  # (n, s)
    gumbel: Array  # (b, m, k) standard Gumbel: the prior's draws
    codes: Array  # (b, m) int32


class CodeSpace(NamedTuple):
    """The codes of a `vq_vae`; `params` are those of the generator."""

    init: Callable[..., Params]  # (key, pack, condition) -> params
    vectors: Callable[..., Array]  # (params, pack, reference = pack) -> (b, m, w), before they are quantized
    encode: Callable[..., Array]  # (params, pack, reference) -> (b, m) int32
    logits: Callable[..., Array]  # (params, codes, template, condition) -> (b, m, k), of each code given those before
    draw: Callable[..., Array]  # (params, gumbel, codes, template, condition) -> (b, m), `DRAW` filled in


def code_space(
    network: Network,
    *,
    codes: int = 8,
    entries: int = 64,
    code_width: int = 8,
    hidden: int = 128,
    property_center: Numbers = (),
    property_scale: Numbers = (),
) -> CodeSpace:
    """The encoder, the codebook and the prior of a `vq_vae` of the same settings.

    Vectors are standardized by the mean and deviation over a pack: the pack itself in training (batch normalization
    before the codebook, Lancucki et al. 2020), a `reference` of training crystals for encoding (Salimans et al. 2016,
    section 3.5). Without it an untrained encoder puts all crystals so near to one another, and moves them so fast, that
    one entry takes them all for good. A reference should look like a pack of training, and hold 50 crystals or more.

    The prior is p(c) = prod_m p(c_m | c_1..c_(m-1), template): one hidden layer
    a group, over a running sum of the embeddings of the codes before it (as in NADE, Larochelle & Murray 2011).
    """
    if codes < 1 or entries < 1 or code_width < 2:
        raise ValueError(f"codes: {codes}, entries: {entries}, code_width: {code_width}; expected at least 1, 1 and 2")
    to_vectors = autoencoder.encoder(network, outputs=codes * code_width, hidden=hidden)

    def features(template: Pack, condition: Condition) -> Array:
        return autoencoder.template_features(template, condition, property_center, property_scale)

    def init(key: Array, pack: Pack, condition: Condition) -> Params:
        keys = jax.random.split(key, 5)
        dtype, known = pack.frac.dtype, features(pack, condition).shape[-1]
        prior = {
            "template": jax.random.normal(keys[1], (known, hidden), dtype) / jnp.sqrt(known).astype(dtype),
            "embedding": jax.random.normal(keys[2], (codes, entries, hidden), dtype),
            "bias": jnp.zeros((codes, hidden), dtype),
            "out": jnp.zeros((codes, hidden, entries), dtype),
            "out_bias": jnp.zeros((codes, entries), dtype),
        }
        params = {"encoder": to_vectors.init(keys[0], pack)}
        near = jax.random.normal(keys[3], (codes, entries, code_width), dtype)
        codebook = codebooks.random_vectors(keys[4], vectors(params, pack), pack, entries) + INITIAL_SPREAD * near
        return params | {"codebook": codebook, "prior": prior}

    def vectors(params: Params, pack: Pack, reference: Pack | None = None) -> Array:
        raw = to_vectors.apply(params["encoder"], pack)
        if reference is None:
            mean, std = codebooks.statistics(raw, pack)
        else:
            mean, std = codebooks.statistics(to_vectors.apply(params["encoder"], reference), reference)
        return ((raw - mean[None]) / std[None]).reshape(-1, codes, code_width)

    def encode(params: Params, pack: Pack, reference: Pack) -> Array:
        return codebooks.nearest(vectors(params, pack, reference), params["codebook"])

    def logits(params: Params, codes: Array, template: Pack, condition: Condition) -> Array:
        prior = params["prior"]
        embedded = codebooks.look_up(codes, prior["embedding"])
        before = jnp.cumsum(embedded, 1) - embedded
        h = jax.nn.silu((features(template, condition) @ prior["template"])[:, None] + before + prior["bias"][None])
        return jnp.einsum("bmh,mhk->bmk", h, prior["out"]) + prior["out_bias"][None]

    def draw(params: Params, gumbel: Array, codes: Array, template: Pack, condition: Condition) -> Array:
        prior = params["prior"]
        start = features(template, condition) @ prior["template"]

        def one(total: Array, this: tuple) -> tuple[Array, Array]:
            embedding, bias, out, out_bias, uniform, given = this
            answer = jax.nn.silu(total + bias[None]) @ out + out_bias[None]
            code = jnp.where(given == DRAW, jnp.argmax(answer + uniform, -1).astype(jnp.int32), given)
            return total + embedding[code], code

        names = ("embedding", "bias", "out", "out_bias")
        of_group = (*(prior[name] for name in names), jnp.swapaxes(gumbel, 0, 1), codes.T)
        return jax.lax.scan(one, start, of_group)[1].T

    return CodeSpace(init, vectors, encode, logits, draw)


class Weights(NamedTuple):
    """Of what the loss adds to the decoder's, see `vq_vae`."""

    codebook: float
    commitment: float
    revival: float
    prior: float


class CodeAutoencoder(NamedTuple):
    """The parts of a `vq_vae`."""

    space: CodeSpace
    decoder: Generator
    settings: Denoising
    codes: int
    entries: int
    width: int  # of all codes of a crystal together
    weights: Weights


def vq_vae(
    network: Network,
    *,
    frac: Process,
    lattice: Process,
    species: Process,
    codes: int = 8,
    entries: int = 64,
    code_width: int = 8,
    hidden: int = 128,
    codebook_weight: float = 1.0,
    commitment_weight: float = 0.25,
    revival_weight: float = 0.1,
    prior_weight: float = 0.1,
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
    """A vector-quantized autoencoder with an iterative decoder.

    Genes: `code_space(...).encode(params, pack, reference)` gives them, and `decode` makes crystals
    of `noise._replace(codes=genes)`; a gene of `DRAW` is completed by the prior, given the genes before it.

    Args:
        network: the backbone of the decoder and, with parameters of its own, of the encoder.
        frac, lattice, species: the process of each field. There is no classifier-free guidance.
        steps, lattice_center, lattice_scale, property_center, property_scale: as in `iterative`.
        known_fraction, drop_condition, frac_weight, lattice_weight, species_weight: as in `iterative`.
        codes: codes per crystal, M.
        entries: entries of each codebook, K.
        code_width: numbers per entry.
        hidden: width of the perceptrons.
        codebook_weight: weight of `|sg(v) - e|²` in the loss (van den Oord et al. 2017, eq. 3), a mean over the numbers
            of a code. The codebook follows by its gradient: a moving average would be a state, and a loss has none.
        commitment_weight: weight of `|v - sg(e)|²` in the loss (eq. 3), a mean over the numbers of a code.
        revival_weight: entries that no crystal of the pack uses are drawn to vectors of random crystals of it with this
            weight (`codebooks.revival`); an entry that more than this over K of the crystals use hardly feels it.
        prior_weight: weight of the prior's cross entropy, in nats per crystal; its gradient reaches the prior alone.

    Metrics: the decoder's errors, `perplexity` (entries in use a group, its mean; a pack can show at most its number of
    crystals), `commitment` (squared distance per number), `prior` (nats per crystal; M ln K knows nothing).
    """
    scales = Scales(lattice_center, lattice_scale, property_center, property_scale)
    errors = Fields(frac_weight, lattice_weight, species_weight)
    settings, width = Denoising(scales, errors, steps, known_fraction, drop_condition), codes * code_width
    space = code_space(
        network,
        codes=codes,
        entries=entries,
        code_width=code_width,
        hidden=hidden,
        property_center=property_center,
        property_scale=property_scale,
    )
    decoder = autoencoder.decoder(network, Fields(frac, lattice, species), settings, width)
    weights = Weights(codebook_weight, commitment_weight, revival_weight, prior_weight)
    model = CodeAutoencoder(space, decoder, settings, codes, entries, width, weights)
    noise, decode = partial(_noise, model), partial(_decode, model)
    return Generator(partial(_init, model), partial(_loss, model), noise, decode, coordinates.sampled(noise, decode))


def _asked_for(condition: Condition, entries_of: Array) -> Condition:
    """The decoder's condition: entries of the codebooks (b, m, w) as further properties."""
    return autoencoder.with_latent(condition, entries_of.reshape(len(condition.space_group), -1))


def _init(model: CodeAutoencoder, key: Array, pack: Pack, condition: Condition) -> Params:
    keys = jax.random.split(key)
    zero = jnp.zeros((pack.lattice.shape[0], model.width), pack.frac.dtype)
    started = model.decoder.init(keys[0], pack, _asked_for(condition, zero))
    return {"decoder": started} | model.space.init(keys[1], pack, condition)


def _loss(model: CodeAutoencoder, params: Params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
    settings, weights, codebook = model.settings, model.weights, params["codebook"]
    key_drop, key_hide, key_revive, key_decoder = jax.random.split(key, 4)
    vectors = model.space.vectors(params, pack)
    fixed = jax.lax.stop_gradient(vectors)
    found = codebooks.nearest(fixed, codebook)
    chosen = codebooks.look_up(found, codebook)
    asked = coordinates.drop_condition(key_drop, condition, settings.drop_condition)
    through = _asked_for(asked, codebooks.straight_through(vectors, chosen))
    error, metrics = model.decoder.loss(params["decoder"], key_decoder, pack, through)
    follow = jnp.square(fixed - chosen).mean((1, 2))
    commit = jnp.square(vectors - jax.lax.stop_gradient(chosen)).mean((1, 2))
    follow, commit = (coordinates.mean_over_crystals(v, pack) for v in (follow, commit))
    template = autoencoder.hide_species(key_hide, pack, settings.known_fraction)
    nats = _prior_nats(model.space, params, found, template, asked)
    total = error + weights.codebook * follow + weights.commitment * commit + weights.prior * nats
    total += weights.revival * codebooks.revival(key_revive, codebook, fixed, found, pack)
    used = codebooks.perplexity(found, codebooks.real_crystals(pack), model.entries).mean()
    return total, metrics | {"perplexity": used, "commitment": commit, "prior": nats}


def _prior_nats(space: CodeSpace, params: Params, found: Array, template: Pack, condition: Condition) -> Array:
    """Cross entropy of the prior in nats, mean over crystals: (b, m) -> ()."""
    log_p = jax.nn.log_softmax(space.logits(params, found, template, condition))
    of_code = jnp.take_along_axis(log_p, found[:, :, None], -1)[..., 0]
    return -coordinates.mean_over_crystals(of_code.sum(-1), template)


def _noise(model: CodeAutoencoder, key: Array, template: Pack) -> CodeNoise:
    keys = jax.random.split(key)
    crystals = template.lattice.shape[0]
    gumbel = jax.random.gumbel(keys[1], (crystals, model.codes, model.entries), template.frac.dtype)
    return CodeNoise(
        *model.decoder.noise(keys[0], template), gumbel, jnp.full((crystals, model.codes), DRAW, jnp.int32)
    )


def _decode(
    model: CodeAutoencoder, params: Params, key: Array, noise: CodeNoise, template: Pack, condition: Condition
) -> Pack:
    genes = model.space.draw(params, noise.gumbel, noise.codes, template, condition)
    fields = Fields(noise.frac, noise.lattice, noise.species)
    through = _asked_for(condition, codebooks.look_up(genes, params["codebook"]))
    return model.decoder.decode(params["decoder"], key, fields, template, through)
