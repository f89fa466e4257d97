"""The network of the Wyckoff transformer: orbits as tokens, and heads that read the next one off, part after part."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
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


class Places(NamedTuple):
    """The Wyckoff positions of one group as a network sees them: made once per crystal, read for every orbit."""

    vectors: Array  # (27, width)
    free: Array  # (27, 3) bool: which coordinates are free


class OrbitNetwork(NamedTuple):
    """Pure functions of one crystal; `h` is what the transformer says at a position, (width,)."""

    init: Callable  # (key) -> params
    cast: Callable  # (params, dtype) -> params
    stack: Transformer
    group: Callable  # (params, context) -> (231,) logits
    places: Callable  # (params, group) -> Places
    prefix: Callable  # (params, group, context) -> (width,) the first token
    token: Callable  # (params, places, letter, number, u, left) -> (width,) the token of an orbit
    letters: Callable  # (params, h, places) -> (27,) logits
    species: Callable  # (params, h, places, letter) -> (NUM_SPECIES,) logits
    coordinate: Callable  # (params, h, places, letter, number, u, axis) -> Mixture, of earlier coordinates in u alone
    lattice: Callable  # (params, h) -> Mixture


class Sizes(NamedTuple):
    """The sizes of an orbit network."""

    width: int
    components: int
    context: int  # numbers that are known of a crystal from the start

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear maps."""
        return {
            "prefix": (self.context, self.width), "letter": (_letter_features().shape[-1], self.width),
            "query": (self.width, self.width), "plain": (self.width, MAX_LETTERS), "place": (12, self.width),
            "left": (NUM_SPECIES + 1, self.width),
        }  # fmt: skip

    def perceptrons(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the read-outs; those of a coordinate know the ones before it."""
        of_coordinate = self.width + 12, 4 * self.components
        return {
            "group": (self.context, SPACE_GROUPS), "species": (self.width, NUM_SPECIES),
            "lattice": (self.width, 13 * self.components), "x": of_coordinate, "y": of_coordinate, "z": of_coordinate,
        }  # fmt: skip


def orbit_network(*, width: int, layers: int, heads: int, components: int, context: int) -> OrbitNetwork:
    """The functions for `context` numbers that are known of a crystal from the start."""
    stack, shape = transformer(width=width, layers=layers, heads=heads), Sizes(width, components, context)
    return OrbitNetwork(
        init=partial(_init, shape, stack),
        cast=_cast,
        stack=stack,
        group=lambda params, context: _perceptron(params["group"], context),
        places=_places,
        prefix=lambda params, group, context: params["group_table"][group] + context @ params["prefix"],
        token=_token,
        letters=_letters,
        species=_species,
        coordinate=partial(_coordinate, components),
        lattice=partial(_lattice, components),
    )


def _init(shape: Sizes, stack: Transformer, key: Array) -> Params:
    matrices, perceptrons, width = shape.matrices(), shape.perceptrons(), shape.width
    keys = iter(jax.random.split(key, len(matrices) + 2 * len(perceptrons) + 3))
    params = {name: _matrix(next(keys), *size) for name, size in matrices.items()}
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


def _cast(params: Params, dtype) -> Params:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def _places(params: Params, group: Array) -> Places:
    """What the positions of a group are, learned and known."""
    rows = params["letter_table"].reshape(SPACE_GROUPS, MAX_LETTERS, -1)[group]
    known = jnp.asarray(_letter_features(), rows.dtype)[group] @ params["letter"]
    return Places(rows + known, jnp.asarray(table().free)[group])


def _token(params: Params, places: Places, letter: Array, number: Array, u: Array, left: Array) -> Array:
    placed = places.vectors[letter] + params["species_table"][number]
    rest = jnp.concatenate([left, left.sum(keepdims=True)]) / 10
    return placed + _turns(u, places.free[letter]) @ params["place"] + rest @ params["left"]


def _letters(params: Params, h: Array, places: Places) -> Array:
    return h @ params["plain"] + places.vectors @ (h @ params["query"]) * len(h) ** -0.5


def _species(params: Params, h: Array, places: Places, letter: Array) -> Array:
    return _perceptron(params["species"], h + places.vectors[letter])


def _coordinate(
    components: int, params: Params, h: Array, places: Places, letter: Array, number: Array, u: Array, axis: int
) -> Mixture:
    here = h + places.vectors[letter] + params["species_table"][number]
    known = _turns(u, places.free[letter] & (jnp.arange(3) < axis))
    out = _perceptron(params["xyz"[axis]], jnp.concatenate([here, known]))
    logits, cos, sin, raw = out.reshape(4, components)
    # components start apart from each other, evenly around the circle
    start = 2 * jnp.pi * jnp.arange(components, dtype=h.dtype) / components
    center = jnp.arctan2(sin + jnp.sin(start), cos + jnp.cos(start)) / (2 * jnp.pi)
    return Mixture(logits, center, von_mises.concentration(raw))


def _lattice(components: int, params: Params, h: Array) -> Mixture:
    out = _perceptron(params["lattice"], h)
    logits, rest = out[:components], out[components:].reshape(2, components, 6)
    low, high = (jnp.log(jnp.asarray(s, h.dtype)) for s in _STD)
    return Mixture(logits, rest[0], jnp.exp(low + (high - low) * jax.nn.sigmoid(rest[1] + 1)))


def _matrix(key: Array, inputs: int, outputs: int) -> Array:
    return jax.random.normal(key, (inputs, outputs)) * inputs**-0.5


def _perceptron(layer: Params, x: Array) -> Array:
    return jax.nn.silu(x @ layer["first"] + layer["bias"]) @ layer["second"]


def _turns(u: Array, known: Array) -> Array:
    """Cosines and sines of one and two turns a coordinate, 0 where it is not known: (3,) -> (12,)."""
    angle = 2 * jnp.pi * u[None] * jnp.arange(1, 3, dtype=u.dtype)[:, None]
    return (jnp.stack([jnp.cos(angle), jnp.sin(angle)]) * known.astype(u.dtype)[None, None]).reshape(-1)


@cache
def _letter_features() -> np.ndarray:
    """What a position is, as numbers: its map, free coordinates and number of sites: (231, 27, 17)."""
    t = table()
    flat = t.linear.reshape(SPACE_GROUPS, MAX_LETTERS, 9)
    sites = t.sites[..., None].astype(float)
    return np.concatenate([flat, t.offset, t.free, sites / 10, np.log(np.maximum(sites, 1))], -1)
