"""Crystals as text, written digit by digit by a causal transformer (CrystaLLM, Antunes et al. 2024).

What differs from the paper: the text holds the numbers and elements of a CIF and none of its words; what may follow is
masked by a grammar (`generators.text.grammar`), so that every sample parses and keeps its template; sites come in
canonical order (`generators.text.text_tokens`), so that the probability of a text is the probability of the crystal;
and texts are written anew from the pack at every step, inside jit, which needs no second description of the data. The
prefix that a text continues: composition and number of sites, space group, and a bin of each property.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import (
    UNKNOWN,
    Condition,
    Generator,
    Pack,
    Params,
    num_sites,
    numbers,
    site_mask,
    sum_by_crystal,
)
from crysjax.generators import coordinates
from crysjax.generators.text import text_tokens
from crysjax.generators.text.grammar import VOCABULARY, Form, Grammar, Sites, Slot, State, grammar
from crysjax.nets.transformer import Transformer, transformer

SPACE_GROUPS = 231  # 0 = not given
ORIGINS = ("site", "random", "given")
_NEVER = -1e30  # a logit whose probability is exactly zero, with a finite derivative


class Writer(NamedTuple):
    """A transformer with the grammar that it writes by, and the settings of `text`."""

    net: Transformer
    width: int
    form: Form
    rules: Grammar
    slots: Slot  # (length,) each
    max_sites: int
    origin: str
    known_fraction: float
    drop_condition: float
    temperature: float
    bins: int
    center: tuple[float, ...]  # of the properties
    scale: tuple[float, ...]

    @property
    def length(self) -> int:
        """Tokens of a text."""
        return len(self.slots.role)


def text(
    *,
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    max_sites: int = 20,
    origin: str = "site",
    known_fraction: float = 0.5,
    drop_condition: float = 0.15,
    temperature: float = 1.0,
    bins: int = 32,
    length_decimals: int = 3,
    angle_decimals: int = 2,
    frac_decimals: int = 4,
    length_range: tuple[float, float] = (1.0, 99.0),
    angle_range: tuple[float, float] = (20.0, 160.0),
    property_center: tuple[float, ...] = (),
    property_scale: tuple[float, ...] = (),
) -> Generator:
    """A generator that writes crystals token by token.

    `sample` returns fractions on the grid of `frac_decimals`; a crystal with more than `max_sites` sites comes back
    as NaN, has an infinite loss and probability zero. `noise` is one standard normal number a token, whose normal
    quantile picks the token, digits in ascending order. `log_prob(params, pack, condition, template=pack)` is the
    exact log-probability of the text that `sample` drew for that template, at its temperature: of a crystal on the
    digit grid, whatever the order of its sites; -inf where the grammar forbids it or the cell is out of range. With
    the pack itself as the template the species count as given.

    Args:
        width: features per token of the transformer.
        layers: blocks of the transformer.
        heads: attention heads of the transformer.
        max_sites: number of sites of the largest crystal; the length of every text is proportional to it.
        origin: where training crystals are moved to: "site", a random site of the lightest element at 0 0 0, which
            makes the loss independent of translations; "random", anywhere; "given", nowhere.
        known_fraction, drop_condition, property_center, property_scale: as in `iterative`.
        temperature: temperature of sampling and of `log_prob`; the loss is at 1.
        bins: bins of each conditioning property, equal steps from -3 to 3 standard deviations.
        length_decimals: decimals of cell lengths, in Å.
        angle_decimals: decimals of cell angles, in degrees.
        frac_decimals: decimals of fractional coordinates.
        length_range: smallest and largest cell length that can be written, Å.
        angle_range: smallest and largest cell angle that can be written, degrees.
    """
    if origin not in ORIGINS:
        raise ValueError(f"origin: {origin!r}; expected one of {', '.join(ORIGINS)}")
    form = Form(length_decimals, angle_decimals, frac_decimals, tuple(length_range), tuple(angle_range))
    rules = grammar(form, max_sites)
    writer = Writer(
        net=transformer(width=width, layers=layers, heads=heads),
        width=width,
        form=form,
        rules=rules,
        slots=jax.tree.map(jnp.asarray, rules.slots),
        max_sites=max_sites,
        origin=origin,
        known_fraction=known_fraction,
        drop_condition=drop_condition,
        temperature=temperature,
        bins=bins,
        center=property_center,
        scale=property_scale,
    )
    noise, decode = partial(_noise, writer), partial(_decode, writer)
    sample, log_prob = coordinates.sampled(noise, decode), partial(_log_prob, writer)
    return Generator(partial(_init, writer), partial(_loss, writer), noise, decode, sample, log_prob)


def _init(writer: Writer, key: Array, pack: Pack, condition: Condition) -> Params:
    bin_tokens = max(len(writer.center) * (writer.bins + 1), 1)  # checkpoints hold no empty array
    sizes = {
        "token": VOCABULARY, "role": int(writer.rules.slots.role.max()) + 1, "composition": pack.occupancy.shape[1],
        "count": writer.max_sites + 1, "group": SPACE_GROUPS, "property": bin_tokens,
    }  # fmt: skip
    first, second = jax.random.split(key)
    ends = np.cumsum(list(sizes.values()))
    drawn = jnp.split(jax.random.normal(second, (ends[-1], writer.width)), ends[:-1])
    tables = dict(zip(sizes, drawn))
    return tables | {"transformer": writer.net.init(first), "read": jnp.zeros((writer.width, VOCABULARY))}


def _prefix(writer: Writer, params: Params, template: Pack, condition: Condition) -> Array:
    """What a text continues: (b, 2 + properties, width)."""
    rows = template.occupancy / jnp.maximum(template.occupancy.sum(-1, keepdims=True), 1e-30)
    count = jnp.minimum(num_sites(template).astype(jnp.int32), writer.max_sites)
    composition = sum_by_crystal(rows, template) @ params["composition"] + params["count"][count]
    tokens = params["property"][_bins(condition.properties, writer.center, writer.scale, writer.bins)]
    return jnp.concatenate([composition[:, None], params["group"][condition.space_group][:, None], tokens], 1)


def _of_template(writer: Writer, params: Params, template: Pack, condition: Condition) -> tuple[Params, Array]:
    """The parameters in the template's precision, and the prefix."""
    params = jax.tree.map(lambda leaf: leaf.astype(template.frac.dtype), params)
    return params, _prefix(writer, params, template, condition)


def _scores(writer: Writer, params: Params, start: Array, tokens: Array, sites: Sites, temperature: float) -> Array:
    """Log-probability of every token of one text: (length,)."""
    written = jnp.concatenate([start, params["token"][tokens[:-1]]])
    x = written.at[-writer.length :].add(params["role"][writer.slots.role])
    logits = writer.net.apply(params["transformer"], x)[-writer.length :] @ params["read"] / temperature
    log_probs = jax.nn.log_softmax(jnp.where(writer.rules.masks(tokens, sites), logits, _NEVER))
    return jnp.take_along_axis(log_probs, tokens[:, None], 1)[:, 0]


def _scored(
    writer: Writer, params: Params, pack: Pack, template: Pack, condition: Condition, temperature: float
) -> tuple[Array, Array]:
    """Log-probability of every token of a pack's texts, (b, length), and which cells could be written, (b,)."""
    written, sites = text_tokens.encode(writer.rules, writer.form, writer.max_sites, pack, template)
    params, start = _of_template(writer, params, template, condition)
    found = jax.vmap(lambda *one: _scores(writer, params, *one, temperature))(start, written.tokens, sites)
    forbidden = (found < _NEVER / 2) | (sites.count > writer.max_sites)[:, None]
    return jnp.where(forbidden, -jnp.inf, found), written.fits


def _loss(writer: Writer, params: Params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
    keys = jax.random.split(key, 3)
    known = jax.random.uniform(keys[0], pack.lattice.shape[:1]) < writer.known_fraction
    free = UNKNOWN * site_mask(pack.occupancy)[:, None] * jnp.ones_like(pack.occupancy)
    template = pack._replace(occupancy=jnp.where(known[pack.owner][:, None], pack.occupancy, free))
    pack = pack._replace(frac=pack.frac - _shift(keys[1], pack, writer.origin)[pack.owner])
    asked = coordinates.drop_condition(keys[2], condition, writer.drop_condition)
    # a cell out of range is learned as the nearest one that can be written
    found, _ = _scored(writer, params, pack, template, asked, 1.0)
    return _mean(-found, writer.slots, num_sites(pack))


def _noise(writer: Writer, key: Array, template: Pack) -> Array:
    return jax.random.normal(key, (len(template.lattice), writer.length), template.frac.dtype)


def _write(writer: Writer, params: Params, start: Array, sites: Sites, noise: Array) -> Array:
    """One text: (length,) int32."""
    before, net, rules = len(start) - 1, writer.net, writer.rules

    def read(cache, this: tuple[Array, Array]):
        return net.extend(params["transformer"], cache, *this)[1], None

    def step(carry: tuple, this: tuple[Array, Slot, Array]) -> tuple[tuple, Array]:
        (cache, state, x), (position, slot, z) = carry, this
        hidden, cache = net.extend(params["transformer"], cache, position, x + params["role"][slot.role])
        logits = hidden @ params["read"] / writer.temperature
        token = _pick(jnp.where(rules.allowed(state, slot, sites), logits, _NEVER), z)
        return (cache, rules.advance(state, slot, sites, token), params["token"][token]), token

    cache, _ = jax.lax.scan(read, net.start(before + writer.length, start.dtype), (jnp.arange(before), start[:-1]))
    state = State(*(jnp.asarray(leaf) for leaf in rules.start))
    first = cache, state, start[-1]
    return jax.lax.scan(step, first, (before + jnp.arange(writer.length), writer.slots, noise))[1]


def _decode(writer: Writer, params: Params, key: Array, noise: Array, template: Pack, condition: Condition) -> Pack:
    index, sites = text_tokens.canonical(template, writer.max_sites)
    params, start = _of_template(writer, params, template, condition)
    tokens = jax.vmap(lambda *one: _write(writer, params, *one))(start, sites, noise)
    return text_tokens.decode(writer.rules, writer.form, tokens, index, sites.count, template)


def _log_prob(writer: Writer, params: Params, pack: Pack, condition: Condition, template: Pack | None = None) -> Array:
    template = pack if template is None else template
    found, fits = _scored(writer, params, pack, template, condition, writer.temperature)
    return jnp.where(num_sites(pack) > 0, jnp.where(fits, found.sum(-1), -jnp.inf), 0.0)


def _pick(logits: Array, z: Array) -> Array:
    """The token at the quantile of a standard normal number, tokens in ascending order; never one of probability 0."""
    probability = jax.nn.softmax(logits)
    cumulative = jnp.cumsum(probability)
    quantile = jnp.minimum(jax.scipy.stats.norm.cdf(z), 1 - 2e-6) * cumulative[-1]
    return jnp.argmax((cumulative > quantile) & (probability > 0)).astype(jnp.int32)


def _shift(key: Array, pack: Pack, origin: str) -> Array:
    """What is taken off the fractions of each crystal, see `origin`: (b, 3)."""
    crystals = pack.lattice.shape[0]
    if origin == "given":
        return jnp.zeros((crystals, 3), pack.frac.dtype)
    if origin == "random":
        return jax.random.uniform(key, (crystals, 3), pack.frac.dtype)
    z = jnp.where(site_mask(pack.occupancy) > 0, numbers(pack.occupancy), 1000)
    lightest = z == jax.ops.segment_min(z, pack.owner, crystals)[pack.owner]
    draw = jnp.where(lightest, jax.random.uniform(key, z.shape), -1.0)
    chosen = draw == jax.ops.segment_max(draw, pack.owner, crystals)[pack.owner]
    return sum_by_crystal(pack.frac * chosen.astype(pack.frac.dtype)[:, None], pack)


def _bins(values: Array, center: tuple[float, ...], scale: tuple[float, ...], bins: int) -> Array:
    """Rows of the table of properties, the first of each for "not given": (b, k) -> (b, k) int32."""
    center, scale = (jnp.asarray(np.asarray(v)[None], values.dtype) for v in (center, scale))
    step = jnp.floor((values - center) / scale * (bins / 6) + bins / 2)
    inside = jnp.where(jnp.isfinite(values), 1 + jnp.clip(step, 0, bins - 1), 0).astype(jnp.int32)
    return inside + (bins + 1) * jnp.arange(values.shape[1], dtype=jnp.int32)[None]


def _mean(nats: Array, slots: Slot, sites: Array) -> tuple[Array, dict]:
    """Nats a token, over tokens that say something, and what they sum to a crystal in each field."""
    real = slots.site[None] < sites.astype(jnp.int32)[:, None]
    fields = {"lattice": ~slots.in_site, "frac": slots.in_site & ~slots.is_element, "species": slots.is_element}
    crystals = jnp.maximum((sites > 0).astype(nats.dtype).sum(), 1)
    means = {name: jnp.where(real & at[None], nats, 0.0).sum() / crystals for name, at in fields.items()}
    return jnp.where(real, nats, 0.0).sum() / jnp.maximum(real.astype(nats.dtype).sum(), 1), means
