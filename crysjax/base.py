"""The types of crysjax and the conventions that every file keeps.

Units: Å, eV, GPa, K. Lattice rows are the vectors a, b, c, so that `cartesian = frac @ lattice`.
Functions are pure; arguments come in the order `(params, key, data, condition)`; keys are explicit and used once.
Lower is better: energies, objectives and losses are minimized.

Two views of the same material:

* `Crystal`: ONE crystal, every leaf float, so that `jax.grad(f)(crystal)` is a `Crystal` again.
* `Pack`: several crystals in one graph of fixed capacity. Networks, losses and samplers take packs, because a
  full pack keeps the matrix products large and wastes nothing on padding. `crysjax.data.batching` packs and unpacks.

A species row (`occupancy`) reads: one-hot = this element; several non-zero entries = partial occupancy, or, in a
template handed to a sampler, "one of these elements"; `UNKNOWN` (all equal) = any element; all zero = an empty slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

NUM_SPECIES = 100
"""Width of the species axis: column `z - 1` is atomic number `z`, from H (1) to Fm (100)."""

UNKNOWN = 1.0 / NUM_SPECIES
"""Every entry of the species row of a site that may be any element."""

GPA_PER_EV_A3 = 160.21766208
"""1 eV/Å³ in GPa."""

Params = Any
PyTree = Any


class Crystal(NamedTuple):
    """One crystal; slots whose occupancy row is zero are empty."""

    occupancy: Array  # (n, s) site occupancy
    frac: Array  # (n, 3) fractional coordinates
    lattice: Array  # (3, 3) rows a, b, c in Å


class Pack(NamedTuple):
    """Up to `b` crystals with at most `n` sites and `p` pairs in all, concatenated.

    Padding sites have a zero occupancy row (and belong to the last slot); padding pairs have `pair_mask` 0; an
    unused crystal slot has no sites and the unit lattice.
    """

    occupancy: Array  # (n, s)
    frac: Array  # (n, 3)
    lattice: Array  # (b, 3, 3) in Å
    owner: Array  # (n,) int32: the crystal a site belongs to
    pairs: Array  # (p, 2) int32: every i < j within one crystal
    pair_mask: Array  # (p,) 1 for a real pair, 0 for padding


class Condition(NamedTuple):
    """What a pack of crystals is asked to be, beyond the species rows of the template itself."""

    properties: Array  # (b, k) in the generator's own order of names; NaN = not given
    space_group: Array  # (b,) int32, 1..230; 0 = not given
    view: PyTree = ()  # the same crystals described once more, where a family works on it: made on the host (`data/`)


class Estimate(NamedTuple):
    """What every oracle answers. `valid=False` (with a NaN-free value) stands where others raise or return NaN."""

    value: Array
    std: Array
    valid: Array


class Oracle(NamedTuple):
    """A property with its price. `batch` maps a stacked `Crystal` (leading axis m, common slot count) to estimates."""

    name: str
    unit: str
    cost: float  # seconds per crystal, order of magnitude; what a budget is counted in
    batch: Callable[[Crystal], Estimate]


class Network(NamedTuple):
    """A backbone. `context` (b, c) holds everything known per crystal: time, properties, space group."""

    init: Callable[[Array, Pack, Array], Params]  # (key, pack, context) -> params
    apply: Callable[[Params, Pack, Array], Prediction]  # (params, pack, context) -> Prediction


class Prediction(NamedTuple):
    """What a backbone says of a pack. `frac` and `lattice` do not change under rotation (see `geometry.lattice`)."""

    frac: Array  # (n, 3) one fractional displacement per site
    lattice: Array  # (b, 6) a change of the six rotation-free lattice coordinates
    species: Array  # (n, s) logits
    site: Array  # (n, d) invariant features
    crystal: Array  # (b, d) invariant features, mean over sites


class Generator(NamedTuple):
    """A distribution over crystals.

    `sample` is `decode` of a drawn `noise`: search strategies work on the noise, everyone else calls `sample`.
    A template is a `Pack` that says what is known: its occupancy rows restrict the species, its owner and pairs give
    the sizes. `log_prob` scores exactly what `sample` drew, or it is `None`.
    """

    init: Callable[..., Params]  # (key, pack, condition) -> params
    loss: Callable[..., tuple[Array, dict]]  # (params, key, pack, condition) -> (scalar, metrics)
    noise: Callable[..., PyTree]  # (key, template) -> noise
    decode: Callable[..., Pack]  # (params, key, noise, template, condition) -> pack
    sample: Callable[..., Pack]  # (params, key, template, condition) -> pack
    log_prob: Callable[..., Array] | None = None  # (params, pack, condition) -> (b,)


class Process(NamedTuple):
    """How one field is noised and denoised; diffusion, flow matching and discrete diffusion differ only here.

    Time runs from 0 (data) to 1 (noise), one time per site or per crystal, shaped to broadcast against the field.
    """

    prior: Callable[..., Array]  # (key, like, pack) -> noise at t = 1
    corrupt: Callable[..., tuple[Array, Array]]  # (key, x0, t, pack) -> (x_t, target)
    step: Callable[..., Array]  # (key, x_t, prediction, t, dt, pack) -> x_{t - dt}
    error: Callable[..., Array]  # (prediction, target, x_t, pack) -> an error per site or per crystal
    head: str  # the field of `Prediction` that it reads
    dynamics: Dynamics | None = None  # `None`: `step` is all there is (discrete fields)
    answers: int = 1  # how many predictions it needs of its head, one after another along the last axis


class Dynamics(NamedTuple):
    """A continuous process as a differential equation, for samplers that do more than `Process.step`.

    Shapes and times are those of `Process`. The score of the law at t is `-noise / spread`.
    """

    clock: Callable[..., Array]  # (t) -> c, rising with t: the time in which the velocity is smooth
    velocity: Callable[..., Array]  # (x_t, prediction, t, pack) -> dx/dc of the probability-flow ODE
    noise: Callable[..., Array] | None = None  # (x_t, prediction, t, pack) -> E[z | x_t]; `None`: no score is known
    spread: Callable[..., Array] | None = None  # (t) -> the standard deviation of the noise z in x_t


class Search(NamedTuple):
    """An optimizer or sampler over a pytree of floats; `search.run` is the one loop. Lower values are better."""

    init: Callable[..., PyTree]  # (key, x) -> state
    ask: Callable[..., PyTree]  # (key, state) -> x
    tell: Callable[..., PyTree]  # (state, x, value, grad or None) -> state
    needs_grad: bool


class Surrogate(NamedTuple):
    """A regression with uncertainty."""

    fit: Callable[..., PyTree]  # (key, x, y) -> posterior
    predict: Callable[..., Estimate]  # (posterior, x) -> Estimate


def site_mask(occupancy: Array) -> Array:
    """1 where a slot holds an atom (known or not), 0 where it is empty: (..., n, s) -> (..., n)."""
    return (jax.lax.stop_gradient(occupancy).sum(-1) > 0).astype(occupancy.dtype)


def one_hot(numbers: Array, dtype=jnp.float32) -> Array:
    """Occupancy rows of atomic numbers; 0 gives an empty slot: (...,) int -> (..., NUM_SPECIES)."""
    return jax.nn.one_hot(numbers - 1, NUM_SPECIES, dtype=dtype)


def numbers(occupancy: Array) -> Array:
    """The likeliest atomic number of each slot, 0 for an empty one: (..., s) -> (...,) int32."""
    return jnp.where(occupancy.sum(-1) > 0, occupancy.argmax(-1) + 1, 0).astype(jnp.int32)


def sum_by_crystal(values: Array, pack: Pack) -> Array:
    """Sum of a site quantity over each crystal, padding left out: (n, ...) -> (b, ...)."""
    mask = site_mask(pack.occupancy).reshape((-1,) + (1,) * (values.ndim - 1))
    return jax.ops.segment_sum(values * mask.astype(values.dtype), pack.owner, pack.lattice.shape[0])


def num_sites(pack: Pack) -> Array:
    """Number of sites of each crystal: (b,) float; 0 for an unused slot."""
    return sum_by_crystal(jnp.ones_like(pack.frac[:, 0]), pack)


def mean_by_crystal(values: Array, pack: Pack) -> Array:
    """Mean of a site quantity over each crystal; 0 for an unused slot: (n, ...) -> (b, ...)."""
    count = jnp.maximum(num_sites(pack), 1).reshape((-1,) + (1,) * (values.ndim - 1))
    return sum_by_crystal(values, pack) / count.astype(values.dtype)


def is_known(occupancy: Array) -> Array:
    """1 where a species row names exactly one element, else 0 (unknown, restricted or empty): (..., s) -> (...)."""
    rows = jax.lax.stop_gradient(occupancy)
    return ((rows.max(-1) > 0.999 * rows.sum(-1)) & (rows.sum(-1) > 0)).astype(occupancy.dtype)
