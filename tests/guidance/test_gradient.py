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
    return lambda objective, key, x: run(search, objective, key, x, steps)[1].last


def draw(toys, guided, seed=0, count=COUNT):
    pack, condition = toys.template(count)
    return toys.coordinates(jax.jit(lambda key: guided.sample({}, key, pack, condition))(jax.random.key(seed)))


def distance(toys, found) -> tuple[float, np.ndarray]:
    """Error of the mean in units of the tilt's std (over both coordinates), and the ratio of std of each."""
    mean, covariance = toys.exact_moments()
    std = np.sqrt(np.diag(covariance))
    return float(np.sqrt((((found.mean(0) - mean) / std) ** 2).mean())), found.std(0) / std


def guided(toys, search, steps=64):
    return gradient_guidance(toys.generator(), toys.energy, minimise=last(search, steps), **FIELDS)


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
    best = lambda f, key, x: run(gradient(optax.sgd(0.3)), f, key, x, 80)[0].x  # noqa: E731
    found = draw(toys, gradient_guidance(toys.generator(), toys.energy, minimise=best, **FIELDS), count=16)
    np.testing.assert_allclose(found, np.tile(mean, (16, 1)), atol=1e-4)


def test_fields_that_are_not_named_stay_and_flat_fields_have_no_prior(toys):
    pack, condition = toys.template(6)
    base = toys.generator()
    steer = lambda f, key, x: run(gradient(optax.sgd(0.3)), f, key, x, 200)[0].x  # noqa: E731
    held = gradient_guidance(base, toys.energy, minimise=steer, gaussian=("lattice",), flat=())
    noise = base.noise(jax.random.key(0), pack)
    before = base.decode({}, None, noise, pack, condition)
    after = held.decode({}, jax.random.key(1), noise, pack, condition)
    np.testing.assert_array_equal(before.frac, after.frac)
    flat = gradient_guidance(base, toys.energy, minimise=steer, gaussian=(), flat=("frac",))
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
    steer = lambda f, key, x: run(gradient(optax.sgd(0.3)), f, key, x, 80)[0].x  # noqa: E731
    found = gradient_guidance(base._replace(decode=decode) if spread else base, broken, minimise=steer, **FIELDS)
    after = toys.coordinates(found.decode({}, jax.random.key(1), base.noise(jax.random.key(0), pack), pack, condition))
    mean, _ = toys.exact_moments()
    np.testing.assert_allclose(after[[0, 1, 3]], np.tile(mean, (3, 1)), atol=1e-4)
    np.testing.assert_allclose(after[2], [toys.VOLUME_MEAN, 0.5], atol=1e-4)  # only the prior pulls it


def test_an_unknown_field_is_named(toys):
    pack, condition = toys.template(2)
    wrong = gradient_guidance(toys.generator(), toys.energy, minimise=lambda f, k, x: x, gaussian=("latice",))
    with pytest.raises(ValueError, match=r"no field \['latice'\]; it has \['frac', 'lattice'\]"):
        wrong.sample({}, jax.random.key(0), pack, condition)
