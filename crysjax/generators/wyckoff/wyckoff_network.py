"""The network of the Wyckoff transformer: orbits as tokens, and heads that read the next one off, part after part."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Params
from crysjax.generators.wyckoff import von_mises
from crysjax.geometry.symmetry import MAX_LETTERS, table
from crysjax.nets.transformer import Transformer, transformer

SPACE_GROUPS = 231
_STD = (0.003, 3.0)  # limits of a lattice coordinate's standard deviation


class Mixture(NamedTuple):
    """A mixture of m components, of one coordinate or of the lattice's six."""

    logits: Array  # (m,)
    center: Array  # (m,) or (m, 6)
    spread: Array  # the same: concentration of a coordinate, standard deviation of a lattice coordinate


class OrbitNetwork(NamedTuple):
    """Pure functions of one crystal; `h` is what the transformer says at a position, (width,)."""

    init: Callable  # (key) -> params
    cast: Callable  # (params, dtype) -> params
    stack: Transformer
    group: Callable  # (params, context) -> (231,) logits
    prefix: Callable  # (params, group, context) -> (width,) the first token
    token: Callable  # (params, group, letter, number, u, left) -> (width,) the token of an orbit
    letters: Callable  # (params, h, group) -> (27,) logits
    species: Callable  # (params, h, group, letter) -> (NUM_SPECIES,) logits
    coordinate: Callable  # (params, h, group, letter, number, u, axis) -> Mixture, of earlier coordinates in u alone
    lattice: Callable  # (params, h) -> Mixture


def orbit_network(*, width: int, layers: int, heads: int, components: int, context: int) -> OrbitNetwork:
    """The functions for `context` numbers that are known of a crystal from the start."""
    stack = transformer(width=width, layers=layers, heads=heads)
    features = _letter_features()
    sizes = {
        "prefix": (context, width), "letter": (features.shape[-1], width), "query": (width, width),
        "plain": (width, MAX_LETTERS), "place": (12, width), "left": (NUM_SPECIES + 1, width),
    }  # fmt: skip
    perceptrons = {
        "group": (context, SPACE_GROUPS), "species": (width, NUM_SPECIES), "lattice": (width, 13 * components),
        "x": (width + 12, 4 * components), "y": (width + 12, 4 * components), "z": (width + 12, 4 * components),
    }  # fmt: skip

    def init(key: Array) -> Params:
        keys = iter(jax.random.split(key, len(sizes) + 2 * len(perceptrons) + 3))
        params = {name: _matrix(next(keys), *shape) for name, shape in sizes.items()}
        for name, (inputs, outputs) in perceptrons.items():
            params[name] = {
                "first": _matrix(next(keys), inputs, width),
                "bias": jnp.zeros(width),
                "second": _matrix(next(keys), width, outputs),
            }
        params["group_table"] = 0.1 * jax.random.normal(next(keys), (SPACE_GROUPS, width))
        params["letter_table"] = jnp.zeros((SPACE_GROUPS * MAX_LETTERS, width))
        params["species_table"] = 0.3 * jax.random.normal(next(keys), (NUM_SPECIES + 1, width))
        return params | {"stack": stack.init(next(keys))}

    def letter_vectors(params: Params, group: Array) -> Array:
        rows = params["letter_table"].reshape(SPACE_GROUPS, MAX_LETTERS, width)[group]
        return rows + jnp.asarray(features, rows.dtype)[group] @ params["letter"]

    def prefix(params: Params, group: Array, context: Array) -> Array:
        return params["group_table"][group] + context @ params["prefix"]

    def token(params: Params, group: Array, letter: Array, number: Array, u: Array, left: Array) -> Array:
        placed = letter_vectors(params, group)[letter] + params["species_table"][number]
        rest = jnp.concatenate([left, left.sum(keepdims=True)]) / 10
        return placed + _turns(u, _free(group, letter)) @ params["place"] + rest @ params["left"]

    def letters(params: Params, h: Array, group: Array) -> Array:
        return h @ params["plain"] + letter_vectors(params, group) @ (h @ params["query"]) * width**-0.5

    def species(params: Params, h: Array, group: Array, letter: Array) -> Array:
        return _perceptron(params["species"], h + letter_vectors(params, group)[letter])

    def coordinate(
        params: Params, h: Array, group: Array, letter: Array, number: Array, u: Array, axis: int
    ) -> Mixture:
        here = h + letter_vectors(params, group)[letter] + params["species_table"][number]
        known = _turns(u, _free(group, letter) & (jnp.arange(3) < axis))
        out = _perceptron(params["xyz"[axis]], jnp.concatenate([here, known]))
        logits, cos, sin, raw = out.reshape(4, components)
        # components start apart from each other, evenly around the circle
        start = 2 * jnp.pi * jnp.arange(components, dtype=h.dtype) / components
        center = jnp.arctan2(sin + jnp.sin(start), cos + jnp.cos(start)) / (2 * jnp.pi)
        return Mixture(logits, center, von_mises.concentration(raw))

    def lattice(params: Params, h: Array) -> Mixture:
        out = _perceptron(params["lattice"], h)
        logits, rest = out[:components], out[components:].reshape(2, components, 6)
        low, high = (jnp.log(jnp.asarray(s, h.dtype)) for s in _STD)
        return Mixture(logits, rest[0], jnp.exp(low + (high - low) * jax.nn.sigmoid(rest[1] + 1)))

    def cast(params: Params, dtype) -> Params:
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    def group(params: Params, context: Array) -> Array:
        return _perceptron(params["group"], context)

    return OrbitNetwork(init, cast, stack, group, prefix, token, letters, species, coordinate, lattice)


def _matrix(key: Array, inputs: int, outputs: int) -> Array:
    return jax.random.normal(key, (inputs, outputs)) * inputs**-0.5


def _perceptron(layer: Params, x: Array) -> Array:
    return jax.nn.silu(x @ layer["first"] + layer["bias"]) @ layer["second"]


def _free(group: Array, letter: Array) -> Array:
    return jnp.asarray(table().free)[group, letter]


def _turns(u: Array, known: Array) -> Array:
    """Cosines and sines of one and two turns a coordinate, 0 where it is not known: (3,) -> (12,)."""
    angle = 2 * jnp.pi * u[None] * jnp.arange(1, 3, dtype=u.dtype)[:, None]
    return (jnp.stack([jnp.cos(angle), jnp.sin(angle)]) * known.astype(u.dtype)[None, None]).reshape(-1)


def _letter_features() -> np.ndarray:
    """What a position is, as numbers: its map, free coordinates and number of sites: (231, 27, 17)."""
    t = table()
    flat = t.linear.reshape(SPACE_GROUPS, MAX_LETTERS, 9)
    sites = t.sites[..., None].astype(float)
    return np.concatenate([flat, t.offset, t.free, sites / 10, np.log(np.maximum(sites, 1))], -1)
