"""Elements exchanged in a template: by the law that is stated, with charges that add up, for every order of sites."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import NUM_SPECIES, UNKNOWN, Start
from crysjax.chemistry.elements import counts
from crysjax.chemistry.oxidation import common_states
from crysjax.constraints.feasible import neutral
from crysjax.data import batching
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Entry, from_entries
from crysjax.generators import exchange
from crysjax.retrieval import templates

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(NUM_SPECIES, NUM_SPECIES)), jnp.float32)


def free_pack(*crystals: list[int], allowed: tuple[int, ...] = (), sites: int = 8):
    """A pack of the crystals with free species, and the atomic numbers of their templates."""
    frac = [np.linspace(0, 0.9, len(numbers))[:, None] * np.ones(3) for numbers in crystals]
    rows = [Entry(str(k), np.array(n), f, 5 * np.eye(3), {}) for k, (n, f) in enumerate(zip(crystals, frac))]
    shape = Capacity(sites, 64, len(crystals) + 1)
    pack = jax.tree.map(jnp.asarray, batching.pack_rows(from_entries(rows), np.arange(len(rows)), shape))
    was = jnp.where(pack.occupancy.sum(-1) > 0, pack.occupancy.argmax(-1) + 1, 0).astype(jnp.int32)
    row = jnp.full(NUM_SPECIES, UNKNOWN)
    if allowed:
        row = jnp.zeros(NUM_SPECIES).at[jnp.array(allowed) - 1].set(1 / len(allowed))
    return pack._replace(occupancy=jnp.where(pack.occupancy.sum(-1, keepdims=True) > 0, row, 0)), was


@jax.jit
def _drawn(keys, was, pack):
    of = exchange.kinds(was, pack)
    return jax.vmap(lambda key: exchange.exchanged(key, of, LOGITS))(keys)


def drawn(pack, was, times: int = 1) -> np.ndarray:
    """500 draws, and as many again, of what each kind of the first crystal becomes: (500 times, k)."""
    keys = [jax.random.split(jax.random.key(seed), 500) for seed in range(times)]
    return np.concatenate([np.asarray(_drawn(key, was, pack))[:, 0] for key in keys])


def test_kinds_are_the_elements_of_a_template_with_their_counts():
    of = exchange.kinds(*free_pack([22, 8, 8, 38, 8], [12, 8])[::-1])
    assert of.number[:2, :4].tolist() == [[8, 22, 38, 0], [8, 12, 0, 0]]
    assert of.count[:2, :4].tolist() == [[3, 1, 1, 0], [1, 1, 0, 0]]
    assert of.of_site[:7].tolist() == [1, 0, 0, 2, 0, 1, 0]
    assert of.number[2].tolist() == [0] * exchange.MAX_KINDS


def test_a_salt_follows_the_law_given_that_charges_add_up():
    allowed = (3, 11, 12, 9, 8)  # Li+ Na+ Mg2+ F- O2-: LiF, NaF and MgO are neutral
    pack, was = free_pack([11, 17], allowed=allowed)
    of = exchange.kinds(was, pack)
    assert of.number[0, :2].tolist() == [11, 17]
    weight = np.exp(np.asarray(LOGITS, float))
    states = {z: common_states()[z] for z in allowed}
    chance = {
        (a, b): weight[10, a - 1] * weight[16, b - 1] * sum(p + q == 0 for p in states[a] for q in states[b])
        for a, b in itertools.permutations(allowed, 2)
    }
    total, number = sum(chance.values()), 20_000
    found = drawn(pack, was, 40)[:, :2]
    for pair, expected in chance.items():
        p = expected / total
        share = (found == pair).all(-1).mean()
        assert abs(share - p) < 5 * np.sqrt(max(p * (1 - p), 1e-9) / number), pair


def test_a_metal_is_exchanged_freely():
    pack, was = free_pack([29, 79, 79, 79], allowed=(29, 47, 79))
    found = drawn(pack, was, 40)[:, :2]
    weight = np.exp(np.asarray(LOGITS, float))[np.ix_([28, 78], [28, 46, 78])]
    first = weight[0] / weight[0].sum()
    for k, z in enumerate((29, 47, 79)):
        share = (found[:, 0] == z).mean()
        assert abs(share - first[k]) < 5 * np.sqrt(first[k] * (1 - first[k]) / 20_000)
    assert (found[:, 0] != found[:, 1]).all()


SALTS = ([22, 8, 8, 38, 8], [26, 26, 26, 8, 8, 8, 8], [13, 13, 8, 8, 8], [14, 8, 8], [3, 27, 8, 8])


@pytest.mark.parametrize("salt", SALTS)
def test_a_neutral_template_stays_neutral(salt):
    states = common_states()
    before = neutral(counts(np.array(salt)), states)
    pack, was = free_pack(salt)
    found, of = drawn(pack, was), exchange.kinds(was, pack)
    said = jax.vmap(lambda new: exchange.neutral(of, new))(np.repeat(found[:, None], 2, 1))[:, 0]
    for new, told in zip(found, np.asarray(said)):
        numbers = np.repeat(new, np.asarray(of.count[0], int))
        distinct = len({*new[new > 0].tolist()}) == int((new > 0).sum())
        now = neutral(counts(numbers), states)
        assert now or not before or not distinct
        assert bool(told) == now or not distinct


def test_elements_that_are_not_allowed_never_come():
    pack, was = free_pack([22, 8, 8, 38, 8], allowed=(12, 20, 16, 14))
    assert set(np.unique(drawn(pack, was)[:, :3])) <= {12, 20, 16, 14}


def test_more_kinds_than_elements_share_one():
    pack, was = free_pack([22, 8, 8, 38, 8], allowed=(12, 8))
    found = drawn(pack, was)[:, :3]
    assert set(np.unique(found)) <= {12, 8}


def test_the_order_of_sites_and_mates_in_a_pack_do_not_matter():
    one, two = [22, 8, 8, 38, 8], [8, 38, 8, 8, 22]
    assert np.array_equal(drawn(*free_pack(one)), drawn(*free_pack(two)))


def test_known_sites_keep_their_element():
    pack, was = free_pack([22, 8, 8, 38, 8])
    known = pack.occupancy.at[0].set(jax.nn.one_hot(21, NUM_SPECIES))
    assert set(drawn(pack._replace(occupancy=known), was)[:, 1].tolist()) == {22}


POINTS = jnp.asarray(np.random.default_rng(1).normal(size=(NUM_SPECIES, 3)), jnp.float32)


def begun(pack, was, candidates: int = 1) -> Start:
    many = partial(jnp.repeat, repeats=candidates, axis=0)
    found = jnp.ones((1, len(pack.lattice)))
    return Start(many(pack.frac[None]), many(pack.lattice[None]), many(was[None]), many(found), many(0 * found))


@partial(jax.jit, static_argnames=("judge", "sharpness"))
def with_species(key, pack, start, judge, sharpness=1.0):
    settings, drawn = exchange.Exchange(8, sharpness, 0.0), jnp.arange(len(pack.lattice)) < 1
    return exchange.with_species(judge, settings, POINTS, key, drawn, pack, start)


def indifferent(start, pack):
    return jnp.zeros(len(pack.lattice))


def wants_tin(start, pack):
    return jax.ops.segment_sum(60 * pack.occupancy[:, 49], pack.owner, len(pack.lattice))


def test_the_cell_follows_the_volume_of_the_spheres_and_all_else_is_kept():
    pack, was = free_pack([11, 17], [12, 8], allowed=(3, 19, 55, 9, 35, 53))
    now, start = with_species(jax.random.key(0), pack, begun(pack, was), indifferent)
    numbers = np.asarray(now.occupancy.argmax(-1) + 1)[:2]
    size = templates.spheres()
    ratio = size[numbers - 1].sum() / size[[10, 16]].sum()
    assert set(numbers.tolist()) <= {3, 19, 55, 9, 35, 53}
    assert np.allclose(start.lattice[0, 0], pack.lattice[0] * ratio ** (1 / 3), rtol=1e-5)
    assert np.array_equal(start.lattice[0, 1], pack.lattice[1])  # of a crystal that is not drawn
    assert np.array_equal(now.occupancy[2:4], pack.occupancy[2:4])
    assert np.array_equal(now.frac, pack.frac) and np.array_equal(start.frac[0], pack.frac)


def test_the_judge_picks_and_the_template_itself_is_no_proposal():
    pack, was = free_pack([50, 8], allowed=(8, 16, 14, 50))
    keys = jax.random.split(jax.random.key(3), 20)
    drawn = [with_species(key, pack, begun(pack, was), wants_tin)[0] for key in keys]
    found = np.array([np.asarray(one.occupancy.argmax(-1) + 1)[:2] for one in drawn])
    assert not (found == [50, 8]).all(-1).any()
    assert (found == 50).any(-1).mean() > 0.8  # SnS, or the like: 40 % of all that is neutral


def test_near_elements_are_preferred():
    pack, was = free_pack([29, 79], allowed=(29, 47, 79, 46))
    apart = np.linalg.norm(np.asarray(POINTS)[28] - np.asarray(POINTS)[[46, 78, 45]], axis=-1)
    near, far = np.array([47, 79, 46])[[apart.argmin(), apart.argmax()]]
    keys = jax.random.split(jax.random.key(4), 200)
    drawn = jax.vmap(lambda key: with_species(key, pack, begun(pack, was), indifferent, 3.0)[0].occupancy[0])(keys)
    found = np.asarray(drawn.argmax(-1) + 1)
    assert (found == near).sum() > 2 * (found == far).sum()


def test_only_the_first_candidate_is_left():
    pack, was = free_pack([11, 17], [12, 8])
    _, start = with_species(jax.random.key(0), pack, begun(pack, was, 2), indifferent)
    assert start.found[:, :2].tolist() == [[1, 1], [0, 1]]
