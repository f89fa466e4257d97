"""What every generator family keeps to, whatever it is made of: one line of `FAMILIES` a family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import (
    UNKNOWN,
    Condition,
    Generator,
    Orbits,
    Pack,
    Start,
    Views,
    is_known,
    num_sites,
    numbers,
    one_hot,
    site_mask,
)
from crysjax.data import batching
from crysjax.generators import processes
from crysjax.generators.continuous_flow import continuous_flow
from crysjax.generators.energy_based import energy_based
from crysjax.generators.gan import gan
from crysjax.generators.iterative import iterative
from crysjax.generators.latent_diffusion import latent_diffusion
from crysjax.generators.normalizing_flow import coupling_flow
from crysjax.generators.retrieval import retrieval
from crysjax.generators.text.family import text
from crysjax.generators.vae import vae
from crysjax.generators.vq_vae import vq_vae
from crysjax.generators.wyckoff.family import wyckoff
from crysjax.geometry import lattice as lattices
from crysjax.geometry import torus
from crysjax.models import checkpoint, families
from crysjax.nets.dense import dense

NETWORK = dense(width=16, layers=1, frequencies=4, geometry=4)
SMOOTH = dense(width=16, layers=1, frequencies=4, geometry=0)  # nothing jumps where a neighbor's image changes
FLOW = dict(frac=processes.torus_flow(), lattice=processes.euclidean_flow(), species=processes.simplex_flow())
DIFFUSION = dict(
    frac=processes.torus_diffusion(), lattice=processes.euclidean_diffusion(), species=processes.discrete_flow()
)
EDM = dict(frac=processes.torus_edm(), lattice=processes.euclidean_edm(), species=processes.discrete_flow())
COUPLED = FLOW | dict(frac=processes.torus_flow(coupling="permutation"))
INTERPOLANT = dict(
    frac=processes.torus_interpolant(), lattice=processes.euclidean_interpolant(), species=processes.simplex_flow()
)
WYCKOFF = wyckoff(width=16, layers=1, heads=2, components=2, max_sites=8, max_kinds=3, max_states=128)
NOTHING = Views()
SHAPE = batching.Capacity(sites=12, pairs=24, crystals=4)
WIDE = batching.Capacity(sites=17, pairs=31, crystals=6)
SIZES = np.array([3, 1, 4])
REAL = int(SIZES.sum())
# compiling is most of the time here
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})


class Row(NamedTuple):
    """A family at a small size, and what it cannot do by its nature."""

    generator: Generator
    view: Callable[[Pack], Views] = lambda pack: Views()  # what it trains on beside the pack
    given: Callable[[Pack], Views] = lambda pack: Views()  # what it samples from beside the pack
    free_species: bool = True  # draws the species of unknown sites
    log_prob_of_sample: bool = True  # scores a pack; else what the view says of it
    stratified: bool = False  # the loss spreads its times evenly over the crystal slots: empty ones take some


def starts(pack: Pack) -> Views:
    """Two candidates per crystal, the truth itself shifted."""
    crystals = pack.lattice.shape[0]
    some = jnp.stack([jnp.ones(crystals), jnp.zeros(crystals)])
    start = Start(
        frac=jnp.stack([pack.frac + 0.01, pack.frac + 0.2]),
        lattice=jnp.stack([1.02 * pack.lattice, pack.lattice]),
        was=jnp.full((2, len(pack.frac)), 8),
        found=jnp.ones((2, crystals)),
        matched=some,
    )
    return Views(start=start)


def known_structures(pack: Pack) -> Views:
    """One template per crystal, of other elements: NaCl and O, Ge, SrTiO2."""
    rng, n, crystals = np.random.default_rng(4), len(pack.frac), len(pack.lattice)
    frac, was = np.zeros((1, n, 3), np.float32), np.zeros((1, n), np.int32)
    frac[0, :REAL], was[0, :REAL] = rng.random((REAL, 3)), [11, 17, 8, 32, 38, 22, 8, 8]
    ones = jnp.ones((1, crystals))
    return Views(start=Start(jnp.asarray(frac), 1.1 * pack.lattice[None], jnp.asarray(was), ones, 0 * ones))


def orbits(pack: Pack) -> Views:
    """Every site an orbit of its own, in P1."""
    first, crystals = np.concatenate([[0], np.cumsum(SIZES)]), len(pack.lattice)
    number, u = np.zeros((crystals, 8), np.int32), np.zeros((crystals, 8, 3), np.float32)
    for k, n in enumerate(SIZES):
        sites = slice(first[k], first[k] + n)
        number[k, :n], u[k, :n] = numbers(pack.occupancy)[sites], pack.frac[sites]
    lengths, angles = lattices.to_parameters(pack.lattice)
    group = jnp.asarray(np.arange(crystals) < len(SIZES), jnp.int32)
    cell = jnp.concatenate([lengths, angles], -1)
    found = Orbits(group, jnp.zeros((crystals, 8), jnp.int32), jnp.asarray(number), jnp.asarray(u), cell)
    return Views(orbits=found)


FAMILIES = {
    "iterative, flow of coupled noise": Row(iterative(NETWORK, **COUPLED, steps=4), stratified=True),  # plain: in `vae`
    "iterative, diffusion": Row(
        iterative(NETWORK, **DIFFUSION, steps=4, sampler="predictor_corrector"), stratified=True
    ),
    "iterative, edm": Row(iterative(NETWORK, **EDM, steps=4, sampler="heun"), stratified=True),
    "iterative, interpolant": Row(iterative(NETWORK, **INTERPOLANT, steps=4, sampler="sde"), stratified=True),
    "coupling_flow": Row(coupling_flow(NETWORK, rounds=2, bins=4, width=16, lattice_layers=2, lattice_bins=4)),
    "continuous_flow": Row(
        continuous_flow(SMOOTH, steps=2, solver="heun", probes=1, width=16, max_sites=4), stratified=True
    ),
    "vae": Row(vae(NETWORK, **FLOW, steps=3, latent=3), stratified=True),
    "vq_vae": Row(vq_vae(NETWORK, **FLOW, steps=3), stratified=True),
    "latent_diffusion": Row(
        latent_diffusion(width=16, layers=1, heads=2, autoencoder_layers=1, latent=4, steps=3), stratified=True
    ),
    "wyckoff": Row(WYCKOFF, orbits, log_prob_of_sample=False),
    "text": Row(text(width=16, layers=1, heads=2, max_sites=4)),
    "gan": Row(gan(NETWORK, layouts=("221 a b c",), width=16, latent=4, site_latent=2)),
    "energy_based": Row(energy_based(NETWORK, steps=4, corrections=2, hidden=8), stratified=True),
    "retrieval": Row(retrieval(NETWORK, steps=2, jitter=0.05), starts, free_species=False),
    "retrieval, elements exchanged": Row(retrieval(NETWORK, steps=2, jitter=0.05), starts, known_structures),
}


def numbers_of(free: bool) -> list[int]:
    """Na Cl O, Si, and Sr Ti O O or, where the family draws species, four sites of any element."""
    return [11, 17, 8, 14] + ([0] * 4 if free else [38, 22, 8, 8])


def make_pack(elements: list[int], seed: int = 0, shape: batching.Capacity = SHAPE) -> Pack:
    """Crystals of `SIZES` with these species (0 = any element), random positions and nearly cubic cells."""
    rng = np.random.default_rng(seed)
    z = np.array(elements + [0] * (shape.sites - REAL))
    real = np.arange(shape.sites) < REAL
    rows = np.where(((z == 0) & real)[:, None], np.float32(UNKNOWN), one_hot(jnp.asarray(z)))
    frac, lattice = np.zeros((shape.sites, 3)), np.tile(np.eye(3), (shape.crystals, 1, 1))
    frac[:REAL] = rng.random((REAL, 3))
    lattice[:3] = 2.6 * np.cbrt(SIZES)[:, None, None] * (np.eye(3) + 0.05 * rng.normal(size=(3, 3, 3)))
    fields = (jnp.asarray(x, jnp.float32) for x in (rows, frac, lattice))
    return Pack(*fields, *map(jnp.asarray, batching.topology(SIZES, shape)))


def asked(pack: Pack, views: Views = NOTHING) -> Condition:
    """No property and no group."""
    crystals = len(pack.lattice)
    return Condition(jnp.zeros((crystals, 0)), jnp.zeros(crystals, jnp.int32), *views)


class Case(NamedTuple):
    row: Row
    params: Any
    sample: Callable[[jax.Array, Pack], Pack]  # (key, template) -> pack, compiled once a shape
    loss: Callable[[jax.Array, Pack], tuple]  # (key, pack) -> (loss, metrics), gradient
    template: Pack
    traces: list[tuple]  # the shape of every template that `sample` was traced for


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request) -> Case:
    row, traces = FAMILIES[request.param], []
    known = make_pack(numbers_of(free=False))
    params = jit(row.generator.init)(jax.random.key(0), known, asked(known, row.view(known)))
    rng = np.random.default_rng(2)  # read-outs start at zero, where much is trivially true
    params = jax.tree.map(lambda v: jnp.asarray(v + 0.1 * rng.normal(size=v.shape), v.dtype), jax.device_get(params))

    def sample(params, key: jax.Array, template: Pack) -> Pack:
        traces.append(template.frac.shape)
        return row.generator.sample(params, key, template, asked(template, row.given(template)))

    slope = jit(jax.value_and_grad(row.generator.loss, has_aux=True))

    def loss(key: jax.Array, pack: Pack) -> tuple:
        return slope(params, key, pack, asked(pack, row.view(pack)))

    return Case(row, params, partial(jit(sample), params), loss, make_pack(numbers_of(row.free_species)), traces)


def test_every_name_in_configs_has_a_row():
    """A family that can be named is a family that is tested here."""
    tested = {name.partition(",")[0] for name in FAMILIES}
    assert set(families.FAMILIES) <= tested


def test_a_model_file_gives_the_parameters_back(case, tmp_path):
    found = checkpoint.read_params(checkpoint.export(tmp_path / "model.npz", {}, case.params))
    assert jax.tree.structure(found) == jax.tree.structure(case.params)
    for kept, leaf in zip(jax.tree.leaves(found), jax.tree.leaves(case.params)):
        assert leaf.size and np.allclose(kept, leaf, rtol=2**-8, atol=1e-30)  # files hold half precision


def test_the_loss_is_a_finite_scalar_with_finite_gradients(case):
    (value, metrics), gradient = case.loss(jax.random.key(1), make_pack(numbers_of(free=False)))
    assert value.shape == () and np.isfinite(value)
    assert metrics and all(m.shape == () and np.isfinite(m) for m in metrics.values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_a_sample_is_crystals_of_the_sizes_and_species_asked_for(case):
    drawn = case.sample(jax.random.key(2), case.template)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, case.template)
    for name in ("owner", "pairs", "pair_mask"):
        assert np.array_equal(getattr(drawn, name), getattr(case.template, name))
    rows = np.asarray(drawn.occupancy)
    assert np.array_equal(site_mask(drawn.occupancy), site_mask(case.template.occupancy))
    assert np.allclose(rows[:REAL].max(-1), 1) and np.allclose(rows[:REAL].sum(-1), 1)
    known = np.asarray(is_known(case.template.occupancy)) > 0
    assert np.array_equal(rows[known].argmax(-1), case.template.occupancy[known].argmax(-1))
    frac, lattice = np.asarray(drawn.frac)[:REAL], np.asarray(drawn.lattice)[:3]
    assert np.isfinite(frac).all() and frac.min() >= 0 and frac.max() < 1
    assert np.isfinite(lattice).all() and (np.linalg.det(lattice) > 0).all()


def test_same_key_same_bits_and_another_key_another_sample(case):
    first, again, other = (case.sample(jax.random.key(k), case.template) for k in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first.frac[:REAL], other.frac[:REAL])


def test_crystals_of_a_pack_do_not_see_each_other(case):
    """The first crystal is the same whatever else is in the pack: the second one's element changes."""
    changed = numbers_of(case.row.free_species)
    changed[3] = 32
    first, other = (case.sample(jax.random.key(5), t) for t in (case.template, make_pack(changed)))
    assert np.allclose(first.frac[:3], other.frac[:3], atol=1e-5)
    assert np.allclose(first.lattice[0], other.lattice[0], rtol=1e-5)
    assert first.occupancy[3].argmax() == 13 and other.occupancy[3].argmax() == 31


def test_padding_changes_no_sample(case):
    """The same crystals and key in a pack with more slots of every kind: equal to what the steps make of rounding.

    Random numbers of the first rows do not depend on how many rows there are (`jax_threefry_partitionable`).
    """
    keys, wide = jax.random.key(7), make_pack(numbers_of(case.row.free_species), shape=WIDE)
    one, other = case.sample(keys, case.template), case.sample(keys, wide)
    np.testing.assert_array_equal(other.occupancy[:REAL].argmax(-1), one.occupancy[:REAL].argmax(-1))
    np.testing.assert_allclose(torus.log(other.frac[:REAL] - one.frac[:REAL]), 0, atol=1e-4)
    np.testing.assert_allclose(other.lattice[:3], one.lattice[:3], rtol=1e-4, atol=1e-4)


def test_padding_changes_no_loss_and_no_gradient(case):
    """Where times are spread over the crystal slots, their number is kept. To 100 roundings of the largest entry."""
    shape = WIDE._replace(crystals=SHAPE.crystals) if case.row.stratified else WIDE
    packs = (make_pack(numbers_of(free=False), shape=s) for s in (SHAPE, shape))
    for one, other in zip(*(jax.tree.leaves(case.loss(jax.random.key(1), pack)) for pack in packs)):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * max(1, np.abs(one).max(initial=0)))


def test_one_compilation_serves_every_template_of_a_shape(case):
    for pack in (case.template, make_pack(numbers_of(False), 7)):
        case.sample(jax.random.key(0), pack)
    assert case.traces.count(case.template.frac.shape) == 1
    assert num_sites(case.template).tolist() == [*SIZES.tolist(), 0]


def test_vmap_over_keys_gives_the_single_samples_with_finite_derivatives_in_the_parameters(case):
    """Differentiable from a property of the sample (here its volume) back to every weight."""

    def volume(params, key) -> tuple[jax.Array, Pack]:
        given = asked(case.template, case.row.given(case.template))
        drawn = case.row.generator.sample(params, key, case.template, given)
        return jnp.log(jnp.abs(jnp.linalg.det(drawn.lattice[:3]))).sum(), drawn

    keys = jax.random.split(jax.random.key(6), 2)
    slopes = jit(jax.vmap(jax.grad(volume, has_aux=True), (None, 0)))
    gradient, both = slopes(case.params, keys)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    for k in range(2):
        one = case.sample(keys[k], case.template)
        assert np.allclose(both.lattice[k], one.lattice, rtol=1e-3, atol=1e-4)
        assert np.mean(np.abs(torus.log(both.frac[k] - one.frac))) < 1e-3


def test_where_there_is_a_log_prob_it_is_a_number_a_crystal(case):
    if case.row.generator.log_prob is None or not case.row.log_prob_of_sample:
        pytest.skip("this family has no log_prob of a pack by itself")
    drawn = case.sample(jax.random.key(9), case.template)
    value = jit(case.row.generator.log_prob)(case.params, drawn, asked(drawn))
    assert value.shape == (SHAPE.crystals,) and np.isfinite(value[:3]).all()
