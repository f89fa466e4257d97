"""Elements exchanged in a template: by the law that is stated, with charges that add up, for every order of sites."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import NUM_SPECIES, UNKNOWN
from crysjax.chemistry.elements import counts
from crysjax.chemistry.oxidation import common_states
from crysjax.constraints.feasible import neutral
from crysjax.data import batching
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Entry, from_entries
from crysjax.generators import exchange

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
