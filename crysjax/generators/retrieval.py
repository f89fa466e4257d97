"""Retrieval-based flow: known structures that carry the wanted atoms, judged, and carried on to the wanted structure.

A look-up of the nearest template beats learned generators at crystal structure prediction. Here the look-up is the base
distribution of a flow: the coupling of start and truth depends on the data (Albergo et al. 2024, "data-dependent
couplings"), so the paths are short and what is left to learn is what a substitution changes. Of several templates a
judge, one more head of the same network, chooses: it has seen which substitutions keep their structure. It is told what
each site was before, as an ionic substitution model would be (Hautier et al. 2011).

Where the species are free, they are drawn too: elements of the template are exchanged (`exchange`) in several ways, and
the judge picks. So the same model makes new crystals.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from crysjax.base import (
    NUM_SPECIES,
    Condition,
    Generator,
    Network,
    Pack,
    Params,
    Prediction,
    Start,
    is_known,
    mean_by_crystal,
    num_sites,
    numbers,
    one_hot,
    site_mask,
    sum_by_crystal,
)
from crysjax.generators import coordinates, exchange
from crysjax.generators.coordinates import LATTICE_CENTER, LATTICE_SCALE, Fields, Geometry, Numbers, Scales
from crysjax.generators.processes.flows import centered
from crysjax.geometry import torus

BEFORE = 0.25
"""Share of a site's species row that says what the site was in the template; the rest says what it is."""


class Retriever(NamedTuple):
    """A network that judges and carries on what was retrieved, and the settings of `retrieval`."""

    network: Network
    scales: Scales
    steps: int
    jitter: float
    drop_condition: float
    spread: Geometry  # the units of the network's answer
    judge_weight: float
    nearness: float
    points: Array  # (s, d) elements as points
    free: Array  # (1, 6) 1 for the lattice coordinates that are learned
    exchange: exchange.Exchange  # how species are drawn where they are free


def retrieval(
    network: Network,
    *,
    steps: int = 4,
    jitter: float = 0.0,
    lattice_center: Numbers = LATTICE_CENTER,
    lattice_scale: Numbers = LATTICE_SCALE,
    property_center: Numbers = (),
    property_scale: Numbers = (),
    drop_condition: float = 0.15,
    frac_spread: float = 0.02,
    lattice_spread: float = 0.2,
    judge_weight: float = 1.0,
    elements: tuple[Numbers, ...] = (),
    nearness: float = 4.0,
    keep_shape: bool = True,
    proposals: int = 8,
    sharpness: float = 4.0,
    stay: float = 0.0,
) -> Generator:
    """A flow from retrieved templates; species are those of the template that a sampler is given.

    Without `Condition.start` the flow starts from the positions and the cell of the template itself. With it, every
    candidate is judged and the likeliest is carried on. Crystals with a site whose species is free become the first
    candidate with its elements exchanged: its positions and the shape of its cell are kept, and so is its symmetry.

    Args:
        network: the backbone; it answers the way to go and, from its crystal features, the judge's logit.
        steps: number of Euler steps; the paths are nearly straight, so few are needed.
        jitter: standard deviation of noise on the start, in cell lengths: how far samples of one template differ.
        lattice_center, lattice_scale, property_center, property_scale: as in `iterative`.
        drop_condition: as in `iterative`.
        frac_spread: typical displacement of an atom from its place in the template, in fractions of the cell: the unit
            of the network's prediction and of its error in the loss.
        lattice_spread: typical change of the lattice from the template's, in standard deviations of its coordinates:
            the unit of the network's prediction and of its error in the loss.
        judge_weight: weight of the cross entropy of choosing a template in the loss, in nats.
        elements: one point per element, H to Fm; the distance of a template is the mean squared distance between the
            points of its elements and of those asked for (`retrieval.element_metric` learns them from the training
            pairs). Empty: all templates are equally far.
        nearness: how strongly close templates are preferred: their logit loses this times the square root of the
            distance.
        keep_shape: leave the shape of the template's cell as it is and learn its volume alone. On MP-20's validation
            part a learned change of shape made cells that were right worse (experiments/generators).
        proposals: exchanges of elements that are drawn for a crystal with free species; the judge picks one of them.
        sharpness: how strongly an element is exchanged for a near one: its log-probability is minus this times the
            distance of the two points.
        stay: what is added to the log-probability that an element stays.
    """
    points = jnp.asarray(np.asarray(elements or np.zeros((NUM_SPECIES, 1)), np.float32))
    model = Retriever(
        network=network,
        scales=Scales(lattice_center, lattice_scale, property_center, property_scale),
        steps=steps,
        jitter=jitter,
        drop_condition=drop_condition,
        spread=Geometry(frac_spread, lattice_spread),
        judge_weight=judge_weight,
        nearness=nearness,
        points=points,
        free=jnp.asarray([[0.0 if keep_shape else 1.0] * 5 + [1.0]]),  # the last lattice coordinate is the volume
        exchange=exchange.Exchange(proposals, sharpness, stay),
    )

    def sample(params: Params, key: Array, template: Pack, condition: Condition) -> Pack:
        return _decode(model, params, key, _noise(key, template), template, condition)

    return Generator(partial(_init, model), partial(_loss, model), _noise, partial(_decode, model), sample)


def _at(scales: Scales, x: Geometry, was: Array, pack: Pack) -> Pack:
    """The pack on its way; every species row says, too, what the site was."""
    before = one_hot(was, pack.occupancy.dtype) * site_mask(pack.occupancy)[:, None]
    rows = (1 - BEFORE) * pack.occupancy + BEFORE * before
    return scales.assemble(_fields(x, rows), pack)


def _distance(points: Array, was: Array, pack: Pack) -> Array:
    """How far the template's chemistry is, the root of the mean over sites: (b,)."""
    apart = (one_hot(was, pack.occupancy.dtype) - pack.occupancy) @ points.astype(pack.occupancy.dtype)
    return jnp.sqrt(mean_by_crystal(jnp.sum(jnp.square(apart), -1), pack) + 1e-8)


def _context(scales: Scales, t: Array, far: Array, condition: Condition) -> Array:
    return jnp.concatenate([scales.context(t, condition), far[:, None]], -1)


def _predict(
    model: Retriever, params: Params, x: Geometry, t: Array, start: Start, pack: Pack, condition: Condition
) -> Prediction:
    here, far = _at(model.scales, x, start.was, pack), _distance(model.points, start.was, pack)
    given = model.network.apply(params["network"], here, _context(model.scales, t, far, condition))
    spread = model.spread
    return given._replace(frac=spread.frac * given.frac, lattice=spread.lattice * given.lattice * model.free)


def _init(model: Retriever, key: Array, pack: Pack, condition: Condition) -> Params:
    first, second = jax.random.split(key)
    crystals = pack.lattice.shape[0]
    noted = _context(model.scales, jnp.ones(crystals), jnp.zeros(crystals), condition)
    params = model.network.init(first, pack, noted)
    features = model.network.apply(params, pack, noted).crystal
    return {"network": params, "judge": _Judge().init(second, features)["params"]}


def _geometry(scales: Scales, start: Start, pack: Pack) -> Geometry:
    x = scales.encode(pack._replace(frac=start.frac, lattice=start.lattice))
    return Geometry(x.frac, x.lattice)


def _loss(model: Retriever, params: Params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
    keys = jax.random.split(key, 4)
    if condition.start is None:
        raise ValueError("condition.start: missing; expected the candidates of every crystal (retrieval.start_view)")
    start = jax.tree.map(lambda leaf: leaf[0], condition.start)
    crystals = pack.lattice.shape[0]
    # the judge sees the start alone, and every sampler passes there: half of the crystals
    at_start = jax.random.uniform(keys[0], (crystals,)) < 0.5
    t = jnp.where(at_start, 1.0, jax.random.uniform(keys[1], (crystals,)))
    clean, begun = model.scales.encode(pack), _geometry(model.scales, start, pack)
    begun = begun._replace(frac=begun.frac + model.jitter * jax.random.normal(keys[2], begun.frac.shape))
    way = Geometry(centered(torus.log(begun.frac - clean.frac), pack), (begun.lattice - clean.lattice) * model.free)
    # the path runs backwards from the start, which is held: the truth's origin is a matter of taste
    back = 1 - t
    x = Geometry(begun.frac - back[pack.owner][:, None] * way.frac, begun.lattice - back[:, None] * way.lattice)
    condition = coordinates.drop_condition(keys[3], condition, model.drop_condition)
    found = _predict(model, params, x, t, start, pack, condition)
    error = Geometry(
        _root(mean_by_crystal(jnp.mean(jnp.square((found.frac - way.frac) / model.spread.frac), -1), pack)),
        _root(jnp.mean(jnp.square((found.lattice - way.lattice) / model.spread.lattice), -1)),
    )
    logit = _Judge().apply({"params": params["judge"]}, found.crystal)
    means = _means(error, logit, start.matched, at_start.astype(t.dtype), pack)
    return means["frac"] + means["lattice"] + model.judge_weight * means["judge"], means


def _means(error: Geometry, logit: Array, right: Array, judged: Array, pack: Pack) -> dict[str, Array]:
    """Over the crystals: errors of the way where the candidate is right, the judge's nats where it is asked."""
    wrong = jnp.maximum(logit, 0) - logit * right + jnp.log1p(jnp.exp(-jnp.abs(logit)))
    return {
        "frac": _share(error.frac, right, pack),
        "lattice": _share(error.lattice, right, pack),
        "judge": _share(wrong, judged, pack),
        "judge_right": _share(((logit > 0) == (right > 0.5)).astype(judged.dtype), judged, pack),
    }


def _judge(model: Retriever, params: Params, start: Start, pack: Pack, condition: Condition) -> Array:
    """The logit of a candidate, less what its distance costs: (b,)."""
    ones = jnp.ones(pack.lattice.shape[0], pack.frac.dtype)
    features = _predict(model, params, _geometry(model.scales, start, pack), ones, start, pack, condition).crystal
    logit = _Judge().apply({"params": params["judge"]}, features)
    far = model.nearness * _distance(model.points, start.was, pack)
    return jnp.where(start.found > 0, logit - far, -jnp.inf)


def _noise(key: Array, template: Pack) -> Array:
    return jax.random.normal(key, template.frac.shape, template.frac.dtype)


def _decode(model: Retriever, params: Params, key: Array, noise: Array, template: Pack, condition: Condition) -> Pack:
    drawn = sum_by_crystal(1 - is_known(template.occupancy), template) > 0
    if condition.start is not None:
        judge = partial(_judge, model, params, condition=condition)
        way = model.exchange, model.points
        template, start = exchange.with_species(judge, *way, key, drawn, template, condition.start)
        condition = condition._replace(start=start)
    start = _chosen(model, params, template, condition)
    x = _geometry(model.scales, start, template)
    # an exchange keeps the symmetry of its template, which moves of single atoms would break
    moves = jnp.where(drawn, 0, 1).astype(x.frac.dtype)[template.owner][:, None]
    x = x._replace(frac=x.frac + model.jitter * noise * moves)
    ones = jnp.ones(template.lattice.shape[0], template.frac.dtype)

    def step(x: Geometry, t: Array) -> tuple[Geometry, None]:
        go = _predict(model, params, x, t * ones, start, template, condition)
        frac = x.frac - moves * centered(go.frac, template) / model.steps
        return Geometry(frac, x.lattice - go.lattice / model.steps), None

    times = jnp.linspace(1.0, 1.0 / model.steps, model.steps, dtype=template.frac.dtype)
    x, _ = jax.lax.scan(jax.checkpoint(step), x, times)
    x = x._replace(frac=torus.wrap(x.frac))
    return model.scales.assemble(_fields(x, template.occupancy), template)


def _chosen(model: Retriever, params: Params, template: Pack, condition: Condition) -> Start:
    """The likeliest candidate of each crystal; without any, the template itself."""
    if condition.start is None:
        return itself(template)
    logits = jax.lax.map(lambda start: _judge(model, params, start, template, condition), condition.start)
    best = jnp.argmax(logits, 0)
    of_site = best[template.owner]
    which = Start(frac=of_site, lattice=best, was=of_site, found=best, matched=best)
    return jax.tree.map(_pick, condition.start, which)


def itself(template: Pack) -> Start:
    """The template's own positions and cell as its only candidate."""
    crystals = template.lattice.shape[0]
    zero, one = (jnp.full(crystals, v, template.frac.dtype) for v in (0.0, 1.0))
    return Start(template.frac, template.lattice, numbers(template.occupancy), one, zero)


def _pick(leaf: Array, best: Array) -> Array:
    """leaf[best[i], i] for every site or crystal i."""
    return jnp.take_along_axis(leaf, best.reshape((1, -1) + (1,) * (leaf.ndim - 2)), 0)[0]


def _fields(x: Geometry, rows: Array) -> Fields:
    return Fields(x.frac, x.lattice, rows)


def _share(values: Array, weight: Array, pack: Pack) -> Array:
    """The mean of one number per crystal, weighted, over the slots that hold one."""
    real = jnp.where(num_sites(pack) > 0, weight, 0)
    return jnp.sum(values * real) / jnp.maximum(real.sum(), 1)


def _root(squared: Array) -> Array:
    """The root mean square error of a crystal, which matchers report; smooth at 0."""
    return jnp.sqrt(squared + 0.01)


class _Judge(nn.Module):
    """The logit that a candidate has the structure of what is asked for: (b, d) -> (b,)."""

    @nn.compact
    def __call__(self, features: Array) -> Array:
        hidden = nn.silu(nn.Dense(128, param_dtype=features.dtype)(nn.LayerNorm(param_dtype=features.dtype)(features)))
        return nn.Dense(1, param_dtype=features.dtype)(hidden)[:, 0]
