"""The adversarial generator: orbits by construction, two games that do not mix, the known penalty."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import UNKNOWN, Condition, Crystal, Pack, numbers, one_hot
from crysjax.constraints import orbit_layouts
from crysjax.data import batching
from crysjax.generators.coordinates import Fields
from crysjax.generators.gan import gan, gradient_penalty
from crysjax.geometry import lattice as lattices
from crysjax.geometry import symmetry, torus
from crysjax.nets.dense import dense

# compiling is most of the time here
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})
NETWORK = dense(width=16, layers=1, frequencies=3, geometry=4, scan_layers=True)


def template(rows: list[list[int]], shape: batching.Capacity) -> Pack:
    """Atomic numbers of each crystal, 0 = any element."""
    sizes = np.array([len(r) for r in rows])
    z = jnp.asarray([z for r in rows for z in r] + [0] * (shape.sites - sizes.sum()))
    real = (jnp.arange(shape.sites) < sizes.sum())[:, None]
    occupancy = jnp.where((z == 0)[:, None] & real, UNKNOWN, one_hot(z))
    unit = jnp.tile(3.5 * jnp.eye(3)[None], (shape.crystals, 1, 1))
    topology = (jnp.asarray(x) for x in batching.topology(sizes, shape))
    return Pack(occupancy, jax.random.uniform(jax.random.key(4), (shape.sites, 3)), unit, *topology)


def nothing(crystals: int) -> Condition:
    return Condition(jnp.zeros((crystals, 0)), jnp.zeros(crystals, jnp.int32))


def test_the_penalty_of_a_critic_of_unit_slope_is_zero_and_that_of_slope_three_is_four():
    """The critic is linear in the lattice, or the unit-slope distance from a site along an axis of the torus."""
    pack = template([[11, 17], [3]], batching.Capacity(4, 4, 2))
    way = jnp.asarray(np.random.default_rng(0).normal(size=6), jnp.float32)
    way = (way / jnp.linalg.norm(way))[None]
    ends = [
        Fields(jax.random.uniform(k, (4, 3)), jax.random.normal(k, (2, 6)), pack.occupancy)
        for k in jax.random.split(jax.random.key(1))
    ]
    first = jnp.array([0, 2])

    def of_lattice(x: Fields, slope: float) -> jax.Array:
        return slope * (x.lattice * way).sum(-1)

    def of_torus(x: Fields, slope: float) -> jax.Array:
        return slope * jnp.abs(torus.log(x.frac[first, 0] - 0.123))

    for critic in (of_lattice, of_torus):
        for slope, expected in ((1.0, 0.0), (3.0, 4.0)):
            found = gradient_penalty(partial(critic, slope=slope), jax.random.key(2), *ends, pack)
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_penalty_is_taken_on_the_shortest_way_round_the_torus():
    """From 0.9 to 0.1 through 0: a critic whose slope is the distance from 0 never has one above 0.1 there."""
    pack = template([[11]] * 20, batching.Capacity(20, 1, 20))
    ends = [Fields(jnp.zeros((20, 3)).at[:, 0].set(f), jnp.zeros((20, 6)), pack.occupancy) for f in (0.9, 0.1)]
    found = gradient_penalty(lambda x: jnp.square(torus.log(x.frac)).sum(-1) / 2, jax.random.key(0), *ends, pack)
    assert 0.81 - 1e-5 <= found.min() < found.max() <= 1


@jit
def missed(group: jax.Array, crystal: Crystal) -> tuple[jax.Array, jax.Array]:
    """How far the sites are from the symmetry of the group in Å, and the cell's metric in Å^2."""
    conventional = symmetry.conventional_lattice(group, crystal.lattice)
    cell = symmetry.primitive_lattice(group, symmetry.symmetrize_lattice(group, conventional))
    of_metric = jnp.abs(lattices.metric(cell) - lattices.metric(crystal.lattice)).max()
    return symmetry.symmetrize(group, crystal)[1], of_metric


@pytest.mark.parametrize(
    "name, row", [("221 a b c", [22, 8, 38, 8, 8]), ("225 a c", [9, 20, 9]), ("99 a b c", [0] * 4)]
)
def test_orbits_hold_by_construction(name, row):
    """Whatever the parameters, the sample has the group's symmetry to float32 rounding."""
    shape = batching.Capacity(len(row) + 5, 20, 3)
    generator = gan(NETWORK, layouts=(name, "1 a a"), width=16)
    pack, group = template([[3, 3], row], shape), int(name.split()[0])
    params = jit(generator.init)(jax.random.key(0), pack, nothing(3))
    sample = jit(generator.sample)
    for seed in range(3):
        found = sample(params, jax.random.key(seed), pack, nothing(3))
        crystal = jax.tree.map(jnp.asarray, batching.unpack(found)[1])
        assert max(map(float, missed(jnp.asarray(group), crystal))) < 1e-3
        kept = np.array(row) > 0
        np.testing.assert_array_equal(numbers(found.occupancy)[2 : 2 + len(row)][kept], np.array(row)[kept])


def test_a_layout_is_taken_only_where_it_fits():
    """Five sites of three kinds fit 1 + 1 + 3; five of four kinds do not; nor does another group that is asked for."""
    table = orbit_layouts.table(("221 a b c",))
    pack = template([[8, 22, 8, 38, 8], [8, 22, 9, 38, 8], [22, 38, 8, 8, 8]], batching.Capacity(16, 32, 4))
    placed = orbit_layouts.place(
        table,
        pack,
        jnp.array([0, 0, 225, 0]),
        jax.random.uniform(jax.random.key(0), (4, 100)),
        jnp.zeros((4, 2)),
        jnp.zeros(2),
    )
    assert placed.layout.tolist() == [0, 1, 1, 1]
    assert placed.first[jnp.array([2, 4])].tolist() == [0, 0] and sorted(placed.slot[:5].tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="layouts: 'cubic'"):
        orbit_layouts.table(("cubic",))


def test_each_game_leaves_the_parameters_of_the_other_alone():
    """The whole gradient on the critic is that of its own part, without the generator's; and the other way round."""
    pack = template([[11, 17], [12, 8]], batching.Capacity(4, 2, 2))
    both, critic_only = (gan(NETWORK, width=8, generator_weight=w) for w in (1.0, 0.0))
    params = jit(both.init)(jax.random.key(0), pack, nothing(2))
    key = jax.random.key(1)
    whole, part = (
        jax.device_get(jit(jax.grad(g.loss, has_aux=True))(params, key, pack, nothing(2))[0])
        for g in (both, critic_only)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), whole["critic"], part["critic"])
    assert all(not leaf.any() for leaf in jax.tree.leaves(part["generator"]))
    assert any(leaf.any() for leaf in jax.tree.leaves(whole["generator"]))
    assert any(leaf.any() for leaf in jax.tree.leaves(whole["critic"]))
