"""What a Wyckoff transformer is shown besides the training crystals: other elements in their orbits, small shifts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from crysjax.base import Orbits
from crysjax.chemistry.oxidation import common_states
from crysjax.data import batching, datasets
from crysjax.data.datasets import Entry
from crysjax.generators.wyckoff.wyckoff_sites import kinds
from crysjax.generators.wyckoff.wyckoff_variants import Variants, varied
from crysjax.geometry.symmetry import index, table
from crysjax.retrieval.templates import spheres

# four crystals as orbits of their groups; a fifth slot of the pack is empty
CRYSTALS = {
    "SrTiO3": (221, [("a", 38), ("b", 22), ("c", 8)], [38, 22, 8, 8, 8], 3.9),
    "NaCl": (225, [("a", 11), ("b", 17)], [11, 17], 5.64),
    "rutile": (136, [("a", 22), ("f", 8)], [22, 22, 8, 8, 8, 8], 4.6),
    "wurtzite": (186, [("b", 16), ("b", 30)], [16, 16, 30, 30], 3.8),
}


def crystals():
    """A pack of the crystals, and their orbits."""
    rows, most = list(CRYSTALS.values()), 4
    letter, number, u = (np.zeros((5, most, *n), t) for n, t in (((), np.int32), ((), np.int32), ((3,), np.float32)))
    for k, (group, orbits, _, _) in enumerate(rows):
        for o, (name, z) in enumerate(orbits):
            letter[k, o], number[k, o] = index(group, name), z
    u[2, 1], u[3, 1] = [0.305, 0, 0], [0, 0, 0.375]
    lattice = np.array([[a, a, a * (0.64 if g == 136 else 1), 90, 90, 90] for g, _, _, a in rows], np.float32)
    lattice = np.concatenate([lattice, [[1, 1, 1, 90, 90, 90]]]).astype(np.float32)
    group = np.array([g for g, *_ in rows] + [0], np.int32)
    data = datasets.from_entries(
        [
            Entry(name, np.array(sites), np.zeros((len(sites), 3)), np.eye(3) * 5, {})
            for name, (*_, sites, _) in CRYSTALS.items()
        ]
    )
    pack = jax.tree.map(
        lambda leaf: jnp.asarray(leaf[0]), batching.pack_dataset(data, batching.Capacity(20, 64, 5)).pack
    )
    return pack, jax.tree.map(jnp.asarray, Orbits(group, letter, number, u, lattice))


@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def many(key, how: Variants):
    pack, orbits = crystals()
    return jax.vmap(lambda key: varied(key, pack, orbits, how))(jax.random.split(key, 64))


def test_nothing_changes_where_nothing_is_asked_for():
    pack, orbits = crystals()
    now, same, other = many(jax.random.key(0), Variants(0.0, 4.0, 0.0))
    assert not other.any()
    for a, b in zip(jax.tree.leaves((now.occupancy, same)), jax.tree.leaves((pack.occupancy, orbits))):
        np.testing.assert_allclose(a, np.broadcast_to(b, a.shape), atol=1e-6)


def test_other_elements_are_those_of_the_pack_in_order_and_neutral_in_a_cell_of_their_size():
    packs, orbits, other = many(jax.random.key(1), Variants(1.0, 4.0, 0.0))
    plain, before = crystals()
    assert other[:, :4].all()
    elements, changed = np.asarray(packs.occupancy.argmax(-1)) + 1, 0
    for draw in range(64):
        for k, (group, _, was, _) in enumerate(CRYSTALS.values()):
            sites = elements[draw][np.asarray(plain.owner) == k][: len(was)]
            letter, number = np.asarray(orbits.letter[draw, k]), np.asarray(orbits.number[draw, k])
            real = number > 0
            counted = np.repeat(number[real], table().sites[group, letter[real]])
            np.testing.assert_array_equal(np.sort(counted), np.sort(sites))
            pairs = list(zip(letter[real], number[real]))
            assert pairs == sorted(pairs)
            size = np.cbrt(spheres()[sites - 1].sum() / spheres()[np.array(was) - 1].sum())
            np.testing.assert_allclose(orbits.lattice[draw, k, :3], before.lattice[k, :3] * size, rtol=1e-5)
            found, count = np.unique(sites, return_counts=True)
            charges = {0}
            for z, n in zip(found.tolist(), count):
                charges = {c + n * q for c in charges for q in common_states().get(z, ())}
            assert 0 in charges
            changed += sorted(sites) != sorted(was)
    assert changed > 60  # of 192: as likely as not an element stays


def test_shifts_have_their_size_and_spare_what_symmetry_fixes():
    _, orbits, other = many(jax.random.key(2), Variants(0.0, 4.0, 0.01))
    _, before = crystals()
    assert not other.any()
    off = np.asarray(orbits.u - before.u[None])
    assert not off[:, :2].any() and not off[:, 2, 0].any()  # fixed positions
    assert 0.007 < off[:, 2, 1, 0].std() < 0.013
    np.testing.assert_array_equal(off[:, 2, 1, 1:], 0)
    relative = np.log(np.asarray(orbits.lattice[..., :3]) / np.asarray(before.lattice[None, :, :3]))
    assert 0.008 < relative.std() < 0.012


def test_the_varied_crystals_fit_the_template():
    packs, orbits, _ = many(jax.random.key(3), Variants(1.0, 4.0, 0.01))
    assert kinds(jax.tree.map(lambda leaf: leaf[0], packs), 8, 4).fits.all()
    assert (orbits.lattice > 0).all()  # of the empty slot, too
