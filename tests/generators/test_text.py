"""Crystals as text: every sample keeps grammar and template, and `log_prob` is the law that `sample` draws from."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crysjax.base import UNKNOWN, Condition, Pack, numbers, one_hot
from crysjax.data import batching
from crysjax.generators.text import text_tokens
from crysjax.generators.text.family import text
from crysjax.generators.text.grammar import Form, grammar
from crysjax.geometry import lattice as lattices
from crysjax.nets.transformer import transformer

# compiling is most of the time here
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})
SMALL = dict(width=8, layers=1, heads=2)
TINY = SMALL | dict(length_decimals=0, angle_decimals=0, frac_decimals=1, length_range=(1, 1))
SHAPE = batching.Capacity(sites=20, pairs=32, crystals=6)


def template(rows: list[list[int | tuple]], shape: batching.Capacity = SHAPE) -> Pack:
    """Atomic numbers of each crystal; 0 = any element, a tuple = one of these."""
    owner, pairs, mask = batching.topology(np.array([len(r) for r in rows]), shape)
    occupancy = np.zeros((shape.sites, 100), np.float32)
    for row, z in zip(occupancy, (z for r in rows for z in r)):
        row[:] = UNKNOWN if z == 0 else np.isin(np.arange(1, 101), z) / np.size(z)
    unit = np.tile(np.eye(3, dtype=np.float32), (shape.crystals, 1, 1))
    return jax.tree.map(jnp.asarray, Pack(occupancy, np.zeros((shape.sites, 3), np.float32), unit, owner, pairs, mask))


def alike(count: int, row: list) -> Pack:
    """So many crystals of one template."""
    n = len(row)
    shape = batching.Capacity(count * n, max(count * n * (n - 1) // 2, 1), count)
    return template([row] * count, shape)


def nothing(pack: Pack, k: int = 0) -> Condition:
    b = len(pack.lattice)
    return Condition(jnp.full((b, k), jnp.nan), jnp.zeros(b, jnp.int32))


def shaken(generator, pack: Pack, size: float, k: int = 0):
    """Parameters whose probabilities are far from equal."""
    params = jit(generator.init)(jax.random.key(0), pack, nothing(pack, k))
    read = np.random.default_rng(7).normal(size=params["read"].shape) * size
    return params | {"read": jnp.asarray(read, jnp.float32)}


def test_all_of_1000_untrained_samples_keep_grammar_and_template():
    rows = [[8, 22, 8, 8, 38], [0, 0, 0], [31, (13, 49), (33, 15), (33, 15)], [0], [3, 3, 0, 0, 0]]
    pack, generator = template(rows), text(**SMALL, max_sites=5)
    params, given, real = shaken(generator, pack, 0.5), nothing(pack), np.asarray(pack.occupancy.sum(-1)) > 0
    sample = jit(jax.vmap(lambda params, key: generator.sample(params, key, pack, given), (None, 0)))
    found = sample(params, jax.random.split(jax.random.key(0), 200))
    chex.assert_tree_all_finite(found)
    lengths, angles = (np.asarray(x)[:, :5] for x in lattices.to_parameters(found.lattice))
    assert (lengths > 0.9999).all() and (lengths < 99.0001).all()
    assert (angles > 19.999).all() and (angles < 160.001).all()
    cos = np.cos(np.deg2rad(angles.astype(np.float64)))
    assert (1 - (cos**2).sum(-1) + 2 * cos.prod(-1) > 1e-5).all(), "a cell without volume"
    units, z = np.asarray(found.frac, np.float64) * 1e4, np.asarray(numbers(found.occupancy))
    np.testing.assert_allclose(units, units.round(), atol=1e-3)
    assert (units.round() >= 0).all() and (units.round() < 10_000).all()
    np.testing.assert_array_equal(z > 0, np.broadcast_to(real, z.shape))
    for k, allowed in enumerate(z for row in rows for z in row):
        assert allowed == 0 or np.isin(z[:, k], allowed).all()
    of = jit(jax.vmap(lambda params, x, known: generator.log_prob(params, x, given, known), (None, 0, 0)))
    few = jax.tree.map(lambda leaf: leaf[:20], found)
    for known in (jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (20, *leaf.shape)), pack), few):
        assert np.isfinite(of(params, few, known)).all()


def test_probabilities_of_all_texts_sum_to_one():
    """One site of two elements, angles of 90 or 91 degrees: 8 * 2 * 1000 texts, every one a crystal."""
    generator = text(**TINY, max_sites=1, angle_range=(90, 91), temperature=0.8)
    grid = np.stack(np.meshgrid(*[np.arange(10)] * 3, [8, 16], indexing="ij"), -1).reshape(-1, 4)
    pack = alike(len(grid), [(8, 16)])
    full = pack._replace(occupancy=one_hot(jnp.asarray(grid[:, 3])), frac=jnp.asarray(grid[:, :3] / 10, jnp.float32))
    params, log_prob, total = shaken(generator, pack, 1.0), jit(generator.log_prob), 0.0
    for angles in np.stack(np.meshgrid(*[[90.0, 91.0]] * 3), -1).reshape(-1, 3):
        cell = lattices.from_parameters(jnp.ones(3), jnp.asarray(angles, jnp.float32))
        texts = full._replace(lattice=jnp.broadcast_to(cell[None], full.lattice.shape))
        total += np.exp(np.asarray(log_prob(params, texts, nothing(pack), pack), np.float64)).sum()
    assert abs(total - 1) < 2e-5  # rounding of 12 float32 logarithms a text


@pytest.mark.parametrize("row", [[8, 8], [(8, 16), (8, 16), 3]], ids=["known", "free"])
def test_frequencies_of_samples_are_the_probabilities(row):
    """The order of alike sites included, and at a temperature: 10,000 draws of a peaked law."""
    generator, draws = text(**TINY, max_sites=3, angle_range=(90, 91), temperature=0.7), 10_000
    pack = alike(draws, row)
    params = shaken(generator, pack, 2.5)
    found = jit(generator.sample)(params, jax.random.key(3), pack, nothing(pack))
    log_probs = np.asarray(jit(generator.log_prob)(params, found, nothing(pack), pack), np.float64)
    keys = np.concatenate([numbers(found.occupancy)[:, None], np.round(found.frac * 10)], -1).reshape(draws, -1)
    keys = np.concatenate([keys, np.round(lattices.to_parameters(found.lattice)[1])], -1)
    _, first, count = np.unique(keys, axis=0, return_index=True, return_counts=True)
    p = np.exp(log_probs[first])
    often = p * draws > 25
    assert often.sum() > 15 and p[often].sum() > 0.2, "the law is not peaked, so this would prove nothing"
    z = (count - draws * p)[often] / np.sqrt(draws * p * (1 - p))[often]
    assert np.abs(z).max() < 5 and abs(np.square(z).mean() - 1) < 5 * np.sqrt(2 / often.sum())


def test_log_prob_is_the_sum_over_the_steps_of_the_sample():
    """One token after another, each from a forward pass of its own over the text so far."""
    pack = template([[8, 0, 0]], batching.Capacity(3, 3, 1))
    generator = text(**SMALL, max_sites=4, temperature=1.3)
    params, given = shaken(generator, pack, 0.7), nothing(pack)._replace(space_group=jnp.array([5]))
    found = jit(generator.sample)(params, jax.random.key(2), pack, given)
    rules, net = grammar(Form(), 4), transformer(**SMALL)
    tokens = text_tokens.encode(rules, Form(), 4, found, pack)[0].tokens[0]
    _, sites = text_tokens.canonical(pack, 4)
    sites, state, total = jax.tree.map(lambda leaf: leaf[0], sites), rules.start, 0.0
    rows = pack.occupancy / pack.occupancy.sum(-1, keepdims=True)
    x = np.zeros((1 + len(tokens), 8), np.float32)
    x[0], x[1] = rows.sum(0) @ params["composition"] + params["count"][3], params["group"][5]
    forward = jit(net.apply)
    step, allowed = jit(rules.advance), jit(rules.allowed)
    for t, token in enumerate(tokens):
        slot = jax.tree.map(lambda leaf, t=t: jnp.asarray(leaf[t]), rules.slots)
        x[1 + t] += params["role"][rules.slots.role[t]]
        logits = np.asarray(forward(params["transformer"], x)[1 + t] @ params["read"], np.float64) / 1.3
        weight = np.exp(logits - logits.max()) * np.asarray(allowed(state, slot, sites))
        total += np.log(weight[token] / weight.sum())
        state = step(state, slot, sites, token)
        if t + 1 < len(tokens):
            x[2 + t] = params["token"][token]
    np.testing.assert_allclose(jit(generator.log_prob)(params, found, given, pack)[0], total, rtol=1e-5)


def test_the_score_has_mean_zero():
    """E_p[grad log p] = 0 along eight random directions of all parameters."""
    generator, draws = text(**TINY, max_sites=2, angle_range=(90, 91)), 2000
    pack = alike(draws, [(8, 16), (8, 16)])
    params = shaken(generator, pack, 1.0)
    found = jit(generator.sample)(params, jax.random.key(5), pack, nothing(pack))
    slope = jit(lambda v: jax.jvp(lambda p: generator.log_prob(p, found, nothing(pack), pack), (params,), (v,))[1])
    rng = np.random.default_rng(0)
    for _ in range(8):
        direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)
        slopes = np.asarray(slope(direction), np.float64)
        assert slopes.std() > 0.1 and abs(slopes.mean()) < 4.5 * slopes.std() / np.sqrt(draws)


def test_training_recovers_a_known_law():
    """Two crystals, 3 to 1: the loss falls to the entropy, the samples are those crystals in that proportion."""
    row, draws = [3, 8], 400
    pack, law = alike(64, row), np.arange(64) % 4 == 0
    frac = np.zeros((64, 2, 3), np.float32)
    frac[:, 1] = np.where(law[:, None], [[0.2, 0.4, 0.6]], [[0.5, 0.5, 0.5]])
    cell = np.where(law[:, None, None], 4 * np.eye(3), np.diag([3.0, 3.0, 5.0])).astype(np.float32)
    pack = pack._replace(frac=jnp.asarray(frac.reshape(128, 3)), lattice=jnp.asarray(cell))
    form = dict(length_decimals=1, angle_decimals=0, frac_decimals=1, length_range=(1.0, 9.0))
    generator = text(width=16, layers=1, heads=2, max_sites=2, known_fraction=1.0, **form)
    params = jit(generator.init)(jax.random.key(0), pack, nothing(pack))
    optimizer = optax.adam(optax.linear_schedule(2e-2, 1e-3, 150))

    def step(carry, key):
        params, state = carry
        (_, nats), slope = jax.value_and_grad(generator.loss, has_aux=True)(params, key, pack, nothing(pack))
        updates, state = optimizer.update(slope, state)
        return (optax.apply_updates(params, updates), state), sum(nats.values())

    keys = jax.random.split(jax.random.key(1), 150)
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies its step count
        (params, _), nats = jit(lambda *carry: jax.lax.scan(step, carry, keys))(params, optimizer.init(params))
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert entropy - 1e-3 < nats[-1] < entropy + 0.1
    asked = alike(draws, row)
    found = jit(generator.sample)(params, jax.random.key(2), asked, nothing(asked))
    last = np.asarray(found.frac).reshape(draws, 2, 3)[:, 1]
    of_first, of_second = (np.abs(last - v).max(-1) < 1e-4 for v in ([0.2, 0.4, 0.6], [0.5, 0.5, 0.5]))
    assert (of_first | of_second).mean() > 0.9
    assert abs(of_first.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / draws) + 0.05  # and what the loss has left
    sides = np.asarray(lattices.to_parameters(found.lattice)[0])
    assert (np.abs(sides[of_first] - 4) < 1e-4).all(-1).mean() > 0.9


def filled(pack: Pack) -> Pack:
    """Fractions on the grid and cells."""
    rng = np.random.default_rng(1)
    frac = rng.integers(0, 10_000, pack.frac.shape) / 1e4 * np.asarray(pack.occupancy.sum(-1) > 0)[:, None]
    lattice = lattices.from_parameters(
        jnp.asarray(rng.uniform(3, 9, (len(pack.lattice), 3)), jnp.float32), jnp.full((len(pack.lattice), 3), 80.0)
    )
    return pack._replace(frac=jnp.asarray(frac, jnp.float32), lattice=lattice)


def test_padding_and_the_order_of_sites_leave_log_prob_alone():
    generator = text(**SMALL, max_sites=4)
    pack = filled(template([[8, 22, 8], [3, 9]]))
    params, log_prob = shaken(generator, pack, 0.5), jit(generator.log_prob)
    found = log_prob(params, pack, nothing(pack))
    assert (np.asarray(found)[2:] == 0).all() and (np.asarray(found)[:2] < -20).all()
    order = np.array([2, 1, 0, 4, 3, *range(5, 20)])
    moved = pack._replace(frac=pack.frac[order], occupancy=pack.occupancy[order])
    np.testing.assert_array_equal(log_prob(params, moved, nothing(pack)), found)
    small = template([[8, 22, 8], [3, 9]], batching.Capacity(5, 4, 2))
    small = small._replace(frac=pack.frac[:5], lattice=pack.lattice[:2])
    np.testing.assert_allclose(log_prob(params, small, nothing(small)), found[:2], rtol=1e-5)


def test_the_loss_does_not_depend_on_where_the_origin_is():
    pack = filled(template([[8, 22, 8], [3, 9]]))
    moved = pack._replace(frac=(pack.frac + jnp.array([[0.1234, 0.5, 0.77]])) % 1.0)
    for origin, same in (("site", True), ("given", False)):
        generator = text(**SMALL, max_sites=4, origin=origin)
        params, loss = shaken(generator, pack, 0.5), jit(generator.loss)
        a, b = (float(loss(params, jax.random.key(0), p, nothing(p))[0]) for p in (pack, moved))
        assert (abs(a - b) < 1e-5 * a) == same


def test_known_species_cost_nothing_and_free_ones_do():
    pack = filled(template([[8, 22, 8], [3, 9]]))
    for share, sign in ((1.0, 0), (0.0, 1)):
        generator = text(**SMALL, max_sites=4, known_fraction=share)
        nats = jit(generator.loss)(shaken(generator, pack, 0.5), jax.random.key(0), pack, nothing(pack))[1]
        assert np.sign(float(nats["species"])) == sign and nats["frac"] > 1 and nats["lattice"] > 1


def test_conditions_are_read_by_bin_and_can_be_left_out():
    generator = text(**SMALL, max_sites=3, property_center=(1.0,), property_scale=(2.0,), bins=6, drop_condition=1.0)
    pack = filled(template([[8, 22, 8]] * 6))._replace(lattice=jnp.tile(4 * jnp.eye(3)[None], (6, 1, 1)))
    pack = pack._replace(frac=jnp.tile(pack.frac[:3], (7, 1))[:20])
    params, log_prob = shaken(generator, pack, 0.5, 1), jit(generator.log_prob)
    values = jnp.array([[0.1], [0.9], [1.1], [99.0], [7.0], [jnp.nan]])  # steps of 2 from -5 to 7
    given = nothing(pack, 1)._replace(properties=values)
    a = np.asarray(log_prob(params, pack, given))
    assert a[0] == a[1] and a[3] == a[4] and len(np.unique(a)) == 4
    b = np.asarray(log_prob(params, pack, given._replace(space_group=jnp.full(6, 7))))
    assert (a != b).all()
    loss = jit(generator.loss)
    full, none = (loss(params, jax.random.key(0), pack, c)[0] for c in (given, nothing(pack, 1)))
    assert full == none  # `drop_condition=1` leaves all out


def test_what_cannot_be_written_is_said():
    pack = filled(template([[8, 22, 8], [3, 9]]))
    generator = text(**SMALL, max_sites=2)
    params = shaken(generator, pack, 0.5)
    found = jit(generator.sample)(params, jax.random.key(0), pack, nothing(pack))
    assert np.isnan(found.lattice[0]).all() and np.isnan(found.frac[:3]).all()
    assert np.isfinite(found.lattice[1:]).all() and np.isfinite(found.frac[3:]).all()
    log_prob = jit(generator.log_prob)
    assert np.isneginf(log_prob(params, pack, nothing(pack))).tolist() == [True] + [False] * 5
    assert np.isposinf(jit(generator.loss)(params, jax.random.key(0), pack, nothing(pack))[0])
    small = pack._replace(lattice=pack.lattice.at[1].multiply(0.1))  # cells below 1 Å
    assert np.isneginf(log_prob(params, small, nothing(pack))[1])
    other = template([[8, 22, 8], [3, (10, 17)]])  # the template allows no fluorine
    assert np.isneginf(log_prob(params, pack, nothing(pack), other)[1])
    with pytest.raises(ValueError, match="origin: 'center'; expected one of site, random, given"):
        text(origin="center")


def test_float64_is_float64_throughout():
    generator = text(**SMALL, max_sites=3)
    pack = template([[8, 0, 8]], batching.Capacity(3, 3, 1))
    params = shaken(generator, pack, 0.5)
    full = filled(pack)
    single = jit(generator.log_prob)(params, full, nothing(pack))
    with jax.enable_x64(True):
        double = jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else np.asarray(x), pack)
        given = Condition(np.full((1, 0), np.nan), np.zeros(1, np.int32))
        found = jax.eval_shape(generator.sample, params, jax.random.key(0), double, given)
        assert found.frac.dtype == found.lattice.dtype == np.float64
        as_double = jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else x, full)
        exact = jit(generator.log_prob)(params, as_double, given)
        assert exact.dtype == np.float64
        np.testing.assert_allclose(single, exact, rtol=1e-4)
        loss, _ = jax.eval_shape(generator.loss, params, jax.random.key(0), as_double, given)
        assert loss.dtype == np.float64
