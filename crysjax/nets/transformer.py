"""A small decoder-only transformer for sequences, with the same function twice: whole, and one position at a time.

Vaswani et al. 2017 with what has become usual since: normalization before each part (Xiong et al. 2020), rotary
positions (Su et al. 2021), SwiGLU (Shazeer 2020) and RMS normalization; no biases. It maps vectors to vectors: token
embeddings, prefixes and read-outs belong to the family that uses it. Functions take ONE sequence; `vmap` for many.

Cost: a position takes about `2 (4 + 3 expansion) layers width^2` floating-point operations for the weights and
`4 layers length width` for attention over `length` positions; a training step takes three times that. Decoding with
the cache costs the same a position, where calling `apply` anew for each would cost `length` times as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Params

Cache = tuple[tuple[Array, Array], ...]
"""Keys and values of every layer so far, (length, heads, width / heads) each; unwritten positions are zero."""


class Transformer(NamedTuple):
    """Pure functions of a causal transformer: output t depends on inputs 0..t alone."""

    init: Callable[[Array], Params]  # (key) -> params
    apply: Callable[[Params, Array], Array]  # (params, (length, width)) -> (length, width)
    start: Callable[..., Cache]  # (length, dtype) -> an empty cache for so many positions
    extend: Callable[..., tuple[Array, Cache]]  # (params, cache, position, (width,)) -> (width,), cache


def transformer(*, width: int = 128, layers: int = 4, heads: int = 4, expansion: int = 2) -> Transformer:
    """A causal transformer.

    Args:
        width: features a position, a multiple of `2 heads`.
        layers: blocks of attention and SwiGLU.
        heads: attention heads.
        expansion: width of the SwiGLU in units of `width`.

    Raises:
        ValueError: where the width cannot be shared out among the heads.
    """
    if width % (2 * heads):
        raise ValueError(f"width: {width}; expected a multiple of 2 heads = {2 * heads}, for rotary positions")
    size = width // heads
    inner = expansion * width
    shapes = {
        "query": (width, heads, size), "key": (width, heads, size), "value": (width, heads, size),
        "mix": (heads, size, width), "gate": (width, inner), "up": (width, inner), "down": (inner, width),
    }  # fmt: skip
    # the outputs start so small that the sum over all blocks has the scale of one (GPT-2, Radford et al. 2019)
    variances = {"mix": 1 / (2 * layers * width), "down": 1 / (2 * layers * inner)}

    def init(key: Array) -> Params:
        ends = np.cumsum([layers * math.prod(shape) for shape in shapes.values()])
        drawn = jnp.split(jax.random.normal(key, (ends[-1],)), ends[:-1])  # one draw: a draw a matrix compiles slowly
        blocks = {
            name: part.reshape(layers, *shape) * variances.get(name, 1 / width) ** 0.5
            for part, (name, shape) in zip(drawn, shapes.items())
        }
        ones = jnp.ones((layers, width))
        return {"blocks": blocks | {"norm_attention": ones, "norm_gate": ones}, "norm": jnp.ones(width)}

    def apply(params: Params, x: Array) -> Array:
        positions = jnp.arange(len(x))
        causal = positions[:, None] >= positions[None]

        def block(x: Array, w: Params) -> tuple[Array, None]:
            q, k, v = _project(w, x, positions)
            return _finish(w, x, _attend(q, k, v, causal)), None

        params = _cast(params, x.dtype)
        return _norm(jax.lax.scan(block, x, params["blocks"], unroll=True)[0], params["norm"])

    def start(length: int, dtype=jnp.float32) -> Cache:
        empty = jnp.zeros((length, heads, size), dtype)
        return ((empty, empty),) * layers

    def extend(params: Params, cache: Cache, position: Array, x: Array) -> tuple[Array, Cache]:
        params, x, position, extended = _cast(params, x.dtype), x[None], jnp.asarray(position), []
        seen = (jnp.arange(len(cache[0][0]), dtype=position.dtype) <= position)[None]
        for layer, (keys, values) in enumerate(cache):  # unrolled: a scan over layers would copy the whole cache
            w = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
            q, k, v = _project(w, x, jnp.reshape(position, 1))
            keys, values = (jax.lax.dynamic_update_slice(a, b, (position, 0, 0)) for a, b in ((keys, k), (values, v)))
            x = _finish(w, x, _attend(q, keys, values, seen))
            extended.append((keys, values))
        return _norm(x, params["norm"])[0], tuple(extended)

    return Transformer(init, apply, start, extend)


def _cast(params: Params, dtype) -> Params:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def _norm(x: Array, scale: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6) * scale[None]


def _project(w: Params, x: Array, positions: Array) -> tuple[Array, Array, Array]:
    """Queries, keys (both turned by their position) and values: (l, heads, size) each."""
    h = _norm(x, w["norm_attention"])
    q, k, v = (jnp.einsum("ld,dhs->lhs", h, w[name]) for name in ("query", "key", "value"))
    return _rotate(q, positions), _rotate(k, positions), v


def _rotate(x: Array, positions: Array) -> Array:
    """Rotary positions (Su et al. 2021, eq. 34): products of queries and keys depend on distances alone."""
    half = x.shape[-1] // 2
    rate = 10_000.0 ** (-jnp.arange(half, dtype=x.dtype) / half)
    angle = (positions.astype(x.dtype)[:, None] * rate[None])[:, None]
    a, b, cos, sin = x[..., :half], x[..., half:], jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def _attend(q: Array, k: Array, v: Array, seen: Array) -> Array:
    """Softmax attention of (l, h, s) queries over (m, h, s) keys, where `seen` (l, m) allows: (l, h, s)."""
    scores = jnp.einsum("lhs,mhs->hlm", q, k) * q.shape[-1] ** -0.5
    return jnp.einsum("hlm,mhs->lhs", jax.nn.softmax(jnp.where(seen[None], scores, -1e9)), v)


def _finish(w: Params, x: Array, attended: Array) -> Array:
    """What is left of a block after attention: its output matrix and the SwiGLU, both added to `x`."""
    x = x + jnp.einsum("lhs,hsd->ld", attended, w["mix"])
    h = _norm(x, w["norm_gate"])
    return x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"]
