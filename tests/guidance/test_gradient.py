"""Searches over the noise against the tilt in closed form, at the same number of decodes as the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crysjax.guidance.gradient import gradient_guidance
from crysjax.guidance.resample import resample
from crysjax.search.gradient import gradient
from crysjax.search.langevin import sgld
from crysjax.search.run import run

COUNT = 4096
FIELDS = {"gaussian": ("lattice", "frac"), "flat": ()}


def last(search, steps):
    return lambda objective, choose, key, x: run(search, objective, key, x, steps, choose=choose)[1].last


def best(search, steps):
    return lambda objective, choose, key, x: run(search, objective, key, x, steps, choose=choose)[0].x


def draw(toys, guided, seed=0, count=COUNT):
    pack, condition = toys.template(count)
    return toys.coordinates(jax.jit(lambda key: guided.sample({}, key, pack, condition))(jax.random.key(seed)))


def distance(toys, found) -> tuple[float, np.ndarray]:
    """Error of the mean in units of the tilt's std (over both coordinates), and the ratio of std of each."""
    mean, covariance = toys.exact_moments()
    std = np.sqrt(np.diag(covariance))
    return float(np.sqrt((((found.mean(0) - mean) / std) ** 2).mean())), found.std(0) / std


def guided(toys, search, steps=64):
    return gradient_guidance(toys.generator(), toys.energy, minimize=last(search, steps), **FIELDS)


def test_distance_from_the_reference(toys, capsys):
    """At 64 decodes: resampling and Langevin have the tilt's law, descent collapses onto its mode."""
    h = 0.1
    rows = {
        "resample (64)": distance(toys, draw(toys, resample(toys.generator(), toys.energy, particles=64))),
        "SGLD (64)": distance(toys, draw(toys, guided(toys, sgld(step_size=h)))),
        "gradient descent (64)": distance(toys, draw(toys, guided(toys, gradient(optax.sgd(0.3))))),
    }
    with capsys.disabled():
        print("\nstrategy (decodes)       error of the mean   ratio of std (log-volume, x)")
        for name, (error, ratio) in rows.items():
            print(f"{name:24s} {error:10.3f}   {ratio[0]:18.3f} {ratio[1]:.3f}")
    noise = 4 / np.sqrt(COUNT)
    assert rows["resample (64)"][0] < noise + 4 / 64 and (abs(rows["resample (64)"][1] - 1) < noise + 8 / 64).all()
    # SGLD: eigenvalues of U in noise coordinates are 1 to λ; (1 - h)^64 = 1e-3 of the start is left,
    # and the variance is too large by 1 / (1 - hλ/2), as its own tests show
    scale = np.diag([toys.VOLUME_STD, toys.FRAC_STD])
    largest = np.linalg.eigvalsh(np.eye(2) + scale @ np.array([[12.0, 20.0], [20.0, 120.0]]) @ scale).max()
    widest = 1 / np.sqrt(1 - h * largest / 2)
    assert rows["SGLD (64)"][0] < noise + 0.01
    assert (rows["SGLD (64)"][1] < widest + noise).all() and (rows["SGLD (64)"][1] > 1 - noise).all()
    assert rows["gradient descent (64)"][0] < 1e-2 and (rows["gradient descent (64)"][1] < 1e-2).all()


def test_descent_finds_the_most_probable_noise(toys):
    """The mode of a Gaussian tilt is its mean; best and last agree."""
    mean, _ = toys.exact_moments()
    steer = best(gradient(optax.sgd(0.3)), 80)
    found = draw(toys, gradient_guidance(toys.generator(), toys.energy, minimize=steer, **FIELDS), count=16)
    np.testing.assert_allclose(found, np.tile(mean, (16, 1)), atol=1e-4)


def test_fields_that_are_not_named_stay_and_flat_fields_have_no_prior(toys):
    pack, condition = toys.template(6)
    base = toys.generator()
    steer = best(gradient(optax.sgd(0.3)), 200)
    held = gradient_guidance(base, toys.energy, minimize=steer, gaussian=("lattice",), flat=())
    noise = base.noise(jax.random.key(0), pack)
    before = base.decode({}, None, noise, pack, condition)
    after = held.decode({}, jax.random.key(1), noise, pack, condition)
    np.testing.assert_array_equal(before.frac, after.frac)
    flat = gradient_guidance(base, toys.energy, minimize=steer, gaussian=(), flat=("frac",))
    after = flat.decode({}, jax.random.key(1), noise, pack, condition)
    # 120 (x - .6) + 20 (v - 4.5) = 0 exactly where there is no prior
    np.testing.assert_allclose(after.frac[:, 0], 0.6 - (toys.log_volume(after) - 4.5) / 6, atol=1e-4)


@pytest.mark.parametrize("spread", [False, True], ids=["separate", "products"])
def test_one_crystal_without_an_energy_does_not_stop_the_others(toys, spread):
    """Value and gradient of crystal 2 are NaN, and of it alone; also where the decoder's products see all crystals."""
    pack, condition = toys.template(4)
    base = toys.generator()
    # NaN times the zeros of this identity is NaN in every row
    matrix = lambda x: jnp.einsum("ij,jk->ik", jnp.eye(4), x)  # noqa: E731
    decode = lambda p, k, z, t, c: base.decode(p, k, jax.tree.map(matrix, z), t, c)  # noqa: E731
    sign = jnp.where(jnp.arange(4) == 2, -1.0, 1.0)[:, None]
    broken = lambda pack: toys.energy(pack._replace(frac=jnp.sqrt(sign * pack.frac**2)))  # noqa: E731
    gradients = jax.grad(lambda frac: broken(pack._replace(frac=frac)).sum())(jnp.full((4, 3), 0.5))
    np.testing.assert_array_equal(jnp.isnan(gradients).any(-1), [False, False, True, False])
    steer = best(gradient(optax.sgd(0.3)), 80)
    found = gradient_guidance(base._replace(decode=decode) if spread else base, broken, minimize=steer, **FIELDS)
    noise = base.noise(jax.random.key(0), pack)
    after = toys.coordinates(found.decode({}, jax.random.key(1), noise, pack, condition))
    mean, _ = toys.exact_moments()
    np.testing.assert_allclose(after[[0, 1, 3]], np.tile(mean, (3, 1)), atol=1e-4)
    drawn = toys.coordinates(base.decode({}, None, noise, pack, condition))
    np.testing.assert_allclose(after[2], drawn[2], atol=1e-6)  # no point of it was ever better: as it was drawn


def test_an_unknown_field_is_named(toys):
    pack, condition = toys.template(2)
    wrong = gradient_guidance(toys.generator(), toys.energy, minimize=lambda f, c, k, x: x, gaussian=("latice",))
    with pytest.raises(ValueError, match=r"no field \['latice'\]; it has \['frac', 'lattice'\]"):
        wrong.sample({}, jax.random.key(0), pack, condition)


def test_each_crystal_keeps_its_own_best_point_whatever_its_batch_mates_do(toys):
    """Steps far too long: one crystal's energy rises while the others' fall, and each ends where its own was lowest."""
    crystals = 5
    pack, condition = toys.template(crystals)
    base = toys.generator()
    noise = base.noise(jax.random.key(0), pack)
    stiff = jnp.where(jnp.arange(crystals) == 1, 300.0, 1.0)
    points = []

    def energy(pack):
        return stiff[: len(pack.lattice)] * (toys.log_volume(pack) - 4.5) ** 2

    def spy(f, choose, key, x):
        found, trace = run(gradient(optax.sgd(0.3)), f, key, x, 12, record=lambda x: x, choose=choose)
        points.append((trace.value, trace.record["lattice"][..., 0], found.x["lattice"][..., 0]))
        return found.x

    settings = dict(minimize=spy, gaussian=("lattice",), flat=())
    gradient_guidance(base, energy, **settings).decode({}, jax.random.key(1), noise, pack, condition)
    values, visited, found = (np.asarray(x) for x in points[0])
    lowest = values.argmin(0)
    assert lowest[1] == 0 and (lowest[[0, 2, 3, 4]] > 3).all()  # the stiff one diverges from its start
    np.testing.assert_array_equal(found, visited[lowest, np.arange(crystals)])
    few, nothing = toys.template(1)  # the same crystal alone
    alone = jax.tree.map(lambda leaf: leaf[:1], noise)
    gradient_guidance(base, energy, **settings).decode({}, jax.random.key(1), alone, few, nothing)
    np.testing.assert_allclose(np.asarray(points[1][2]), found[:1], rtol=1e-6)


def test_sites_of_one_crystal_move_together(toys):
    """A crystal of two sites wins or loses as a whole: `choose` and the prior go by the owner of a site."""
    pack, condition = toys.template(3)
    pack = pack._replace(owner=jnp.array([0, 0, 1], jnp.int32))
    seen = []

    def spy(f, choose, key, x):
        mixed = choose(jnp.array([True, False, False]), {"frac": x["frac"] * 0 + 9}, {"frac": x["frac"]})
        seen.append((f(x), mixed["frac"]))
        return x

    noise = toys.generator().noise(jax.random.key(0), pack)
    settings = dict(minimize=spy, gaussian=("frac",), flat=())
    flat = gradient_guidance(toys.generator(), lambda pack: jnp.zeros(3), **settings)
    flat.decode({}, jax.random.key(1), noise, pack, condition)
    square = np.square(np.asarray(noise.frac)).sum(-1)
    np.testing.assert_allclose(seen[0][0], [(square[0] + square[1]) / 2, square[2] / 2, 0], rtol=1e-6)
    np.testing.assert_array_equal(seen[0][1][:2], 9)
    np.testing.assert_array_equal(seen[0][1][2], noise.frac[2])


def test_few_small_langevin_steps_have_hardly_left_the_generators_law(toys):
    """After k moves a share (1 - h λ)^k of the way is left, as the module says: 4 evaluations at 0.02 are 3 moves."""
    energy = lambda pack: 0.5 * 3 * ((toys.log_volume(pack) - 5.0) / toys.VOLUME_STD) ** 2  # noqa: E731
    steered = gradient_guidance(
        toys.generator(), energy, minimize=last(sgld(step_size=0.02), 4), gaussian=("lattice",), flat=()
    )
    volume = draw(toys, steered)[:, 0]
    goal = (toys.VOLUME_MEAN + 3 * 5.0) / 4  # of the exact tilt; U has λ = 1 + 3 in noise coordinates
    expected = goal + (1 - 0.02 * 4) ** 3 * (toys.VOLUME_MEAN - goal)
    assert abs(volume.mean() - expected) < 4 * toys.VOLUME_STD / np.sqrt(COUNT)
    assert abs(volume.mean() - goal) > 0.5  # far from the tilt


def test_a_choice_inside_the_decoder_keeps_its_share_and_each_is_tilted_by_itself(toys):
    """Two alternatives drawn evenly, one of which costs 2: the tilt has it in 1 / (1 + e^2), as resampling finds."""
    base = toys.generator()

    def decode(params, key, noise, template, condition):
        pack = base.decode(params, key, noise, template, condition)
        second = jax.random.bernoulli(key, 0.5, (len(pack.lattice),))
        z = jnp.where(second, 8, 6)
        return pack._replace(occupancy=jax.nn.one_hot(z - 1, pack.occupancy.shape[1]))

    def sample(params, key, template, condition):
        first, rest = jax.random.split(key)
        return decode(params, rest, base.noise(first, template), template, condition)

    def energy(pack):
        return 6 * (toys.log_volume(pack) - 4.5) ** 2 + 2 * pack.occupancy[:, 7]

    pack, condition = toys.template(COUNT)
    chosen = base._replace(decode=decode, sample=sample)
    walk = gradient_guidance(chosen, energy, minimize=last(sgld(step_size=0.1), 64), gaussian=("lattice",), flat=())
    found = jax.jit(walk.sample)({}, jax.random.key(0), pack, condition)
    second = np.asarray(found.occupancy[:, 7]) > 0
    assert abs(second.mean() - 0.5) < 4 * 0.5 / np.sqrt(COUNT)
    precision = toys.VOLUME_STD**-2 + 12
    mean = (toys.VOLUME_MEAN * toys.VOLUME_STD**-2 + 12 * 4.5) / precision
    for part in (second, ~second):
        volume = np.asarray(toys.log_volume(found))[part]
        assert abs(volume.mean() - mean) < 4 / np.sqrt(precision * part.sum()) + 0.01
    tilted = jax.jit(resample(chosen, energy, particles=64).sample)({}, jax.random.key(0), pack, condition)
    share = 1 / (1 + np.exp(2))
    assert abs(float(tilted.occupancy[:, 7].mean()) - share) < 4 * np.sqrt(share / COUNT) + 2 / 64
