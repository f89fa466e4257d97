"""A transformer over the sites of a pack: attention within each crystal alone, conditioned as a diffusion transformer.

DiT (Peebles & Xie 2023, section 3.2) with adaLN-zero: the context of a crystal gives every block a shift, a scale and a
gate for its attention and for its perceptron, and the gates start at zero, so that a fresh stack is the identity. What
differs: tokens are sites and have no positions, so the outputs are equivariant to permutations; the blocks have no
biases (the shifts do their work); the read-out starts at random and not at zero, because an encoder and a decoder that
both start at zero sit on a saddle.

Cost: a site takes about `24 layers width^2` floating-point operations for the weights and `4 layers n width` for dense
attention over all n sites of the pack, of which the owner mask keeps n_i / n: wasted work, below a fifth of the whole
while n < 1.5 width. Scores take `heads n^2` numbers a layer. A crystal adds `12 layers width^2` for its modulations; a
training step takes three times all that. Weights: `18 layers width^2` (S 32 M, B 127 M, L 453 M).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Pack, Params, site_mask

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}
"""Width, layers and heads of DiT-S, -B and -L (Peebles & Xie 2023, table 1)."""

EXPANSION = 4
"""Width of the perceptrons in units of the width."""


class SiteTransformer(NamedTuple):
    """Pure functions. Of the pack only its owners and which sites are real are read; padding sites answer zero."""

    init: Callable[..., Params]  # (key, x, context) -> params; the shapes alone are read
    apply: Callable[..., Array]  # (params, x (n, f), context (b, c), pack) -> (n, outputs)


def site_transformer(
    outputs: int,
    *,
    size: str = "S",
    width: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
) -> SiteTransformer:
    """A transformer over sites.

    Args:
        outputs: numbers per site that it answers.
        size: "S", "B" or "L", see `SIZES`.
        width, layers, heads: features per site, blocks and attention heads, in place of those of the size.

    Raises:
        ValueError: the size is unknown, or the width cannot be shared out among the heads.
    """
    if size not in SIZES:
        raise ValueError(f"size: {size!r}; expected one of {', '.join(SIZES)}")
    width, layers, heads = (own or usual for own, usual in zip((width, layers, heads), SIZES[size]))
    if width % heads:
        raise ValueError(f"width: {width}; expected a multiple of heads = {heads}")
    each, inner = width // heads, EXPANSION * width
    of_block = {
        "query": (width, heads, each), "key": (width, heads, each), "value": (width, heads, each),
        "mix": (heads, each, width), "up": (width, inner), "down": (inner, width),
    }  # fmt: skip

    def init(key: Array, x: Array, context: Array) -> Params:
        around = {
            "embed": (x.shape[-1], width), "context": (context.shape[-1], width), "condition": (width, width),
            "read": (width, outputs),
        }  # fmt: skip
        inputs = {name: shape[0] for name, shape in (of_block | around).items()} | {"mix": width}
        drawn = _draw(key, {name: (layers, *shape) for name, shape in of_block.items()} | around, inputs)
        blocks = {name: drawn.pop(name) for name in of_block}
        gates = {"modulate": jnp.zeros((layers, width, 6 * width)), "offset": jnp.zeros((layers, 6 * width))}
        biases = {f"{name}_bias": jnp.zeros(around[name][1]) for name in around}
        last = {"modulate": jnp.zeros((width, 2 * width)), "offset": jnp.zeros(2 * width)}
        return {"blocks": blocks | gates, **drawn, **biases, **last}

    def apply(params: Params, x: Array, context: Array, pack: Pack) -> Array:
        params = jax.tree.map(lambda leaf: leaf.astype(x.dtype), params)
        real = site_mask(pack.occupancy)
        seen = (pack.owner[:, None] == pack.owner[None]) & (real > 0)[None]
        known = jax.nn.silu(_linear(params, "context", context))
        known = jax.nn.silu(_linear(params, "condition", known))

        def block(x: Array, w: Params) -> tuple[Array, None]:
            shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = _modulation(w, known, pack, 6)
            x = x + gate * _attend(w, _normed(x) * (1 + scale) + shift, seen)
            h = _normed(x) * (1 + scale_mlp) + shift_mlp
            return x + gate_mlp * (jax.nn.gelu(h @ w["up"]) @ w["down"]), None

        x = jax.lax.scan(block, _linear(params, "embed", x), params["blocks"])[0]
        shift, scale = _modulation(params, known, pack, 2)
        return _linear(params, "read", _normed(x) * (1 + scale) + shift) * real[:, None].astype(x.dtype)

    return SiteTransformer(init, apply)


def _draw(key: Array, shapes: dict[str, tuple[int, ...]], inputs: dict[str, int]) -> Params:
    """Normal matrices of variance 1 / inputs, from one draw: a draw a matrix compiles slowly."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = jnp.split(jax.random.normal(key, (ends[-1],)), ends[:-1])
    return {name: part.reshape(shape) * inputs[name] ** -0.5 for part, (name, shape) in zip(parts, shapes.items())}


def _linear(params: Params, name: str, x: Array) -> Array:
    return x @ params[name] + params[f"{name}_bias"][None]


def _modulation(w: Params, known: Array, pack: Pack, parts: int) -> list[Array]:
    """Shifts, scales and gates of the sites, from what is known of their crystals: (n, width) each."""
    return jnp.split((known @ w["modulate"] + w["offset"][None])[pack.owner], parts, -1)


def _normed(x: Array) -> Array:
    """Layer normalization without parameters: shift and scale come from the context."""
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)


def _attend(w: Params, h: Array, seen: Array) -> Array:
    """Softmax attention where `seen` (n, m) lets n look at m: (n, width). A weight elsewhere is exactly zero."""
    q, k, v = (jnp.einsum("nd,dhs->nhs", h, w[name]) for name in ("query", "key", "value"))
    scores = jnp.einsum("nhs,mhs->hnm", q, k) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(seen[None], scores, -1e9))
    return jnp.einsum("hnm,mhs,hsd->nd", weights, v, w["mix"])
