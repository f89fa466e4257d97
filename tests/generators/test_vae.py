"""The variational autoencoder: KL and collapse monitor in closed form, and a known mixture recovered."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Condition, num_sites
from crysjax.data import batching
from crysjax.generators.vae import Gaussian, active_units, kl_divergence, latent_space, vae

SPACE = dict(latent=2, hidden=24, property_center=(4.4,), property_scale=(0.4,))


def test_kl_is_that_of_monte_carlo():
    rng = np.random.default_rng(0)
    q, p = (Gaussian(*(jnp.asarray(rng.normal(size=(1, 3)) * s, jnp.float32) for s in (1.0, 0.4))) for _ in "qp")
    z = np.asarray(q.mean) + np.exp(q.log_std) * rng.normal(size=(40000, 3))

    def log_density(law: Gaussian) -> np.ndarray:
        return -0.5 * ((z - law.mean) / np.exp(law.log_std)) ** 2 - np.asarray(law.log_std)

    ratio = log_density(q) - log_density(p)
    error = ratio.std(0) / np.sqrt(len(z))
    assert (np.abs(np.asarray(kl_divergence(q, p))[0] - ratio.mean(0)) < 4.5 * error).all()
    np.testing.assert_allclose(kl_divergence(q, q), 0, atol=1e-6)


def test_active_units_counts_dimensions_above_a_hundredth_of_a_nat():
    assert float(active_units(jnp.array([0.0, 0.0099, 0.0101, 2.0]))) == 2


def test_the_monitor_sees_a_collapsed_latent_and_free_bits_cost_what_they_say(prototypes):
    """The encoder's last layer is set by hand: N(0, 1) whatever the crystal, and then three means moved to 1."""
    settings = dict(latent=5, hidden=8, prior="standard") | prototypes.SETTINGS
    pack, asked = prototypes.draw(jax.random.key(0))[0], prototypes.nothing()
    made = {f: vae(prototypes.NETWORK, **settings, kl_weight=2.0, free_bits=f) for f in (0.0, 0.25)}
    params = prototypes.jit(made[0.0].init)(jax.random.key(1), pack, asked)
    head = params["encoder"]["head"]

    def told(mean: jax.Array, free_bits: float):
        fixed = head | {"second": head["second"] * 0, "second_bias": jnp.concatenate([mean, jnp.zeros(5)])}
        changed = params | {"encoder": params["encoder"] | {"head": fixed}}
        return losses[free_bits](changed, jax.random.key(2), pack, asked)

    losses = {f: prototypes.jit(g.loss) for f, g in made.items()}
    (plain, collapsed), (free, _) = told(jnp.zeros(5), 0.0), told(jnp.zeros(5), 0.25)
    assert float(collapsed["active_units"]) == 0 and abs(float(collapsed["kl"])) < 1e-5
    np.testing.assert_allclose(free - plain, 2.0 * 0.25 * 5, rtol=1e-4)
    _, alive = told(jnp.array([1.0, 1.0, 1.0, 0.0, 0.0]), 0.0)
    assert float(alive["active_units"]) == 3
    np.testing.assert_allclose(alive["kl"], 1.5, rtol=1e-5)


@pytest.fixture(scope="module")
def trained(prototypes) -> SimpleNamespace:
    """A model of the two prototypes, conditional on the cell edge in Å."""

    def labels(pack) -> Condition:
        return prototypes.nothing(1)._replace(properties=jnp.cbrt(jnp.linalg.det(pack.lattice))[:, None])

    generator = vae(prototypes.NETWORK, **prototypes.SETTINGS, **SPACE, drop_condition=0.5, kl_weight=0.03)
    params, metrics = prototypes.train(generator, labels, 250)
    run = SimpleNamespace(sample=prototypes.jit(generator.sample), decode=prototypes.jit(generator.decode))
    space = latent_space(prototypes.NETWORK, **SPACE)
    space = space._replace(encode=prototypes.jit(space.encode), whiten=prototypes.jit(space.whiten))
    return SimpleNamespace(generator=generator, params=params, metrics=metrics, space=space, run=run)


def test_known_shares_are_recovered(trained, prototypes):
    """1,024 draws: 4 standard errors, and 0.08 for the gap between the normal prior and the encoder's two clusters."""
    template = prototypes.draw(jax.random.key(9))[0]
    drawn = [trained.run.sample(trained.params, jax.random.key(k), template, prototypes.nothing(1)) for k in range(16)]
    share = np.mean([prototypes.is_second(pack) for pack in drawn])
    assert abs(share - prototypes.SHARE) < 4 * np.sqrt(0.21 / 1024) + 0.08
    assert np.mean([prototypes.offset_error(pack) for pack in drawn]) < 0.06  # 0.125 for positions at random


def test_a_property_asked_for_is_found(trained, prototypes):
    template = prototypes.draw(jax.random.key(9))[0]
    for edge, share in zip(prototypes.EDGES, (0.0, 1.0)):
        asked = prototypes.nothing(1)._replace(properties=jnp.full((prototypes.CRYSTALS, 1), edge))
        drawn = trained.run.sample(trained.params, jax.random.key(1), template, asked)
        assert abs(prototypes.is_second(drawn).mean() - share) < 0.05


def decoded(trained, prototypes, z, template):
    """The template's crystals at latents z."""
    asked = prototypes.nothing(1)
    noise = prototypes.jit(trained.generator.noise)(jax.random.key(5), template)
    noise = noise._replace(latent=trained.space.whiten(trained.params, z, template, asked))
    return trained.run.decode(trained.params, jax.random.key(6), noise, template, asked)


def test_encoded_crystals_come_back(trained, prototypes):
    """Which prototype it was survives; a sample of the prior would agree with probability 0.58."""
    pack, second = prototypes.draw(jax.random.key(7))
    back = decoded(trained, prototypes, trained.space.encode(trained.params, pack).mean, pack)
    assert (prototypes.is_second(back) == np.asarray(second)).mean() > 0.95
    prior = trained.run.sample(trained.params, jax.random.key(8), pack, prototypes.nothing(1))
    wrong = [np.abs(prototypes.edges(p) - prototypes.edges(pack)).mean() for p in (back, prior)]
    assert wrong[0] < 0.08 < wrong[1]  # Å; 0.34 for the prior on average
    assert trained.metrics["active_units"] >= 1


def test_a_gradient_search_in_the_latent_turns_one_prototype_into_the_other(trained, prototypes):
    pack = prototypes.crystals(jax.random.key(4), jnp.zeros(prototypes.CRYSTALS, bool))
    z = trained.space.encode(trained.params, pack).mean
    found = np.asarray(trained.space.predict(trained.params, z))[:, 0]
    np.testing.assert_allclose(found, prototypes.EDGES[0], atol=0.1)

    def miss(z):
        return jnp.square(trained.space.predict(trained.params, z) - prototypes.EDGES[1]).sum()

    descend = jax.jit(lambda z: jax.lax.fori_loop(0, 100, lambda _, z: z - 0.5 * jax.grad(miss)(z), z))
    assert prototypes.is_second(decoded(trained, prototypes, descend(z), pack)).mean() > 0.9


def test_encoding_does_not_depend_on_padding(trained, prototypes):
    pack = prototypes.draw(jax.random.key(3))[0]
    wide = batching.Capacity(2 * prototypes.CRYSTALS + 7, prototypes.CRYSTALS + 5, prototypes.CRYSTALS + 3)
    owner, pairs, mask = map(jnp.asarray, batching.topology(np.full(prototypes.CRYSTALS, 2), wide))
    occupancy, frac = (jnp.pad(leaf, ((0, 7), (0, 0))) for leaf in (pack.occupancy, pack.frac))
    lattice = jnp.concatenate([pack.lattice, jnp.tile(jnp.eye(3)[None], (3, 1, 1))])
    padded = pack._replace(occupancy=occupancy, frac=frac, lattice=lattice, owner=owner, pairs=pairs, pair_mask=mask)
    np.testing.assert_array_equal(num_sites(padded)[:-3], num_sites(pack))
    one, other = (trained.space.encode(trained.params, p) for p in (pack, padded))
    np.testing.assert_allclose(other.mean[: prototypes.CRYSTALS], one.mean, atol=1e-4)


@pytest.mark.parametrize(("settings", "said"), [(dict(prior="flat"), "prior: 'flat'"), (dict(latent=0), "latent: 0")])
def test_mistakes_are_named(prototypes, settings, said):
    with pytest.raises(ValueError, match=said):
        vae(prototypes.NETWORK, **prototypes.SETTINGS, **settings)
