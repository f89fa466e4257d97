"""An energy-based model: one learned scalar per crystal, whose gradient is the score that a sampler follows.

E(crystal, t | condition) is trained by denoising score matching (Vincent 2011) over noise levels (Song & Ermon 2019),
with the score as the gradient of a network's scalar (Salimans & Ho 2021): -∇E meets the score of the noise, the wrapped
normal's on the torus (DiffCSP, Jiao et al. 2023, eq. 9) and the normal's on the standardized lattice. The field is
therefore conservative, energies may be added, and a move can be accepted or rejected by them, none of which a score
network allows. The price is a second differentiation while training.

E says nothing of species: score matching leaves a constant free for every composition. Sites that are not known are
"any element" at first and are revealed as the noise falls, from the species head of the same network (absorbing
diffusion; Austin et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Condition, Generator, Network, Pack, Params, is_known, mean_by_crystal, sum_by_crystal
from crysjax.generators import coordinates, processes
from crysjax.generators.coordinates import LATTICE_CENTER, LATTICE_SCALE, Fields, mean_over_crystals
from crysjax.generators.torus_langevin import Point, State, metropolis, propose
from crysjax.geometry import torus

RELIABILITY_TIMES = (0.0, 0.2, 0.4)


class EnergyModel(NamedTuple):
    """The energy itself. Time is 0 at the smallest noise and 1 at the largest."""

    init: Callable[..., Params]  # (key, pack, condition) -> params
    energy: Callable[..., tuple[Array, Array]]  # (params, point, t (b,), pack, condition) -> energy (b,), logits (n, s)
    gradient: Callable[..., tuple[Point, Array, Array]]  # same -> gradient of the summed energy, energy, logits
    score: Callable[..., Array]  # (params, pack, condition) -> (b,): low = like the training data
    sigma: Callable[[Array], Point]  # t (any shape) -> noise in fractions and in standardized lattice coordinates


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

    def sigma(t: Array) -> Point:
        return Point(
            frac_sigma_min * (frac_sigma_max / frac_sigma_min) ** t,
            lattice_sigma_min * (lattice_sigma_max / lattice_sigma_min) ** t,
        )

    def context(t: Array, condition: Condition) -> Array:
        return coordinates.context(t, condition, property_center, property_scale)

    def init(key: Array, pack: Pack, condition: Condition) -> Params:
        first, second = jax.random.split(key)
        given = context(jnp.zeros_like(pack.lattice[:, 0, 0]), condition)
        params = network.init(first, pack, given)
        site = jax.eval_shape(network.apply, params, pack, given).site
        return {"network": params, "site": _perceptron(second, site, hidden)}

    def one_energy(params, point: Point, t: Array, pack: Pack, condition: Condition) -> tuple[Array, Array]:
        fields = Fields(*point, pack.occupancy)
        here = coordinates.assemble(fields, pack, lattice_center, lattice_scale, limit=None)
        found, noise = network.apply(params["network"], here, context(t, condition)), sigma(t)
        of_sites = sum_by_crystal(_apply(params["site"], found.site), pack) / noise.frac
        off = (point.lattice - found.lattice) / noise.lattice[:, None]
        return of_sites + jnp.square(off).sum(-1) / 2, found.species

    def energy(params, point: Point, t: Array, pack: Pack, condition: Condition) -> tuple[Array, Array]:
        given = one_energy(params, point, t, pack, condition)
        if guidance == 0:
            return given
        free = one_energy(params, point, t, pack, coordinates.nothing_asked(condition))
        return jax.tree.map(lambda a, b: (1 + guidance) * a - guidance * b, given, free)

    def gradient(params, point: Point, t: Array, pack: Pack, condition: Condition) -> tuple[Point, Array, Array]:
        def total(point: Point) -> tuple[Array, tuple[Array, Array]]:
            found = energy(params, point, t, pack, condition)
            return found[0].sum(), found

        slope, (value, logits) = jax.grad(total, has_aux=True)(point)
        return slope, value, logits

    def score(params, pack: Pack, condition: Condition) -> Array:
        point = Point(*coordinates.encode(pack, lattice_center, lattice_scale)[:2])

        def at(time: Array) -> Array:
            t = jnp.broadcast_to(time, pack.lattice.shape[:1])
            slope, noise = gradient(params, point, t, pack, condition)[0], sigma(t)
            of_frac = _of_crystal(_scaled(slope.frac, noise.frac[pack.owner]), pack)
            return of_frac + jnp.square(_scaled(slope.lattice, noise.lattice)).mean(-1)

        return jax.lax.map(at, jnp.asarray(RELIABILITY_TIMES, pack.frac.dtype)).mean(0)

    return EnergyModel(init, energy, gradient, score, sigma)


def energy_based(
    network: Network,
    *,
    steps: int = 100,
    step_size: float = 0.3,
    corrections: int = 20,
    correction_size: float = 0.2,
    denoise: bool = True,
    hidden: int = 64,
    lattice_center: tuple[float, ...] = LATTICE_CENTER,
    lattice_scale: tuple[float, ...] = LATTICE_SCALE,
    property_center: tuple[float, ...] = (),
    property_scale: tuple[float, ...] = (),
    known_fraction: float = 0.5,
    drop_condition: float = 0.15,
    guidance: float = 0.0,
    frac_sigma_min: float = 0.01,
    frac_sigma_max: float = 0.35,
    lattice_sigma_min: float = 0.05,
    lattice_sigma_max: float = 1.5,
    frac_weight: float = 1.0,
    lattice_weight: float = 1.0,
    species_weight: float = 0.2,
) -> Generator:
    """A generator that follows -∇E down the noise levels by Langevin moves (Song & Ermon 2019, Algorithm 1).

    It has no `log_prob`: the energy is not normalized.

    Args:
        network: the backbone; it has to be smooth in positions and lattice, for it is differentiated twice.
        steps: annealed moves, one a noise level, each one energy and gradient.
        step_size: h of a move in units of sigma^2. The law is about h / 2 too wide at every level.
        corrections: Metropolis-adjusted moves at the smallest noise: their law is exp(-E) exactly.
        correction_size: h of these.
        denoise: end with the mean of the clean crystal given the noisy one, x - sigma^2 ∇E (Tweedie;
            Jolicoeur-Martineau et al. 2021), instead of a draw at the smallest noise.
        hidden: width of the perceptron that makes the sites' energies.
        lattice_center, lattice_scale: mean and standard deviation of the six lattice coordinates in the data.
        property_center, property_scale: the same for the conditioning properties; their number is the model's.
        known_fraction: share of training crystals whose species are all given (1: structure prediction alone).
        drop_condition: share of training crystals that lose all conditions together, see `coordinates.drop_condition`.
        guidance: weight w of `(1 + w) E(. | condition) - w E(.)` (Ho & Salimans 2022).
        frac_sigma_min, frac_sigma_max: noise in fractions of the cell; at 0.35 positions are all but uniform.
        lattice_sigma_min, lattice_sigma_max: noise in standard deviations of the lattice.
        frac_weight, lattice_weight, species_weight: of the three errors: squared scores in units of 1 / sigma (1 for no
            knowledge, below that at noise that goes round the torus) and nats (about 4).
    """
    shared = dict(
        hidden=hidden, lattice_center=lattice_center, lattice_scale=lattice_scale, property_center=property_center,
        property_scale=property_scale, frac_sigma_min=frac_sigma_min, frac_sigma_max=frac_sigma_max,
        lattice_sigma_min=lattice_sigma_min, lattice_sigma_max=lattice_sigma_max,
    )  # fmt: skip
    model, guided = (energy_model(network, **shared, guidance=w) for w in (0.0, guidance))
    absorbing = processes.discrete_flow()
    weights = Fields(frac_weight, lattice_weight, species_weight)

    def loss(params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
        keys = jax.random.split(key, 6)
        crystals = pack.lattice.shape[0]
        # stratified over the slots: same expectation, less variance
        t = (
            jax.random.uniform(keys[0], dtype=pack.frac.dtype) + jnp.arange(crystals, dtype=pack.frac.dtype) / crystals
        ) % 1
        all_known = (jax.random.uniform(keys[1], (crystals,)) < known_fraction)[pack.owner]
        condition = coordinates.drop_condition(keys[2], condition, drop_condition)
        clean = coordinates.encode(pack, lattice_center, lattice_scale)
        point, target = _corrupt(keys[3], clean, model.sigma(t), pack)
        hidden_rows, _ = absorbing.corrupt(keys[4], pack.occupancy, t[pack.owner][:, None], pack)
        rows = jnp.where(all_known[:, None], pack.occupancy, hidden_rows)
        slope, _, logits = model.gradient(params, point, t, pack._replace(occupancy=rows), condition)
        noise = model.sigma(t)
        errors = Fields(
            _of_crystal(_scaled(slope.frac, noise.frac[pack.owner]) + target.frac, pack),
            jnp.square(_scaled(slope.lattice, noise.lattice) + target.lattice).mean(-1),
            mean_by_crystal(absorbing.error(logits, pack.occupancy, rows, pack), pack),
        )
        means = Fields(*(mean_over_crystals(e, pack) for e in errors))
        return sum(w * e for w, e in zip(weights, means)), means._asdict()

    def noise(key: Array, template: Pack) -> Fields:
        keys = jax.random.split(key, 3)
        lattice = jax.random.normal(keys[1], (template.lattice.shape[0], 6), template.frac.dtype)
        frac = jax.random.uniform(keys[0], template.frac.shape, template.frac.dtype)
        return Fields(frac, lattice, absorbing.prior(keys[2], template.occupancy, template))

    def decode(params, key: Array, noise: Fields, template: Pack, condition: Condition) -> Pack:
        known, allowed = is_known(template.occupancy)[:, None] > 0, template.occupancy > 0
        ones = jnp.ones_like(template.lattice[:, 0, 0])
        widest = jnp.sqrt(1 + jnp.square(jnp.asarray(lattice_sigma_max, ones.dtype)))  # the data's spread and the noise
        start = Fields(noise.frac, noise.lattice * widest, jnp.where(known, template.occupancy, noise.species))

        def at(t: Array, rows: Array) -> Callable:
            pack = template._replace(occupancy=rows)
            return lambda point: guided.gradient(params, point, t * ones, pack, condition)

        def level(x: Fields, this: tuple[Array, Array]) -> tuple[Fields, None]:
            move, reveal = jax.random.split(this[0])
            slope, _, logits = at(this[1], x.species)(Point(*x[:2]))
            h = Point(*(step_size * jnp.square(s) for s in guided.sigma(this[1])))
            frac, lattice = propose(move, Point(*x[:2]), slope, h)
            dt = jnp.asarray(1 / steps, ones.dtype)
            drawn = absorbing.step(reveal, x.species, jnp.where(allowed, logits, -1e9), this[1], dt, template)
            # a cell that a bad gradient threw out of range would stay there
            return Fields(frac, jnp.clip(lattice, -6.0, 6.0), jnp.where(known, template.occupancy, drawn)), None

        t = jnp.linspace(1.0, 1.0 / steps, steps, dtype=ones.dtype)
        first, last = jax.random.split(key)
        x, _ = jax.lax.scan(jax.checkpoint(level), start, (jax.random.split(first, steps), t))
        point = settle(last, Point(*x[:2]), at(jnp.zeros_like(t[0]), x.species), template)
        rows = coordinates.harden(x.species, template)
        return coordinates.assemble(Fields(*point, rows), template, lattice_center, lattice_scale)

    def settle(key: Array, point: Point, gradient: Callable, template: Pack) -> Point:
        """Adjusted moves at the smallest noise, and the last denoising."""

        def evaluate(point: Point) -> tuple[Array, Point]:
            slope, value, _ = gradient(point)
            return value, slope

        def move(state: State, key: Array) -> tuple[State, None]:
            return metropolis(key, state, evaluate, h, template)[0], None

        variance = Point(*(jnp.square(s) for s in guided.sigma(jnp.zeros_like(point.frac[0, 0]))))
        h = Point(*(correction_size * v for v in variance))
        state, _ = jax.lax.scan(
            jax.checkpoint(move), State(point, *evaluate(point)), jax.random.split(key, corrections)
        )
        if not denoise:
            return state.point
        frac, lattice = (x - v * g for x, v, g in zip(state.point, variance, state.gradient))
        return Point(torus.wrap(frac), lattice)

    def sample(params, key: Array, template: Pack, condition: Condition) -> Pack:
        first, rest = jax.random.split(key)
        return decode(params, rest, noise(first, template), template, condition)

    return Generator(model.init, loss, noise, decode, sample)


def _corrupt(key: Array, clean: Fields, sigma: Point, pack: Pack) -> tuple[Point, Point]:
    """The noisy point, and the score of its noise times sigma."""
    keys = jax.random.split(key)
    wide = jnp.broadcast_to(sigma.frac[pack.owner][:, None], clean.frac.shape)
    shift = wide * jax.random.normal(keys[0], clean.frac.shape, clean.frac.dtype)
    draws = jax.random.normal(keys[1], clean.lattice.shape, clean.lattice.dtype)
    target = Point(wide * torus.wrapped_normal_score(shift, wide), -draws)
    return Point(torus.wrap(clean.frac + shift), clean.lattice + sigma.lattice[:, None] * draws), target


def _scaled(slope: Array, sigma: Array) -> Array:
    return slope * sigma[:, None]


def _of_crystal(values: Array, pack: Pack) -> Array:
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
