"""A normalizing flow over crystals: every likelihood is exact, every sample one pass.

    p(crystal | sizes, condition) = p(species) p(lattice | species) p(positions | lattice, species)

species by `composition`, lattice and positions by coupling layers (`coupling`) from a standard normal and the uniform
distribution on the torus (Dinh et al. 2017; Durkan et al. 2019; Rezende et al. 2020).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Condition, Generator, Network, Pack, Params, num_sites, site_mask
from crysjax.generators import coordinates
from crysjax.generators.composition import Composition, composition
from crysjax.generators.coordinates import Fields, Geometry, Scales
from crysjax.generators.coupling import Bijection, lattice_couplings, position_couplings
from crysjax.geometry import torus


class CouplingFlow(NamedTuple):
    """The three factors of the law, in the names of their parameters, and the settings of `coupling_flow`."""

    positions: Bijection
    lattice: Bijection
    species: Composition
    scales: Scales
    drop_condition: float
    blur: Geometry
    species_weight: float


def coupling_flow(
    network: Network,
    *,
    rounds: int = 5,
    bins: int = 12,
    width: int = 128,
    lattice_layers: int = 6,
    lattice_bins: int = 12,
    lattice_center: tuple[float, ...] = coordinates.LATTICE_CENTER,
    lattice_scale: tuple[float, ...] = coordinates.LATTICE_SCALE,
    property_center: tuple[float, ...] = (),
    property_scale: tuple[float, ...] = (),
    drop_condition: float = 0.15,
    position_blur: float = 0.005,
    lattice_blur: float = 0.02,
    species_weight: float = 1.0,
) -> Generator:
    """The coupling flow.

    `log_prob(params, pack, condition, template=None)` is the log-density in nats of a crystal with respect to: the
    Lebesgue measure of its fractional coordinates in [0, 1)^3n (origin included: a translated crystal is another
    point) times that of its six standardized lattice coordinates, times the counting measure of the species of those
    sites that `template` leaves free. Without a template all species count as given. Unused slots score 0.

    Args:
        network: the backbone; each of the 3 `rounds` coupling layers has one of its own, so keep it small.
        rounds: passes over the three axes (`coupling.GROUPS`): 3 tell two elements apart, 5 four, 7 eight.
        bins: bins of the circular splines of the positions; each is at least 0.001 of the cell wide.
        width: hidden features of the read-outs and of the composition's network.
        lattice_layers: coupling layers of the six lattice coordinates.
        lattice_bins: bins of their splines.
        lattice_center, lattice_scale, property_center, property_scale: as in `iterative`.
        drop_condition: as in `iterative`.
        position_blur: standard deviation of the noise on training positions, in fractions of the cell. Atoms on special
            positions have no density: the model learns the blurred distribution, and samples it.
        lattice_blur: standard deviation of the noise on training lattices, in standard deviations of their coordinates.
        species_weight: weight of the species' nats in the loss; 1 is maximum likelihood, 0 leaves them untrained.
    """
    flow = CouplingFlow(
        positions=position_couplings(network, rounds=rounds, bins=bins, width=width),
        lattice=lattice_couplings(layers=lattice_layers, bins=lattice_bins, width=width),
        species=composition(width=width),
        scales=Scales(lattice_center, lattice_scale, property_center, property_scale),
        drop_condition=drop_condition,
        blur=Geometry(position_blur, lattice_blur),
        species_weight=species_weight,
    )
    decode = partial(_decode, flow)
    sample, log_prob = coordinates.sampled(_noise, decode), partial(_log_prob, flow)
    return Generator(partial(_init, flow), partial(_loss, flow), _noise, decode, sample, log_prob)


def _init(flow: CouplingFlow, key: Array, pack: Pack, condition: Condition) -> Params:
    keys, known = jax.random.split(key, 3), flow.scales.given(condition, pack.frac.dtype)
    return {
        "positions": flow.positions.init(keys[0], pack.frac, pack, known),
        "lattice": flow.lattice.init(keys[1], jnp.zeros((len(pack.lattice), 6), pack.frac.dtype), pack, known),
        "species": flow.species.init(keys[2], known),
    }


def _density(flow: CouplingFlow, params: Params, x: Fields, pack: Pack, known: Array) -> Geometry:
    """log p of the positions and of the lattice, (b,) each."""
    pack = flow.scales.assemble(x, pack, limit=None)
    real = num_sites(pack) > 0
    _, stretch = flow.positions.forward(params["positions"], x.frac, pack, known)
    z, lattice_stretch = flow.lattice.forward(params["lattice"], x.lattice, pack, known)
    normal = jax.scipy.stats.norm.logpdf(z).sum(-1)
    return Geometry(jnp.where(real, stretch, 0), jnp.where(real, normal + lattice_stretch, 0))


def _log_prob(
    flow: CouplingFlow, params: Params, pack: Pack, condition: Condition, template: Pack | None = None
) -> Array:
    known = flow.scales.given(condition, pack.frac.dtype)
    parts = _density(flow, params, flow.scales.encode(pack), pack, known)
    if template is None:
        return parts.frac + parts.lattice
    return parts.frac + parts.lattice + flow.species.log_prob(params["species"], pack.occupancy, template, known)


def _loss(flow: CouplingFlow, params: Params, key: Array, pack: Pack, condition: Condition) -> tuple[Array, dict]:
    keys = jax.random.split(key, 4)
    asked = coordinates.drop_condition(keys[0], condition, flow.drop_condition)
    known, x = flow.scales.given(asked, pack.frac.dtype), flow.scales.encode(pack)
    frac = x.frac + flow.blur.frac * jax.random.normal(keys[1], x.frac.shape, x.frac.dtype)
    lattice = x.lattice + flow.blur.lattice * jax.random.normal(keys[2], x.lattice.shape, x.lattice.dtype)
    parts = _density(flow, params, x._replace(frac=torus.wrap(frac), lattice=lattice), pack, known)
    template = coordinates.hide_species(keys[3], pack)
    of_species = flow.species.log_prob(params["species"], pack.occupancy, template, known)
    sites = jnp.maximum(num_sites(pack), 1)
    nats = Fields(*(-coordinates.mean_over_crystals(v / sites, pack) for v in (*parts, of_species)))
    return nats.frac + nats.lattice + flow.species_weight * nats.species, nats._asdict()


def _noise(key: Array, template: Pack) -> Geometry:
    first, second = jax.random.split(key)
    dtype = template.frac.dtype
    flat = jax.random.uniform(first, template.frac.shape, dtype)
    return Geometry(flat, jax.random.normal(second, (len(template.lattice), 6), dtype))


def _decode(
    flow: CouplingFlow, params: Params, key: Array, noise: Geometry, template: Pack, condition: Condition
) -> Pack:
    known = flow.scales.given(condition, template.frac.dtype)
    pack = template._replace(occupancy=flow.species.draw(params["species"], key, template, known))
    lattice, _ = flow.lattice.inverse(params["lattice"], noise.lattice, pack, known)
    pack = flow.scales.assemble(Fields(pack.frac, lattice, pack.occupancy), pack, limit=None)
    frac, _ = flow.positions.inverse(params["positions"], noise.frac, pack, known)
    return pack._replace(frac=torus.wrap(frac) * site_mask(pack.occupancy)[:, None])
