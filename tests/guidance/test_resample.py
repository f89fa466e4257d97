"""Resampling against a tilt in closed form, with Monte Carlo tolerances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.guidance.resample import effective_particles, pick, resample

COUNT = 4096


def draw(toys, guided, seed=0, count=COUNT):
    pack, condition = toys.template(count)
    return jax.jit(lambda key: guided.sample({}, key, pack, condition))(jax.random.key(seed))


def test_many_particles_give_the_exact_tilt(toys):
    """Four standard errors of COUNT independent crystals, and the bias of order 1 / particles."""
    particles = 256
    found = toys.coordinates(draw(toys, resample(toys.generator(), toys.energy, particles=particles)))
    mean, covariance = toys.exact_moments()
    std = np.sqrt(np.diag(covariance))
    # the second moment of the weights is E w² / (E w)² ≈ 4 here (checked below): the bias in std is about that / K
    bias = 4 / particles
    assert (abs(found.mean(0) - mean) < std * (4 / np.sqrt(COUNT) + bias)).all()
    correlation = covariance / np.outer(std, std)
    error = np.sqrt((1 + correlation**2) / COUNT)
    assert (abs(np.cov(found.T) / np.outer(std, std) - correlation) < 4 * error + 2 * bias).all()


def test_the_bias_falls_with_the_number_of_particles(toys):
    """K = 1 is the untilted law, exactly; K = 8 lies between that and the tilt, and K = 64 is near it."""
    mean, covariance = toys.exact_moments()
    untilted = toys.coordinates(draw(toys, resample(toys.generator(), toys.energy, particles=1)))
    prior = np.array([toys.VOLUME_MEAN, 0.5])
    std = np.array([toys.VOLUME_STD, toys.FRAC_STD])
    assert (abs(untilted.mean(0) - prior) < 4 * std / np.sqrt(COUNT)).all()
    gaps = []
    for particles in (1, 8, 64):
        found = toys.coordinates(draw(toys, resample(toys.generator(), toys.energy, particles=particles, together=8)))
        gaps.append(np.linalg.norm((found.mean(0) - mean) / np.sqrt(np.diag(covariance))))
    assert gaps[0] > 3 * gaps[1] > 6 * gaps[2]


def test_decode_of_noise_is_sample_and_keys_decide(toys):
    guided = resample(toys.generator(), toys.energy, particles=4)
    pack, condition = toys.template(8)
    noise = guided.noise(jax.random.key(0), pack)
    assert noise.lattice.shape == (4, 8, 1)
    again = [guided.decode({}, jax.random.key(1), noise, pack, condition) for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *again)
    # every answer is one of the particles, whole: its volume and its site together
    decode = toys.generator().decode
    all_of_them = [toys.coordinates(decode({}, None, jax.tree.map(lambda a, i=i: a[i], noise), pack, condition))
                   for i in range(4)]  # fmt: skip
    for crystal, row in enumerate(toys.coordinates(again[0])):
        assert any(np.allclose(row, particle[crystal], atol=1e-6) for particle in all_of_them)


def test_picks_follow_the_weights_and_leave_out_what_is_not_finite(toys):
    energies = jnp.tile(jnp.array([[0.0], [1.0], [jnp.nan], [jnp.inf]]), (1, 20000))
    share = np.asarray(pick(jax.random.key(0), energies) == 0).mean()
    exact = 1 / (1 + np.exp(-1))
    assert abs(share - exact) < 4 * np.sqrt(exact * (1 - exact) / 20000)
    assert (pick(jax.random.key(1), energies) < 2).all()
    nothing = np.asarray(pick(jax.random.key(2), jnp.full((4, 20000), jnp.nan)))
    shares = np.bincount(nothing, minlength=4) / 20000
    assert (abs(shares - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 20000)).all()
    certain = pick(jax.random.key(3), jnp.array([[5.0], [-jnp.inf], [0.0]]))
    assert certain[0] == 1
    # what all particles have in common does not matter, however large: no rounding instead of the draw
    both = jnp.tile(jnp.array([[-jnp.inf, 1e9], [-jnp.inf, 1e9]]), (1, 20000))
    half = np.asarray(pick(jax.random.key(4), both)).reshape(-1, 2).mean(0)
    assert (abs(half - 0.5) < 4 * np.sqrt(0.25 / 20000)).all()


def test_effective_particles(toys):
    half = np.log(2)  # weights of 1/2, 1/4 and 1/4, whose squares sum to 3/8
    energies = jnp.array([[0.0, 0.0, 0.0], [0.0, jnp.inf, half], [0.0, 200.0, half]])
    np.testing.assert_allclose(effective_particles(energies), [3.0, 1.0, 8 / 3], rtol=1e-6)
    with pytest.raises(ValueError, match="particles is 0"):
        resample(toys.generator(), toys.energy, particles=0)


def test_gradient_follows_the_picked_particle(toys):
    guided = resample(toys.generator(), toys.energy, particles=3)
    pack, condition = toys.template(5)
    noise = guided.noise(jax.random.key(0), pack)
    volumes = lambda z: toys.log_volume(guided.decode({}, jax.random.key(1), z, pack, condition)).sum()  # noqa: E731
    gradient = np.asarray(jax.grad(volumes)(noise).lattice)[:, :, 0]
    np.testing.assert_allclose(gradient.sum(0), np.full(5, toys.VOLUME_STD), rtol=1e-5)
    assert ((gradient != 0).sum(0) == 1).all()
