"""Tokens: numbers come back to half a unit, order and padding do not matter, the grammar allows what is possible."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import UNKNOWN, numbers, one_hot
from crysjax.data import batching
from crysjax.generators.text import text_tokens
from crysjax.generators.text.grammar import ELEMENT, END, Form, Sites, grammar
from crysjax.geometry import lattice as lattices

# compiling is most of the time here
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})
FORM, MOST = Form(), 4
RULES = grammar(FORM, MOST)
SHAPE = batching.Capacity(sites=12, pairs=16, crystals=4)


def encode_with(rules, most):
    return jit(partial(text_tokens.encode, rules, FORM, most))


encode = encode_with(RULES, MOST)


def crystals(seed: int = 0):
    """A pack of 4, 1 and 3 sites and an unused slot, with skewed cells."""
    rng = np.random.default_rng(seed)
    sizes, z = np.array([4, 1, 3]), np.array([8, 22, 8, 8, 3, 31, 13, 31] + [0] * 4)
    lengths, angles = rng.uniform(2, 20, (4, 3)), rng.uniform(62, 118, (4, 3))
    lattice = np.array(lattices.from_parameters(jnp.asarray(lengths), jnp.asarray(angles)))
    lattice[3] = np.eye(3)
    frac = rng.random((12, 3)) * (z > 0)[:, None]
    parts = (one_hot(jnp.asarray(z)), frac, lattice, *batching.topology(sizes, SHAPE))
    return batching.Pack(
        *(jnp.asarray(p, jnp.int32 if np.asarray(p).dtype.kind == "i" else jnp.float32) for p in parts)
    )


def there_and_back(pack):
    written, sites = text_tokens.encode(RULES, FORM, MOST, pack, pack)
    index = text_tokens.canonical(pack, MOST)[0]
    return written, sites, text_tokens.decode(RULES, FORM, written.tokens, index, sites.count, pack)


def test_numbers_come_back_within_half_a_unit():
    pack = crystals()
    written, _, back = jit(there_and_back)(pack)
    assert written.fits[:3].all()
    again = jit(there_and_back)(back)
    np.testing.assert_array_equal(again[0].tokens, written.tokens)  # what is on the grid stays to the bit
    np.testing.assert_array_equal(again[2].frac, back.frac)
    for given, found, unit in zip(
        lattices.to_parameters(pack.lattice), lattices.to_parameters(back.lattice), (1e-3, 1e-2)
    ):
        np.testing.assert_allclose(found, given, atol=unit / 2 + 2e-5)  # and what arccos rounds off in float32
    for owner in range(3):  # sites of one element come in another order
        here = np.asarray(pack.owner == owner) & np.asarray(pack.occupancy.sum(-1) > 0)
        z = np.asarray(numbers(pack.occupancy))
        np.testing.assert_array_equal(np.asarray(numbers(back.occupancy))[here], z[here])
        for element in set(z[here]):
            ours, theirs = (np.asarray(p.frac)[here & (z == element)] for p in (pack, back))
            ours, theirs = (f[np.lexsort(f.T[::-1])] for f in (ours, theirs))
            np.testing.assert_allclose(theirs, ours, atol=0.5e-4 + 1e-7)
    assert (np.asarray(back.frac)[8:] == 0).all() and (np.asarray(back.lattice)[3] == np.eye(3)).all()


def test_a_text_reads_as_expected():
    frac = jnp.array([[0.5, 0.25, 0.12344], [0.99996, 0.5, 0], [0, 0.4, 0.3]])
    lattice = jnp.diag(jnp.array([3.0, 4.5, 12.3456]))
    one = batching.pack_one(batching.Crystal(one_hot(jnp.array([22, 8, 8])), frac, lattice))
    written, sites = encode(one, one)
    tokens = written.tokens[0].tolist()
    assert tokens[:15] == [0, 3, 0, 0, 0, 0, 4, 5, 0, 0, 1, 2, 3, 4, 6]
    assert tokens[15:30] == [0, 9, 0, 0, 0] * 3
    # oxygen before titanium; 0.99996 is 0 on the torus, so that 0 0.4 0.3 comes first
    assert tokens[30:43] == [ELEMENT + 7, 0, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0]
    assert tokens[43:56] == [ELEMENT + 7, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]
    assert tokens[56:69] == [ELEMENT + 21, 5, 0, 0, 0, 2, 5, 0, 0, 1, 2, 3, 4]
    assert tokens[69:] == [END] * 13
    assert sites.alike.tolist() == [[False, True, False, False]]


def test_the_order_of_sites_in_the_pack_does_not_matter():
    pack, rng = crystals(), np.random.default_rng(1)
    shuffle = np.concatenate([rng.permutation(4), [4], 5 + rng.permutation(3), np.arange(8, 12)])
    free = pack._replace(occupancy=jnp.where(pack.occupancy.sum(-1, keepdims=True) > 0, UNKNOWN, pack.occupancy))
    for template in (pack, free):
        moved, of_moved = (p._replace(occupancy=p.occupancy[shuffle], frac=p.frac[shuffle]) for p in (pack, template))
        np.testing.assert_array_equal(encode(moved, of_moved)[0].tokens, encode(pack, template)[0].tokens)


def test_template_rows_that_differ_keep_their_own_sites():
    """Two kinds of restricted sites and a known one: each group is sorted on its own."""
    z = jnp.array([3, 8, 9, 11, 8])
    rows = np.zeros((5, 100), np.float32)
    rows[[0, 3], 2], rows[[0, 3], 10] = 0.5, 0.5  # Li or Na
    rows[[1, 2], 7], rows[[1, 2], 8] = 0.5, 0.5  # O or F
    rows[4, 7] = 1
    frac = jnp.array([[0.1, 0, 0], [0.9, 0, 0], [0.2, 0, 0], [0.05, 0, 0], [0.7, 0, 0]])
    pack = batching.pack_one(batching.Crystal(one_hot(z), frac, 4 * jnp.eye(3)))
    rules = grammar(FORM, 5)
    written, sites = encode_with(rules, 5)(pack, pack._replace(occupancy=jnp.asarray(rows)))
    strings = written.tokens[0, 30:].reshape(5, 13)
    assert (strings[:, 0] - ELEMENT + 1).tolist() == [8, 8, 9, 3, 11]
    assert strings[:, 1].tolist() == [7, 9, 2, 1, 0]
    assert sites.alike.tolist() == [[False, False, True, False, True]]
    masks = jit(rules.masks)(written.tokens[0], jax.tree.map(lambda leaf: leaf[0], sites))
    assert jnp.take_along_axis(masks, written.tokens[0][:, None], 1).all()


def test_gamma_is_what_makes_a_cell_and_every_digit_of_it_can_be_finished():
    """All numbers from 0 to 999 through the grammar, against the determinant of the metric tensor."""
    form = Form(length_decimals=0, angle_decimals=0, frac_decimals=1, length_range=(1, 1))
    rules, rng = grammar(form, 1), np.random.default_rng(0)
    sites = Sites(jnp.ones((1, 100), bool), jnp.zeros(1, bool), jnp.ones((), jnp.int32))
    gamma = np.arange(1000)
    digits = gamma[:, None] // np.array([100, 10, 1]) % 10
    judge = jax.jit(jax.vmap(lambda tokens: rules.masks(tokens, sites)))
    for alpha, beta in [(20, 20), (160, 160), (20, 160), (90, 90), *rng.integers(20, 161, (16, 2))]:
        cell = [int(c) for c in f"111{alpha:03d}{beta:03d}"]
        tokens = np.concatenate([np.tile(cell, (1000, 1)), digits, np.tile([ELEMENT, 0, 0, 0], (1000, 1))], -1)
        allowed = np.asarray(judge(jnp.asarray(tokens, jnp.int32)))
        legal = np.take_along_axis(allowed, tokens[..., None], -1)[:, :12, 0].all(-1)
        cos = np.cos(np.deg2rad([np.full(1000, alpha), np.full(1000, beta), gamma]))
        squared_volume = 1 - (cos**2).sum(0) + 2 * cos.prod(0)
        possible = (np.abs(alpha - beta) + 5 <= gamma) & (gamma <= np.minimum(alpha + beta, 360 - alpha - beta) - 5)
        np.testing.assert_array_equal(legal, possible & (gamma >= 20) & (gamma <= 160))
        assert legal.any() and (squared_volume[legal] > 1e-5).all()
        so_far = np.cumprod(np.take_along_axis(allowed, tokens[..., None], -1)[:, :12, 0], 1)
        assert allowed[:, 1:13][so_far > 0].any(-1).all(), "no text that is legal so far is a dead end"


def test_a_cell_out_of_range_is_moved_and_reported():
    pack = crystals()
    flat = lattices.from_parameters(jnp.array([0.3, 5.0, 120.0]), jnp.array([90.0, 90.0, 179.0]))
    written, _ = encode(pack._replace(lattice=pack.lattice.at[0].set(flat)), pack)
    assert written.fits[:3].tolist() == [False, True, True]
    digits = "".join(map(str, written.tokens[0, :30].tolist()))
    assert digits == "010000500099000090000900016000"


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (Form(length_range=(0.0, 9.0)), "length_range: .*0 < shortest"),
        (Form(angle_range=(2.0, 90.0)), "angle_range: .*5 <= smallest"),
        (Form(angle_range=(60.0, 170.0)), "angle_range: .*<= 355"),
    ],
)
def test_ranges_that_leave_no_cell_are_errors(form, said):
    with pytest.raises(ValueError, match=said):
        grammar(form, 2)
