"""Retrieval-based flow: known structures that carry the wanted atoms, judged, and carried on to the wanted structure.

A look-up of the nearest template beats learned generators at crystal structure prediction. Here the look-up is the base
distribution of a flow: the coupling of start and truth depends on the data (Albergo et al. 2024, "data-dependent
couplings"), so the paths are short and what is left to learn is what a substitution changes. Of several templates a
judge, one more head of the same network, chooses: it has seen which substitutions keep their structure. It is told what
each site was before, as an ionic substitution model would be (Hautier et al. 2011).
"""

from __future__ import annotations

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
    Prediction,
    mean_by_crystal,
    num_sites,
    numbers,
    one_hot,
    site_mask,
)
from crysjax.generators import coordinates
from crysjax.generators.coordinates import LATTICE_CENTER, LATTICE_SCALE, Fields, Geometry, Numbers, assemble, encode
from crysjax.generators.processes.flows import centered
from crysjax.geometry import torus

BEFORE = 0.25
"""Share of a site's species row that says what the site was in the template; the rest says what it is."""


class Start(NamedTuple):
    """`k` retrieved candidates of every crystal of a pack, in the pack's order of sites; `Condition.view` by name."""

    frac: Array  # (k, n, 3)
    lattice: Array  # (k, b, 3, 3) in Å
    was: Array  # (k, n) int32 atomic number of the template's site
    found: Array  # (k, b) 1, or 0 where there is no such candidate
    matched: Array  # (k, b) 1 where the candidate has the structure of the crystal; read in training alone


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
) -> Generator:
    """A flow from retrieved templates; species are those of the template that a sampler is given.

    Without a view, the flow starts from the positions and the cell of the template itself. With one, every candidate
    is judged and the likeliest is carried on.

    Args:
        network: the backbone; it answers the way to go and, from its crystal features, the judge's logit.
        steps: Euler steps; the paths are nearly straight, so few are needed.
        jitter: standard deviation of noise on the start, in cell lengths: how far samples of one template differ.
        lattice_center, lattice_scale, property_center, property_scale: as for `iterative`.
        drop_condition: share of training crystals that lose all conditions together, see `coordinates.drop_condition`.
        frac_spread, lattice_spread: size of what is to be corrected, in cell lengths and in standard deviations of the
            lattice coordinates: the units of the network's answer and of the two errors.
        judge_weight: of the judge's cross entropy in the loss.
        elements: 100 points, H..Fm, whose mean squared distance between what the sites are and were says how far a
            template is (`retrieval.element_metric` learns them from the training pairs); none: no template is farther.
        nearness: what a candidate loses of its logit for the square root of its distance when the best is chosen.
        keep_shape: leave the shape of the template's cell as it is and learn its volume alone. On MP-20's validation
            part a learned change of shape made cells that were right worse (experiments/generators).
    """
    free = jnp.asarray([[0.0 if keep_shape else 1.0] * 5 + [1.0]])  # of the six lattice coordinates the last is volume

    def at(x: Geometry, was: Array, pack: Pack) -> Pack:
        before = one_hot(was, pack.occupancy.dtype) * site_mask(pack.occupancy)[:, None]
        rows = (1 - BEFORE) * pack.occupancy + BEFORE * before
        return assemble(_fields(x, rows), pack, lattice_center, lattice_scale)

    points = jnp.asarray(np.asarray(elements or np.zeros((NUM_SPECIES, 1)), np.float32))

    def distance(was: Array, pack: Pack) -> Array:
        """How far the template's chemistry is, the root of the mean over sites: (b,)."""
        apart = (one_hot(was, pack.occupancy.dtype) - pack.occupancy) @ points.astype(pack.occupancy.dtype)
        return jnp.sqrt(mean_by_crystal(jnp.sum(jnp.square(apart), -1), pack) + 1e-8)

    def asked(t: Array, far: Array, condition: Condition) -> Array:
        return jnp.concatenate([coordinates.context(t, condition, property_center, property_scale), far[:, None]], -1)

    def predict(params, x: Geometry, t: Array, start: Start, pack: Pack, condition: Condition) -> Prediction:
        given = network.apply(params["network"], at(x, start.was, pack), asked(t, distance(start.was, pack), condition))
        return given._replace(frac=frac_spread * given.frac, lattice=lattice_spread * given.lattice * free)

    def init(key: Array, pack: Pack, condition: Condition):
        first, second = jax.random.split(key)
        crystals = pack.lattice.shape[0]
        noted = asked(jnp.ones(crystals), jnp.zeros(crystals), condition)
        params = network.init(first, pack, noted)
        features = network.apply(params, pack, noted).crystal
        return {"network": params, "judge": _Judge().init(second, features)["params"]}

    def geometry(start: Start, pack: Pack) -> Geometry:
        x = encode(pack._replace(frac=start.frac, lattice=start.lattice), lattice_center, lattice_scale)
        return Geometry(x.frac, x.lattice)

    def loss(params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
        keys = jax.random.split(key, 4)
        start = _candidate(condition.view, 0)
        crystals = pack.lattice.shape[0]
        # the judge sees the start alone, and every sampler passes there: half of the crystals
        at_start = jax.random.uniform(keys[0], (crystals,)) < 0.5
        t = jnp.where(at_start, 1.0, jax.random.uniform(keys[1], (crystals,)))
        clean, begun = encode(pack, lattice_center, lattice_scale), geometry(start, pack)
        begun = begun._replace(frac=begun.frac + jitter * jax.random.normal(keys[2], begun.frac.shape))
        way = Geometry(centered(torus.log(begun.frac - clean.frac), pack), (begun.lattice - clean.lattice) * free)
        # the path runs backwards from the start, which is held: the truth's origin is a matter of taste
        back = 1 - t
        x = Geometry(begun.frac - back[pack.owner][:, None] * way.frac, begun.lattice - back[:, None] * way.lattice)
        condition = coordinates.drop_condition(keys[3], condition, drop_condition)
        found = predict(params, x, t, start, pack, condition)
        error = Geometry(
            _root(mean_by_crystal(jnp.mean(jnp.square((found.frac - way.frac) / frac_spread), -1), pack)),
            _root(jnp.mean(jnp.square((found.lattice - way.lattice) / lattice_spread), -1)),
        )
        right = start.matched
        logit = _Judge().apply({"params": params["judge"]}, found.crystal)
        wrong = jnp.maximum(logit, 0) - logit * right + jnp.log1p(jnp.exp(-jnp.abs(logit)))
        means = {
            "frac": _share(error.frac, right, pack),
            "lattice": _share(error.lattice, right, pack),
            "judge": _share(wrong, at_start.astype(t.dtype), pack),
            "judge_right": _share(((logit > 0) == (right > 0.5)).astype(t.dtype), at_start.astype(t.dtype), pack),
        }
        return means["frac"] + means["lattice"] + judge_weight * means["judge"], means

    def judge(params, start: Start, pack: Pack, condition: Condition) -> Array:
        ones = jnp.ones(pack.lattice.shape[0], pack.frac.dtype)
        features = predict(params, geometry(start, pack), ones, start, pack, condition).crystal
        logit = _Judge().apply({"params": params["judge"]}, features)
        return jnp.where(start.found > 0, logit - nearness * distance(start.was, pack), -jnp.inf)

    def noise(key: Array, template: Pack) -> Array:
        return jax.random.normal(key, template.frac.shape, template.frac.dtype)

    def decode(params, key: Array, noise: Array, template: Pack, condition: Condition) -> Pack:
        start = chosen(params, template, condition)
        x = geometry(start, template)
        x = x._replace(frac=x.frac + jitter * noise)
        ones = jnp.ones(template.lattice.shape[0], template.frac.dtype)

        def step(x: Geometry, t: Array) -> tuple[Geometry, None]:
            go = predict(params, x, t * ones, start, template, condition)
            return Geometry(x.frac - centered(go.frac, template) / steps, x.lattice - go.lattice / steps), None

        times = jnp.linspace(1.0, 1.0 / steps, steps, dtype=template.frac.dtype)
        x, _ = jax.lax.scan(jax.checkpoint(step), x, times)
        x = x._replace(frac=torus.wrap(x.frac))
        return assemble(_fields(x, template.occupancy), template, lattice_center, lattice_scale)

    def chosen(params, template: Pack, condition: Condition) -> Start:
        """The likeliest candidate of each crystal; without any, the template itself."""
        if condition.view == ():
            return itself(template)
        views = Start(**condition.view)
        logits = jax.lax.map(lambda start: judge(params, start, template, condition), views)
        best = jnp.argmax(logits, 0)
        of_site = best[template.owner]
        return Start(
            *(_pick(leaf, of_site if name in ("frac", "was") else best) for name, leaf in views._asdict().items())
        )

    def sample(params, key: Array, template: Pack, condition: Condition) -> Pack:
        return decode(params, key, noise(key, template), template, condition)

    return Generator(init, loss, noise, decode, sample)


def itself(template: Pack) -> Start:
    """The template's own positions and cell as its only candidate."""
    crystals = template.lattice.shape[0]
    zero, one = (jnp.full(crystals, v, template.frac.dtype) for v in (0.0, 1.0))
    return Start(template.frac, template.lattice, numbers(template.occupancy), one, zero)


def _candidate(view: dict, k: int) -> Start:
    return Start(**{name: leaf[k] for name, leaf in view.items()})


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
