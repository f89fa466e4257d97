"""What every generator family keeps to, whatever it is made of: one line of `FAMILIES` a family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import UNKNOWN, Condition, Generator, Pack, is_known, num_sites, numbers, one_hot, site_mask
from crysjax.cli import families
from crysjax.data import batching
from crysjax.generators import processes
from crysjax.generators.continuous_flow import continuous_flow
from crysjax.generators.energy_based import energy_based
from crysjax.generators.gan import gan
from crysjax.generators.iterative import iterative
from crysjax.generators.latent_diffusion import latent_diffusion
from crysjax.generators.normalizing_flow import coupling_flow
from crysjax.generators.retrieval import retrieval
from crysjax.generators.text import text
from crysjax.generators.vae import vae
from crysjax.generators.vq_vae import vq_vae
from crysjax.generators.wyckoff import wyckoff
from crysjax.geometry import lattice as lattices
from crysjax.geometry.symmetry import Orbits
from crysjax.nets.dense import dense
from crysjax.training import checkpoint

NETWORK = dense(width=16, layers=1, frequencies=4, geometry=4)
SMOOTH = dense(width=16, layers=1, frequencies=4, geometry=0)  # nothing jumps where a neighbour's image changes
FLOW = dict(frac=processes.torus_flow(), lattice=processes.euclidean_flow(), species=processes.simplex_flow())
DIFFUSION = dict(
    frac=processes.torus_diffusion(), lattice=processes.euclidean_diffusion(), species=processes.discrete_flow()
)
WYCKOFF = wyckoff(width=16, layers=1, heads=2, components=2, max_sites=8, max_kinds=3, max_states=128)
SHAPE = batching.Capacity(sites=12, pairs=24, crystals=4)
SIZES = np.array([3, 1, 4])
REAL = int(SIZES.sum())
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiling is most of the time here


class Row(NamedTuple):
    """A family at a small size, and what it cannot do by its nature."""

    generator: Generator
    view: Callable[[Pack], Any] = lambda pack: ()  # what `Condition.view` holds while training
    free_species: bool = True  # draws the species of unknown sites
    log_prob_of_sample: bool = True  # scores a pack; else what the view says of it


def starts(pack: Pack) -> dict[str, jax.Array]:
    """Two candidates a crystal, the truth itself shifted."""
    crystals = pack.lattice.shape[0]
    some = jnp.stack([jnp.ones(crystals), jnp.zeros(crystals)])
    return {
        "frac": jnp.stack([pack.frac + 0.01, pack.frac + 0.2]),
        "lattice": jnp.stack([1.02 * pack.lattice, pack.lattice]),
        "was": jnp.full((2, len(pack.frac)), 8),
        "found": jnp.ones((2, crystals)),
        "matched": some,
    }


def orbits(pack: Pack) -> Orbits:
    """Every site an orbit of its own, in P1."""
    first = np.concatenate([[0], np.cumsum(SIZES)])
    number, u = np.zeros((SHAPE.crystals, 8), np.int32), np.zeros((SHAPE.crystals, 8, 3), np.float32)
    for k, n in enumerate(SIZES):
        sites = slice(first[k], first[k] + n)
        number[k, :n], u[k, :n] = numbers(pack.occupancy)[sites], pack.frac[sites]
    lengths, angles = lattices.to_parameters(pack.lattice)
    group = jnp.asarray(np.append(np.ones(len(SIZES), np.int32), 0), jnp.int32)
    cell = jnp.concatenate([lengths, angles], -1)
    return Orbits(group, jnp.zeros((SHAPE.crystals, 8), jnp.int32), jnp.asarray(number), jnp.asarray(u), cell)


FAMILIES = {
    "iterative, flow": Row(iterative(NETWORK, **FLOW, steps=4)),
    "iterative, diffusion": Row(iterative(NETWORK, **DIFFUSION, steps=4)),
    "coupling_flow": Row(coupling_flow(NETWORK, rounds=2, bins=4, width=16, lattice_layers=2, lattice_bins=4)),
    "continuous_flow": Row(continuous_flow(SMOOTH, steps=2, solver="heun", probes=1, width=16, max_sites=4)),
    "vae": Row(vae(NETWORK, **FLOW, steps=3, latent=3)),
    "vq_vae": Row(vq_vae(NETWORK, **FLOW, steps=3)),
    "latent_diffusion": Row(latent_diffusion(width=16, layers=1, heads=2, autoencoder_layers=1, latent=4, steps=3)),
    "wyckoff": Row(WYCKOFF, orbits, log_prob_of_sample=False),
    "text": Row(text(width=16, layers=1, heads=2, max_sites=4)),
    "gan": Row(gan(NETWORK, layouts=("221 a b c",), width=16, latent=4, site_latent=2)),
    "energy_based": Row(energy_based(NETWORK, steps=4, corrections=2, hidden=8)),
    "retrieval": Row(retrieval(NETWORK, steps=2, jitter=0.05), starts, free_species=False),
}


def numbers_of(free: bool) -> list[int]:
    """Na Cl O, Si, and Sr Ti O O or, where the family draws species, four sites of any element."""
    return [11, 17, 8, 14] + ([0] * 4 if free else [38, 22, 8, 8])


def make_pack(elements: list[int], seed: int = 0) -> Pack:
    """Crystals of `SIZES` with these species (0 = any element), random positions and nearly cubic cells."""
    rng = np.random.default_rng(seed)
    z = np.array(elements + [0] * (SHAPE.sites - REAL))
    real = np.arange(SHAPE.sites) < REAL
    rows = np.where(((z == 0) & real)[:, None], np.float32(UNKNOWN), one_hot(jnp.asarray(z)))
    frac = rng.random((SHAPE.sites, 3)) * real[:, None]
    edge = np.append(2.6 * np.cbrt(SIZES), 1.0)
    lattice = edge[:, None, None] * (np.eye(3) + 0.05 * rng.normal(size=(4, 3, 3)))
    fields = (jnp.asarray(x, jnp.float32) for x in (rows, frac, lattice))
    return Pack(*fields, *map(jnp.asarray, batching.topology(SIZES, SHAPE)))


def asked(view: Any = ()) -> Condition:
    return Condition(jnp.zeros((SHAPE.crystals, 0)), jnp.zeros(SHAPE.crystals, jnp.int32), view)


class Case(NamedTuple):
    row: Row
    params: Any
    sample: Callable[[jax.Array, Pack], Pack]  # (key, template) -> pack, compiled once
    template: Pack


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request) -> Case:
    row = FAMILIES[request.param]
    known = make_pack(numbers_of(free=False))
    params = jit(row.generator.init)(jax.random.key(0), known, asked(row.view(known)))
    rng = np.random.default_rng(2)  # read-outs start at zero, where much is trivially true
    params = jax.tree.map(lambda v: jnp.asarray(v + 0.1 * rng.normal(size=v.shape), v.dtype), jax.device_get(params))
    drawn = jit(lambda key, template: row.generator.sample(params, key, template, asked()))
    return Case(row, params, drawn, make_pack(numbers_of(row.free_species)))


def test_every_name_in_configs_has_a_row():
    """A family that can be named is a family that is tested here."""
    tested = {name.partition(",")[0] for name in FAMILIES}
    assert set(families.FAMILIES) <= tested


def test_a_model_file_gives_the_parameters_back(case, tmp_path):
    found = checkpoint.read_params(checkpoint.export(tmp_path / "model.npz", {}, case.params))
    assert jax.tree.structure(found) == jax.tree.structure(case.params)
    for kept, leaf in zip(jax.tree.leaves(found), jax.tree.leaves(case.params)):
        assert np.allclose(kept, leaf, rtol=2**-8, atol=1e-30)  # files hold half precision


def test_the_loss_is_a_finite_scalar_with_finite_gradients(case):
    pack = make_pack(numbers_of(free=False))
    condition = asked(case.row.view(pack))
    (value, metrics), gradient = jit(jax.value_and_grad(case.row.generator.loss, has_aux=True))(
        case.params, jax.random.key(1), pack, condition
    )
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


def test_one_compilation_serves_every_template_of_a_shape(case):
    drawn = jax.jit(lambda key, template: case.row.generator.sample(case.params, key, template, asked()))
    with jax.log_compiles(False):
        lowered = drawn.lower(jax.random.key(0), case.template)
        assert lowered.in_tree == drawn.lower(jax.random.key(1), make_pack(numbers_of(False), 7)).in_tree
    assert num_sites(case.template).tolist() == [*SIZES.tolist(), 0]


def test_vmap_over_keys_gives_the_single_samples(case):
    keys = jax.random.split(jax.random.key(6), 2)
    both = jit(jax.vmap(lambda key: case.row.generator.sample(case.params, key, case.template, asked())))(keys)
    for k in range(2):
        one = case.sample(keys[k], case.template)
        assert np.allclose(both.lattice[k], one.lattice, rtol=1e-3, atol=1e-4)
        assert np.mean(np.abs((both.frac[k] - one.frac + 0.5) % 1 - 0.5)) < 1e-3


def test_a_sample_has_finite_derivatives_in_the_parameters(case):
    """Differentiable from a property of the sample (here its volume) back to every weight."""

    def volume(params):
        drawn = case.row.generator.sample(params, jax.random.key(8), case.template, asked())
        return jnp.log(jnp.abs(jnp.linalg.det(drawn.lattice[:3]))).sum()

    gradient = jit(jax.grad(volume))(case.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_where_there_is_a_log_prob_it_is_a_number_a_crystal(case):
    if case.row.generator.log_prob is None or not case.row.log_prob_of_sample:
        pytest.skip("this family has no log_prob of a pack by itself")
    drawn = case.sample(jax.random.key(9), case.template)
    value = jit(case.row.generator.log_prob)(case.params, drawn, asked())
    assert value.shape == (SHAPE.crystals,) and np.isfinite(value[:3]).all()
