"""A space group for any generator: orbits against another count of them, laws, and every sample in its group."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import spglib

from crysjax.base import Condition
from crysjax.constraints import space_group, symmetric_sites
from crysjax.constraints.constraints import Constraints
from crysjax.constraints.violations import violations
from crysjax.data import batching, datasets
from crysjax.generators import processes
from crysjax.generators.iterative import iterative
from crysjax.generators.normalizing_flow import coupling_flow
from crysjax.generators.wyckoff import wyckoff_rules
from crysjax.geometry.symmetry import table
from crysjax.nets.dense import dense
from crysjax.sampling import draws

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiling is most of the time here
GROUPS = [1, 2, 12, 14, 62, 139, 166, 194, 198, 221, 225, 227]
NETWORK = dense(width=16, layers=1, frequencies=4, geometry=4)


@pytest.mark.parametrize("count", [[1], [5], [7, 1], [2, 2, 4], [4, 4, 12]])
def test_the_same_groups_are_possible_as_for_the_wyckoff_transformer(count):
    """Another program, over other states."""
    states = wyckoff_rules.states(jnp.array(count), 512)
    theirs = np.asarray(wyckoff_rules.feasible_groups(states, 20))
    ours = [space_group.possible(g, dict(enumerate(count, 1))) for g in range(1, 231)]
    assert theirs[1:].tolist() == ours


def test_orbits_add_up_and_special_positions_are_used_once():
    wanted = {3: 4, 26: 4, 15: 4, 8: 16}
    for drawn in space_group.draw_orbits(62, [wanted] * 50):
        assert Counter(space_group.sites_of(drawn).tolist()) == wanted
        special = [k for k in drawn.letters if not table().free[62, k].any()]
        assert len(set(special)) == len(special)


def test_orbits_are_drawn_with_their_weights():
    """Two sites in group 2: c(8, 2) pairs of inversion centers, or a general orbit."""
    a, b = space_group.LOG_WEIGHT
    general = np.exp(a + 3 * b)
    chance = general / (general + 28 * np.exp(2 * a))
    drawn = space_group.draw_orbits(2, [{0: 2}] * 2000)
    share = np.mean([len(one.letters) == 1 for one in drawn])
    assert abs(share - chance) < 4 * np.sqrt(chance * (1 - chance) / 2000)
    assert len(set(drawn)) == 29


@pytest.mark.parametrize(
    ("group", "composition", "said"),
    [
        (225, {0: 5}, "no positions add up to 5 atoms in a primitive cell; it has any number of orbits of 6, 8, 12, "
                      "24, 48 sites, and 2 of 1, 1 of 2, 1 of 6 once each"),
        (198, {11: 4, 17: 3}, "no positions add up to 4 Na + 3 Cl in a primitive cell; it has any number of orbits of "
                              "4, 12 sites"),
    ],
)  # fmt: skip
def test_a_group_that_cannot_have_the_atoms_is_refused_with_its_positions(group, composition, said):
    with pytest.raises(ValueError, match="space group") as error:
        space_group.draw_orbits(group, [composition])
    assert said in str(error.value)


def flow():
    return iterative(NETWORK, frac=processes.torus_flow(), lattice=processes.euclidean_flow(),
                     species=processes.discrete_flow(), steps=3)  # fmt: skip


def diffusion():
    return iterative(NETWORK, frac=processes.torus_diffusion(), lattice=processes.euclidean_diffusion(),
                     species=processes.simplex_flow(), steps=3, sampler="sde")  # fmt: skip


def coupling():
    return coupling_flow(NETWORK, rounds=2, bins=4, width=16, lattice_layers=1, lattice_bins=4)


def templates(seed: int):
    """Two crystals of every group, of up to 8 atoms."""
    rng, sizes, orbits = np.random.default_rng(seed), [], []
    for group in np.repeat(GROUPS, 2):
        fit = [n for n in range(1, 9) if space_group.possible(int(group), {0: n})]
        sizes.append(rng.choice(fit))
        orbits += space_group.draw_orbits(int(group), [{0: int(sizes[-1])}], seed=int(rng.integers(1000)))
    blank = draws.blank(np.array(sizes), np.concatenate([space_group.sites_of(one) for one in orbits]))
    return blank, orbits


@pytest.mark.parametrize(("family", "native"), [(flow, True), (diffusion, True), (flow, False), (coupling, False)])
def test_every_sample_has_its_group(family, native):
    """Whatever the network says; and spglib, which no code is shared with, finds the group or one that contains it."""
    blank, orbits = templates(0)
    generator = space_group.in_group(family(), native=native)
    shape = batching.capacity(blank.num_atoms, 256)
    pack = batching.pack_dataset(blank, shape).pack
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), pack)
    condition = Condition(jnp.zeros((shape.crystals, 0)), jnp.zeros(shape.crystals, jnp.int32))
    params = jit(generator.init)(jax.random.key(0), one, condition)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda v: jnp.asarray(v + 0.1 * rng.normal(size=v.shape), v.dtype), jax.device_get(params))
    drawn = draws.sample(generator, params, jax.random.key(2), blank, np.zeros((len(blank), 0)),
                            view=space_group.orbits_view(orbits), pairs=256)  # fmt: skip
    exact = 0
    for k, entry in enumerate(datasets.entries(drawn)):
        row = datasets.take(drawn, np.array([k]))
        assert not violations(Constraints(space_groups=(orbits[k].group,)), row)["space_group"].any(), orbits[k]
        sites = np.split(entry.numbers, np.cumsum(table().sites[orbits[k].group, list(orbits[k].letters)])[:-1])
        assert all(len(set(orbit.tolist())) == 1 for orbit in sites)
        found = spglib.get_symmetry((entry.lattice, entry.frac, entry.numbers), symprec=0.01)
        found_group = spglib.get_symmetry_dataset((entry.lattice, entry.frac, entry.numbers), symprec=0.01)
        if found_group is None:  # two sites of an orbit in one place, which spglib does not read
            continue
        exact += found_group.number == orbits[k].group
        assert len(found["rotations"]) >= table().operations[orbits[k].group]
    assert exact > len(drawn) / 3


def test_sites_in_place_stay_and_averages_keep_the_group():
    _, orbits = templates(3)
    sizes = np.array([len(space_group.sites_of(one)) for one in orbits])
    shape = batching.Capacity(int(sizes.sum()) + 3, 400, len(sizes) + 1)
    sites = jax.tree.map(jnp.asarray, space_group.orbits_view(orbits)(np.arange(len(sizes)), shape).sites)
    rng = np.random.default_rng(0)
    once = symmetric_sites.positions(sites, jnp.asarray(rng.random((shape.sites, 3)), jnp.float32))
    again = symmetric_sites.positions(sites, once)
    off = np.asarray(again - once)
    assert np.abs(off - np.round(off)).max() < 1e-5
    step = symmetric_sites.average(sites, jnp.asarray(1e-3 * rng.normal(size=(shape.sites, 6)), jnp.float32))
    for part in (step[:, :3], step[:, 3:]):
        moved = once + part
        off = np.asarray(symmetric_sites.positions(sites, moved) - moved)
        assert np.abs(off - np.round(off)).max() < 1e-5


def test_averages_are_means_of_what_comes_back():
    """In P-1 a pair (x, -x): vectors (v, w) become (v - w) / 2 and its opposite; what is shared is the plain mean."""
    orbits = [space_group.SymmetryOrbits(2, (8,), (0,))]
    sites = jax.tree.map(jnp.asarray, space_group.orbits_view(orbits)(np.array([0]), batching.Capacity(2, 1, 1)).sites)
    v, w = np.array([0.1, 0.2, 0.3]), np.array([-0.3, 0.1, 0.5])
    mean = symmetric_sites.average(sites, jnp.asarray(np.stack([v, w]), jnp.float32))
    np.testing.assert_allclose(mean, np.stack([v - w, w - v]) / 2, atol=1e-6)
    np.testing.assert_allclose(symmetric_sites.shared(sites, jnp.array([[1.0], [3.0]])), [[2.0], [2.0]])
