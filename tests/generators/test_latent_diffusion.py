"""Latent diffusion: positions on the torus, two models that do not mix, sites exchangeable, prototypes recovered."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import UNKNOWN, Condition, Pack, numbers, one_hot
from crysjax.data import batching
from crysjax.generators.latent_diffusion import fractions, latent_diffusion, site_autoencoder

# compiling is most of the time here
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})
SMALL = dict(width=16, layers=1, heads=2, autoencoder_layers=1, latent=4, steps=3)
SIZES = np.array([3, 1, 2])
GENERATOR = latent_diffusion(**SMALL)


def template(capacity: int = 8, dtype=np.float32) -> Pack:
    """Na Cl O, any one element, and two sites that are Sr or Ti."""
    known = np.asarray(one_hot(jnp.array([11, 17, 8])))
    either = 0.5 * np.asarray(one_hot(jnp.array([38])) + one_hot(jnp.array([22])))
    rows = np.concatenate([known, np.full((1, 100), UNKNOWN), either, either, np.zeros((capacity - 6, 100))])
    shape = batching.Capacity(capacity, 8, 4)
    unit = jnp.tile(3.0 * jnp.eye(3, dtype=dtype)[None], (4, 1, 1))
    topology = (jnp.asarray(v) for v in batching.topology(SIZES, shape))
    return Pack(jnp.asarray(rows, dtype), jnp.zeros((capacity, 3), dtype), unit, *topology)


def nothing(crystals: int = 4) -> Condition:
    return Condition(jnp.zeros((crystals, 0)), jnp.zeros(crystals, jnp.int32))


@pytest.fixture(scope="module")
def params():
    """Away from the start, where gates are shut."""
    start = jax.device_get(jit(GENERATOR.init)(jax.random.key(0), template(), nothing()))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda v: np.asarray(v + 0.1 * rng.normal(size=v.shape), v.dtype), start)


SAMPLE = jit(GENERATOR.sample)
DECODE = jit(lambda params, noise, template: GENERATOR.decode(params, jax.random.key(1), noise, template, nothing()))


def test_positions_are_read_off_circles():
    """Any radius, all the way round, and never 1; no point at all is 0 with a derivative."""
    frac = np.concatenate([np.linspace(0, 0.999, 28), [1e-9, 1 - 6e-8]]).reshape(-1, 3)
    radius = np.random.default_rng(0).uniform(0.1, 3, frac.shape)
    circle = np.concatenate([radius * np.cos(2 * np.pi * frac), radius * np.sin(2 * np.pi * frac)], -1)
    found = np.asarray(fractions(jnp.asarray(circle, jnp.float32)))
    np.testing.assert_allclose((found - frac + 0.5) % 1 - 0.5, 0, atol=3e-7)
    tiny = jnp.array([[1.0, 1, 1, -1e-12, -1e-20, 0]], jnp.float32)
    np.testing.assert_array_equal(fractions(tiny), 0)
    slope = jax.grad(lambda c: fractions(c).sum())(jnp.zeros((1, 6)))
    assert np.isfinite(slope).all()


def test_the_position_read_is_where_the_circle_turns():
    """d frac / d circle is the rotation by a quarter over 2 pi r, and a turn by any angle shifts the fraction."""
    c, s = 0.6, -0.8
    slope = jax.jacfwd(lambda v: fractions(v)[0, 0])(jnp.array([[c, 1.0, 1.0, s, 0.0, 0.0]]))
    np.testing.assert_allclose(slope[0, [0, 3]], np.array([-s, c]) / (2 * np.pi), rtol=1e-6)


def test_neither_model_moves_the_other(params):
    """The gradient in the autoencoder is that without denoising; in the denoiser only denoising makes one."""
    pack = template()._replace(occupancy=one_hot(jnp.array([11, 17, 8, 14, 38, 22, 0, 0])))

    def gradient(weight: float):
        generator = latent_diffusion(**SMALL, denoising_weight=weight)
        return jit(jax.grad(generator.loss, has_aux=True))(params, jax.random.key(1), pack, nothing())[0]

    whole, none = map(gradient, (1.0, 0.0))
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, whole["autoencoder"], none["autoencoder"])
    assert all(not leaf.any() for leaf in jax.tree.leaves(none["denoiser"]))
    assert all(any(leaf.any() for leaf in jax.tree.leaves(whole[name])) for name in whole)


def test_sites_are_exchangeable(params):
    """Noise and template in another order: the same crystals in that order."""
    order, start = np.array([2, 0, 1, 3, 5, 4, 6, 7]), template()
    noise = GENERATOR.noise(jax.random.key(0), start)
    found = DECODE(params, noise, start)
    moved = DECODE(params, noise[order], start._replace(occupancy=start.occupancy[order]))
    turn = np.abs((found.frac[order] - moved.frac + 0.5) % 1 - 0.5)
    assert turn[:6].max() < 1e-4
    np.testing.assert_allclose(moved.lattice, found.lattice, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(numbers(moved.occupancy), numbers(found.occupancy)[order])


def test_species_are_those_that_the_template_allows(params):
    drawn = SAMPLE(params, jax.random.key(3), template(), nothing())
    z = numbers(drawn.occupancy)
    assert z[:3].tolist() == [11, 17, 8] and z[3] > 0 and set(z[4:6].tolist()) <= {22, 38} and z[6:].tolist() == [0, 0]


def test_samples_have_the_type_of_the_template(params):
    with jax.enable_x64(True):
        wide = jax.eval_shape(GENERATOR.sample, params, jax.random.key(3), template(8, np.float64), nothing())
        assert {leaf.dtype for leaf in (wide.occupancy, wide.frac, wide.lattice)} == {np.dtype("float64")}


def test_a_tiny_set_is_reconstructed_and_its_law_recovered(prototypes):
    """Two prototypes: from knowing nothing (0.5 on circles, 4.6 nats) to places, cells and elements; then samples."""
    lattice = {k: prototypes.SETTINGS[k] for k in ("lattice_center", "lattice_scale")}
    sizes = dict(width=32, heads=4, latent=8)
    generator = latent_diffusion(**sizes, layers=2, autoencoder_layers=2, known_fraction=1.0, **lattice)
    trained, metrics = prototypes.train(generator, lambda pack: prototypes.nothing(), 1500, 5e-3)
    assert metrics["frac"] < 0.003 and metrics["species"] < 0.02 and metrics["lattice"] < 0.01
    assert metrics["denoising"] < 0.7 * 0.93 * (1 + metrics["latent_rms"] ** 2), "0.7 of what answering x_t misses by"
    space = site_autoencoder(**sizes, layers=2, **lattice)
    pack, _ = prototypes.draw(jax.random.key(99))
    apart = jit(lambda p, pack: space.decode(p, space.encode(p, pack).mean, pack))(trained["autoencoder"], pack)
    turn = np.abs((fractions(apart.circle) - pack.frac + 0.5) % 1 - 0.5)
    assert turn.mean() < 0.01, "a uniform guess is off by 0.25"
    np.testing.assert_array_equal(apart.species.argmax(-1), pack.occupancy.argmax(-1))
    draw = jit(lambda key: generator.sample(trained, key, pack, prototypes.nothing()))
    drawn = [draw(key) for key in jax.random.split(jax.random.key(5), 8)]
    second = np.concatenate([prototypes.is_second(one) for one in drawn])
    spread = np.sqrt(prototypes.SHARE * (1 - prototypes.SHARE) / len(second))
    assert abs(second.mean() - prototypes.SHARE) < 5 * spread
    assert np.mean([prototypes.offset_error(one) for one in drawn]) < 0.05, "a uniform guess is off by 0.125 at least"
    away = np.abs(np.concatenate([prototypes.edges(one) for one in drawn])[:, None] - np.array(prototypes.EDGES))
    assert (away.min(-1) < 0.15).mean() > 0.8


def test_impossible_settings_are_errors():
    with pytest.raises(ValueError, match="latent: 0; expected at least 1"):
        latent_diffusion(latent=0)
    with pytest.raises(ValueError, match="guidance: 2 weights"):
        latent_diffusion(guidance=(1.0, 1.0))
