"""The energy of `energy_based`: one learned scalar per crystal and noise level, its gradient, and a score."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Condition, Network, Pack, Params, mean_by_crystal, sum_by_crystal
from crysjax.generators import coordinates
from crysjax.generators.coordinates import LATTICE_CENTER, LATTICE_SCALE, Fields, Scales
from crysjax.generators.torus_langevin import Point

RELIABILITY_TIMES = (0.0, 0.2, 0.4)


class EnergyModel(NamedTuple):
    """The energy itself. Time is 0 at the smallest noise and 1 at the largest."""

    init: Callable[..., Params]  # (key, pack, condition) -> params
    energy: Callable[..., tuple[Array, Array]]  # (params, point, t (b,), pack, condition) -> energy (b,), logits (n, s)
    gradient: Callable[..., tuple[Point, Array, Array]]  # same -> gradient of the summed energy, energy, logits
    score: Callable[..., Array]  # (params, pack, condition) -> (b,): low = like the training data
    sigma: Callable[[Array], Point]  # t (any shape) -> noise in fractions and in standardized lattice coordinates


class Sigmas(NamedTuple):
    """Smallest and largest noise of one field; geometric in between."""

    least: float
    most: float

    def at(self, t: Array) -> Array:
        """The noise at a time of any shape."""
        return self.least * (self.most / self.least) ** t


class Energy(NamedTuple):
    """A network with an energy, and the settings of `energy_model`."""

    network: Network
    hidden: int
    scales: Scales
    guidance: float
    frac: Sigmas
    lattice: Sigmas


def energy_model(
    network: Network,
    *,
    hidden: int = 64,
    lattice_center: tuple[float, ...] = LATTICE_CENTER,
    lattice_scale: tuple[float, ...] = LATTICE_SCALE,
    property_center: tuple[float, ...] = (),
    property_scale: tuple[float, ...] = (),
    guidance: float = 0.0,
    frac_sigma_min: float = 0.01,
    frac_sigma_max: float = 0.35,
    lattice_sigma_min: float = 0.05,
    lattice_sigma_max: float = 1.5,
) -> EnergyModel:
    """The energy of `energy_based`, for those who score crystals or add energies; arguments as there.

    E = sum over sites of e(features) / sigma_frac(t) + |z - z_0|^2 / (2 sigma_lattice(t)^2): a perceptron on the site
    features (the 1 / sigma of Song & Ermon 2020), and the distance of the lattice z from the one that the network
    expects without noise (Salimans & Ho 2021, eq. 6), which has no counterpart on the torus. Gradients are in the
    coordinates of `Point`.

    `score` is the squared norm of sigma ∇E a degree of freedom, fractions and lattice alike, at three noise levels and
    without noise (multiscale score matching; Mahmood et al. 2021). Unlike E it needs no normalization, so that crystals
    of different size and composition compare. It sees positions and cells where the species are given.
    """

    model = Energy(
        network,
        hidden,
        Scales(lattice_center, lattice_scale, property_center, property_scale),
        guidance,
        Sigmas(frac_sigma_min, frac_sigma_max),
        Sigmas(lattice_sigma_min, lattice_sigma_max),
    )
    functions = (partial(f, model) for f in (_init, _energy, _gradient, _score, _sigma))
    return EnergyModel(*functions)


def _sigma(model: Energy, t: Array) -> Point:
    return Point(model.frac.at(t), model.lattice.at(t))


def _init(model: Energy, key: Array, pack: Pack, condition: Condition) -> Params:
    first, second = jax.random.split(key)
    given = model.scales.context(jnp.zeros_like(pack.lattice[:, 0, 0]), condition)
    params = model.network.init(first, pack, given)
    site = jax.eval_shape(model.network.apply, params, pack, given).site
    return {"network": params, "site": _perceptron(second, site, model.hidden)}


def _of_condition(
    model: Energy, params: Params, point: Point, t: Array, pack: Pack, condition: Condition
) -> tuple[Array, Array]:
    """Energy and logits under one condition, without guidance."""
    here = model.scales.assemble(Fields(*point, pack.occupancy), pack, limit=None)
    found, noise = model.network.apply(params["network"], here, model.scales.context(t, condition)), _sigma(model, t)
    of_sites = sum_by_crystal(_apply(params["site"], found.site), pack) / noise.frac
    off = (point.lattice - found.lattice) / noise.lattice[:, None]
    return of_sites + jnp.square(off).sum(-1) / 2, found.species


def _energy(
    model: Energy, params: Params, point: Point, t: Array, pack: Pack, condition: Condition
) -> tuple[Array, Array]:
    given = _of_condition(model, params, point, t, pack, condition)
    if model.guidance == 0:
        return given
    free = _of_condition(model, params, point, t, pack, coordinates.nothing_asked(condition))
    return jax.tree.map(lambda a, b: (1 + model.guidance) * a - model.guidance * b, given, free)


def _gradient(
    model: Energy, params: Params, point: Point, t: Array, pack: Pack, condition: Condition
) -> tuple[Point, Array, Array]:
    def total(point: Point) -> tuple[Array, tuple[Array, Array]]:
        found = _energy(model, params, point, t, pack, condition)
        return found[0].sum(), found

    slope, (value, logits) = jax.grad(total, has_aux=True)(point)
    return slope, value, logits


def _score(model: Energy, params: Params, pack: Pack, condition: Condition) -> Array:
    point = Point(*model.scales.encode(pack)[:2])

    def at(time: Array) -> Array:
        t = jnp.broadcast_to(time, pack.lattice.shape[:1])
        slope, noise = _gradient(model, params, point, t, pack, condition)[0], _sigma(model, t)
        of_frac = of_crystal(scaled(slope.frac, noise.frac[pack.owner]), pack)
        return of_frac + jnp.square(scaled(slope.lattice, noise.lattice)).mean(-1)

    return jax.lax.map(at, jnp.asarray(RELIABILITY_TIMES, pack.frac.dtype)).mean(0)


def scaled(slope: Array, sigma: Array) -> Array:
    """A slope in units of 1 / sigma, one sigma per row: (m, d), (m,) -> (m, d)."""
    return slope * sigma[:, None]


def of_crystal(values: Array, pack: Pack) -> Array:
    """Mean square over the coordinates of a crystal: (n, 3) -> (b,)."""
    return mean_by_crystal(jnp.square(values).mean(-1), pack)


def _perceptron(key: Array, features: jax.ShapeDtypeStruct, hidden: int) -> Params:
    first, last = jax.random.split(key)
    normal = jax.nn.initializers.lecun_normal()
    return {
        "first": normal(first, (features.shape[-1], hidden), features.dtype),
        "bias": jnp.zeros(hidden, features.dtype),
        "last": normal(last, (hidden, 1), features.dtype),
    }


def _apply(params: Params, features: Array) -> Array:
    """One number per row: (m, d) -> (m,)."""
    return (jax.nn.silu(features @ params["first"] + params["bias"][None]) @ params["last"])[:, 0]
